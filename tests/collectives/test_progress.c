/* The thread that moves operations on: an all-reduce of several stages ends although the main
 * thread makes no call, with the right sums; blocking calls beside it; a start after a stop. */
#include "collectives/progress.h"
#include "collectives/recorded.h"
#include "tests/test.h"

enum { ELEMS = 1 << 20 };

static int count_wrong(const volatile float *x, int size) {
    int wrong = 0;
    for (int i = 0; i < ELEMS; i++) {
        wrong += x[i] != (float)(size * (size - 1) / 2 + size * (i % 7));
    }
    return wrong;
}

static void check_hidden(ls_comm *comm, float *x) {
    ls_comm_request *request;
    for (int i = 0; i < ELEMS; i++) {
        x[i] = (float)(comm->rank + i % 7);
    }
    CHECK_OK(comm->ops->all_reduce_start(comm, x, x, ELEMS, LS_F32, LS_SUM_TREE, &request));
    while (count_wrong(x, comm->size) > 0) { /* no call that would drive anything */
    }
    CHECK_OK(comm->ops->wait(comm, request));
}

/* Started operations and blocking ones on another communicator. */
static void check_beside(ls_comm *comm, ls_comm *other, float *x) {
    ls_comm_request *request;
    for (int i = 0; i < 50; i++) {
        int64_t sum = 1;
        CHECK_OK(comm->ops->all_reduce_start(comm, x, x, 5000, LS_F32, LS_MAX, &request));
        CHECK_OK(other->ops->all_reduce(other, &sum, 1, LS_I64, LS_SUM));
        CHECK_INT(sum, other->size);
        CHECK_OK(comm->ops->wait(comm, request));
    }
}

int main(int argc, char **argv) {
    ls_comm *world = NULL, *comm = NULL, *other = NULL;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_OK(ls_comm_recorded(world, "world", true, &comm));
    CHECK_OK(comm->ops->duplicate(comm, &other));
    float *x = calloc(ELEMS, sizeof *x);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(ls_progress_start());
        for (int j = 0; j < 3; j++) {
            check_hidden(comm, x);
        }
        check_beside(comm, other, x);
        ls_progress_stop();
        check_beside(comm, other, x);
    }
    free(x);
    other->ops->destroy(other);
    comm->ops->destroy(comm);
    int result = test_end();
    ls_comm_mpi_finalize();
    return result;
}
