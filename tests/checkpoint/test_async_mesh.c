/* Random pairs of meshes (tensor x shard x pipeline): saved on one, loaded on the other and saved
 * from there, every byte of parameters and optimizer states is the same. */
#include "checkpoint/saver.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "tests/checkpoint/ckpt_cases.h"

enum { LAYERS = 5, KINDS = 4, STATES = 3, PARAMS = LAYERS * KINDS + 2, MOST = PARAMS * STATES * 3 };

/* A parameter, as a model's table has it: which stage's it is, and how tensor ranks divide it. */
typedef struct param {
    char name[64];
    int ndim, axis, layer; /* axis -1: every tensor rank has all of it */
    int64_t dims[2];
} param;

typedef struct mesh {
    int tensor, shard, pipeline;
} mesh;

typedef struct pieces {
    ls_ckpt_tensor tensors[MOST];
    char names[MOST][96];
    int count;
} pieces;

static const char *const states[STATES] = {"", "optim.exp_avg.", "optim.exp_avg_sq."};
static ls_comm *world;
static char root[4096];
static param params[PARAMS];
static pieces mine;
static uint64_t draws;

/* The same numbers on all ranks. */
static int64_t draw(int64_t low, int64_t high) {
    return low + (int64_t)(ls_rng_draw(77, 0, draws++).v[0] % (uint64_t)(high - low + 1));
}

static void params_make(void) {
    static const param kinds[KINDS] = {{"norm", 1, -1, 0, {23}},
                                       {"qkv", 2, 0, 0, {69, 23}},
                                       {"proj", 2, 1, 0, {23, 31}},
                                       {"bias", 1, 0, 0, {69}}};
    for (int i = 0; i < LAYERS * KINDS; i++) {
        params[i] = kinds[i % KINDS];
        params[i].layer = i / KINDS;
        snprintf(params[i].name, sizeof params[i].name, "layers.%d.%s", i / KINDS,
                 kinds[i % KINDS].name);
    }
    params[LAYERS * KINDS] = (param){"embed", 2, 0, 0, {101, 23}};
    params[LAYERS * KINDS + 1] = (param){"final", 1, -1, LAYERS - 1, {23}};
}

static uint64_t value_of(int state, int p, int64_t elem) {
    return case_value(state * PARAMS + p, elem, 4);
}

/* Elements [first, end) of a row-major box as up to three boxes: the end of a row, whole rows, the
 * beginning of one. */
static int range_boxes(const ls_box *box, int64_t first, int64_t end, ls_box *out) {
    int64_t row = box->ndim == 2 ? box->extent[1] : 1;
    int n = 0;
    while (first < end) {
        int64_t column = first % row, rows = (end - first) / row;
        ls_box *b = &out[n++];
        *b = *box;
        b->start[0] = box->start[0] + first / row;
        b->extent[0] = column == 0 && rows > 0 ? rows : 1;
        int64_t width = column == 0 && rows > 0 ? row : row - column;
        width = first + width > end ? end - first : width;
        if (box->ndim == 2) {
            b->start[1] = box->start[1] + column;
            b->extent[1] = width;
        }
        first += b->extent[0] * width;
    }
    return n;
}

static void piece_add(int state, int p, const ls_box *box) {
    char *name = mine.names[mine.count];
    ls_ckpt_tensor *t = &mine.tensors[mine.count++];
    snprintf(name, sizeof mine.names[0], "%s%s", states[state], params[p].name);
    *t = (ls_ckpt_tensor){.name = name, .dtype = LS_F32, .ndim = params[p].ndim, .box = *box};
    memcpy(t->dims, params[p].dims, sizeof params[p].dims);
    t->data = malloc((size_t)ls_box_elems(box) * 4);
}

/* What a rank of the mesh holds: its stage's layers, of them its part along the tensor axis, of
 * that its range of the flat elements. Where tensor ranks hold the same, the first writes. */
static void pieces_make(const mesh *m, int rank, bool writes) {
    int tensor = rank % m->tensor, shard = rank / m->tensor % m->shard;
    int stage = rank / m->tensor / m->shard;
    mine.count = 0;
    for (int p = 0; p < PARAMS; p++) {
        ls_box box = ls_box_whole(params[p].ndim, params[p].dims), parts[3];
        int axis = params[p].axis;
        if (params[p].layer * m->pipeline / LAYERS != stage || (axis < 0 && tensor > 0 && writes)) {
            continue;
        }
        if (axis >= 0) {
            int64_t n = box.extent[axis];
            box.start[axis] = n * tensor / m->tensor;
            box.extent[axis] = n * (tensor + 1) / m->tensor - box.start[axis];
        }
        int64_t elems = ls_box_elems(&box);
        int count =
            range_boxes(&box, elems * shard / m->shard, elems * (shard + 1) / m->shard, parts);
        for (int state = 0; state < STATES; state++) {
            for (int i = 0; i < count; i++) {
                piece_add(state, p, &parts[i]);
            }
        }
    }
}

static void pieces_free(void) {
    for (int i = 0; i < mine.count; i++) {
        free(mine.tensors[i].data);
    }
}

static void pieces_fill(void) {
    for (int i = 0; i < mine.count; i++) {
        ls_ckpt_tensor *t = &mine.tensors[i];
        int state = 0, p = 0;
        for (int k = 0; k < STATES * PARAMS; k++) {
            char name[96];
            snprintf(name, sizeof name, "%s%s", states[k / PARAMS], params[k % PARAMS].name);
            if (strcmp(name, t->name) == 0) {
                state = k / PARAMS;
                p = k % PARAMS;
            }
        }
        int64_t columns = t->ndim == 2 ? t->box.extent[1] : 1,
                width = t->ndim == 2 ? t->dims[1] : 1;
        for (int64_t e = 0; e < ls_box_elems(&t->box); e++) {
            int64_t column = t->ndim == 2 ? t->box.start[1] + e % columns : 0;
            int64_t elem = (t->box.start[0] + e / columns) * width + column;
            uint32_t value = (uint32_t)value_of(state, p, elem);
            memcpy((char *)t->data + 4 * e, &value, 4);
        }
    }
}

/* Ranks of the world beyond the mesh have no part in it. */
static void save_on(const mesh *m, const char *where, int64_t step, const char *from) {
    ls_comm *comm = NULL;
    int ranks = m->tensor * m->shard * m->pipeline;
    bool in = world->rank < ranks;
    CHECK_OK(world->ops->split(world, in, &comm));
    if (in) {
        ls_ckpt_saver *saver = NULL;
        ls_ckpt_outcome outcome = {.status = LS_E_NO};
        bool ended;
        json_t *run = json_object(), *counters = case_counters();
        ls_ckpt_save_options options = {.root = where,
                                        .step = step,
                                        .level = 1,
                                        .threads = 1,
                                        .parity = (int)(step % 3),
                                        .config_text = "run: {}\n",
                                        .run = run,
                                        .counters = counters};
        pieces_make(m, world->rank, true);
        if (from) {
            ls_ckpt *ckpt = NULL;
            CHECK_OK(ls_ckpt_open(from, &ckpt));
            CHECK_OK(ls_ckpt_load(ckpt, mine.tensors, mine.count));
            ls_ckpt_close(ckpt);
        } else {
            pieces_fill();
        }
        const ls_ckpt_saver_options how = {.comm = comm,
                                           .async = step % 2,
                                           .writer_per_host = step % 4 < 2,
                                           .tensors = mine.tensors,
                                           .count = mine.count};
        CHECK_OK(ls_ckpt_saver_create(&how, &saver));
        ls_ckpt_saver_start(saver, &options, mine.tensors, mine.count, false);
        CHECK_OK(ls_ckpt_saver_poll(saver, true, &ended, &outcome));
        CHECK_STATUS(outcome.status, LS_OK);
        ls_ckpt_saver_destroy(saver);
        pieces_free();
        json_decref(run);
        json_decref(counters);
    }
    comm->ops->destroy(comm);
}

static void check_whole(const char *path) {
    ls_ckpt *ckpt = NULL;
    int count = 0;
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    const ls_ckpt_entry *entries = ckpt ? ls_ckpt_entries(ckpt, &count) : NULL;
    CHECK_INT(count, STATES * PARAMS);
    (void)entries;
    for (int k = 0; k < STATES * PARAMS && ckpt; k++) {
        const param *p = &params[k % PARAMS];
        char name[96];
        snprintf(name, sizeof name, "%s%s", states[k / PARAMS], p->name);
        ls_ckpt_tensor t = {.name = name, .dtype = LS_F32, .ndim = p->ndim};
        memcpy(t.dims, p->dims, sizeof p->dims);
        t.box = ls_box_whole(p->ndim, p->dims);
        int64_t elems = ls_box_elems(&t.box), wrong = 0;
        uint32_t *values = t.data = malloc((size_t)elems * 4);
        CHECK_OK(ls_ckpt_load(ckpt, &t, 1));
        for (int64_t e = 0; e < elems; e++) {
            wrong += values[e] != (uint32_t)value_of(k / PARAMS, k % PARAMS, e);
        }
        CHECK_INT(wrong, 0);
        free(values);
    }
    ls_ckpt_close(ckpt);
}

static mesh mesh_draw(void) {
    mesh m;
    do {
        m = (mesh){(int)draw(1, 4), (int)draw(1, 4), (int)draw(1, 4)};
    } while (m.tensor * m.shard * m.pipeline > world->size);
    return m;
}

int main(int argc, char **argv) {
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    ls_error_set_rank(world->rank);
    ls_log_set_quiet(true);
    if (world->rank == 0) {
        snprintf(root, sizeof root, "%s", case_directory());
    }
    CHECK_OK(world->ops->broadcast(world, root, sizeof root, 0));
    params_make();
    for (int64_t step = 1; step <= 8; step++) {
        char path[4400], second[4200];
        const mesh a = mesh_draw(), b = mesh_draw();
        snprintf(path, sizeof path, "%s/step-%08lld", root, (long long)step);
        snprintf(second, sizeof second, "%s/second", root);
        save_on(&a, root, step, NULL);
        CHECK_OK(world->ops->barrier(world));
        save_on(&b, second, step, path);
        CHECK_OK(world->ops->barrier(world));
        if (world->rank == 0) {
            check_whole(path);
            snprintf(path, sizeof path, "%s/step-%08lld", second, (long long)step);
            check_whole(path);
        }
        if (test_failures) {
            fprintf(stderr, "step %d: %dx%dx%d, then %dx%dx%d\n", (int)step, a.tensor, a.shard,
                    a.pipeline, b.tensor, b.shard, b.pipeline);
        }
    }
    CHECK_OK(world->ops->barrier(world));
    if (world->rank == 0) {
        CHECK_OK(ls_dir_remove(root));
    }
    ls_comm_mpi_finalize();
    return test_end();
}
