/* Matrix products over tiles; the idea is in gemm.h. */
#include "runtime/device/cpu/gemm.h"
#include "runtime/device/cpu/device_cpu.h"

#include <omp.h>
#include <stdint.h>

/* Extra columns of converted panels, so that their rows do not fall into the same cache sets. */
#define PANEL_PAD 16

/* One call, as its tiles see it. */
typedef struct gemm_run {
    ls_cpu_device *cpu;
    const ls_gemm *op;
    ls_gemm_path path;
    ls_gemm_tiling tile;
    int64_t grid_m, grid_n;
    bool in_place;     /* the product is made in C itself, which may then need finishing */
    float beta;        /* in place: how often the old C counts */
    const void *extra; /* residual that is still to be added by finish */
    const ls_matmul *matmuls[2][2]; /* [last row of tiles][last column of tiles] */
} gemm_run;

/* Where a tile is. */
typedef struct gemm_tile {
    int64_t m0, n0, m, n;
} gemm_tile;

/* A thread's scratch: product, then converted panels of A and B or the library's own. */
typedef struct gemm_scratch {
    float *product, *panel_a, *panel_b;
    void *library;
} gemm_scratch;

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t tiles_of(int64_t size, int64_t tile) {
    return size / tile + (size % tile != 0);
}

static const char *at(const void *base, ls_dtype dtype, int64_t elems) {
    return (const char *)base + elems * (int64_t)ls_dtype_bytes(dtype);
}

/* First element of op(A)[m0, k0] or op(B)[k0, n0]. */
static const void *operand(const void *base, ls_dtype dtype, bool trans, int64_t ld, int64_t row,
                           int64_t col) {
    return at(base, dtype, trans ? col * ld + row : row * ld + col);
}

ls_gemm_path ls_gemm_path_select(ls_isa isa, ls_dtype dtype, bool library_has_bf16) {
    if (dtype == LS_F32) {
        return LS_GEMM_SGEMM;
    }
    return ls_isa_has_fast_bf16(isa) && library_has_bf16 ? LS_GEMM_MATMUL : LS_GEMM_WIDEN;
}

ls_gemm_tiling ls_gemm_tiling_select(ls_gemm_path path, int64_t m, int64_t n, int64_t k) {
    (void)path;
    (void)k;
    ls_gemm_tiling tile = {.m = 256, .n = 768, .k = 768};
    tile.m = min_i64(tile.m, m);
    tile.n = min_i64(tile.n, n);
    return tile;
}

/* Elements of a converted panel stored as rows x cols. */
static int64_t panel_ld(int64_t cols) {
    return cols + PANEL_PAD;
}

static size_t panel_bytes(int64_t rows, int64_t cols) {
    /* either way round, since the operand may be stored transposed */
    int64_t a = rows * panel_ld(cols), b = cols * panel_ld(rows);
    return ((size_t)(a > b ? a : b) * sizeof(float) + 63) / 64 * 64;
}

static size_t product_bytes(ls_gemm_tiling tile) {
    return panel_bytes(tile.m, tile.n);
}

static size_t widen_scratch_bytes(ls_gemm_tiling tile) {
    return product_bytes(tile) + panel_bytes(tile.m, tile.k) + panel_bytes(tile.k, tile.n);
}

ls_status ls_cpu_gemm_reserve(ls_device *dev) {
    ls_cpu_device *cpu = (ls_cpu_device *)dev;
    if (cpu->path_bf16 != LS_GEMM_WIDEN) {
        return LS_OK;
    }
    const int64_t large = INT32_MAX;
    return ls_cpu_scratch_need(
        dev, widen_scratch_bytes(ls_gemm_tiling_select(LS_GEMM_WIDEN, large, large, large)));
}

static ls_status check(const ls_device *dev, const ls_gemm *op) {
    if (op->dtype != LS_F32 && op->dtype != LS_BF16) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "gemm: the cpu device multiplies float32 and bfloat16, not %s",
                       ls_dtype_name(op->dtype));
    }
    if (op->c_dtype != op->dtype && op->c_dtype != dev->acc) {
        return LS_FAIL(LS_E_UNSUPPORTED, "gemm: a product of %s is stored as %s or %s, not %s",
                       ls_dtype_name(op->dtype), ls_dtype_name(op->dtype), ls_dtype_name(dev->acc),
                       ls_dtype_name(op->c_dtype));
    }
    if (op->m < 0 || op->n < 0 || op->k < 0) {
        return LS_FAIL(LS_E_SHAPE, "gemm: m %lld, n %lld, k %lld: sizes cannot be negative",
                       (long long)op->m, (long long)op->n, (long long)op->k);
    }
    int64_t least_a = op->trans_a ? op->m : op->k, least_b = op->trans_b ? op->k : op->n;
    if (op->lda < least_a || op->ldb < least_b || op->ldc < op->n) {
        return LS_FAIL(LS_E_SHAPE,
                       "gemm: leading dimensions %lld, %lld, %lld of A, B, C: at least %lld, %lld, "
                       "%lld are needed",
                       (long long)op->lda, (long long)op->ldb, (long long)op->ldc,
                       (long long)least_a, (long long)least_b, (long long)op->n);
    }
    return LS_OK;
}

/* C += or = products of converted pieces of K, in order. */
static int multiply_widened(const gemm_run *run, gemm_tile t, const gemm_scratch *scratch, float *c,
                            int64_t ldc, float beta) {
    const ls_gemm *op = run->op;
    const ls_gemm_kernels *kernels = run->cpu->gemm_kernels;
    for (int64_t k0 = 0; k0 < op->k; k0 += run->tile.k) {
        int64_t k = min_i64(run->tile.k, op->k - k0);
        const void *a = operand(op->a, LS_BF16, op->trans_a, op->lda, t.m0, k0);
        const void *b = operand(op->b, LS_BF16, op->trans_b, op->ldb, k0, t.n0);
        int64_t a_rows = op->trans_a ? k : t.m, a_cols = op->trans_a ? t.m : k;
        int64_t b_rows = op->trans_b ? t.n : k, b_cols = op->trans_b ? k : t.n;
        int64_t lda = panel_ld(a_cols), ldb = panel_ld(b_cols);
        kernels->widen(a, op->lda, a_rows, a_cols, scratch->panel_a, lda);
        kernels->widen(b, op->ldb, b_rows, b_cols, scratch->panel_b, ldb);
        int failed = ls_dnnl_sgemm(op->trans_a, op->trans_b, t.m, t.n, k, scratch->panel_a, lda,
                                   scratch->panel_b, ldb, k0 == 0 ? beta : 1.0f, c, ldc);
        if (failed) {
            return failed;
        }
    }
    return 0;
}

static int multiply(const gemm_run *run, gemm_tile t, const gemm_scratch *scratch, void *c,
                    int64_t ldc, float beta) {
    const ls_gemm *op = run->op;
    if (run->path == LS_GEMM_WIDEN) {
        return multiply_widened(run, t, scratch, c, ldc, beta);
    }
    const void *a = operand(op->a, op->dtype, op->trans_a, op->lda, t.m0, 0);
    const void *b = operand(op->b, op->dtype, op->trans_b, op->ldb, 0, t.n0);
    if (run->path == LS_GEMM_MATMUL) {
        const ls_matmul *matmul = run->matmuls[t.m != run->tile.m][t.n != run->tile.n];
        return ls_matmul_run(matmul, a, b, c, scratch->library);
    }
    return ls_dnnl_sgemm(op->trans_a, op->trans_b, t.m, t.n, op->k, a, op->lda, b, op->ldb, beta, c,
                         ldc);
}

static int run_tile(const gemm_run *run, int64_t index, const gemm_scratch *scratch) {
    const ls_gemm *op = run->op;
    gemm_tile t = {.m0 = index / run->grid_n * run->tile.m,
                   .n0 = index % run->grid_n * run->tile.n};
    t.m = min_i64(run->tile.m, op->m - t.m0);
    t.n = min_i64(run->tile.n, op->n - t.n0);
    int64_t corner = t.m0 * op->ldc + t.n0;
    void *c = (void *)at(op->c, op->c_dtype, corner);
    const float *bias = op->bias ? (const float *)op->bias + t.n0 : NULL;
    const void *extra = run->extra ? at(run->extra, op->c_dtype, corner) : NULL;
    const ls_gemm_kernels *kernels = run->cpu->gemm_kernels;
    if (run->in_place) {
        int failed = multiply(run, t, scratch, c, op->ldc, run->beta);
        if (!failed && (bias || extra)) {
            kernels->finish(c, op->ldc, t.m, t.n, op->c_dtype, c, op->ldc, false, bias, extra);
        }
        return failed;
    }
    int64_t ld = panel_ld(run->tile.n);
    int failed = multiply(run, t, scratch, scratch->product, ld, 0.0f);
    if (!failed) {
        kernels->finish(scratch->product, ld, t.m, t.n, op->c_dtype, c, op->ldc, op->accumulate,
                        bias, extra);
    }
    return failed;
}

/* The primitives of inner and edge tiles; *scratch_bytes: what the largest needs. */
static ls_status get_matmuls(gemm_run *run, size_t *scratch_bytes) {
    const ls_gemm *op = run->op;
    for (int edge_m = 0; edge_m < 2; edge_m++) {
        for (int edge_n = 0; edge_n < 2; edge_n++) {
            int64_t m = edge_m ? op->m % run->tile.m : run->tile.m;
            int64_t n = edge_n ? op->n % run->tile.n : run->tile.n;
            if (m == 0 || n == 0) {
                continue;
            }
            const ls_matmul_key key = {.m = m,
                                       .n = n,
                                       .k = op->k,
                                       .lda = op->lda,
                                       .ldb = op->ldb,
                                       .ldc = run->in_place ? op->ldc : panel_ld(run->tile.n),
                                       .dtype = (int32_t)op->dtype,
                                       .c_dtype = (int32_t)(run->in_place ? op->c_dtype : LS_F32),
                                       .trans_a = op->trans_a,
                                       .trans_b = op->trans_b};
            const ls_matmul **matmul = &run->matmuls[edge_m][edge_n];
            LS_TRY(ls_matmul_get(run->cpu->matmuls, &key, matmul));
            size_t bytes = ls_matmul_scratch_bytes(*matmul);
            *scratch_bytes = bytes > *scratch_bytes ? bytes : *scratch_bytes;
        }
    }
    return LS_OK;
}

/* Decides how the old C, bias and residual come in, and takes scratch memory. */
static ls_status plan(gemm_run *run) {
    const ls_gemm *op = run->op;
    bool old_c = op->accumulate || op->residual == op->c;
    if (run->path == LS_GEMM_MATMUL) {
        bool finish = op->bias || op->residual;
        run->in_place = !old_c && (op->c_dtype == LS_F32 || !finish);
    } else {
        run->in_place = op->c_dtype == LS_F32;
    }
    run->beta = (float)(op->accumulate + (op->residual == op->c));
    run->extra = run->in_place && op->residual == op->c ? NULL : op->residual;
    size_t scratch_bytes = run->in_place ? 0 : product_bytes(run->tile);
    if (run->path == LS_GEMM_WIDEN) {
        scratch_bytes = widen_scratch_bytes(run->tile);
    } else if (run->path == LS_GEMM_MATMUL) {
        size_t library_bytes = 0;
        LS_TRY(get_matmuls(run, &library_bytes));
        scratch_bytes += library_bytes;
    }
    return ls_cpu_scratch_need(&run->cpu->base, scratch_bytes);
}

static gemm_scratch scratch_of(const gemm_run *run, int thread) {
    char *base = ls_cpu_scratch(&run->cpu->base, thread);
    gemm_scratch scratch = {.product = (float *)base};
    base += run->path == LS_GEMM_WIDEN || !run->in_place ? product_bytes(run->tile) : 0;
    scratch.library = base;
    scratch.panel_a = (float *)base;
    scratch.panel_b = (float *)(base + panel_bytes(run->tile.m, run->tile.k));
    return scratch;
}

/* k == 0: nothing is multiplied, but C, bias and residual are still added up. */
static ls_status run_empty(ls_cpu_device *cpu, const ls_gemm *op) {
    size_t row_bytes = (size_t)op->n * sizeof(float);
    void *zeros;
    LS_TRY(ls_cpu_shared(&cpu->base, row_bytes, &zeros));
    LS_TRY(ls_cpu_zero(&cpu->base, zeros, row_bytes));
    cpu->gemm_kernels->finish(zeros, 0, op->m, op->n, op->c_dtype, op->c, op->ldc, op->accumulate,
                              op->bias, op->residual);
    return LS_OK;
}

ls_status ls_cpu_gemm(ls_device *dev, const ls_gemm *op) {
    LS_TRY(check(dev, op));
    ls_cpu_device *cpu = (ls_cpu_device *)dev;
    if (op->m == 0 || op->n == 0) {
        return LS_OK;
    }
    if (op->k == 0) {
        return run_empty(cpu, op);
    }
    gemm_run run = {.cpu = cpu, .op = op};
    run.path = op->dtype == LS_F32 ? cpu->path_f32 : cpu->path_bf16;
    run.tile = ls_gemm_tiling_select(run.path, op->m, op->n, op->k);
    run.grid_m = tiles_of(op->m, run.tile.m);
    run.grid_n = tiles_of(op->n, run.tile.n);
    LS_TRY(plan(&run));
    int64_t tiles = run.grid_m * run.grid_n;
    int threads = (int)min_i64(dev->threads, tiles);
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        ls_dnnl_use_one_thread();
        gemm_scratch scratch = scratch_of(&run, omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tiles; i++) {
            int status = run_tile(&run, i, &scratch);
            if (status) {
#pragma omp atomic write
                failed = status;
            }
        }
    }
    return ls_dnnl_check(failed, "matrix product");
}
