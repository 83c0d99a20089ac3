/* Over several hosts (tests/hosts.sh): they are discovered, two levels are chosen, and every
 * operation gives the bits of the flat back end. Arguments: hosts, and the back end that must be
 * chosen. */
#include "collectives/comm_choose.h"
#include "collectives/comm_hier.h"
#include "runtime/base/rng.h"
#include "tests/test.h"

enum { COUNT = 300007, MOST_RANKS = 16 };

static float *numbers(int rank, uint64_t seed) {
    float *x = malloc(COUNT * sizeof *x);
    for (int64_t i = 0; i < COUNT; i++) {
        const ls_rng_block b = ls_rng_draw(seed, (uint64_t)rank, (uint64_t)i);
        x[i] = ((float)(b.v[0] >> 8) * 0x1p-24f - 0.5f) * (float)(1 << (b.v[1] % 8));
    }
    return x;
}

typedef enum kind { ALL_REDUCE, REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, KINDS } kind;

/* Every rank a different share of the vector, one of them nothing. */
static void shares(int size, int64_t *counts, int64_t *offsets) {
    int64_t left = COUNT;
    for (int r = 0; r < size; r++) {
        counts[r] = r == 1 ? 0 : r == size - 1 ? left : left / (r + 2);
        offsets[r] = COUNT - left;
        left -= counts[r];
    }
}

static void run(ls_comm *comm, kind k, float *x, float *y) {
    int64_t counts[MOST_RANKS], offsets[MOST_RANKS];
    ls_comm_request *r = NULL;
    shares(comm->size, counts, offsets);
    const int root = comm->size - 1;
    switch (k) {
    case ALL_REDUCE:
        CHECK_OK(comm->ops->all_reduce_start(comm, x, y, COUNT, LS_F32, LS_SUM_TREE, &r));
        break;
    case REDUCE:
        CHECK_OK(comm->ops->reduce_start(comm, x, y, COUNT, LS_F32, LS_MAX, root, &r));
        break;
    case REDUCE_SCATTER:
        CHECK_OK(comm->ops->reduce_scatter_start(comm, x, y, counts, LS_F32, LS_SUM_TREE, &r));
        break;
    case ALL_GATHER:
        for (int i = 0; i < comm->size; i++) {
            counts[i] *= (int64_t)sizeof *x;
            offsets[i] *= (int64_t)sizeof *x;
        }
        CHECK_OK(comm->ops->all_gather_start(comm, x, y, counts, offsets, &r));
        break;
    default:
        memcpy(y, x, COUNT * sizeof *x);
        CHECK_OK(comm->ops->broadcast_start(comm, y, COUNT * (int64_t)sizeof *x, root, &r));
        break;
    }
    CHECK_OK(comm->ops->wait(comm, r));
}

int main(int argc, char **argv) {
    ls_comm *world = NULL, *chosen = NULL;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    const int hosts = argc > 1 ? atoi(argv[1]) : 1, local = world->size / hosts;
    uint64_t host_of[MOST_RANKS];
    CHECK(world->size <= MOST_RANKS);
    CHECK_OK(ls_comm_hosts(world, host_of));
    for (int r = 0; r < world->size; r++) {
        CHECK_INT(host_of[r], r / local * local);
    }
    CHECK_OK(ls_comm_choose(world, LS_TRANSPORT_AUTO, &chosen));
    CHECK_STR(chosen->ops->name, argc > 2 ? argv[2] : "shm");
    ls_comm_hier_chunk_bytes = 256 << 10;
    for (int k = 0; k < KINDS; k++) {
        float *x = numbers(world->rank, (uint64_t)k), *y[2];
        for (int i = 0; i < 2; i++) {
            y[i] = calloc(COUNT, sizeof *y[i]);
            run(i ? chosen : world, (kind)k, x, y[i]);
        }
        CHECK(memcmp(y[0], y[1], COUNT * sizeof *x) == 0);
        free(x);
        free(y[0]);
        free(y[1]);
    }
    chosen->ops->destroy(chosen);
    int result = test_end();
    ls_comm_mpi_finalize();
    return result;
}
