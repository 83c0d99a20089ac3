/* Inside the MPI back end. */
#ifndef LS_COLLECTIVES_COMM_MPI_IMPL_H
#define LS_COLLECTIVES_COMM_MPI_IMPL_H

#include "collectives/comm_impl.h"
#include "collectives/comm_mpi.h"
#include "collectives/comm_mpi_handle.h"

/* A reduction that this program makes: exchange slices, add up, gather them. Slice r of the vector
 * is elements [bounds[r], bounds[r + 1]). */
typedef struct mpi_reduction {
    bool active; /* under way, and in the list of its communicator */
    bool gathering;
    ls_status status;
    ls_dtype dtype;
    ls_reduce op;
    int root; /* who gets all slices: a rank, EVERYBODY or NOBODY */
    int tag;
    const char *send;
    char *recv, *sum; /* sum: where this rank's slice goes */
    int64_t *bounds;  /* [size + 1] */
    char *scratch;
    int64_t scratch_bytes;
} mpi_reduction;

struct ls_comm_request {
    ls_comm_request *next_all, *next_free, *next_active;
    int count, capacity; /* of parts, the MPI requests of its chunks, and statuses */
    MPI_Request *parts;
    MPI_Status *statuses;
    mpi_reduction reduction;
};

typedef struct mpi_comm {
    ls_comm base;
    MPI_Comm handle;
    /* Requests are kept for reuse. One that met an error stays out of `free`, as MPI may still be
     * using its parts. */
    ls_comm_request *all, *free;
    ls_comm_request *active; /* reductions under way, the oldest first */
    uint32_t sequence;       /* of exchanges; the same on all ranks */
    ls_pump pump;            /* pending: requests taken */
    const void **from;       /* [size], of one addition */
    char *gathered;          /* of a small all-gather */
    int64_t gathered_bytes;
} mpi_comm;

#define MPI_TRY(what, call)                                                                        \
    do {                                                                                           \
        int mpi_try_code_ = (call);                                                                \
        if (mpi_try_code_ != MPI_SUCCESS) {                                                        \
            return ls_mpi_fail(mpi_try_code_, (what));                                             \
        }                                                                                          \
    } while (0)

/* Has the library just been looked at, so that what it has under way moved on by itself? */
extern bool ls_mpi_looked;

/* The library's name of a type; false where it has no arithmetic for it. */
bool ls_mpi_type(ls_dtype dtype, MPI_Datatype *type);
/* The library's operation; false for those that are made here. */
bool ls_mpi_op(ls_reduce op, MPI_Op *mpi_op);

/* A request with room for `parts` MPI requests and none in it. */
ls_status ls_mpi_request_take(mpi_comm *c, int64_t parts, ls_comm_request **out);
void ls_mpi_request_give_back(mpi_comm *c, ls_comm_request *request);
/* Error of MPI_Testall. */
ls_status ls_mpi_request_fail(const ls_comm_request *request, int code);

/* MPI calls for a message of `bytes`. */
int64_t ls_mpi_messages(int64_t bytes);
ls_status ls_mpi_receive(mpi_comm *c, ls_comm_request *r, char *to, int64_t bytes, int peer,
                         int tag);
ls_status ls_mpi_send(mpi_comm *c, ls_comm_request *r, const char *from, int64_t bytes, int peer,
                      int tag);
/* No message has it. */
enum { PROBE_TAG = 0 };
/* Tag of the next exchange; the one after it is free too. */
int ls_mpi_next_tag(mpi_comm *c);

/* comm_mpi_start.c, comm_mpi_reduce.c: the non-blocking operations; see comm.h. */
ls_status ls_mpi_broadcast_start(ls_comm *comm, void *buf, int64_t bytes, int root,
                                 ls_comm_request **request);
ls_status ls_mpi_all_gather_start(ls_comm *comm, const void *send, void *recv,
                                  const int64_t *counts, const int64_t *offsets,
                                  ls_comm_request **request);
ls_status ls_mpi_all_to_all_start(ls_comm *comm, const void *send, const int64_t *send_counts,
                                  const int64_t *send_offsets, void *recv,
                                  const int64_t *recv_counts, const int64_t *recv_offsets,
                                  ls_comm_request **request);
ls_status ls_mpi_send_start(ls_comm *comm, const void *buf, int64_t bytes, int to,
                            ls_comm_request **request);
ls_status ls_mpi_recv_start(ls_comm *comm, void *buf, int64_t bytes, int from,
                            ls_comm_request **request);
ls_status ls_mpi_all_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                                  ls_dtype dtype, ls_reduce op, ls_comm_request **request);
ls_status ls_mpi_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                              ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request);
ls_status ls_mpi_reduce_scatter_start(ls_comm *comm, const void *send, void *recv,
                                      const int64_t *counts, ls_dtype dtype, ls_reduce op,
                                      ls_comm_request **request);
ls_status ls_mpi_test(ls_comm *comm, ls_comm_request *request, bool *done);
ls_status ls_mpi_wait(ls_comm *comm, ls_comm_request *request);
/* Sets variables of Open MPI's in the environment, before it begins (comm_mpi_defaults.c). */
void ls_comm_mpi_set_defaults(void);
/* Moves the operations of a communicator on. */
void ls_mpi_drive(ls_pump *pump);

#endif
