/* The cost model against arithmetic by hand, and what must hold for any layout. */
#include "runtime/plan/cost.h"

#include "runtime/model/model.h"
#include "tests/test.h"

static ls_cluster cluster;
static ls_plan_rates rates;

static ls_plan_cost cost(const ls_plan_model *m, ls_plan_layout l, int64_t seq, int64_t batch) {
    const ls_plan_job job = {.model = m,
                             .rates = &rates,
                             .precision = LS_PRECISION_BF16,
                             .seq = seq,
                             .global_batch = batch};
    ls_plan_cost out;
    ls_plan_cost_of(&job, &l, &out);
    ls_plan_bytes_of(&job, &l, &out.bytes);
    return out;
}

static ls_plan_layout layout(const char *text) {
    ls_plan_layout l;
    CHECK_OK(ls_plan_layout_parse(text, &l));
    ls_plan_layout_fill(&l);
    return l;
}

/* Parameter counts of the releases and of lockstep's own table. */
static void test_params(void) {
    static const struct {
        const char *name;
        double total, active;
    } models[] = {
        {"llama3-8b", 8.03e9, 0},
        {"llama3-70b", 70.55e9, 0},
        {"llama3-405b", 405.8e9, 0},
        {"gpt2-124m", 124.4e6, 0},
        {"gpt3-175b", 174.6e9, 0},
        {"nemotron4-340b", 341e9, 0},
        {"mixtral-8x7b", 46.7e9, 12.7e9},
        {"deepseek-v3", 671e9, 37e9},
        {"qwen3-30b-a3b", 30.5e9, 3.0e9}, /* 3.3 with the look-up */
        {"qwen3-235b-a22b", 235.1e9, 21.6e9},
        {"mpt-7b", 6.65e9, 0},
    };
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        ls_plan_model m;
        ls_plan_params p;
        CHECK_OK(ls_plan_model_find(models[i].name, &m));
        CHECK_OK(ls_plan_model_check(&m));
        ls_plan_model_params(&m, &p);
        CHECK_NEAR(p.total, models[i].total, 0.005, 0);
        if (models[i].active > 0) {
            CHECK_NEAR(p.active, models[i].active, 0.03, 0);
        }
    }
    ls_plan_model m;
    CHECK_STATUS(ls_plan_model_find("llama3-71b", &m), LS_E_CONFIG);
    CHECK_MESSAGE("did you mean 'llama3-70b'?");
}

/* The planner's FLOPs and parameters of lockstep's presets are those of the parameter table. */
static void test_table(void) {
    for (const char *const *name = ls_config_presets(); *name; name++) {
        char preset[64];
        snprintf(preset, sizeof preset, "model.preset=%s", *name);
        const char *overrides[] = {preset, "run.steps=1", "batch.sequences=1", "batch.micro=1"};
        ls_config config;
        CHECK_OK(ls_config_load(&config, NULL, overrides, 4));
        if (config.model.vocab == 0) {
            config.model.vocab = 257;
        }
        ls_plan_model m;
        ls_plan_params p;
        ls_plan_flops f;
        ls_model_flops expected;
        CHECK_OK(ls_plan_model_find(*name, &m));
        ls_plan_model_params(&m, &p);
        ls_plan_model_flops(&m, 5000, &f);
        ls_model_count_flops(&config.model, 5000, &expected);
        CHECK_NEAR(p.total, (double)ls_model_param_count(&config.model), 1e-12, 0);
        CHECK_NEAR(f.products, expected.matmul_per_token, 1e-12, 0);
        CHECK_NEAR(f.attention_full, expected.attention_full_per_token, 1e-12, 0);
        CHECK_NEAR(f.attention_causal, expected.attention_causal_per_token, 1e-12, 0);
    }
}

static void test_product(void) {
    /* Never faster than the effective peak or than its bytes; less so when thin. */
    const double sizes[] = {1, 17, 128, 1000, 4096, 16384};
    for (int a = 0; a < 6; a++) {
        for (int b = 0; b < 6; b++) {
            for (int k = 0; k < 6; k++) {
                const double m = sizes[a], n = sizes[b], d = sizes[k];
                const double s = ls_plan_product_s(&rates, m, n, d);
                CHECK(s >= 2 * m * n * d / rates.products * 0.999999);
                CHECK(s >= (m * d + d * n + m * n) * 2 / rates.hbm * 0.999999);
            }
        }
    }
    CHECK(ls_plan_product_s(&rates, 8192, 8192, 8192) <
          1.15 * 2 * 8192. * 8192. * 8192. / rates.products);
}

static void test_sum(void) {
    ls_plan_model m;
    CHECK_OK(ls_plan_model_find("llama3-405b", &m));
    ls_plan_cost c = cost(
        &m, layout("tensor=8,pipeline=16,interleave=4,shard=128,recompute=selective"), 8192, 2048);
    double total = 0;
    for (int t = 0; t < LS_TERM_COUNT; t++) {
        CHECK(c.seconds[t] >= 0);
        total += c.seconds[t];
    }
    CHECK_NEAR(total, c.step_s, 1e-12, 0);
    CHECK_NEAR(c.tokens_per_s * c.step_s, 2048. * 8192, 1e-12, 0);
    CHECK(c.mfu_causal > 0.2 && c.mfu_causal < c.mfu_full && c.mfu_full < 0.7);
}

static void test_directions(void) {
    ls_plan_model m;
    CHECK_OK(ls_plan_model_find("llama3-70b", &m));
    const ls_plan_layout base = layout("tensor=8,pipeline=4,shard=4");
    const ls_plan_cost plain = cost(&m, base, 8192, 64);
    ls_plan_layout l = base;
    l.recompute = LS_REDO_FULL;
    const ls_plan_cost full = cost(&m, l, 8192, 64);
    CHECK(full.step_s > 1.15 * plain.step_s && full.bytes.activations < plain.bytes.activations);
    l = base;
    l.interleave = 4; /* a quarter of the bubble */
    CHECK_NEAR(cost(&m, l, 8192, 64).seconds[LS_TERM_BUBBLE], plain.seconds[LS_TERM_BUBBLE] / 4,
               1e-9, 0);
    l = base;
    l.zero = 0;
    CHECK(cost(&m, l, 8192, 64).bytes.optimizer > 3.9 * plain.bytes.optimizer);
    l = layout("shard=128,zero=3");
    CHECK(cost(&m, l, 8192, 128).bytes.weights < plain.bytes.weights);
    /* Twice the batch in the same layout: less than twice the time, but more than once. */
    const double twice = cost(&m, base, 8192, 128).step_s;
    CHECK(twice < 2 * plain.step_s && twice > 1.5 * plain.step_s);
    /* A domain of 72 keeps tensor 16 off the network. */
    const ls_plan_cost narrow = cost(&m, layout("tensor=16,shard=8"), 8192, 64);
    rates.domain = 72;
    const ls_plan_cost wide = cost(&m, layout("tensor=16,shard=8"), 8192, 64);
    rates.domain = 8;
    CHECK(wide.seconds[LS_TERM_TENSOR] < 0.75 * narrow.seconds[LS_TERM_TENSOR]);
}

static void test_experts(void) {
    ls_plan_model m;
    CHECK_OK(ls_plan_model_find("deepseek-v3", &m));
    const ls_plan_layout l = layout("pipeline=16,shard=128,expert=64");
    const ls_plan_cost c = cost(&m, l, 4096, 15360);
    CHECK(c.seconds[LS_TERM_EXPERT] > 0);
    ls_plan_layout alone = l;
    alone.expert = 1;
    const ls_plan_cost whole = cost(&m, alone, 4096, 15360);
    CHECK(whole.seconds[LS_TERM_EXPERT] == 0);
    CHECK(whole.bytes.total > 3 * c.bytes.total);
}

/* Masters and two states, each element once; beside the rest where there is one memory. */
static void test_saves(void) {
    ls_plan_model m;
    ls_plan_params p;
    CHECK_OK(ls_plan_model_find("llama3-8b", &m));
    ls_plan_model_params(&m, &p);
    ls_plan_job job = {.model = &m,
                       .rates = &rates,
                       .precision = LS_PRECISION_BF16,
                       .seq = 8192,
                       .global_batch = 128};
    ls_plan_bytes apart, together;
    for (int zero = 0; zero <= 3; zero++) {
        ls_plan_layout l = layout("tensor=2,shard=4,replicate=2");
        l.zero = zero;
        ls_plan_bytes_of(&job, &l, &apart);
        job.on_host = true;
        ls_plan_bytes_of(&job, &l, &together);
        job.on_host = false;
        CHECK_NEAR(apart.saves, 12 * p.total / 16, 1e-3, 0);
        CHECK_NEAR(together.total - together.activations - (apart.total - apart.activations),
                   apart.saves, 1e-6, 0);
        /* A GPU keeps the gradients of logits for one product. */
        CHECK_NEAR(apart.activations - together.activations, 8192.0 * 128256 / 2 * 2, 1e-6, 0);
    }
}

/* Sent in 16 bits, and kept in 16 bits or in 32. */
static void test_gradients(void) {
    ls_plan_model m;
    CHECK_OK(ls_plan_model_find("llama3-8b", &m));
    const ls_plan_layout l = layout("shard=16");
    ls_plan_cost c[3];
    ls_plan_bytes b[3];
    for (int i = 0; i < 3; i++) {
        const ls_software s = {
            .exposed_data = true, .gradient_bytes = i == 0 ? 4 : 2, .wide_sums = i == 1};
        const ls_plan_job job = {.model = &m,
                                 .rates = &rates,
                                 .software = &s,
                                 .precision = LS_PRECISION_BF16,
                                 .seq = 8192,
                                 .global_batch = 128};
        ls_plan_cost_of(&job, &l, &c[i]);
        ls_plan_bytes_of(&job, &l, &b[i]);
    }
    CHECK(c[1].seconds[LS_TERM_DATA] < 0.75 * c[0].seconds[LS_TERM_DATA]);
    CHECK(c[2].seconds[LS_TERM_DATA] == c[1].seconds[LS_TERM_DATA]);
    CHECK(b[1].gradients == b[0].gradients && b[2].gradients == b[0].gradients / 2);
}

static void test_illegal(void) {
    ls_plan_model m;
    CHECK_OK(ls_plan_model_find("llama3-8b", &m));
    const ls_plan_job job = {.model = &m,
                             .rates = &rates,
                             .precision = LS_PRECISION_BF16,
                             .seq = 8192,
                             .global_batch = 128};
    static const struct {
        const char *layout, *reason;
    } cases[] = {
        {"tensor=3", "32 heads and 8 key heads do not divide over tensor 3"},
        {"pipeline=33", "32 layers are too few for 33 parts"},
        {"interleave=2", "interleaving needs a pipeline"},
        {"context=3", "8192 tokens do not divide over context 3"},
        {"shard=48", "128 sequences do not divide over 48 data-parallel ranks"},
        {"expert=2,shard=2", "0 experts do not divide"},
    };
    char buf[160];
    ls_plan_layout l;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        l = layout(cases[i].layout);
        const char *found = ls_plan_illegal(&job, &l, buf, sizeof buf);
        CHECK(found && strstr(found, cases[i].reason));
    }
    l = layout("tensor=8,pipeline=17,shard=2"); /* uneven: the longest stage counts */
    CHECK(!ls_plan_illegal(&job, &l, buf, sizeof buf));
    l.micro = 0;
    CHECK(ls_plan_illegal(&job, &l, buf, sizeof buf) != NULL);
}

static void test_layout_text(void) {
    char buf[160];
    ls_plan_layout l = layout("recompute=full,tensor=8,zero=3,shard=64");
    CHECK_INT(ls_plan_devices(&l), 512);
    CHECK_STR(ls_plan_layout_text(&l, buf, sizeof buf), "shard=64,tensor=8,zero=3,recompute=full");
    l = layout("");
    CHECK_STR(ls_plan_layout_text(&l, buf, sizeof buf), "micro=1");
    static const char *const wrong[][2] = {
        {"tensr=8", "did you mean 'tensor'?"},
        {"tensor", "no 'axis=number'"},
        {"tensor=0", "from 1 to"},
        {"zero=4", "from 0 to 3"},
        {"recompute=some", "none, selective"},
        {"pipeline=2x", "pipeline is '2x'"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_STATUS(ls_plan_layout_parse(wrong[i][0], &l), LS_E_USAGE);
        CHECK_MESSAGE(wrong[i][1]);
    }
}

/* TFLOP/s over tokens/s of NVIDIA-NeMo/Megatron-Bridge's performance summary, 26.06 and, without
 * the layer ahead, 25.11: model FLOPs of a token of 4,096, causal attention. */
static void test_mixture_flops(void) {
    static const struct {
        const char *name;
        int64_t ahead;
        double flops;
    } models[] = {
        {"deepseek-v3", 1, 1648e12 / 6338},
        {"deepseek-v3", 0, 961e12 / 3848},
        {"qwen3-235b-a22b", 0, 1335e12 / 9015},
        {"qwen3-30b-a3b", 0, 1041e12 / 45275},
    };
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        ls_plan_model m;
        ls_plan_flops f;
        CHECK_OK(ls_plan_model_find(models[i].name, &m));
        m.ahead = models[i].ahead;
        ls_plan_model_flops(&m, 4096, &f);
        CHECK_NEAR(f.products + f.attention_causal, models[i].flops, 0.01, 0);
    }
}

/* Experts in a graph of the whole step, with tokens that travel under other work, beside experts
 * that the host launches: products stay, the rest is added; in 8 bits there is more to launch. */
static void test_launched_experts(void) {
    ls_plan_model m;
    CHECK_OK(ls_plan_model_find("qwen3-30b-a3b", &m));
    CHECK_OK(ls_cluster_load("dgx-gb200-nvl72", &cluster));
    double launch_s[2];
    const ls_precision precisions[] = {LS_PRECISION_BF16, LS_PRECISION_FP8};
    for (int p = 0; p < 2; p++) {
        static const ls_software slow = {.launched_experts = true, .exposed_experts = true};
        ls_plan_rates r;
        CHECK_OK(ls_plan_rates_of(&cluster, precisions[p], &r));
        ls_plan_job job = {
            .model = &m, .rates = &r, .precision = precisions[p], .seq = 4096, .global_batch = 512};
        ls_plan_layout l = {.shard = 8, .expert = 8, .micro = 4, .zero = 1};
        ls_plan_layout_fill(&l);
        ls_plan_cost fast, other;
        ls_plan_cost_of(&job, &l, &fast);
        job.software = &slow;
        ls_plan_cost_of(&job, &l, &other);
        CHECK_NEAR(fast.seconds[LS_TERM_LAUNCH], 0, 0, 0);
        CHECK_NEAR(other.seconds[LS_TERM_PRODUCTS], fast.seconds[LS_TERM_PRODUCTS], 1e-12, 0);
        CHECK_NEAR(other.seconds[LS_TERM_EXPERT], fast.seconds[LS_TERM_EXPERT] / 0.3, 1e-9, 0);
        launch_s[p] = other.seconds[LS_TERM_LAUNCH];
    }
    CHECK(launch_s[0] > 0 && launch_s[1] > 2 * launch_s[0]);
}

int main(void) {
    CHECK_OK(ls_cluster_load("dgx-h100", &cluster));
    CHECK_OK(ls_plan_rates_of(&cluster, LS_PRECISION_BF16, &rates));
    ls_plan_rates none;
    CHECK_STATUS(ls_plan_rates_of(&cluster, LS_PRECISION_FP4, &none), LS_E_CONFIG);
    CHECK_MESSAGE("knows no device.fp4_tflops");
    test_params();
    test_table();
    test_product();
    test_sum();
    test_directions();
    test_experts();
    test_mixture_flops();
    test_launched_experts();
    test_saves();
    test_gradients();
    test_illegal();
    test_layout_text();
    return test_end();
}
