/* GPT-2 and Llama-3 style transformers: one parameter table, one set of blocks.
 *
 * GPT-2: Radford 2019, "Language models are unsupervised multitask learners" (learned positions,
 * pre-LayerNorm, biases, GELU, tied embedding; residual projections initialised with std/sqrt(2L)).
 * Llama 3: Grattafiori 2024, arXiv 2407.21783 (RMSNorm, RoPE with scaling, grouped queries,
 * SwiGLU).
 *
 * A model is a list of blocks: 0 embedding, 1..L layers, L+1 head. Parameters of a block are
 * consecutive rows of the table and consecutive in the flat buffers, and backward finishes blocks
 * from L+1 down to 0.
 *
 * One ls_model is what one rank holds: a range of blocks (a pipeline stage), of each block its
 * tensor rank's part, for its share of the tokens of a sequence (context rank). The numbers that it
 * gives are those of the whole model up to the order of sums.
 *
 * - Pipeline: a stage's forward and backward of one micro-batch are separate calls on a slot.
 * - Tensor parallel: Shoeybi 2019, arXiv 1909.08053. The ranks of options.tensor get the same
 *   tokens and have the same losses; every gradient in the flat buffer is final, those of
 *   parameters that several tensor ranks hold are equal on them. With sequence_parallel
 * (Korthikanti 2022, arXiv 2205.05198) norms, residuals and x_in, x_out have a balanced range of
 * the rows.
 * - Expert parallel: Lepikhin 2020, arXiv 2006.16668. Ranks with different micro-batches (or tokens
 * of one) exchange what their experts compute, so that their passes must come in the same order.
 * The gradients of a rank's experts are sums over the micro-batches of all of them.
 * - Context parallel: Liu 2023, arXiv 2310.01889, with the causal balance of zig-zag: of 2 R chunks
 *   of a sequence rank i has chunks i and 2R-1-i. Every rank is given whole sequences and takes its
 *   own tokens. Losses and gradients are those of its tokens alone: the caller adds them over
 *   context ranks, as it does over data-parallel ranks. */
#ifndef LS_MODEL_MODEL_H
#define LS_MODEL_MODEL_H

#include "collectives/comm.h"
#include "collectives/operation.h"
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

/* Which part of the model a rank holds. Zeros: all of it. */
typedef struct ls_model_part {
    int tensor_rank, tensor_ranks;
    int expert_rank, expert_ranks; /* experts are split over expert ranks x tensor ranks */
    int first_block, block_count;  /* blocks [first_block, first_block + block_count) */
} ls_model_part;

/* The rows of that part only: names and dims as in the whole model, local_dims, elems and offset of
 * the part. With several expert ranks the experts' rows come after all others and have `expert`
 * set; those of layer block b are a block of their own, of number L + 1 + b. A last stage without
 * block 0 whose head is tied has a row tok_embed.weight of its own with `copied` set: its gradient
 * is to be added to the first stage's, and the other way round. LS_E_CONFIG when the sizes cannot
 * be split so, naming the nearest that can. */
ls_status ls_model_table_part(const ls_config_model *config, const ls_model_part *part,
                              ls_param **params, int *count, int64_t *flat_elems);

/* Floating-point operations. 6N: 6 x (parameters that enter matrix products, embedding look-ups
 * excluded, the head included) per token; attention 12 L H D T per token when every query meets
 * every key ("full"), half of that causal, and what windows show of that where there are any. */
typedef struct ls_model_flops {
    double matmul_per_token; /* forward + backward = 6 N */
    double head_per_token;   /* of these, the head's */
    double attention_full_per_token;
    double attention_causal_per_token;
} ls_model_flops;
/* Both are zero for a configuration that ls_model_table refuses. */
void ls_model_count_flops(const ls_config_model *config, int64_t seq, ls_model_flops *flops);
int64_t ls_model_param_count(const ls_config_model *config); /* real parameters, padding excluded */
/* Keys that a query sees, the mean over the layers and the sequence: T/2, or less with windows. */
double ls_model_keys_seen(const ls_config_model *config, int64_t seq);

/* Who holds the parameters, when it is not the model (fully sharded training). The model asks for a
 * block before it uses it and releases it afterwards; pointers are to the block's flat range (first
 * element: that of the block's first row) and hold from acquire to release. A block is asked for in
 * the order of the work: forward 0 to L+1, backward L+1 to 0; a tied head acquires block 0 beside
 * its own, in between, and a layer the block of its experts behind its own, where there is one.
 * masters may be NULL for a block whose copies are given and which has no norms or biases; copies
 * are NULL when dtype == dev->acc. Failures are forwarded. */
typedef struct ls_model_store {
    void *context;
    ls_status (*acquire)(void *context, int block, bool backward, const void **masters,
                         const void **copies);
    ls_status (*release)(void *context, int block, bool backward);
    /* Where backward adds the gradients of a block (dev->acc): *base is its flat range. Asked for
     * once a use; the same memory until `ready`. With a tied head block 0 is asked for in the head
     * and again at the embedding. *fresh: nothing was added so far and the memory may hold
     * anything; backward writes all of it. */
    ls_status (*grads)(void *context, int block, void **base, bool *fresh);
    /* The gradients of the block's elements from `first` on are final for this micro-batch; last
     * of all with first = 0. */
    ls_status (*ready)(void *context, int block, int64_t first);
    /* Called between the operations of backward, so that communication can be driven; may be NULL.
     */
    ls_status (*progress)(void *context);
} ls_model_store;

/* How a mixture's experts are multiplied, on devices that go on by themselves, where a rank has
 * them all and there is no capacity: each apart, as many rows as it has, for which the host waits
 * once a layer; or all in one launch, without the host. auto: grouped where an even share of a
 * micro-batch's choices is at most 512 rows an expert. */
typedef enum ls_experts_by { LS_EXPERTS_AUTO, LS_EXPERTS_APART, LS_EXPERTS_GROUPED } ls_experts_by;

typedef struct ls_model_options {
    const ls_config_model *config; /* borrowed, outlives the model */
    ls_device *dev;                /* borrowed */
    int64_t batch, seq;            /* B, T of a micro-batch: whole sequences */
    ls_dtype dtype; /* activations and compute copies: LS_F32 or LS_BF16 (dev->acc: no copies) */
    bool fp8;       /* products with the layers' matrices, but a mixture's, in 8 bits (device.h) */
    ls_experts_by experts_by;
    bool graphs;   /* layers are enqueued from recordings, on devices that have them (dev->async) */
    bool training; /* activations for backward are kept */
    int64_t cache_len;  /* > 0: a key/value cache of this length for generation, batch 1 */
    bool document_mask; /* tokens attend within their document, which begins with document_token;
                           not in generation */
    int32_t document_token;
    bool narrow_logits; /* of dtype, not of acc; not in generation */
    bool loss_mask;     /* many targets are -1: the head computes the rows of the others alone */

    /* The part of the model. Where a communicator is given, rank and ranks are taken from it;
     * ls_model_plan does without. Communicators are borrowed, used only inside calls of this model,
     * and the calls are then collective over them; NULL: not split. */
    ls_model_part part;
    ls_comm *tensor, *context;
    ls_comm *experts; /* expert ranks x tensor ranks, these innermost; with several expert ranks */
    int context_rank, context_ranks; /* for ls_model_plan */
    bool sequence_parallel;          /* over the tensor ranks */
    ls_comm *pipeline; /* generation only: the ranks that hold the other stages, in order */

    int slots; /* micro-batches whose activations are alive at once; 0: 1 */
    /* What backward computes again instead of keeping it: selective: norms, attention and the
     * activation, from qkv and up (Korthikanti 2022); full: all of a layer, from its input (Chen
     * 2016, arXiv 1604.06174). Gradients have the same bits either way, but for selective in bf16
     * on a device that fuses GELU, which then rounds what it is computed from. Counted over the
     * layers of the whole model. */
    ls_config_recompute recompute;
    const ls_model_store *store; /* borrowed; NULL: the model owns masters and copies */
} ls_model_options;

/* Bytes that ls_model_create takes, by kind: activations with the logits of a chunk of the head,
 * the gradients in flight and the cache; tables of tokens, targets and rotary angles. spare: of the
 * activations, what a mixture of experts reserves for tokens beyond an even share that want the
 * experts of this rank. On the host that is memory only once they do; uneven: what they have made
 * of it so far. scratch: of the device, once for all its parts (ls_device_ops.scratch; 0: not known
 * before). */
typedef struct ls_model_bytes {
    size_t masters, copies, activations, tables, spare, uneven, scratch;
} ls_model_bytes;

/* The bytes, by the same layout code but without taking them. Errors as of ls_model_create. */
ls_status ls_model_plan(const ls_model_options *options, ls_model_bytes *bytes);
/* The operations of so many micro-batches, forward and backward, by the sizes of the part; no
 * communicators are needed. Rows that go to experts are those of an even choice. On a device that
 * works on its own (dev->async) a mixture makes others. Errors as of ls_model_create. */
ls_status ls_model_tell(const ls_model_options *options, int64_t micros, const ls_comm_list *list);

/* Takes masters (zero), compute copies, activations. Collective over options.tensor when the model
 * is split over it, else not. With a store no masters and copies are taken. LS_E_CONFIG, before any
 * memory is taken, for sizes that cannot be split so. */
ls_status ls_model_create(const ls_model_options *options, ls_model **model);
void ls_model_destroy(ls_model *model);
ls_model_bytes ls_model_memory(const ls_model *model);

const ls_param *ls_model_params(const ls_model *model, int *count);
int64_t ls_model_flat_elems(const ls_model *model);
int ls_model_blocks(const ls_model *model);  /* of the whole model: L + 2 */
int64_t ls_model_seq(const ls_model *model); /* T it was created for */
/* Flat master parameters (dev->acc) and the compute copies (dtype; NULL when dtype == dev->acc).
 * Both device memory, indexed by ls_param.offset; NULL with a store. */
void *ls_model_masters(const ls_model *model);
void *ls_model_copies(const ls_model *model);

/* Fills in masters as a function of (seed, parameter name, index in the global tensor), rounds the
 * copies. Not with a store. */
ls_status ls_model_init(ls_model *model, uint64_t seed);
/* The same for elements [first, first + n) of a row's memory, into host memory that holds elements
 * of acc (LS_F32 or LS_F64): for whoever keeps shards. Padding becomes zero. */
ls_status ls_model_init_values(const ls_param *param, uint64_t seed, int64_t first, int64_t n,
                               ls_dtype acc, int threads, void *host);
/* Rounds all copies again (after a checkpoint was loaded into the masters). */
ls_status ls_model_refresh(ls_model *model);

/* Called by backward when the gradients of flat elements >= first_elem are final. Called between
 * operations too with first_elem unchanged, so that communication can be driven. */
typedef ls_status (*ls_model_ready_fn)(void *context, int64_t first_elem);

/* Where gradients go. `ready` may be NULL. Both unused with a store. */
typedef struct ls_model_sink {
    void *grads; /* flat buffer (dev->acc) to add to */
    ls_model_ready_fn ready;
    void *context;
} ls_model_sink;

/* Elements (dtype) of x_in, x_out and their gradients: B T/context_ranks C, and with sequence
 * parallelism this tensor rank's share of the rows. Whole rows; the same on all stages. */
int64_t ls_model_boundary_elems(const ls_model *model);

/* Forward of one micro-batch on a slot (0 .. slots-1), up to the last layer of the part; the head
 * runs in backward, where its logits are used at once. tokens, targets int32 [B,T] (host memory,
 * read before the call returns; -1 = no loss there); tokens may be NULL on a part without block 0
 * that masks no documents, targets on one without the head.
 * x_in: the part's input, NULL with block 0; must stay as it is until the slot's backward is done.
 * x_out: receives the part's output, NULL with the head. Device memory, never the same. */
ls_status ls_model_forward(ls_model *model, int slot, const int32_t *tokens, const int32_t *targets,
                           const void *x_in, void *x_out);
/* Backward of the micro-batch whose forward ran on the slot. dx_out: gradient of x_out, only read;
 * NULL with the head. dx_in: receives the gradient of x_in; NULL with block 0. Gradients are of
 * loss_scale * sum of the losses of all targets; that of a balance loss is weighed by
 * balance_scale a row. *loss_sum (device memory) = sum of the losses
 * (unscaled), in the fixed order of dev->ops->sum; not written on a part without the head; NULL:
 * not wanted. The host waits for nothing. */
ls_status ls_model_backward(ls_model *model, int slot, double loss_scale, double balance_scale,
                            const void *dx_out, void *dx_in, const ls_model_sink *sink,
                            double *loss_sum);

/* Both of a whole model on slot 0. */
ls_status ls_model_forward_backward(ls_model *model, const int32_t *tokens, const int32_t *targets,
                                    double loss_scale, void *grads, ls_model_ready_fn ready,
                                    void *context, double *loss_sum);

/* Forward only, of any part: x_in and x_out as above; *loss_sum (host) as of backward, waited for,
 * 0 on a part without the head, where it may be NULL. rows <= B sequences; x_in and x_out then have
 * as many fewer elements. Uses the memory of slot 0. */
ls_status ls_model_evaluate(ls_model *model, const int32_t *tokens, const int32_t *targets,
                            int64_t rows, const void *x_in, void *x_out, double *loss_sum);

/* The same of a whole model without context ranks, of rows <= B sequences of seq <= T tokens, each
 * with a target at least: losses[rows] (host) = the sum of each one's. */
ls_status ls_model_score(ls_model *model, const int32_t *tokens, const int32_t *targets,
                         int64_t rows, int64_t seq, double *losses);

/* Generation: feeds count tokens at the cache's end; logits [vocab] (host, float) of the last one,
 * on every rank. LS_E_SHAPE when the cache is full. clear empties the cache. [collective over
 * tensor, experts and pipeline] */
ls_status ls_model_feed(ls_model *model, const int32_t *tokens, int64_t count, float *logits);
void ls_model_clear_cache(ls_model *model);
int64_t ls_model_cache_used(const ls_model *model);

#endif
