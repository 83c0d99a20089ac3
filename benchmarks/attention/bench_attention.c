/* Rates of causal attention on the CPU device, beside oneDNN's sgemm in the same run.
 *
 *   bench_attention [THREADS [SECONDS]]       (0 threads: all processors; seconds per measurement)
 *
 * Operations counted: of what rows see. Forward 2 products of 2 B H D T(T+1)/2 operations each,
 * backward 5; of documents of T tokens, T / length times as many as of one of them. The rates are
 * those of the fastest of the repetitions; sgemm and attention take turns, so that both meet the
 * same machine. For one query per sequence (generation) the figure is the rate at which keys and
 * values are read. */
#include "runtime/base/clock.h"
#include "runtime/base/rng.h"
#include "runtime/device/device.h"

#include <dnnl.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct bench_case {
    const char *name;
    ls_dtype dtype;
    int64_t batch, heads, kv_heads, head_dim, q_len, kv_len;
    int64_t document; /* tokens of each in a sequence; 0: one document */
} bench_case;

static const bench_case cases[] = {
    {"GPT-2", LS_F32, 4, 12, 12, 64, 256, 256, 0},
    {"GPT-2", LS_F32, 4, 12, 12, 64, 512, 512, 0},
    {"GPT-2", LS_F32, 4, 12, 12, 64, 1024, 1024, 0},
    {"GPT-2", LS_F32, 4, 12, 12, 64, 2048, 2048, 0},
    {"GPT-2", LS_F32, 4, 12, 12, 64, 4096, 4096, 0},
    {"GPT-2", LS_BF16, 4, 12, 12, 64, 1024, 1024, 0},
    {"grouped", LS_F32, 1, 16, 4, 128, 1024, 1024, 0},
    {"grouped", LS_BF16, 1, 16, 4, 128, 1024, 1024, 0},
    {"grouped", LS_F32, 1, 16, 4, 128, 4096, 4096, 0},
    {"D=96", LS_F32, 1, 12, 12, 96, 1024, 1024, 0},
    {"long", LS_BF16, 1, 12, 12, 64, 4096, 4096, 0},
    {"documents", LS_BF16, 1, 12, 12, 64, 4096, 4096, 512},
    {"D=80", LS_F32, 1, 12, 12, 80, 1024, 1024, 0},
    {"1 head", LS_F32, 1, 1, 1, 64, 4096, 4096, 0},
    {"generate", LS_F32, 4, 12, 12, 64, 1, 4096, 0},
    {"generate", LS_F32, 1, 32, 8, 128, 1, 4096, 0},
    {"generate", LS_BF16, 1, 32, 8, 128, 1, 4096, 0},
};

enum { GEMM_SIZE = 1536 };

typedef struct bench {
    ls_device *dev;
    ls_attention op;
    float *a, *b, *c; /* sgemm's */
} bench;

static void check(ls_status status) {
    if (status != LS_OK) {
        fprintf(stderr, "bench_attention: %s\n", ls_error_last()->message);
        exit(ls_status_exit(status));
    }
}

static void *random_matrix(ls_device *dev, ls_dtype dtype, int64_t n, uint64_t seed) {
    void *memory;
    check(dev->ops->alloc(dev, (size_t)n * ls_dtype_bytes(dtype), &memory));
    for (int64_t i = 0; i < n; i++) {
        const float x = (float)ls_rng_uniform(seed, 0, (uint64_t)i) - 0.5f;
        if (dtype == LS_BF16) {
            ((ls_bf16 *)memory)[i] = ls_bf16_from_f32(x);
        } else {
            ((float *)memory)[i] = x;
        }
    }
    return memory;
}

static void forward(bench *b) {
    check(b->dev->ops->attention_forward(b->dev, &b->op));
}

static void backward(bench *b) {
    check(b->dev->ops->attention_backward(b->dev, &b->op));
}

static void sgemm(bench *b) {
    const dnnl_dim_t n = GEMM_SIZE;
    omp_set_num_threads(b->dev->threads);
    if (dnnl_sgemm('N', 'N', n, n, n, 1.0f, b->a, n, b->b, n, 0.0f, b->c, n) != dnnl_success) {
        fprintf(stderr, "bench_attention: sgemm failed\n");
        exit(3);
    }
}

static double seconds_of(bench *b, void (*work)(bench *)) {
    const uint64_t start = ls_clock_ns();
    work(b);
    return 1e-9 * (double)(ls_clock_ns() - start);
}

/* Fastest of at least three turns of each, for about `budget_s`. backward_s is 0 for generation. */
static void measure(bench *b, double budget_s, double *forward_s, double *backward_s,
                    double *sgemm_s) {
    const bool whole = b->op.q_len == b->op.kv_len;
    const uint64_t start = ls_clock_ns();
    *forward_s = *sgemm_s = INFINITY;
    *backward_s = whole ? INFINITY : 0.0;
    for (int turn = 0; turn < 3 || 1e-9 * (double)(ls_clock_ns() - start) < budget_s; turn++) {
        *sgemm_s = fmin(*sgemm_s, seconds_of(b, sgemm));
        *forward_s = fmin(*forward_s, seconds_of(b, forward));
        if (whole) {
            *backward_s = fmin(*backward_s, seconds_of(b, backward));
        }
    }
}

static void report(const bench_case *c, double forward_s, double backward_s, double sgemm_s) {
    const double gemm_size = GEMM_SIZE;
    const double sgemm_rate = 2.0 * gemm_size * gemm_size * gemm_size / sgemm_s;
    printf("%-9s %-8s %2lld x %2lld/%-2lld D %-3lld", c->name, ls_dtype_name(c->dtype),
           (long long)c->batch, (long long)c->heads, (long long)c->kv_heads,
           (long long)c->head_dim);
    if (c->q_len == c->kv_len) {
        const int64_t length = c->document > 0 ? c->document : c->q_len;
        const double product =
            (double)(c->batch * c->heads * c->head_dim) * (double)c->q_len * (double)(length + 1);
        const double forward_rate = 2.0 * product / forward_s;
        const double backward_rate = 5.0 * product / backward_s;
        printf(" T %-5lld %9.2f %7.1f %4.0f%% %9.2f %7.1f %4.0f%% %8.1f\n", (long long)c->q_len,
               1e3 * forward_s, 1e-9 * forward_rate, 100.0 * forward_rate / sgemm_rate,
               1e3 * backward_s, 1e-9 * backward_rate, 100.0 * backward_rate / sgemm_rate,
               1e-9 * sgemm_rate);
    } else {
        const double bytes = 2.0 * (double)(c->batch * c->kv_heads * c->head_dim * c->kv_len) *
                             (double)ls_dtype_bytes(c->dtype);
        printf(" keys %-5lld %6.2f ms, %.1f GB/s of keys and values\n", (long long)c->kv_len,
               1e3 * forward_s, 1e-9 * bytes / forward_s);
    }
    fflush(stdout);
}

static void run_case(bench *b, const bench_case *c, double budget_s) {
    ls_device *dev = b->dev;
    const bool whole = c->q_len == c->kv_len;
    const int64_t q_width = c->heads * c->head_dim, kv_width = c->kv_heads * c->head_dim;
    const int64_t width = q_width + 2 * kv_width, rows = c->batch * c->kv_len;
    const int64_t bytes = (int64_t)ls_dtype_bytes(c->dtype);
    char *qkv = random_matrix(dev, c->dtype, rows * width, 1);
    char *dqkv = random_matrix(dev, c->dtype, rows * width, 2);
    void *out = random_matrix(dev, c->dtype, rows * q_width, 3);
    void *dout = random_matrix(dev, c->dtype, rows * q_width, 4);
    void *lse = random_matrix(dev, LS_F32, rows * c->heads, 5);
    int32_t *first_key = random_matrix(dev, LS_F32, rows, 6);
    for (int64_t t = 0; c->document > 0 && t < rows; t++) {
        first_key[t] = (int32_t)(t % c->kv_len / c->document * c->document);
    }
    b->op = (ls_attention){.dtype = c->dtype,
                           .batch = c->batch,
                           .q_len = c->q_len,
                           .kv_len = c->kv_len,
                           .heads = c->heads,
                           .kv_heads = c->kv_heads,
                           .head_dim = c->head_dim,
                           .scale = 1.0 / sqrt((double)c->head_dim),
                           .out = out,
                           .o_stride = q_width,
                           .lse = lse,
                           .first_key = c->document > 0 ? first_key : NULL,
                           .dout = dout};
    if (whole) { /* columns of one matrix, as in training */
        b->op.q = qkv;
        b->op.k = qkv + q_width * bytes;
        b->op.v = qkv + (q_width + kv_width) * bytes;
        b->op.q_stride = b->op.kv_stride = width;
        b->op.q_batch = b->op.kv_batch = c->kv_len * width;
        b->op.dq = dqkv;
        b->op.dk = dqkv + q_width * bytes;
        b->op.dv = dqkv + (q_width + kv_width) * bytes;
    } else { /* a cache of keys and one of values */
        b->op.q = dqkv;
        b->op.k = qkv;
        b->op.v = qkv + rows * kv_width * bytes;
        b->op.q_stride = b->op.q_batch = q_width;
        b->op.kv_stride = kv_width;
        b->op.kv_batch = c->kv_len * kv_width;
    }
    double forward_s, backward_s, sgemm_s;
    measure(b, budget_s, &forward_s, &backward_s, &sgemm_s);
    report(c, forward_s, whole ? backward_s : 0.0, sgemm_s);
    dev->ops->free(dev, qkv);
    dev->ops->free(dev, dqkv);
    dev->ops->free(dev, out);
    dev->ops->free(dev, dout);
    dev->ops->free(dev, lse);
    dev->ops->free(dev, first_key);
}

int main(int argc, char **argv) {
    const ls_device_options options = {.threads = argc > 1 ? atoi(argv[1]) : 0};
    const double budget_s = argc > 2 ? atof(argv[2]) : 1.0;
    bench b = {0};
    check(ls_device_open_cpu(&options, &b.dev));
    const int64_t n = (int64_t)GEMM_SIZE * GEMM_SIZE;
    b.a = random_matrix(b.dev, LS_F32, n, 6);
    b.b = random_matrix(b.dev, LS_F32, n, 7);
    b.c = random_matrix(b.dev, LS_F32, n, 8);
    printf("%s\n", b.dev->describe);
    printf("%-44s %9s %7s %5s %9s %7s %5s %8s\n", "batch x heads/kv heads", "fwd ms", "GFLOP/s",
           "sgemm", "bwd ms", "GFLOP/s", "sgemm", "sgemm");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run_case(&b, &cases[i], budget_s);
    }
    b.dev->ops->free(b.dev, b.a);
    b.dev->ops->free(b.dev, b.b);
    b.dev->ops->free(b.dev, b.c);
    b.dev->ops->close(b.dev);
    return 0;
}
