/* The parameter table: names, order, shapes, splits; parameter and FLOP counts of published models;
 * refused configurations; planned memory. */
#include "runtime/model/model.h"
#include "tests/reference/reference.h"
#include "tests/test.h"

static ls_config_model preset(const char *name) {
    char model[64];
    snprintf(model, sizeof model, "model.preset=%s", name);
    const char *overrides[] = {model, "run.steps=1", "batch.sequences=1"};
    ls_config config;
    CHECK_OK(ls_config_load(&config, NULL, overrides, 3));
    return config.model;
}

/* The published counts, and the sum over the table, which is not how the count is made. */
static void check_counts(void) {
    static const struct {
        const char *preset;
        int64_t params;
    } published[] = {
        {"gpt2-124m", 124439808},      {"gpt2-350m", 354823168},       {"gpt2-774m", 774030080},
        {"gpt2-1558m", 1557611200},    {"llama3-8b", 8030261248},      {"llama3-70b", 70553706496},
        {"llama3-405b", 405853388800}, {"mixtral-8x7b", 46702792704},  {"mistral-7b", 7241732096},
        {"qwen2.5-0.5b", 494032768},   {"qwen2.5-7b", 7615616512},     {"qwen3-8b", 8190735360},
        {"qwen3-0.6b", 596049920},     {"qwen3-30b-a3b", 30532122624},
    };
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        ls_config_model config = preset(published[i].preset);
        CHECK_INT(ls_model_param_count(&config), published[i].params);
        ls_param *params;
        int count;
        int64_t flat_elems, real = 0, end = 0;
        CHECK_OK(ls_model_table(&config, &params, &count, &flat_elems));
        for (int p = 0; p < count; p++) {
            CHECK_INT(params[p].offset % 16, 0);
            CHECK(params[p].offset >= end);
            CHECK(p == 0 || params[p].block >= params[p - 1].block);
            CHECK(params[p].decay == (params[p].ndim > 1));
            real += params[p].elems / params[p].dims[0] * params[p].valid_rows;
            end = params[p].offset + params[p].elems;
        }
        CHECK(flat_elems >= end && flat_elems < end + 16);
        CHECK_INT(real, published[i].params);
        free(params);
    }
}

static const ls_param *find(const ls_param *params, int count, const char *name) {
    for (int p = 0; p < count; p++) {
        if (strcmp(params[p].name, name) == 0) {
            return &params[p];
        }
    }
    return NULL;
}

static void check_rows(void) {
    ls_config_model config = preset("llama3-8b");
    ls_param *params;
    int count;
    int64_t flat_elems;
    CHECK_OK(ls_model_table(&config, &params, &count, &flat_elems));
    CHECK_INT(count, 1 + 32 * 6 + 2);
    const ls_param *qkv = find(params, count, "layers.31.attn.qkv.weight");
    CHECK(qkv != NULL);
    CHECK_INT(qkv->dims[0], (32 + 2 * 8) * 128);
    CHECK_INT(qkv->dims[1], 4096);
    CHECK_INT(qkv->block, 32);
    CHECK_INT(qkv->tp_axis, 0);
    CHECK_INT(qkv->tp_groups, 3);
    CHECK_INT(qkv->tp_group[0].size, 4096);
    CHECK_INT(qkv->tp_group[1].size + qkv->tp_group[2].size, 2048);
    const ls_param *up = find(params, count, "layers.0.mlp.up.weight");
    CHECK_INT(up->tp_groups, 2);
    CHECK_INT(up->tp_group[1].size, 14336);
    const ls_param *proj = find(params, count, "layers.0.attn.proj.weight");
    CHECK_INT(proj->tp_axis, 1);
    CHECK_NEAR(proj->init_std, config.init_std / 8.0, 1e-12, 0.0); /* sqrt(2 * 32) */
    CHECK(find(params, count, "layers.0.attn.qkv.bias") == NULL);
    CHECK(find(params, count, "pos_embed.weight") == NULL);
    CHECK_STR(params[count - 1].name, "head.weight");
    free(params);

    config = preset("gpt2-124m");
    config.vocab_multiple = 128;
    CHECK_OK(ls_model_table(&config, &params, &count, &flat_elems));
    CHECK_INT(count, 2 + 12 * 12 + 2);
    CHECK_INT(params[0].dims[0], 50304);
    CHECK_INT(params[0].valid_rows, 50257);
    CHECK_STR(params[count - 1].name, "final_norm.bias");
    CHECK(find(params, count, "head.weight") == NULL);
    CHECK(!find(params, count, "layers.3.mlp_norm.bias")->decay);
    free(params);
}

/* 6 x (parameters without embeddings, norms and biases, with the head). */
static void check_flops(void) {
    ls_config_model config = preset("gpt2-124m");
    ls_model_flops flops;
    ls_model_count_flops(&config, 1024, &flops);
    CHECK_NEAR(flops.matmul_per_token, 6.0 * (12.0 * 12 * 768 * 768 + 50257.0 * 768), 0.0, 0.0);
    CHECK_NEAR(flops.attention_full_per_token, 12.0 * 12 * 768 * 1024, 0.0, 0.0);
    CHECK_NEAR(flops.attention_causal_per_token, 6.0 * 12 * 768 * 1024, 0.0, 0.0);
    config = preset("llama3-8b");
    ls_model_count_flops(&config, 8192, &flops);
    /* all but the look-up and the 65 norms */
    CHECK_NEAR(flops.matmul_per_token, 6.0 * (8030261248.0 - 128256.0 * 4096 - 65.0 * 4096), 0.0,
               0.0);
    CHECK_NEAR(flops.attention_full_per_token, 12.0 * 32 * 4096 * 8192, 0.0, 0.0);
    config.window = 1024;
    config.window_pattern = 5; /* 6 of the 32 layers see all */
    ls_model_count_flops(&config, 8192, &flops);
    double keys = 0.0; /* of half a key less each, as elsewhere */
    for (int t = 0; t < 8192; t++) {
        keys += 6.0 * (t + 0.5) + 26.0 * (t < 1024 ? t + 0.5 : 1024.0);
    }
    CHECK_NEAR(flops.attention_full_per_token, 12.0 * 32 * 4096 * 8192, 0.0, 0.0);
    CHECK_NEAR(flops.attention_causal_per_token, 12.0 * 4096 * keys / 8192, 1e-12, 0.0);
    config.window = 8192;
    CHECK_NEAR(ls_model_keys_seen(&config, 8192), 4096.0, 0.0, 0.0);
}

static void check_refused(ls_config_model config, const char *message) {
    ls_param *params;
    int count;
    int64_t flat_elems;
    CHECK_STATUS(ls_model_table(&config, &params, &count, &flat_elems), LS_E_CONFIG);
    CHECK_MESSAGE(message);
    CHECK_INT(ls_model_param_count(&config), 0);
    ls_model_flops flops;
    ls_model_count_flops(&config, 16, &flops);
    CHECK(flops.matmul_per_token == 0.0);
}

static void check_bad(void) {
    ls_config_model good = preset("llama3-8b"), bad = good;
    bad.vocab = 0;
    check_refused(bad, "model.vocab is 0");
    bad = good;
    bad.kv_heads = 5;
    check_refused(bad, "model.heads is 32; it must be a multiple of kv_heads, 5");
    bad = good;
    bad.head_dim = 127;
    check_refused(bad, "need an even number");
    bad = good;
    bad.rope_theta = 0.0;
    check_refused(bad, "model.rope_theta");
    bad = good;
    bad.rope_scaling = LS_ROPE_SCALING_LLAMA3;
    bad.rope_factor = 8.0;
    bad.rope_original_context = 8192;
    bad.rope_low_freq_factor = bad.rope_high_freq_factor = 2.0;
    check_refused(bad, "rope_high_freq_factor 2");
}

static void check_create(void) {
    ls_device *dev;
    CHECK_OK(ls_device_open_reference(NULL, &dev));
    ls_config_model config = {.family = LS_FAMILY_GPT2,
                              .vocab = 11,
                              .vocab_multiple = 8,
                              .layers = 1,
                              .channels = 6,
                              .heads = 2,
                              .kv_heads = 2,
                              .head_dim = 3,
                              .ffn = 5,
                              .context = 9,
                              .tied = true,
                              .norm_eps = 1e-5};
    ls_model_options options = {
        .config = &config, .dev = dev, .batch = 2, .seq = 9, .dtype = LS_F64, .training = true};
    ls_model *model;
    ls_model_bytes planned, taken, forward;
    CHECK_OK(ls_model_plan(&options, &planned));
    CHECK_OK(ls_model_create(&options, &model));
    taken = ls_model_memory(model);
    CHECK(memcmp(&planned, &taken, sizeof planned) == 0);
    CHECK_INT(taken.masters, ls_model_flat_elems(model) * 8);
    CHECK_INT(taken.copies, 0);
    CHECK(ls_model_copies(model) == NULL);
    CHECK_INT(ls_model_blocks(model), 3);
    CHECK_INT(ls_model_seq(model), 9);
    ls_model_destroy(model);
    ls_model_destroy(NULL);

    options.training = false;
    CHECK_OK(ls_model_plan(&options, &forward));
    CHECK(forward.activations < taken.activations);
    options.dtype = LS_BF16;
    CHECK_OK(ls_model_plan(&options, &forward));
    CHECK_INT(forward.copies, taken.masters / 4);
    options.seq = 10;
    CHECK_STATUS(ls_model_create(&options, &model), LS_E_SHAPE);
    CHECK_MESSAGE("10 positions are wanted, but model.context is 9");
    CHECK(model == NULL);
    options.seq = 9;
    options.cache_len = 9;
    CHECK_STATUS(ls_model_plan(&options, &forward), LS_E_SHAPE);
    CHECK_MESSAGE("generation works on 1 sequence, not 2");
    options.batch = 0;
    CHECK_STATUS(ls_model_plan(&options, &forward), LS_E_SHAPE);
    dev->ops->close(dev);
}

int main(void) {
    check_counts();
    check_rows();
    check_flops();
    check_bad();
    check_create();
    return test_end();
}
