/* Sums of non-negative doubles that do not depend on the order of the terms or on who adds them:
 * fixed-point numbers whose unit follows from the largest term of all ranks, added as integers
 * (after Demmel & Nguyen 2013, doi:10.1109/ARITH.2013.9: one reduction for the scale, one for the
 * digits). What lies below 2^-96 of the largest term is cut off from each term: with fewer than
 * 2^31 terms the sum is exact but for 2^-65 of itself, and then rounded once.
 *
 *   int32_t scale = the largest ls_exact_scale(x) of all terms of all ranks    (all-reduce MAX)
 *   ls_exact_add(&sum, x, scale) for each own term                    (all-reduce SUM of sum.digit)
 *   ls_exact_value(&sum, scale) */
#ifndef LS_OPTIM_EXACT_SUM_H
#define LS_OPTIM_EXACT_SUM_H

#include <stdint.h>

enum { LS_EXACT_DIGITS = 3 }; /* of 32 bits, the highest first, with room for 2^31 carries */

typedef struct ls_exact_sum {
    int64_t digit[LS_EXACT_DIGITS];
} ls_exact_sum;

/* The scale of a sum without terms, or of zeros; of terms with infinity; of terms with NaN. */
#define LS_EXACT_ZERO     INT32_MIN
#define LS_EXACT_INFINITE (INT32_MAX - 1)
#define LS_EXACT_NAN      INT32_MAX

/* The smallest s with x < 2^s, or one of the above. x >= 0 or NaN. */
int32_t ls_exact_scale(double x);
/* Adds x < 2^scale; does nothing where the scale is one of the above. */
void ls_exact_add(ls_exact_sum *sum, double x, int32_t scale);
/* The sum rounded to double; 0, INFINITY or NAN where the scale says so. */
double ls_exact_value(const ls_exact_sum *sum, int32_t scale);

#endif
