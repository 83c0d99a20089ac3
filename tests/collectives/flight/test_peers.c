/* Ranks that end each other: whoever is dismissed has its peers by then, however early that comes,
 * and a rank that has been closed is seen as gone, not as dead. */
#include "collectives/peers.h"
#include "tests/test.h"

#include <semaphore.h>

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
    }
    ls_peers_free_views(views, size);
}

int main(int argc, char **argv) {
    ls_comm *world;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    sem_init(&dismissals, 0, 0);
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
    } else {
        sem_wait(&dismissals);
        ls_peers_close(peers);
    }
    CHECK_OK(world->ops->barrier(world));
    if (world->rank == 0) {
        CHECK_INT(ls_peers_dead_here(peers), -1);
        check_views(world->size, LS_RANK_LEFT);
        ls_peers_close(peers);
    }
    int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
