/* The scatter against the sums of grads.h, bitwise, for partitions, replicas and micro-batches. */
#include "collectives/bucket.h"
#include "collectives/scatter.h"

#include "tests/collectives/grads.h"

enum { BLOCKS = 5 };
static const int64_t first[BLOCKS + 1] = {0, 4000, 4016, 4016, 9552, 14000};

/* Backward from the last block to the first; block 0 is begun with the last one, as tied parameters
 * are. */
static void run_micro(ls_scatter *sc, const shape *s, ls_comm *comm, uint64_t batch,
                      int64_t local) {
    const int contexts = s->contexts > 0 ? s->contexts : 1, each = comm->size / contexts;
    const int64_t before = comm->rank % contexts * (s->leaves / comm->size) + local;
    const int64_t leaf = before * each + comm->rank / contexts;
    const bool exact = s->reduction != LS_REDUCTION_INVARIANT;
    CHECK_OK(ls_scatter_micro_begin(sc));
    void *held, *grads;
    bool fresh;
    CHECK_OK(ls_scatter_block(sc, 0, &held, &fresh));
    CHECK(fresh);
    clear_fresh(held, s->acc, first[1], fresh);
    for (int b = BLOCKS - 1; b >= 0; b--) {
        CHECK_OK(ls_scatter_block(sc, b, &grads, &fresh));
        CHECK(fresh == (b > 0));
        clear_fresh(grads, s->acc, first[b + 1] - first[b], fresh);
        for (int64_t i = first[b]; i < first[b + 1]; i++) {
            add_to(grads, s->acc, i - first[b], draw_grad(batch, leaf, i, exact));
        }
        CHECK(b > 0 || grads == held);
        CHECK_OK(ls_scatter_ready(sc, b));
        if ((b + comm->rank) % 2) {
            CHECK_OK(ls_scatter_progress(sc));
        }
    }
}

/* Who adds up element i of a unit has its own gradients as they are, and the others' rounded. */
static double expected_narrow(const shape *s, const ls_comm *comm, uint64_t batch, int unit,
                              int64_t i) {
    int owner = 0;
    for (int r = 0; r < comm->size; r++) {
        const ls_range slice = ls_bucket_slice(s->partition, unit, comm->size, r);
        owner = i >= slice.first && i < slice.first + slice.elems ? r : owner;
    }
    double sum = 0;
    for (int64_t leaf = 0; leaf < s->leaves; leaf++) {
        const double g = draw_grad(batch, leaf, i, true);
        sum += leaf % comm->size == owner ? g : bf16_of(g);
    }
    return sum;
}

static void check_sums(const shape *s, const ls_comm *comm, const void *sums, uint64_t batch) {
    int64_t wrong = 0, at = 0;
    for (int u = 0; u < s->partition->unit_count; u++) {
        ls_range slice = ls_partition_slice(s->partition, u, comm->rank % s->partition->shards);
        for (int64_t i = slice.first; i < slice.first + slice.elems; i++, at++) {
            const bool narrow = s->reduction == LS_REDUCTION_BF16;
            const double found = get(sums, s->acc, at);
            const double expected =
                narrow ? expected_narrow(s, comm, batch, u, i) : expected_grad(s, batch, i);
            wrong += memcmp(&found, &expected, sizeof found) != 0;
        }
    }
    if (wrong) {
        TEST_FAIL_("%lld elements are wrong: reduction %d, %lld leaves, %d shards on %d ranks",
                   (long long)wrong, s->reduction, (long long)s->leaves, s->partition->shards,
                   comm->size);
    }
    test_checks++;
}

static void check_shape(ls_comm *comm, const shape *s) {
    ls_device dev = {.ops = &device_ops, .acc = s->acc, .host_memory = true, .describe = "test"};
    ls_range blocks[BLOCKS];
    for (int b = 0; b < BLOCKS; b++) {
        blocks[b] = (ls_range){.first = first[b], .elems = first[b + 1] - first[b]};
    }
    int64_t kept = ls_partition_elems(s->partition, comm->rank % s->partition->shards);
    void *sums = calloc((size_t)kept + 1, ls_dtype_bytes(s->acc));
    const ls_scatter_options options = {.comm = comm,
                                        .dev = &dev,
                                        .reduction = s->reduction,
                                        .micro_batches = s->leaves / comm->size,
                                        .context_ranks = s->contexts,
                                        .partition = s->partition,
                                        .blocks = blocks,
                                        .block_count = BLOCKS,
                                        .pool_elems = 5000,
                                        .first_held = true,
                                        .sums = sums};
    ls_scatter *sc;
    CHECK_OK(ls_scatter_create(&options, &sc));
    for (uint64_t batch = 0; batch < 2; batch++) {
        uint64_t wait_ns;
        CHECK_OK(ls_scatter_begin(sc));
        for (int64_t local = 0; local < options.micro_batches; local++) {
            CHECK_STATUS(ls_scatter_finish(sc, &wait_ns), LS_E_SHAPE);
            run_micro(sc, s, comm, batch, local);
        }
        CHECK_STATUS(ls_scatter_micro_begin(sc), LS_E_SHAPE);
        CHECK_OK(ls_scatter_finish(sc, &wait_ns));
        check_sums(s, comm, sums, batch);
    }
    ls_scatter_destroy(sc);
    CHECK_INT(allocations_live, 0);
    free(sums);
}

static void test_shapes(ls_comm *comm) {
    for (int shards = 1; shards <= comm->size; shards++) {
        if (comm->size % shards != 0) {
            continue;
        }
        for (int64_t unit_elems = 1000; unit_elems <= 8000; unit_elems *= 8) {
            ls_partition p;
            CHECK_OK(ls_partition_init(first, BLOCKS, shards, unit_elems, &p));
            static const int64_t micros[] = {1, 3, 8};
            for (int i = 0; i < 3; i++) {
                shape s = {LS_REDUCTION_INVARIANT,
                           i % 2 ? LS_F32 : LS_F64,
                           first[BLOCKS],
                           micros[i] * comm->size,
                           0,
                           &p,
                           0};
                for (s.contexts = 0; s.contexts <= comm->size; s.contexts++) {
                    if (s.contexts == 0 || comm->size % s.contexts == 0) {
                        check_shape(comm, &s);
                    }
                }
                s.contexts = comm->size; /* whose order is none */
                s.reduction = LS_REDUCTION_FAST;
                check_shape(comm, &s);
                s.contexts = 0;
                s.reduction = LS_REDUCTION_BF16;
                check_shape(comm, &s);
            }
            ls_partition_release(&p);
        }
    }
}

static void test_refused(ls_comm *comm) {
    ls_device dev = {.ops = &device_ops, .acc = LS_F32, .host_memory = true, .describe = "test"};
    const ls_range block = {.first = 0, .elems = 16};
    float sums[16];
    ls_partition p, odd;
    CHECK_OK(ls_partition_init((const int64_t[]){0, 16}, 1, 1, 64, &p));
    CHECK_OK(ls_partition_init((const int64_t[]){0, 16}, 1, comm->size + 1, 64, &odd));
    const ls_scatter_options good = {.comm = comm,
                                     .dev = &dev,
                                     .micro_batches = 1,
                                     .partition = &p,
                                     .blocks = &block,
                                     .block_count = 1,
                                     .pool_elems = 16,
                                     .sums = sums};
    ls_scatter *sc;
    ls_scatter_options bad = good;
    bad.micro_batches = 0;
    CHECK_STATUS(ls_scatter_create(&bad, &sc), LS_E_SHAPE);
    CHECK_MESSAGE("0 micro-batches");
    bad = good;
    bad.context_ranks = comm->size + 1;
    CHECK_STATUS(ls_scatter_create(&bad, &sc), LS_E_SHAPE);
    CHECK_MESSAGE("share micro-batches; a divisor is needed");
    bad = good;
    bad.partition = &odd;
    CHECK_STATUS(ls_scatter_create(&bad, &sc), LS_E_SHAPE);
    CHECK_MESSAGE("a multiple is needed");
    const ls_range half = {.first = 0, .elems = 8};
    bad = good;
    bad.blocks = &half;
    CHECK_STATUS(ls_scatter_create(&bad, &sc), LS_E_SHAPE);
    CHECK_MESSAGE("ends beyond block 0");
    allocations_before_failure = comm->rank == comm->size - 1 ? 0 : -1;
    CHECK_STATUS(ls_scatter_create(&good, &sc), LS_E_MEMORY);
    allocations_before_failure = -1;
    CHECK_INT(allocations_live, 0);
    ls_scatter_destroy(NULL);
    void *grads;
    bool fresh;
    CHECK_OK(ls_scatter_create(&good, &sc));
    CHECK_STATUS(ls_scatter_block(sc, 0, &grads, &fresh), LS_E_SHAPE);
    CHECK_STATUS(ls_scatter_micro_begin(sc), LS_E_SHAPE);
    CHECK_OK(ls_scatter_begin(sc));
    CHECK_STATUS(ls_scatter_begin(sc), LS_E_SHAPE);
    CHECK_MESSAGE("begin");
    CHECK_STATUS(ls_scatter_block(sc, 0, &grads, &fresh), LS_E_SHAPE);
    ls_scatter_destroy(sc);
    ls_partition_release(&p);
    ls_partition_release(&odd);
}

int main(int argc, char **argv) {
    ls_comm *comm;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &comm));
    test_shapes(comm);
    test_refused(comm);
    int result = test_end();
    ls_comm_mpi_finalize();
    return result;
}
