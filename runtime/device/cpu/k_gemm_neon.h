/* The inner loop of packed fp32 products on aarch64: LS_TILE_ROWS x LS_TILE_COLS sums in registers,
 * 24 of 32. Words of A come four to a vector, of which a multiply-add takes one: there are five
 * loads for 24 of them. Where C ends there are loops of fewer rows, as on x86. */
#ifndef LS_DEVICE_CPU_K_GEMM_NEON_H
#define LS_DEVICE_CPU_K_GEMM_NEON_H

#include "runtime/base/dtype.h"

#include <arm_neon.h>
#include <stdbool.h>
#include <stdint.h>

#define LS_TILE_LANES     4
#define LS_TILE_ROWS      12
#define LS_TILE_COLS      (2 * LS_TILE_LANES)
#define LS_TILE_A_WIDTH   LS_TILE_ROWS
#define LS_TILE_FEW(make) make(4) make(8)
#define LS_TILE_UNIT      4

/* Lane `lane` of a, a row of the tile, times both vectors of b. */
#define LS_TILE_ROW(row, a, lane)                                                                  \
    for (int v = 0; v < 2; v++) {                                                                  \
        sum[row][v] = vfmaq_laneq_f32(sum[row][v], vreinterpretq_f32_u32(b[v]),                    \
                                      vreinterpretq_f32_u32(a), lane);                             \
    }

/* The contract of k_gemm_tile.h's, without pairs, which k_gemm_mmla.h multiplies; A is [words,
 * LS_TILE_ROWS]. */
__attribute__((always_inline)) static inline void ls_tile_multiply(const int rows, const bool pairs,
                                                                   int64_t words, const uint32_t *a,
                                                                   const uint32_t *b_words,
                                                                   const float *add, int64_t ld_add,
                                                                   float *product, int64_t ld) {
    (void)pairs;
    float32x4_t sum[LS_TILE_ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        sum[i][0] = sum[i][1] = vdupq_n_f32(0.0f);
        __builtin_prefetch(product + i * ld, 1);
    }
    for (int64_t k = 0; k < words; k++) {
        const uint32x4_t b[2] = {vld1q_u32(b_words), vld1q_u32(b_words + LS_TILE_LANES)};
#pragma GCC unroll 4
        for (int i = 0; i < rows; i += 4) {
            uint32x4_t four = vld1q_u32(a + i);
            __asm__("" : "+w"(four)); /* or GCC loads each lane apart and runs out of registers */
            LS_TILE_ROW(i, four, 0)
            LS_TILE_ROW(i + 1, four, 1)
            LS_TILE_ROW(i + 2, four, 2)
            LS_TILE_ROW(i + 3, four, 3)
        }
        a += LS_TILE_A_WIDTH;
        b_words += LS_TILE_COLS;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        for (int v = 0; v < 2; v++) {
            if (add) {
                sum[i][v] = vaddq_f32(sum[i][v], vld1q_f32(add + i * ld_add + v * LS_TILE_LANES));
            }
            vst1q_f32(product + i * ld + v * LS_TILE_LANES, sum[i][v]);
        }
    }
}

#endif
