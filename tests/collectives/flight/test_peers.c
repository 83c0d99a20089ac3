/* Ranks that look at each other and end each other: whoever is dismissed has its peers by then,
 * however early that comes; a rank that has been closed is seen as gone, not as dead; and what
 * memory cannot tell is asked for by TCP, of a rank that does not answer at its neighbour. */
#include "collectives/peer_socket.h"
#include "collectives/peers.h"
#include "runtime/base/file.h"
#include "tests/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define STALE_S  60.0 /* hearts of a loaded machine beat late */
#define ANSWER_S 60.0

static const ls_comm_ops *real;
static ls_peers *peers;
static bool there; /* at the last agreement, when the threads have been started */
static sem_t dismissals;

static ls_status all_reduce(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype, ls_reduce op) {
    there = peers != NULL;
    return real->all_reduce(comm, buf, count, dtype, op);
}

static void dismissed(void) {
    CHECK(peers != NULL);
    sem_post(&dismissals);
}

static void check_views(int size, ls_rank_state others) {
    ls_rank_view *views;
    CHECK_OK(ls_peers_look(peers, STALE_S, ANSWER_S, &views));
    for (int r = 0; r < size; r++) {
        CHECK(views[r].record != NULL);
        CHECK_INT(views[r].state, r == 0 ? LS_RANK_ALIVE : others);
        CHECK(!views[r].record || views[r].record->rank == r);
    }
    ls_peers_free_views(views, size);
}

/* Which ranks' records rank 0 writes for them, as bits. */
static int late_ranks(int size) {
    char dir[64] = "/tmp/lockstep-test-XXXXXX", path[128];
    int found = 0;
    CHECK(mkdtemp(dir));
    CHECK_OK(ls_peers_write_late(peers, dir));
    for (int r = 0; r < size; r++) {
        snprintf(path, sizeof path, "%s/flight-%d.json", dir, r);
        found |= ls_path_exists(path) << r;
    }
    CHECK_OK(ls_dir_remove(dir));
    return found;
}

static void test_dismissal(ls_comm *world) {
    real = world->ops;
    ls_comm_ops watched = *real;
    watched.all_reduce = all_reduce;
    world->ops = &watched;
    CHECK_OK(ls_peers_open(
        &(ls_peers_options){.comm = world, .beat_s = 0.05, .dismissed = dismissed}, &peers));
    world->ops = real;
    CHECK(there);
    if (world->rank == 0) {
        check_views(world->size, LS_RANK_ALIVE);
        CHECK_INT(ls_peers_dead_here(peers), -1);
        ls_peers_dismiss(peers);
        CHECK_INT(late_ranks(world->size), (1 << world->size) - 2);
    } else {
        sem_wait(&dismissals);
    }
    CHECK_OK(world->ops->barrier(world));
    if (world->rank != 0) {
        ls_peers_close(peers);
    }
    CHECK_OK(world->ops->barrier(world));
    if (world->rank == 0) {
        CHECK_INT(late_ranks(world->size), 0);
        CHECK_INT(ls_peers_dead_here(peers), -1);
        check_views(world->size, LS_RANK_LEFT);
        ls_peers_close(peers);
    }
}

/* Ports that this process listens on. */
static uint64_t listening(in_port_t ports[64]) {
    uint64_t found = 0;
    for (int fd = 3; fd < 64; fd++) {
        int listens = 0;
        socklen_t bytes = sizeof listens;
        ls_peer_address at;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &bytes) == 0 && listens) {
            bytes = sizeof at;
            CHECK_INT(getsockname(fd, &at.any, &bytes), 0);
            ports[fd] = at.any.sa_family == AF_INET ? at.v4.sin_port : at.v6.sin6_port;
            found |= UINT64_C(1) << fd;
        }
    }
    return found;
}

/* Who does not know the job's secret learns nothing, and ends nobody. */
static void test_stranger(in_port_t port) {
    const ls_peer_contact contact = {.port = port};
    for (int what = LS_PEER_RECORD; what <= LS_PEER_DISMISS; what++) {
        ls_peer_call call = {
            .contact = &contact, .here = true, .request = {.what = what, .rank = 0}};
        ls_peer_call_all(&call, 1, ANSWER_S, true);
        CHECK_INT(call.result, LS_PEER_UNASKED);
        CHECK(!call.reply);
    }
    CHECK(sem_trywait(&dismissals) != 0);
}

static int records_in(const char *folder) {
    DIR *listing = opendir(folder);
    int count = 0;
    for (struct dirent *e; listing && (e = readdir(listing));) {
        count += strncmp(e->d_name, "lockstep-", 9) == 0;
    }
    if (listing) {
        closedir(listing);
    }
    return count;
}

/* Looks until rank 2 is seen as stopped; its process. */
static pid_t until_stopped(void) {
    pid_t pid = 0;
    while (pid == 0) {
        ls_rank_view *views;
        CHECK_OK(ls_peers_look(peers, 0.5, 0.5, &views));
        CHECK_INT(views[0].state != LS_RANK_DEAD && views[1].state != LS_RANK_DEAD, true);
        if (views[2].state == LS_RANK_STOPPED && views[2].record) {
            pid = (pid_t)views[2].record->pid;
        }
        ls_peers_free_views(views, 3);
    }
    return pid;
}

/* How rank 0 sees rank 2, and whether with its record. */
static void check_far(ls_rank_state state, bool known) {
    ls_rank_view *views;
    CHECK_OK(ls_peers_look(peers, STALE_S, ANSWER_S, &views));
    CHECK_INT(views[2].state, state);
    CHECK_INT(views[2].record != NULL, known);
    ls_peers_free_views(views, 3);
}

/* Rank 2 is closed, then its neighbour, who could tell that it has left. */
static void test_far_end(ls_comm *world) {
    for (int r = 2; r >= 0; r--) {
        if (world->rank == 0 && r < 2) {
            check_far(r == 1 ? LS_RANK_LEFT : LS_RANK_DEAD, r == 1);
        }
        CHECK_OK(world->ops->barrier(world));
        if (world->rank == r) {
            ls_peers_close(peers);
        }
        CHECK_OK(world->ops->barrier(world));
    }
}

/* Rank 0 sees no memory of the others, as if they were on another host. Rank 2 is stopped: rank 1
 * sees that, and tells rank 0; it is the lowest of that host that can write the other's record. */
static void test_apart(ls_comm *world) {
    char top[64] = "/tmp/lockstep-test-XXXXXX", shm[80], run[80], path[128];
    CHECK(world->rank != 0 || mkdtemp(top));
    CHECK_OK(world->ops->broadcast(world, top, sizeof top, 0));
    snprintf(shm, sizeof shm, "%s/%d", top, world->rank > 0);
    snprintf(run, sizeof run, "%s/run", top);
    CHECK(world->rank > 1 || mkdir(shm, 0700) == 0);
    CHECK_OK(world->ops->barrier(world));
    in_port_t ports[64];
    const uint64_t before = listening(ports);
    CHECK_OK(ls_peers_open(
        &(ls_peers_options){
            .comm = world, .flight_dir = shm, .beat_s = 0.05, .dismissed = dismissed},
        &peers));
    const uint64_t ours = listening(ports) & ~before;
    CHECK(ours != 0);
    test_stranger(ports[ours ? __builtin_ctzll(ours) : 0]);
    CHECK_INT(ls_flight_own()->asked_ns, 0);
    CHECK_OK(world->ops->barrier(world));
    if (world->rank == 0) {
        check_views(world->size, LS_RANK_ALIVE);
    }
    CHECK_OK(world->ops->barrier(world));
    CHECK(world->rank == 0 || ls_flight_own()->asked_ns > 0);
    if (world->rank == 2) {
        raise(SIGSTOP);
    } else {
        const pid_t pid = until_stopped();
        CHECK_OK(ls_peers_write(peers, 0.5, run));
        snprintf(path, sizeof path, "%s/flight-2.json", run);
        if (world->rank == 1) {
            CHECK_INT(records_in(shm), 1);
            CHECK(ls_path_exists(path));
        } else {
            CHECK_INT(records_in(shm), 1);
            while (!ls_path_exists(path)) { /* which this rank has not written */
                sched_yield();
            }
            kill(pid, SIGCONT);
        }
    }
    CHECK_OK(world->ops->barrier(world));
    test_far_end(world);
    if (world->rank == 0) {
        CHECK_OK(ls_dir_remove(top));
    }
}

/* Where one rank's record has no place, no rank has peers; and nothing is closed that was open. */
static void test_failed_open(ls_comm *world) {
    const bool last = world->rank == world->size - 1;
    in_port_t ports[64];
    const uint64_t before = listening(ports);
    const bool reads = fcntl(STDIN_FILENO, F_GETFD) >= 0;
    peers = (ls_peers *)world; /* anything but NULL */
    CHECK_STATUS(ls_peers_open(&(ls_peers_options){.comm = world,
                                                   .flight_dir = last ? "/nonexistent" : NULL,
                                                   .beat_s = 0.05,
                                                   .dismissed = dismissed},
                               &peers),
                 LS_E_IO);
    CHECK_MESSAGE("/nonexistent");
    CHECK(!peers);
    CHECK_INT(listening(ports), before);
    CHECK_INT(fcntl(STDIN_FILENO, F_GETFD) >= 0, reads);
}

int main(int argc, char **argv) {
    ls_comm *world;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    sem_init(&dismissals, 0, 0);
    test_failed_open(world);
    test_dismissal(world);
    if (world->size == 3) {
        test_apart(world);
    }
    int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
