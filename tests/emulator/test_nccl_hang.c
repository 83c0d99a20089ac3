/* A rank that never enters an all-reduce which another one's device waits for, on the emulated
 * device: the watchdog names it. Before that, what the device tells of operations that end.
 * test_nccl_hang DIR [late | first], under mpirun with two ranks; ends with 3. late: NCCL does not
 * come to an end with taking the operation over, so that it is the host that waits. first: nor soon
 * in a group's first operation, for which there is patience: ends with 0. */
#include "collectives/meter.h"
#include "collectives/nccl/comm_nccl.h"
#include "collectives/recorded.h"
#include "collectives/watch.h"
#include "runtime/base/clock.h"
#include "tests/test.h"

#include <unistd.h>

enum { ELEMS = 5000 };

static void report(const char *text) {
    fprintf(stderr, "REPORT %s\n", text);
}

static void end(void) {
    _exit(3);
}

static ls_status reduce(ls_comm *comm, ls_device *dev, float *x) {
    ls_comm_request *request;
    LS_TRY(comm->ops->all_reduce_start(comm, x, x, ELEMS, LS_F32, LS_SUM, &request));
    LS_TRY(comm->ops->wait(comm, request));
    return dev->ops->sync(dev);
}

/* Ends, and times, come from the device, once it has been waited for. */
static void two_that_end(ls_comm *comm, ls_device *dev, float *x) {
    ls_comm_meter meters[LS_COMM_AXIS_COUNT];
    const uint64_t start_ns = ls_clock_ns();
    CHECK_OK(reduce(comm, dev, x));
    CHECK_OK(reduce(comm, dev, x));
    ls_meters_read(meters);
    const uint64_t took_ns = ls_clock_ns() - start_ns;
    const ls_comm_meter *m = &meters[LS_COMM_DATA];
    CHECK(m->operations == 2);
    CHECK(m->active_ns > 0 && m->active_ns <= took_ns);
    CHECK(m->exposed_ns > 0 && m->exposed_ns <= took_ns);
    const ls_flight_record *own = ls_flight_own();
    CHECK(own->inside == 0);
    for (uint64_t id = own->last_id - 1; id <= own->last_id; id++) {
        const ls_flight_op *op = ls_flight_find(own, id);
        CHECK(op && op->call.kind == LS_FLIGHT_ALL_REDUCE && op->end_ns >= op->start_ns);
    }
}

/* Takes longer than steps of which the deadline has been learnt. */
static void first_of_group(ls_comm *comm, ls_device *dev, float *x) {
    ls_comm *part;
    ls_flight_mark(LS_FLIGHT_BACKWARD, 7);
    for (int step = 0; step < 3; step++) {
        ls_watch_begin_step();
        CHECK_OK(reduce(comm, dev, x));
        ls_watch_end_step(step);
    }
    CHECK_OK(comm->ops->split(comm, 0, &part));
    setenv("EMULATED_NCCL_LATE", "2.5", 1);
    CHECK_OK(reduce(part, dev, x));
    unsetenv("EMULATED_NCCL_LATE");
    part->ops->destroy(part);
}

int main(int argc, char **argv) {
    const char *way = argc > 2 ? argv[2] : "";
    ls_comm *world, *backend, *comm;
    ls_device *dev;
    void *x;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_OK(ls_device_open_cuda(NULL, &dev));
    CHECK_OK(dev->ops->alloc(dev, ELEMS * sizeof(float), &x));
    const ls_watch_options options = {.comm = world,
                                      .run_dir = argv[1],
                                      .flight_dir = argv[1],
                                      .min_deadline_s = 1,
                                      .deadline_factor = 3,
                                      .patience_s = *way == 'f' ? 60 : 2,
                                      .report = report,
                                      .end = end};
    CHECK_OK(ls_watch_start(&options));
    CHECK_OK(ls_comm_nccl(&(ls_comm_nccl_options){.host = world, .dev = dev}, &backend));
    CHECK_OK(ls_comm_recorded(backend, "data", false, &comm));
    ls_comm_set_axis(comm, LS_COMM_DATA);
    two_that_end(comm, dev, x);
    if (*way == 'f') {
        first_of_group(comm, dev, x);
        comm->ops->destroy(comm);
        backend->ops->destroy(backend);
        ls_watch_stop();
        dev->ops->free(dev, x);
        dev->ops->close(dev);
        ls_comm_mpi_finalize();
        return test_end();
    }
    if (world->rank == 1) {
        ls_flight_mark(LS_FLIGHT_BACKWARD, 7);
        for (volatile int i = 0;; i = i + 1) {
        }
    }
    if (*way == 'l') {
        setenv("EMULATED_NCCL_LATE", "1000", 1);
    }
    CHECK_OK(reduce(comm, dev, x)); /* does not come back */
    return test_end();
}
