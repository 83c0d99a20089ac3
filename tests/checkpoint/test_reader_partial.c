/* A load reads only the chunks that its boxes touch, and damage elsewhere does not matter to it. */
#include "runtime/base/log.h"
#include "tests/checkpoint/ckpt_cases.h"

#include <fcntl.h>

/* This case has several chunks. Beside a chunk is read: the rest of its page, and /proc/self/io. */
enum { MANY = 10, BESIDE = 4096 + 512 };

static char path[1024];

/* Bytes that this process has read so far. */
static long long bytes_read(void) {
    char text[512];
    long long bytes = -1;
    int fd = open("/proc/self/io", O_RDONLY);
    ssize_t n = read(fd, text, sizeof text - 1);
    CHECK(n > 0);
    text[n > 0 ? n : 0] = '\0';
    CHECK(sscanf(text, "rchar: %lld", &bytes) == 1);
    close(fd);
    return bytes;
}

static void test_bytes(ls_ckpt *ckpt, const ls_ckpt_piece *piece) {
    ls_box box = {.ndim = 2, .start = {piece->chunk[0], 7}, .extent = {1, 1}};
    long long before = bytes_read();
    CHECK_OK(case_check(ckpt, MANY, &box));
    long long one = bytes_read() - before;
    CHECK(one >= piece->places[1].bytes && one < piece->places[1].bytes + BESIDE);
    box.extent[0] = piece->chunk[0] + 1; /* two chunks */
    before = bytes_read();
    CHECK_OK(case_check(ckpt, MANY, &box));
    long long two = bytes_read() - before;
    CHECK(two >= piece->places[1].bytes + piece->places[2].bytes && two < one + one);
}

/* A damaged chunk: every box that avoids it loads, every box that touches it is refused. */
static void test_damage(ls_ckpt *ckpt, const ls_ckpt_piece *piece) {
    char file[2048];
    uint8_t byte = 0;
    off_t at = (off_t)(piece->places[1].at + piece->places[1].bytes / 2);
    snprintf(file, sizeof file, "%s/%s", path, piece->file);
    int fd = open(file, O_RDWR);
    CHECK(pread(fd, &byte, 1, at) == 1);
    byte ^= 1;
    CHECK(pwrite(fd, &byte, 1, at) == 1);
    const int64_t rows = piece->chunk[0];
    const struct {
        int64_t start, extent;
        bool damaged;
    } boxes[] = {{0, rows, false},        {0, rows + 1, true},
                 {rows - 1, 2, true},     {rows, 1, true},
                 {2 * rows - 1, 1, true}, {2 * rows, 3, false},
                 {2 * rows - 1, 2, true}, {2 * rows, 999 - 2 * rows, false}};
    for (size_t i = 0; i < sizeof boxes / sizeof *boxes; i++) {
        ls_box box = {.ndim = 2, .start = {boxes[i].start, 3}, .extent = {boxes[i].extent, 1000}};
        CHECK_STATUS(case_check(ckpt, MANY, &box), boxes[i].damaged ? LS_E_CORRUPT : LS_OK);
        if (boxes[i].damaged) {
            CHECK_MESSAGE("rank-00000.h5': chunk 1 of '/tensors/optim:exp_avg:many_chunks'");
        }
    }
    for (int i = 0; i < CASE_TENSORS; i++) {
        CHECK_STATUS(case_check(ckpt, i, NULL), i == MANY ? LS_E_CORRUPT : LS_OK);
    }
    byte ^= 1;
    CHECK(pwrite(fd, &byte, 1, at) == 1);
    close(fd);
    CHECK_OK(case_check(ckpt, MANY, NULL));
}

static void test_file(ls_comm *comm, const char *root, int level) {
    ls_ckpt_tensor tensors[CASE_TENSORS];
    ls_ckpt_save_result result = {0};
    ls_ckpt *ckpt = NULL;
    cases_make(tensors, CASE_TENSORS, 0, 1);
    CHECK_OK(case_save(comm, root, level, level, 1, tensors, CASE_TENSORS, &result));
    cases_free(tensors, CASE_TENSORS);
    memcpy(path, result.path, sizeof path);
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    const ls_ckpt_piece *piece = ls_ckpt_find(ckpt, cases[MANY].name)->pieces;
    CHECK(piece->chunks > 2);
    test_bytes(ckpt, piece);
    test_damage(ckpt, piece);
    ls_ckpt_close(ckpt);
}

int main(void) {
    ls_comm *comm;
    CHECK_OK(ls_comm_self(&comm));
    ls_log_set_quiet(true);
    const char *root = case_directory();
    for (int level = 0; level < 2; level++) {
        test_file(comm, root, level);
    }
    CHECK_OK(ls_dir_remove(root));
    comm->ops->destroy(comm);
    return test_end();
}
