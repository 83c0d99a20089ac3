/* A mixture's rows, placed by the device: nothing here waits. The host's way, whose results these
 * are, is in moe.c. */
#include "runtime/model/model_internal.h"

#include "runtime/device/device_async.h"

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

/* Rows arrive by rank, then expert; experts want them by expert, then rank. */
static ls_status order_rows(const ls_pass *pass, const ls_moe_acts *moe, const ls_place *op) {
    const ls_model *m = pass->model;
    const int32_t *kept = op->kept;
    const int64_t first = ls_moe_expert_first(m, m->expert_rank);
    if (m->part.expert_ranks > 1) {
        int32_t *all = op->kept + op->tensors * op->experts;
        LS_TRY(gather(m->experts, op->kept + op->tensor * op->experts, op->experts, all));
        kept = all;
    }
    return m->dev->async->place_order(
        m->dev, &(ls_place_order){.experts = op->experts,
                                  .first = first,
                                  .local = ls_moe_expert_first(m, m->expert_rank + 1) - first,
                                  .room = op->room,
                                  .each = ls_moe_rooms_of(pass).rows,
                                  .ranks = m->expert_ranks,
                                  .kept = kept,
                                  .order = moe->order,
                                  .back = moe->back});
}

ls_status ls_moe_place(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    const ls_device_async_ops *async = m->dev->async;
    const ls_moe_range own = ls_moe_own(pass);
    const ls_moe_rooms rooms = ls_moe_rooms_of(pass);
    const ls_zigzag z = ls_zigzag_of(m->options.seq, m->context_rank, m->context_ranks);
    const bool cut = m->context_ranks > 1;
    ls_place op = {.rows = own.rows,
                   .each = m->sizes.each,
                   .experts = m->sizes.experts,
                   .segments = ls_moe_segments(m, pass->batch),
                   .first = own.first,
                   .seq = cut ? pass->seq : 0,
                   .low = z.low_count,
                   .chosen = moe->chosen,
                   .counts = m->moe_places[0],
                   .contexts = m->context_ranks,
                   .tensors = m->part.tensor_ranks,
                   .context = cut ? m->context_rank : 0,
                   .tensor = m->part.tensor_rank,
                   .capacity = rooms.capacity,
                   .room = rooms.slots,
                   .places = m->moe_places[3],
                   .kept = m->moe_places[4],
                   .slots = moe->slots,
                   .slot_rows = moe->slot_rows,
                   .wanted = moe->wanted_here};
    LS_TRY(async->place_count(m->dev, &op));
    LS_TRY(gather_counts(m, &op));
    LS_TRY(async->place_keep(m->dev, &op));
    LS_TRY(async->place_rows(m->dev, &op));
    return m->experts ? order_rows(pass, moe, &op) : LS_OK;
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
