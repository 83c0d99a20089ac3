/* Order-independent sums: the same bits for every order and division, exact where 128-bit integers
 * can say so, and the marks of zero, infinity and NaN. */
#include "runtime/base/exact_sum.h"
#include "runtime/base/rng.h"
#include "tests/test.h"

enum { TERMS = 1000 };

static int32_t scale_of(const double *x, int n) {
    int32_t scale = LS_EXACT_ZERO;
    for (int i = 0; i < n; i++) {
        int32_t own = ls_exact_scale(x[i]);
        scale = own > scale ? own : scale;
    }
    return scale;
}

/* The sum by `parts` ranks, each adding every parts-th term, from the end when reversed. */
static double sum_by(const double *x, int n, int parts, bool reversed) {
    int32_t scale = scale_of(x, n);
    ls_exact_sum total = {{0}};
    for (int part = 0; part < parts; part++) {
        ls_exact_sum own = {{0}};
        for (int i = part; i < n; i += parts) {
            ls_exact_add(&own, x[reversed ? n - 1 - i : i], scale);
        }
        for (int d = 0; d < LS_EXACT_DIGITS; d++) {
            total.digit[d] += own.digit[d];
        }
    }
    return ls_exact_value(&total, scale);
}

static void check_same(const double *x, int n, double expected, double relative) {
    double one = sum_by(x, n, 1, false);
    CHECK_NEAR(one, expected, relative, 0.0);
    for (int parts = 1; parts <= 7; parts++) {
        CHECK(sum_by(x, n, parts, false) == one);
        CHECK(sum_by(x, n, parts, true) == one);
    }
}

/* Terms of every size from the smallest square of a float to the largest. */
static void check_random(double low, double high) {
    double x[TERMS];
    long double sum = 0.0L;
    for (int i = 0; i < TERMS; i++) {
        double exponent = low + (high - low) * ls_rng_uniform(3, 1, (uint64_t)i);
        x[i] = ls_rng_uniform(3, 2, (uint64_t)i) * exp2(exponent);
        sum += (long double)x[i];
    }
    check_same(x, TERMS, (double)sum, 1e-15);
}

static void check_exact(void) {
    /* 2^53 + 1 + 1 loses both ones in double. */
    const double ones[] = {0x1p53, 1.0, 1.0, 0.5, 0.25, 0.25};
    check_same(ones, 6, 0x1p53 + 4.0, 0.0);
    CHECK(sum_by(ones, 6, 1, false) == 0x1p53 + 4.0); /* + 3 lies half way: to even */
    /* 2^-96 of the largest is seen, once there are enough to be; what lies below is cut off. */
    double few[1 + TERMS] = {1.0};
    for (int i = 1; i <= 512; i++) {
        few[i] = 0x1p-61;
    }
    CHECK(sum_by(few, 1 + TERMS, 1, false) == 1.0 + 0x1p-52);
    const double tiny[] = {1.0, 0x1p-97, 0x1p-1074};
    CHECK(sum_by(tiny, 3, 1, false) == 1.0);
    const double denormal[] = {0x1p-1074, 0x1p-1074, 0x1p-1073};
    check_same(denormal, 3, 0x1p-1072, 0.0);
    const double huge[] = {0x1.fffffffffffffp1022, 0x1p1022};
    check_same(huge, 2, 0x1.fffffffffffffp1022 + 0x1p1022, 0.0);
}

static void check_marks(void) {
    double x[] = {0.0, 0.0, 0.0};
    CHECK(sum_by(x, 0, 1, false) == 0.0);
    CHECK(sum_by(x, 3, 2, false) == 0.0);
    x[1] = 1.0;
    CHECK(sum_by(x, 3, 2, false) == 1.0);
    x[2] = INFINITY;
    CHECK(sum_by(x, 3, 2, false) == INFINITY);
    x[0] = NAN;
    CHECK(isnan(sum_by(x, 3, 2, false)));
    x[2] = 0.0;
    CHECK(isnan(sum_by(x, 3, 1, true)));
    CHECK_INT(ls_exact_scale(1.0), 1);
    CHECK_INT(ls_exact_scale(0.75), 0);
}

int main(void) {
    check_random(-149 * 2, 256);
    check_random(-10, 10);
    check_random(-60, 0);
    check_exact();
    check_marks();
    return test_end();
}
