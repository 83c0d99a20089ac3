/* Sums of non-negative doubles that do not depend on the order of the terms or on who adds them:
 * fixed-point numbers whose unit follows from the largest term of all ranks, added as integers
 * (after Demmel & Nguyen 2013, doi:10.1109/ARITH.2013.9: one reduction for the scale, one for the
 * digits). What lies below 2^-96 of the largest term is cut off from each term: with fewer than
 * 2^31 terms the sum is exact but for 2^-65 of itself, and then rounded once. For CPUs and GPUs.
 *
 *   int32_t scale = the largest ls_exact_scale(x) of all terms of all ranks    (all-reduce MAX)
 *   ls_exact_add(&sum, x, scale) for each own term                    (all-reduce SUM of sum.digit)
 *   ls_exact_value(&sum, scale) */
#ifndef LS_BASE_EXACT_SUM_H
#define LS_BASE_EXACT_SUM_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __CUDACC__
#define LS_EXACT_FUNCTION static inline __host__ __device__
#else
#define LS_EXACT_FUNCTION static inline
#endif

enum { LS_EXACT_DIGITS = 3 }; /* of 32 bits, the highest first, with room for 2^31 carries */

typedef struct ls_exact_sum {
    int64_t digit[LS_EXACT_DIGITS];
} ls_exact_sum;

/* The scale of a sum without terms, or of zeros; of terms with infinity; of terms with NaN. */
#define LS_EXACT_ZERO     INT32_MIN
#define LS_EXACT_INFINITE (INT32_MAX - 1)
#define LS_EXACT_NAN      INT32_MAX

LS_EXACT_FUNCTION bool ls_exact_has_digits(int32_t scale) {
    return scale > LS_EXACT_ZERO && scale < LS_EXACT_INFINITE;
}

/* The smallest s with x < 2^s, or one of the above. x >= 0 or NaN. */
LS_EXACT_FUNCTION int32_t ls_exact_scale(double x) {
    int scale;
    if (x != x) {
        return LS_EXACT_NAN;
    }
    if (x > 1.7976931348623157e308) {
        return LS_EXACT_INFINITE;
    }
    return frexp(x, &scale) > 0.0 ? scale : LS_EXACT_ZERO;
}

/* Adds x < 2^scale; does nothing where the scale is one of the above. */
LS_EXACT_FUNCTION void ls_exact_add(ls_exact_sum *sum, double x, int32_t scale) {
    if (!ls_exact_has_digits(scale)) {
        return;
    }
    double rest = ldexp(x, -scale);
    for (int i = 0; i < LS_EXACT_DIGITS; i++) {
        rest *= 0x1p32;
        const double digit = floor(rest);
        sum->digit[i] += (int64_t)digit;
        rest -= digit; /* exact, as are the products */
    }
}

/* The sum rounded to double; 0, infinity or NaN where the scale says so. */
LS_EXACT_FUNCTION double ls_exact_value(const ls_exact_sum *sum, int32_t scale) {
    if (!ls_exact_has_digits(scale)) {
        return scale == LS_EXACT_ZERO ? 0.0 : scale == LS_EXACT_INFINITE ? INFINITY : NAN;
    }
    unsigned __int128 total = 0; /* at most 2^31 times 2^96 */
    for (int i = 0; i < LS_EXACT_DIGITS; i++) {
        total = (total << 32) + (unsigned __int128)sum->digit[i];
    }
    return ldexp((double)total, scale - 32 * LS_EXACT_DIGITS);
}

#endif
