/* bench_stall DIR [MIB [THREADS [ROUNDS]]]: what training waits for a save in the background. Steps
 * go on without a pause: all threads read the whole state some times, as forward and backward do,
 * then change it. Each round has some alone, then some while a save is under way with the default
 * number of background threads. The stall is the time that the training thread spends in the saver;
 * a fast save is one that nothing else disturbs, with all threads. Medians of the rounds. */
#include "checkpoint/saver.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 1024, TENSOR_MIB = 16, ROUNDS_MAX = 32, ALONE = 5, PASSES = 8 };

typedef struct bench {
    const char *directory;
    int threads, rounds, count;
    ls_ckpt_tensor *tensors;
    char (*names)[32];
    size_t elems; /* of a tensor */
    ls_comm *comm;
    ls_ckpt_saver *saver;
    json_t *none;
    double copy[ROUNDS_MAX], stall[ROUNDS_MAX], save[ROUNDS_MAX], alone[ROUNDS_MAX];
    double beside[ROUNDS_MAX], fast[ROUNDS_MAX];
} bench;

static ls_status tensors_make(bench *b, int mib) {
    b->count = mib / TENSOR_MIB > 0 ? mib / TENSOR_MIB : 1;
    b->elems = ((size_t)TENSOR_MIB << 20) / sizeof(float);
    b->tensors = calloc((size_t)b->count, sizeof *b->tensors);
    b->names = calloc((size_t)b->count, sizeof *b->names);
    if (!b->tensors || !b->names) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %d tensors", b->count);
    }
    for (int i = 0; i < b->count; i++) {
        ls_ckpt_tensor *t = &b->tensors[i];
        snprintf(b->names[i], sizeof b->names[i], "layers.%d.weight", i);
        *t = (ls_ckpt_tensor){.name = b->names[i],
                              .dtype = LS_F32,
                              .ndim = 2,
                              .dims = {(int64_t)b->elems / COLUMNS, COLUMNS},
                              .data = malloc(b->elems * sizeof(float))};
        t->box = ls_box_whole(2, t->dims);
        if (!t->data) {
            return LS_FAIL(LS_E_MEMORY, "no memory for %d MiB", mib);
        }
        for (size_t k = 0; i == 0 && k < b->elems; k++) {
            ((float *)t->data)[k] = (float)(0.02 * ls_rng_normal(1, 2, k));
        }
        if (i > 0) {
            memcpy(t->data, b->tensors[0].data, b->elems * sizeof(float));
        }
    }
    return LS_OK;
}

static double since(uint64_t start_ns) {
    return 1e-9 * (double)(ls_clock_ns() - start_ns);
}

/* Training's part. */
static double step(const bench *b) {
    uint64_t start_ns = ls_clock_ns();
    float sum = 0;
    for (int pass = 0; pass < PASSES; pass++) {
#pragma omp parallel for num_threads(b->threads) reduction(+ : sum)
        for (int i = 0; i < b->count; i++) {
            const float *x = b->tensors[i].data;
            for (size_t k = 0; k < b->elems; k++) {
                sum += x[k];
            }
        }
    }
    ls_ckpt_saver_settle(b->saver);
    const float scale = sum < 1e30F ? 0.9999F : 1.0F;
#pragma omp parallel for num_threads(b->threads)
    for (int i = 0; i < b->count; i++) {
        float *x = b->tensors[i].data;
        for (size_t k = 0; k < b->elems; k++) {
            x[k] = x[k] * scale + 1e-7F;
        }
    }
    return since(start_ns);
}

/* What the stall must at least be. */
static ls_status copy(const bench *b, double *seconds) {
    char *to = malloc((size_t)b->count * b->elems * sizeof(float));
    if (!to) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a copy");
    }
    for (int touch = 1; touch >= 0; touch--) {
        uint64_t start_ns = ls_clock_ns();
#pragma omp parallel for num_threads(b->threads)
        for (int i = 0; i < b->count; i++) {
            memcpy(to + (size_t)i * b->elems * sizeof(float), b->tensors[i].data,
                   b->elems * sizeof(float));
        }
        *seconds = since(start_ns);
    }
    free(to);
    return LS_OK;
}

static ls_ckpt_save_options options_of(const bench *b, int threads) {
    return (ls_ckpt_save_options){.root = b->directory,
                                  .step = 1,
                                  .level = 1,
                                  .threads = threads,
                                  .config_text = "",
                                  .run = b->none,
                                  .counters = b->none};
}

static ls_status round_run(bench *b, int round) {
    ls_ckpt_outcome outcome = {0};
    ls_ckpt_save_result alone_result;
    double alone = 0, beside = 0;
    int64_t steps = 0;
    bool ended = false;
    LS_TRY(copy(b, &b->copy[round]));
    for (int i = 0; i < ALONE; i++) {
        alone += step(b);
    }
    ls_ckpt_save_options options = options_of(b, b->threads);
    LS_TRY(ls_ckpt_save(b->comm, &options, b->tensors, b->count, &alone_result));
    b->fast[round] = alone_result.seconds;
    LS_TRY(ls_dir_remove(alone_result.path));
    options = options_of(b, b->threads / 4 > 0 ? b->threads / 4 : 1);
    ls_ckpt_saver_start(b->saver, &options, b->tensors, b->count, false);
    while (!ended) {
        beside += step(b);
        steps++;
        LS_TRY(ls_ckpt_saver_poll(b->saver, false, &ended, &outcome));
    }
    LS_TRY(outcome.status);
    b->alone[round] = alone / ALONE;
    b->beside[round] = beside / (double)steps;
    b->stall[round] = outcome.stall_seconds;
    b->save[round] = outcome.result.seconds;
    return ls_dir_remove(outcome.result.path);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

static ls_status run(bench *b, int mib) {
    LS_TRY(tensors_make(b, mib));
    LS_TRY(ls_comm_self(&b->comm));
    const ls_ckpt_saver_options options = {
        .comm = b->comm, .async = true, .tensors = b->tensors, .count = b->count};
    LS_TRY(ls_ckpt_saver_create(&options, &b->saver));
    for (int round = 0; round < b->rounds; round++) {
        LS_TRY(round_run(b, round));
    }
    int n = b->rounds;
    double stall = median(b->stall, n), save = median(b->save, n), copied = median(b->copy, n);
    double alone = median(b->alone, n), beside = median(b->beside, n), fast = median(b->fast, n);
    printf("%d MiB, %d threads, %d rounds\n", mib, b->threads, n);
    printf("%-40s %10.1f ms\n", "training waits for a save", 1e3 * stall);
    printf("%-40s %10.1f ms\n", "a copy of the state alone", 1e3 * copied);
    printf("%-40s %10.1f ms\n", "the save, in the background", 1e3 * save);
    printf("%-40s %10.1f ms\n", "a fast save", 1e3 * fast);
    printf("%-40s %10.2f %% (of a fast one's %.2f %%)\n", "training waits, of the save's time",
           100 * stall / save, 100 * stall / fast);
    printf("%-40s %10.1f ms\n", "a step alone", 1e3 * alone);
    printf("%-40s %10.1f ms (%.2f times)\n", "a step beside a save", 1e3 * beside, beside / alone);
    return LS_OK;
}

int main(int argc, char **argv) {
    int mib = argc > 2 ? atoi(argv[2]) : 512;
    bench b = {.directory = argc > 1 ? argv[1] : "bench-stall",
               .threads = argc > 3 ? atoi(argv[3]) : omp_get_num_procs(),
               .rounds = argc > 4 ? atoi(argv[4]) : 5,
               .none = json_object()};
    b.rounds = b.rounds < 1 ? 1 : b.rounds > ROUNDS_MAX ? ROUNDS_MAX : b.rounds;
    b.threads = b.threads < 1 ? 1 : b.threads;
    ls_log_set_quiet(true);
    ls_status status = run(&b, mib);
    if (status != LS_OK) {
        fprintf(stderr, "bench_stall: %s\n", ls_error_last()->message);
    }
    ls_ckpt_saver_destroy(b.saver);
    if (b.comm) {
        b.comm->ops->destroy(b.comm);
    }
    for (int i = 0; i < b.count && b.tensors; i++) {
        free(b.tensors[i].data);
    }
    free(b.tensors);
    free(b.names);
    json_decref(b.none);
    return status == LS_OK ? 0 : 1;
}
