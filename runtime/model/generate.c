/* Generation with a cache of keys and values. Tensor ranks have the cache of their heads and the
 * logits of their part of the vocabulary, pipeline ranks the cache of their layers; every rank gets
 * all logits, so that all of them draw the same token. */
#include "runtime/model/model_internal.h"

static int stage_of(const ls_model *m) {
    return m->options.pipeline ? m->options.pipeline->rank : 0;
}

static int stages(const ls_model *m) {
    return m->options.pipeline ? m->options.pipeline->size : 1;
}

/* The rank's own logits, as the host's floats. */
static ls_status download_own(ls_model *m, float *logits) {
    const int64_t rows = m->sizes.vocab_rows;
    if (m->dev->acc == LS_F32) {
        return m->dev->ops->download(m->dev, logits, m->logits, (size_t)rows * sizeof(float));
    }
    for (int64_t i = 0; i < rows; i++) {
        double logit;
        LS_TRY(
            m->dev->ops->download(m->dev, &logit, ls_elems_at(m->logits, i, LS_F64), sizeof logit));
        logits[i] = (float)logit;
    }
    return LS_OK;
}

/* logits [vocab] from the first row of m->logits of all tensor ranks. */
static ls_status collect_logits(ls_model *m, float *logits) {
    const int64_t rows = m->sizes.vocab_rows;
    const int ranks = m->part.tensor_ranks;
    float *own = m->own_logits, *all = own + (m->tensor ? rows : 0);
    LS_TRY(download_own(m, own));
    LS_TRY(m->tensor ? m->tensor->ops->all_gather(m->tensor, own, all, rows * (int64_t)sizeof *own)
                     : LS_OK);
    for (int rank = 0; rank < ranks; rank++) {
        ls_model_part part = m->part;
        ls_sizes sizes;
        part.tensor_rank = rank;
        LS_TRY(ls_sizes_split(&m->whole, &part, &sizes));
        memcpy(logits + sizes.vocab_first, all + rank * rows, (size_t)sizes.vocab * sizeof *logits);
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
        if (tokens[i] < 0 || tokens[i] >= m->whole.vocab) {
            return LS_FAIL(LS_E_INPUT, "token %lld is %d; the vocabulary has 0 to %lld",
                           (long long)i, tokens[i], (long long)m->whole.vocab - 1);
        }
    }
    return LS_OK;
}

/* Between the stages: x [rows, C]. */
static ls_status hand_over(const ls_pass *pass, bool receive) {
    const ls_model *m = pass->model;
    ls_comm *comm = m->options.pipeline;
    const int64_t bytes = pass->rows * m->sizes.channels * (int64_t)ls_dtype_bytes(m->dtype);
    ls_comm_request *request;
    if (receive ? stage_of(m) == 0 : stage_of(m) == stages(m) - 1) {
        return LS_OK;
    }
    LS_TRY(receive ? comm->ops->recv_start(comm, m->boundary[0], bytes, comm->rank - 1, &request)
                   : comm->ops->send_start(comm, m->boundary[1], bytes, comm->rank + 1, &request));
    return comm->ops->wait(comm, request);
}

ls_status ls_model_feed(ls_model *m, const int32_t *tokens, int64_t count, float *logits) {
    LS_TRY(check_feed(m, tokens, count));
    ls_pass pass = {.model = m, .slot = m->slot, .batch = 1, .cached = true};
    LS_TRY(ls_boundary_set(&pass, m->boundary[0], m->boundary[1]));
    for (int64_t done = 0; done < count; done += pass.rows) {
        int64_t left = count - done;
        pass.rows = pass.seq = left < m->options.seq ? left : m->options.seq;
        pass.own_rows = pass.rows;
        pass.offset = m->cache_used;
        LS_TRY(ls_batch_load(&pass, tokens + done, NULL));
        LS_TRY(hand_over(&pass, true));
        LS_TRY(ls_forward_to_head(&pass));
        LS_TRY(hand_over(&pass, false));
        m->cache_used += pass.rows;
    }
    const int head = m->blocks - 1;
    if (ls_has_head(m)) {
        LS_TRY(ls_block_begin(&pass, head));
        LS_TRY(ls_head_last(&pass));
        LS_TRY(ls_block_end(&pass, head));
        LS_TRY(collect_logits(m, logits));
    }
    ls_comm *pipeline = m->options.pipeline;
    return pipeline ? pipeline->ops->broadcast(pipeline, logits,
                                               m->whole.vocab * (int64_t)sizeof *logits,
                                               pipeline->size - 1)
                    : LS_OK;
}

void ls_model_clear_cache(ls_model *m) {
    m->cache_used = 0;
}

int64_t ls_model_cache_used(const ls_model *m) {
    return m->cache_used;
}
