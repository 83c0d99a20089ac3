/* What the files of this room share. Letters as in device.h. */
#ifndef LS_MODEL_MODEL_INTERNAL_H
#define LS_MODEL_MODEL_INTERNAL_H

#include "runtime/base/arena.h"
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
    LS_PROJ_W,
    LS_PROJ_B,
    LS_MLP_NORM_W,
    LS_MLP_NORM_B,
    LS_UP_W,
    LS_UP_B,
    LS_DOWN_W,
    LS_DOWN_B,
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

/* Sizes of a configuration, derived once. */
typedef struct ls_sizes {
    ls_family_traits traits;
    int64_t vocab, vocab_rows; /* real, and padded to vocab_multiple */
    int64_t layers, context;
    int64_t channels, heads, kv_heads, head_dim;
    int64_t q_width, kv_width, qkv_width; /* H D, G D, (H + 2G) D */
    int64_t ffn, up_width;                /* F; 2F when gated */
} ls_sizes;

/* LS_E_CONFIG when they do not fit together. */
ls_status ls_sizes_derive(const ls_config_model *config, ls_sizes *sizes);

/* The table; rows [blocks, LS_ROW_COUNT] (NULL: not wanted) receives the index into params of each
 * row of each block, -1 where the family lacks it. */
ls_status ls_table_build(const ls_config_model *config, const ls_sizes *sizes, ls_param **params,
                         int *count, int64_t *flat_elems, int *rows);

/* frequencies [D/2]: radians per position of each rotated pair. */
void ls_rope_frequencies(const ls_config_model *config, double *frequencies);

/* What a layer keeps for backward; N = B*T rows. Without training all layers share one. */
typedef struct ls_layer_acts {
    void *x;                     /* [N,C] input of the layer */
    void *norm1, *mean1, *rstd1; /* [N,C], [N], [N] */
    void *qkv, *att, *lse;       /* [N,(H+2G)D], [N,HD], [B,H,T] */
    void *mid;                   /* [N,C] x + attention */
    void *norm2, *mean2, *rstd2; /* [N,C], [N], [N] */
    void *up, *act;              /* [N,F or 2F], [N,F] */
} ls_layer_acts;

struct ls_model {
    ls_model_options options;
    ls_device *dev;
    ls_dtype dtype;
    ls_sizes sizes;
    int blocks;
    ls_param *params;
    int param_count;
    int *rows; /* [blocks, LS_ROW_COUNT], see ls_table_build */
    int64_t flat_elems;
    void *masters, *copies;

    ls_arena arena;      /* tables and activations */
    void *device_memory; /* under the arena where the device's memory is not the host's */
    ls_model_bytes bytes;

    void *rope_cos, *rope_sin; /* [positions, D/2] acc; NULL without rotary positions */
    int32_t *tokens, *targets; /* [N] */
    ls_layer_acts *layers;     /* [L+1]; of the last only x, the head's input */
    void *norm_f, *mean_f, *rstd_f;
    void *logits, *dlogits; /* [head_rows, vocab_rows] acc, dtype; the same memory in one dtype */
    void *losses;           /* [N] acc */
    int64_t head_rows;      /* of a chunk of the head */
    void *dx, *dnarrow, *dwide; /* gradients in flight: [N,C], [N,max(C,HD)], [N,max(F,(H+2G)D)] */
    void *cache;                /* [L, cache_len, 2GD]: keys, then values, of each position */
    int64_t cache_used;
};

/* Sets the pieces of the arena; with a planning arena only counts. */
ls_status ls_model_lay_out(ls_model *model);

/* A pass over rows = batch * seq tokens that lie in model->tokens. With `cached` the keys and
 * values are appended to the cache, whose first `offset` positions are filled. */
typedef struct ls_pass {
    ls_model *model;
    int64_t batch, seq, rows, offset;
    bool cached;
    /* Backward only. */
    void *grads;
    double loss_scale;
    ls_model_ready_fn ready;
    void *context;
    int64_t first_elem; /* gradients from here on are final */
} ls_pass;

/* The blocks. Forward takes a layer's input from layers[l].x and leaves its output in
 * layers[l+1].x; backward turns model->dx from the gradient of the output into that of the input.
 */
ls_status ls_embedding_run(ls_pass *pass);
ls_status ls_embedding_backward(ls_pass *pass);
ls_status ls_layer_run(ls_pass *pass, int layer);
ls_status ls_layer_backward(ls_pass *pass, int layer);
/* Losses of all rows into model->losses; with pass->grads also backward through the whole head. */
ls_status ls_head_run(ls_pass *pass);
/* Logits of the last row, into the first row of model->logits. */
ls_status ls_head_last(ls_pass *pass);

/* Parameter access: device pointers, NULL for a row that the family lacks. */
static inline const ls_param *ls_model_row(const ls_model *m, int block, ls_row row) {
    int i = m->rows[block * LS_ROW_COUNT + row];
    return i < 0 ? NULL : &m->params[i];
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
