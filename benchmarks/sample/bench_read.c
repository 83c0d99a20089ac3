/* How fast threads read memory that is in no cache: the floor of generation, which reads every
 * weight for every token.
 *
 *     bench_read [MIB] [THREADS] [ROUNDS]
 *
 * Prints GB/s by the clock and by each thread's processor time, the best of ROUNDS. */
#include "runtime/base/clock.h"

#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* One stream, as the kernels of generation have it. */
static uint64_t read_all(const uint64_t *x, int64_t n) {
    uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
    }
    return sum;
}

static double processor_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int64_t number(int argc, char **argv, int i, int64_t otherwise) {
    return argc > i && atoll(argv[i]) > 0 ? atoll(argv[i]) : otherwise;
}

int main(int argc, char **argv) {
    const int64_t mib = number(argc, argv, 1, 256), rounds = number(argc, argv, 3, 20);
    const int threads = (int)number(argc, argv, 2, 1);
    const int64_t words = mib * (1 << 17) / threads;
    const size_t bytes = (size_t)(words * threads) * sizeof(uint64_t);
    uint64_t *memory = aligned_alloc((size_t)2 << 20, (bytes >> 21 << 21) + ((size_t)2 << 20));
    double wall = 1e9, own = 1e9;
    if (!memory) {
        fprintf(stderr, "bench_read: no memory for %lld MiB\n", (long long)mib);
        return 3;
    }
    madvise(memory, bytes, MADV_HUGEPAGE);
    memset(memory, 1, bytes);
    uint64_t sum = 0;
    for (int64_t i = 0; i < rounds; i++) {
        const uint64_t start = ls_clock_ns();
        double most = 0.0;
#pragma omp parallel num_threads(threads) reduction(+ : sum) reduction(max : most)
        {
            const double begin = processor_seconds();
            sum += read_all(memory + omp_get_thread_num() * words, words);
            most = processor_seconds() - begin;
        }
        const double seconds = 1e-9 * (double)(ls_clock_ns() - start);
        wall = seconds < wall ? seconds : wall;
        own = most < own ? most : own;
    }
    printf("%.1f %.1f GB/s (by the clock, by processor time)%s\n", 1e-9 * (double)bytes / wall,
           1e-9 * (double)bytes / own, sum == 1 ? "." : "");
    free(memory);
    return 0;
}
