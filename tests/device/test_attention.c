/* Attention of the CPU device against the reference device: shapes, strides, dtypes, extreme
 * scores, what a NaN may reach, and the same bits for any number of threads. LOCKSTEP_ISA chooses
 * the level. */
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
    bool fused;
    double scale;
    int64_t gap, q_stride, kv_stride, q_batch, kv_batch, o_stride;
    int64_t k_at, v_at; /* first element of k and v in the kv buffer */
    int64_t q_elems, kv_elems, o_elems, lse_elems;
    double *q, *kv, *dout; /* kv == q when fused */
} problem;

/* What a device computed. Gradients only where fused. */
typedef struct results {
    ls_dtype dtype, acc;
    void *out, *lse, *grad;
} results;

static ls_device *reference, *cpu[MAX_THREADS + 1];

static void *take(int64_t count, size_t elem_bytes) {
    void *memory = calloc((size_t)count + 1, elem_bytes);
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

static double value(ls_dtype dtype, const void *x, int64_t i) {
    switch (dtype) {
    case LS_F64:
        return ((const double *)x)[i];
    case LS_F32:
        return (double)((const float *)x)[i];
    default:
        return (double)ls_bf16_to_f32(((const ls_bf16 *)x)[i]);
    }
}

static void put(ls_dtype dtype, void *x, int64_t i, double v) {
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

static void *typed(ls_dtype dtype, const double *x, int64_t n) {
    void *y = take(n, ls_dtype_bytes(dtype));
    for (int64_t i = 0; i < n; i++) {
        put(dtype, y, i, x ? x[i] : (double)NAN);
    }
    return y;
}

static void fill(const problem *p, double *x, int64_t n, double deviation, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        char element[8];
        put(p->dtype, element, 0, deviation * ls_rng_normal(seed, 1, (uint64_t)i));
        x[i] = value(p->dtype, element, 0);
    }
}

static problem problem_create(ls_dtype dtype, shape s, uint64_t seed) {
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

static void problem_release(problem *p) {
    if (!p->fused) {
        free(p->kv);
    }
    free(p->q);
    free(p->dout);
}

static ls_attention operation(const problem *p, ls_dtype dtype) {
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
                          .o_stride = p->o_stride};
}

static char *at(void *base, ls_dtype dtype, int64_t elems) {
    return (char *)base + elems * (int64_t)ls_dtype_bytes(dtype);
}

/* Forward, then backward where q_len == kv_len; outputs start as NaN. */
static results run(ls_device *dev, const problem *p) {
    const ls_dtype dtype = dev->acc == LS_F64 ? LS_F64 : p->dtype;
    results r = {.dtype = dtype,
                 .acc = dev->acc,
                 .out = typed(dtype, NULL, p->o_elems),
                 .lse = typed(dev->acc, NULL, p->lse_elems),
                 .grad = typed(dtype, NULL, p->q_elems)};
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

static void results_release(results *r) {
    free(r->out);
    free(r->lse);
    free(r->grad);
}

/* Rows of `stride` elements with `gap` at the end that must still be NaN; the others lie within
 * tolerance * (largest expected element of the row's matrix + |expected|), NaN where expected. */
static void compare(const char *what, const problem *p, int64_t n, int64_t stride, ls_dtype dtype,
                    const void *found, const double *expected, double tolerance) {
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
static void check_case(const problem *p, double loss) {
    results expected = run(reference, p), found = run(cpu[1], p);
    const double tolerance = loss * (p->dtype == LS_F32 ? 4e-6 : 8e-3);
    compare("out", p, p->o_elems, p->o_stride, p->dtype, found.out, expected.out, tolerance);
    compare("lse", p, p->lse_elems, 1, LS_F32, found.lse, expected.lse, 1e-6);
    if (p->fused) {
        compare("grad", p, p->q_elems, p->q_stride, p->dtype, found.grad, expected.grad, tolerance);
    }
    for (int threads = 1; threads <= MAX_THREADS; threads++) {
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

static void check_shape(shape s, uint64_t seed) {
    for (int i = has_f32 ? 0 : 1; i < 2 && seed % share == 0; i++) {
        problem p = problem_create(i == 0 ? LS_F32 : LS_BF16, s, seed);
        check_case(&p, 1.0);
        problem_release(&p);
    }
}

static void test_shapes(void) {
    static const int64_t lengths[] = {1, 2, 63, 65, 127, 200};
    static const int64_t head_dims[] = {1, 3, 16, 64, 80, 96, 128};
    static const int64_t groups[] = {1, 2, 4, 7};
    uint64_t seed = 0;
    for (int l = 0; l < 6; l++) {
        for (int d = 0; d < 7; d++) {
            const int64_t group = groups[(l + d) % 4], kv_heads = 1 + (l + 2 * d) % 2;
            check_shape((shape){1 + d % 2, lengths[l], lengths[l], group * kv_heads, kv_heads,
                                head_dims[d]},
                        ++seed);
        }
    }
    check_shape((shape){1, 300, 300, 1, 1, 256}, ++seed);
    check_shape((shape){1, 40, 40, 2, 1, 300}, ++seed);
    check_shape((shape){1, 370, 370, 1, 1, 2048}, ++seed); /* more keys than a thread keeps */
}

/* Generation: a few queries at the end of a longer cache. */
static void test_cache(void) {
    static const shape shapes[] = {{1, 1, 2, 1, 1, 64},    {2, 1, 200, 4, 4, 64},
                                   {3, 1, 333, 14, 2, 80}, {1, 5, 64, 6, 2, 96},
                                   {2, 33, 129, 4, 1, 3},  {1, 64, 65, 2, 2, 128},
                                   {1, 1, 1000, 3, 3, 16}, {1, 199, 200, 7, 1, 16},
                                   {1, 1, 70, 4, 1, 1},    {2, 1, 9, 6, 2, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_shape(shapes[i], 1000 + 10 * i);
    }
}

static void test_random_shapes(void) {
    for (uint64_t i = 0; i < 40; i++) {
        uint64_t draw[6];
        for (uint64_t j = 0; j < 6; j++) {
            draw[j] = ls_rng_draw(77, j, i).v[0];
        }
        shape s = {.batch = 1 + (int64_t)(draw[0] % 3),
                   .q_len = 1 + (int64_t)(draw[1] % 120),
                   .kv_heads = 1 + (int64_t)(draw[2] % 3),
                   .head_dim = 1 + (int64_t)(draw[3] % 140)};
        s.heads = s.kv_heads * (1 + (int64_t)(draw[4] % 5));
        s.kv_len = s.q_len + (i % 2 ? (int64_t)(draw[5] % 90) : 0);
        check_shape(s, 2000 + i);
    }
}

/* Scores of +-1e4: one key takes all, or nearly; fp32 scores are then good to 1e-3, so are the
 * probabilities. And scores that are all equal, large or small. */
static void test_extreme_scores(void) {
    if (!has_f32) {
        return;
    }
    const shape s = {1, 130, 130, 4, 2, 64};
    problem p = problem_create(LS_F32, s, 3000);
    p.scale = 1e3;
    check_case(&p, 1000.0);
    for (int64_t i = 0; i < p.q_elems; i++) {
        const int64_t column = i % p.q_stride;
        if (column < p.v_at) {
            p.q[i] = column < p.k_at ? 1.0 : -12.5;
        }
    }
    for (int sign = 0; sign < 3; sign++) {
        p.scale = sign == 0 ? 0.0 : sign == 1 ? 12.5 : -12.5; /* scores 0, -1e4, 1e4 */
        check_case(&p, sign == 0 ? 1.0 : 1000.0);             /* lse itself is rounded to 1e-3 */
    }
    problem_release(&p);
}

/* Sets element 1 of a row of q, k or v (fused) or of dout. */
static void spoil(problem *p, const char *which, int64_t token, double bad) {
    const int64_t row = token * p->q_stride + 1, head = p->s.head_dim;
    if (!strcmp(which, "q")) {
        p->q[row + head] = bad;
    } else if (!strcmp(which, "k")) {
        p->q[row + p->k_at] = bad;
    } else if (!strcmp(which, "v")) {
        p->q[row + p->v_at + head] = bad;
    } else {
        p->dout[token * p->o_stride + 1 + 2 * head] = bad;
    }
}

/* A NaN or an infinity reaches what it reaches in the reference, and nothing else. (A row that sees
 * only scores of -inf has lse log 0 here and NaN there: token 0 gets a NaN.) */
static void test_not_finite(void) {
    static const char *const which[] = {"q", "k", "v", "dout"};
    static const int64_t tokens[] = {70, 0, 100, 129};
    for (int i = has_f32 ? 0 : 16; i < 32; i += (int)share) {
        const ls_dtype dtype = i < 16 ? LS_F32 : LS_BF16;
        problem p = problem_create(dtype, (shape){1, 130, 130, 4, 2, 16}, 4000);
        spoil(&p, which[i / 4 % 4], tokens[i % 4], i % 2 ? (double)NAN : (double)INFINITY);
        check_case(&p, 1.0);
        problem_release(&p);
    }
}

static void test_refused(void) {
    problem p = problem_create(LS_F32, (shape){1, 4, 8, 4, 2, 8}, 5000);
    ls_device *dev = cpu[1];
    const ls_attention good = operation(&p, LS_F32);
    ls_attention op = good;
    op.kv_heads = 3;
    CHECK_STATUS(dev->ops->attention_forward(dev, &op), LS_E_SHAPE);
    CHECK_MESSAGE("4 heads");
    op = good;
    op.q_len = 9;
    CHECK_STATUS(dev->ops->attention_forward(dev, &op), LS_E_SHAPE);
    op = good;
    op.dtype = LS_F16;
    CHECK_STATUS(dev->ops->attention_forward(dev, &op), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("float16");
    op = good;
    op.kv_len = (int64_t)1 << 40;
    CHECK_STATUS(dev->ops->attention_forward(dev, &op), LS_E_UNSUPPORTED);
    op = good;
    op.merge = true;
    CHECK_STATUS(dev->ops->attention_backward(dev, &op), LS_E_SHAPE);
    op = good;
    op.add = true;
    CHECK_STATUS(dev->ops->attention_forward(dev, &op), LS_E_SHAPE);
    CHECK_MESSAGE("merge is for forward");
    op = good; /* nothing to do: no pointer is looked at */
    op.batch = 0;
    CHECK_OK(dev->ops->attention_forward(dev, &op));
    op = good;
    op.q_len = op.kv_len = 0;
    CHECK_OK(dev->ops->attention_forward(dev, &op));
    CHECK_OK(dev->ops->attention_backward(dev, &op));
    problem_release(&p);
}

/* Rows [rows.first, rows.end) and keys likewise, of a fused problem. */
typedef struct span {
    int64_t first, end;
} span;

static ls_attention part_of(const problem *p, const ls_attention *whole, span rows, span keys) {
    ls_attention op = *whole;
    const ls_dtype dtype = op.dtype, acc = dtype == LS_F64 ? LS_F64 : LS_F32;
    const int64_t q = rows.first * p->q_stride, k = keys.first * p->kv_stride;
    op.q_len = rows.end - rows.first;
    op.kv_len = keys.end - keys.first;
    op.full = keys.end <= rows.first;
    op.o_batch = p->s.q_len * p->o_stride;
    op.lse_row = p->s.q_len;
    op.q = at((void *)(uintptr_t)op.q, dtype, q);
    op.k = at((void *)(uintptr_t)op.k, dtype, k);
    op.v = at((void *)(uintptr_t)op.v, dtype, k);
    op.out = at(op.out, dtype, rows.first * p->o_stride);
    op.dout = at((void *)(uintptr_t)op.dout, dtype, rows.first * p->o_stride);
    op.lse = at(op.lse, acc, rows.first);
    op.dq = at(op.dq, dtype, q);
    op.dk = at(op.dk, dtype, k);
    op.dv = at(op.dv, dtype, k);
    return op;
}

/* As run, by chunks [cut[i], cut[i + 1]) of rows against those of keys: what lies before a chunk it
 * sees whole. */
static results run_parts(ls_device *dev, const problem *p, const int64_t *cut, int chunks) {
    const ls_dtype dtype = dev->acc == LS_F64 ? LS_F64 : p->dtype;
    results r = {.dtype = dtype,
                 .acc = dev->acc,
                 .out = typed(dtype, NULL, p->o_elems),
                 .lse = typed(dev->acc, NULL, p->lse_elems),
                 .grad = typed(dtype, NULL, p->q_elems)};
    void *q = typed(dtype, p->q, p->q_elems), *dout = typed(dtype, p->dout, p->o_elems);
    ls_attention op = operation(p, dtype);
    op.q = q;
    op.k = at(q, dtype, p->k_at);
    op.v = at(q, dtype, p->v_at);
    op.out = r.out;
    op.dout = dout;
    op.lse = r.lse;
    op.dq = r.grad;
    op.dk = at(r.grad, dtype, p->k_at);
    op.dv = at(r.grad, dtype, p->v_at);
    for (int64_t i = 0; i < p->q_elems; i++) {
        if (i % p->q_stride < p->q_stride - p->gap) {
            put(dtype, r.grad, i, 0.0);
        }
    }
    for (int backward = 0; backward < 2; backward++) {
        for (int a = 0; a < chunks; a++) {
            for (int b = a; b >= 0; b--) {
                ls_attention part =
                    part_of(p, &op, (span){cut[a], cut[a + 1]}, (span){cut[b], cut[b + 1]});
                part.merge = !backward && b < a;
                part.add = backward;
                CHECK_OK(backward ? dev->ops->attention_backward(dev, &part)
                                  : dev->ops->attention_forward(dev, &part));
            }
        }
    }
    free(q);
    free(dout);
    return r;
}

/* A sequence in parts, as ring attention has it, is the sequence as a whole. */
static void test_parts(void) {
    static const shape shapes[] = {{2, 130, 130, 4, 2, 16},
                                   {1, 67, 67, 7, 1, 96},
                                   {3, 5, 5, 2, 2, 3},
                                   {1, 201, 201, 3, 3, 64}};
    for (int i = has_f32 ? 0 : 1; i < 8; i += has_f32 ? 1 : 2) {
        problem p = problem_create(i % 2 ? LS_BF16 : LS_F32, shapes[i / 2], 7000 + (uint64_t)i);
        const int64_t n = p.s.q_len;
        const int64_t cut[] = {0, n / 4, n / 4 + 1, n / 2 + 1, n};
        results expected = run(reference, &p);
        results ref = run_parts(reference, &p, cut, 4), found = run_parts(cpu[2], &p, cut, 4);
        const double tolerance = p.dtype == LS_F32 ? 4e-6 : 2e-2;
        compare("out", &p, p.o_elems, p.o_stride, LS_F64, ref.out, expected.out, 1e-13);
        compare("grad", &p, p.q_elems, p.q_stride, LS_F64, ref.grad, expected.grad, 1e-13);
        compare("out", &p, p.o_elems, p.o_stride, p.dtype, found.out, expected.out, tolerance);
        compare("lse", &p, p.lse_elems, 1, LS_F32, found.lse, expected.lse, 1e-6);
        compare("grad", &p, p.q_elems, p.q_stride, p.dtype, found.grad, expected.grad, tolerance);
        results_release(&expected);
        results_release(&ref);
        results_release(&found);
        problem_release(&p);
    }
}

/* Scratch that was reserved for sequences of which no task holds a whole head is enough for shorter
 * ones, of which tasks do. What there was before grows, and is counted once. */
static void test_scratch_of_long(void) {
    problem p = problem_create(LS_F32, (shape){1, 400, 400, 2, 2, 128}, 6500);
    ls_device *dev;
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 2}, &dev));
    ls_device_limits limits = {.rows = 40,
                               .seq = 300,
                               .channels = 256,
                               .heads = 2,
                               .kv_heads = 2,
                               .head_dim = 128,
                               .vocab = 100};
    CHECK_OK(dev->ops->reserve(dev, &limits));
    limits.rows = 4000;
    limits.seq = 100000;
    CHECK_OK(dev->ops->reserve(dev, &limits));
    const size_t reserved_bytes = dev->scratch_bytes;
    CHECK_INT(reserved_bytes, dev->ops->scratch(dev, &limits));
    results found = run(dev, &p);
    CHECK_INT(dev->scratch_bytes, reserved_bytes);
    results_release(&found);
    problem_release(&p);
    dev->ops->close(dev);
}

/* lse may be unwanted; scratch that was reserved does not grow. */
static void test_scratch(void) {
    problem p = problem_create(LS_F32, (shape){1, 200, 200, 4, 2, 128}, 6000);
    ls_device *dev;
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 2}, &dev));
    const ls_device_limits limits = {.rows = 200,
                                     .seq = 200,
                                     .channels = 512,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .head_dim = 128,
                                     .vocab = 100};
    CHECK_OK(dev->ops->reserve(dev, &limits));
    const size_t reserved_bytes = dev->scratch_bytes;
    results found = run(dev, &p);
    CHECK_INT(dev->scratch_bytes, reserved_bytes);
    void *q = typed(LS_F32, p.q, p.q_elems), *out = typed(LS_F32, NULL, p.o_elems);
    ls_attention op = operation(&p, LS_F32);
    op.q = q;
    op.k = at(q, LS_F32, p.k_at);
    op.v = at(q, LS_F32, p.v_at);
    op.out = out;
    CHECK_OK(dev->ops->attention_forward(dev, &op));
    CHECK(memcmp(out, found.out, (size_t)p.o_elems * sizeof(float)) == 0);
    free(q);
    free(out);
    results_release(&found);
    problem_release(&p);
    dev->ops->close(dev);
}

int main(void) {
    ls_isa isa;
    if (ls_cpu_isa(&isa) != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        return 77;
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
        return test_end();
    }
    test_shapes();
    test_cache();
    test_random_shapes();
    test_extreme_scores();
    test_not_finite();
    test_refused();
    test_parts();
    test_scratch();
    test_scratch_of_long();
    for (int threads = 1; threads <= MAX_THREADS; threads++) {
        cpu[threads]->ops->close(cpu[threads]);
    }
    reference->ops->close(reference);
    return test_end();
}
