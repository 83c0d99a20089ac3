/* Counter-based random numbers: a pure function of (seed, stream, index), with no state to save.
 * Philox4x32-10: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3",
 * doi:10.1145/2063384.2063405. Checked against the paper's known-answer vectors. */
#ifndef LS_BASE_RNG_H
#define LS_BASE_RNG_H

#include <math.h>
#include <stdint.h>

typedef struct ls_rng_block {
    uint32_t v[4];
} ls_rng_block;

static inline ls_rng_block ls_rng_philox(const uint32_t counter[4], const uint32_t key[2]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (ls_rng_block){{c0, c1, c2, c3}};
}

/* Four 32-bit words for (seed, stream, index). */
static inline ls_rng_block ls_rng_draw(uint64_t seed, uint64_t stream, uint64_t index) {
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                                 (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    return ls_rng_philox(counter, key);
}

/* Uniform in [0, 1) with 53 bits. */
static inline double ls_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    ls_rng_block b = ls_rng_draw(seed, stream, index);
    uint64_t bits = ((uint64_t)b.v[0] << 32 | b.v[1]) >> 11;
    return (double)bits * 0x1p-53;
}

/* Standard normal (Box & Muller 1958, doi:10.1214/aoms/1177706645). */
static inline double ls_rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    ls_rng_block b = ls_rng_draw(seed, stream, index);
    uint64_t bits0 = ((uint64_t)b.v[0] << 32 | b.v[1]) >> 11;
    uint64_t bits1 = ((uint64_t)b.v[2] << 32 | b.v[3]) >> 11;
    double u = ((double)bits0 + 1.0) * 0x1p-53; /* (0, 1] */
    double v = (double)bits1 * 0x1p-53;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

#endif
