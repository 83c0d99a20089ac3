/* Save on R ranks, load on any split; the same bytes twice; errors on all ranks. */
#include "runtime/base/rng.h"
#include "tests/checkpoint/ckpt_cases.h"

#include <sys/stat.h>

static ls_comm *comm;
static char root[4096];
static uint64_t draws;

/* The same numbers on all ranks. */
static int64_t draw(int64_t low, int64_t high) {
    return low + (int64_t)(ls_rng_draw(13, 0, draws++).v[0] % (uint64_t)(high - low + 1));
}

/* Loads whole tensors, then random boxes of every tensor. */
static void check_values(const char *path) {
    ls_ckpt *ckpt = NULL;
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    if (!ckpt) {
        return;
    }
    for (int i = 0; i < CASE_TENSORS; i++) {
        CHECK_OK(case_check(ckpt, i, NULL));
        for (int round = 0; round < 6; round++) {
            ls_box box = {.ndim = cases[i].ndim};
            for (int d = 0; d < box.ndim; d++) {
                box.start[d] = draw(0, cases[i].dims[d] - 1);
                int64_t most = cases[i].dims[d] - box.start[d];
                box.extent[d] = draw(1, most < 100000 ? most : 100000);
            }
            CHECK_OK(case_check(ckpt, i, &box));
        }
    }
    CHECK_OK(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_QUICK, NULL, NULL));
    CHECK_OK(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_DEEP, NULL, NULL));
    ls_ckpt_close(ckpt);
}

static void test_round_trip(int level, int64_t step) {
    ls_ckpt_tensor tensors[CASE_TENSORS];
    ls_ckpt_save_result result = {0};
    cases_make(tensors, CASE_TENSORS, comm->rank, comm->size);
    CHECK_OK(case_save(comm, root, step, level, 2, tensors, CASE_TENSORS, &result));
    cases_free(tensors, CASE_TENSORS);
    check_values(result.path);
    ls_ckpt *ckpt = NULL;
    CHECK_OK(ls_ckpt_open(result.path, &ckpt));
    ls_ckpt_info info = ls_ckpt_describe(ckpt);
    int count;
    const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
    CHECK_INT(count, CASE_TENSORS);
    for (int i = 0; i < count; i++) {
        CHECK_STR(entries[i].name, cases[i].name);
        CHECK(ls_ckpt_find(ckpt, cases[i].name) == &entries[i]);
    }
    CHECK(ls_ckpt_find(ckpt, "none") == NULL);
    CHECK_INT(info.tensors, CASE_TENSORS);
    CHECK(info.writers <= comm->size);
    CHECK_INT(info.level, level);
    CHECK_INT(info.raw_bytes, result.raw_bytes);
    CHECK_INT(ls_ckpt_step(ckpt), step);
    CHECK_INT(ls_ckpt_tokens(ckpt), 1000 * step);
    CHECK_STR(ls_ckpt_config(ckpt), "run:\n  seed: 42\n");
    CHECK_INT(json_integer_value(json_object_get(ls_ckpt_run(ckpt), "seed")), 42);
    json_t *counters = case_counters();
    CHECK(json_equal(ls_ckpt_counters(ckpt), counters));
    json_decref(counters);
    ls_ckpt_close(ckpt);
}

/* Random boxes: each tensor is cut at a random place in a random dimension, parts dealt to ranks.
 */
static void test_boxes(void) {
    ls_ckpt_tensor tensors[2 * CASE_TENSORS];
    ls_ckpt_save_result result = {0};
    int count = 0;
    for (int i = 0; i < CASE_TENSORS; i++) {
        int axis = (int)draw(0, cases[i].ndim - 1);
        int64_t cut = draw(0, cases[i].dims[axis]);
        for (int side = 0; side < 2; side++) {
            ls_box box = ls_box_whole(cases[i].ndim, cases[i].dims);
            box.start[axis] = side ? cut : 0;
            box.extent[axis] = side ? cases[i].dims[axis] - cut : cut;
            bool mine = draw(0, comm->size - 1) == comm->rank;
            if (mine && ls_box_elems(&box) > 0) {
                tensors[count++] = case_tensor(i, &box);
            }
        }
    }
    CHECK_OK(case_save(comm, root, 70, 1, 1, tensors, count, &result));
    cases_free(tensors, count);
    check_values(result.path);
}

/* Same tensors, other number of threads: the same bytes in every file. */
static void test_same_bytes(void) {
    ls_ckpt_tensor tensors[CASE_TENSORS];
    ls_ckpt_save_result first = {0}, second = {0};
    char other[4200];
    snprintf(other, sizeof other, "%s/other/deeper", root);
    cases_make(tensors, CASE_TENSORS, comm->rank, comm->size);
    CHECK_OK(case_save(comm, root, 80, 1, 1, tensors, CASE_TENSORS, &first));
    CHECK_OK(case_save(comm, other, 80, 1, 3, tensors, CASE_TENSORS, &second));
    cases_free(tensors, CASE_TENSORS);
    char name[32];
    snprintf(name, sizeof name, "rank-%05d.h5", comm->rank);
    const char *names[] = {name, "manifest.json", "index.h5"};
    for (int i = 0; i < 3; i++) {
        char a[8192], b[8192];
        ls_sha256 x, y;
        CHECK_OK(ls_path_join(a, sizeof a, first.path, names[i]));
        CHECK_OK(ls_path_join(b, sizeof b, second.path, names[i]));
        CHECK_OK(ls_sha256_file(a, &x, NULL));
        CHECK_OK(ls_sha256_file(b, &y, NULL));
        CHECK(memcmp(&x, &y, sizeof x) == 0);
    }
}

/* A step that exists is replaced, and nothing is left behind. */
static void test_same_step(void) {
    ls_ckpt_tensor tensors[1];
    ls_ckpt_save_result result = {0};
    const int last = comm->size - 1;
    for (int round = 0; round < 2; round++) {
        ls_box box = ls_box_whole(cases[3].ndim, cases[3].dims);
        tensors[0] = case_tensor(3, &box);
        if (comm->rank != last) {
            tensors[0].box.extent[0] = 0;
        }
        ((uint8_t *)tensors[0].data)[5] = (uint8_t)round;
        CHECK_OK(case_save(comm, root, 90, 1, 1, tensors, 1, &result));
        free(tensors[0].data);
    }
    ls_ckpt *ckpt = NULL;
    CHECK_OK(ls_ckpt_open(result.path, &ckpt));
    CHECK_INT(ls_ckpt_describe(ckpt).writers, last > 0 ? 2 : 1);
    tensors[0] = case_tensor(3, NULL);
    CHECK_OK(ls_ckpt_load(ckpt, tensors, 1));
    CHECK_INT(((uint8_t *)tensors[0].data)[5], 1);
    free(tensors[0].data);
    ls_ckpt_close(ckpt);
    char *path = NULL;
    CHECK_OK(ls_ckpt_latest(root, &path));
    CHECK_STR(path, result.path);
    free(path);
}

/* A file where the checkpoint is to be is nobody's to replace: the disk is at fault, not the user.
 */
static void test_taken_name(void) {
    ls_ckpt_tensor tensors[1];
    ls_ckpt_save_result result = {0};
    char name[sizeof root + 32];
    snprintf(name, sizeof name, "%s/step-00000095", root);
    if (comm->rank == 0) {
        CHECK_OK(ls_file_replace(name, "mine", 4));
    }
    cases_make(tensors, 1, comm->rank, comm->size);
    CHECK_STATUS(case_save(comm, root, 95, 1, 1, tensors, 1, &result), LS_E_IO);
    CHECK_MESSAGE("cannot rename");
    cases_free(tensors, 1);
    comm->ops->barrier(comm);
    if (comm->rank == 0) {
        CHECK_INT(unlink(name), 0);
    }
}

static void test_options(void) {
    static const char *const said[] = {
        "step -1 and tokens", "tokens -1 must not be", "level -1",
        "level 20",           "-1 parity files",       "9 parity files",
        "must be objects",    "must be objects",       "must be given"};
    json_t *run = json_object(), *text = json_string("run");
    for (int i = 0; i < 9; i++) {
        const ls_ckpt_save_options options = {.root = root,
                                              .step = i == 0 ? -1 : 95,
                                              .tokens = i == 1 ? -1 : 0,
                                              .level = i == 2   ? -1
                                                       : i == 3 ? 20
                                                                : 1,
                                              .parity = i == 4   ? -1
                                                        : i == 5 ? 9
                                                                 : 0,
                                              .run = i == 6 ? text : run,
                                              .counters = i == 7 ? text : run,
                                              .config_text = i == 8 ? NULL : ""};
        CHECK_STATUS(ls_ckpt_save(comm, &options, NULL, 0, NULL), LS_E_INPUT);
        CHECK_MESSAGE(said[i]);
    }
    json_decref(run);
    json_decref(text);
}

static void test_refusals(void) {
    ls_box box = ls_box_whole(cases[2].ndim, cases[2].dims);
    ls_ckpt_tensor good = case_tensor(2, &box), t = good;
    if (comm->rank != 0) {
        good.box.extent[0] = 0;
    }
    /* The last rank alone is wrong; all are told. */
    bool wrong = comm->rank == comm->size - 1;
    t = good;
    t.dims[1] = wrong ? 0 : t.dims[1];
    CHECK_STATUS(case_save(comm, root, 95, 1, 1, &t, 1, NULL), LS_E_SHAPE);
    CHECK_MESSAGE("dimension 1 is 0");
    t = good;
    t.ndim = wrong ? 0 : t.ndim;
    CHECK_STATUS(case_save(comm, root, 95, 1, 1, &t, 1, NULL), LS_E_SHAPE);
    CHECK_MESSAGE("0 dimensions; 1 to 4 are allowed");
    t = good;
    t.data = comm->rank == 0 ? NULL : t.data;
    CHECK_STATUS(case_save(comm, root, 95, 1, 1, &t, 1, NULL), LS_E_INPUT);
    CHECK_MESSAGE("it has no data");
    t = good;
    t.name = comm->rank == 0 ? "" : t.name; /* it alone, and the lowest of those that are wrong */
    for (int round = 0; round < 2; round++) {
        CHECK_STATUS(case_save(comm, root, 95, 1, 1, &t, 1, NULL), LS_E_INPUT);
        CHECK(comm->size == 1 || strncmp(ls_error_last()->message, "rank 0: ", 8) == 0);
        t.dims[1] = wrong ? 0 : t.dims[1];
    }
    t = good;
    t.box.start[0] = wrong ? 1 : 0;
    t.box.extent[0] = wrong ? t.dims[0] : 0;
    CHECK_STATUS(case_save(comm, root, 95, 1, 1, &t, 1, NULL), LS_E_SHAPE);
    CHECK_MESSAGE("leaves dimension 0");
    for (int what = 0; what < 3 && comm->size > 1; what++) { /* of a rank that saves nothing */
        t = good;
        t.box.start[0] -= wrong && what == 0;
        t.box.extent[0] -= wrong && what == 1;
        t.box.ndim -= wrong && what == 2;
        CHECK_STATUS(case_save(comm, root, 95, 1, 1, &t, 1, NULL), LS_E_SHAPE);
        CHECK_MESSAGE(what < 2 ? "leaves dimension 0" : "2 dimensions, its box has 1");
    }
    t = good;
    if (comm->rank == 0) {
        t.box.extent[0]--;
    }
    CHECK_STATUS(case_save(comm, root, 95, 1, 1, &t, 1, NULL), LS_E_SHAPE);
    CHECK_MESSAGE("elements");
    CHECK_STATUS(case_save(comm, root, 95, 20, 1, &good, 1, NULL), LS_E_INPUT);
    if (comm->size > 1) {
        t = good;
        t.box = box;
        CHECK_STATUS(case_save(comm, root, 95, 1, 1, &t, 1, NULL), LS_E_SHAPE);
        CHECK_MESSAGE("two pieces hold the element at [0, 0]");
        CHECK_STATUS(case_save(comm, root, comm->rank, 1, 1, &good, 1, NULL), LS_E_CONFIG);
        CHECK_STATUS(case_save(comm, root, 95, comm->rank == 0, 1, &good, 1, NULL), LS_E_CONFIG);
        CHECK_MESSAGE(
            "rank 1 saves step 95, tokens 95000, level 0, parity 0; rank 0 saves step 95, "
            "tokens 95000, level 1, parity 0");
    }
    free(good.data);
    char *path = NULL;
    CHECK_OK(ls_ckpt_latest(root, &path));
    CHECK(path && strstr(path, "step-00000090"));
    free(path);
}

/* Each rank has a directory of its own, as where hosts share none: the save fails on all, and none
 * of them keeps its part. */
static void test_not_shared(void) {
    char mine[4200];
    ls_ckpt_tensor tensors[CASE_TENSORS];
    ls_ckpt_save_result result;
    snprintf(mine, sizeof mine, "%s/host-%d", root, comm->rank);
    cases_make(tensors, CASE_TENSORS, comm->rank, comm->size);
    ls_status status = case_save(comm, mine, 97, 1, 1, tensors, CASE_TENSORS, &result);
    cases_free(tensors, CASE_TENSORS);
    CHECK_STATUS(status, comm->size > 1 ? LS_E_IO : LS_OK);
    if (comm->size > 1) {
        CHECK_MESSAGE("of another writer is not seen here; checkpoints need a directory that all");
        CHECK_INT(rmdir(mine), 0); /* it is empty */
    }
}

/* What load refuses, on a checkpoint made above. */
static void test_load_refusals(void) {
    char *path = NULL;
    ls_ckpt *ckpt = NULL;
    CHECK_OK(ls_ckpt_latest(root, &path));
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    ls_ckpt_tensor good = case_tensor(3, NULL), t = good;
    t.name = "missing";
    CHECK_STATUS(ls_ckpt_load(ckpt, &t, 1), LS_E_SHAPE);
    CHECK_MESSAGE("'missing'");
    t = good;
    t.dtype = LS_F16;
    CHECK_STATUS(ls_ckpt_load(ckpt, &t, 1), LS_E_SHAPE);
    CHECK_MESSAGE("bfloat16 [131, 77]");
    CHECK_MESSAGE("float16 [131, 77]");
    t = good;
    t.dims[0]++;
    CHECK_STATUS(ls_ckpt_load(ckpt, &t, 1), LS_E_SHAPE);
    CHECK_MESSAGE("[132, 77]");
    t = good;
    t.box.start[1] = 1;
    CHECK_STATUS(ls_ckpt_load(ckpt, &t, 1), LS_E_SHAPE);
    t.box.start[1] = INT64_MAX;
    CHECK_STATUS(ls_ckpt_load(ckpt, &t, 1), LS_E_SHAPE);
    CHECK_OK(ls_ckpt_load(ckpt, NULL, 0));
    free(good.data);
    free(path);
    ls_ckpt_close(ckpt);
    CHECK_STATUS(ls_ckpt_open(root, &ckpt), LS_E_INPUT);
    CHECK_MESSAGE("manifest.json");
    CHECK_STATUS(ls_ckpt_latest("/nonexistent", &path), LS_E_INPUT);
}

/* Only names that a reader looks at remain: no temporaries. */
static void test_nothing_left(void) {
    int64_t *steps = NULL;
    size_t count = 0;
    CHECK_OK(ls_ckpt_list(root, &steps, &count));
    CHECK_INT(count, 5);
    free(steps);
    if (comm->rank == 0) {
        char command[4200];
        snprintf(command, sizeof command, "test -z \"$(ls -A '%s' | grep tmp)\"", root);
        CHECK_INT(system(command), 0);
    }
}

int main(int argc, char **argv) {
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &comm));
    ls_error_set_rank(comm->rank);
    if (comm->rank == 0) {
        snprintf(root, sizeof root, "%s", case_directory());
    }
    CHECK_OK(comm->ops->broadcast(comm, root, sizeof root, 0));
    test_round_trip(1, 50);
    test_round_trip(0, 60);
    test_boxes();
    test_same_bytes();
    test_same_step();
    test_taken_name();
    test_options();
    test_refusals();
    test_not_shared();
    test_load_refusals();
    comm->ops->barrier(comm);
    test_nothing_left();
    comm->ops->barrier(comm);
    if (comm->rank == 0) {
        CHECK_OK(ls_dir_remove(root));
    }
    ls_comm_mpi_finalize();
    return test_end();
}
