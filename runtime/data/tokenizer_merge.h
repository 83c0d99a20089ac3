/* Merging within pieces: what a thread keeps for it. */
#ifndef LS_DATA_TOKENIZER_MERGE_H
#define LS_DATA_TOKENIZER_MERGE_H

#include "runtime/data/tokenizer_tables.h"

typedef struct ls_merge_entry {
    uint32_t rank;
    uint32_t at;    /* symbol */
    uint32_t token; /* of it and the next */
} ls_merge_entry;

typedef struct ls_merge_link {
    uint32_t before, next; /* symbols; LS_NO_TOKEN: none */
} ls_merge_link;

typedef struct ls_merge_work {
    ls_merge_link *links; /* [long_capacity] */
    ls_merge_entry *heap; /* [2 * long_capacity] */
    size_t long_capacity, heap_count;
} ls_merge_work;

void ls_merge_work_release(ls_merge_work *work);

/* Appends the tokens of a piece; before: a space stands before it that the text lacks. */
ls_status ls_merge_piece(const ls_tokenizer *tokenizer, ls_merge_work *work, const char *piece,
                         size_t bytes, bool before, ls_token_list *list);

/* Room for `more` tokens. */
ls_status ls_token_list_reserve(ls_token_list *list, size_t more);

#endif
