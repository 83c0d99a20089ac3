/* The same numbers to the bit by all functions here: this file is compiled without fused
 * multiply-adds, and the vectors' operations are those of the plain functions, in their order. */
#include "runtime/model/init_normals.h"

#include "runtime/base/rng.h"

#include <stdbool.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Natural logarithm of x in (0, 1], to 1e-7: x = m 2^e with m near 1, and the series of
 * Cephes' logf for log(m). Several times as fast as the library's in double precision. */
static inline float log_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t shifted = bits - 0x3f3504f3u; /* sqrt(1/2): m in [sqrt(1/2), sqrt(2)) */
    const float e = (float)((int32_t)shifted >> 23);
    bits = (shifted & 0x007fffffu) + 0x3f3504f3u;
    float m;
    memcpy(&m, &bits, sizeof m);
    m -= 1.0f;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    const float z = m * m;
    return m - 0.5f * z + m * z * p + 6.9314718056e-1f * e;
}

/* Elements 2k and 2k+1 are the two normals that Box & Muller's transform
 * (doi:10.1214/aoms/1177706645) makes of block k: radius from 32 bits, angle from 32 others, whose
 * upper two are the quadrant. */
static inline void normal_pair(uint64_t seed, uint64_t stream, uint64_t k, float *first,
                               float *second) {
    const ls_rng_block b = ls_rng_draw(seed, stream, k);
    const float radius = sqrtf(-2.0f * log_of(((float)b.v[0] + 1.0f) * 0x1p-32f));
    const float x = (float)((int32_t)(b.v[1] << 2) >> 1) * (0x1p-31f * 1.5707963268f);
    const float xx = x * x; /* |x| <= pi/4; Taylor's series to 1e-8 */
    const float sine =
        x *
        (1.0f + xx * (-1.6666666667e-1f +
                      xx * (8.3333333333e-3f + xx * (-1.9841269841e-4f + xx * 2.7557319224e-6f))));
    const float cosine =
        1.0f +
        xx * (-0.5f + xx * (4.1666666667e-2f + xx * (-1.3888888889e-3f + xx * 2.4801587302e-5f)));
    const bool turned = b.v[1] >> 30 & 1, opposite = b.v[1] >> 31;
    const float signed_radius = opposite ? -radius : radius;
    *first = signed_radius * (turned ? -sine : cosine);
    *second = signed_radius * (turned ? cosine : sine);
}

#define DEFINE_NORMALS(name, attribute)                                                            \
    attribute static void name(uint64_t seed, uint64_t stream, uint64_t first, int pairs,          \
                               float std, float *restrict to) {                                    \
        for (int i = 0; i < pairs; i++) {                                                          \
            float a, b;                                                                            \
            normal_pair(seed, stream, first + (uint64_t)i, &a, &b);                                \
            to[2 * i] = std * a;                                                                   \
            to[2 * i + 1] = std * b;                                                               \
        }                                                                                          \
    }

DEFINE_NORMALS(normals, )
#if defined(__x86_64__)
DEFINE_NORMALS(normals_avx2, __attribute__((target("avx2"))))

#define AVX512 __attribute__((target("avx512f"), always_inline)) static inline

/* The first two words of 16 blocks. */
typedef struct words {
    __m512i v0, v1;
} words;

/* high(product) ^ word ^ key in the lower half of each lane; what is in the upper one is no
 * matter to what follows. */
AVX512 __m512i round_word(__m512i product, __m512i word, uint32_t key) {
    const __m512i high = _mm512_srli_epi64(product, 32);
    return _mm512_ternarylogic_epi64(high, word, _mm512_set1_epi64(key), 0x96);
}

/* ls_rng_draw of blocks first to first + 15: the even ones in c[][0], the odd ones in c[][1], so
 * that each product has a lane of its own. */
AVX512 words draw_words(uint64_t seed, uint64_t stream, uint64_t first) {
    const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
    const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    __m512i c0[2], c1[2], c2[2], c3[2];
    for (int odd = 0; odd < 2; odd++) {
        c0[odd] = _mm512_add_epi64(even, _mm512_set1_epi64((int64_t)first + odd));
        c1[odd] = _mm512_srli_epi64(c0[odd], 32);
        c2[odd] = _mm512_set1_epi64((int64_t)stream);
        c3[odd] = _mm512_srli_epi64(c2[odd], 32);
    }
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
            const __m512i p0 = _mm512_mul_epu32(m0, c0[odd]), p1 = _mm512_mul_epu32(m1, c2[odd]);
            c0[odd] = round_word(p1, c1[odd], k0);
            c1[odd] = p1;
            c2[odd] = round_word(p0, c3[odd], k1);
            c3[odd] = p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (words){_mm512_mask_blend_epi32(0xAAAA, c0[0], _mm512_slli_epi64(c0[1], 32)),
                   _mm512_mask_blend_epi32(0xAAAA, c1[0], _mm512_slli_epi64(c1[1], 32))};
}

/* c[0] + x (c[1] + x (c[2] + ...)) */
AVX512 __m512 polynomial(__m512 x, const float *c, int terms) {
    __m512 p = _mm512_set1_ps(c[terms - 1]);
#pragma GCC unroll 9
    for (int i = terms - 2; i >= 0; i--) {
        p = _mm512_add_ps(_mm512_mul_ps(p, x), _mm512_set1_ps(c[i]));
    }
    return p;
}

/* As log_of. */
AVX512 __m512 log_of_vector(__m512 x) {
    static const float terms[] = {3.3333331174e-1f,  -2.4999993993e-1f, 2.0000714765e-1f,
                                  -1.6668057665e-1f, 1.4249322787e-1f,  -1.2420140846e-1f,
                                  1.1676998740e-1f,  -1.1514610310e-1f, 7.0376836292e-2f};
    const __m512i near = _mm512_set1_epi32(0x3f3504f3);
    const __m512i shifted = _mm512_sub_epi32(_mm512_castps_si512(x), near);
    const __m512 e = _mm512_cvtepi32_ps(_mm512_srai_epi32(shifted, 23));
    const __m512i bits =
        _mm512_add_epi32(_mm512_and_epi32(shifted, _mm512_set1_epi32(0x007fffff)), near);
    const __m512 m = _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(1.0f));
    const __m512 p = polynomial(m, terms, sizeof terms / sizeof *terms);
    const __m512 z = _mm512_mul_ps(m, m);
    const __m512 less = _mm512_sub_ps(m, _mm512_mul_ps(_mm512_set1_ps(0.5f), z));
    const __m512 sum = _mm512_add_ps(less, _mm512_mul_ps(_mm512_mul_ps(m, z), p));
    return _mm512_add_ps(sum, _mm512_mul_ps(_mm512_set1_ps(6.9314718056e-1f), e));
}

AVX512 __m512 flip_sign(__m512 x, __m512i sign) {
    return _mm512_castsi512_ps(_mm512_xor_epi32(_mm512_castps_si512(x), sign));
}

/* As normal_pair, of 16 blocks. */
AVX512 void normal_vectors(words w, __m512 *first, __m512 *second) {
    static const float of_sine[] = {1.0f, -1.6666666667e-1f, 8.3333333333e-3f, -1.9841269841e-4f,
                                    2.7557319224e-6f};
    static const float of_cosine[] = {1.0f, -0.5f, 4.1666666667e-2f, -1.3888888889e-3f,
                                      2.4801587302e-5f};
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);
    const __m512 above_0 = _mm512_add_ps(_mm512_cvtepu32_ps(w.v0), _mm512_set1_ps(1.0f));
    const __m512 log = log_of_vector(_mm512_mul_ps(above_0, _mm512_set1_ps(0x1p-32f)));
    const __m512 radius = _mm512_sqrt_ps(_mm512_mul_ps(_mm512_set1_ps(-2.0f), log));
    const __m512i angle = _mm512_srai_epi32(_mm512_slli_epi32(w.v1, 2), 1);
    const __m512 x =
        _mm512_mul_ps(_mm512_cvtepi32_ps(angle), _mm512_set1_ps(0x1p-31f * 1.5707963268f));
    const __m512 xx = _mm512_mul_ps(x, x);
    const __m512 sine = _mm512_mul_ps(x, polynomial(xx, of_sine, 5));
    const __m512 cosine = polynomial(xx, of_cosine, 5);
    const __mmask16 turned = _mm512_test_epi32_mask(w.v1, _mm512_set1_epi32(1 << 30));
    const __m512 signed_radius = flip_sign(radius, _mm512_and_epi32(w.v1, sign));
    *first =
        _mm512_mul_ps(signed_radius, _mm512_mask_blend_ps(turned, cosine, flip_sign(sine, sign)));
    *second = _mm512_mul_ps(signed_radius, _mm512_mask_blend_ps(turned, sine, cosine));
}

/* Compilers make 64-bit products of 32-bit ones, which take three times as long. */
__attribute__((target("avx512f"))) static void normals_avx512(uint64_t seed, uint64_t stream,
                                                              uint64_t first, int pairs, float std,
                                                              float *restrict to) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    const __m512 scale = _mm512_set1_ps(std);
    int i = 0;
    for (; i + 16 <= pairs; i += 16) {
        __m512 a, b;
        normal_vectors(draw_words(seed, stream, first + (uint64_t)i), &a, &b);
        a = _mm512_mul_ps(scale, a);
        b = _mm512_mul_ps(scale, b);
        _mm512_storeu_ps(to + 2 * i, _mm512_permutex2var_ps(a, low, b));
        _mm512_storeu_ps(to + 2 * i + 16, _mm512_permutex2var_ps(a, high, b));
    }
    normals(seed, stream, first + (uint64_t)i, pairs - i, std, to + 2 * i);
}
#endif

ls_normals_fn *ls_normals_of(ls_isa isa) {
#if defined(__x86_64__)
    if (isa >= LS_ISA_AVX2) {
        return isa >= LS_ISA_AVX512 ? normals_avx512 : normals_avx2;
    }
#else
    (void)isa;
#endif
    return normals;
}
