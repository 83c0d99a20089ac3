/* config.json of Hugging Face models: what is refused, and what its numbers mean. */
#include "checkpoint/convert.h"
#include "tests/checkpoint/tool/convert_models.h"
#include "tests/test.h"

/* config.json with one member changed: the message names it. */
static void refuses_other_configs(void) {
    static const struct {
        const char *key, *value, *message;
    } bad[] = {
        {"model_type", "\"phi3\"", "phi3"},
        {"hidden_act", "\"gelu\"", "hidden_act"},
        {"attention_bias", "true", "attention_bias"},
        {"mlp_bias", "1", "mlp_bias"},
        {"rope_scaling", "{\"rope_type\":\"yarn\"}", "yarn"},
        {"rope_scaling", "{}", "nothing named"},
        {"rope_scaling", "{\"rope_type\":\"llama3\",\"original_max_position_embeddings\":8e93}",
         "\"original_max_position_embeddings\" is 8e93; it must be a positive integer below 2^31"},
        {"quantization_config", "{}", "quantization_config"},
        {"sliding_window", "4096", "sliding_window"},
        {"num_hidden_layers", "0", "num_hidden_layers"},
        {"hidden_size", "\"8\"", "\"hidden_size\" is \"8\"; it must be a positive integer"},
        {"vocab_size", "null", "\"vocab_size\" is null"},
        {"tie_word_embeddings", "1", "is 1; it must be true or false"},
        {"rms_norm_eps", "-1", "\"rms_norm_eps\" is -1; it must be a positive number"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *config;
        ls_config_model m = {0};
        CHECK_OK(ls_hf_config_make(&llama, LS_F32, NULL, &config));
        json_object_set_new(config, bad[i].key, json_loads(bad[i].value, JSON_DECODE_ANY, NULL));
        CHECK(ls_hf_config_parse(config, "config.json", &m) != LS_OK);
        CHECK_MESSAGE(bad[i].message);
        json_decref(config);
    }
    json_t *config;
    ls_config_model m = {0};
    CHECK_OK(ls_hf_config_make(&gpt2, LS_F32, NULL, &config));
    json_object_set_new(config, "scale_attn_by_inverse_layer_idx", json_true());
    CHECK_STATUS(ls_hf_config_parse(config, "config.json", &m), LS_E_UNSUPPORTED);
    json_object_del(config, "scale_attn_by_inverse_layer_idx");
    json_object_set_new(config, "n_inner", json_null());
    CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
    CHECK_INT(m.ffn, 48);
    json_decref(config);
    /* transformers 5 */
    CHECK_OK(ls_hf_config_make(&llama, LS_F32, NULL, &config));
    json_object_del(config, "rope_theta");
    json_object_del(config, "rope_scaling");
    json_object_set_new(config, "rope_parameters",
                        json_pack("{s:s,s:f}", "rope_type", "default", "rope_theta", 1234.0));
    CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
    CHECK(m.rope_theta == 1234.0 && m.rope_scaling == LS_ROPE_SCALING_NONE);
    json_decref(config);
}

/* transformers' one loss of all layers, 1 for each choice of a token, and ours of 2 layers. */
static void takes_balance_loss(void) {
    const char *const released[] = {"model.preset=mixtral-8x7b", "run.steps=1",
                                    "batch.sequences=1"};
    ls_config preset;
    json_t *published;
    CHECK_OK(ls_config_load(&preset, NULL, released, 3));
    CHECK_OK(ls_hf_config_make(&preset.model, LS_BF16, NULL, &published));
    CHECK_NEAR(json_real_value(json_object_get(published, "router_aux_loss_coef")), 0.02, 1e-12, 0);
    json_decref(published);
    const ls_config_model mixtral = mixtral_of(&llama);
    ls_config_model m = {0};
    json_t *config;
    CHECK_OK(ls_hf_config_make(&mixtral, LS_F32, NULL, &config));
    CHECK_NEAR(json_real_value(json_object_get(config, "router_aux_loss_coef")), 0.06, 1e-12, 0);
    json_object_set_new(config, "num_experts_per_tok", json_integer(3));
    json_object_set_new(config, "router_aux_loss_coef", json_integer(0));
    CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
    CHECK(m.balance_loss == 0.0);
    json_object_set_new(config, "router_aux_loss_coef", json_real(0.02));
    CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
    CHECK_NEAR(m.balance_loss, 0.03, 1e-12, 0);
    static const char *const bad[] = {"-1e-3", "1e9", "\"0.1\"", "[]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_object_set_new(config, "router_aux_loss_coef",
                            json_loads(bad[i], JSON_DECODE_ANY, NULL));
        CHECK_STATUS(ls_hf_config_parse(config, "config.json", &m), LS_E_INPUT);
        CHECK_MESSAGE("must be a number from 0 to 666.667");
    }
    json_object_del(config, "router_aux_loss_coef");
    CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
    CHECK_NEAR(m.balance_loss, 0.001 * 3 / 2, 1e-12, 0); /* MixtralConfig's default */
    json_decref(config);
}

/* What a model of Qwen's says of itself, and what it must not. */
static void takes_qwen(void) {
    static const struct {
        const char *type, *architecture, *key, *value, *message;
    } bad[] = {
        {"qwen2", "Qwen2ForCausalLM", "layer_types", "[\"full_attention\", \"sliding_attention\"]",
         "\"layer_types\" has 'sliding_attention', but"},
        {"qwen2", "Qwen2ForCausalLM", "num_key_value_heads", "null", "num_key_value_heads"},
        {"qwen3", "Qwen3ForCausalLM", "attention_bias", "true", "attention_bias"},
        {"qwen3_moe", "Qwen3MoeForCausalLM", "decoder_sparse_step", "2", "layers without experts"},
        {"qwen3_moe", "Qwen3MoeForCausalLM", "mlp_only_layers", "[1]", "layers without experts"},
        {"qwen3_moe", "Qwen3MoeForCausalLM", "norm_topk_prob", "false", "norm_topk_prob"},
        {"qwen3_moe", "Qwen3MoeForCausalLM", "moe_intermediate_size", "null",
         "moe_intermediate_size"},
    };
    const ls_config_model mixture = mixtral_of(&llama);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const ls_config_model model = bad[i].type[4] == '2'    ? qwen2_of(&llama)
                                      : bad[i].type[5] == '\0' ? qwen3_of(&llama)
                                                               : qwen3_of(&mixture);
        json_t *config;
        ls_config_model m = {0};
        CHECK_OK(ls_hf_config_make(&model, LS_F32, NULL, &config));
        CHECK_STR(json_string_value(json_object_get(config, "model_type")), bad[i].type);
        CHECK_STR(json_string_value(json_array_get(json_object_get(config, "architectures"), 0)),
                  bad[i].architecture);
        json_object_set_new(config, "sliding_window", json_integer(32768)); /* of those that ask */
        CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
        CHECK(m.qkv_bias == model.qkv_bias && m.qk_norm == model.qk_norm);
        CHECK(m.ffn == model.ffn && m.kv_heads == model.kv_heads && m.experts == model.experts);
        if (m.experts > 0) { /* as transformers 5 writes it */
            json_object_set(config, "num_local_experts", json_object_get(config, "num_experts"));
            json_object_del(config, "num_experts");
            CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
            CHECK_INT(m.experts, model.experts);
        }
        json_object_set_new(config, bad[i].key, json_loads(bad[i].value, JSON_DECODE_ANY, NULL));
        CHECK(ls_hf_config_parse(config, "config.json", &m) != LS_OK);
        CHECK_MESSAGE(bad[i].message);
        json_decref(config);
    }
    json_t *config;
    const ls_config_model qwen3 = qwen3_of(&llama);
    ls_config_model m = {0};
    CHECK_OK(ls_hf_config_make(&qwen3, LS_F32, NULL, &config));
    json_object_del(config, "head_dim");
    CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
    CHECK_INT(m.head_dim, 128);
    json_object_set_new(config, "model_type", json_string("llama"));
    CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
    CHECK(!m.qk_norm && !m.qkv_bias);
    json_decref(config);
}

/* Changes of the configuration of what has no window, and what becomes of it. */
typedef struct window_case {
    const char *type, *members;
    int64_t window, pattern;
    const char *message; /* or it is refused */
} window_case;

static const window_case windows[] = {
    {"mistral", "{}", 4096, 0, NULL}, /* MistralConfig's default */
    {"mistral", "{\"sliding_window\": null}", 0, 0, NULL},
    {"mistral", "{\"sliding_window\": 7}", 7, 0, NULL},
    {"mistral", "{\"sliding_window\": 0}", 0, 0, "must be a positive integer"},
    {"mixtral", "{}", 0, 0, NULL},
    {"mixtral", "{\"sliding_window\": 7}", 7, 0, NULL},
    {"qwen3", "{\"sliding_window\": 7}", 0, 0, NULL},
    {"qwen3", "{\"sliding_window\": 7, \"use_sliding_window\": true}", 0, 0, NULL},
    {"qwen3", "{\"use_sliding_window\": true, \"max_window_layers\": 0}", 4096, 0, NULL},
    {"qwen3", "{\"use_sliding_window\": true, \"max_window_layers\": 5}", 0, 0, NULL},
    {"qwen3", "{\"use_sliding_window\": true, \"max_window_layers\": 4}", 0, 0,
     "\"max_window_layers\" gives windows to some of the 5 layers"},
    {"qwen3", "{\"use_sliding_window\": true, \"max_window_layers\": \"0\"}", 0, 0,
     "max_window_layers"},
    {"qwen3",
     "{\"sliding_window\": 7, \"use_sliding_window\": true, \"layer_types\": [\"s\", \"s\", "
     "\"f\", \"s\", \"s\"]}",
     7, 3, NULL},
    {"qwen3",
     "{\"sliding_window\": 7, \"use_sliding_window\": true, \"layer_types\": [\"s\", \"f\", "
     "\"s\", \"s\", \"s\"]}",
     0, 0, "\"layer_types\" gives windows to some of the 5 layers"},
    {"qwen3",
     "{\"sliding_window\": 7, \"use_sliding_window\": true, \"layer_types\": [\"s\", \"s\"]}", 0, 0,
     "some of the 5 layers"},
    {"qwen3",
     "{\"sliding_window\": null, \"use_sliding_window\": true, \"layer_types\": [\"s\", \"f\", "
     "\"s\", \"f\", \"s\"]}",
     0, 0, NULL},
    {"qwen3",
     "{\"use_sliding_window\": true, \"layer_types\": [\"f\", \"f\", \"f\", \"f\", \"f\"]}", 0, 0,
     NULL},
    {"qwen3",
     "{\"use_sliding_window\": true, \"layer_types\": [\"f\", \"f\", \"x\", \"f\", \"f\"]}", 0, 0,
     "\"layer_types\" has 'x'"},
    {"qwen3_moe", "{\"sliding_window\": 7, \"use_sliding_window\": true}", 7, 0, NULL},
};

/* "s" and "f" of a case written out. */
static void write_out(json_t *types) {
    json_t *type;
    size_t i;
    json_array_foreach(types, i, type) {
        const char *text = json_string_value(type);
        json_string_set(type, strcmp(text, "s") == 0   ? "sliding_attention"
                              : strcmp(text, "f") == 0 ? "full_attention"
                                                       : text);
    }
}

static void takes_windows(void) {
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        const window_case *c = &windows[i];
        const bool qwen = strncmp(c->type, "qwen3", 5) == 0;
        const bool mixture = strcmp(c->type, "mixtral") == 0 || strcmp(c->type, "qwen3_moe") == 0;
        ls_config_model model = qwen ? qwen3_of(&llama) : llama, m = {0};
        model = mixture ? mixtral_of(&model) : model;
        model.layers = 5;
        json_t *config, *members = json_loads(c->members, 0, NULL);
        CHECK_OK(ls_hf_config_make(&model, LS_F32, NULL, &config));
        json_object_set_new(config, "model_type", json_string(c->type));
        write_out(json_object_get(members, "layer_types"));
        json_object_update(config, members);
        if (c->message) {
            CHECK(ls_hf_config_parse(config, "config.json", &m) != LS_OK);
            CHECK_MESSAGE(c->message);
        } else {
            CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
            CHECK_INT(m.window, c->window);
            CHECK_INT(m.window_pattern, c->pattern);
        }
        json_decref(members);
        json_decref(config);
    }
}

int main(void) {
    takes_windows();
    refuses_other_configs();
    takes_balance_loss();
    takes_qwen();
    return test_end();
}
