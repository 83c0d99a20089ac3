/* Known sizes. GPT-2: Radford 2019, table 2 (with the parameter counts of the released weights).
 * Llama 3: Grattafiori 2024, arXiv 2407.21783, table 3, with the rotary scaling of the 3.1
 * release. Mistral 7B, its first release: Jiang 2023, arXiv 2310.06825, table 1. Mixtral: Jiang
 * 2024, arXiv 2401.04088, table 1, with the released model's context, rotary base and router
 * weight: its router_aux_loss_coef, 0.02, counts each of the 2 choices, and all 32 layers as one;
 * balance_loss each layer, as Switch Transformers do. Qwen2.5: Yang 2024, arXiv 2412.15115; Qwen3:
 * Yang 2025, arXiv 2505.09388; with the released base models' vocabulary and context, and their
 * number of parameters (tests/model/test_model_table.c). Names with -tiny, -3m, -10m and -30m are
 * ours, for bytes as tokens. */
#include "runtime/base/text.h"
#include "runtime/config/internal.h"

#include <string.h>

#define ROPE(theta)                                                                                \
    .rope_theta = theta, .rope_factor = 8, .rope_low_freq_factor = 1, .rope_high_freq_factor = 4,  \
    .rope_original_context = 8192
#define ROPE_31 ROPE(500000), .experts_per_token = 2, .balance_loss = 0.01
#define GPT2                                                                                       \
    .family = LS_FAMILY_GPT2, .tied = true, .vocab_multiple = 64, .norm_eps = 1e-5,                \
    .init_std = 0.02, ROPE_31
#define LLAMA3                                                                                     \
    .family = LS_FAMILY_LLAMA3, .tied = false, .vocab_multiple = 64, .norm_eps = 1e-5,             \
    .init_std = 0.02, ROPE_31
#define GPT2_RELEASED GPT2, .vocab = 50257, .context = 1024
#define LLAMA3_RELEASED                                                                            \
    LLAMA3, .vocab = 128256, .context = 131072, .rope_scaling = LS_ROPE_SCALING_LLAMA3,            \
            .kv_heads = 8

#define MISTRAL                                                                                    \
    .family = LS_FAMILY_LLAMA3, .vocab = 32000, .vocab_multiple = 64, .norm_eps = 1e-5,            \
    .init_std = 0.02, .context = 32768, .kv_heads = 8
#define MIXTRAL                                                                                    \
    MISTRAL, ROPE(1e6), .experts = 8, .experts_per_token = 2, .balance_loss = 0.02 * 2 / 32

#define QWEN                                                                                       \
    .family = LS_FAMILY_LLAMA3, .vocab_multiple = 64, .norm_eps = 1e-6, .init_std = 0.02, ROPE(1e6)
#define QWEN25 QWEN, .qkv_bias = true, .experts_per_token = 2, .balance_loss = 0.01
#define QWEN3  QWEN, .qk_norm = true, .vocab = 151936, .context = 32768, .head_dim = 128
#define DENSE3 QWEN3, .kv_heads = 8, .experts_per_token = 2, .balance_loss = 0.01

#define SIZES(layers_, channels_, heads_) .layers = layers_, .channels = channels_, .heads = heads_

/* X(name, sizes) */
#define PRESETS(X)                                                                                 \
    X("gpt2-124m", GPT2_RELEASED, SIZES(12, 768, 12))                                              \
    X("gpt2-350m", GPT2_RELEASED, SIZES(24, 1024, 16))                                             \
    X("gpt2-774m", GPT2_RELEASED, SIZES(36, 1280, 20))                                             \
    X("gpt2-1558m", GPT2_RELEASED, SIZES(48, 1600, 25))                                            \
    X("llama3-8b", LLAMA3_RELEASED, SIZES(32, 4096, 32), .ffn = 14336)                             \
    X("llama3-70b", LLAMA3_RELEASED, SIZES(80, 8192, 64), .ffn = 28672)                            \
    X("llama3-405b", LLAMA3_RELEASED, SIZES(126, 16384, 128), .ffn = 53248)                        \
    X("gpt2-tiny", GPT2, SIZES(2, 32, 2), .context = 64)                                           \
    X("gpt2-3m", GPT2, SIZES(4, 256, 4), .context = 512)                                           \
    X("gpt2-10m", GPT2, SIZES(6, 384, 6), .context = 512)                                          \
    X("llama3-tiny", LLAMA3, SIZES(2, 64, 4), .kv_heads = 2, .ffn = 176, .context = 64)            \
    X("llama3-10m", LLAMA3, SIZES(6, 384, 6), .kv_heads = 2, .ffn = 1024, .context = 1024)         \
    X("llama3-30m", LLAMA3, SIZES(10, 512, 8), .kv_heads = 2, .ffn = 1536, .context = 1024)        \
    X("mistral-7b", MISTRAL, SIZES(32, 4096, 32), .ffn = 14336, ROPE(1e4), .window = 4096,         \
      .experts_per_token = 2, .balance_loss = 0.01)                                                \
    X("mixtral-8x7b", MIXTRAL, SIZES(32, 4096, 32), .ffn = 14336)                                  \
    X("qwen2.5-0.5b", QWEN25, SIZES(24, 896, 14), .kv_heads = 2, .ffn = 4864, .vocab = 151936,     \
      .context = 32768, .tied = true)                                                              \
    X("qwen2.5-7b", QWEN25, SIZES(28, 3584, 28), .kv_heads = 4, .ffn = 18944, .vocab = 152064,     \
      .context = 131072)                                                                           \
    X("qwen3-0.6b", DENSE3, SIZES(28, 1024, 16), .ffn = 3072, .tied = true)                        \
    X("qwen3-8b", DENSE3, SIZES(36, 4096, 32), .ffn = 12288)                                       \
    X("qwen3-30b-a3b", QWEN3, SIZES(48, 2048, 32), .kv_heads = 4, .ffn = 768, .experts = 128,      \
      .experts_per_token = 8, .balance_loss = 0.001 * 8 / 48)                                      \
    X("qwen3-tiny", LLAMA3, SIZES(2, 64, 4), .kv_heads = 2, .head_dim = 32, .ffn = 176,            \
      .context = 64, .qk_norm = true)                                                              \
    X("mixtral-tiny", LLAMA3, SIZES(2, 64, 4), .kv_heads = 2, .ffn = 96, .context = 64,            \
      .experts = 4)

static const char *const names[] = {
#define X(name, ...) name,
    PRESETS(X)
#undef X
        NULL};

static const ls_config_model models[] = {
#define X(name, ...) {.preset = name, __VA_ARGS__},
    PRESETS(X)
#undef X
};

const char *const *ls_config_presets(void) {
    return names;
}

ls_status ls_preset_apply(const char *origin, const char *preset, ls_config_model *model) {
    enum { COUNT = sizeof models / sizeof models[0] };
    char list[512] = "";
    for (size_t i = 0; i < COUNT; i++) {
        if (strcmp(preset, names[i]) == 0) {
            *model = models[i];
            return LS_OK;
        }
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", names[i]);
    }
    const char *nearest = ls_text_nearest(preset, names, COUNT);
    if (nearest) {
        return LS_FAIL(LS_E_CONFIG, "%s: unknown model.preset '%s'; did you mean '%s'?", origin,
                       preset, nearest);
    }
    return LS_FAIL(LS_E_CONFIG, "%s: unknown model.preset '%.60s'; the presets are %s", origin,
                   preset, list);
}
