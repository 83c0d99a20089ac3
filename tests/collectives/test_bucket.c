#include "collectives/bucket.h"
#include "tests/test.h"

/* Slices of all ranks cover a bucket once, shard after shard, replica after replica. */
static void check_slices(const ls_partition *p, int ranks) {
    int wrong = 0;
    const int64_t longest = ls_bucket_longest_slice(p, ranks);
    for (int b = 0; b < p->unit_count; b++) {
        int64_t at = p->units[b].range.first;
        for (int i = 0; i < ranks; i++) {
            const int replicas = ranks / p->shards;
            const ls_range s =
                ls_bucket_slice(p, b, ranks, i % replicas * p->shards + i / replicas);
            wrong += s.first != at || s.elems < 0 || s.elems > longest;
            at += s.elems;
        }
        wrong += at != p->units[b].range.first + p->units[b].range.elems;
    }
    CHECK_INT(wrong, 0);
}

/* 3 MiB of fp32 and a bit in buckets of at most 1 MiB, of which the front is cut finer. */
static void test_cut(void) {
    enum { MIB = 1 << 18 };
    const int64_t ends[] = {MIB / 16, MIB / 8, MIB / 4, MIB / 2};
    ls_partition p;
    CHECK_OK(ls_bucket_cut(3 * MIB + 5, 4, 1 << 20, 0, &p));
    CHECK_INT(p.unit_count, 7);
    for (int b = 0; b < 4; b++) {
        CHECK_INT(p.units[b].range.first + p.units[b].range.elems, ends[b]);
    }
    for (int b = 4; b < p.unit_count; b++) {
        CHECK(p.units[b].range.elems <= MIB);
    }
    CHECK_INT(p.units[6].range.first + p.units[6].range.elems, 3 * MIB + 5);
    for (int ranks = 1; ranks <= 8; ranks++) {
        check_slices(&p, ranks);
    }
    ls_partition_release(&p);
    const int64_t first[] = {0, 1000, 5000, 5001};
    CHECK_OK(ls_partition_init(first, 3, 2, 3000, &p));
    check_slices(&p, 6);
    ls_partition_release(&p);
}

/* Wherever the front ends, a cut lies there, and those of before stay. */
static void test_front(void) {
    enum { MIB = 1 << 18 };
    const int64_t fronts[] = {1, MIB / 16, MIB / 16 + 1, MIB / 3, 2 * MIB + 7, 3 * MIB - 1};
    for (int i = 0; i < 6; i++) {
        int at_front = 0, at_half = 0;
        ls_partition p;
        CHECK_OK(ls_bucket_cut(3 * MIB, 4, 1 << 20, fronts[i], &p));
        for (int b = 0; b < p.unit_count; b++) {
            const ls_range r = p.units[b].range;
            CHECK(r.elems > 0 && r.elems <= MIB);
            at_front += r.first == fronts[i];
            at_half += r.first == MIB / 2;
        }
        CHECK_INT(at_front, 1);
        CHECK_INT(at_half, 1);
        check_slices(&p, 3);
        ls_partition_release(&p);
    }
    ls_partition p;
    CHECK_OK(ls_bucket_cut(MIB / 4, 4, 1 << 20, MIB / 4, &p)); /* all of it */
    CHECK_INT(p.unit_count, 3);
    ls_partition_release(&p);
}

static void test_extremes(void) {
    ls_partition p;
    CHECK_OK(ls_bucket_cut(0, 4, 0, 0, &p));
    CHECK_INT(p.unit_count, 0);
    CHECK_INT(ls_bucket_longest_slice(&p, 4), 0);
    ls_partition_release(&p);
    CHECK_OK(ls_bucket_cut(5000, 4, 1, 0, &p)); /* none is shorter than a chunk, but for the last */
    CHECK_INT(p.unit_count, 5);
    ls_partition_release(&p);
    CHECK_STATUS(ls_bucket_cut(-1, 4, 0, 0, &p), LS_E_SHAPE);
    CHECK_MESSAGE("-1 elements");
    CHECK_STATUS(ls_bucket_cut(1, 4, -2, 0, &p), LS_E_SHAPE);
    CHECK_MESSAGE("-2 bytes");
}

int main(void) {
    test_cut();
    test_front();
    test_extremes();
    return test_end();
}
