/* Norms of a block, and their gradients, which with sequence parallelism are sums over the ranks.
 */
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
