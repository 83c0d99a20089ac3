/* Matrix products: checks, choice of the path, and the paths that take operands where they lie. */
#include "runtime/device/cpu/gemm.h"
#include "runtime/device/check.h"
#include "runtime/device/cpu/device_cpu.h"
#include "runtime/device/gemm_parts.h"

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Below this many rows or columns a copy of the other operand costs too much of the product. */
#define PANELS_LEAST 64
/* Unless that one is so small, in elements, that copying it takes less than all that a primitive of
 * oneDNN's costs: about 80 KiB and a millisecond for each shape, of which experts with few tokens
 * have another in every step. So these are ours whatever is preferred. */
#define COPIED_SMALL (1 << 17)

/* Tiles of operands as they lie are large, but not so large that threads run out of them. */
#define DIRECT_M     512
#define DIRECT_N     768
#define DIRECT_LEAST 128
#define DIRECT_TILES 32

/* Multiplications that are worth a thread: about ten microseconds of work. */
#define THREAD_WORK 524288.0

/* Extra columns of products that are made apart, so that rows do not fall into the same sets. */
#define PAD 16

/* One call, as its tiles see it. */
typedef struct direct_run {
    ls_cpu_device *cpu;
    const ls_gemm *op;
    ls_gemm_sink sink;
    bool use_matmul;
    int64_t tile_m, tile_n, grid_m, grid_n;
    size_t product_bytes;           /* of a thread's scratch; the library's own follows */
    const ls_matmul *matmuls[2][2]; /* [last row of tiles][last column of tiles] */
} direct_run;

ls_status ls_gemm_preference_read(ls_gemm_preference *preference) {
    const char *word = getenv("LOCKSTEP_GEMM");
    *preference = LS_GEMM_FASTEST;
    if (!word || !word[0]) {
        return LS_OK;
    }
    if (strcmp(word, "packed") == 0) {
        *preference = LS_GEMM_OWN;
    } else if (strcmp(word, "library") == 0) {
        *preference = LS_GEMM_LIBRARY;
    } else {
        return LS_FAIL(LS_E_CONFIG,
                       "LOCKSTEP_GEMM is '%s'; use packed (lockstep's own products), library "
                       "(oneDNN's), or leave it out for what is fastest",
                       word);
    }
    return LS_OK;
}

/* oneDNN's bf16 products at the AMX level, until ours have been measured beside them there:
 * `bench_gemm gpt2-124m 4 1024 9 0 bf16` compares; where ours win, this becomes false. */
#define LIBRARY_FOR_AMX true

ls_gemm_path ls_gemm_path_select(ls_gemm_preference preference, ls_isa isa, bool has_tile,
                                 bool library_has_bf16, ls_dtype dtype, int64_t m, int64_t n,
                                 int64_t k) {
    bool copied = ls_min(m, n) >= PANELS_LEAST;
    bool small = has_tile && dtype == LS_BF16 && (m > n ? m : n) <= COPIED_SMALL / k;
    bool tiled = has_tile && copied && preference != LS_GEMM_LIBRARY;
    if (dtype == LS_F32) {
        return tiled ? LS_GEMM_PACKED : copied ? LS_GEMM_PANELS : LS_GEMM_SGEMM;
    }
    bool library = ls_isa_has_fast_bf16(isa) && library_has_bf16;
    bool left_to_library = library && isa == LS_ISA_AMX_BF16 && LIBRARY_FOR_AMX;
    if (small || (tiled && (preference == LS_GEMM_OWN || !left_to_library))) {
        return LS_GEMM_PACKED;
    }
    return library ? LS_GEMM_MATMUL : LS_GEMM_PANELS;
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
    return ls_check_gemm_extras(dev, op);
}

static ls_gemm_sink choose_sink(const ls_gemm *op, ls_gemm_path path) {
    bool residual_is_c = op->residual == op->c;
    if (path == LS_GEMM_MATMUL) {
        bool overwrites = !op->accumulate && !residual_is_c;
        bool finished = !op->bias && !op->residual;
        if (overwrites && (op->c_dtype == LS_F32 || finished)) {
            return (ls_gemm_sink){.in_place = true, .residual = op->residual};
        }
    } else if (op->c_dtype == LS_F32) {
        return (ls_gemm_sink){.in_place = true,
                              .beta = (float)(op->accumulate + residual_is_c),
                              .residual = residual_is_c ? NULL : op->residual};
    }
    return (ls_gemm_sink){.add_c = op->accumulate, .residual = op->residual};
}

int ls_gemm_threads(const ls_device *dev, const ls_gemm *op, int64_t tiles) {
    double worth = 1.0 + (double)op->m * (double)op->n * (double)op->k / THREAD_WORK;
    int64_t threads = ls_min(dev->threads, tiles);
    return worth < (double)threads ? (int)worth : (int)threads;
}

static int multiply(const direct_run *run, int64_t m0, int64_t n0, int64_t m, int64_t n, void *c,
                    int64_t ldc, void *library_scratch) {
    const ls_gemm *op = run->op;
    const void *a = ls_at(op->dtype, op->a, op->trans_a ? m0 : m0 * op->lda);
    const void *b = ls_at(op->dtype, op->b, op->trans_b ? n0 * op->ldb : n0);
    if (run->use_matmul) {
        const ls_matmul *matmul = run->matmuls[m != run->tile_m][n != run->tile_n];
        return ls_matmul_run(matmul, a, b, c, library_scratch);
    }
    return ls_dnnl_sgemm(op->trans_a, op->trans_b, m, n, op->k, a, op->lda, b, op->ldb,
                         run->sink.beta, c, ldc);
}

static int run_tile(const direct_run *run, int64_t index, char *scratch) {
    const ls_gemm *op = run->op;
    int64_t m0 = index / run->grid_n * run->tile_m, n0 = index % run->grid_n * run->tile_n;
    int64_t m = ls_min(run->tile_m, op->m - m0), n = ls_min(run->tile_n, op->n - n0);
    int64_t corner = m0 * op->ldc + n0;
    void *c = ls_at_mut(op->c_dtype, op->c, corner);
    bool in_place = run->sink.in_place;
    void *product = in_place ? c : scratch;
    int64_t ld = in_place ? op->ldc : run->tile_n + PAD;
    int failed = multiply(run, m0, n0, m, n, product, ld, scratch + run->product_bytes);
    if (failed || (in_place && !op->bias && !run->sink.residual)) {
        return failed;
    }
    const float *bias = op->bias ? (const float *)op->bias + n0 : NULL;
    const void *residual =
        run->sink.residual ? ls_at(op->c_dtype, run->sink.residual, corner) : NULL;
    run->cpu->gemm_kernels->finish(product, ld, m, n, op->c_dtype, c, op->ldc, run->sink.add_c,
                                   bias, residual);
    return 0;
}

/* The primitives of inner and edge tiles; *scratch_bytes: what the largest needs. */
static ls_status get_matmuls(direct_run *run, size_t *scratch_bytes) {
    const ls_gemm *op = run->op;
    bool in_place = run->sink.in_place;
    for (int edges = 0; edges < 4; edges++) {
        int64_t m = edges & 1 ? op->m % run->tile_m : run->tile_m;
        int64_t n = edges & 2 ? op->n % run->tile_n : run->tile_n;
        if (m == 0 || n == 0) {
            continue;
        }
        const ls_matmul_key key = {.m = m,
                                   .n = n,
                                   .k = op->k,
                                   .lda = op->lda,
                                   .ldb = op->ldb,
                                   .ldc = in_place ? op->ldc : run->tile_n + PAD,
                                   .dtype = (int32_t)op->dtype,
                                   .c_dtype = (int32_t)(in_place ? op->c_dtype : LS_F32),
                                   .trans_a = op->trans_a,
                                   .trans_b = op->trans_b};
        const ls_matmul **matmul = &run->matmuls[edges & 1][edges >> 1];
        LS_TRY(ls_matmul_get(run->cpu->matmuls, &key, matmul));
        size_t bytes = ls_matmul_scratch_bytes(*matmul);
        *scratch_bytes = bytes > *scratch_bytes ? bytes : *scratch_bytes;
    }
    return LS_OK;
}

/* Halves the longer side of a large tile until there are enough of them. */
static void choose_tile(direct_run *run) {
    const ls_gemm *op = run->op;
    int64_t most_m = DIRECT_M, most_n = DIRECT_N;
    for (;;) {
        run->tile_m = ls_min(op->m, ls_gemm_split(op->m, most_m, 8));
        run->tile_n = ls_min(op->n, ls_gemm_split(op->n, most_n, PAD));
        run->grid_m = (op->m - 1) / run->tile_m + 1;
        run->grid_n = (op->n - 1) / run->tile_n + 1;
        bool few = run->grid_m * run->grid_n < DIRECT_TILES;
        if (few && run->tile_n >= run->tile_m && run->tile_n > DIRECT_LEAST) {
            most_n /= 2;
        } else if (few && run->tile_m > DIRECT_LEAST) {
            most_m /= 2;
        } else {
            return;
        }
    }
}

static ls_status run_direct(ls_cpu_device *cpu, const ls_gemm *op, ls_gemm_sink sink,
                            bool use_matmul) {
    direct_run run = {.cpu = cpu, .op = op, .sink = sink, .use_matmul = use_matmul};
    choose_tile(&run);
    run.product_bytes =
        sink.in_place ? 0 : (size_t)(run.tile_m * (run.tile_n + PAD)) * sizeof(float);
    run.product_bytes = (run.product_bytes + 63) / 64 * 64;
    size_t library_bytes = 0;
    if (use_matmul) {
        LS_TRY(get_matmuls(&run, &library_bytes));
    }
    LS_TRY(ls_cpu_scratch_need(&cpu->base, run.product_bytes + library_bytes));
    int64_t tiles = run.grid_m * run.grid_n;
    int threads = ls_gemm_threads(&cpu->base, op, tiles), failed = 0;
#pragma omp parallel num_threads(threads) reduction(max : failed)
    {
        ls_dnnl_use_one_thread();
        char *scratch = ls_cpu_scratch(&cpu->base, omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tiles; i++) {
            int status = run_tile(&run, i, scratch);
            failed = status ? status : failed;
        }
    }
    return ls_dnnl_check(failed, "matrix product");
}

/* Columns of a task of run_dots, and bytes of B that are worth a thread. */
#define DOT_COLS  32
#define DOT_WORTH ((int64_t)128 << 10)

/* Generation: one row by rows of B. */
static bool dots_suit(const ls_cpu_device *cpu, const ls_gemm *op) {
    return cpu->preference != LS_GEMM_LIBRARY && op->m == 1 && op->trans_b && !op->trans_a;
}

static void run_dots(const ls_cpu_device *cpu, const ls_gemm *op) {
    const ls_gemm_kernels *kernels = cpu->gemm_kernels;
    const int64_t bytes = op->n * op->k * (int64_t)ls_dtype_bytes(op->dtype);
    const int threads = (int)ls_min(cpu->base.threads, 1 + bytes / DOT_WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n0 = 0; n0 < op->n; n0 += DOT_COLS) {
        float product[DOT_COLS];
        const int64_t n = ls_min(DOT_COLS, op->n - n0);
        kernels->dots(op->dtype, n, op->k, op->a, ls_at(op->dtype, op->b, n0 * op->ldb), op->ldb,
                      product);
        const void *residual = op->residual ? ls_at(op->c_dtype, op->residual, n0) : NULL;
        kernels->finish(product, DOT_COLS, 1, n, op->c_dtype, ls_at_mut(op->c_dtype, op->c, n0),
                        op->ldc, op->accumulate, op->bias ? (const float *)op->bias + n0 : NULL,
                        residual);
    }
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

void ls_cpu_gemm_needs(const ls_device *dev, const ls_device_limits *limits, size_t *shared_bytes,
                       size_t *scratch_bytes) {
    const ls_cpu_device *cpu = (const ls_cpu_device *)dev;
    int64_t largest = 1;
    const int64_t sizes[] = {limits->rows, limits->channels, limits->vocab};
    for (int i = 0; i < 3; i++) {
        largest = sizes[i] > largest ? sizes[i] : largest;
    }
    const bool tiles_f32 = ls_gemm_tile_for(cpu, LS_F32),
               tiles_bf16 = ls_gemm_tile_for(cpu, LS_BF16);
    if (tiles_f32 && !(limits->bf16 && tiles_bf16)) {
        ls_gemm_packed_bytes(cpu, LS_F32, limits, shared_bytes, scratch_bytes);
    }
    if (tiles_bf16) {
        ls_gemm_packed_bytes(cpu, LS_BF16, limits, shared_bytes, scratch_bytes);
    }
    /* Made apart; where there is a micro-kernel, only if they are small. */
    const bool panels_bf16 = !cpu->library_has_bf16 && (!tiles_bf16 || limits->bf16);
    if (!tiles_f32 || panels_bf16) {
        const size_t bytes = ls_gemm_panels_bytes(!panels_bf16, largest);
        *shared_bytes = bytes > *shared_bytes ? bytes : *shared_bytes;
    }
    if (cpu->library_has_bf16) { /* the library's own scratch comes on top when it is known */
        const ls_gemm_path large = ls_gemm_path_select(cpu->preference, cpu->isa, tiles_bf16, true,
                                                       LS_BF16, DIRECT_M, DIRECT_N, DIRECT_M);
        const int64_t most_m = large == LS_GEMM_MATMUL ? DIRECT_M : PANELS_LEAST;
        const size_t bytes = (size_t)(most_m * (DIRECT_N + PAD)) * sizeof(float);
        *scratch_bytes = bytes > *scratch_bytes ? bytes : *scratch_bytes;
    }
}

ls_status ls_cpu_gemm(ls_device *dev, const ls_gemm *op) {
    LS_TRY(check(dev, op));
    ls_cpu_device *cpu = (ls_cpu_device *)dev;
    if (op->m == 0 || op->n == 0) {
        return LS_OK;
    }
    if (op->act != LS_ACT_NONE) {
        const ls_gemm product = ls_gemm_product_part(op);
        LS_TRY(ls_cpu_gemm(dev, &product));
        return ls_gemm_act_part(dev, op);
    }
    if (op->k == 0) {
        return run_empty(cpu, op);
    }
    ls_gemm_path path = cpu->forced_path;
    if (path == LS_GEMM_AUTO && dots_suit(cpu, op)) {
        run_dots(cpu, op);
        return LS_OK;
    }
    if (path == LS_GEMM_AUTO) {
        path =
            ls_gemm_path_select(cpu->preference, cpu->isa, ls_gemm_tile_for(cpu, op->dtype) != NULL,
                                cpu->library_has_bf16, op->dtype, op->m, op->n, op->k);
    }
    if (path == LS_GEMM_PACKED) {
        return ls_gemm_tile_for(cpu, op->dtype)
                   ? ls_gemm_run_packed(cpu, op)
                   : LS_FAIL(LS_E_UNSUPPORTED, "gemm: no micro-kernel for %s at level %s",
                             ls_dtype_name(op->dtype), ls_isa_name(cpu->isa));
    }
    ls_gemm_sink sink = choose_sink(op, path);
    return path == LS_GEMM_PANELS ? ls_gemm_run_panels(cpu, op, sink)
                                  : run_direct(cpu, op, sink, path == LS_GEMM_MATMUL);
}
