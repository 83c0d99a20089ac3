/* A window of steps as Chrome's trace event format, which Perfetto reads too: what the main thread
 * is at (ls_flight_mark), every operation of recorded communicators by group, and the calls on it
 * in which the main thread was: what it computes in none of them, nothing else hides. */
#ifndef LS_COLLECTIVES_TRACE_H
#define LS_COLLECTIVES_TRACE_H

#include "collectives/comm.h"
#include "collectives/flight.h"
#include "collectives/meter.h"

/* Takes memory and starts to listen; what does not fit is counted. One that is on (steps
 * are done again) goes on. LS_E_MEMORY. */
ls_status ls_trace_begin(void);
/* Ends it and writes one file from rank 0, which takes 16 MiB whatever the number of ranks; forgets
 * all. Without one that is on (a run that was resumed beyond its beginning) nothing happens.
 * [collective] */
ls_status ls_trace_end(ls_comm *comm, const char *path);

/* For flight.c and recorded.c; nothing happens unless a trace is on. */
void ls_trace_place(ls_flight_place place, int64_t index);
/* Of a group: the lowest world rank, and which of its collectives it is (0: a message). */
typedef struct ls_trace_op {
    const char *group;      /* copied */
    int lowest, kind, peer; /* peer: the other world rank of a message, else -1 */
    uint64_t id, seq;
    int64_t bytes;
    uint64_t begin_ns;
} ls_trace_op;
void ls_trace_operation(const ls_trace_op *op);
/* The main thread returns from a call on it. waits: until the operation, or its part of it, ends.
 */
void ls_trace_call(uint64_t id, int kind, bool waits, ls_meter_moment called);

#endif
