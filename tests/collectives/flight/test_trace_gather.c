/* The traces of all ranks in one file: whole, whatever their lengths; and that rank 0 asks for
 * several at a time, never for much, and ranks send when they are asked. */
#include "collectives/trace.h"
#include "tests/test.h"

#include <jansson.h>
#include <unistd.h>

enum { MOST_RANKS = 8, MOST_EVENTS = 40000, PIECE_BYTES = 1 << 20 };

static const ls_comm_ops *real;
static int under_way, most_under_way;
static int64_t largest;
static bool asked, sent_unasked;

static ls_status recv_start(ls_comm *comm, void *buf, int64_t bytes, int from,
                            ls_comm_request **request) {
    under_way = asked ? under_way + 1 : 1; /* waits of collectives came before */
    most_under_way = under_way > most_under_way ? under_way : most_under_way;
    largest = bytes > largest ? bytes : largest;
    asked = true;
    return real->recv_start(comm, buf, bytes, from, request);
}

static ls_status send_start(ls_comm *comm, const void *buf, int64_t bytes, int to,
                            ls_comm_request **request) {
    under_way++;
    sent_unasked = sent_unasked || (comm->rank > 0 && !asked);
    return real->send_start(comm, buf, bytes, to, request);
}

static ls_status wait_for(ls_comm *comm, ls_comm_request *request) {
    under_way--;
    return real->wait(comm, request);
}

static int events_of(int rank) {
    return rank == 1 ? MOST_EVENTS : 3 + rank;
}

static void check_file(const char *path, int ranks) {
    json_error_t error;
    json_t *file = json_load_file(path, 0, &error), *event;
    CHECK(file != NULL);
    int counts[MOST_RANKS] = {0}, last = -1;
    size_t i;
    json_array_foreach(json_object_get(file, "traceEvents"), i, event) {
        const int rank = (int)json_integer_value(json_object_get(event, "pid"));
        CHECK(rank >= last && rank < ranks); /* rank by rank */
        last = rank;
        counts[rank]++;
    }
    for (int r = 0; r < ranks; r++) {
        CHECK_INT(counts[r], events_of(r) + 1); /* and its name */
    }
    json_decref(file);
}

static void trace(ls_comm *comm, const char *path, ls_status expected) {
    CHECK_OK(ls_trace_begin());
    for (int i = 0; i < events_of(comm->rank); i++) {
        ls_trace_place(LS_FLIGHT_BACKWARD, i);
    }
    CHECK_STATUS(ls_trace_end(comm, path), expected);
}

int main(int argc, char **argv) {
    ls_comm *world;
    char path[300];
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    snprintf(path, sizeof path, "trace-%d.json", world->size);
    real = world->ops;
    ls_comm_ops spy = *real;
    spy.recv_start = recv_start;
    spy.send_start = send_start;
    spy.wait = wait_for;
    world->ops = &spy;
    trace(world, path, LS_OK);
    if (world->rank == 0) {
        check_file(path, world->size);
        CHECK(world->size == 1 || most_under_way > 2);
        CHECK(largest <= PIECE_BYTES);
        unlink(path);
    }
    CHECK(!sent_unasked);
    trace(world, "/nowhere/trace.json", LS_E_IO);
    world->ops = real;
    const int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
