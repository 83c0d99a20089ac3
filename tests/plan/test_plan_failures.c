/* Daly's formulas against a simulation, event by event, of a job that saves, fails and restarts. */
#include "runtime/base/rng.h"
#include "runtime/plan/bill.h"

#include "tests/test.h"

/* Seconds to the next failure: exponential, from a counter. */
static double next_failure(double mtbf_s, uint64_t *draw) {
    return -mtbf_s * log1p(-ls_rng_uniform(7, 1, (*draw)++));
}

typedef struct job {
    double now, fails_at, kept, done; /* clock; next failure; work that is safe; work done */
    double safe_at, pending;          /* a save in the background: when it is safe, of what */
    uint64_t draw;
} job;

/* Lets `seconds` pass; false when a failure came first. A save that got safe before then counts. */
static bool pass(job *j, double seconds) {
    const double end = j->now + seconds;
    const double reached = end < j->fails_at ? end : j->fails_at;
    if (j->safe_at <= reached) {
        j->kept = j->pending;
        j->safe_at = HUGE_VAL;
    }
    j->now = reached;
    return end < j->fails_at;
}

/* Share of the wall time that is work, over `total` seconds of it. */
static double simulate(const ls_failures *f, double interval_s, double total) {
    job j = {.safe_at = HUGE_VAL};
    j.fails_at = next_failure(f->mtbf_s, &j.draw);
    while (j.kept < total) {
        bool alive = pass(&j, interval_s);
        if (alive) {
            j.done += interval_s;
            alive = pass(&j, f->stall_s);
        }
        if (alive) {
            j.pending = j.done;
            j.safe_at = j.now + f->commit_s;
            if (f->commit_s == 0) {
                j.kept = j.done;
                j.safe_at = HUGE_VAL;
            }
            continue;
        }
        j.safe_at = HUGE_VAL; /* an unfinished save is lost too */
        do {
            j.fails_at = j.now + next_failure(f->mtbf_s, &j.draw);
        } while (!pass(&j, f->restart_s));
        j.done = j.kept;
    }
    return j.kept / j.now;
}

static void test_simulation(void) {
    static const ls_failures jobs[] = {
        {.mtbf_s = 11134, .stall_s = 30, .restart_s = 600}, /* 16,384 devices */
        {.mtbf_s = 11134, .stall_s = 2, .commit_s = 60, .restart_s = 300},
        {.mtbf_s = 3600, .stall_s = 60, .restart_s = 900},
        {.mtbf_s = 86400, .stall_s = 5, .commit_s = 120, .restart_s = 120},
    };
    for (size_t i = 0; i < sizeof jobs / sizeof jobs[0]; i++) {
        const ls_failures *f = &jobs[i];
        const double best = ls_failures_best_interval_s(f);
        const double factors[] = {0.5, 1, 2};
        for (int k = 0; k < 3; k++) {
            const double interval = fmax(best * factors[k], f->commit_s);
            CHECK_NEAR(simulate(f, interval, 20000 * f->mtbf_s), ls_failures_goodput(f, interval),
                       0.02, 0);
        }
    }
}

/* The best interval is a maximum of the formula, and of the simulation. */
static void test_best(void) {
    const ls_failures f = {.mtbf_s = 7200, .stall_s = 40, .restart_s = 300};
    const double best = ls_failures_best_interval_s(&f);
    CHECK_NEAR(best, sqrt(2 * 40 * 7200.0) * (1 + sqrt(40 / 14400.0) / 3 + 40 / 14400.0 / 9) - 40,
               1e-12, 0);
    for (double factor = 0.3; factor < 3.1; factor += 0.1) {
        CHECK(ls_failures_goodput(&f, best * factor) <= ls_failures_goodput(&f, best) * 1.0005);
    }
    CHECK(simulate(&f, best, 1e8) > simulate(&f, best / 4, 1e8));
    CHECK(simulate(&f, best, 1e8) > simulate(&f, best * 4, 1e8));
    const ls_failures slow = {.mtbf_s = 10, .stall_s = 100};
    CHECK_NEAR(ls_failures_best_interval_s(&slow), 10, 0, 0);
    /* What a save takes to be safe is lost work, of every failure; no more than there is. */
    ls_failures late = f, lost = f;
    late.commit_s = 120;
    lost.restart_s += 120;
    CHECK_NEAR(ls_failures_goodput(&late, best), ls_failures_goodput(&lost, best), 1e-12, 0);
    CHECK(ls_failures_goodput(&late, best) < ls_failures_goodput(&f, best) * 0.99);
    late.commit_s = 1e6;
    lost.restart_s = f.restart_s + best;
    CHECK_NEAR(ls_failures_goodput(&late, best), ls_failures_goodput(&lost, best), 1e-12, 0);
    const ls_failures never = {.mtbf_s = HUGE_VAL, .stall_s = 1};
    CHECK_NEAR(ls_failures_goodput(&never, 99), 0.99, 1e-12, 0);
}

static void test_default(void) {
    ls_cluster c;
    CHECK_OK(ls_cluster_load("dgx-h100", &c));
    const ls_bill_options o = {.tokens = 1e12,
                               .usd_per_hour = 2,
                               .mtbf_hours = NAN,
                               .save_stall_s = NAN,
                               .save_commit_s = NAN,
                               .restart_s = NAN};
    ls_bill b;
    CHECK_OK(ls_bill_make(&c, &o, 16384, 1e6, 4e6, 5e12, &b));
    CHECK_NEAR(b.failures.mtbf_s, 54 * 86400.0 / 419, 1e-12, 0);
    CHECK_NEAR(b.days * 86400, 1e12 / 1e6 / b.goodput, 1e-12, 0);
    CHECK_NEAR(b.usd, b.device_hours * 2, 1e-12, 0);
    CHECK_NEAR(b.it_mwh, b.device_hours * 10200 / 8 * 1e-6, 1e-12, 0);
    CHECK(isnan(b.mwh) && isnan(b.carbon_t)); /* neither PUE nor intensity is known */
    CHECK(b.save_interval_s >= b.failures.commit_s);
    const ls_bill_options spot = {.tokens = 1, .usd_per_hour = NAN, .price_kind = "spot"};
    CHECK_OK(ls_cluster_load("aws-p5", &c));
    CHECK_STATUS(ls_bill_make(&c, &spot, 8, 1, 1, 1, &b), LS_E_CONFIG);
    CHECK_MESSAGE("has no 'spot' price; it has on_demand, capacity_block");
}

int main(void) {
    test_simulation();
    test_best();
    test_default();
    return test_end();
}
