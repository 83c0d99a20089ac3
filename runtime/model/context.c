/* Context parallelism: ring attention (Liu 2023, arXiv 2310.01889). Keys and values go round the
 * context ranks while each attends to those it has; results over parts of the keys are merged by
 * their log-sum-exp.
 *
 * A sequence is cut in 2 R chunks and rank i has chunks i and 2R-1-i, one after the other
 * ("zig-zag"), so that causal work is balanced: with the keys of itself      its tokens, in their
 * order, see what plain causal attention shows them; a rank j<i  all its tokens see all of chunk j,
 * and none of chunk 2R-1-j; a rank j>i  its later tokens see both chunks, its earlier ones neither.
 * Chunks differ by at most one token where 2R does not divide the sequence. */
#include "runtime/model/model_internal.h"

ls_zigzag ls_zigzag_of(int64_t seq, int rank, int ranks) {
    const int chunks = 2 * ranks, last = chunks - 1 - rank;
    const int64_t low = ls_range_first(seq, chunks, rank), high = ls_range_first(seq, chunks, last);
    return (ls_zigzag){.low = low,
                       .low_count = ls_range_first(seq, chunks, rank + 1) - low,
                       .high = high,
                       .high_count = ls_range_first(seq, chunks, last + 1) - high};
}

void ls_zigzag_pick(const ls_model *m, int64_t batch, const int32_t *all, int32_t *own) {
    const ls_zigzag z = ls_zigzag_of(m->options.seq, m->context_rank, m->context_ranks);
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t t = 0; t < m->seq; t++) {
            own[b * m->seq + t] = all[b * m->options.seq + ls_zigzag_position(&z, t)];
        }
    }
}

typedef struct ring {
    const ls_pass *pass;
    ls_comm *comm;
    int next, before;
    int64_t width; /* of keys and values of a token, 2GD */
} ring;

static ring ring_of(const ls_pass *pass) {
    ls_comm *comm = pass->model->context;
    return (ring){.pass = pass,
                  .comm = comm,
                  .next = (comm->rank + 1) % comm->size,
                  .before = (comm->rank + comm->size - 1) % comm->size,
                  .width = 2 * pass->model->sizes.kv_width};
}

/* Whose keys and values this rank has after `step` steps. */
static int owner_at(const ring *r, int step) {
    return (r->comm->rank + r->comm->size - step % r->comm->size) % r->comm->size;
}

static ls_zigzag tokens_of(const ring *r, int rank) {
    return ls_zigzag_of(r->pass->model->options.seq, rank, r->comm->size);
}

static int64_t owner_tokens(const ring *r, int step) {
    const ls_zigzag z = tokens_of(r, owner_at(r, step));
    return z.low_count + z.high_count;
}

static int64_t owner_bytes(const ring *r, int step) {
    return r->pass->batch * owner_tokens(r, step) * r->width *
           (int64_t)ls_dtype_bytes(r->pass->model->dtype);
}

/* Sends the matrix of this rank's owner at `step` to the next rank, receives that of the next
 * step's from the one before. Both in one call: on a device, messages that are started one after
 * the other wait for each other, all round the ring. */
static ls_status pass_on(const ring *r, int step, const void *from, void *to,
                         ls_comm_request **request) {
    const int size = r->comm->size;
    int64_t *sent = r->pass->model->ring_counts, *received = sent + size, *zeros = received + size;
    memset(sent, 0, 3 * (size_t)size * sizeof *sent);
    sent[r->next] = owner_bytes(r, step);
    received[r->before] = owner_bytes(r, step + 1);
    return r->comm->ops->all_to_all_start(r->comm, from, sent, zeros, to, received, zeros, request);
}

static ls_status arrive(const ring *r, ls_comm_request *request) {
    return r->comm->ops->wait(r->comm, request);
}

/* Own keys and values as a matrix of their own, that can travel; or back, added. */
static ls_status pack(const ring *r, const void *fused, void *packed) {
    const ls_model *m = r->pass->model;
    return m->dev->ops->copy_rows(m->dev, &(ls_copy_rows){.dtype = m->dtype,
                                                          .rows = r->pass->rows,
                                                          .cols = r->width,
                                                          .ldx = m->sizes.qkv_width,
                                                          .ldy = r->width,
                                                          .x = fused,
                                                          .y = packed});
}

static ls_status unpack_add(const ring *r, const void *packed, void *fused) {
    const ls_model *m = r->pass->model;
    return m->dev->ops->copy_rows(m->dev, &(ls_copy_rows){.dtype = m->dtype,
                                                          .add = true,
                                                          .rows = r->pass->rows,
                                                          .cols = r->width,
                                                          .ldx = r->width,
                                                          .ldy = m->sizes.qkv_width,
                                                          .x = packed,
                                                          .y = fused});
}

/* The operation over what this rank's queries see of another rank's keys kv (gradients dkv). */
static ls_attention part_of(const ring *r, const ls_attention *own, int step, void *kv, void *dkv) {
    const ls_model *m = r->pass->model;
    const int owner = owner_at(r, step);
    const ls_zigzag theirs = tokens_of(r, owner), mine = tokens_of(r, r->comm->rank);
    ls_attention op = *own;
    op.full = true;
    op.kv_stride = r->width;
    op.kv_batch = owner_tokens(r, step) * r->width;
    op.k = kv;
    op.v = ls_elems_at(kv, m->sizes.kv_width, m->dtype);
    op.dk = dkv;
    op.dv = dkv ? ls_elems_at(dkv, m->sizes.kv_width, m->dtype) : NULL;
    op.o_batch = own->q_len * own->o_stride;
    op.lse_row = own->q_len;
    op.first_key_batch = own->q_len;
    if (own->first_key) {
        op.first_key = own->first_key + (owner - r->comm->rank) * r->pass->rows;
    }
    if (owner < r->comm->rank) {
        op.kv_len = theirs.low_count;
        return op;
    }
    op.kv_len = owner_tokens(r, step);
    op.q_len = mine.high_count;
    op.q = ls_elems_at(own->q, mine.low_count * own->q_stride, m->dtype);
    op.out = ls_elems_at(own->out, mine.low_count * own->o_stride, m->dtype);
    op.lse = ls_elems_at(own->lse, mine.low_count, m->dev->acc);
    op.first_key = op.first_key ? op.first_key + mine.low_count : NULL;
    if (own->dout) {
        op.dout = ls_elems_at(own->dout, mine.low_count * own->o_stride, m->dtype);
        op.dq = ls_elems_at(own->dq, mine.low_count * own->q_stride, m->dtype);
    }
    return op;
}

ls_status ls_ring_forward(const ls_pass *pass, const ls_attention *own) {
    const ls_model *m = pass->model;
    const ring r = ring_of(pass);
    ls_comm_request *t;
    LS_TRY(pack(&r, own->k, m->ring_kv[0]));
    for (int step = 0; step < r.comm->size; step++) {
        void *here = m->ring_kv[step % 2];
        const bool more = step + 1 < r.comm->size;
        if (more) { /* the next keys arrive beside the work on these */
            LS_TRY(pass_on(&r, step, here, m->ring_kv[(step + 1) % 2], &t));
        }
        ls_attention op = step == 0 ? *own : part_of(&r, own, step, here, NULL);
        op.merge = step > 0;
        LS_TRY(m->dev->ops->attention_forward(m->dev, &op));
        if (more) {
            LS_TRY(arrive(&r, t));
        }
    }
    return LS_OK;
}

/* The gradient of a rank's keys follows them: the first other rank begins it, each adds its part,
 * and the last sends it home. */
ls_status ls_ring_backward(const ls_pass *pass, const ls_attention *own) {
    const ls_model *m = pass->model;
    const ring r = ring_of(pass);
    ls_comm_request *keys, *sums;
    LS_TRY(pack(&r, own->k, m->ring_kv[0]));
    for (int step = 0; step < r.comm->size; step++) {
        void *here = m->ring_kv[step % 2], *dkv = m->ring_dkv[step % 2];
        const bool more = step + 1 < r.comm->size;
        if (more) {
            LS_TRY(pass_on(&r, step, here, m->ring_kv[(step + 1) % 2], &keys));
        }
        if (step == 1) {
            LS_TRY(m->dev->ops->zero(m->dev, dkv, (size_t)owner_bytes(&r, step)));
        } else if (step > 1) {
            LS_TRY(arrive(&r, sums));
        }
        ls_attention op = step == 0 ? *own : part_of(&r, own, step, here, dkv);
        op.add = step > 0;
        LS_TRY(m->dev->ops->attention_backward(m->dev, &op));
        if (more) {
            LS_TRY(arrive(&r, keys));
        }
        if (step > 0) {
            LS_TRY(pass_on(&r, step, dkv, m->ring_dkv[(step + 1) % 2], &sums));
        }
        LS_TRY(ls_pass_tick(pass));
    }
    LS_TRY(arrive(&r, sums));
    return unpack_add(&r, m->ring_dkv[r.comm->size % 2], own->dk);
}
