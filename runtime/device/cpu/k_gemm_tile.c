/* The micro-kernels of packed products: a tile of C in registers, and the copies of operands that
 * it reads; contracts in gemm.h. Levels without fused multiply-adds on wide vectors have none. */
#include "runtime/device/cpu/gemm.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include "runtime/device/cpu/k_gemm_tile.h"

#include <string.h>

typedef uint32_t quad __attribute__((vector_size(16)));

static void multiply_f32(int64_t words, const uint32_t *a, const uint32_t *b, const float *add,
                         int64_t ld_add, float *product, int64_t ld) {
    ls_tile_multiply(false, words, a, b, add, ld_add, product, ld);
}

static inline quad load_quad(const char *src) {
    quad q;
    memcpy(&q, src, sizeof q);
    return q;
}

/* dst [4, width] = the transposed of four words of four lanes. */
static inline void transpose_quads(const char *const src[4], int64_t at, uint32_t *dst,
                                   int64_t width) {
    quad a = load_quad(src[0] + at), b = load_quad(src[1] + at);
    quad c = load_quad(src[2] + at), d = load_quad(src[3] + at);
    quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    quad ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    quad cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const quad columns[4] = {__builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5),
                             __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
                             __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
                             __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
    for (int i = 0; i < 4; i++) {
        memcpy(dst + i * width, &columns[i], sizeof columns[i]);
    }
}

/* A panel whose lanes are rows of src, `bytes` of each: whole words, and with half a word more the
 * rest is zero. Lanes from `lanes` on repeat the last one; nobody looks at their sums. */
static void pack_rows(const char *src, int64_t row_bytes, int64_t lanes, int64_t bytes,
                      int64_t width, uint32_t *dst) {
    const int64_t words = bytes / 4;
    for (int64_t l = 0; l < width; l += 4) {
        const char *rows[4];
        for (int64_t i = 0; i < 4; i++) {
            rows[i] = src + (l + i < lanes ? l + i : lanes - 1) * row_bytes;
        }
        int64_t w = 0;
        for (; w + 4 <= words; w += 4) {
            if (w % 16 == 0) { /* the next four rows: a line of each */
                for (int i = 0; i < 4; i++) {
                    __builtin_prefetch(rows[i] + 4 * row_bytes + w * 4);
                }
            }
            transpose_quads(rows, w * 4, dst + w * width + l, width);
        }
        for (; w * 4 < bytes; w++) {
            const size_t part = bytes - w * 4 < 4 ? 2 : 4;
            for (int i = 0; i < 4; i++) {
                uint32_t word = 0;
                memcpy(&word, rows[i] + w * 4, part);
                dst[w * width + l + i] = word;
            }
        }
    }
}

/* One word of each of LS_TILE_LANES lanes: elements of a row of fp32, or of two rows of bf16 (high
 * NULL: zeros). */
static inline void pack_lanes(bool pairs, const void *low, const void *high, int64_t lanes,
                              uint32_t *dst) {
    uint16_t halves[2][LS_TILE_LANES] = {{0}};
    if (!pairs) {
        memset(dst, 0, LS_TILE_LANES * sizeof *dst);
        memcpy(dst, low, (size_t)lanes * sizeof *dst);
        return;
    }
    memcpy(halves[0], low, (size_t)lanes * sizeof(uint16_t));
    if (high) {
        memcpy(halves[1], high, (size_t)lanes * sizeof(uint16_t));
    }
    for (int i = 0; i < LS_TILE_LANES; i++) {
        dst[i] = halves[0][i] | (uint32_t)halves[1][i] << 16;
    }
}

/* Panels whose lanes are columns of src. A few rows at a time, so that the pieces of a line that
 * several panels need are still in the cache for the next one. */
static inline void pack_columns(bool pairs, const char *src, int64_t row_bytes, int64_t lanes,
                                int64_t k, int64_t step, int64_t width, uint32_t *dst,
                                int64_t panel_words) {
    const int64_t per_word = pairs ? 2 : 1, bytes = pairs ? 2 : 4, words = (k - 1) / per_word + 1;
    for (int64_t w0 = 0; w0 < words; w0 += 16) {
        const int64_t w1 = w0 + 16 < words ? w0 + 16 : words;
        for (int64_t row = w1 * per_word; row < (w1 + 16) * per_word; row++) {
            for (int64_t at = 0; at < lanes * bytes; at += 64) {
                __builtin_prefetch(src + row * row_bytes + at);
            }
        }
        for (int64_t first = 0; first < lanes; first += step) {
            uint32_t *panel = dst + first / step * panel_words;
            for (int64_t l = 0; l < width; l += LS_TILE_LANES) {
                const int64_t left = lanes - first - l;
                for (int64_t w = w0; w < w1; w++) {
                    const char *low = src + w * per_word * row_bytes + (first + l) * bytes;
                    const char *high = (w + 1) * per_word <= k ? low + row_bytes : NULL;
                    uint32_t *to = panel + w * width + l;
                    if (left >= LS_TILE_LANES && high) {
                        pack_lanes(pairs, low, high, LS_TILE_LANES, to);
                    } else {
                        pack_lanes(pairs, low, high,
                                   left < 0               ? 0
                                   : left < LS_TILE_LANES ? left
                                                          : LS_TILE_LANES,
                                   to);
                    }
                }
            }
        }
    }
}

static inline void pack(bool pairs, bool rows, const void *src, int64_t ld, int64_t lanes,
                        int64_t k, int64_t step, int64_t width, uint32_t *dst,
                        int64_t panel_words) {
    const int64_t bytes = pairs ? 2 : 4;
    if (!rows) {
        pack_columns(pairs, src, ld * bytes, lanes, k, step, width, dst, panel_words);
        return;
    }
    for (int64_t first = 0; first < lanes; first += step) {
        const int64_t left = lanes - first;
        pack_rows((const char *)src + first * ld * bytes, ld * bytes, left < width ? left : width,
                  k * bytes, width, dst + first / step * panel_words);
    }
}

static void pack_f32(bool rows, const void *src, int64_t ld, int64_t lanes, int64_t k, int64_t step,
                     int64_t width, uint32_t *dst, int64_t panel_words) {
    pack(false, rows, src, ld, lanes, k, step, width, dst, panel_words);
}

#define SIZES                                                                                      \
    .rows = LS_TILE_ROWS, .cols = LS_TILE_COLS, .a_width = LS_TILE_LANES, .b_width = LS_TILE_COLS
#define TILE_F32                                                                                   \
    { SIZES, .pack = pack_f32, .multiply = multiply_f32 }

#ifdef __AVX512BF16__
static void multiply_bf16(int64_t words, const uint32_t *a, const uint32_t *b, const float *add,
                          int64_t ld_add, float *product, int64_t ld) {
    ls_tile_multiply(true, words, a, b, add, ld_add, product, ld);
}

static void pack_bf16(bool rows, const void *src, int64_t ld, int64_t lanes, int64_t k,
                      int64_t step, int64_t width, uint32_t *dst, int64_t panel_words) {
    pack(true, rows, src, ld, lanes, k, step, width, dst, panel_words);
}
#define TILE_BF16                                                                                  \
    { SIZES, .pack = pack_bf16, .multiply = multiply_bf16 }
#endif
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
