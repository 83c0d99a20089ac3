/* What operations cost where a step makes them: the rows of a profile's section `links`. */
#ifndef LS_LAUNCH_BENCH_LINKS_H
#define LS_LAUNCH_BENCH_LINKS_H

#include "launch/bench_call.h"

/* [of the state][operation]; bytes_per_s 0: not measured. */
typedef struct ls_bench_links {
    ls_wire_link of[2][LS_COLL_COUNT];
} ls_bench_links;

/* Each operation with buffers as training has them (private for activations and parameters, from
 * `comm` for gradients), just written, after a pass over memory that no cache holds. [collective]
 */
ls_status ls_bench_links_measure(ls_comm *comm, ls_bench_links *links);

/* bench_profile.c: the link that makes the relative errors of ls_wire_time_s least over sizes
 * [count] in bytes that took seconds [count]. */
ls_wire_link ls_bench_fit(const ls_bench_call *call, const int64_t *sizes, const double *seconds,
                          int count);

#endif
