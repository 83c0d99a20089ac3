/* A culprit is a rank that is stopped, gone or silent; or one that others wait for, does not wait
 * itself, and has made no progress for its own deadline. So blame goes along chains (0 waits for 1,
 * which waits for 2 in another group) to their end. Calls of the same number in the same group that
 * differ explain everything and are told first. Without a culprit, when all have waited for longer
 * than they should, the ranks wait for each other, or the transfer itself does not come to its end;
 * but not where one of them could not be asked, for whom they may wait.
 */
#include "collectives/diagnose.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { CULPRITS_TOLD = 4 };

/* Text that ends where the buffer does. */
typedef struct writer {
    char *buf;
    size_t size, used;
} writer;

static void put(writer *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(writer *w, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(w->buf + w->used, w->size - w->used, fmt, args);
    va_end(args);
    w->used = n > 0 && (size_t)n < w->size - w->used ? w->used + (size_t)n : w->size - 1;
}

/* The operation that a rank waits in, and its group; NULL when it does not wait. */
static const ls_flight_op *waits_in(const ls_rank_view *v, const ls_flight_group **group) {
    if (v->state == LS_RANK_LEFT || v->state == LS_RANK_DEAD || !v->record) {
        return NULL;
    }
    const ls_flight_op *op = ls_flight_find(v->record, v->record->inside);
    *group = op ? ls_flight_group_of(v->record, op) : NULL;
    return *group ? op : NULL;
}

/* Also where its record does not say in what: the ring has lost it, or it has no group. */
static bool is_waiting(const ls_rank_view *v) {
    return v->state != LS_RANK_LEFT && v->record && v->record->inside != 0;
}

/* A living group before one that is gone. */
static const ls_flight_group *same_group(const ls_flight_record *r, const ls_flight_group *group) {
    const ls_flight_group *found = NULL;
    for (int g = 0; r && g < LS_FLIGHT_GROUPS; g++) {
        const ls_flight_group *one = &r->groups[g];
        if (one->lowest == group->lowest && one->name[0] == group->name[0] &&
            strcmp(one->name, group->name) == 0 && (!found || one->live)) {
            found = one;
        }
    }
    return found;
}

static double idle_s(const ls_flight_record *r) {
    return 1e-9 * ((double)r->now_ns - (double)r->progress_ns);
}

static bool overdue(const ls_flight_record *r) {
    return idle_s(r) >= 1e-9 * (double)r->deadline_ns;
}

static void put_call(writer *w, const ls_flight_op *op, const ls_flight_group *group) {
    put(w, "%s", ls_flight_kind_text(op->call.kind));
    if (op->seq) {
        put(w, " #%llu", (unsigned long long)op->seq);
    }
    put(w, " of group %s", group->name);
    if (op->bucket >= 0) {
        put(w, ", bucket %lld", (long long)op->bucket);
    }
}

static void put_details(writer *w, const ls_flight_op *op) {
    const ls_flight_call *c = &op->call;
    if (c->count >= 0) {
        put(w, " with %lld %s", (long long)c->count,
            c->dtype >= 0 ? ls_dtype_name((ls_dtype)c->dtype) : "bytes");
    }
    if (c->root >= 0) {
        put(w, " from rank %d", c->root);
    }
    if (c->op >= 0) {
        put(w, " (%s)", ls_flight_reduction_text(c->op));
    }
}

static void put_place(writer *w, const ls_flight_record *r) {
    put(w, "%s", ls_flight_place_text(r->place));
    if (r->place_index >= 0) {
        put(w, " of block %lld", (long long)r->place_index);
    }
    if (r->step >= 0 && ls_flight_place_in_step(r->place)) {
        put(w, ", step %lld", (long long)r->step);
    }
}

static void put_state(writer *w, const ls_rank_view *v) {
    switch (v->state) {
    case LS_RANK_STOPPED:
        put(w, "; its process is stopped");
        if (v->record && v->record->beat_ns) {
            put(w, ", without a sign of life for %.1f s",
                1e-9 * ((double)v->record->now_ns - (double)v->record->beat_ns));
        }
        break;
    case LS_RANK_DEAD:
        put(w, "; its process has ended");
        break;
    case LS_RANK_UNREACHABLE:
        put(w, "; its host does not answer");
        break;
    case LS_RANK_LEFT:
        put(w, "; it has left the job");
        break;
    case LS_RANK_ALIVE:
        put(w, "; it still runs, but has made no progress for %.1f s", idle_s(v->record));
        break;
    }
}

static const ls_flight_op *with_seq(const ls_flight_record *r, const ls_flight_group *group,
                                    uint64_t seq) {
    for (uint64_t i = 0; i <= LS_FLIGHT_OPS; i++) { /* the last ones first, which others wait in */
        const uint64_t at = (r->last_id - 1 - i) % LS_FLIGHT_OPS;
        const ls_flight_op *op = i < LS_FLIGHT_OPS ? &r->ops[at] : &r->waited;
        if (op->seq == seq && ls_flight_group_of(r, op) == group) {
            return op;
        }
    }
    return NULL;
}

/* How others wait for a rank: the operation of the lowest of them, and whether the rank has entered
 * it (and not finished). */
typedef struct hold {
    const ls_flight_op *op; /* NULL: nobody waits for it */
    const ls_flight_group *group;
    bool entered;
    int waiting, first; /* ranks; the lowest of them */
} hold;

/* The operation that rank r waits in for `rank`; op NULL: none. */
static hold hold_of(const ls_rank_view *views, int rank, int r) {
    hold h = {.waiting = 1, .first = r};
    const ls_flight_group *group;
    const ls_flight_op *op = r == rank ? NULL : waits_in(&views[r], &group);
    const ls_flight_group *theirs = op ? same_group(views[rank].record, group) : NULL;
    if (!theirs || (op->peer >= 0 && op->peer != rank)) {
        return (hold){0};
    }
    h.entered = op->peer < 0 && theirs->entered >= op->seq;
    const ls_flight_op *own = h.entered ? with_seq(views[rank].record, theirs, op->seq) : NULL;
    if (h.entered && (!own || own->end_ns)) {
        return (hold){0};
    }
    h.op = op;
    h.group = group;
    return h;
}

static hold find_hold(const ls_rank_view *views, int size, int rank) {
    hold found = {0};
    for (int r = 0; r < size; r++) {
        const hold h = hold_of(views, rank, r);
        const int waiting = found.waiting + h.waiting;
        if (h.op && (!found.op || (found.entered && !h.entered))) {
            found = h;
        }
        found.waiting = waiting;
    }
    return found;
}

static bool is_lost(const ls_rank_view *v) {
    return v->state == LS_RANK_STOPPED || v->state == LS_RANK_DEAD ||
           v->state == LS_RANK_UNREACHABLE;
}

/* Do others wait for `rank`, which does not wait itself? */
static bool is_missing(const ls_rank_view *views, int size, int rank) {
    if (is_waiting(&views[rank])) {
        return false;
    }
    for (int r = 0; r < size; r++) {
        if (hold_of(views, rank, r).op) {
            return true;
        }
    }
    return false;
}

static void put_culprit(writer *w, const ls_rank_view *views, int size, int rank) {
    const ls_rank_view *v = &views[rank];
    const hold h = find_hold(views, size, rank);
    put(w, "%srank %d on host %s", w->used ? "; " : "", rank, v->host);
    if (h.op && h.op->peer >= 0) {
        put(w, " keeps rank %d on host %s waiting in ", h.first, views[h.first].host);
        put_call(w, h.op, h.group);
    } else if (h.op) {
        put(w, h.entered ? " did not finish " : " never entered ");
        put_call(w, h.op, h.group);
    } else if (!v->record) {
        put(w, " is silent");
        for (int r = 0; r < size; r++) {
            const ls_flight_group *group;
            const ls_flight_op *op = waits_in(&views[r], &group);
            if (op) {
                put(w, " while rank %d waits in ", r);
                put_call(w, op, group);
                break;
            }
        }
    }
    if (v->record) {
        put(w, "; last seen in ");
        put_place(w, v->record);
    }
    put_state(w, v);
    if (h.waiting) {
        put(w, "; %d rank%s for it", h.waiting, h.waiting == 1 ? " waits" : "s wait");
    }
}

/* Calls that do not fit */

static bool calls_fit(const ls_flight_call *a, const ls_flight_call *b) {
    return a->kind == b->kind && a->blocks == b->blocks && a->dtype == b->dtype && a->op == b->op &&
           a->root == b->root && (a->count == b->count || a->kind == LS_FLIGHT_ALL_TO_ALL);
}

/* Does a rank below wait in the same operation, for too long too? Its comparison is this one's. */
static bool is_compared(const ls_rank_view *views, int rank, const ls_flight_op *op,
                        const ls_flight_group *group) {
    for (int r = 0; r < rank; r++) {
        const ls_flight_group *theirs;
        const ls_flight_op *other = waits_in(&views[r], &theirs);
        if (other && other->seq == op->seq && theirs->lowest == group->lowest &&
            strcmp(theirs->name, group->name) == 0 && overdue(views[r].record)) {
            return true;
        }
    }
    return false;
}

/* Compares the operation that `rank` waits in with the others' of that number. */
static bool put_mismatch(writer *w, const ls_rank_view *views, int size, int rank) {
    const ls_flight_group *group;
    const ls_flight_op *op = waits_in(&views[rank], &group);
    if (!op || !op->seq || is_compared(views, rank, op, group)) {
        return false;
    }
    for (int r = 0; r < size; r++) {
        const ls_flight_group *theirs = same_group(views[r].record, group);
        const ls_flight_op *other = theirs ? with_seq(views[r].record, theirs, op->seq) : NULL;
        if (other && !calls_fit(&op->call, &other->call)) {
            put(w, "the ranks' calls do not fit: rank %d on host %s calls ", rank,
                views[rank].host);
            put_call(w, op, group);
            put_details(w, op);
            put(w, ", but rank %d on host %s calls ", r, views[r].host);
            put_call(w, other, theirs);
            put_details(w, other);
            return true;
        }
    }
    return false;
}

/* Nobody is to blame, and yet nobody goes on. */
static void put_deadlock(writer *w, const ls_rank_view *views, int size) {
    int told = 0;
    put(w, "all ranks wait, and none goes on: ");
    for (int r = 0; r < size && told < CULPRITS_TOLD; r++) {
        const ls_flight_group *group;
        const ls_flight_op *op = waits_in(&views[r], &group);
        if (op) {
            put(w, "%srank %d on host %s in ", told++ ? "; " : "", r, views[r].host);
            put_call(w, op, group);
            put(w, " for %.1f s", idle_s(views[r].record));
        } else if (is_waiting(&views[r])) {
            put(w, "%srank %d on host %s in an operation that its record does not name",
                told++ ? "; " : "", r, views[r].host);
        }
    }
}

ls_verdict ls_diagnose(const ls_rank_view *views, int size, char *text, size_t text_size) {
    writer w = {text, text_size, 0};
    text[0] = '\0';
    int culprits = 0, waiting = 0, patient = 0, unknown = 0, slow = -1;
    for (int r = 0; r < size; r++) {
        const bool waits = is_waiting(&views[r]);
        const bool missing = is_missing(views, size, r);
        waiting += waits;
        unknown += !views[r].record;
        patient += waits && !overdue(views[r].record);
        slow = missing && slow < 0 ? r : slow;
        const bool left = views[r].state == LS_RANK_LEFT;
        if (is_lost(&views[r]) || (missing && (left || overdue(views[r].record)))) {
            if (culprits++ < CULPRITS_TOLD) {
                put_culprit(&w, views, size, r);
            }
        }
    }
    for (int r = 0; r < size; r++) {
        const ls_flight_group *group;
        writer other = {text, text_size, 0};
        if (waits_in(&views[r], &group) && overdue(views[r].record) &&
            put_mismatch(&other, views, size, r)) {
            return LS_VERDICT_HANG;
        }
    }
    if (culprits > CULPRITS_TOLD) {
        put(&w, "; and %d more", culprits - CULPRITS_TOLD);
    }
    if (culprits) {
        return LS_VERDICT_HANG;
    }
    if (slow >= 0) {
        put_culprit(&w, views, size, slow);
        return LS_VERDICT_SLOW;
    }
    if (waiting > 0 && patient == 0 && unknown == 0) {
        put_deadlock(&w, views, size);
        return LS_VERDICT_HANG;
    }
    return waiting > 0 ? LS_VERDICT_SLOW : LS_VERDICT_FINE;
}
