/* What the back ends share among themselves. */
#ifndef LS_COLLECTIVES_COMM_IMPL_H
#define LS_COLLECTIVES_COMM_IMPL_H

#include "collectives/comm.h"

#include <stdatomic.h>

/* LS_E_SHAPE for a negative count, or a rank that the communicator does not have. */
ls_status ls_comm_check_count(int64_t count, const char *what);
ls_status ls_comm_check_rank(const ls_comm *comm, int rank, const char *what);
/* Messages go to another rank. */
ls_status ls_comm_check_peer(const ls_comm *comm, int rank, const char *what);
ls_status ls_comm_check_color(int color);

/* alloc and give_back of back ends whose memory is the process's own. */
ls_status ls_comm_host_alloc(ls_comm *comm, int64_t bytes, void **memory);
void ls_comm_host_give_back(ls_comm *comm, void *memory);
/* alloc_common of back ends whose ranks share no memory. */
ls_status ls_comm_no_common(ls_comm *comm, int64_t bytes, void **memory);

/* A rank's block for itself is as long as it expects. */
ls_status ls_comm_check_own(const ls_comm *comm, int64_t sent, int64_t expected);

/* Blocking forms of back ends that start operations and drive them in `test`;
 * ls_comm_all_reduce_by_ start of comm.h too. */
ls_status ls_comm_wait_by_test(ls_comm *comm, ls_comm_request *request);
ls_status ls_comm_broadcast_by_start(ls_comm *comm, void *buf, int64_t bytes, int root);

/* One that waits, after each look that found nothing; ls_waiting_end says that it waits no more.
 * Where a thread moves operations on beside, hosts are several, and what is a while between them is
 * long: it then sleeps between its looks and leaves the processor to ranks that compute. */
typedef struct ls_waiting {
    int looks;
    uint64_t begin_ns;
    bool naps;
} ls_waiting;
extern bool ls_waiting_may_nap;
void ls_waiting_look(ls_waiting *w);
void ls_waiting_end(const ls_waiting *w);
/* Where all processors compute, a thread that wakes waits for whoever runs to use up its slice,
 * some milliseconds, in which a link runs dry. One that asks for a short slice comes first
 * (Linux 6.12; it gets no more of the processor for that); older kernels ignore the wish. Of the
 * calling thread. */
void ls_waiting_short_slices(bool wanted);

/* The table of a back end whose functions have the names of the slots (wait: wait_for). */
#define LS_COMM_OPS(text)                                                                          \
    {                                                                                              \
        .name = (text), .destroy = destroy, .duplicate = duplicate, .split = split,                \
        .alloc = alloc, .alloc_common = alloc_common, .give_back = give_back, .host = host,        \
        .barrier = barrier, .broadcast = broadcast, .all_reduce = all_reduce,                      \
        .all_gather = all_gather, .broadcast_start = broadcast_start,                              \
        .all_reduce_start = all_reduce_start, .reduce_start = reduce_start,                        \
        .reduce_scatter_start = reduce_scatter_start, .all_gather_start = all_gather_start,        \
        .all_to_all_start = all_to_all_start, .send_start = send_start, .recv_start = recv_start,  \
        .test = test, .wait = wait_for,                                                            \
    }

static inline int64_t ls_min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t ls_ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Slices of a vector for the ranks that add it up: multiples of a cache line, the last ones shorter
 * or empty. Slice r of `count` elements over `size` ranks starts here; r == size is the end. */
static inline int64_t ls_slice_first(int64_t count, int size, int r) {
    int64_t slice = ((count + size - 1) / size + 31) / 32 * 32;
    return ls_min_i64(r * slice, count);
}

/* That this process has spent on moving operations of shm on: copying and adding up. The main
 * thread reads it while another moves. */
extern _Atomic uint64_t ls_moved_ns;

/* Operations of several stages move on only when this process looks at them. Whoever waits for
 * anything drives all of them, on every communicator, since other ranks may be waiting for this
 * one there. A pump belongs to a communicator that has such operations. */
typedef struct ls_pump {
    struct ls_pump *next;
    void (*drive)(struct ls_pump *pump); /* called while pending > 0, now and then otherwise */
    int pending;                         /* operations under way */
} ls_pump;

void ls_pump_add(ls_pump *pump);
void ls_pump_remove(ls_pump *pump);
/* Drives all; does nothing when called from a drive. */
void ls_pump_all(void);
/* Operations under way, of all. */
int ls_pump_pending(void);

#endif
