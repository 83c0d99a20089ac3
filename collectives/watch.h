/* The watchdog: a hang explains itself and ends.
 *
 * A thread on each rank looks at the rank's own flight record. When the main thread has waited in
 * an operation for longer than its deadline, the thread looks at the records of all ranks
 * (peers.h), finds who keeps whom waiting (diagnose.h) and, when that is no mere slowness, reports
 * it, has every rank write its record as flight-RANK.json, and ends the job. A rank of the same
 * host whose process disappears is reported at once.
 *
 * The deadline follows the measured time of a step: deadline_factor times the longest of the last
 * ones, at least min_deadline_s. Before two steps have passed, outside of training steps (setup,
 * evaluation, checkpoints) and in a group's first operation, patience_s is allowed; but stopped and
 * unreachable ranks are found within min_deadline_s everywhere: whoever has waited for half of it
 * asks whether all are still there, unless another rank has asked meanwhile. A process that was
 * itself stopped and continued, or had no processor for so long, starts anew, but for ranks of its
 * host that have died.
 *
 * All functions are called by the main thread. */
#ifndef LS_COLLECTIVES_WATCH_H
#define LS_COLLECTIVES_WATCH_H

#include "collectives/recorded.h"

typedef struct ls_watch_options {
    ls_comm *comm;          /* the world, used by start only; several ranks */
    const char *run_dir;    /* for the records; made when needed */
    const char *flight_dir; /* of ls_flight_options */
    double min_deadline_s, deadline_factor, patience_s;
    /* Called on threads of the watchdog while the main thread hangs: report prints, on the rank
     * that has found out; end then ends the process on every rank and must not return. */
    void (*report)(const char *text);
    void (*end)(void);
} ls_watch_options;

/* Opens the flight record and starts to watch. The same status on all ranks. [collective] */
ls_status ls_watch_start(const ls_watch_options *options);
/* Closes the record too. Safe when not started. Not collective. */
void ls_watch_stop(void);
/* A launcher that has lost a rank sends the others SIGCONT, SIGTERM a second later, and SIGKILL a
 * second after that (mpirun): the others look at once whether all are there, the lowest first, also
 * when they compute. On requests to stop of any kind, and to go on. Safe in handlers of signals. */
void ls_watch_look_soon(void);
/* After an operation that failed on this rank, as it does when another's process is gone: gives the
 * watchdog a second to find that rank, tell of it and end this process. Returns when there is none.
 */
void ls_watch_wait_for_cause(void);
/* Around what a step always does: the time between them is one step's. `step`: are complete. */
void ls_watch_begin_step(void);
void ls_watch_end_step(int64_t step);

#endif
