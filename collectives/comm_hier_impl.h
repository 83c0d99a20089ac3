/* Inside the back end of several hosts. */
#ifndef LS_COLLECTIVES_COMM_HIER_IMPL_H
#define LS_COLLECTIVES_COMM_HIER_IMPL_H

#include "collectives/comm_hier.h"
#include "collectives/comm_impl.h"

/* FLYING: operations of a stage that are under way at once: enough to fill a link while this
 * process computes for a while. */
enum { STAGES = 3, FLYING = 8 };

typedef enum hier_kind {
    HIER_FLAT, /* handed to the flat back end */
    HIER_ALL_REDUCE,
    HIER_REDUCE,
    HIER_REDUCE_SCATTER,
    HIER_ALL_GATHER,
    HIER_BROADCAST
} hier_kind;

/* Where a stage's operations go. Each way sees them in the order in which requests were started,
 * and of a request in the order of its chunks, on all ranks. */
typedef enum hier_way { WAY_DOWN, WAY_ACROSS, WAY_UP, WAYS } hier_way;

typedef struct hier_stage {
    hier_way way;
    int64_t each; /* operations of a chunk */
    int64_t total, started, ended;
    ls_comm_request *flying[FLYING]; /* by number modulo FLYING; NULL: nothing to do here */
} hier_stage;

struct ls_comm_request {
    ls_comm_request *next, *next_all;
    hier_kind kind;
    ls_status status;
    ls_dtype dtype;
    ls_reduce op;
    int root;
    bool done;
    const char *send;
    char *recv;
    /* Elements, of an all-gather those of the largest block; and bytes of one. */
    int64_t count, unit;
    int64_t *counts, *offsets; /* [size] */
    char *scratch;
    int64_t scratch_bytes;
    int stages;
    int64_t chunks;
    hier_stage stage[STAGES];
    ls_comm_request *flat; /* of the flat back end */
    /* On a device: the last stage's operations, and how many are over and have been passed; an
     * operation of the flat back end is the only one. */
    ls_comm_request **ends;
    int64_t end_count, end_capacity, ended, passed;
    uint64_t active_ns, stalled_ns;
};

typedef struct hier_place {
    int32_t host, inside; /* ranks across and inside */
} hier_place;

typedef struct hier_comm {
    ls_comm base;
    ls_comm *flat, *inside, *across;
    ls_comm *up;               /* inside again, for what comes back */
    hier_place *places;        /* [size] */
    int64_t *rank_of;          /* [size]: of host * ranks inside + place inside */
    bool in_order;             /* rank_of[i] == i */
    int64_t *counts, *offsets; /* [size], of one operation */
    ls_comm_request *active;   /* in the order of their start */
    ls_comm_request *all, *free;
    ls_pump pump;
    /* On a device */
    ls_hier_order order;
    ls_comm_listener listener; /* of all four */
} hier_comm;

static inline ls_comm *ls_hier_comm_of(const hier_comm *c, const hier_stage *s) {
    return s->way == WAY_DOWN ? c->inside : s->way == WAY_UP ? c->up : c->across;
}

/* The stages of a request with so many chunks; all else is filled in. */
void ls_hier_plan(const hier_comm *c, ls_comm_request *r, int64_t chunks);
/* Starts the next operation of a stage. */
ls_status ls_hier_start_op(hier_comm *c, ls_comm_request *r, hier_stage *s);
void ls_hier_give_back(hier_comm *c, ls_comm_request *r);
/* Starts and ends what it can. */
void ls_hier_drive(ls_pump *pump);

/* comm_hier_device.c: gives the device all operations of a request; and the calls on it. */
ls_status ls_hier_device_issue(hier_comm *c, ls_comm_request *r);
ls_status ls_hier_device_test(hier_comm *c, ls_comm_request *r, bool *done);
ls_status ls_hier_device_wait(hier_comm *c, ls_comm_request *r);
/* A request of the flat back end has been started. */
ls_status ls_hier_device_add(ls_comm_request *r, ls_comm_request *end);
extern const ls_comm_listener LS_HIER_LISTENER;

#endif
