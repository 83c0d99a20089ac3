/* The parts of `lockstep ckpt`. Results go to stdout; json: one object with a "schema" member. */
#ifndef LS_LAUNCH_CKPT_VERBS_H
#define LS_LAUNCH_CKPT_VERBS_H

#include "checkpoint/ckpt.h"
#include "runtime/config/config.h"

#include <stdbool.h>

/* Indices into the table of options and into the values that the actions get. */
enum {
    LS_CKPT_JSON,
    LS_CKPT_TREE,
    LS_CKPT_SORT,
    LS_CKPT_PIECES,
    LS_CKPT_HISTOGRAM,
    LS_CKPT_COUNTERS,
    LS_CKPT_CONFIG,
    LS_CKPT_QUICK,
    LS_CKPT_FULL,
    LS_CKPT_DEEP,
    LS_CKPT_RTOL,
    LS_CKPT_OUTPUT,
    LS_CKPT_TO,
    LS_CKPT_FROM,
    LS_CKPT_DTYPE,
    LS_CKPT_SHARD_SIZE,
    LS_CKPT_TOKENIZER,
    LS_CKPT_RANKS,
    LS_CKPT_LEVEL,
    LS_CKPT_KEEP_LAST,
    LS_CKPT_KEEP_EVERY,
    LS_CKPT_KEEP_BEST,
    LS_CKPT_DRY_RUN,
    LS_CKPT_REPAIR,
    LS_CKPT_PARITY,
    LS_CKPT_OPTIONS
};

/* argv: the operands after the action's name; values as of ls_options_parse. */
ls_status ls_ckpt_run_ls(int argc, char **argv, const char **values);
ls_status ls_ckpt_run_stats(int argc, char **argv, const char **values);
ls_status ls_ckpt_run_verify(int argc, char **argv, const char **values);
ls_status ls_ckpt_run_diff(int argc, char **argv, const char **values);
ls_status ls_ckpt_run_convert(int argc, char **argv, const char **values);
ls_status ls_ckpt_run_reshard(int argc, char **argv, const char **values);
ls_status ls_ckpt_run_prune(int argc, char **argv, const char **values);
ls_status ls_ckpt_run_doctor(int argc, char **argv, const char **values);

/* Values of "NAME" or "NAME[slices]". */
ls_status ls_ckpt_print_values(ls_ckpt *ckpt, const char *selection, bool json);
ls_status ls_ckpt_print_counters(const ls_ckpt *ckpt, bool json);
ls_status ls_ckpt_print_config(const ls_ckpt *ckpt, bool json);

/* ---- what they share ---- */

/* What was given for an option, else the table's default. */
const char *ls_ckpt_value(const char **values, int option);

/* A checkpoint itself, or the newest valid one of a run directory or of a checkpoints/ folder. */
ls_status ls_ckpt_open_found(const char *given, ls_ckpt **ckpt);
/* The configuration of the run that wrote it. */
ls_status ls_ckpt_settings(const ls_ckpt *ckpt, ls_config *config);
/* The folder that holds a run's checkpoints: GIVEN/checkpoints when it is there, else GIVEN.
 * LS_E_INPUT where that is a folder of runs, or a model of transformers. */
ls_status ls_ckpt_root(const char *given, char *root, size_t size);
/* Does the name match (NULL: every name does)? */
bool ls_ckpt_matches(const ls_ckpt_entry *entry, const char *glob);
/* "; did you mean 'NAME'?" for the nearest tensor, or "". Returns hint. */
enum { LS_CKPT_HINT = 600 };
const char *ls_ckpt_suggest(const ls_ckpt *ckpt, const char *name, char hint[LS_CKPT_HINT]);
/* How many tensors match. LS_E_NO when a glob is given and none does. */
ls_status ls_ckpt_count_matches(const ls_ckpt *ckpt, const char *glob, int *found);
/* "768x50257" into text; returns text. */
enum { LS_CKPT_SHAPE_TEXT = 96 };
char *ls_ckpt_shape(char text[LS_CKPT_SHAPE_TEXT], int ndim, const int64_t *dims);
/* "[0:768, 0:2304]" on stdout */
void ls_ckpt_print_box(const ls_box *box);
json_t *ls_ckpt_dims_json(int ndim, const int64_t *dims);
/* Prints the object as one line and drops the reference; NULL: LS_E_MEMORY. */
ls_status ls_ckpt_print_json(json_t *object);
/* Escaped text without lines. Caller frees. Never NULL: ends with "?" when memory is short. */
const char *ls_ckpt_safe(const char *text, char **buffer);

#endif
