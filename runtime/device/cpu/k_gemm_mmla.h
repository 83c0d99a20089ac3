/* The micro-kernel of bf16 on aarch64 with FEAT_BF16 (k_mmla.h). Included by k_gemm_tile.c of the
 * level.
 *
 * A panel is [quads of K][lanes]. It ends with zeros where K does not end with a quad. */
#ifndef LS_DEVICE_CPU_K_GEMM_MMLA_H
#define LS_DEVICE_CPU_K_GEMM_MMLA_H

#include "runtime/device/cpu/gemm.h"
#include "runtime/device/cpu/k_mmla.h"

#include <string.h>

enum {
    MMLA_ROWS = 2 * MMLA_HIGH,
    MMLA_COLS = 2 * MMLA_WIDEST,
    MMLA_QUAD_BYTES = 8,
    MMLA_QUADS_NEAR = 8, /* of K, that all panels are filled with before the next ones */
};

static inline void mmla_store(float32x4_t sum, const float *add, float *product) {
    vst1q_f32(product, add ? vaddq_f32(sum, vld1q_f32(add)) : sum);
}

static void multiply_mmla(int64_t rows, int64_t words, const uint32_t *a, const uint32_t *b,
                          const float *add, int64_t ld_add, float *product, int64_t ld) {
    (void)rows;
    float32x4_t sum[MMLA_HIGH][MMLA_WIDEST];
#pragma GCC unroll 4
    for (int i = 0; i < MMLA_HIGH; i++) {
#pragma GCC unroll 6
        for (int j = 0; j < MMLA_WIDEST; j++) {
            sum[i][j] = vdupq_n_f32(0.0f);
        }
        __builtin_prefetch(product + 2 * i * ld, 1);
        __builtin_prefetch(product + (2 * i + 1) * ld, 1);
    }
    mmla_multiply(MMLA_WIDEST, (words + 1) / 2, (const ls_bf16 *)a, MMLA_PAIR,
                  MMLA_ROWS * MMLA_QUAD, (const ls_bf16 *)b, MMLA_COLS * MMLA_QUAD, sum);
#pragma GCC unroll 4
    for (int i = 0; i < MMLA_HIGH; i++) {
        const float *low = add ? add + 2 * i * ld_add : NULL, *high = add ? low + ld_add : NULL;
#pragma GCC unroll 3
        for (int v = 0; v < MMLA_WIDEST / 2; v++) {
            const float32x4_t left = sum[i][2 * v], right = sum[i][2 * v + 1];
            const int at = 4 * v;
            mmla_store(mmla_low(left, right), add ? low + at : NULL, product + 2 * i * ld + at);
            mmla_store(mmla_high(left, right), add ? high + at : NULL,
                       product + (2 * i + 1) * ld + at);
        }
    }
}

static inline uint64x2_t mmla_load(const char *src) {
    return vreinterpretq_u64_u8(vld1q_u8((const uint8_t *)src));
}

/* A panel whose lanes are rows of src, `bytes` of each. Lanes from `lanes` on repeat the last one;
 * nobody looks at their sums. */
static void mmla_panel_of_rows(const char *src, int64_t row_bytes, int64_t lanes, int64_t bytes,
                               int64_t width, uint64_t *dst) {
    for (int64_t l = 0; l < width; l += 2) {
        const char *first = src + (l < lanes ? l : lanes - 1) * row_bytes;
        const char *second = src + (l + 1 < lanes ? l + 1 : lanes - 1) * row_bytes;
        uint64_t *to = dst + l;
        int64_t at = 0;
        for (; at + 2 * MMLA_QUAD_BYTES <= bytes; at += 2 * MMLA_QUAD_BYTES, to += 2 * width) {
            if (at % 64 == 0) { /* the next two rows: a line of each */
                __builtin_prefetch(first + 2 * row_bytes + at);
                __builtin_prefetch(second + 2 * row_bytes + at);
            }
            const uint64x2_t x = mmla_load(first + at), y = mmla_load(second + at);
            vst1q_u64(to, vzip1q_u64(x, y));
            vst1q_u64(to + width, vzip2q_u64(x, y));
        }
        for (; at < bytes; at += MMLA_QUAD_BYTES, to += width) {
            const int64_t left = bytes - at;
            const size_t part = (size_t)(left < MMLA_QUAD_BYTES ? left : MMLA_QUAD_BYTES);
            to[0] = to[1] = 0;
            memcpy(to, first + at, part);
            memcpy(to + 1, second + at, part);
        }
    }
}

/* A quad of each of four lanes that are columns of src, from four rows; rows from k and lanes from
 * `lanes` on are zeros. */
static inline void mmla_turn(const char *src, int64_t row_bytes, int64_t lanes, int64_t k,
                             uint64_t *to) {
    uint16_t part[MMLA_QUAD][4] = {{0}};
    if (lanes < 4 || k < MMLA_QUAD) {
        for (int64_t i = 0; i < k && lanes > 0; i++) {
            memcpy(part[i], src + i * row_bytes, (size_t)(lanes < 4 ? lanes : 4) * 2);
        }
        src = (const char *)part;
        row_bytes = sizeof part[0];
    }
    uint16x4_t row[MMLA_QUAD];
    for (int i = 0; i < MMLA_QUAD; i++) {
        row[i] = vreinterpret_u16_u8(vld1_u8((const uint8_t *)src + i * row_bytes));
    }
    const uint16x4x2_t low = vzip_u16(row[0], row[1]), high = vzip_u16(row[2], row[3]);
    for (int half = 0; half < 2; half++) {
        const uint32x2x2_t lane =
            vzip_u32(vreinterpret_u32_u16(low.val[half]), vreinterpret_u32_u16(high.val[half]));
        vst1_u64(to + 2 * half, vreinterpret_u64_u32(lane.val[0]));
        vst1_u64(to + 2 * half + 1, vreinterpret_u64_u32(lane.val[1]));
    }
}

/* Panels whose lanes are columns of src. A few rows at a time, so that the pieces of a line that
 * several panels need are still in the cache for the next one. */
static void mmla_panels_of_columns(const char *src, int64_t row_bytes, int64_t lanes, int64_t k,
                                   int64_t width, uint64_t *dst, int64_t panel_quads) {
    const int64_t near = MMLA_QUADS_NEAR * MMLA_QUAD;
    for (int64_t k0 = 0; k0 < k; k0 += near) {
        const int64_t k1 = k0 + near < k ? k0 + near : k;
        for (int64_t row = k1; row < k1 + near; row++) {
            for (int64_t at = 0; at < lanes * 2; at += 64) {
                __builtin_prefetch(src + row * row_bytes + at);
            }
        }
        for (int64_t first = 0; first < lanes; first += width) {
            uint64_t *panel = dst + first / width * panel_quads;
            for (int64_t l = 0; l < width; l += 4) {
                for (int64_t row = k0; row < k1; row += MMLA_QUAD) {
                    mmla_turn(src + row * row_bytes + (first + l) * 2, row_bytes, lanes - first - l,
                              k1 - row < MMLA_QUAD ? k1 - row : MMLA_QUAD,
                              panel + row / MMLA_QUAD * width + l);
                }
            }
        }
    }
}

/* ls_gemm_pack; width is step, that of a panel. */
static void pack_mmla(bool rows, const void *src, int64_t ld, int64_t lanes, int64_t k,
                      int64_t step, int64_t width, uint32_t *dst, int64_t panel_words) {
    (void)step;
    uint64_t *quads = (uint64_t *)(void *)dst;
    const int64_t panel_quads = panel_words / 2;
    if (!rows) {
        mmla_panels_of_columns(src, ld * 2, lanes, k, width, quads, panel_quads);
        return;
    }
    for (int64_t first = 0; first < lanes; first += width, quads += panel_quads) {
        mmla_panel_of_rows((const char *)src + first * ld * 2, ld * 2, lanes - first, k * 2, width,
                           quads);
    }
}

/* A strip has as many rows as that of the fp32 micro-kernel, about a fifth of a second cache of 1
 * MiB. */
#define TILE_MMLA                                                                                  \
    {                                                                                              \
        .rows = MMLA_ROWS, .cols = MMLA_COLS, .a_width = MMLA_ROWS, .b_width = MMLA_COLS,          \
        .piece_words = 384, .block_n = 3072, .block_n_kept = 768, .strip_panels = 18,              \
        .pack_a = pack_mmla, .pack_b = pack_mmla, .multiply = multiply_mmla                        \
    }

#endif
