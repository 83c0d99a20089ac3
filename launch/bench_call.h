/* One collective as the benchmarks make it: blocks of one size, all of the memory at hand. */
#ifndef LS_LAUNCH_BENCH_CALL_H
#define LS_LAUNCH_BENCH_CALL_H

#include "collectives/comm.h"
#include "collectives/wire_cost.h"

typedef struct ls_bench_call {
    ls_comm *comm;
    ls_coll coll; /* none but barriers */
    ls_dtype dtype;
    ls_reduce op;
    int64_t *counts, *offsets; /* [size], to work with */
    bool others_only;          /* an all-to-all leaves a rank's block for itself where it is */
    int root;                  /* of a broadcast by ours */
} ls_bench_call;

/* Elements: of the whole vector, of a rank's block, of what a rank sends and receives. */
typedef struct ls_bench_shape {
    int64_t all, block, send, recv;
} ls_bench_shape;

/* Of an operation of at most so many bytes, as nccl-tests counts them (wire_cost.h). */
ls_bench_shape ls_bench_shape_of(const ls_bench_call *call, int64_t bytes);

/* Refuses with LS_E_MEMORY, on all ranks, what their hosts have no room for: so many bytes of a
 * rank for operations of up to max_bytes. Before any are taken. [collective] */
ls_status ls_bench_check_room(ls_comm *world, int64_t rank_bytes, int64_t max_bytes);

/* Makes the operation and awaits it; send_recv goes to the next rank and comes from the one before,
 * the root of a reduction is rank 0. [collective] */
ls_status ls_bench_call_run(const ls_bench_call *call, ls_bench_shape s, const char *send,
                            char *recv);

/* In two parts: no broadcasts. requests[2]: set by start, given to wait. [collective] */
ls_status ls_bench_call_start(const ls_bench_call *call, ls_bench_shape s, const char *send,
                              char *recv, ls_comm_request *requests[2]);
ls_status ls_bench_call_wait(const ls_bench_call *call, ls_comm_request *requests[2]);

/* The library's own call on all ranks of the world, of types and reductions that it has: at most
 * INT32_MAX elements; a block of a reduce-scatter in place is left at the beginning. [collective]
 */
ls_status ls_bench_call_run_mpi(const ls_bench_call *call, ls_bench_shape s, const char *send,
                                char *recv, bool in_place);

#endif
