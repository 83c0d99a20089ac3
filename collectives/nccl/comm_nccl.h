/* The NCCL communicator: the operations of comm.h on the memory of a CUDA device.
 *
 * Operations run on a stream of the communicator's own, with priority. The first of a communicator,
 * and the first message of each way between two ranks, meets the others' on the host: NCCL connects
 * them then. One that is started waits, on the GPU, for
 * the work that the device had been given before; wait has the device's later work wait for it, on
 * the GPU too, and test asks whether it has ended. Where the host waits for the device it polls,
 * and drives MPI (comm_impl.h) meanwhile.
 *
 * All ranks start the operations of their communicators in the same order. NCCL promises that
 * these never wait for each other's room on a GPU only with NCCL_LAUNCH_ORDER_IMPLICIT=1 (2.26 and
 * newer), which takes some of the overlap.
 *
 * MAX, MIN and moves of bytes are exact. What is for the host's memory goes over MPI.
 *
 * One process for each GPU. Several ranks on one GPU work for tests when each has its own
 * NCCL_HOSTID (before NCCL 2.30) in its environment from the start. */
#ifndef LS_COLLECTIVES_COMM_NCCL_H
#define LS_COLLECTIVES_COMM_NCCL_H

#include "collectives/comm.h"
#include "runtime/device/device.h"

typedef struct ls_comm_nccl_options {
    ls_comm *host;  /* the same ranks over MPI; duplicated, so it may be used meanwhile */
    ls_device *dev; /* made by ls_device_open_cuda; borrowed */
    /* For what waits for all ranks while no flight record is kept (flight.h), without which no
     * watchdog looks: creation, parts, and an operation until NCCL has taken it over. 0: 120;
     * INFINITY: none. */
    double deadline_s;
} ls_comm_nccl_options;

/* LS_E_UNSUPPORTED when the device is no GPU or lockstep was built without CUDA, LS_E_COMM when
 * NCCL fails or a rank does not come before the deadline; the same on all ranks. [collective] */
ls_status ls_comm_nccl(const ls_comm_nccl_options *options, ls_comm **comm);

/* Likewise, in two levels (comm_hier.h): inside the ranks that give the same domain
 * (comm_domain.h), and across; also what is split from it or duplicated. Plain NCCL for groups
 * whose ranks lie in one domain, or not several in each and everywhere the same number.
 * [collective] */
ls_status ls_comm_nccl_levels(const ls_comm_nccl_options *options, uint64_t domain, ls_comm **comm);

/* Bytes of the GPU that this process's communicators have taken, but for memory that was asked of
 * them: as what is free has shown around their creation and the first operations of each, when NCCL
 * makes connections. */
int64_t ls_comm_nccl_bytes(void);

/* "NCCL 2.28.9", or why there is none. Returns buf. */
char *ls_comm_nccl_version(char *buf, size_t size);

#endif
