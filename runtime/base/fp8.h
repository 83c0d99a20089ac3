/* 8-bit floating point (Micikevicius 2022, arXiv 2209.05433): E4M3 with 3 bits of mantissa, no
 * infinity and 448 as its largest; E5M2 with 2 bits and 57344. */
#ifndef LS_BASE_FP8_H
#define LS_BASE_FP8_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __CUDACC__
#define LS_FP8_FUNCTION static inline __host__ __device__
#else
#define LS_FP8_FUNCTION static inline
#endif

typedef enum ls_fp8_format { LS_E4M3, LS_E5M2 } ls_fp8_format;
enum { LS_FP8_NAN = 0x7f };

/* The largest power of two that times `most` is within the format; for a tensor whose largest
 * magnitude is `most`. 1 for 0; 0 for infinity, which makes NaNs of infinities. */
LS_FP8_FUNCTION float ls_fp8_scale(ls_fp8_format format, float most) {
    int exponent;
    const float fraction = frexpf(most, &exponent); /* both formats end at 0.875 * 2^x */
    const int up = (format == LS_E4M3 ? 9 : 16) - exponent - (fraction > 0.875f ? 1 : 0);
    if (!(most > 0.0f)) {
        return 1.0f;
    }
    return most > 3.402823466e38f ? 0.0f : ldexpf(1.0f, up < 126 ? up : 126);
}

static inline float ls_fp8_to_f32(ls_fp8_format format, uint8_t x) {
    const int bits = format == LS_E4M3 ? 3 : 2, bias = format == LS_E4M3 ? 7 : 15;
    const int magnitude = x & 0x7f, exponent = magnitude >> bits,
              fraction = magnitude & ((1 << bits) - 1);
    if (magnitude == LS_FP8_NAN || (format == LS_E5M2 && magnitude > 0x7c)) {
        return NAN;
    }
    if (format == LS_E5M2 && magnitude == 0x7c) {
        return x & 0x80 ? -INFINITY : INFINITY;
    }
    const float value = exponent == 0
                            ? ldexpf((float)fraction, 1 - bias - bits)
                            : ldexpf((float)(fraction + (1 << bits)), exponent - bias - bits);
    return x & 0x80 ? -value : value;
}

/* Ties go to the even mantissa; beyond the largest is the largest; a NaN stays one. */
static inline uint8_t ls_fp8_from_f32(ls_fp8_format format, float x) {
    const int bits = format == LS_E4M3 ? 3 : 2, bias = format == LS_E4M3 ? 7 : 15;
    const float most = format == LS_E4M3 ? 448.0f : 57344.0f, a = fabsf(x);
    const uint8_t sign = signbit(x) ? 0x80 : 0;
    int exponent;
    if (x != x) {
        return LS_FP8_NAN;
    }
    (void)frexpf(a < most ? a : most, &exponent);
    exponent = exponent - 1 < 1 - bias ? 1 - bias : exponent - 1;
    /* Units of the last place, exact until they are rounded. */
    int units = (int)rintf(ldexpf(a < most ? a : most, bits - exponent));
    if (units == 2 << bits) {
        units /= 2;
        exponent++;
    }
    const int field = units < 1 << bits ? 0 : exponent + bias; /* 0: subnormal */
    return (uint8_t)(sign | field << bits | (units & ((1 << bits) - 1)));
}

#endif
