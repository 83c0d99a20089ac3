/* Panels of operands in words, for the micro-kernels (ls_gemm_tile in gemm.h). `pairs`: bf16, two
 * elements a word. */
#ifndef LS_DEVICE_CPU_K_GEMM_PACK_H
#define LS_DEVICE_CPU_K_GEMM_PACK_H

#include "runtime/device/cpu/quads.h"

#include <stdbool.h>

#ifdef __AVX512BW__
#include "runtime/device/cpu/k_gemm_pack512.h"
#else
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
            ls_quads_transpose(ls_quad_load(rows[0] + w * 4), ls_quad_load(rows[1] + w * 4),
                               ls_quad_load(rows[2] + w * 4), ls_quad_load(rows[3] + w * 4),
                               dst + w * width + l, width);
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

enum { PACK_LANES_MAX = 16 };

/* One word of each of `all` lanes: elements of a row of fp32, or of two rows of bf16 (high NULL:
 * zeros), of which the first `lanes` are there. */
static inline void pack_lanes(const int all, bool pairs, const void *low, const void *high,
                              int64_t lanes, uint32_t *dst) {
    uint16_t halves[2][PACK_LANES_MAX] = {{0}};
    if (!pairs) {
        memset(dst, 0, (size_t)all * sizeof *dst);
        memcpy(dst, low, (size_t)lanes * sizeof *dst);
        return;
    }
    memcpy(halves[0], low, (size_t)lanes * sizeof(uint16_t));
    if (high) {
        memcpy(halves[1], high, (size_t)lanes * sizeof(uint16_t));
    }
    for (int i = 0; i < all; i++) {
        dst[i] = halves[0][i] | (uint32_t)halves[1][i] << 16;
    }
}

/* Panels whose lanes are columns of src. A few rows at a time, so that the pieces of a line that
 * several panels need are still in the cache for the next one. */
static inline void pack_columns(const int group, bool pairs, const char *src, int64_t row_bytes,
                                int64_t lanes, int64_t k, int64_t step, int64_t width,
                                uint32_t *dst, int64_t panel_words) {
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
            for (int64_t l = 0; l < width; l += group) {
                const int64_t left = lanes - first - l;
                for (int64_t w = w0; w < w1; w++) {
                    const char *low = src + w * per_word * row_bytes + (first + l) * bytes;
                    const char *high = (w + 1) * per_word <= k ? low + row_bytes : NULL;
                    uint32_t *to = panel + w * width + l;
                    if (left >= group && high) {
                        pack_lanes(group, pairs, low, high, group, to);
                    } else {
                        pack_lanes(group, pairs, low, high,
                                   left < 0       ? 0
                                   : left < group ? left
                                                  : group,
                                   to);
                    }
                }
            }
        }
    }
}
#endif

/* ls_gemm_pack for words [words][width]; lanes that are columns are taken `group` at a time. */
static inline void pack_words(const int group, bool pairs, bool rows, const void *src, int64_t ld,
                              int64_t lanes, int64_t k, int64_t step, int64_t width, uint32_t *dst,
                              int64_t panel_words) {
    const int64_t bytes = pairs ? 2 : 4;
    if (!rows) {
        pack_columns(group, pairs, src, ld * bytes, lanes, k, step, width, dst, panel_words);
        return;
    }
    for (int64_t first = 0; first < lanes; first += step) {
        const int64_t left = lanes - first;
        pack_rows((const char *)src + first * ld * bytes, ld * bytes, left < width ? left : width,
                  k * bytes, width, dst + first / step * panel_words);
    }
}

#endif
