/* The code itself: every set of lost files that can be made again is, for odd numbers and sizes. */
#include "checkpoint/parity.h"
#include "tests/checkpoint/ckpt_cases.h"

#include <fcntl.h>

static char root[256];

static void file_make(const char *name, int number, int64_t bytes) {
    char path[800];
    uint8_t *data = malloc((size_t)bytes + 8);
    for (int64_t i = 0; i < bytes; i += 8) {
        uint64_t value = case_value(number, i, 8);
        memcpy(data + i, &value, 8);
    }
    snprintf(path, sizeof path, "%s/%.64s", root, name);
    CHECK_OK(ls_file_replace(path, data, (size_t)bytes));
    free(data);
}

static bool same(const char *name, int fd) {
    char path[800], *expected = NULL;
    size_t bytes;
    snprintf(path, sizeof path, "%s/%s", root, name);
    CHECK_OK(ls_file_read(path, (size_t)1 << 30, &expected, &bytes));
    char *found = malloc(bytes + 1);
    bool equal = pread(fd, found, bytes + 1, 0) == (ssize_t)bytes &&
                 (bytes == 0 || memcmp(found, expected, bytes) == 0);
    free(found);
    free(expected);
    return equal;
}

/* Loses the files of `mask`, which are moved away, and makes all of them again. */
static void lose(const ls_parity *group, unsigned mask) {
    bool lost[LS_PARITY_GROUP + LS_PARITY_MAX] = {false};
    int fds[LS_PARITY_GROUP + LS_PARITY_MAX], all = group->data + group->parity;
    char path[800], away[820];
    for (int i = 0; i < LS_PARITY_GROUP + LS_PARITY_MAX; i++) {
        fds[i] = -1;
    }
    for (int i = 0; i < all; i++) {
        if (mask & 1u << i) {
            lost[i] = true;
            snprintf(path, sizeof path, "%s/%s", root, group->names[i]);
            snprintf(away, sizeof away, "%s.away", path);
            CHECK(rename(path, away) == 0);
            snprintf(path, sizeof path, "%s/again-%d", root, i);
            fds[i] = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        }
    }
    int count = __builtin_popcount(mask);
    ls_status status = ls_parity_rebuild(root, group, lost, fds);
    CHECK_INT(status, count <= group->parity ? LS_OK : LS_E_CORRUPT);
    for (int i = 0; i < all; i++) {
        if (lost[i]) {
            snprintf(path, sizeof path, "%s/%s", root, group->names[i]);
            snprintf(away, sizeof away, "%s.away", path);
            CHECK(rename(away, path) == 0);
            CHECK(status != LS_OK || same(group->names[i], fds[i]));
            close(fds[i]);
        }
    }
}

/* Every stride-th set of lost files. */
static void test_group(int data, int parity, int64_t bytes, unsigned stride) {
    static char names[LS_PARITY_GROUP + LS_PARITY_MAX][32];
    ls_parity group = {.data = data, .parity = parity};
    for (int i = 0; i < data + parity; i++) {
        group.names[i] = names[i];
        if (i < data) {
            snprintf(names[i], sizeof names[i], "data-%d", i);
            group.bytes[i] = bytes / (i + 1); /* one is 0 bytes long where there are many */
            file_make(names[i], i, group.bytes[i]);
        } else {
            char path[800];
            ls_parity_name(names[i], sizeof names[i], 0, i - data);
            snprintf(path, sizeof path, "%s/%s", root, names[i]);
            unlink(path);
        }
    }
    CHECK_OK(ls_parity_write(root, &group));
    CHECK_STATUS(ls_parity_write(root, &group), LS_E_IO); /* they exist */
    for (unsigned mask = 1; mask < 1u << (data + parity); mask += stride) {
        if (__builtin_popcount(mask) <= parity + (data + parity < 6)) {
            lose(&group, mask);
        }
    }
}

/* A shorter file counts as if zeros followed, over all blocks: the parity of one that has them is
 * the same. */
static void test_zeros(void) {
    enum { LONG = 2100007, SHORT = 1500000 };
    ls_parity group = {
        .data = 2, .parity = 1, .names = {"long", "short", "as-if.rs"}, .bytes = {LONG, SHORT}};
    char path[800];
    file_make("long", 1, LONG);
    file_make("short", 2, SHORT);
    CHECK_OK(ls_parity_write(root, &group));
    snprintf(path, sizeof path, "%s/short", root);
    CHECK(truncate(path, LONG) == 0);
    group.names[2] = "zeros.rs";
    group.bytes[1] = LONG;
    CHECK_OK(ls_parity_write(root, &group));
    snprintf(path, sizeof path, "%s/zeros.rs", root);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(same("as-if.rs", fd));
    close(fd);
}

static void test_ranges(void) {
    char name[32];
    CHECK_STR(ls_parity_name(name, sizeof name, 12, 3), "parity-00012-3.rs");
    for (int files = 1; files < 100; files++) {
        int next = 0;
        for (int g = 0; g < ls_parity_groups(files); g++) {
            int first, end;
            ls_parity_range(files, g, &first, &end);
            CHECK_INT(first, next);
            CHECK(end > first && end - first <= LS_PARITY_GROUP);
            next = end;
        }
        CHECK_INT(next, files);
    }
}

int main(void) {
    snprintf(root, sizeof root, "%s", case_directory());
    test_ranges();
    test_zeros();
    test_group(1, 1, 100, 1);
    test_group(1, 3, 1, 1);
    test_group(2, 2, 1048577, 1); /* a byte more than a block */
    test_group(3, 1, 77, 1);
    test_group(5, 2, 2100007, 1);
    test_group(4, 3, 31, 1);
    test_group(16, 1, 1000, 1);
    test_group(16, 2, 13, 1);
    test_group(3, 8, 4099, 37);
    CHECK_OK(ls_dir_remove(root));
    return test_end();
}
