/* The steps of operations in shared memory whose data does not go with their notices.
 *
 * Each rank counts the steps that it has made in a cache line of its own, and begins a step when
 * all ranks have made the one before. So whatever a rank writes into the window in one step the
 * others may read in the next, and it may be overwritten in the one after that: memory for two
 * steps is enough. All rests on this rule, across operations too.
 *
 * The first step is the notice, beside which every rank tells where its buffers lie and how many
 * chunks it has. Where all buffers lie in memory from alloc, the second step reads and writes them
 * directly, and the third makes sure that all have done so; of a gather in place in memory that
 * the ranks have in common the notices are all. Otherwise chunks go through stages: in
 * one step the others' slices of chunk k are copied in, this rank's of chunk k - 1 is reduced from
 * its own buffer and the others' stages, and chunk k - 2 is copied out. The last step of an
 * operation writes nothing that others read, so the first of the next one is the same step: it
 * takes notices only to go from one to the other. */
#include "collectives/combine.h"
#include "collectives/comm_shm_impl.h"
#include "runtime/base/clock.h"

/* Smaller results of a gather stay in the near cache of whoever writes them: it should be that of
 * the rank that is to read them. */
enum { PUSH_BYTES = 2 << 20 };

int64_t ls_comm_shm_chunk_bytes = STAGE_BYTES;

static int64_t clamp(int64_t n, int64_t most) {
    return n < 0 ? 0 : n < most ? n : most;
}

static char *stage_in(const shm_comm *c, int rank, uint64_t step) {
    return shm_part_of(c, rank)->in[step % 2];
}

static char *stage_out(const shm_comm *c, int rank, uint64_t step) {
    return shm_part_of(c, rank)->out[step % 2];
}

static const shm_plan *plan_of(const shm_comm *c, int rank) {
    return &shm_part_of(c, rank)->plans[(c->steps - 1) % 2];
}

/* Sizes */

/* Elements of a chunk, of each block that goes through a stage. */
static int64_t chunk_elems(const shm_comm *c, const ls_comm_request *r) {
    const bool blocks = r->kind == SHM_SCATTER || r->kind == SHM_EXCHANGE;
    const int64_t elems = ls_comm_shm_chunk_bytes / shm_elem_bytes(r) / (blocks ? c->base.size : 1);
    return elems > CACHE_LINE ? elems / CACHE_LINE * CACHE_LINE : elems;
}

/* Elements of the vector, or of the largest block that this rank knows of. */
static int64_t own_elems(const shm_comm *c, const ls_comm_request *r) {
    const bool blocks = r->kind == SHM_SCATTER || r->kind == SHM_EXCHANGE || r->kind == SHM_GATHER;
    int64_t most = blocks ? 0 : r->count;
    for (int rank = 0; blocks && rank < c->base.size; rank++) {
        most = r->send_counts[rank] > most ? r->send_counts[rank] : most;
    }
    return most;
}

/* Of a reduction: is every rank to reduce all of the vector? */
static bool is_whole(const ls_comm_request *r) {
    return r->count * shm_elem_bytes(r) <= WHOLE_BYTES;
}

/* Plans */

static const shm_region *region_at(const shm_comm *c, const char *at) {
    const shm_region *region = c->memory->regions;
    while (region && (at < region->window.bases[c->base.rank] ||
                      at > region->window.bases[c->base.rank] + region->bytes)) {
        region = region->next;
    }
    return at ? region : NULL;
}

static shm_place place_of(const shm_comm *c, const char *at) {
    const shm_region *region = region_at(c, at);
    return region ? (shm_place){.region = region->id,
                                .offset = at - region->window.bases[c->base.rank]}
                  : (shm_place){.region = NOWHERE};
}

/* The place of another rank, as it is mapped here. */
static char *mapped(const shm_comm *c, shm_place place, int rank) {
    const shm_region *region = c->memory->regions;
    while (region->id != place.region) {
        region = region->next;
    }
    return region->window.bases[rank] + place.offset;
}

static bool is_shared(const ls_comm_request *r, const shm_plan *n, int rank) {
    if (r->kind == SHM_BROADCAST) {
        return rank != r->root || n->send.region != NOWHERE;
    }
    const bool receives = r->kind == SHM_REDUCE && (r->root == EVERYBODY || r->root == rank);
    return n->send.region != NOWHERE && (!receives || n->recv.region != NOWHERE);
}

/* Into which the others may write their blocks of a gather, which need not be shared then. */
static bool is_open(const ls_comm_request *r, const shm_plan *n) {
    return r->kind == SHM_GATHER && n->recv.region != NOWHERE;
}

/* Small operations are not worth the third step. */
static bool may_be_direct(const ls_comm_request *r, const shm_plan *n, int rank) {
    return r->common || (n->bytes > WHOLE_BYTES && (is_shared(r, n, rank) || is_open(r, n)));
}

/* Memory in common: is a rank's block of the gather in its place? */
static bool lies_there(const ls_comm_request *r, const shm_plan *n, int rank) {
    return r->send_counts[rank] == 0 || (n->send.region == n->recv.region &&
                                         n->send.offset == n->recv.offset + r->recv_offsets[rank]);
}

/* All name the same place, or all find one that names another. */
static ls_status check_common(const shm_comm *c) {
    const shm_plan *mine = plan_of(c, c->base.rank);
    for (int rank = 0; rank < c->base.size; rank++) {
        const shm_plan *n = plan_of(c, rank);
        if (n->recv.region != mine->recv.region || n->recv.offset != mine->recv.offset) {
            return LS_FAIL(LS_E_SHAPE,
                           "ranks %d and %d gather into different places of their common memory "
                           "(%lld and %lld); one result takes the same place",
                           c->base.rank, rank, (long long)mine->recv.offset,
                           (long long)n->recv.offset);
        }
    }
    return LS_OK;
}

/* Every rank draws the same conclusions from all plans. */
static void read_plans(shm_comm *c, ls_comm_request *r) {
    bool staged = false, open = true, in_place = r->common;
    int64_t bytes = 0;
    r->chunks = 0;
    r->first = 0;
    for (int rank = 0; rank < c->base.size; rank++) {
        const shm_plan *n = plan_of(c, rank);
        r->chunks = n->chunks > r->chunks ? n->chunks : r->chunks;
        bytes = n->bytes > bytes ? n->bytes : bytes;
        staged = staged || !is_shared(r, n, rank);
        open = open && is_open(r, n);
        in_place = in_place && lies_there(r, n, rank);
        const bool carried = ls_shm_notice_of(c, rank)->stride != MUCH;
        r->first = carried || may_be_direct(r, n, rank) ? 1 : r->first;
    }
    r->direct = r->common || (bytes > WHOLE_BYTES && (open || !staged));
    r->pushes = r->direct && open && (r->common || staged || r->count >= PUSH_BYTES);
    const bool copies_out = r->kind == SHM_REDUCE && !is_whole(r);
    r->status = r->common ? check_common(c) : LS_OK;
    r->last = in_place ? 1 : r->direct ? 2 : r->first + r->chunks + (copies_out ? 1 : 0);
}

/* A gather's own block */

static void copy_own(const shm_comm *c, ls_comm_request *r) {
    const int me = c->base.rank;
    ls_copy(r->recv + r->recv_offsets[me], r->send, r->recv_counts[me], r->count);
    r->owes = false;
}

void ls_shm_copy_own(shm_comm *c, ls_comm_request *r) {
    const shm_region *region = region_at(c, r->recv);
    r->common = region && region->common;
    r->owes = region && (r->common || own_elems(c, r) > WHOLE_BYTES);
    if (!r->owes) {
        copy_own(c, r);
    }
}

/* Chunks through stages */

/* Of n elements from `at` on those that other ranks reduce. */
static void copy_in_slices(const shm_comm *c, const ls_comm_request *r, char *to, int64_t at,
                           int64_t n) {
    const bool whole = is_whole(r);
    const int rank = c->base.rank, size = c->base.size;
    const int64_t bytes = shm_elem_bytes(r);
    const int64_t first = whole ? n : ls_slice_first(n, size, rank);
    const int64_t end = whole ? n : ls_slice_first(n, size, rank + 1);
    shm_copy(to, r->send + at * bytes, first * bytes);
    shm_copy(to + end * bytes, r->send + (at + end) * bytes, (n - end) * bytes);
}

static void copy_in(shm_comm *c, const ls_comm_request *r, int64_t k) {
    char *to = stage_in(c, c->base.rank, c->steps);
    const int64_t bytes = shm_elem_bytes(r), most = chunk_elems(c, r), at = k * most;
    switch (r->kind) {
    case SHM_REDUCE:
        copy_in_slices(c, r, to, at, clamp(r->count - at, most));
        break;
    case SHM_BROADCAST:
        if (c->base.rank == r->root) {
            shm_copy(to, r->send + at, clamp(r->count - at, most));
        }
        break;
    case SHM_GATHER:
        shm_copy(to, r->send + at, clamp(r->send_counts[c->base.rank] - at, most));
        break;
    case SHM_SCATTER:
    case SHM_EXCHANGE:
        for (int rank = 0; rank < c->base.size; rank++) {
            if (rank != c->base.rank) {
                shm_copy(to + rank * most * bytes, r->send + (r->send_offsets[rank] + at) * bytes,
                         clamp(r->send_counts[rank] - at, most) * bytes);
            }
        }
        break;
    default:
        break;
    }
}

/* This rank's slice of chunk k, or all of a small one. */
static void reduce_chunk(shm_comm *c, const ls_comm_request *r, int64_t k) {
    const int rank = c->base.rank, size = c->base.size;
    const int64_t bytes = shm_elem_bytes(r), most = chunk_elems(c, r), at = k * most;
    const int64_t n = clamp(r->count - at, most);
    const bool whole = is_whole(r);
    const int64_t first = whole ? 0 : ls_slice_first(n, size, rank);
    const int64_t end = whole ? n : ls_slice_first(n, size, rank + 1);
    for (int peer = 0; peer < size; peer++) {
        c->from[peer] = stage_in(c, peer, c->steps - 1) + first * bytes;
    }
    if (!whole) {
        c->from[rank] = r->send + (at + first) * bytes;
    }
    char *const stage = stage_out(c, rank, c->steps);
    char *const own = shm_receives(c, r) ? r->recv + (at + first) * bytes : NULL;
    c->to[0] = own ? own : stage;
    ls_combine_ranks(r->dtype, r->op, size, c->from, 1, c->to, own || !whole ? end - first : 0,
                     false);
    if (own && !whole) { /* a copy need not fetch first what it overwrites; a sum would */
        shm_copy(stage, own, (end - first) * bytes);
    }
}

static void copy_out(shm_comm *c, const ls_comm_request *r, int64_t k) {
    const int size = c->base.size;
    const int64_t bytes = shm_elem_bytes(r), most = chunk_elems(c, r), at = k * most;
    const int64_t n = clamp(r->count - at, most);
    for (int i = 1; i < size && shm_receives(c, r); i++) {
        const int peer = (c->base.rank + i) % size;
        const int64_t first = ls_slice_first(n, size, peer);
        shm_copy(r->recv + (at + first) * bytes, stage_out(c, peer, c->steps - 1),
                 (ls_slice_first(n, size, peer + 1) - first) * bytes);
    }
}

/* What this rank wants of chunk k from everybody's stages. */
static void take_chunk(shm_comm *c, const ls_comm_request *r, int64_t k) {
    const int me = c->base.rank, size = c->base.size;
    const int64_t bytes = shm_elem_bytes(r), most = chunk_elems(c, r), at = k * most;
    if (r->kind == SHM_BROADCAST) {
        if (me != r->root) {
            shm_copy(r->recv + at, stage_in(c, r->root, c->steps - 1), clamp(r->count - at, most));
        }
        return;
    }
    if (r->kind == SHM_SCATTER) {
        for (int peer = 0; peer < size; peer++) {
            c->from[peer] = stage_in(c, peer, c->steps - 1) + me * most * bytes;
        }
        c->from[me] = r->send + (r->send_offsets[me] + at) * bytes;
        c->to[0] = r->recv + at * bytes;
        ls_combine_ranks(r->dtype, r->op, size, c->from, 1, c->to,
                         clamp(r->send_counts[me] - at, most), false);
        return;
    }
    for (int i = 1; i < size; i++) {
        const int peer = (me + i) % size;
        const char *from = stage_in(c, peer, c->steps - 1);
        shm_copy(r->recv + r->recv_offsets[peer] + at,
                 r->kind == SHM_EXCHANGE ? from + me * most : from,
                 clamp(r->recv_counts[peer] - at, most));
    }
}

static void pass_stages(shm_comm *c, const ls_comm_request *r) {
    const int64_t k = r->step - r->first;
    if (r->step > 0 && k >= 0 && k < r->chunks) {
        copy_in(c, r, k);
    }
    if (k >= 1 && k - 1 < r->chunks) {
        if (r->kind == SHM_REDUCE) {
            reduce_chunk(c, r, k - 1);
        } else {
            take_chunk(c, r, k - 1);
        }
    }
    if (r->kind == SHM_REDUCE && !is_whole(r) && k >= 2 && k - 2 < r->chunks) {
        copy_out(c, r, k - 2);
    }
}

/* All at once */

/* What the ranks together read and write, so many times the whole. */
static int64_t used_bytes(const ls_comm_request *r, int times) {
    return times * r->count * shm_elem_bytes(r);
}

static char *peer_send(const shm_comm *c, int rank) {
    return mapped(c, plan_of(c, rank)->send, rank);
}

/* Reduces [first, end) of the others' buffers into everybody's, or the root's. */
static void reduce_directly(shm_comm *c, const ls_comm_request *r) {
    const int rank = c->base.rank, size = c->base.size;
    const int64_t bytes = shm_elem_bytes(r);
    const int64_t first = ls_slice_first(r->count, size, rank);
    const int64_t end = ls_slice_first(r->count, size, rank + 1);
    int places = 0;
    for (int peer = 0; peer < size; peer++) {
        c->from[peer] = peer_send(c, peer) + first * bytes;
        if (r->root == EVERYBODY || r->root == peer) {
            c->to[places++] = mapped(c, plan_of(c, peer)->recv, peer) + first * bytes;
        }
    }
    ls_combine_ranks(r->dtype, r->op, size, c->from, places, c->to, end - first,
                     used_bytes(r, size + places) > LS_CACHE_BYTES);
}

/* This rank's block into everybody's memory: read once, where each of them would read it. Memory
 * in common has but one place for it. In place, caches keep enough of what was written last time to
 * be the faster way at any size. */
static void push(shm_comm *c, ls_comm_request *r) {
    const int me = c->base.rank, size = c->base.size;
    if (r->common) {
        copy_own(c, r);
        return;
    }
    for (int i = 0; i < size; i++) {
        const int peer = (me + i) % size;
        c->to[i] =
            mapped(c, plan_of(c, peer)->recv, peer) + shm_offsets_of(c, peer, c->steps - 1)[me];
    }
    ls_copy_to_all(size, c->to, r->send, r->send_counts[me],
                   c->to[0] != r->send && used_bytes(r, 1 + size) > LS_COPIED_BYTES);
}

static void work_directly(shm_comm *c, ls_comm_request *r) {
    const int me = c->base.rank, size = c->base.size;
    if (r->pushes) {
        push(c, r);
        return;
    }
    switch (r->kind) {
    case SHM_REDUCE:
        reduce_directly(c, r);
        break;
    case SHM_SCATTER:
        for (int peer = 0; peer < size; peer++) {
            c->from[peer] = peer_send(c, peer) + r->send_offsets[me] * shm_elem_bytes(r);
        }
        c->to[0] = r->recv;
        ls_combine_ranks(r->dtype, r->op, size, c->from, 1, c->to, r->send_counts[me],
                         used_bytes(r, size + 1) > LS_CACHE_BYTES);
        break;
    case SHM_BROADCAST:
        if (me != r->root) {
            ls_copy(r->recv, peer_send(c, r->root), r->count, r->count);
        }
        break;
    default: /* gather; exchange, whose results wait until others that are on their way are added */
        for (int i = 1; i < size; i++) {
            const bool exchange = r->kind == SHM_EXCHANGE;
            const int peer = (me + i) % size;
            const int64_t *offsets = shm_offsets_of(c, peer, c->steps - 1);
            ls_copy(r->recv + r->recv_offsets[peer],
                    peer_send(c, peer) + (exchange ? offsets[me] : 0), r->recv_counts[peer],
                    (size - 1) * (exchange ? 2 * size : 1) * r->recv_counts[peer]);
        }
        break;
    }
}

/* Where memory serves but a few ranks at their full speed, two that move data at the same time take
 * nearly twice as long each. So of a rank and its neighbour the second to come computes on, unless
 * one of them waits for the result. That is soon over: no rank has more to move before its
 * neighbour has had its turn. */
static bool yields(const shm_comm *c, const ls_comm_request *r) {
    const int neighbour = c->base.rank ^ 1;
    return r->step == 1 && r->direct && r->last > 1 && !c->waits && neighbour < c->base.size &&
           atomic_load_explicit(&shm_part_of(c, neighbour)->moves, memory_order_relaxed);
}

static void take_turn(shm_comm *c, ls_comm_request *r) {
    _Atomic bool *const moves = &shm_part_of(c, c->base.rank)->moves;
    atomic_store_explicit(moves, !c->waits, memory_order_relaxed);
    work_directly(c, r);
    atomic_store_explicit(moves, false, memory_order_relaxed);
}

/* Progress */

static bool may_step(const shm_comm *c) {
    for (int rank = 0; rank < c->base.size; rank++) {
        if (atomic_load_explicit(&shm_part_of(c, rank)->made, memory_order_acquire) < c->steps) {
            return false;
        }
    }
    return true;
}

void ls_shm_plan(shm_comm *c, const ls_comm_request *r) {
    const int64_t elems = own_elems(c, r);
    shm_plan *plan = &shm_part_of(c, c->base.rank)->plans[c->steps % 2];
    *plan = (shm_plan){.bytes = elems * shm_elem_bytes(r),
                       .chunks = ls_ceil_div(elems, chunk_elems(c, r)),
                       .send = place_of(c, r->send),
                       .recv = place_of(c, r->recv)};
    if (r->kind == SHM_EXCHANGE || r->kind == SHM_GATHER) {
        shm_copy(shm_offsets_of(c, c->base.rank, c->steps),
                 r->kind == SHM_GATHER ? r->recv_offsets : r->send_offsets,
                 c->base.size * (int64_t)sizeof(int64_t));
    }
    if (!r->carried && !may_be_direct(r, plan, c->base.rank)) {
        copy_in(c, r, 0);
    }
}

/* After a look that found that it can. */
static bool go_on(shm_comm *c, ls_comm_request *r) {
    if (r->step == 0) { /* all have given notice, which is as good as having counted it */
        r->step = 1;
        c->steps++;
        read_plans(c, r);
        if (r->status != LS_OK) {
            return true;
        }
        if (r->owes && !r->pushes) {
            copy_own(c, r);
        }
    }
    r->yields = yields(c, r);
    if (r->yields) {
        return false;
    }
    for (;;) {
        if (!r->direct) {
            pass_stages(c, r);
        } else if (r->step == 1) {
            take_turn(c, r);
        }
        if (r->step == r->last) {
            return true;
        }
        r->step++;
        c->steps++;
        atomic_store_explicit(&shm_part_of(c, c->base.rank)->made, c->steps, memory_order_release);
        if (!may_step(c)) {
            return false;
        }
    }
}

bool ls_shm_step(shm_comm *c, ls_comm_request *r) {
    if (r->step > 0 && !r->yields && !may_step(c)) {
        return false;
    }
    const uint64_t begin_ns = ls_clock_ns();
    const bool done = go_on(c, r);
    atomic_fetch_add_explicit(&ls_moved_ns, ls_clock_ns() - begin_ns, memory_order_relaxed);
    return done;
}

/* Moves an operation on; true when it is done. */
static bool advance(shm_comm *c, ls_comm_request *r) {
    if (!r->announced && !ls_shm_announce(c, r)) {
        return false;
    }
    if (r->step > 0) {
        return ls_shm_step(c, r);
    }
    if (!ls_shm_hear(c, r)) {
        return false;
    }
    if (r->status != LS_OK) {
        return true;
    }
    if (r->carried) {
        ls_shm_take_carried(c, r);
        return true;
    }
    return ls_shm_step(c, r);
}

void ls_shm_drive(ls_pump *pump) {
    shm_comm *c = (shm_comm *)((char *)pump - offsetof(shm_comm, pump));
    if (c->letters > 0) {
        ls_shm_deliver(c);
    }
    while (c->head && advance(c, c->head)) {
        c->head->done = true;
        c->head = c->head->next;
        c->pump.pending--;
        c->turn++;
        atomic_store_explicit(&shm_part_of(c, c->base.rank)->finished, c->turn,
                              memory_order_release);
    }
}
