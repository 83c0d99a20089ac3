/* The back end for where the ranks of a group lie. */
#ifndef LS_COLLECTIVES_COMM_CHOOSE_H
#define LS_COLLECTIVES_COMM_CHOOSE_H

#include "collectives/comm.h"

typedef enum ls_transport {
    LS_TRANSPORT_AUTO,
    LS_TRANSPORT_MPI,
    LS_TRANSPORT_SHM,
    LS_TRANSPORT_HIER
} ls_transport;

/* How ranks are spread over hosts or domains, of which each has a number of its own. */
typedef struct ls_spread {
    int hosts, least, most; /* ranks of one */
    int first, inside;      /* the lowest rank of this rank's host, and how many of it are lower */
    bool even;              /* several hosts with the same number, 2 or more, of ranks each */
} ls_spread;
ls_spread ls_spread_of(const uint64_t *hosts, int rank, int size);

/* AUTO: self for one rank, shm for those of one host, hier for several hosts with the same number,
 * 2 or more, of ranks each, else mpi. Others: that back end, LS_E_CONFIG on all ranks where the
 * ranks lie otherwise. mpi: of the back end mpi or self; borrowed, and not used after the call.
 * [collective] */
ls_status ls_comm_choose(ls_comm *mpi, ls_transport transport, ls_comm **comm);

/* "auto", "mpi", "shm", "hier"; false when there is no such name. */
bool ls_transport_parse(const char *name, ls_transport *transport);

#endif
