/* Inside the back end of ranks that share memory. */
#ifndef LS_COLLECTIVES_COMM_SHM_IMPL_H
#define LS_COLLECTIVES_COMM_SHM_IMPL_H

#include "collectives/comm_impl.h"
#include "collectives/comm_mpi_handle.h"
#include "collectives/comm_shm.h"

#include <stdatomic.h>

/* STAGE_BYTES: of a stage. Smaller ones cost more steps, each of which waits for the slowest rank;
 * the stages of a few ranks still fit the last-level cache.
 * WHOLE_BYTES: up to here every rank reduces all of a vector itself, which saves a step, and
 * buffers are not used where they lie, which costs one. */
enum { STAGE_BYTES = 512 << 10, WHOLE_BYTES = 32 << 10, CACHE_LINE = 64 };

/* Bytes of a chunk: STAGE_BYTES, which is the most, unless a test lowers it, on all ranks and while
 * no operation is under way. */
extern int64_t ls_comm_shm_chunk_bytes;

typedef enum shm_kind {
    SHM_REDUCE, /* and all-reduce */
    SHM_SCATTER,
    SHM_GATHER,
    SHM_EXCHANGE,
    SHM_BROADCAST,
    SHM_BARRIER,
    SHM_MESSAGE /* handed to MPI; makes no steps */
} shm_kind;

enum { NOWHERE = -1, EVERYBODY = -1 };

/* A place in memory from alloc; region NOWHERE: in private memory. */
typedef struct shm_place {
    int64_t region, offset;
} shm_place;

/* What a rank tells in the first step of an operation. */
typedef struct shm_notice {
    uint32_t what; /* of the arguments that must be equal on all ranks */
    int64_t count; /* likewise */
    int64_t bytes, chunks;
    shm_place send, recv;
} shm_notice;

/* A rank's part of the window, for steps by parity. */
typedef struct shm_part {
    _Alignas(CACHE_LINE) _Atomic uint64_t made; /* steps */
    _Alignas(CACHE_LINE) shm_notice notices[2];
    _Alignas(CACHE_LINE) char in[2][STAGE_BYTES];
    char out[2][STAGE_BYTES];
    int64_t offsets[]; /* [2][size]: of an exchange's blocks in the sender's buffer */
} shm_part;

/* A window of MPI, and where each rank's memory in it lies here. */
typedef struct shm_window {
    MPI_Win handle;
    char **bases; /* [size] */
} shm_window;

/* Memory from alloc. Regions have the same numbers on all ranks. */
typedef struct shm_region {
    struct shm_region *next;
    int64_t id, bytes;
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
    int root; /* of broadcast and reduce; EVERYBODY */
    const char *send;
    char *recv;
    int64_t count; /* elements of reduce, bytes of broadcast */
    /* [size] each, by rank; elements of scatter, else bytes. */
    int64_t *send_counts, *send_offsets, *recv_counts, *recv_offsets;
    bool done, direct, whole;
    int64_t step, last;       /* of this operation */
    int64_t chunks, first;    /* first: the step in which chunk 0 is copied in */
    ls_comm_request *message; /* of mpi */
};

typedef struct shm_comm {
    ls_comm base;
    ls_comm *mpi; /* messages and groups */
    shm_window window;
    uint64_t steps;               /* made by this rank, over all operations */
    ls_comm_request *head, *tail; /* operations that make steps, in order */
    ls_comm_request *all, *free;
    shm_memory *memory;
    ls_pump pump;
    const void **from; /* [size], of one addition */
    void **to;         /* [size + 1] */
} shm_comm;

static inline shm_part *shm_part_of(const shm_comm *c, int rank) {
    return (shm_part *)c->window.bases[rank];
}

/* Makes what steps it can. */
void ls_shm_drive(ls_pump *pump);

#endif
