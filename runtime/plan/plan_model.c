#include "runtime/plan/plan_model.h"

#include "runtime/base/text.h"
#include "runtime/model/model.h"

#include <stdlib.h>
#include <string.h>

#define GPT3                                                                                       \
    .vocab = 51200, .context = 2048, .tied = true, .learned_positions = true, .biases = true,      \
    .qkv_bias = true
#define GPT3_SIZES(l, c, h)                                                                        \
    GPT3, .layers = l, .channels = c, .heads = h, .kv_heads = h, .head_dim = (c) / (h),            \
          .ffn = 4 * (c)
#define MPT(l, c, h)                                                                               \
    .vocab = 50368, .context = 2048, .tied = true, .layers = l, .channels = c, .heads = h,         \
    .kv_heads = h, .head_dim = (c) / (h), .ffn = 4 * (c)

/* Sizes: GPT-3 and larger, arXiv 2104.04473 table 1 and 2205.05198 table 3; Llama 2, arXiv
 * 2307.09288; Nemotron-4, arXiv 2402.16819 and 2406.11704; MPT, mosaicml/llm-foundry
 * yamls/pretrain; Mixtral, arXiv 2401.04088; DeepSeek-V3, arXiv 2412.19437 section 4.2; Qwen3,
 * arXiv 2505.09388 table 2 and the models' config.json. */
static const ls_plan_model presets[] = {
    {.name = "gpt3-22b", GPT3_SIZES(48, 6144, 64)},
    {.name = "gpt3-175b", GPT3_SIZES(96, 12288, 96)},
    {.name = "gpt3-530b", GPT3_SIZES(105, 20480, 128)},
    {.name = "gpt3-1t", GPT3_SIZES(128, 25600, 160)},
    {.name = "llama2-70b",
     .vocab = 32000,
     .context = 4096,
     .layers = 80,
     .channels = 8192,
     .heads = 64,
     .kv_heads = 8,
     .head_dim = 128,
     .ffn = 28672,
     .gated = true},
    {.name = "nemotron4-15b",
     .vocab = 256000,
     .context = 4096,
     .layers = 32,
     .channels = 6144,
     .heads = 48,
     .kv_heads = 8,
     .head_dim = 128,
     .ffn = 24576},
    {.name = "nemotron4-340b",
     .vocab = 256000,
     .context = 4096,
     .layers = 96,
     .channels = 18432,
     .heads = 96,
     .kv_heads = 8,
     .head_dim = 192,
     .ffn = 73728},
    {.name = "mpt-1b", MPT(24, 2048, 16)},
    {.name = "mpt-3b", MPT(32, 2560, 20)},
    {.name = "mpt-7b", MPT(32, 4096, 32)},
    {.name = "mpt-13b", MPT(40, 5120, 40)},
    {.name = "mpt-30b", MPT(48, 7168, 56)},
    {.name = "mpt-70b", MPT(80, 8192, 64)},
    {.name = "mixtral-8x22b",
     .vocab = 32768,
     .context = 65536,
     .layers = 56,
     .channels = 6144,
     .heads = 48,
     .kv_heads = 8,
     .head_dim = 128,
     .ffn = 16384,
     .gated = true,
     .experts = 8,
     .experts_per_token = 2,
     .expert_ffn = 16384},
    {.name = "qwen3-235b-a22b",
     .vocab = 151936,
     .context = 32768,
     .layers = 94,
     .channels = 4096,
     .heads = 64,
     .kv_heads = 4,
     .head_dim = 128,
     .ffn = 12288,
     .gated = true,
     .qk_norm = true,
     .experts = 128,
     .experts_per_token = 8,
     .expert_ffn = 1536},
    {.name = "deepseek-v3",
     .vocab = 129280,
     .context = 4096,
     .layers = 61,
     .channels = 7168,
     .heads = 128,
     .kv_heads = 128,
     .head_dim = 192,
     .ffn = 18432,
     .gated = true,
     .experts = 256,
     .experts_per_token = 8,
     .shared_experts = 1,
     .expert_ffn = 2048,
     .dense_layers = 3,
     .q_rank = 1536,
     .kv_rank = 512,
     .rope_dim = 64,
     .value_dim = 128},
};

enum { PRESETS = sizeof presets / sizeof presets[0], MAX_NAMES = 96 };

const char *const *ls_plan_model_names(void) {
    static const char *names[MAX_NAMES + 1];
    int n = 0;
    for (const char *const *p = ls_config_presets(); *p && n < MAX_NAMES; p++) {
        names[n++] = *p;
    }
    for (int i = 0; i < PRESETS && n < MAX_NAMES; i++) {
        names[n++] = presets[i].name;
    }
    names[n] = NULL;
    return names;
}

ls_status ls_plan_model_of(const ls_config_model *c, ls_plan_model *model) {
    const bool gpt2 = c->family == LS_FAMILY_GPT2;
    *model = (ls_plan_model){.layers = c->layers,
                             .channels = c->channels,
                             .heads = c->heads,
                             .kv_heads = c->kv_heads,
                             .head_dim = c->head_dim,
                             .ffn = c->ffn,
                             .vocab = c->vocab ? c->vocab : 257, /* bytes and an end */
                             .context = c->context,
                             .experts = c->experts,
                             .experts_per_token = c->experts ? c->experts_per_token : 0,
                             .expert_ffn = c->experts ? c->ffn : 0,
                             .gated = !gpt2,
                             .tied = c->tied,
                             .learned_positions = gpt2,
                             .biases = gpt2,
                             .qkv_bias = gpt2 || c->qkv_bias,
                             .qk_norm = c->qk_norm,
                             .window = c->window,
                             .window_pattern = c->window_pattern};
    snprintf(model->name, sizeof model->name, "%s", c->preset);
    return ls_plan_model_check(model);
}

static ls_status from_config(const char *name, ls_plan_model *model) {
    static ls_config config;
    char *preset = ls_text_format("model.preset=%s", name);
    if (!preset) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the name of the model");
    }
    /* A configuration must describe a run; any will do. */
    const char *overrides[] = {preset, "run.steps=1", "batch.sequences=1", "batch.micro=1"};
    ls_status status = ls_config_load(&config, NULL, overrides, 4);
    free(preset);
    LS_TRY(status);
    return ls_plan_model_of(&config.model, model);
}

ls_status ls_plan_model_find(const char *name, ls_plan_model *model) {
    for (int i = 0; i < PRESETS; i++) {
        if (strcmp(presets[i].name, name) == 0) {
            *model = presets[i];
            return LS_OK;
        }
    }
    const char *const *names = ls_plan_model_names();
    size_t count = 0;
    for (; names[count]; count++) {
        if (strcmp(names[count], name) == 0) {
            return from_config(name, model);
        }
    }
    char hint[96];
    return LS_FAIL(LS_E_CONFIG, "unknown model '%s'; `lockstep plan --list` shows all%s", name,
                   ls_text_suggest(hint, sizeof hint, name, names, count));
}

ls_status ls_plan_model_check(const ls_plan_model *m) {
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {{"layers", m->layers},     {"channels", m->channels}, {"heads", m->heads},
                 {"kv_heads", m->kv_heads}, {"head_dim", m->head_dim}, {"ffn", m->ffn},
                 {"vocab", m->vocab}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].value < 1 || sizes[i].value > (int64_t)1 << 30) {
            return LS_FAIL(LS_E_CONFIG, "model '%s' has %s %lld; 1 to 2^30 is expected", m->name,
                           sizes[i].name, (long long)sizes[i].value);
        }
    }
    if (m->heads % m->kv_heads != 0) {
        return LS_FAIL(LS_E_CONFIG,
                       "model '%s' has %lld heads; a multiple of its %lld key heads is "
                       "expected",
                       m->name, (long long)m->heads, (long long)m->kv_heads);
    }
    return LS_OK;
}

/* Weights of attention's products. */
static double attention_params(const ls_plan_model *m) {
    const double c = (double)m->channels, h = (double)m->heads, d = (double)m->head_dim;
    if (m->kv_rank == 0) {
        return c * (2 * h + 2 * (double)m->kv_heads) * d;
    }
    const double nope = d - (double)m->rope_dim, v = (double)m->value_dim;
    const double q = m->q_rank ? (double)m->q_rank * (c + h * d) : c * h * d;
    return q + c * (double)(m->kv_rank + m->rope_dim) + (double)m->kv_rank * h * (nope + v) +
           h * v * c;
}

void ls_plan_model_params(const ls_plan_model *m, ls_plan_params *p) {
    const double c = (double)m->channels, wide = m->gated ? 3 : 2;
    const double attention = attention_params(m), mlp = wide * c * (double)m->ffn;
    double small = 2 * c + (m->q_rank ? (double)(m->q_rank + m->kv_rank) : 0);
    if (m->biases) { /* norms' too */
        small += 2 * c + c + (double)m->ffn + c;
    }
    if (m->qkv_bias) {
        small += (double)(m->heads + 2 * m->kv_heads) * (double)m->head_dim;
    }
    if (m->qk_norm) {
        small += 2 * (double)m->head_dim;
    }
    const double expert = wide * c * (double)m->expert_ffn;
    *p = (ls_plan_params){
        .embedding = (double)m->vocab * c + (m->learned_positions ? (double)m->context * c : 0),
        .dense_layer = attention + mlp + small,
        .head = (m->tied ? 0 : (double)m->vocab * c) + c + (m->biases ? c : 0),
    };
    double layers = (double)m->layers, active = attention + mlp;
    double routed_layers = 0, active_routed = 0;
    if (m->experts) {
        p->expert_part = (double)m->experts * expert;
        p->expert_layer = attention + small + p->expert_part + (double)m->shared_experts * expert +
                          c * (double)m->experts;
        routed_layers = layers - (double)m->dense_layers;
        active_routed = attention + (double)(m->experts_per_token + m->shared_experts) * expert +
                        c * (double)m->experts;
        layers = (double)m->dense_layers;
    }
    p->total = p->embedding + layers * p->dense_layer + routed_layers * p->expert_layer + p->head;
    p->active = layers * active + routed_layers * active_routed + (double)m->vocab * c;
}

double ls_plan_model_causal_share(const ls_plan_model *m, int64_t seq) {
    const ls_config_model windows = {
        .layers = m->layers, .window = m->window, .window_pattern = m->window_pattern};
    return ls_model_keys_seen(&windows, seq) / (double)seq;
}

void ls_plan_model_flops(const ls_plan_model *m, int64_t seq, ls_plan_flops *flops) {
    ls_plan_params p;
    ls_plan_model_params(m, &p);
    const double v = (double)(m->value_dim ? m->value_dim : m->head_dim);
    const double full = 6.0 * (double)(m->layers + m->ahead) * (double)m->heads *
                        ((double)m->head_dim + v) * (double)seq;
    const double c = (double)m->channels;
    const double routed = (double)(m->experts_per_token + m->shared_experts) *
                          (double)m->expert_ffn * (m->gated ? 3 : 2) * c;
    const double ahead =
        (double)m->ahead * (attention_params(m) + routed + 2 * c * c + (double)m->vocab * c);
    *flops = (ls_plan_flops){.products = 6 * (p.active + ahead),
                             .attention_full = full,
                             .attention_causal = full * ls_plan_model_causal_share(m, seq)};
}
