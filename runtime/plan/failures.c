#include "runtime/plan/failures.h"

#include <math.h>

double ls_failures_best_interval_s(const ls_failures *f) {
    const double stall = fmax(f->stall_s, 1e-3), m = f->mtbf_s;
    if (stall >= 2 * m) {
        return m;
    }
    const double x = sqrt(stall / (2 * m));
    return fmin(m, sqrt(2 * stall * m) * (1 + x / 3 + x * x / 9) - stall);
}

double ls_failures_goodput(const ls_failures *f, double interval_s) {
    const double m = f->mtbf_s;
    if (!(m < HUGE_VAL)) {
        return interval_s / (interval_s + f->stall_s);
    }
    /* Work done before a commit comes on top of every restart. */
    const double restart = f->restart_s + fmin(f->commit_s, interval_s);
    const double wall = m * exp(restart / m) * expm1((interval_s + f->stall_s) / m);
    return interval_s / wall;
}
