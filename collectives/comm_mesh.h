/* Groups of ranks from mesh coordinates. Programs that use it link the mesh room. */
#ifndef LS_COLLECTIVES_COMM_MESH_H
#define LS_COLLECTIVES_COMM_MESH_H

#include "collectives/comm.h"
#include "runtime/mesh/mesh.h"

#include <string.h>

/* The ranks that differ from this one along `axis` only, in order of that coordinate. comm has the
 * mesh's ranks; LS_E_SHAPE when it has more or fewer. [collective] */
static inline ls_status ls_comm_split_axis(ls_comm *comm, const ls_mesh *mesh, ls_axis axis,
                                           ls_comm **group) {
    if (comm->size != mesh->world || comm->rank != mesh->rank) {
        return LS_FAIL(LS_E_SHAPE, "rank %d of %d with the mesh of rank %d of %d", comm->rank,
                       comm->size, mesh->rank, mesh->world);
    }
    int first[LS_AXIS_COUNT]; /* the group's first rank names it */
    memcpy(first, mesh->coord, sizeof first);
    first[axis] = 0;
    return comm->ops->split(comm, ls_mesh_rank(mesh, first), group);
}

#endif
