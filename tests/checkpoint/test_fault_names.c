/* Names that mean something to a file system, HDF5, printf or a terminal: saved and loaded as they
 * are, or refused; nothing is made outside of the checkpoint. */
#include "runtime/base/log.h"
#include "tests/checkpoint/ckpt_cases.h"
#include "tests/checkpoint/ckpt_damage.h"

#include <dirent.h>

static const char *const names[] = {
    "/",
    "//",
    "..",
    ".",
    "../../escape",
    "/etc/passwd",
    "a/../b",
    "a/",
    "a",
    "a:",
    "a~3A",
    "a@0",
    "a%n%s",
    "\x01\x1b[2J\x7f",
    "\n",
    " ",
    "tensors",
    "/tensors/a",
    "counters",
    "\\",
    "\"quoted\"",
    "manifest",
    "index.h5",
    "\xf0\x9f\x98\x80",
    "a,b",
    "~",
};

enum { NAMES = sizeof names / sizeof *names };

static void tensor_make(ls_ckpt_tensor *t, const char *name, float *value) {
    *t = (ls_ckpt_tensor){.name = name, .dtype = LS_F32, .ndim = 1, .dims = {1}, .data = value};
    t->box = ls_box_whole(1, t->dims);
}

static int entries_in(const char *path) {
    int count = 0;
    DIR *directory = opendir(path);
    while (directory && readdir(directory)) {
        count++;
    }
    closedir(directory);
    return count - 2;
}

static void test_round_trip(ls_comm *comm, const char *root) {
    ls_ckpt_tensor tensors[NAMES];
    ls_ckpt_save_result result = {0};
    ls_ckpt *ckpt = NULL;
    float values[NAMES];
    for (int i = 0; i < NAMES; i++) {
        values[i] = (float)i;
        tensor_make(&tensors[i], names[i], &values[i]);
    }
    CHECK_OK(case_save(comm, root, 1, 1, 1, tensors, NAMES, &result));
    CHECK_OK(ls_ckpt_open(result.path, &ckpt));
    CHECK_OK(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_DEEP, NULL, NULL));
    for (int i = 0; i < NAMES; i++) {
        float found = -1;
        ls_ckpt_tensor t;
        tensor_make(&t, names[i], &found);
        CHECK_OK(ls_ckpt_load(ckpt, &t, 1));
        CHECK(found == values[i]);
    }
    ls_ckpt_close(ckpt);
    CHECK_INT(entries_in(result.path), 3);
}

static void test_refused(ls_comm *comm, const char *root) {
    char longest[LS_CKPT_NAME_MAX + 2];
    memset(longest, 'x', sizeof longest);
    longest[LS_CKPT_NAME_MAX + 1] = '\0';
    const char *const bad[] = {"", "\xff", "\xc0\xaf", "\xed\xa0\x80", "a\x80", longest};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        float value = 1;
        ls_ckpt_tensor t;
        tensor_make(&t, bad[i], &value);
        CHECK_STATUS(case_save(comm, root, 2, 1, 1, &t, 1, NULL), LS_E_INPUT);
    }
    /* The same name twice. */
    float value = 1;
    ls_ckpt_tensor twice[2];
    tensor_make(&twice[0], "twice", &value);
    twice[1] = twice[0];
    CHECK(case_save(comm, root, 2, 1, 1, twice, 2, NULL) != LS_OK);
    CHECK(!ls_path_exists(damage_path(root, "step-00000002")));
}

/* A NUL or half a character in a manifest's name. */
static void test_manifest(const char *root) {
    static const char *const bad[] = {"a\\u0000b", "\\u0000", "\\ud800", "\xff", "\xc0\xaf"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t bytes;
        char *good = damage_read(damage_path(root, "step-00000001"), LS_CKPT_MANIFEST, &bytes);
        char *at = strstr(good, "\"name\":\"tensors\"");
        CHECK(at != NULL);
        char *text = malloc(bytes + 64);
        size_t before = (size_t)(at - good);
        memcpy(text, good, before);
        int added = sprintf(text + before, "\"name\":\"%s\"", bad[i]);
        size_t cut = strlen("\"name\":\"tensors\"");
        memcpy(text + before + added, at + cut, bytes - before - cut + 1);
        bytes = bytes - cut + (size_t)added;
        damage_sign(text, bytes);
        ls_ckpt *ckpt = NULL;
        CHECK_STATUS(ls_ckpt_manifest_parse(text, bytes, "m", &ckpt), LS_E_CORRUPT);
        CHECK(ckpt == NULL);
        free(text);
        free(good);
    }
}

int main(void) {
    ls_comm *comm;
    CHECK_OK(ls_comm_self(&comm));
    ls_log_set_quiet(true);
    const char *root = case_directory();
    test_round_trip(comm, root);
    test_refused(comm, root);
    test_manifest(root);
    CHECK_OK(ls_dir_remove(root));
    comm->ops->destroy(comm);
    return test_end();
}
