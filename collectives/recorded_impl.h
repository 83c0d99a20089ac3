/* What recorded.c and recorded_device.c share. */
#ifndef LS_COLLECTIVES_RECORDED_IMPL_H
#define LS_COLLECTIVES_RECORDED_IMPL_H

#include "collectives/meter.h"
#include "collectives/recorded.h"

/* What a rank tells another about its call. */
typedef struct notice {
    ls_flight_call call;
    uint64_t seq;
} notice;

/* A check on its way: notices to and from each rank, and what should come. */
typedef struct call_check {
    notice *sent, *received, *expected; /* [ranks], one after the other */
    ls_comm_request *request;
} call_check;

/* An operation on its way; kept for reuse. */
typedef struct pending {
    struct pending *next_all, *next_free, *next_on_device;
    uint64_t id, seq, begin_ns; /* seq 0: a message */
    int kind, peer;             /* peer: the other world rank of a message, else -1 */
    int64_t bytes;
    ls_comm_axis axis;
    ls_comm_request *request; /* the back end's; NULL: it is done */
    bool by_device;           /* times it, and ends it after the wait */
    bool waited, ended;       /* by the device; noted */
    call_check check;
} pending;

typedef struct recorded {
    ls_comm base;
    ls_comm_listener listener;
    ls_comm *inner, *check_comm; /* check_comm NULL: no checks */
    bool owns_inner;
    int group, lowest; /* lowest: of members */
    ls_comm_axis axis;
    char name[48];
    uint64_t seq;
    int32_t *members;                       /* [ranks]; of the world */
    int64_t *notice_bytes, *notice_offsets; /* [ranks] */
    pending *all, *free;
} recorded;

static inline void ls_recorded_give_back(recorded *c, pending *p) {
    p->next_free = c->free;
    c->free = p;
}

/* The operation is over; the first time counts. */
void ls_recorded_note_end(const recorded *c, pending *p);

/* recorded_device.c: an operation that a device ends, after its start; and one that nobody will
 * hear of any more. */
void ls_recorded_device_add(pending *p);
void ls_recorded_device_forget(const pending *p);
extern const ls_comm_listener LS_RECORDED_LISTENER;

#endif
