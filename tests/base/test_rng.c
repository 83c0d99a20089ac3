#include "runtime/base/rng.h"
#include "tests/test.h"

/* philox4x32-10 of Random123's kat_vectors. */
static void test_known_answers(void) {
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ls_rng_block b = ls_rng_philox(cases[i].counter, cases[i].key);
        for (int w = 0; w < 4; w++) {
            CHECK_INT(b.v[w], cases[i].expected[w]);
        }
    }
}

/* Every bit of seed, stream and index matters. */
static void test_draw_uses_all_bits(void) {
    ls_rng_block base = ls_rng_draw(0, 0, 0);
    CHECK_INT(base.v[0], 0x6627e8d5);
    for (int bit = 0; bit < 64; bit++) {
        uint64_t x = 1ull << bit;
        ls_rng_block changed[3] = {ls_rng_draw(x, 0, 0), ls_rng_draw(0, x, 0),
                                   ls_rng_draw(0, 0, x)};
        for (int i = 0; i < 3; i++) {
            CHECK(memcmp(&changed[i], &base, sizeof base) != 0);
            CHECK(memcmp(&changed[i], &changed[(i + 1) % 3], sizeof base) != 0);
        }
    }
}

/* Bounds are six standard errors of the moments of n draws. */
static void test_uniform(void) {
    enum { DRAWS = 100000, BINS = 16 };
    double sum = 0, sum_of_squares = 0, chi_square = 0;
    int bins[BINS] = {0};
    for (int i = 0; i < DRAWS; i++) {
        double x = ls_rng_uniform(7, 3, (uint64_t)i);
        if (!(x >= 0 && x < 1)) {
            CHECK(!"uniform is outside [0, 1)");
            return;
        }
        bins[(int)(x * BINS)]++;
        sum += x;
        sum_of_squares += x * x;
    }
    for (int b = 0; b < BINS; b++) {
        double expected = (double)DRAWS / BINS;
        chi_square += (bins[b] - expected) * (bins[b] - expected) / expected;
    }
    CHECK_NEAR(sum / DRAWS, 0.5, 0, 6 * sqrt(1.0 / 12 / DRAWS));
    CHECK_NEAR(sum_of_squares / DRAWS, 1.0 / 3, 0, 6 * sqrt(4.0 / 45 / DRAWS));
    CHECK(chi_square < 50); /* 15 degrees of freedom: passed by chance once in 10^5 seeds */
}

static void test_normal(void) {
    enum { DRAWS = 100000 };
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
    int beyond_two = 0;
    for (int i = 0; i < DRAWS; i++) {
        double x = ls_rng_normal(7, 4, (uint64_t)i);
        m1 += x / DRAWS;
        m2 += x * x / DRAWS;
        m3 += x * x * x / DRAWS;
        m4 += x * x * x * x / DRAWS;
        beyond_two += fabs(x) > 2;
    }
    double error = 6 / sqrt(DRAWS);
    CHECK_NEAR(m1, 0, 0, error);
    CHECK_NEAR(m2, 1, 0, error * sqrt(2));
    CHECK_NEAR(m3, 0, 0, error * sqrt(15));
    CHECK_NEAR(m4, 3, 0, error * sqrt(96));
    CHECK_NEAR((double)beyond_two / DRAWS, 0.0455, 0, error * sqrt(0.0455));
}

int main(void) {
    test_known_answers();
    test_draw_uses_all_bits();
    test_uniform();
    test_normal();
    return test_end();
}
