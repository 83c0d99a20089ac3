/* A recorded communicator does what the one beneath it does, and writes it down. With BENCH set in
 * the environment it prints what an operation's entry costs. */
#include "collectives/meter.h"
#include "collectives/recorded.h"
#include "runtime/base/clock.h"
#include "tests/test.h"

#include <stddef.h>
#include <unistd.h>

static const ls_flight_record *record;

static const ls_flight_op *last_op(void) {
    return ls_flight_find(record, record->last_id);
}

/* Every slot of the table, those added later too, is a function. */
static void test_slots(const ls_comm *comm) {
    void (*const *slots)(void) = (void (*const *)(void)) & comm->ops->destroy;
    size_t count = (sizeof *comm->ops - offsetof(ls_comm_ops, destroy)) / sizeof *slots;
    for (size_t i = 0; i < count; i++) {
        CHECK(slots[i] != NULL);
    }
}

static void finish(ls_comm *comm, ls_comm_request *request, bool wait) {
    bool done = false;
    if (wait) {
        CHECK_OK(comm->ops->wait(comm, request));
    }
    while (!wait && !done) {
        CHECK_OK(comm->ops->test(comm, request, &done));
    }
    CHECK_INT(record->inside, 0);
}

static void test_blocking(ls_comm *comm) {
    int64_t value = comm->rank + 1, all[8] = {0};
    CHECK_OK(comm->ops->all_reduce(comm, &value, 1, LS_I64, LS_SUM));
    CHECK_INT(value, comm->size * (comm->size + 1) / 2);
    const ls_flight_op *op = last_op();
    CHECK_INT(op->call.kind, LS_FLIGHT_ALL_REDUCE);
    CHECK_INT(op->call.dtype, LS_I64);
    CHECK_INT(op->bytes, 8);
    CHECK(op->end_ns >= op->start_ns && op->start_ns >= op->enqueue_ns);
    uint64_t seq = op->seq;
    CHECK_OK(comm->ops->broadcast(comm, &value, 3, comm->size - 1));
    CHECK_INT(last_op()->seq, seq + 1);
    CHECK_INT(last_op()->call.root, comm->size - 1);
    value = comm->rank;
    CHECK_OK(comm->ops->all_gather(comm, &value, all, sizeof value));
    CHECK_INT(all[comm->size - 1], comm->size - 1);
    CHECK_OK(comm->ops->barrier(comm));
    int lowest;
    CHECK_OK(comm->ops->host(comm, &lowest));
    CHECK_INT(lowest, 0);
    void *memory;
    CHECK_OK(comm->ops->alloc(comm, 100, &memory));
    comm->ops->give_back(comm, memory);
    CHECK_INT(last_op()->call.kind, LS_FLIGHT_GIVE_BACK);
    CHECK_INT(record->inside, 0);
}

static void test_started(ls_comm *comm) {
    enum { N = 5 };
    const int size = comm->size, me = comm->rank;
    int64_t counts[8], offsets[8], send[8 * N], recv[8 * N];
    ls_comm_request *request;
    for (int r = 0; r < size; r++) { /* uneven: r + me elements between ranks r and me */
        counts[r] = (r + me) % N * 8;
        offsets[r] = (int64_t)r * N * 8;
    }
    for (int i = 0; i < 8 * N; i++) {
        send[i] = 100 * me + i / N;
        recv[i] = -1;
    }
    ls_flight_set_bucket(3);
    CHECK_OK(
        comm->ops->all_to_all_start(comm, send, counts, offsets, recv, counts, offsets, &request));
    CHECK_INT(last_op()->bucket, 3);
    CHECK_INT(last_op()->end_ns, 0);
    finish(comm, request, false);
    CHECK(last_op()->end_ns > 0);
    for (int r = 0; r < size; r++) {
        CHECK_INT(recv[r * N], (r + me) % N ? 100 * r + me : -1);
    }
    for (int r = 0; r < size; r++) {
        counts[r] = r + 1;
    }
    CHECK_OK(comm->ops->reduce_scatter_start(comm, send, recv, counts, LS_I64, LS_MAX, &request));
    finish(comm, request, true);
    CHECK(last_op()->call.blocks != 0);
    CHECK_OK(comm->ops->all_reduce_start(comm, send, recv, 1, LS_I64, LS_SUM, &request));
    finish(comm, request, true);
    CHECK_INT(recv[0], 100 * size * (size - 1) / 2);
    CHECK_OK(comm->ops->reduce_start(comm, send, recv, 1, LS_I64, LS_MAX, 0, &request));
    finish(comm, request, false);
    CHECK_OK(comm->ops->broadcast_start(comm, recv, 8, 0, &request));
    finish(comm, request, true);
    CHECK_INT(recv[0], 100 * (size - 1));
    uint64_t seq = last_op()->seq;
    if (me == 1) {
        CHECK_OK(comm->ops->send_start(comm, send, 8, 0, &request));
        finish(comm, request, true);
        CHECK_INT(last_op()->peer, 0);
    } else if (me == 0 && size > 1) {
        CHECK_OK(comm->ops->recv_start(comm, recv, 8, 1, &request));
        finish(comm, request, true);
        CHECK_INT(recv[0], 100);
        CHECK_INT(last_op()->seq, 0);
    }
    CHECK_STATUS(comm->ops->send_start(comm, send, 8, me, &request), LS_E_SHAPE);
    CHECK_OK(comm->ops->barrier(comm));
    CHECK_INT(last_op()->seq, seq + 1);
}

static void test_groups(ls_comm *comm, const char *name) {
    ls_comm *copy, *part;
    CHECK_OK(comm->ops->duplicate(comm, &copy));
    ls_comm_name_group(copy, "copy");
    CHECK_OK(copy->ops->barrier(copy));
    CHECK_STR(ls_flight_group_of(record, last_op())->name, "copy");
    CHECK_INT(last_op()->seq, 1);
    CHECK_OK(comm->ops->split(comm, comm->rank % 2, &part));
    CHECK_OK(part->ops->barrier(part));
    char expected[64];
    snprintf(expected, sizeof expected, "%s/%d", name, comm->rank % 2);
    const ls_flight_group *group = ls_flight_group_of(record, last_op());
    CHECK_STR(group->name, expected);
    CHECK_INT(group->lowest, comm->rank % 2);
    CHECK_INT(group->size, part->size);
    test_blocking(copy);
    part->ops->destroy(part);
    copy->ops->destroy(copy);
}

static void measure(ls_comm *comm) {
    enum { TIMES = 1000000 };
    const ls_flight_call call = {LS_FLIGHT_ALL_REDUCE, LS_F32, LS_SUM, -1, 1, 0};
    uint64_t start_ns = ls_clock_ns();
    for (int i = 0; i < TIMES; i++) {
        uint64_t id = ls_flight_enter(0, &call, 4, -1);
        ls_flight_start(id);
        ls_flight_wait(id);
        ls_flight_wait(0);
        ls_flight_end(id);
    }
    printf("rank %d: %.1f ns for the entry of an operation\n", comm->rank,
           (double)(ls_clock_ns() - start_ns) / TIMES);
}

/* The time of small all-reduces beneath, recorded, and recorded with checks. */
static void measure_comm(ls_comm *comm, const char *what) {
    enum { TIMES = 20000 };
    float value = 0;
    CHECK_OK(comm->ops->barrier(comm));
    uint64_t start_ns = ls_clock_ns();
    for (int i = 0; i < TIMES; i++) {
        CHECK_OK(comm->ops->all_reduce(comm, &value, 1, LS_F32, LS_SUM));
    }
    if (comm->rank == 0) {
        printf("%s: %.2f us for an all-reduce of 4 bytes\n", what,
               1e-3 * (double)(ls_clock_ns() - start_ns) / TIMES);
    }
}

/* What the back end refuses is over: it is not under way until the run ends. */
static void test_refused(ls_comm *comm) {
    ls_comm_meter before[LS_COMM_AXIS_COUNT], now[LS_COMM_AXIS_COUNT];
    ls_comm_request *request;
    void *memory;
    unsigned char byte = 0;
    CHECK_STATUS(comm->ops->alloc_common(comm, 100, &memory), LS_E_UNSUPPORTED);
    CHECK(last_op()->end_ns > 0);
    CHECK_INT(record->inside, 0);
    CHECK_STATUS(comm->ops->all_reduce_start(comm, &byte, &byte, 1, LS_U8, LS_SUM, &request),
                 LS_E_UNSUPPORTED);
    CHECK(last_op()->end_ns > 0);
    CHECK_OK(comm->ops->barrier(comm));
    ls_meters_read(before);
    ls_meters_read(now);
    CHECK_INT(now[LS_COMM_WORLD].active_ns, before[LS_COMM_WORLD].active_ns);
}

/* Bytes on the wire by the rows of wire_cost.h, on the axis that the group was given; time that a
 * call takes is exposed, and an operation that is under way is active. */
static void test_meter(ls_comm *comm) {
    ls_comm *group;
    ls_comm_meter before[LS_COMM_AXIS_COUNT], now[LS_COMM_AXIS_COUNT];
    const int64_t n = comm->size;
    int64_t counts[8], offsets[8], value[8] = {0}, all[8];
    ls_comm_request *request;
    CHECK_OK(comm->ops->duplicate(comm, &group));
    ls_comm_set_axis(group, LS_COMM_TENSOR);
    for (int64_t r = 0; r < n; r++) {
        counts[r] = 8;
        offsets[r] = 8 * r;
    }
    ls_meters_read(before);
    CHECK_OK(group->ops->all_reduce(group, value, 1, LS_I64, LS_SUM));
    CHECK_OK(group->ops->all_gather(group, value, all, 8));
    CHECK_OK(group->ops->all_gather_start(group, value, all, counts, offsets, &request));
    ls_meters_read(now);
    const uint64_t active_ns = now[LS_COMM_TENSOR].active_ns;
    ls_meters_read(now);
    CHECK(now[LS_COMM_TENSOR].active_ns > active_ns);
    finish(group, request, true);
    CHECK_OK(group->ops->all_to_all_start(group, value, counts, offsets, all, counts, offsets,
                                          &request));
    finish(group, request, false);
    CHECK_OK(comm->ops->barrier(comm));
    ls_meters_read(now);
    const double rest = (double)(n - 1) / (double)n;
    CHECK_NEAR(now[LS_COMM_TENSOR].wire_bytes - before[LS_COMM_TENSOR].wire_bytes,
               n > 1 ? 2.0 * rest * 8.0 + 2.0 * rest * 8.0 * (double)n : 0.0, 1e-14, 0);
    CHECK_NEAR(now[LS_COMM_EXPERT].wire_bytes - before[LS_COMM_EXPERT].wire_bytes,
               rest * 8.0 * (double)n, 1e-14, 0);
    CHECK_INT(now[LS_COMM_TENSOR].operations - before[LS_COMM_TENSOR].operations, 3);
    CHECK_INT(now[LS_COMM_EXPERT].operations - before[LS_COMM_EXPERT].operations, 1);
    CHECK_INT(now[LS_COMM_WORLD].operations - before[LS_COMM_WORLD].operations, 1);
    CHECK_INT(now[LS_COMM_DATA].operations - before[LS_COMM_DATA].operations, 0);
    CHECK(now[LS_COMM_TENSOR].exposed_ns > before[LS_COMM_TENSOR].exposed_ns);
    ls_meters_read(before); /* nothing is under way: activity has ended */
    CHECK_INT(before[LS_COMM_TENSOR].active_ns, now[LS_COMM_TENSOR].active_ns);
    group->ops->destroy(group);
}

int main(int argc, char **argv) {
    ls_comm *world, *comm, *checked;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    ls_error_set_rank(world->rank);
    int64_t token = getpid();
    CHECK_OK(world->ops->broadcast(world, &token, sizeof token, 0));
    const ls_flight_options options = {
        .dir = "/tmp", .token = (uint64_t)token, .rank = world->rank, .size = world->size};
    CHECK_OK(ls_flight_open(&options));
    record = ls_flight_own();
    CHECK_OK(ls_comm_recorded(world, "plain", false, &comm));
    CHECK_OK(ls_comm_recorded(world, "checked", true, &checked));
    test_slots(comm);
    ls_comm *const both[] = {comm, checked};
    const char *const names[] = {"plain", "checked"};
    for (int i = 0; i < 2; i++) {
        test_blocking(both[i]);
        test_started(both[i]);
        test_refused(both[i]);
        test_groups(both[i], names[i]);
        test_meter(both[i]);
    }
    if (getenv("BENCH")) {
        measure(comm);
        measure_comm(world, "beneath");
        measure_comm(comm, "recorded");
        measure_comm(checked, "checked");
    }
    comm->ops->destroy(comm);
    checked->ops->destroy(checked);
    ls_flight_close();
    ls_comm_mpi_finalize();
    return test_end();
}
