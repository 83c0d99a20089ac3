/* lockstep prep: text to token shards. */
#ifndef LS_DATA_PREP_H
#define LS_DATA_PREP_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct ls_prep_options {
    const char *const *inputs; /* files, folders (walked), glob patterns, "-" for standard input */
    int input_count;
    const char *out_dir;
    const char *jsonl_field;   /* text field of *.jsonl lines: "text" */
    const char *include;       /* file name pattern inside folders ("*.h"); NULL: all text files */
    double val_fraction;       /* of documents, chosen by hash of their content */
    int64_t shard_tokens;      /* most tokens of a shard */
    bool force;                /* replace an existing data directory made by prep */
} ls_prep_options;

typedef struct ls_prep_result {
    int64_t files, skipped_files; /* skipped: binary or not readable text */
    int64_t documents, bytes;
    int64_t train_tokens, val_tokens;
    int train_shards, val_shards;
    double seconds;
} ls_prep_result;

/* A document is a file, or a line of a *.jsonl file (or of standard input when jsonl is chosen by
 * the first byte '{'). Byte-level tokens 0..255; token 256 separates documents (it follows each);
 * vocabulary 257. Same inputs give the same bytes. Files appear under their names only when all of
 * them are complete. Shows progress with rate and time left. Not collective. */
ls_status ls_prep_run(const ls_prep_options *options, ls_prep_result *result);

#endif
