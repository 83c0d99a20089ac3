/* config.json of Hugging Face transformers: GPT2Config, LlamaConfig, MistralConfig (written of what
 * has a window, without one it is Llama), MixtralConfig, Qwen2Config, Qwen3Config and
 * Qwen3MoeConfig. */
#include "checkpoint/convert.h"
#include "runtime/base/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INT(x) json_integer((json_int_t)(x))

static ls_status gpt2_check(const ls_config_model *m) {
    if (m->qk_norm) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "model.qk_norm of family gpt2 has no equal among Hugging Face's models; of "
                       "family llama3 it is a Qwen3");
    }
    if (m->experts > 0) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "a mixture of %lld experts of family gpt2 has no equal among Hugging Face's "
                       "models; of family llama3 it is a Mixtral",
                       (long long)m->experts);
    }
    if (m->window > 0) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "model.window %lld of family gpt2 has no equal among Hugging Face's models; "
                       "of family llama3 it is a Mistral",
                       (long long)m->window);
    }
    if (m->kv_heads != m->heads || m->head_dim * m->heads != m->channels) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "%lld heads of %lld with %lld key/value heads and %lld channels: Hugging "
                       "Face's and llm.c's GPT-2 have channels = heads x head_dim and as many "
                       "key/value heads",
                       (long long)m->heads, (long long)m->head_dim, (long long)m->kv_heads,
                       (long long)m->channels);
    }
    return LS_OK;
}

static json_t *gpt2_make(const ls_config_model *m) {
    return json_pack("{s:s, s:[s], s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:s, s:f, s:f, s:f, s:b}",
                     "model_type", "gpt2", "architectures", "GPT2LMHeadModel", "n_layer",
                     INT(m->layers), "n_embd", INT(m->channels), "n_head", INT(m->heads), "n_inner",
                     INT(m->ffn), "n_positions", INT(m->context), "n_ctx", INT(m->context),
                     "layer_norm_epsilon", m->norm_eps, "activation_function", "gelu_new",
                     "resid_pdrop", 0.0, "embd_pdrop", 0.0, "attn_pdrop", 0.0, "scale_attn_weights",
                     1);
}

static ls_status llama_check(const ls_config_model *m) {
    if (m->qkv_bias && (m->qk_norm || m->experts > 0)) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "model.qkv_bias with %s has no equal among Hugging Face's models; Qwen2 has "
                       "the biases, Qwen3 the norms, and mixtures have no biases",
                       m->qk_norm ? "model.qk_norm" : "experts");
    }
    const bool by_layer = m->experts == 0 && (m->qkv_bias || m->qk_norm);
    if (m->window > 0 && m->window_pattern > 0 && !by_layer) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "model.window_pattern %lld has no equal among Hugging Face's %s; Qwen2 and "
                       "Qwen3 have windows in some of their layers",
                       (long long)m->window_pattern,
                       m->experts > 0 ? "mixtures" : "Mistral models");
    }
    return LS_OK;
}

static json_t *llama_make(const ls_config_model *m) {
    json_t *scaling = json_null();
    if (m->rope_scaling == LS_ROPE_SCALING_LLAMA3) {
        scaling = json_pack("{s:s, s:f, s:f, s:f, s:o}", "rope_type", "llama3", "factor",
                            m->rope_factor, "low_freq_factor", m->rope_low_freq_factor,
                            "high_freq_factor", m->rope_high_freq_factor,
                            "original_max_position_embeddings", INT(m->rope_original_context));
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:f, s:o, s:s, s:b, s:f}",
                     "num_hidden_layers", INT(m->layers), "hidden_size", INT(m->channels),
                     "num_attention_heads", INT(m->heads), "num_key_value_heads", INT(m->kv_heads),
                     "head_dim", INT(m->head_dim), "intermediate_size", INT(m->ffn),
                     "max_position_embeddings", INT(m->context), "rms_norm_eps", m->norm_eps,
                     "rope_theta", m->rope_theta, "rope_scaling", scaling, "hidden_act", "silu",
                     "attention_bias", 0, "attention_dropout", 0.0);
}

/* What a weight of our balance loss, one for each layer, is of transformers'. Theirs counts each of
 * a token's choices, so that evenly chosen experts give experts_per_token where ours gives 1, and
 * is one loss, of the means over the layers, where ours is their sum. The same when layers choose
 * alike. */
static double theirs_of_ours(const ls_config_model *m) {
    return (double)m->layers / (double)m->experts_per_token;
}

static bool experts_set(const ls_config_model *m, json_t *config) {
    return json_object_set_new(config, m->qk_norm ? "num_experts" : "num_local_experts",
                               INT(m->experts)) == 0 &&
           json_object_set_new(config, "num_experts_per_tok", INT(m->experts_per_token)) == 0 &&
           json_object_set_new(config, "router_aux_loss_coef",
                               json_real(m->balance_loss * theirs_of_ours(m))) == 0;
}

static const char full_attention[] = "full_attention", sliding_attention[] = "sliding_attention";

/* Qwen's words for windows: Qwen2 and 3 tell each layer, their mixtures have them in all. */
static bool qwen_window_set(const ls_config_model *m, json_t *config) {
    if (m->window == 0) {
        return json_object_set_new(config, "use_sliding_window", json_false()) == 0;
    }
    bool set = json_object_set_new(config, "use_sliding_window", json_true()) == 0 &&
               json_object_set_new(config, "sliding_window", INT(m->window)) == 0 &&
               json_object_set_new(config, "max_window_layers", INT(0)) == 0;
    if (m->experts > 0) {
        return set;
    }
    json_t *layers = json_array();
    for (int64_t i = 1; i <= m->layers; i++) {
        const bool whole = m->window_pattern > 0 && i % m->window_pattern == 0;
        set &= json_array_append_new(layers,
                                     json_string(whole ? full_attention : sliding_attention)) == 0;
    }
    return json_object_set_new(config, "layer_types", layers) == 0 && set;
}

/* Which of the Llama-like models it is, and what is said of none but that. */
static bool kind_set(const ls_config_model *m, json_t *config) {
    const char *type, *architecture;
    json_t *more, *window = m->window > 0 ? INT(m->window) : json_null();
    if (m->experts > 0 && m->qk_norm) {
        type = "qwen3_moe";
        architecture = "Qwen3MoeForCausalLM";
        more = json_pack("{s:o, s:i, s:[], s:b}", "moe_intermediate_size", INT(m->ffn),
                         "decoder_sparse_step", 1, "mlp_only_layers", "norm_topk_prob", 1);
    } else if (m->experts > 0) {
        type = "mixtral";
        architecture = "MixtralForCausalLM";
        more = json_pack("{s:O}", "sliding_window", window);
    } else if (m->qk_norm || m->qkv_bias) {
        type = m->qk_norm ? "qwen3" : "qwen2";
        architecture = m->qk_norm ? "Qwen3ForCausalLM" : "Qwen2ForCausalLM";
        more = json_object();
    } else if (m->window > 0) {
        type = "mistral";
        architecture = "MistralForCausalLM";
        more = json_pack("{s:O}", "sliding_window", window);
    } else {
        type = "llama";
        architecture = "LlamaForCausalLM";
        more = json_pack("{s:b}", "mlp_bias", 0);
    }
    const bool qwen = m->qk_norm || m->qkv_bias;
    const bool set =
        more && json_object_update(config, more) == 0 && (!qwen || qwen_window_set(m, config)) &&
        json_object_set_new(config, "model_type", json_string(type)) == 0 &&
        json_object_set_new(config, "architectures", json_pack("[s]", architecture)) == 0;
    json_decref(more);
    json_decref(window);
    return set && (m->experts == 0 || experts_set(m, config));
}

ls_status ls_hf_config_make(const ls_config_model *model, ls_dtype dtype, const json_t *run,
                            json_t **config) {
    bool gpt2 = model->family == LS_FAMILY_GPT2;
    LS_TRY(gpt2 ? gpt2_check(model) : llama_check(model));
    if (model->experts > 0 && model->expert_capacity > 0.0) {
        ls_log_warn(
            "model.expert_capacity is %g; transformers' mixtures have no such limit: their results "
            "differ where this model's experts leave tokens out",
            model->expert_capacity);
    }
    *config = gpt2 ? gpt2_make(model) : llama_make(model);
    json_t *separator = json_object_get(run, "separator");
    json_t *begin = json_object_get(run, "begin") ? json_object_get(run, "begin") : separator;
    json_t *ends = json_object_get(run, "ends"), *end = json_is_array(ends) ? ends : separator;
    json_t *tokenizer = json_object_get(run, "tokenizer");
    bool failed = !*config;
    failed = failed || (!gpt2 && !kind_set(model, *config));
    failed = failed || json_object_set_new(*config, "vocab_size", INT(model->vocab)) != 0;
    failed = failed ||
             json_object_set_new(*config, "tie_word_embeddings", json_boolean(model->tied)) != 0;
    failed = failed ||
             json_object_set_new(*config, "initializer_range", json_real(model->init_std)) != 0;
    failed = failed ||
             json_object_set_new(*config, "torch_dtype", json_string(ls_dtype_name(dtype))) != 0;
    failed = failed || json_object_set(*config, "bos_token_id", begin ? begin : json_null()) != 0;
    failed = failed || json_object_set(*config, "eos_token_id", end ? end : json_null()) != 0;
    if (tokenizer && !failed) {
        failed = json_object_set_new(*config, "lockstep",
                                     json_pack("{s:O}", "tokenizer", tokenizer)) != 0;
    }
    if (failed) {
        json_decref(*config);
        *config = NULL;
        return LS_FAIL(LS_E_MEMORY, "no memory for config.json");
    }
    return LS_OK;
}

/* What is read from config.json: the first problem is kept. */
typedef struct reader {
    const json_t *config;
    const char *where;
    ls_status status;
} reader;

static bool present(const json_t *value) {
    return value && !json_is_null(value);
}

/* Says which value of key is wrong and what it must be. */
static void refuse(reader *r, const char *key, const json_t *value, const char *expected) {
    char *found = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : NULL;
    r->status = LS_FAIL(LS_E_INPUT, "%s: \"%s\" is %.40s; it must be %s", r->where, key,
                        found ? found : "not given", expected);
    free(found);
}

static void read_int_of(reader *r, const json_t *object, const char *key, bool needed,
                        int64_t *out) {
    const json_t *value = json_object_get(object, key);
    if (r->status != LS_OK || (!present(value) && !needed)) {
        return;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > INT32_MAX) {
        refuse(r, key, value, "a positive integer below 2^31");
        return;
    }
    *out = json_integer_value(value);
}

static void read_int(reader *r, const char *key, bool needed, int64_t *out) {
    read_int_of(r, r->config, key, needed, out);
}

static void read_float(reader *r, const json_t *object, const char *key, double *out) {
    const json_t *value = json_object_get(object, key);
    if (r->status != LS_OK || !present(value)) {
        return;
    }
    if (!json_is_number(value) || !(json_number_value(value) > 0)) {
        refuse(r, key, value, "a positive number");
        return;
    }
    *out = json_number_value(value);
}

static void read_bool(reader *r, const char *key, bool *out) {
    const json_t *value = json_object_get(r->config, key);
    if (json_is_boolean(value)) {
        *out = json_is_true(value);
    } else if (present(value) && r->status == LS_OK) {
        refuse(r, key, value, "true or false");
    }
}

/* The value, when given, must be one of those that this program computes. */
static void demand_bool(reader *r, const char *key, bool expected) {
    bool found = expected;
    read_bool(r, key, &found);
    if (r->status == LS_OK && found != expected) {
        r->status = LS_FAIL(LS_E_UNSUPPORTED, "%s: \"%s\" is %s; only %s is computed here",
                            r->where, key, found ? "true" : "false", expected ? "true" : "false");
    }
}

static void demand_text(reader *r, const char *key, const char *expected, const char *same) {
    const json_t *value = json_object_get(r->config, key);
    const char *text = json_string_value(value);
    if (r->status == LS_OK && present(value) &&
        !(text && (strcmp(text, expected) == 0 || strcmp(text, same) == 0))) {
        r->status = LS_FAIL(LS_E_UNSUPPORTED, "%s: \"%s\" is '%.40s'; only %s is computed here",
                            r->where, key, text ? text : "(no text)", expected);
    }
}

static void demand_absent(reader *r, const char *key) {
    if (r->status == LS_OK && present(json_object_get(r->config, key))) {
        r->status = LS_FAIL(LS_E_UNSUPPORTED, "%s: \"%s\" is given; it is not computed here",
                            r->where, key);
    }
}

static void gpt2_parse(reader *r, ls_config_model *m) {
    m->family = LS_FAMILY_GPT2;
    m->tied = true; /* GPT2Config's default */
    read_int(r, "n_layer", true, &m->layers);
    read_int(r, "n_embd", true, &m->channels);
    read_int(r, "n_head", true, &m->heads);
    read_int(r, "n_positions", true, &m->context);
    m->ffn = 4 * m->channels;
    read_int(r, "n_inner", false, &m->ffn);
    read_float(r, r->config, "layer_norm_epsilon", &m->norm_eps);
    demand_text(r, "activation_function", "gelu_new", "gelu_pytorch_tanh");
    demand_bool(r, "scale_attn_weights", true);
    demand_bool(r, "scale_attn_by_inverse_layer_idx", false);
    demand_bool(r, "add_cross_attention", false);
}

/* LlamaConfig up to transformers 4 has rope_theta and rope_scaling, from 5 on rope_parameters. */
static void rope_parse(reader *r, ls_config_model *m) {
    const json_t *both = json_object_get(r->config, "rope_parameters");
    const json_t *scaling = present(both) ? both : json_object_get(r->config, "rope_scaling");
    m->rope_theta = 10000.0; /* LlamaConfig's default */
    read_float(r, present(both) ? both : r->config, "rope_theta", &m->rope_theta);
    m->rope_scaling = LS_ROPE_SCALING_NONE;
    if (!present(scaling)) {
        return;
    }
    const char *type = json_string_value(json_object_get(scaling, "rope_type"));
    type = type ? type : json_string_value(json_object_get(scaling, "type"));
    if (type && strcmp(type, "default") == 0) {
        return;
    }
    if (!type || strcmp(type, "llama3") != 0) {
        if (r->status == LS_OK) {
            r->status = LS_FAIL(LS_E_UNSUPPORTED,
                                "%s: rotary positions are scaled by '%.40s'; only default and "
                                "llama3 are computed here",
                                r->where, type ? type : "(nothing named)");
        }
        return;
    }
    m->rope_scaling = LS_ROPE_SCALING_LLAMA3;
    read_float(r, scaling, "factor", &m->rope_factor);
    read_float(r, scaling, "low_freq_factor", &m->rope_low_freq_factor);
    read_float(r, scaling, "high_freq_factor", &m->rope_high_freq_factor);
    read_int_of(r, scaling, "original_max_position_embeddings", false, &m->rope_original_context);
}

/* What Llama and its kin have in common. */
static void common_parse(reader *r, ls_config_model *m) {
    m->family = LS_FAMILY_LLAMA3;
    m->tied = false; /* LlamaConfig's default */
    read_int(r, "num_hidden_layers", true, &m->layers);
    read_int(r, "hidden_size", true, &m->channels);
    read_int(r, "num_attention_heads", true, &m->heads);
    read_int(r, "intermediate_size", true, &m->ffn);
    read_int(r, "max_position_embeddings", true, &m->context);
    m->kv_heads = m->heads;
    m->head_dim = 0;
    read_int(r, "num_key_value_heads", false, &m->kv_heads);
    read_int(r, "head_dim", false, &m->head_dim);
    m->norm_eps = 1e-6; /* LlamaConfig's default */
    read_float(r, r->config, "rms_norm_eps", &m->norm_eps);
    rope_parse(r, m);
    demand_text(r, "hidden_act", "silu", "swish");
}

static void llama_parse(reader *r, ls_config_model *m) {
    common_parse(r, m);
    demand_bool(r, "attention_bias", false);
    demand_bool(r, "mlp_bias", false);
}

/* The window of all layers: null for none. */
static void window_parse(reader *r, ls_config_model *m, int64_t otherwise) {
    m->window = json_object_get(r->config, "sliding_window") ? 0 : otherwise;
    read_int(r, "sliding_window", false, &m->window);
}

/* Mistral is Llama with a window. */
static void mistral_parse(reader *r, ls_config_model *m) {
    llama_parse(r, m);
    window_parse(r, m, 4096); /* MistralConfig's default */
}

/* The weight of the balance loss, 0 or more; MixtralConfig's default where none is given. */
static void balance_parse(reader *r, ls_config_model *m) {
    const json_t *value = json_object_get(r->config, "router_aux_loss_coef");
    const double weight = present(value) ? json_number_value(value) : 0.001;
    if (r->status != LS_OK) {
        return;
    }
    m->balance_loss = weight / theirs_of_ours(m);
    if ((present(value) && !json_is_number(value)) || !(weight >= 0.0 && m->balance_loss <= 1e3)) {
        r->status =
            LS_FAIL(LS_E_INPUT, "%s: \"router_aux_loss_coef\" must be a number from 0 to %g",
                    r->where, 1e3 * theirs_of_ours(m));
    }
}

/* Does "layer_types" give layer i a window? */
static bool slides(reader *r, const json_t *types, size_t i) {
    const char *type = json_string_value(json_array_get(types, i));
    const bool whole = type && strcmp(type, full_attention) == 0;
    if (r->status == LS_OK && !whole && !(type && strcmp(type, sliding_attention) == 0)) {
        r->status = LS_FAIL(LS_E_UNSUPPORTED,
                            "%s: \"layer_types\" has '%.40s'; only full_attention and "
                            "sliding_attention are computed here",
                            r->where, type ? type : "(no text)");
    }
    return !whole;
}

/* Which layers have the window: those that "layer_types" names, or without it those from
 * "max_window_layers" on. Known are all, none, and all but each one so many layers further. */
static void window_layers_parse(reader *r, ls_config_model *m, int64_t otherwise) {
    const json_t *types = json_object_get(r->config, "layer_types");
    const json_t *first = json_object_get(r->config, "max_window_layers");
    bool known;
    if (present(types)) {
        const size_t count = json_array_size(types);
        known = (int64_t)count == m->layers;
        for (size_t i = 0; i < count; i++) {
            const bool whole = !slides(r, types, i);
            m->window_pattern =
                whole && m->window_pattern == 0 ? (int64_t)i + 1 : m->window_pattern;
            known &= whole == (m->window_pattern > 0 && (i + 1) % (size_t)m->window_pattern == 0);
        }
    } else {
        const int64_t from = present(first) ? json_integer_value(first) : otherwise;
        known = (!present(first) || json_is_integer(first)) && (from == 0 || from >= m->layers);
        m->window = from == 0 ? m->window : 0;
    }
    if (r->status == LS_OK && !known) {
        r->status = LS_FAIL(LS_E_UNSUPPORTED,
                            "%s: \"%s\" gives windows to some of the %lld layers; what is computed "
                            "here are windows in all of them, in none, or in all but every n-th",
                            r->where, present(types) ? "layer_types" : "max_window_layers",
                            (long long)m->layers);
    }
    if (m->window == 0 || m->window_pattern == 1) { /* in none */
        m->window = m->window_pattern = 0;
    }
}

/* Qwen's window, a number in any case, is switched on by another key. */
static void qwen_window_parse(reader *r, ls_config_model *m, bool mixture) {
    const json_t *types = json_object_get(r->config, "layer_types");
    bool used = false;
    read_bool(r, "use_sliding_window", &used);
    if (used) { /* otherwise Qwen2Config's defaults; Qwen3MoeConfig has them in all layers */
        window_parse(r, m, 4096);
        window_layers_parse(r, m, mixture ? 0 : 28);
        return;
    }
    for (size_t i = 0; i < json_array_size(types); i++) {
        if (slides(r, types, i) && r->status == LS_OK) {
            r->status = LS_FAIL(LS_E_INPUT,
                                "%s: \"layer_types\" has 'sliding_attention', but "
                                "\"use_sliding_window\" is not true",
                                r->where);
        }
    }
}

/* Qwen2 is Llama with biases of q, k and v; Qwen3 has norms of each head's q and k instead. */
static void qwen_parse(reader *r, ls_config_model *m, bool third, bool mixture) {
    int64_t kv_heads; /* whose default is no number of this model */
    m->qkv_bias = !third;
    m->qk_norm = third;
    common_parse(r, m);
    read_int(r, "num_key_value_heads", true, &kv_heads);
    if (third) {
        m->head_dim = m->head_dim > 0 ? m->head_dim : 128; /* Qwen3Config's default */
        demand_bool(r, "attention_bias", false);
    }
    qwen_window_parse(r, m, mixture);
}

/* Mixtral is Llama with experts in place of the MLP. */
static void mixtral_parse(reader *r, ls_config_model *m) {
    m->experts = 8; /* MixtralConfig's defaults */
    m->experts_per_token = 2;
    llama_parse(r, m);
    window_parse(r, m, 0);
    read_int(r, "num_local_experts", false, &m->experts);
    read_int(r, "num_experts_per_tok", false, &m->experts_per_token);
    balance_parse(r, m);
}

/* Qwen3 with experts in each layer, whose gates sum to 1, as Mixtral's do. */
static void qwen3_moe_parse(reader *r, ls_config_model *m) {
    int64_t step = 1;
    qwen_parse(r, m, true, true);
    read_int(r, "moe_intermediate_size", true, &m->ffn);
    /* transformers 5 writes Mixtral's name */
    const bool other = present(json_object_get(r->config, "num_local_experts"));
    read_int(r, other ? "num_local_experts" : "num_experts", true, &m->experts);
    read_int(r, "num_experts_per_tok", true, &m->experts_per_token);
    read_int(r, "decoder_sparse_step", false, &step);
    if (r->status == LS_OK &&
        (step != 1 || json_array_size(json_object_get(r->config, "mlp_only_layers")) > 0)) {
        r->status = LS_FAIL(LS_E_UNSUPPORTED,
                            "%s: layers without experts (\"decoder_sparse_step\", "
                            "\"mlp_only_layers\"); all layers or none have them here",
                            r->where);
    }
    if (r->status == LS_OK && !json_is_true(json_object_get(r->config, "norm_topk_prob"))) {
        r->status = LS_FAIL(LS_E_UNSUPPORTED,
                            "%s: \"norm_topk_prob\" is not true; only gates that sum to 1 are "
                            "computed here",
                            r->where);
    }
    balance_parse(r, m);
}

ls_status ls_hf_config_parse(const json_t *config, const char *where, ls_config_model *model) {
    reader r = {.config = config, .where = where, .status = LS_OK};
    const char *type = json_string_value(json_object_get(config, "model_type"));
    model->kv_heads = model->head_dim = 0;
    model->qkv_bias = model->qk_norm = false;
    model->window = model->window_pattern = 0;
    if (type && strcmp(type, "gpt2") == 0) {
        gpt2_parse(&r, model);
    } else if (type && strcmp(type, "llama") == 0) {
        llama_parse(&r, model);
        demand_absent(&r, "sliding_window");
    } else if (type && strcmp(type, "mistral") == 0) {
        mistral_parse(&r, model);
    } else if (type && strcmp(type, "mixtral") == 0) {
        mixtral_parse(&r, model);
    } else if (type && (strcmp(type, "qwen2") == 0 || strcmp(type, "qwen3") == 0)) {
        qwen_parse(&r, model, type[4] == '3', false);
    } else if (type && strcmp(type, "qwen3_moe") == 0) {
        qwen3_moe_parse(&r, model);
    } else {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "%s: \"model_type\" is '%.40s'; gpt2, llama, mistral, mixtral, qwen2, qwen3 "
                       "and qwen3_moe are known",
                       where, type ? type : "(not given)");
    }
    read_int(&r, "vocab_size", true, &model->vocab);
    read_bool(&r, "tie_word_embeddings", &model->tied);
    read_float(&r, config, "initializer_range", &model->init_std);
    demand_absent(&r, "quantization_config");
    return r.status;
}
