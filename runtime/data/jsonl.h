/* A document a line: the text of one line of JSONL. */
#ifndef LS_DATA_JSONL_H
#define LS_DATA_JSONL_H

#include "runtime/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct ls_jsonl {
    const char *text; /* UTF-8, zero bytes possible, no zero at the end; NULL: a blank line */
    size_t bytes;
    json_t *document; /* holds the text, for json_decref; NULL: the line does */
} ls_jsonl;

/* The text under `field` of the object in line [bytes]. Repeated names are refused. LS_E_INPUT says
 * what is wrong with the line. By the JSON library. */
ls_status ls_jsonl_parse(const char *line, size_t bytes, const char *field, ls_jsonl *found);

/* The same in one pass and without copies, for usual lines: escapes of the text are replaced where
 * they stand. False when it leaves the line to the library (whatever that will say of it), and then
 * the line is as it was. */
bool ls_jsonl_scan(char *line, size_t bytes, const char *field, ls_jsonl *found);

#endif
