/* Groups along every axis of a mesh hold the right ranks in the right order. */
#include "collectives/comm_mesh.h"
#include "collectives/comm_shm.h"
#include "tests/test.h"

enum { MOST_RANKS = 8 };

static void check_axis(ls_comm *comm, const ls_mesh *mesh, ls_axis axis) {
    ls_comm *group = NULL;
    CHECK_OK(ls_comm_split_axis(comm, mesh, axis, &group));
    CHECK_INT(group->size, mesh->size[axis]);
    CHECK_INT(group->rank, mesh->coord[axis]);
    int32_t ranks[MOST_RANKS], mine = comm->rank;
    CHECK_OK(group->ops->all_gather(group, &mine, ranks, sizeof mine));
    for (int i = 0; i < group->size; i++) {
        int coord[LS_AXIS_COUNT];
        memcpy(coord, mesh->coord, sizeof coord);
        coord[axis] = i;
        CHECK_INT(ranks[i], ls_mesh_rank(mesh, coord));
    }
    group->ops->destroy(group);
}

static void check_mesh(ls_comm *comm, const int size[LS_AXIS_COUNT]) {
    uint64_t hosts[MOST_RANKS] = {0};
    ls_mesh mesh;
    CHECK_OK(ls_mesh_init(&mesh, size, comm->rank, comm->size, hosts));
    for (int axis = 0; axis < LS_AXIS_COUNT; axis++) {
        check_axis(comm, &mesh, (ls_axis)axis);
    }
    mesh.world++;
    ls_comm *group = NULL;
    CHECK_STATUS(ls_comm_split_axis(comm, &mesh, LS_AXIS_SHARD, &group), LS_E_SHAPE);
}

int main(int argc, char **argv) {
    ls_comm *world = NULL, *shm = NULL;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_OK(ls_comm_shm(world, &shm));
    const int n = world->size, half = n % 2 == 0 ? 2 : 1;
    check_mesh(world, (const int[]){1, n, 1, 1, 1});
    check_mesh(world, (const int[]){n / half, 1, 1, 1, half});
    check_mesh(shm, (const int[]){1, half, n / half, 1, 1});
    shm->ops->destroy(shm);
    int result = test_end();
    ls_comm_mpi_finalize();
    return result;
}
