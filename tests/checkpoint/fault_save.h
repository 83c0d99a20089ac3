/* What the tests of faults share: a root with checkpoints whose values tell their step, and the
 * check that whatever has the name of a checkpoint is one. */
#ifndef LS_TESTS_FAULT_SAVE_H
#define LS_TESTS_FAULT_SAVE_H

#include "checkpoint/saver.h"
#include "tests/checkpoint/ckpt_cases.h"

#include <dirent.h>

static ls_comm *comm;
static char root[4096];

/* Values of step 1 are those of the cases, values of step 2 their complements. */
/* Tensor i of a checkpoint that has `count` cases again and again: "name", "1/name", ... */
static inline ls_ckpt_tensor fault_tensor(int i, int count, char name[64]) {
    ls_ckpt_tensor t = case_tensor(i % count, NULL);
    snprintf(name, 64, "%d/%s", i / count, t.name);
    t.name = i < count ? t.name : name;
    return t;
}

/* How the saves are made. */
typedef struct fault_way {
    bool background; /* a copy, by a thread of the saver, as training does it */
    int parity;
    bool plain; /* rename knows no flags, which a test must see to */
} fault_way;
static fault_way way;

static inline ls_status background_save(const ls_ckpt_save_options *options,
                                        const ls_ckpt_tensor *tensors, int count) {
    ls_ckpt_saver *saver;
    ls_ckpt_outcome outcome = {0};
    bool ended;
    LS_TRY(ls_ckpt_saver_create(
        &(ls_ckpt_saver_options){.comm = comm, .async = true, .tensors = tensors, .count = count},
        &saver));
    ls_ckpt_saver_start(saver, options, tensors, count, false);
    ls_status status = ls_ckpt_saver_poll(saver, true, &ended, &outcome);
    CHECK(status != LS_OK || ended);
    ls_ckpt_saver_destroy(saver);
    return status != LS_OK ? status : outcome.status;
}

static inline ls_status fault_save(int64_t step, int count, int copies, int level, int threads) {
    int total = count * copies;
    ls_ckpt_tensor *tensors = calloc((size_t)total, sizeof *tensors);
    char(*names)[64] = calloc((size_t)total, sizeof *names);
    for (int i = 0; i < total; i++) {
        tensors[i] = fault_tensor(i, count, names[i]);
        size_t bytes = (size_t)ls_box_elems(&tensors[i].box) * ls_dtype_bytes(tensors[i].dtype);
        for (size_t k = 0; k < bytes && step == 2; k++) {
            ((uint8_t *)tensors[i].data)[k] ^= 0xff;
        }
    }
    ls_ckpt_save_options options = case_options(root, step, level, threads);
    options.parity = way.parity;
    ls_status status = way.background ? background_save(&options, tensors, total)
                                      : ls_ckpt_save(comm, &options, tensors, total, NULL);
    ls_error error = *ls_error_last();
    json_decref((json_t *)options.run);
    json_decref((json_t *)options.counters);
    cases_free(tensors, total);
    free(tensors);
    free(names);
    return status == LS_OK ? LS_OK
                           : ls_error_set(status, error.file, error.line, "%s", error.message);
}

/* Loads all tensors and compares each byte. LS_OK, or what loading said. */
static inline ls_status fault_values_check(ls_ckpt *ckpt) {
    int total = ls_ckpt_describe(ckpt).tensors, count = 1;
    uint8_t mask = ls_ckpt_step(ckpt) == 2 ? 0xff : 0;
    while (count < CASE_TENSORS && ls_ckpt_find(ckpt, cases[count].name)) {
        count++;
    }
    for (int i = 0; i < total; i++) {
        char name[64];
        ls_ckpt_tensor t = fault_tensor(i, count, name);
        size_t bytes = (size_t)ls_box_elems(&t.box) * ls_dtype_bytes(t.dtype);
        uint8_t *expected = t.data;
        t.data = calloc(1, bytes);
        ls_status status = ls_ckpt_load(ckpt, &t, 1);
        for (size_t k = 0; k < bytes && status == LS_OK; k++) {
            expected[k] ^= mask;
        }
        CHECK(status != LS_OK || memcmp(t.data, expected, bytes) == 0);
        free(expected);
        free(t.data);
        LS_TRY(status);
    }
    return LS_OK;
}

/* What is there is whole: returns the newest step. */
static inline int64_t fault_whole_check(void) {
    int64_t *steps, newest = -1;
    size_t count;
    CHECK_OK(ls_ckpt_list(root, &steps, &count));
    for (size_t i = 0; i < count; i++) {
        char path[4200];
        ls_ckpt *ckpt = NULL;
        snprintf(path, sizeof path, "%s/step-%08lld", root, (long long)steps[i]);
        CHECK_OK(ls_ckpt_open(path, &ckpt));
        if (ckpt) {
            CHECK_OK(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_DEEP, NULL, NULL));
            CHECK_OK(fault_values_check(ckpt));
            newest = steps[i] > newest ? steps[i] : newest;
        }
        ls_ckpt_close(ckpt);
    }
    free(steps);
    return newest;
}

/* Starts main: where thousands of fsyncs cost little, when there is such a place. */
static inline void fault_begin(void) {
    CHECK_OK(ls_comm_self(&comm));
    if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0) {
        setenv("TMPDIR", "/dev/shm", 1);
    }
    snprintf(root, sizeof root, "%s", case_directory());
}

static inline int fault_end(void) {
    CHECK_OK(ls_dir_remove(root));
    comm->ops->destroy(comm);
    return test_end();
}

/* Saves under the root that have not ended. */
static inline int fault_temporaries(void) {
    int count = 0;
    DIR *directory = opendir(root);
    struct dirent *item;
    while (directory && (item = readdir(directory))) {
        count += strncmp(item->d_name, ".tmp-", 5) == 0;
    }
    closedir(directory);
    return count;
}

static inline void fault_step_remove(int64_t step) {
    char path[4200];
    snprintf(path, sizeof path, "%s/step-%08lld", root, (long long)step);
    CHECK_OK(ls_dir_remove(path));
}

#endif
