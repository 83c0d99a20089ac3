/* Memory that the ranks of a host have in common, and gathers into it: bitwise, in place and out of
 * place, of any size; and that no rank's block is overwritten while others still read it. */
#include "collectives/comm.h"
#include "collectives/comm_shm.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_RANKS = 8, GUARD = 64 };
static const int64_t sizes[] = {0, 1, 37, 4099, 70001, 1500001};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* Byte i of a rank's block in a round. */
static unsigned char byte_of(int round, int rank, int64_t i) {
    return (unsigned char)(31 * round + 7 * rank + i % 251);
}

static void fill(unsigned char *at, int round, int rank, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        at[i] = byte_of(round, rank, i);
    }
}

static int64_t wrong(const unsigned char *at, int round, int rank, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        count += at[i] != byte_of(round, rank, i);
    }
    return count;
}

/* Blocks of one result, of which some may be empty. */
typedef struct blocks {
    int64_t counts[MOST_RANKS], offsets[MOST_RANKS], total;
} blocks;

static blocks cut(const ls_comm *comm, int64_t n, bool uneven) {
    blocks b = {.total = 0};
    for (int rank = comm->size - 1; rank >= 0; rank--) {
        b.counts[rank] = uneven && rank % 3 == 1 ? 0 : n + (uneven ? rank : 0);
        b.offsets[rank] = b.total;
        b.total += b.counts[rank];
    }
    return b;
}

static void gather(ls_comm *comm, const blocks *b, const unsigned char *send, unsigned char *recv) {
    ls_comm_request *request;
    CHECK_OK(comm->ops->all_gather_start(comm, send, recv, b->counts, b->offsets, &request));
    CHECK_OK(comm->ops->wait(comm, request));
}

static void check_gathers(ls_comm *comm, int64_t n, bool uneven) {
    const blocks b = cut(comm, n, uneven);
    const int me = comm->rank;
    void *memory;
    CHECK_OK(comm->ops->alloc_common(comm, b.total + GUARD, &memory));
    CHECK((uintptr_t)memory % 64 == 0);
    unsigned char *recv = memory, *own = malloc((size_t)n + GUARD);
    int64_t not_zero = 0;
    for (int64_t i = 0; i < b.total + GUARD; i++) {
        not_zero += recv[i] != 0;
    }
    CHECK_INT(not_zero, 0);
    for (int round = 0; round < 4; round++) { /* the same memory again, as soon as it is read */
        const bool in_place = round % 2;
        CHECK_OK(in_place ? comm->ops->barrier(comm) : LS_OK);
        unsigned char *send = in_place ? recv + b.offsets[me] : own;
        fill(send, round, me, b.counts[me]);
        gather(comm, &b, send, recv);
        for (int rank = 0; rank < comm->size; rank++) {
            CHECK_INT(wrong(recv + b.offsets[rank], round, rank, b.counts[rank]), 0);
        }
        CHECK_INT(recv[b.total], 0);
    }
    if (!uneven) { /* the blocking form, through a duplicate, which knows the memory too */
        ls_comm *copy;
        CHECK_OK(comm->ops->duplicate(comm, &copy));
        fill(own, 9, me, n);
        CHECK_OK(copy->ops->all_gather(copy, own, recv, n));
        for (int rank = 0; rank < comm->size; rank++) {
            CHECK_INT(wrong(recv + rank * n, 9, rank, n), 0);
        }
        copy->ops->destroy(copy);
    }
    free(own);
    comm->ops->give_back(comm, memory);
}

/* Rank 0 begins the next gather while the others still read what the last one left. */
static void check_reuse(ls_comm *comm, ls_comm *mpi, int64_t n) {
    const blocks b = cut(comm, n, false);
    void *memory;
    CHECK_OK(comm->ops->alloc_common(comm, b.total, &memory));
    unsigned char *recv = memory, *own = malloc((size_t)n + GUARD);
    fill(own, 0, comm->rank, n);
    gather(comm, &b, own, recv);
    fill(own, 1, comm->rank, n);
    ls_comm_request *request;
    bool done = false;
    if (comm->rank == 0) {
        CHECK_OK(comm->ops->all_gather_start(comm, own, recv, b.counts, b.offsets, &request));
        CHECK_OK(comm->ops->test(comm, request, &done));
        CHECK(!done);
    }
    CHECK_OK(mpi->ops->barrier(mpi));
    for (int rank = 0; rank < comm->size; rank++) {
        CHECK_INT(wrong(recv + b.offsets[rank], 0, rank, n), 0);
    }
    CHECK_OK(mpi->ops->barrier(mpi));
    if (comm->rank != 0) {
        CHECK_OK(comm->ops->all_gather_start(comm, own, recv, b.counts, b.offsets, &request));
    }
    CHECK_OK(comm->ops->wait(comm, request));
    for (int rank = 0; rank < comm->size; rank++) {
        CHECK_INT(wrong(recv + b.offsets[rank], 1, rank, n), 0);
    }
    free(own);
    comm->ops->give_back(comm, memory);
}

/* The result is there once: ranks that name several are told, all of them. */
static void check_refused(ls_comm *world, bool private) {
    enum { BYTES = 100000 };
    ls_comm *comm;
    CHECK_OK(ls_comm_shm(world, &comm));
    void *memory, *own = calloc(1, BYTES);
    CHECK_OK(comm->ops->alloc_common(comm, BYTES, &memory));
    int64_t counts[MOST_RANKS] = {0}, offsets[MOST_RANKS] = {0};
    const bool odd = comm->rank == comm->size - 1;
    char *recv = odd && private ? own : (char *)memory + (odd ? 64 : 0);
    ls_comm_request *request;
    CHECK_OK(comm->ops->all_gather_start(comm, own, recv, counts, offsets, &request));
    CHECK_STATUS(comm->ops->wait(comm, request), private ? LS_E_COMM : LS_E_SHAPE);
    CHECK_MESSAGE(private ? "different collectives" : "one result takes the same place");
    free(own);
    comm->ops->destroy(comm); /* with what it has given */
}

/* Ranks that want memory of different sizes or kinds are told, all of them, and none is taken. */
static void check_agreement(ls_comm *world) {
    enum { BYTES = 100000 };
    ls_comm *comm;
    void *memory = NULL;
    CHECK_OK(ls_comm_shm(world, &comm));
    const bool odd = comm->rank == comm->size - 1;
    CHECK_STATUS(comm->ops->alloc_common(comm, odd ? 2 * BYTES : BYTES, &memory), LS_E_SHAPE);
    CHECK_MESSAGE("different memory: 100000 to 200000 bytes; all must");
    CHECK_STATUS(comm->ops->alloc(comm, odd ? 64 : BYTES, &memory), LS_E_SHAPE);
    CHECK_MESSAGE("different memory: 64 to 100000 bytes; all must");
    CHECK_STATUS(odd ? comm->ops->alloc_common(comm, BYTES, &memory)
                     : comm->ops->alloc(comm, BYTES, &memory),
                 LS_E_SHAPE);
    CHECK_MESSAGE("in common only on some");
    CHECK_STATUS(comm->ops->alloc(comm, odd ? -1 : BYTES, &memory), LS_E_SHAPE);
    CHECK_MESSAGE("-1");
    CHECK_OK(comm->ops->alloc(comm, BYTES, &memory));
    comm->ops->give_back(comm, memory);
    comm->ops->destroy(comm);
}

int main(int argc, char **argv) {
    ls_comm *world, *comm;
    void *memory;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_STATUS(world->ops->alloc_common(world, 64, &memory), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("back end 'mpi'; shm is needed");
    if (world->size == 1) {
        CHECK_OK(ls_comm_self(&comm));
        check_gathers(comm, 37, false);
        comm->ops->destroy(comm);
    }
    CHECK_OK(ls_comm_shm(world, &comm));
    for (int i = 0; i < SIZES; i++) {
        check_gathers(comm, sizes[i], false);
        check_gathers(comm, sizes[i], true);
        if (world->size > 1) {
            check_reuse(comm, world, sizes[i]);
        }
    }
    comm->ops->destroy(comm);
    if (world->size > 1) {
        check_refused(world, false);
        check_refused(world, true);
        check_agreement(world);
    }
    int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
