/* GPT-2 and Llama-3 style transformers: one parameter table, one set of blocks.
 *
 * GPT-2: Radford 2019, "Language models are unsupervised multitask learners" (learned positions,
 * pre-LayerNorm, biases, GELU, tied embedding; residual projections initialised with std/sqrt(2L)).
 * Llama 3: Grattafiori 2024, arXiv 2407.21783 (RMSNorm, RoPE with scaling, grouped queries,
 * SwiGLU).
 *
 * A model is a list of blocks: 0 embedding, 1..L layers, L+1 head. Parameters of a block are
 * consecutive rows of the table and consecutive in the flat buffers, and backward finishes blocks
 * from L+1 down to 0. */
#ifndef LS_MODEL_MODEL_H
#define LS_MODEL_MODEL_H

#include "runtime/config/config.h"
#include "runtime/device/device.h"
#include "runtime/mesh/layout.h"

typedef struct ls_model ls_model;

/* The parameter table of a configuration with model.vocab > 0. Caller frees *params.
 * Names: tok_embed.weight, pos_embed.weight; layers.N.attn_norm.weight|bias,
 * layers.N.attn.qkv.weight|bias, layers.N.attn.proj.weight|bias, layers.N.mlp_norm.weight|bias,
 * layers.N.mlp.up.weight|bias (Llama: gate and up in one, gate first),
 * layers.N.mlp.down.weight|bias; final_norm.weight|bias, head.weight (absent when tied). Weights
 * are [out, in]. */
ls_status ls_model_table(const ls_config_model *config, ls_param **params, int *count,
                         int64_t *flat_elems);

/* Floating-point operations. 6N: 6 x (parameters that enter matrix products, embedding look-ups
 * excluded, the head included) per token; attention 12 L H D T per token when every query meets
 * every key ("full"), half of that causal. */
typedef struct ls_model_flops {
    double matmul_per_token; /* forward + backward = 6 N */
    double attention_full_per_token;
    double attention_causal_per_token;
} ls_model_flops;
/* Both are zero for a configuration that ls_model_table refuses. */
void ls_model_count_flops(const ls_config_model *config, int64_t seq, ls_model_flops *flops);
int64_t ls_model_param_count(const ls_config_model *config); /* real parameters, padding excluded */

typedef struct ls_model_options {
    const ls_config_model *config; /* borrowed, outlives the model */
    ls_device *dev;                /* borrowed */
    int64_t batch, seq;            /* B, T of a micro-batch */
    ls_dtype dtype;    /* activations and compute copies: LS_F32 or LS_BF16 (dev->acc: no copies) */
    bool training;     /* activations for backward are kept */
    int64_t cache_len; /* > 0: a key/value cache of this length for generation, batch 1 */
} ls_model_options;

/* Bytes that ls_model_create takes, by kind: activations with the logits of a chunk of the head,
 * the gradients in flight and the cache; tables of tokens, targets and rotary angles. */
typedef struct ls_model_bytes {
    size_t masters, copies, activations, tables;
} ls_model_bytes;

/* The bytes, by the same layout code but without taking them. Errors as of ls_model_create. */
ls_status ls_model_plan(const ls_model_options *options, ls_model_bytes *bytes);

/* Takes masters (zero), compute copies, activations. Not collective. */
ls_status ls_model_create(const ls_model_options *options, ls_model **model);
void ls_model_destroy(ls_model *model);
ls_model_bytes ls_model_memory(const ls_model *model);

const ls_param *ls_model_params(const ls_model *model, int *count);
int64_t ls_model_flat_elems(const ls_model *model);
int ls_model_blocks(const ls_model *model);
int64_t ls_model_seq(const ls_model *model); /* T it was created for */
/* Flat master parameters (dev->acc) and the compute copies (dtype; NULL when dtype == dev->acc).
 * Both device memory, indexed by ls_param.offset. */
void *ls_model_masters(const ls_model *model);
void *ls_model_copies(const ls_model *model);

/* Fills in masters as a function of (seed, parameter name, index), rounds the copies. */
ls_status ls_model_init(ls_model *model, uint64_t seed);
/* Rounds all copies again (after a checkpoint was loaded into the masters). */
ls_status ls_model_refresh(ls_model *model);

/* Called by backward when the gradients of flat elements >= first_elem are final. Called between
 * operations too with first_elem unchanged, so that communication can be driven. */
typedef ls_status (*ls_model_ready_fn)(void *context, int64_t first_elem);

/* One micro-batch: tokens, targets int32 [B,T] (host memory; -1 = no loss there). grads: flat
 * buffer (dev->acc) to add to. Gradients are of loss_scale * sum of the losses of all targets.
 * *loss_sum = sum of the losses (unscaled), in the fixed order of dev->ops->sum. */
ls_status ls_model_forward_backward(ls_model *model, const int32_t *tokens, const int32_t *targets,
                                    double loss_scale, void *grads, ls_model_ready_fn ready,
                                    void *context, double *loss_sum);

/* Forward only: *loss_sum as above. batch rows may be fewer than created for: rows <= B. */
ls_status ls_model_loss(ls_model *model, const int32_t *tokens, const int32_t *targets,
                        int64_t rows, double *loss_sum);

/* Generation: feeds count tokens at the cache's end; logits [vocab] (host, float) of the last one.
 * LS_E_SHAPE when the cache is full. clear empties the cache. */
ls_status ls_model_feed(ls_model *model, const int32_t *tokens, int64_t count, float *logits);
void ls_model_clear_cache(ls_model *model);
int64_t ls_model_cache_used(const ls_model *model);

#endif
