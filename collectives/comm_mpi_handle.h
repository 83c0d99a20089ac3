/* What back ends that stand on MPI need of it. */
#ifndef LS_COLLECTIVES_COMM_MPI_HANDLE_H
#define LS_COLLECTIVES_COMM_MPI_HANDLE_H

#include "collectives/comm.h"

#include <mpi.h>

/* comm is of the MPI back end. */
MPI_Comm ls_mpi_handle(const ls_comm *comm);
/* LS_E_COMM with the library's text for its error code. */
ls_status ls_mpi_fail(int code, const char *what);

#endif
