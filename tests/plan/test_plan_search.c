/* The search against trying every layout, its order, its limits and its speed. */
#include "runtime/plan/search.h"

#include "runtime/base/clock.h"
#include "tests/test.h"

static ls_cluster cluster;
static ls_plan_rates rates;
static ls_plan_model model;

static ls_plan_job job_of(const char *name, int64_t seq, int64_t batch) {
    CHECK_OK(ls_plan_model_find(name, &model));
    return (ls_plan_job){.model = &model,
                         .rates = &rates,
                         .precision = LS_PRECISION_BF16,
                         .seq = seq,
                         .global_batch = batch};
}

/* Nothing among all layouts of these axes, tried one by one, beats what was found. */
static void test_exhaustive(void) {
    const ls_plan_job job = job_of("llama3-8b", 8192, 64);
    static ls_plan_result r;
    const double memory = 80e9 * 0.92;
    CHECK_OK(ls_plan_search(&job, 32, memory, NULL, 8, &r));
    double best = HUGE_VAL;
    long legal = 0;
    char buf[160];
    ls_plan_layout l = {.interleave = 1, .expert = 1, .replicate = 1};
    for (l.tensor = 1; l.tensor <= 8; l.tensor *= 2) {
        for (l.pipeline = 1; l.pipeline * l.tensor <= 32; l.pipeline++) {
            for (l.context = 1; l.context * l.pipeline * l.tensor <= 32; l.context *= 2) {
                for (int k = 0; k < 12; k++) {
                    l.micro = 1 << (k & 3);
                    l.recompute = (k >> 2) == 2 ? LS_REDO_FULL : k >> 2;
                    l.zero = 1;
                    l.shard = 32 / (l.tensor * l.pipeline * l.context);
                    ls_plan_cost c;
                    ls_plan_bytes b;
                    if (ls_plan_devices(&l) != 32 || ls_plan_illegal(&job, &l, buf, sizeof buf)) {
                        continue;
                    }
                    legal++;
                    ls_plan_bytes_of(&job, &l, &b);
                    ls_plan_cost_of(&job, &l, &c);
                    if (b.total <= memory && c.step_s < best) {
                        best = c.step_s;
                    }
                }
            }
        }
    }
    CHECK(legal > 100 && r.legal >= legal);
    CHECK(r.found[0].cost.step_s <= best * 1.0000001);
    for (int i = 0; i < r.count; i++) {
        CHECK(r.found[i].cost.bytes.total <= memory);
        CHECK_INT(ls_plan_devices(&r.found[i].layout), 32);
        CHECK(!ls_plan_illegal(&job, &r.found[i].layout, buf, sizeof buf));
        CHECK(i == 0 || r.found[i].cost.step_s >= r.found[i - 1].cost.step_s);
        double more;
        if (i > 0) {
            (void)ls_plan_worst_term(&r.found[0].cost, &r.found[i].cost, &more);
            CHECK(more > 0);
        }
    }
}

static void test_refusals(void) {
    ls_plan_job job = job_of("llama3-405b", 8192, 64);
    static ls_plan_result r;
    CHECK_STATUS(ls_plan_search(&job, 8, 73e9, NULL, 4, &r), LS_E_NO);
    CHECK_MESSAGE("does not fit on 8 devices of 73 GB: the smallest of");
    CHECK(r.nearest.cost.bytes.total > 73e9);
    job.global_batch = 7;
    ls_plan_layout fixed;
    CHECK_OK(ls_plan_layout_parse("shard=16", &fixed));
    CHECK_STATUS(ls_plan_search(&job, 1024, 73e9, &fixed, 4, &r), LS_E_NO);
    CHECK_MESSAGE("7 sequences do not divide over 16 data-parallel ranks");
    CHECK_OK(ls_plan_layout_parse("tensor=8,pipeline=16,recompute=full", &fixed));
    job.global_batch = 2048;
    CHECK_OK(ls_plan_search(&job, 16384, 73e9, &fixed, 4, &r));
    CHECK_INT(r.found[0].layout.tensor, 8);
    CHECK_INT(r.found[0].layout.pipeline, 16);
    CHECK_INT(r.found[0].layout.recompute, LS_REDO_FULL);
}

/* Odd numbers: racks of 72, experts. */
static void test_shapes(void) {
    static ls_plan_result r;
    ls_plan_job job = job_of("llama3-70b", 8192, 576);
    rates.domain = 72;
    CHECK_OK(ls_plan_search(&job, 144, 170e9, NULL, 4, &r));
    rates.domain = 8;
    job = job_of("mixtral-8x7b", 4096, 1024);
    CHECK_OK(ls_plan_search(&job, 64, 73e9, NULL, 8, &r));
    bool spread = false;
    for (int i = 0; i < r.count; i++) {
        spread = spread || r.found[i].layout.expert > 1;
    }
    CHECK(spread);
    job = job_of("gpt2-tiny", 64, 8);
    CHECK_OK(ls_plan_search(&job, 1, 73e9, NULL, 4, &r));
    CHECK_INT(r.count, 1);
}

/* A figure for people: not checked, for machines differ. benchmarks/README.md has it measured. */
static void show_speed(void) {
    const ls_plan_job job = job_of("llama3-405b", 8192, 2048);
    static ls_plan_result r;
    const uint64_t start = ls_clock_ns();
    CHECK_OK(ls_plan_search(&job, 16384, 73e9, NULL, 5, &r));
    printf("%ld layouts of llama3-405b on 16384 devices in %.3f s\n", r.legal,
           (double)(ls_clock_ns() - start) * 1e-9);
    CHECK(r.legal > 3000);
}

int main(void) {
    CHECK_OK(ls_cluster_load("dgx-h100", &cluster));
    CHECK_OK(ls_plan_rates_of(&cluster, LS_PRECISION_BF16, &rates));
    test_exhaustive();
    test_refusals();
    test_shapes();
    show_speed();
    return test_end();
}
