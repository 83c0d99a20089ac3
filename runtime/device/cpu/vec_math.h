/* Elementary functions in fp32 for loops under `#pragma omp simd`: inline, without branches, tables
 * or calls, so that the vectoriser turns a loop around them into plain vector code at every
 * instruction set level. */
#ifndef LS_DEVICE_CPU_VEC_MATH_H
#define LS_DEVICE_CPU_VEC_MATH_H

#include <stdint.h>
#include <string.h>

#define LS_INLINE static inline __attribute__((always_inline))

LS_INLINE float ls_vec_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* x, or limit with the sign of x where |x| is larger; a NaN stays. Not written as comparisons with
 * two constants, because compilers then evaluate what follows for each constant and select at the
 * end. */
LS_INLINE float ls_vec_clamp(float x, float limit) {
    return __builtin_fabsf(x) > limit ? __builtin_copysignf(limit, x) : x;
}

/* e^x within 1.1 ulp where the result is normal, and within one quantum where it is subnormal.
 * +inf gives +inf, -inf gives 0, NaN gives NaN; it overflows to +inf and underflows to 0 where
 * expf does.
 *
 * x = n ln 2 + r with |r| <= ln(2)/2 (Cody and Waite's two-part ln 2, exact products), e^r by a
 * minimax polynomial (relative error 3.1e-9), then times 2^n in two steps, since n reaches from
 * -150 to 150. Adding 1.5 * 2^23 rounds x/ln 2 to the integer n, which then stands in the low bits
 * of the sum. A NaN reaches the polynomial, and its product with any scale is NaN. */
LS_INLINE float ls_vec_exp(float x) {
    const float round = 0x1.8p23f;
    x = ls_vec_clamp(x, 104.0f);
    float sum = x * 1.44269504088896341f + round;
    float n = sum - round;
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 0x1.6a23cep-10f;
    p = p * r + 0x1.123a2p-7f;
    p = p * r + 0x1.5558f2p-5f;
    p = p * r + 0x1.555492p-3f;
    p = p * r + 0x1.fffffcp-2f;
    p = p * (r * r) + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &sum, sizeof bits);
    const uint32_t whole = bits << 23; /* n in the place of the exponent */
    const uint32_t half = (uint32_t)((int32_t)whole >> 1) & 0xff800000u;
    const uint32_t one = 0x3f800000u;
    return p * ls_vec_from_bits(one + half) * ls_vec_from_bits(one + (whole - half));
}

/* 2^f for f in [-1/2, 1/2] by its minimax polynomial, of floats or of vectors of them. */
#define LS_EXP2_POLYNOMIAL(f)                                                                      \
    (((((((f)*1.535336188e-4f + 1.339887440e-3f) * (f) + 9.618437358e-3f) * (f) +                  \
        5.550332471e-2f) *                                                                         \
           (f) +                                                                                   \
       2.402264791e-1f) *                                                                          \
          (f) +                                                                                    \
      6.931472029e-1f) *                                                                           \
         (f) +                                                                                     \
     1.0f)

#define LS_LOG2_E 1.44269504088896341f
/* Added, it rounds to an integer and puts that, with the bias of an exponent, in the low bits. */
#define LS_EXPONENT_SHIFT (0x1.8p23f + 127.0f)
#define LS_SOFTMAX_LEAST  -88.0296919f /* -127 ln 2: scales by 2^-127, taken as 0 */

/* e^x for x <= 88, within 3 ulp for x in [-10, 10]; NaN stays NaN; where the result would be
 * subnormal it is exactly 0. Half the work of ls_vec_exp, whose range softmax does not need: the
 * error of x log2(e), |x| 2^-24, counts only where the result vanishes beside the row's 1. */
LS_INLINE float ls_vec_exp_softmax(float x) {
    x = x < LS_SOFTMAX_LEAST ? LS_SOFTMAX_LEAST : x;
    const float biased = x * LS_LOG2_E + LS_EXPONENT_SHIFT;
    const float f = x * LS_LOG2_E - (biased - LS_EXPONENT_SHIFT);
    uint32_t bits;
    memcpy(&bits, &biased, sizeof bits);
    return LS_EXP2_POLYNOMIAL(f) * ls_vec_from_bits(bits << 23);
}

/* 1 / (1 + e^-x), within 3 ulp; 0 below about -88.7, where e^-x overflows. */
LS_INLINE float ls_vec_sigmoid(float x) {
    return 1.0f / (1.0f + ls_vec_exp(-x));
}

#endif
