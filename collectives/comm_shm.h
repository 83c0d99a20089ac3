/* The back end of ranks that share memory: they read each other's buffers.
 *
 * Sums, of F32 too, are the balanced tree over the ranks of comm.h. Buffers from alloc are used
 * where they lie; others pass through stages in the window. Up to 4 KiB travel with the notice of
 * the operation itself, messages up to 2 KiB through rings between each two ranks that are at most
 * 8 apart (the last one and the first are neighbours); other messages are MPI's. A rank may be 32
 * small operations ahead of those that it needs nothing from. */
#ifndef LS_COLLECTIVES_COMM_SHM_H
#define LS_COLLECTIVES_COMM_SHM_H

#include "collectives/comm.h"

/* mpi: a communicator of the MPI back end; not used after the call. LS_E_UNSUPPORTED on all ranks
 * when it is of another back end or its ranks do not all share memory. [collective] */
ls_status ls_comm_shm(ls_comm *mpi, ls_comm **comm);

/* What a rank's part of a communicator takes once it has been in use for a while, but for the
 * stages, which become memory as far as data goes through them. */
size_t ls_comm_shm_bytes(void);

#endif
