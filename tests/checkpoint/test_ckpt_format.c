/* Names, chunk grids, coverage, assignment over ranks, and the codec. */
#include "checkpoint/format.h"
#include "checkpoint/planes.h"
#include "runtime/base/rng.h"
#include "tests/test.h"

static uint64_t draws;

static int64_t draw(int64_t low, int64_t high) {
    return low + (int64_t)(ls_rng_draw(11, 0, draws++).v[0] % (uint64_t)(high - low + 1));
}

static void test_names(void) {
    char path[LS_CKPT_DATASET_MAX + 16];
    const int64_t dims[2] = {10, 4};
    ls_box whole = ls_box_whole(2, dims), part = whole;
    part.start[0] = 3;
    part.extent[0] = 7;
    CHECK_OK(ls_ckpt_dataset_path(path, sizeof path, "optim/m/w.0", 2, dims, &whole));
    CHECK_STR(path, "/tensors/optim:m:w.0");
    CHECK_OK(ls_ckpt_dataset_path(path, sizeof path, "optim/m/w.0", 2, dims, &part));
    CHECK_STR(path, "/tensors/optim:m:w.0@3,0");
    CHECK_OK(ls_ckpt_dataset_path(path, sizeof path, ".~%:@\\\n\x7f.", 2, dims, &whole));
    CHECK_STR(path, "/tensors/~2E~7E~25~3A~40~5C~0A~7F.");
    CHECK_OK(ls_ckpt_name_check("a"));
    CHECK_STATUS(ls_ckpt_name_check(""), LS_E_INPUT);
    CHECK_STATUS(ls_ckpt_name_check("\xff"), LS_E_INPUT);
    char name[LS_CKPT_NAME_MAX + 2];
    memset(name, '@', sizeof name);
    name[LS_CKPT_NAME_MAX] = '\0';
    CHECK_OK(ls_ckpt_name_check(name));
    CHECK_OK(ls_ckpt_dataset_path(path, sizeof path, name, 2, dims, &part));
    CHECK_INT(strlen(path), strlen("/tensors/") + 3 * LS_CKPT_NAME_MAX + strlen("@3,0"));
    name[LS_CKPT_NAME_MAX] = '@';
    name[LS_CKPT_NAME_MAX + 1] = '\0';
    CHECK_STATUS(ls_ckpt_name_check(name), LS_E_INPUT);

    char *text = ls_ckpt_printable("a\x1b[2J\n\xc2\x9b\xc3\xa9", false);
    CHECK_STR(text, "a\\x1b[2J\\x0a\\x9b\xc3\xa9");
    free(text);
    text = ls_ckpt_printable("a: 1\n\tb\r", true);
    CHECK_STR(text, "a: 1\n\tb\\x0d");
    free(text);
}

static void test_steps(void) {
    CHECK_INT(ls_ckpt_step_parse("step-00001200"), 1200);
    CHECK_INT(ls_ckpt_step_parse("step-123456789012"), 123456789012);
    CHECK_INT(ls_ckpt_step_parse("step-1200"), -1);
    CHECK_INT(ls_ckpt_step_parse("step-000001200"), -1);
    CHECK_INT(ls_ckpt_step_parse("step-0000120x"), -1);
    CHECK_INT(ls_ckpt_step_parse("step-99999999999999999999"), -1);
    CHECK_INT(ls_ckpt_step_parse(".tmp-00001200-ab"), -1);
}

/* Chunks of a random piece: contiguous, in order, covering it, of the sizes promised. */
static void test_grid(void) {
    for (int round = 0; round < 500; round++) {
        int ndim = (int)draw(1, LS_MAX_DIMS);
        int64_t extent[LS_MAX_DIMS], chunk[LS_MAX_DIMS], elems = 1;
        int64_t elem_bytes = (int64_t)1 << draw(0, 3);
        for (int d = 0; d < ndim; d++) {
            int64_t most = round % 2 ? 40 : 3000000 / elems + 1;
            extent[d] = draw(1, most < 3000000 ? most : 3000000);
            elems *= extent[d];
        }
        ls_ckpt_grid grid;
        ls_ckpt_grid_choose(ndim, extent, elem_bytes, chunk);
        CHECK_OK(ls_ckpt_grid_make(ndim, extent, chunk, elem_bytes, &grid));
        CHECK(grid.chunk_bytes <= LS_CKPT_CHUNK_BYTES);
        CHECK(grid.count == 1 || grid.chunk_bytes >= 1 << 20);
        int64_t next = 0;
        for (int64_t i = 0; i < grid.count; i++) {
            ls_box box;
            int64_t first, linear = 0;
            ls_ckpt_grid_box(&grid, i, &box, &first);
            CHECK_INT(first, next);
            for (int d = 0; d < ndim; d++) {
                linear = linear * extent[d] + box.start[d];
                CHECK(box.start[d] % chunk[d] == 0 && box.extent[d] <= chunk[d]);
            }
            CHECK_INT(linear, first);
            next += ls_box_elems(&box);
        }
        CHECK_INT(next, elems);
    }
    ls_ckpt_grid grid;
    const int64_t extent[3] = {4, 5, 6}, bad[][3] = {{2, 5, 6}, {0, 5, 6}, {5, 5, 6}, {2, 2, 6}};
    CHECK_OK(ls_ckpt_grid_make(3, extent, bad[0], 4, &grid));
    for (int i = 1; i < 4; i++) {
        CHECK_STATUS(ls_ckpt_grid_make(3, extent, bad[i], 4, &grid), LS_E_CORRUPT);
    }
    const int64_t huge[2] = {INT64_MAX / 2, INT64_MAX / 2};
    CHECK_STATUS(ls_ckpt_grid_make(2, huge, huge, 8, &grid), LS_E_CORRUPT);
}

static void test_coverage(void) {
    const int64_t dims[2] = {6, 8};
    ls_ckpt_piece p[4] = {{.box = {2, {3, 4}, {3, 4}}},
                          {.box = {2, {0, 0}, {3, 8}}},
                          {.box = {2, {3, 0}, {2, 4}}},
                          {.box = {2, {5, 0}, {1, 4}}}};
    CHECK_OK(ls_ckpt_coverage_check(2, dims, p, 4));
    CHECK_INT(p[0].box.start[0], 0);
    p[1].box.extent[0] = 1; /* sorted now: rows 3 and 4 of the left half */
    CHECK_STATUS(ls_ckpt_coverage_check(2, dims, p, 4), LS_E_SHAPE);
    CHECK_MESSAGE("hold 44 of 48 elements");
    p[0].box.extent[0] = 4;
    CHECK_STATUS(ls_ckpt_coverage_check(2, dims, p, 4), LS_E_SHAPE);
    CHECK_MESSAGE("two pieces hold the element at [3, 0]");
}

/* Every row belongs to exactly one rank, in order; shares differ by at most a row at each end. */
static void test_assign(void) {
    enum { TENSORS = 7, RANKS = 9 };
    for (int round = 0; round < 200; round++) {
        ls_ckpt_tensor tensors[TENSORS] = {0};
        int64_t total = 0, largest_row = 0, next[TENSORS] = {0};
        int ranks = (int)draw(1, RANKS);
        for (int i = 0; i < TENSORS; i++) {
            tensors[i] = (ls_ckpt_tensor){.dtype = (ls_dtype)draw(0, LS_DTYPE_COUNT - 1),
                                          .ndim = 2,
                                          .dims = {draw(1, 60), draw(1, 60)}};
            int64_t row = tensors[i].dims[1] * (int64_t)ls_dtype_bytes(tensors[i].dtype);
            largest_row = row > largest_row ? row : largest_row;
            total += tensors[i].dims[0] * row;
        }
        for (int r = 0; r < ranks; r++) {
            ls_box boxes[TENSORS];
            int64_t share = 0;
            ls_ckpt_assign(tensors, TENSORS, r, ranks, boxes);
            for (int i = 0; i < TENSORS; i++) {
                CHECK_INT(boxes[i].start[0], next[i]);
                CHECK_INT(boxes[i].extent[1], tensors[i].dims[1]);
                next[i] += boxes[i].extent[0];
                share += ls_box_elems(&boxes[i]) * (int64_t)ls_dtype_bytes(tensors[i].dtype);
            }
            CHECK(llabs(share - total / ranks) <= 2 * largest_row);
        }
        for (int i = 0; i < TENSORS; i++) {
            CHECK_INT(next[i], tensors[i].dims[0]);
        }
    }
}

static void test_codec(void) {
    enum { MOST = 5000 };
    uint8_t data[8 * MOST];
    for (int round = 0; round < 200; round++) {
        int64_t elem_bytes = (int64_t)1 << draw(0, 3), chunk = draw(1, MOST),
                elems = draw(1, chunk);
        int level = (int)draw(0, 5);
        for (int64_t i = 0; i < elems * elem_bytes; i++) {
            data[i] = (uint8_t)draw(0, i % elem_bytes ? 255 : 3);
        }
        const int64_t extent[1] = {chunk};
        ls_ckpt_grid grid;
        ls_ckpt_codec codec;
        const void *stored;
        const uint8_t *raw = NULL;
        uint64_t made, xxh3;
        size_t bytes;
        CHECK_OK(ls_ckpt_grid_make(1, extent, extent, elem_bytes, &grid));
        CHECK_OK(ls_ckpt_codec_init(&codec, level));
        CHECK_OK(ls_ckpt_encode(&codec, data, elems, chunk, elem_bytes, &stored, &bytes, &made));
        CHECK(made == ls_xxh64(data, (size_t)(elems * elem_bytes), 0));
        uint8_t *copy = malloc(bytes + 1);
        memcpy(copy, stored, bytes);
        CHECK_OK(ls_ckpt_codec_reserve(&codec, bytes + 1));
        memcpy(codec.packed, copy, bytes);
        CHECK_OK(ls_ckpt_decode(&codec, bytes, &grid, level > 0, elems, &raw, &xxh3));
        CHECK(xxh3 == ls_xxh64(data, (size_t)(elems * elem_bytes), 0));
        CHECK(raw && memcmp(raw, data, (size_t)(elems * elem_bytes)) == 0);
        for (int64_t i = elems * elem_bytes; raw && i < chunk * elem_bytes; i++) {
            CHECK_INT(raw[i], 0);
        }
        codec.packed[bytes] = 0;
        CHECK_STATUS(ls_ckpt_decode(&codec, bytes + 1, &grid, level > 0, elems, &raw, &xxh3),
                     LS_E_CORRUPT);
        CHECK_STATUS(ls_ckpt_decode(&codec, bytes - 1, &grid, level > 0, elems, &raw, &xxh3),
                     LS_E_CORRUPT);
        free(copy);
        ls_ckpt_codec_release(&codec);
    }
}

/* The quick way of level 1 is taken only where it is as small as zstd's own level 1. */
static void test_level_one(void) {
    enum { ELEMS = 300007, KINDS = 5 };
    for (int kind = 0; kind < KINDS; kind++) {
        for (size_t width = 2; width <= 8; width *= 2) {
            size_t bytes = ELEMS * width;
            uint8_t *values = malloc(bytes), *planes = malloc(bytes);
            uint8_t *packed = malloc(ZSTD_compressBound(bytes));
            for (size_t i = 0; i < ELEMS; i++) {
                double normal = 0.02 * ls_rng_normal(3, 1, i % (kind == 2 ? 1024 : ELEMS));
                float f = (float)normal;
                uint64_t v = i, n = ls_rng_draw(3, 2, i).v[0];
                memcpy(&v, &f, kind == 0 || kind == 2 ? sizeof f : 0); /* 2: rows repeat */
                v = kind == 3 ? 0 : kind == 4 ? n << 32 | n : v;
                v = kind != 1 && kind != 4 && width == 2 ? v >> 16 : v;
                memcpy(values + i * width, &v, width);
                for (size_t b = 0; b < width; b++) {
                    planes[b * ELEMS + i] = values[i * width + b];
                }
            }
            size_t plain = ZSTD_compress(packed, ZSTD_compressBound(bytes), planes, bytes, 1);
            ls_ckpt_codec codec;
            const void *out;
            const uint8_t *back;
            uint64_t xxh3;
            size_t stored;
            CHECK_OK(ls_ckpt_codec_init(&codec, 1));
            CHECK_OK(
                ls_ckpt_encode(&codec, values, ELEMS, ELEMS, (int64_t)width, &out, &stored, &xxh3));
            CHECK(stored <= plain + plain / 20 + 1024);
            const ls_ckpt_grid grid = {
                .chunk_elems = ELEMS, .elem_bytes = (int64_t)width, .chunk_bytes = (int64_t)bytes};
            CHECK_OK(ls_ckpt_decode(&codec, stored, &grid, true, ELEMS, &back, &xxh3));
            CHECK(memcmp(back, values, bytes) == 0);
            memset(planes, 0xa5, bytes);
            codec.into = planes; /* all but the last 7 elements */
            CHECK_OK(ls_ckpt_decode(&codec, stored, &grid, true, ELEMS - 7, &back, &xxh3));
            CHECK(xxh3 == ls_xxh64(values, bytes - 7 * width, 0));
            CHECK(back == planes && memcmp(planes, values, bytes - 7 * width) == 0);
            CHECK_INT(planes[bytes - 7 * width], 0xa5);
            ls_ckpt_codec_release(&codec);
            free(values);
            free(planes);
            free(packed);
        }
    }
}

/* Each level beside the loop that its header gives, and beside xxHash's own function. */
static void planes_check(const ls_planes_ops *ops) {
    enum { MOST = 20000 };
    uint8_t *planes = malloc(8 * MOST), *out = malloc(8 * MOST + 2), *apart = malloc(8 * MOST + 1);
    for (size_t i = 0; i < 8 * (size_t)MOST; i++) {
        planes[i] = (uint8_t)draw(0, 255);
    }
    for (int round = 0; round < 300; round++) {
        const size_t width = (size_t)draw(1, 8), elems = (size_t)draw(1, round < 100 ? 99 : MOST);
        const size_t count = (size_t)draw(0, (int64_t)elems);
        const size_t hashed = (size_t)draw(0, (int64_t)count);
        uint8_t *to = out + draw(0, 1);
        to[count * width] = 0xa5;
        uint64_t xxh3 = ops->join(to, planes, elems, width, count, hashed);
        size_t wrong = 0;
        for (size_t i = 0; i < count * width; i++) {
            wrong += to[i] != planes[i % width * elems + i / width];
        }
        CHECK_INT(wrong, 0);
        CHECK_INT(to[count * width], 0xa5);
        CHECK(xxh3 == ls_xxh64(to, hashed * width, 0));
        CHECK(ops->hash(to, count * width) == ls_xxh64(to, count * width, 0));
        apart[count * width] = 0xa5;
        CHECK(ops->split(apart, to, count, width, hashed) == xxh3);
        for (size_t i = 0; i < count * width; i++) {
            wrong += apart[i % width * count + i / width] != to[i];
        }
        CHECK_INT(wrong, 0);
        CHECK_INT(apart[count * width], 0xa5);
    }
    free(planes);
    free(out);
    free(apart);
}

static void test_planes(void) {
    planes_check(&ls_planes_generic);
    planes_check(ls_planes());
}

int main(void) {
    test_names();
    test_steps();
    test_grid();
    test_coverage();
    test_assign();
    test_codec();
    test_level_one();
    test_planes();
    return test_end();
}
