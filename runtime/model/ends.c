/* The ends of a model: the embedding, and the head with the loss. Both split the vocabulary over
 * the tensor ranks. */
#include "runtime/model/model_internal.h"

static ls_embedding embedding_op(const ls_pass *pass) {
    const ls_model *m = pass->model;
    return (ls_embedding){.dtype = m->dtype,
                          .rows = pass->rows,
                          .seq = pass->seq,
                          .channels = m->sizes.channels,
                          .vocab = m->sizes.vocab,
                          .offset = pass->offset,
                          .positions = m->positions,
                          .part = m->tensor != NULL,
                          .first = m->sizes.vocab_first,
                          .tokens = pass->slot->tokens,
                          .wte = ls_matrix(m, 0, LS_TOK_EMBED, 0),
                          .wpe = ls_matrix(m, 0, LS_POS_EMBED, 0)};
}

ls_status ls_embedding_run(ls_pass *pass) {
    ls_model *m = pass->model;
    ls_embedding op = embedding_op(pass);
    void *x = pass->slot->layers[0].x;
    op.out = ls_rows_partial(pass, x);
    if (m->tensor && m->tensor->rank > 0) {
        op.wpe = NULL; /* positions enter the sum once */
    }
    LS_TRY(m->dev->ops->embedding_forward(m->dev, &op));
    return ls_rows_sum(pass, op.out, x);
}

ls_status ls_embedding_backward(ls_pass *pass) {
    ls_model *m = pass->model;
    ls_embedding op = embedding_op(pass);
    LS_TRY(ls_rows_gather(pass, pass->dy, &op.dout));
    op.dwte = ls_gradient(pass, 0, LS_TOK_EMBED);
    op.dwpe = ls_gradient(pass, 0, LS_POS_EMBED);
    return m->dev->ops->embedding_backward(m->dev, &op);
}

/* logits [rows, vocab_rows] (logits_dtype) = norm_f [rows, C] W^T; W is the token embedding when
 * tied. */
static ls_status head_logits(const ls_model *m, int block, ls_row weight, int64_t rows,
                             const void *x, void *logits) {
    const ls_sizes *s = &m->sizes;
    return m->dev->ops->gemm(m->dev, &(ls_gemm){
                                         .dtype = m->dtype,
                                         .c_dtype = m->logits_dtype,
                                         .trans_b = true,
                                         .m = rows,
                                         .n = s->vocab_rows,
                                         .k = s->channels,
                                         .a = x,
                                         .lda = s->channels,
                                         .b = ls_matrix(m, block, weight, 0),
                                         .ldb = s->channels,
                                         .c = logits,
                                         .ldc = s->vocab_rows,
                                     });
}

/* The head's matrix: its own, or the token embedding's. */
static ls_row head_weight(const ls_model *m, int *block) {
    bool tied = !ls_model_row(m, m->blocks - 1, LS_HEAD_W);
    *block = tied ? 0 : m->blocks - 1;
    return tied ? LS_TOK_EMBED : LS_HEAD_W;
}

/* Losses of a chunk from its logits, and in backward their gradients, to dlogits; the softmax is
 * over the columns of all tensor ranks. */
static ls_status chunk_losses(const ls_pass *pass, int64_t first, int64_t rows, const void *logits,
                              void *dlogits) {
    const ls_model *m = pass->model;
    const ls_sizes *s = &m->sizes;
    ls_cross_entropy op = {.dtype = m->dtype,
                           .narrow = m->logits_dtype == m->dtype,
                           .rows = rows,
                           .vocab = s->vocab,
                           .ld = s->vocab_rows,
                           .logits = logits,
                           .targets = pass->slot->targets + first,
                           .losses = ls_elems_at(m->losses, first, m->dev->acc),
                           .dlogits = pass->backward ? dlogits : NULL,
                           .grad_scale = pass->loss_scale};
    if (!m->tensor) {
        return m->dev->ops->cross_entropy(m->dev, &op);
    }
    op.first = s->vocab_first;
    op.share = m->stats;
    op.shares = m->all_stats;
    op.parts = m->tensor->size;
    LS_TRY(m->dev->ops->cross_entropy_share(m->dev, &op));
    LS_TRY(ls_comm_all_gather_by_start(m->tensor, m->stats, m->all_stats,
                                       3 * rows * (int64_t)ls_dtype_bytes(m->dev->acc)));
    return m->dev->ops->cross_entropy_merge(m->dev, &op);
}

/* Rows [first, first + rows) of the head, logits chunk by chunk, so that they never exist as a
 * whole, then the products of all chunks' gradients. Behind the last for dx, the sum of dnorm_f
 * over the tensor ranks starts, beside the product for dW. */
static ls_status head_chunks(ls_pass *pass, const void *norm_f, void *dnorm_f, int64_t first,
                             int64_t rows, ls_comm_request **sum) {
    ls_model *m = pass->model;
    int block;
    ls_row weight = head_weight(m, &block);
    const void *x;
    LS_TRY(ls_targets_pick(pass, norm_f, first, rows, &x));
    for (int64_t at = 0; at < rows; at += m->head_rows) {
        const int64_t left = rows - at, count = left < m->head_rows ? left : m->head_rows;
        void *dlogits = ls_elems_at(m->dlogits, at * m->sizes.vocab_rows, m->dtype);
        void *logits = m->logits_dtype == m->dtype ? dlogits : m->logits;
        LS_TRY(head_logits(m, block, weight, count,
                           ls_elems_at(x, at * m->sizes.channels, m->dtype), logits));
        LS_TRY(chunk_losses(pass, first + at, count, logits, dlogits));
        LS_TRY(pass->backward ? ls_pass_tick(pass) : LS_OK);
    }
    if (!pass->backward) {
        return LS_OK;
    }
    LS_TRY(ls_project_dx(pass, ls_projection_whole(m, block, weight, weight), rows, m->dlogits,
                         ls_targets_dx(pass, dnorm_f, first)));
    LS_TRY(ls_targets_return(pass, first, rows, dnorm_f));
    if (first + rows == ls_targets_rows(pass)) {
        LS_TRY(ls_rows_sum_start(pass, ls_all_rows, dnorm_f, m->dnarrow, sum));
    }
    const bool add = first > 0 || !m->bases[block].fresh;
    return ls_project_dw(pass, block, weight, rows, x, m->dlogits, add);
}

ls_status ls_head_run(ls_pass *pass) {
    ls_model *m = pass->model;
    ls_slot *slot = pass->slot;
    const int block = m->blocks - 1;
    const void *x = slot->layers[m->part_layers].x, *norm_f;
    void *partial = ls_rows_partial(pass, m->dnarrow);
    ls_comm_request *sum = NULL;
    LS_TRY(ls_norm_run(m, block, LS_FINAL_NORM_W, pass->own_rows, x, slot->norm_f, slot->mean_f,
                       slot->rstd_f));
    LS_TRY(ls_rows_gather(pass, slot->norm_f, &norm_f));
    const int64_t all = ls_targets_rows(pass), most = m->head_rows_together;
    for (int64_t first = 0; first < all; first += most) {
        const int64_t left = all - first, rows = left < most ? left : most;
        LS_TRY(head_chunks(pass, norm_f, partial, first, rows, &sum));
    }
    if (!pass->backward) {
        return LS_OK;
    }
    void *dx = ls_dx_of(pass, block);
    LS_TRY(ls_tensor_wait(pass, sum));
    LS_TRY(ls_norm_backward_run(pass, block, LS_FINAL_NORM_W, x, slot->mean_f, slot->rstd_f,
                                m->dnarrow, NULL, dx, m->part_layers > 0 ? m->dy_sums : NULL));
    pass->dy = dx;
    return ls_norm_grads_sum(pass, block, (const ls_row[]){LS_FINAL_NORM_W}, 1);
}

ls_status ls_head_last(ls_pass *pass) {
    ls_model *m = pass->model;
    ls_slot *slot = pass->slot;
    int64_t last = (pass->rows - 1) * m->sizes.channels;
    const void *x = ls_elems_at(slot->layers[m->part_layers].x, last, m->dtype);
    LS_TRY(ls_norm_run(m, m->blocks - 1, LS_FINAL_NORM_W, 1, x, slot->norm_f, slot->mean_f,
                       slot->rstd_f));
    int block;
    ls_row weight = head_weight(m, &block);
    return head_logits(m, block, weight, 1, slot->norm_f, m->logits);
}
