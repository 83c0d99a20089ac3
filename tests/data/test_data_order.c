/* The permutation of windows: a bijection for every size, with its inverse, and the same for ever.
 */
#include "runtime/base/rng.h"
#include "runtime/data/data.h"
#include "tests/test.h"

static void check_bijection(uint64_t seed, uint64_t epoch, uint64_t n) {
    char *hit = calloc(n, 1);
    uint64_t wrong = 0;
    for (uint64_t place = 0; hit && place < n; place++) {
        uint64_t value = ls_permute(seed, epoch, place, n);
        if (value >= n || hit[value] || ls_permute_inverse(seed, epoch, value, n) != place) {
            wrong++;
        } else {
            hit[value] = 1;
        }
    }
    CHECK(hit != NULL);
    CHECK_INT(wrong, 0);
    free(hit);
}

static void test_bijection(void) {
    for (uint64_t n = 1; n <= 300; n++) {
        check_bijection(n * 7, n % 5, n);
    }
    const uint64_t sizes[] = {1000, 1023, 1024, 1025, 4095, 4096, 4097, 65535, 65537};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        check_bijection(UINT64_MAX - i, UINT64_MAX - 1, sizes[i]);
    }
    /* Too large to count through: the inverse tells. */
    const uint64_t large[] = {(1ull << 32) - 1, (1ull << 32) + 1, 1ull << 40, (1ull << 62) + 3,
                              1ull << 63};
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        for (uint64_t k = 0; k < 200; k++) {
            uint64_t place = k < 100 ? k : large[i] - 1 - k;
            uint64_t value = ls_permute(3, k, place, large[i]);
            CHECK(value < large[i]);
            CHECK(ls_permute_inverse(3, k, value, large[i]) == place);
        }
    }
}

/* Every pair of values comes to every pair of places equally often, over seeds and over epochs:
 * chi-squared stays below its 99.99% point. The seeds are fixed, so this passes always or never.
 * (Whole orders are not equally likely: a Feistel network of 4 bits or more is an even permutation,
 * which shows in small sets as a bias of their order's parity.) */
static void test_uniform(void) {
    enum { MAX = 9, TRIALS = 400 };
    const double limit[MAX + 1] = {
        [3] = 26.4, [4] = 37.8, [5] = 51.1, [6] = 66.4, [7] = 83.7, [8] = 103, [9] = 124.3};
    for (uint64_t n = 3; n <= MAX; n++) {
        for (int by_epoch = 0; by_epoch < 2; by_epoch++) {
            const uint64_t pairs = n * (n - 1);
            int count[MAX * MAX] = {0};
            for (uint64_t s = 0; s < TRIALS * pairs; s++) {
                const uint64_t seed = by_epoch ? 11 : s, epoch = by_epoch ? s : 0;
                uint64_t first = ls_permute(seed, epoch, 1, n);
                uint64_t second = ls_permute(seed, epoch, n - 1, n);
                count[first * MAX + second]++;
            }
            double chi2 = 0;
            for (uint64_t i = 0; i < MAX * MAX; i++) {
                double off = count[i] - TRIALS;
                chi2 += i / MAX < n && i % MAX < n && i / MAX != i % MAX ? off * off / TRIALS : 0;
            }
            CHECK(chi2 < limit[n]);
        }
    }
}

/* Neighbours do not stay neighbours: as many as chance leaves. */
static void test_mixing(void) {
    const uint64_t n = 10007;
    int together = 0, fixed = 0, same_as_next_epoch = 0;
    for (uint64_t i = 0; i + 1 < n; i++) {
        uint64_t a = ls_permute(5, 0, i, n);
        together += ls_permute(5, 0, i + 1, n) == a + 1;
        fixed += a == i;
        same_as_next_epoch += ls_permute(5, 1, i, n) == a;
    }
    CHECK(together < 10); /* 1 is expected of each */
    CHECK(fixed < 10);
    CHECK(same_as_next_epoch < 10);
}

static void test_sample_window(void) {
    for (int64_t windows = 1; windows < 20; windows++) {
        for (int64_t sample = 0; sample < 3 * windows; sample++) {
            uint64_t expected = ls_permute(9, (uint64_t)(sample / windows),
                                           (uint64_t)(sample % windows), (uint64_t)windows);
            CHECK_INT(ls_sample_window(9, sample, windows), expected);
        }
    }
}

/* A run that resumes under another version of the program must read the same samples. */
static void test_known(void) {
    const struct {
        uint64_t seed, epoch, place, n, value;
    } known[] = {
        {0u, 0u, 0u, 1u, 0u},
        {0u, 0u, 0u, 2u, 0u},
        {1u, 0u, 0u, 10u, 7u},
        {1u, 0u, 9u, 10u, 0u},
        {1u, 1u, 0u, 10u, 5u},
        {1337u, 0u, 12345u, 100000u, 16500u},
        {1337u, 1099511627776u, 99999u, 100000u, 27602u},
        {18446744073709551615u, 7u, 1099511627776u, 1099511627777u, 227143577251u},
        {42u, 3u, 4611686018427387904u, 9223372036854775808u, 4888334223317708547u},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        CHECK_INT(ls_permute(known[i].seed, known[i].epoch, known[i].place, known[i].n),
                  known[i].value);
    }
}

int main(void) {
    test_bijection();
    test_uniform();
    test_mixing();
    test_sample_window();
    test_known();
    return test_end();
}
