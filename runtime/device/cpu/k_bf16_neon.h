/* Vectors of fp32 from and to bf16, and the functions that kernels of bf16 want, for aarch64 with
 * FEAT_BF16, whose conversions the vectoriser does not know: by its loops a rounding takes eight
 * instructions a vector. Included by k_*.c after k_bf16.h; empty at the other levels. */
#ifndef LS_DEVICE_CPU_K_BF16_NEON_H
#define LS_DEVICE_CPU_K_BF16_NEON_H

#include "runtime/device/cpu/k_bf16.h"

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define HAS_BF16_NEON 1

#include <arm_neon.h>

enum { NEON_LANES = 4 };

/* statement for each vector of the elements `i` from begin on: `n` of its lanes lie before end. */
#define NEON_EACH(i, n, begin, end, statement)                                                     \
    do {                                                                                           \
        int64_t i = begin;                                                                         \
        for (const int64_t n = NEON_LANES; i + n <= (end); i += n) {                               \
            statement;                                                                             \
        }                                                                                          \
        if (i < (end)) {                                                                           \
            const int64_t n = (end)-i;                                                             \
            statement;                                                                             \
        }                                                                                          \
    } while (0)

LS_INLINE float32x4_t neon_load(const ls_bf16 *x, int64_t n) {
    ls_bf16 part[NEON_LANES] = {0};
    if (n < NEON_LANES) {
        memcpy(part, x, (size_t)n * sizeof *x);
        x = part;
    }
    return vcvt_f32_bf16(vreinterpret_bf16_u16(vld1_u16(x)));
}

LS_INLINE void neon_store(ls_bf16 *y, int64_t n, float32x4_t x) {
    const uint16x4_t halves = vreinterpret_u16_bf16(vcvt_bf16_f32(x));
    if (n < NEON_LANES) {
        ls_bf16 part[NEON_LANES];
        vst1_u16(part, halves);
        memcpy(y, part, (size_t)n * sizeof *y);
    } else {
        vst1_u16(y, halves);
    }
}

/* 2^x within 2^-18, for what becomes bf16; 0 up to -127, inf from 128 on, NaN of NaN. */
LS_INLINE float32x4_t neon_exp2(float32x4_t x) {
    x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(-127.0f)), vdupq_n_f32(128.0f));
    const float32x4_t shift = vdupq_n_f32(LS_EXPONENT_SHIFT), biased = vaddq_f32(x, shift);
    const float32x4_t f = vsubq_f32(x, vsubq_f32(biased, shift));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(EXP2_3), f, vdupq_n_f32(EXP2_4));
    p = vfmaq_f32(vdupq_n_f32(EXP2_2), p, f);
    p = vfmaq_f32(vdupq_n_f32(EXP2_1), p, f);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, f);
    const int32x4_t scale = vshlq_n_s32(vreinterpretq_s32_f32(biased), 23);
    return vmulq_f32(p, vreinterpretq_f32_s32(scale));
}

/* 1 / (1 + e) for e >= 0, within 2^-15, for what becomes bf16. */
LS_INLINE float32x4_t neon_sigmoid_of(float32x4_t e) {
    const float32x4_t d = vaddq_f32(e, vdupq_n_f32(1.0f)), r = vrecpeq_f32(d);
    return vmulq_f32(r, vrecpsq_f32(d, r));
}

#else
#define HAS_BF16_NEON 0
#endif
#endif
