/* Several domains of devices: all operations of a request are handed over when it starts.
 *
 * In turn t, stage i of chunk t - i is started for all i, and what is started in the next turn
 * waits for them, on the device: the stages of a chunk overlap those of its neighbours, and ranks
 * start the operations of all communicators in the same order, as NCCL asks. What the last stage
 * starts is not waited for until the caller waits. */
#include "collectives/comm_hier_impl.h"

#include <stddef.h>
#include <stdlib.h>

ls_status ls_hier_device_add(ls_comm_request *r, ls_comm_request *end) {
    if (r->end_count == r->end_capacity) {
        const int64_t capacity = 2 * r->end_capacity + 1;
        ls_comm_request **grown = realloc(r->ends, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return LS_FAIL(LS_E_MEMORY, "no memory for the %lld operations of a collective",
                           (long long)capacity);
        }
        r->ends = grown;
        r->end_capacity = capacity;
    }
    r->ends[r->end_count++] = end;
    return LS_OK;
}

/* Every stage's next chunk, where it has come so far. */
static ls_status start_turn(hier_comm *c, ls_comm_request *r, int64_t turn) {
    for (int i = 0; i < r->stages; i++) {
        hier_stage *s = &r->stage[i];
        const int64_t chunk = turn - i;
        for (int64_t j = 0; j < s->each && chunk >= 0 && chunk < r->chunks; j++) {
            ls_comm_request **flying = &s->flying[s->started % FLYING];
            LS_TRY(ls_hier_start_op(c, r, s));
            if (*flying && i == r->stages - 1) {
                LS_TRY(ls_hier_device_add(r, *flying));
            } else if (*flying && s->each > FLYING) { /* no more than the table has room for */
                LS_TRY(ls_hier_comm_of(c, s)->ops->wait(ls_hier_comm_of(c, s), *flying));
                *flying = NULL;
            }
        }
    }
    return LS_OK;
}

/* What comes next goes behind all but the last stage. */
static ls_status end_turn(hier_comm *c, ls_comm_request *r) {
    for (int i = 0; i < r->stages - 1; i++) {
        hier_stage *s = &r->stage[i];
        for (; s->ended < s->started; s->ended++) {
            ls_comm_request *flying = s->flying[s->ended % FLYING];
            if (flying) {
                LS_TRY(ls_hier_comm_of(c, s)->ops->wait(ls_hier_comm_of(c, s), flying));
            }
        }
    }
    return LS_OK;
}

ls_status ls_hier_device_issue(hier_comm *c, ls_comm_request *r) {
    LS_TRY(c->order.follow(c->order.context));
    for (int64_t turn = 0; turn < r->chunks + r->stages - 1; turn++) {
        LS_TRY(start_turn(c, r, turn));
        LS_TRY(end_turn(c, r));
    }
    return LS_OK;
}

/* Tells whoever listens, once all operations are over or have been passed; then r is free. */
static void note(hier_comm *c, ls_comm_request *r, bool passed) {
    ls_comm_listener *listener = c->base.listener;
    if (listener && !passed) {
        listener->ended(listener, r, r->active_ns);
    }
    if (listener && passed) {
        listener->passed(listener, r, r->stalled_ns);
    }
    if (passed) {
        ls_hier_give_back(c, r);
    }
}

static hier_comm *listening(ls_comm_listener *listener) {
    return (hier_comm *)((char *)listener - offsetof(hier_comm, listener));
}

/* The request with this operation at its end; NULL: it belongs to an earlier stage. */
static ls_comm_request *owner_of(const hier_comm *c, const ls_comm_request *end) {
    for (ls_comm_request *r = c->all; r; r = r->next_all) {
        for (int64_t i = 0; i < r->end_count; i++) {
            if (r->ends[i] == end) {
                return r;
            }
        }
    }
    return NULL;
}

static void on_ended(ls_comm_listener *listener, ls_comm_request *end, uint64_t active_ns) {
    hier_comm *c = listening(listener);
    ls_comm_request *r = owner_of(c, end);
    if (r) {
        r->active_ns += active_ns;
        if (++r->ended == r->end_count) {
            note(c, r, false);
        }
    }
}

static void on_passed(ls_comm_listener *listener, ls_comm_request *end, uint64_t stalled_ns) {
    hier_comm *c = listening(listener);
    ls_comm_request *r = owner_of(c, end);
    if (r) {
        for (int64_t i = 0; i < r->end_count; i++) {
            r->ends[i] = r->ends[i] == end ? NULL : r->ends[i]; /* it may be used again */
        }
        r->stalled_ns += stalled_ns;
        if (++r->passed == r->end_count) {
            r->end_count = 0;
            note(c, r, true);
        }
    }
}

const ls_comm_listener LS_HIER_LISTENER = {.ended = on_ended, .passed = on_passed};

/* Nothing for this rank to do. */
static void end_empty(hier_comm *c, ls_comm_request *r) {
    note(c, r, false);
    note(c, r, true);
}

static ls_comm *last_comm(const hier_comm *c, const ls_comm_request *r) {
    return r->kind == HIER_FLAT ? c->flat : ls_hier_comm_of(c, &r->stage[r->stages - 1]);
}

ls_status ls_hier_device_test(hier_comm *c, ls_comm_request *r, bool *done) {
    ls_comm *comm = last_comm(c, r);
    const int64_t count = r->end_count;
    *done = true;
    if (count == 0) {
        end_empty(c, r);
    }
    for (int64_t i = 0; i < count && *done; i++) {
        /* The last one's end gives r back. */
        if (r->ends[i]) {
            LS_TRY(comm->ops->test(comm, r->ends[i], done));
        }
    }
    return LS_OK;
}

ls_status ls_hier_device_wait(hier_comm *c, ls_comm_request *r) {
    ls_comm *comm = last_comm(c, r);
    const int64_t count = r->end_count;
    if (count == 0) {
        end_empty(c, r);
    }
    ls_status status = LS_OK;
    c->order.set_device(c->order.context, comm, true);
    for (int64_t i = 0; i < count && status == LS_OK; i++) {
        status = r->ends[i] ? comm->ops->wait(comm, r->ends[i]) : LS_OK;
    }
    c->order.set_device(c->order.context, comm, false);
    return status;
}
