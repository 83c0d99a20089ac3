/* Gradients that travel in bf16: a bucket is rounded into a slot of the stage, reduced there by the
 * communicator, and widened back. The stage has the ranks' slices in the order of ranks, as a
 * reduce-scatter wants them, which replicas of shards do not have in the buffer. */
#include "collectives/recorded.h"
#include "collectives/reduce_impl.h"

static int64_t slot_bytes(const ls_reducer *r) {
    int64_t longest = 0;
    for (int unit = 0; unit < r->bucket_count; unit++) {
        const int64_t elems = r->partition->units[unit].range.elems;
        longest = elems > longest ? elems : longest;
    }
    return 2 * ls_bucket_align(longest * LS_REDUCER_NARROW_BYTES / 2); /* cache lines */
}

int64_t ls_reducer_stage_bytes(const ls_reducer *r) {
    const int64_t slots = ls_reducer_slots(r);
    return r->narrow ? (slots < r->bucket_count ? slots : r->bucket_count) * slot_bytes(r) : 0;
}

/* Where the slice of `rank` lies in the bucket's slot; of the number of ranks: its end. */
static char *staged(const ls_reducer *r, int64_t order, int rank) {
    const int unit = ls_reducer_unit(r, order);
    int64_t before = 0;
    for (int i = 0; i < rank; i++) {
        before += ls_reducer_slice(r, unit, i).elems;
    }
    return (char *)r->stage + order % ls_reducer_slots(r) * slot_bytes(r) +
           before * LS_REDUCER_NARROW_BYTES;
}

static char *buffer_at(const ls_reducer *r, ls_range range) {
    return (char *)r->buffers[0] + range.first * r->elem_bytes;
}

ls_status ls_reducer_narrow_start(ls_reducer *r, int64_t order) {
    const int unit = ls_reducer_unit(r, order);
    const ls_range all = r->partition->units[unit].range;
    ls_comm *comm = r->exchange_comm;
    ls_comm_request **request = &r->exchanges[order % ls_reducer_slots(r)];
    const ls_reduce op = comm->on_device ? LS_SUM : LS_SUM_TREE;
    char *slot = staged(r, order, 0);
    ls_flight_set_bucket(order);
    if (r->shards == 1) {
        LS_TRY(r->dev->ops->cast(r->dev, LS_BF16, all.elems, buffer_at(r, all), slot));
        return comm->ops->all_reduce_start(comm, slot, slot, all.elems, LS_BF16, op, request);
    }
    for (int rank = 0; rank < comm->size; rank++) {
        const ls_range s = ls_reducer_slice(r, unit, rank);
        r->counts[0][rank] = s.elems;
        LS_TRY(
            r->dev->ops->cast(r->dev, LS_BF16, s.elems, buffer_at(r, s), staged(r, order, rank)));
    }
    return comm->ops->reduce_scatter_start(comm, slot, staged(r, order, comm->rank), r->counts[0],
                                           LS_BF16, op, request);
}

static ls_status widen_slice(ls_reducer *r, int64_t order, int rank) {
    const ls_range s = ls_reducer_slice(r, ls_reducer_unit(r, order), rank);
    return r->dev->ops->widen(r->dev, LS_BF16, s.elems, staged(r, order, rank), buffer_at(r, s));
}

ls_status ls_reducer_narrow_summed(ls_reducer *r, int64_t order) {
    const int unit = ls_reducer_unit(r, order);
    const ls_range all = r->partition->units[unit].range;
    if (r->shards == 1) {
        return r->dev->ops->widen(r->dev, LS_BF16, all.elems, staged(r, order, 0),
                                  buffer_at(r, all));
    }
    if (r->replicas == 1) {
        return widen_slice(r, order, r->comm->rank);
    }
    for (int replica = 0; replica < r->replicas; replica++) {
        const int rank = replica * r->shards + r->shard;
        r->counts[0][replica] = ls_reducer_slice(r, unit, rank).elems * LS_REDUCER_NARROW_BYTES;
        r->offsets[0][replica] = staged(r, order, rank) - (char *)r->stage;
    }
    ls_comm *comm = r->gather_comm;
    ls_flight_set_bucket(order);
    return comm->ops->all_gather_start(comm, staged(r, order, r->comm->rank), r->stage,
                                       r->counts[0], r->offsets[0], &r->gathers[order]);
}

ls_status ls_reducer_narrow_gathered(ls_reducer *r, int64_t order) {
    for (int replica = 0; replica < r->replicas && r->shards > 1 && r->replicas > 1; replica++) {
        LS_TRY(widen_slice(r, order, replica * r->shards + r->shard));
    }
    return LS_OK;
}
