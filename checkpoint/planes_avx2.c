#include "checkpoint/planes.h"

#if defined(__AVX2__)
#include "checkpoint/planes_loops.h"

#include <immintrin.h>

static inline __m256i load(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Instructions interleave the halves of a vector each for itself: `low` holds what belongs before
 * `high` in both halves. */
static inline void store_halves(uint8_t *first, uint8_t *second, __m256i low, __m256i high) {
    _mm256_storeu_si256((__m256i *)first, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256((__m256i *)second, _mm256_permute2x128_si256(low, high, 0x31));
}

static size_t interleave(uint8_t *out, const uint8_t *in, size_t elems, size_t width,
                         size_t count) {
    size_t i = 0;
    for (; width == 2 && i + 32 <= count; i += 32) {
        const __m256i a = load(in + i), b = load(in + elems + i);
        store_halves(out + 2 * i, out + 2 * i + 32, _mm256_unpacklo_epi8(a, b),
                     _mm256_unpackhi_epi8(a, b));
    }
    for (; width == 4 && i + 32 <= count; i += 32) {
        const __m256i a = load(in + i), b = load(in + elems + i);
        const __m256i c = load(in + 2 * elems + i), d = load(in + 3 * elems + i);
        const __m256i low_ab = _mm256_unpacklo_epi8(a, b), high_ab = _mm256_unpackhi_epi8(a, b);
        const __m256i low_cd = _mm256_unpacklo_epi8(c, d), high_cd = _mm256_unpackhi_epi8(c, d);
        uint8_t *to = out + 4 * i;
        store_halves(to, to + 64, _mm256_unpacklo_epi16(low_ab, low_cd),
                     _mm256_unpackhi_epi16(low_ab, low_cd));
        store_halves(to + 32, to + 96, _mm256_unpacklo_epi16(high_ab, high_cd),
                     _mm256_unpackhi_epi16(high_ab, high_cd));
    }
    return i;
}

static inline void store(uint8_t *p, __m256i v) {
    _mm256_storeu_si256((__m256i *)p, v);
}

/* Of 16 elements of two bytes: all first bytes, then all second ones. */
static inline __m256i halves_of_two(const uint8_t *p) {
    const __m256i apart = _mm256_shuffle_epi8(
        load(p), _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6,
                                  8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    return _mm256_permute4x64_epi64(apart, 0xd8);
}

/* Of each 4 elements of four bytes: all first bytes, then all second ones, and so on. */
static inline __m256i quarters_of_four(const uint8_t *p) {
    return _mm256_shuffle_epi8(load(p), _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3,
                                                         7, 11, 15, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6,
                                                         10, 14, 3, 7, 11, 15));
}

static size_t deinterleave(uint8_t *out, const uint8_t *in, size_t elems, size_t width,
                           size_t count) {
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    size_t i = 0;
    for (; width == 2 && i + 32 <= count; i += 32) {
        const __m256i a = halves_of_two(in + 2 * i), b = halves_of_two(in + 2 * i + 32);
        store_halves(out + i, out + elems + i, a, b);
    }
    for (; width == 4 && i + 32 <= count; i += 32) {
        const uint8_t *from = in + 4 * i;
        const __m256i a = quarters_of_four(from), b = quarters_of_four(from + 32);
        const __m256i c = quarters_of_four(from + 64), d = quarters_of_four(from + 96);
        const __m256i low_ab = _mm256_unpacklo_epi32(a, b), high_ab = _mm256_unpackhi_epi32(a, b);
        const __m256i low_cd = _mm256_unpacklo_epi32(c, d), high_cd = _mm256_unpackhi_epi32(c, d);
        const __m256i planes[4] = {
            _mm256_unpacklo_epi64(low_ab, low_cd), _mm256_unpackhi_epi64(low_ab, low_cd),
            _mm256_unpacklo_epi64(high_ab, high_cd), _mm256_unpackhi_epi64(high_ab, high_cd)};
        for (size_t b4 = 0; b4 < 4; b4++) {
            store(out + b4 * elems + i, _mm256_permutevar8x32_epi32(planes[b4], in_order));
        }
    }
    return i;
}

const ls_planes_ops ls_planes_avx2 = {.name = "avx2", .split = split, .join = join, .hash = hash};
#endif
