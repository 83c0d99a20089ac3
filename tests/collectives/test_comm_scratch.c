/* Scratch of the MPI back end's reductions has room for the others' pieces and, on ranks other than
 * the root, for their sum; no more, since every operation under way has its own. */
#include "collectives/comm_mpi_impl.h"
#include "tests/test.h"

enum { ELEMS = 70001 };

static void reduce(ls_comm *comm, float *x, float *sum, int64_t count, int root) {
    ls_comm_request *request;
    CHECK_OK(comm->ops->reduce_start(comm, x, sum, count, LS_F32, LS_SUM_TREE, root, &request));
    CHECK_OK(comm->ops->wait(comm, request));
    for (int64_t i = 0; comm->rank == root && i < count; i++) {
        CHECK(sum[i] == (float)comm->size);
    }
}

int main(int argc, char **argv) {
    static const int64_t counts[] = {1, 37, 4099, ELEMS};
    ls_comm *world;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    const int me = world->rank, size = world->size;
    float *x = malloc(ELEMS * sizeof *x), *sum = malloc(ELEMS * sizeof *x);
    for (int i = 0; i < ELEMS; i++) {
        x[i] = 1;
    }
    int within = 0;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        ls_comm *comm; /* whose scratch is no larger than this needs */
        CHECK_OK(world->ops->duplicate(world, &comm));
        reduce(comm, x, sum, counts[i], 0);
        for (ls_comm_request *r = ((mpi_comm *)comm)->all; r; r = r->next_all) {
            const mpi_reduction *m = &r->reduction;
            if (m->scratch && m->bounds) {
                const int64_t own = 4 * (m->bounds[me + 1] - m->bounds[me]);
                CHECK_INT(m->scratch_bytes, (me == 0 ? size - 1 : size) * own);
                CHECK(me == 0 || m->sum == m->scratch + (size - 1) * own);
                within++;
            }
        }
        comm->ops->destroy(comm);
    }
    CHECK(within > 0);
    free(x);
    free(sum);
    const int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
