/* Which ranks' demands add up: those of a host, by what they take memory from. */
#include "launch/shortage.h"

#include "tests/test.h"

#define DEMAND (INT64_C(1) << 45) /* more than any host has */

int main(int argc, char **argv) {
    ls_comm *comm;
    ls_shortage worst;
    const ls_demand mine = {.host_bytes = DEMAND, .spare_bytes = 3, .device_free = -1};
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &comm));
    CHECK_OK(ls_shortage_find(comm, 0, mine, &worst));
    CHECK(worst.ratio > 1.0 && worst.free_bytes > 0);
    CHECK_INT(worst.ranks, comm->size);
    CHECK_INT(worst.needed_bytes, comm->size * DEMAND);
    CHECK_INT(worst.spare_bytes, comm->size * 3);
    CHECK_INT(worst.rank, 0);
    /* A host each: nobody takes from another one's memory, though it goes by the same name there.
     */
    CHECK_OK(ls_shortage_find(comm, comm->rank, mine, &worst));
    CHECK_INT(worst.ranks, 1);
    CHECK_INT(worst.needed_bytes, DEMAND);
    /* A GPU that is smaller than the host, on the last rank. */
    ls_demand on_gpu = {.host_bytes = 1, .device_bytes = 1000, .device_free = 2000};
    on_gpu.device_free = comm->rank == comm->size - 1 ? 100 : 2000;
    CHECK_OK(ls_shortage_find(comm, 0, on_gpu, &worst));
    CHECK_STR(worst.name, "the GPU");
    CHECK_INT(worst.rank, comm->size - 1);
    CHECK_INT(worst.needed_bytes, 1000);
    CHECK_INT(worst.free_bytes, 100);
    ls_comm_mpi_finalize();
    return test_end();
}
