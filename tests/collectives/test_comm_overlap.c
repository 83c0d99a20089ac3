/* Random sequences of non-blocking operations, several under way at once on two communicators, each
 * rank completing them in an order of its own; blocking operations on a third in between. */
#include "collectives/comm.h"
#include "collectives/comm_mpi.h"
#include "tests/collectives/pattern.h"
#include "tests/test.h"

enum { OPERATIONS = 400, UNDER_WAY = 7, MOST_BYTES = 20000, MOST_RANKS = 8 };

typedef enum kind { ALL_REDUCE, ALL_GATHER, ALL_TO_ALL, KINDS } kind;

typedef struct operation {
    bool active;
    kind kind;
    int64_t id, elems; /* elements of an all-reduce, bytes of a block otherwise */
    ls_comm *comm;
    ls_comm_request *request;
    unsigned char *send, *recv;
} operation;

static void start(operation *op, ls_comm *comm, int64_t id) {
    *op = (operation){.active = true, .id = id, .comm = comm};
    op->kind = (kind)pattern_draw(1, (uint64_t)id, KINDS);
    op->elems =
        pattern_draw(2, (uint64_t)id, 5) == 0 ? 0 : pattern_draw(3, (uint64_t)id, MOST_BYTES);
    const int64_t n = op->elems;
    op->send = malloc((size_t)(n * comm->size + 1));
    op->recv = malloc((size_t)(n * (int64_t)sizeof(double) * comm->size + 1));
    int64_t counts[MOST_RANKS], offsets[MOST_RANKS];
    for (int rank = 0; rank < comm->size; rank++) {
        counts[rank] = n;
        offsets[rank] = rank * n;
    }
    switch (op->kind) {
    case ALL_REDUCE:
        for (int64_t i = 0; i < n; i++) {
            pattern_set(op->recv, LS_F64, i, pattern_integer(id, comm->rank, i));
        }
        CHECK_OK(
            comm->ops->all_reduce_start(comm, op->recv, op->recv, n, LS_F64, LS_SUM, &op->request));
        break;
    case ALL_GATHER:
        pattern_fill(op->send, id, comm->rank, n);
        CHECK_OK(
            comm->ops->all_gather_start(comm, op->send, op->recv, counts, offsets, &op->request));
        break;
    default:
        for (int rank = 0; rank < comm->size; rank++) {
            pattern_fill(op->send + rank * n, id + rank, comm->rank, n);
        }
        CHECK_OK(comm->ops->all_to_all_start(comm, op->send, counts, offsets, op->recv, counts,
                                             offsets, &op->request));
        break;
    }
}

static void check_result(operation *op) {
    const int64_t n = op->elems;
    bool right = true;
    for (int64_t i = 0; op->kind == ALL_REDUCE && i < n; i++) {
        double expected[1];
        int64_t sum = 0;
        for (int rank = 0; rank < op->comm->size; rank++) {
            sum += pattern_integer(op->id, rank, i);
        }
        pattern_set(expected, LS_F64, 0, sum);
        right =
            right && memcmp(expected, op->recv + i * (int64_t)sizeof(double), sizeof(double)) == 0;
    }
    for (int rank = 0; op->kind != ALL_REDUCE && rank < op->comm->size; rank++) {
        int64_t seed = op->kind == ALL_GATHER ? op->id : op->id + op->comm->rank;
        right = right && pattern_holds(op->recv + rank * n, seed, rank, n);
    }
    if (!right) {
        TEST_FAIL_("operation %lld of kind %d over %lld is wrong", (long long)op->id, op->kind,
                   (long long)n);
    }
    test_checks++;
    free(op->send);
    free(op->recv);
    op->active = false;
}

static void finish(operation *op, bool by_wait) {
    bool done = by_wait;
    if (by_wait) {
        CHECK_OK(op->comm->ops->wait(op->comm, op->request));
    } else {
        CHECK_OK(op->comm->ops->test(op->comm, op->request, &done));
    }
    if (done) {
        check_result(op);
    }
}

static void run(ls_comm *comms[2], ls_comm *third, uint64_t seed) {
    operation ops[UNDER_WAY] = {0};
    uint64_t draws = 0;
    const uint64_t own = 100 + 10 * seed + (uint64_t)third->rank; /* this rank's stream */
    for (int64_t id = 0; id < OPERATIONS; id++) {
        operation *op = &ops[pattern_draw(own, draws++, UNDER_WAY)];
        if (op->active) {
            finish(op, true);
        }
        /* Which operation comes next on which communicator is the same on all ranks. */
        start(op, comms[pattern_draw(4, (uint64_t)id, 2)], id + (int64_t)seed * OPERATIONS);
        for (int i = 0; i < 2; i++) {
            operation *other = &ops[pattern_draw(own, draws++, UNDER_WAY)];
            if (other->active) {
                finish(other, false);
            }
        }
        if (pattern_draw(5, (uint64_t)id, 10) == 0) {
            int64_t sum = third->rank;
            CHECK_OK(third->ops->all_reduce(third, &sum, 1, LS_I64, LS_SUM));
            CHECK_INT(sum, third->size * (third->size - 1) / 2);
        }
    }
    for (int i = 0; i < UNDER_WAY; i++) {
        if (ops[i].active) {
            finish(&ops[i], true);
        }
    }
}

int main(int argc, char **argv) {
    ls_comm *world = NULL, *comms[2] = {NULL};
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    for (uint64_t seed = 0; seed < 3; seed++) {
        ls_comm_mpi_chunk_bytes = seed == 0 ? 1 << 30 : seed == 1 ? 4096 : 1000;
        for (int i = 0; i < 2; i++) {
            CHECK_OK(world->ops->duplicate(world, &comms[i]));
        }
        run(comms, world, seed);
        for (int i = 0; i < 2; i++) {
            comms[i]->ops->destroy(comms[i]);
        }
    }
    int result = test_end();
    ls_comm_mpi_finalize();
    return result;
}
