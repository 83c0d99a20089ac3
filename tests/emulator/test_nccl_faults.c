/* Faults of NCCL communicators, on the emulated device: test_nccl_faults WAY, under mpirun.
 *   absent: a rank does not come to the creation: refused by all at the deadline
 *   fault:  NCCL reports a fault of its own: told once, and again by every later call; also while
 *           a later one is handed over
 *   partial: a creation, or split, that fails on one rank leaves nothing behind on the others
 *   patience: an operation that is handed over late is given up, unless a flight record is kept
 *   crossed: messages that both ranks send before they receive end for neither
 *   order: ranks that call two communicators in different orders, which the emulated NCCL must name
 *   mixed: memory that is registered on one side of a message only, which the emulated NCCL must
 * name memory: that is used by several communicators is registered with each, until one of them
 * ends; where NCCL has none, CUDA's serves killed: half of the ranks, each in the middle of another
 * operation; the others learn of it (mpirun --enable-recovery, which lets them live) */
#include "collectives/flight.h"
#include "collectives/nccl/comm_nccl.h"
#include "runtime/base/clock.h"
#include "tests/emulator/nccl/emulator_comm.h"
#include "tests/test.h"

#include <signal.h>
#include <unistd.h>

enum { ELEMS = 5000 };

static ls_comm *world;
static ls_device *dev;

static ls_status create(double deadline_s, ls_comm **comm) {
    return ls_comm_nccl(
        &(ls_comm_nccl_options){.host = world, .dev = dev, .deadline_s = deadline_s}, comm);
}

/* Until it is done or has failed. */
static ls_status end(ls_comm *comm, ls_comm_request *request) {
    bool done = false;
    while (!done) {
        LS_TRY(comm->ops->test(comm, request, &done));
    }
    return LS_OK;
}

static void absent(void) {
    ls_comm *comm;
    setenv("EMULATED_NCCL_ABSENT", "1", 1);
    CHECK_STATUS(create(0.3, &comm), LS_E_COMM);
    CHECK_MESSAGE("not all of 3 ranks have come");
    CHECK(comm == NULL);
    unsetenv("EMULATED_NCCL_ABSENT");
    CHECK_OK(create(0, &comm));
    comm->ops->destroy(comm);
}

static ls_status reduce_once(ls_comm *comm, float *x) {
    ls_comm_request *request;
    LS_TRY(comm->ops->all_reduce_start(comm, x, x, 1, LS_F32, LS_MAX, &request));
    return end(comm, request);
}

static void fault(void) {
    ls_comm *comm, *part;
    void *x;
    CHECK_OK(create(0, &comm));
    CHECK_OK(dev->ops->alloc(dev, sizeof(float), &x));
    CHECK_OK(reduce_once(comm, x));
    setenv("EMULATED_NCCL_FAULT", "2", 1);
    CHECK_STATUS(reduce_once(comm, x), LS_E_COMM);
    CHECK_MESSAGE("emulated error");
    for (int i = 0; i < 2; i++) {
        CHECK_STATUS(reduce_once(comm, x), LS_E_COMM);
        CHECK_MESSAGE("has failed before: NCCL, a collective: emulated error");
    }
    CHECK_STATUS(comm->ops->split(comm, 0, &part), LS_E_COMM);
    CHECK(part == NULL);
    comm->ops->destroy(comm);
    unsetenv("EMULATED_NCCL_FAULT");
    CHECK_OK(create(0, &comm)); /* the device is none the worse for it */
    CHECK_OK(reduce_once(comm, x));
    comm->ops->destroy(comm);
    dev->ops->free(dev, x);
}

/* Of an operation under way, noticed while another one is handed over. */
static void late(void) {
    ls_comm *comm;
    ls_comm_request *first, *second;
    void *x;
    CHECK_OK(create(0, &comm));
    CHECK_OK(dev->ops->alloc(dev, 2 * sizeof(float), &x));
    float *y = (float *)x + 1;
    setenv("EMULATED_NCCL_LATE", "0", 1);
    setenv("EMULATED_NCCL_FAULT", "2", 1);
    CHECK_OK(comm->ops->all_reduce_start(comm, x, x, 1, LS_F32, LS_MAX, &first));
    CHECK_STATUS(comm->ops->all_reduce_start(comm, y, y, 1, LS_F32, LS_MAX, &second), LS_E_COMM);
    CHECK_MESSAGE("emulated error");
    unsetenv("EMULATED_NCCL_LATE");
    unsetenv("EMULATED_NCCL_FAULT");
    comm->ops->destroy(comm);
    dev->ops->free(dev, x);
}

/* A half-made communicator is aborted: to destroy it may wait for the others. */
static void partial(void) {
    ls_comm *comm, *part;
    if (world->rank == 1) {
        setenv("EMULATED_NCCL_FAULT", "0", 1);
    }
    CHECK_STATUS(create(0, &comm), LS_E_COMM);
    CHECK(comm == NULL);
    CHECK_INT(emu_nccl_aborted(), 1);
    unsetenv("EMULATED_NCCL_FAULT");
    CHECK_OK(create(0, &comm));
    if (world->rank == 1) {
        setenv("EMULATED_NCCL_FAULT", "0", 1);
    }
    CHECK_STATUS(comm->ops->duplicate(comm, &part), LS_E_COMM);
    CHECK(part == NULL);
    unsetenv("EMULATED_NCCL_FAULT");
    CHECK_INT(emu_nccl_destroyed(), 0);
    CHECK_STATUS(comm->ops->duplicate(comm, &part), LS_E_COMM); /* on every rank */
    CHECK_MESSAGE("has failed before");
    comm->ops->destroy(comm);
    CHECK_INT(emu_nccl_destroyed(), 0);
}

static void patience(void) {
    ls_comm *comm;
    void *x;
    CHECK_OK(dev->ops->alloc(dev, sizeof(float), &x));
    CHECK_OK(create(1, &comm));
    setenv("EMULATED_NCCL_LATE", "2.5", 1);
    CHECK_STATUS(reduce_once(comm, x), LS_E_COMM);
    CHECK_MESSAGE("not all of 2 ranks have come within 1 s");
    comm->ops->destroy(comm);
    CHECK_OK(ls_flight_open(
        &(ls_flight_options){.token = (uint64_t)getppid(), .rank = world->rank, .size = 2}));
    CHECK_OK(create(1, &comm));
    CHECK_OK(reduce_once(comm, x));
    comm->ops->destroy(comm);
    ls_flight_close();
    unsetenv("EMULATED_NCCL_LATE");
    dev->ops->free(dev, x);
}

static void crossed(void) {
    ls_comm *comm;
    ls_comm_request *sent, *received;
    void *x;
    bool done = false;
    CHECK_OK(create(0, &comm));
    CHECK_OK(dev->ops->alloc(dev, 2, &x));
    for (int i = 0; i < 2; i++) { /* the first of their kind meet on the host */
        CHECK_OK(comm->rank == i ? comm->ops->send_start(comm, x, 1, 1 - comm->rank, &sent)
                                 : comm->ops->recv_start(comm, x, 1, 1 - comm->rank, &sent));
        CHECK_OK(end(comm, sent));
    }
    CHECK_OK(comm->ops->send_start(comm, x, 1, 1 - comm->rank, &sent));
    CHECK_OK(comm->ops->recv_start(comm, (char *)x + 1, 1, 1 - comm->rank, &received));
    for (const uint64_t start_ns = ls_clock_ns(); !done && ls_clock_ns() - start_ns < 300000000;) {
        CHECK_OK(comm->ops->test(comm, sent, &done));
    }
    CHECK(!done);
    setenv("EMULATED_NCCL_FAULT", "0", 1);
    CHECK_STATUS(end(comm, sent), LS_E_COMM);
    unsetenv("EMULATED_NCCL_FAULT");
    comm->ops->destroy(comm);
    dev->ops->free(dev, x);
}

static void order(void) {
    ls_comm *comms[2];
    ls_comm_request *requests[2];
    void *x;
    CHECK_OK(create(0, &comms[0]));
    CHECK_OK(create(0, &comms[1]));
    CHECK_OK(dev->ops->alloc(dev, 2 * sizeof(float), &x));
    for (int i = 0; i < 2; i++) { /* the first ones meet on the host */
        CHECK_OK(reduce_once(comms[i], x));
    }
    for (int i = 0; i < 2; i++) {
        ls_comm *comm = comms[i ^ world->rank];
        float *y = (float *)x + i;
        CHECK_OK(comm->ops->all_reduce_start(comm, y, y, 1, LS_F32, LS_SUM, &requests[i]));
    }
    for (int i = 0; i < 2; i++) {
        CHECK_OK(end(comms[i ^ world->rank], requests[i]));
    }
}

/* x of rank 0 to y of rank 1. */
static ls_status send_once(ls_comm *comm, void *x, void *y) {
    ls_comm_request *request;
    LS_TRY(comm->rank == 0 ? comm->ops->send_start(comm, x, 1, 1, &request)
                           : comm->ops->recv_start(comm, y, 1, 0, &request));
    return end(comm, request);
}

static void mixed(void) {
    ls_comm *comm;
    void *x, *y;
    CHECK_OK(create(0, &comm));
    CHECK_OK(comm->ops->alloc(comm, sizeof(float), &x));
    CHECK_OK(dev->ops->alloc(dev, sizeof(float), &y));
    CHECK_OK(reduce_once(comm, x));
    CHECK_OK(send_once(comm, x, y));
}

/* Messages and exchanges of it with other memory do not register it. */
static void exchange_with_other(ls_comm *comm, char *x) {
    const int64_t counts[] = {1, 1}, offsets[] = {0, 1};
    ls_comm_request *request;
    void *y;
    CHECK_OK(dev->ops->alloc(dev, 2, &y));
    CHECK_OK(send_once(comm, x, y));
    CHECK_OK(send_once(comm, y, x));
    CHECK_OK(comm->ops->all_to_all_start(comm, x, counts, offsets, y, counts, offsets, &request));
    CHECK_OK(end(comm, request));
    CHECK_INT(emu_nccl_registrations(), 0);
    dev->ops->free(dev, y);
}

static void memory(void) {
    ls_comm *comm, *part;
    void *x, *y;
    CHECK_OK(create(0, &comm));
    CHECK_OK(comm->ops->split(comm, comm->rank, &part));
    CHECK_OK(comm->ops->alloc(comm, 2 * sizeof(float), &x));
    CHECK_OK(comm->ops->alloc(comm, sizeof(float), &y));
    exchange_with_other(comm, x);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(reduce_once(comm, (float *)x + i));
        CHECK_OK(reduce_once(part, (float *)x + i));
    }
    CHECK_INT(emu_nccl_registrations(), 2);
    CHECK_OK(reduce_once(comm, y));
    CHECK_INT(emu_nccl_registrations(), 3);
    part->ops->destroy(part);
    CHECK_INT(emu_nccl_registrations(), 2);
    comm->ops->give_back(comm, x);
    CHECK_INT(emu_nccl_registrations(), 1);
    CHECK_OK(comm->ops->split(comm, comm->rank, &part));
    CHECK_OK(reduce_once(part, y));
    CHECK_INT(emu_nccl_registrations(), 2);
    comm->ops->give_back(comm, y);
    CHECK_INT(emu_nccl_registrations(), 0);
    part->ops->destroy(part);
    comm->ops->destroy(comm);
}

/* Operation `which` of a pair; one that kills finds the ranks connected, and the culprit dies
 * before it has sent anything. */
static ls_status operate(ls_comm *pair, int which, bool kills, char *x, char *y) {
    const int64_t half = ELEMS / 2;
    const int64_t counts[] = {half, half}, offsets[] = {0, half};
    ls_comm_request *r;
    switch (which) {
    case 0:
        LS_TRY(pair->ops->all_reduce_start(pair, x, y, ELEMS, LS_F32, LS_SUM, &r));
        break;
    case 1:
        LS_TRY(pair->ops->reduce_scatter_start(pair, x, y, counts, LS_F32, LS_SUM, &r));
        break;
    case 2:
        LS_TRY(pair->ops->all_gather_start(pair, x, y, counts, offsets, &r));
        break;
    case 3:
        LS_TRY(pair->ops->all_to_all_start(pair, x, counts, offsets, y, counts, offsets, &r));
        break;
    case 4:
        LS_TRY(pair->ops->broadcast_start(pair, x, ELEMS, 1, &r));
        break;
    case 5:
        LS_TRY(pair->ops->reduce_start(pair, x, y, ELEMS, LS_F32, LS_SUM, 0, &r));
        break;
    default:
        LS_TRY(pair->rank == 0 ? pair->ops->recv_start(pair, x, ELEMS, 1, &r)
                               : pair->ops->send_start(pair, x, ELEMS, 0, &r));
        break;
    }
    if (kills && pair->rank == 1) {
        raise(SIGKILL);
    }
    return end(pair, r);
}

/* Does not return: MPI_Finalize would wait for the dead. */
static void killed(void) {
    ls_comm *comm, *pair;
    void *x, *y;
    CHECK_OK(create(0, &comm));
    CHECK_OK(comm->ops->split(comm, comm->rank / 2, &pair));
    CHECK_INT(pair->size, 2);
    CHECK_OK(dev->ops->alloc(dev, ELEMS * sizeof(float), &x));
    CHECK_OK(dev->ops->alloc(dev, ELEMS * sizeof(float), &y));
    CHECK_OK(comm->ops->barrier(comm));
    CHECK_OK(operate(pair, comm->rank / 2, false, x, y));
    CHECK_STATUS(operate(pair, comm->rank / 2, true, x, y), LS_E_COMM);
    CHECK_MESSAGE("remote process exited");
    CHECK_OK(dev->ops->sync(dev)); /* nothing is left that would wait for ever */
    pair->ops->destroy(pair);
    if (test_end() == 0) {
        printf("rank %d survived\n", comm->rank);
    }
    fflush(stdout);
    _exit(0);
}

int main(int argc, char **argv) {
    const char *way = argc > 1 ? argv[1] : "";
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_OK(ls_device_open_cuda(NULL, &dev));
    if (strcmp(way, "absent") == 0) {
        absent();
    } else if (strcmp(way, "fault") == 0) {
        fault();
        late();
    } else if (strcmp(way, "partial") == 0) {
        partial();
    } else if (strcmp(way, "patience") == 0) {
        patience();
    } else if (strcmp(way, "crossed") == 0) {
        crossed();
    } else if (strcmp(way, "order") == 0) {
        order();
    } else if (strcmp(way, "mixed") == 0) {
        mixed();
    } else if (strcmp(way, "memory") == 0) {
        memory();
        setenv("EMULATED_NCCL_MEMORY", "no", 1);
        memory();
    } else {
        killed();
    }
    dev->ops->close(dev);
    ls_comm_mpi_finalize();
    return test_end();
}
