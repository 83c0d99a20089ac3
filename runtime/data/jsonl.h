/* A document a line: the text, or the tokens, of one line of JSONL. */
#ifndef LS_DATA_JSONL_H
#define LS_DATA_JSONL_H

#include "runtime/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct ls_jsonl {
    const char *text; /* UTF-8, zero bytes possible, no zero at the end; NULL: a blank line */
    size_t bytes;
    json_t *document;   /* holds the text, for json_decref; NULL: the line does */
    char *tokens;       /* where they are what was asked for: heap; text points to them */
    const char *prompt; /* what precedes the text, where it was asked for */
    size_t prompt_bytes;
    const json_t *messages; /* of a chat, where they were asked for; text is the line then */
    bool end_masked;        /* the last token was the separator, and no target */
} ls_jsonl;

/* What of an object is the document. */
typedef struct ls_jsonl_form {
    const char *field;        /* of the text or the tokens */
    const char *prompt;       /* of a text before it; NULL: none */
    bool chat;                /* the field is an array of messages */
    const char *mask;         /* of an array of 1 (a target) or 0 for each token; NULL: none */
    int64_t vocab, separator; /* of tokens */
    int token_bytes;
} ls_jsonl_form;

/* The text of the object in line [bytes], and its prompt. Repeated names are refused. LS_E_INPUT
 * says what is wrong with the line. By the JSON library. */
ls_status ls_jsonl_parse(const char *line, size_t bytes, const ls_jsonl_form *form,
                         ls_jsonl *found);

/* The same of an array of tokens below vocab: as many little-endian numbers of token_bytes (2, or
 * 4, with the bit of shard.h where the mask says that it is no target) in found->text, without a
 * last one that is the separator. */
ls_status ls_jsonl_parse_tokens(const char *line, size_t bytes, const ls_jsonl_form *form,
                                ls_jsonl *found);

/* What ls_jsonl_parse does in one pass and without copies, for usual lines: escapes of the text are
 * replaced where they stand. False when it leaves the line to the library (whatever that will say
 * of it), and then the line is as it was. */
bool ls_jsonl_scan(char *line, size_t bytes, const char *field, ls_jsonl *found);

#endif
