#include "runtime/base/rng.h"
#include "runtime/mesh/partition.h"
#include "tests/test.h"

enum { MAX_BLOCKS = 9 };

/* Slices follow each other without gap or overlap, are cut on the chunks' grid, and are even. */
static void check_partition(const int64_t *first, int blocks, int shards, int64_t unit_elems) {
    ls_partition p;
    CHECK_OK(ls_partition_init(first, blocks, shards, unit_elems, &p));
    int64_t at = first[0], most_unit = (unit_elems + 1023) / 1024 * 1024;
    int wrong = 0, uneven = 0;
    for (int u = 0; u < p.unit_count; u++) {
        const ls_unit *unit = &p.units[u];
        int64_t least = INT64_MAX, most = 0;
        wrong += unit->range.first != at || unit->range.elems < 1 || unit->range.elems > most_unit;
        wrong += unit->range.first < first[unit->block] ||
                 unit->range.first + unit->range.elems > first[unit->block + 1];
        for (int s = 0; s < shards; s++) {
            ls_range slice = ls_partition_slice(&p, u, s);
            wrong += slice.first != at || slice.elems < 0;
            wrong += slice.elems > 0 && (slice.first - first[unit->block]) % LS_CHUNK_ELEMS != 0;
            at += slice.elems;
            int64_t chunks = (slice.elems + LS_CHUNK_ELEMS - 1) / LS_CHUNK_ELEMS;
            least = chunks < least ? chunks : least;
            most = chunks > most ? chunks : most;
        }
        uneven += most - least > 1;
    }
    CHECK_INT(wrong, 0);
    CHECK_INT(uneven, 0);
    CHECK_INT(at, first[blocks]);
    /* Even in sum: for each block one chunk, and what its last one lacks. */
    int64_t least = INT64_MAX, most = 0, sum = 0;
    for (int s = 0; s < shards; s++) {
        int64_t elems = ls_partition_elems(&p, s);
        least = elems < least ? elems : least;
        most = elems > most ? elems : most;
        sum += elems;
    }
    CHECK_INT(sum, first[blocks] - first[0]);
    CHECK(most - least <= 2 * blocks * LS_CHUNK_ELEMS);
    ls_partition_release(&p);
}

static void test_random(void) {
    for (uint64_t seed = 0; seed < 300; seed++) {
        ls_rng_block r = ls_rng_draw(seed, 0, 0);
        int blocks = 1 + (int)(r.v[0] % MAX_BLOCKS), shards = 1 + (int)(r.v[1] % 17);
        int64_t first[MAX_BLOCKS + 1] = {16 * (int64_t)(r.v[2] % 3)};
        for (int b = 0; b < blocks; b++) {
            uint32_t size = ls_rng_draw(seed, 1, (uint64_t)b).v[0];
            first[b + 1] = first[b] + 16 * (int64_t)(size % 4 ? size % 3000 : size % 3);
        }
        check_partition(first, blocks, shards, 1 + (int64_t)(r.v[3] % 20000));
    }
}

static void test_example(void) {
    /* 5 chunks for 3 shards: 2, 2, 1; 1 chunk: 1, 0, 0. */
    const int64_t first[] = {0, 5000, 6024};
    ls_partition p;
    CHECK_OK(ls_partition_init(first, 2, 3, 1 << 20, &p));
    CHECK_INT(p.unit_count, 2);
    CHECK_INT(ls_partition_slice(&p, 0, 0).elems, 2048);
    CHECK_INT(ls_partition_slice(&p, 0, 1).first, 2048);
    CHECK_INT(ls_partition_slice(&p, 0, 2).elems, 5000 - 4096);
    CHECK_INT(ls_partition_slice(&p, 1, 0).elems, 1024);
    CHECK_INT(ls_partition_slice(&p, 1, 2).elems, 0);
    ls_partition_release(&p);
    /* In units of 2 chunks: 2, 2 and 1; the surplus goes round. */
    CHECK_OK(ls_partition_init(first, 1, 3, 2048, &p));
    CHECK_INT(p.unit_count, 3);
    CHECK_INT(ls_partition_slice(&p, 0, 2).elems, 0);
    CHECK_INT(ls_partition_slice(&p, 1, 2).elems, 1024);
    CHECK_INT(ls_partition_slice(&p, 1, 0).elems, 1024);
    CHECK_INT(ls_partition_slice(&p, 2, 1).elems, 5000 - 4096);
    ls_partition_release(&p);
    CHECK_OK(ls_partition_init(first, 0, 3, 1, &p));
    CHECK_INT(ls_partition_elems(&p, 2), 0);
    ls_partition_release(&p);
}

/* Boxes of a range cover its elements in order. */
static void check_boxes(int ndim, const int64_t *dims, ls_range range) {
    ls_box boxes[LS_RANGE_BOXES];
    int count = ls_range_boxes(ndim, dims, range, boxes), wrong = count > 2 * ndim - 1;
    int64_t at = range.first;
    for (int i = 0; i < count; i++) {
        for (int64_t k = 0; k < ls_box_elems(&boxes[i]); k++, at++) {
            int64_t rest = k, flat = 0, index[LS_MAX_DIMS];
            for (int d = ndim - 1; d >= 0; d--) {
                index[d] = boxes[i].start[d] + rest % boxes[i].extent[d];
                rest /= boxes[i].extent[d];
                wrong += index[d] >= dims[d];
            }
            for (int d = 0; d < ndim; d++) {
                flat = flat * dims[d] + index[d];
            }
            wrong += flat != at;
        }
    }
    CHECK_INT(wrong, 0);
    CHECK_INT(at, range.first + range.elems);
}

static void test_boxes(void) {
    static const int64_t dims[][LS_MAX_DIMS] = {{7, 1, 1, 1}, {4, 5, 1, 1}, {3, 2, 4, 1},
                                                {2, 3, 2, 3}, {1, 6, 1, 1}, {6, 1, 1, 1}};
    static const int ndims[] = {1, 2, 3, 4, 2, 2};
    for (int i = 0; i < 6; i++) {
        ls_box whole = ls_box_whole(ndims[i], dims[i]);
        int64_t elems = ls_box_elems(&whole);
        for (int64_t first = 0; first <= elems; first++) {
            for (int64_t n = 0; n <= elems - first; n++) {
                check_boxes(ndims[i], dims[i], (ls_range){first, n});
            }
        }
    }
}

static void test_refusals(void) {
    const int64_t first[] = {0, 16, 8};
    ls_partition p;
    CHECK_STATUS(ls_partition_init(first, 1, 0, 1, &p), LS_E_SHAPE);
    CHECK_MESSAGE("over 0 shards");
    CHECK_STATUS(ls_partition_init(first, 2, 1, 1, &p), LS_E_SHAPE);
    CHECK_MESSAGE("block 1 has -8 elements");
    ls_partition_release(&p);
}

int main(void) {
    test_example();
    test_random();
    test_boxes();
    test_refusals();
    return test_end();
}
