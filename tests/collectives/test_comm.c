/* Every operation of the MPI back end, and large ones in shared memory, each bitwise against what
 * the definition gives, with messages whole and cut into many chunks. LS_TEST_LARGE=1 adds
 * operations on 3 GB (about 8 GB a rank). */
#include "collectives/comm_choose.h"
#include "collectives/comm_mpi.h"
#include "tests/collectives/pattern.h"
#include "tests/test.h"

#include <limits.h>
#include <mpi.h>

static const int64_t sizes[] = {0, 1, 7, 64, 1000, 4099};
#define SIZES (sizeof sizes / sizeof *sizes)

static void finish(ls_comm *comm, ls_comm_request *request, bool by_test) {
    bool done = false;
    while (by_test && !done) {
        CHECK_OK(comm->ops->test(comm, request, &done));
    }
    if (!by_test) {
        CHECK_OK(comm->ops->wait(comm, request));
    }
}

static void check_all_reduce(ls_comm *comm, ls_dtype dtype, ls_reduce op, int64_t count,
                             bool blocking) {
    static const uint64_t guard = UINT64_C(0x5a5a5a5a5a5a5a5a);
    const size_t bytes = (size_t)count * ls_dtype_bytes(dtype);
    unsigned char *buf = malloc(bytes + sizeof guard), *expected = malloc(bytes + 1);
    for (int64_t i = 0; i < count; i++) {
        pattern_set(buf, dtype, i, pattern_integer(count, comm->rank, i));
        pattern_set_reduced(expected, dtype, op, count, comm->size, i);
    }
    memcpy(buf + bytes, &guard, sizeof guard);
    if (blocking) {
        CHECK_OK(comm->ops->all_reduce(comm, buf, count, dtype, op));
    } else {
        ls_comm_request *request = NULL;
        CHECK_OK(comm->ops->all_reduce_start(comm, buf, buf, count, dtype, op, &request));
        finish(comm, request, count % 2 == 0);
    }
    CHECK(memcmp(buf, expected, bytes) == 0);
    CHECK(memcmp(buf + bytes, &guard, sizeof guard) == 0);
    free(buf);
    free(expected);
}

static void test_all_reduce(ls_comm *comm) {
    static const ls_dtype dtypes[] = {LS_F32, LS_F64, LS_I32, LS_I64, LS_U64};
    static const ls_reduce reductions[] = {LS_SUM, LS_MAX, LS_MIN};
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        for (size_t o = 0; o < sizeof reductions / sizeof *reductions; o++) {
            for (size_t s = 0; s < SIZES; s++) {
                check_all_reduce(comm, dtypes[d], reductions[o], sizes[s], true);
                check_all_reduce(comm, dtypes[d], reductions[o], sizes[s], false);
            }
        }
    }
}

static void test_broadcast(ls_comm *comm) {
    unsigned char buf[4100];
    for (int root = 0; root < comm->size; root++) {
        for (size_t s = 0; s < SIZES; s++) {
            memset(buf, 0xee, sizeof buf);
            if (comm->rank == root) {
                pattern_fill(buf, (int64_t)s, root, sizes[s]);
            }
            CHECK_OK(comm->ops->broadcast(comm, buf, sizes[s], root));
            CHECK(pattern_holds(buf, (int64_t)s, root, sizes[s]));
            CHECK_INT(buf[sizes[s]], 0xee);
        }
    }
    CHECK_OK(comm->ops->barrier(comm));
}

static void test_all_gather(ls_comm *comm) {
    for (size_t s = 0; s < SIZES; s++) {
        const int64_t n = sizes[s];
        unsigned char *send = malloc((size_t)n + 1), *recv = malloc((size_t)n * comm->size + 1);
        recv[n * comm->size] = 0xee;
        pattern_fill(send, n, comm->rank, n);
        CHECK_OK(comm->ops->all_gather(comm, send, recv, n));
        for (int rank = 0; rank < comm->size; rank++) {
            CHECK(pattern_holds(recv + rank * n, n, rank, n));
        }
        CHECK_INT(recv[n * comm->size], 0xee);
        free(send);
        free(recv);
    }
}

/* Blocks of different sizes, some empty, in reverse order and with gaps between them. */
static void check_all_gather_start(ls_comm *comm, int64_t scale, bool in_place, bool by_test) {
    int64_t counts[8], offsets[8], total = 0;
    for (int rank = comm->size - 1; rank >= 0; rank--) {
        counts[rank] = rank == 1 ? 0 : scale * (rank + 1) + rank;
        offsets[rank] = total;
        total += counts[rank] + 3;
    }
    unsigned char *recv = malloc((size_t)total), *send = malloc((size_t)counts[comm->rank] + 1);
    memset(recv, 0xee, (size_t)total);
    unsigned char *mine = in_place ? recv + offsets[comm->rank] : send;
    pattern_fill(mine, scale, comm->rank, counts[comm->rank]);
    ls_comm_request *request = NULL;
    CHECK_OK(comm->ops->all_gather_start(comm, mine, recv, counts, offsets, &request));
    finish(comm, request, by_test);
    for (int rank = 0; rank < comm->size; rank++) {
        const unsigned char *block = recv + offsets[rank];
        CHECK(pattern_holds(block, scale, rank, counts[rank]));
        CHECK_INT(block[counts[rank]], 0xee);
        CHECK_INT(block[counts[rank] + 2], 0xee);
    }
    free(send);
    free(recv);
}

static int64_t pair_bytes(int64_t scale, int from, int to) {
    return (from + 2 * to) % 3 == 1 ? 0 : scale * (from + 1) + to;
}

static void check_all_to_all_start(ls_comm *comm, int64_t scale, bool by_test) {
    int64_t send_counts[8], send_offsets[8], recv_counts[8], recv_offsets[8];
    int64_t sent = 0, received = 0;
    for (int peer = 0; peer < comm->size; peer++) {
        send_counts[peer] = pair_bytes(scale, comm->rank, peer);
        send_offsets[peer] = sent;
        sent += send_counts[peer] + 1;
        recv_counts[peer] = pair_bytes(scale, peer, comm->rank);
        recv_offsets[peer] = received;
        received += recv_counts[peer] + 2;
    }
    unsigned char *send = malloc((size_t)sent), *recv = malloc((size_t)received);
    memset(recv, 0xee, (size_t)received);
    for (int peer = 0; peer < comm->size; peer++) {
        pattern_fill(send + send_offsets[peer], scale + peer, comm->rank, send_counts[peer]);
    }
    ls_comm_request *request = NULL;
    CHECK_OK(comm->ops->all_to_all_start(comm, send, send_counts, send_offsets, recv, recv_counts,
                                         recv_offsets, &request));
    finish(comm, request, by_test);
    for (int peer = 0; peer < comm->size; peer++) {
        const unsigned char *block = recv + recv_offsets[peer];
        CHECK(pattern_holds(block, scale + comm->rank, peer, recv_counts[peer]));
        CHECK_INT(block[recv_counts[peer]], 0xee);
    }
    free(send);
    free(recv);
}

static void test_operations(ls_comm *comm) {
    test_all_reduce(comm);
    test_broadcast(comm);
    test_all_gather(comm);
    for (size_t s = 0; s < SIZES; s++) {
        for (int by_test = 0; by_test < 2; by_test++) {
            check_all_gather_start(comm, sizes[s], s % 2 == 0, by_test);
            check_all_gather_start(comm, sizes[s], s % 2 == 1, by_test);
            check_all_to_all_start(comm, sizes[s], by_test);
        }
    }
}

static void test_refused(ls_comm *comm) {
    ls_comm_request *request = NULL;
    float x = 0;
    int64_t counts[8] = {0}, negative[8] = {0}, offsets[8] = {0};
    negative[comm->size - 1] = -5;
    CHECK_STATUS(comm->ops->all_reduce(comm, &x, 1, LS_U16, LS_SUM), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("uint16");
    CHECK_STATUS(comm->ops->all_reduce_start(comm, &x, &x, 1, LS_U8, LS_SUM, &request),
                 LS_E_UNSUPPORTED);
    CHECK_STATUS(comm->ops->all_reduce(comm, &x, -1, LS_F32, LS_SUM), LS_E_SHAPE);
    CHECK_STATUS(comm->ops->broadcast(comm, &x, 4, comm->size), LS_E_SHAPE);
    CHECK_STATUS(comm->ops->broadcast(comm, &x, 4, -1), LS_E_SHAPE);
    CHECK_STATUS(comm->ops->broadcast(comm, &x, -4, 0), LS_E_SHAPE);
    CHECK_STATUS(comm->ops->all_gather(comm, &x, &x, -4), LS_E_SHAPE);
    CHECK_STATUS(comm->ops->all_gather_start(comm, &x, &x, negative, offsets, &request),
                 LS_E_SHAPE);
    CHECK_STATUS(
        comm->ops->all_to_all_start(comm, &x, counts, offsets, &x, negative, offsets, &request),
        LS_E_SHAPE);
    CHECK_MESSAGE("-5");
    ls_comm *second = NULL;
    CHECK_STATUS(ls_comm_mpi_init(NULL, NULL, &second), LS_E_COMM);
}

static void test_hosts(ls_comm *comm) {
    uint64_t hosts[8] = {9, 9, 9, 9, 9, 9, 9, 9};
    CHECK_OK(ls_comm_hosts(comm, hosts));
    for (int rank = 0; rank < comm->size; rank++) {
        CHECK_INT(hosts[rank], 0); /* mpirun started all of them here */
    }
}

/* Ranks from `first` on fail, each in its own way. */
static void check_agree(ls_comm *comm, int first) {
    static const ls_status codes[] = {LS_E_IO, LS_E_INPUT, LS_E_MEMORY, LS_E_CORRUPT};
    ls_status mine = LS_OK;
    ls_error_clear();
    if (comm->rank >= first) {
        mine = LS_FAIL(codes[comm->rank % 4], "disk %d is full", comm->rank);
    }
    CHECK_STATUS(ls_comm_agree(comm, mine), codes[first % 4]);
    char prefix[32] = "", expected[96];
    if (comm->size > 1) {
        snprintf(prefix, sizeof prefix, "rank %d: ", first);
    }
    snprintf(expected, sizeof expected, "%sdisk %d is full", prefix, first);
    CHECK_STR(ls_error_last()->message, expected);
    CHECK_INT(ls_error_last()->code, codes[first % 4]);
    CHECK(strstr(ls_error_last()->file, "test_comm.c") != NULL);
    CHECK(ls_error_last()->line > 0);
}

static void test_agree(ls_comm *comm) {
    CHECK_OK(ls_comm_agree(comm, LS_OK));
    for (int first = 0; first < comm->size; first++) {
        check_agree(comm, first);
        CHECK_OK(ls_comm_agree(comm, LS_OK));
    }
    if (comm->size > 1) { /* a status without a record, and one whose record is about another */
        LS_FAIL(LS_E_IO, "something else");
        CHECK_STATUS(ls_comm_agree(comm, comm->rank == 1 ? LS_E_DEVICE : LS_OK), LS_E_DEVICE);
        CHECK_STR(ls_error_last()->message, "rank 1: device failed");
    }
    /* the same everywhere, as a wrong configuration is: no rank to blame */
    CHECK_STATUS(ls_comm_agree(comm, LS_FAIL(LS_E_CONFIG, "no such key")), LS_E_CONFIG);
    CHECK_STR(ls_error_last()->message, "no such key");
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    CHECK_STATUS(ls_comm_agree(comm, LS_FAIL(LS_E_IO, "%s", text)), LS_E_IO);
    CHECK(strlen(ls_error_last()->message) > 1000);
}

static void test_check_same(ls_comm *comm) {
    CHECK_OK(ls_comm_check_same(comm, "configuration", "a: 1", 4));
    CHECK_OK(ls_comm_check_same(comm, "configuration", NULL, 0));
    for (int odd = 0; odd < comm->size && comm->size > 1; odd++) {
        char data[8] = "steps=1";
        data[6] = comm->rank >= odd ? '2' : '1';
        char expected[64];
        snprintf(expected, sizeof expected, "rank %d has a different binary than rank 0", odd);
        if (odd == 0) {
            CHECK_OK(ls_comm_check_same(comm, "binary", data, 7));
        } else {
            CHECK_STATUS(ls_comm_check_same(comm, "binary", data, 7), LS_E_CONFIG);
            CHECK_MESSAGE(expected);
        }
        ls_status shorter = ls_comm_check_same(comm, "binary", "steps=1", comm->rank == 1 ? 6 : 7);
        CHECK_STATUS(shorter, LS_E_CONFIG);
        CHECK_MESSAGE("rank 1 has");
    }
}

/* In place over one buffer of 3 GB, fp32 where it is added up. */
static void test_large(ls_comm *comm) {
    if (!getenv("LS_TEST_LARGE")) {
        return;
    }
    const int64_t elems = 750000002, bytes = elems * (int64_t)sizeof(float);
    const int root = comm->size - 1;
    int64_t counts[8], offsets[8], at = 0, wrong = 0;
    for (int rank = 0; rank < comm->size; rank++) {
        counts[rank] = rank < root ? bytes / comm->size + 4 * rank : bytes - at;
        offsets[rank] = at;
        at += counts[rank];
    }
    unsigned char *buf = calloc(1, (size_t)bytes);
    float *x = (float *)(void *)buf;
    CHECK(buf);
    ls_comm_request *request = NULL;
    pattern_fill(buf + offsets[comm->rank], 1, comm->rank, counts[comm->rank]);
    CHECK_OK(comm->ops->all_gather_start(comm, buf + offsets[comm->rank], buf, counts, offsets,
                                         &request));
    finish(comm, request, false);
    for (int rank = 0; rank < comm->size; rank++) {
        CHECK(pattern_holds(buf + offsets[rank], 1, rank, counts[rank]));
    }
    if (comm->rank == root) {
        pattern_fill(buf, 2, root, bytes);
    }
    CHECK_OK(comm->ops->broadcast(comm, buf, bytes, root));
    CHECK(pattern_holds(buf, 2, root, bytes));
    for (int64_t i = 0; i < elems; i++) {
        x[i] = (float)(i % 1000 + comm->rank);
    }
    CHECK_OK(comm->ops->all_reduce_start(comm, x, x, elems, LS_F32, LS_SUM, &request));
    finish(comm, request, false);
    for (int64_t i = 0; i < elems; i++) {
        wrong += x[i] != (float)(comm->size * (i % 1000) + comm->size * (comm->size - 1) / 2);
        x[i] = (float)(i % 1000 + comm->rank);
    }
    CHECK_INT(wrong, 0);
    for (int rank = 0; rank < comm->size; rank++) {
        counts[rank] = rank < root ? elems / comm->size : elems - root * (elems / comm->size);
    }
    const int64_t first = comm->rank * (elems / comm->size);
    CHECK_OK(comm->ops->reduce_scatter_start(comm, x, x + first, counts, LS_F32, LS_MAX, &request));
    finish(comm, request, true);
    for (int64_t i = first; i < first + counts[comm->rank]; i++) {
        wrong += x[i] != (float)(i % 1000 + root);
    }
    CHECK_INT(wrong, 0);
    free(buf);
}

/* Rank 1 expects less than rank 0 sends: only rank 1 can know. */
static void test_library_error(ls_comm *world) {
    ls_comm *comm = NULL;
    CHECK_OK(world->ops->duplicate(world, &comm));
    int64_t send_counts[8] = {0}, recv_counts[8] = {0}, offsets[8] = {0};
    char send[8] = {0}, recv[8] = {0};
    send_counts[1] = comm->rank == 0 ? 8 : 0;
    recv_counts[0] = comm->rank == 1 ? 4 : 0;
    ls_comm_request *request = NULL;
    CHECK_OK(comm->ops->all_to_all_start(comm, send, send_counts, offsets, recv, recv_counts,
                                         offsets, &request));
    CHECK_STATUS(comm->ops->wait(comm, request), comm->rank == 1 ? LS_E_COMM : LS_OK);
    if (comm->rank == 1) {
        CHECK_MESSAGE("MPI transfer failed: MPI_ERR_TRUNCATE");
    }
    comm->ops->destroy(comm);
}

/* Messages that the back end sends, counted on their way into the library. */
static int sent;

int MPI_Isend(const void *buf, int count, MPI_Datatype type, int to, int tag, MPI_Comm handle,
              MPI_Request *request) {
    sent++;
    return PMPI_Isend(buf, count, type, to, tag, handle, request);
}

/* A few bytes of every rank take as few messages as they can, so that connections stay few. */
static void test_small_gather(ls_comm *comm) {
    int64_t all[8], steps = 0;
    for (int have = 1; have < comm->size; have *= 2) {
        steps++;
    }
    for (int turn = 0; turn < 2; turn++) {
        const int64_t mine = 1000 * turn + comm->rank;
        sent = 0;
        CHECK_OK(comm->ops->all_gather(comm, &mine, all, sizeof mine));
        CHECK_INT(sent, steps);
        for (int rank = 0; rank < comm->size; rank++) {
            CHECK_INT(all[rank], 1000 * turn + rank);
        }
        all[comm->rank] = -mine; /* in place */
        CHECK_OK(comm->ops->all_gather(comm, &all[comm->rank], all, sizeof mine));
        for (int rank = 0; rank < comm->size; rank++) {
            CHECK_INT(all[rank], -1000 * turn - rank);
        }
    }
}

/* A reduction that finds no memory leaves the communicator as it was. */
static void test_no_memory(ls_comm *world) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* which end the process */
    enum { ELEMS = 1 << 20 };
    const int64_t too_many = INT64_C(1) << 48; /* more than there are addresses for */
    static float x[ELEMS];
    ls_comm *comm = NULL;
    ls_comm_request *request = NULL;
    CHECK_OK(world->ops->duplicate(world, &comm));
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < ELEMS; i++) {
            x[i] = (float)(comm->rank + i % 100);
        }
        CHECK_OK(comm->ops->all_reduce_start(comm, x, x, ELEMS, LS_F32, LS_SUM_TREE, &request));
        CHECK_OK(comm->ops->wait(comm, request));
        CHECK(x[70] == (float)(comm->size * (comm->size - 1) / 2 + 70 * comm->size));
        if (comm->size > 1) { /* one rank needs none */
            CHECK_STATUS(
                comm->ops->all_reduce_start(comm, x, x, too_many, LS_F32, LS_SUM_TREE, &request),
                LS_E_MEMORY);
        }
    }
    comm->ops->destroy(comm);
#else
    (void)world;
#endif
}

/* Where ranks lie on hosts, as the choice of a back end needs it. */
static void test_spread(void) {
    const uint64_t pairs[] = {7, 3, 7, 3}, lone[] = {4, 5, 6}, uneven[] = {1, 1, 2};
    const ls_spread two = ls_spread_of(pairs, 3, 4);
    CHECK(two.even && two.hosts == 2 && two.least == 2 && two.most == 2);
    CHECK_INT(two.first, 1);
    CHECK_INT(ls_spread_of(pairs, 2, 4).first, 0);
    CHECK_INT(two.inside, 1);
    const ls_spread one = ls_spread_of(lone, 1, 3); /* levels of one rank gain nothing */
    CHECK(!one.even && one.hosts == 3 && one.least == 1 && one.most == 1);
    const ls_spread odd = ls_spread_of(uneven, 0, 3);
    CHECK(!odd.even && odd.hosts == 2 && odd.least == 1 && odd.most == 2);
    CHECK(!ls_spread_of(uneven, 0, 2).even); /* one host */
    const uint64_t most[] = {1, 1, 2, 2, 2};
    const ls_spread more = ls_spread_of(most, 4, 5);
    CHECK(!more.even && more.hosts == 2 && more.least == 2 && more.most == 3);
}

int main(int argc, char **argv) {
    ls_comm *world = NULL, *copy = NULL;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK(ls_comm_launched());
    test_operations(world);
    ls_comm_mpi_chunk_bytes = 64;
    CHECK_OK(world->ops->duplicate(world, &copy));
    CHECK_INT(copy->rank, world->rank);
    CHECK_INT(copy->size, world->size);
    test_operations(copy);
    copy->ops->destroy(copy);
    ls_comm_mpi_chunk_bytes = 1 << 30;
    test_refused(world);
    test_hosts(world);
    test_agree(world);
    test_check_same(world);
    test_large(world);
    if (world->size > 1) {
        ls_comm *shm = NULL;
        CHECK_OK(ls_comm_choose(world, LS_TRANSPORT_SHM, &shm));
        test_large(shm);
        shm->ops->destroy(shm);
    }
    test_spread();
    test_small_gather(world);
    test_no_memory(world);
    if (world->size > 1) {
        test_library_error(world);
    }
    int result = test_end();
    ls_comm_mpi_finalize();
    return result;
}
