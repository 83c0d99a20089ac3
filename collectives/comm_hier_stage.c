/* The stages of operations over several hosts. */
#include "collectives/comm_hier_impl.h"

/* Planning */

static void add_stage(ls_comm_request *r, hier_way way, int64_t each) {
    r->stage[r->stages++] = (hier_stage){.way = way, .each = each, .total = r->chunks * each};
}

void ls_hier_plan(const hier_comm *c, ls_comm_request *r, int64_t chunks) {
    const int hosts = c->across->size;
    r->chunks = chunks;
    switch (r->kind) {
    case HIER_ALL_REDUCE:
        add_stage(r, WAY_DOWN, 1);
        add_stage(r, WAY_ACROSS, 1);
        add_stage(r, WAY_UP, 1);
        break;
    case HIER_REDUCE:
        add_stage(r, WAY_DOWN, 1);
        if (c->places[r->root].inside == c->inside->rank) {
            add_stage(r, WAY_ACROSS, 1);
        }
        break;
    case HIER_REDUCE_SCATTER:
        add_stage(r, WAY_DOWN, hosts);
        add_stage(r, WAY_ACROSS, 1);
        break;
    case HIER_ALL_GATHER:
        add_stage(r, WAY_ACROSS, 1);
        add_stage(r, WAY_UP, hosts);
        break;
    default:
        add_stage(r, WAY_ACROSS, 1);
        add_stage(r, WAY_UP, 1);
        break;
    }
}

/* Elements [first, first + n) of the vector are chunk k. */
typedef struct range {
    int64_t first, n;
} range;

static range chunk_of(const ls_comm_request *r, int64_t k) {
    /* Whole cache lines, so that chunks are cut alike in memory of any kind. */
    const int64_t each = (ls_ceil_div(r->count, r->chunks) + 63) / 64 * 64;
    const int64_t first = ls_min_i64(k * each, r->count);
    return (range){.first = first, .n = ls_min_i64(each, r->count - first)};
}

/* The slices of a chunk, in units of `unit` bytes from `first` on. */
static void slice(const hier_comm *c, range chunk, int64_t first, int64_t unit) {
    const int size = c->inside->size;
    for (int i = 0; i < size; i++) {
        const int64_t begin = ls_slice_first(chunk.n, size, i);
        c->counts[i] = (ls_slice_first(chunk.n, size, i + 1) - begin) * unit;
        c->offsets[i] = (first + begin) * unit;
    }
}

/* All-reduce: this rank's slice of a chunk travels across. */
static ls_status all_reduce_op(hier_comm *c, ls_comm_request *r, hier_stage *s, int64_t k,
                               ls_comm_request **flying) {
    ls_comm *comm = ls_hier_comm_of(c, s);
    const range chunk = chunk_of(r, k);
    const int me = c->inside->rank, size = c->inside->size;
    const int64_t begin = ls_slice_first(chunk.n, size, me);
    char *mine = r->recv + (chunk.first + begin) * r->unit;
    switch (s->way) {
    case WAY_DOWN:
        slice(c, chunk, 0, 1);
        return comm->ops->reduce_scatter_start(comm, r->send + chunk.first * r->unit, mine,
                                               c->counts, r->dtype, r->op, flying);
    case WAY_ACROSS:
        /* Sums of the host in our own order, which is as fast, known, and moved on by whoever
         * waits. */
        return comm->ops->all_reduce_start(
            comm, mine, mine, ls_slice_first(chunk.n, size, me + 1) - begin, r->dtype,
            r->op == LS_SUM && !comm->on_device ? LS_SUM_TREE : r->op, flying);
    default:
        slice(c, chunk, chunk.first, r->unit);
        return comm->ops->all_gather_start(comm, mine, r->recv, c->counts, c->offsets, flying);
    }
}

/* Reduce: to the rank with the root's place on each host, then to the root. */
static ls_status reduce_op(hier_comm *c, ls_comm_request *r, hier_stage *s, int64_t k,
                           ls_comm_request **flying) {
    ls_comm *comm = ls_hier_comm_of(c, s);
    const range chunk = chunk_of(r, k);
    const hier_place root = c->places[r->root];
    char *partial = (r->root == c->base.rank ? r->recv : r->scratch) + chunk.first * r->unit;
    if (s->way == WAY_DOWN) {
        return comm->ops->reduce_start(comm, r->send + chunk.first * r->unit,
                                       root.inside == c->inside->rank ? partial : NULL, chunk.n,
                                       r->dtype, r->op, root.inside, flying);
    }
    return comm->ops->reduce_start(comm, partial, partial, chunk.n, r->dtype, r->op, root.host,
                                   flying);
}

/* Reduce-scatter: for each host, its ranks' blocks inside; then this rank's block across. */
static ls_status reduce_scatter_op(hier_comm *c, ls_comm_request *r, hier_stage *s, int64_t i,
                                   ls_comm_request **flying) {
    ls_comm *comm = ls_hier_comm_of(c, s);
    const int me = c->inside->rank, size = c->inside->size;
    if (s->way == WAY_ACROSS) {
        for (int host = 0; host < c->across->size; host++) {
            c->counts[host] = r->counts[host * size + me];
        }
        return comm->ops->reduce_scatter_start(comm, r->scratch, r->recv, c->counts, r->dtype,
                                               r->op, flying);
    }
    int64_t before = 0, taken = 0;
    for (int rank = 0; rank < i * size; rank++) {
        before += r->counts[rank];
        taken += rank % size == me ? r->counts[rank] : 0;
    }
    return comm->ops->reduce_scatter_start(comm, r->send + before * r->unit,
                                           r->scratch + taken * r->unit, r->counts + i * size,
                                           r->dtype, r->op, flying);
}

/* All-gather: piece k of this place's blocks across; then for each host its ranks' pieces inside.
 */
static ls_status all_gather_op(hier_comm *c, ls_comm_request *r, hier_stage *s, int64_t i,
                               ls_comm_request **flying) {
    ls_comm *comm = ls_hier_comm_of(c, s);
    const int size = c->inside->size, hosts = c->across->size;
    const int64_t k = i / s->each, host = i % s->each;
    /* Whole cache lines, as far as the blocks allow it. */
    const int64_t piece = (ls_ceil_div(r->count, r->chunks) + 63) / 64 * 64, at = k * piece;
    for (int j = 0; j < (s->way == WAY_UP ? size : hosts); j++) {
        const int64_t rank =
            s->way == WAY_UP ? c->rank_of[host * size + j] : c->rank_of[j * size + c->inside->rank];
        const int64_t left = r->counts[rank] - at;
        c->counts[j] = left < 0 ? 0 : ls_min_i64(left, piece);
        c->offsets[j] = r->offsets[rank] + ls_min_i64(at, r->counts[rank]);
    }
    const char *mine = s->way == WAY_UP ? r->recv + c->offsets[c->inside->rank]
                                        : r->send + ls_min_i64(at, r->counts[c->base.rank]);
    return comm->ops->all_gather_start(comm, mine, r->recv, c->counts, c->offsets, flying);
}

/* Broadcast: across among those of the root's place, then inside. */
static ls_status broadcast_op(hier_comm *c, ls_comm_request *r, hier_stage *s, int64_t k,
                              ls_comm_request **flying) {
    ls_comm *comm = ls_hier_comm_of(c, s);
    const range chunk = chunk_of(r, k);
    const hier_place root = c->places[r->root];
    if (s->way == WAY_ACROSS && root.inside != c->inside->rank) {
        *flying = NULL;
        return LS_OK;
    }
    return comm->ops->broadcast_start(comm, r->recv + chunk.first, chunk.n,
                                      s->way == WAY_ACROSS ? root.host : root.inside, flying);
}

/* Progress */

ls_status ls_hier_start_op(hier_comm *c, ls_comm_request *r, hier_stage *s) {
    const int64_t i = s->started++;
    ls_comm_request **flying = &s->flying[i % FLYING];
    switch (r->kind) {
    case HIER_ALL_REDUCE:
        return all_reduce_op(c, r, s, i, flying);
    case HIER_REDUCE:
        return reduce_op(c, r, s, i, flying);
    case HIER_REDUCE_SCATTER:
        return reduce_scatter_op(c, r, s, i, flying);
    case HIER_ALL_GATHER:
        return all_gather_op(c, r, s, i, flying);
    default:
        return broadcast_op(c, r, s, i, flying);
    }
}

/* Has the stage before delivered what operation s->started works on? */
static bool is_fed(const ls_comm_request *r, const hier_stage *s) {
    if (s == r->stage) {
        return true;
    }
    return s[-1].ended >= (s->started / s->each + 1) * s[-1].each;
}

static ls_status advance_stage(hier_comm *c, ls_comm_request *r, hier_stage *s, bool may_start) {
    ls_comm *comm = ls_hier_comm_of(c, s);
    for (; s->ended < s->started; s->ended++) {
        ls_comm_request *flying = s->flying[s->ended % FLYING];
        bool done = flying == NULL;
        if (!done) {
            LS_TRY(comm->ops->test(comm, flying, &done));
        }
        if (!done) {
            break;
        }
    }
    while (may_start && s->started < s->total && s->started - s->ended < FLYING && is_fed(r, s)) {
        LS_TRY(ls_hier_start_op(c, r, s));
    }
    return LS_OK;
}

static ls_status advance(hier_comm *c, ls_comm_request *r, bool *blocked) {
    for (int i = 0; i < r->stages; i++) {
        hier_stage *s = &r->stage[i];
        LS_TRY(advance_stage(c, r, s, !blocked[s->way]));
        blocked[s->way] = blocked[s->way] || s->started < s->total;
    }
    const hier_stage *last = &r->stage[r->stages - 1];
    r->done = last->ended == last->total;
    return LS_OK;
}

void ls_hier_drive(ls_pump *pump) {
    hier_comm *c = (hier_comm *)((char *)pump - offsetof(hier_comm, pump));
    bool blocked[WAYS] = {false};
    for (ls_comm_request **at = &c->active; *at;) {
        ls_comm_request *r = *at;
        r->status = advance(c, r, blocked);
        r->done = r->done || r->status != LS_OK;
        if (r->done) {
            *at = r->next;
            c->pump.pending--;
        } else {
            at = &r->next;
        }
    }
}
