/* Headers of safetensors files: what is read, what is refused and in which words, and thousands of
 * damaged ones. Writing: one file and several, read back. */
#include "checkpoint/safetensors.h"
#include "runtime/base/file.h"
#include "runtime/base/rng.h"
#include "tests/test.h"

#include <unistd.h>

static const char good[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[20,32]},"
                           "\"a\":{\"dtype\":\"F32\",\"shape\":[5],\"data_offsets\":[0,20]},"
                           "\"e\":{\"dtype\":\"I8\",\"shape\":[0,7],\"data_offsets\":[32,32]},"
                           "\"s\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[32,33]}}";

/* header as a file with data_bytes after it. */
static ls_status parse(const char *header, int64_t data_bytes, ls_safetensors **st) {
    size_t length = strlen(header);
    uint8_t *file = malloc(length + 8);
    for (int i = 0; i < 8; i++) {
        file[i] = (uint8_t)((uint64_t)length >> (8 * i));
    }
    memcpy(file + 8, header, length);
    ls_status status =
        ls_safetensors_parse(file, length + 8, 8 + (int64_t)length + data_bytes, "x", st);
    free(file);
    return status;
}

static void reads_a_header(void) {
    ls_safetensors *st;
    int count;
    CHECK_OK(parse(good, 33, &st));
    ls_safetensors_tensors(st, &count);
    CHECK_INT(count, 4);
    const ls_st_tensor *b = ls_safetensors_find(st, "b");
    CHECK(b && b->dtype == LS_BF16 && b->ndim == 2 && b->dims[0] == 2 && b->dims[1] == 3);
    CHECK_INT(b->bytes, 12);
    CHECK_INT(b->offset, 8 + (int64_t)strlen(good) + 20);
    CHECK_INT(ls_safetensors_find(st, "e")->bytes, 0);
    CHECK_INT(ls_safetensors_find(st, "s")->bytes, 1);
    CHECK(!ls_safetensors_find(st, "__metadata__"));
    CHECK(!ls_safetensors_find(st, "c"));
    ls_safetensors_close(st);
    CHECK_OK(parse("{}", 0, &st));
    CHECK(!ls_safetensors_find(st, "a"));
    ls_safetensors_close(st);
}

#define ONE(dtype, shape, begin, end)                                                              \
    "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}}"

static void refuses_bad_headers(void) {
    static const struct {
        const char *header;
        int64_t data_bytes;
        const char *message;
    } bad[] = {
        {ONE("F32", "[5]", "0", "16"), 16, "its shape takes 20 bytes"},
        {ONE("F32", "[5]", "4", "24"), 24, "begins at byte 4"},
        {ONE("F32", "[5]", "0", "20"), 19, "behind the end of the file"},
        {ONE("F32", "[5]", "0", "20"), 21, "belong to none"},
        {ONE("F31", "[5]", "0", "20"), 20, "F31"},
        {ONE("F32", "[-5]", "0", "-20"), 20, "impossible shape"},
        {ONE("F32", "[5.0]", "0", "20"), 20, "impossible shape"},
        {ONE("F64", "[4294967296,4294967296]", "0", "0"), 0, "impossible shape"},
        {ONE("F32", "[4611686018427387904]", "0", "0"), 0, "impossible shape"},
        {ONE("F32", "[1,1,1,1,1,1,1,1,1]", "0", "4"), 4, "9 dimensions"},
        {ONE("F32", "5", "0", "20"), 20, "a shape and two"},
        {"{\"a\":7}", 0, "data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "data_offsets"},
        {"{\"a\":{},\"a\":{}}", 0, "duplicate"},
        {"[1]", 0, "does not begin with"},
        {"{\"a\"", 0, "no JSON object"},
        {" {}", 0, "does not begin with"},
    };
    ls_safetensors *st;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(parse(bad[i].header, bad[i].data_bytes, &st) != LS_OK);
        CHECK_MESSAGE(bad[i].message);
        CHECK(!st);
    }
    uint8_t huge[16] = {255, 255, 255, 255, 255, 255, 255, 127, '{', '}'};
    CHECK_STATUS(ls_safetensors_parse(huge, 10, 10, "x", &st), LS_E_CORRUPT);
    CHECK_STATUS(ls_safetensors_parse(huge, 7, 7, "x", &st), LS_E_CORRUPT);
    memset(huge, 0, 8);
    CHECK_STATUS(ls_safetensors_parse(huge, 10, 10, "x", &st), LS_E_CORRUPT);
}

/* Whatever is changed, the tensors of an accepted header lie in the file, without overlap. */
static void survives_damage(void) {
    static const char bytes[] = "0123456789-[]{},:\"eE.nulUF\\\x01\xff";
    const size_t length = sizeof good - 1;
    char text[sizeof good];
    int accepted = 0;
    for (uint64_t round = 0; round < 30000; round++) {
        memcpy(text, good, sizeof good);
        int changes = 1 + (int)(ls_rng_draw(7, 0, round).v[0] % 3);
        for (int c = 0; c < changes; c++) {
            ls_rng_block r = ls_rng_draw(7, 1 + (uint64_t)c, round);
            size_t at = r.v[0] % length;
            text[at] = r.v[1] % 4 ? bytes[r.v[2] % (sizeof bytes - 1)] : (char)(r.v[3] % 255 + 1);
        }
        ls_safetensors *st;
        int64_t data_bytes = 33, total = 0;
        if (parse(text, data_bytes, &st) != LS_OK) {
            CHECK(st == NULL);
            continue;
        }
        int count;
        const ls_st_tensor *all = ls_safetensors_tensors(st, &count);
        for (int i = 0; i < count; i++) {
            CHECK(all[i].offset >= 8 + (int64_t)length && all[i].bytes >= 0);
            CHECK(all[i].offset + all[i].bytes <= 8 + (int64_t)length + data_bytes);
            total += all[i].bytes;
        }
        CHECK_INT(total, data_bytes);
        accepted++;
        ls_safetensors_close(st);
    }
    CHECK(accepted > 100); /* changed letters of names do no harm */
}

static void put(const ls_st_writer *w, int i, const void *data, size_t bytes) {
    int fd;
    const char *path;
    int64_t offset;
    ls_st_writer_place(w, i, &fd, &path, &offset);
    CHECK(pwrite(fd, data, bytes, (off_t)offset) == (ssize_t)bytes);
}

static void writes_and_reads(int64_t shard_bytes, int expected_files) {
    char directory[] = "/tmp/lockstep-st-XXXXXX", path[256];
    CHECK(mkdtemp(directory) != NULL);
    const ls_st_tensor tensors[] = {
        {.name = "w\"\\\xc3\xa9", .dtype = LS_F32, .ndim = 2, .dims = {3, 5}},
        {.name = "b", .dtype = LS_BF16, .ndim = 1, .dims = {7}},
        {.name = "a", .dtype = LS_I64, .ndim = 1, .dims = {1}},
    };
    float w[15];
    uint16_t b[7], found_b[3];
    int64_t a = -9, found_a = 0, bytes;
    for (int i = 0; i < 15; i++) {
        w[i] = (float)i / 3;
    }
    for (int i = 0; i < 7; i++) {
        b[i] = (uint16_t)(1000 + i);
    }
    ls_st_writer *writer;
    int files;
    CHECK_OK(ls_st_writer_open(directory, tensors, 3, shard_bytes, &writer));
    put(writer, 0, w, sizeof w);
    put(writer, 1, b, sizeof b);
    put(writer, 2, &a, sizeof a);
    CHECK_OK(ls_st_writer_complete(writer, &files, &bytes));
    CHECK_INT(files, expected_files);
    ls_st_writer_close(writer);
    CHECK_STATUS(ls_st_writer_open(directory, tensors, 3, shard_bytes, &writer), LS_E_IO);
    ls_safetensors *st;
    CHECK_OK(ls_safetensors_open(directory, &st));
    const ls_st_tensor *t = ls_safetensors_find(st, tensors[0].name);
    float part[4];
    CHECK(t && t->bytes == sizeof w);
    CHECK_OK(ls_safetensors_read(st, t, 11, 4, part));
    CHECK(memcmp(part, w + 11, sizeof part) == 0);
    CHECK_OK(ls_safetensors_read(st, ls_safetensors_find(st, "b"), 2, 3, found_b));
    CHECK(memcmp(found_b, b + 2, sizeof found_b) == 0);
    CHECK_OK(ls_safetensors_read(st, ls_safetensors_find(st, "a"), 0, 1, &found_a));
    CHECK_INT(found_a, a);
    ls_safetensors_close(st);
    if (expected_files > 1) {
        static const char *const bad[][2] = {
            {"{\"weight_map\":{\"b\":\"../x\"}}", "no file's name"},
            {"{\"weight_map\":{\"b\":\"missing.safetensors\"}}", "missing.safetensors"},
            {"{\"weight_map\":{\"b\":3}}", "no file's name"},
            {"{\"weight_map\":{}}", "weight_map"},
            {"{", "weight_map"}};
        snprintf(path, sizeof path, "%s/model.safetensors.index.json", directory);
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            CHECK_OK(ls_file_replace(path, bad[i][0], strlen(bad[i][0])));
            CHECK(ls_safetensors_open(directory, &st) != LS_OK);
            CHECK_MESSAGE(bad[i][1]);
        }
        CHECK_OK(ls_file_replace(path, "{}", 2));
        char first[256];
        snprintf(first, sizeof first, "%s/model-00001-of-0000%d.safetensors", directory,
                 expected_files);
        CHECK_OK(ls_safetensors_open(first, &st)); /* one file by itself */
        ls_safetensors_close(st);
        CHECK(truncate(first, 40) == 0);
        CHECK(ls_safetensors_open(first, &st) != LS_OK);
        CHECK(truncate(first, 3) == 0);
        CHECK_STATUS(ls_safetensors_open(first, &st), LS_E_INPUT);
    }
    CHECK_OK(ls_dir_remove(directory));
    CHECK_STATUS(ls_safetensors_open(directory, &st), LS_E_INPUT);
}

int main(void) {
    reads_a_header();
    refuses_bad_headers();
    survives_damage();
    writes_and_reads(1 << 20, 1);
    writes_and_reads(64, 2);
    writes_and_reads(1, 3);
    return test_end();
}
