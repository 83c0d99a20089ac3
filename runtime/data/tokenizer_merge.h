/* Merging within pieces: what a thread keeps for it. */
#ifndef LS_DATA_TOKENIZER_MERGE_H
#define LS_DATA_TOKENIZER_MERGE_H

#include "runtime/data/tokenizer_tables.h"

enum { LS_SEEN_BYTES_MAX = 15, LS_SEEN_TOKENS_MAX = 4, LS_SEEN_BITS = 15 };

typedef struct ls_merge_entry {
    uint32_t rank;
    uint32_t at;    /* symbol */
    uint32_t token; /* of it and the next */
} ls_merge_entry;

typedef struct ls_merge_link {
    uint32_t before, next; /* symbols; LS_NO_TOKEN: none */
} ls_merge_link;

/* A short piece and its tokens. */
typedef struct ls_seen_piece {
    uint64_t low, high;                  /* its bytes; high's last one: tokens * 16 + bytes */
    uint32_t tokens[LS_SEEN_TOKENS_MAX]; /* behind the last one anything */
} ls_seen_piece;

typedef struct ls_merge_work {
    ls_seen_piece *seen;  /* two for each value of a piece's hash, the newer one first */
    ls_merge_link *links; /* [long_capacity] */
    ls_merge_entry *heap; /* [2 * long_capacity] */
    size_t long_capacity, heap_count;
} ls_merge_work;

ls_status ls_merge_work_init(ls_merge_work *work);
void ls_merge_work_release(ls_merge_work *work);

/* Appends the tokens of a piece of `bytes`, of what can be read from `piece` to `end`. */
ls_status ls_merge_piece(const ls_tokenizer *tokenizer, ls_merge_work *work, const char *piece,
                         size_t bytes, const char *end, ls_token_list *list);
/* The same of a piece before which stands a space that the text lacks. */
ls_status ls_merge_piece_behind_space(const ls_tokenizer *tokenizer, ls_merge_work *work,
                                      const char *piece, size_t bytes, ls_token_list *list);

/* Room for `more` tokens. */
ls_status ls_token_list_reserve(ls_token_list *list, size_t more);

#endif
