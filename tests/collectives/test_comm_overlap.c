/* Random sequences of non-blocking operations, several under way at once on groups that overlap,
 * each rank completing them in an order of its own; blocking operations on one more in between. On
 * every back end. */
#include "collectives/comm.h"
#include "collectives/comm_choose.h"
#include "collectives/comm_hier.h"
#include "collectives/comm_mpi.h"
#include "collectives/comm_shm_impl.h"
#include "tests/collectives/pattern.h"
#include "tests/test.h"

enum { OPERATIONS = 300, UNDER_WAY = 7, MOST_BYTES = 20000, MOST_RANKS = 8, GROUPS = 3 };

typedef enum kind {
    ALL_REDUCE,
    REDUCE,
    REDUCE_SCATTER,
    BROADCAST,
    ALL_GATHER,
    ALL_TO_ALL,
    MESSAGE, /* to the next rank, and from the one before */
    KINDS
} kind;

typedef struct operation {
    bool active;
    kind kind;
    int64_t id, elems; /* elements of an all-reduce, bytes of a block otherwise */
    ls_comm *comm;
    ls_comm_request *request, *sending; /* sending: of a message; NULL: none, or over */
    unsigned char *send, *recv;
} operation;

static int before(const ls_comm *comm) {
    return (comm->rank + comm->size - 1) % comm->size;
}

static void start(operation *op, ls_comm *comm, int64_t id) {
    *op = (operation){.active = true, .id = id, .comm = comm};
    op->kind = (kind)pattern_draw(1, (uint64_t)id, comm->size > 1 ? KINDS : MESSAGE);
    op->elems =
        pattern_draw(2, (uint64_t)id, 5) == 0 ? 0 : pattern_draw(3, (uint64_t)id, MOST_BYTES);
    const int64_t n = op->elems;
    const int root = (int)(id % comm->size);
    op->send = malloc((size_t)(n * (int64_t)sizeof(double) * comm->size + 1));
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
    case REDUCE:
        for (int64_t i = 0; i < n; i++) {
            pattern_set(op->send, LS_F64, i, pattern_integer(id, comm->rank, i));
        }
        CHECK_OK(comm->ops->reduce_start(comm, op->send, op->recv, n, LS_F64, LS_SUM, root,
                                         &op->request));
        break;
    case REDUCE_SCATTER:
        for (int64_t i = 0; i < n * comm->size; i++) {
            pattern_set(op->send, LS_F64, i, pattern_integer(id, comm->rank, i));
        }
        CHECK_OK(comm->ops->reduce_scatter_start(comm, op->send, op->recv, counts, LS_F64,
                                                 LS_SUM_TREE, &op->request));
        break;
    case BROADCAST:
        pattern_fill(op->recv, comm->rank == root ? id : 0, root, n);
        CHECK_OK(comm->ops->broadcast_start(comm, op->recv, n, root, &op->request));
        break;
    case ALL_GATHER:
        pattern_fill(op->send, id, comm->rank, n);
        CHECK_OK(
            comm->ops->all_gather_start(comm, op->send, op->recv, counts, offsets, &op->request));
        break;
    case MESSAGE:
        pattern_fill(op->send, id, comm->rank, n);
        CHECK_OK(comm->ops->recv_start(comm, op->recv, n, before(comm), &op->request));
        CHECK_OK(
            comm->ops->send_start(comm, op->send, n, (comm->rank + 1) % comm->size, &op->sending));
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
    const int root = (int)(op->id % op->comm->size);
    const bool sums = op->kind == ALL_REDUCE || op->kind == REDUCE_SCATTER ||
                      (op->kind == REDUCE && op->comm->rank == root);
    const int64_t first = op->kind == REDUCE_SCATTER ? op->comm->rank * n : 0;
    bool right = true;
    for (int64_t i = 0; sums && i < n; i++) {
        double expected[1];
        int64_t sum = 0;
        for (int rank = 0; rank < op->comm->size; rank++) {
            sum += pattern_integer(op->id, rank, first + i);
        }
        pattern_set(expected, LS_F64, 0, sum);
        right =
            right && memcmp(expected, op->recv + i * (int64_t)sizeof(double), sizeof(double)) == 0;
    }
    if (op->kind == BROADCAST) {
        right = pattern_holds(op->recv, op->id, root, n);
    }
    if (op->kind == MESSAGE) {
        right = pattern_holds(op->recv, op->id, before(op->comm), n);
    }
    for (int rank = 0; (op->kind == ALL_GATHER || op->kind == ALL_TO_ALL) && rank < op->comm->size;
         rank++) {
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
    bool done = by_wait, sent = true;
    if (op->sending) {
        CHECK_OK(by_wait ? op->comm->ops->wait(op->comm, op->sending)
                         : op->comm->ops->test(op->comm, op->sending, &sent));
        op->sending = sent ? NULL : op->sending;
    }
    if (!sent) {
        return;
    }
    if (by_wait) {
        CHECK_OK(op->comm->ops->wait(op->comm, op->request));
    } else {
        CHECK_OK(op->comm->ops->test(op->comm, op->request, &done));
    }
    if (done) {
        check_result(op);
    }
}

static void run(ls_comm *comms[GROUPS], ls_comm *third, uint64_t seed) {
    operation ops[UNDER_WAY] = {0};
    uint64_t draws = 0;
    const uint64_t own = 100 + 10 * seed + (uint64_t)third->rank; /* this rank's stream */
    for (int64_t id = 0; id < OPERATIONS; id++) {
        operation *op = &ops[pattern_draw(own, draws++, UNDER_WAY)];
        if (op->active) {
            finish(op, true);
        }
        /* Which operation comes next on which communicator is the same on all ranks. */
        start(op, comms[pattern_draw(4, (uint64_t)id, GROUPS)], id + (int64_t)seed * OPERATIONS);
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

/* All ranks, odd and even ones, neighbours. */
static void run_groups(ls_comm *all, uint64_t seed) {
    ls_comm *comms[GROUPS] = {NULL}, *third = NULL;
    CHECK_OK(all->ops->duplicate(all, &third));
    CHECK_OK(all->ops->duplicate(all, &comms[0]));
    CHECK_OK(all->ops->split(all, all->rank % 2, &comms[1]));
    CHECK_OK(all->ops->split(all, all->rank / 2, &comms[2]));
    run(comms, third, seed);
    for (int i = 0; i < GROUPS; i++) {
        comms[i]->ops->destroy(comms[i]);
    }
    third->ops->destroy(third);
}

/* As if two ranks made a host. */
static void run_hier(ls_comm *world, uint64_t seed) {
    ls_comm *flat = NULL, *part = NULL, *inside = NULL, *across = NULL, *hier = NULL;
    CHECK_OK(world->ops->duplicate(world, &flat));
    CHECK_OK(world->ops->split(world, world->rank / 2, &part));
    CHECK_OK(ls_comm_choose(part, LS_TRANSPORT_SHM, &inside));
    part->ops->destroy(part);
    CHECK_OK(world->ops->split(world, world->rank % 2, &across));
    CHECK_OK(ls_comm_hier(flat, inside, across, &hier));
    ls_comm_hier_least_bytes = 4000;
    ls_comm_hier_chunk_bytes = 30000;
    run_groups(hier, seed);
    hier->ops->destroy(hier);
}

int main(int argc, char **argv) {
    ls_comm *world = NULL, *shm = NULL;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    for (uint64_t seed = 0; seed < 2; seed++) {
        ls_comm_mpi_chunk_bytes = seed == 0 ? 1 << 30 : 1000;
        run_groups(world, seed);
    }
    ls_comm_mpi_chunk_bytes = 1 << 30;
    ls_comm_shm_chunk_bytes = 64 << 10;
    CHECK_OK(ls_comm_choose(world, LS_TRANSPORT_SHM, &shm));
    run_groups(shm, 2);
    shm->ops->destroy(shm);
    if (world->size > 2 && world->size % 2 == 0) {
        run_hier(world, 3);
    }
    int result = test_end();
    ls_comm_mpi_finalize();
    return result;
}
