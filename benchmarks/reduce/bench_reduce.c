/* Reducing the gradients of a model: one blocking all-reduce of the library over the whole buffer,
 * against the reducer's buckets, both ways. All in one run, interleaved, so that the ratios hold on
 * a busy machine; the shortest of the repetitions counts, and of it the slowest rank.
 *
 *   mpirun -n 2 bench_reduce [MILLION_ELEMENTS [BUCKET_MIB [REPETITIONS [THREADS]]]]
 *
 * Everything is ready at once, so nothing is hidden: this is the price that backward has to cover.
 * GB/s are those of the bus: 2 (R-1)/R bytes of the buffer over the time. */
#include "collectives/reduce.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <stdio.h>
#include <stdlib.h>

enum { WAYS = 4 };

typedef struct way {
    const char *name;
    ls_reduction reduction;
    int64_t leaves; /* of each rank; 0: the library's all-reduce */
    ls_reducer *reducer;
    double best_s;
} way;

static ls_status run_once(ls_comm *comm, way *w, float *flat, int64_t elems, double *seconds) {
    LS_TRY(comm->ops->barrier(comm));
    uint64_t start_ns = ls_clock_ns(), wait_ns = 0;
    void *grads = NULL;
    bool fresh;
    if (w->leaves == 0) {
        LS_TRY(comm->ops->all_reduce(comm, flat, elems, LS_F32, LS_SUM));
    } else {
        LS_TRY(ls_reducer_begin(w->reducer));
        for (int64_t local = 0; local < w->leaves; local++) {
            LS_TRY(ls_reducer_micro_begin(w->reducer, local, &grads, &fresh));
            /* The last micro-batch's reduction is measured, with the folding that it does. */
            start_ns = ls_clock_ns();
            LS_TRY(ls_reducer_micro_end(w->reducer));
        }
        LS_TRY(ls_reducer_finish(w->reducer, &grads, &wait_ns));
    }
    *seconds = 1e-9 * (double)(ls_clock_ns() - start_ns);
    return comm->ops->all_reduce(comm, seconds, 1, LS_F64, LS_MAX);
}

static ls_status measure(ls_comm *comm, ls_device *dev, int64_t elems, int64_t bucket_bytes,
                         int repetitions) {
    way ways[WAYS] = {
        {.name = "one blocking all-reduce"},
        {.name = "fast", .reduction = LS_REDUCTION_FAST, .leaves = 1},
        {.name = "invariant, M/R = 1", .reduction = LS_REDUCTION_INVARIANT, .leaves = 1},
        {.name = "invariant, M/R = 4", .reduction = LS_REDUCTION_INVARIANT, .leaves = 4},
    };
    void *flat = NULL;
    LS_TRY(dev->ops->alloc(dev, (size_t)elems * sizeof(float), &flat));
    for (int64_t i = 0; i < elems; i++) { /* zeros are moved faster than numbers */
        ((float *)flat)[i] = 1.0F;
    }
    for (int i = 1; i < WAYS; i++) {
        const ls_reducer_options options = {.comm = comm,
                                            .dev = dev,
                                            .reduction = ways[i].reduction,
                                            .elems = elems,
                                            .micro_batches = ways[i].leaves * comm->size,
                                            .bucket_bytes = bucket_bytes};
        LS_TRY(ls_reducer_create(&options, &ways[i].reducer));
    }
    for (int repetition = 0; repetition < repetitions; repetition++) {
        for (int i = 0; i < WAYS; i++) {
            double seconds = 0;
            LS_TRY(run_once(comm, &ways[i], flat, elems, &seconds));
            if (repetition == 0 || seconds < ways[i].best_s) {
                ways[i].best_s = seconds;
            }
        }
    }
    const double bus_bytes =
        2.0 * (comm->size - 1) / comm->size * (double)elems * (double)sizeof(float);
    for (int i = 0; comm->rank == 0 && i < WAYS; i++) {
        printf("%-24s %9.2f ms  %6.2f GB/s  %5.2fx  %7.1f MiB extra\n", ways[i].name,
               1e3 * ways[i].best_s, 1e-9 * bus_bytes / ways[i].best_s,
               ways[i].best_s / ways[0].best_s,
               i ? (double)ls_reducer_bytes(ways[i].reducer) / (1 << 20) : 0.0);
    }
    for (int i = 1; i < WAYS; i++) {
        ls_reducer_destroy(ways[i].reducer);
    }
    dev->ops->free(dev, flat);
    return LS_OK;
}

static double argument(int argc, char **argv, int i, double otherwise) {
    double value = argc > i ? strtod(argv[i], NULL) : otherwise;
    return value > 0 ? value : otherwise;
}

int main(int argc, char **argv) {
    ls_comm *comm = NULL;
    ls_device *dev = NULL;
    ls_status status =
        ls_comm_launched() ? ls_comm_mpi_init(&argc, &argv, &comm) : ls_comm_self(&comm);
    if (status == LS_OK) {
        ls_error_set_rank(comm->rank);
        const int64_t elems = (int64_t)(1e6 * argument(argc, argv, 1, 32));
        const int64_t bucket_bytes = (int64_t)(argument(argc, argv, 2, 25) * (1 << 20));
        const int repetitions = (int)argument(argc, argv, 3, 7);
        const ls_device_options options = {.threads = (int)argument(argc, argv, 4, 1)};
        status = ls_device_open_cpu(&options, &dev);
        if (status == LS_OK && comm->rank == 0) {
            printf("%lld elements on %d ranks, buckets of %.0f MiB, %s, %s\n", (long long)elems,
                   comm->size, (double)bucket_bytes / (1 << 20), ls_comm_mpi_version(),
                   dev->describe);
        }
        if (status == LS_OK) {
            status = measure(comm, dev, elems, bucket_bytes, repetitions);
            dev->ops->close(dev);
        }
    }
    if (status != LS_OK) {
        ls_log_error();
        ls_comm_mpi_abort(ls_status_exit(status));
    }
    ls_comm_mpi_finalize();
    return 0;
}
