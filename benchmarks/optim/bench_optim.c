/* The rate at which optimizer updates move their data, beside the STREAM triad of the same run
 * (McCalpin 1995, www.cs.virginia.edu/stream).
 *
 *   bench_optim [MELEMS [SECONDS [THREADS]]]    (64 Mi elements; 2 s a measurement; 0: all threads)
 *
 * Bytes are those that an update must move: parameters and states read and written, gradients read,
 * bf16 copies written. The triad a = b + s c counts 12 bytes an element, as STREAM does; it is run
 * with plain and, where the compiler has them, with streaming stores, and the faster counts. Triad
 * and update take turns; rates are of the fastest repetition. */
#include "runtime/base/clock.h"
#include "runtime/device/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

typedef struct arrays {
    int64_t n;
    float *p, *m, *v, *grad;
    ls_bf16 *copy;
} arrays;

static void check(ls_status status) {
    if (status != LS_OK) {
        fprintf(stderr, "bench_optim: %s\n", ls_error_last()->message);
        exit(ls_status_exit(status));
    }
}

/* a = v, b = m, c = grad, whose values do not matter to the time. */
static void triad(const arrays *x, int threads) {
    float *restrict a = x->v;
    const float *restrict b = x->m, *restrict c = x->grad;
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < x->n; i++) {
        a[i] = b[i] + 0.5f * c[i];
    }
}

#if defined(__SSE2__)
static void triad_streaming(const arrays *x, int threads) {
    const __m128 s = _mm_set1_ps(0.5f);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < x->n; i += 4) {
        _mm_stream_ps(x->v + i,
                      _mm_add_ps(_mm_load_ps(x->m + i), _mm_mul_ps(s, _mm_load_ps(x->grad + i))));
    }
}
#else
#define triad_streaming triad
#endif

static ls_status adamw(ls_device *dev, const arrays *x, bool copy) {
    return dev->ops->adamw(dev, &(ls_adamw){.n = x->n,
                                            .t = 100,
                                            .lr = 1e-5,
                                            .beta1 = 0.9,
                                            .beta2 = 0.95,
                                            .eps = 1e-8,
                                            .weight_decay = 0.1,
                                            .grad_scale = 1.0,
                                            .p = x->p,
                                            .m = x->m,
                                            .v = x->v,
                                            .grad = x->grad,
                                            .copy_dtype = LS_BF16,
                                            .copy = copy ? x->copy : NULL});
}

static ls_status lion(ls_device *dev, const arrays *x, bool copy) {
    return dev->ops->lion(dev, &(ls_lion){.n = x->n,
                                          .lr = 1e-6,
                                          .beta1 = 0.9,
                                          .beta2 = 0.99,
                                          .weight_decay = 0.1,
                                          .grad_scale = 1.0,
                                          .p = x->p,
                                          .m = x->m,
                                          .grad = x->grad,
                                          .copy_dtype = LS_BF16,
                                          .copy = copy ? x->copy : NULL});
}

static ls_status sgd(ls_device *dev, const arrays *x, bool copy) {
    return dev->ops->sgd(dev, &(ls_sgd){.n = x->n,
                                        .lr = 1e-6,
                                        .momentum = 0.9,
                                        .nesterov = true,
                                        .weight_decay = 0.1,
                                        .grad_scale = 1.0,
                                        .p = x->p,
                                        .m = x->m,
                                        .grad = x->grad,
                                        .copy_dtype = LS_BF16,
                                        .copy = copy ? x->copy : NULL});
}

typedef struct update {
    const char *name;
    ls_status (*run)(ls_device *dev, const arrays *x, bool copy);
    double elem_bytes; /* without the copy */
} update;

static const update updates[] = {{"adamw", adamw, 28.0}, {"lion", lion, 20.0}, {"sgd", sgd, 20.0}};

/* v must not be negative: AdamW takes its root. */
static void fill(const arrays *x, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < x->n; i++) {
        x->p[i] = 0.02f;
        x->m[i] = 1e-3f;
        x->v[i] = 1e-5f;
        x->grad[i] = 1e-3f;
    }
}

static void measure(ls_device *dev, const update *u, const arrays *x, bool copy, double seconds) {
    double best = INFINITY, plain = INFINITY, streaming = INFINITY;
    const uint64_t end = ls_clock_ns() + (uint64_t)(seconds * 1e9);
    fill(x, dev->threads);
    do {
        uint64_t start = ls_clock_ns();
        triad(x, dev->threads);
        plain = fmin(plain, (double)(ls_clock_ns() - start));
        start = ls_clock_ns();
        triad_streaming(x, dev->threads);
        streaming = fmin(streaming, (double)(ls_clock_ns() - start));
        start = ls_clock_ns();
        check(u->run(dev, x, copy));
        check(dev->ops->sync(dev));
        best = fmin(best, (double)(ls_clock_ns() - start));
    } while (ls_clock_ns() < end);
    const double elems = (double)x->n, triad_rate = 12.0 * elems / fmin(plain, streaming);
    const double rate = (u->elem_bytes + (copy ? 2.0 : 0.0)) * elems / best;
    printf(
        "%-6s %-10s %8.2f ms  %7.2f GB/s  triad %7.2f GB/s (plain %.2f, streaming %.2f)  %4.0f%%\n",
        u->name, copy ? "bf16 copy" : "", best * 1e-6, rate, triad_rate, 12.0 * elems / plain,
        12.0 * elems / streaming, 100.0 * rate / triad_rate);
    fflush(stdout);
}

int main(int argc, char **argv) {
    arrays x = {.n = (int64_t)((argc > 1 ? atof(argv[1]) : 64.0) * 1048576.0) / 16 * 16};
    const double seconds = argc > 2 ? atof(argv[2]) : 2.0;
    const int threads = argc > 3 ? atoi(argv[3]) : 0;
    if (x.n < 16 || seconds < 0.0 || threads < 0) {
        fprintf(stderr, "usage: bench_optim [MELEMS [SECONDS [THREADS]]]\n");
        return 2;
    }
    ls_device *dev;
    check(ls_device_open_cpu(&(ls_device_options){.threads = threads}, &dev));
    float **const floats[] = {&x.p, &x.m, &x.v, &x.grad};
    for (int i = 0; i < 4; i++) {
        void *memory;
        check(dev->ops->alloc(dev, (size_t)x.n * sizeof(float), &memory));
        *floats[i] = memory;
        for (int64_t k = 0; k < x.n; k++) { /* zeros are moved faster than numbers */
            (*floats[i])[k] = 1.0F / (float)(1 + k % 7);
        }
    }
    void *copy;
    check(dev->ops->alloc(dev, (size_t)x.n * sizeof *x.copy, &copy));
    x.copy = copy;
    printf("%s, %.0f Mi elements\n", dev->describe, (double)x.n / 1048576.0);
    for (size_t i = 0; i < sizeof updates / sizeof *updates; i++) {
        measure(dev, &updates[i], &x, false, seconds);
        measure(dev, &updates[i], &x, true, seconds);
    }
    for (int i = 0; i < 4; i++) {
        dev->ops->free(dev, *floats[i]);
    }
    dev->ops->free(dev, x.copy);
    dev->ops->close(dev);
    return 0;
}
