/* Inside the back end of ranks that share memory. */
#ifndef LS_COLLECTIVES_COMM_SHM_IMPL_H
#define LS_COLLECTIVES_COMM_SHM_IMPL_H

#include "collectives/comm_impl.h"
#include "collectives/comm_mpi_handle.h"
#include "collectives/comm_shm.h"

#include <stdatomic.h>
#include <string.h>

/* STAGE_BYTES: of a stage. Smaller ones cost more steps, each of which waits for the slowest rank;
 * the stages of a few ranks still fit the last-level cache.
 * WHOLE_BYTES: up to here every rank reduces all of a vector itself, which saves a step, and
 * buffers are not used where they lie, which costs one.
 * CARRIED_BYTES: what goes with the notice of an operation, which saves the stages.
 * NOTICES: operations by which a rank may be ahead of the slowest.
 * LETTERS, LETTER_BYTES: messages on their way from one rank to another, and the longest of them;
 * longer ones are left to MPI.
 * REACH: ranks before and after, in a ring, that a rank has channels to: those of pipelines and
 * rings. Messages to others are left to MPI: channels between all would take the square of the
 * ranks. */
enum {
    STAGE_BYTES = 512 << 10,
    WHOLE_BYTES = 32 << 10,
    CARRIED_BYTES = 4 << 10,
    NOTICES = 32,
    LETTERS = 8,
    LETTER_BYTES = 2 << 10,
    REACH = 8,
    CACHE_LINE = 64
};

/* Bytes of a chunk: STAGE_BYTES, which is the most, unless a test lowers it, on all ranks and while
 * no operation is under way. */
extern int64_t ls_comm_shm_chunk_bytes;
/* REACH, unless a test lowers it, on all ranks: of communicators made afterwards. */
extern int ls_comm_shm_reach;

typedef enum shm_kind {
    SHM_REDUCE, /* and all-reduce */
    SHM_SCATTER,
    SHM_GATHER,
    SHM_EXCHANGE,
    SHM_BROADCAST,
    SHM_BARRIER,
    SHM_SEND,
    SHM_RECV,
    SHM_MESSAGE /* handed to MPI */
} shm_kind;

enum { NOWHERE = -1, EVERYBODY = -1 };

/* A place in memory from alloc; region NOWHERE: in private memory. */
typedef struct shm_place {
    int64_t region, offset;
} shm_place;

/* A rank's call of an operation, in one cache line where its data is short. */
typedef struct shm_notice {
    _Alignas(CACHE_LINE) _Atomic uint64_t turn; /* number of the operation + 1, written last */
    uint32_t what;                              /* of the arguments that must be equal everywhere */
    uint32_t stride; /* of an exchange's blocks; MUCH: its data does not go with it */
    int64_t count;   /* elements or bytes of all, equal everywhere */
    char data[CACHE_LINE - 24];
} shm_notice;
_Static_assert(sizeof(shm_notice) == CACHE_LINE, "a notice is one cache line");
#define MUCH UINT32_MAX

/* What the others must know of an operation whose data does not go with its notice. */
typedef struct shm_plan {
    int64_t bytes, chunks;
    shm_place send, recv;
} shm_plan;

/* A message, in one cache line where it is short. */
typedef struct shm_letter {
    _Alignas(CACHE_LINE) _Atomic uint64_t turn; /* number of the message + 1, written last */
    char data[CACHE_LINE - 8];
} shm_letter;

/* Messages to one rank. */
typedef struct shm_channel {
    _Alignas(CACHE_LINE) _Atomic uint64_t taken; /* messages; written by the receiver */
    shm_letter letters[LETTERS];
    char bodies[LETTERS][LETTER_BYTES];
} shm_channel;

/* A rank's part of the window. Notices are by number of the operation, plans, stages and offsets by
 * parity of the step. */
typedef struct shm_part {
    _Alignas(CACHE_LINE) _Atomic uint64_t made; /* steps */
    _Atomic bool moves;                         /* much data, in a call that does not wait for it */
    _Alignas(CACHE_LINE) _Atomic uint64_t finished; /* operations */
    shm_notice notices[NOTICES];
    char bodies[NOTICES][CARRIED_BYTES];
    _Alignas(CACHE_LINE) shm_plan plans[2];
    _Alignas(CACHE_LINE) char in[2][STAGE_BYTES];
    char out[2][STAGE_BYTES];
    shm_channel channels[]; /* [shm_channels], by receiver; behind them int64_t [2][size]: of an
                             * exchange's blocks in the sender's buffer, of a gather's in the
                             * receiver's */
} shm_part;

/* A window of MPI, and where each rank's memory in it lies here. */
typedef struct shm_window {
    MPI_Win handle;
    char **bases; /* [size] */
    void *view;   /* where they lie in a mapping of our own; NULL: in MPI's */
    size_t view_bytes;
} shm_window;

/* Memory from alloc. Regions have the same numbers on all ranks. common: of all ranks, from
 * alloc_common; each has the same place of it at the same offset. */
typedef struct shm_region {
    struct shm_region *next;
    int64_t id, bytes;
    bool common;
    shm_window window;
} shm_region;

/* What a communicator and its duplicates have taken: each knows the memory of the others. */
typedef struct shm_memory {
    int users;
    shm_region *regions;
    int64_t next_id;
} shm_memory;

struct ls_comm_request {
    ls_comm_request *next, *next_all;
    shm_kind kind;
    ls_status status;
    ls_dtype dtype;
    ls_reduce op;
    int root; /* of broadcast and reduce; EVERYBODY; of a message: the other rank */
    const char *send;
    char *recv;
    int64_t
        count; /* elements of reduce, bytes of broadcast and message; else those of all blocks */
    /* [size] each, by rank; elements of scatter, else bytes. */
    int64_t *send_counts, *send_offsets, *recv_counts, *recv_offsets;
    bool announced, carried, done, direct;
    bool pushes, owes;     /* a gather: into the others' memory; its own block is not copied yet */
    bool common;           /* a gather's result is memory in common */
    bool yields;           /* in step 1, while its neighbour moves data */
    int heard;             /* of the others' notices, in the order of neighbours */
    int64_t step, last;    /* of this operation; the notice is step 0 */
    int64_t chunks, first; /* first: the step in which chunk 0 is copied in */
    ls_comm_request *message; /* of mpi */
};

/* What this rank knows of its messages with another. */
typedef struct shm_mail {
    shm_channel *out, *in;          /* to and from it; NULL: beyond reach */
    uint64_t sent, taken, received; /* taken: by the other, when last looked at */
    ls_comm_request *sends, *recvs; /* not done, in order */
} shm_mail;

typedef struct shm_comm {
    ls_comm base;
    ls_comm *mpi; /* long and far messages, and groups */
    shm_window window;
    int channels;                 /* of a part */
    int spins;                    /* looks at the others before the processor is offered to them */
    uint64_t turn;                /* operations that this rank has finished */
    uint64_t behind;              /* those that all had, when last looked at */
    uint64_t steps;               /* made by this rank, over all operations */
    ls_comm_request *head, *tail; /* operations other than messages, in order */
    shm_mail *mail;               /* [size] */
    int letters;                  /* messages that are not done */
    bool waits;                   /* the caller, for an operation of this communicator */
    ls_comm_request *all, *free;
    shm_memory *memory;
    ls_pump pump;
    const void **from; /* [size], of one addition */
    void **to;         /* [size + 1] */
} shm_comm;

static inline shm_part *shm_part_of(const shm_comm *c, int rank) {
    return (shm_part *)c->window.bases[rank];
}

/* To all ranks within reach, oneself counted too. */
static inline int shm_channels(int size) {
    const int most = 2 * ls_comm_shm_reach + 1;
    return size < most ? size : most;
}

static inline int64_t shm_part_bytes(int size) {
    return (int64_t)sizeof(shm_part) + shm_channels(size) * (int64_t)sizeof(shm_channel) +
           size * 2 * (int64_t)sizeof(int64_t);
}

static inline int64_t *shm_offsets_of(const shm_comm *c, int rank, uint64_t step) {
    return (int64_t *)(void *)&shm_part_of(c, rank)->channels[c->channels] +
           (int64_t)(step % 2) * c->base.size;
}

static inline void shm_copy(void *to, const void *from, int64_t bytes) {
    if (bytes > 0 && to != from) {
        memcpy(to, from, (size_t)bytes);
    }
}

static inline int64_t shm_elem_bytes(const ls_comm_request *r) {
    return r->kind == SHM_REDUCE || r->kind == SHM_SCATTER ? (int64_t)ls_dtype_bytes(r->dtype) : 1;
}

static inline bool shm_receives(const shm_comm *c, const ls_comm_request *r) {
    return r->root == EVERYBODY || r->root == c->base.rank;
}

/* comm_shm_notice.c: tells the others of an operation, with its data where that is short; false:
 * not yet, since one of them is too far behind. */
bool ls_shm_announce(shm_comm *c, ls_comm_request *r);
/* Has this rank the notices that it needs? Then r->status says whether they fit. */
bool ls_shm_hear(shm_comm *c, ls_comm_request *r);
/* The notice of another rank for the operation under way. */
const shm_notice *ls_shm_notice_of(const shm_comm *c, int rank);
/* Completes an operation from what came with the notices. */
void ls_shm_take_carried(shm_comm *c, const ls_comm_request *r);

/* comm_shm_step.c: copies this rank's block of a gather, unless all may write into each other's
 * memory, which reads it once for all, or have the result in common, which others still read. */
void ls_shm_copy_own(shm_comm *c, ls_comm_request *r);
/* Fills in a plan, and puts the first chunk into the stage. */
void ls_shm_plan(shm_comm *c, const ls_comm_request *r);
/* Goes through the steps that it can; true when the operation is done. */
bool ls_shm_step(shm_comm *c, ls_comm_request *r);

/* comm_shm_pages.c: moves w->bases, of so many bytes each, to where huge pages are possible, if
 * that can be. */
void ls_shm_view_take(shm_window *w, int ranks, int64_t bytes);
void ls_shm_view_free(shm_window *w);
/* Takes the pages of new memory in the window, huge ones if that can be; it reads as zeros. */
void ls_shm_touch(const shm_window *w, char *memory, int64_t bytes);

/* comm_shm_letter.c: finds the channels, once the window is there. */
void ls_shm_open_channels(shm_comm *c);
/* Sends and receives what it can. */
void ls_shm_deliver(shm_comm *c);

/* Moves on what it can. */
void ls_shm_drive(ls_pump *pump);

#endif
