/* Words of two bf16 elements in vectors, for attention's products: what differs between processors
 * that multiply them (AVX512-BF16: vdpbf16ps; FEAT_BF16 of aarch64: BFDOT). Included by
 * k_attention_bf16.h; empty at the other levels. */
#ifndef LS_DEVICE_CPU_K_ATTENTION_PAIRS_H
#define LS_DEVICE_CPU_K_ATTENTION_PAIRS_H

#include "runtime/device/cpu/k_attention_tile.h"
#include "runtime/device/cpu/k_bf16.h"

#if defined(__AVX512BF16__)
#define HAS_BF16_PAIRS 1

/* A word that is multiplied with every lane. */
typedef __m512bh pair_factor;

LS_INLINE pair_factor factor_of(int32_t word) {
    return (__m512bh)_mm512_set1_epi32(word);
}

/* sum + both products of each lane's words. */
LS_INLINE vf add_pairs(vf sum, pair_factor a, vi b) {
    return (vf)_mm512_dpbf16_ps((__m512)sum, a, (__m512bh)b);
}

/* Words of lanes of `first` and `second`, rounded to bf16: what is neighbours along the summed
 * dimension comes from two vectors. */
LS_INLINE vi pairs_of(vf first, vf second) {
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (vi)_mm512_permutexvar_epi16(interleave, (__m512i)both);
}

/* to [LANES] = x, rounded. */
LS_INLINE void store_lanes(vf x, ls_bf16 *to) {
    _mm256_store_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)x));
}

LS_INLINE bool all_ones(vf x) {
    return !_mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ);
}

/* 2^x, for what is summed in fp32, and for what becomes bf16. */
LS_INLINE vf exp2_vf(vf x) {
    return (vf)exp2_fp32((__m512)x);
}

LS_INLINE vf weight_vf(vf x) {
    return (vf)exp2_bf16((__m512)x);
}

/* to [ld] = words of low [n] and high [n], then zeros. */
static inline void pair_rows(const ls_bf16 *low, const ls_bf16 *high, int64_t n, int64_t ld,
                             int32_t *to) {
    const __m512i first =
        _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                         37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(LANES));
    int64_t c = 0;
    for (; c + 2 * LANES <= n; c += 2 * LANES) { /* unmasked: much faster from outside the cache */
        const __m512i a = _mm512_loadu_si512(low + c), b = _mm512_loadu_si512(high + c);
        _mm512_store_si512(to + c, _mm512_permutex2var_epi16(a, first, b));
        _mm512_store_si512(to + c + LANES, _mm512_permutex2var_epi16(a, second, b));
    }
    for (; c < n; c += LANES) {
        const __mmask16 mask = bf16_mask(c, n);
        const __m512i a = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, low + c));
        const __m512i b = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, high + c));
        _mm512_store_si512(to + c, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
    }
    for (; c < ld; c += LANES) {
        _mm512_store_si512(to + c, _mm512_setzero_si512());
    }
}

/* to [n] = factor * from, rounded. */
static inline void store_row_bf16(float factor, const float *from, int64_t n, ls_bf16 *to) {
    int64_t c = 0;
    for (; c + BF16_LINE <= n; c += BF16_LINE) {
        bf16_store_line(to + c, (__m512)(*(const vf_any *)(from + c) * factor),
                        (__m512)(*(const vf_any *)(from + c + LANES) * factor));
    }
    for (; c < n; c += LANES) {
        bf16_store(to + c, bf16_mask(c, n), (__m512)(*(const vf_any *)(from + c) * factor));
    }
}

static inline float dot_bf16(int64_t n, const ls_bf16 *x, const ls_bf16 *y) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t c = 0; c < n; c += 2 * LANES) {
        const __mmask32 mask = c + 2 * LANES <= n ? ~0u : (1u << (n - c)) - 1;
        sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(mask, x + c),
                               (__m512bh)_mm512_maskz_loadu_epi16(mask, y + c));
    }
    return _mm512_reduce_add_ps(sum);
}

#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define HAS_BF16_PAIRS 1

#include <arm_neon.h>

typedef bfloat16x4_t pair_factor;

LS_INLINE pair_factor factor_of(int32_t word) {
    return vreinterpret_bf16_s32((int32x2_t){word, 0});
}

LS_INLINE vf add_pairs(vf sum, pair_factor a, vi b) {
    return (vf)vbfdotq_lane_f32((float32x4_t)sum, (bfloat16x8_t)b, a, 0);
}

LS_INLINE uint16x8_t rounded(vf x) {
    return vreinterpretq_u16_bf16(vcvtq_low_bf16_f32((float32x4_t)x));
}

LS_INLINE vi pairs_of(vf first, vf second) {
    return (vi)vzip1q_u16(rounded(first), rounded(second));
}

LS_INLINE void store_lanes(vf x, ls_bf16 *to) {
    vst1_u16(to, vget_low_u16(rounded(x)));
}

LS_INLINE bool all_ones(vf x) {
    return vminvq_u32(vceqq_f32((float32x4_t)x, vdupq_n_f32(1.0f))) != 0;
}

/* 2^x as exp_vf has it: within 2 ulp for x <= 127, 0 up to -127, NaN of NaN. */
LS_INLINE vf exp2_vf(vf x) {
    const vf shift = splat(LS_EXPONENT_SHIFT);
    x = max_vf(splat(-127.0f), x);
    const vf biased = x + shift, f = x - (biased - shift);
    return LS_EXP2_POLYNOMIAL(f) * (vf)((vi)biased << 23);
}

/* Likewise within 2^-18. */
LS_INLINE vf weight_vf(vf x) {
    const vf shift = splat(LS_EXPONENT_SHIFT);
    x = max_vf(splat(-127.0f), x);
    const vf biased = x + shift, f = x - (biased - shift);
    const vf p = (((EXP2_4 * f + EXP2_3) * f + EXP2_2) * f + EXP2_1) * f + 1.0f;
    return p * (vf)((vi)biased << 23);
}

static inline void store_row_bf16(float factor, const float *from, int64_t n, ls_bf16 *to) {
    int64_t c = 0;
    for (; c + LANES <= n; c += LANES) {
        store_lanes(*(const vf_any *)(from + c) * factor, to + c);
    }
    for (; c < n; c++) {
        to[c] = ls_bf16_from_f32(factor * from[c]);
    }
}

static inline float dot_bf16(int64_t n, const ls_bf16 *x, const ls_bf16 *y) {
    float32x4_t sum = vdupq_n_f32(0.0f);
    int64_t c = 0;
    for (; c + 2 * LANES <= n; c += 2 * LANES) {
        sum = vbfdotq_f32(sum, vreinterpretq_bf16_u16(vld1q_u16(x + c)),
                          vreinterpretq_bf16_u16(vld1q_u16(y + c)));
    }
    float total = vaddvq_f32(sum);
    for (; c < n; c++) {
        total += ls_bf16_to_f32(x[c]) * ls_bf16_to_f32(y[c]);
    }
    return total;
}

#else
#define HAS_BF16_PAIRS 0
#endif
#endif
