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

const ls_planes_ops ls_planes_avx2 = {.name = "avx2", .join = join, .hash = hash};
#endif
