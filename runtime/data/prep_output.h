/* Where prep writes: a directory beside the one that is asked for, which takes its name when all is
 * complete. One prep at a time works for a name. */
#ifndef LS_DATA_PREP_OUTPUT_H
#define LS_DATA_PREP_OUTPUT_H

#include <limits.h>
#include <stdbool.h>

#include "runtime/base/status.h"

typedef struct ls_prep_output {
    char out[PATH_MAX], parent[PATH_MAX];
    char temp[PATH_MAX]; /* is written, and renamed */
    char lock[PATH_MAX];
    int lock_fd; /* -1: not held */
} ls_prep_output;

/* Is it the name of a file that prep makes: data.json, a tokenizer's or a shard's? */
bool ls_prep_output_name(const char *name);

/* Finds the paths, takes the lock and makes the directory to write. LS_E_EXISTS: the directory is
 * there (and force unset, or it holds other files), or another prep works for it; LS_E_INPUT,
 * LS_E_USAGE: no name for a directory; LS_E_IO. Release also after a failure. */
ls_status ls_prep_output_init(ls_prep_output *output, const char *dir, bool force);
/* What was written takes its name, synced; one that had it goes away afterwards. */
ls_status ls_prep_output_publish(const ls_prep_output *output, bool force);
/* Gives the lock back. What was written and not published is removed. */
void ls_prep_output_release(ls_prep_output *output);

#endif
