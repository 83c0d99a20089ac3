/* Matrix products of the CPU device against a plain double loop, on every path that computes them.
 *
 * Operands of the exact cases are small integers: every product and sum is representable in fp32,
 * so the result, rounded once to c_dtype, must match to the bit whatever the order of the sums. */
#include "runtime/base/rng.h"
#include "runtime/device/cpu/device_cpu.h"
#include "tests/test.h"

#include <stdint.h>

#define GAP 1.25e30f /* fills what lies between the end of a row and the leading dimension */

typedef enum residual_kind { RESIDUAL_NONE, RESIDUAL_APART, RESIDUAL_ALIAS } residual_kind;

/* A product with its operands; a, b, c, r have the dtypes of op, bias is fp32. */
typedef struct gemm_case {
    ls_gemm op;
    int64_t a_rows, a_cols, b_rows, b_cols; /* as stored */
    char *a, *b, *c, *r;
    float *bias;
    double *expected; /* [m, n] */
} gemm_case;

static uint64_t draws; /* index of the next random number */

/* True for one case of LS_TEST_SHARE (1), where all would take too long. */
static bool has_turn(void) {
    static int64_t turns;
    const char *share = getenv("LS_TEST_SHARE");
    return turns++ % (share ? atoll(share) : 1) == 0;
}

static int64_t draw_int(int64_t low, int64_t high) {
    return low + (int64_t)(ls_rng_uniform(7, 1, draws++) * (double)(high - low + 1));
}

static float get(const char *base, ls_dtype dtype, int64_t i) {
    if (dtype == LS_F32) {
        return ((const float *)(const void *)base)[i];
    }
    return ls_bf16_to_f32(((const ls_bf16 *)(const void *)base)[i]);
}

static void put(char *base, ls_dtype dtype, int64_t i, float value) {
    if (dtype == LS_F32) {
        ((float *)(void *)base)[i] = value;
    } else {
        ((ls_bf16 *)(void *)base)[i] = ls_bf16_from_f32(value);
    }
}

/* 16 small integers, or real numbers of variance 1, of one draw: cases are large. */
static void draw_values(bool integers, float *value) {
    const ls_rng_block block = ls_rng_draw(7, 2, draws++);
    for (int i = 0; i < 16; i++) {
        const uint32_t byte = block.v[i / 4] >> i % 4 * 8 & 0xff;
        value[i] = integers ? (float)(byte % 7) - 3.0f : ((float)byte - 127.5f) * 0.0135316f;
    }
}

/* rows x ld elements: values in the first cols columns, GAP after them. */
static char *make_matrix(ls_dtype dtype, int64_t rows, int64_t cols, int64_t ld, bool integers) {
    char *matrix = malloc((size_t)(rows * ld) * ls_dtype_bytes(dtype) + 1);
    for (int64_t i = 0; i < rows; i++) {
        float value[16];
        for (int64_t j = 0; j < ld; j++) {
            if (j % 16 == 0) {
                draw_values(integers, value);
            }
            put(matrix, dtype, i * ld + j, j < cols ? value[j % 16] : GAP);
        }
    }
    return matrix;
}

static gemm_case make_case(ls_gemm op, int64_t extra_ld, residual_kind residual, bool bias,
                           bool integers) {
    gemm_case t = {.op = op};
    t.a_rows = op.trans_a ? op.k : op.m;
    t.a_cols = op.trans_a ? op.m : op.k;
    t.b_rows = op.trans_b ? op.n : op.k;
    t.b_cols = op.trans_b ? op.k : op.n;
    t.op.lda = t.a_cols + extra_ld;
    t.op.ldb = t.b_cols + (extra_ld ? extra_ld + 2 : 0);
    t.op.ldc = op.n + (extra_ld ? extra_ld + 5 : 0);
    t.op.a = t.a = make_matrix(op.dtype, t.a_rows, t.a_cols, t.op.lda, integers);
    t.op.b = t.b = make_matrix(op.dtype, t.b_rows, t.b_cols, t.op.ldb, integers);
    t.op.c = t.c = make_matrix(op.c_dtype, op.m, op.n, t.op.ldc, integers);
    t.r = make_matrix(op.c_dtype, op.m, op.n, t.op.ldc, integers);
    t.op.residual = residual == RESIDUAL_NONE ? NULL : residual == RESIDUAL_APART ? t.r : t.c;
    t.bias = (float *)(void *)make_matrix(LS_F32, 1, op.n, op.n, integers);
    t.op.bias = bias ? t.bias : NULL;
    return t;
}

static void free_case(gemm_case *t) {
    free(t->a);
    free(t->b);
    free(t->c);
    free(t->r);
    free(t->bias);
    free(t->expected);
}

static float a_at(const gemm_case *t, int64_t i, int64_t k) {
    return get(t->a, t->op.dtype, t->op.trans_a ? k * t->op.lda + i : i * t->op.lda + k);
}

static float b_at(const gemm_case *t, int64_t k, int64_t j) {
    return get(t->b, t->op.dtype, t->op.trans_b ? j * t->op.ldb + k : k * t->op.ldb + j);
}

/* Before the product runs, since C may hold the residual. */
static void expect(gemm_case *t) {
    const ls_gemm *op = &t->op;
    t->expected = calloc((size_t)(op->m * op->n) + 1, sizeof *t->expected);
    double *b = malloc((size_t)(op->k * op->n + 1) * sizeof *b);
    for (int64_t i = 0; i < op->k * op->n; i++) {
        b[i] = b_at(t, i / op->n, i % op->n);
    }
    for (int64_t i = 0; i < op->m; i++) {
        double *row = t->expected + i * op->n;
        for (int64_t k = 0; k < op->k; k++) {
            double a = a_at(t, i, k);
            for (int64_t j = 0; j < op->n; j++) {
                row[j] += a * b[k * op->n + j];
            }
        }
        for (int64_t j = 0; j < op->n; j++) {
            int64_t at = i * op->ldc + j;
            row[j] += op->accumulate ? get(t->c, op->c_dtype, at) : 0.0;
            row[j] += op->bias ? t->bias[j] : 0.0;
            row[j] += op->residual ? get(op->residual, op->c_dtype, at) : 0.0;
        }
    }
    free(b);
}

static void print_case(const ls_gemm *op) {
    fprintf(stderr,
            "  in %s -> %s, m %lld n %lld k %lld ld %lld %lld %lld, trans %d%d, accumulate %d, "
            "bias %d, residual %s\n",
            ls_dtype_name(op->dtype), ls_dtype_name(op->c_dtype), (long long)op->m,
            (long long)op->n, (long long)op->k, (long long)op->lda, (long long)op->ldb,
            (long long)op->ldc, op->trans_a, op->trans_b, op->accumulate, op->bias != NULL,
            !op->residual           ? "none"
            : op->residual == op->c ? "alias"
                                    : "apart");
}

/* tolerance 0: exact. Gaps must be as they were. */
static void compare(const gemm_case *t, double tolerance) {
    const ls_gemm *op = &t->op;
    int failures = test_failures;
    for (int64_t i = 0; i < op->m && failures == test_failures; i++) {
        for (int64_t j = 0; j < op->ldc && failures == test_failures; j++) {
            float found = get(t->c, op->c_dtype, i * op->ldc + j);
            if (j >= op->n) {
                float gap;
                put((char *)&gap, op->c_dtype, 0, GAP);
                CHECK(found == get((char *)&gap, op->c_dtype, 0));
            } else if (tolerance == 0) {
                char rounded[4];
                put(rounded, op->c_dtype, 0, (float)t->expected[i * op->n + j]);
                CHECK_NEAR(found, get(rounded, op->c_dtype, 0), 0, 0);
            } else {
                CHECK_NEAR(found, t->expected[i * op->n + j], tolerance, tolerance);
            }
        }
    }
    if (failures != test_failures) {
        print_case(op);
    }
}

#ifdef LS_TEST_TILES /* micro-kernels apart from a level: those alone are tested */
extern const ls_gemm_tiles LS_TEST_TILES;
#endif

static ls_device *open_device(int threads) {
    ls_device *dev = NULL;
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = threads}, &dev));
    if (!dev) {
        exit(test_end());
    }
#ifdef LS_TEST_TILES
    ((ls_cpu_device *)dev)->gemm_tiles = &LS_TEST_TILES;
#endif
    return dev;
}

/* [2, 4] times [4, 3] in fp32 or bf16; x: 16 zeros. */
static ls_gemm small_product(ls_dtype dtype, float *x) {
    ls_gemm op = {.dtype = dtype, .c_dtype = LS_F32, .m = 2, .n = 3, .k = 4, .a = x, .b = x};
    op.c = x;
    op.lda = 4;
    op.ldb = op.ldc = 3;
    return op;
}

/* Makes the device compute products on a path; false when the library cannot do dtype there. */
static bool force(ls_device *dev, ls_dtype dtype, ls_gemm_path path) {
    ((ls_cpu_device *)dev)->forced_path = path;
    float x[16] = {0};
    const ls_gemm probe = small_product(dtype, x);
    return dev->ops->gemm(dev, &probe) == LS_OK;
}

static void run_exact(ls_device *dev, ls_gemm op, int64_t extra_ld, residual_kind residual,
                      bool bias) {
    if (!has_turn()) {
        return;
    }
    gemm_case t = make_case(op, extra_ld, residual, bias, true);
    expect(&t);
    CHECK_OK(dev->ops->gemm(dev, &t.op));
    compare(&t, 0);
    free_case(&t);
}

/* Every combination of the flags, at sizes with and without remainders. */
static void check_flags(ls_device *dev, ls_dtype dtype, ls_dtype c_dtype) {
    static const int64_t sizes[][3] = {
        {1, 1, 1}, {5, 3, 7}, {64, 32, 96}, {33, 70, 129}, {1, 131, 97}};
    for (int flags = 0; flags < 16 * 3; flags++) {
        ls_gemm op = {.dtype = dtype,
                      .c_dtype = c_dtype,
                      .trans_a = flags & 1,
                      .trans_b = flags & 2,
                      .accumulate = flags & 4};
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            op.m = sizes[i][0];
            op.n = sizes[i][1];
            op.k = sizes[i][2];
            run_exact(dev, op, i == 2 ? 0 : draw_int(1, 40), (residual_kind)(flags / 16),
                      flags & 8);
        }
    }
}

/* Sizes around and beyond tiles and pieces of K, odd ones included. */
static void check_sizes(ls_device *dev, ls_dtype dtype, ls_dtype c_dtype) {
    static const int64_t sizes[][3] = {
        {1, 1031, 40},   {1300, 1, 9},    {700, 901, 17}, {1025, 96, 33}, {96, 1601, 31},
        {48, 60, 2100},  {2100, 40, 8},   {30, 3500, 11}, {513, 769, 64}, {96, 96, 1},
        {257, 50, 1025}, {40, 900, 1000}, {15, 40, 75001}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        ls_gemm op = {.dtype = dtype,
                      .c_dtype = c_dtype,
                      .m = sizes[i][0],
                      .n = sizes[i][1],
                      .k = sizes[i][2],
                      .trans_a = draw_int(0, 1),
                      .trans_b = draw_int(0, 1),
                      .accumulate = draw_int(0, 1)};
        run_exact(dev, op, draw_int(0, 2), (residual_kind)draw_int(0, 2), draw_int(0, 1));
    }
}

/* Real numbers: the error of an fp32 sum of k products of N(0, 1) is far below this bound. */
static void check_reals(ls_device *dev, ls_dtype dtype, ls_dtype c_dtype) {
    for (int trans = 0; trans < 4; trans++) {
        const ls_gemm op = {.dtype = dtype,
                            .c_dtype = c_dtype,
                            .m = 131,
                            .n = 97,
                            .k = 900,
                            .trans_a = trans & 1,
                            .trans_b = trans & 2,
                            .accumulate = true};
        gemm_case t = make_case(op, 3, RESIDUAL_APART, true, false);
        expect(&t);
        CHECK_OK(dev->ops->gemm(dev, &t.op));
        compare(&t, c_dtype == LS_F32 ? 2e-4 : 8e-3);
        free_case(&t);
    }
}

/* The bits of C, for the same operands, from devices of 1, 2 and 3 threads. */
static void check_threads(ls_dtype dtype, ls_dtype c_dtype, ls_gemm_path path, ls_gemm op) {
    if (!has_turn()) {
        return;
    }
    op.dtype = dtype;
    op.c_dtype = c_dtype;
    gemm_case t = make_case(op, 1, RESIDUAL_APART, true, false);
    size_t bytes = (size_t)(op.m * t.op.ldc) * ls_dtype_bytes(c_dtype);
    char *before = malloc(bytes), *first = malloc(bytes);
    memcpy(before, t.c, bytes);
    for (int threads = 1; threads <= 3; threads++) {
        ls_device *dev = open_device(threads);
        if (force(dev, dtype, path)) {
            memcpy(t.c, before, bytes);
            CHECK_OK(dev->ops->gemm(dev, &t.op));
            if (threads == 1) {
                memcpy(first, t.c, bytes);
            }
            CHECK(memcmp(first, t.c, bytes) == 0);
            CHECK(memcmp(before, t.c, bytes) != 0);
        }
        dev->ops->close(dev);
    }
    free(before);
    free(first);
    free_case(&t);
}

static void check_non_finite(ls_device *dev, ls_dtype dtype) {
    static const float specials[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        const ls_gemm op = {.dtype = dtype, .c_dtype = LS_F32, .m = 40, .n = 50, .k = 60};
        gemm_case t = make_case(op, 0, RESIDUAL_NONE, false, true);
        for (int64_t j = 0; j < op.m * op.n; j++) {
            put(t.c, LS_F32, j, NAN); /* without accumulate, the old C is not looked at */
        }
        put(t.a, dtype, 7 * op.k + 11, specials[i]);
        for (int64_t j = 0; j < op.n; j++) {
            put(t.b, dtype, 11 * op.n + j, 1.0f);
        }
        CHECK_OK(dev->ops->gemm(dev, &t.op));
        for (int64_t j = 0; j < op.m * op.n; j++) {
            float found = get(t.c, LS_F32, j);
            bool special = j / op.n == 7;
            CHECK(special ? (isnan(specials[i]) ? isnan(found) : found == specials[i])
                          : isfinite(found));
        }
        free_case(&t);
    }
}

static void check_empty(ls_device *dev, ls_dtype dtype, ls_dtype c_dtype) {
    for (int flags = 0; flags < 12; flags++) {
        const ls_gemm op = {
            .dtype = dtype, .c_dtype = c_dtype, .m = 5, .n = 7, .k = 0, .accumulate = flags & 1};
        run_exact(dev, op, 3, (residual_kind)(flags / 4), flags & 2);
    }
    for (int zero = 0; zero < 2; zero++) {
        const ls_gemm op = {.dtype = dtype,
                            .c_dtype = c_dtype,
                            .m = zero ? 0 : 4,
                            .n = zero ? 4 : 0,
                            .k = 6,
                            .lda = 6,
                            .ldb = 4,
                            .ldc = 4};
        CHECK_OK(dev->ops->gemm(dev, &op));
    }
}

static void check_path(ls_device *dev, ls_dtype dtype, ls_dtype c_dtype, ls_gemm_path path) {
    if (!force(dev, dtype, path)) {
        bool tile = ls_gemm_tile_for((ls_cpu_device *)dev, dtype) != NULL;
        CHECK(path == LS_GEMM_PACKED ? !tile : dtype == LS_BF16 && path == LS_GEMM_MATMUL);
        CHECK_INT(ls_error_last()->code, LS_E_UNSUPPORTED);
        fprintf(stderr, "not run on this machine at this level: %s\n", ls_error_last()->message);
        return;
    }
    check_flags(dev, dtype, c_dtype);
    check_sizes(dev, dtype, c_dtype);
    check_reals(dev, dtype, c_dtype);
    check_empty(dev, dtype, c_dtype);
    check_non_finite(dev, dtype);
    check_threads(dtype, c_dtype, path, (ls_gemm){.m = 900, .n = 801, .k = 60, .trans_b = true});
    check_threads(dtype, c_dtype, path, (ls_gemm){.m = 1, .n = 1537, .k = 3333});
    check_threads(dtype, c_dtype, path, (ls_gemm){.m = 33, .n = 6500, .k = 1600, .trans_a = true});
}

/* Sums that are kept in shared memory over stretches of K, from 2017 rows on for more than one
 * block: too much for the plain loop, so that another path is the reference (exact too). */
static void check_large(ls_device *dev, ls_dtype dtype, int64_t rows) {
    const ls_gemm op = {
        .dtype = dtype, .c_dtype = dtype, .m = rows, .n = 768, .k = 6163, .accumulate = true};
    gemm_case t = make_case(op, 1, RESIDUAL_APART, true, true);
    size_t bytes = (size_t)(op.m * t.op.ldc) * ls_dtype_bytes(dtype);
    char *expected = malloc(bytes);
    memcpy(expected, t.c, bytes);
    if (force(dev, dtype, LS_GEMM_PACKED)) {
        CHECK_OK(dev->ops->gemm(dev, &t.op));
        char *found = t.c;
        t.op.c = expected;
        CHECK(force(dev, dtype, LS_GEMM_PANELS));
        CHECK_OK(dev->ops->gemm(dev, &t.op));
        CHECK(memcmp(found, expected, bytes) == 0);
    }
    free(expected);
    free_case(&t);
}

/* Other rows and columns of the operands change no bit of an element, nor does where it stands. */
static void check_parts(ls_device *dev, ls_dtype dtype, ls_dtype c_dtype) {
    if (!has_turn() || !force(dev, dtype, LS_GEMM_PACKED)) {
        return;
    }
    const ls_gemm op = {.dtype = dtype, .c_dtype = c_dtype, .m = 211, .n = 850, .k = 1601};
    gemm_case t = make_case(op, 1, RESIDUAL_NONE, true, false);
    CHECK_OK(dev->ops->gemm(dev, &t.op));
    const int64_t elem = (int64_t)ls_dtype_bytes(dtype), m0 = 101, n0 = 333;
    gemm_case part = t;
    part.op.m = 77;
    part.op.n = 99;
    part.op.a = t.a + m0 * t.op.lda * elem;
    part.op.b = t.b + n0 * elem;
    part.op.bias = t.bias + n0;
    part.op.c = part.c = malloc((size_t)(part.op.m * t.op.ldc) * ls_dtype_bytes(c_dtype));
    CHECK_OK(dev->ops->gemm(dev, &part.op));
    int64_t differ = 0;
    for (int64_t i = 0; i < part.op.m; i++) {
        for (int64_t j = 0; j < part.op.n; j++) {
            differ += get(part.c, c_dtype, i * t.op.ldc + j) !=
                      get(t.c, c_dtype, (m0 + i) * t.op.ldc + n0 + j);
        }
    }
    CHECK_INT(differ, 0);
    free(part.c);
    free_case(&t);
}

static void check_refusals(ls_device *dev) {
    float x[16] = {0};
    const ls_gemm good = small_product(LS_F32, x);
    ls_gemm op = good;
    op.dtype = LS_F64;
    CHECK_STATUS(dev->ops->gemm(dev, &op), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("float64");
    op = good;
    op.c_dtype = LS_BF16;
    CHECK_STATUS(dev->ops->gemm(dev, &op), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("bfloat16");
    op = good;
    op.m = -1;
    CHECK_STATUS(dev->ops->gemm(dev, &op), LS_E_SHAPE);
    CHECK_MESSAGE("m -1");
    op = good;
    op.trans_a = true;
    op.lda = 1;
    CHECK_STATUS(dev->ops->gemm(dev, &op), LS_E_SHAPE);
    CHECK_MESSAGE("at least 2");
    op = good;
    op.ldb = 2;
    CHECK_STATUS(dev->ops->gemm(dev, &op), LS_E_SHAPE);
    op = good;
    op.ldc = 2;
    CHECK_STATUS(dev->ops->gemm(dev, &op), LS_E_SHAPE);
    ls_device *none;
    CHECK_STATUS(ls_device_open_cpu(&(ls_device_options){.threads = -2}, &none), LS_E_INPUT);
    CHECK_MESSAGE("-2 threads");
}

/* More shapes than the cache of primitives holds, twice, so that slots are given up and rebuilt. */
static void check_matmul_cache(ls_device *dev) {
    CHECK(force(dev, LS_F32, LS_GEMM_MATMUL));
    for (int round = 0; round < 2; round++) {
        for (int64_t n = 1; n <= 300; n++) {
            run_exact(dev, (ls_gemm){.dtype = LS_F32, .c_dtype = LS_F32, .m = 2, .n = n, .k = 3}, 0,
                      RESIDUAL_NONE, false);
        }
    }
    CHECK(force(dev, LS_F32, LS_GEMM_AUTO));
}

/* Memory and scratch of the device. */
static void check_memory(ls_device *dev) {
    const size_t sizes[] = {0, 1, 63, 4097, 5000000};
    for (int i = 0; i < 5; i++) {
        void *memory = NULL;
        CHECK_OK(dev->ops->alloc(dev, sizes[i], &memory));
        CHECK(memory && (uintptr_t)memory % 64 == 0);
        size_t not_zero = 0;
        for (size_t j = 0; memory && j < sizes[i]; j++) {
            not_zero += ((char *)memory)[j] != 0;
        }
        CHECK_INT(not_zero, 0);
        dev->ops->free(dev, memory);
    }
    void *memory;
    CHECK_STATUS(dev->ops->alloc(dev, SIZE_MAX - 5, &memory), LS_E_MEMORY);
    CHECK_OK(dev->ops->reserve(dev, &(ls_device_limits){.rows = 64,
                                                        .seq = 64,
                                                        .channels = 96,
                                                        .heads = 4,
                                                        .kv_heads = 2,
                                                        .head_dim = 24,
                                                        .vocab = 257}));
    const size_t need = (size_t)7 << 20;
    CHECK_OK(ls_cpu_scratch_need(dev, need));
    size_t taken = dev->scratch_bytes;
    CHECK(taken >= need * (size_t)dev->threads);
    for (int i = 0; i < dev->threads; i++) {
        memset(ls_cpu_scratch(dev, i), i + 1, need);
    }
    for (int i = 0; i < dev->threads; i++) { /* no piece overlaps another */
        const char *piece = ls_cpu_scratch(dev, i);
        CHECK((uintptr_t)piece % 64 == 0);
        CHECK(piece[0] == i + 1 && piece[need - 1] == i + 1);
    }
    CHECK_OK(ls_cpu_scratch_need(dev, 100));
    CHECK_INT(dev->scratch_bytes, taken);
}

int main(void) {
    ls_isa isa;
    if (ls_cpu_isa(&isa) != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        return 77;
    }
    ls_device *dev = open_device(2);
#ifdef LS_TEST_TILES
    if (LS_TEST_TILES.f32.rows > 0) {
        check_path(dev, LS_F32, LS_F32, LS_GEMM_PACKED);
        check_parts(dev, LS_F32, LS_F32);
    }
    check_path(dev, LS_BF16, LS_F32, LS_GEMM_PACKED);
    check_path(dev, LS_BF16, LS_BF16, LS_GEMM_PACKED);
    const int64_t few = 2 * LS_TEST_TILES.bf16.rows + 6; /* AMX: a signal each 8 tiles */
    check_large(dev, LS_BF16, getenv("LOCKSTEP_TEST_ALL") ? 2030 : few);
    check_parts(dev, LS_BF16, LS_F32);
    check_parts(dev, LS_BF16, LS_BF16);
    dev->ops->close(dev);
    return test_end();
#endif
    CHECK_INT(dev->threads, 2);
    CHECK(strstr(dev->describe, "2 threads") && strstr(dev->describe, "oneDNN"));
    check_memory(dev);
    check_refusals(dev);
    check_flags(dev, LS_BF16, LS_F32);
    check_flags(dev, LS_BF16, LS_BF16);
    const ls_gemm row = {.m = 1, .n = 1537, .k = 3333, .trans_b = true};
    check_threads(LS_BF16, LS_BF16, LS_GEMM_AUTO, row);
    check_threads(LS_F32, LS_F32, LS_GEMM_AUTO, row);
    check_path(dev, LS_F32, LS_F32, LS_GEMM_AUTO);
    check_path(dev, LS_F32, LS_F32, LS_GEMM_PANELS);
    check_path(dev, LS_F32, LS_F32, LS_GEMM_PACKED);
    check_path(dev, LS_F32, LS_F32, LS_GEMM_SGEMM);
    check_path(dev, LS_F32, LS_F32, LS_GEMM_MATMUL);
    check_matmul_cache(dev);
    static const ls_gemm_path bf16_paths[] = {LS_GEMM_PANELS, LS_GEMM_PACKED, LS_GEMM_MATMUL};
    for (int i = 0; i < 3; i++) {
        check_path(dev, LS_BF16, LS_F32, bf16_paths[i]);
        check_path(dev, LS_BF16, LS_BF16, bf16_paths[i]);
    }
    check_large(dev, LS_BF16, 2030);
    check_parts(dev, LS_F32, LS_F32);
    check_parts(dev, LS_BF16, LS_F32);
    check_parts(dev, LS_BF16, LS_BF16);
    dev->ops->close(dev);
    return test_end();
}
