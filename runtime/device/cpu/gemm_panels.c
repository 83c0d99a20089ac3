/* Products of fp32 panels.
 *
 *            n block (at most BLOCK_N columns of tiles)
 *           +-------+-------+-------+
 *   m block | tile  |       |       |     For each block of C and each stretch of K in turn, all
 *           +-------+-------+-------+     threads first pack the panels of A (for the rows of
 * tiles) |       |       |       |     and of B (for the columns), then multiply tile by tile.
 *           +-------+-------+-------+     A stretch is as long as the panels' memory allows.
 *
 * Panels are small and their rows are padded so that they do not fall into the same sets of the
 * cache: dnnl_sgemm then runs at nearly its best speed on small tiles too, where on the operands as
 * they lie it needs large ones. Panels are never stored transposed: of the four forms of a product,
 * that one is the fastest, and transposing while copying costs little. */
#include "runtime/device/cpu/device_cpu.h"

#define TILE_M        128
#define TILE_N        384
#define TILE_K        384
#define BLOCK_M       4096
#define BLOCK_M_APART 2048 /* when the product of a block is kept apart from C */
#define BLOCK_N       3072
#define PANELS_ELEMS  ((int64_t)6 << 20) /* of a stretch, as long as one piece of K fits */
#define PAD           16                 /* elements; a cache line */

typedef struct panels_run {
    ls_cpu_device *cpu;
    const ls_gemm *op;
    ls_gemm_sink sink;
    int64_t tile_m, tile_n, tile_k;
    int64_t block_m, block_n, stretch_k;  /* multiples of the tile's */
    int64_t panel_a_elems, panel_b_elems; /* of one panel: a tile's rows or columns, tile_k deep */
    int64_t panels_a_elems, panels_b_elems; /* of all */
    int64_t lda, ldb, ldc;                  /* of panels, and of the product when not in place */
    float *a, *b, *product;
} panels_run;

/* A block of C and a stretch of K, in elements. */
typedef struct panels_block {
    int64_t m0, n0, k0, m, n, k;
} panels_block;

int64_t ls_gemm_split(int64_t size, int64_t most, int64_t multiple) {
    int64_t pieces = (size - 1) / most + 1;
    int64_t piece = (size - 1) / pieces + 1;
    return (piece - 1) / multiple * multiple + multiple;
}

/* Copies rows [row, row + rows) and columns [col, col + cols) of an operand as stored. */
static void pack(const panels_run *run, const void *operand, int64_t ld, bool trans, int64_t row,
                 int64_t col, int64_t rows, int64_t cols, float *panel, int64_t ld_panel) {
    ls_dtype dtype = run->op->dtype;
    run->cpu->gemm_kernels->pack(dtype, trans, ls_at(dtype, operand, row * ld + col), ld, rows,
                                 cols, panel, ld_panel);
}

/* Panels lie by tile, then by piece of K. */
static float *panel_a(const panels_run *run, int64_t tile, int64_t piece) {
    return run->a + (tile * (run->stretch_k / run->tile_k) + piece) * run->panel_a_elems;
}

static float *panel_b(const panels_run *run, int64_t tile, int64_t piece) {
    return run->b + (tile * (run->stretch_k / run->tile_k) + piece) * run->panel_b_elems;
}

static void pack_a(const panels_run *run, panels_block b, int64_t tile, int64_t piece) {
    const ls_gemm *op = run->op;
    int64_t m0 = tile * run->tile_m, k0 = piece * run->tile_k;
    int64_t m = ls_min(run->tile_m, b.m - m0), k = ls_min(run->tile_k, b.k - k0);
    m0 += b.m0;
    k0 += b.k0;
    float *panel = panel_a(run, tile, piece);
    if (op->trans_a) {
        pack(run, op->a, op->lda, true, k0, m0, k, m, panel, run->lda);
    } else {
        pack(run, op->a, op->lda, false, m0, k0, m, k, panel, run->lda);
    }
}

static void pack_b(const panels_run *run, panels_block b, int64_t tile, int64_t piece) {
    const ls_gemm *op = run->op;
    int64_t n0 = tile * run->tile_n, k0 = piece * run->tile_k;
    int64_t n = ls_min(run->tile_n, b.n - n0), k = ls_min(run->tile_k, b.k - k0);
    n0 += b.n0;
    k0 += b.k0;
    float *panel = panel_b(run, tile, piece);
    if (op->trans_b) {
        pack(run, op->b, op->ldb, true, n0, k0, n, k, panel, run->ldb);
    } else {
        pack(run, op->b, op->ldb, false, k0, n0, k, n, panel, run->ldb);
    }
}

static int multiply(const panels_run *run, panels_block b, int64_t tile_row, int64_t tile_col) {
    const ls_gemm *op = run->op;
    int64_t m0 = tile_row * run->tile_m, n0 = tile_col * run->tile_n;
    int64_t m = ls_min(run->tile_m, b.m - m0), n = ls_min(run->tile_n, b.n - n0);
    int64_t corner = (b.m0 + m0) * op->ldc + b.n0 + n0;
    void *c = ls_at_mut(op->c_dtype, op->c, corner);
    bool in_place = run->sink.in_place;
    float *product = in_place ? c : run->product + m0 * run->ldc + n0;
    int64_t ld = in_place ? op->ldc : run->ldc;
    float beta = b.k0 > 0 ? 1.0f : in_place ? run->sink.beta : 0.0f;
    for (int64_t k0 = 0, piece = 0; k0 < b.k; k0 += run->tile_k, piece++) {
        int failed = ls_dnnl_sgemm(false, false, m, n, ls_min(run->tile_k, b.k - k0),
                                   panel_a(run, tile_row, piece), run->lda,
                                   panel_b(run, tile_col, piece), run->ldb, beta, product, ld);
        if (failed) {
            return failed;
        }
        beta = 1.0f;
    }
    bool last = b.k0 + b.k == op->k;
    if (!last || (in_place && !op->bias && !run->sink.residual)) {
        return 0;
    }
    const float *bias = op->bias ? (const float *)op->bias + b.n0 + n0 : NULL;
    const void *residual =
        run->sink.residual ? ls_at(op->c_dtype, run->sink.residual, corner) : NULL;
    run->cpu->gemm_kernels->finish(product, ld, m, n, op->c_dtype, c, op->ldc, run->sink.add_c,
                                   bias, residual);
    return 0;
}

/* One thread's share of a block; all threads of the region call it. Returns the last failure. */
static int run_block(const panels_run *run, panels_block b) {
    int64_t rows = (b.m - 1) / run->tile_m + 1, cols = (b.n - 1) / run->tile_n + 1;
    int64_t pieces = (b.k - 1) / run->tile_k + 1;
    int failed = 0;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < (rows + cols) * pieces; i++) {
        int64_t panel = i / pieces, piece = i % pieces;
        if (panel < cols) {
            pack_b(run, b, panel, piece);
        } else {
            pack_a(run, b, panel - cols, piece);
        }
    }
    /* Down the rows first: the panels of a column serve one tile after another. */
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < rows * cols; i++) {
        int status = multiply(run, b, i % rows, i / rows);
        failed = status ? status : failed;
    }
    return failed;
}

static int run_blocks(const panels_run *run) {
    const ls_gemm *op = run->op;
    int failed = 0;
    for (int64_t n0 = 0; n0 < op->n; n0 += run->block_n) {
        for (int64_t m0 = 0; m0 < op->m; m0 += run->block_m) {
            for (int64_t k0 = 0; k0 < op->k; k0 += run->stretch_k) {
                const panels_block block = {.m0 = m0,
                                            .n0 = n0,
                                            .k0 = k0,
                                            .m = ls_min(run->block_m, op->m - m0),
                                            .n = ls_min(run->block_n, op->n - n0),
                                            .k = ls_min(run->stretch_k, op->k - k0)};
                int status = run_block(run, block);
                failed = status ? status : failed;
            }
        }
    }
    return failed;
}

/* Sizes, from the shape alone; returns the elements of shared memory. */
static int64_t lay_out(panels_run *run, int64_t m, int64_t n, int64_t k) {
    bool in_place = run->sink.in_place;
    run->tile_m = ls_gemm_split(m, TILE_M, 8);
    run->tile_n = ls_gemm_split(n, TILE_N, PAD);
    run->tile_k = ls_gemm_split(k, TILE_K, PAD);
    int64_t most_m = in_place ? BLOCK_M : BLOCK_M_APART;
    run->block_m = ls_gemm_split(m, most_m / run->tile_m * run->tile_m, run->tile_m);
    run->block_n = ls_gemm_split(n, BLOCK_N / run->tile_n * run->tile_n, run->tile_n);
    run->lda = run->tile_k + PAD;
    run->ldb = run->tile_n + PAD;
    run->ldc = run->block_n + PAD;
    run->panel_a_elems = run->tile_m * run->lda;
    run->panel_b_elems = run->tile_k * run->ldb;
    int64_t rows = run->block_m / run->tile_m, cols = run->block_n / run->tile_n;
    int64_t piece_elems = rows * run->panel_a_elems + cols * run->panel_b_elems;
    int64_t pieces = PANELS_ELEMS > piece_elems ? PANELS_ELEMS / piece_elems : 1;
    run->stretch_k = ls_gemm_split(k, pieces * run->tile_k, run->tile_k);
    pieces = run->stretch_k / run->tile_k;
    run->panels_a_elems = rows * pieces * run->panel_a_elems;
    run->panels_b_elems = cols * pieces * run->panel_b_elems;
    return run->panels_a_elems + run->panels_b_elems + (in_place ? 0 : run->block_m * run->ldc);
}

size_t ls_gemm_panels_bytes(bool in_place, int64_t largest) {
    panels_run run = {.sink = {.in_place = in_place}};
    int64_t elems = lay_out(&run, largest, largest, largest);
    /* Where a stretch is cut short, a narrower product may have a longer one. */
    int64_t panels = run.panels_a_elems + run.panels_b_elems;
    int64_t most = run.stretch_k < largest ? PANELS_ELEMS : panels;
    return (size_t)(elems - panels + most) * sizeof(float);
}

ls_status ls_gemm_run_panels(ls_cpu_device *cpu, const ls_gemm *op, ls_gemm_sink sink) {
    panels_run run = {.cpu = cpu, .op = op, .sink = sink};
    int64_t elems = lay_out(&run, op->m, op->n, op->k);
    void *memory;
    LS_TRY(ls_cpu_shared(&cpu->base, (size_t)elems * sizeof(float), &memory));
    run.a = memory;
    run.b = run.a + run.panels_a_elems;
    run.product = run.b + run.panels_b_elems;
    int64_t tiles = (run.block_m / run.tile_m) * (run.block_n / run.tile_n);
    int threads = ls_gemm_threads(&cpu->base, op, tiles), failed = 0;
#pragma omp parallel num_threads(threads) reduction(max : failed)
    {
        ls_dnnl_use_one_thread();
        failed = run_blocks(&run);
    }
    return ls_dnnl_check(failed, "matrix product");
}
