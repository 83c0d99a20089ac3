/* Blocks of sums by BFMMLA, for aarch64 with FEAT_BF16: it multiplies two rows by two columns, four
 * elements along K of each, into 2 x 2 sums, as two BFDOT one after the other would. That is twice
 * what BFDOT does in the same time (Arm Neoverse V1 and V2 software optimization guides: one of
 * either a cycle on each of four pipes).
 *
 * 8 x 12 sums take 24 of 32 registers, which leaves four for the rows and four for columns as they
 * come: 10 loads, 5 of them in pairs, for 24 multiplications, so that three loads a cycle keep up
 * with four pipes. Each sum's turn comes after six cycles, the latency of BFMMLA on V2.
 *
 * An operand is quads, four elements along K (two words): those of two neighbouring rows, or of two
 * columns, are a register. */
#ifndef LS_DEVICE_CPU_K_MMLA_H
#define LS_DEVICE_CPU_K_MMLA_H

#include "runtime/base/dtype.h"
#include "runtime/device/cpu/vec_math.h"

#include <arm_neon.h>

enum {
    MMLA_QUAD = 4, /* elements along K */
    MMLA_PAIR = 8, /* of two quads, a register */
    MMLA_HIGH = 4, /* pairs of rows, and most pairs of columns, of a block of sums */
    MMLA_WIDEST = 6
};

/* sum[i][j] += pair of rows i times pair of columns j < wide. Pair i of rows begins at a + i *
 * a_pair; pairs of columns follow one another; from quad to quad it is a_quad and b_quad elements.
 * quads > 0. */
LS_INLINE void mmla_multiply(const int wide, int64_t quads, const ls_bf16 *a, int64_t a_pair,
                             int64_t a_quad, const ls_bf16 *b, int64_t b_quad,
                             float32x4_t sum[MMLA_HIGH][MMLA_WIDEST]) {
    do { /* with a test first, GCC moves all sums about before it and after */
        bfloat16x8_t rows[MMLA_HIGH];
#pragma GCC unroll 4
        for (int i = 0; i < MMLA_HIGH; i++) {
            rows[i] = vreinterpretq_bf16_u16(vld1q_u16(a + i * a_pair));
        }
#pragma GCC unroll 6
        for (int j = 0; j < wide; j++) {
            if (j % 2 == 0) { /* or GCC loads all columns first and runs out of registers */
                __asm__ volatile("" ::: "memory");
            }
            const bfloat16x8_t cols = vreinterpretq_bf16_u16(vld1q_u16(b + j * MMLA_PAIR));
#pragma GCC unroll 4
            for (int i = 0; i < MMLA_HIGH; i++) {
                sum[i][j] = vbfmmlaq_f32(sum[i][j], rows[i], cols);
            }
        }
        a += a_quad;
        b += b_quad;
    } while (--quads > 0);
}

/* Halves of two registers: 2 x 2 sums beside each other become four columns of the upper row (low)
 * and of the lower one (high), and back. */
LS_INLINE float32x4_t mmla_low(float32x4_t x, float32x4_t y) {
    return vreinterpretq_f32_f64(vzip1q_f64(vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y)));
}

LS_INLINE float32x4_t mmla_high(float32x4_t x, float32x4_t y) {
    return vreinterpretq_f32_f64(vzip2q_f64(vreinterpretq_f64_f32(x), vreinterpretq_f64_f32(y)));
}

#endif
