/* ls_vec_exp and ls_vec_sigmoid over all of fp32, by a stride that is coprime to its powers of two.
 */
#include "runtime/device/cpu/vec_math.h"
#include "tests/device/kernel_cases.h"

#include <math.h>
#include <stdio.h>

/* Error in units of the last place of a normal expected value; for subnormal values, of their
 * quantum. NaN for NaN and the same infinity count as no error. */
static double error_ulps(float found, double expected) {
    const float rounded = (float)expected;
    if (isnan(expected) || isinf(rounded)) {
        return (isnan(expected) && isnan(found)) || found == rounded ? 0.0 : INFINITY;
    }
    int exponent;
    frexp(expected, &exponent);
    const double ulp = fabs(expected) < 0x1p-126 ? 0x1p-149 : ldexp(1.0, exponent - 24);
    return fabs((double)found - expected) / ulp;
}

int kt_check_vec_math(void) {
    enum { BATCH = 4096, STRIDE = 2003 };
    static float x[BATCH], exps[BATCH], sigmoids[BATCH];
    double worst_exp = 0.0, worst_sigmoid = 0.0;
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32;) {
        int n = 0;
        for (; n < BATCH && bits < (uint64_t)1 << 32; n++, bits += STRIDE) {
            const uint32_t word = (uint32_t)bits;
            memcpy(&x[n], &word, sizeof word);
        }
        for (int i = 0; i < n; i++) {
            exps[i] = ls_vec_exp(x[i]);
            sigmoids[i] = ls_vec_sigmoid(x[i]);
        }
        for (int i = 0; i < n; i++) {
            worst_exp = fmax(worst_exp, error_ulps(exps[i], exp((double)x[i])));
            if (!(x[i] < -87.0f)) { /* below, exp(-x) overflows and 0 is the documented result */
                worst_sigmoid =
                    fmax(worst_sigmoid, error_ulps(sigmoids[i], 1.0 / (1.0 + exp(-(double)x[i]))));
            }
        }
    }
    if (worst_exp > 1.1 || worst_sigmoid > 3.0 || ls_vec_sigmoid(-1000.0f) != 0.0f) {
        fprintf(stderr, "exp is off by %.3g ulp (allowed 1.1), sigmoid by %.3g (allowed 3)\n",
                worst_exp, worst_sigmoid);
        return 1;
    }
    return 0;
}
