/* What the files of this room share. Letters as in device.h. */
#ifndef LS_MODEL_MODEL_INTERNAL_H
#define LS_MODEL_MODEL_INTERNAL_H

#include "runtime/base/arena.h"
#include "runtime/device/device_async.h"
#include "runtime/mesh/partition.h"
#include "runtime/model/model.h"

#include <math.h>

/* Rows of the table, in the order of the flat buffers. A layer's rows repeat for each layer. */
typedef enum ls_row {
    LS_TOK_EMBED,
    LS_POS_EMBED,
    LS_ATTN_NORM_W,
    LS_ATTN_NORM_B,
    LS_QKV_W,
    LS_QKV_B,
    LS_Q_NORM_W,
    LS_K_NORM_W,
    LS_PROJ_W,
    LS_PROJ_B,
    LS_MLP_NORM_W,
    LS_MLP_NORM_B,
    LS_UP_W,
    LS_UP_B,
    LS_DOWN_W,
    LS_DOWN_B,
    LS_ROUTER_W,
    LS_EXPERT_UP_W,
    LS_EXPERT_DOWN_W,
    LS_FINAL_NORM_W,
    LS_FINAL_NORM_B,
    LS_HEAD_W,
    LS_ROW_COUNT
} ls_row;

/* What tells one family from another. */
typedef struct ls_family_traits {
    ls_norm_kind norm;
    bool biases;            /* of norms and projections */
    bool learned_positions; /* else rotary */
    bool gated;             /* SwiGLU, else GELU */
} ls_family_traits;

/* Sizes of a configuration, derived once; or of a tensor rank's part of it, padding included. */
typedef struct ls_sizes {
    ls_family_traits traits;
    bool tied;
    bool qkv_bias, qk_norm;
    int64_t vocab, vocab_rows; /* real, and padded to vocab_multiple */
    int64_t vocab_first;       /* of a part: its first row's index */
    int64_t layers, context;
    int64_t channels, heads, kv_heads, head_dim;
    int64_t q_width, kv_width, qkv_width; /* H D, G D, (H + 2G) D */
    int64_t ffn, up_width;                /* F; 2F when gated */
    int64_t experts, each;                /* of the whole model: E, 0 when dense; per token */
} ls_sizes;

/* LS_E_CONFIG when they do not fit together. */
ls_status ls_sizes_derive(const ls_config_model *config, ls_sizes *sizes);

/* `part` (NULL: the whole) with its zeros filled in. */
ls_model_part ls_part_resolve(const ls_sizes *sizes, const ls_model_part *part);
/* The sizes of a resolved part; LS_E_CONFIG when it cannot be. */
ls_status ls_sizes_split(const ls_sizes *whole, const ls_model_part *part, ls_sizes *local);

/* The table of a resolved part, from the sizes of the whole; rows [blocks, LS_ROW_COUNT] (NULL: not
 * wanted) receives the index into params of each row of each block of the whole model, -1 where
 * the family or the part lacks it. */
ls_status ls_table_build(const ls_config_model *config, const ls_sizes *whole,
                         const ls_model_part *part, ls_param **params, int *count,
                         int64_t *flat_elems, int *rows);

/* frequencies [D/2]: radians per position of each rotated pair. */
void ls_rope_frequencies(const ls_config_model *config, double *frequencies);

/* Where the tokens of a mixture of experts went. r rows of this rank, each with `each` choices; S
 * slots: the choices that are kept, ordered by expert; M rows that this rank's experts have,
 * ordered by expert, then by the rank that they come from. With model.moe_fixed each expert has the
 * same number of slots and of rows, some of them without a choice (index -1, zeros). */
typedef struct ls_moe_acts {
    void *probs, *gates;   /* [r,E], [r,each] acc */
    int32_t *chosen;       /* [r,each] */
    int32_t *slots;        /* [r,each], -1: no room */
    int32_t *slot_rows;    /* [S] */
    int32_t *order, *back; /* [M] place in the order of arrival, and the other way round [A] */
    int64_t *kept;         /* [ranks, E] choices of each rank that are kept, but with moe_fixed or
                              moe_grouped; on the host */
    int32_t *bounds;       /* [E + 1] with moe_grouped: first row of each expert, their end */
    int64_t *wanted;       /* [E] choices of all ranks; on the host */
    void *wanted_here;     /* [E] acc, the same on the device, with moe_placed instead */
    void *in, *out;        /* [M,C] inputs of the experts; [S,C] outputs, back on this rank */
    int over;              /* in model->moe_over */
} ls_moe_acts;

/* Of memory with M rows: those beyond an even share that were used at most, and bytes of a row. */
typedef struct ls_moe_over {
    int64_t rows;
    size_t row_bytes;
} ls_moe_over;

/* What a layer keeps for backward. N = B*T rows of the pass, n those that this rank's norms see
 * (fewer with sequence parallelism). Without training all layers share one; what is recomputed lies
 * in memory that layers share. */
typedef struct ls_layer_acts {
    void *x;                     /* [n,C] input of the layer */
    void *norm1, *mean1, *rstd1; /* [n,C], [n], [n] */
    void *qkv, *att, *lse;       /* [N,(H+2G)D], [N,HD], [B,H,T] */
    void *raw_q, *raw_k;         /* [N,HD], [N,GD] before their norms; NULL without */
    void *rstd_q, *rstd_k;       /* [N,H], [N,G] */
    void *mid;                   /* [n,C] x + attention */
    void *norm2, *mean2, *rstd2; /* [n,C], [n], [n] */
    void *up, *act;              /* [N,F or 2F], [N,F]; of a mixture [M, ...] */
    ls_moe_acts moe;
} ls_layer_acts;

/* What a micro-batch in flight keeps. */
typedef struct ls_slot {
    int32_t *tokens, *targets; /* [N]; NULL on parts that need none */
    /* [context ranks, N] of each one's keys: of layers without a window, NULL: no document mask;
     * and of those with one, NULL: there are none. */
    int32_t *first_key, *window_key;
    ls_layer_acts *layers; /* [layers of the part + 1]; of the last only x, the output */
    void *norm_f, *mean_f, *rstd_f;
    int32_t *kept;       /* targets.c, with a loss mask: [N] rows of the targets, then [N] the place
                            of each row in its chunk of these, or -1 */
    int32_t *host_kept;  /* [N] on the host: the former */
    int64_t packed_rows; /* of targets, with padding; 0: the head computes all rows */
    bool forwarded;      /* waits for its backward */
} ls_slot;

/* A block's parameters and gradients while it is in use: base addresses of its flat range. */
typedef struct ls_block_base {
    const char *masters, *copies;
    char *grads;
    bool fresh; /* nothing was added to grads before this use */
} ls_block_base;

typedef struct ls_replay ls_replay; /* replay.c */

struct ls_model {
    ls_model_options options;
    ls_model_part part;
    ls_device *dev;
    ls_dtype dtype;
    ls_sizes whole, sizes; /* of the model, and of this tensor rank's part */
    int blocks;            /* of the whole model */
    int part_layers;       /* layers of the part */
    ls_param *params;
    int param_count;
    int *rows; /* [blocks, LS_ROW_COUNT], see ls_table_build */
    int64_t flat_elems;
    void *masters, *copies;
    ls_block_base *bases; /* [blocks + layers]: those of experts apart behind the others */

    ls_comm *tensor;               /* NULL: not split */
    ls_comm *kv_sharers;           /* tensor ranks with the same key/value head; NULL: none has */
    ls_comm *experts;              /* NULL: not split; without expert ranks `tensor` */
    int expert_rank, expert_ranks; /* there */
    bool sequence;                 /* sequence parallel */
    int64_t *row_offsets; /* [2, tensor ranks] scratch of gathers and scatters: offsets, counts */

    ls_comm *context; /* NULL: not split */
    int context_rank, context_ranks;
    int64_t seq, seq_most; /* tokens of a sequence on this context rank, and the most of any */

    ls_arena arena;      /* tables and activations */
    ls_arena host_arena; /* what the host computes from tokens */
    void *device_memory; /* under the arena where the device's memory is not the host's */
    ls_model_bytes bytes;

    void *rope_cos, *rope_sin; /* [positions, D/2] acc; NULL without rotary positions */
    int32_t *positions;        /* [seq] of the own tokens; NULL: 0, 1, 2 ... */
    int32_t *own_ids;          /* [N] on the host: the own tokens of a batch; with context */
    int32_t *host_first_key;   /* on the host: what becomes a slot's first_key or window_key */
    int32_t *host_targets;     /* [2, N] on the host: with a loss mask, what becomes a slot's */
    void *head_x, *head_dx;    /* [head_rows_together, C] of the rows that are targets */
    int slots;
    ls_slot *slot;
    ls_layer_acts *layers; /* [slots, part_layers + 1], what the slots point to */
    /* [head_rows, vocab_rows] logits_dtype, [head_rows_together, vocab_rows] dtype; the same memory
     * in one dtype. */
    void *logits, *dlogits;
    ls_dtype logits_dtype;
    void *losses;               /* [N] acc */
    void *loss_sum;             /* one double, for evaluation */
    int64_t head_rows;          /* of a chunk of the head */
    int64_t head_rows_together; /* of the chunks that share the products for gradients */
    /* Shares of the softmax over tensor ranks: of this one [head_rows, 3] acc, of all. */
    void *stats, *all_stats;
    void *dy_sums; /* [C] acc: column sums of dx, for the layer before; NULL: it makes them */
    void *dx, *dnarrow, *dwide; /* gradients in flight: [n,C], [N,max(C,HD)], [N,max(F,(H+2G)D)] */
    void *gathered, *partial;   /* sequence parallel: [N,C] of all ranks, and before the sum */
    void *norm_grads;           /* sequence parallel: [4, C] acc, before the sum */
    void *qk_norm_grads;        /* tensor parallel: [2, D] acc, before the sum */
    void *kv_grads;             /* with kv_sharers: weights [2GD, C], then bias [(H+2G)D], acc */
    void *ring_kv[2];           /* context: [B, seq_most, 2GD] keys and values of another rank */
    void *ring_dkv[2];          /* and their gradients */
    int64_t *ring_counts;       /* on the host [3, context ranks] */
    /* Mixture of experts, in flight: logits [r,E] acc and dlogits [r,E]; gradient of the gates
     * [r,each] acc, of the router's weight [E,C] acc; balance [E] acc; rows on their way [S,C],
     * [M,C], at the experts [M,C], gradient of act [M,F]; scratch to count [E]. */
    void *moe_logits, *moe_dlogits, *moe_dgates, *moe_router_grad, *moe_balance;
    void *moe_sent, *moe_arrived, *moe_rows, *moe_dact;
    /* On the host: exchange: counts and offsets [4, ranks]; choices by segment and expert of this
     * rank, [segments, E], of the tensor ranks, and of all that have tokens of the micro-batch (see
     * moe.c); what becomes a ls_moe_acts' and balance. */
    int64_t *moe_counts, *moe_exchange, *moe_own, *moe_tensor, *moe_all;
    ls_moe_over *moe_over; /* [1 + slots * (part_layers + 1)]: what layers share; layers' own */
    int moe_over_now;      /* while memory is laid out */
    struct {
        int32_t *chosen, *slots, *slot_rows, *order, *back;
        int32_t *kept; /* [ranks, E], of what the device has placed */
        void *balance;
    } moe_host;
    bool moe_placed;        /* the device places the rows (moe_place.c); */
    bool moe_fixed;         /* and experts have fixed room */
    bool moe_grouped;       /* or one product serves them all, whose sizes the device alone knows */
    int32_t *moe_places[5]; /* [segments,E], gathered over tensor and context ranks; places
                               [3,segments,E]; kept of the tensor ranks and of the expert ranks */
    ls_replay **replays;    /* [part_layers] lists */
    bool recording;         /* nothing may be asked of the device but to enqueue */
    void *cache; /* [layers of the part, cache_len, 2GD]: keys, then values, of each position */
    void
        *boundary[2]; /* generation in stages: [T, C] from the stage before, to the next; or NULL */
    float *own_logits; /* generation: on the host, [vocab_rows] of this tensor rank, then of all */
    int64_t cache_used;
};

/* Everything but memory that depends on the machine: sizes, table, planned bytes. */
ls_status ls_model_describe(const ls_model_options *options, ls_model *model);
/* A piece of it, and of the host's memory, for what it computes from tokens: to the pointer that
 * `piece` points to. */
static inline ls_status ls_take(ls_model *m, int64_t elems, ls_dtype dtype, void *piece) {
    void *taken;
    LS_TRY(ls_arena_take(&m->arena, (size_t)elems * ls_dtype_bytes(dtype), &taken));
    memcpy(piece, &taken, sizeof taken);
    return LS_OK;
}
static inline ls_status ls_take_host(ls_model *m, int64_t elems, ls_dtype dtype, void *piece) {
    void *taken;
    LS_TRY(ls_arena_take(&m->host_arena, (size_t)elems * ls_dtype_bytes(dtype), &taken));
    memcpy(piece, &taken, sizeof taken);
    return LS_OK;
}

/* A pass over rows = batch * seq tokens that lie in slot->tokens. With `cached` the keys and
 * values are appended to the cache, whose first `offset` positions are filled. */
typedef struct ls_pass {
    ls_model *model;
    ls_slot *slot;
    int64_t batch, seq, rows, offset;
    int64_t own_first,
        own_rows; /* the rows of norms and residuals; all without sequence parallel */
    bool cached;
    /* Backward only. */
    bool backward;
    double loss_scale, balance_scale;
    const ls_model_sink *sink;
    int64_t first_elem; /* gradients from here on are final */
    const void *dy;     /* [n,C] gradient of the output of the block at work */
    void *dx_in;        /* where that of the part's input goes; NULL with block 0 */
} ls_pass;

/* blocks.c: a block's parameters come and go. In backward its gradients are final at the end. */
ls_status ls_block_begin(ls_pass *pass, int block);
ls_status ls_block_end(ls_pass *pass, int block);
/* Already before, from this row of the block on. */
ls_status ls_block_final_from(ls_pass *pass, int block, ls_row row);
/* Between two operations of backward: lets communication move. */
ls_status ls_pass_tick(const ls_pass *pass);

/* linear.c: rows [first, first + count) of a weight matrix [out, in] and of its bias. */
typedef struct ls_projection {
    int block;
    ls_row weight, bias;
    int64_t first, count;
    /* Where the device makes the GELU beside the product. Forward by columns: gelu of y goes to
     * act. Backward by rows: dx is that of what x is the gelu of, which lies in act, and act_bias
     * (NULL: none) += its column sums; backward by columns is then told that its bias is done.
     * act_of: all of y or dx, beside which act lies. */
    void *act, *act_of, *act_bias;
    bool bias_done;
    const void *dy_sums; /* backward: the column sums of dy, acc; NULL: still to be made */
} ls_projection;
ls_projection ls_projection_whole(const ls_model *m, int block, ls_row weight, ls_row bias);
/* y [N, out] with leading dimension ldy = x W^T + bias: x [n, in] of all tensor ranks, outputs of
 * this one. */
ls_status ls_column_forward(const ls_pass *pass, ls_projection p, const void *x, void *y,
                            int64_t ldy);
/* y [n, out] = sum over tensor ranks of x [N, in] W^T, + bias + residual [n, out]. */
ls_status ls_row_forward(const ls_pass *pass, ls_projection p, const void *x, const void *residual,
                         void *y);
/* All gradients: dx [n, in] from dy [N, out] and x [n, in]; and dx [N, in] from dy [n, out] and
 * x [N, in]. The first tells when the weight's gradient is final and all behind it in the block. */
ls_status ls_column_backward(ls_pass *pass, ls_projection p, const void *x, const void *dy,
                             void *dx);
ls_status ls_row_backward(const ls_pass *pass, ls_projection p, const void *x, const void *dy,
                          void *dx);
/* dx [rows, in] = dy [rows, out] W; dW [out, in] += dy^T x, or = without `add`. Of this rank alone.
 */
ls_status ls_project_dx(const ls_pass *pass, ls_projection p, int64_t rows, const void *dy,
                        void *dx);
ls_status ls_project_dw(const ls_pass *pass, int block, ls_row weight, int64_t rows, const void *x,
                        const void *dy, bool add);

/* LS_E_CONFIG where options.fp8 and this device or these sizes do not fit together. */
ls_status ls_fp8_check(const ls_model *m);
/* ls_device_limits.fp8_elems of passes of so many rows; 0 without options.fp8. */
int64_t ls_fp8_elems(const ls_model *m, int64_t pass_rows);

/* parallel.c: over the tensor ranks. Each does nothing, and gives its argument back, where there is
 * nothing to do. */
/* Rows travel in chunks, so that products can be made of one while another is on its way: a chunk
 * is a part of each rank's balanced range, without sequence parallelism a range of all rows. */
enum { LS_ROW_CHUNKS = 4 };
typedef struct ls_chunk {
    int index, count;
} ls_chunk;
static const ls_chunk ls_all_rows = {0, 1};
int ls_rows_chunks(const ls_pass *pass);
/* The rows of `rank` in a chunk, and how many rows of all ranks are in the chunks before. */
ls_range ls_rows_of_chunk(const ls_pass *pass, int rank, ls_chunk chunk);
int64_t ls_rows_before(const ls_pass *pass, ls_chunk chunk);
/* *all [N,C]: the rows of all ranks. The request is NULL when they are already there. */
ls_status ls_rows_gather_start(const ls_pass *pass, const void *own, ls_chunk chunk,
                               const void **all, ls_comm_request **request);
ls_status ls_rows_gather(const ls_pass *pass, const void *own, const void **all);
/* Where a rank's part of a sum [N,C] is to be made that ends in `own` [n,C]; with sequence
 * parallelism a chunk after the other, and in each a rank's rows after the other's. */
void *ls_rows_partial(const ls_pass *pass, void *own);
ls_status ls_rows_sum_start(const ls_pass *pass, ls_chunk chunk, void *partial, void *own,
                            ls_comm_request **request);
ls_status ls_rows_sum(const ls_pass *pass, void *partial, void *own);
/* all [N,C] of each rank has its balanced range of rows: fetches the others'. Nothing to do with
 * sequence parallelism, where a rank keeps its own rows only. */
ls_status ls_rows_share(const ls_pass *pass, void *all);
ls_status ls_tensor_wait(const ls_pass *pass, ls_comm_request *request);

/* context.c: the tokens of a context rank, in two runs of positions. */
typedef struct ls_zigzag {
    int64_t low, low_count, high, high_count; /* first positions, numbers of tokens */
} ls_zigzag;
ls_zigzag ls_zigzag_of(int64_t seq, int rank, int ranks);
/* Local index to position. */
static inline int64_t ls_zigzag_position(const ls_zigzag *z, int64_t t) {
    return t < z->low_count ? z->low + t : z->high + t - z->low_count;
}
/* own [batch, own tokens] from all [batch, T]. */
void ls_zigzag_pick(const ls_model *m, int64_t batch, const int32_t *all, int32_t *own);
/* first_keys.c: the first key that each token of the pass sees, in layers where that is not the
 * first of all: its memory, and what it is for these tokens, whole sequences [batch, T]. */
ls_status ls_first_keys_lay_out(ls_model *m);
ls_status ls_first_keys_load(const ls_pass *pass, const int32_t *tokens);
/* The first keys of a layer of the part; NULL: all are seen. */
const int32_t *ls_first_keys_of(const ls_pass *pass, int layer);
bool ls_first_keys_everywhere(const ls_model *m); /* in no layer is this NULL */
/* Attention over the keys of all context ranks. own: the operation over the own tokens, keys and
 * values in a fused matrix with columns k, then v. */
ls_status ls_ring_forward(const ls_pass *pass, const ls_attention *own);
ls_status ls_ring_backward(const ls_pass *pass, const ls_attention *own);

/* norms.c: the norm of a block whose weight and bias are rows `weight` and `weight + 1`. */
ls_status ls_norm_run(const ls_model *m, int block, ls_row weight, int64_t rows, const void *x,
                      void *y, void *mean, void *rstd);
/* dx = residual + gradient of x, from the gradient dy of the norm's output; [n,C] all. sums, or
 * NULL: += the column sums of dx; those of dy_sums begin at 0. */
ls_status ls_norm_backward_run(const ls_pass *pass, int block, ls_row weight, const void *x,
                               void *mean, void *rstd, const void *dy, const void *residual,
                               void *dx, void *sums);
/* Each head's queries and keys of the pass, in place; in backward their gradients. */
ls_status ls_qk_norm_run(const ls_pass *pass, int block, const ls_layer_acts *a, void *q,
                         int64_t q_stride, void *k, int64_t k_stride);
ls_status ls_qk_norm_backward(const ls_pass *pass, int block, const ls_layer_acts *a, void *dq,
                              void *dk, int64_t stride);
/* Sums over the sequence-parallel ranks what ls_norm_backward_run left of a block's norms. */
ls_status ls_norm_grads_sum(const ls_pass *pass, int block, const ls_row *weights, int count);

/* moe.c: the MLP of a layer as a mixture of experts, which expert and tensor ranks share: each has
 * some of the experts, and tensor ranks route a balanced range of their rows each. Forward from
 * norm2 to out, and to y = mid + gates out [n,C]; backward from pass->dy to the gradient dx of
 * norm2 [n,C].
 */
ls_status ls_moe_forward(const ls_pass *pass, int block, const ls_layer_acts *a);
ls_status ls_moe_combine(const ls_pass *pass, const ls_layer_acts *a, void *y);
ls_status ls_moe_backward(const ls_pass *pass, int block, const ls_layer_acts *a, void *dx);
/* Most rows r, choices, slots S, rows of experts M and rows that arrive A of a pass; numbers of
 * counts to take. spare: of `received`, what is beyond an even share of all choices. */
typedef struct ls_moe_limits {
    int64_t rows, choices, slots, received, arrived, spare, own_counts, tensor_counts, all_counts;
} ls_moe_limits;
ls_moe_limits ls_moe_limits_of(const ls_model *m);
/* ls_take for `width` elements of each of the `received` (or arrived) rows. */
ls_status ls_take_received(ls_model *m, int64_t width, ls_dtype dtype, void *piece);
/* Counts the rows of a pass that was routed in moe_over; the bytes that all such have taken. */
void ls_moe_count_over(const ls_pass *pass, const ls_moe_acts *moe);
size_t ls_moe_uneven_bytes(const ls_model *m);
/* M of a pass that was routed. */
int64_t ls_moe_received(const ls_pass *pass, const ls_moe_acts *moe);
/* What an expert takes of the pass's micro-batch; with moe_fixed its slots on each rank and its
 * rows, as many in short micro-batches as in full ones. */
typedef struct ls_moe_rooms {
    int64_t capacity, slots, rows;
} ls_moe_rooms;
ls_moe_rooms ls_moe_rooms_of(const ls_pass *pass);
/* The rows that this rank routes. */
typedef struct ls_moe_range {
    int64_t first, rows;
} ls_moe_range;
ls_moe_range ls_moe_own(const ls_pass *pass);
/* Is one product for all experts of this rank wanted, and can it be? */
bool ls_moe_groups(const ls_model *m);
/* First expert of a rank; segments of a pass that choices are counted by. */
int64_t ls_moe_expert_first(const ls_model *m, int rank);
int64_t ls_moe_segments(const ls_model *m, int64_t batch);
/* Does what an expert takes depend on tokens of other context ranks? Then the choices are counted
 * by the runs of positions in which the context ranks have them, two for each sequence. */
bool ls_moe_counts_segments(const ls_model *m);
/* Most choices that an expert takes of the `rows` rows of a micro-batch; rows of whole sequences;
 * slots of `from` with choices of the experts of `owner`. */
int64_t ls_moe_capacity(const ls_model *m, int64_t rows);
int64_t ls_moe_whole_rows(const ls_pass *pass);
int64_t ls_moe_kept_of(const ls_pass *pass, const ls_moe_acts *moe, int from, int owner);
/* moe_memory.c: where the rows of a layer went, in and out of the experts; and what is on its way,
 * in backward gradients too. */
ls_status ls_moe_lay_out(ls_model *m, ls_moe_acts *moe);
ls_status ls_moe_lay_out_flight(ls_model *m);
/* moe_host.c: from chosen to slots, rows and moe->kept, on the host. */
ls_status ls_moe_place_by_host(const ls_pass *pass, const ls_moe_acts *moe);
/* moe_place.c: from chosen to slots and rows, and the gradient of the balance loss, scale * wanted
 * in m->moe_balance, on the device alone; without moe_fixed, after place, moe->kept, for which it
 * waits, but with moe_grouped. */
ls_status ls_moe_place(const ls_pass *pass, const ls_moe_acts *moe);
ls_status ls_moe_learn_kept(const ls_pass *pass, const ls_moe_acts *moe);
/* With moe_grouped: as expert_products in moe.c. */
ls_status ls_moe_grouped(const ls_pass *pass, int block, const ls_moe_acts *moe, ls_row weight,
                         ls_expert_product what, const void *a, const void *b, void *c);
ls_status ls_moe_balance(const ls_pass *pass, const ls_moe_acts *moe, double scale);
/* layer.c: act from up, of any number of rows; dup from the gradient of act in dact. */
ls_status ls_activation_run(const ls_pass *pass, int64_t rows, const ls_layer_acts *a);
ls_status ls_activation_backward(const ls_pass *pass, int64_t rows, const ls_layer_acts *a,
                                 void *dact, void **dup);

/* targets.c. What the memory of a head with a loss mask is; rows: of a micro-batch. */
ls_status ls_targets_lay_out(ls_model *model, int64_t rows);
/* A micro-batch's own targets, on the host. */
ls_status ls_targets_load(const ls_pass *pass, const int32_t *targets);
/* Rows that the head computes, and of its rows [first, first + rows) their x, where their gradients
 * go, and how these come back to all rows of dx. */
int64_t ls_targets_rows(const ls_pass *pass);
ls_status ls_targets_pick(const ls_pass *pass, const void *x, int64_t first, int64_t rows,
                          const void **picked);
void *ls_targets_dx(const ls_pass *pass, void *dx, int64_t first);
ls_status ls_targets_return(const ls_pass *pass, int64_t first, int64_t rows, void *dx);

/* run.c. targets may be NULL in generation; the buffers at the ends of a part are the caller's; all
 * blocks but the head. */
ls_status ls_batch_load(const ls_pass *pass, const int32_t *tokens, const int32_t *targets);
ls_status ls_boundary_set(const ls_pass *pass, const void *x_in, void *x_out);
ls_status ls_forward_to_head(ls_pass *pass);

/* The blocks. Forward takes a layer's input from its x and leaves its output in the next one's;
 * `layer` counts from the part's first. Backward turns pass->dy from the gradient of the output
 * into that of the input. */
ls_status ls_embedding_run(ls_pass *pass);
ls_status ls_embedding_backward(ls_pass *pass);
ls_status ls_layer_run(ls_pass *pass, int layer);
ls_status ls_layer_backward(ls_pass *pass, int layer);
/* replay.c: either of the two, as the pass is; recorded and replayed where options.graphs. */
ls_status ls_layer_replay(ls_pass *pass, int layer);
void ls_replays_release(ls_model *m);
/* Losses of all rows into model->losses; in backward also all gradients of the head. */
ls_status ls_head_run(ls_pass *pass);
/* Logits of the last row, into the first row of model->logits. */
ls_status ls_head_last(ls_pass *pass);

static inline int ls_first_layer(const ls_model *m) {
    return m->part.first_block > 0 ? m->part.first_block - 1 : 0;
}

static inline bool ls_has_block(const ls_model *m, int block) {
    return block >= m->part.first_block && block < m->part.first_block + m->part.block_count;
}

static inline bool ls_has_head(const ls_model *m) {
    return ls_has_block(m, m->blocks - 1);
}

/* Tensor ranks that have the same key/value head; 0 or 1: none have. */
static inline int ls_kv_sharers(const ls_model *m) {
    return m->part.tensor_ranks / (int)m->whole.kv_heads;
}

/* Tokens that a layer of the part sees, itself included; 0: all before it. */
static inline int64_t ls_window_of(const ls_model *m, int layer) {
    const ls_config_model *c = m->options.config;
    const int64_t longest =
        m->options.cache_len > m->options.seq ? m->options.cache_len : m->options.seq;
    const bool all =
        c->window_pattern > 0 && (ls_first_layer(m) + layer + 1) % c->window_pattern == 0;
    return all || c->window >= longest ? 0 : c->window;
}

/* The first position that one sees through a window. */
static inline int64_t ls_window_begin(int64_t window, int64_t position) {
    return window > 0 && position >= window ? position - window + 1 : 0;
}

/* What backward makes again of a layer of the part. */
static inline ls_recompute_mode ls_recompute_of(const ls_model *m, int layer) {
    const ls_config_recompute *r = &m->options.recompute;
    const bool applies = r->every <= 1 || (ls_first_layer(m) + layer) % r->every == 0;
    return m->options.training && applies ? r->mode : LS_RECOMPUTE_NONE;
}

/* Where the gradient of a block's input goes. */
static inline void *ls_dx_of(const ls_pass *pass, int block) {
    const ls_model *m = pass->model;
    return block == m->part.first_block && pass->dx_in ? pass->dx_in : m->dx;
}

/* Parameter access: device pointers, NULL for a row that the family lacks. */
static inline const ls_param *ls_model_row(const ls_model *m, int block, ls_row row) {
    int i = m->rows[block * LS_ROW_COUNT + row];
    return i < 0 ? NULL : &m->params[i];
}

/* The block of a layer's experts, where it is another one; else -1. */
static inline int ls_expert_block(const ls_model *m, int block) {
    const ls_param *row = ls_model_row(m, block, LS_EXPERT_UP_W);
    return row && row->expert ? row->block : -1;
}

static inline int64_t ls_block_first(const ls_model *m, int block) {
    if (block >= m->blocks) {
        return ls_model_row(m, block - m->blocks + 1, LS_EXPERT_UP_W)->offset;
    }
    for (int row = 0; row < LS_ROW_COUNT; row++) {
        const ls_param *param = ls_model_row(m, block, (ls_row)row);
        if (param) {
            return param->offset;
        }
    }
    return 0; /* not in this part */
}

/* Matrices are read from the compute copies where there are any; norms and biases from the masters.
 * First element: row `first_row` of a matrix, element `first` of a vector. */
static inline const void *ls_matrix(const ls_model *m, int block, ls_row row, int64_t first_row) {
    const ls_param *param = ls_model_row(m, block, row);
    if (!param) {
        return NULL;
    }
    const ls_block_base *base = &m->bases[param->block];
    const int64_t at =
        param->offset - ls_block_first(m, param->block) + first_row * param->local_dims[1];
    return (base->copies ? base->copies : base->masters) + at * (int64_t)ls_dtype_bytes(m->dtype);
}

static inline const void *ls_vector(const ls_model *m, int block, ls_row row, int64_t first) {
    const ls_param *param = ls_model_row(m, block, row);
    return param ? m->bases[block].masters + (param->offset - ls_block_first(m, block) + first) *
                                                 (int64_t)ls_dtype_bytes(m->dev->acc)
                 : NULL;
}

/* The same rounded to the type of the activations, where there are copies; NULL: not at hand. */
static inline const void *ls_vector_copy(const ls_model *m, int block, ls_row row, int64_t first) {
    const ls_param *param = ls_model_row(m, block, row);
    const char *copies = param ? m->bases[block].copies : NULL;
    return copies ? copies + (param->offset - ls_block_first(m, block) + first) *
                                 (int64_t)ls_dtype_bytes(m->dtype)
                  : NULL;
}

static inline void *ls_gradient(const ls_pass *pass, int block, ls_row row) {
    const ls_model *m = pass->model;
    const ls_param *param = ls_model_row(m, block, row);
    return param
               ? m->bases[param->block].grads + (param->offset - ls_block_first(m, param->block)) *
                                                    (int64_t)ls_dtype_bytes(m->dev->acc)
               : NULL;
}

/* Stores a value into host memory that holds elements of the device's acc. */
static inline void ls_store(ls_dtype acc, void *host, int64_t i, double value) {
    if (acc == LS_F64) {
        ((double *)host)[i] = value;
    } else {
        ((float *)host)[i] = (float)value;
    }
}

static inline void *ls_elems_at(const void *base, int64_t elems, ls_dtype dtype) {
    return (char *)base + elems * (int64_t)ls_dtype_bytes(dtype);
}

#endif
