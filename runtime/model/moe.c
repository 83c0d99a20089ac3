/* Mixture of experts: each token goes to the experts that its router scores highest (Shazeer 2017,
 * arXiv 1701.06538; gates and sizes as in Jiang 2024, arXiv 2401.04088), with the load-balance loss
 * of Fedus 2021, arXiv 2101.03961, and, if wanted, a capacity.
 *
 * The experts are split over expert ranks x tensor ranks. Each rank routes rows of its own (tensor
 * ranks a balanced range of theirs) and sends them to the experts' owners by all-to-all (Lepikhin
 * 2020, arXiv 2006.16668); the outputs come back the same way. Expert ranks have other
 * micro-batches or other tokens of the same one. Capacity counts the choices of a micro-batch's
 * whole sequences in order of their rows, so that what is dropped does not depend on the number of
 * ranks. The host places the rows (moe_host.c), or a device that goes on by itself does
 * (moe_place.c). Products and messages have the sizes of what was chosen, for which the host then
 * waits once a layer, while the device gathers the rows. With a capacity nothing depends on a
 * count: each expert has room for as many rows as it takes at most, those that are left being
 * zeros. Where a rank has all experts nothing need either (moe_grouped): one launch for all of them
 * reads on the device where each one's rows begin. Several ranks must wait: NCCL wants the sizes of
 * messages from the host, and the largest that they can be are as many times what is sent as there
 * are ranks.
 *
 * The balance loss adds balance_scale * rows * balance_loss * E * sum_e f_e P_e to the objective of
 * a micro-batch (of all context ranks), where f_e is the share of the choices that want expert e
 * and P_e the mean of its probability: 1 when all are even. It enters the gradients, not the loss
 * that is reported. */
#include "runtime/model/model_internal.h"

static int64_t min_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

int64_t ls_moe_expert_first(const ls_model *m, int rank) {
    return ls_range_first(m->sizes.experts, m->expert_ranks, rank);
}

int64_t ls_moe_capacity(const ls_model *m, int64_t rows) {
    const double factor = m->options.config->expert_capacity;
    const double share = (double)rows * (double)m->sizes.each / (double)m->sizes.experts;
    const double most = ceil(factor * share);
    return factor > 0.0 && most < (double)rows ? (int64_t)most : rows;
}

int64_t ls_moe_whole_rows(const ls_pass *pass) {
    return pass->batch * (pass->model->context_ranks > 1 ? pass->model->options.seq : pass->seq);
}

bool ls_moe_counts_segments(const ls_model *m) {
    return m->context_ranks > 1 && m->options.config->expert_capacity > 0.0;
}

int64_t ls_moe_segments(const ls_model *m, int64_t batch) {
    return ls_moe_counts_segments(m) ? 2 * batch : 1;
}

/* Most micro-batches of which neighbouring data ranks, context ranks innermost, have tokens. */
static int64_t micros_of(int ranks, int contexts) {
    if (ranks % contexts == 0 || contexts % ranks == 0) {
        return ceil_div(ranks, contexts);
    }
    return min_of(ranks, ranks / contexts + 2);
}

/* Of a full micro-batch, but for capacity: ranks with a shorter one send and expect as much. */
static ls_moe_rooms rooms_of(const ls_model *m, int64_t seq) {
    const bool cut = m->context_ranks > 1;
    const int64_t rows = m->options.batch * (cut && m->part.expert_ranks > 1 ? m->seq_most : seq);
    const int64_t most = ls_moe_capacity(m, m->options.batch * (cut ? m->options.seq : seq));
    const int64_t micros = micros_of(m->part.expert_ranks, m->context_ranks);
    const int64_t slots = min_of(ceil_div(rows, m->part.tensor_ranks), most);
    return (ls_moe_rooms){.slots = slots, .rows = min_of(m->expert_ranks * slots, micros * most)};
}

ls_moe_rooms ls_moe_rooms_of(const ls_pass *pass) {
    ls_moe_rooms rooms = rooms_of(pass->model, pass->seq);
    rooms.capacity = ls_moe_capacity(pass->model, ls_moe_whole_rows(pass));
    return rooms;
}

/* Choices, slots and rows of experts where all have their fixed room. */
static void limit_by_rooms(const ls_model *m, ls_moe_limits *most) {
    const int64_t local = ceil_div(m->sizes.experts, m->expert_ranks);
    const ls_moe_rooms rooms = rooms_of(m, m->seq);
    most->slots = m->sizes.experts * rooms.slots;
    most->received = local * rooms.rows;
    most->arrived = m->expert_ranks * local * rooms.slots;
}

ls_moe_limits ls_moe_limits_of(const ls_model *m) {
    const ls_sizes *s = &m->sizes;
    const int64_t batch = m->options.batch, own = batch * m->seq, experts = m->part.expert_ranks;
    const int64_t most_rows = experts * batch * (experts > 1 ? m->seq_most : m->seq);
    const int64_t whole = batch * (m->context_ranks > 1 ? m->options.seq : m->seq);
    const int64_t local = ceil_div(s->experts, m->expert_ranks), tensor = m->part.tensor_ranks;
    ls_moe_limits most = {.rows = ceil_div(own, tensor)};
    most.choices = most.slots = most.rows * s->each;
    most.received =
        min_of(most_rows * min_of(s->each, local),
               local * micros_of((int)experts, m->context_ranks) * ls_moe_capacity(m, whole));
    most.arrived = most.received;
    most.own_counts = ls_moe_segments(m, batch) * s->experts;
    most.tensor_counts = tensor * most.own_counts;
    most.all_counts = ls_moe_counts_segments(m) ? m->context_ranks * most.tensor_counts : 0;
    if (m->moe_fixed) {
        limit_by_rooms(m, &most);
    }
    const int64_t even = ceil_div(most_rows * s->each * local, s->experts);
    most.spare = most.received - min_of(even, most.received);
    return most;
}

ls_moe_range ls_moe_own(const ls_pass *pass) {
    const int rank = pass->model->part.tensor_rank, ranks = pass->model->part.tensor_ranks;
    const int64_t first = ls_range_first(pass->rows, ranks, rank);
    return (ls_moe_range){first, ls_range_first(pass->rows, ranks, rank + 1) - first};
}

/* Those rows in a matrix [n,C] of norms or residuals. */
static void *own_rows(const ls_pass *pass, const void *matrix) {
    const ls_model *m = pass->model;
    const int64_t first = m->sequence ? 0 : ls_moe_own(pass).first;
    return ls_elems_at(matrix, first * m->sizes.channels, m->dtype);
}

int64_t ls_moe_kept_of(const ls_pass *pass, const ls_moe_acts *moe, int from, int owner) {
    const ls_model *m = pass->model;
    int64_t total = 0;
    if (m->moe_fixed) {
        return (ls_moe_expert_first(m, owner + 1) - ls_moe_expert_first(m, owner)) *
               ls_moe_rooms_of(pass).slots;
    }
    for (int64_t e = ls_moe_expert_first(m, owner); e < ls_moe_expert_first(m, owner + 1); e++) {
        total += moe->kept[from * m->sizes.experts + e];
    }
    return total;
}

/* Rows that an expert of this rank works on. */
static int64_t rows_of_expert(const ls_pass *pass, const ls_moe_acts *moe, int64_t e) {
    const ls_model *m = pass->model;
    int64_t rows = 0;
    if (m->moe_fixed) {
        return ls_moe_rooms_of(pass).rows;
    }
    for (int r = 0; r < m->expert_ranks; r++) {
        rows += moe->kept[r * m->sizes.experts + e];
    }
    return rows;
}

int64_t ls_moe_received(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    int64_t total = 0;
    if (m->moe_grouped) {
        return ls_moe_own(pass).rows * m->sizes.each;
    }
    for (int64_t e = ls_moe_expert_first(m, m->expert_rank);
         e < ls_moe_expert_first(m, m->expert_rank + 1); e++) {
        total += rows_of_expert(pass, moe, e);
    }
    return total;
}

static int64_t sent_slots(const ls_pass *pass, const ls_moe_acts *moe) {
    int64_t total = 0;
    for (int r = 0; r < pass->model->expert_ranks; r++) {
        total += ls_moe_kept_of(pass, moe, pass->model->expert_rank, r);
    }
    return total;
}

/* Slots of this rank to rows of its experts' owners, or back. */
static ls_status exchange(const ls_pass *pass, const ls_moe_acts *moe, const void *from, void *to,
                          bool back) {
    const ls_model *m = pass->model;
    const int rank = m->expert_rank, ranks = m->expert_ranks;
    const int64_t row_bytes = m->sizes.channels * (int64_t)ls_dtype_bytes(m->dtype);
    int64_t *counts = m->moe_exchange, *offsets = counts + 2 * ranks, at[2] = {0, 0};
    for (int r = 0; r < ranks; r++) {
        const int64_t slots = ls_moe_kept_of(pass, moe, rank, r),
                      rows = ls_moe_kept_of(pass, moe, r, rank);
        counts[r] = (back ? rows : slots) * row_bytes;
        counts[ranks + r] = (back ? slots : rows) * row_bytes;
        for (int side = 0; side < 2; side++) {
            offsets[side * ranks + r] = at[side];
            at[side] += counts[side * ranks + r];
        }
    }
    ls_comm_request *request;
    LS_TRY(m->experts->ops->all_to_all_start(m->experts, from, counts, offsets, to, counts + ranks,
                                             offsets + ranks, &request));
    return m->experts->ops->wait(m->experts, request);
}

static ls_status select_rows(const ls_model *m, int64_t rows, const int32_t *index, const void *x,
                             void *y) {
    return m->dev->ops->select_rows(m->dev, &(ls_select_rows){.dtype = m->dtype,
                                                              .rows = rows,
                                                              .cols = m->sizes.channels,
                                                              .index = index,
                                                              .x = x,
                                                              .y = y});
}

static int64_t arrived_rows(const ls_pass *pass, const ls_moe_acts *moe) {
    int64_t total = 0;
    for (int r = 0; r < pass->model->expert_ranks; r++) {
        total += ls_moe_kept_of(pass, moe, r, pass->model->expert_rank);
    }
    return total;
}

/* From slots to rows in the order of the experts, and back. */
static ls_status to_experts(const ls_pass *pass, const ls_moe_acts *moe, const void *slots,
                            void *rows) {
    const ls_model *m = pass->model;
    LS_TRY(exchange(pass, moe, slots, m->moe_arrived, false));
    return select_rows(m, ls_moe_received(pass, moe), moe->order, m->moe_arrived, rows);
}

static ls_status from_experts(const ls_pass *pass, const ls_moe_acts *moe, const void *rows,
                              void *slots) {
    const ls_model *m = pass->model;
    LS_TRY(select_rows(m, arrived_rows(pass, moe), moe->back, rows, m->moe_arrived));
    return exchange(pass, moe, m->moe_arrived, slots, true);
}

/* A product for each expert with its rows: y = x W^T (forward), dx = dy W, or dW += dy^T x. */
static ls_status expert_products(const ls_pass *pass, int block, const ls_moe_acts *moe,
                                 ls_row weight, ls_expert_product kind, const void *a,
                                 const void *b, void *c) {
    const ls_model *m = pass->model;
    const int64_t *dims = ls_model_row(m, block, weight)->local_dims, out = dims[1], in = dims[2];
    const int64_t first = ls_moe_expert_first(m, m->expert_rank);
    const int64_t end = ls_moe_expert_first(m, m->expert_rank + 1);
    int64_t at = 0;
    if (m->moe_grouped) {
        LS_TRY(ls_moe_grouped(pass, block, moe, weight, kind, a, b, c));
    }
    for (int64_t e = first; e < end && !m->moe_grouped; e++) {
        const int64_t rows = rows_of_expert(pass, moe, e);
        const void *w =
            ls_elems_at(ls_matrix(m, block, weight, 0), (e - first) * out * in, m->dtype);
        ls_gemm op = {.dtype = m->dtype, .c_dtype = m->dtype, .m = rows, .b = w, .ldb = in};
        if (kind == LS_EXPERT_FORWARD) {
            op.trans_b = true;
            op.n = op.ldc = out;
            op.k = op.lda = in;
        } else {
            op.n = op.ldc = in;
            op.k = op.lda = out;
        }
        op.a = ls_elems_at(a, at * op.lda, m->dtype);
        op.c = kind == LS_EXPERT_WEIGHT_GRAD ? NULL : ls_elems_at(c, at * op.ldc, m->dtype);
        if (kind == LS_EXPERT_WEIGHT_GRAD) {
            op.c_dtype = m->dev->acc;
            op.trans_a = op.accumulate = true;
            op.m = out;
            op.k = rows;
            op.b = ls_elems_at(b, at * in, m->dtype);
            op.c = ls_elems_at(c, (e - first) * out * in, m->dev->acc);
        }
        if (rows > 0) {
            LS_TRY(m->dev->ops->gemm(m->dev, &op));
        }
        at += rows;
    }
    return pass->backward ? ls_pass_tick(pass) : LS_OK;
}

static ls_route route_op(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    return (ls_route){.dtype = m->dtype,
                      .rows = ls_moe_own(pass).rows,
                      .experts = m->sizes.experts,
                      .each = m->sizes.each,
                      .logits = m->moe_logits,
                      .probs = moe->probs,
                      .chosen = moe->chosen,
                      .gates = moe->gates};
}

static ls_status route(const ls_pass *pass, int block, const ls_layer_acts *a) {
    const ls_model *m = pass->model;
    const int64_t c = m->sizes.channels, experts = m->sizes.experts;
    LS_TRY(m->dev->ops->gemm(m->dev, &(ls_gemm){.dtype = m->dtype,
                                                .c_dtype = m->dev->acc,
                                                .trans_b = true,
                                                .m = ls_moe_own(pass).rows,
                                                .n = experts,
                                                .k = c,
                                                .a = own_rows(pass, a->norm2),
                                                .lda = c,
                                                .b = ls_matrix(m, block, LS_ROUTER_W, 0),
                                                .ldb = c,
                                                .c = m->moe_logits,
                                                .ldc = experts}));
    const ls_route op = route_op(pass, &a->moe);
    LS_TRY(m->dev->ops->route_forward(m->dev, &op));
    if (m->moe_placed) {
        return ls_moe_place(pass, &a->moe);
    }
    return ls_moe_place_by_host(pass, &a->moe);
}

ls_status ls_moe_forward(const ls_pass *pass, int block, const ls_layer_acts *a) {
    const ls_model *m = pass->model;
    const ls_moe_acts *moe = &a->moe;
    /* Without a capacity all choices are kept: they are gathered while the host learns of them. */
    const bool keeps_all = m->moe_placed && !m->moe_fixed;
    LS_TRY(route(pass, block, a));
    const int64_t sent = keeps_all ? ls_moe_own(pass).rows * m->sizes.each : sent_slots(pass, moe);
    void *slots = m->experts ? m->moe_sent : moe->in;
    LS_TRY(select_rows(m, sent, moe->slot_rows, own_rows(pass, a->norm2), slots));
    if (keeps_all && !m->moe_grouped) {
        LS_TRY(ls_moe_learn_kept(pass, moe));
    }
    ls_moe_count_over(pass, moe);
    if (m->experts) {
        LS_TRY(to_experts(pass, moe, slots, moe->in));
    }
    void *rows = m->experts ? m->moe_rows : moe->out;
    LS_TRY(
        expert_products(pass, block, moe, LS_EXPERT_UP_W, LS_EXPERT_FORWARD, moe->in, NULL, a->up));
    LS_TRY(ls_activation_run(pass, ls_moe_received(pass, moe), a));
    LS_TRY(
        expert_products(pass, block, moe, LS_EXPERT_DOWN_W, LS_EXPERT_FORWARD, a->act, NULL, rows));
    return m->experts ? from_experts(pass, moe, rows, moe->out) : LS_OK;
}

static ls_combine combine_op(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    return (ls_combine){.dtype = m->dtype,
                        .rows = ls_moe_own(pass).rows,
                        .cols = m->sizes.channels,
                        .each = m->sizes.each,
                        .index = moe->slots,
                        .weights = moe->gates,
                        .x = moe->out};
}

ls_status ls_moe_combine(const ls_pass *pass, const ls_layer_acts *a, void *y) {
    const ls_model *m = pass->model;
    ls_combine op = combine_op(pass, &a->moe);
    op.residual = own_rows(pass, a->mid);
    op.y = own_rows(pass, y);
    LS_TRY(m->dev->ops->combine_forward(m->dev, &op));
    return ls_rows_share(pass, y);
}

/* The gradient of each row's probabilities from the balance loss, which counts the choices of all
 * ranks that have tokens of the sequences. */
static ls_status set_balance(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    const int64_t experts = m->sizes.experts;
    const double choices = (double)(ls_moe_whole_rows(pass) * m->sizes.each);
    const double weight = m->options.config->balance_loss;
    const double scale = pass->balance_scale * weight * (double)experts / choices;
    if (m->moe_placed) {
        return ls_moe_balance(pass, moe, scale);
    }
    for (int64_t e = 0; e < experts; e++) {
        ls_store(m->dev->acc, m->moe_host.balance, e, scale * (double)moe->wanted[e]);
    }
    if (m->context && weight != 0.0) {
        LS_TRY(m->context->ops->all_reduce(m->context, m->moe_host.balance, experts, m->dev->acc,
                                           LS_SUM));
    }
    return m->dev->ops->upload(m->dev, m->moe_balance, m->moe_host.balance,
                               (size_t)experts * ls_dtype_bytes(m->dev->acc));
}

/* dx [r,C] += the router's part, and the gradient of its weight, which is a sum over the ranks. */
static ls_status router_backward(const ls_pass *pass, int block, const ls_layer_acts *a, void *dx) {
    const ls_model *m = pass->model;
    const ls_dtype acc = m->dev->acc;
    const int64_t c = m->sizes.channels, experts = m->sizes.experts, rows = ls_moe_own(pass).rows;
    ls_route op = route_op(pass, &a->moe);
    op.dgates = m->moe_dgates;
    op.balance = m->moe_balance;
    op.dlogits = m->moe_dlogits;
    LS_TRY(set_balance(pass, &a->moe));
    LS_TRY(m->dev->ops->route_backward(m->dev, &op));
    LS_TRY(m->dev->ops->gemm(m->dev, &(ls_gemm){.dtype = m->dtype,
                                                .c_dtype = m->dtype,
                                                .m = rows,
                                                .n = c,
                                                .k = experts,
                                                .a = m->moe_dlogits,
                                                .lda = experts,
                                                .b = ls_matrix(m, block, LS_ROUTER_W, 0),
                                                .ldb = c,
                                                .c = dx,
                                                .ldc = c,
                                                .residual = dx}));
    void *dw = ls_gradient(pass, block, LS_ROUTER_W);
    LS_TRY(m->dev->ops->gemm(m->dev, &(ls_gemm){.dtype = m->dtype,
                                                .c_dtype = acc,
                                                .trans_a = true,
                                                .accumulate = !m->tensor,
                                                .m = experts,
                                                .n = c,
                                                .k = rows,
                                                .a = m->moe_dlogits,
                                                .lda = experts,
                                                .b = own_rows(pass, a->norm2),
                                                .ldb = c,
                                                .c = m->tensor ? m->moe_router_grad : dw,
                                                .ldc = c}));
    if (!m->tensor) {
        return LS_OK;
    }
    LS_TRY(ls_comm_all_reduce_by_start(m->tensor, m->moe_router_grad, experts * c, acc, LS_SUM));
    return m->dev->ops->add(m->dev, acc, experts * c, m->moe_router_grad, dw);
}

ls_status ls_moe_backward(const ls_pass *pass, int block, const ls_layer_acts *a, void *dx) {
    const ls_model *m = pass->model;
    const ls_moe_acts *moe = &a->moe;
    void *dup, *dout = m->moe_sent; /* [S,C], then of the rows [M,C] */
    ls_combine op = combine_op(pass, moe);
    if (m->moe_fixed) { /* slots without a choice */
        const size_t row_bytes = (size_t)m->sizes.channels * ls_dtype_bytes(m->dtype);
        LS_TRY(m->dev->ops->zero(m->dev, dout, (size_t)sent_slots(pass, moe) * row_bytes));
    }
    op.dy = own_rows(pass, pass->dy);
    op.dx = dout;
    op.dweights = m->moe_dgates;
    LS_TRY(m->dev->ops->combine_backward(m->dev, &op));
    if (m->experts) {
        LS_TRY(to_experts(pass, moe, dout, m->moe_rows));
        dout = m->moe_rows;
    }
    const ls_row up = LS_EXPERT_UP_W, down = LS_EXPERT_DOWN_W;
    LS_TRY(expert_products(pass, block, moe, down, LS_EXPERT_INPUT_GRAD, dout, NULL, m->moe_dact));
    LS_TRY(expert_products(pass, block, moe, down, LS_EXPERT_WEIGHT_GRAD, dout, a->act,
                           ls_gradient(pass, block, down)));
    LS_TRY(ls_activation_backward(pass, ls_moe_received(pass, moe), a, m->moe_dact, &dup));
    LS_TRY(expert_products(pass, block, moe, up, LS_EXPERT_INPUT_GRAD, dup, NULL, m->moe_rows));
    LS_TRY(expert_products(pass, block, moe, up, LS_EXPERT_WEIGHT_GRAD, dup, moe->in,
                           ls_gradient(pass, block, up)));
    void *din = m->moe_rows;
    if (m->experts) {
        LS_TRY(from_experts(pass, moe, m->moe_rows, m->moe_sent));
        din = m->moe_sent;
    }
    ls_combine back = combine_op(pass, moe);
    back.weights = NULL;
    back.x = din;
    back.y = own_rows(pass, dx);
    LS_TRY(m->dev->ops->combine_forward(m->dev, &back));
    LS_TRY(router_backward(pass, block, a, own_rows(pass, dx)));
    return ls_rows_share(pass, dx);
}
