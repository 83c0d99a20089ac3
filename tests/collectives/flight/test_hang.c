/* A job that goes wrong: test_hang WAY RUN_DIR SHM_DIR, under mpirun. One rank, the highest, does
 * what WAY says after a few collectives; the watchdogs of the others must name it. */
#include "collectives/watch.h"
#include "tests/test.h"

#include <signal.h>
#include <unistd.h>

static void report(const char *text) {
    fprintf(stderr, "REPORT %s\n", text);
}

static void end(void) {
    _exit(3);
}

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, ls_error_last()->message);
    return 3;
}

/* What the culprit does instead of entering all-reduce #6. */
static ls_status misbehave(const char *way, ls_comm *comm, int64_t *value) {
    if (strcmp(way, "stop") == 0) {
        raise(SIGSTOP);
    } else if (strcmp(way, "die") == 0) {
        raise(SIGKILL);
    } else if (strcmp(way, "loop") == 0) {
        for (volatile int i = 0;; i = i + 1) {
        }
    } else if (strcmp(way, "leave") == 0) {
        ls_watch_stop();
        for (;;) {
            pause();
        }
    } else if (strcmp(way, "kind") == 0) {
        return comm->ops->barrier(comm);
    } else if (strcmp(way, "count") == 0) {
        return comm->ops->all_reduce(comm, value, 2, LS_I64, LS_SUM);
    } else if (strcmp(way, "dtype") == 0) {
        return comm->ops->all_reduce(comm, value, 1, LS_F64, LS_SUM);
    } else if (strcmp(way, "skip") == 0) { /* one too few, seen where the kinds differ */
        int64_t all[16];
        return comm->ops->all_gather(comm, value, all, sizeof *value);
    }
    return LS_OK;
}

/* Longer than what a rank sends before it is asked to: no rank can finish without the others. */
static ls_status reduce_long(ls_comm *comm, bool stop) {
    enum { ELEMS = 1 << 20 };
    static int64_t from[ELEMS], to[ELEMS];
    ls_comm_request *request;
    LS_TRY(comm->ops->all_reduce_start(comm, from, to, ELEMS, LS_I64, LS_SUM, &request));
    if (stop) {
        raise(SIGSTOP);
    }
    return comm->ops->wait(comm, request);
}

static ls_status run(const char *way, ls_comm *comm) {
    int64_t value[2] = {1, 1};
    for (int i = 1; i < 6; i++) {
        ls_watch_begin_step();
        LS_TRY(comm->ops->all_reduce(comm, value, 1, LS_I64, LS_SUM));
        ls_watch_end_step(i);
    }
    ls_flight_mark(LS_FLIGHT_BACKWARD, 7);
    const bool culprit = comm->rank == comm->size - 1;
    if (strcmp(way, "in") == 0) { /* stopped after it has entered */
        return reduce_long(comm, culprit);
    }
    if (culprit) {
        LS_TRY(misbehave(way, comm, value));
    }
    ls_flight_set_bucket(4);
    LS_TRY(comm->ops->all_reduce(comm, value, 1, LS_I64, LS_SUM));
    int64_t all[16];
    LS_TRY(comm->ops->all_gather(comm, value, all, sizeof *value));
    return comm->ops->barrier(comm);
}

int main(int argc, char **argv) {
    if (argc < 4) {
        return 2;
    }
    ls_comm *world, *comm;
    if (ls_comm_mpi_init(&argc, &argv, &world) != LS_OK) {
        return failed("init");
    }
    ls_error_set_rank(world->rank);
    /* A directory that others cannot see stands for another host: questions go over TCP. */
    char flight_dir[512];
    snprintf(flight_dir, sizeof flight_dir, "%s", argv[3]);
    if (getenv("TEST_APART")) {
        snprintf(flight_dir, sizeof flight_dir, "%s/%d", argv[3], world->rank);
    }
    const ls_watch_options options = {.comm = world,
                                      .run_dir = argv[2],
                                      .flight_dir = flight_dir,
                                      .min_deadline_s = 1,
                                      .deadline_factor = 3,
                                      .patience_s = 60,
                                      .report = report,
                                      .end = end};
    const bool checks = argc > 4;
    if (ls_watch_start(&options) != LS_OK ||
        ls_comm_recorded(world, "world", checks, &comm) != LS_OK) {
        return failed("watch");
    }
    ls_status status = run(argv[1], comm);
    if (status != LS_OK) {
        fprintf(stderr, "FAILED %s\n", ls_error_last()->message);
        ls_watch_stop();
        ls_comm_mpi_abort(ls_status_exit(status));
    }
    comm->ops->destroy(comm);
    ls_watch_stop();
    ls_comm_mpi_finalize();
    return 0;
}
