/* The NCCL communicator: the operations of comm.h on the memory of a CUDA device.
 *
 * Operations run on a stream of the communicator's own. One that is started waits, on the GPU, for
 * the work that the device had been given before; what uses its result must come after test or wait
 * has said that it is done. Waits poll, and drive MPI (comm_impl.h) meanwhile.
 *
 * Sums have NCCL's order, not that of reduce.h: `numerics.reduction: invariant` is not served by
 * all_reduce_start and reduce_scatter_start of this back end. MAX, MIN and moves of bytes are
 * exact. barrier and host are those of the host's communicator.
 *
 * One process for each GPU. Several ranks on one GPU work for tests when each has its own
 * NCCL_HOSTID (before NCCL 2.30) in its environment from the start. */
#ifndef LS_COLLECTIVES_COMM_NCCL_H
#define LS_COLLECTIVES_COMM_NCCL_H

#include "collectives/comm.h"
#include "runtime/device/device.h"

typedef struct ls_comm_nccl_options {
    ls_comm *host;     /* the same ranks over MPI; duplicated, so it may be used meanwhile */
    ls_device *dev;    /* made by ls_device_open_cuda; borrowed */
    double deadline_s; /* for creation, which waits for all ranks; 0: 120 */
} ls_comm_nccl_options;

/* LS_E_UNSUPPORTED when the device is no GPU or lockstep was built without CUDA, LS_E_COMM when
 * NCCL fails or a rank does not come before the deadline; the same on all ranks. [collective] */
ls_status ls_comm_nccl(const ls_comm_nccl_options *options, ls_comm **comm);

/* "NCCL 2.28.9", or why there is none. Returns buf. */
char *ls_comm_nccl_version(char *buf, size_t size);

#endif
