/* Lines for people, on stderr. Rank 0 speaks; other ranks only warn, with their rank in front. */
#ifndef LS_BASE_LOG_H
#define LS_BASE_LOG_H

#include <stdbool.h>

/* Progress and facts: printed by rank 0 (or before ranks are known). */
void ls_log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Something the user should act on: printed by every rank, "lockstep: warning: [rank 3] ...". */
void ls_log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints ls_error_last() as "lockstep: error: ..." with rank, and file:line when LOCKSTEP_DEBUG is
 * set. */
void ls_log_error(void);
/* --quiet: no info lines. */
void ls_log_set_quiet(bool quiet);

/* True when stderr is a terminal and NO_COLOR is unset. */
bool ls_log_color(void);
/* True when stderr is a terminal. */
bool ls_log_tty(void);

/* How wide that terminal is; 0: there is none, or nobody knows. */
int ls_log_columns(void);

/* A line that replaces itself on a terminal, cut to its width until `done`; elsewhere nothing is
 * printed until then. Rank 0 only. */
void ls_log_progress(bool done, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
