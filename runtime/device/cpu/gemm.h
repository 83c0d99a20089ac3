/* Matrix products of the CPU device.
 *
 * Where the level has a micro-kernel of ours, it multiplies packed operands (gemm_packed.c);
 * elsewhere, and for small products, oneDNN does: C is cut into tiles whose sizes depend only on
 * the shape and the path; each tile is one task of one thread, in which oneDNN runs
 * single-threaded. So the number of threads cannot change a bit of the result. What a
 * multiplication does not do (bias, residual, adding to C, conversion) is done on the tile while it
 * is in the cache of the thread that made it. For one row of A by rows of B (generation) a kernel
 * of the level reads B where it lies (k_gemm_dots.h). */
#ifndef LS_DEVICE_CPU_GEMM_H
#define LS_DEVICE_CPU_GEMM_H

#include "runtime/base/cpu.h"
#include "runtime/device/cpu/isa.h"
#include "runtime/device/device.h"

/* How a product is computed. */
typedef enum ls_gemm_path {
    LS_GEMM_AUTO,   /* as ls_gemm_path_select says */
    LS_GEMM_PANELS, /* operands are copied, or widened from bf16 (exact), into fp32 panels that all
                     * threads share and whose leading dimensions suit the cache; dnnl_sgemm of
                     * panels (gemm_panels.c) */
    LS_GEMM_PACKED, /* both operands are packed for the micro-kernels of the level, where it has one
                     * for dtype (gemm_packed.c) */
    LS_GEMM_SGEMM,  /* dnnl_sgemm of fp32 operands where they lie */
    LS_GEMM_MATMUL, /* oneDNN matmul primitives: bf16 where the processor multiplies it */
} ls_gemm_path;

/* Whose products are taken where there are several (LOCKSTEP_GEMM). */
typedef enum ls_gemm_preference {
    LS_GEMM_FASTEST, /* what was measured to be (benchmarks/README.md has the rows) */
    LS_GEMM_OWN,     /* "packed": our micro-kernels wherever the level has one */
    LS_GEMM_LIBRARY, /* "library": oneDNN's, but for small ones of bf16 */
} ls_gemm_preference;

/* The path for op(A) [m, k] and op(B) [k, n], k > 0, of dtype LS_F32 or LS_BF16. has_tile: the
 * level has a micro-kernel for dtype (ls_gemm_tile_for). library_has_bf16: oneDNN has an optimised
 * bf16 matmul at this level (ls_dnnl_has_fast_bf16). */
ls_gemm_path ls_gemm_path_select(ls_gemm_preference preference, ls_isa isa, bool has_tile,
                                 bool library_has_bf16, ls_dtype dtype, int64_t m, int64_t n,
                                 int64_t k);
/* What LOCKSTEP_GEMM says; LS_E_CONFIG when it is neither word. */
ls_status ls_gemm_preference_read(ls_gemm_preference *preference);

/* size > 0 cut into as few pieces of at most `most` as will do, nearly equal, multiples of
 * `multiple` (which divides most). Returns the size of a piece; the last one may be smaller. */
int64_t ls_gemm_split(int64_t size, int64_t most, int64_t multiple);

/* What a level of kernels supplies (k_gemm_panel.c). */
typedef struct ls_gemm_kernels {
    /* dst fp32 = src [rows, ld_src] of dtype, cols columns: dst [rows, ld_dst], or with trans
     * dst [cols, ld_dst]. */
    void (*pack)(ls_dtype dtype, bool trans, const void *src, int64_t ld_src, int64_t rows,
                 int64_t cols, float *dst, int64_t ld_dst);
    /* c [rows, ldc] (c_dtype) = product [rows, ld_product] fp32 (+ c if add_c) (+ bias [cols])
     * (+ residual [rows, ldc] c_dtype). product may be c itself when c is fp32, residual too. */
    void (*finish)(const float *product, int64_t ld_product, int64_t rows, int64_t cols,
                   ls_dtype c_dtype, void *c, int64_t ldc, bool add_c, const float *bias,
                   const void *residual);
    /* product [cols] = the products of a [k] with each of cols rows of b [cols, ldb] of dtype; each
     * is summed in an order that depends on k alone. */
    void (*dots)(ls_dtype dtype, int64_t cols, int64_t k, const void *a, const void *b, int64_t ldb,
                 float *product);
} ls_gemm_kernels;

/* Panels of `step` lanes each, panel_words apart, from src with k elements a lane: `rows`: lanes
 * are rows of src, else columns. What a panel lacks of lanes is unspecified, of k is zero. */
typedef void ls_gemm_pack(bool rows, const void *src, int64_t ld, int64_t lanes, int64_t k,
                          int64_t step, int64_t width, uint32_t *dst, int64_t panel_words);

/* A micro-kernel and the copies that it reads (k_gemm_tile.c). A word holds one fp32 element, or
 * two bf16 elements that are neighbours along k; a panel holds as many lanes (rows of A, columns of
 * B) as a tile has, in [words][width] or in an order of the micro-kernel's own that has room in as
 * many words when K is rounded up to 16 words. */
typedef struct ls_gemm_tile {
    int64_t rows, cols;       /* of a tile of C; 0: the level has no such micro-kernel */
    int64_t a_width, b_width; /* words between steps of a panel: at least rows, cols */
    /* Blocking (gemm_packed.c): words of a piece of K at most, a multiple of 16; columns of a block
     * at most, and when sums of a strip are kept between pieces; panels of A in a strip at most. */
    int64_t piece_words, block_n, block_n_kept, strip_panels;
    ls_gemm_pack *pack_a, *pack_b;
    /* product [tile.rows, ld] = A B (+ add [tile.rows, ld_add] unless NULL; may be product), each
     * element summed in the order of k. The first `rows` > 0 of the tile's rows count; others may
     * be made too, or left as they are. */
    void (*multiply)(int64_t rows, int64_t words, const uint32_t *a, const uint32_t *b,
                     const float *add, int64_t ld_add, float *product, int64_t ld);
    void (*begin)(void), (*end)(void); /* in each thread, around calls of multiply; or NULL */
} ls_gemm_tile;

typedef struct ls_gemm_tiles {
    ls_gemm_tile f32, bf16;
} ls_gemm_tiles;

/* How the old C, bias and residual come into a product: made in C itself (fp32), with beta times
 * what was there, or apart and then added by finish. */
typedef struct ls_gemm_sink {
    bool in_place;
    float beta;
    bool add_c;           /* for finish */
    const void *residual; /* for finish; NULL when beta covers it */
} ls_gemm_sink;

struct ls_cpu_device;

/* Threads that are worth waking for a product of so many tiles. */
int ls_gemm_threads(const ls_device *dev, const ls_gemm *op, int64_t tiles);

/* gemm_panels.c: checked operations with m, n, k > 0. */
ls_status ls_gemm_run_panels(struct ls_cpu_device *cpu, const ls_gemm *op, ls_gemm_sink sink);
/* Shared memory that it takes for products with no size above `largest` > 0. */
size_t ls_gemm_panels_bytes(bool in_place, int64_t largest);

/* gemm_packed.c: the tile of the device's level, NULL where it has none for dtype. */
const ls_gemm_tile *ls_gemm_tile_for(const struct ls_cpu_device *cpu, ls_dtype dtype);
/* Raises both to what products of a dtype that has a tile need, shared and in each thread. */
void ls_gemm_packed_bytes(const struct ls_cpu_device *cpu, ls_dtype dtype,
                          const ls_device_limits *limits, size_t *shared_bytes,
                          size_t *scratch_bytes);
/* Checked operations with m, n, k > 0 of a dtype that has a tile. */
ls_status ls_gemm_run_packed(struct ls_cpu_device *cpu, const ls_gemm *op);

#ifdef LS_KERNEL_ISA
extern const ls_gemm_tiles LS_ISA_NAME(ls_cpu_gemm_tiles);
extern const ls_gemm_kernels LS_ISA_NAME(ls_cpu_gemm_kernels);
#endif

/* gemm_dnnl.c: oneDNN, as seen from here. The functions that run in parallel regions return
 * oneDNN's own status (0: success), since the error record belongs to the calling thread. */

/* LS_OK for 0, else LS_E_DEVICE (LS_E_MEMORY when oneDNN ran out of it) with the status in words.
 */
ls_status ls_dnnl_check(int dnnl_status, const char *what);

/* Makes oneDNN run on the calling thread alone until the parallel region ends that it is called
 * in. Every use of oneDNN below happens in such a region (a region of one thread included). */
void ls_dnnl_use_one_thread(void);

/* C[m,n] = op(A) op(B) + beta C in fp32, row-major. beta 0 does not read C. */
int ls_dnnl_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* Matmul primitives that were built so far, with the memory that they need to run. */
typedef struct ls_matmul_cache ls_matmul_cache;

/* What decides a primitive. Leading dimensions are of the memory as stored. */
typedef struct ls_matmul_key {
    int64_t m, n, k, lda, ldb, ldc;
    int32_t dtype, c_dtype, trans_a, trans_b;
} ls_matmul_key;

typedef struct ls_matmul ls_matmul;

ls_status ls_matmul_cache_create(ls_matmul_cache **cache);
void ls_matmul_cache_destroy(ls_matmul_cache *cache);

/* The primitive for key, built when it is not there yet, owned by the cache and valid until the
 * next call that builds one. Not for parallel regions. LS_E_UNSUPPORTED: oneDNN has none. */
ls_status ls_matmul_get(ls_matmul_cache *cache, const ls_matmul_key *key, const ls_matmul **matmul);
size_t ls_matmul_scratch_bytes(const ls_matmul *matmul);
/* Runs it on the calling thread alone; scratch has ls_matmul_scratch_bytes, 64-byte aligned. */
int ls_matmul_run(const ls_matmul *matmul, const void *a, const void *b, void *c, void *scratch);

/* Makes oneDNN use no more than this level. Before the first use of oneDNN in the process. */
ls_status ls_dnnl_limit_isa(ls_isa isa);
/* True when oneDNN has an optimised (not a reference) bf16 matmul here. */
bool ls_dnnl_has_fast_bf16(void);
/* "oneDNN 2.6.3". Returns buf. */
char *ls_dnnl_describe(char *buf, size_t size);

#endif
