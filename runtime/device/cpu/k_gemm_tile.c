/* The micro-kernels of packed products: a tile of C in registers, and the copies of operands that
 * it reads; contracts in gemm.h. x86 levels without fused multiply-adds have none. */
#include "runtime/device/cpu/gemm.h"
#include "runtime/device/cpu/k_gemm_amx.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#define HAS_TILE 1
#include "runtime/device/cpu/k_gemm_tile.h"
#elif defined(__aarch64__)
#define HAS_TILE 1
#include "runtime/device/cpu/k_gemm_neon.h"
#endif
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
#include "runtime/device/cpu/k_gemm_mmla.h"
#define TILE_BF16 TILE_MMLA
#endif

#if HAS_TILE
#include "runtime/device/cpu/k_gemm_pack.h"

/* A panel of each operand fits the closest two caches, a strip's of A a third of a core's second
 * one. */
#define TILE_OF(type)                                                                              \
    {                                                                                              \
        .rows = LS_TILE_ROWS, .cols = LS_TILE_COLS, .a_width = LS_TILE_A_WIDTH,                    \
        .b_width = LS_TILE_COLS, .piece_words = 384, .block_n = 3072, .block_n_kept = 768,         \
        .strip_panels = 12, .pack_a = pack_##type, .pack_b = pack_##type,                          \
        .multiply = multiply_##type                                                                \
    }

#define MULTIPLY_FEW(rows, pairs)                                                                  \
    case rows:                                                                                     \
        ls_tile_multiply(rows, pairs, words, a, b, add, ld_add, product, ld);                      \
        break;
#define MULTIPLY_f32(rows)  MULTIPLY_FEW(rows, false)
#define MULTIPLY_bf16(rows) MULTIPLY_FEW(rows, true)

/* A micro-kernel of vectors and its packing. */
#define DEFINE_TILE(type, pairs)                                                                   \
    static void multiply_##type(int64_t rows, int64_t words, const uint32_t *a, const uint32_t *b, \
                                const float *add, int64_t ld_add, float *product, int64_t ld) {    \
        switch ((rows + LS_TILE_UNIT - 1) / LS_TILE_UNIT * LS_TILE_UNIT) {                         \
            LS_TILE_FEW(MULTIPLY_##type)                                                           \
        default:                                                                                   \
            ls_tile_multiply(LS_TILE_ROWS, pairs, words, a, b, add, ld_add, product, ld);          \
        }                                                                                          \
    }                                                                                              \
    static void pack_##type(bool rows, const void *src, int64_t ld, int64_t lanes, int64_t k,      \
                            int64_t step, int64_t width, uint32_t *dst, int64_t panel_words) {     \
        pack_words(LS_TILE_LANES, pairs, rows, src, ld, lanes, k, step, width, dst, panel_words);  \
    }

DEFINE_TILE(f32, false)
#define TILE_F32 TILE_OF(f32)
#if defined(__AVX512BF16__) && !HAS_AMX
DEFINE_TILE(bf16, true)
#define TILE_BF16 TILE_OF(bf16)
#endif
#endif

#if HAS_AMX
#define TILE_BF16 TILE_AMX
#endif
#ifndef TILE_F32
#define TILE_F32                                                                                   \
    { 0 }
#endif
#ifndef TILE_BF16
#define TILE_BF16                                                                                  \
    { 0 }
#endif

const ls_gemm_tiles LS_ISA_NAME(ls_cpu_gemm_tiles) = {.f32 = TILE_F32, .bf16 = TILE_BF16};
