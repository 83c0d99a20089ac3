/* Learning-rate schedules; the papers are in optim.h. */
#include "optim/optim.h"

#include <math.h>

/* 0 at `first`, 1 at `last` and after it. */
static double progress(int64_t step, int64_t first, int64_t last) {
    if (step >= last) {
        return 1.0;
    }
    return step <= first ? 0.0 : (double)(step - first) / (double)(last - first);
}

double ls_schedule_lr(const ls_config_schedule *schedule, double lr, int64_t step, int64_t total) {
    const int64_t warmup = schedule->warmup_steps;
    step -= schedule->first_step;
    total -= schedule->first_step;
    const double floor_lr = lr * schedule->min_lr_ratio;
    if (step <= warmup) {
        return lr * (double)step / (double)warmup;
    }
    switch (schedule->kind) {
    case LS_SCHEDULE_CONSTANT:
        return lr;
    case LS_SCHEDULE_LINEAR:
        return lr + (floor_lr - lr) * progress(step, warmup, total);
    case LS_SCHEDULE_COSINE:
        return floor_lr + (lr - floor_lr) * 0.5 * (1.0 + cos(M_PI * progress(step, warmup, total)));
    case LS_SCHEDULE_WSD: {
        int64_t decay = schedule->decay_steps > 0 ? schedule->decay_steps : total / 5;
        int64_t first = total - decay > warmup ? total - decay : warmup;
        return lr + (floor_lr - lr) * progress(step, first, total);
    }
    case LS_SCHEDULE_INVERSE_SQRT:
        return lr * sqrt((double)(warmup > 1 ? warmup : 1) / (double)step);
    }
    return lr;
}
