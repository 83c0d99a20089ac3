/* Attention of the CPU device against the reference device: a shape's inputs, what the devices make
 * of them, and how close that must be. LOCKSTEP_ISA chooses the level. */
#ifndef LS_TESTS_ATTENTION_PROBLEM_H
#define LS_TESTS_ATTENTION_PROBLEM_H

#include "runtime/base/cpu.h"
#include "runtime/base/rng.h"
#include "runtime/device/device.h"
#include "tests/reference/reference.h"
#include "tests/test.h"

enum { MAX_THREADS = 3 };

typedef struct shape {
    int64_t batch, q_len, kv_len, heads, kv_heads, head_dim;
} shape;

/* A shape, its inputs in double (exact in dtype), and the layout of all buffers. With q_len ==
 * kv_len, q, k and v are columns of one matrix; else k and v are a cache with room to spare. `gap`
 * columns that belong to nobody end every row. */
typedef struct problem {
    ls_dtype dtype;
    shape s;
    bool fused, full;
    double scale;
    int64_t gap, q_stride, kv_stride, q_batch, kv_batch, o_stride;
    int64_t k_at, v_at; /* first element of k and v in the kv buffer */
    int64_t q_elems, kv_elems, o_elems, lse_elems;
    double *q, *kv, *dout; /* kv == q when fused */
    int32_t *first;        /* first_key; NULL: one document */
} problem;

/* What a device computed. Gradients only where fused. */
typedef struct results {
    ls_dtype dtype, acc;
    void *out, *lse, *grad;
} results;

static ls_device *reference, *cpu[MAX_THREADS + 1];

static inline void *take(int64_t count, size_t elem_bytes) {
    void *memory = calloc((size_t)count + 1, elem_bytes);
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

static inline double value(ls_dtype dtype, const void *x, int64_t i) {
    switch (dtype) {
    case LS_F64:
        return ((const double *)x)[i];
    case LS_F32:
        return (double)((const float *)x)[i];
    default:
        return (double)ls_bf16_to_f32(((const ls_bf16 *)x)[i]);
    }
}

static inline void put(ls_dtype dtype, void *x, int64_t i, double v) {
    switch (dtype) {
    case LS_F64:
        ((double *)x)[i] = v;
        break;
    case LS_F32:
        ((float *)x)[i] = (float)v;
        break;
    default:
        ((ls_bf16 *)x)[i] = ls_bf16_from_f32((float)v);
    }
}

static inline void *typed(ls_dtype dtype, const double *x, int64_t n) {
    void *y = take(n, ls_dtype_bytes(dtype));
    for (int64_t i = 0; i < n; i++) {
        put(dtype, y, i, x ? x[i] : (double)NAN);
    }
    return y;
}

static inline void fill(const problem *p, double *x, int64_t n, double deviation, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        char element[8];
        put(p->dtype, element, 0, deviation * ls_rng_normal(seed, 1, (uint64_t)i));
        x[i] = value(p->dtype, element, 0);
    }
}

static inline problem problem_create(ls_dtype dtype, shape s, uint64_t seed) {
    problem p = {.dtype = dtype, .s = s, .fused = s.q_len == s.kv_len, .gap = 3};
    const int64_t q_width = s.heads * s.head_dim, kv_width = s.kv_heads * s.head_dim;
    p.scale = 1.0 / sqrt((double)s.head_dim);
    p.o_stride = q_width + p.gap;
    if (p.fused) {
        p.q_stride = p.kv_stride = q_width + 2 * kv_width + p.gap;
        p.q_batch = p.kv_batch = s.q_len * p.q_stride;
        p.k_at = q_width;
    } else {
        p.q_stride = q_width + p.gap;
        p.q_batch = s.q_len * p.q_stride;
        p.kv_stride = 2 * kv_width + p.gap;
        p.kv_batch = (s.kv_len + 2) * p.kv_stride;
    }
    p.v_at = p.k_at + kv_width;
    p.q_elems = s.batch * p.q_batch;
    p.kv_elems = s.batch * p.kv_batch;
    p.o_elems = s.batch * s.q_len * p.o_stride;
    p.lse_elems = s.batch * s.heads * s.q_len;
    p.q = take(p.q_elems, sizeof(double));
    p.kv = p.fused ? p.q : take(p.kv_elems, sizeof(double));
    p.dout = take(p.o_elems, sizeof(double));
    fill(&p, p.q, p.q_elems, 1.5, seed);
    if (!p.fused) {
        fill(&p, p.kv, p.kv_elems, 1.5, seed + 1);
    }
    fill(&p, p.dout, p.o_elems, 1.0, seed + 2);
    return p;
}

static inline void problem_release(problem *p) {
    if (!p->fused) {
        free(p->kv);
    }
    free(p->q);
    free(p->dout);
    free(p->first);
}

/* Documents of 1 to 2 length - 1 tokens, of each sequence others. */
static inline void problem_divide(problem *p, int64_t length, uint64_t seed) {
    p->first = take(p->s.batch * p->s.q_len, sizeof *p->first);
    for (int64_t b = 0; b < p->s.batch; b++) {
        int64_t begin = 0, end = 0;
        for (int64_t t = 0; t < p->s.q_len; t++) {
            if (t == end) {
                const uint64_t draw = ls_rng_draw(seed, 5, (uint64_t)(b * p->s.q_len + t)).v[0];
                begin = t;
                end = t + 1 + (int64_t)(draw % (uint64_t)(2 * length - 1));
            }
            p->first[b * p->s.q_len + t] = (int32_t)begin;
        }
    }
}

static inline ls_attention operation(const problem *p, ls_dtype dtype) {
    return (ls_attention){.dtype = dtype,
                          .batch = p->s.batch,
                          .q_len = p->s.q_len,
                          .kv_len = p->s.kv_len,
                          .heads = p->s.heads,
                          .kv_heads = p->s.kv_heads,
                          .head_dim = p->s.head_dim,
                          .scale = p->scale,
                          .q_stride = p->q_stride,
                          .kv_stride = p->kv_stride,
                          .q_batch = p->q_batch,
                          .kv_batch = p->kv_batch,
                          .o_stride = p->o_stride,
                          .first_key = p->first,
                          .full = p->full};
}

static inline char *at(void *base, ls_dtype dtype, int64_t elems) {
    return (char *)base + elems * (int64_t)ls_dtype_bytes(dtype);
}

/* NaN everywhere. */
static inline results results_create(const ls_device *dev, const problem *p) {
    const ls_dtype dtype = dev->acc == LS_F64 ? LS_F64 : p->dtype;
    return (results){.dtype = dtype,
                     .acc = dev->acc,
                     .out = typed(dtype, NULL, p->o_elems),
                     .lse = typed(dev->acc, NULL, p->lse_elems),
                     .grad = typed(dtype, NULL, p->q_elems)};
}

/* Forward, then backward where q_len == kv_len; outputs start as NaN. */
static inline results run(ls_device *dev, const problem *p) {
    const ls_dtype dtype = dev->acc == LS_F64 ? LS_F64 : p->dtype;
    results r = results_create(dev, p);
    void *q = typed(dtype, p->q, p->q_elems);
    void *kv = p->fused ? q : typed(dtype, p->kv, p->kv_elems);
    void *dout = typed(dtype, p->dout, p->o_elems);
    ls_attention op = operation(p, dtype);
    op.q = q;
    op.k = at(kv, dtype, p->k_at);
    op.v = at(kv, dtype, p->v_at);
    op.out = r.out;
    op.lse = r.lse;
    CHECK_OK(dev->ops->attention_forward(dev, &op));
    if (p->fused) {
        op.dout = dout;
        op.dq = r.grad;
        op.dk = at(r.grad, dtype, p->k_at);
        op.dv = at(r.grad, dtype, p->v_at);
        CHECK_OK(dev->ops->attention_backward(dev, &op));
    }
    if (!p->fused) {
        free(kv);
    }
    free(q);
    free(dout);
    return r;
}

static inline void results_release(results *r) {
    free(r->out);
    free(r->lse);
    free(r->grad);
}

/* Rows of `stride` elements with `gap` at the end that must still be NaN; the others lie within
 * tolerance * (largest expected element of the row's matrix + |expected|), NaN where expected. */
static inline void compare(const char *what, const problem *p, int64_t n, int64_t stride,
                           ls_dtype dtype, const void *found, const double *expected,
                           double tolerance) {
    const int64_t gap = stride > 1 ? p->gap : 0;
    double largest = 0.0, worst = 0.0;
    int64_t worst_at = -1;
    for (int64_t i = 0; i < n; i++) {
        if (i % stride < stride - gap && fabs(expected[i]) < INFINITY) {
            largest = fmax(largest, fabs(expected[i]));
        }
    }
    for (int64_t i = 0; i < n; i++) {
        const double f = value(dtype, found, i), e = expected[i];
        double error = fabs(f - e) / (largest + fabs(e) + 1e-30);
        if (i % stride >= stride - gap) {
            error = isnan(f) ? 0.0 : INFINITY;
        } else if (isnan(f) || isnan(e)) {
            error = isnan(f) && isnan(e) ? 0.0 : INFINITY;
        } else if (f == e) {
            error = 0.0;
        }
        if (!(error <= worst)) {
            worst = error;
            worst_at = i;
        }
    }
    test_checks++;
    if (!(worst <= tolerance)) {
        const shape *s = &p->s;
        TEST_FAIL_(
            "%s %s batch %lld q %lld kv %lld heads %lld/%lld dim %lld: element %lld is %.9g, "
            "expected %.9g (error %.3g, allowed %.3g)",
            what, ls_dtype_name(p->dtype), (long long)s->batch, (long long)s->q_len,
            (long long)s->kv_len, (long long)s->heads, (long long)s->kv_heads,
            (long long)s->head_dim, (long long)worst_at, value(dtype, found, worst_at),
            expected[worst_at], worst, tolerance);
    }
    if (getenv("LS_TEST_VERBOSE")) {
        printf("%-5s %s worst error %.3g\n", what, ls_dtype_name(p->dtype), worst);
    }
}

/* Errors are relative to the largest element of the matrix. fp32: sums of up to 200 terms and
 * probabilities within a few 2^-24. bf16: the result is rounded to 2^-9, and backward reads an out
 * that was. `loss` widens both where scores are large. */
static inline void check_case(const problem *p, double loss) {
    results expected = run(reference, p), found = run(cpu[1], p);
    const double tolerance = loss * (p->dtype == LS_F32 ? 4e-6 : 8e-3);
    compare("out", p, p->o_elems, p->o_stride, p->dtype, found.out, expected.out, tolerance);
    compare("lse", p, p->lse_elems, 1, LS_F32, found.lse, expected.lse, 1e-6);
    if (p->fused) {
        compare("grad", p, p->q_elems, p->q_stride, p->dtype, found.grad, expected.grad, tolerance);
    }
#ifdef __SANITIZE_ADDRESS__ /* that they touch other memory is what is asked there */
    static int turn;
    const int first = 2 + turn++ % (MAX_THREADS - 1), last = first;
#else
    const int first = 1, last = MAX_THREADS;
#endif
    for (int threads = first; threads <= last; threads++) {
        results again = run(cpu[threads], p);
        const size_t bytes = ls_dtype_bytes(p->dtype);
        CHECK(memcmp(again.out, found.out, (size_t)p->o_elems * bytes) == 0);
        CHECK(memcmp(again.lse, found.lse, (size_t)p->lse_elems * sizeof(float)) == 0);
        CHECK(memcmp(again.grad, found.grad, (size_t)p->q_elems * bytes) == 0);
        results_release(&again);
    }
    results_release(&expected);
    results_release(&found);
}

/* Of tables every so-many-th line is run: LS_TEST_SHARE, where an instruction takes a signal
 * (tests/amx) or the processor is emulated. Then float32 is left out at levels whose own kernels
 * are those of bf16. */
static uint64_t share = 1;
static bool has_f32 = true;

static inline void check_shape(shape s, uint64_t seed) {
    for (int i = has_f32 ? 0 : 1; i < 2 && seed % share == 0; i++) {
        problem p = problem_create(i == 0 ? LS_F32 : LS_BF16, s, seed);
        check_case(&p, 1.0);
        problem_release(&p);
    }
}
static const char *const which[] = {"q", "k", "v", "dout"};

/* Sets element 1 of a row of q, k or v (fused) or of dout. */
static inline void spoil(problem *p, const char *of, int64_t token, double bad) {
    const int64_t row = token * p->q_stride + 1, head = p->s.head_dim;
    if (!strcmp(of, "q")) {
        p->q[row + head] = bad;
    } else if (!strcmp(of, "k")) {
        p->q[row + p->k_at] = bad;
    } else if (!strcmp(of, "v")) {
        p->q[row + p->v_at + head] = bad;
    } else {
        p->dout[token * p->o_stride + 1 + 2 * head] = bad;
    }
}

/* False: the test is skipped. */
static inline bool devices_open(void) {
    ls_isa isa;
    if (ls_cpu_isa(&isa) != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        return false;
    }
    const char *part = getenv("LS_TEST_SHARE");
    share = part && !getenv("LOCKSTEP_TEST_ALL") ? strtoull(part, NULL, 10) : 1;
    CHECK(share > 0);
    has_f32 = share == 1 || !ls_isa_has_fast_bf16(isa);
    CHECK_OK(ls_device_open_reference(NULL, &reference));
    for (int threads = 1; threads <= MAX_THREADS; threads++) {
        CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = threads}, &cpu[threads]));
    }
    if (test_failures) {
        exit(1);
    }
    return true;
}

static inline void devices_close(void) {
    for (int threads = 1; threads <= MAX_THREADS; threads++) {
        cpu[threads]->ops->close(cpu[threads]);
    }
    reference->ops->close(reference);
}

#endif
