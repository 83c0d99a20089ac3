/* Inside the MPI back end: what its tests may change. */
#ifndef LS_COLLECTIVES_COMM_MPI_H
#define LS_COLLECTIVES_COMM_MPI_H

#include <stdint.h>

/* Operations are cut into MPI calls of at most this many bytes, since the counts of MPI before
 * version 4 are ints and libraries multiply them by element sizes. A multiple of 8, equal on all
 * ranks; change it only while no operation is under way. */
extern int64_t ls_comm_mpi_chunk_bytes;

/* Messages are cut into at most this many bytes, too: with several hosts into what TCP sends at
 * once (comm_mpi_defaults.c), since longer ones wait until both sides have looked at the library
 * twice. Likewise. */
extern int64_t ls_comm_mpi_message_bytes;

#endif
