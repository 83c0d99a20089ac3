/* The thread that moves operations on: an all-reduce of several stages ends although the main
 * thread makes no call, with the right sums; blocking calls beside it; a start after a stop.
 * Beneath: which pumps are driven, that the thread wakes for what is started, how long it sleeps
 * between looks, and that the main thread hears of its faults once. */
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

/* A pump whose operations do not end, and how soon after a look the next one came, at least. */
typedef struct slow_probe {
    ls_pump pump;
    _Atomic int looks;
    uint64_t work_ns, last_ns, least_ns;
} slow_probe;

static void look_slowly(ls_pump *pump) {
    slow_probe *p = (slow_probe *)pump;
    const uint64_t begin_ns = ls_clock_ns();
    p->least_ns = begin_ns - p->last_ns < p->least_ns ? begin_ns - p->last_ns : p->least_ns;
    while (ls_clock_ns() - begin_ns < p->work_ns) {
    }
    p->last_ns = ls_clock_ns();
    p->looks++;
}

/* The least time between `looks` looks, from a start of so many operations on; looks take work_ns.
 */
static uint64_t least_between(slow_probe *p, int started, uint64_t work_ns, int looks) {
    const struct timespec nap = {.tv_nsec = 200000};
    ls_progress_hold();
    p->pump.pending += started;
    p->work_ns = work_ns;
    p->least_ns = UINT64_MAX;
    p->looks = 0;
    CHECK_OK(ls_progress_released(LS_OK));
    const uint64_t begin_ns = ls_clock_ns();
    while (p->looks < looks && ls_clock_ns() - begin_ns < 20000000000u) {
        nanosleep(&nap, NULL);
    }
    ls_progress_hold();
    CHECK(p->looks >= looks);
    const uint64_t least_ns = p->least_ns;
    CHECK_OK(ls_progress_released(LS_OK));
    return least_ns;
}

enum { LONG_NS = 1900000 };

/* Whether it ever looks again sooner than that: a busy host may make it late many times over. */
static bool looks_soon(slow_probe *p, int started, uint64_t work_ns) {
    const uint64_t begin_ns = ls_clock_ns();
    while (ls_clock_ns() - begin_ns < 20000000000u) {
        if (least_between(p, started, work_ns, 3) < LONG_NS) {
            return true;
        }
    }
    return false;
}

/* Looks come more seldom while nothing new is started and they take little, and soon again after a
 * start, or where they take much. */
static void check_naps(void) {
    slow_probe p = {.pump.drive = look_slowly};
    ls_pump_add(&p.pump);
    CHECK_OK(ls_progress_start());
    CHECK(looks_soon(&p, 1, 0));
    least_between(&p, 0, 0, 8);
    CHECK(least_between(&p, 0, 0, 8) > LONG_NS);
    CHECK(looks_soon(&p, 1, 0));
    least_between(&p, 0, 0, 8);
    CHECK(looks_soon(&p, 0, 1000000));
    ls_progress_hold();
    p.pump.pending = 0;
    CHECK_OK(ls_progress_released(LS_OK));
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
    check_naps();
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
