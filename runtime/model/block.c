/* The blocks of a model, forward and backward: which operation reads and writes what. */
#include "runtime/model/model_internal.h"

#include <math.h>

/* Matrices are read from the compute copies where there are any; norms and biases from the masters.
 */
static const void *matrix(const ls_model *m, int block, ls_row row, int64_t first_row) {
    const ls_param *param = ls_model_row(m, block, row);
    if (!param) {
        return NULL;
    }
    const void *base = m->copies ? m->copies : m->masters;
    return ls_elems_at(base, param->offset + first_row * param->dims[1], m->dtype);
}

static const void *vector(const ls_model *m, int block, ls_row row, int64_t first) {
    const ls_param *param = ls_model_row(m, block, row);
    return param ? ls_elems_at(m->masters, param->offset + first, m->dev->acc) : NULL;
}

static void *gradient(const ls_pass *pass, int block, ls_row row) {
    const ls_param *param = ls_model_row(pass->model, block, row);
    return param ? ls_elems_at(pass->grads, param->offset, pass->model->dev->acc) : NULL;
}

/* Between two operations of backward: lets communication move. */
static ls_status tick(const ls_pass *pass) {
    return pass->ready ? pass->ready(pass->context, pass->first_elem) : LS_OK;
}

static ls_status block_done(ls_pass *pass, int block) {
    const ls_model *m = pass->model;
    for (int row = 0; row < LS_ROW_COUNT; row++) {
        const ls_param *param = ls_model_row(m, block, (ls_row)row);
        if (param) {
            pass->first_elem = param->offset;
            break;
        }
    }
    return tick(pass);
}

/* Rows [first, first + count) of a weight matrix [out, in] and of its bias. */
typedef struct projection {
    int block;
    ls_row weight, bias;
    int64_t first, count;
} projection;

static projection whole(const ls_model *m, int block, ls_row weight, ls_row bias) {
    return (projection){block, weight, bias, 0, ls_model_row(m, block, weight)->dims[0]};
}

/* y [rows, count] with leading dimension ldy = x W^T + bias + residual. */
static ls_status project(const ls_model *m, int64_t rows, projection p, const void *x, void *y,
                         int64_t ldy, const void *residual) {
    int64_t in = ls_model_row(m, p.block, p.weight)->dims[1];
    return m->dev->ops->gemm(m->dev, &(ls_gemm){
                                         .dtype = m->dtype,
                                         .c_dtype = m->dtype,
                                         .trans_b = true,
                                         .m = rows,
                                         .n = p.count,
                                         .k = in,
                                         .a = x,
                                         .lda = in,
                                         .b = matrix(m, p.block, p.weight, p.first),
                                         .ldb = in,
                                         .c = y,
                                         .ldc = ldy,
                                         .bias = vector(m, p.block, p.bias, p.first),
                                         .residual = residual,
                                     });
}

/* dx [rows, in] = dy [rows, out] W */
static ls_status project_dx(const ls_pass *pass, int block, ls_row weight, int64_t rows,
                            const void *dy, void *dx) {
    const ls_model *m = pass->model;
    const int64_t *dims = ls_model_row(m, block, weight)->dims;
    LS_TRY(m->dev->ops->gemm(m->dev, &(ls_gemm){
                                         .dtype = m->dtype,
                                         .c_dtype = m->dtype,
                                         .m = rows,
                                         .n = dims[1],
                                         .k = dims[0],
                                         .a = dy,
                                         .lda = dims[0],
                                         .b = matrix(m, block, weight, 0),
                                         .ldb = dims[1],
                                         .c = dx,
                                         .ldc = dims[1],
                                     }));
    return tick(pass);
}

/* dW [out, in] += dy^T x */
static ls_status project_dw(const ls_pass *pass, int block, ls_row weight, int64_t rows,
                            const void *x, const void *dy) {
    const ls_model *m = pass->model;
    const int64_t *dims = ls_model_row(m, block, weight)->dims;
    LS_TRY(m->dev->ops->gemm(m->dev, &(ls_gemm){
                                         .dtype = m->dtype,
                                         .c_dtype = m->dev->acc,
                                         .trans_a = true,
                                         .accumulate = true,
                                         .m = dims[0],
                                         .n = dims[1],
                                         .k = rows,
                                         .a = dy,
                                         .lda = dims[0],
                                         .b = x,
                                         .ldb = dims[1],
                                         .c = gradient(pass, block, weight),
                                         .ldc = dims[1],
                                     }));
    return tick(pass);
}

/* All three gradients of a projection. */
static ls_status project_backward(const ls_pass *pass, projection p, const void *x, const void *dy,
                                  void *dx) {
    const ls_model *m = pass->model;
    LS_TRY(project_dx(pass, p.block, p.weight, pass->rows, dy, dx));
    LS_TRY(project_dw(pass, p.block, p.weight, pass->rows, x, dy));
    void *dbias = gradient(pass, p.block, p.bias);
    if (!dbias) {
        return LS_OK;
    }
    LS_TRY(m->dev->ops->bias_grad(
        m->dev,
        &(ls_bias_grad){
            .dtype = m->dtype, .rows = pass->rows, .cols = p.count, .dy = dy, .dbias = dbias}));
    return tick(pass);
}

/* The norm of a block whose weight and bias are rows `weight` and `weight + 1`. */
static ls_norm norm_op(const ls_model *m, int block, ls_row weight, int64_t rows, const void *x,
                       void *mean, void *rstd) {
    return (ls_norm){.kind = m->sizes.traits.norm,
                     .dtype = m->dtype,
                     .rows = rows,
                     .channels = m->sizes.channels,
                     .eps = m->options.config->norm_eps,
                     .x = x,
                     .w = vector(m, block, weight, 0),
                     .b = vector(m, block, (ls_row)(weight + 1), 0),
                     .mean = m->sizes.traits.norm == LS_LAYERNORM ? mean : NULL,
                     .rstd = rstd};
}

static ls_status norm_run(const ls_model *m, int block, ls_row weight, int64_t rows, const void *x,
                          void *y, void *mean, void *rstd) {
    ls_norm op = norm_op(m, block, weight, rows, x, mean, rstd);
    op.y = y;
    return m->dev->ops->norm_forward(m->dev, &op);
}

/* m->dx = residual + gradient of x, from the gradient dy of the norm's output. */
static ls_status norm_backward(const ls_pass *pass, int block, ls_row weight, const void *x,
                               void *mean, void *rstd, const void *dy, const void *residual) {
    ls_model *m = pass->model;
    ls_norm op = norm_op(m, block, weight, pass->rows, x, mean, rstd);
    op.dy = dy;
    op.dresidual = residual;
    op.dx = m->dx;
    op.dw = gradient(pass, block, weight);
    op.db = gradient(pass, block, (ls_row)(weight + 1));
    LS_TRY(m->dev->ops->norm_backward(m->dev, &op));
    return tick(pass);
}

static ls_embedding embedding_op(const ls_pass *pass) {
    const ls_model *m = pass->model;
    return (ls_embedding){.dtype = m->dtype,
                          .rows = pass->rows,
                          .seq = pass->seq,
                          .channels = m->sizes.channels,
                          .vocab = m->sizes.vocab,
                          .offset = pass->offset,
                          .tokens = m->tokens,
                          .wte = matrix(m, 0, LS_TOK_EMBED, 0),
                          .wpe = matrix(m, 0, LS_POS_EMBED, 0)};
}

ls_status ls_embedding_run(ls_pass *pass) {
    ls_model *m = pass->model;
    ls_embedding op = embedding_op(pass);
    op.out = m->layers[0].x;
    return m->dev->ops->embedding_forward(m->dev, &op);
}

ls_status ls_embedding_backward(ls_pass *pass) {
    ls_model *m = pass->model;
    ls_embedding op = embedding_op(pass);
    op.dout = m->dx;
    op.dwte = gradient(pass, 0, LS_TOK_EMBED);
    op.dwpe = gradient(pass, 0, LS_POS_EMBED);
    LS_TRY(m->dev->ops->embedding_backward(m->dev, &op));
    return block_done(pass, 0);
}

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

static qkv_view view_cached(const ls_pass *pass, int layer) {
    const ls_model *m = pass->model;
    const ls_sizes *s = &m->sizes;
    int64_t stride = 2 * s->kv_width;
    char *k = ls_elems_at(m->cache, layer * m->options.cache_len * stride, m->dtype);
    return (qkv_view){.q = m->layers[layer].qkv,
                      .k = k,
                      .v = ls_elems_at(k, s->kv_width, m->dtype),
                      .new_k = ls_elems_at(k, pass->offset * stride, m->dtype),
                      .q_stride = s->qkv_width,
                      .kv_stride = stride,
                      .kv_len = pass->offset + pass->seq};
}

static ls_attention attention_op(const ls_pass *pass, qkv_view view, const ls_layer_acts *acts) {
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
                          .lse = acts->lse};
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

static ls_status project_qkv(const ls_pass *pass, int layer, qkv_view view) {
    const ls_model *m = pass->model;
    const ls_layer_acts *acts = &m->layers[layer];
    projection p = whole(m, layer + 1, LS_QKV_W, LS_QKV_B);
    if (!pass->cached) {
        return project(m, pass->rows, p, acts->norm1, view.q, view.q_stride, NULL);
    }
    projection kv = p;
    p.count = kv.first = m->sizes.q_width;
    kv.count = 2 * m->sizes.kv_width;
    LS_TRY(project(m, pass->rows, p, acts->norm1, view.q, view.q_stride, NULL));
    return project(m, pass->rows, kv, acts->norm1, view.new_k, view.kv_stride, NULL);
}

static ls_status activation(const ls_pass *pass, const ls_layer_acts *acts) {
    const ls_model *m = pass->model;
    if (m->sizes.traits.gated) {
        return m->dev->ops->swiglu_forward(m->dev, &(ls_swiglu){.dtype = m->dtype,
                                                                .rows = pass->rows,
                                                                .ffn = m->sizes.ffn,
                                                                .x = acts->up,
                                                                .y = acts->act});
    }
    return m->dev->ops->gelu_forward(m->dev, &(ls_gelu){.dtype = m->dtype,
                                                        .n = pass->rows * m->sizes.ffn,
                                                        .x = acts->up,
                                                        .y = acts->act});
}

ls_status ls_layer_run(ls_pass *pass, int layer) {
    ls_model *m = pass->model;
    ls_layer_acts *a = &m->layers[layer];
    const ls_sizes *s = &m->sizes;
    int block = layer + 1;
    int64_t n = pass->rows;
    qkv_view view = pass->cached ? view_cached(pass, layer) : view_fused(pass, a->qkv);
    LS_TRY(norm_run(m, block, LS_ATTN_NORM_W, n, a->x, a->norm1, a->mean1, a->rstd1));
    LS_TRY(project_qkv(pass, layer, view));
    LS_TRY(rotate(pass, view.q, s->heads, view.q_stride, false));
    LS_TRY(rotate(pass, view.new_k, s->kv_heads, view.kv_stride, false));
    ls_attention attention = attention_op(pass, view, a);
    LS_TRY(m->dev->ops->attention_forward(m->dev, &attention));
    projection proj = whole(m, block, LS_PROJ_W, LS_PROJ_B);
    LS_TRY(project(m, n, proj, a->att, a->mid, s->channels, a->x));
    LS_TRY(norm_run(m, block, LS_MLP_NORM_W, n, a->mid, a->norm2, a->mean2, a->rstd2));
    projection up = whole(m, block, LS_UP_W, LS_UP_B);
    LS_TRY(project(m, n, up, a->norm2, a->up, s->up_width, NULL));
    LS_TRY(activation(pass, a));
    projection down = whole(m, block, LS_DOWN_W, LS_DOWN_B);
    return project(m, n, down, a->act, m->layers[layer + 1].x, s->channels, a->mid);
}

/* From the gradient of act in m->dwide; *dup is where the gradient of up then lies. */
static ls_status activation_backward(const ls_pass *pass, const ls_layer_acts *a, void **dup) {
    ls_model *m = pass->model;
    if (m->sizes.traits.gated) {
        *dup = a->up; /* twice as wide as dwide; up itself is not needed any more */
        LS_TRY(m->dev->ops->swiglu_backward(m->dev, &(ls_swiglu){.dtype = m->dtype,
                                                                 .rows = pass->rows,
                                                                 .ffn = m->sizes.ffn,
                                                                 .x = a->up,
                                                                 .dy = m->dwide,
                                                                 .dx = a->up}));
    } else {
        *dup = m->dwide;
        LS_TRY(m->dev->ops->gelu_backward(m->dev, &(ls_gelu){.dtype = m->dtype,
                                                             .n = pass->rows * m->sizes.ffn,
                                                             .x = a->up,
                                                             .dy = m->dwide,
                                                             .dx = m->dwide}));
    }
    return tick(pass);
}

/* From the gradient of att in m->dnarrow to that of qkv in m->dwide. */
static ls_status attention_backward(const ls_pass *pass, const ls_layer_acts *a) {
    ls_model *m = pass->model;
    const ls_sizes *s = &m->sizes;
    qkv_view grad = view_fused(pass, m->dwide);
    ls_attention op = attention_op(pass, view_fused(pass, a->qkv), a);
    op.dout = m->dnarrow;
    op.dq = grad.q;
    op.dk = grad.k;
    op.dv = grad.v;
    LS_TRY(m->dev->ops->attention_backward(m->dev, &op));
    LS_TRY(tick(pass));
    LS_TRY(rotate(pass, grad.q, s->heads, grad.q_stride, true));
    return rotate(pass, grad.k, s->kv_heads, grad.kv_stride, true);
}

ls_status ls_layer_backward(ls_pass *pass, int layer) {
    ls_model *m = pass->model;
    const ls_layer_acts *a = &m->layers[layer];
    int block = layer + 1;
    void *dup = NULL;
    projection down = whole(m, block, LS_DOWN_W, LS_DOWN_B);
    LS_TRY(project_backward(pass, down, a->act, m->dx, m->dwide));
    LS_TRY(activation_backward(pass, a, &dup));
    projection up = whole(m, block, LS_UP_W, LS_UP_B);
    LS_TRY(project_backward(pass, up, a->norm2, dup, m->dnarrow));
    LS_TRY(
        norm_backward(pass, block, LS_MLP_NORM_W, a->mid, a->mean2, a->rstd2, m->dnarrow, m->dx));
    projection proj = whole(m, block, LS_PROJ_W, LS_PROJ_B);
    LS_TRY(project_backward(pass, proj, a->att, m->dx, m->dnarrow));
    LS_TRY(attention_backward(pass, a));
    projection qkv = whole(m, block, LS_QKV_W, LS_QKV_B);
    LS_TRY(project_backward(pass, qkv, a->norm1, m->dwide, m->dnarrow));
    LS_TRY(norm_backward(pass, block, LS_ATTN_NORM_W, a->x, a->mean1, a->rstd1, m->dnarrow, m->dx));
    return block_done(pass, block);
}

/* logits [rows, vocab_rows] (acc) = norm_f [rows, C] W^T; W is the token embedding when tied. */
static ls_status head_logits(const ls_model *m, int block, ls_row weight, int64_t rows,
                             const void *x) {
    const ls_sizes *s = &m->sizes;
    return m->dev->ops->gemm(m->dev, &(ls_gemm){
                                         .dtype = m->dtype,
                                         .c_dtype = m->dev->acc,
                                         .trans_b = true,
                                         .m = rows,
                                         .n = s->vocab_rows,
                                         .k = s->channels,
                                         .a = x,
                                         .lda = s->channels,
                                         .b = matrix(m, block, weight, 0),
                                         .ldb = s->channels,
                                         .c = m->logits,
                                         .ldc = s->vocab_rows,
                                     });
}

/* The head's matrix: its own, or the token embedding's. */
static ls_row head_weight(const ls_model *m, int *block) {
    bool tied = !ls_model_row(m, m->blocks - 1, LS_HEAD_W);
    *block = tied ? 0 : m->blocks - 1;
    return tied ? LS_TOK_EMBED : LS_HEAD_W;
}

/* One chunk: rows [first, first + rows) of the head, so that logits never exist as a whole. */
static ls_status head_chunk(ls_pass *pass, int64_t first, int64_t rows) {
    ls_model *m = pass->model;
    const ls_sizes *s = &m->sizes;
    bool backward = pass->grads != NULL;
    int block;
    ls_row weight = head_weight(m, &block);
    void *x = ls_elems_at(m->norm_f, first * s->channels, m->dtype);
    LS_TRY(head_logits(m, block, weight, rows, x));
    LS_TRY(m->dev->ops->cross_entropy(
        m->dev, &(ls_cross_entropy){.dtype = m->dtype,
                                    .rows = rows,
                                    .vocab = s->vocab,
                                    .ld = s->vocab_rows,
                                    .logits = m->logits,
                                    .targets = m->targets + first,
                                    .losses = ls_elems_at(m->losses, first, m->dev->acc),
                                    .dlogits = backward ? m->dlogits : NULL,
                                    .grad_scale = pass->loss_scale}));
    if (!backward) {
        return LS_OK;
    }
    LS_TRY(tick(pass));
    void *dx = ls_elems_at(m->dnarrow, first * s->channels, m->dtype);
    LS_TRY(project_dx(pass, block, weight, rows, m->dlogits, dx));
    return project_dw(pass, block, weight, rows, x, m->dlogits);
}

ls_status ls_head_run(ls_pass *pass) {
    ls_model *m = pass->model;
    int block = m->blocks - 1;
    const void *x = m->layers[m->sizes.layers].x;
    LS_TRY(norm_run(m, block, LS_FINAL_NORM_W, pass->rows, x, m->norm_f, m->mean_f, m->rstd_f));
    for (int64_t first = 0; first < pass->rows; first += m->head_rows) {
        int64_t left = pass->rows - first;
        LS_TRY(head_chunk(pass, first, left < m->head_rows ? left : m->head_rows));
    }
    if (!pass->grads) {
        return LS_OK;
    }
    LS_TRY(norm_backward(pass, block, LS_FINAL_NORM_W, x, m->mean_f, m->rstd_f, m->dnarrow, NULL));
    return block_done(pass, block);
}

ls_status ls_head_last(ls_pass *pass) {
    ls_model *m = pass->model;
    int64_t last = (pass->rows - 1) * m->sizes.channels;
    const void *x = ls_elems_at(m->layers[m->sizes.layers].x, last, m->dtype);
    LS_TRY(norm_run(m, m->blocks - 1, LS_FINAL_NORM_W, 1, x, m->norm_f, m->mean_f, m->rstd_f));
    int block;
    ls_row weight = head_weight(m, &block);
    return head_logits(m, block, weight, 1, m->norm_f);
}
