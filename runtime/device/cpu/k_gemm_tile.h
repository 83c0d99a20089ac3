/* The inner loop of packed products: LS_TILE_ROWS x LS_TILE_COLS sums in registers. For files that
 * are compiled for AVX-512, or AVX2 with FMA, only.
 *
 * The numbers of rows and columns keep the registers full (28 of 32, 12 of 16): enough sums in
 * flight to hide the latency of a multiply-add, with few loads for each. Where C ends there are
 * loops of fewer rows, a multiple of LS_TILE_UNIT: the last 2 of 1024 would else take as long as
 * 14. */
#ifndef LS_DEVICE_CPU_K_GEMM_TILE_H
#define LS_DEVICE_CPU_K_GEMM_TILE_H

#include "runtime/base/dtype.h"

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __AVX512F__
#define LS_TILE_LANES     16
#define LS_TILE_ROWS      14
#define LS_TILE_FEW(make) make(2) make(4) make(6) make(8) make(10) make(12)
typedef __m512 ls_tile_vec;
#define LS_TILE_SPLAT(word)  _mm512_castsi512_ps(_mm512_set1_epi32((int)(word)))
#define LS_TILE_LOAD(p)      _mm512_loadu_ps((const float *)(const void *)(p))
#define LS_TILE_STORE(p, v)  _mm512_storeu_ps(p, v)
#define LS_TILE_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#else
#define LS_TILE_LANES        8
#define LS_TILE_ROWS         6
#define LS_TILE_FEW(make)    make(2) make(4)
typedef __m256 ls_tile_vec;
#define LS_TILE_SPLAT(word)  _mm256_castsi256_ps(_mm256_set1_epi32((int)(word)))
#define LS_TILE_LOAD(p)      _mm256_loadu_ps((const float *)(const void *)(p))
#define LS_TILE_STORE(p, v)  _mm256_storeu_ps(p, v)
#define LS_TILE_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#endif
#define LS_TILE_COLS    (2 * LS_TILE_LANES)
#define LS_TILE_A_WIDTH LS_TILE_LANES
#define LS_TILE_UNIT    2

#ifdef __AVX512BF16__
#define LS_TILE_PAIRS(a, b, c) _mm512_dpbf16_ps(c, (__m512bh)(a), (__m512bh)(b))
#else
#define LS_TILE_PAIRS(a, b, c) (c)
#endif

/* product [rows, ld] = A B (+ add [rows, ld_add], NULL: none; may be product), in fp32, summed in
 * the order of k; rows is LS_TILE_ROWS or of LS_TILE_FEW. A is [words, LS_TILE_LANES], of which
 * rows count, B is [words, LS_TILE_COLS]. A word is an fp32 element, or with `pairs` (AVX512-BF16
 * only) two bf16 elements that are neighbours along k, the first in the low half. */
__attribute__((always_inline)) static inline void
ls_tile_multiply(const int rows, const bool pairs, int64_t words, const uint32_t *a,
                 const uint32_t *b, const float *add, int64_t ld_add, float *product, int64_t ld) {
    ls_tile_vec sum[LS_TILE_ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        sum[i][0] = sum[i][1] = (ls_tile_vec){0};
    }
    /* The product comes nearer row by row: all rows at once, from far memory, would take every
     * buffer in which a core waits for lines, and loads of panels would wait behind them. */
    for (int64_t row = 0, k = 0; row < rows; row++) {
        __builtin_prefetch(product + row * ld, 1);
        __builtin_prefetch(product + row * ld + LS_TILE_COLS - 1, 1);
        for (const int64_t end = words * (row + 1) / rows; k < end; k++) {
            const ls_tile_vec b0 = LS_TILE_LOAD(b), b1 = LS_TILE_LOAD(b + LS_TILE_LANES);
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                const ls_tile_vec ai = LS_TILE_SPLAT(a[i]);
                sum[i][0] =
                    pairs ? LS_TILE_PAIRS(ai, b0, sum[i][0]) : LS_TILE_FMA(ai, b0, sum[i][0]);
                sum[i][1] =
                    pairs ? LS_TILE_PAIRS(ai, b1, sum[i][1]) : LS_TILE_FMA(ai, b1, sum[i][1]);
            }
            a += LS_TILE_LANES;
            b += LS_TILE_COLS;
        }
    }
    if (add) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            sum[i][0] += LS_TILE_LOAD(add + i * ld_add);
            sum[i][1] += LS_TILE_LOAD(add + i * ld_add + LS_TILE_LANES);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        LS_TILE_STORE(product + i * ld, sum[i][0]);
        LS_TILE_STORE(product + i * ld + LS_TILE_LANES, sum[i][1]);
    }
}

#endif
