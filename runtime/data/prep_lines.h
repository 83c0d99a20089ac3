/* What reading an input file of prep is made of. Of the room alone. */
#ifndef LS_DATA_PREP_LINES_H
#define LS_DATA_PREP_LINES_H

#include "runtime/data/jsonl.h"
#include "runtime/data/prep_documents.h"

enum { LS_PREP_BATCH_LINES = 4096 };

/* A line of JSONL, or a short file of text. */
struct ls_prep_line {
    const char *path; /* of the file; NULL: a line */
    char *line;       /* in the buffer */
    size_t bytes;
    ls_jsonl found;
    ls_token_list tokens; /* of the text, with a tokenizer */
    ls_status status;
    bool scanned;
};

/* --- prep_tokens.c --- */
/* Counts bytes read, tells about them ten times a second, and ends the work when asked to. */
ls_status ls_prep_progress(ls_prep_reader *reader, int64_t bytes);
void ls_prep_begin_document(ls_prep_reader *reader, const char *text, size_t bytes);
/* Appends tokens to the document, behind the token that precedes it, and without a separator at its
 * end, which follows it anyway. */
ls_status ls_prep_append_tokens(ls_prep_reader *reader, const uint32_t *tokens, size_t count);
/* Writes a document as tokens. */
ls_status ls_prep_encode_text(ls_prep_reader *reader, const char *text, size_t bytes);

/* --- prep_lines.c --- */
/* Writes the documents of lines in order. number: of the first line. */
ls_status ls_prep_write_lines(ls_prep_reader *reader, const char *path, int count, int64_t number);
/* Keeps a short file, whose bytes are in the buffer, for ls_prep_write_held. */
void ls_prep_hold(ls_prep_reader *reader, const char *path, size_t bytes);

#endif
