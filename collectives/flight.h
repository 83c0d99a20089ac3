/* The flight record: what this process did last, in memory that survives its death.
 *
 * Each rank keeps a ring of its last collectives and a note of where it is in its work, in a file
 * of a node-local directory that it maps and locks. Ranks of the same host read it there, also
 * when its writer is stopped or dead: the kernel drops the lock with the process. watch.h sends it
 * to other hosts.
 *
 *   /dev/shm/lockstep-TOKEN-RANK
 *   | who, where, heartbeat | groups: operations entered | ring: the last LS_FLIGHT_OPS |
 *
 * There is one record a process. All functions but ls_flight_copy, ls_flight_beat, ls_flight_asked
 * and those on peers are called by the main thread; without an open record they do nothing. Times
 * are of CLOCK_MONOTONIC of the writer's host. */
#ifndef LS_COLLECTIVES_FLIGHT_H
#define LS_COLLECTIVES_FLIGHT_H

#include "collectives/comm.h"

#include <stdatomic.h>
#include <stdint.h>

enum { LS_FLIGHT_OPS = 512, LS_FLIGHT_GROUPS = 64 };

/* X(kind, text) */
#define LS_FLIGHT_KINDS(X)                                                                         \
    X(LS_FLIGHT_DUPLICATE, "duplicate")                                                            \
    X(LS_FLIGHT_SPLIT, "split")                                                                    \
    X(LS_FLIGHT_ALLOC, "allocation")                                                               \
    X(LS_FLIGHT_GIVE_BACK, "release of memory")                                                    \
    X(LS_FLIGHT_HOST, "host query")                                                                \
    X(LS_FLIGHT_BARRIER, "barrier")                                                                \
    X(LS_FLIGHT_BROADCAST, "broadcast")                                                            \
    X(LS_FLIGHT_ALL_REDUCE, "all-reduce")                                                          \
    X(LS_FLIGHT_ALL_GATHER, "all-gather")                                                          \
    X(LS_FLIGHT_REDUCE, "reduce")                                                                  \
    X(LS_FLIGHT_REDUCE_SCATTER, "reduce-scatter")                                                  \
    X(LS_FLIGHT_ALL_TO_ALL, "all-to-all")                                                          \
    X(LS_FLIGHT_SEND, "send")                                                                      \
    X(LS_FLIGHT_RECEIVE, "receive")
typedef enum ls_flight_kind {
#define X(kind, text) kind,
    LS_FLIGHT_KINDS(X)
#undef X
        LS_FLIGHT_KIND_COUNT
} ls_flight_kind;

/* What a rank is at. X(place, text, belongs to a training step: short, and of the same length each
 * time) */
#define LS_FLIGHT_PLACES(X)                                                                        \
    X(LS_FLIGHT_SETUP, "setup", false)                                                             \
    X(LS_FLIGHT_DATA, "data loading", true)                                                        \
    X(LS_FLIGHT_FORWARD, "forward", true)                                                          \
    X(LS_FLIGHT_BACKWARD, "backward", true)                                                        \
    X(LS_FLIGHT_GRADIENTS, "reduction of gradients", true)                                         \
    X(LS_FLIGHT_UPDATE, "update of weights", true)                                                 \
    X(LS_FLIGHT_EVAL, "evaluation", false)                                                         \
    X(LS_FLIGHT_CHECKPOINT, "checkpoint", false)                                                   \
    X(LS_FLIGHT_END, "end of the run", false)
typedef enum ls_flight_place {
#define X(place, text, in_step) place,
    LS_FLIGHT_PLACES(X)
#undef X
        LS_FLIGHT_PLACE_COUNT
} ls_flight_place;
const char *ls_flight_kind_text(int kind);
const char *ls_flight_place_text(int place);
bool ls_flight_place_in_step(int place);

const char *ls_flight_reduction_text(int op);

/* What must be the same on all ranks for their calls to fit, but for count in an all-to-all and for
 * messages between two ranks. */
typedef struct ls_flight_call {
    int32_t kind, dtype, op, root; /* -1 where the kind has none; root: of the group */
    int64_t count;                 /* of elements, or bytes where dtype is -1; -1: none */
    uint64_t blocks;               /* hash of uneven counts, or 0 */
} ls_flight_call;

typedef struct ls_flight_op {
    uint64_t id;  /* 1, 2, ... of the rank's operations; 0: an empty place */
    uint64_t seq; /* 1, 2, ... of the group's collectives; 0: a message between two ranks */
    ls_flight_call call;
    int64_t bytes;                     /* that this rank contributes */
    int64_t step, bucket, place_index; /* -1: none */
    int32_t group, place, peer;        /* peer: the other world rank of a message, or -1 */
    uint64_t enqueue_ns, start_ns,
        end_ns; /* called, handed to the back end, complete; 0: not yet */
} ls_flight_op;

typedef struct ls_flight_group {
    char name[48]; /* with the lowest world rank it identifies the group; "": none yet */
    int32_t lowest, size;
    int64_t live;      /* 0: gone; the place is free, and its last group can still be read */
    uint64_t entered;  /* operations */
    uint64_t since_id; /* older operations with its number belong to a group that is gone */
} ls_flight_group;

typedef struct ls_flight_record {
    uint64_t magic, token; /* of the layout; of the job */
    int32_t rank, size;
    int64_t pid;
    char host[64];
    _Atomic uint64_t now_ns;      /* when a copy was made */
    _Atomic uint64_t beat_ns;     /* the watchdog's last sign of life; 0: there is none */
    _Atomic uint64_t progress_ns; /* the main thread's last mark, or begin or end of an operation */
    _Atomic uint64_t deadline_ns; /* for progress, at this place */
    _Atomic uint64_t asked_ns;    /* when the watchdog of another rank read it, as it does all */
    _Atomic int64_t step;         /* -1 before the first */
    _Atomic int32_t place, left;  /* left: closed in order */
    _Atomic int64_t place_index;  /* block, or -1 */
    _Atomic uint64_t inside;      /* id of the operation that the main thread waits in; 0: none */
    _Atomic uint64_t last_id;
    ls_flight_group groups[LS_FLIGHT_GROUPS];
    ls_flight_op ops[LS_FLIGHT_OPS]; /* id is at (id - 1) % LS_FLIGHT_OPS */
    ls_flight_op waited; /* that was last waited for after the ring had lost it; id 0: none */
} ls_flight_record;

typedef struct ls_flight_options {
    const char *dir; /* NULL: /dev/shm */
    uint64_t token;  /* equal on all ranks of the job, and only there */
    int rank, size;  /* of the world */
} ls_flight_options;

/* Makes and locks this rank's file, and removes those that killed jobs of this user have left.
 * LS_E_EXISTS while a record is open, LS_E_IO. Not collective. */
ls_status ls_flight_open(const ls_flight_options *options);
/* Marks the record as left, unmaps it and removes its file. Safe when none is open. */
void ls_flight_close(void);
/* Marks the record as left and removes its file, but keeps the memory: for other threads of a
 * process that is about to end. */
void ls_flight_forget(void);
/* The open record or NULL. */
ls_flight_record *ls_flight_own(void);

/* Where the main thread is: progress. index: of the block; -1: none. */
void ls_flight_mark(ls_flight_place place, int64_t index);
void ls_flight_set_step(int64_t step);
/* Bucket of the next operation that is entered. */
void ls_flight_set_bucket(int64_t bucket);
/* For the watchdog's threads: of this rank; and of one who looks at this record. */
void ls_flight_beat(void);
void ls_flight_asked(ls_flight_record *record);

/* Communicators and their operations. add gives the group's place, -1 when all are taken (its
 * operations are then recorded without a group); a name that lives already on the same lowest rank
 * gets a number. */
int ls_flight_group_add(const char *name, int lowest, int size);
void ls_flight_group_rename(int group, const char *name);
void ls_flight_group_remove(int group);
/* Returns the operation's id. peer: of a message, else -1. */
uint64_t ls_flight_enter(int group, const ls_flight_call *call, int64_t bytes, int peer);
void ls_flight_start(uint64_t id);
void ls_flight_end(uint64_t id);
/* The main thread begins to wait for an operation; 0: it does no more. */
void ls_flight_wait(uint64_t id);

/* The operation of a record; NULL when the ring has lost it and nobody waits for it. */
const ls_flight_op *ls_flight_find(const ls_flight_record *record, uint64_t id);
/* The group of an operation; NULL when it has or had none that still lives. */
const ls_flight_group *ls_flight_group_of(const ls_flight_record *record, const ls_flight_op *op);
/* A consistent enough copy of a record that its owner may be writing to; now_ns is set. */
void ls_flight_copy(const ls_flight_record *from, ls_flight_record *to);

/* What a verdict (diagnose.h) needs of a record, for the way to another host, a few KB instead of
 * 67: groups that have a name, operations that have not ended and the last 32 that have. packed
 * holds LS_FLIGHT_PACKED_MOST; the bytes used. now_ns is set. */
#define LS_FLIGHT_PACKED_MOST (sizeof(ls_flight_record) + (2 + LS_FLIGHT_GROUPS) * sizeof(int64_t))
size_t ls_flight_pack(const ls_flight_record *from, void *packed);
/* to: zeros. False, and anything in it: that is no packed record of this program. */
bool ls_flight_unpack(const void *packed, size_t bytes, ls_flight_record *to);

/* The record of another rank of this host. */
typedef struct ls_flight_peer {
    ls_flight_record *record; /* NULL: not mapped */
    int fd;
    char path[256];
} ls_flight_peer;
/* LS_E_INPUT when there is no such file here. */
ls_status ls_flight_peer_open(const ls_flight_options *whose, ls_flight_peer *peer);
void ls_flight_peer_close(ls_flight_peer *peer);
/* Has its process ended without closing the record? */
bool ls_flight_peer_dead(const ls_flight_peer *peer);

/* Writes a record as DIR/flight-RANK.json; makes DIR. */
ls_status ls_flight_write(const ls_flight_record *record, const char *dir);

#endif
