/* The order of samples: a keyed permutation of the windows of an epoch.
 *
 * Black & Rogaway 2002, "Ciphers with arbitrary finite domains", doi:10.1007/3-540-45760-7_9: a
 * Feistel network permutes 2h bits, the smallest even width that holds n; a value outside [0, n)
 * is permuted again until it falls inside, which keeps the map a bijection on [0, n). The domain
 * is below 4n, so that under four turns are expected. Philox is the round function. */
#include "runtime/data/data.h"

#include "runtime/base/rng.h"

/* Keeps these draws apart from those of initialisation and dropout under the same seed. */
static const uint64_t ORDER_KEY = 0x4C534F5244455231u;
static const uint32_t ROUNDS = 8; /* more change nothing in the chi-squared of small sets */

static int half_bits(uint64_t n) {
    int h = 1;
    while (h < 32 && ((uint64_t)1 << 2 * h) < n) {
        h++;
    }
    return h;
}

static uint32_t round_value(uint64_t seed, uint64_t epoch, uint32_t round, uint32_t half) {
    const uint32_t counter[4] = {half, round, (uint32_t)epoch, (uint32_t)(epoch >> 32)};
    const uint64_t key = seed ^ ORDER_KEY;
    const uint32_t words[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    return ls_rng_philox(counter, words).v[0];
}

uint64_t ls_permute(uint64_t seed, uint64_t epoch, uint64_t place, uint64_t n) {
    const int h = half_bits(n);
    const uint32_t mask = (uint32_t)(((uint64_t)1 << h) - 1);
    do {
        uint32_t left = (uint32_t)(place >> h), right = (uint32_t)place & mask;
        for (uint32_t round = 0; round < ROUNDS; round++) {
            uint32_t next = left ^ (round_value(seed, epoch, round, right) & mask);
            left = right;
            right = next;
        }
        place = (uint64_t)left << h | right;
    } while (place >= n);
    return place;
}

uint64_t ls_permute_inverse(uint64_t seed, uint64_t epoch, uint64_t value, uint64_t n) {
    const int h = half_bits(n);
    const uint32_t mask = (uint32_t)(((uint64_t)1 << h) - 1);
    do {
        uint32_t left = (uint32_t)(value >> h), right = (uint32_t)value & mask;
        for (uint32_t round = ROUNDS; round-- > 0;) {
            uint32_t last = right ^ (round_value(seed, epoch, round, left) & mask);
            right = left;
            left = last;
        }
        value = (uint64_t)left << h | right;
    } while (value >= n);
    return value;
}

int64_t ls_sample_window(uint64_t seed, int64_t sample, int64_t windows) {
    uint64_t n = (uint64_t)windows, k = (uint64_t)sample;
    return (int64_t)ls_permute(seed, k / n, k % n, n);
}
