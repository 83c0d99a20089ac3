/* Units go through a queue in the order in which backward finishes them, which is the same on all
 * ranks. The first SLOTS of the queue are on their way; when the first has arrived it is added to
 * the sums and leaves. In the last micro-batch of a global batch the sums of a unit are then
 * gathered among the replicas. */
#include "collectives/scatter.h"

#include "collectives/bucket.h"
#include "collectives/recorded.h"
#include "collectives/scatter_tree.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 2, POOL = 2, MAX_BUFFERS = POOL + 2, NARROW_BYTES = 2 };

typedef struct buffer {
    void *memory;
    int64_t elems;
    int block;      /* lent to; -1: to none */
    int units_left; /* that have not been added up; 0: it may be lent */
} buffer;

typedef struct job {
    int unit;
    int64_t micro;
    buffer *from;
    ls_comm_request *exchange;
} job;

struct ls_scatter {
    ls_scatter_options options;
    ls_comm *exchange_comm, *gather_comm;
    ls_device *dev;
    int64_t elem_bytes;
    size_t bytes;
    bool planning; /* device memory is counted, not taken */
    int ranks, shards, replicas;
    ls_range *blocks;
    int *first_unit; /* [block_count + 1] */
    int64_t *places; /* [unit_count]: of this rank's slices in the sums */

    void **sums;   /* [tree.levels]; the first is the caller's */
    bool narrow;   /* what travels is bf16: */
    char *outbox;  /* [SLOTS] units of out_bytes (0 unless narrow), */
    char *inbox;   /* [SLOTS][ranks - 1] slices; in `memory` */
    void *scratch; /* [SLOTS, narrow: 1][ranks - 1] slices */
    int64_t slice_elems, out_bytes;
    buffer buffers[MAX_BUFFERS]; /* the pool, the large one, block 0's */
    void *memory; /* of the buffers; from exchange_comm, which reads it where it is */

    ls_scatter_tree tree;

    job *queue; /* ring; as many as the buffers hold units of */
    int64_t capacity, queued, started, added;
    int64_t micro; /* under way; -1 before the first; micro_batches or more outside of a batch */
    int blocks_ready;
    bool in_batch;
    ls_comm_request **gathers; /* [unit_count] */
    int64_t *counts[2], *offsets[2];
};

static ls_range slice_of(const ls_scatter *s, int unit, int rank) {
    return ls_bucket_slice(s->options.partition, unit, s->ranks, rank);
}

/* Where an element of this rank's slice of a unit lies in the sums. */
static int64_t place_of(const ls_scatter *s, int unit, int64_t elem) {
    const ls_partition *p = s->options.partition;
    return s->places[unit] + elem -
           ls_partition_slice(p, unit, s->options.comm->rank % s->shards).first;
}

/* Creation */

static ls_status take(ls_scatter *s, int64_t count, size_t bytes, void *pointer_out) {
    s->bytes += (size_t)count * bytes;
    return ls_calloc((size_t)count, bytes, pointer_out);
}

static ls_status take_device(ls_scatter *s, int64_t elems, void **memory) {
    size_t bytes = (size_t)(elems * s->elem_bytes);
    s->bytes += bytes;
    if (s->planning) {
        *memory = NULL;
        return LS_OK;
    }
    return s->dev->ops->alloc(s->dev, bytes > 0 ? bytes : 1, memory);
}

static ls_status check_options(const ls_scatter_options *o) {
    if (o->micro_batches < 1 || o->block_count < 0 || o->pool_elems < 0) {
        return LS_FAIL(LS_E_SHAPE,
                       "%lld micro-batches and %d blocks; at least 1 and 0 are expected",
                       (long long)o->micro_batches, o->block_count);
    }
    LS_TRY(ls_reducer_check_contexts(o->comm->size, o->context_ranks));
    if (o->comm->size % o->partition->shards != 0) {
        return LS_FAIL(LS_E_SHAPE, "%d ranks for a partition into %d shards; a multiple is needed",
                       o->comm->size, o->partition->shards);
    }
    return ls_reducer_check_memory(o->comm, o->dev);
}

/* Units of each block, and where slices lie. */
static ls_status index_units(ls_scatter *s) {
    const ls_scatter_options *o = &s->options;
    const ls_partition *p = o->partition;
    LS_TRY(take(s, o->block_count + 1, sizeof *s->first_unit, &s->first_unit));
    LS_TRY(take(s, p->unit_count, sizeof *s->places, &s->places));
    int64_t place = 0;
    int unit = 0;
    for (int b = 0; b < o->block_count; b++) {
        const int64_t end = o->blocks[b].first + o->blocks[b].elems;
        s->first_unit[b] = unit;
        for (; unit < p->unit_count && p->units[unit].range.first < end; unit++) {
            const ls_range r = p->units[unit].range;
            if (r.first + r.elems > end) {
                return LS_FAIL(LS_E_SHAPE, "unit %d of the partition ends beyond block %d", unit,
                               b);
            }
            s->places[unit] = place;
            place += ls_partition_slice(p, unit, o->comm->rank % s->shards).elems;
        }
    }
    s->first_unit[o->block_count] = unit;
    s->slice_elems = ls_bucket_longest_slice(p, s->ranks);
    s->out_bytes = s->narrow ? ls_bucket_narrow_bytes(p) : 0;
    return LS_OK;
}

static int64_t buffer_bytes(const ls_scatter *s, int i) {
    const int64_t align = 64, bytes = s->buffers[i].elems * s->elem_bytes;
    return (bytes + align - 1) / align * align;
}

static int64_t scratch_elems(const ls_scatter *s) {
    return (s->narrow ? 1 : SLOTS) * (s->ranks - 1) * s->slice_elems;
}

/* 0 unless narrow. */
static int64_t in_bytes(const ls_scatter *s) {
    return s->narrow ? SLOTS * (s->ranks - 1) * s->slice_elems * NARROW_BYTES : 0;
}

/* And of the scratch memory, where what is received in may have to be known to the library too. */
static int64_t buffers_bytes(const ls_scatter *s) {
    int64_t bytes = s->options.comm->on_device ? scratch_elems(s) * s->elem_bytes : 0;
    bytes += SLOTS * s->out_bytes + in_bytes(s);
    for (int i = 0; i < MAX_BUFFERS; i++) {
        bytes += buffer_bytes(s, i);
    }
    return bytes;
}

/* Counts it; once there is exchange_comm, takes it. */
static ls_status take_buffer_memory(ls_scatter *s) {
    const int64_t bytes = buffers_bytes(s);
    if (!s->exchange_comm) {
        s->bytes += (size_t)bytes;
        return LS_OK;
    }
    LS_TRY(s->exchange_comm->ops->alloc(s->exchange_comm, bytes, &s->memory));
    char *at = s->memory;
    for (int i = 0; i < MAX_BUFFERS; i++) {
        s->buffers[i].memory = at;
        at += buffer_bytes(s, i);
    }
    s->outbox = at;
    s->inbox = at + SLOTS * s->out_bytes;
    s->scratch = s->options.comm->on_device ? s->inbox + in_bytes(s) : s->scratch;
    return LS_OK;
}

static ls_status plan_buffers(ls_scatter *s) {
    const ls_scatter_options *o = &s->options;
    int64_t pool = 0, large = 0, units = 0;
    for (int b = o->first_held; b < o->block_count; b++) {
        int64_t *most = o->blocks[b].elems > o->pool_elems ? &large : &pool;
        *most = o->blocks[b].elems > *most ? o->blocks[b].elems : *most;
    }
    const int64_t elems[MAX_BUFFERS] = {
        pool, pool, large, o->first_held && o->block_count > 0 ? o->blocks[0].elems : 0};
    for (int i = 0; i < MAX_BUFFERS; i++) {
        s->buffers[i] = (buffer){.elems = elems[i], .block = -1};
    }
    LS_TRY(take_buffer_memory(s));
    for (int b = 0; b < o->block_count; b++) {
        int64_t n = s->first_unit[b + 1] - s->first_unit[b];
        units = n > units ? n : units;
    }
    s->capacity = units * MAX_BUFFERS;
    return take(s, s->capacity, sizeof *s->queue, &s->queue);
}

static ls_status take_memory(ls_scatter *s) {
    LS_TRY(index_units(s));
    const int contexts = s->options.context_ranks > 0 ? s->options.context_ranks : 1;
    LS_TRY(ls_scatter_tree_init(&s->tree, s->options.reduction == LS_REDUCTION_INVARIANT, s->ranks,
                                s->options.micro_batches, contexts));
    s->bytes += s->tree.bytes;
    LS_TRY(plan_buffers(s));
    LS_TRY(take(s, s->tree.levels, sizeof *s->sums, &s->sums));
    s->sums[0] = s->options.sums;
    int64_t kept = ls_partition_elems(s->options.partition, s->options.comm->rank % s->shards);
    for (int i = 1; i < s->tree.levels; i++) {
        LS_TRY(take_device(s, kept, &s->sums[i]));
    }
    LS_TRY(s->options.comm->on_device ? LS_OK : take_device(s, scratch_elems(s), &s->scratch));
    for (int i = 0; i < 2; i++) {
        LS_TRY(take(s, s->ranks, sizeof(int64_t), &s->counts[i]));
        LS_TRY(take(s, s->ranks, sizeof(int64_t), &s->offsets[i]));
    }
    return take(s, s->options.partition->unit_count, sizeof(ls_comm_request *), &s->gathers);
}

static ls_status build(const ls_scatter_options *options, ls_scatter *s) {
    s->options = *options;
    s->dev = options->dev;
    s->elem_bytes = (int64_t)ls_dtype_bytes(options->dev->acc);
    s->ranks = options->comm->size;
    s->shards = options->partition->shards;
    s->replicas = s->ranks / s->shards;
    s->narrow = ls_reducer_narrows(options->reduction, s->ranks);
    LS_TRY(take(s, options->block_count, sizeof *s->blocks, &s->blocks));
    for (int b = 0; b < options->block_count; b++) {
        s->blocks[b] = options->blocks[b];
    }
    s->options.blocks = s->blocks;
    return take_memory(s);
}

ls_status ls_scatter_plan(const ls_scatter_options *options, ls_reduction_bytes *bytes) {
    LS_TRY(check_options(options));
    ls_scatter *s;
    LS_TRY(ls_calloc(1, sizeof *s, &s));
    s->planning = true;
    ls_status status = build(options, s);
    const int64_t travels = s->narrow ? in_bytes(s) : scratch_elems(s) * s->elem_bytes;
    const int64_t read = s->narrow ? SLOTS * s->out_bytes : buffers_bytes(s);
    *bytes = (ls_reduction_bytes){s->bytes, (size_t)read, (size_t)travels};
    ls_scatter_destroy(s);
    return status;
}

ls_status ls_scatter_create(const ls_scatter_options *options, ls_scatter **scatter) {
    *scatter = NULL;
    LS_TRY(check_options(options));
    ls_scatter *s = NULL;
    ls_status status = ls_calloc(1, sizeof *s, &s);
    if (status == LS_OK) {
        status = build(options, s);
    }
    ls_comm *comm = options->comm;
    LS_TRY_GOTO(ls_comm_agree(comm, status), failed);
    LS_TRY_GOTO(comm->ops->duplicate(comm, &s->exchange_comm), failed);
    LS_TRY_GOTO(comm->ops->split(comm, comm->rank % s->shards, &s->gather_comm), failed);
    LS_TRY_GOTO(ls_comm_agree(comm, take_buffer_memory(s)), failed);
    ls_comm_name_group(s->exchange_comm, "gradients.scatter");
    ls_comm_name_group(s->gather_comm, "gradients.gather");
    *scatter = s;
    return LS_OK;
failed:
    ls_scatter_destroy(s);
    return status;
}

static void free_device(ls_scatter *s, void *memory) {
    if (memory) {
        s->dev->ops->free(s->dev, memory);
    }
}

void ls_scatter_destroy(ls_scatter *s) {
    if (!s || s->added < s->queued) {
        return;
    }
    for (int i = 1; s->sums && i < s->tree.levels; i++) {
        free_device(s, s->sums[i]);
    }
    free_device(s, s->options.comm->on_device ? NULL : s->scratch);
    if (s->exchange_comm) {
        s->exchange_comm->ops->give_back(s->exchange_comm, s->memory);
    }
    ls_comm *comms[] = {s->exchange_comm, s->gather_comm};
    for (int i = 0; i < 2; i++) {
        if (comms[i]) {
            comms[i]->ops->destroy(comms[i]);
        }
        free(s->counts[i]);
        free(s->offsets[i]);
    }
    free(s->blocks);
    free(s->first_unit);
    free(s->places);
    free(s->sums);
    ls_scatter_tree_release(&s->tree);
    free(s->queue);
    free(s->gathers);
    free(s);
}

/* Stages */

/* Where rank r's part of this rank's slice lies once it has arrived. */
static char *arrived(const ls_scatter *s, int64_t order, int rank) {
    const int me = s->options.comm->rank, place = rank < me ? rank : rank - 1;
    const int64_t slot = s->narrow ? 0 : order % SLOTS; /* narrow ones are widened in turn */
    return (char *)s->scratch + (slot * (s->ranks - 1) + place) * s->slice_elems * s->elem_bytes;
}

/* And before that, narrow. */
static char *received(const ls_scatter *s, int64_t order, int rank) {
    const int me = s->options.comm->rank, place = rank < me ? rank : rank - 1;
    return s->inbox + ((order % SLOTS) * (s->ranks - 1) + place) * s->slice_elems * NARROW_BYTES;
}

static ls_range block_of(const ls_scatter *s, const job *j) {
    return s->options.blocks[j->from->block];
}

static ls_status narrow_start(ls_scatter *s, int64_t order) {
    job *j = &s->queue[order % s->capacity];
    const int me = s->options.comm->rank;
    const ls_range own = slice_of(s, j->unit, me), all = s->options.partition->units[j->unit].range;
    char *const slot = s->outbox + order % SLOTS * s->out_bytes;
    for (int r = 0; r < s->ranks; r++) {
        const ls_range part = slice_of(s, j->unit, r);
        s->counts[0][r] = r == me ? 0 : part.elems * NARROW_BYTES;
        s->offsets[0][r] = (part.first - all.first) * NARROW_BYTES;
        s->counts[1][r] = r == me ? 0 : own.elems * NARROW_BYTES;
        s->offsets[1][r] = r == me ? 0 : received(s, order, r) - s->inbox;
    }
    const char *from = (char *)j->from->memory + (all.first - block_of(s, j).first) * s->elem_bytes;
    LS_TRY(s->dev->ops->cast(s->dev, LS_BF16, all.elems, from, slot));
    ls_flight_set_bucket(order);
    ls_comm *comm = s->exchange_comm;
    return comm->ops->all_to_all_start(comm, slot, s->counts[0], s->offsets[0], s->inbox,
                                       s->counts[1], s->offsets[1], &j->exchange);
}

static ls_status widen_received(ls_scatter *s, int64_t order, int64_t elems) {
    for (int r = 0; r < s->ranks && s->narrow; r++) {
        LS_TRY(r == s->options.comm->rank
                   ? LS_OK
                   : s->dev->ops->widen(s->dev, LS_BF16, elems, received(s, order, r),
                                        arrived(s, order, r)));
    }
    return LS_OK;
}

static ls_status exchange_start(ls_scatter *s, int64_t order) {
    if (s->narrow) {
        return narrow_start(s, order);
    }
    job *j = &s->queue[order % s->capacity];
    const int me = s->options.comm->rank;
    const ls_range own = slice_of(s, j->unit, me);
    for (int r = 0; r < s->ranks; r++) {
        const ls_range part = slice_of(s, j->unit, r);
        s->counts[0][r] = r == me ? 0 : part.elems * s->elem_bytes;
        s->offsets[0][r] = (part.first - block_of(s, j).first) * s->elem_bytes;
        s->counts[1][r] = r == me ? 0 : own.elems * s->elem_bytes;
        s->offsets[1][r] = r == me ? 0 : arrived(s, order, r) - (char *)s->scratch;
    }
    ls_flight_set_bucket(order);
    ls_comm *comm = s->exchange_comm;
    return comm->ops->all_to_all_start(comm, j->from->memory, s->counts[0], s->offsets[0],
                                       s->scratch, s->counts[1], s->offsets[1], &j->exchange);
}

/* Memory of a node of the plan for this rank's slice of the unit. */
static char *node_at(const ls_scatter *s, int64_t order, int id) {
    const job *j = &s->queue[order % s->capacity];
    const int me = s->options.comm->rank, rank = id - s->tree.levels;
    const ls_range own = slice_of(s, j->unit, me);
    if (rank == me) {
        return (char *)j->from->memory + (own.first - block_of(s, j).first) * s->elem_bytes;
    }
    return rank < 0 ? (char *)s->sums[id] + place_of(s, j->unit, own.first) * s->elem_bytes
                    : arrived(s, order, rank);
}

static ls_status add_up(ls_scatter *s, int64_t order) {
    const job *j = &s->queue[order % s->capacity];
    const ls_scatter_turn *p = &s->tree.turns[j->micro];
    const int64_t n = slice_of(s, j->unit, s->options.comm->rank).elems;
    if (n == 0) {
        return LS_OK;
    }
    LS_TRY(widen_received(s, order, n));
    for (int i = 0; i < p->adds; i++) {
        const ls_tree_add *a = &s->tree.adds[p->first_add + i];
        LS_TRY(s->dev->ops->add(s->dev, s->dev->acc, n, node_at(s, order, a->from),
                                node_at(s, order, a->to)));
    }
    for (int i = 0; i < p->moves; i++) {
        const ls_tree_add *m = &s->tree.moves[p->first_move + i];
        LS_TRY(s->dev->ops->copy(s->dev, node_at(s, order, m->to), node_at(s, order, m->from),
                                 (size_t)(n * s->elem_bytes)));
    }
    return LS_OK;
}

/* The replicas of a shard have a part each of its sums. */
static ls_status gather_start(ls_scatter *s, int unit) {
    const int shard = s->options.comm->rank % s->shards;
    for (int i = 0; i < s->replicas; i++) {
        const ls_range part = slice_of(s, unit, i * s->shards + shard);
        s->counts[0][i] = part.elems * s->elem_bytes;
        s->offsets[0][i] = place_of(s, unit, part.first) * s->elem_bytes;
    }
    ls_comm *comm = s->gather_comm;
    return comm->ops->all_gather_start(comm, (char *)s->sums[0] + s->offsets[0][comm->rank],
                                       s->sums[0], s->counts[0], s->offsets[0], &s->gathers[unit]);
}

static ls_status retire(ls_scatter *s) {
    job *j = &s->queue[s->added % s->capacity];
    LS_TRY(add_up(s, s->added));
    if (--j->from->units_left == 0) {
        j->from->block = -1;
    }
    s->added++;
    return s->replicas > 1 && j->micro + 1 == s->options.micro_batches ? gather_start(s, j->unit)
                                                                       : LS_OK;
}

/* Takes units as far as they go, and waits until `added` of them have been added up. A device is
 * not asked how far they are, since its operations must come in the same order on all ranks: its
 * stream waits for the oldest unit when the next one needs its place. */
static ls_status advance(ls_scatter *s, int64_t added) {
    for (;;) {
        for (; s->started < s->queued && s->started - s->added < SLOTS; s->started++) {
            LS_TRY(exchange_start(s, s->started));
        }
        if (s->added == s->started) {
            return LS_OK;
        }
        job *j = &s->queue[s->added % s->capacity];
        const bool on_device = s->options.comm->on_device;
        bool done = true;
        if (s->added < added || (on_device && s->started < s->queued)) {
            LS_TRY(s->exchange_comm->ops->wait(s->exchange_comm, j->exchange));
        } else if (on_device) {
            return LS_OK;
        } else {
            LS_TRY(s->exchange_comm->ops->test(s->exchange_comm, j->exchange, &done));
        }
        if (!done) {
            return LS_OK;
        }
        LS_TRY(retire(s));
    }
}

/* The caller's side */

static ls_status wrong_order(const char *call) {
    return LS_FAIL(LS_E_SHAPE, "ls_scatter_%s was called out of order", call);
}

ls_status ls_scatter_begin(ls_scatter *s) {
    if (s->in_batch) {
        return wrong_order("begin");
    }
    s->in_batch = true;
    s->micro = -1;
    s->blocks_ready = s->options.block_count;
    s->queued = s->started = s->added = 0;
    return LS_OK;
}

ls_status ls_scatter_micro_begin(ls_scatter *s) {
    if (!s->in_batch || s->blocks_ready < s->options.block_count ||
        s->micro + 1 == s->options.micro_batches) {
        return wrong_order("micro_begin");
    }
    s->micro++;
    s->blocks_ready = 0;
    return LS_OK;
}

/* A buffer for the block: the one it has, else a free one, waiting for the oldest. */
static ls_status find_buffer(ls_scatter *s, int block, buffer **out) {
    const ls_scatter_options *o = &s->options;
    const bool held = block == 0 && o->first_held,
               is_large = o->blocks[block].elems > o->pool_elems;
    buffer *first = &s->buffers[held ? POOL + 1 : is_large ? POOL : 0];
    const int choices = held || is_large ? 1 : POOL;
    for (;;) {
        for (int i = 0; i < choices; i++) {
            if (first[i].block == block && first[i].units_left == 0) {
                *out = &first[i];
                return LS_OK;
            }
        }
        for (int i = 0; i < choices; i++) {
            if (first[i].block < 0) {
                *out = &first[i];
                return LS_OK;
            }
        }
        if (s->added == s->queued) {
            return LS_FAIL(LS_E_SHAPE,
                           "no buffer for the gradients of block %d: the blocks before "
                           "it are not ready",
                           block);
        }
        LS_TRY(advance(s, s->added + 1));
    }
}

static ls_status lend(ls_scatter *s, int block, buffer **out, bool *fresh) {
    if (!s->in_batch || s->micro < 0 || block < 0 || block >= s->options.block_count) {
        return wrong_order("block");
    }
    LS_TRY(find_buffer(s, block, out));
    *fresh = (*out)->block < 0;
    (*out)->block = block;
    return LS_OK;
}

ls_status ls_scatter_block(ls_scatter *s, int block, void **grads, bool *fresh) {
    buffer *b;
    LS_TRY(lend(s, block, &b, fresh));
    *grads = b->memory;
    return LS_OK;
}

ls_status ls_scatter_ready(ls_scatter *s, int block) {
    buffer *b;
    bool fresh;
    LS_TRY(lend(s, block, &b, &fresh));
    if (fresh) { /* a block without gradients */
        const size_t bytes = (size_t)(s->options.blocks[block].elems * s->elem_bytes);
        LS_TRY(s->dev->ops->zero(s->dev, b->memory, bytes));
    }
    if (++s->blocks_ready > s->options.block_count) {
        return wrong_order("ready");
    }
    b->units_left = s->first_unit[block + 1] - s->first_unit[block];
    for (int unit = s->first_unit[block + 1] - 1; unit >= s->first_unit[block]; unit--) {
        s->queue[s->queued++ % s->capacity] = (job){.unit = unit, .micro = s->micro, .from = b};
    }
    if (b->units_left == 0) {
        b->block = -1;
    }
    return advance(s, 0);
}

ls_status ls_scatter_progress(ls_scatter *s) {
    return advance(s, 0);
}

ls_status ls_scatter_finish(ls_scatter *s, uint64_t *wait_ns) {
    if (!s->in_batch || s->micro + 1 != s->options.micro_batches ||
        s->blocks_ready < s->options.block_count) {
        return wrong_order("finish");
    }
    const uint64_t start_ns = ls_clock_ns();
    LS_TRY(advance(s, s->queued));
    for (int unit = 0; s->replicas > 1 && unit < s->options.partition->unit_count; unit++) {
        LS_TRY(s->gather_comm->ops->wait(s->gather_comm, s->gathers[unit]));
    }
    *wait_ns = ls_clock_ns() - start_ns;
    s->in_batch = false;
    return LS_OK;
}
