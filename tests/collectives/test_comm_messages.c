/* Messages between all pairs of ranks, of every length, over channels and beyond their reach. */
#include "collectives/comm_shm_impl.h"
#include "tests/test.h"

enum { MOST_RANKS = 8 };

static unsigned char byte_of(int number, int from, int to, int64_t i) {
    return (unsigned char)(37 * number + 11 * from + 5 * to + i % 251);
}

static void fill(unsigned char *at, int number, int from, int to, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        at[i] = byte_of(number, from, to, i);
    }
}

static int64_t wrong(const unsigned char *at, int number, int from, int to, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        count += at[i] != byte_of(number, from, to, i);
    }
    return count;
}

static void finish(ls_comm *comm, ls_comm_request *request, bool by_test) {
    bool done = !by_test;
    CHECK_OK(by_test ? LS_OK : comm->ops->wait(comm, request));
    while (!done) {
        CHECK_OK(comm->ops->test(comm, request, &done));
    }
}

/* Between all pairs; short and long messages of a pair keep their order, and who receives begins
 * before the sender or after it. */
static void check_pairs(ls_comm *comm) {
    enum { EACH = 5, MOST = 3 * LETTER_BYTES };
    static const int64_t bytes[EACH] = {8, MOST, 0, LETTER_BYTES, LETTER_BYTES + 1};
    static unsigned char sent[MOST_RANKS][EACH][MOST], got[MOST_RANKS][EACH][MOST];
    ls_comm_request *requests[2 * MOST_RANKS * EACH];
    const int me = comm->rank;
    int count = 0;
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < comm->size * EACH; i++) {
            const int peer = i % comm->size, k = i / comm->size;
            if (peer == me) {
                continue;
            }
            if ((turn == 0) == (me < peer)) {
                fill(sent[peer][k], k, me, peer, bytes[k]);
                CHECK_OK(
                    comm->ops->send_start(comm, sent[peer][k], bytes[k], peer, &requests[count++]));
            } else {
                CHECK_OK(
                    comm->ops->recv_start(comm, got[peer][k], bytes[k], peer, &requests[count++]));
            }
        }
    }
    while (count > 0) {
        count--;
        finish(comm, requests[count], count % 2);
    }
    for (int i = 0; i < comm->size * EACH; i++) {
        const int peer = i % comm->size, k = i / comm->size;
        CHECK(peer == me || wrong(got[peer][k], k, peer, me, bytes[k]) == 0);
    }
}

/* Ranks beyond reach talk by MPI; what a rank takes does not grow with the square of the ranks. */
static void check_reach(ls_comm *world) {
    for (ls_comm_shm_reach = 0; ls_comm_shm_reach < MOST_RANKS; ls_comm_shm_reach++) {
        ls_comm *shm;
        CHECK_OK(ls_comm_shm(world, &shm));
        for (int round = 0; round < 3; round++) {
            check_pairs(shm);
        }
        shm->ops->destroy(shm);
    }
    CHECK(shm_part_bytes(400) - shm_part_bytes(200) <= 200 * 2 * (int64_t)sizeof(int64_t));
}

int main(int argc, char **argv) {
    ls_comm *world;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    check_pairs(world);
    check_reach(world);
    const int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
