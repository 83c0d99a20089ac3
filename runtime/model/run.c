/* Whole passes over a model: training and evaluation. */
#include "runtime/model/model_internal.h"

/* With context parallelism the own tokens are picked from whole sequences. */
static ls_status own_ids(const ls_pass *pass, const int32_t **ids, const char *what) {
    ls_model *m = pass->model;
    if (!*ids) {
        return LS_FAIL(LS_E_SHAPE, "no %s for a part of the model that needs them", what);
    }
    if (m->context) {
        ls_zigzag_pick(m, pass->batch, *ids, m->own_ids);
        *ids = m->own_ids;
    }
    return LS_OK;
}

ls_status ls_batch_load(const ls_pass *pass, const int32_t *tokens, const int32_t *targets) {
    const ls_slot *slot = pass->slot;
    const ls_device *dev = pass->model->dev;
    const int32_t *own = tokens;
    if (slot->tokens) {
        LS_TRY(own_ids(pass, &own, "tokens"));
        LS_TRY(dev->ops->upload(pass->model->dev, slot->tokens, own,
                                (size_t)pass->rows * sizeof *own));
    }
    LS_TRY(ls_first_keys_load(pass, tokens));
    if (pass->cached || !slot->targets) {
        return LS_OK;
    }
    LS_TRY(own_ids(pass, &targets, "targets"));
    return ls_targets_load(pass, targets);
}

static ls_pass pass_begin(ls_model *m, int slot, int64_t batch) {
    const int rank = m->part.tensor_rank, ranks = m->part.tensor_ranks;
    ls_pass pass = {.model = m,
                    .slot = &m->slot[slot],
                    .batch = batch,
                    .seq = m->seq,
                    .rows = batch * m->seq,
                    .own_rows = batch * m->seq};
    if (m->sequence) {
        pass.own_first = ls_range_first(pass.rows, ranks, rank);
        pass.own_rows = ls_range_first(pass.rows, ranks, rank + 1) - pass.own_first;
    }
    return pass;
}

ls_status ls_forward_to_head(ls_pass *pass) {
    const ls_model *m = pass->model;
    if (ls_has_block(m, 0)) {
        LS_TRY(ls_block_begin(pass, 0));
        LS_TRY(ls_embedding_run(pass));
        LS_TRY(ls_block_end(pass, 0));
    }
    for (int l = 0; l < m->part_layers; l++) {
        const int block = ls_first_layer(m) + l + 1;
        LS_TRY(ls_block_begin(pass, block));
        LS_TRY(ls_layer_replay(pass, l));
        LS_TRY(ls_block_end(pass, block));
    }
    return LS_OK;
}

static ls_status run_head(ls_pass *pass) {
    const ls_model *m = pass->model;
    LS_TRY(ls_block_begin(pass, m->blocks - 1));
    LS_TRY(ls_head_run(pass));
    return ls_block_end(pass, m->blocks - 1);
}

/* *loss_sum: device memory. */
static ls_status head_and_losses(ls_pass *pass, double *loss_sum) {
    const ls_model *m = pass->model;
    LS_TRY(run_head(pass));
    return m->dev->ops->sum(m->dev, ls_targets_rows(pass), m->losses, loss_sum);
}

ls_status ls_boundary_set(const ls_pass *pass, const void *x_in, void *x_out) {
    const ls_model *m = pass->model;
    ls_layer_acts *layers = pass->slot->layers;
    const bool first = ls_has_block(m, 0), last = ls_has_head(m);
    if (first != (x_in == NULL) || last != (x_out == NULL)) {
        return LS_FAIL(LS_E_SHAPE,
                       "blocks %d to %d of %d with%s x_in and with%s x_out; the first part has no "
                       "x_in, the last no x_out, all others have both",
                       m->part.first_block, m->part.first_block + m->part.block_count - 1,
                       m->blocks, x_in ? "" : "out", x_out ? "" : "out");
    }
    if (!first) {
        layers[0].x = (void *)(uintptr_t)x_in; /* only read */
    }
    if (!last) {
        layers[m->part_layers].x = x_out;
    }
    return LS_OK;
}

static ls_status check_training(const ls_model *m, int slot) {
    if (!m->options.training) {
        return LS_FAIL(LS_E_UNSUPPORTED, "this model was created without training: it keeps no "
                                         "activations for backward");
    }
    if (slot < 0 || slot >= m->slots) {
        return LS_FAIL(LS_E_SHAPE, "slot %d of a model with %d", slot, m->slots);
    }
    return LS_OK;
}

ls_status ls_model_forward(ls_model *m, int slot, const int32_t *tokens, const int32_t *targets,
                           const void *x_in, void *x_out) {
    LS_TRY(check_training(m, slot));
    ls_pass pass = pass_begin(m, slot, m->options.batch);
    LS_TRY(ls_boundary_set(&pass, x_in, x_out));
    LS_TRY(ls_batch_load(&pass, tokens, targets));
    LS_TRY(ls_forward_to_head(&pass));
    pass.slot->forwarded = true;
    return LS_OK;
}

static ls_status backward_blocks(ls_pass *pass) {
    const ls_model *m = pass->model;
    for (int l = m->part_layers - 1; l >= 0; l--) {
        const int block = ls_first_layer(m) + l + 1;
        LS_TRY(ls_block_begin(pass, block));
        LS_TRY(ls_layer_replay(pass, l));
        LS_TRY(ls_block_end(pass, block));
    }
    if (ls_has_block(m, 0)) {
        LS_TRY(ls_block_begin(pass, 0));
        LS_TRY(ls_embedding_backward(pass));
        LS_TRY(ls_block_end(pass, 0));
    }
    return LS_OK;
}

ls_status ls_model_backward(ls_model *m, int slot, double loss_scale, double balance_scale,
                            const void *dx_out, void *dx_in, const ls_model_sink *sink,
                            double *loss_sum) {
    LS_TRY(check_training(m, slot));
    ls_pass pass = pass_begin(m, slot, m->options.batch);
    pass.backward = true;
    pass.loss_scale = loss_scale;
    pass.balance_scale = balance_scale;
    pass.sink = sink;
    pass.first_elem = m->flat_elems;
    pass.dy = dx_out;
    pass.dx_in = dx_in;
    if (!pass.slot->forwarded || ls_has_head(m) != (dx_out == NULL) ||
        ls_has_block(m, 0) != (dx_in == NULL)) {
        return LS_FAIL(LS_E_SHAPE,
                       "backward on slot %d %s a forward, with%s dx_out and with%s dx_in; each "
                       "forward has one backward, the last part no dx_out, the first no dx_in",
                       slot, pass.slot->forwarded ? "after" : "without", dx_out ? "" : "out",
                       dx_in ? "" : "out");
    }
    if (!m->options.store && !(sink && sink->grads)) {
        return LS_FAIL(LS_E_SHAPE, "backward without a place for the gradients");
    }
    pass.slot->forwarded = false;
    if (ls_has_head(m)) {
        LS_TRY(head_and_losses(&pass, loss_sum ? loss_sum : m->loss_sum));
    }
    return backward_blocks(&pass);
}

ls_status ls_model_forward_backward(ls_model *m, const int32_t *tokens, const int32_t *targets,
                                    double loss_scale, void *grads, ls_model_ready_fn ready,
                                    void *context, double *loss_sum) {
    const ls_model_sink sink = {.grads = grads, .ready = ready, .context = context};
    LS_TRY(ls_model_forward(m, 0, tokens, targets, NULL, NULL));
    return ls_model_backward(m, 0, loss_scale, loss_scale, NULL, NULL, &sink, loss_sum);
}

ls_status ls_model_evaluate(ls_model *m, const int32_t *tokens, const int32_t *targets,
                            int64_t rows, const void *x_in, void *x_out, double *loss_sum) {
    if (rows < 0 || rows > m->options.batch) {
        return LS_FAIL(LS_E_SHAPE, "a batch of %lld sequences for a model made for %lld",
                       (long long)rows, (long long)m->options.batch);
    }
    ls_pass pass = pass_begin(m, 0, rows);
    pass.slot->forwarded = false;
    LS_TRY(ls_boundary_set(&pass, x_in, x_out));
    LS_TRY(ls_batch_load(&pass, tokens, targets));
    LS_TRY(ls_forward_to_head(&pass));
    if (ls_has_head(m)) {
        LS_TRY(head_and_losses(&pass, m->loss_sum));
        return m->dev->ops->download(m->dev, loss_sum, m->loss_sum, sizeof *loss_sum);
    }
    if (loss_sum) {
        *loss_sum = 0.0;
    }
    return LS_OK;
}

/* Sums the losses of each sequence, which lie one behind the other, packed or not. */
static ls_status sum_losses(const ls_pass *pass, const int32_t *targets, double *losses) {
    const ls_model *m = pass->model;
    int64_t first = 0;
    for (int64_t b = 0; b < pass->batch; b++) {
        int64_t count = 0;
        for (int64_t t = 0; t < pass->seq; t++) {
            count += pass->slot->packed_rows == 0 || targets[b * pass->seq + t] >= 0;
        }
        LS_TRY(m->dev->ops->sum(m->dev, count, ls_elems_at(m->losses, first, m->dev->acc),
                                m->loss_sum));
        LS_TRY(m->dev->ops->download(m->dev, &losses[b], m->loss_sum, sizeof *losses));
        first += count;
    }
    return LS_OK;
}

ls_status ls_model_score(ls_model *m, const int32_t *tokens, const int32_t *targets, int64_t rows,
                         int64_t seq, double *losses) {
    if (rows < 1 || rows > m->options.batch || seq < 1 || seq > m->seq || m->context ||
        m->sequence || !ls_has_block(m, 0) || !ls_has_head(m)) {
        return LS_FAIL(LS_E_SHAPE,
                       "%lld sequences of %lld tokens for a model made for %lld of %lld, whole and "
                       "without context or sequence ranks",
                       (long long)rows, (long long)seq, (long long)m->options.batch,
                       (long long)m->seq);
    }
    ls_pass pass = pass_begin(m, 0, rows);
    pass.seq = seq;
    pass.rows = pass.own_rows = rows * seq;
    pass.slot->forwarded = false;
    LS_TRY(ls_boundary_set(&pass, NULL, NULL));
    LS_TRY(ls_batch_load(&pass, tokens, targets));
    LS_TRY(ls_forward_to_head(&pass));
    LS_TRY(run_head(&pass));
    return sum_losses(&pass, targets, losses);
}
