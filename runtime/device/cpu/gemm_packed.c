/* Products of packed operands by our own micro-kernel (k_gemm_tile.h).
 *
 *                block of N                  For each block of C and each stretch of K in turn:
 *           +-----+-----+-----+-----+        all threads pack B together, in panels as wide as a
 *    strip  |tile |     |     |     |        tile; then they take strips of rows. For each piece of
 *           +-----+-----+-----+-----+        K its thread packs the strip's rows of A, which stay
 *           |     |     |     |     |        in its own cache, and multiplies tile by tile: a
 *           +-----+-----+-----+-----+        panel of B stays closest while it goes down the rows.
 *    strip  |     |     |     |     |
 *           +-----+-----+-----+-----+
 *
 * (Goto & van de Geijn 2008, doi 10.1145/1356052.1356053; Van Zee & van de Geijn 2015, doi
 * 10.1145/2764454.) What the threads pack together they fetch from each other's caches. Where C has
 * columns enough, each thread therefore takes a part of them for itself, with its own B: it packs
 * all of A, but waits for nobody, and packs a panel of B only when its first strip comes to it.
 * What a thread packs next is fetched into its second cache, some lines with each tile that it
 * multiplies: packing would otherwise wait for memory.
 *
 * Pieces of K depend on K alone, and an element of C is the sum of its pieces,
 * each summed in the order of K: so the rest of the blocking, which looks at the number of threads
 * too, cannot change a bit of it, and neither can other rows and columns. */
#include "runtime/device/cpu/device_cpu.h"

#include <omp.h>
#include <string.h>

#define BLOCK_M_KEPT 2016                      /* rows, when sums are kept between stretches of K */
#define B_WORDS      ((int64_t)3072 * 384 * 2) /* of a stretch */
#define TILE_ELEMS   1024                      /* at least rows x cols of every level's tile */

typedef struct packed_run {
    ls_cpu_device *cpu;
    const ls_gemm *op;
    const ls_gemm_tile *tile;
    int64_t per_word;              /* elements along K in a word */
    int64_t words, piece, stretch; /* K in words; piece: one of equal ones; stretch: of pieces */
    int64_t block_m, block_n;
    int64_t parts;    /* of C's columns, each of which a thread has for itself; 1: none has */
    bool kept;        /* sums are kept in fp32 apart from C, which is bf16, between pieces */
    bool kept_shared; /* and between stretches, in shared memory, else in the thread's scratch */
    int64_t panel_a, panel_b; /* words of one panel, one piece deep */
    int64_t strip_a;          /* words of a strip's panels, one piece deep */
    uint32_t *b;              /* [pieces of a stretch][panels of block_n] panels; of each part */
    float *sums;              /* [tiles of a block] tiles */
} packed_run;

/* A block of C and a stretch of K; k in words. */
typedef struct packed_block {
    int64_t m0, n0, k0, m, n, k;
} packed_block;

/* A strip of a block: panels of A [first, last), panels of B [left, right), and its memory. */
typedef struct packed_strip {
    int64_t first, last, left, right;
    int64_t next; /* the first panel of A of the thread's next strip, most likely */
    bool packs_b; /* its panels of B, each piece of them when it comes to it */
    uint32_t *a;
    float *sums; /* tiles of a panel of B one after the other: as they are multiplied */
} packed_strip;

/* A piece of K of lanes of an operand, as they lie. */
typedef struct packed_source {
    const char *corner;
    int64_t ld, lanes, k; /* in elements; lanes 0 or less: nothing */
    bool rows;            /* lanes are rows, else columns */
} packed_source;

/* The same while it is fetched: rows that are left, of `bytes` each, from byte `at` of the first
 * on. */
typedef struct packed_fetch {
    const char *row;
    int64_t stride, rows, bytes, at;
    int64_t lines; /* at a time */
} packed_fetch;

static int64_t pieces_of(int64_t size, int64_t piece) {
    return (size - 1) / piece + 1;
}

/* Elements of K in words [k0, k0 + words). */
static int64_t depth(const packed_run *run, int64_t k0, int64_t words) {
    return ls_min(words * run->per_word, run->op->k - k0 * run->per_word);
}

/* One panel of B, the piece of K from k0 on. */
static packed_source source_b(const packed_run *run, packed_block b, int64_t panel, int64_t k0) {
    const ls_gemm *op = run->op;
    int64_t cols = run->tile->cols, n0 = b.n0 + panel * cols, row = k0 * run->per_word;
    int64_t corner = op->trans_b ? n0 * op->ldb + row : row * op->ldb + n0;
    return (packed_source){.corner = ls_at(op->dtype, op->b, corner),
                           .ld = op->ldb,
                           .lanes = ls_min(cols, b.n - panel * cols),
                           .k = depth(run, k0, ls_min(run->piece, b.k0 + b.k - k0)),
                           .rows = op->trans_b};
}

/* Where its copy is. */
static uint32_t *panel_b(const packed_run *run, packed_block b, int64_t panel, int64_t k0) {
    int64_t piece = (k0 - b.k0) / run->piece, panels = pieces_of(b.n, run->tile->cols);
    return run->b + (piece * panels + panel) * run->panel_b;
}

static void pack_b(const packed_run *run, packed_block b, int64_t panel, int64_t k0) {
    const ls_gemm_tile *t = run->tile;
    const packed_source from = source_b(run, b, panel, k0);
    t->pack_b(from.rows, from.corner, from.ld, from.lanes, from.k, t->cols, t->b_width,
              panel_b(run, b, panel, k0), run->panel_b);
}

/* Panels of A from `first` on, `panels` of them at most, the piece of K from k0 on. */
static packed_source source_a(const packed_run *run, packed_block b, int64_t first, int64_t panels,
                              int64_t k0) {
    const ls_gemm *op = run->op;
    int64_t rows = run->tile->rows, m0 = b.m0 + first * rows, col = k0 * run->per_word;
    int64_t corner = op->trans_a ? col * op->lda + m0 : m0 * op->lda + col;
    return (packed_source){.corner = ls_at(op->dtype, op->a, corner),
                           .ld = op->lda,
                           .lanes = ls_min(panels * rows, b.m - first * rows),
                           .k = depth(run, k0, ls_min(run->piece, b.k0 + b.k - k0)),
                           .rows = !op->trans_a};
}

static packed_fetch fetch_begin(const packed_run *run, packed_source from, int64_t times) {
    int64_t elem = (int64_t)ls_dtype_bytes(run->op->dtype);
    int64_t rows = from.rows ? from.lanes : from.k,
            bytes = elem * (from.rows ? from.k : from.lanes);
    return (packed_fetch){.row = from.corner,
                          .stride = from.ld * elem,
                          .rows = from.lanes > 0 ? rows : 0,
                          .bytes = bytes,
                          .lines = rows * pieces_of(bytes, 64) / times + 1};
}

static void fetch_some(packed_fetch *f) {
    for (int64_t n = 0; n < f->lines && f->rows > 0; n++) {
        __builtin_prefetch(f->row + f->at, 0, 2);
        f->at += 64;
        if (f->at >= f->bytes) {
            f->at = 0;
            f->row += f->stride;
            f->rows--;
        }
    }
}

/* One tile, one piece of K. first, last: of all pieces. */
static void run_tile(const packed_run *run, packed_block b, int64_t i, int64_t j,
                     const uint32_t *panel_a, const uint32_t *panel_b, int64_t words, bool first,
                     bool last, float *kept) {
    const ls_gemm *op = run->op;
    const ls_gemm_tile *t = run->tile;
    int64_t rows = ls_min(t->rows, b.m - i * t->rows);
    int64_t cols = ls_min(t->cols, b.n - j * t->cols);
    int64_t n0 = b.n0 + j * t->cols, corner = (b.m0 + i * t->rows) * op->ldc + n0;
    void *c = ls_at_mut(op->c_dtype, op->c, corner);
    /* What is added once comes with the one piece that C is made from, or with the first. */
    bool once = run->kept ? last : first;
    bool add_c = op->accumulate || !once;
    bool finished = once && (op->bias || op->residual);
    if (run->kept && !last) {
        t->multiply(rows, words, panel_a, panel_b, first ? NULL : kept, t->cols, kept, t->cols);
        return;
    }
    if (op->c_dtype == LS_F32 && rows == t->rows && cols == t->cols && !finished) {
        t->multiply(rows, words, panel_a, panel_b, add_c ? c : NULL, op->ldc, c, op->ldc);
        return;
    }
    _Alignas(64) float product[TILE_ELEMS];
    for (int64_t row = 0; row < rows; row++) {
        __builtin_prefetch(ls_at(op->c_dtype, c, row * op->ldc), 1);
    }
    const float *add = run->kept && !first ? kept : NULL;
    if (add_c && !finished && op->c_dtype == LS_F32) { /* added where whole tiles have it added */
        for (int64_t row = 0; row < rows; row++) {
            memcpy(product + row * t->cols, (float *)c + row * op->ldc,
                   (size_t)cols * sizeof(float));
        }
        add = product;
        add_c = false;
    }
    t->multiply(rows, words, panel_a, panel_b, add, t->cols, product, t->cols);
    const float *bias = once && op->bias ? (const float *)op->bias + n0 : NULL;
    const void *residual = once && op->residual ? ls_at(op->c_dtype, op->residual, corner) : NULL;
    run->cpu->gemm_kernels->finish(product, t->cols, rows, cols, op->c_dtype, c, op->ldc, add_c,
                                   bias, residual);
}

/* A strip's panels of A with one panel of B, the piece of K from k0 on; next_a and next_b come
 * nearer meanwhile. */
static void run_panels(const packed_run *run, packed_block b, const packed_strip *s, int64_t j,
                       int64_t k0, packed_fetch *next_a, packed_fetch *next_b) {
    const ls_gemm_tile *t = run->tile;
    int64_t words = ls_min(run->piece, b.k0 + b.k - k0);
    const uint32_t *copy = panel_b(run, b, j, k0);
    float *sums = s->sums + j * (s->last - s->first) * t->rows * t->cols;
    for (int64_t i = 0; i < s->last - s->first; i++) {
        fetch_some(next_a);
        fetch_some(next_b);
        run_tile(run, b, s->first + i, j, s->a + i * run->panel_a, copy, words, k0 == 0,
                 k0 + words == run->words, sums + i * t->rows * t->cols);
    }
}

static void run_strip(const packed_run *run, packed_block b, const packed_strip *s) {
    const ls_gemm_tile *t = run->tile;
    int64_t panels = s->last - s->first, end = b.k0 + b.k;
    for (int64_t k0 = b.k0; k0 < end; k0 += run->piece) {
        const packed_source a = source_a(run, b, s->first, panels, k0);
        t->pack_a(a.rows, a.corner, a.ld, a.lanes, a.k, t->rows, t->a_width, s->a, run->panel_a);
        int64_t k1 = k0 + run->piece;
        packed_fetch next_a = fetch_begin(run,
                                          k1 < end ? source_a(run, b, s->first, panels, k1)
                                                   : source_a(run, b, s->next, panels, b.k0),
                                          panels * (s->right - s->left));
        for (int64_t j = s->left; j < s->right; j++) {
            packed_fetch next_b = {0};
            if (s->packs_b) {
                pack_b(run, b, j, k0);
            }
            if (s->packs_b && j + 1 < s->right) {
                next_b = fetch_begin(run, source_b(run, b, j + 1, k0), panels);
            } else if (s->packs_b && k1 < end) {
                next_b = fetch_begin(run, source_b(run, b, s->left, k1), panels);
            }
            run_panels(run, b, s, j, k0, &next_a, &next_b);
        }
    }
}

/* Strip `strip` of `strips`, part `part` of `parts` of its columns; the thread's next strip is
 * `step` further, most likely. */
static void run_part_of_strip(const packed_run *run, packed_block b, int64_t strip, int64_t strips,
                              int64_t part, int64_t parts, int64_t step, bool packs_b) {
    const ls_gemm_tile *t = run->tile;
    int64_t tiles_m = pieces_of(b.m, t->rows), tiles_n = pieces_of(b.n, t->cols);
    char *scratch = ls_cpu_scratch(&run->cpu->base, omp_get_thread_num());
    packed_strip s = {.first = tiles_m * strip / strips,
                      .last = tiles_m * (strip + 1) / strips,
                      .left = tiles_n * part / parts,
                      .right = tiles_n * (part + 1) / parts,
                      .next = tiles_m * (strip + step) / strips,
                      .packs_b = packs_b,
                      .a = (uint32_t *)(void *)scratch};
    s.sums = run->kept_shared ? run->sums + s.first * tiles_n * t->rows * t->cols
                              : (float *)(void *)(s.a + run->strip_a);
    run_strip(run, b, &s);
}

/* One thread's share of a block; all threads of the region call it. */
static void run_block(const packed_run *run, packed_block b, int64_t threads) {
    const ls_gemm_tile *t = run->tile;
    int64_t tiles_m = pieces_of(b.m, t->rows), tiles_n = pieces_of(b.n, t->cols);
    int64_t pieces = pieces_of(b.k, run->piece);
#pragma omp for schedule(dynamic, 4)
    for (int64_t i = 0; i < tiles_n * pieces; i++) {
        pack_b(run, b, i % tiles_n, b.k0 + i / tiles_n * run->piece);
    }
    /* Equal shares for all threads; where rows are too few for that, columns are cut too. */
    int64_t rounds = pieces_of(tiles_m, threads * t->strip_panels);
    int64_t strips = ls_min(tiles_m, rounds * threads);
    int64_t parts = ls_min(tiles_n, strips < threads ? pieces_of(threads, strips) : 1);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < strips * parts; i++) {
        run_part_of_strip(run, b, i / parts, strips, i % parts, parts, pieces_of(threads, parts),
                          false);
    }
}

/* A block that no other thread has a share of. */
static void run_own_block(const packed_run *run, packed_block b) {
    int64_t strips = pieces_of(pieces_of(b.m, run->tile->rows), run->tile->strip_panels);
    for (int64_t strip = 0; strip < strips; strip++) {
        run_part_of_strip(run, b, strip, strips, 0, 1, 1, strip == 0);
    }
}

/* Columns [left, right) of C. */
static void run_blocks(const packed_run *run, int64_t threads, int64_t left, int64_t right) {
    const ls_gemm *op = run->op;
    for (int64_t n0 = left; n0 < right; n0 += run->block_n) {
        for (int64_t m0 = 0; m0 < op->m; m0 += run->block_m) {
            for (int64_t k0 = 0; k0 < run->words; k0 += run->stretch) {
                const packed_block block = {.m0 = m0,
                                            .n0 = n0,
                                            .k0 = k0,
                                            .m = ls_min(run->block_m, op->m - m0),
                                            .n = ls_min(run->block_n, right - n0),
                                            .k = ls_min(run->stretch, run->words - k0)};
                if (threads == 1) {
                    run_own_block(run, block);
                } else {
                    run_block(run, block, threads);
                }
            }
        }
    }
}

/* The parts that fall to a thread: one, unless the region has fewer threads than parts. */
static void run_parts(const packed_run *run, int64_t b_words) {
    const int64_t cols = run->tile->cols, tiles_n = pieces_of(run->op->n, cols);
    for (int64_t part = omp_get_thread_num(); part < run->parts; part += omp_get_num_threads()) {
        packed_run own = *run;
        own.b += part * b_words;
        run_blocks(&own, 1, tiles_n * part / run->parts * cols,
                   ls_min(tiles_n * (part + 1) / run->parts * cols, run->op->n));
    }
}

/* Threads have columns to themselves where the copies of A that each then makes are no more than
 * its share of the copies of B: 2 threads for C[768,3072], not for C[3072,768]. Sums that are kept
 * apart from C may be for all threads. */
static int64_t parts_of(const packed_run *run, int64_t threads) {
    const ls_gemm *op = run->op;
    const int64_t tiles_n = pieces_of(op->n, run->tile->cols);
    const bool fits = B_WORDS / threads >= run->piece * run->tile->cols;
    const bool wide = op->n >= (threads - 1) * op->m && tiles_n >= threads;
    return wide && fits && !run->kept ? threads : 1;
}

/* Sizes of all but the strips, from the shape and, for B, the threads. */
static void lay_out(packed_run *run, int64_t threads) {
    const ls_gemm *op = run->op;
    const ls_gemm_tile *t = run->tile;
    run->per_word = op->dtype == LS_BF16 ? 2 : 1;
    run->words = pieces_of(op->k, run->per_word);
    run->piece = ls_gemm_split(run->words, t->piece_words, 16);
    run->kept = op->c_dtype != LS_F32 && run->words > run->piece;
    run->parts = parts_of(run, threads);
    const int64_t b_words = B_WORDS / run->parts;
    const int64_t part_n = pieces_of(pieces_of(op->n, t->cols), run->parts) * t->cols;
    int64_t most_n = ls_min(run->kept ? t->block_n_kept : t->block_n, b_words / run->piece);
    run->block_n = ls_gemm_split(ls_min(part_n, op->n), most_n / t->cols * t->cols, t->cols);
    int64_t pieces = b_words / (run->block_n * run->piece);
    run->stretch = ls_gemm_split(run->words, pieces * run->piece, run->piece);
    run->kept_shared = run->kept && run->stretch < run->words;
    run->block_m = run->kept_shared ? ls_min(BLOCK_M_KEPT / t->rows * t->rows, op->m) : op->m;
    run->panel_a = run->piece * t->a_width;
    run->panel_b = run->piece * t->b_width;
    run->strip_a = t->strip_panels * run->panel_a;
}

const ls_gemm_tile *ls_gemm_tile_for(const ls_cpu_device *cpu, ls_dtype dtype) {
    const ls_gemm_tile *tile = dtype == LS_BF16 ? &cpu->gemm_tiles->bf16 : &cpu->gemm_tiles->f32;
    return tile->rows > 0 ? tile : NULL;
}

static size_t most(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Raises both to what products with C[m,n] over k need, in parts of the columns or without. */
static void add_shape(const ls_gemm_tile *t, ls_dtype dtype, int64_t threads, int64_t m, int64_t n,
                      int64_t k, size_t *shared_bytes, size_t *scratch_bytes) {
    if (m < 1 || n < 1 || k < 1) {
        return;
    }
    const int64_t words = dtype == LS_BF16 ? pieces_of(k, 2) : k;
    const int64_t pieces = pieces_of(words, t->piece_words);
    const int64_t piece = ls_min(t->piece_words, words + 15);
    const int64_t block_n = ls_min(n, threads * t->block_n) + threads * t->cols;
    const int64_t b_words = ls_min(block_n * (words + 16 * pieces), B_WORDS);
    int64_t sums = 0, shared_sums = 0;
    if (dtype == LS_BF16 && pieces > 1) { /* kept, if C is bf16 too */
        const int64_t kept_n = ls_min(t->block_n_kept, n + t->cols);
        sums = kept_n * t->rows;
        shared_sums =
            words > B_WORDS / t->block_n_kept / 2 ? ls_min(BLOCK_M_KEPT, m + t->rows) * kept_n : 0;
    }
    *shared_bytes = most(*shared_bytes, (size_t)(b_words + shared_sums) * 4);
    *scratch_bytes =
        most(*scratch_bytes, (size_t)(t->strip_panels * (piece * t->a_width + sums)) * 4);
}

/* Matrices of wide x inner, and of the vocabulary, with rows of activations, forward, backward and
 * for gradients; and with each other (Muon). Experts may get more rows than there are, but not than
 * a block has. */
void ls_gemm_packed_bytes(const ls_cpu_device *cpu, ls_dtype dtype, const ls_device_limits *limits,
                          size_t *shared_bytes, size_t *scratch_bytes) {
    const ls_gemm_tile *t = ls_gemm_tile_for(cpu, dtype);
    const int64_t rows = limits->rows, wide = limits->channels, vocab = limits->vocab;
    const int64_t inner = limits->inner > 0 ? limits->inner : wide;
    const int64_t shapes[][3] = {{BLOCK_M_KEPT, wide, inner}, {BLOCK_M_KEPT, inner, wide},
                                 {wide, inner, rows},         {inner, wide, rows},
                                 {rows, vocab, inner},        {rows, inner, vocab},
                                 {vocab, inner, rows},        {inner, vocab, rows}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        add_shape(t, dtype, cpu->base.threads, shapes[i][0], shapes[i][1], shapes[i][2],
                  shared_bytes, scratch_bytes);
    }
}

ls_status ls_gemm_run_packed(ls_cpu_device *cpu, const ls_gemm *op) {
    packed_run run = {.cpu = cpu, .op = op, .tile = ls_gemm_tile_for(cpu, op->dtype)};
    const ls_gemm_tile *t = run.tile;
    int64_t tiles = pieces_of(op->m, t->rows) * pieces_of(op->n, t->cols);
    int threads = ls_gemm_threads(&cpu->base, op, tiles);
    lay_out(&run, threads);
    int64_t tile = t->rows * t->cols, tiles_n = pieces_of(run.block_n, t->cols);
    int64_t b_words = run.stretch / run.piece * tiles_n * run.panel_b; /* of a part */
    int64_t shared_sums = run.kept_shared ? pieces_of(run.block_m, t->rows) * tiles_n * tile : 0;
    int64_t own_sums = run.kept && !run.kept_shared ? t->strip_panels * tiles_n * tile : 0;
    void *memory;
    LS_TRY(ls_cpu_shared(&cpu->base, (size_t)(run.parts * b_words + shared_sums) * 4, &memory));
    LS_TRY(ls_cpu_scratch_need(&cpu->base, (size_t)(run.strip_a + own_sums) * 4));
    run.b = memory;
    run.sums = (float *)memory + run.parts * b_words;
#pragma omp parallel num_threads(threads)
    {
        if (t->begin) {
            t->begin();
        }
        if (run.parts > 1) {
            run_parts(&run, b_words);
        } else {
            run_blocks(&run, omp_get_num_threads(), 0, op->n);
        }
        if (t->end) {
            t->end();
        }
    }
    return LS_OK;
}
