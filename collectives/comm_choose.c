#include "collectives/comm_choose.h"

#include "collectives/comm_hier.h"
#include "collectives/comm_shm.h"
#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
    [LS_TRANSPORT_AUTO] = "auto",
    [LS_TRANSPORT_MPI] = "mpi",
    [LS_TRANSPORT_SHM] = "shm",
    [LS_TRANSPORT_HIER] = "hier",
};

bool ls_transport_parse(const char *name, ls_transport *transport) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) == 0) {
            *transport = (ls_transport)i;
            return true;
        }
    }
    return false;
}

ls_spread ls_spread_of(const uint64_t *hosts, int rank, int size) {
    ls_spread s = {.least = size};
    for (int r = 0; r < rank; r++) {
        s.inside += hosts[r] == hosts[rank];
    }
    for (int first = 0; first < size; first++) {
        int r = first - 1, ranks = 0;
        while (r >= 0 && hosts[r] != hosts[first]) { /* neighbours mostly share one */
            r--;
        }
        if (r >= 0) {
            continue;
        }
        for (r = first; r < size; r++) {
            ranks += hosts[r] == hosts[first];
        }
        s.hosts++;
        s.least = ranks < s.least ? ranks : s.least;
        s.most = ranks > s.most ? ranks : s.most;
        s.first = hosts[first] == hosts[rank] ? first : s.first;
    }
    s.even = s.hosts > 1 && s.least == s.most && s.least > 1;
    return s;
}

/* Several hosts: the ranks of each share memory. */
static ls_status make_hier(ls_comm *mpi, int host, int inside, ls_comm **comm) {
    ls_comm *flat = NULL, *across = NULL, *mine = NULL, *shared = NULL;
    LS_TRY(mpi->ops->split(mpi, host, &mine));
    ls_status status = ls_comm_agree(mpi, ls_comm_shm(mine, &shared));
    mine->ops->destroy(mine);
    LS_TRY_GOTO(status, failed); /* on another host, maybe */
    LS_TRY_GOTO(mpi->ops->split(mpi, inside, &across), failed);
    LS_TRY_GOTO(mpi->ops->duplicate(mpi, &flat), failed);
    return ls_comm_hier(flat, shared, across, comm);
failed:
    if (across) {
        across->ops->destroy(across);
    }
    if (shared) {
        shared->ops->destroy(shared);
    }
    return status;
}

ls_status ls_comm_choose(ls_comm *mpi, ls_transport transport, ls_comm **comm) {
    uint64_t *hosts = NULL;
    if (mpi->size == 1 && transport == LS_TRANSPORT_AUTO) {
        return ls_comm_self(comm);
    }
    if (mpi->size == 1 || transport == LS_TRANSPORT_MPI) {
        return mpi->ops->duplicate(mpi, comm);
    }
    LS_TRY(ls_comm_agree(mpi, ls_calloc((size_t)mpi->size, sizeof *hosts, &hosts)));
    ls_status status = ls_comm_hosts(mpi, hosts);
    if (status != LS_OK) {
        free(hosts);
        return status;
    }
    const ls_spread s = ls_spread_of(hosts, mpi->rank, mpi->size);
    free(hosts);
    if (transport == LS_TRANSPORT_SHM && s.hosts > 1) {
        return LS_FAIL(
            LS_E_CONFIG,
            "the ranks lie on %d hosts, and the back end shm serves those of one; choose "
            "auto, mpi or, with as many ranks on each host, hier",
            s.hosts);
    }
    if (transport == LS_TRANSPORT_SHM || (transport == LS_TRANSPORT_AUTO && s.hosts == 1)) {
        return ls_comm_shm(mpi, comm);
    }
    if (s.even) {
        return make_hier(mpi, s.first, s.inside, comm);
    }
    if (transport == LS_TRANSPORT_HIER && s.hosts == 1) {
        return LS_FAIL(LS_E_CONFIG,
                       "all %d ranks lie on one host, and the back end hier serves several hosts; "
                       "choose auto, mpi or shm",
                       mpi->size);
    }
    if (transport == LS_TRANSPORT_HIER) {
        return LS_FAIL(LS_E_CONFIG,
                       "%d to %d ranks lie on each of %d hosts, and the back end hier needs the "
                       "same number on each, 2 or more: start them so, or choose auto or mpi",
                       s.least, s.most, s.hosts);
    }
    return mpi->ops->duplicate(mpi, comm);
}
