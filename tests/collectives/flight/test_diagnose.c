/* Verdicts over made-up records of three ranks, or of more. */
#include "collectives/diagnose.h"
#include "tests/test.h"

#include <time.h>

enum { MOST = 6 };
static int ranks;
static ls_flight_record records[MOST];
static ls_rank_view views[MOST];
static char text[1000];

/* All ranks wait in all-reduce #5 of group world since long ago. */
static void reset_to(int size) {
    ranks = size;
    for (int r = 0; r < ranks; r++) {
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
        x->groups[0] = (ls_flight_group){
            .name = "world", .live = 1, .size = ranks, .entered = 5, .since_id = 1};
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

static void reset(void) {
    reset_to(3);
}

static void never_entered(int rank) {
    records[rank].groups[0].entered = 4;
    records[rank].ops[0] = (ls_flight_op){0};
    records[rank].inside = 0;
}

/* As ranks of other hosts are seen: the same words over what has travelled. */
static void expect_of_packed(ls_verdict verdict) {
    static char packed[LS_FLIGHT_PACKED_MOST], words[1000];
    static ls_flight_record come[MOST];
    ls_rank_view far[MOST];
    memset(come, 0, sizeof come);
    for (int r = 0; r < ranks; r++) {
        far[r] = views[r];
        far[r].record = views[r].record ? &come[r] : NULL;
        if (views[r].record) {
            const uint64_t now_ns = views[r].record->now_ns;
            CHECK(ls_flight_unpack(packed, ls_flight_pack(views[r].record, packed), &come[r]));
            come[r].now_ns = now_ns;
        }
    }
    CHECK_INT(ls_diagnose(far, ranks, words, sizeof words), verdict);
    CHECK_STR(words, text);
}

static void expect(ls_verdict verdict, const char *part) {
    CHECK_INT(ls_diagnose(views, ranks, text, sizeof text), verdict);
    test_checks++;
    if (!strstr(text, part)) {
        TEST_FAIL_("'%s' lacks '%s'", text, part);
    }
    expect_of_packed(verdict);
}

/* The whole text. */
static void expect_all(ls_verdict verdict, const char *words) {
    expect(verdict, words);
    CHECK_STR(text, words);
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

#define LACKS_2                                                                                    \
    "rank 2 on host h2 never entered all-reduce #5 of group world, bucket 4; last seen in "        \
    "backward of block 7, step 3; "
#define LACKS_1                                                                                    \
    "rank 1 on host h1 never entered all-reduce #5 of group world, bucket 4; last seen in "        \
    "backward of block 7, step 3; it still runs, but has made no progress for 10.0 s; "

/* Of what has ended nobody waits; of what is stopped, whoever waited does. */
static void test_lost(void) {
    static const char last[] = "; last seen in backward of block 7, step 3; ";
    char words[500];
    reset(); /* at once, and also where it waits */
    records[0].progress_ns = records[1].progress_ns = records[2].progress_ns = 99900000000u;
    views[2].state = LS_RANK_DEAD;
    expect_all(LS_VERDICT_HANG,
               "rank 2 on host h2 did not finish all-reduce #5 of group world, bucket 4; last seen "
               "in backward of block 7, step 3; its process has ended; 2 ranks wait for it");
    reset();
    never_entered(1);
    views[2].state = LS_RANK_DEAD;
    snprintf(
        words, sizeof words,
        "%s1 rank waits for it; rank 2 on host h2 did not finish all-reduce #5 of group world, "
        "bucket 4%sits process has ended; 1 rank waits for it",
        LACKS_1, last);
    expect_all(LS_VERDICT_HANG, words);
    views[2].state = LS_RANK_STOPPED;
    snprintf(
        words, sizeof words,
        "%s2 ranks wait for it; rank 2 on host h2 did not finish all-reduce #5 of group world, "
        "bucket 4%sits process is stopped, without a sign of life for 0.1 s; 1 rank waits for "
        "it",
        LACKS_1, last);
    expect_all(LS_VERDICT_HANG, words);
    records[2].beat_ns = 0;
    expect(LS_VERDICT_HANG, "its process is stopped; 1 rank");
    reset(); /* for whom nobody waits */
    for (int r = 0; r < 3; r++) {
        records[r].inside = 0;
        records[r].ops[0].end_ns = 1;
    }
    views[1].state = LS_RANK_DEAD;
    expect_all(LS_VERDICT_HANG, "rank 1 on host h1; last seen in backward of block 7, step 3; its "
                                "process has ended");
    records[1].place_index = 0;
    records[1].step = 0;
    expect(LS_VERDICT_HANG, "last seen in backward of block 0, step 0; its");
    records[1].place_index = records[1].step = -1;
    expect(LS_VERDICT_HANG, "last seen in backward; its");
    records[1].place = LS_FLIGHT_CHECKPOINT;
    records[1].step = 3; /* that is no step's */
    expect(LS_VERDICT_HANG, "last seen in checkpoint; its");
    views[1].state = LS_RANK_LEFT; /* in order */
    expect_all(LS_VERDICT_FINE, "");
}

/* Whoever has left in the middle of an operation is missed, and without delay. */
static void test_left(void) {
    reset();
    never_entered(2);
    records[2].inside = 1;
    records[2].progress_ns = 99900000000u;
    views[2].state = LS_RANK_LEFT;
    expect_all(LS_VERDICT_HANG, LACKS_2 "it has left the job; 2 ranks wait for it");
    records[1].inside = 1;
    views[1].state = LS_RANK_LEFT; /* waits no more */
    expect(LS_VERDICT_HANG, LACKS_2 "it has left the job; 1 rank waits for it");
}

static void test_deadline(void) {
    reset();
    never_entered(1);
    never_entered(2);
    records[1].progress_ns = 95000000000u; /* just over */
    records[2].progress_ns = 95000000001u;
    expect(LS_VERDICT_HANG, "rank 1 on host h1 never entered");
    CHECK(!strstr(text, "rank 2 on"));
    records[1].progress_ns = 95000000001u; /* the lower of those that are slow */
    expect(LS_VERDICT_SLOW, "rank 1 on host h1 never entered");
    CHECK(!strstr(text, "rank 2 on"));
    reset(); /* one waits, with time left; the others have finished, and wait for nothing */
    records[0].progress_ns = 99900000000u;
    for (int r = 1; r < 3; r++) {
        records[r].inside = 0;
        records[r].ops[0].end_ns = 1;
    }
    expect_all(LS_VERDICT_SLOW, "");
}

/* A group is its name and its lowest rank. */
static void test_groups(void) {
    reset();
    for (int r = 0; r < 3; r++) {
        never_entered(r);
        strcpy(records[r].groups[0].name, r == 1 ? "stage" : "shard");
        records[r].groups[0].lowest = r == 2 ? 2 : 0;
    }
    records[0].groups[0].entered = 5;
    records[0].ops[0] = (ls_flight_op){.id = 1, .seq = 5, .bucket = 0, .peer = -1};
    records[0].inside = 1;
    expect_all(LS_VERDICT_HANG, "all ranks wait, and none goes on: rank 0 on host h0 in duplicate "
                                "#5 of group shard, bucket 0 for 10.0 s");
    reset(); /* the one that lives counts, wherever it stands */
    never_entered(2);
    records[2].groups[1] = records[2].groups[0];
    records[2].groups[1].live = 0;
    records[2].groups[1].entered = 100;
    expect(LS_VERDICT_HANG, "rank 2 on host h2 never entered all-reduce #5 of group world");
    records[2].groups[0].live = 0; /* none does */
    records[2].groups[1].name[0] = '\0';
    expect(LS_VERDICT_HANG, "rank 2 on host h2 never entered all-reduce #5 of group world");
}

/* Rank 1 has entered what the others wait in, and is at something else; its record may tell more.
 */
static void test_entered(void) {
    static const char waits[] = "all ranks wait, and none goes on: rank 0";
    reset();
    records[1].inside = 0;
    records[1].ops[0] = (ls_flight_op){0}; /* lost */
    expect(LS_VERDICT_HANG, waits);
    records[1].waited = records[0].ops[0]; /* found again */
    expect(LS_VERDICT_HANG, "rank 1 on host h1 did not finish all-reduce #5");
    reset(); /* finished; the next one is not, and one of that number in another group */
    records[1].inside = 0;
    records[1].ops[0].end_ns = 1;
    records[1].last_id = 3;
    records[1].groups[0].entered = 6;
    records[1].groups[1] = (ls_flight_group){.name = "shard", .live = 1, .lowest = 1, .size = 2};
    for (int i = 1; i < 3; i++) {
        records[1].ops[i] = records[0].ops[0];
        records[1].ops[i].id = (uint64_t)i + 1;
        records[1].ops[i].seq = i == 1 ? 6 : 5;
        records[1].ops[i].group = i == 1 ? 0 : 1;
    }
    expect(LS_VERDICT_HANG, waits);
    reset(); /* an operation without a group */
    for (int r = 0; r < 3; r++) {
        records[r].ops[0].group = -1;
    }
    expect_all(
        LS_VERDICT_HANG,
        "all ranks wait, and none goes on: rank 0 on host h0 in an operation that its record "
        "does not name; rank 1 on host h1 in an operation that its record does not name; "
        "rank 2 on host h2 in an operation that its record does not name");
}

/* Rank 2 keeps 0 and 1 waiting in different groups: the lower one's operation is told, or what the
 * other waits in if only that was never entered. */
static void test_first(void) {
    for (int entered = 0; entered < 2; entered++) {
        reset();
        records[1].groups[0].name[0] = records[2].groups[1].name[0] = 'v';
        for (int g = 0; g < 2; g++) {
            records[2].groups[g] = records[g].groups[0];
            records[2].ops[g] = records[0].ops[0];
            records[2].ops[g].id = (uint64_t)g + 1;
            records[2].ops[g].group = g;
            records[2].groups[g].entered = entered ? 5 : 4;
        }
        records[2].last_id = 2;
        records[2].inside = 0;
        expect(LS_VERDICT_HANG, entered ? "rank 2 on host h2 did not finish all-reduce #5 of group "
                                          "world, bucket 4; "
                                        : "rank 2 on host h2 never entered all-reduce #5 of group "
                                          "world, bucket 4; ");
    }
}

/* Rank `first` and 2 differ in one thing: told of these, with both calls. */
static void expect_differ(int first, const char *one, const char *other) {
    char words[400];
    snprintf(words, sizeof words,
             "the ranks' calls do not fit: rank %d on host h%d calls %s, but rank 2 on host h2 "
             "calls %s",
             first, first, one, other);
    expect_all(LS_VERDICT_HANG, words);
}

static void test_differences(void) {
    const char all_reduce[] = "all-reduce #5 of group world, bucket 4 with 10 float32 (sum)";
    const ls_flight_call calls[] = {{LS_FLIGHT_REDUCE, LS_F32, LS_SUM, -1, 10, 0},
                                    {LS_FLIGHT_ALL_REDUCE, LS_BF16, LS_SUM, -1, 10, 0},
                                    {LS_FLIGHT_ALL_REDUCE, LS_F32, LS_MAX, -1, 10, 0},
                                    {LS_FLIGHT_ALL_REDUCE, LS_F32, LS_SUM, 0, 10, 0},
                                    {LS_FLIGHT_ALL_REDUCE, LS_F32, LS_SUM, -1, 0, 0},
                                    {LS_FLIGHT_ALL_REDUCE, LS_F32, LS_SUM, -1, 10, 1},
                                    {LS_FLIGHT_ALL_REDUCE, -1, -1, -1, -1, 0}};
    const char *const texts[] = {
        "reduce #5 of group world, bucket 4 with 10 float32 (sum)",
        "all-reduce #5 of group world, bucket 4 with 10 bfloat16 (sum)",
        "all-reduce #5 of group world, bucket 4 with 10 float32 (maximum)",
        "all-reduce #5 of group world, bucket 4 with 10 float32 from rank 0 (sum)",
        "all-reduce #5 of group world, bucket 4 with 0 float32 (sum)",
        all_reduce,
        "all-reduce #5 of group world, bucket 4"};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        reset();
        records[2].ops[0].call = calls[i];
        expect_differ(0, all_reduce, texts[i]);
    }
    reset(); /* not before the deadline */
    records[2].ops[0].call = calls[0];
    records[1].progress_ns = records[2].progress_ns = 99900000000u;
    records[0].progress_ns = 99900000000u;
    expect_all(LS_VERDICT_SLOW, "");
    records[1].progress_ns = 90000000000u; /* which one of them has passed */
    expect_differ(1, all_reduce, texts[0]);
    reset(); /* two messages do not have to fit */
    for (int r = 0; r < 2; r++) {
        records[r].ops[0].seq = 0;
        records[r].ops[0].peer = 1 - r;
        records[r].ops[0].call.kind = r ? LS_FLIGHT_SEND : LS_FLIGHT_RECEIVE;
    }
    records[2].inside = 0;
    records[2].ops[0].end_ns = 1;
    expect(LS_VERDICT_HANG, "all ranks wait, and none goes on: rank 0 on host h0 in receive of");
}

/* Ranks 1 and 2 differ, in another number or group than rank 0 waits in. */
static void test_compared(void) {
    for (int way = 0; way < 3; way++) { /* the number, the name, the lowest rank */
        char one[100], other[100];
        const char *group = way == 1 ? "worse" : "world";
        reset();
        for (int r = 1; r < 3; r++) {
            if (way == 0) {
                records[r].ops[0].seq = records[r].groups[0].entered = 6;
            } else {
                snprintf(records[r].groups[0].name, sizeof records[r].groups[0].name, "%s", group);
                records[r].groups[0].lowest = way == 2;
            }
        }
        records[2].ops[0].call.count = 11;
        snprintf(one, sizeof one, "all-reduce #%d of group %s, bucket 4 with 10 float32 (sum)",
                 way ? 5 : 6, group);
        snprintf(other, sizeof other, "all-reduce #%d of group %s, bucket 4 with 11 float32 (sum)",
                 way ? 5 : 6, group);
        expect_differ(1, one, other);
    }
}

/* A message waits for one rank, the first one as well. */
static void test_first_sender(void) {
    reset();
    never_entered(0);
    never_entered(1);
    records[2].ops[0].call.kind = LS_FLIGHT_RECEIVE;
    records[2].ops[0].seq = 0;
    records[2].ops[0].bucket = -1;
    records[2].ops[0].peer = 0;
    expect_all(LS_VERDICT_HANG,
               "rank 0 on host h0 keeps rank 2 on host h2 waiting in receive of group world; last "
               "seen in backward of block 7, step 3; it still runs, but has made no progress for "
               "10.0 s; 1 rank waits for it");
}

/* Four are told, and how many there are. */
static void test_more(void) {
    reset_to(6);
    expect(LS_VERDICT_HANG,
           "; rank 3 on host h3 in all-reduce #5 of group world, bucket 4 for 10.0 s");
    CHECK(!strstr(text, "rank 4 on"));
    for (int lacking = 4; lacking < 6; lacking++) {
        reset_to(6);
        for (int r = 6 - lacking; r < 6; r++) {
            never_entered(r);
        }
        expect(LS_VERDICT_HANG, lacking == 4 ? "; rank 5 on host h5 never entered"
                                             : "; rank 4 on host h4 never entered");
        CHECK(lacking == 4 ? !strstr(text, " more")
                           : strstr(text, "rank waits for it; and 1 more") != NULL);
        CHECK(lacking == 4 || !strstr(text, "rank 5 on"));
    }
}

int main(void) {
    test_missing();
    test_lost();
    test_left();
    test_deadline();
    test_groups();
    test_entered();
    test_first();
    test_differences();
    test_compared();
    test_first_sender();
    test_more();
    test_chain();
    test_begun();
    test_gone();
    test_others();
    test_mismatch();
    test_message();
    test_many();
    return test_end();
}
