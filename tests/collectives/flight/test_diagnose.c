/* Verdicts over made-up records of three ranks. */
#include "collectives/diagnose.h"
#include "tests/test.h"

#include <time.h>

static ls_flight_record records[3];
static ls_rank_view views[3];
static char text[1000];

/* All ranks wait in all-reduce #5 of group world since long ago. */
static void reset(void) {
    for (int r = 0; r < 3; r++) {
        ls_flight_record *x = &records[r];
        memset(x, 0, sizeof *x);
        x->rank = r;
        x->now_ns = 100000000000u;
        x->beat_ns = 99900000000u;
        x->progress_ns = 90000000000u;
        x->deadline_ns = 5000000000u;
        x->step = 3;
        x->place = LS_FLIGHT_BACKWARD;
        x->place_index = 7;
        x->groups[0] = (ls_flight_group){.name = "world", .live = 1, .size = 3, .entered = 5};
        x->ops[0] = (ls_flight_op){.id = 1,
                                   .seq = 5,
                                   .call = {LS_FLIGHT_ALL_REDUCE, LS_F32, LS_SUM, -1, 10, 0},
                                   .bucket = 4,
                                   .peer = -1};
        x->inside = 1;
        views[r] = (ls_rank_view){.record = x};
        snprintf(views[r].host, sizeof views[r].host, "h%d", r);
    }
}

static void never_entered(int rank) {
    records[rank].groups[0].entered = 4;
    records[rank].ops[0].id = 0;
    records[rank].inside = 0;
}

/* As ranks of other hosts are seen: the same words over what has travelled. */
static void expect_of_packed(ls_verdict verdict) {
    static char packed[LS_FLIGHT_PACKED_MOST], words[1000];
    static ls_flight_record come[3];
    ls_rank_view far[3];
    memset(come, 0, sizeof come);
    for (int r = 0; r < 3; r++) {
        far[r] = views[r];
        far[r].record = views[r].record ? &come[r] : NULL;
        if (views[r].record) {
            const uint64_t now_ns = views[r].record->now_ns;
            CHECK(ls_flight_unpack(packed, ls_flight_pack(views[r].record, packed), &come[r]));
            come[r].now_ns = now_ns;
        }
    }
    CHECK_INT(ls_diagnose(far, 3, words, sizeof words), verdict);
    CHECK_STR(words, text);
}

static void expect(ls_verdict verdict, const char *part) {
    CHECK_INT(ls_diagnose(views, 3, text, sizeof text), verdict);
    test_checks++;
    if (!strstr(text, part)) {
        TEST_FAIL_("'%s' lacks '%s'", text, part);
    }
    expect_of_packed(verdict);
}

static void test_missing(void) {
    reset();
    never_entered(2);
    expect(LS_VERDICT_HANG, "rank 2 on host h2 never entered all-reduce #5 of group world, bucket "
                            "4; last seen in backward of block 7, step 3; it still runs, but has "
                            "made no progress for 10.0 s; 2 ranks wait for it");
    records[2].progress_ns = 99000000000u;
    expect(LS_VERDICT_SLOW, "rank 2 on host h2 never entered all-reduce #5");
    records[2].progress_ns = 90000000000u;
    records[2].deadline_ns = 600000000000u; /* in a checkpoint, say */
    expect(LS_VERDICT_SLOW, "rank 2");
    records[2].deadline_ns = 5000000000u;
    const ls_rank_state states[] = {LS_RANK_STOPPED, LS_RANK_DEAD, LS_RANK_UNREACHABLE,
                                    LS_RANK_LEFT};
    const char *const words[] = {"is stopped", "has ended", "host does not answer", "has left"};
    for (int i = 0; i < 4; i++) {
        views[2].state = states[i];
        expect(LS_VERDICT_HANG, words[i]);
        CHECK(strstr(text, "never entered all-reduce #5") != NULL);
    }
    views[2].state = LS_RANK_UNREACHABLE;
    views[2].record = NULL;
    expect(LS_VERDICT_HANG,
           "rank 2 on host h2 is silent while rank 0 waits in all-reduce #5 of group "
           "world, bucket 4; its host does not answer");
}

/* Rank 1 waits in the ninth operation of a group with rank 2, which has entered eight. */
static void expect_shard_lacks_2(void) {
    for (int r = 1; r < 3; r++) {
        records[r].groups[1] =
            (ls_flight_group){.name = "shard", .live = 1, .lowest = 1, .size = 2, .entered = 9};
    }
    records[2].groups[1].entered = 8;
    records[1].ops[1] = (ls_flight_op){.id = 2,
                                       .seq = 9,
                                       .group = 1,
                                       .call = {LS_FLIGHT_ALL_GATHER, -1, -1, -1, 10, 0},
                                       .bucket = -1,
                                       .peer = -1};
    records[1].inside = 2;
    expect(LS_VERDICT_HANG, "rank 2 on host h2 never entered all-gather #9 of group shard;");
}

/* Rank 0 waits for 1, which waits for 2 in another group: 2 alone is named. */
static void test_chain(void) {
    reset();
    never_entered(1);
    never_entered(2);
    records[0].groups[0].size = 2;
    memset(&records[2].groups[0], 0, sizeof records[2].groups[0]);
    expect_shard_lacks_2();
    CHECK(!strstr(text, "rank 1 on host"));
}

/* Rank 2 has begun what 0 waits in, and never entered what 1 waits in: that is what it lacks. */
static void test_begun(void) {
    reset();
    records[2].inside = 0;
    expect_shard_lacks_2();
    CHECK(strstr(text, "2 ranks wait for it") != NULL);
}

/* A group that is gone had the name before the one that lives: its operations say nothing. */
static void test_gone(void) {
    reset();
    never_entered(2);
    records[2].groups[1] = records[2].groups[0];
    records[2].groups[0].live = 0;
    records[2].groups[0].entered = 100;
    expect(LS_VERDICT_HANG, "rank 2 on host h2 never entered all-reduce #5 of group world");
}

static void test_others(void) {
    reset(); /* all have entered */
    expect(LS_VERDICT_HANG, "all ranks wait, and none goes on: rank 0 on host h0 in all-reduce #5");
    records[1].progress_ns = 99000000000u;
    expect(LS_VERDICT_SLOW, "");
    views[1].record = NULL; /* it may be that one that they wait for */
    expect(LS_VERDICT_SLOW, "");
    reset();
    views[1].state = LS_RANK_STOPPED;
    expect(LS_VERDICT_HANG, "rank 1 on host h1 did not finish all-reduce #5");
    reset(); /* started, and then busy with something else */
    records[1].inside = 0;
    expect(LS_VERDICT_HANG, "rank 1 on host h1 did not finish all-reduce #5");
    records[1].ops[0].end_ns = 1;
    expect(LS_VERDICT_HANG, "all ranks wait");
    records[1].ops[0].end_ns = 0;
    records[1].inside = 77; /* it waits, too, if nobody knows in what */
    expect(LS_VERDICT_HANG,
           "all ranks wait, and none goes on: rank 0 on host h0 in all-reduce #5 of group world, "
           "bucket 4 for 10.0 s; rank 1 on host h1 in an operation that its record does not name");
    reset();
    for (int r = 0; r < 3; r++) { /* one that the ring has lost */
        records[r].waited = records[r].ops[0];
        records[r].ops[0].id = 1 + LS_FLIGHT_OPS;
        records[r].ops[0].seq = 1000;
    }
    never_entered(2);
    expect(LS_VERDICT_HANG, "rank 2 on host h2 never entered all-reduce #5 of group world");
    reset();
    records[1].inside = 0;
    for (int r = 0; r < 3; r++) {
        records[r].inside = 0;
    }
    expect(LS_VERDICT_FINE, "");
    CHECK_STR(text, "");
}

static void test_mismatch(void) {
    reset(); /* of an all-to-all each rank has counts of its own */
    for (int r = 0; r < 3; r++) {
        records[r].ops[0].call.kind = LS_FLIGHT_ALL_TO_ALL;
        records[r].ops[0].call.count = 10 + r;
    }
    expect(LS_VERDICT_HANG, "all ranks wait, and none goes on: rank 0 on host h0 in all-to-all #5");
    reset();
    records[2].ops[0].call.count = 11;
    expect(LS_VERDICT_HANG, "calls do not fit: rank 0 on host h0 calls all-reduce #5 of group "
                            "world, bucket 4 with 10 float32 (sum), but rank 2 on host h2 calls "
                            "all-reduce #5 of group world, bucket 4 with 11 float32 (sum)");
    reset();
    records[1].ops[0].call = (ls_flight_call){LS_FLIGHT_BROADCAST, -1, -1, 1, 8, 0};
    expect(LS_VERDICT_HANG, "broadcast #5 of group world, bucket 4 with 8 bytes from rank 1");
}

static void test_message(void) {
    reset();
    for (int r = 1; r < 3; r++) {
        records[r].inside = 0;
        records[r].ops[0].id = 0;
        records[r].groups[0].entered = 4;
    }
    records[0].ops[0].call.kind = LS_FLIGHT_RECEIVE;
    records[0].ops[0].seq = 0;
    records[0].ops[0].bucket = -1;
    records[0].ops[0].peer = 2;
    expect(LS_VERDICT_HANG,
           "rank 2 on host h2 keeps rank 0 on host h0 waiting in receive of group world");
    CHECK(!strstr(text, "rank 1 on"));
    char small[20];
    CHECK_INT(ls_diagnose(views, 3, small, sizeof small), LS_VERDICT_HANG);
    CHECK_INT(strlen(small), 19);
}

/* A large job, whose full rings are alike. Verdicts over all pairs of ranks would take minutes. */
static void test_many(void) {
    enum { MANY = 10000, CULPRIT = 6000 };
    static ls_rank_view many[MANY];
    reset();
    for (int r = 0; r < 2; r++) {
        ls_flight_record *x = &records[r];
        x->groups[0].size = MANY;
        x->groups[0].entered = LS_FLIGHT_OPS - (unsigned)r;
        for (int i = 0; i < LS_FLIGHT_OPS - r; i++) {
            x->ops[i] = records[2].ops[0];
            x->ops[i].id = x->ops[i].seq = (uint64_t)i + 1;
            x->ops[i].end_ns = i + 1 < LS_FLIGHT_OPS;
        }
        x->last_id = (uint64_t)LS_FLIGHT_OPS - (unsigned)r;
        x->inside = r == 0 ? LS_FLIGHT_OPS : 0;
    }
    for (int r = 0; r < MANY; r++) {
        many[r] = (ls_rank_view){.record = &records[r == CULPRIT], .host = "h"};
    }
    const clock_t begin = clock();
    CHECK_INT(ls_diagnose(many, MANY, text, sizeof text), LS_VERDICT_HANG);
    CHECK(strstr(text, "rank 6000 on host h never entered all-reduce #512 of group world") == text);
    CHECK(strstr(text, "; 9999 ranks wait for it") != NULL);
    for (int r = 0; r < MANY; r++) { /* half of them compute, and nobody waits for those */
        many[r].record = &records[r % 2];
    }
    records[1].groups[0].entered = LS_FLIGHT_OPS;
    records[1].ops[LS_FLIGHT_OPS - 1] = records[0].ops[LS_FLIGHT_OPS - 1];
    records[1].ops[LS_FLIGHT_OPS - 1].end_ns = 1;
    records[1].last_id = LS_FLIGHT_OPS;
    CHECK_INT(ls_diagnose(many, MANY, text, sizeof text), LS_VERDICT_HANG);
    CHECK(strstr(text, "all ranks wait, and none goes on: rank 0 on host h in all-reduce") == text);
    CHECK(clock() - begin < 10 * CLOCKS_PER_SEC);
}

int main(void) {
    test_missing();
    test_chain();
    test_begun();
    test_gone();
    test_others();
    test_mismatch();
    test_message();
    test_many();
    return test_end();
}
