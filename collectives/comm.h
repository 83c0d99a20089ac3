/* The communicator seam: collectives over a group of ranks.
 *
 * Every function marked [collective] must be called by all ranks of the group in the same order
 * with matching arguments. Non-blocking operations complete through ls_comm_test or ls_comm_wait;
 * buffers must stay untouched until then; arrays of counts and offsets are read before the call
 * returns. Counts are 64-bit: no limit at 2^31. After the first use of each kind and size,
 * operations allocate nothing.
 *
 * Memory. barrier, broadcast, all_reduce and all_gather are for the host's memory. Operations that
 * are started take the memory that the back end works on: the host's too for self, mpi, shm and
 * hier, that of a GPU where `on_device` is set (nccl). There, a wait does not hold up the host: it
 * orders what the device is given afterwards behind the operation, which may still be on its way.
 *
 * Reductions serve F32, F64, F16, BF16, I32, I64 and U64; other types travel as bytes. F16 and BF16
 * are added in fp32 and rounded once. AVG is the sum divided by the number of ranks (integers:
 * towards zero). SUM_TREE is the sum in the balanced tree of reduce.h with ranks as leaves: the
 * same bits from every back end that offers it; others refuse it with LS_E_UNSUPPORTED. Except
 * where stated, SUM and AVG have that order too. All ranks get the same bits in any case. The MAX
 * or MIN of a NaN is the back end's.
 *
 * duplicate, split, alloc, alloc_common, give_back and destroy block without driving other
 * operations: complete what is under way on any communicator of the process before calling them.
 *
 * Errors: LS_E_COMM when the library reports a fault (the communicator is then good for nothing but
 * to be destroyed), LS_E_UNSUPPORTED when a back end does not offer an operation or dtype (never a
 * silent fallback), LS_E_SHAPE for negative counts and roots that do not exist. Back ends on_device
 * may tell of a fault of one operation with a later one. */
#ifndef LS_COLLECTIVES_COMM_H
#define LS_COLLECTIVES_COMM_H

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum ls_reduce { LS_SUM, LS_MAX, LS_MIN, LS_AVG, LS_SUM_TREE } ls_reduce;

typedef struct ls_comm ls_comm;
typedef struct ls_comm_request ls_comm_request; /* opaque; owned by the communicator */

typedef struct ls_comm_ops {
    const char *name;
    void (*destroy)(ls_comm *comm); /* [collective] */
    /* The same ranks again, in a space of their own: operations on one communicator need not be in
     * the same order as those on the other. [collective] */
    ls_status (*duplicate)(ls_comm *comm, ls_comm **copy);
    /* The ranks that give the same color >= 0, in order of rank. [collective] */
    ls_status (*split)(ls_comm *comm, int color, ls_comm **part);
    /* Zeroed memory, aligned to 64 bytes, that this communicator's operations use without copies
     * where the back end can. Every rank gives the same number of bytes (shm: else LS_E_SHAPE on
     * all of them); give_back takes a pointer from either alloc, NULL included; it must come before
     * destroy. [collective] */
    ls_status (*alloc)(ls_comm *comm, int64_t bytes, void **memory);
    /* Likewise, but the ranks of one host have it in common: what one of them writes all read, so
     * that a result need not be there once for each. An all-gather may receive in it (below); other
     * operations only send from it. LS_E_UNSUPPORTED on all ranks where they share no memory or the
     * host has no room for it. [collective] */
    ls_status (*alloc_common)(ls_comm *comm, int64_t bytes, void **memory);
    void (*give_back)(ls_comm *comm, void *memory);
    /* *lowest: the lowest rank that shares memory with this one. [collective] */
    ls_status (*host)(ls_comm *comm, int *lowest);
    ls_status (*barrier)(ls_comm *comm);
    /* buf [bytes] from root to all. [collective] */
    ls_status (*broadcast)(ls_comm *comm, void *buf, int64_t bytes, int root);
    /* In place over buf [count]; otherwise as all_reduce_start. [collective] */
    ls_status (*all_reduce)(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype, ls_reduce op);
    /* recv [size * bytes] = the ranks' send [bytes] in rank order. [collective] */
    ls_status (*all_gather)(ls_comm *comm, const void *send, void *recv, int64_t bytes);
    /* Non-blocking forms. [collective] */
    ls_status (*broadcast_start)(ls_comm *comm, void *buf, int64_t bytes, int root,
                                 ls_comm_request **request);
    /* recv [count] = the ranks' send [count] reduced; send == recv, on all ranks or on none, is in
     * place, else they must not overlap. With the back end mpi, SUM of types that the library adds
     * itself (not F16, BF16) may have the library's order. */
    ls_status (*all_reduce_start)(ls_comm *comm, const void *send, void *recv, int64_t count,
                                  ls_dtype dtype, ls_reduce op, ls_comm_request **request);
    /* Likewise, but only root has the result; recv is not touched elsewhere. */
    ls_status (*reduce_start)(ls_comm *comm, const void *send, void *recv, int64_t count,
                              ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request);
    /* send is blocks of counts[r] elements, one for each rank, one after the other; recv
     * [counts[rank]] = this rank's block of their reduction. In place: recv is that block of send.
     */
    ls_status (*reduce_scatter_start)(ls_comm *comm, const void *send, void *recv,
                                      const int64_t *counts, ls_dtype dtype, ls_reduce op,
                                      ls_comm_request **request);
    /* recv: block r is counts[r] bytes at offsets[r]; send is this rank's block (may be in place:
     * send == recv + offsets[rank]). In memory of alloc_common recv is the same place on all ranks
     * (else LS_E_SHAPE), and is written when all have begun: who begins needs what was there no
     * more, but for its own block in place, of which nothing moves. */
    ls_status (*all_gather_start)(ls_comm *comm, const void *send, void *recv,
                                  const int64_t *counts, const int64_t *offsets,
                                  ls_comm_request **request);
    /* Sends counts[r] bytes at send + offsets[r] to each r, receives likewise. */
    ls_status (*all_to_all_start)(ls_comm *comm, const void *send, const int64_t *send_counts,
                                  const int64_t *send_offsets, void *recv,
                                  const int64_t *recv_counts, const int64_t *recv_offsets,
                                  ls_comm_request **request);
    /* Messages of a pair of ranks arrive in the order in which they were sent, and are as long as
     * the receiver expects; LS_E_SHAPE for a message to oneself. Not collective. */
    ls_status (*send_start)(ls_comm *comm, const void *buf, int64_t bytes, int to,
                            ls_comm_request **request);
    ls_status (*recv_start)(ls_comm *comm, void *buf, int64_t bytes, int from,
                            ls_comm_request **request);
    /* *done says whether the operation has completed; the request is then gone, as it is after an
     * error and after wait. Both drive the progress of everything that was started. Not collective.
     */
    ls_status (*test)(ls_comm *comm, ls_comm_request *request, bool *done);
    ls_status (*wait)(ls_comm *comm, ls_comm_request *request);
} ls_comm_ops;

/* Hears what becomes of operations whose wait only orders the device's work; called by the main
 * thread, from whatever drives progress. */
typedef struct ls_comm_listener ls_comm_listener;
struct ls_comm_listener {
    /* An operation that was waited for is over on the device, where it took active_ns. */
    void (*ended)(ls_comm_listener *listener, ls_comm_request *request, uint64_t active_ns);
    /* The device's work has passed the wait, where it stood for stalled_ns; after `ended`. */
    void (*passed)(ls_comm_listener *listener, ls_comm_request *request, uint64_t stalled_ns);
};

struct ls_comm {
    const ls_comm_ops *ops; /* every slot is filled */
    int rank, size;
    bool orders; /* wait returns at once: the device's later work waits for the operation */
    ls_comm_listener *listener; /* with `orders`, borrowed; NULL: nobody */
    bool on_device; /* see "Memory"; SUM then has the library's order, and there is no SUM_TREE */
    ls_comm *host_side; /* with on_device: the same ranks over the host's memory; lives as long */
};

/* Waits and leaves the processor to others meanwhile: for what may take long. Not collective. */
ls_status ls_comm_wait_asleep(ls_comm *comm, ls_comm_request *request);

/* In the memory that started operations take, and complete as if waited for. all_reduce in place;
 * recv [size * bytes]. [collective] */
ls_status ls_comm_all_reduce_by_start(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype,
                                      ls_reduce op);
ls_status ls_comm_all_gather_by_start(ls_comm *comm, const void *send, void *recv, int64_t bytes);

/* One rank, no library. Destroy with comm->ops->destroy. */
ls_status ls_comm_self(ls_comm **comm);
/* Likewise, but started operations take the memory of a device, borrowed: on_device, where that is
 * not the host's. */
struct ls_device;
ls_status ls_comm_self_on(struct ls_device *dev, ls_comm **comm);

/* MPI. init calls MPI_Init_thread with MPI_THREAD_SERIALIZED (one thread at a time: progress.h) and
 * gives the world; LS_E_UNSUPPORTED when the library offers less than MPI_THREAD_FUNNELED (all
 * calls from the main thread), LS_E_COMM the second time.
 * Before that it sets Open MPI's mpi_yield_when_idle, for several hosts the lengths of messages
 * that btl_tcp sends at once and as btl_tcp_if_exclude the interfaces that have no link (for one,
 * pml), in containers that forbid copies between processes btl_vader_single_copy_mechanism (smsc),
 * and of Open MPI 5 btl_tcp_disable_family where a host has IPv4, unless the user or the
 * administrator has set them, in the environment or in a file.
 * finalize destroys the world and ends MPI; safe when init was not called. Other communicators must
 * be gone by then. [collective] abort ends all ranks with the given exit status and does not
 * return; not collective.
 */
ls_status ls_comm_mpi_init(int *argc, char ***argv, ls_comm **world);
void ls_comm_mpi_finalize(void);
void ls_comm_mpi_abort(int exit_status) __attribute__((noreturn));
/* Before a process of a job that is lost ends without MPI: removes the files in shared memory that
 * the library maps here, its own and those of the job's other ranks on this host, which may not be
 * able to. Never another job's: those are not mapped. Safe in handlers of signals. Not collective.
 */
void ls_comm_mpi_remove_files(void);
/* Open MPI ends the process when its connection to another rank breaks: `lost` comes before that,
 * on the thread that was in the library. It may end the process itself, without MPI. NULL: none. */
void ls_comm_mpi_on_loss(void (*lost)(void));
/* Has a call of MPI failed on this rank? The others may wait for it for ever in that operation, and
 * cannot be asked. */
bool ls_comm_mpi_failed(void);
/* Started by mpirun or srun, as one of the ranks of a job? Decided from the launcher's environment,
 * without touching MPI. A shell inside a Slurm allocation or step is not a launch. */
bool ls_comm_launched(void);
/* Of a process that was not launched: LS_E_USAGE when it is one of several tasks of srun, which
 * must never run as so many single ranks over the same files. Not collective. */
ls_status ls_comm_check_alone(void);
/* "Open MPI 4.1.4"; static. */
const char *ls_comm_mpi_version(void);

/* A number equal on ranks that share a host's memory and different otherwise (the lowest rank
 * there), for ls_mesh_init: hosts [size], filled in on every rank. [collective] */
ls_status ls_comm_hosts(ls_comm *comm, uint64_t *hosts);

/* Did every rank succeed? Each rank gives its own status; all return LS_OK, or the code and error
 * record of the lowest failing rank, its message prefixed with "rank 3: " unless every rank fails
 * with the same code. [collective] */
ls_status ls_comm_agree(ls_comm *comm, ls_status mine);

/* All ranks must hold the same bytes (compared by SHA-256). LS_E_CONFIG on every rank otherwise,
 * naming what differs and the first rank that does: "rank 2 has a different configuration than
 * rank 0 ...". [collective] */
ls_status ls_comm_check_same(ls_comm *comm, const char *what, const void *data, size_t bytes);

#endif
