/* Learning-rate schedules against closed forms, at and around their edges. */
#include "optim/optim.h"
#include "tests/test.h"

#define LR 2e-3

static double at(const ls_config_schedule *s, int64_t step, int64_t total) {
    return ls_schedule_lr(s, LR, step, total);
}

#define CHECK_LR(step, total, expected) CHECK_NEAR(at(&s, step, total), (expected), 1e-14, 0.0)

static void check_warmup(ls_schedule_kind kind) {
    ls_config_schedule s = {.kind = kind, .warmup_steps = 8, .min_lr_ratio = 0.1, .decay_steps = 5};
    CHECK_LR(1, 100, LR / 8);
    CHECK_LR(3, 100, LR * 3 / 8);
    CHECK_LR(8, 100, LR);
    for (int64_t step = 9; step < 100; step++) {
        CHECK(at(&s, step + 1, 100) <= at(&s, step, 100));
        CHECK(at(&s, step, 100) <= LR && at(&s, step, 100) >= 0.0);
    }
    /* A run shorter than the warm-up never leaves it. */
    CHECK_LR(4, 4, LR / 2);
    s.warmup_steps = 0;
    CHECK(at(&s, 1, 100) > 0.98 * LR && at(&s, 1, 100) <= LR);
    CHECK(at(&s, 1, 1) > 0.0);
}

static void check_constant(void) {
    ls_config_schedule s = {.kind = LS_SCHEDULE_CONSTANT, .warmup_steps = 2, .min_lr_ratio = 0.1};
    CHECK_LR(3, 10, LR);
    CHECK_LR(10, 10, LR);
    CHECK_LR(11, 10, LR);
}

static void check_linear(void) {
    ls_config_schedule s = {.kind = LS_SCHEDULE_LINEAR, .warmup_steps = 10, .min_lr_ratio = 0.2};
    CHECK_LR(11, 110, LR * (1.0 - 0.8 / 100));
    CHECK_LR(60, 110, LR * 0.6);
    CHECK_LR(110, 110, LR * 0.2);
    CHECK_LR(500, 110, LR * 0.2);
    s.min_lr_ratio = 0.0;
    CHECK_NEAR(at(&s, 110, 110), 0.0, 0.0, 1e-18);
}

static void check_cosine(void) {
    ls_config_schedule s = {.kind = LS_SCHEDULE_COSINE, .warmup_steps = 10, .min_lr_ratio = 0.1};
    CHECK_LR(60, 110, LR * 0.55);                           /* half way */
    CHECK_LR(35, 110, LR * (0.1 + 0.45 * (1 + sqrt(0.5)))); /* a quarter: cos 45 degrees */
    CHECK_LR(110, 110, LR * 0.1);
    CHECK_LR(111, 110, LR * 0.1);
    s.warmup_steps = 0;
    CHECK_LR(50, 100, LR * 0.55);
    CHECK_LR(1, 1, LR * 0.1);
}

static void check_wsd(void) {
    ls_config_schedule s = {
        .kind = LS_SCHEDULE_WSD, .warmup_steps = 10, .min_lr_ratio = 0.1, .decay_steps = 40};
    CHECK_LR(11, 200, LR);
    CHECK_LR(160, 200, LR);
    CHECK_LR(161, 200, LR * (1.0 - 0.9 / 40));
    CHECK_LR(180, 200, LR * 0.55);
    CHECK_LR(200, 200, LR * 0.1);
    CHECK_LR(201, 200, LR * 0.1);
    s.decay_steps = 0; /* a fifth */
    CHECK_LR(160, 200, LR);
    CHECK_LR(180, 200, LR * 0.55);
    s.decay_steps = 1000; /* longer than the run: all of it but the warm-up */
    CHECK_LR(105, 200, LR * 0.55);
}

static void check_inverse_sqrt(void) {
    ls_config_schedule s = {.kind = LS_SCHEDULE_INVERSE_SQRT, .warmup_steps = 100};
    CHECK_LR(100, 1000, LR);
    CHECK_LR(400, 1000, LR / 2);
    CHECK_LR(10000, 1000, LR / 10);
    s.warmup_steps = 0;
    CHECK_LR(1, 1000, LR);
    CHECK_LR(4, 1000, LR / 2);
}

/* From its first step on a schedule is what it would be in a run that begins there. */
static void check_first_step(ls_schedule_kind kind) {
    const ls_config_schedule whole = {.kind = kind, .warmup_steps = 8, .min_lr_ratio = 0.1};
    ls_config_schedule later = whole;
    later.first_step = 1000;
    for (int64_t step = 1; step <= 60; step++) {
        CHECK(at(&later, 1000 + step, 1060) == at(&whole, step, 60));
    }
}

int main(void) {
    for (int kind = LS_SCHEDULE_CONSTANT; kind <= LS_SCHEDULE_INVERSE_SQRT; kind++) {
        check_warmup((ls_schedule_kind)kind);
        check_first_step((ls_schedule_kind)kind);
    }
    check_constant();
    check_linear();
    check_cosine();
    check_wsd();
    check_inverse_sqrt();
    return test_end();
}
