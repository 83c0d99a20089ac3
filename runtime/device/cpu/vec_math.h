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

/* 1 / (1 + e^-x), within 3 ulp; 0 below about -88.7, where e^-x overflows. */
LS_INLINE float ls_vec_sigmoid(float x) {
    return 1.0f / (1.0f + ls_vec_exp(-x));
}

#endif
