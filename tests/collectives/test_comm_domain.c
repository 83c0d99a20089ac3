/* NVLink domains of 4 ranks from what the driver's stand-in says of their GPUs: racks, cliques, a
 * GPU without a fabric, and NCCL's variables. */
#include "collectives/comm_domain.h"
#include "tests/test.h"

#include <unistd.h>

#define RACK_A "00112233445566778899aabbccddeeff"
#define RACK_B "ff112233445566778899aabbccddeeff"
#define ZEROS  "00000000000000000000000000000000"

static ls_comm *world;
static char plan[] = "/tmp/lockstep-domain-XXXXXX";

typedef struct gpu {
    int state; /* 3: completed */
    const char *cluster;
    int clique;
} gpu;

/* What each rank's driver says, and the domains that follow. */
static ls_status domains_of(const gpu *gpus, uint64_t *domains) {
    const gpu *mine = &gpus[world->rank];
    ls_nvml *nvml = NULL;
    FILE *f = fopen(plan, "w");
    CHECK(f != NULL);
    fprintf(f, "gpus 0 1\ndriver 0 570.86.15\nname 0 NVIDIA GB200\n");
    fprintf(f, "fabric_state 0 %d\nfabric_cluster 0 %s\nfabric_clique 0 %d\n", mine->state,
            mine->cluster, mine->clique);
    fclose(f);
    CHECK_OK(ls_nvml_open(NVML_LIBRARY, &nvml));
    ls_status status = ls_comm_domains(world, nvml, 0, domains);
    ls_nvml_close(nvml);
    return status;
}

static void check(const gpu *gpus, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    const uint64_t expected[] = {a, b, c, d};
    uint64_t domains[4] = {9, 9, 9, 9};
    CHECK_OK(domains_of(gpus, domains));
    for (int r = 0; r < 4; r++) {
        CHECK_INT(domains[r], expected[r]);
    }
}

int main(int argc, char **argv) {
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_INT(world->size, 4);
    int file = mkstemp(plan);
    CHECK(file >= 0);
    close(file);
    setenv("EMULATED_NVML", plan, 1);
    unsetenv("NCCL_MNNVL_ENABLE");
    unsetenv("NCCL_MNNVL_CLIQUE_ID");
    const gpu racks[] = {{3, RACK_A, 1}, {3, RACK_B, 1}, {3, RACK_A, 1}, {3, RACK_B, 1}};
    const gpu cliques[] = {{3, RACK_A, 1}, {3, RACK_A, 2}, {3, RACK_A, 2}, {3, RACK_A, 1}};
    const gpu lone[] = {{3, RACK_A, 1}, {3, RACK_B, 1}, {3, RACK_A, 1}, {1, RACK_B, 1}};
    const gpu second[] = {{3, RACK_A, 1}, {1, RACK_B, 1}, {3, RACK_A, 1}, {3, RACK_B, 1}};
    const gpu zeros[] = {{3, ZEROS, 1}, {3, ZEROS, 1}, {3, ZEROS, 1}, {3, ZEROS, 1}};
    uint64_t domains[4];
    check(racks, 0, 1, 0, 1);
    check(cliques, 0, 1, 1, 0);
    check(lone, 0, 0, 0, 0); /* not every fabric is complete: one host */
    check(second, 0, 0, 0, 0);
    check(zeros, 0, 0, 0, 0);
    CHECK_OK(ls_comm_domains(world, NULL, 0, domains)); /* no GPUs */
    CHECK_INT(domains[3], 0);

    setenv("NCCL_MNNVL_ENABLE", "0", 1);
    check(racks, 0, 0, 0, 0);
    setenv("NCCL_MNNVL_ENABLE", "1", 1);
    check(racks, 0, 1, 0, 1);
    CHECK_STATUS(domains_of(lone, domains), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("rank 3: NCCL_MNNVL_ENABLE=1 asks for NVLink between hosts");
    setenv("NCCL_MNNVL_ENABLE", world->rank == 2 ? "2" : "0", 1);
    CHECK_STATUS(domains_of(racks, domains), LS_E_CONFIG);
    CHECK_MESSAGE("2 on rank 2 and 0 on rank 0");
    setenv("NCCL_MNNVL_ENABLE", "yes", 1);
    CHECK_STATUS(domains_of(racks, domains), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("NCCL_MNNVL_ENABLE is 'yes'");
    unsetenv("NCCL_MNNVL_ENABLE");
    setenv("NCCL_MNNVL_CLIQUE_ID", world->rank < 3 ? "5" : "6", 1); /* parts rack B */
    check(racks, 0, 1, 0, 3);
    setenv("NCCL_MNNVL_CLIQUE_ID", "-2", 1);
    CHECK_STATUS(domains_of(racks, domains), LS_E_UNSUPPORTED);

    unlink(plan);
    int result = test_end();
    ls_comm_mpi_finalize();
    return result;
}
