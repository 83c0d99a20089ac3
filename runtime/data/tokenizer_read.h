/* The parts of a tokenizer.json. `path` names it in messages. */
#ifndef LS_DATA_TOKENIZER_READ_H
#define LS_DATA_TOKENIZER_READ_H

#include <jansson.h>

#include "runtime/data/tokenizer_tables.h"

/* --- tokenizer.c --- */
/* "null" where part is none, "an array" and the like where it is no object. */
const char *ls_tokenizer_type(const json_t *part);
/* The member, true or false; `otherwise` when it is not there or null. */
ls_status ls_tokenizer_flag(const json_t *part, const char *name, bool otherwise, const char *path,
                            bool *flag);
/* The member, a list; unless it is needed, none or null will do. */
ls_status ls_tokenizer_items(const json_t *part, const char *name, bool needed, const char *path,
                             const json_t **items);

/* --- tokenizer_kind.c: how text is cut --- */
ls_status ls_tokenizer_read_kind(ls_tokenizer *tokenizer, const json_t *root, const char *path);

/* --- tokenizer_vocab.c: tokens and merges --- */
ls_status ls_tokenizer_read_model(ls_tokenizer *tokenizer, const json_t *root, const char *path);

/* --- tokenizer_added_read.c --- */
/* Once the tables are there. */
ls_status ls_tokenizer_read_added(ls_tokenizer *tokenizer, const json_t *root, const char *path);

#endif
