/* The panels of k_gemm_pack.h by vectors of 16 words, for files that are compiled for AVX-512. */
#ifndef LS_DEVICE_CPU_K_GEMM_PACK512_H
#define LS_DEVICE_CPU_K_GEMM_PACK512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

enum { PACK_WORDS = 16 }; /* of a vector */

/* r[i][j] becomes r[j][i]. */
__attribute__((always_inline)) static inline void transpose_16(__m512i r[PACK_WORDS]) {
    __m512i t[PACK_WORDS], u[PACK_WORDS];
#pragma GCC unroll 8
    for (int i = 0; i < PACK_WORDS; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < PACK_WORDS; i += 4) { /* in each quarter j: column 4 j + n of four rows */
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int n = 0; n < 4; n++) {
        const __m512i even0 = _mm512_shuffle_i32x4(u[n], u[4 + n], 0x88);
        const __m512i even1 = _mm512_shuffle_i32x4(u[8 + n], u[12 + n], 0x88);
        const __m512i odd0 = _mm512_shuffle_i32x4(u[n], u[4 + n], 0xdd);
        const __m512i odd1 = _mm512_shuffle_i32x4(u[8 + n], u[12 + n], 0xdd);
        r[n] = _mm512_shuffle_i32x4(even0, even1, 0x88);
        r[4 + n] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
        r[8 + n] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
        r[12 + n] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
    }
}

/* 16 lanes of a panel, which are rows of src, `bytes` of each, the rows that are not there being
 * the last one. A line of the next 16 rows comes nearer with each that is read. */
static void pack_rows_16(const char *src, int64_t row_bytes, int64_t lanes, int64_t bytes,
                         int64_t width, uint32_t *dst) {
    const char *rows[PACK_WORDS];
    for (int64_t i = 0; i < PACK_WORDS; i++) {
        rows[i] = src + (i < lanes ? i : lanes - 1) * row_bytes;
    }
    for (int64_t at = 0; at < bytes; at += 64, dst += PACK_WORDS * width) {
        const int64_t left = bytes - at, words = left < 64 ? (left + 3) / 4 : PACK_WORDS;
        const __mmask32 mask = left < 64 ? (1u << left / 2) - 1 : ~0u;
        __m512i r[PACK_WORDS];
#pragma GCC unroll 16
        for (int i = 0; i < PACK_WORDS; i++) {
            r[i] = left < 64 ? _mm512_maskz_loadu_epi16(mask, rows[i] + at)
                             : _mm512_loadu_si512(rows[i] + at);
            __builtin_prefetch(rows[i] + PACK_WORDS * row_bytes + at);
        }
        transpose_16(r);
#pragma GCC unroll 16
        for (int w = 0; w < PACK_WORDS; w++) {
            if (w < words) {
                _mm512_storeu_si512(dst + w * width, r[w]);
            }
        }
    }
}

/* A panel whose lanes are rows of src: whole words, and with half a word more the rest is zero. */
static void pack_rows(const char *src, int64_t row_bytes, int64_t lanes, int64_t bytes,
                      int64_t width, uint32_t *dst) {
    for (int64_t l = 0; l < width && l < lanes; l += PACK_WORDS) {
        pack_rows_16(src + l * row_bytes, row_bytes, lanes - l, bytes, width, dst + l);
    }
}

/* A word of each of 16 lanes, of which those in the mask are there: elements of a row of fp32, or
 * of two rows of bf16 (high NULL: zeros). */
__attribute__((always_inline)) static inline __m512i
words_of_columns(const bool pairs, const char *low, const char *high, __mmask16 mask) {
    if (!pairs) {
        return _mm512_maskz_loadu_epi32(mask, low);
    }
    const __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, low));
    if (!high) {
        return first;
    }
    const __m512i second = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, high));
    return _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
}

/* Panels whose lanes are columns of src: word by word of all lanes, so that a line of src, of which
 * several panels have a part, is read once. group is PACK_WORDS. */
__attribute__((always_inline)) static inline void
pack_columns(const int group, const bool pairs, const char *src, int64_t row_bytes, int64_t lanes,
             int64_t k, int64_t step, int64_t width, uint32_t *dst, int64_t panel_words) {
    enum { AHEAD = 10 }; /* words */
    const int64_t per_word = pairs ? 2 : 1, bytes = pairs ? 2 : 4;
    for (int64_t row = 0; row < k; row += per_word, dst += width) {
        const char *low = src + row * row_bytes, *next = low + AHEAD * per_word * row_bytes;
        const char *high = pairs && row + 1 < k ? low + row_bytes : NULL;
        for (int64_t at = 0; at < lanes * bytes; at += 64) {
            __builtin_prefetch(next + at);
            __builtin_prefetch(next + (per_word - 1) * row_bytes + at);
        }
        uint32_t *panel = dst;
        for (int64_t first = 0; first < lanes; first += step, panel += panel_words) {
            for (int64_t l = 0; l < width; l += group) {
                const int64_t left = lanes - first - l, at = (first + l) * bytes;
                const __mmask16 mask = left >= group ? 0xffff
                                       : left > 0    ? (__mmask16)((1u << left) - 1)
                                                     : 0;
                const __m512i words = high ? words_of_columns(pairs, low + at, high + at, mask)
                                           : words_of_columns(pairs, low + at, NULL, mask);
                _mm512_storeu_si512(panel + l, words);
            }
        }
    }
}

#endif
