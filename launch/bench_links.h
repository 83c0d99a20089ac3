/* What operations cost where a step makes them: the rows of a profile's section `links`. */
#ifndef LS_LAUNCH_BENCH_LINKS_H
#define LS_LAUNCH_BENCH_LINKS_H

#include "launch/bench_call.h"
#include "runtime/device/device.h"
#include "runtime/plan/cluster.h"

/* [use][operation]; bytes_per_s 0: not measured. */
typedef struct ls_bench_links {
    ls_wire_link of[LS_USE_COUNT][LS_COLL_COUNT];
} ls_bench_links;

/* Each operation with buffers as training has them (private for activations, from `comm` for
 * gradients and parameters), written by products, and with other products where a step has some
 * while it is on its way. dtype: of activations and compute copies. [collective] */
ls_status ls_bench_links_measure(ls_comm *comm, ls_device *dev, ls_dtype dtype,
                                 ls_bench_links *links);

/* bench_profile.c: the link that makes the relative errors of ls_wire_time_s least over sizes
 * [count] in bytes that took seconds [count]. */
ls_wire_link ls_bench_fit(const ls_bench_call *call, const int64_t *sizes, const double *seconds,
                          int count);

#endif
