#include "collectives/recorded.h"

#include "collectives/comm_impl.h"
#include "collectives/meter.h"
#include "collectives/progress.h"
#include "collectives/recorded_impl.h"
#include "collectives/trace.h"
#include "collectives/wire_cost.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ls_comm_ops recorded_ops;

/* Checks */

static char *describe(char *buf, size_t size, const recorded *c, const notice *n) {
    const ls_flight_call *call = &n->call;
    int at = snprintf(buf, size, "%s #%llu of group %s", ls_flight_kind_text(call->kind),
                      (unsigned long long)n->seq, c->name);
    if (call->count >= 0) {
        at += snprintf(buf + at, size - (size_t)at, " with %lld %s", (long long)call->count,
                       call->dtype >= 0 ? ls_dtype_name((ls_dtype)call->dtype) : "bytes");
    }
    if (call->root >= 0) {
        at += snprintf(buf + at, size - (size_t)at, " from rank %d", call->root);
    }
    if (call->op >= 0) {
        at += snprintf(buf + at, size - (size_t)at, " (%s)", ls_flight_reduction_text(call->op));
    }
    if (call->blocks) {
        snprintf(buf + at, size - (size_t)at, ", blocks %08x", (unsigned)call->blocks);
    }
    return buf;
}

/* counts: of an all-to-all, by peer; else NULL. */
static void fill_notices(const recorded *c, const pending *p, const ls_flight_call *call,
                         const int64_t *counts, notice *notices) {
    for (int r = 0; r < c->base.size; r++) {
        notices[r] = (notice){.call = *call, .seq = p->seq};
        notices[r].call.count = counts ? counts[r] : call->count;
    }
}

static ls_status compare_notices(const recorded *c, const pending *p) {
    for (int r = 0; r < c->base.size; r++) {
        const notice *mine = &p->check.expected[r], *theirs = &p->check.received[r];
        if (memcmp(mine, theirs, sizeof *mine) != 0) {
            char ours[160], other[160];
            return LS_FAIL(LS_E_COMM,
                           "the ranks' calls do not fit: rank %d calls %s, but rank %d calls %s; "
                           "every rank of a group must make the same calls in the same order",
                           c->members[c->base.rank], describe(ours, sizeof ours, c, mine),
                           c->members[r], describe(other, sizeof other, c, theirs));
        }
    }
    return LS_OK;
}

static ls_status check_finish(recorded *c, pending *p, bool wait, bool *done) {
    *done = p->check.request == NULL;
    if (*done) {
        return LS_OK;
    }
    const ls_comm_ops *ops = c->check_comm->ops;
    LS_TRY(LS_HELD(wait ? ops->wait(c->check_comm, p->check.request)
                        : ops->test(c->check_comm, p->check.request, done)));
    if (wait || *done) {
        *done = true;
        p->check.request = NULL;
        return compare_notices(c, p);
    }
    return LS_OK;
}

/* Operations */

static ls_status pending_take(recorded *c, pending **out) {
    if (!c->free) {
        pending *fresh;
        LS_TRY(ls_calloc(1, sizeof *fresh, &fresh));
        if (c->check_comm) {
            const size_t size = (size_t)c->base.size;
            const ls_status status = ls_calloc(3 * size, sizeof(notice), &fresh->check.sent);
            if (status != LS_OK) {
                free(fresh);
                return status;
            }
            fresh->check.received = fresh->check.sent + size;
            fresh->check.expected = fresh->check.received + size;
        }
        fresh->next_all = c->all;
        c->all = c->free = fresh;
    }
    *out = c->free;
    c->free = (*out)->next_free;
    return LS_OK;
}

static ls_coll coll_of(int32_t kind) {
    switch (kind) {
    case LS_FLIGHT_BROADCAST:
        return LS_COLL_BROADCAST;
    case LS_FLIGHT_ALL_REDUCE:
        return LS_COLL_ALL_REDUCE;
    case LS_FLIGHT_ALL_GATHER:
        return LS_COLL_ALL_GATHER;
    case LS_FLIGHT_REDUCE:
        return LS_COLL_REDUCE;
    case LS_FLIGHT_REDUCE_SCATTER:
        return LS_COLL_REDUCE_SCATTER;
    case LS_FLIGHT_ALL_TO_ALL:
        return LS_COLL_ALL_TO_ALL;
    case LS_FLIGHT_SEND:
        return LS_COLL_SEND_RECV;
    default:
        return LS_COLL_BARRIER; /* sends nothing to speak of */
    }
}

/* All-gathers are entered with their own block; uneven ones are marked by a hash of the blocks, and
 * their count is the whole. sent: of an all-to-all, by rank. */
static double wire_bytes(const recorded *c, const ls_flight_call *call, int64_t bytes,
                         const int64_t *sent) {
    if (sent) {
        return (double)(bytes - sent[c->base.rank]);
    }
    double whole = (double)bytes;
    if (call->kind == LS_FLIGHT_ALL_GATHER) {
        whole = call->blocks ? (double)call->count : whole * c->base.size;
    }
    return ls_wire_bytes(coll_of(call->kind), c->base.size, whole);
}

/* started: not a blocking operation, which the host makes. */
static void meter_begin(const recorded *c, pending *p, const ls_flight_call *call, int64_t bytes,
                        bool started, const int64_t *sent) {
    const bool experts = c->axis == LS_COMM_TENSOR && call->kind == LS_FLIGHT_ALL_TO_ALL;
    p->axis = experts ? LS_COMM_EXPERT : c->axis;
    const bool counts = c->base.size > 1 && call->kind != LS_FLIGHT_RECEIVE;
    ls_meter_count(p->axis, counts ? coll_of(call->kind) : LS_COLL_COUNT,
                   wire_bytes(c, call, bytes, sent));
    p->by_device = started && c->inner->orders;
    p->waited = p->ended = false;
    if (!p->by_device) {
        ls_meter_begin(p->axis);
    }
    p->begin_ns = ls_clock_ns();
    p->kind = call->kind;
    p->bytes = bytes;
}

/* While the host hands an operation over to the device's back end, which may wait for other ranks:
 * a group's first operation connects them. */
static void hand_over(const pending *p, bool begins) {
    if (p->by_device) {
        ls_flight_wait(begins ? p->id : 0);
    }
}

/* Enters an operation in the record and starts its check. */
static ls_status enter(recorded *c, const ls_flight_call *call, int64_t bytes, bool started,
                       const int64_t *send_counts, const int64_t *recv_counts, pending **out) {
    pending *p;
    LS_TRY(pending_take(c, &p));
    p->seq = ++c->seq;
    p->peer = -1;
    p->id = ls_flight_enter(c->group, call, bytes, -1);
    meter_begin(c, p, call, bytes, started, send_counts);
    *out = p;
    if (c->check_comm) {
        fill_notices(c, p, call, send_counts, p->check.sent);
        fill_notices(c, p, call, recv_counts, p->check.expected);
        LS_TRY(LS_HELD(c->check_comm->ops->all_to_all_start(
            c->check_comm, p->check.sent, c->notice_bytes, c->notice_offsets, p->check.received,
            c->notice_bytes, c->notice_offsets, &p->check.request)));
    }
    hand_over(p, true);
    return LS_OK;
}

/* The main thread returns from a call on an operation. */
static void leave(ls_comm_axis axis, uint64_t id, int kind, bool waited, ls_meter_moment called) {
    ls_meter_return(axis, called);
    ls_trace_call(id, kind, waited, called);
}

/* Around a blocking operation. After a failure the pending is not used again. */
static ls_status begin(recorded *c, const ls_flight_call *call, int64_t bytes, pending **out) {
    bool done;
    LS_TRY(enter(c, call, bytes, false, NULL, NULL, out));
    ls_flight_wait((*out)->id);
    ls_status status = check_finish(c, *out, true, &done);
    if (status != LS_OK) {
        ls_flight_wait(0);
        return status;
    }
    ls_flight_start((*out)->id);
    return LS_OK;
}

/* What a back end refuses is over; what failed stays in the record as it is, for whoever asks why
 * others wait. */
static void note_refused(const recorded *c, pending *p, ls_status status) {
    if (status != LS_OK && status != LS_E_COMM) {
        ls_recorded_note_end(c, p);
    }
}

static ls_status finish(recorded *c, pending *p, ls_status status) {
    ls_flight_wait(0);
    if (status == LS_OK) {
        ls_recorded_note_end(c, p);
        ls_recorded_give_back(c, p);
    }
    note_refused(c, p, status);
    return status;
}

#define BLOCKING(comm, bytes, operation, ...)                                                      \
    do {                                                                                           \
        recorded *c_ = (recorded *)(comm);                                                         \
        const ls_flight_call call_ = {__VA_ARGS__};                                                \
        pending *p_;                                                                               \
        const ls_meter_moment called_ = ls_meter_call();                                           \
        LS_TRY(begin(c_, &call_, (bytes), &p_));                                                   \
        const uint64_t id_ = p_->id;                                                               \
        ls_status status_ = finish(c_, p_, LS_HELD(c_->inner->ops->operation));                    \
        leave(c_->axis, id_, call_.kind, true, called_);                                           \
        return status_;                                                                            \
    } while (0)

static ls_status host(ls_comm *comm, int *lowest) {
    BLOCKING(comm, 0, host(c_->inner, lowest), LS_FLIGHT_HOST, -1, -1, -1, -1, 0);
}

static ls_status alloc(ls_comm *comm, int64_t bytes, void **memory) {
    BLOCKING(comm, bytes, alloc(c_->inner, bytes, memory), LS_FLIGHT_ALLOC, -1, -1, -1, bytes, 0);
}

static ls_status alloc_common(ls_comm *comm, int64_t bytes, void **memory) {
    BLOCKING(comm, bytes, alloc_common(c_->inner, bytes, memory), LS_FLIGHT_ALLOC, -1, -1, -1,
             bytes, 0);
}

static void give_back(ls_comm *comm, void *memory) {
    recorded *c = (recorded *)comm;
    const ls_flight_call call = {LS_FLIGHT_GIVE_BACK, -1, -1, -1, -1, 0};
    const uint64_t id = ls_flight_enter(c->group, &call, 0, -1);
    ls_flight_wait(id);
    ls_progress_hold();
    c->inner->ops->give_back(c->inner, memory);
    (void)ls_progress_released(LS_OK);
    ls_flight_wait(0);
    ls_flight_end(id);
}

static ls_status barrier(ls_comm *comm) {
    BLOCKING(comm, 0, barrier(c_->inner), LS_FLIGHT_BARRIER, -1, -1, -1, -1, 0);
}

static ls_status broadcast(ls_comm *comm, void *buf, int64_t bytes, int root) {
    BLOCKING(comm, bytes, broadcast(c_->inner, buf, bytes, root), LS_FLIGHT_BROADCAST, -1, -1, root,
             bytes, 0);
}

static ls_status all_reduce(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype, ls_reduce op) {
    BLOCKING(comm, count * (int64_t)ls_dtype_bytes(dtype),
             all_reduce(c_->inner, buf, count, dtype, op), LS_FLIGHT_ALL_REDUCE, (int32_t)dtype,
             (int32_t)op, -1, count, 0);
}

static ls_status all_gather(ls_comm *comm, const void *send, void *recv, int64_t bytes) {
    BLOCKING(comm, bytes, all_gather(c_->inner, send, recv, bytes), LS_FLIGHT_ALL_GATHER, -1, -1,
             -1, bytes, 0);
}

/* After the back end's start: the caller's request is ours. */
static ls_status started(const recorded *c, pending *p, ls_meter_moment called, ls_status status,
                         ls_comm_request **request) {
    hand_over(p, false);
    note_refused(c, p, status);
    LS_TRY(status);
    ls_flight_start(p->id);
    if (p->by_device) {
        ls_recorded_device_add(p);
    } else {
        leave(p->axis, p->id, p->kind, false, called);
    }
    *request = (ls_comm_request *)p;
    return LS_OK;
}

#define ENTERED(comm, entry, operation)                                                            \
    do {                                                                                           \
        recorded *c_ = (recorded *)(comm);                                                         \
        pending *p_;                                                                               \
        const ls_meter_moment called_ = ls_meter_call();                                           \
        LS_TRY(entry);                                                                             \
        return started(c_, p_, called_, LS_HELD(c_->inner->ops->operation), request);              \
    } while (0)

#define STARTED(comm, bytes, operation, ...)                                                       \
    do {                                                                                           \
        const ls_flight_call call_ = {__VA_ARGS__};                                                \
        ENTERED(comm, enter(c_, &call_, (bytes), true, NULL, NULL, &p_), operation);               \
    } while (0)

static ls_status broadcast_start(ls_comm *comm, void *buf, int64_t bytes, int root,
                                 ls_comm_request **request) {
    STARTED(comm, bytes, broadcast_start(c_->inner, buf, bytes, root, &p_->request),
            LS_FLIGHT_BROADCAST, -1, -1, root, bytes, 0);
}

static ls_status all_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                                  ls_dtype dtype, ls_reduce op, ls_comm_request **request) {
    STARTED(comm, count * (int64_t)ls_dtype_bytes(dtype),
            all_reduce_start(c_->inner, send, recv, count, dtype, op, &p_->request),
            LS_FLIGHT_ALL_REDUCE, (int32_t)dtype, (int32_t)op, -1, count, 0);
}

static ls_status reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                              ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request) {
    STARTED(comm, count * (int64_t)ls_dtype_bytes(dtype),
            reduce_start(c_->inner, send, recv, count, dtype, op, root, &p_->request),
            LS_FLIGHT_REDUCE, (int32_t)dtype, (int32_t)op, root, count, 0);
}

static int64_t sum(const int64_t *counts, int n) {
    int64_t total = 0;
    for (int i = 0; i < n; i++) {
        total += counts[i];
    }
    return total;
}

static uint64_t hash_counts(const int64_t *counts, int n) {
    return ls_xxh64(counts, (size_t)n * sizeof *counts, 0) | 1;
}

static ls_status reduce_scatter_start(ls_comm *comm, const void *send, void *recv,
                                      const int64_t *counts, ls_dtype dtype, ls_reduce op,
                                      ls_comm_request **request) {
    const int64_t count = sum(counts, comm->size);
    STARTED(comm, count * (int64_t)ls_dtype_bytes(dtype),
            reduce_scatter_start(c_->inner, send, recv, counts, dtype, op, &p_->request),
            LS_FLIGHT_REDUCE_SCATTER, (int32_t)dtype, (int32_t)op, -1, count,
            hash_counts(counts, comm->size));
}

static ls_status all_gather_start(ls_comm *comm, const void *send, void *recv,
                                  const int64_t *counts, const int64_t *offsets,
                                  ls_comm_request **request) {
    STARTED(comm, counts[comm->rank],
            all_gather_start(c_->inner, send, recv, counts, offsets, &p_->request),
            LS_FLIGHT_ALL_GATHER, -1, -1, -1, sum(counts, comm->size),
            hash_counts(counts, comm->size));
}

static ls_status all_to_all_start(ls_comm *comm, const void *send, const int64_t *send_counts,
                                  const int64_t *send_offsets, void *recv,
                                  const int64_t *recv_counts, const int64_t *recv_offsets,
                                  ls_comm_request **request) {
    const int64_t bytes = sum(send_counts, comm->size);
    const ls_flight_call call = {LS_FLIGHT_ALL_TO_ALL, -1, -1, -1, bytes, 0};
    ENTERED(comm, enter(c_, &call, bytes, true, send_counts, recv_counts, &p_),
            all_to_all_start(c_->inner, send, send_counts, send_offsets, recv, recv_counts,
                             recv_offsets, &p_->request));
}

/* Messages between two ranks are not collectives: they have no number and no check. */
static ls_status enter_message(recorded *c, ls_flight_kind kind, int64_t bytes, int peer,
                               pending **out) {
    LS_TRY(ls_comm_check_peer(&c->base, peer, "a message between this rank and"));
    const ls_flight_call call = {(int32_t)kind, -1, -1, -1, bytes, 0};
    LS_TRY(pending_take(c, out));
    (*out)->seq = 0;
    (*out)->peer = c->members[peer];
    (*out)->id = ls_flight_enter(c->group, &call, bytes, (*out)->peer);
    meter_begin(c, *out, &call, bytes, true, NULL);
    hand_over(*out, true);
    return LS_OK;
}

static ls_status send_start(ls_comm *comm, const void *buf, int64_t bytes, int to,
                            ls_comm_request **request) {
    ENTERED(comm, enter_message(c_, LS_FLIGHT_SEND, bytes, to, &p_),
            send_start(c_->inner, buf, bytes, to, &p_->request));
}

static ls_status recv_start(ls_comm *comm, void *buf, int64_t bytes, int from,
                            ls_comm_request **request) {
    ENTERED(comm, enter_message(c_, LS_FLIGHT_RECEIVE, bytes, from, &p_),
            recv_start(c_->inner, buf, bytes, from, &p_->request));
}

/* The check comes first: calls that do not fit may never end, or end in an error that says less. */
static ls_status test(ls_comm *comm, ls_comm_request *request, bool *done) {
    recorded *c = (recorded *)comm;
    pending *p = (pending *)request;
    bool checked, complete = p->request == NULL;
    const ls_meter_moment called = ls_meter_call();
    LS_TRY(check_finish(c, p, false, &checked));
    if (!complete) {
        LS_TRY(LS_HELD(c->inner->ops->test(c->inner, p->request, &complete)));
        p->request = complete ? NULL : p->request;
    }
    *done = checked && complete;
    if (!p->by_device) {
        leave(p->axis, p->id, p->kind, false, called);
    }
    if (*done) {
        ls_recorded_note_end(c, p);
        ls_recorded_give_back(c, p);
    }
    return LS_OK;
}

static ls_status wait_for(ls_comm *comm, ls_comm_request *request) {
    recorded *c = (recorded *)comm;
    pending *p = (pending *)request;
    bool checked;
    const ls_comm_axis axis = p->axis;
    const uint64_t id = p->id;
    const int kind = p->kind;
    const ls_meter_moment called = ls_meter_call();
    ls_flight_wait(p->id);
    ls_status status = check_finish(c, p, true, &checked);
    if (status == LS_OK && p->request) {
        status = LS_HELD(c->inner->ops->wait(c->inner, p->request));
        if (status == LS_OK && p->by_device) {
            ls_flight_wait(0);
            p->waited = true;
            return LS_OK;
        }
    }
    status = finish(c, p, status);
    leave(axis, id, kind, true, called);
    return status;
}

/* Communicators */

static void destroy(ls_comm *comm) {
    recorded *c = (recorded *)comm;
    if (!c) {
        return;
    }
    ls_flight_group_remove(c->group);
    ls_progress_hold();
    if (c->check_comm) {
        c->check_comm->ops->destroy(c->check_comm);
    }
    if (c->inner->listener == &c->listener) {
        c->inner->listener = NULL;
    }
    if (c->owns_inner) {
        c->inner->ops->destroy(c->inner);
    }
    (void)ls_progress_released(LS_OK);
    for (pending *p = c->all, *next; p; p = next) {
        next = p->next_all;
        ls_recorded_device_forget(p);
        free(p->check.sent);
        free(p);
    }
    free(c->members);
    free(c->notice_bytes);
    free(c->notice_offsets);
    free(c);
}

static ls_status init_check(recorded *c) {
    const size_t ranks = (size_t)c->base.size;
    LS_TRY(ls_calloc(ranks, sizeof *c->notice_bytes, &c->notice_bytes));
    LS_TRY(ls_calloc(ranks, sizeof *c->notice_offsets, &c->notice_offsets));
    for (size_t r = 0; r < ranks; r++) {
        c->notice_bytes[r] = sizeof(notice);
        c->notice_offsets[r] = (int64_t)(r * sizeof(notice));
    }
    return LS_OK;
}

ls_status ls_comm_recorded(ls_comm *inner, const char *group, bool checks, ls_comm **out) {
    recorded *c;
    ls_status status = ls_calloc(1, sizeof *c, &c);
    if (status == LS_OK) {
        c->base = *inner;
        c->base.ops = &recorded_ops;
        c->base.orders = false;
        c->listener = LS_RECORDED_LISTENER;
        c->inner = inner;
        c->group = -1;
        c->axis = LS_COMM_WORLD;
        status = ls_calloc((size_t)inner->size, sizeof *c->members, &c->members);
    }
    if (status == LS_OK && checks) {
        status = init_check(c);
    }
    const ls_flight_record *own = ls_flight_own();
    const int32_t me = own ? own->rank : inner->rank;
    LS_TRY_GOTO(LS_HELD(ls_comm_agree(inner, status)), failed);
    LS_TRY_GOTO(LS_HELD(inner->ops->all_gather(inner, &me, c->members, sizeof me)), failed);
    if (checks) {
        ls_comm *host = inner->on_device ? inner->host_side : inner;
        LS_TRY_GOTO(LS_HELD(host->ops->duplicate(host, &c->check_comm)), failed);
    }
    c->lowest = me;
    for (int r = 0; r < inner->size; r++) {
        c->lowest = c->members[r] < c->lowest ? c->members[r] : c->lowest;
    }
    c->group = ls_flight_group_add(group, c->lowest, inner->size);
    snprintf(c->name, sizeof c->name, "%s", group);
    if (inner->orders) {
        inner->listener = &c->listener;
    }
    *out = &c->base;
    return LS_OK;
failed:
    destroy(&c->base);
    return status;
}

static ls_status duplicate_inner(recorded *c, ls_comm **copy) {
    BLOCKING(&c->base, 0, duplicate(c_->inner, copy), LS_FLIGHT_DUPLICATE, -1, -1, -1, -1, 0);
}

static ls_status split_inner(recorded *c, int color, ls_comm **part) {
    BLOCKING(&c->base, 0, split(c_->inner, color, part), LS_FLIGHT_SPLIT, -1, -1, -1, -1, 0);
}

/* `inner` becomes the new communicator's. */
static ls_status record_own(const recorded *from, ls_comm *inner, const char *name, ls_comm **out) {
    ls_status status = ls_comm_recorded(inner, name, from->check_comm != NULL, out);
    if (status != LS_OK) {
        inner->ops->destroy(inner);
        return status;
    }
    ((recorded *)*out)->owns_inner = true;
    ((recorded *)*out)->axis = from->axis;
    return LS_OK;
}

static ls_status duplicate(ls_comm *comm, ls_comm **copy) {
    recorded *c = (recorded *)comm;
    ls_comm *inner;
    LS_TRY(duplicate_inner(c, &inner));
    return record_own(c, inner, c->name, copy);
}

static ls_status split(ls_comm *comm, int color, ls_comm **part) {
    recorded *c = (recorded *)comm;
    ls_comm *inner;
    LS_TRY(split_inner(c, color, &inner));
    char name[sizeof c->name + 16];
    snprintf(name, sizeof name, "%s/%d", c->name, color);
    return record_own(c, inner, name, part);
}

void ls_comm_name_group(ls_comm *comm, const char *group) {
    if (comm->ops == &recorded_ops) {
        recorded *c = (recorded *)comm;
        ls_flight_group_rename(c->group, group);
        snprintf(c->name, sizeof c->name, "%s", group);
    }
}

void ls_comm_set_axis(ls_comm *comm, ls_comm_axis axis) {
    if (comm->ops == &recorded_ops) {
        ((recorded *)comm)->axis = axis;
    }
}

static const ls_comm_ops recorded_ops = LS_COMM_OPS("recorded");
