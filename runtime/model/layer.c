/* A transformer layer, forward and backward: which operation reads and writes what. */
#include "runtime/model/model_internal.h"

#include <math.h>

/* Where queries, keys and values of a pass lie: all in the fused matrix of the layer, or keys and
 * values in the cache. new_k is the first of this pass's keys. */
typedef struct qkv_view {
    char *q, *k, *v, *new_k;
    int64_t q_stride, kv_stride, kv_batch, kv_len;
} qkv_view;

static qkv_view view_fused(const ls_pass *pass, void *qkv) {
    const ls_model *m = pass->model;
    const ls_sizes *s = &m->sizes;
    char *k = ls_elems_at(qkv, s->q_width, m->dtype);
    return (qkv_view){.q = qkv,
                      .k = k,
                      .v = ls_elems_at(k, s->kv_width, m->dtype),
                      .new_k = k,
                      .q_stride = s->qkv_width,
                      .kv_stride = s->qkv_width,
                      .kv_batch = pass->seq * s->qkv_width,
                      .kv_len = pass->seq};
}

/* Of the cache what the first token of the pass sees, and all behind that. */
static qkv_view view_cached(const ls_pass *pass, int layer) {
    const ls_model *m = pass->model;
    const ls_sizes *s = &m->sizes;
    const int64_t stride = 2 * s->kv_width, cache = layer * m->options.cache_len;
    const int64_t begin = ls_window_begin(ls_window_of(m, layer), pass->offset);
    char *k = ls_elems_at(m->cache, (cache + begin) * stride, m->dtype);
    return (qkv_view){.q = pass->slot->layers[layer].qkv,
                      .k = k,
                      .v = ls_elems_at(k, s->kv_width, m->dtype),
                      .new_k = ls_elems_at(k, (pass->offset - begin) * stride, m->dtype),
                      .q_stride = s->qkv_width,
                      .kv_stride = stride,
                      .kv_len = pass->offset + pass->seq - begin};
}

static ls_attention attention_op(const ls_pass *pass, int layer, qkv_view view,
                                 const ls_layer_acts *acts) {
    const ls_model *m = pass->model;
    const ls_sizes *s = &m->sizes;
    return (ls_attention){.dtype = m->dtype,
                          .batch = pass->batch,
                          .q_len = pass->seq,
                          .kv_len = view.kv_len,
                          .heads = s->heads,
                          .kv_heads = s->kv_heads,
                          .head_dim = s->head_dim,
                          .scale = 1.0 / sqrt((double)s->head_dim),
                          .q = view.q,
                          .k = view.k,
                          .v = view.v,
                          .q_stride = view.q_stride,
                          .kv_stride = view.kv_stride,
                          .q_batch = pass->seq * view.q_stride,
                          .kv_batch = view.kv_batch,
                          .out = acts->att,
                          .o_stride = s->q_width,
                          .lse = acts->lse,
                          .first_key = ls_first_keys_of(pass, layer)};
}

static ls_status rotate(const ls_pass *pass, void *x, int64_t heads, int64_t stride, bool inverse) {
    const ls_model *m = pass->model;
    if (m->sizes.traits.learned_positions) {
        return LS_OK;
    }
    return m->dev->ops->rope(m->dev, &(ls_rope){.dtype = m->dtype,
                                                .inverse = inverse,
                                                .rows = pass->rows,
                                                .seq = pass->seq,
                                                .offset = pass->offset,
                                                .heads = heads,
                                                .head_dim = m->sizes.head_dim,
                                                .row_stride = stride,
                                                .x = x,
                                                .cos = m->rope_cos,
                                                .sin = m->rope_sin});
}

/* Queries and keys; in one pass where the heads of a row lie one behind the other. */
static ls_status rotate_both(const ls_pass *pass, void *q, int64_t q_stride, void *k,
                             int64_t k_stride, bool inverse) {
    const ls_model *m = pass->model;
    const void *behind_q = ls_elems_at(q, m->sizes.q_width, m->dtype);
    if (k == behind_q && k_stride == q_stride) {
        return rotate(pass, q, m->sizes.heads + m->sizes.kv_heads, q_stride, inverse);
    }
    LS_TRY(rotate(pass, q, m->sizes.heads, q_stride, inverse));
    return rotate(pass, k, m->sizes.kv_heads, k_stride, inverse);
}

static ls_status project_qkv(const ls_pass *pass, int block, const ls_layer_acts *acts,
                             qkv_view view) {
    const ls_model *m = pass->model;
    ls_projection p = ls_projection_whole(m, block, LS_QKV_W, LS_QKV_B);
    if (!pass->cached) {
        return ls_column_forward(pass, p, acts->norm1, view.q, view.q_stride);
    }
    ls_projection kv = p;
    p.count = kv.first = m->sizes.q_width;
    kv.count = 2 * m->sizes.kv_width;
    LS_TRY(ls_column_forward(pass, p, acts->norm1, view.q, view.q_stride));
    return ls_column_forward(pass, kv, acts->norm1, view.new_k, view.kv_stride);
}

ls_status ls_activation_run(const ls_pass *pass, int64_t rows, const ls_layer_acts *a) {
    const ls_model *m = pass->model;
    if (m->sizes.traits.gated) {
        return m->dev->ops->swiglu_forward(
            m->dev,
            &(ls_swiglu){
                .dtype = m->dtype, .rows = rows, .ffn = m->sizes.ffn, .x = a->up, .y = a->act});
    }
    return m->dev->ops->gelu_forward(
        m->dev, &(ls_gelu){.dtype = m->dtype, .n = rows * m->sizes.ffn, .x = a->up, .y = a->act});
}

/* Selective recomputation makes act again from up, as forward must have made it then. */
static bool fuses_gelu(const ls_model *m, int layer) {
    return m->dev->fuses_gelu && !m->sizes.traits.gated &&
           ls_recompute_of(m, layer) != LS_RECOMPUTE_SELECTIVE;
}

static int block_of(const ls_model *m, int layer) {
    return ls_first_layer(m) + layer + 1;
}

static ls_status attention_forward(const ls_pass *pass, int layer, qkv_view view,
                                   const ls_layer_acts *a) {
    const ls_model *m = pass->model;
    ls_attention op = attention_op(pass, layer, view, a);
    return m->context ? ls_ring_forward(pass, &op) : m->dev->ops->attention_forward(m->dev, &op);
}

/* From the layer's input to the rotated queries, keys and values. */
static ls_status make_qkv(const ls_pass *pass, int block, qkv_view view, const ls_layer_acts *a) {
    const ls_model *m = pass->model;
    LS_TRY(
        ls_norm_run(m, block, LS_ATTN_NORM_W, pass->own_rows, a->x, a->norm1, a->mean1, a->rstd1));
    LS_TRY(project_qkv(pass, block, a, view));
    LS_TRY(ls_qk_norm_run(pass, block, a, view.q, view.q_stride, view.new_k, view.kv_stride));
    return rotate_both(pass, view.q, view.q_stride, view.new_k, view.kv_stride, false);
}

/* From the layer's input to the activation, which the last product takes; of a mixture of experts
 * to their outputs. */
static ls_status run_to_activation(const ls_pass *pass, int layer, const ls_layer_acts *a) {
    const ls_model *m = pass->model;
    const int block = block_of(m, layer);
    const qkv_view view = pass->cached ? view_cached(pass, layer) : view_fused(pass, a->qkv);
    LS_TRY(make_qkv(pass, block, view, a));
    LS_TRY(attention_forward(pass, layer, view, a));
    const ls_projection proj = ls_projection_whole(m, block, LS_PROJ_W, LS_PROJ_B);
    LS_TRY(ls_row_forward(pass, proj, a->att, a->x, a->mid));
    LS_TRY(
        ls_norm_run(m, block, LS_MLP_NORM_W, pass->own_rows, a->mid, a->norm2, a->mean2, a->rstd2));
    if (m->sizes.experts > 0) {
        return ls_moe_forward(pass, block, a);
    }
    ls_projection up = ls_projection_whole(m, block, LS_UP_W, LS_UP_B);
    up.act = fuses_gelu(m, layer) ? a->act : NULL;
    up.act_of = a->up;
    LS_TRY(ls_column_forward(pass, up, a->norm2, a->up, m->sizes.up_width));
    return up.act ? LS_OK : ls_activation_run(pass, pass->rows, a);
}

ls_status ls_layer_run(ls_pass *pass, int layer) {
    const ls_model *m = pass->model;
    const ls_layer_acts *a = &pass->slot->layers[layer];
    LS_TRY(run_to_activation(pass, layer, a));
    if (m->sizes.experts > 0) {
        return ls_moe_combine(pass, a, a[1].x);
    }
    const ls_projection down = ls_projection_whole(m, block_of(m, layer), LS_DOWN_W, LS_DOWN_B);
    return ls_row_forward(pass, down, a->act, a->mid, a[1].x);
}

static int64_t activation_rows(const ls_pass *pass, const ls_layer_acts *a) {
    return pass->model->sizes.experts > 0 ? ls_moe_received(pass, &a->moe) : pass->rows;
}

/* Makes again what the layer's policy did not keep, by the operations of forward: the same bits. */
static ls_status restore(const ls_pass *pass, int layer, const ls_layer_acts *a) {
    const ls_model *m = pass->model;
    const int block = block_of(m, layer);
    switch (ls_recompute_of(m, layer)) {
    case LS_RECOMPUTE_NONE:
        return LS_OK;
    case LS_RECOMPUTE_FULL:
        LS_TRY(run_to_activation(pass, layer, a));
        break;
    case LS_RECOMPUTE_SELECTIVE:
        LS_TRY(ls_norm_run(m, block, LS_ATTN_NORM_W, pass->own_rows, a->x, a->norm1, a->mean1,
                           a->rstd1));
        LS_TRY(attention_forward(pass, layer, view_fused(pass, a->qkv), a));
        LS_TRY(ls_norm_run(m, block, LS_MLP_NORM_W, pass->own_rows, a->mid, a->norm2, a->mean2,
                           a->rstd2));
        LS_TRY(ls_activation_run(pass, activation_rows(pass, a), a));
        break;
    }
    return ls_pass_tick(pass);
}

ls_status ls_activation_backward(const ls_pass *pass, int64_t rows, const ls_layer_acts *a,
                                 void *dact, void **dup) {
    const ls_model *m = pass->model;
    if (m->sizes.traits.gated) {
        *dup = a->up; /* twice as wide as dact; up itself is not needed any more */
        LS_TRY(m->dev->ops->swiglu_backward(m->dev, &(ls_swiglu){.dtype = m->dtype,
                                                                 .rows = rows,
                                                                 .ffn = m->sizes.ffn,
                                                                 .x = a->up,
                                                                 .dy = dact,
                                                                 .dx = a->up}));
    } else {
        *dup = dact;
        LS_TRY(m->dev->ops->gelu_backward(
            m->dev,
            &(ls_gelu){
                .dtype = m->dtype, .n = rows * m->sizes.ffn, .x = a->up, .dy = dact, .dx = dact}));
    }
    return ls_pass_tick(pass);
}

/* From the gradient of att in m->dnarrow to that of qkv in m->dwide. */
static ls_status attention_backward(const ls_pass *pass, int layer, const ls_layer_acts *a) {
    ls_model *m = pass->model;
    const int block = block_of(m, layer);
    qkv_view grad = view_fused(pass, m->dwide);
    ls_attention op = attention_op(pass, layer, view_fused(pass, a->qkv), a);
    op.dout = m->dnarrow;
    op.dq = grad.q;
    op.dk = grad.k;
    op.dv = grad.v;
    LS_TRY(m->context ? ls_ring_backward(pass, &op) : m->dev->ops->attention_backward(m->dev, &op));
    LS_TRY(ls_pass_tick(pass));
    LS_TRY(rotate_both(pass, grad.q, grad.q_stride, grad.k, grad.kv_stride, true));
    return ls_qk_norm_backward(pass, block, a, grad.q, grad.k, grad.q_stride);
}

/* From the gradient of the layer's output in pass->dy to that of norm2 in m->dnarrow. */
static ls_status mlp_backward(ls_pass *pass, int layer, const ls_layer_acts *a) {
    const ls_model *m = pass->model;
    const int block = block_of(m, layer);
    if (m->sizes.experts > 0) {
        LS_TRY(ls_moe_backward(pass, block, a, m->dnarrow));
        return ls_block_final_from(pass, block, LS_ROUTER_W);
    }
    void *dup = m->dwide;
    ls_projection down = ls_projection_whole(m, block, LS_DOWN_W, LS_DOWN_B);
    ls_projection up = ls_projection_whole(m, block, LS_UP_W, LS_UP_B);
    if (fuses_gelu(m, layer)) {
        down.act = a->up;
        down.act_of = m->dwide;
        down.act_bias = ls_gradient(pass, block, LS_UP_B);
        up.bias_done = true;
    }
    down.dy_sums = pass->dy == m->dx ? m->dy_sums : NULL; /* not from another stage */
    LS_TRY(ls_row_backward(pass, down, a->act, pass->dy, m->dwide));
    LS_TRY(ls_block_final_from(pass, block, LS_DOWN_W));
    if (!down.act) {
        LS_TRY(ls_activation_backward(pass, pass->rows, a, m->dwide, &dup));
    }
    return ls_column_backward(pass, up, a->norm2, dup, m->dnarrow);
}

ls_status ls_layer_backward(ls_pass *pass, int layer) {
    ls_model *m = pass->model;
    const ls_layer_acts *a = &pass->slot->layers[layer];
    const int block = block_of(m, layer);
    void *dx = ls_dx_of(pass, block);
    LS_TRY(restore(pass, layer, a));
    LS_TRY(mlp_backward(pass, layer, a));
    ls_projection proj = ls_projection_whole(m, block, LS_PROJ_W, LS_PROJ_B);
    proj.bias_done = !m->tensor;
    LS_TRY(ls_norm_backward_run(pass, block, LS_MLP_NORM_W, a->mid, a->mean2, a->rstd2, m->dnarrow,
                                pass->dy, m->dx,
                                proj.bias_done ? ls_gradient(pass, block, LS_PROJ_B) : NULL));
    LS_TRY(ls_row_backward(pass, proj, a->att, m->dx, m->dnarrow));
    if (!m->sequence) { /* which sums the norms' at the end */
        LS_TRY(ls_block_final_from(pass, block, LS_PROJ_W));
    }
    LS_TRY(attention_backward(pass, layer, a));
    const ls_projection qkv = ls_projection_whole(m, block, LS_QKV_W, LS_QKV_B);
    LS_TRY(ls_column_backward(pass, qkv, a->norm1, m->dwide, m->dnarrow));
    LS_TRY(ls_norm_backward_run(pass, block, LS_ATTN_NORM_W, a->x, a->mean1, a->rstd1, m->dnarrow,
                                m->dx, dx, layer > 0 ? m->dy_sums : NULL));
    pass->dy = dx;
    return ls_norm_grads_sum(pass, block, (const ls_row[]){LS_ATTN_NORM_W, LS_MLP_NORM_W}, 2);
}
