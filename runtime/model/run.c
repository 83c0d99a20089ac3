/* Whole passes over a model: training, evaluation, generation. */
#include "runtime/model/model_internal.h"

static ls_status load_batch(ls_model *m, const int32_t *tokens, const int32_t *targets,
                            int64_t rows) {
    size_t bytes = (size_t)rows * sizeof(int32_t);
    LS_TRY(m->dev->ops->upload(m->dev, m->tokens, tokens, bytes));
    return targets ? m->dev->ops->upload(m->dev, m->targets, targets, bytes) : LS_OK;
}

static ls_status forward_to_head(ls_pass *pass) {
    LS_TRY(ls_embedding_run(pass));
    for (int l = 0; l < (int)pass->model->sizes.layers; l++) {
        LS_TRY(ls_layer_run(pass, l));
    }
    return LS_OK;
}

static ls_status sum_losses(const ls_pass *pass, double *loss_sum) {
    ls_model *m = pass->model;
    return m->dev->ops->sum(m->dev, pass->rows, m->losses, loss_sum);
}

ls_status ls_model_forward_backward(ls_model *m, const int32_t *tokens, const int32_t *targets,
                                    double loss_scale, void *grads, ls_model_ready_fn ready,
                                    void *context, double *loss_sum) {
    if (!m->options.training) {
        return LS_FAIL(LS_E_UNSUPPORTED, "this model was created without training: it keeps no "
                                         "activations for backward");
    }
    ls_pass pass = {.model = m,
                    .batch = m->options.batch,
                    .seq = m->options.seq,
                    .rows = m->options.batch * m->options.seq,
                    .grads = grads,
                    .loss_scale = loss_scale,
                    .ready = ready,
                    .context = context,
                    .first_elem = m->flat_elems};
    LS_TRY(load_batch(m, tokens, targets, pass.rows));
    LS_TRY(forward_to_head(&pass));
    LS_TRY(ls_head_run(&pass));
    for (int l = (int)m->sizes.layers - 1; l >= 0; l--) {
        LS_TRY(ls_layer_backward(&pass, l));
    }
    LS_TRY(ls_embedding_backward(&pass));
    return sum_losses(&pass, loss_sum);
}

ls_status ls_model_loss(ls_model *m, const int32_t *tokens, const int32_t *targets, int64_t rows,
                        double *loss_sum) {
    if (rows < 0 || rows > m->options.batch) {
        return LS_FAIL(LS_E_SHAPE, "a batch of %lld sequences for a model made for %lld",
                       (long long)rows, (long long)m->options.batch);
    }
    ls_pass pass = {
        .model = m, .batch = rows, .seq = m->options.seq, .rows = rows * m->options.seq};
    LS_TRY(load_batch(m, tokens, targets, pass.rows));
    LS_TRY(forward_to_head(&pass));
    LS_TRY(ls_head_run(&pass));
    return sum_losses(&pass, loss_sum);
}

/* logits [vocab] (host) from the first row of m->logits. */
static ls_status download_logits(ls_model *m, float *logits) {
    const int64_t vocab = m->sizes.vocab;
    if (m->dev->acc == LS_F32) {
        return m->dev->ops->download(m->dev, logits, m->logits, (size_t)vocab * sizeof(float));
    }
    for (int64_t i = 0; i < vocab; i++) {
        double logit;
        LS_TRY(
            m->dev->ops->download(m->dev, &logit, ls_elems_at(m->logits, i, LS_F64), sizeof logit));
        logits[i] = (float)logit;
    }
    return LS_OK;
}

static ls_status check_feed(const ls_model *m, const int32_t *tokens, int64_t count) {
    int64_t left = m->options.cache_len - m->cache_used;
    if (m->options.cache_len == 0) {
        return LS_FAIL(LS_E_UNSUPPORTED, "this model was created without a cache (cache_len 0): it "
                                         "cannot generate");
    }
    if (count < 1 || count > left) {
        return LS_FAIL(LS_E_SHAPE,
                       "%lld tokens to feed; at least 1 is needed, and the cache has room for %lld "
                       "more of %lld",
                       (long long)count, (long long)left, (long long)m->options.cache_len);
    }
    for (int64_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || tokens[i] >= m->sizes.vocab) {
            return LS_FAIL(LS_E_INPUT, "token %lld is %d; the vocabulary has 0 to %lld",
                           (long long)i, tokens[i], (long long)m->sizes.vocab - 1);
        }
    }
    return LS_OK;
}

ls_status ls_model_feed(ls_model *m, const int32_t *tokens, int64_t count, float *logits) {
    LS_TRY(check_feed(m, tokens, count));
    ls_pass pass = {.model = m, .batch = 1, .cached = true};
    for (int64_t done = 0; done < count; done += pass.rows) {
        int64_t left = count - done;
        pass.rows = pass.seq = left < m->options.seq ? left : m->options.seq;
        pass.offset = m->cache_used;
        LS_TRY(load_batch(m, tokens + done, NULL, pass.rows));
        LS_TRY(forward_to_head(&pass));
        m->cache_used += pass.rows;
    }
    LS_TRY(ls_head_last(&pass));
    return download_logits(m, logits);
}

void ls_model_clear_cache(ls_model *m) {
    m->cache_used = 0;
}

int64_t ls_model_cache_used(const ls_model *m) {
    return m->cache_used;
}
