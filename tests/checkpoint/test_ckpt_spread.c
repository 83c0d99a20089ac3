/* What rank 0 has opened is there on all ranks, which have looked at no file for it. */
#include "checkpoint/format.h"
#include "tests/checkpoint/ckpt_cases.h"

static ls_comm *comm;
static char root[4096];

static void barrier(void) {
    CHECK_OK(comm->ops->barrier(comm));
}

/* Opens it on rank 0 and takes it away from all while the others are told. */
static void open_and_hide(const char *path, ls_ckpt **ckpt) {
    char hidden[sizeof root + 16];
    snprintf(hidden, sizeof hidden, "%s/hidden", root);
    *ckpt = NULL;
    if (comm->rank == 0) {
        CHECK_OK(ls_ckpt_open(path, ckpt));
        CHECK_INT(rename(path, hidden), 0);
    }
    barrier();
    CHECK_OK(ls_ckpt_spread(comm, ckpt));
    barrier();
    if (comm->rank == 0) {
        CHECK_INT(rename(hidden, path), 0);
    }
    barrier();
}

static void save(int64_t step, int parity, ls_ckpt_save_result *result) {
    ls_ckpt_tensor tensors[CASE_TENSORS];
    ls_ckpt_save_options options = case_options(root, step, 1, 2);
    options.parity = parity;
    cases_make(tensors, CASE_TENSORS, comm->rank, comm->size);
    CHECK_OK(ls_ckpt_save(comm, &options, tensors, CASE_TENSORS, result));
    cases_free(tensors, CASE_TENSORS);
    json_decref((json_t *)options.run);
    json_decref((json_t *)options.counters);
}

static void test_spread(void) {
    ls_ckpt_save_result result;
    ls_ckpt *ckpt;
    save(7, 0, &result);
    open_and_hide(result.path, &ckpt);
    CHECK(ckpt != NULL);
    CHECK_STR(ls_ckpt_path(ckpt), result.path);
    CHECK_INT(ls_ckpt_step(ckpt), 7);
    CHECK_INT(ls_ckpt_tokens(ckpt), 7000);
    CHECK_STR(ls_ckpt_config(ckpt), "run:\n  seed: 42\n");
    CHECK_INT(json_integer_value(json_object_get(ls_ckpt_run(ckpt), "seed")), 42);
    CHECK(ckpt->text == NULL); /* no memory is kept for a second time */
    int64_t listed = 0;
    for (int f = 0; f < ckpt->file_count; f++) {
        CHECK_INT(ckpt->files[f].first_piece, listed);
        for (int64_t i = 0; i < ckpt->files[f].piece_count; i++) {
            CHECK_INT(ckpt->by_file[listed++]->file_index, f);
        }
    }
    CHECK_INT(listed, ckpt->piece_count);
    for (int i = 0; i < CASE_TENSORS; i++) {
        CHECK_OK(case_check(ckpt, i, NULL));
    }
    ls_ckpt_close(ckpt);
}

/* A file that parity makes up for is known to be lost on all ranks. */
static void test_lost_file(void) {
    ls_ckpt_save_result result;
    ls_ckpt *ckpt;
    char path[sizeof result.path + 32];
    save(8, 1, &result);
    snprintf(path, sizeof path, "%s/rank-00000.h5", result.path);
    CHECK(comm->rank != 0 || unlink(path) == 0);
    open_and_hide(result.path, &ckpt);
    CHECK(ckpt != NULL);
    for (int i = 0; i < ckpt->file_count; i++) {
        CHECK_INT(ckpt->files[i].lost, strcmp(ckpt->files[i].name, "rank-00000.h5") == 0);
    }
    CHECK(ls_ckpt_is_loadable(ckpt));
    for (int i = 0; i < CASE_TENSORS; i++) {
        CHECK_OK(case_check(ckpt, i, NULL));
    }
    ls_ckpt_close(ckpt);
}

static void test_none(void) {
    ls_ckpt *ckpt = NULL;
    CHECK_OK(ls_ckpt_spread(comm, &ckpt));
    CHECK(ckpt == NULL);
}

int main(int argc, char **argv) {
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &comm));
    ls_error_set_rank(comm->rank);
    if (comm->rank == 0) {
        snprintf(root, sizeof root, "%s", case_directory());
    }
    CHECK_OK(comm->ops->broadcast(comm, root, sizeof root, 0));
    test_spread();
    test_lost_file();
    test_none();
    barrier();
    if (comm->rank == 0) {
        CHECK_OK(ls_dir_remove(root));
    }
    ls_comm_mpi_finalize();
    return test_end();
}
