/* Elementary functions in fp32 for loops under `#pragma omp simd`: inline, without branches, tables
 * or calls, so that the vectoriser turns a loop around them into plain vector code at every
 * instruction set level. */
#ifndef LS_DEVICE_CPU_VEC_MATH_H
#define LS_DEVICE_CPU_VEC_MATH_H

#include <stdint.h>
#include <string.h>

#define LS_INLINE static inline __attribute__((always_inline))

/* 2^n for n in [-126, 127], from the exponent bits. */
LS_INLINE float ls_vec_exp2_int(int32_t n) {
    uint32_t bits = (uint32_t)(n + 127) << 23;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* e^x within 1.1 ulp where the result is normal, and within one quantum where it is subnormal.
 * +inf gives +inf, -inf gives 0, NaN gives NaN; it overflows to +inf and underflows to 0 where
 * expf does.
 *
 * x = n ln 2 + r with |r| <= ln(2)/2 (Cody and Waite's two-part ln 2, exact products), e^r by the
 * polynomial of Moshier's Cephes expf (1989), then times 2^n in two steps, since n reaches from
 * -150 to 128. Adding 1.5 * 2^23 rounds x/ln 2 to the integer that then stands in the low bits of
 * the sum. Comparisons keep a NaN: only x reaches the sum then, and its product with any scale is
 * NaN. */
LS_INLINE float ls_vec_exp(float x) {
    const float lowest = -104.0f, highest = 89.0f, round = 0x1.8p23f;
    float clamped = x < lowest ? lowest : x;
    clamped = clamped > highest ? highest : clamped;
    float shifted = clamped * 1.44269504088896341f + round;
    float n = shifted - round;
    float r = clamped - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    int32_t whole = (int32_t)((uint32_t)bits << 9) >> 9; /* n, sign-extended from 23 bits */
    int32_t half = whole >> 1;
    return p * ls_vec_exp2_int(half) * ls_vec_exp2_int(whole - half);
}

/* 1 / (1 + e^-x), within 3 ulp; 0 below about -88.7, where e^-x overflows. */
LS_INLINE float ls_vec_sigmoid(float x) {
    return 1.0f / (1.0f + ls_vec_exp(-x));
}

#endif
