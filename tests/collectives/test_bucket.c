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
    CHECK_OK(ls_bucket_cut(3 * MIB + 5, 4, 1 << 20, NULL, 2, &p));
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

/* Wherever the fronts end, cuts lie there, and those of before stay. */
static void test_front(void) {
    enum { MIB = 1 << 18, FRONTS = 6 };
    const int64_t ends[FRONTS] = {1, MIB / 16, MIB / 16 + 1, MIB / 3, 2 * MIB + 7, 3 * MIB - 1};
    for (int i = 0; i < FRONTS * FRONTS; i++) {
        const int64_t fronts[] = {ends[i / FRONTS], ends[i % FRONTS]};
        int at[3] = {0};
        ls_partition p;
        CHECK_OK(ls_bucket_cut(3 * MIB, 4, 1 << 20, fronts, 2, &p));
        for (int b = 0; b < p.unit_count; b++) {
            const ls_range r = p.units[b].range;
            CHECK(r.elems > 0 && r.elems <= MIB);
            at[0] += r.first == fronts[0];
            at[1] += r.first == fronts[1];
            at[2] += r.first == MIB / 2;
        }
        CHECK(at[0] == 1 && at[1] == 1 && at[2] == 1);
        check_slices(&p, 3);
        ls_partition_release(&p);
    }
    ls_partition p;
    const int64_t all[] = {0, MIB / 4};
    CHECK_OK(ls_bucket_cut(MIB / 4, 4, 1 << 20, all, 2, &p));
    CHECK_INT(p.unit_count, 3);
    ls_partition_release(&p);
}

static int64_t longest(int64_t elems, int64_t bucket_bytes, int ranks) {
    int64_t most = 0;
    ls_partition p;
    CHECK_OK(ls_bucket_cut(elems, 4, bucket_bytes, NULL, ranks, &p));
    for (int b = 0; b < p.unit_count; b++) {
        most = p.units[b].range.elems > most ? p.units[b].range.elems : most;
    }
    ls_partition_release(&p);
    return 4 * most;
}

/* Small models have more buckets than there are of 25 MiB, as long as slices are worth a message.
 */
static void test_small_model(void) {
    enum { MIB = 1 << 20, ELEMS = 64 * MIB / 4 };
    const struct {
        int64_t elems, bucket_bytes;
        int ranks;
        int64_t most;
    } cases[] = {{ELEMS, 0, 2, 2 * MIB},       {ELEMS, 25 * MIB, 2, 2 * MIB},
                 {ELEMS, 0, 64, 4 * MIB},      {ELEMS, 0, 1000, 25 * MIB},
                 {ELEMS, MIB / 2, 2, MIB / 2}, {ELEMS / 8, 0, 2, MIB},
                 {ELEMS * 16, 0, 2, 25 * MIB}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t found = longest(cases[i].elems, cases[i].bucket_bytes, cases[i].ranks);
        CHECK(found <= cases[i].most && found > cases[i].most / 2);
    }
}

static void test_extremes(void) {
    ls_partition p;
    CHECK_OK(ls_bucket_cut(0, 4, 0, NULL, 2, &p));
    CHECK_INT(p.unit_count, 0);
    CHECK_INT(ls_bucket_longest_slice(&p, 4), 0);
    ls_partition_release(&p);
    CHECK_OK(ls_bucket_cut(5000, 4, 1, NULL, 2,
                           &p)); /* none is shorter than a chunk, but for the last */
    CHECK_INT(p.unit_count, 5);
    ls_partition_release(&p);
    CHECK_STATUS(ls_bucket_cut(-1, 4, 0, NULL, 2, &p), LS_E_SHAPE);
    CHECK_MESSAGE("-1 elements");
    CHECK_STATUS(ls_bucket_cut(1, 4, -2, NULL, 2, &p), LS_E_SHAPE);
    CHECK_MESSAGE("-2 bytes");
}

int main(void) {
    test_cut();
    test_front();
    test_small_model();
    test_extremes();
    return test_end();
}
