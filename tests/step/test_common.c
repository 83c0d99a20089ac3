/* Zero 3 where the ranks of a host have their parameters in common: a rank that is done with its
 * step may change what it keeps only when all have read it. Planted: without the wait it does so
 * while the last rank is still reading, who sees that. */
#include "collectives/comm_shm.h"
#include "runtime/step/state_internal.h"
#include "tests/test.h"

#include <sched.h>

static const ls_config_model model = {.family = LS_FAMILY_GPT2,
                                      .vocab = 257,
                                      .vocab_multiple = 16,
                                      .layers = 3,
                                      .channels = 20,
                                      .heads = 2,
                                      .kv_heads = 2,
                                      .head_dim = 10,
                                      .ffn = 50,
                                      .context = 8,
                                      .norm_eps = 1e-5,
                                      .init_std = 0.1};
enum { BLOCKS = 5, SEED = 42, FEW = 1000 };

static ls_state_options options_of(ls_comm *comm, ls_device *dev, const ls_model_part *part) {
    return (ls_state_options){.config = &model,
                              .dev = dev,
                              .dtype = LS_F32,
                              .parts = part,
                              .part_count = 1,
                              .zero = 3,
                              .reduction = LS_REDUCTION_FAST,
                              .rank_micros = 1,
                              .bucket_bytes = 8192,
                              .common = true,
                              .data = comm,
                              .shards = comm->size};
}

static const float *read_block(const ls_model_store *store, int block) {
    const void *masters, *copies;
    CHECK_OK(store->acquire(store->context, block, true, &masters, &copies));
    CHECK_OK(store->release(store->context, block, true));
    return masters;
}

/* A step without computation: every block's gradients are ready. */
static void pass(ls_state *state) {
    const ls_model_store *store = ls_state_store(state, 0);
    CHECK_OK(ls_state_begin(state));
    CHECK_OK(ls_state_micro_begin(state, 0, 0));
    for (int block = BLOCKS - 1; block >= 0; block--) {
        void *grads;
        bool fresh;
        read_block(store, block);
        CHECK_OK(store->grads(store->context, block, &grads, &fresh));
        memset(grads, 0, (size_t)state->blocks[block].range.elems * sizeof(float));
        CHECK_OK(store->ready(store->context, block, 0));
    }
    CHECK_OK(ls_state_micro_end(state, 0));
}

static void write_owned(ls_state *state, float value) {
    int count;
    const ls_owned *owned = ls_state_owned(state, &count);
    for (int i = 0; i < count; i++) {
        float *at = ls_state_master_at(state, owned[i].range.first);
        for (int64_t e = 0; e < owned[i].range.elems; e++) {
            at[e] = value;
        }
    }
}

/* Elements of the model that are not `value`. */
static int64_t others_than(const float *all, int64_t elems, float value) {
    int64_t count = 0;
    for (int64_t i = 0; i < elems; i++) {
        count += ((const volatile float *)all)[i] != value;
    }
    return count;
}

static ls_status no_barrier(ls_comm *comm) {
    (void)comm;
    return LS_OK;
}

/* planted: the others do not wait for the last rank, which looks until it sees them write. */
static void check_reuse(ls_state *state, bool planted) {
    ls_comm *comm = state->gather_comm[0];
    const ls_comm_ops *ops = comm->ops;
    ls_comm_ops without = *ops;
    without.barrier = no_barrier;
    const int64_t elems = ls_state_flat_elems(state);
    CHECK_OK(comm->ops->barrier(comm)); /* the others have looked at what was there */
    write_owned(state, 1.0F);
    CHECK_OK(ls_state_share(state));
    const ls_model_store *store = ls_state_store(state, 0);
    const float *all = read_block(store, 0);
    CHECK_INT(others_than(all, elems, 1.0F), 0);
    pass(state);
    comm->ops = planted ? &without : ops;
    if (comm->rank == comm->size - 1) {
        int64_t changed = 0;
        for (int look = 0; changed == 0 && (planted || look < FEW); look++) {
            CHECK_OK(store->progress(store->context));
            changed = others_than(all, elems, 1.0F);
            sched_yield();
        }
        CHECK(planted ? changed > 0 : changed == 0);
    }
    CHECK_OK(ls_state_finish(state));
    write_owned(state, 2.0F);
    comm->ops = ops;
    CHECK_OK(ls_state_share(state));
    CHECK_INT(others_than(all, elems, 2.0F), 0);
}

int main(int argc, char **argv) {
    ls_comm *world, *shm;
    ls_device *dev;
    ls_state *state, *plan;
    const ls_model_part whole = {0};
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &dev));
    CHECK_OK(ls_comm_shm(world, &shm));
    ls_state_options options = options_of(shm, dev, &whole);
    ls_state_bytes common, own;
    CHECK_OK(ls_state_plan(&options, &common, &plan));
    ls_state_destroy(plan);
    CHECK_OK(ls_state_create(&options, &state));
    CHECK(ls_state_is_common(state));
    ls_state_bytes taken = ls_state_memory(state);
    CHECK(memcmp(&taken, &common, sizeof taken) == 0);
    const size_t bytes = (size_t)ls_state_flat_elems(state) * sizeof(float);
    CHECK_INT(common.gathered, 0);
    CHECK_INT(common.masters, (bytes + (size_t)shm->size - 1) / (size_t)shm->size);
    CHECK_INT(common.masters + common.others, bytes);
    check_reuse(state, false);
    check_reuse(state, true);
    ls_state_destroy(state);

    /* Where there is no memory in common, each rank gathers into its own. */
    options.data = world;
    CHECK_OK(ls_state_create(&options, &state));
    CHECK(!ls_state_is_common(state));
    taken = ls_state_memory(state);
    ls_state_destroy(state);
    options.common = false;
    CHECK_OK(ls_state_plan(&options, &own, &plan));
    CHECK(memcmp(&taken, &own, sizeof taken) == 0);
    CHECK(own.gathered > 0 && own.others == 0);
    ls_state_destroy(plan);

    shm->ops->destroy(shm);
    dev->ops->close(dev);
    int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
