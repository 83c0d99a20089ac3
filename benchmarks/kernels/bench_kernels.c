/* The rate at which each memory-bound operation moves its data, beside memcpy in the same run.
 *
 *   bench_kernels [THREADS [SECONDS]]    (0 threads: all processors; seconds per measurement)
 *
 * Shapes are those of a GPT-2 124M step with 4 sequences of 1024 tokens. Bytes are what the
 * operation must move: inputs read once, outputs written once, what is changed in place both.
 * memcpy reads and writes 128 MiB, each thread its part, and takes turns with the operation; rates
 * are of the fastest repetition. An operation whose data fit a cache can be faster than memcpy. */
#include "runtime/base/clock.h"
#include "tests/device/kernel_ops.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

static const kt_case cases[] = {
    {&kt_norm_forward, {4096, 768, LS_LAYERNORM}},
    {&kt_norm_backward, {4096, 768, LS_LAYERNORM, 1}},
    {&kt_norm_forward, {4096, 768, LS_RMSNORM}},
    {&kt_norm_backward, {4096, 768, LS_RMSNORM, 1}},
    {&kt_rope, {4096, 1024, 0, 12, 64, 0, 0}},
    {&kt_gelu_forward, {4096 * 3072}},
    {&kt_gelu_backward, {4096 * 3072}},
    {&kt_swiglu_forward, {4096, 2048}},
    {&kt_swiglu_backward, {4096, 2048}},
    {&kt_embedding_forward, {4096, 1024, 768, 50257, 0, 1}},
    {&kt_embedding_backward, {4096, 1024, 768, 50257, 0, 1}},
    {&kt_bias_grad, {4096, 3072}},
    {&kt_cross_entropy, {512, 50257, 50304, 1}},
    {&kt_adamw, {16 << 20, 10, 1}},
    {&kt_add, {4096 * 3072}},
    {&kt_cast, {16 << 20}},
    {&kt_sum_squares, {16 << 20}},
};

enum { COPY_BYTES = 128 << 20 };

typedef struct copy_buffers {
    char *from, *to;
} copy_buffers;

static void check(ls_status status) {
    if (status != LS_OK) {
        fprintf(stderr, "bench_kernels: %s\n", ls_error_last()->message);
        exit(ls_status_exit(status));
    }
}

static void copy(const ls_device *dev, const copy_buffers *buffers) {
#pragma omp parallel num_threads(dev->threads)
    {
        const size_t part = COPY_BYTES / (size_t)omp_get_num_threads();
        const size_t begin = part * (size_t)omp_get_thread_num();
        memcpy(buffers->to + begin, buffers->from + begin, part);
    }
}

/* Bytes that the operation must move; of an embedding table only the rows that tokens name. */
static double bytes_of(const kt_case *c, const kt_instance *in) {
    double bytes = 0.0;
    for (int b = 0; b < in->count; b++) {
        const kt_buffer *buffer = &in->buffer[b];
        int64_t elems = buffer->elems;
        if (strstr(buffer->name, "wte") && elems > c->dim[0] * c->dim[2]) {
            elems = c->dim[0] * c->dim[2];
        }
        bytes += (double)elems * (double)ls_dtype_bytes(buffer->dtype) *
                 (buffer->use == KT_INOUT ? 2.0 : 1.0);
    }
    return bytes;
}

static void measure(ls_device *dev, const kt_case *c, ls_dtype dtype, const copy_buffers *buffers,
                    double seconds) {
    kt_buffer like[KT_BUFFERS_MAX] = {0};
    kt_instance in;
    c->op->plan(c, dtype, dev->acc, like);
    check(kt_instance_init(dev, c, dtype, 0, like, &in));
    double best_ns = INFINITY, copy_ns = INFINITY;
    const uint64_t end = ls_clock_ns() + (uint64_t)(seconds * 1e9);
    do {
        uint64_t start = ls_clock_ns();
        copy(dev, buffers);
        copy_ns = fmin(copy_ns, (double)(ls_clock_ns() - start));
        start = ls_clock_ns();
        check(c->op->run(dev, c, dtype, in.at));
        check(dev->ops->sync(dev));
        best_ns = fmin(best_ns, (double)(ls_clock_ns() - start));
    } while (ls_clock_ns() < end);
    const double rate = bytes_of(c, &in) / best_ns, copy_rate = 2.0 * COPY_BYTES / copy_ns;
    printf("%-18s %-8s  %9.3f ms  %7.2f GB/s  memcpy %7.2f GB/s  %4.0f%%\n", c->op->name,
           ls_dtype_name(dtype), best_ns * 1e-6, rate, copy_rate, 100.0 * rate / copy_rate);
    fflush(stdout);
    kt_instance_release(dev, &in);
}

int main(int argc, char **argv) {
    const int threads = argc > 1 ? atoi(argv[1]) : 0;
    const double seconds = argc > 2 ? atof(argv[2]) : 1.0;
    ls_device *dev;
    check(kt_open("cpu", threads, &dev));
    printf("%s\n", dev->describe);
    void *from, *to;
    check(dev->ops->alloc(dev, COPY_BYTES, &from));
    check(dev->ops->alloc(dev, COPY_BYTES, &to));
    memset(from, 0x3f, COPY_BYTES); /* zeros are moved faster than numbers */
    const copy_buffers buffers = {from, to};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        measure(dev, &cases[c], LS_F32, &buffers, seconds);
        measure(dev, &cases[c], LS_BF16, &buffers, seconds);
    }
    dev->ops->free(dev, from);
    dev->ops->free(dev, to);
    dev->ops->close(dev);
    return 0;
}
