/* An all-gather over hosts goes in pieces that are worth a message, whatever the number of ranks.
 */
#include "collectives/comm_hier.h"
#include "collectives/comm_hier_impl.h"
#include "tests/collectives/pattern.h"
#include "tests/test.h"

enum { BYTES = 1000003, MOST_RANKS = 4 };

int main(int argc, char **argv) {
    ls_comm *world, *flat, *inside, *across, *comm;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_OK(world->ops->duplicate(world, &flat));
    CHECK_OK(world->ops->split(world, world->rank / 2, &inside));
    CHECK_OK(world->ops->split(world, world->rank % 2, &across));
    CHECK_OK(ls_comm_hier(flat, inside, across, &comm));
    ls_comm_hier_chunk_bytes = 64; /* as if for thousands of ranks */
    const int me = comm->rank, size = comm->size;
    int64_t counts[MOST_RANKS], offsets[MOST_RANKS];
    for (int rank = 0; rank < size; rank++) { /* in place and one after the other */
        counts[rank] = BYTES - (rank == 1 ? 70000 : 0);
        offsets[rank] = (int64_t)rank * BYTES;
    }
    unsigned char *x = malloc((size_t)size * BYTES);
    pattern_fill(x + offsets[me], 1, me, counts[me]);
    ls_comm_request *request;
    CHECK_OK(comm->ops->all_gather_start(comm, x + offsets[me], x, counts, offsets, &request));
    CHECK(request->chunks > 1 && request->chunks <= BYTES / (16 << 10) + 1);
    CHECK_OK(comm->ops->wait(comm, request));
    for (int rank = 0; rank < size; rank++) {
        CHECK(pattern_holds(x + offsets[rank], 1, rank, counts[rank]));
    }
    free(x);
    comm->ops->destroy(comm);
    const int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
