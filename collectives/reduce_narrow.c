/* Gradients that travel in bf16: a bucket is rounded into a slot of the stage, reduced there by the
 * communicator, and widened back. Of shards with replicas first the ranks of a replica reduce it to
 * what each keeps, then the replicas of a shard reduce that: sums are rounded in between, too. */
#include "collectives/recorded.h"
#include "collectives/reduce_impl.h"

int64_t ls_reducer_stage_bytes(const ls_reducer *r) {
    const int64_t slots = ls_reducer_slots(r);
    return (slots < r->bucket_count ? slots : r->bucket_count) * r->slot_bytes;
}

static ls_range bucket_of(const ls_reducer *r, int64_t order) {
    return r->partition->units[ls_reducer_unit(r, order)].range;
}

/* What this rank has in the end. */
static ls_range kept(const ls_reducer *r, int64_t order) {
    return ls_partition_slice(r->partition, ls_reducer_unit(r, order), r->shard);
}

static char *staged(const ls_reducer *r, int64_t order, ls_range range) {
    return (char *)r->stage + order % ls_reducer_slots(r) * r->slot_bytes +
           (range.first - bucket_of(r, order).first) * LS_REDUCER_NARROW_BYTES;
}

static ls_status all_reduce(const ls_reducer *r, ls_comm *comm, int64_t order, ls_range range,
                            ls_comm_request **request) {
    char *const at = staged(r, order, range);
    ls_flight_set_bucket(order);
    return comm->ops->all_reduce_start(comm, at, at, range.elems, LS_BF16,
                                       comm->on_device ? LS_SUM : LS_SUM_TREE, request);
}

ls_status ls_reducer_narrow_start(ls_reducer *r, int64_t order) {
    const ls_range all = bucket_of(r, order);
    ls_comm *comm = r->exchange_comm;
    ls_comm_request **request = &r->exchanges[order % ls_reducer_slots(r)];
    char *const slot = staged(r, order, all);
    LS_TRY(r->dev->ops->cast(r->dev, LS_BF16, all.elems,
                             (char *)r->buffers[0] + all.first * r->elem_bytes, slot));
    if (r->shards == 1) {
        return all_reduce(r, comm, order, all, request);
    }
    for (int shard = 0; shard < r->shards; shard++) {
        r->counts[0][shard] =
            ls_partition_slice(r->partition, ls_reducer_unit(r, order), shard).elems;
    }
    ls_flight_set_bucket(order);
    return comm->ops->reduce_scatter_start(comm, slot, staged(r, order, kept(r, order)),
                                           r->counts[0], LS_BF16,
                                           comm->on_device ? LS_SUM : LS_SUM_TREE, request);
}

static ls_status widen(ls_reducer *r, int64_t order) {
    const ls_range own = kept(r, order);
    return r->dev->ops->widen(r->dev, LS_BF16, own.elems, staged(r, order, own),
                              (char *)r->buffers[0] + own.first * r->elem_bytes);
}

ls_status ls_reducer_narrow_summed(ls_reducer *r, int64_t order) {
    return ls_reducer_is_one_call(r)
               ? widen(r, order)
               : all_reduce(r, r->gather_comm, order, kept(r, order), &r->gathers[order]);
}

ls_status ls_reducer_narrow_gathered(ls_reducer *r, int64_t order) {
    return ls_reducer_is_one_call(r) ? LS_OK : widen(r, order);
}
