/* Norms of a block, and their gradients, which with sequence parallelism are sums over the ranks;
 * and those of each head's queries and keys, RMSNorm before they are rotated (Dehghani 2023, arXiv
 * 2302.05442; as Qwen3 has them: Yang 2025, arXiv 2505.09388), whose gradients are sums over the
 * heads, and so over the tensor ranks. */
#include "runtime/model/model_internal.h"

static ls_norm norm_op(const ls_model *m, int block, ls_row weight, int64_t rows, const void *x,
                       void *mean, void *rstd) {
    return (ls_norm){.kind = m->sizes.traits.norm,
                     .dtype = m->dtype,
                     .rows = rows,
                     .channels = m->sizes.channels,
                     .eps = m->options.config->norm_eps,
                     .x = x,
                     .w = ls_vector(m, block, weight, 0),
                     .b = ls_vector(m, block, (ls_row)(weight + 1), 0),
                     .mean = m->sizes.traits.norm == LS_LAYERNORM ? mean : NULL,
                     .rstd = rstd};
}

ls_status ls_norm_run(const ls_model *m, int block, ls_row weight, int64_t rows, const void *x,
                      void *y, void *mean, void *rstd) {
    ls_norm op = norm_op(m, block, weight, rows, x, mean, rstd);
    op.y = y;
    return m->dev->ops->norm_forward(m->dev, &op);
}

/* [2, C] of norm_grads: the weight's and the bias's of the block's second norm come second. */
static char *own_sums(const ls_model *m, ls_row weight) {
    const int64_t at = weight == LS_MLP_NORM_W ? 2 * m->sizes.channels : 0;
    return ls_elems_at(m->norm_grads, at, m->dev->acc);
}

ls_status ls_norm_backward_run(const ls_pass *pass, int block, ls_row weight, const void *x,
                               void *mean, void *rstd, const void *dy, const void *residual,
                               void *dx, void *sums) {
    const ls_model *m = pass->model;
    ls_norm op = norm_op(m, block, weight, pass->own_rows, x, mean, rstd);
    op.dy = dy;
    op.dresidual = residual;
    op.dx = dx;
    op.dx_sums = sums;
    op.dw = ls_gradient(pass, block, weight);
    op.db = ls_gradient(pass, block, (ls_row)(weight + 1));
    const size_t bytes = (size_t)m->sizes.channels * ls_dtype_bytes(m->dev->acc);
    if (sums && sums == m->dy_sums) {
        LS_TRY(m->dev->ops->zero(m->dev, sums, bytes));
    }
    if (m->sequence) {
        op.dw = own_sums(m, weight);
        op.db = op.db ? own_sums(m, weight) + bytes : NULL;
        LS_TRY(m->dev->ops->zero(m->dev, op.dw, 2 * bytes));
    }
    LS_TRY(m->dev->ops->norm_backward(m->dev, &op));
    return ls_pass_tick(pass);
}

ls_status ls_norm_grads_sum(const ls_pass *pass, int block, const ls_row *weights, int count) {
    const ls_model *m = pass->model;
    const int64_t channels = m->sizes.channels;
    if (!m->sequence) {
        return LS_OK;
    }
    LS_TRY(ls_comm_all_reduce_by_start(m->tensor, m->norm_grads, 2 * count * channels, m->dev->acc,
                                       LS_SUM));
    for (int i = 0; i < count; i++) {
        for (int bias = 0; bias < 2; bias++) {
            void *grad = ls_gradient(pass, block, (ls_row)(weights[i] + bias));
            const void *sum = ls_elems_at(own_sums(m, weights[i]), bias * channels, m->dev->acc);
            if (grad) {
                LS_TRY(m->dev->ops->add(m->dev, m->dev->acc, channels, sum, grad));
            }
        }
    }
    return LS_OK;
}

/* Queries or keys: `heads` of each of the pass's tokens, `stride` elements apart. */
typedef struct head_rows {
    ls_row weight;
    int64_t heads, stride;
    void *raw, *rstd; /* where forward keeps them */
    void *x;          /* they, or their gradients */
} head_rows;

static ls_norm head_norm_op(const ls_pass *pass, int block, const head_rows *h) {
    const ls_model *m = pass->model;
    return (ls_norm){.kind = LS_RMSNORM,
                     .dtype = m->dtype,
                     .rows = pass->rows * h->heads,
                     .channels = m->sizes.head_dim,
                     .heads = h->heads,
                     .stride = h->stride,
                     .eps = m->options.config->norm_eps,
                     .w = ls_vector(m, block, h->weight, 0),
                     .rstd = h->rstd};
}

static ls_status head_norm_run(const ls_pass *pass, int block, const head_rows *h) {
    ls_norm op = head_norm_op(pass, block, h);
    op.y = h->x;
    op.kept = h->raw;
    return pass->model->dev->ops->norm_forward(pass->model->dev, &op);
}

static ls_status head_norm_backward(const ls_pass *pass, int block, const head_rows *h, void *dw) {
    const ls_model *m = pass->model;
    ls_norm op = head_norm_op(pass, block, h);
    op.x = h->raw;
    op.dy = op.dx = h->x;
    op.dw = dw;
    LS_TRY(m->dev->ops->norm_backward(m->dev, &op));
    return ls_pass_tick(pass);
}

static head_rows queries_of(const ls_model *m, const ls_layer_acts *a, void *x, int64_t stride) {
    return (head_rows){LS_Q_NORM_W, m->sizes.heads, stride, a->raw_q, a->rstd_q, x};
}

static head_rows keys_of(const ls_model *m, const ls_layer_acts *a, void *x, int64_t stride) {
    return (head_rows){LS_K_NORM_W, m->sizes.kv_heads, stride, a->raw_k, a->rstd_k, x};
}

ls_status ls_qk_norm_run(const ls_pass *pass, int block, const ls_layer_acts *a, void *q,
                         int64_t q_stride, void *k, int64_t k_stride) {
    const ls_model *m = pass->model;
    if (!m->sizes.qk_norm) {
        return LS_OK;
    }
    const head_rows queries = queries_of(m, a, q, q_stride), keys = keys_of(m, a, k, k_stride);
    LS_TRY(head_norm_run(pass, block, &queries));
    return head_norm_run(pass, block, &keys);
}

ls_status ls_qk_norm_backward(const ls_pass *pass, int block, const ls_layer_acts *a, void *dq,
                              void *dk, int64_t stride) {
    const ls_model *m = pass->model;
    const ls_dtype acc = m->dev->acc;
    const int64_t D = m->sizes.head_dim;
    if (!m->sizes.qk_norm) {
        return LS_OK;
    }
    const head_rows queries = queries_of(m, a, dq, stride), keys = keys_of(m, a, dk, stride);
    void *grad_q = ls_gradient(pass, block, LS_Q_NORM_W);
    void *grad_k = ls_gradient(pass, block, LS_K_NORM_W);
    if (!m->tensor) {
        LS_TRY(head_norm_backward(pass, block, &queries, grad_q));
        return head_norm_backward(pass, block, &keys, grad_k);
    }
    void *own_q = m->qk_norm_grads, *own_k = ls_elems_at(own_q, D, acc);
    LS_TRY(m->dev->ops->zero(m->dev, own_q, (size_t)(2 * D) * ls_dtype_bytes(acc)));
    LS_TRY(head_norm_backward(pass, block, &queries, own_q));
    LS_TRY(head_norm_backward(pass, block, &keys, own_k));
    LS_TRY(ls_comm_all_reduce_by_start(m->tensor, own_q, 2 * D, acc, LS_SUM));
    LS_TRY(m->dev->ops->add(m->dev, acc, D, own_q, grad_q));
    return m->dev->ops->add(m->dev, acc, D, own_k, grad_k);
}
