#include "optim/exact_sum.h"

#include <math.h>
#include <stdbool.h>

#define DIGIT 0x1p32

static bool has_digits(int32_t scale) {
    return scale > LS_EXACT_ZERO && scale < LS_EXACT_INFINITE;
}

int32_t ls_exact_scale(double x) {
    if (isnan(x)) {
        return LS_EXACT_NAN;
    }
    if (isinf(x)) {
        return LS_EXACT_INFINITE;
    }
    int scale;
    return frexp(x, &scale) > 0.0 ? scale : LS_EXACT_ZERO;
}

void ls_exact_add(ls_exact_sum *sum, double x, int32_t scale) {
    if (!has_digits(scale)) {
        return;
    }
    double rest = ldexp(x, -scale);
    for (int i = 0; i < LS_EXACT_DIGITS; i++) {
        rest *= DIGIT;
        double digit = floor(rest);
        sum->digit[i] += (int64_t)digit;
        rest -= digit; /* exact, as are the products */
    }
}

double ls_exact_value(const ls_exact_sum *sum, int32_t scale) {
    if (!has_digits(scale)) {
        return scale == LS_EXACT_ZERO ? 0.0 : scale == LS_EXACT_INFINITE ? INFINITY : NAN;
    }
    unsigned __int128 total = 0; /* at most 2^31 times 2^96 */
    for (int i = 0; i < LS_EXACT_DIGITS; i++) {
        total = (total << 32) + (unsigned __int128)sum->digit[i];
    }
    return ldexp((double)total, scale - 32 * LS_EXACT_DIGITS);
}
