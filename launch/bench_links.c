/* Operations of one host as a step makes them. */
#include "launch/bench_links.h"

#include "launch/bench_call.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A step goes through SWEPT_BYTES of other memory between two operations: a product's operands.
 * Sizes of activations, then of a layer's gradients and weights. */
enum { REPEATS = 31, SIZES = 4, SWEPT_BYTES = 4 << 20 };
static const int64_t sizes[2][SIZES] = {{16 << 10, 128 << 10, 512 << 10, 1 << 20},
                                        {1 << 20, 4 << 20, 8 << 20, 16 << 20}};

typedef struct bench {
    ls_comm *comm;
    char *shared, *own[2]; /* shared: from comm */
    char *swept;
} bench;

/* What computation does to caches: reads and writes all of it. */
static void sweep(char *memory) {
    uint64_t *at = (uint64_t *)(void *)memory;
    for (int64_t i = 0; i < SWEPT_BYTES / 8; i++) {
        at[i] += 3;
    }
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Ranks leave a barrier one after the other; this ends at the same time on all, awake. */
static ls_status begin_together(ls_comm *comm, double *now_s) {
    double begin_s = 1e-9 * (double)ls_clock_ns();
    LS_TRY(comm->ops->all_reduce(comm, &begin_s, 1, LS_F64, LS_MAX));
    do {
        *now_s = 1e-9 * (double)ls_clock_ns();
    } while (*now_s < begin_s + 1e-4);
    return LS_OK;
}

/* What a rank is in the call for from when the last one has come (their clock is the host's), mean
 * of the ranks, and of all times the one that a tenth are below: the rest of the machine only
 * adds to them. */
static ls_status time_call(const bench *b, const ls_bench_call *call, int64_t bytes, char *send,
                           char *recv, double *seconds) {
    ls_comm *comm = b->comm;
    const ls_bench_shape s = ls_bench_shape_of(call, bytes);
    double begins[REPEATS], times[REPEATS];
    for (int i = 0; i < REPEATS; i++) {
        sweep(b->swept);
        memset(send, i, (size_t)s.send * ls_dtype_bytes(call->dtype)); /* just computed */
        LS_TRY(begin_together(comm, &begins[i]));
        LS_TRY(ls_bench_call_run(call, s, send, recv));
        times[i] = 1e-9 * (double)ls_clock_ns();
    }
    LS_TRY(comm->ops->all_reduce(comm, begins, REPEATS, LS_F64, LS_MAX));
    for (int i = 0; i < REPEATS; i++) {
        times[i] = fmax(0.0, times[i] - begins[i]) / comm->size;
    }
    LS_TRY(comm->ops->all_reduce(comm, times, REPEATS, LS_F64, LS_SUM));
    qsort(times, REPEATS, sizeof *times, ascending);
    *seconds = times[REPEATS / 10];
    return LS_OK;
}

/* Gradients are added up where they lie, in memory that ranks share; all else is private. */
static ls_status measure_row(const bench *b, ls_bench_call *call, bool state, ls_wire_link *link) {
    const bool grads = state && call->coll != LS_COLL_ALL_GATHER && call->coll != LS_COLL_SEND_RECV;
    double seconds[SIZES];
    for (int i = 0; i < SIZES; i++) {
        const int64_t block = sizes[state][i] / b->comm->size * b->comm->rank;
        char *send = grads ? b->shared : b->own[0], *recv = b->own[1];
        if (call->coll == LS_COLL_ALL_REDUCE) {
            recv = send;
        } else if (state && call->coll == LS_COLL_REDUCE_SCATTER) {
            recv = send + block;
        } else if (state && call->coll == LS_COLL_ALL_GATHER) {
            send = recv + block;
        }
        LS_TRY(time_call(b, call, sizes[state][i], send, recv, &seconds[i]));
    }
    *link = ls_bench_fit(call, sizes[state], seconds, SIZES);
    return LS_OK;
}

static ls_status measure(bench *b, int64_t *blocks, ls_bench_links *links) {
    static const ls_coll colls[] = {LS_COLL_ALL_REDUCE, LS_COLL_REDUCE_SCATTER, LS_COLL_ALL_GATHER,
                                    LS_COLL_ALL_TO_ALL, LS_COLL_SEND_RECV};
    for (int state = 0; state < 2; state++) {
        for (size_t c = 0; c < sizeof colls / sizeof *colls; c++) {
            ls_bench_call call = {.comm = b->comm,
                                  .coll = colls[c],
                                  .dtype = state ? LS_F32 : LS_BF16,
                                  .op = LS_SUM,
                                  .counts = blocks,
                                  .offsets = blocks + b->comm->size};
            LS_TRY(measure_row(b, &call, state, &links->of[state][colls[c]]));
        }
    }
    return LS_OK;
}

ls_status ls_bench_links_measure(ls_comm *comm, ls_bench_links *links) {
    const int64_t most = sizes[1][SIZES - 1];
    bench b = {.comm = comm};
    int64_t *blocks = NULL;
    memset(links, 0, sizeof *links);
    ls_status status = ls_calloc(2 * (size_t)comm->size, sizeof *blocks, &blocks);
    for (int i = 0; i < 2 && status == LS_OK; i++) {
        status = ls_calloc((size_t)most, 1, &b.own[i]);
    }
    status = status == LS_OK ? ls_calloc(SWEPT_BYTES, 1, &b.swept) : status;
    LS_TRY_GOTO(ls_comm_agree(comm, status), done);
    LS_TRY_GOTO(comm->ops->alloc(comm, most, (void **)&b.shared), done);
    status = measure(&b, blocks, links);
done:
    comm->ops->give_back(comm, b.shared);
    free(b.own[0]);
    free(b.own[1]);
    free(b.swept);
    free(blocks);
    return status;
}
