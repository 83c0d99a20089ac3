/* One file a verb. */
#ifndef LS_LAUNCH_CMD_H
#define LS_LAUNCH_CMD_H

#include "runtime/base/status.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* An option of a verb: drives parsing (getopt_long), --help, the man page and shell completion. */
typedef struct ls_option {
    const char *name;     /* "output"; NULL ends the table */
    char letter;          /* 'o', or 0 */
    const char *arg;      /* "DIR", or NULL for a flag */
    const char *fallback; /* default as text, or NULL */
    const char *help;
} ls_option;

typedef struct ls_verb {
    const char *name;
    const char *synopsis; /* "CONFIG.yaml [section.key=value ...]" */
    const char *summary;  /* one line */
    const char *text;     /* paragraphs for --help and the man page */
    const ls_option *options;
    bool settings;                           /* its operands are section.key=value */
    ls_status (*run)(int argc, char **argv); /* argv[0] is the verb */
} ls_verb;

extern const ls_verb ls_verb_train, ls_verb_prep, ls_verb_ckpt, ls_verb_sample, ls_verb_eval,
    ls_verb_plan, ls_verb_bench, ls_verb_cost, ls_verb_doctor;

/* Parsed options: values[i] belongs to options[i]: the argument, "" for a given flag, NULL when
 * absent (fallback is not filled in). argv is permuted: operands are argv[*first .. argc).
 * --help is handled by main. LS_E_USAGE names the nearest option. */
ls_status ls_options_parse(const ls_verb *verb, int argc, char **argv, const char **values,
                           int *first);
/* Number options: LS_E_USAGE says what was found and what is allowed. */
ls_status ls_option_int(const char *name, const char *value, long long min, long long max,
                        long long *out);
ls_status ls_option_float(const char *name, const char *value, double min, double max, double *out);

/* From here on SIGINT, SIGTERM and SIGHUP ask the verb to end: what is returned becomes 1, once; a
 * second signal ends the program. One that is ignored, as under nohup, stays so. */
const volatile sig_atomic_t *ls_signals_stop(void);

#endif
