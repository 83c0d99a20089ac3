#include "runtime/counters/guard.h"
#include "tests/test.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

static void test_odd(void) {
    int odd[8];
    bool undecided;
    const ls_guard_vote same[] = {{1, 5}, {1, 5}, {2, 6}, {2, 6}};
    CHECK_INT(ls_guard_odd(same, COUNT(same), odd, &undecided), 0);
    CHECK(!undecided);
    const ls_guard_vote one[] = {{1, 5}, {2, 7}, {1, 9}, {2, 7}, {1, 5}};
    CHECK_INT(ls_guard_odd(one, COUNT(one), odd, &undecided), 1);
    CHECK_INT(odd[0], 2);
    CHECK(!undecided);
    const ls_guard_vote two[] = {{1, 5}, {2, 7}, {1, 9}, {3, 1}};
    CHECK_INT(ls_guard_odd(two, COUNT(two), odd, &undecided), 2);
    CHECK(odd[0] == 0 && odd[1] == 2 && undecided);
    const ls_guard_vote alone[] = {{1, 5}, {2, 6}, {3, 7}}; /* nobody to compare with */
    CHECK_INT(ls_guard_odd(alone, COUNT(alone), odd, &undecided), 0);
    const ls_guard_vote groups[] = {{1, 5}, {1, 5}, {1, 6}, {2, 5}, {2, 6}, {2, 6}};
    CHECK_INT(ls_guard_odd(groups, COUNT(groups), odd, &undecided), 2);
    CHECK(odd[0] == 2 && odd[1] == 3 && !undecided);
    const ls_guard_vote second[] = {{1, 5}, {1, 5}, {1, 6}, {1, 6}, {1, 7}, {2, 8}};
    CHECK_INT(ls_guard_odd(second, COUNT(second), odd, &undecided), 5); /* nobody is right */
    CHECK(odd[0] == 0 && odd[4] == 4 && undecided);
}

/* As many ranks as the largest runs have, all replicas: in no time. */
static void test_many(void) {
    enum { MANY = 16384 };
    static ls_guard_vote votes[MANY];
    static int odd[MANY];
    bool undecided;
    for (int i = 0; i < MANY; i++) {
        votes[i] = (ls_guard_vote){7, i == 12345 ? 1 : 2};
    }
    CHECK_INT(ls_guard_odd(votes, MANY, odd, &undecided), 1);
    CHECK(odd[0] == 12345 && !undecided);
    for (int i = 0; i < MANY; i++) { /* pairs, of which each differs */
        votes[i] = (ls_guard_vote){(uint64_t)(i / 2), (uint64_t)i};
    }
    CHECK_INT(ls_guard_odd(votes, MANY, odd, &undecided), MANY);
    CHECK(odd[0] == 0 && odd[MANY - 1] == MANY - 1 && undecided);
}

static void test_slowest(void) {
    double factor;
    const double even[] = {1.0, 1.0, 1.0};
    ls_guard_slowest(even, 3, &factor);
    CHECK_NEAR(factor, 1.0, 0, 0);
    const double slow[] = {1.0, 1.1, 3.3, 0.9, 1.2};
    CHECK_INT(ls_guard_slowest(slow, 5, &factor), 2);
    CHECK_NEAR(factor, 3.0, 1e-12, 0);
    const double pair[] = {4.0, 2.0};
    CHECK_INT(ls_guard_slowest(pair, 2, &factor), 0);
    CHECK_NEAR(factor, 2.0, 0, 0);
    const double idle[] = {0.0, 0.0};
    ls_guard_slowest(idle, 2, &factor);
    CHECK_NEAR(factor, 1.0, 0, 0);
}

static void test_spike(void) {
    ls_guard_losses l = {0};
    int alarms = 0;
    for (int i = 0; i < 500; i++) { /* falling, with some noise: never out of line */
        alarms +=
            ls_guard_spike(&l, 5.0 - 0.001 * i + 0.05 * ((i * 7919) % 13 - 6) / 6.0, 6.0) > 6.0;
    }
    CHECK_INT(alarms, 0);
    const double first = ls_guard_spike(&l, 6.5, 6.0);
    CHECK(first > 6.0);
    CHECK(ls_guard_spike(&l, 6.5, 6.0) == first); /* the first one did not widen the spread */
    ls_guard_losses all = l;
    CHECK(ls_guard_spike(&all, 6.5, 0.0) == first);
    CHECK(ls_guard_spike(&all, 6.5, 0.0) < first); /* without a limit it does */
    CHECK(ls_guard_spike(&l, 4.5, 6.0) < 6.0);
    CHECK(!(ls_guard_spike(&l, NAN, 6.0) > 6.0));
    CHECK(ls_guard_spike(&l, 4.5, 6.0) < 6.0); /* nor did what is no number harm it */
    /* Put down oldest first, and taken up again: the same verdicts, to the bit. */
    for (int from = 0; from < 40; from++) {
        ls_guard_losses again = {.count = LS_GUARD_LOSSES};
        for (int i = 0; i < LS_GUARD_LOSSES; i++) {
            again.ring[i] = ls_guard_loss(&l, i);
        }
        CHECK(ls_guard_most(&again, 6.0) == ls_guard_most(&l, 6.0));
        CHECK(again.ring[LS_GUARD_LOSSES - 1] == (from ? 4.4 + 0.01 * (from - 1) : 4.5));
        ls_guard_spike(&l, 4.4 + 0.01 * from, 6.0);
    }
    ls_guard_losses few = {0};
    ls_guard_spike(&few, 1.0, 6.0);
    CHECK_NEAR(ls_guard_spike(&few, 100.0, 6.0), 0.0, 0, 0); /* too few to judge */
}

int main(void) {
    test_odd();
    test_many();
    test_slowest();
    test_spike();
    return test_end();
}
