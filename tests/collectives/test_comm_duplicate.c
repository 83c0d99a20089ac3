/* A duplicate over hosts that fails half way leaves nothing behind. */
#include "collectives/comm_hier.h"
#include "tests/test.h"

/* Of a communicator's duplicates: whether they fail, and how many there are. */
static ls_comm_ops counted_ops, copy_ops;
static void (*destroy_copy)(ls_comm *comm);
static ls_status (*duplicate_flat)(ls_comm *comm, ls_comm **copy);
static int copies;

static ls_status fail(ls_comm *comm, ls_comm **copy) {
    (void)comm;
    (void)copy;
    return LS_FAIL(LS_E_COMM, "planted fault");
}

static void count_destroyed(ls_comm *comm) {
    copies--;
    destroy_copy(comm);
}

static ls_status count_made(ls_comm *comm, ls_comm **copy) {
    LS_TRY(duplicate_flat(comm, copy));
    copy_ops = *(*copy)->ops;
    destroy_copy = copy_ops.destroy;
    copy_ops.destroy = count_destroyed;
    (*copy)->ops = &copy_ops;
    copies++;
    return LS_OK;
}

/* part: of the two that are copied after the flat one, the one that fails. */
static void check_leaves_nothing(ls_comm *hier, ls_comm *part) {
    const ls_comm_ops *kept = part->ops;
    ls_comm_ops failing = *kept;
    ls_comm *copy = NULL;
    failing.duplicate = fail;
    part->ops = &failing;
    CHECK_STATUS(hier->ops->duplicate(hier, &copy), LS_E_COMM);
    CHECK_MESSAGE("planted fault");
    CHECK_INT(copies, 0);
    part->ops = kept;
}

int main(int argc, char **argv) {
    ls_comm *world, *flat, *inside, *across, *hier, *copy;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_OK(world->ops->duplicate(world, &flat));
    CHECK_OK(world->ops->split(world, world->rank, &inside));
    CHECK_OK(world->ops->duplicate(world, &across));
    CHECK_OK(ls_comm_hier(flat, inside, across, &hier));
    counted_ops = *flat->ops;
    duplicate_flat = counted_ops.duplicate;
    counted_ops.duplicate = count_made;
    flat->ops = &counted_ops;
    check_leaves_nothing(hier, inside);
    check_leaves_nothing(hier, across);
    CHECK_OK(hier->ops->duplicate(hier, &copy));
    CHECK_INT(copies, 1);
    copy->ops->destroy(copy);
    CHECK_INT(copies, 0);
    hier->ops->destroy(hier);
    const int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
