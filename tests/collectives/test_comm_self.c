/* Without MPI: the back end of one rank, and what is known before MPI is started. */
#include "collectives/comm.h"
#include "tests/test.h"

static const char *const launcher_variables[] = {
    "OMPI_COMM_WORLD_SIZE", "PMIX_RANK",   "PMI_RANK",     "PMI_ID",
    "MV2_COMM_WORLD_SIZE",  "PALS_RANKID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"};

static void clear_environment(void) {
    for (size_t i = 0; i < sizeof launcher_variables / sizeof *launcher_variables; i++) {
        unsetenv(launcher_variables[i]);
    }
}

static void test_launched(void) {
    clear_environment();
    CHECK(!ls_comm_launched());
    for (size_t i = 0; i < 6; i++) {
        setenv(launcher_variables[i], "0", 1);
        CHECK(ls_comm_launched());
        clear_environment();
    }
    setenv("SLURM_PROCID", "0", 1); /* a batch script */
    CHECK_OK(ls_comm_check_alone());
    setenv("SLURM_STEP_NUM_TASKS", "1", 1); /* an interactive shell in a step */
    CHECK_OK(ls_comm_check_alone());
    setenv("SLURM_STEP_NUM_TASKS", "2", 1); /* srun -n 2 */
    CHECK(!ls_comm_launched());
    CHECK_STATUS(ls_comm_check_alone(), LS_E_USAGE);
    CHECK_MESSAGE("srun has started 2 tasks that know nothing of each other; use srun --mpi=pmix");
    unsetenv("SLURM_PROCID");
    CHECK_OK(ls_comm_check_alone());
    clear_environment();
}

static void test_version(void) {
    const char *version = ls_comm_mpi_version();
    CHECK(strlen(version) > 4);
    CHECK(strpbrk(version, "0123456789") != NULL);
    CHECK(strpbrk(version, ",\n") == NULL);
    if (strncmp(version, "Open MPI", 8) == 0) {
        int major = 0, minor = 0;
        CHECK_INT(sscanf(version, "Open MPI %d.%d", &major, &minor), 2);
        CHECK(major >= 1);
    }
    CHECK(version == ls_comm_mpi_version());
}

static void test_operations(ls_comm *comm) {
    CHECK_INT(comm->rank, 0);
    CHECK_INT(comm->size, 1);
    CHECK_STR(comm->ops->name, "self");
    CHECK_OK(comm->ops->barrier(comm));

    double x[3] = {1.5, -2.0, 3.25};
    CHECK_OK(comm->ops->broadcast(comm, x, sizeof x, 0));
    CHECK_OK(comm->ops->all_reduce(comm, x, 3, LS_F64, LS_SUM));
    CHECK(x[0] == 1.5 && x[1] == -2.0 && x[2] == 3.25);
    double y[3] = {0};
    CHECK_OK(comm->ops->all_gather(comm, x, y, sizeof x));
    CHECK(memcmp(x, y, sizeof x) == 0);

    ls_comm_request *request = NULL;
    const int64_t count = sizeof(double), from = 0, to = 2 * sizeof(double);
    CHECK_OK(comm->ops->all_gather_start(comm, x, y, &count, &to, &request));
    bool done = false;
    CHECK_OK(comm->ops->test(comm, request, &done));
    CHECK(done);
    CHECK(y[0] == 1.5 && y[2] == 1.5);
    CHECK_OK(comm->ops->all_to_all_start(comm, x, &count, &to, y, &count, &from, &request));
    CHECK_OK(comm->ops->wait(comm, request));
    CHECK(y[0] == 3.25);
    CHECK_OK(comm->ops->all_reduce_start(comm, x, x, 0, LS_F32, LS_MAX, &request));
    CHECK_OK(comm->ops->wait(comm, request));

    uint64_t host = 7;
    CHECK_OK(ls_comm_hosts(comm, &host));
    CHECK_INT(host, 0);
}

static void test_errors(ls_comm *comm) {
    ls_comm_request *request = NULL;
    char byte = 0;
    const int64_t one = 1, two = 2, negative = -1, zero = 0;
    CHECK_STATUS(comm->ops->broadcast(comm, &byte, 1, 1), LS_E_SHAPE);
    CHECK_STATUS(comm->ops->broadcast(comm, &byte, -1, 0), LS_E_SHAPE);
    CHECK_STATUS(comm->ops->all_reduce(comm, &byte, 1, LS_U8, LS_SUM), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("uint8");
    CHECK_STATUS(comm->ops->all_gather_start(comm, &byte, &byte, &negative, &zero, &request),
                 LS_E_SHAPE);
    CHECK_STATUS(
        comm->ops->all_to_all_start(comm, &byte, &one, &zero, &byte, &two, &zero, &request),
        LS_E_SHAPE);
    CHECK_MESSAGE("expects 2");

    CHECK_OK(ls_comm_agree(comm, LS_OK));
    CHECK_STATUS(ls_comm_agree(comm, LS_FAIL(LS_E_IO, "no space")), LS_E_IO);
    CHECK_STR(ls_error_last()->message, "no space");
    CHECK_OK(ls_comm_check_same(comm, "configuration", "abc", 3));
}

int main(void) {
    test_launched();
    test_version();
    ls_comm *comm = NULL, *copy = NULL;
    CHECK_OK(ls_comm_self(&comm));
    test_operations(comm);
    test_errors(comm);
    CHECK_OK(comm->ops->duplicate(comm, &copy));
    test_operations(copy);
    copy->ops->destroy(copy);
    comm->ops->destroy(comm);
    ls_comm_mpi_finalize(); /* nothing was started */
    return test_end();
}
