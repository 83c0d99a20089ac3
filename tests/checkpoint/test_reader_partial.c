/* A load reads only the chunks that its boxes touch, and damage elsewhere does not matter to it. */
#include "checkpoint/format.h"
#include "runtime/base/log.h"
#include "tests/checkpoint/ckpt_cases.h"

#include <fcntl.h>
#include <sys/mman.h>

/* This case has several chunks. Beside a chunk is read: the rest of its page, and /proc/self/io. */
enum { MANY = 10, BESIDE = 4096 + 512 };

static char path[1024];

/* The kernel's word that the page cache holds nothing: so chunks are read past it. */
static _Atomic int asked;

int mincore(void *start, size_t bytes, unsigned char *pages) {
    (void)start;
    asked++;
    memset(pages, 0, (bytes + 4095) / 4096);
    return 0;
}

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

/* A read past the page cache may end early: the rest comes the usual way. */
static void test_short_direct(const char *root) {
    enum { BYTES = 150000, SHORT = 98304 };
    char whole[512], part[512];
    uint8_t *expected = malloc(BYTES), *packed = NULL;
    size_t capacity = 0;
    for (int i = 0; i < BYTES; i++) {
        expected[i] = (uint8_t)(i * 131 >> 3);
    }
    snprintf(whole, sizeof whole, "%s/whole", root);
    snprintf(part, sizeof part, "%s/part", root);
    CHECK_OK(ls_file_replace(whole, expected, BYTES));
    CHECK_OK(ls_file_replace(part, expected, SHORT));
    ls_ckpt_source source = {.fd = open(whole, O_RDONLY), .direct = open(part, O_RDONLY)};
    const ls_ckpt_chunk chunk = {.at = 0, .bytes = BYTES};
    const int before = asked;
    CHECK_OK(ls_ckpt_chunk_read(&source, &chunk, &packed, &capacity));
    CHECK(memcmp(packed, expected, BYTES) == 0);
    CHECK(asked > before); /* else it was not read so */
    ls_ckpt_source_close(&source);
    free(packed);
    free(expected);
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
    test_short_direct(root);
    CHECK_OK(ls_dir_remove(root));
    comm->ops->destroy(comm);
    return test_end();
}
