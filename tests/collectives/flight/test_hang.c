/* A job that goes wrong: test_hang WAY RUN_DIR SHM_DIR, under mpirun. One rank, the highest, does
 * what WAY says after a few collectives; the watchdogs of the others must name it. */
#include "collectives/comm_choose.h"
#include "collectives/comm_hier.h"
#include "collectives/watch.h"
#include "runtime/base/clock.h"
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MIN_DEADLINE_S = 2, PATIENCE_S = 60, FACTOR = 3 };

static void report(const char *text) {
    fprintf(stderr, "REPORT %s\n", text);
}

static void end(void) {
    _exit(3);
}

static void on_signal(int signal_number) {
    (void)signal_number;
    ls_watch_look_soon();
}

static char own_rank[16];

/* The file system of the records hangs for rank $TEST_STUCK, or for all. */
int rename(const char *from, const char *to) {
    const char *stuck = getenv("TEST_STUCK");
    while (stuck && strstr(to, "flight-") &&
           (strcmp(stuck, "all") == 0 || strcmp(stuck, own_rank) == 0)) {
        pause();
    }
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, ls_error_last()->message);
    return 3;
}

/* What the culprit does instead of entering all-reduce #6. */
static ls_status misbehave(const char *way, ls_comm *comm, int64_t *value) {
    if (strcmp(way, "stop") == 0) {
        raise(SIGSTOP);
    } else if (strcmp(way, "die") == 0 || strcmp(way, "break") == 0 || strcmp(way, "far") == 0) {
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

/* $TEST_OPERATION, longer than what a rank sends before it is asked to. The culprit gets a signal
 * in the middle; where others can do without it, the barrier is where they wait. */
static ls_status operate_long(ls_comm *comm, int signal_number) {
    enum { ELEMS = 1 << 20, RANKS = 4 };
    static int64_t from[ELEMS], to[ELEMS];
    const char *name = getenv("TEST_OPERATION") ? getenv("TEST_OPERATION") : "all-reduce";
    const int64_t each = ELEMS / RANKS, bytes = each * (int64_t)sizeof *from;
    int64_t counts[RANKS], offsets[RANKS], elems[RANKS];
    for (int r = 0; r < comm->size; r++) {
        counts[r] = bytes;
        offsets[r] = r * bytes;
        elems[r] = each;
    }
    ls_comm_request *r = NULL;
    if (strcmp(name, "all-reduce") == 0) {
        LS_TRY(comm->ops->all_reduce_start(comm, from, to, ELEMS, LS_I64, LS_SUM, &r));
    } else if (strcmp(name, "reduce") == 0) {
        LS_TRY(comm->ops->reduce_start(comm, from, to, ELEMS, LS_I64, LS_SUM, 0, &r));
    } else if (strcmp(name, "reduce-scatter") == 0) {
        LS_TRY(comm->ops->reduce_scatter_start(comm, from, to, elems, LS_I64, LS_SUM, &r));
    } else if (strcmp(name, "all-gather") == 0) {
        LS_TRY(comm->ops->all_gather_start(comm, from, to, counts, offsets, &r));
    } else if (strcmp(name, "all-to-all") == 0) {
        LS_TRY(comm->ops->all_to_all_start(comm, from, counts, offsets, to, counts, offsets, &r));
    } else if (strcmp(name, "receive") == 0) { /* by the first rank, from the culprit */
        if (comm->rank == 0) {
            LS_TRY(comm->ops->recv_start(comm, to, sizeof to, comm->size - 1, &r));
        }
    } else if (strcmp(name, "send") == 0) { /* by the first rank, to the culprit */
        if (comm->rank == 0) {
            LS_TRY(comm->ops->send_start(comm, from, sizeof from, comm->size - 1, &r));
        }
    } else if (strcmp(name, "barrier") == 0) { /* below */
    } else {                                   /* from the culprit */
        LS_TRY(comm->ops->broadcast_start(comm, from, (int64_t)sizeof from, comm->size - 1, &r));
    }
    if (signal_number) {
        raise(signal_number);
    }
    if (r) {
        LS_TRY(comm->ops->wait(comm, r));
    }
    return comm->ops->barrier(comm);
}

/* To a rank that is gone, and more than a connection takes: some of it is left when that breaks. */
static ls_status send_on(ls_comm *comm, int to) {
    enum { MESSAGES = 512 };
    static char message[60000];
    ls_comm_request *requests[MESSAGES];
    for (int i = 0; i < MESSAGES; i++) {
        LS_TRY(comm->ops->send_start(comm, message, sizeof message, to, &requests[i]));
    }
    for (int i = 0; i < MESSAGES; i++) {
        LS_TRY(comm->ops->wait(comm, requests[i]));
    }
    return LS_OK;
}

/* All wait for the highest rank, which takes its time and says so: one of them looks for all. */
static ls_status take_time(ls_comm *comm) {
    const ls_flight_record *own = ls_flight_own();
    const double stale_s = 0.5 * MIN_DEADLINE_S;
    const uint64_t begin_ns = ls_clock_ns();
    uint64_t asked_ns = 0;
    double passed_s = 0;
    int looks = 0;
    ls_flight_mark(LS_FLIGHT_CHECKPOINT, -1);
    while (comm->rank == comm->size - 1 && looks < 6) {
        looks += own->asked_ns != asked_ns;
        asked_ns = own->asked_ns;
        passed_s = 1e-9 * (double)(ls_clock_ns() - begin_ns);
        ls_flight_mark(LS_FLIGHT_CHECKPOINT, -1);
        sched_yield();
    }
    if (looks > 0 && passed_s < 0.8 * looks * stale_s) {
        return LS_FAIL(LS_E_COMM, "asked %d times in %.1f s", looks, passed_s);
    }
    return comm->ops->barrier(comm);
}

/* The whole job is stopped for longer than any deadline, as by Slurm; the first rank goes on some
 * ticks before the others, and must not take them for lost. */
static ls_status suspend(ls_comm *comm) {
    const int64_t own = getpid();
    int64_t pids[16];
    LS_TRY(comm->ops->all_gather(comm, &own, pids, sizeof own));
    if (comm->rank != comm->size - 1) {
        return LS_OK;
    }
    const pid_t other = fork();
    if (other == 0) {
        for (int r = 0; r < comm->size; r++) {
            kill((pid_t)pids[r], SIGSTOP);
        }
        nanosleep(&(struct timespec){.tv_sec = MIN_DEADLINE_S + 1}, NULL);
        for (int r = 0; r < comm->size; r++) {
            kill((pid_t)pids[r], SIGCONT);
            nanosleep(&(struct timespec){.tv_nsec = r == 0 ? 300000000 : 0}, NULL);
        }
        _exit(0);
    }
    while (waitpid(other, NULL, 0) < 0 && errno == EINTR) {
    }
    /* It computes on for longer than the others wait to look: what it has not done while it was
     * stopped is not held against it. */
    struct timespec left = {.tv_sec = 1, .tv_nsec = 300000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    return other < 0 ? LS_FAIL(LS_E_MEMORY, "cannot fork") : LS_OK;
}

/* At least this for a step; and it is not that of what is no step. */
static ls_status check_deadline(double least_s) {
    const ls_flight_record *own = ls_flight_own();
    const double patience_s = PATIENCE_S;
    uint64_t deadline_ns = 0;
    while (deadline_ns == 0 || 1e-9 * (double)deadline_ns >= patience_s) {
        sched_yield();
        deadline_ns = own->deadline_ns;
    }
    ls_flight_mark(LS_FLIGHT_CHECKPOINT, -1);
    while (1e-9 * (double)own->deadline_ns < patience_s) { /* test_hang.sh does not wait for ever */
        sched_yield();
    }
    return 1e-9 * (double)deadline_ns >= least_s
               ? LS_OK
               : LS_FAIL(LS_E_COMM, "a deadline of %.3f s", 1e-9 * (double)deadline_ns);
}

static ls_status run(const char *way, ls_comm *comm) {
    const double long_s = MIN_DEADLINE_S * 0.4;
    const bool uneven = strcmp(way, "uneven") == 0;
    int64_t value[2] = {1, 1};
    for (int i = 1; i < 6; i++) {
        ls_watch_begin_step();
        if (uneven && i == 3) {
            nanosleep(&(struct timespec){.tv_nsec = (long)(1e9 * long_s)}, NULL);
        }
        LS_TRY(comm->ops->all_reduce(comm, value, 1, LS_I64, LS_SUM));
        ls_watch_end_step(i);
    }
    ls_flight_mark(LS_FLIGHT_BACKWARD, 7);
    if (strcmp(way, "fine") == 0 || uneven) { /* short steps make no short one, nor the last */
        LS_TRY(check_deadline(uneven ? FACTOR * long_s : MIN_DEADLINE_S));
    }
    if (strcmp(way, "slow") == 0) {
        return take_time(comm);
    }
    if (strcmp(way, "suspend") == 0) {
        LS_TRY(suspend(comm));
    }
    const bool culprit = comm->rank == comm->size - 1;
    if (strcmp(way, "in") == 0) { /* stopped after it has entered */
        return operate_long(comm, culprit ? SIGSTOP : 0);
    }
    if (strcmp(way, "die-in") == 0) {
        return operate_long(comm, culprit ? SIGKILL : 0);
    }
    if (culprit) {
        LS_TRY(misbehave(way, comm, value));
    }
    while (strcmp(way, "far") == 0) { /* computes, until it hears of it */
        sched_yield();
    }
    if (strcmp(way, "break") == 0) {
        LS_TRY(send_on(comm, comm->size - 1));
    }
    ls_flight_set_bucket(4);
    LS_TRY(comm->ops->all_reduce(comm, value, 1, LS_I64, LS_SUM));
    int64_t all[16];
    LS_TRY(comm->ops->all_gather(comm, value, all, sizeof *value));
    return comm->ops->barrier(comm);
}

/* What the record is put around: $TEST_BACKEND; hier as if two ranks made a host. */
static ls_status make_backend(ls_comm *world, ls_comm **comm) {
    const char *name = getenv("TEST_BACKEND") ? getenv("TEST_BACKEND") : "mpi";
    ls_comm *part, *flat, *inside, *across;
    if (strcmp(name, "hier") != 0) {
        return ls_comm_choose(world, strcmp(name, "shm") == 0 ? LS_TRANSPORT_SHM : LS_TRANSPORT_MPI,
                              comm);
    }
    LS_TRY(world->ops->duplicate(world, &flat));
    LS_TRY(world->ops->split(world, world->rank / 2, &part));
    LS_TRY(ls_comm_choose(part, LS_TRANSPORT_SHM, &inside));
    part->ops->destroy(part);
    LS_TRY(world->ops->split(world, world->rank % 2, &across));
    return ls_comm_hier(flat, inside, across, comm);
}

int main(int argc, char **argv) {
    if (argc < 4) {
        return 2;
    }
    ls_comm *world, *comm, *backend;
    if (ls_comm_mpi_init(&argc, &argv, &world) != LS_OK) {
        return failed("init");
    }
    ls_error_set_rank(world->rank);
    snprintf(own_rank, sizeof own_rank, "%d", world->rank);
    ls_comm_mpi_on_loss(ls_watch_wait_for_cause);
    if (getenv("TEST_DEAF")) {
        signal(SIGTERM, SIG_IGN);
    } else {
        signal(SIGCONT, on_signal); /* a launcher's, for want of a rank */
        signal(SIGTERM, on_signal);
    }
    /* A directory that others cannot see stands for another host: questions go over TCP. */
    char flight_dir[512];
    snprintf(flight_dir, sizeof flight_dir, "%s", argv[3]);
    if (getenv("TEST_APART")) {
        snprintf(flight_dir, sizeof flight_dir, "%s/%d", argv[3], world->rank);
    }
    const ls_watch_options options = {.comm = world,
                                      .run_dir = argv[2],
                                      .flight_dir = flight_dir,
                                      .min_deadline_s = MIN_DEADLINE_S,
                                      .deadline_factor = FACTOR,
                                      .patience_s = PATIENCE_S,
                                      .report = report,
                                      .end = end};
    const bool checks = argc > 4;
    if (ls_watch_start(&options) != LS_OK || make_backend(world, &backend) != LS_OK ||
        ls_comm_recorded(backend, "world", checks, &comm) != LS_OK) {
        return failed("watch");
    }
    ls_status status = run(argv[1], comm);
    if (status != LS_OK) {
        fprintf(stderr, "FAILED %s\n", ls_error_last()->message);
        ls_watch_stop();
        ls_comm_mpi_abort(ls_status_exit(status));
    }
    comm->ops->destroy(comm);
    backend->ops->destroy(backend);
    ls_watch_stop();
    ls_comm_mpi_finalize();
    return 0;
}
