/* Limits in time where no watchdog looks: before it is started, and at the end. For session.c and
 * the verbs. */
#ifndef LS_LAUNCH_SESSION_LIMIT_H
#define LS_LAUNCH_SESSION_LIMIT_H

#include "runtime/base/status.h"

/* LS_E_CONFIG when LOCKSTEP_START_LIMIT_S is no number of seconds. Before the first start. */
ls_status ls_session_limit_read(void);

/* From here on the ranks of a job have LOCKSTEP_START_LIMIT_S seconds (300; 0: no limit) for
 * `what`, static, where no watchdog looks: then this one says so, names one that is stopped
 * (SIGSTOP) on this host, writes it to the run's outcome and exits with 3, whereupon the launcher
 * ends the others; one that is stopped by then gets SIGKILL after half as long again, at least 5 s.
 * NULL: it is over. Nothing for a process that no launcher started. */
void ls_session_limit_start(const char *what);

/* The seconds of that limit; INFINITY: none. */
double ls_session_limit_s(void);

/* Ranks that a failure did not reach, as when memory was short while ranks agreed on it, do not
 * come to the end of MPI: whoever has waited for them for 10 s goes without, and the launcher ends
 * them. */
void ls_session_limit_end(int exit_status);

#endif
