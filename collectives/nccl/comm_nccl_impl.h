/* What the files of the NCCL communicator share. */
#ifndef LS_COLLECTIVES_COMM_NCCL_IMPL_H
#define LS_COLLECTIVES_COMM_NCCL_IMPL_H

#include "collectives/comm_impl.h"
#include "runtime/device/cuda/device_cuda.h"

#include <nccl.h>

/* Operations of a communicator that may make connections: one for each way of the messages that a
 * group sends, and a few. */
enum { LS_NCCL_FIRST_OPERATIONS = 16 };

struct ls_comm_request {
    struct ls_comm_request *next; /* free, or waited for */
    struct ls_comm_request *next_all;
    /* On the communicator's stream; `waits` on that of the device, before it waits for `done`. */
    cudaEvent_t begun, done, waits;
    bool ended; /* noted */
};

typedef struct nccl_comm {
    ls_comm base;
    ls_comm *host; /* own */
    ls_cuda_device *cuda;
    ncclComm_t handle;
    double deadline_s;
    bool broken;     /* aborted: good for nothing but to be destroyed */
    char fault[256]; /* why */
    cudaStream_t stream;
    cudaStream_t before, behind; /* what operations start behind, and what a wait holds up */
    cudaEvent_t ready;
    ls_comm_request *free, *all;
    ls_comm_request *waited, *last_waited; /* the device waits for them, the host does not */
    int started;                           /* operations, up to LS_NCCL_FIRST_OPERATIONS */
    int64_t free_bytes;                    /* of the GPU, before such a one */
    ls_pump pump;
} nccl_comm;

/* LS_OK for success, or for ncclInProgress once it has become success; aborts the communicator and
 * gives LS_E_COMM otherwise. */
ls_status ls_nccl_check(nccl_comm *c, ncclResult_t result, const char *what);
/* A fault that NCCL has noticed meanwhile. */
ls_status ls_nccl_poll(nccl_comm *c);

/* The operation is over on the device; then its work has passed the wait, and the request is free.
 */
void ls_nccl_note_end(nccl_comm *c, ls_comm_request *request);
void ls_nccl_note_passed(nccl_comm *c, ls_comm_request *request, float stalled_ms);

/* comm_nccl_memory.c: what is free of the GPU, and that NCCL has taken what is no longer free. */
int64_t ls_nccl_free_bytes(void);
void ls_nccl_count_taken(int64_t free_before);
/* Memory of alloc; give_back while nothing is under way on it. */
ls_status ls_nccl_memory_take(size_t bytes, void **memory);
void ls_nccl_memory_give_back(void *memory);
bool ls_nccl_memory_has(const void *at);
/* Before an operation with it; other memory is left alone. */
void ls_nccl_memory_use(const nccl_comm *c, const void *at);
/* The communicator ends. */
void ls_nccl_memory_forget(const nccl_comm *c);

/* comm_nccl_start.c */
ls_status ls_nccl_broadcast_start(ls_comm *comm, void *buf, int64_t bytes, int root,
                                  ls_comm_request **request);
ls_status ls_nccl_all_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                                   ls_dtype dtype, ls_reduce op, ls_comm_request **request);
ls_status ls_nccl_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                               ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request);
ls_status ls_nccl_reduce_scatter_start(ls_comm *comm, const void *send, void *recv,
                                       const int64_t *counts, ls_dtype dtype, ls_reduce op,
                                       ls_comm_request **request);
ls_status ls_nccl_all_gather_start(ls_comm *comm, const void *send, void *recv,
                                   const int64_t *counts, const int64_t *offsets,
                                   ls_comm_request **request);
ls_status ls_nccl_all_to_all_start(ls_comm *comm, const void *send, const int64_t *send_counts,
                                   const int64_t *send_offsets, void *recv,
                                   const int64_t *recv_counts, const int64_t *recv_offsets,
                                   ls_comm_request **request);
ls_status ls_nccl_send_start(ls_comm *comm, const void *buf, int64_t bytes, int to,
                             ls_comm_request **request);
ls_status ls_nccl_recv_start(ls_comm *comm, void *buf, int64_t bytes, int from,
                             ls_comm_request **request);
ls_status ls_nccl_test(ls_comm *comm, ls_comm_request *request, bool *done);
ls_status ls_nccl_wait(ls_comm *comm, ls_comm_request *request);

#endif
