/* The thread that moves operations on: an all-reduce of several stages ends although the main
 * thread makes no call, with the right sums; blocking calls beside it; a start after a stop.
 * Beneath: which pumps are driven, that the thread wakes for what is started, and that the main
 * thread hears of its faults once. */
#include "collectives/comm_impl.h"
#include "collectives/progress.h"
#include "collectives/recorded.h"
#include "runtime/base/clock.h"
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

/* A pump of the tests'. */
typedef struct probe {
    ls_pump pump;
    _Atomic int drives;
    bool fails;
} probe;

static void drive(ls_pump *pump) {
    probe *p = (probe *)pump;
    ls_pump_all(); /* of no effect from here */
    p->pump.pending = 0;
    if (p->fails) {
        LS_FAIL(LS_E_COMM, "planted fault");
    }
    p->drives++; /* who sees it may change the rest */
}

static bool is_driven(const probe *p, int drives) {
    const uint64_t begin_ns = ls_clock_ns();
    while (p->drives < drives && ls_clock_ns() - begin_ns < 20000000000u) {
    }
    return p->drives >= drives;
}

/* What is under way is driven each time, all else now and then: the library may hold messages for
 * it. */
static void check_pumps(void) {
    enum { TURNS = 64 * 50 };
    probe busy = {.pump.drive = drive}, idle = {.pump.drive = drive};
    ls_pump_add(&busy.pump);
    ls_pump_add(&idle.pump);
    for (int i = 0; i < TURNS; i++) {
        busy.pump.pending = 1;
        CHECK(ls_pump_pending());
        ls_pump_all();
        CHECK(!ls_pump_pending());
    }
    CHECK_INT(busy.drives, TURNS);
    CHECK_INT(idle.drives, TURNS / 64);
    ls_pump_remove(&busy.pump);
    ls_pump_all();
    CHECK_INT(busy.drives, TURNS);
    ls_pump_remove(&idle.pump);
}

/* Each time it has had the time to fall asleep. */
static void check_wakes(void) {
    probe p = {.pump.drive = drive};
    ls_pump_add(&p.pump);
    CHECK_OK(ls_progress_start());
    bool driven = true;
    for (int i = 1; i <= 20 && driven; i++) {
        const uint64_t begin_ns = ls_clock_ns();
        while (ls_clock_ns() - begin_ns < 5000000) {
        }
        ls_progress_hold();
        const int before = p.drives;
        p.pump.pending = 1;
        CHECK_OK(ls_progress_released(LS_OK));
        driven = is_driven(&p, before + 1);
        CHECK(driven);
    }
    ls_progress_stop();
    ls_pump_remove(&p.pump);
}

/* Of a fault that the thread has met; the next one is the main thread's own. */
static void check_fault(void) {
    probe p = {.pump.drive = drive, .fails = true};
    ls_pump_add(&p.pump);
    CHECK_OK(ls_progress_start());
    ls_progress_hold();
    p.pump.pending = 1;
    CHECK_OK(ls_progress_released(LS_OK));
    CHECK(is_driven(&p, 1));
    p.fails = false;
    ls_progress_hold(); /* the thread has let go: its record is kept */
    CHECK_OK(ls_progress_released(LS_OK));
    for (int i = 0; i < 2; i++) {
        ls_progress_hold();
        CHECK_STATUS(ls_progress_released(LS_FAIL(LS_E_COMM, "fault of its own")), LS_E_COMM);
        CHECK_MESSAGE(i == 0 ? "planted fault" : "fault of its own");
    }
    ls_progress_stop();
    ls_pump_remove(&p.pump);
}

int main(int argc, char **argv) {
    ls_comm *world = NULL, *comm = NULL, *other = NULL;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    check_pumps();
    check_wakes();
    check_fault();
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
