/* Costs that others published, from what they say of their runs. */
#include "runtime/plan/bill.h"
#include "runtime/plan/search.h"

#include "tests/test.h"

static ls_cluster cluster;

/* Step time by the planner, then the bill. */
static ls_bill bill_of(const char *model, const char *profile, const char *layout,
                       ls_precision precision, int64_t seq, int64_t batch, double tokens,
                       double usd_per_hour) {
    ls_plan_model m;
    ls_plan_rates rates;
    ls_plan_layout l;
    ls_plan_cost cost;
    ls_plan_params params;
    ls_bill bill;
    CHECK_OK(ls_cluster_load(profile, &cluster));
    CHECK_OK(ls_plan_model_find(model, &m));
    CHECK_OK(ls_plan_rates_of(&cluster, precision, &rates));
    CHECK_OK(ls_plan_layout_parse(layout, &l));
    ls_plan_layout_fill(&l);
    const ls_plan_job job = {
        .model = &m, .rates = &rates, .precision = precision, .seq = seq, .global_batch = batch};
    ls_plan_cost_of(&job, &l, &cost);
    ls_plan_model_params(&m, &params);
    const ls_bill_options o = {.tokens = tokens,
                               .usd_per_hour = usd_per_hour,
                               .mtbf_hours = NAN,
                               .save_stall_s = NAN,
                               .save_commit_s = NAN,
                               .restart_s = NAN};
    CHECK_OK(ls_bill_make(&cluster, &o, ls_plan_devices(&l), cost.tokens_per_s,
                          (double)(batch * seq), params.total * 12, &bill));
    return bill;
}

/* arXiv 2412.19437, table 1 and section 3.2: 2.664 M hours of pre-training, 2.788 M with the
 * context extension and the rest (124,000, taken as published), $5.576 M at $2 an hour. Norms and
 * up-projections are computed again. */
static void test_deepseek(void) {
    const ls_bill b = bill_of("deepseek-v3", "deepseek-h800",
                              "pipeline=16,interleave=2,shard=128,expert=64,recompute=selective",
                              LS_PRECISION_FP8, 4096, 15360, 14.8e12, NAN);
    printf("DeepSeek-V3: %.3f M device-hours of pre-training (published 2.664), $%.3f M (5.576)\n",
           b.device_hours * 1e-6, (b.usd + 2 * 124e3) * 1e-6);
    CHECK_NEAR(b.device_hours, 2.664e6, 0.10, 0);
    CHECK_NEAR(b.usd + 2 * 124e3, 5.576e6, 0.10, 0);
}

/* arXiv 2407.21783, table 4 and section 3.4: 14.8 T tokens in sequences of 8,192 and the last 0.8 T
 * in up to 131,072 on 16,384 devices; 30.84 M hours by the model card, at 700 W. */
static void test_llama3(void) {
    const ls_bill main_part =
        bill_of("llama3-405b", "meta-h100",
                "tensor=8,pipeline=16,shard=128,interleave=8,recompute=selective",
                LS_PRECISION_BF16, 8192, 2048, 14.8e12, NAN);
    const ls_bill long_part =
        bill_of("llama3-405b", "meta-h100", "tensor=8,context=16,pipeline=16,shard=8,interleave=8",
                LS_PRECISION_BF16, 131072, 128, 0.8e12, NAN);
    const double hours = main_part.device_hours + long_part.device_hours;
    const double mwh = main_part.it_mwh + long_part.it_mwh;
    printf(
        "Llama 3.1 405B: %.2f M device-hours (published 30.84), %.2f GWh (21.59), goodput %.3f\n",
        hours * 1e-6, mwh * 1e-3, main_part.goodput);
    CHECK_NEAR(hours, 30.84e6, 0.10, 0);
    CHECK_NEAR(mwh, 30.84e6 * 700e-6, 0.10, 0);
    CHECK(main_part.goodput > 0.9); /* section 3.3.4: over 90 % */
}

/* karpathy/llm.c scripts/run_gpt2_124M.sh: 18,865 steps of 524,288 tokens at 300 ms on 8 devices
 * for $14 an hour, "about $20": 22.01; micro-batches of 64 (-b 64). */
static void test_llmc(void) {
    const double tokens = 18865.0 * 524288;
    CHECK_OK(ls_cluster_load("dgx-a100-80gb", &cluster));
    const ls_bill_options o = {.tokens = tokens,
                               .usd_per_hour = 14.0 / 8,
                               .mtbf_hours = 1e12,
                               .save_stall_s = 0,
                               .save_commit_s = 0,
                               .restart_s = 0};
    ls_bill stated;
    CHECK_OK(ls_bill_make(&cluster, &o, 8, 524288 / 0.3, 524288, 1.5e9, &stated));
    CHECK_NEAR(stated.usd, 22.01, 0.01, 0);
    const ls_bill b = bill_of("gpt2-124m", "dgx-a100-80gb", "shard=8,micro=64", LS_PRECISION_BF16,
                              1024, 512, tokens, 14.0 / 8);
    printf("llm.c GPT-2 124M: $%.2f predicted, $%.2f from its 300 ms, \"about $20\"\n", b.usd,
           stated.usd);
    CHECK_NEAR(b.usd, stated.usd, 0.10, 0);
}

int main(void) {
    test_deepseek();
    test_llama3();
    test_llmc();
    return test_end();
}
