/* A mixture's rows, placed by the device. Where they have no fixed room, the host learns how many
 * each expert has, since products and messages have these sizes, while the device gathers them;
 * except where one product serves all experts (moe_grouped). The host's way, whose results these
 * are, is in moe_host.c. */
#include "runtime/model/model_internal.h"

static ls_status gather(ls_comm *comm, const int32_t *own, int64_t elems, int32_t *all) {
    return ls_comm_all_gather_by_start(comm, own, all, elems * (int64_t)sizeof *own);
}

/* op->all: the choices of all ranks that have rows of the micro-batch. */
static ls_status gather_counts(const ls_model *m, ls_place *op) {
    int64_t elems = op->segments * op->experts;
    op->all = op->counts;
    if (m->tensor) {
        LS_TRY(gather(m->tensor, op->all, elems, m->moe_places[1]));
        op->all = m->moe_places[1];
        elems *= op->tensors;
    }
    if (op->contexts > 1) {
        LS_TRY(gather(m->context, op->all, elems, m->moe_places[2]));
        op->all = m->moe_places[2];
    }
    return LS_OK;
}

/* What is kept of all ranks that share the experts: of the tensor ranks it is known already. */
static ls_status gather_kept(const ls_model *m, const ls_place *op, const int32_t **kept) {
    int32_t *all = op->kept + op->tensors * op->experts;
    *kept = op->kept;
    if (m->part.expert_ranks > 1) {
        LS_TRY(gather(m->experts, op->kept + op->tensor * op->experts, op->experts, all));
        *kept = all;
    }
    return LS_OK;
}

/* Rows arrive by rank, then expert; experts want them by expert, then rank. */
static ls_status order_rows(const ls_pass *pass, const ls_moe_acts *moe, const ls_place *op,
                            const int32_t *kept) {
    const ls_model *m = pass->model;
    const int64_t first = ls_moe_expert_first(m, m->expert_rank);
    return m->dev->async->place_order(
        m->dev, &(ls_place_order){.experts = op->experts,
                                  .first = first,
                                  .local = ls_moe_expert_first(m, m->expert_rank + 1) - first,
                                  .room = op->room,
                                  .each = m->moe_fixed ? ls_moe_rooms_of(pass).rows : 0,
                                  .ranks = m->expert_ranks,
                                  .kept = kept,
                                  .order = moe->order,
                                  .back = moe->back});
}

static size_t kept_bytes(const ls_model *m) {
    return (size_t)(m->expert_ranks * m->sizes.experts) * sizeof(int32_t);
}

ls_status ls_moe_place(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    const ls_device_async_ops *async = m->dev->async;
    const ls_moe_range own = ls_moe_own(pass);
    const ls_moe_rooms rooms = ls_moe_rooms_of(pass);
    const ls_zigzag z = ls_zigzag_of(m->options.seq, m->context_rank, m->context_ranks);
    const bool cut = ls_moe_counts_segments(m);
    const int32_t *kept;
    ls_place op = {.rows = own.rows,
                   .each = m->sizes.each,
                   .experts = m->sizes.experts,
                   .segments = ls_moe_segments(m, pass->batch),
                   .first = own.first,
                   .seq = cut ? pass->seq : 0,
                   .low = z.low_count,
                   .chosen = moe->chosen,
                   .counts = m->moe_places[0],
                   .contexts = cut ? m->context_ranks : 1,
                   .tensors = m->part.tensor_ranks,
                   .context = cut ? m->context_rank : 0,
                   .tensor = m->part.tensor_rank,
                   .capacity = rooms.capacity,
                   .room = m->moe_fixed ? rooms.slots : 0,
                   .places = m->moe_places[3],
                   .kept = m->moe_places[4],
                   .slots = moe->slots,
                   .slot_rows = moe->slot_rows,
                   .wanted = moe->wanted_here,
                   .bounds = m->moe_grouped ? moe->bounds : NULL};
    LS_TRY(async->place_count(m->dev, &op));
    LS_TRY(gather_counts(m, &op));
    LS_TRY(async->place_keep(m->dev, &op));
    LS_TRY(async->place_rows(m->dev, &op));
    LS_TRY(gather_kept(m, &op, &kept));
    if (!m->moe_fixed && !m->moe_grouped) {
        LS_TRY(async->peek(m->dev, kept, kept_bytes(m)));
    }
    return m->experts ? order_rows(pass, moe, &op, kept) : LS_OK;
}

ls_status ls_moe_learn_kept(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    LS_TRY(m->dev->async->peeked(m->dev, m->moe_host.kept, kept_bytes(m)));
    for (int64_t i = 0; i < m->expert_ranks * m->sizes.experts; i++) {
        moe->kept[i] = m->moe_host.kept[i];
    }
    return LS_OK;
}

bool ls_moe_groups(const ls_model *m) {
    /* So few rows leave most of a GPU idle in a product of their own. */
    const int64_t rows_few = 512;
    const int64_t choices = m->options.batch * m->options.seq * m->sizes.each;
    return m->sizes.experts > 0 && m->expert_ranks == 1 &&
           (m->options.experts_by == LS_EXPERTS_GROUPED ||
            (m->options.experts_by == LS_EXPERTS_AUTO && choices <= rows_few * m->sizes.experts));
}

ls_status ls_moe_grouped(const ls_pass *pass, int block, const ls_moe_acts *moe, ls_row weight,
                         ls_expert_product what, const void *a, const void *b, void *c) {
    const ls_model *m = pass->model;
    const int64_t *dims = ls_model_row(m, block, weight)->local_dims;
    return m->dev->async->expert_products(
        m->dev, &(ls_expert_products){.what = what,
                                      .dtype = m->dtype,
                                      .experts = m->sizes.experts,
                                      .rows = ls_moe_received(pass, moe),
                                      .out = dims[1],
                                      .in = dims[2],
                                      .bounds = moe->bounds,
                                      .a = a,
                                      .b = b ? b : ls_matrix(m, block, weight, 0),
                                      .c = c});
}

ls_status ls_moe_balance(const ls_pass *pass, const ls_moe_acts *moe, double scale) {
    const ls_model *m = pass->model;
    const int64_t experts = m->sizes.experts;
    LS_TRY(m->dev->ops->blend(m->dev, experts, scale, moe->wanted_here, 0.0, m->moe_balance));
    return m->context && m->options.config->balance_loss != 0.0
               ? ls_comm_all_reduce_by_start(m->context, m->moe_balance, experts, m->dev->acc,
                                             LS_SUM)
               : LS_OK;
}
