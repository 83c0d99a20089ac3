/* Requests, stages and the calls; what a stage does is in comm_hier_stage.c. */
#include "collectives/comm_hier_impl.h"

#include "collectives/combine.h"
#include "collectives/comm_choose.h"
#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

int64_t ls_comm_hier_chunk_bytes = 512 << 10;
int64_t ls_comm_hier_least_bytes = 64 << 10;
int64_t ls_comm_hier_piece_bytes = 16 << 10;

/* Requests */

static ls_status request_take(hier_comm *c, hier_kind kind, ls_comm_request **out) {
    ls_comm_request *r = c->free;
    if (r) {
        c->free = r->next;
    } else {
        LS_TRY(ls_calloc(1, sizeof *r, &r));
        ls_status status = ls_calloc(2 * (size_t)c->base.size, sizeof *r->counts, &r->counts);
        if (status != LS_OK) {
            free(r);
            return status;
        }
        r->offsets = r->counts + c->base.size;
        r->next_all = c->all;
        c->all = r;
    }
    const ls_comm_request kept = *r;
    *r = (ls_comm_request){.next_all = kept.next_all,
                           .counts = kept.counts,
                           .offsets = kept.offsets,
                           .scratch = kept.scratch,
                           .scratch_bytes = kept.scratch_bytes,
                           .ends = kept.ends,
                           .end_capacity = kept.end_capacity,
                           .kind = kind};
    *out = r;
    return LS_OK;
}

void ls_hier_give_back(hier_comm *c, ls_comm_request *r) {
    r->next = c->free;
    c->free = r;
}

/* Back ends on a device give memory to one rank alone, too. */
static void scratch_give_back(hier_comm *c, ls_comm_request *r) {
    if (c->base.on_device) {
        c->inside->ops->give_back(c->inside, r->scratch);
    } else {
        ls_comm_host_give_back(&c->base, r->scratch);
    }
    r->scratch = NULL;
    r->scratch_bytes = 0;
}

static ls_status scratch_take(hier_comm *c, ls_comm_request *r, int64_t bytes) {
    if (bytes > r->scratch_bytes) {
        scratch_give_back(c, r);
        void *scratch;
        LS_TRY(c->base.on_device ? c->inside->ops->alloc(c->inside, bytes, &scratch)
                                 : ls_comm_host_alloc(&c->base, bytes, &scratch));
        r->scratch = scratch;
        r->scratch_bytes = bytes;
    }
    return LS_OK;
}

/* A request for the flat back end, or the failure to start it there. */
static ls_status flat_started(hier_comm *c, ls_comm_request *r, ls_status status,
                              ls_comm_request **request) {
    if (status != LS_OK) {
        ls_hier_give_back(c, r);
        return status;
    }
    *request = r;
    return c->base.on_device ? ls_hier_device_add(r, r->flat) : LS_OK;
}

#define FLAT(comm, request, call, ...)                                                             \
    do {                                                                                           \
        hier_comm *c_ = (hier_comm *)(comm);                                                       \
        ls_comm_request *r_;                                                                       \
        LS_TRY(request_take(c_, HIER_FLAT, &r_));                                                  \
        return flat_started(c_, r_, c_->flat->ops->call(c_->flat, __VA_ARGS__, &r_->flat),         \
                            (request));                                                            \
    } while (0)

/* Puts an operation behind those that are under way. */
static ls_status enqueue(hier_comm *c, ls_comm_request *r, ls_comm_request **request) {
    ls_comm_request **at = &c->active;
    *request = r;
    if (c->base.on_device) {
        return ls_hier_device_issue(c, r);
    }
    while (*at) {
        at = &(*at)->next;
    }
    *at = r;
    c->pump.pending++;
    ls_pump_all();
    return LS_OK;
}

static ls_status test(ls_comm *comm, ls_comm_request *r, bool *done) {
    hier_comm *c = (hier_comm *)comm;
    ls_status status = LS_OK;
    if (c->base.on_device) {
        return ls_hier_device_test(c, r, done);
    }
    if (r->kind == HIER_FLAT) {
        status = c->flat->ops->test(c->flat, r->flat, done);
    } else {
        ls_pump_all();
        *done = r->done;
        status = r->status;
    }
    /* After an error parts of it may still be under way: it is not used again. */
    if (*done && status == LS_OK) {
        ls_hier_give_back(c, r);
    }
    return status;
}

static ls_status wait_for(ls_comm *comm, ls_comm_request *r) {
    return comm->on_device ? ls_hier_device_wait((hier_comm *)comm, r)
                           : ls_comm_wait_by_test(comm, r);
}

/* Which operations go which way */

static bool is_power_of_two(int n) {
    return (n & (n - 1)) == 0;
}

static bool is_small(int64_t bytes) {
    return bytes < ls_comm_hier_least_bytes;
}

/* Is a reduction in two levels worth it, and what the seam promises of one? */
static bool reduces_in_levels(const hier_comm *c, int64_t count, ls_dtype dtype, ls_reduce op) {
    const bool added = op != LS_MAX && op != LS_MIN;
    if (is_small(count * (int64_t)ls_dtype_bytes(dtype)) || ls_combine_check(dtype) != LS_OK) {
        return false;
    }
    if (added && (dtype == LS_F16 || dtype == LS_BF16)) {
        return false;
    }
    if (op == LS_AVG) {
        return (dtype == LS_F32 || dtype == LS_F64) && is_power_of_two(c->inside->size);
    }
    return op != LS_SUM_TREE || (c->in_order && is_power_of_two(c->inside->size));
}

/* Devices take more at a time. */
static int64_t chunk_bytes(const hier_comm *c) {
    return ls_comm_hier_chunk_bytes * (c->base.on_device ? 32 : 1);
}

/* Operations */

static void set_vector(ls_comm_request *r, const void *send, void *recv, int64_t count,
                       ls_dtype dtype, ls_reduce op) {
    r->send = send;
    r->recv = recv;
    r->count = count;
    r->dtype = dtype;
    r->op = op;
    r->unit = (int64_t)ls_dtype_bytes(dtype);
}

static ls_status enqueue_chunks(hier_comm *c, ls_comm_request *r, ls_comm_request **request) {
    ls_hier_plan(c, r, ls_ceil_div(r->count * r->unit, chunk_bytes(c)));
    return enqueue(c, r, request);
}

static ls_status all_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                                  ls_dtype dtype, ls_reduce op, ls_comm_request **request) {
    hier_comm *c = (hier_comm *)comm;
    if (!reduces_in_levels(c, count, dtype, op)) {
        FLAT(comm, request, all_reduce_start, send, recv, count, dtype, op);
    }
    ls_comm_request *r;
    LS_TRY(request_take(c, HIER_ALL_REDUCE, &r));
    set_vector(r, send, recv, count, dtype, op);
    return enqueue_chunks(c, r, request);
}

static ls_status reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                              ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request) {
    hier_comm *c = (hier_comm *)comm;
    LS_TRY(ls_comm_check_rank(comm, root, "a reduction to"));
    if (!reduces_in_levels(c, count, dtype, op)) {
        FLAT(comm, request, reduce_start, send, recv, count, dtype, op, root);
    }
    ls_comm_request *r;
    LS_TRY(request_take(c, HIER_REDUCE, &r));
    const bool carries = c->places[root].inside == c->inside->rank && root != comm->rank;
    ls_status status = scratch_take(c, r, carries ? count * (int64_t)ls_dtype_bytes(dtype) : 0);
    if (status != LS_OK) {
        ls_hier_give_back(c, r);
        return status;
    }
    set_vector(r, send, recv, count, dtype, op);
    r->root = root;
    return enqueue_chunks(c, r, request);
}

static ls_status reduce_scatter_start(ls_comm *comm, const void *send, void *recv,
                                      const int64_t *counts, ls_dtype dtype, ls_reduce op,
                                      ls_comm_request **request) {
    hier_comm *c = (hier_comm *)comm;
    int64_t total = 0, mine = 0;
    bool negative = false;
    for (int rank = 0; rank < comm->size; rank++) {
        negative = negative || counts[rank] < 0;
        total += counts[rank];
        mine += c->places[rank].inside == c->inside->rank ? counts[rank] : 0;
    }
    if (negative || !c->in_order || !reduces_in_levels(c, total, dtype, op)) {
        FLAT(comm, request, reduce_scatter_start, send, recv, counts, dtype, op);
    }
    ls_comm_request *r;
    LS_TRY(request_take(c, HIER_REDUCE_SCATTER, &r));
    ls_status status = scratch_take(c, r, mine * (int64_t)ls_dtype_bytes(dtype));
    if (status != LS_OK) {
        ls_hier_give_back(c, r);
        return status;
    }
    set_vector(r, send, recv, total, dtype, op);
    memcpy(r->counts, counts, (size_t)comm->size * sizeof *counts);
    ls_hier_plan(c, r, 1);
    return enqueue(c, r, request);
}

static ls_status all_gather_start(ls_comm *comm, const void *send, void *recv,
                                  const int64_t *counts, const int64_t *offsets,
                                  ls_comm_request **request) {
    hier_comm *c = (hier_comm *)comm;
    int64_t most = 0, total = 0;
    bool negative = false;
    for (int rank = 0; rank < comm->size; rank++) {
        negative = negative || counts[rank] < 0;
        most = counts[rank] > most ? counts[rank] : most;
        total += counts[rank];
    }
    if (negative || is_small(total)) {
        FLAT(comm, request, all_gather_start, send, recv, counts, offsets);
    }
    ls_comm_request *r;
    LS_TRY(request_take(c, HIER_ALL_GATHER, &r));
    r->send = send;
    r->recv = recv;
    r->count = most;
    r->unit = 1;
    memcpy(r->counts, counts, (size_t)comm->size * sizeof *counts);
    memcpy(r->offsets, offsets, (size_t)comm->size * sizeof *offsets);
    const int64_t share = ls_ceil_div(chunk_bytes(c), comm->size);
    ls_hier_plan(
        c, r,
        ls_ceil_div(most, share > ls_comm_hier_piece_bytes ? share : ls_comm_hier_piece_bytes));
    return enqueue(c, r, request);
}

static ls_status broadcast_start(ls_comm *comm, void *buf, int64_t bytes, int root,
                                 ls_comm_request **request) {
    hier_comm *c = (hier_comm *)comm;
    LS_TRY(ls_comm_check_rank(comm, root, "a broadcast from"));
    if (is_small(bytes)) {
        FLAT(comm, request, broadcast_start, buf, bytes, root);
    }
    ls_comm_request *r;
    LS_TRY(request_take(c, HIER_BROADCAST, &r));
    set_vector(r, buf, buf, bytes, LS_U8, LS_SUM);
    r->root = root;
    return enqueue_chunks(c, r, request);
}

static ls_status all_to_all_start(ls_comm *comm, const void *send, const int64_t *send_counts,
                                  const int64_t *send_offsets, void *recv,
                                  const int64_t *recv_counts, const int64_t *recv_offsets,
                                  ls_comm_request **request) {
    FLAT(comm, request, all_to_all_start, send, send_counts, send_offsets, recv, recv_counts,
         recv_offsets);
}

static ls_status send_start(ls_comm *comm, const void *buf, int64_t bytes, int to,
                            ls_comm_request **request) {
    FLAT(comm, request, send_start, buf, bytes, to);
}

static ls_status recv_start(ls_comm *comm, void *buf, int64_t bytes, int from,
                            ls_comm_request **request) {
    FLAT(comm, request, recv_start, buf, bytes, from);
}

/* Blocking operations */

static ls_status barrier(ls_comm *comm) {
    ls_comm *flat = ((hier_comm *)comm)->flat;
    return flat->ops->barrier(flat);
}

static ls_status broadcast(ls_comm *comm, void *buf, int64_t bytes, int root) {
    ls_comm *flat = ((hier_comm *)comm)->flat;
    if (comm->on_device || is_small(bytes)) { /* for the host's memory */
        return flat->ops->broadcast(flat, buf, bytes, root);
    }
    return ls_comm_broadcast_by_start(comm, buf, bytes, root);
}

static ls_status all_reduce(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype, ls_reduce op) {
    ls_comm *flat = ((hier_comm *)comm)->flat;
    if (comm->on_device || is_small(count * (int64_t)ls_dtype_bytes(dtype))) {
        return flat->ops->all_reduce(flat, buf, count, dtype, op);
    }
    return ls_comm_all_reduce_by_start(comm, buf, count, dtype, op);
}

static ls_status all_gather(ls_comm *comm, const void *send, void *recv, int64_t bytes) {
    hier_comm *c = (hier_comm *)comm;
    if (comm->on_device || is_small(bytes * comm->size)) {
        return c->flat->ops->all_gather(c->flat, send, recv, bytes);
    }
    for (int rank = 0; rank < comm->size; rank++) {
        c->counts[rank] = bytes;
        c->offsets[rank] = rank * bytes;
    }
    ls_comm_request *r;
    LS_TRY(all_gather_start(comm, send, recv, c->counts, c->offsets, &r));
    return wait_for(comm, r);
}

/* Communicators */

static ls_status host(ls_comm *comm, int *lowest) {
    ls_comm *flat = ((hier_comm *)comm)->flat;
    return flat->ops->host(flat, lowest);
}

static ls_status alloc(ls_comm *comm, int64_t bytes, void **memory) {
    ls_comm *inside = ((hier_comm *)comm)->inside;
    return inside->ops->alloc(inside, bytes, memory);
}

static ls_status alloc_common(ls_comm *comm, int64_t bytes, void **memory) {
    return ls_comm_no_common(comm, bytes, memory);
}

static void give_back(ls_comm *comm, void *memory) {
    ls_comm *inside = ((hier_comm *)comm)->inside;
    inside->ops->give_back(inside, memory);
}

static void release(ls_comm *comm) {
    if (comm) {
        comm->ops->destroy(comm);
    }
}

static void destroy(ls_comm *comm) {
    hier_comm *c = (hier_comm *)comm;
    ls_comm_request *next = c->all;
    ls_pump_remove(&c->pump);
    c->all = NULL; /* the parts' operations may be heard of until these have ended */
    for (ls_comm_request *r = next; r; r = next) {
        next = r->next_all;
        scratch_give_back(c, r);
        free(r->ends);
        free(r->counts);
        free(r);
    }
    release(c->up);
    release(c->across);
    release(c->inside);
    release(c->flat);
    if (c->order.destroy) {
        c->order.destroy(c->order.context);
    }
    free(c->places);
    free(c->counts);
    free(c);
}

static ls_status duplicate(ls_comm *comm, ls_comm **copy) {
    const hier_comm *c = (const hier_comm *)comm;
    ls_comm *flat = NULL, *inside = NULL, *across = NULL;
    ls_status status;
    LS_TRY(c->flat->ops->duplicate(c->flat, &flat));
    if (comm->on_device) {
        return c->order.compose(c->order.context, flat, copy);
    }
    LS_TRY_GOTO(c->inside->ops->duplicate(c->inside, &inside), failed);
    LS_TRY_GOTO(c->across->ops->duplicate(c->across, &across), failed);
    return ls_comm_hier(flat, inside, across, copy);
failed:
    release(inside);
    release(flat);
    return status;
}

static ls_status split(ls_comm *comm, int color, ls_comm **part) {
    const hier_comm *c = (const hier_comm *)comm;
    ls_comm *flat_part;
    LS_TRY(c->flat->ops->split(c->flat, color, &flat_part));
    if (comm->on_device) {
        return c->order.compose(c->order.context, flat_part, part);
    }
    ls_status status = ls_comm_choose(flat_part, LS_TRANSPORT_AUTO, part);
    flat_part->ops->destroy(flat_part);
    return status;
}

static const ls_comm_ops hier_ops = LS_COMM_OPS("hier");

/* Where every rank is, and whether the groups are those of equal hosts. */
static ls_status find_places(hier_comm *c) {
    const hier_place mine = {.host = c->across->rank, .inside = c->inside->rank};
    const int size = c->base.size, hosts = c->across->size, local = c->inside->size;
    ls_status status = LS_OK;
    LS_TRY(c->flat->ops->all_gather(c->flat, &mine, c->places, sizeof mine));
    for (int rank = 0; rank < size; rank++) {
        c->rank_of[rank] = -1;
    }
    c->in_order = true;
    bool fits = (int64_t)hosts * local == size;
    for (int rank = 0; rank < size && fits; rank++) {
        const hier_place p = c->places[rank];
        fits = p.host < hosts && p.inside < local && c->rank_of[p.host * local + p.inside] < 0;
        if (fits) {
            c->rank_of[p.host * local + p.inside] = rank;
            c->in_order = c->in_order && rank == p.host * local + p.inside;
        }
    }
    if (!fits) {
        status = LS_FAIL(LS_E_UNSUPPORTED,
                         "%d ranks as %d hosts with %d each; all hosts must have the same number "
                         "of ranks",
                         size, hosts, local);
    }
    return ls_comm_agree(c->flat, status);
}

static ls_status init(hier_comm *c) {
    const size_t size = (size_t)c->base.size;
    ls_status status = ls_calloc(size, sizeof *c->places, &c->places);
    if (status == LS_OK) {
        status = ls_calloc(3 * size, sizeof *c->counts, &c->counts);
    }
    LS_TRY(ls_comm_agree(c->flat, status));
    c->offsets = c->counts + size;
    c->rank_of = c->counts + 2 * size;
    LS_TRY(find_places(c));
    return c->up ? LS_OK : c->inside->ops->duplicate(c->inside, &c->up);
}

/* Takes all over. up, order NULL: not on a device. */
static ls_status compose(ls_comm *flat, ls_comm *inside, ls_comm *across, ls_comm *up,
                         const ls_hier_order *order, ls_comm **comm) {
    hier_comm *c = NULL;
    ls_status status = ls_comm_agree(flat, ls_calloc(1, sizeof *c, &c));
    if (status != LS_OK) {
        free(c);
        if (order) {
            order->destroy(order->context);
        }
        release(up);
        release(across);
        release(inside);
        release(flat);
        return status;
    }
    c->base = (ls_comm){.ops = &hier_ops,
                        .rank = flat->rank,
                        .size = flat->size,
                        .orders = flat->orders,
                        .on_device = flat->on_device,
                        .host_side = flat->host_side};
    c->flat = flat;
    c->inside = inside;
    c->across = across;
    c->up = up;
    c->listener = LS_HIER_LISTENER;
    if (order) {
        c->order = *order;
        flat->listener = inside->listener = across->listener = up->listener = &c->listener;
    }
    c->pump.drive = ls_hier_drive;
    ls_pump_add(&c->pump);
    status = init(c);
    if (status != LS_OK) {
        destroy(&c->base);
        return status;
    }
    *comm = &c->base;
    return LS_OK;
}

ls_status ls_comm_hier(ls_comm *flat, ls_comm *inside, ls_comm *across, ls_comm **comm) {
    return compose(flat, inside, across, NULL, NULL, comm);
}

ls_status ls_comm_hier_on_device(ls_comm *flat, ls_comm *inside, ls_comm *across, ls_comm *up,
                                 const ls_hier_order *order, ls_comm **comm) {
    return compose(flat, inside, across, up, order, comm);
}
