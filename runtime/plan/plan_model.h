/* What a planner must know of a model: sizes of a decoder-only transformer, dense or with experts
 * (Shazeer 2017, arXiv 1701.06538; latent attention and shared experts: DeepSeek-V3, arXiv
 * 2412.19437). Dense models that lockstep trains come from its own presets and parameter table. */
#ifndef LS_PLAN_PLAN_MODEL_H
#define LS_PLAN_PLAN_MODEL_H

#include "runtime/base/status.h"
#include "runtime/config/config.h"

typedef struct ls_plan_model {
    char name[64];
    int64_t layers, channels, heads, kv_heads, head_dim, ffn, vocab, context;
    bool gated, tied, learned_positions, biases;
    bool qkv_bias,
        qk_norm; /* beside biases, or where there are no others; of each head's q and k */
    int64_t window, window_pattern; /* as of ls_config_model */
    /* Experts: 0 of none. The first dense_layers have an ordinary MLP of size ffn. */
    int64_t experts, experts_per_token, shared_experts, expert_ffn, dense_layers;
    /* Layers behind the last that predict tokens further on, each with a product of two hidden
     * states to one and a pass of the head (DeepSeek-V3, section 2.2). Not in the parameters'
     * number, which is of the model that is kept. */
    int64_t ahead;
    /* Latent attention: 0 of none. head_dim is that of queries and keys, value_dim of values. */
    int64_t q_rank, kv_rank, rope_dim, value_dim;
} ls_plan_model;

/* A preset of lockstep, or one of the planner's own. LS_E_CONFIG tells the nearest name. */
ls_status ls_plan_model_find(const char *name, ls_plan_model *model);
/* Of a configuration; a vocabulary that the data is to say is taken as 257. The name is its
 * preset's. */
ls_status ls_plan_model_of(const ls_config_model *config, ls_plan_model *model);
/* Every name, NULL-terminated; static after the first call. Not thread-safe. */
const char *const *ls_plan_model_names(void);

/* LS_E_CONFIG names the size that is impossible. */
ls_status ls_plan_model_check(const ls_plan_model *model);

/* Parameters: of the token (and position) embedding, of a layer (kind: 0 with an ordinary MLP, 1
 * with experts; all experts counted), of the head (0 when tied). Norms and biases included. */
typedef struct ls_plan_params {
    double embedding, dense_layer, expert_layer, head;
    double expert_part; /* of expert_layer: the routed experts */
    double total,
        active; /* active: what one token meets, embedding look-up excluded, head included */
} ls_plan_params;
void ls_plan_model_params(const ls_plan_model *model, ls_plan_params *params);

/* Model FLOPs of a token, forward and backward: 6 for each active parameter in a product, attention
 * in full and what is causal of it. */
typedef struct ls_plan_flops {
    double products, attention_full, attention_causal;
} ls_plan_flops;
/* The causal share of the full ones: a half, or less with windows. */
double ls_plan_model_causal_share(const ls_plan_model *model, int64_t seq);
void ls_plan_model_flops(const ls_plan_model *model, int64_t seq, ls_plan_flops *flops);

#endif
