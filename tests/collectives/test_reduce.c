/* The reducer against sums written out here: fast with inputs whose sums are exact, invariant with
 * inputs whose sums depend on the order, both bitwise, for many shapes. The device is the least
 * that the reducer needs. */
#include "tests/collectives/grads.h"

/* Backward from the end to the start in strides of this rank's own, some of them empty. */
static void run_backward(ls_reducer *r, const shape *s, uint64_t batch, int64_t leaf, void *grads) {
    const bool exact = s->reduction != LS_REDUCTION_INVARIANT;
    uint64_t draws = 0;
    int64_t done = s->elems;
    while (done > 0) {
        ls_rng_block b = ls_rng_draw(batch + 77, (uint64_t)leaf, draws++);
        int64_t stride = (int64_t)(b.v[0] % (uint32_t)(s->elems / 3 + 2));
        int64_t next = stride < done ? done - stride : 0;
        for (int64_t i = next; i < done; i++) {
            double g = draw_grad(batch, leaf, i, exact);
            add_to(grads, s->acc, i, g / 2); /* twice, as tied parameters are */
            add_to(grads, s->acc, i, g / 2);
        }
        done = next;
        if (b.v[1] % 3) {
            CHECK_OK(ls_reducer_ready(r, done));
        }
        if (b.v[2] % 2) {
            CHECK_OK(ls_reducer_progress(r));
        }
    }
}

/* Each rank's sum is rounded, that of each replica's ranks, and that of all: integers, whose sums
 * are exact. */
static double expected_narrow(const shape *s, uint64_t batch, int64_t i, int ranks) {
    const int shards = s->partition && s->partition->shards < ranks ? s->partition->shards : ranks;
    const int64_t each = s->leaves / ranks;
    double sum = 0;
    for (int first = 0; first < ranks; first += shards) { /* of a replica */
        double replica = 0;
        for (int rank = first; rank < first + shards; rank++) {
            double own = 0;
            for (int64_t leaf = rank * each; leaf < (rank + 1) * each; leaf++) {
                own += draw_grad(batch, leaf, i, true);
            }
            replica += bf16_of(own);
        }
        sum += shards > 1 ? bf16_of(replica) : replica;
    }
    return bf16_of(sum);
}

static void run_batch(ls_reducer *r, ls_comm *comm, const shape *s, uint64_t batch) {
    const int64_t local_leaves = s->leaves / comm->size;
    const int contexts = s->contexts > 0 ? s->contexts : 1;
    const int place = comm->rank % contexts * (comm->size / contexts) + comm->rank / contexts;
    CHECK_OK(ls_reducer_begin(r));
    for (int64_t local = 0; local < local_leaves; local++) {
        void *grads = NULL;
        bool fresh;
        CHECK_OK(ls_reducer_micro_begin(r, local, &grads, &fresh));
        CHECK(fresh == (local == 0 || s->reduction == LS_REDUCTION_INVARIANT));
        clear_fresh(grads, s->acc, s->elems, fresh);
        run_backward(r, s, batch, place * local_leaves + local, grads);
        CHECK_OK(ls_reducer_micro_end(r));
    }
    int64_t one = 1; /* the caller's own use of the communicator meanwhile */
    CHECK_OK(comm->ops->all_reduce(comm, &one, 1, LS_I64, LS_SUM));
    CHECK_INT(one, comm->size);

    void *sums = NULL;
    uint64_t wait_ns = UINT64_MAX;
    CHECK_OK(ls_reducer_finish(r, &sums, &wait_ns));
    CHECK(wait_ns < UINT64_MAX);
    int64_t wrong = 0;
    for (int64_t i = 0; i < s->elems; i++) {
        if (s->partition && !keeps(s->partition, comm->rank, i)) {
            continue;
        }
        const bool narrow = s->reduction == LS_REDUCTION_BF16 && comm->size > 1;
        const double found = get(sums, s->acc, i);
        const double expected =
            narrow ? expected_narrow(s, batch, i, comm->size) : expected_grad(s, batch, i);
        wrong += memcmp(&found, &expected, sizeof found) != 0;
    }
    if (wrong) {
        TEST_FAIL_("%lld of %lld elements are wrong: reduction %d, %s, %lld micro-batches, buckets "
                   "of %lld bytes",
                   (long long)wrong, (long long)s->elems, s->reduction, ls_dtype_name(s->acc),
                   (long long)s->leaves, (long long)s->bucket_bytes);
    }
    test_checks++;
}

static void check_shape(ls_comm *comm, const shape *s) {
    ls_device dev = {.ops = &device_ops, .acc = s->acc, .host_memory = true, .describe = "test"};
    const ls_reducer_options options = {.comm = comm,
                                        .dev = &dev,
                                        .reduction = s->reduction,
                                        .elems = s->elems,
                                        .micro_batches = s->leaves,
                                        .bucket_bytes = s->bucket_bytes,
                                        .context_ranks = s->contexts,
                                        .partition = s->partition};
    ls_reducer *r = NULL;
    CHECK_OK(ls_reducer_create(&options, &r));
    for (uint64_t batch = 0; r && batch < 3; batch++) {
        run_batch(r, comm, s, batch);
    }
    ls_reducer_destroy(r);
    CHECK_INT(allocations_live, 0);
}

static void test_shapes(ls_comm *comm) {
    static const int64_t elems[] = {0, 1, 15, 16, 17, 333, 2050};
    static const int64_t buckets[] = {0, 1, 100, 1000, 4096};
    for (int64_t share = 1; share <= 9; share += share == 5 ? 2 : 1) {
        for (size_t e = 0; e < sizeof elems / sizeof *elems; e++) {
            for (size_t b = 0; b < sizeof buckets / sizeof *buckets; b++) {
                shape s = {.elems = elems[e],
                           .leaves = share * comm->size,
                           .bucket_bytes = buckets[b],
                           .acc = (e + b) % 2 ? LS_F32 : LS_F64};
                s.reduction = LS_REDUCTION_INVARIANT;
                check_shape(comm, &s);
                s.reduction = LS_REDUCTION_FAST;
                check_shape(comm, &s);
                s.reduction = LS_REDUCTION_BF16;
                check_shape(comm, &s);
            }
        }
    }
    /* The same micro-batches on 1, 2, 3 and 4 ranks; and many of them. */
    shape s = {LS_REDUCTION_INVARIANT, LS_F32, 5000, 12, 3000, NULL, 0};
    check_shape(comm, &s);
    s = (shape){LS_REDUCTION_INVARIANT, LS_F32, 33, 24 * 25, 0, NULL, 0};
    check_shape(comm, &s);
    /* A large bucket in one call. */
    s = (shape){LS_REDUCTION_INVARIANT, LS_F32, 200000, comm->size, 0, NULL, 0};
    check_shape(comm, &s);
    /* Buckets that become smaller towards the beginning. */
    s = (shape){LS_REDUCTION_INVARIANT, LS_F32, 9001, 12, 17000, NULL, 0};
    check_shape(comm, &s);
    s.reduction = LS_REDUCTION_FAST;
    check_shape(comm, &s);
    s.reduction = LS_REDUCTION_BF16;
    check_shape(comm, &s);
}

/* Ranks that share micro-batches: their parts' leaves come one part after the other, however many
 * ranks share each; a power of two of leaves each or not, with and without shards. */
static void test_contexts(ls_comm *comm) {
    for (int contexts = 1; contexts <= comm->size; contexts++) {
        for (int share = 1; share <= 4 && comm->size % contexts == 0; share++) {
            shape s = {
                LS_REDUCTION_INVARIANT, LS_F32, 2050, share * comm->size, 1000, NULL, contexts};
            check_shape(comm, &s);
            ls_partition p;
            CHECK_OK(ls_partition_init((const int64_t[]){0, 2050}, 1, comm->size, 256, &p));
            s.partition = &p;
            check_shape(comm, &s);
            ls_partition_release(&p);
        }
    }
}

/* Each shard gets its part, each replica of it the same. */
static void test_partitions(ls_comm *comm) {
    static const int64_t first[] = {0, 4000, 4016, 4016, 9552};
    for (int shards = 1; shards <= comm->size; shards++) {
        if (comm->size % shards != 0) {
            continue;
        }
        for (int64_t unit_elems = 1; unit_elems <= 8192; unit_elems *= 64) {
            ls_partition p;
            CHECK_OK(ls_partition_init(first, 4, shards, unit_elems, &p));
            shape s = {LS_REDUCTION_INVARIANT, LS_F32, first[4], 3 * comm->size, 0, &p, 0};
            check_shape(comm, &s);
            s.reduction = LS_REDUCTION_FAST;
            check_shape(comm, &s);
            s.reduction = LS_REDUCTION_BF16;
            check_shape(comm, &s);
            ls_partition_release(&p);
        }
    }
}

/* Buffers: one where a rank has one micro-batch, log2 more where it has a power of two. */
static void test_bytes(ls_comm *comm) {
    ls_device dev = {.ops = &device_ops, .acc = LS_F32, .host_memory = true, .describe = "test"};
    const int64_t elems = 1 << 18;
    static const int64_t shares[] = {1, 2, 8};
    for (int i = 0; i < 3; i++) {
        ls_reducer_options options = {.comm = comm,
                                      .dev = &dev,
                                      .reduction = LS_REDUCTION_INVARIANT,
                                      .elems = elems,
                                      .micro_batches = shares[i] * comm->size,
                                      .bucket_bytes = 1 << 16};
        ls_reducer *r = NULL;
        CHECK_OK(ls_reducer_create(&options, &r));
        const int64_t buffers = i == 0 ? 0 : i == 1 ? 1 : 3, scratch = 4 << 16, tables = 16384;
        int64_t bytes = (int64_t)ls_reducer_bytes(r) - buffers * elems * 4;
        CHECK(bytes >= 0 && bytes <= scratch + tables);
        ls_reducer_destroy(r);
        options.reduction = LS_REDUCTION_FAST;
        CHECK_OK(ls_reducer_create(&options, &r));
        CHECK(ls_reducer_bytes(r) <= (size_t)(scratch + tables));
        ls_reducer_destroy(r);
        ls_reduction_bytes whole, narrow;
        CHECK_OK(ls_reducer_plan(&options, &whole));
        options.reduction = LS_REDUCTION_BF16;
        CHECK_OK(ls_reducer_plan(&options, &narrow));
        const bool rounds = comm->size > 1;
        CHECK_INT(narrow.between_hosts, rounds ? whole.between_hosts / 2 : whole.between_hosts);
        CHECK_INT(narrow.taken, whole.taken + (rounds ? 4 << 15 : 0)); /* 4 slots of bf16 */
        CHECK_INT(narrow.shared, rounds ? 4 << 15 : (int64_t)whole.shared);
    }
}

/* A NaN of one micro-batch reaches every rank, and only its element. */
static void test_nan(ls_comm *comm, ls_reduction reduction) {
    ls_device dev = {.ops = &device_ops, .acc = LS_F32, .host_memory = true, .describe = "test"};
    const ls_reducer_options options = {.comm = comm,
                                        .dev = &dev,
                                        .reduction = reduction,
                                        .elems = 100,
                                        .micro_batches = 12,
                                        .bucket_bytes = 128};
    ls_reducer *r = NULL;
    void *grads = NULL;
    bool fresh;
    uint64_t wait_ns = 0;
    CHECK_OK(ls_reducer_create(&options, &r));
    CHECK_OK(ls_reducer_begin(r));
    for (int64_t local = 0; local < 12 / comm->size; local++) {
        CHECK_OK(ls_reducer_micro_begin(r, local, &grads, &fresh));
        clear_fresh(grads, LS_F32, 100, fresh);
        if (comm->rank * 12 / comm->size + local == 7) {
            ((float *)grads)[41] = NAN;
        }
        CHECK_OK(ls_reducer_micro_end(r));
    }
    CHECK_OK(ls_reducer_finish(r, &grads, &wait_ns));
    for (int i = 0; i < 100; i++) {
        float g = ((float *)grads)[i];
        CHECK(i == 41 ? isnan(g) : g == 0);
    }
    ls_reducer_destroy(r);
}

static void test_refused(ls_comm *comm) {
    ls_device dev = {.ops = &device_ops, .acc = LS_F32, .host_memory = true, .describe = "test"};
    const ls_reducer_options good = {.comm = comm,
                                     .dev = &dev,
                                     .reduction = LS_REDUCTION_INVARIANT,
                                     .elems = 100,
                                     .micro_batches = comm->size * 2};
    ls_reducer *r = NULL;
    ls_reducer_options bad = good;
    bad.micro_batches = 0;
    CHECK_STATUS(ls_reducer_create(&bad, &r), LS_E_SHAPE);
    if (comm->size > 1) {
        bad.micro_batches = comm->size + 1;
        CHECK_STATUS(ls_reducer_create(&bad, &r), LS_E_SHAPE);
        CHECK_MESSAGE("multiple of the ranks");
    }
    ls_partition p;
    CHECK_OK(ls_partition_init((const int64_t[]){0, 100}, 1, comm->size + 1, 64, &p));
    bad = good;
    bad.partition = &p;
    CHECK_STATUS(ls_reducer_create(&bad, &r), LS_E_SHAPE);
    CHECK_MESSAGE("shards; a multiple is needed");
    bad = good;
    bad.context_ranks = comm->size + 1;
    CHECK_STATUS(ls_reducer_create(&bad, &r), LS_E_SHAPE);
    CHECK_MESSAGE("share micro-batches; a divisor is needed");
    ls_partition_release(&p);
    bad = good;
    bad.elems = -1;
    CHECK_STATUS(ls_reducer_create(&bad, &r), LS_E_SHAPE);
    dev.host_memory = false;
    CHECK_STATUS(ls_reducer_create(&good, &r), LS_E_UNSUPPORTED);
    dev.host_memory = true;

    allocations_before_failure = comm->rank == comm->size - 1 ? 0 : -1; /* too little memory */
    CHECK_STATUS(ls_reducer_create(&good, &r), LS_E_MEMORY);
    CHECK_MESSAGE("no memory for");
    allocations_before_failure = -1;
    CHECK(r == NULL);
    CHECK_INT(allocations_live, 0);
    ls_reducer_destroy(NULL);

    void *grads = NULL;
    bool fresh;
    uint64_t wait_ns = 0;
    CHECK_OK(ls_reducer_create(&good, &r));
    CHECK_STATUS(ls_reducer_micro_begin(r, 0, &grads, &fresh), LS_E_SHAPE);
    CHECK_STATUS(ls_reducer_finish(r, &grads, &wait_ns), LS_E_SHAPE);
    CHECK_OK(ls_reducer_begin(r));
    CHECK_STATUS(ls_reducer_begin(r), LS_E_SHAPE);
    CHECK_STATUS(ls_reducer_ready(r, 0), LS_E_SHAPE);
    CHECK_STATUS(ls_reducer_micro_end(r), LS_E_SHAPE);
    CHECK_STATUS(ls_reducer_micro_begin(r, 1, &grads, &fresh), LS_E_SHAPE);
    CHECK_OK(ls_reducer_micro_begin(r, 0, &grads, &fresh));
    CHECK_STATUS(ls_reducer_micro_begin(r, 1, &grads, &fresh), LS_E_SHAPE);
    CHECK_STATUS(ls_reducer_ready(r, 101), LS_E_SHAPE);
    CHECK_STATUS(ls_reducer_ready(r, -1), LS_E_SHAPE);
    CHECK_OK(ls_reducer_micro_end(r));
    CHECK_STATUS(ls_reducer_finish(r, &grads, &wait_ns), LS_E_SHAPE);
    CHECK_MESSAGE("finish");
    CHECK_OK(ls_reducer_micro_begin(r, 1, &grads, &fresh));
    CHECK_OK(ls_reducer_micro_end(r));
    CHECK_STATUS(ls_reducer_micro_begin(r, 2, &grads, &fresh), LS_E_SHAPE);
    CHECK_OK(ls_reducer_finish(r, &grads, &wait_ns));
    ls_reducer_destroy(r);
}

/* Without mpirun: on the back end of one rank. */
int main(int argc, char **argv) {
    ls_comm *comm = NULL;
    const bool launched = ls_comm_launched();
    CHECK_OK(launched ? ls_comm_mpi_init(&argc, &argv, &comm) : ls_comm_self(&comm));
    test_shapes(comm);
    test_contexts(comm);
    test_partitions(comm);
    test_bytes(comm);
    test_nan(comm, LS_REDUCTION_FAST);
    test_nan(comm, LS_REDUCTION_BF16);
    test_nan(comm, LS_REDUCTION_INVARIANT);
    test_refused(comm);
    int result = test_end();
    if (!launched) {
        comm->ops->destroy(comm);
    }
    ls_comm_mpi_finalize();
    return result;
}
