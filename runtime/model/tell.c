/* The operations of a micro-batch's passes, told ahead: each function names those of its namesake
 * in layer.c, linear.c, parallel.c, ends.c, context.c, moe.c and norms.c. */
#include "runtime/model/model_internal.h"

#include <stdlib.h>

typedef struct telling {
    const ls_model *m; /* planned: without communicators and memory */
    ls_pass pass;
    double micros;
    const ls_comm_list *list;
} telling;

static void tell_use(const telling *t, ls_comm_axis axis, ls_coll coll, int ranks, double bytes,
                     ls_comm_use use) {
    ls_comm_tell(t->list, (ls_comm_operation){axis, use, coll, ranks, bytes, t->micros});
}

static void tell(const telling *t, ls_comm_axis axis, ls_coll coll, int ranks, double bytes) {
    tell_use(t, axis, coll, ranks, bytes, LS_USE_ACTIVATIONS);
}

static double row_bytes(const telling *t) {
    return (double)t->m->sizes.channels * (double)ls_dtype_bytes(t->m->dtype);
}

static double acc_bytes(const telling *t) {
    return (double)ls_dtype_bytes(t->m->dev->acc);
}

/* Over the tensor ranks, of elements of acc. */
static void sum_elems(const telling *t, int ranks, int64_t elems) {
    tell(t, LS_COMM_TENSOR, LS_COLL_ALL_REDUCE, ranks, (double)elems * acc_bytes(t));
}

/* `use` is that of all chunks but the last. */
static void move_rows(const telling *t, ls_coll coll, int chunks, ls_comm_use use,
                      ls_comm_use last) {
    const int ranks = t->m->part.tensor_ranks;
    for (int i = 0; i < chunks; i++) {
        int64_t rows = 0;
        for (int r = 0; r < ranks; r++) {
            rows += ls_rows_of_chunk(&t->pass, r, (ls_chunk){i, chunks}).elems;
        }
        if (coll == LS_COLL_ALL_REDUCE) { /* whose chunks are cut from all rows */
            rows = ls_range_first(t->pass.rows, chunks, i + 1) -
                   ls_range_first(t->pass.rows, chunks, i);
        }
        tell_use(t, LS_COMM_TENSOR, coll, ranks, (double)rows * row_bytes(t),
                 i + 1 < chunks ? use : last);
    }
}

static void rows_gather(const telling *t, int chunks, ls_comm_use use) {
    if (t->m->sequence) {
        move_rows(t, LS_COLL_ALL_GATHER, chunks, use, use);
    }
}

static void rows_sum(const telling *t, int chunks, ls_comm_use last) {
    move_rows(t, t->m->sequence ? LS_COLL_REDUCE_SCATTER : LS_COLL_ALL_REDUCE, chunks,
              LS_USE_BESIDE, last);
}

static void rows_share(const telling *t) {
    if (!t->m->sequence) {
        move_rows(t, LS_COLL_ALL_GATHER, 1, LS_USE_ACTIVATIONS, LS_USE_ACTIVATIONS);
    }
}

/* Before a product, the own rows of which are computed meanwhile; behind one, but for its last
 * chunk. */
static void gather_beside(const telling *t) {
    rows_gather(t, ls_rows_chunks(&t->pass), LS_USE_BESIDE);
}

static void row_forward(const telling *t) {
    rows_sum(t, ls_rows_chunks(&t->pass), LS_USE_ACTIVATIONS);
}

/* From a rank to the next one of the ring. */
static void pass_on(const telling *t, int step, ls_comm_use use) {
    const ls_model *m = t->m;
    const int size = m->context_ranks, owner = (m->context_rank + size - step % size) % size;
    const ls_zigzag z = ls_zigzag_of(m->options.seq, owner, size);
    const double rows = (double)(t->pass.batch * (z.low_count + z.high_count));
    const double bytes = rows * 2.0 * (double)m->sizes.kv_width * (double)ls_dtype_bytes(m->dtype);
    tell_use(t, LS_COMM_CONTEXT, LS_COLL_ALL_TO_ALL, 2, ls_comm_exchanged(bytes, 2), use);
}

static void ring_forward(const telling *t) {
    for (int step = 0; step + 1 < t->m->context_ranks; step++) {
        pass_on(t, step, LS_USE_BESIDE);
    }
}

static void ring_backward(const telling *t) {
    ring_forward(t);
    for (int step = 1; step < t->m->context_ranks; step++) {
        pass_on(t, step, LS_USE_ACTIVATIONS);
    }
}

/* What an even choice of experts sends: rows to others, or back. */
static void exchange(const telling *t) {
    const ls_model *m = t->m;
    const int rank = m->part.tensor_rank, ranks = m->part.tensor_ranks;
    const int64_t own =
        ls_range_first(t->pass.rows, ranks, rank + 1) - ls_range_first(t->pass.rows, ranks, rank);
    tell(t, LS_COMM_EXPERT, LS_COLL_ALL_TO_ALL, m->expert_ranks,
         (double)(own * m->sizes.each) * row_bytes(t));
}

/* Counts are int64_t. */
static void gather_counts(const telling *t, ls_comm_axis axis, int ranks, int64_t count) {
    tell(t, axis, LS_COLL_ALL_GATHER, ranks, 8.0 * (double)(ranks * count));
}

static void count_choices(const telling *t) {
    const ls_model *m = t->m;
    const int64_t experts = m->sizes.experts, own = ls_moe_segments(m, t->pass.batch) * experts;
    gather_counts(t, LS_COMM_TENSOR, m->part.tensor_ranks, own);
    if (ls_moe_counts_segments(m)) {
        gather_counts(t, LS_COMM_CONTEXT, m->context_ranks, own * m->part.tensor_ranks);
    }
    if (m->part.expert_ranks > 1) {
        gather_counts(t, LS_COMM_EXPERT, m->expert_ranks, experts);
    }
}

static void run_to_activation(const telling *t) {
    gather_beside(t);
    ring_forward(t);
    row_forward(t);
    if (t->m->sizes.experts > 0) {
        count_choices(t);
        exchange(t);
        exchange(t);
    } else {
        gather_beside(t);
    }
}

static void layer_run(const telling *t) {
    run_to_activation(t);
    if (t->m->sizes.experts > 0) {
        rows_share(t);
    } else {
        row_forward(t);
    }
}

static void restore(const telling *t, int layer) {
    switch (ls_recompute_of(t->m, layer)) {
    case LS_RECOMPUTE_NONE:
        break;
    case LS_RECOMPUTE_FULL:
        run_to_activation(t);
        break;
    case LS_RECOMPUTE_SELECTIVE:
        ring_forward(t);
        break;
    }
}

static void column_backward(const telling *t) {
    rows_gather(t, 1, LS_USE_KEPT);
    rows_sum(t, 1, LS_USE_BESIDE);
}

static void moe_backward(const telling *t) {
    const ls_model *m = t->m;
    exchange(t);
    exchange(t);
    if (m->options.config->balance_loss != 0.0) {
        tell(t, LS_COMM_CONTEXT, LS_COLL_ALL_REDUCE, m->context_ranks,
             (double)m->sizes.experts * acc_bytes(t));
    }
    sum_elems(t, m->part.tensor_ranks, m->sizes.experts * m->sizes.channels);
    rows_share(t);
}

static void norm_grads_sum(const telling *t, int norms) {
    if (t->m->sequence) {
        sum_elems(t, t->m->part.tensor_ranks, 2 * norms * t->m->sizes.channels);
    }
}

static void layer_backward(const telling *t, int layer) {
    const ls_model *m = t->m;
    const ls_sizes *s = &m->sizes;
    const int sharers = ls_kv_sharers(m);
    restore(t, layer);
    if (s->experts > 0) {
        moe_backward(t);
    } else {
        gather_beside(t);
        column_backward(t);
    }
    gather_beside(t);
    ring_backward(t);
    column_backward(t);
    sum_elems(t, sharers, 2 * s->kv_width * s->channels);
    if (s->qk_norm) {
        sum_elems(t, m->part.tensor_ranks, 2 * s->head_dim);
    }
    if (s->qkv_bias) {
        sum_elems(t, sharers, 2 * s->kv_width);
    }
    norm_grads_sum(t, 2);
}

static void head_run(const telling *t) {
    const ls_model *m = t->m;
    const int ranks = m->part.tensor_ranks;
    rows_gather(t, 1, LS_USE_ACTIVATIONS);
    for (int64_t first = 0; first < t->pass.rows; first += m->head_rows) {
        const int64_t left = t->pass.rows - first, rows = left < m->head_rows ? left : m->head_rows;
        tell(t, LS_COMM_TENSOR, LS_COLL_ALL_GATHER, ranks,
             (double)(3 * rows * ranks) * acc_bytes(t));
    }
    rows_sum(t, 1, LS_USE_KEPT);
    norm_grads_sum(t, 1);
}

static void tell_all(const telling *t) {
    const ls_model *m = t->m;
    if (ls_has_block(m, 0)) { /* embedding, forward and backward */
        rows_sum(t, 1, LS_USE_ACTIVATIONS);
        rows_gather(t, 1, LS_USE_ACTIVATIONS);
    }
    for (int layer = 0; layer < m->part_layers; layer++) {
        layer_run(t);
        layer_backward(t, layer);
    }
    if (ls_has_head(m)) {
        head_run(t);
    }
}

ls_status ls_model_tell(const ls_model_options *options, int64_t micros, const ls_comm_list *list) {
    ls_model *m;
    LS_TRY(ls_calloc(1, sizeof *m, &m));
    ls_status status = ls_model_describe(options, m);
    if (status == LS_OK) {
        const telling t = {.m = m,
                           .pass = {.model = m,
                                    .batch = options->batch,
                                    .seq = m->seq,
                                    .rows = options->batch * m->seq},
                           .micros = (double)micros,
                           .list = list};
        tell_all(&t);
    }
    ls_model_destroy(m);
    return status;
}
