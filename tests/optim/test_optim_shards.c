/* Optimizers over shards: however a flat buffer is divided among ranks, norms and updates have the
 * bits of one rank that owns everything. */
#include "collectives/comm.h"
#include "optim/optim.h"
#include "runtime/base/arena.h"
#include "runtime/base/rng.h"
#include "tests/test.h"

enum { PARAMS = 9, STEPS = 3, MAX_RANGES = 64 };

#define MATRIX .decay = true, .matrix = true

/* Three blocks with odd sizes: gaps inside blocks, pieces of the grid that several parameters
 * share, a parameter over several pieces, a block smaller than a piece. */
static ls_param params[PARAMS] = {
    {.name = "tok_embed.weight", .ndim = 2, .dims = {130, 24}, .block = 0, MATRIX},
    {.name = "layers.0.attn_norm.weight", .ndim = 1, .dims = {24}, .block = 1},
    {.name = "layers.0.attn.qkv.weight",
     .ndim = 2,
     .dims = {72, 24},
     .block = 1,
     .tp_groups = 3,
     .tp_group = {{24, 2, 1}, {24, 2, 1}, {24, 2, 1}},
     MATRIX},
    {.name = "layers.0.attn.qkv.bias", .ndim = 1, .dims = {72}, .block = 1},
    {.name = "layers.0.attn.proj.weight", .ndim = 2, .dims = {24, 24}, .block = 1, MATRIX},
    {.name = "layers.0.mlp.up.weight", .ndim = 2, .dims = {97, 24}, .block = 1, MATRIX},
    {.name = "layers.0.mlp.up.bias", .ndim = 1, .dims = {97}, .block = 1},
    {.name = "final_norm.weight", .ndim = 1, .dims = {24}, .block = 2},
    {.name = "final_norm.bias", .ndim = 1, .dims = {24}, .block = 2},
};
static int64_t flat_elems;
static ls_device *dev;
static ls_comm *world;

typedef struct buffers {
    ls_optim *optim;
    ls_optim_range ranges[MAX_RANGES];
    int count;
    bool compact;
    int64_t elems; /* of each buffer */
    float *masters, *grads;
    ls_bf16 *copies;
} buffers;

static ls_config_optim config = {.name = "adamw",
                                 .beta1 = 0.9,
                                 .beta2 = 0.95,
                                 .eps = 1e-8,
                                 .weight_decay = 0.1,
                                 .clip_norm = 0.5,
                                 .momentum = 0.9,
                                 .groups = "*.bias lr=2; layers.0.mlp.* decay=0.01"};

/* Real elements only; gaps are zero. */
static void fill(float *flat, uint64_t stream) {
    for (int p = 0; p < PARAMS; p++) {
        for (int64_t i = params[p].offset; i < params[p].offset + params[p].elems; i++) {
            flat[i] = (float)(ls_rng_uniform(5, stream, (uint64_t)i) - 0.5);
        }
    }
}

static int64_t place(const buffers *b, const ls_optim_range *range) {
    return b->compact ? range->local_offset : range->flat_offset;
}

static void take_owned(const buffers *b, float *to, const float *flat) {
    for (int i = 0; i < b->count; i++) {
        memcpy(to + place(b, &b->ranges[i]), flat + b->ranges[i].flat_offset,
               (size_t)b->ranges[i].elems * sizeof *to);
    }
}

/* Cut c of a block of `elems`: on the grid, spread at random, the same on every rank. */
static int64_t cut(int block, int64_t elems, int c, uint64_t seed) {
    if (c == 0 || c == world->size) {
        return c == 0 ? 0 : elems;
    }
    double share = ((double)c + ls_rng_uniform(seed, (uint64_t)block, (uint64_t)c) - 0.5) /
                   (double)world->size;
    int64_t at = (int64_t)(share * (double)elems) / LS_OPTIM_ALIGN_ELEMS * LS_OPTIM_ALIGN_ELEMS;
    return at;
}

/* One slice of each block for this rank; may be empty. */
static void divide(buffers *b, uint64_t seed) {
    int64_t local = 0;
    for (int p = 0; p < PARAMS; p++) {
        if (p > 0 && params[p].block == params[p - 1].block) {
            continue;
        }
        int last = p;
        while (last + 1 < PARAMS && params[last + 1].block == params[p].block) {
            last++;
        }
        int64_t end = last + 1 < PARAMS ? params[last + 1].offset : flat_elems;
        int64_t elems = end - params[p].offset;
        int64_t from = cut(params[p].block, elems, world->rank, seed);
        int64_t to = cut(params[p].block, elems, world->rank + 1, seed);
        b->ranges[b->count++] = (ls_optim_range){params[p].offset + from, to - from, local};
        local += (to - from + 15) / 16 * 16;
    }
    b->elems = b->compact ? local : flat_elems;
}

static void start(buffers *b, bool all) {
    if (all) {
        b->ranges[b->count++] = (ls_optim_range){.elems = flat_elems};
        b->elems = flat_elems;
    }
    CHECK_OK(ls_calloc((size_t)b->elems + 1, sizeof *b->masters, &b->masters));
    CHECK_OK(ls_calloc((size_t)b->elems + 1, sizeof *b->grads, &b->grads));
    CHECK_OK(ls_calloc((size_t)b->elems + 1, sizeof *b->copies, &b->copies));
    CHECK_OK(ls_optim_create(&(ls_optim_options){.config = &config,
                                                 .dev = dev,
                                                 .params = params,
                                                 .param_count = PARAMS,
                                                 .flat_elems = flat_elems,
                                                 .owned = all ? NULL : b->ranges,
                                                 .owned_count = b->count,
                                                 .compact_masters = b->compact,
                                                 .compact_copies = b->compact,
                                                 .compact_grads = b->compact,
                                                 .masters = b->masters,
                                                 .copies = b->copies,
                                                 .copy_dtype = LS_BF16,
                                                 .shard = all ? NULL : world},
                             &b->optim));
}

static void stop(buffers *b) {
    ls_optim_destroy(b->optim);
    free(b->masters);
    free(b->grads);
    free(b->copies);
}

static bool is_real(int64_t flat) {
    for (int p = 0; p < PARAMS; p++) {
        if (flat >= params[p].offset && flat < params[p].offset + params[p].elems) {
            return true;
        }
    }
    return false;
}

/* Masters, copies and states of what b owns are those of `whole`, to the last bit. */
static void check_equal(const buffers *b, const buffers *whole) {
    for (int r = 0; r < b->count; r++) {
        const ls_optim_range *range = &b->ranges[r];
        for (int64_t i = 0; i < range->elems; i++) {
            const int64_t flat = range->flat_offset + i, at = place(b, range) + i;
            CHECK(b->masters[at] == whole->masters[flat]);
            CHECK(b->copies[at] == ls_bf16_from_f32(b->masters[at]));
            for (int s = 0; i % 7 == 0 && s < ls_optim_state_count(b->optim); s++) {
                const float *found = ls_optim_state_at(b->optim, s, flat);
                const float *expected = ls_optim_state_at(whole->optim, s, flat);
                if (is_real(flat)) {
                    CHECK(!found == !expected);
                    CHECK(!found || *found == *expected);
                }
            }
        }
    }
    for (int i = 0; i < PARAMS * ls_optim_state_count(b->optim); i++) {
        const int s = i / PARAMS, p = i % PARAMS;
        ls_optim_shape shape = ls_optim_state_shape(b->optim, s, p);
        if (shape == LS_STATE_ROWS || shape == LS_STATE_COLS) {
            const float *found = ls_optim_state_vector(b->optim, s, p);
            const float *expected = ls_optim_state_vector(whole->optim, s, p);
            for (int64_t e = 0; e < params[p].dims[shape == LS_STATE_ROWS ? 0 : 1]; e++) {
                CHECK(found[e] == expected[e]);
            }
        }
    }
}

static void check_division(bool compact, uint64_t seed) {
    buffers whole = {0}, mine = {.compact = compact};
    float *flat;
    CHECK_OK(ls_calloc((size_t)flat_elems, sizeof *flat, &flat));
    start(&whole, true);
    divide(&mine, seed);
    start(&mine, false);
    fill(whole.masters, 1);
    take_owned(&mine, mine.masters, whole.masters);
    for (uint64_t step = 0; step < STEPS; step++) {
        double norm, shard_norm;
        fill(flat, 10 + step);
        memcpy(whole.grads, flat, (size_t)flat_elems * sizeof *flat);
        take_owned(&mine, mine.grads, flat);
        CHECK_OK(ls_optim_grad_norm(whole.optim, whole.grads, &norm));
        CHECK_OK(ls_optim_grad_norm(mine.optim, mine.grads, &shard_norm));
        CHECK(norm == shard_norm);
        CHECK(norm > 10.0);
        CHECK_OK(ls_optim_step(whole.optim, whole.grads, norm, 0.01));
        CHECK_OK(ls_optim_step(mine.optim, mine.grads, shard_norm, 0.01));
        check_equal(&mine, &whole);
    }
    int64_t owned = 0;
    for (int r = 0; r < mine.count; r++) {
        owned += mine.ranges[r].elems;
    }
    if (strcmp(config.name, "adamw") == 0) {
        CHECK(ls_optim_bytes(mine.optim) <= 2 * sizeof(float) * (size_t)(owned + 32 * PARAMS));
    }
    /* One gradient that is not finite, wherever it is, is seen on all ranks. */
    double norm;
    int64_t at = params[5].offset + 11;
    for (int r = 0; r < mine.count; r++) {
        int64_t inside = at - mine.ranges[r].flat_offset;
        if (inside >= 0 && inside < mine.ranges[r].elems) {
            mine.grads[place(&mine, &mine.ranges[r]) + inside] = NAN;
        }
    }
    CHECK_OK(ls_optim_grad_norm(mine.optim, mine.grads, &norm));
    CHECK(isnan(norm));
    stop(&mine);
    stop(&whole);
    free(flat);
}

/* The ranks hold equal rows of the first parameter and the same last one; each element counts
 * once: as many as in one rank with all. */
static void check_counted_once(void) {
    ls_param own[2] = {{.name = "a", .ndim = 2, .dims = {32, 100}, .valid_rows = 32},
                       {.name = "b", .ndim = 1, .dims = {77}, .valid_rows = 77}};
    int64_t elems;
    ls_layout_assign(own, 2, &elems);
    /* b, but for its first 5 elements on rank 0, is counted by rank 0. */
    const ls_optim_range skipped[] = {{own[1].offset, world->rank == 0 ? 0 : 5, 0},
                                      {own[1].offset + 5, world->rank == 0 ? 0 : 72, 0}};
    float *buffer;
    CHECK_OK(ls_calloc((size_t)(2 * elems), sizeof *buffer, &buffer));
    for (int64_t i = 0; i < elems; i++) {
        buffer[i] = 1.0f;
    }
    ls_optim *optim;
    CHECK_OK(ls_optim_create(&(ls_optim_options){.config = &config,
                                                 .dev = dev,
                                                 .params = own,
                                                 .param_count = 2,
                                                 .flat_elems = elems,
                                                 .masters = buffer + elems,
                                                 .not_counted = skipped,
                                                 .not_counted_count = 2,
                                                 .tensor = world},
                             &optim));
    double norm;
    CHECK_OK(ls_optim_grad_norm(optim, buffer, &norm));
    CHECK(norm == sqrt(3200.0 * world->size + 77.0));
    ls_optim_destroy(optim);
    free(buffer);
}

/* Muon's matrices split over tensor ranks, keys held by all of them, against whole ones. */
enum { SPLIT_PARAMS = 2 };

static int64_t make_split(ls_param *rows, int ranks, int rank) {
    const ls_param table[SPLIT_PARAMS] = {
        {.name = "layers.0.attn.qkv.weight",
         .ndim = 2,
         .dims = {48, 20},
         .tp_groups = 3,
         .tp_group = {{24, 12, 2}, {12, 1, 12}, {12, 1, 12}},
         MATRIX},
        {.name = "layers.0.attn.proj.weight",
         .ndim = 2,
         .dims = {20, 24},
         .tp_axis = 1,
         .tp_groups = 1,
         .tp_group = {{24, 12, 2}},
         MATRIX},
    };
    int64_t elems;
    for (int p = 0; p < SPLIT_PARAMS; p++) {
        rows[p] = table[p];
        rows[p].valid_rows = rows[p].dims[0];
        rows[p].tp_ranks = ranks;
        rows[p].tp_rank = rank;
    }
    ls_layout_assign(rows, SPLIT_PARAMS, &elems);
    return elems;
}

typedef struct split_check {
    const float *whole; /* of the parameter */
    float *local;
    bool compare;
} split_check;

static ls_status visit_split(void *context, const ls_run *run) {
    const split_check *c = context;
    for (int64_t i = 0; i < run->elems; i++) {
        if (c->compare) {
            CHECK_NEAR(c->local[run->local + i], c->whole[run->global + i], 1e-5, 1e-7);
        } else {
            c->local[run->local + i] = c->whole[run->global + i];
        }
    }
    return LS_OK;
}

static void to_parts(const ls_param *whole, const ls_param *mine, const float *from, float *to,
                     bool compare) {
    for (int p = 0; p < SPLIT_PARAMS; p++) {
        split_check c = {from + whole[p].offset, to + mine[p].offset, compare};
        CHECK_OK(ls_param_runs(&mine[p], false, visit_split, &c));
    }
}

static ls_optim *make_tensor(const ls_param *rows, int64_t elems, float *masters, ls_comm *tensor) {
    ls_optim *optim = NULL;
    CHECK_OK(ls_optim_create(&(ls_optim_options){.config = &config,
                                                 .dev = dev,
                                                 .params = rows,
                                                 .param_count = SPLIT_PARAMS,
                                                 .flat_elems = elems,
                                                 .masters = masters,
                                                 .tensor = tensor},
                             &optim));
    return optim;
}

static void check_tensor(void) {
    ls_param whole[SPLIT_PARAMS], mine[SPLIT_PARAMS];
    const int64_t elems = make_split(whole, 1, 0);
    const int64_t own = make_split(mine, world->size, world->rank);
    float *flat;
    CHECK_OK(ls_calloc((size_t)(2 * (elems + own)), sizeof *flat, &flat));
    float *grads = flat + elems, *local = grads + elems, *local_grads = local + own;
    for (int64_t i = 0; i < elems; i++) {
        flat[i] = (float)(ls_rng_uniform(8, 1, (uint64_t)i) - 0.5);
        grads[i] = (float)(ls_rng_uniform(8, 2, (uint64_t)i) - 0.5);
    }
    to_parts(whole, mine, flat, local, false);
    to_parts(whole, mine, grads, local_grads, false);
    ls_optim *reference = make_tensor(whole, elems, flat, NULL);
    ls_optim *split = make_tensor(mine, own, local, world->size > 1 ? world : NULL);
    for (int step = 0; step < STEPS; step++) {
        CHECK_OK(ls_optim_step(reference, grads, 0.1, 0.01));
        CHECK_OK(ls_optim_step(split, local_grads, 0.1, 0.01));
        to_parts(whole, mine, flat, local, true);
    }
    ls_optim_destroy(split);
    ls_optim_destroy(reference);
    free(flat);
}

static ls_status alloc_fails(ls_device *device, size_t bytes, void **memory) {
    (void)device;
    *memory = NULL;
    return LS_FAIL(LS_E_MEMORY, "no memory for %zu bytes, as planted", bytes);
}

/* The last rank has no memory for its states: none of the others waits for it. */
static void check_agreed(void) {
    const ls_device_ops *ops = dev->ops;
    ls_device_ops poor = *ops;
    float *masters;
    ls_optim *optim;
    poor.alloc = alloc_fails;
    dev->ops = world->rank == world->size - 1 ? &poor : ops;
    CHECK_OK(ls_calloc((size_t)flat_elems, sizeof *masters, &masters));
    CHECK_STATUS(
        ls_optim_create(&(ls_optim_options){.config = &config,
                                            .dev = dev,
                                            .params = params,
                                            .param_count = PARAMS,
                                            .flat_elems = flat_elems,
                                            .owned = world->rank == 0 ? NULL : &(ls_optim_range){0},
                                            .owned_count = 1,
                                            .masters = masters,
                                            .shard = world},
                        &optim),
        LS_E_MEMORY);
    CHECK(optim == NULL);
    dev->ops = ops;
    free(masters);
}

static void check_refused(const ls_optim_range *ranges, int count, const char *message) {
    ls_optim *optim;
    CHECK_STATUS(ls_optim_create(&(ls_optim_options){.config = &config,
                                                     .dev = dev,
                                                     .params = params,
                                                     .param_count = PARAMS,
                                                     .flat_elems = flat_elems,
                                                     .owned = ranges,
                                                     .owned_count = count},
                                 &optim),
                 LS_E_SHAPE);
    CHECK_MESSAGE(message);
    CHECK(optim == NULL);
}

static void check_errors(void) {
    check_refused((ls_optim_range[]){{0, 16, 0}}, 1, "multiple of 1024");
    check_refused((ls_optim_range[]){{params[2].offset, 1024, 0}}, 1, "multiple of 1024");
    check_refused((ls_optim_range[]){{0, flat_elems + 1, 0}}, 1, "inside it");
    check_refused((ls_optim_range[]){{1024, 1024, 0}, {0, 1024, 1024}}, 2, "in order");
    check_refused((ls_optim_range[]){{0, 1024, 0}, {0, 2048, 1024}}, 2, "in order");
    check_refused((ls_optim_range[]){{0, 1024, 8}}, 1, "a local offset is 8");
}

int main(int argc, char **argv) {
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &dev));
    ls_layout_assign(params, PARAMS, &flat_elems);
    for (int p = 0; p < PARAMS; p++) {
        params[p].valid_rows = params[p].dims[0];
    }
    const char *names[] = {"lion", "sgd", "adafactor", "muon", "adamw"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(config.name, sizeof config.name, "%s", names[i]);
        for (uint64_t seed = 1; seed <= 3; seed++) {
            check_division(false, seed);
            check_division(true, seed);
        }
    }
    config.groups[0] = '\0';
    check_counted_once();
    snprintf(config.name, sizeof config.name, "muon");
    check_tensor();
    check_agreed();
    snprintf(config.name, sizeof config.name, "adamw");
    check_errors();
    dev->ops->close(dev);
    ls_comm_mpi_finalize();
    return test_end();
}
