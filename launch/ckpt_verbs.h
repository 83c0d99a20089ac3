/* The parts of `lockstep ckpt`. Results go to stdout; json: one object with a "schema" member. */
#ifndef LS_LAUNCH_CKPT_VERBS_H
#define LS_LAUNCH_CKPT_VERBS_H

#include "checkpoint/ckpt.h"

#include <stdbool.h>

/* The table of tensors whose name matches glob (NULL: all), under a heading. LS_E_NO: none does. */
ls_status ls_ckpt_print_list(const ls_ckpt *ckpt, const char *glob, bool json);
/* Values of "NAME" or "NAME[slices]". */
ls_status ls_ckpt_print_values(ls_ckpt *ckpt, const char *selection, bool json);
ls_status ls_ckpt_print_counters(const ls_ckpt *ckpt, bool json);
ls_status ls_ckpt_print_config(const ls_ckpt *ckpt, bool json);

/* Prints the object as one line and drops the reference; NULL: LS_E_MEMORY. */
ls_status ls_ckpt_print_json(json_t *object);
/* Escaped text without lines. Caller frees. Never NULL: ends with "?" when memory is short. */
const char *ls_ckpt_safe(const char *text, char **buffer);

#endif
