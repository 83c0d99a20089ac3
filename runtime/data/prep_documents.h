/* Reads the documents out of one input file of prep. */
#ifndef LS_DATA_PREP_DOCUMENTS_H
#define LS_DATA_PREP_DOCUMENTS_H

#include <stddef.h>

#include "runtime/data/chat.h"
#include "runtime/data/prep_sources.h"
#include "runtime/data/prep_split.h"

typedef struct ls_prep_line ls_prep_line;

typedef struct ls_prep_reader {
    const ls_prep_options *options;
    ls_prep_split *split;
    int64_t files, binary_files, bad_lines;
    bool told;                       /* why a binary file is left out */
    int64_t bad_told;                /* lines of which it was told why they are left out */
    int64_t total_bytes, done_bytes; /* of input, for progress */
    uint64_t begin_ns, shown_ns;
    char *buffer; /* at least LS_PREP_HASHED_BYTES; grows to hold the longest line */
    size_t capacity;
    ls_prep_line *lines; /* of JSONL, parsed by all threads; or short files of text, for them */
    int held;            /* of those, not written yet */
    size_t held_bytes;   /* in the buffer */
    const ls_tokenizer *tokenizer; /* whose tokens text becomes; NULL */
    ls_tokenizer_work **works;     /* one a thread */
    int work_count;
    ls_chat chat;
    ls_token_list tokens; /* of a short text */
    bool starts;          /* the document has no token yet */
    bool holds_separator; /* it was the last token so far, and is not written */
} ls_prep_reader;

ls_status ls_prep_reader_init(ls_prep_reader *reader, const ls_prep_options *options,
                              ls_prep_split *split, int64_t total_bytes);
void ls_prep_reader_release(ls_prep_reader *reader);

/* Writes every document of source to the split, or holds it for all threads, with the next ones,
 * to make tokens of. Errors name the file, and the line of a JSONL file. */
ls_status ls_prep_read(ls_prep_reader *reader, const ls_prep_source *source);
/* Writes what is held, as it must be behind the last source. */
ls_status ls_prep_write_held(ls_prep_reader *reader);

#endif
