/* A tokenizer.json goes with what has its tokens: it lies in a data directory, in the folder above
 * checkpoints, and in the folder of a Hugging Face model. */
#ifndef LS_LAUNCH_TOKENIZER_FILES_H
#define LS_LAUNCH_TOKENIZER_FILES_H

#include "runtime/data/tokenizer.h"

#include <stdbool.h>

/* Is it the name of one that tokenizer.h reads, not "bytes" or "tokens"? NULL is none. */
bool ls_tokenizer_known(const char *name);

/* Copies from/tokenizer.json, where there is one, into the directory `to`, which is made. */
ls_status ls_tokenizer_carry(const char *from, const char *to);

/* The tokenizer called `name` of a checkpoint: the file that is given, or that which lies above the
 * checkpoint; NULL where tokens are bytes. LS_E_INPUT: there is none, or it is another one. */
ls_status ls_tokenizer_find(const char *checkpoint, const char *name, const char *given,
                            ls_tokenizer **tokenizer);

#endif
