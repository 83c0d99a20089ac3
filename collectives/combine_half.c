#include "collectives/combine_half.h"

#include "runtime/base/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2   __attribute__((target("avx2,f16c")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#elif defined(__aarch64__)
#include <arm_neon.h>
#define NEON_BF16 __attribute__((target("arch=armv8.2-a+bf16")))
#endif

#define DEFINE_LOOPS(name, attribute, TO_F32, FROM_F32)                                            \
    attribute static void widen_##name(const uint16_t *from, int64_t count, float *to) {           \
        for (int64_t i = 0; i < count; i++) {                                                      \
            to[i] = TO_F32(from[i]);                                                               \
        }                                                                                          \
    }                                                                                              \
    attribute static void sum_##name(const uint16_t *a, const uint16_t *b, int64_t count,          \
                                     float *to) {                                                  \
        for (int64_t i = 0; i < count; i++) {                                                      \
            to[i] = TO_F32(a[i]) + TO_F32(b[i]);                                                   \
        }                                                                                          \
    }                                                                                              \
    attribute static void narrow_##name(const float *from, int64_t count, uint16_t *to) {          \
        for (int64_t i = 0; i < count; i++) {                                                      \
            to[i] = FROM_F32(from[i]);                                                             \
        }                                                                                          \
    }

DEFINE_LOOPS(bf16, , ls_bf16_to_f32, ls_bf16_from_f32)
DEFINE_LOOPS(f16, , ls_f16_to_f32, ls_f16_from_f32)

/* So many numbers at a time, and the rest one by one. */
#define DEFINE_WIDE(name, isa, attribute, LANES, TO_F32, STORE, ADD)                               \
    attribute static void widen_##name##_##isa(const uint16_t *from, int64_t count, float *to) {   \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= count; i += LANES) {                                                   \
            STORE(to + i, TO_F32(from + i));                                                       \
        }                                                                                          \
        widen_##name(from + i, count - i, to + i);                                                 \
    }                                                                                              \
    attribute static void sum_##name##_##isa(const uint16_t *a, const uint16_t *b, int64_t count,  \
                                             float *to) {                                          \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= count; i += LANES) {                                                   \
            STORE(to + i, ADD(TO_F32(a + i), TO_F32(b + i)));                                      \
        }                                                                                          \
        sum_##name(a + i, b + i, count - i, to + i);                                               \
    }

#if defined(__x86_64__)
AVX2 static inline __m256 f32_of_bf16_avx2(const uint16_t *from) {
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}

AVX2 static inline __m256 f32_of_f16_avx2(const uint16_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

AVX512 static inline __m512 f32_of_bf16_avx512(const uint16_t *from) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

AVX512 static inline __m512 f32_of_f16_avx512(const uint16_t *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

DEFINE_WIDE(bf16, avx2, AVX2, 8, f32_of_bf16_avx2, _mm256_storeu_ps, _mm256_add_ps)
DEFINE_WIDE(f16, avx2, AVX2, 8, f32_of_f16_avx2, _mm256_storeu_ps, _mm256_add_ps)
DEFINE_WIDE(bf16, avx512, AVX512, 16, f32_of_bf16_avx512, _mm512_storeu_ps, _mm512_add_ps)
DEFINE_WIDE(f16, avx512, AVX512, 16, f32_of_f16_avx512, _mm512_storeu_ps, _mm512_add_ps)

/* Bits of 8 numbers, rounded into the lower halves. */
AVX2 static __m256i round_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_srli_epi32(up, 16);
}

AVX2 static void narrow_bf16_avx2(const float *from, int64_t count, uint16_t *to) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m256 a = _mm256_loadu_ps(from + i), b = _mm256_loadu_ps(from + i + 8);
        if (_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) == 0) {
            const __m256i both = _mm256_packus_epi32(round_bf16(a), round_bf16(b));
            _mm256_storeu_si256((__m256i *)(to + i), _mm256_permute4x64_epi64(both, 0xd8));
        } else {
            narrow_bf16(from + i, 16, to + i);
        }
    }
    narrow_bf16(from + i, count - i, to + i);
}

AVX512 static void narrow_bf16_avx512(const float *from, int64_t count, uint16_t *to) {
    const __m512i half = _mm512_set1_epi32(0x7fff), one = _mm512_set1_epi32(1);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m512 x = _mm512_loadu_ps(from + i);
        if (_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) == 0) {
            const __m512i bits = _mm512_castps_si512(x);
            const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
            const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, half));
            _mm256_storeu_si256((__m256i *)(to + i),
                                _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
        } else {
            narrow_bf16(from + i, 16, to + i);
        }
    }
    narrow_bf16(from + i, count - i, to + i);
}

AVX2 static void narrow_f16_avx2(const float *from, int64_t count, uint16_t *to) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m256 x = _mm256_loadu_ps(from + i);
        if (_mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)) == 0) {
            _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
        } else { /* the instruction would keep what else a NaN says */
            narrow_f16(from + i, 8, to + i);
        }
    }
    narrow_f16(from + i, count - i, to + i);
}
#elif defined(__aarch64__)
static inline float32x4_t f32_of_f16_neon(const uint16_t *from) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}

DEFINE_WIDE(f16, neon, , 4, f32_of_f16_neon, vst1q_f32, vaddq_f32)

static void narrow_f16_neon(const float *from, int64_t count, uint16_t *to) {
    const uint16x4_t sign = vdup_n_u16(0x8000), quiet_nan = vdup_n_u16(0x7e00);
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const float32x4_t x = vld1q_f32(from + i);
        const uint16x4_t half = vreinterpret_u16_f16(vcvt_f16_f32(x));
        /* The instruction keeps what else a NaN says. */
        const uint16x4_t nan = vorr_u16(vand_u16(half, sign), quiet_nan);
        vst1_u16(to + i, vbsl_u16(vmovn_u32(vceqq_f32(x, x)), half, nan));
    }
    narrow_f16(from + i, count - i, to + i);
}

NEON_BF16 static void narrow_bf16_neon(const float *from, int64_t count, uint16_t *to) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const bfloat16x8_t low = vcvtq_low_bf16_f32(vld1q_f32(from + i));
        const bfloat16x8_t both = vcvtq_high_bf16_f32(low, vld1q_f32(from + i + 4));
        vst1q_u16(to + i, vreinterpretq_u16_bf16(both));
    }
    narrow_bf16(from + i, count - i, to + i);
}
#endif

const ls_half_ops *ls_half_ops_of(ls_dtype dtype) {
    static const ls_half_ops plain[] = {{widen_bf16, sum_bf16, narrow_bf16},
                                        {widen_f16, sum_f16, narrow_f16}};
#if defined(__x86_64__)
    static const ls_half_ops avx2[] = {{widen_bf16_avx2, sum_bf16_avx2, narrow_bf16_avx2},
                                       {widen_f16_avx2, sum_f16_avx2, narrow_f16_avx2}};
    static const ls_half_ops avx512[] = {{widen_bf16_avx512, sum_bf16_avx512, narrow_bf16_avx512},
                                         {widen_f16_avx512, sum_f16_avx512, narrow_f16_avx2}};
    ls_isa isa;
    if (ls_cpu_isa(&isa) == LS_OK && isa >= LS_ISA_AVX2) {
        return &(isa >= LS_ISA_AVX512 ? avx512 : avx2)[dtype == LS_F16];
    }
#elif defined(__aarch64__)
    static const ls_half_ops f16 = {widen_f16_neon, sum_f16_neon, narrow_f16_neon};
    static const ls_half_ops bf16 = {widen_bf16, sum_bf16, narrow_bf16_neon};
    ls_isa isa;
    if (dtype == LS_F16) {
        return &f16;
    }
    if (ls_cpu_isa(&isa) == LS_OK && isa == LS_ISA_SVE_BF16) {
        return &bf16;
    }
#endif
    return &plain[dtype == LS_F16];
}
