/* What Open MPI calls when a connection breaks comes here first. */
#include "collectives/comm.h"
#include "tests/test.h"

#include <dlfcn.h>
#include <setjmp.h>

static jmp_buf back;
static int losses;

static void lost(void) {
    losses++;
    longjmp(back, 1);
}

int main(int argc, char **argv) {
    ls_comm *world;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    /* As a component of the library finds it. */
    void (*give_up)(int, const char *, ...);
    *(void **)&give_up = dlsym(RTLD_DEFAULT, "ompi_rte_abort");
    CHECK(give_up != NULL);
    ls_comm_mpi_on_loss(lost);
    if (setjmp(back) == 0) {
        give_up(-1, NULL);
    }
    if (setjmp(back) == 0) {
        give_up(-1, "%s %d", "connection", 7);
    }
    CHECK_INT(losses, 2);
    ls_comm_mpi_on_loss(NULL);
    const int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
