/* Where every rank holds one node, the tree over them is the communicator's: a bucket is one
 * all-reduce, or one reduce-scatter to the shards. Otherwise buckets of the flat buffer go from its
 * end to its start through three stages, each of which takes them in that order, so that the ranks
 * agree on the order of operations without talking about it: exchange (fold the last leaf, send
 * each rank its slice of this rank's nodes), sum (this rank's slice of all nodes, then start to
 * gather it), done. Exchanging and gathering have a communicator each, as one overtakes the other
 * differently on each rank. All is sent between pairs of ranks, so that two calls of progress take
 * a bucket from stage to stage, where a ring would need two for each rank. */
#include "collectives/comm_impl.h"
#include "collectives/recorded.h"
#include "collectives/reduce_impl.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"

#include <stdlib.h>
#include <string.h>

static int node_count(const ls_reducer *r, int rank) {
    return r->first_node[rank + 1] - r->first_node[rank];
}

/* Where the owner finds its slice `s` of a node while it adds. */
static char *node_slice(const ls_reducer *r, int64_t order, int node, ls_range s) {
    const int me = r->comm->rank;
    if (node >= r->first_node[me] && node < r->first_node[me + 1]) {
        return (char *)r->buffers[node - r->first_node[me]] + s.first * r->elem_bytes;
    }
    int foreign = r->first_node[r->comm->size] - node_count(r, me);
    int place = node < r->first_node[me] ? node : node - node_count(r, me);
    int64_t slot = order % LS_REDUCER_SLOTS;
    return (char *)r->scratch + (slot * foreign + place) * r->slice_elems * r->elem_bytes;
}

/* Creation */

ls_status ls_reducer_check_memory(const ls_comm *comm, const ls_device *dev) {
    if (comm->on_device == dev->host_memory) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "reduction of gradients in the memory of device '%s' by a communicator for "
                       "the memory of %s",
                       dev->describe, comm->on_device ? "a GPU" : "the host");
    }
    return LS_OK;
}

ls_status ls_reducer_check_contexts(int ranks, int context_ranks) {
    return context_ranks == 0 || (context_ranks > 0 && ranks % context_ranks == 0)
               ? LS_OK
               : LS_FAIL(LS_E_SHAPE,
                         "%d ranks, %d of which share micro-batches; a divisor is needed", ranks,
                         context_ranks);
}

static ls_status check_options(const ls_reducer_options *o) {
    if (o->micro_batches < 1 || o->micro_batches % o->comm->size != 0) {
        return LS_FAIL(LS_E_SHAPE,
                       "%lld micro-batches on %d ranks; a positive multiple of the ranks is needed",
                       (long long)o->micro_batches, o->comm->size);
    }
    LS_TRY(ls_reducer_check_contexts(o->comm->size, o->context_ranks));
    if (o->partition && o->comm->size % o->partition->shards != 0) {
        return LS_FAIL(LS_E_SHAPE, "%d ranks for a partition into %d shards; a multiple is needed",
                       o->comm->size, o->partition->shards);
    }
    return ls_reducer_check_memory(o->comm, o->dev);
}

/* Buckets are the units of the partition: the caller's, or one of our own. */
static ls_status plan_buckets(ls_reducer *r, const ls_reducer_options *o) {
    r->partition = o->partition;
    if (!r->partition) {
        LS_TRY(ls_bucket_cut(o->elems, r->elem_bytes, o->bucket_bytes, o->fronts, o->comm->size,
                             &r->own_partition));
        r->partition = &r->own_partition;
    }
    r->bucket_count = r->partition->unit_count;
    r->shards = r->partition->shards;
    r->replicas = r->comm->size / r->shards;
    r->shard = r->comm->rank % r->shards;
    r->slice_elems = ls_bucket_longest_slice(r->partition, r->comm->size);
    return LS_OK;
}

static ls_status take(ls_reducer *r, int64_t count, size_t bytes, void *pointer_out) {
    r->extra_bytes += (size_t)count * bytes;
    return ls_calloc((size_t)count, bytes, pointer_out);
}

static int64_t first_leaf(const ls_reducer *r, int rank) {
    return ls_reducer_place(rank, r->comm->size, r->context_ranks) * r->local_leaves;
}

/* Folds every rank's range of leaves, then their nodes: what is held where, and the owner's sum. */
static ls_status plan_tree(ls_reducer *r) {
    const int size = r->comm->size;
    ls_tree_stack range, whole = {.leaves = r->leaves};
    ls_tree_add adds[LS_TREE_MAX_ADDS];
    for (int rank = 0; rank < size; rank++) {
        int deepest = ls_tree_fold_range(&range, r->leaves, first_leaf(r, rank), r->local_leaves);
        r->buffer_count = rank == r->comm->rank ? deepest : r->buffer_count;
        r->most_buffers = deepest > r->most_buffers ? deepest : r->most_buffers;
        r->most_nodes = range.depth > r->most_nodes ? range.depth : r->most_nodes;
        r->first_node[rank + 1] = r->first_node[rank] + range.depth;
    }
    LS_TRY(take(r, r->first_node[size], sizeof *r->tree_adds, &r->tree_adds));
    for (int place = 0; place < size; place++) {
        const int rank = ls_reducer_place(place, size, size / r->context_ranks); /* the inverse */
        ls_tree_fold_range(&range, r->leaves, first_leaf(r, rank), r->local_leaves);
        for (int i = 0; i < range.depth; i++) {
            range.nodes[i].id = r->first_node[rank] + i;
            int n = ls_tree_push(&whole, range.nodes[i], adds);
            memcpy(r->tree_adds + r->tree_add_count, adds, (size_t)n * sizeof *adds);
            r->tree_add_count += n;
        }
    }
    return LS_OK;
}

static ls_status take_device(ls_reducer *r, int64_t bytes, void **memory) {
    r->extra_bytes += (size_t)bytes;
    return r->planning ? LS_OK : r->dev->ops->alloc(r->dev, bytes > 0 ? (size_t)bytes : 1, memory);
}

/* In memory of a communicator as many on each rank. */
static int64_t scratch_bytes(const ls_reducer *r) {
    const int own = r->comm->on_device ? 0 : node_count(r, r->comm->rank);
    const bool adds = !ls_reducer_is_one_call(r) && !r->narrow;
    const int64_t places = adds ? ls_min_i64(LS_REDUCER_SLOTS, r->bucket_count) : 0;
    return places * (r->first_node[r->comm->size] - own) * r->slice_elems * r->elem_bytes;
}

static ls_status take_memory(ls_reducer *r, void *buffer) {
    const int size = r->comm->size;
    LS_TRY(take(r, size + 1, sizeof *r->first_node, &r->first_node));
    LS_TRY(plan_tree(r));
    const int nodes = r->first_node[size], buffers = r->buffer_count;
    LS_TRY(take(r, nodes > buffers ? nodes : buffers, sizeof *r->places, &r->places));
    LS_TRY(take(r, ls_reducer_slots(r) * r->most_nodes, sizeof(ls_comm_request *), &r->exchanges));
    LS_TRY(take(r, r->bucket_count, sizeof(ls_comm_request *), &r->gathers));
    for (int i = 0; i < 2; i++) {
        LS_TRY(take(r, size, sizeof(int64_t), &r->counts[i]));
        LS_TRY(take(r, size, sizeof(int64_t), &r->offsets[i]));
    }
    LS_TRY(take(r, r->buffer_count, sizeof(void *), &r->buffers));
    r->buffers[0] = buffer;
    r->lent_buffer = buffer != NULL;
    return r->comm->on_device ? LS_OK : take_device(r, scratch_bytes(r), &r->scratch);
}

/* Ranks may need different numbers of buffers, but take the same memory. */
static int64_t buffer_stride(const ls_reducer *r) {
    return ls_bucket_align(r->elems) * r->elem_bytes;
}

static int64_t buffer_bytes(const ls_reducer *r) {
    return (r->most_buffers - r->lent_buffer) * buffer_stride(r) + ls_reducer_stage_bytes(r) +
           (r->comm->on_device ? scratch_bytes(r) : 0);
}

static ls_status take_buffers(ls_reducer *r) {
    ls_comm *comm = r->exchange_comm;
    LS_TRY(comm->ops->alloc(comm, buffer_bytes(r), &r->memory));
    for (int i = r->lent_buffer; i < r->buffer_count; i++) {
        r->buffers[i] = (char *)r->memory + (i - r->lent_buffer) * buffer_stride(r);
    }
    r->stage = (char *)r->memory + (r->buffer_count - r->lent_buffer) * buffer_stride(r);
    char *const end = (char *)r->memory + buffer_bytes(r);
    r->scratch = comm->on_device ? end - scratch_bytes(r) : r->scratch;
    return LS_OK;
}

/* All but the buffers, which come from a communicator; their bytes are counted here. */
static ls_status build(const ls_reducer_options *options, ls_reducer *r) {
    r->comm = options->comm;
    r->dev = options->dev;
    r->elem_bytes = (int64_t)ls_dtype_bytes(options->dev->acc);
    r->elems = options->elems;
    r->micro_batches = options->micro_batches;
    r->local_batches = options->micro_batches / options->comm->size;
    r->next_batch = r->local_batches + 1;
    r->invariant = options->reduction == LS_REDUCTION_INVARIANT;
    r->narrow = ls_reducer_narrows(options->reduction, options->comm->size);
    r->leaves = r->invariant ? r->micro_batches : options->comm->size;
    r->local_leaves = r->invariant ? r->local_batches : 1;
    r->context_ranks =
        ls_reducer_contexts(options->reduction, options->comm->size, options->context_ranks);
    LS_TRY(plan_buckets(r, options));
    r->slot_bytes = r->narrow ? ls_bucket_narrow_bytes(r->partition) : 0;
    LS_TRY(take_memory(r, options->buffer));
    r->extra_bytes += (size_t)buffer_bytes(r);
    r->extra_bytes -= r->lent_buffer ? 0 : (size_t)(r->elems * r->elem_bytes);
    return LS_OK;
}

/* Of each bucket under way all slices but the rank's own, in an operation of the back end; half of
 * them come before they are asked for, as measured. Of an exchange, whose slices lie in scratch
 * memory of the reducer's, all are counted to come early. */
static int64_t between_hosts_bytes(const ls_reducer *r) {
    const int64_t slices = ls_min_i64(ls_reducer_slots(r), r->bucket_count) * (r->comm->size - 1);
    const int64_t elem_bytes = r->narrow ? LS_REDUCER_NARROW_BYTES : r->elem_bytes;
    const int64_t bytes = slices * r->slice_elems * elem_bytes;
    return r->comm->on_device ? 0 : ls_reducer_is_one_call(r) ? bytes + bytes / 2 : bytes;
}

ls_status ls_reducer_plan(const ls_reducer_options *options, ls_reduction_bytes *bytes) {
    LS_TRY(check_options(options));
    ls_reducer *r;
    LS_TRY(ls_calloc(1, sizeof *r, &r));
    r->planning = true;
    ls_status status = build(options, r);
    const int64_t read = r->narrow ? ls_reducer_stage_bytes(r) : buffer_bytes(r);
    *bytes = (ls_reduction_bytes){r->extra_bytes, (size_t)read, (size_t)between_hosts_bytes(r)};
    ls_reducer_destroy(r);
    return status;
}

/* All ranks exchange and the replicas of a shard gather; narrow, the ranks of a replica reduce to
 * shards and then the replicas. */
static ls_status join(ls_reducer *r) {
    const bool one_call = ls_reducer_is_one_call(r), by_replica = r->narrow && !one_call;
    const ls_comm_ops *ops = r->comm->ops;
    LS_TRY(by_replica ? ops->split(r->comm, r->comm->rank / r->shards, &r->exchange_comm)
                      : ops->duplicate(r->comm, &r->exchange_comm));
    ls_comm_name_group(r->exchange_comm, one_call     ? "gradients"
                                         : by_replica ? "gradients.shards"
                                                      : "gradients.exchange");
    if (one_call) {
        return LS_OK;
    }
    LS_TRY(ops->split(r->comm, r->shard, &r->gather_comm));
    ls_comm_name_group(r->gather_comm, by_replica ? "gradients.replicas" : "gradients.gather");
    return LS_OK;
}

ls_status ls_reducer_create(const ls_reducer_options *options, ls_reducer **reducer) {
    LS_TRY(check_options(options));
    ls_reducer *r = NULL;
    ls_status status = ls_calloc(1, sizeof *r, &r);
    if (status == LS_OK) {
        status = build(options, r);
    }
    LS_TRY_GOTO(ls_comm_agree(options->comm, status), failed);
    LS_TRY_GOTO(join(r), failed);
    LS_TRY_GOTO(ls_comm_agree(r->comm, take_buffers(r)), failed);
    *reducer = r;
    return LS_OK;
failed:
    ls_reducer_destroy(r);
    return status;
}

void ls_reducer_destroy(ls_reducer *r) {
    if (!r || r->done < r->started) {
        return;
    }
    if (r->scratch && !r->comm->on_device) {
        r->dev->ops->free(r->dev, r->scratch);
    }
    if (r->exchange_comm) {
        r->exchange_comm->ops->give_back(r->exchange_comm, r->memory);
        r->exchange_comm->ops->destroy(r->exchange_comm);
    }
    if (r->gather_comm) {
        r->gather_comm->ops->destroy(r->gather_comm);
    }
    free(r->buffers);
    free(r->first_node);
    free(r->tree_adds);
    free(r->places);
    free(r->exchanges);
    free(r->gathers);
    for (int i = 0; i < 2; i++) {
        free(r->counts[i]);
        free(r->offsets[i]);
    }
    ls_partition_release(&r->own_partition);
    free(r);
}

void *ls_reducer_buffer(const ls_reducer *r) {
    return r->buffers[0];
}

size_t ls_reducer_bytes(const ls_reducer *r) {
    return r->extra_bytes;
}

/* Stages */

/* Makes the additions over n elements from r->places on. */
static ls_status add_all(ls_reducer *r, const ls_tree_add *adds, int count, int64_t n) {
    for (int i = 0; i < count; i++) {
        LS_TRY(r->dev->ops->add(r->dev, r->dev->acc, n, r->places[adds[i].from],
                                r->places[adds[i].to]));
    }
    return LS_OK;
}

/* Makes the additions that the current leaf allows. */
static ls_status fold(ls_reducer *r, ls_range b) {
    for (int i = 0; i < r->buffer_count; i++) {
        r->places[i] = (char *)r->buffers[i] + b.first * r->elem_bytes;
    }
    return add_all(r, r->adds, r->add_count, b.elems);
}

/* The whole reduction of a bucket in place. */
static ls_status reduce_start(ls_reducer *r, int64_t order) {
    const int unit = ls_reducer_unit(r, order);
    const ls_range all = r->partition->units[unit].range;
    char *base = r->buffers[0], *at = base + all.first * r->elem_bytes;
    ls_comm *comm = r->exchange_comm;
    ls_comm_request **request = &r->exchanges[order % ls_reducer_slots(r)];
    const ls_reduce op = comm->on_device ? LS_SUM : LS_SUM_TREE;
    ls_flight_set_bucket(order);
    if (r->shards == 1) {
        return comm->ops->all_reduce_start(comm, at, at, all.elems, r->dev->acc, op, request);
    }
    for (int rank = 0; rank < comm->size; rank++) {
        r->counts[0][rank] = ls_reducer_slice(r, unit, rank).elems;
    }
    char *own = base + ls_reducer_slice(r, unit, comm->rank).first * r->elem_bytes;
    return comm->ops->reduce_scatter_start(comm, at, own, r->counts[0], r->dev->acc, op, request);
}

/* Folds the last leaf, then reduces at once, or sends layer by layer: the i-th nodes of all ranks
 * that have as many. */
static ls_status exchange_start(ls_reducer *r, int64_t order) {
    const int me = r->comm->rank, size = r->comm->size;
    const int unit = ls_reducer_unit(r, order);
    const ls_range own = ls_reducer_slice(r, unit, me);
    LS_TRY(fold(r, r->partition->units[unit].range));
    if (r->narrow) {
        return ls_reducer_narrow_start(r, order);
    }
    if (ls_reducer_is_one_call(r)) {
        return reduce_start(r, order);
    }
    for (int i = 0; i < r->most_nodes; i++) {
        for (int rank = 0; rank < size; rank++) {
            ls_range s = ls_reducer_slice(r, unit, rank);
            bool sends = rank != me && i < node_count(r, me);
            bool receives = rank != me && i < node_count(r, rank);
            r->counts[0][rank] = sends ? s.elems * r->elem_bytes : 0;
            r->offsets[0][rank] = sends ? s.first * r->elem_bytes : 0;
            r->counts[1][rank] = receives ? own.elems * r->elem_bytes : 0;
            char *const to = node_slice(r, order, r->first_node[rank] + i, own);
            r->offsets[1][rank] = receives ? to - (char *)r->scratch : 0;
        }
        const void *node = r->buffers[i < node_count(r, me) ? i : 0];
        ls_comm *comm = r->exchange_comm;
        ls_flight_set_bucket(order);
        LS_TRY(comm->ops->all_to_all_start(
            comm, node, r->counts[0], r->offsets[0], r->scratch, r->counts[1], r->offsets[1],
            &r->exchanges[order % LS_REDUCER_SLOTS * r->most_nodes + i]));
    }
    return LS_OK;
}

/* Adds all nodes of this rank's slice in tree order into its buffer 0 and starts to gather what its
 * shard keeps. */
static ls_status sum_and_gather_start(ls_reducer *r, int64_t order) {
    const int unit = ls_reducer_unit(r, order);
    const ls_range own = ls_reducer_slice(r, unit, r->comm->rank);
    if (r->narrow) {
        return ls_reducer_narrow_summed(r, order);
    }
    if (ls_reducer_is_one_call(r)) {
        return LS_OK;
    }
    for (int i = 0; i < r->first_node[r->comm->size]; i++) {
        r->places[i] = node_slice(r, order, i, own);
    }
    LS_TRY(add_all(r, r->tree_adds, r->tree_add_count, own.elems));
    char *result = (char *)r->buffers[0] + own.first * r->elem_bytes;
    if (r->places[0] != result && own.elems > 0) {
        LS_TRY(
            r->dev->ops->copy(r->dev, result, r->places[0], (size_t)(own.elems * r->elem_bytes)));
    }
    for (int replica = 0; replica < r->replicas; replica++) {
        ls_range s = ls_reducer_slice(r, unit, replica * r->shards + r->shard);
        r->counts[0][replica] = s.elems * r->elem_bytes;
        r->offsets[0][replica] = s.first * r->elem_bytes;
    }
    ls_comm *comm = r->gather_comm;
    ls_flight_set_bucket(order);
    return comm->ops->all_gather_start(comm, result, r->buffers[0], r->counts[0], r->offsets[0],
                                       &r->gathers[order]);
}

/* Tests or awaits an operation; *request is NULL once it has completed. */
static ls_status complete(ls_comm *comm, bool wait, ls_comm_request **request) {
    bool done = *request == NULL;
    if (!done && wait) {
        LS_TRY(comm->ops->wait(comm, *request));
        done = true;
    } else if (!done) {
        LS_TRY(comm->ops->test(comm, *request, &done));
    }
    *request = done ? NULL : *request;
    return LS_OK;
}

static ls_status complete_exchange(ls_reducer *r, int64_t order, bool wait, bool *done) {
    for (int i = 0; i < r->most_nodes; i++) {
        ls_comm_request **request = &r->exchanges[order % ls_reducer_slots(r) * r->most_nodes + i];
        LS_TRY(complete(r->exchange_comm, wait, request));
        if (*request) {
            *done = false;
            return LS_OK;
        }
    }
    *done = true;
    return LS_OK;
}

/* The first bucket that still has its slot: narrow ones are gathered there, too. */
static int64_t oldest(const ls_reducer *r) {
    return r->narrow && !ls_reducer_is_one_call(r) ? r->done : r->summed;
}

/* Moves buckets on as far as they go. One test drives all operations, so the last stage is looked
 * at only when nothing is ahead of it. A device is not asked, since its operations must come in the
 * same order on all ranks: its stream waits for the oldest bucket when the next one needs a slot.
 */
static ls_status advance(ls_reducer *r, bool finish) {
    for (;;) {
        bool moved = false;
        for (; r->started < r->ready && r->started - oldest(r) < ls_reducer_slots(r);
             r->started++) {
            LS_TRY(exchange_start(r, r->started));
        }
        const bool wait = finish || (r->comm->on_device && r->started < r->ready);
        if (r->comm->on_device && !wait) {
            return LS_OK;
        }
        if (r->summed < r->started) {
            LS_TRY(complete_exchange(r, r->summed, wait, &moved));
            if (moved) {
                LS_TRY(sum_and_gather_start(r, r->summed));
                r->summed++;
            }
        } else if (r->done < r->summed) {
            LS_TRY(complete(r->gather_comm, wait, &r->gathers[r->done]));
            moved = r->gathers[r->done] == NULL;
            LS_TRY(moved && r->narrow ? ls_reducer_narrow_gathered(r, r->done) : LS_OK);
            r->done += moved;
        }
        if (!moved) {
            return LS_OK;
        }
    }
}

/* The caller's side */

static ls_status wrong_order(const char *call) {
    return LS_FAIL(LS_E_SHAPE, "ls_reducer_%s was called out of order", call);
}

ls_status ls_reducer_begin(ls_reducer *r) {
    if (r->next_batch <= r->local_batches) {
        return wrong_order("begin");
    }
    r->stack.leaves = r->leaves;
    r->stack.depth = 0;
    r->next_batch = 0;
    r->in_batch = false;
    r->ready = r->started = r->summed = r->done = 0;
    return LS_OK;
}

ls_status ls_reducer_micro_begin(ls_reducer *r, int64_t local, void **grads, bool *fresh) {
    if (r->in_batch || local != r->next_batch || local >= r->local_batches) {
        return wrong_order("micro_begin");
    }
    r->in_batch = true;
    int buffer = 0;
    *fresh = local < r->local_leaves;
    if (*fresh) {
        buffer = r->stack.depth;
        const ls_tree_node leaf = {.index = first_leaf(r, r->comm->rank) + local, .id = buffer};
        r->add_count = ls_tree_push(&r->stack, leaf, r->adds);
    }
    *grads = r->buffers[buffer];
    return LS_OK;
}

ls_status ls_reducer_ready(ls_reducer *r, int64_t first_elem) {
    if (!r->in_batch) {
        return wrong_order("ready");
    }
    if (first_elem < 0 || first_elem > r->elems) {
        return LS_FAIL(LS_E_SHAPE, "gradients ready from element %lld of %lld",
                       (long long)first_elem, (long long)r->elems);
    }
    if (r->next_batch + 1 < r->local_batches) {
        return LS_OK;
    }
    while (r->ready < r->bucket_count &&
           r->partition->units[ls_reducer_unit(r, r->ready)].range.first >= first_elem) {
        r->ready++;
    }
    return advance(r, false);
}

ls_status ls_reducer_micro_end(ls_reducer *r) {
    if (!r->in_batch) {
        return wrong_order("micro_end");
    }
    if (r->next_batch + 1 == r->local_batches) {
        LS_TRY(ls_reducer_ready(r, 0));
    } else {
        LS_TRY(fold(r, (ls_range){.first = 0, .elems = r->elems}));
    }
    r->in_batch = false;
    r->next_batch++;
    return LS_OK;
}

ls_status ls_reducer_progress(ls_reducer *r) {
    return advance(r, false);
}

ls_status ls_reducer_finish(ls_reducer *r, void **grads, uint64_t *wait_ns) {
    if (r->in_batch || r->next_batch != r->local_batches) {
        return wrong_order("finish");
    }
    const uint64_t start_ns = ls_clock_ns();
    LS_TRY(advance(r, true));
    *grads = r->buffers[0];
    *wait_ns = ls_clock_ns() - start_ns;
    r->next_batch++;
    return LS_OK;
}
