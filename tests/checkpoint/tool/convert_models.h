/* Models of awkward sizes that the tests of conversions share. */
#ifndef LS_TESTS_CONVERT_MODELS_H
#define LS_TESTS_CONVERT_MODELS_H

#include "runtime/config/config.h"

static const ls_config_model gpt2 = {.family = LS_FAMILY_GPT2,
                                     .vocab = 61,
                                     .vocab_multiple = 64,
                                     .layers = 2,
                                     .channels = 12,
                                     .heads = 3,
                                     .kv_heads = 3,
                                     .head_dim = 4,
                                     .ffn = 48,
                                     .context = 10,
                                     .tied = true,
                                     .norm_eps = 1e-5,
                                     .init_std = 0.02,
                                     .rope_theta = 1e4};
static const ls_config_model llama = {.family = LS_FAMILY_LLAMA3,
                                      .vocab = 37,
                                      .vocab_multiple = 16,
                                      .layers = 2,
                                      .channels = 8,
                                      .heads = 4,
                                      .kv_heads = 2,
                                      .head_dim = 6,
                                      .ffn = 11,
                                      .context = 16,
                                      .tied = false,
                                      .norm_eps = 3e-6,
                                      .init_std = 0.01,
                                      .rope_theta = 5e5,
                                      .rope_scaling = LS_ROPE_SCALING_LLAMA3,
                                      .rope_factor = 8,
                                      .rope_low_freq_factor = 1,
                                      .rope_high_freq_factor = 4,
                                      .rope_original_context = 8192};

/* The same with experts: Mixtral. */
static inline ls_config_model mixtral_of(const ls_config_model *model) {
    ls_config_model m = *model;
    m.experts = 3;
    m.experts_per_token = 1;
    m.balance_loss = 0.03;
    return m;
}

static inline ls_config_model qwen2_of(const ls_config_model *model) {
    ls_config_model m = *model;
    m.qkv_bias = true;
    return m;
}

/* Of a mixture Qwen3's mixture. */
static inline ls_config_model qwen3_of(const ls_config_model *model) {
    ls_config_model m = *model;
    m.qk_norm = true;
    return m;
}

/* With a window, of Llama Mistral. */
static inline ls_config_model windowed_of(const ls_config_model *model) {
    ls_config_model m = *model;
    m.window = 5;
    return m;
}

#endif
