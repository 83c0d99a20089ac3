/* Vectors of fp32 from and to bf16, and the functions that kernels of bf16 want, for the levels
 * with AVX-512. Results are rounded to 8 bits, so reciprocals and exponentials need not be good to
 * 24. Empty at the other levels, whose kernels are plain loops with the functions of vec_math.h. */
#ifndef LS_DEVICE_CPU_K_BF16_H
#define LS_DEVICE_CPU_K_BF16_H

#include "runtime/device/cpu/kernel.h"

/* 2^f for f in [-1/2, 1/2], for what becomes bf16: 1 + f EXP2_1 + f^2 EXP2_2 ... within 2^-18. */
#define EXP2_4 9.58285e-3f
#define EXP2_3 5.590642e-2f
#define EXP2_2 2.4024099e-1f
#define EXP2_1 6.9312419e-1f

#if defined(__AVX512BW__)
#define HAS_BF16_VECTORS 1

#include <immintrin.h>

/* Loops take a line of memory at a time, two vectors, and what is left of a row by masks: masked
 * accesses alone move what is not in the cache at less than half the speed. */
enum { BF16_LANES = 16, BF16_LINE = 32 };

/* Vectors that go through a longer computation together, and a statement for each of them. */
enum { BF16_AT_ONCE = 8, BF16_STRETCH = BF16_AT_ONCE * BF16_LANES };
#define BF16_EACH(v, statement)                                                                    \
    _Pragma("GCC unroll 8") for (int v = 0; v < BF16_AT_ONCE; v++) {                               \
        statement;                                                                                 \
    }

/* Lanes of the vector from element i on that lie before end. */
LS_INLINE __mmask16 bf16_mask(int64_t i, int64_t end) {
    return i + BF16_LANES <= end ? 0xffff : (__mmask16)((1u << (end - i)) - 1);
}

LS_INLINE __m512 bf16_load(const ls_bf16 *x, __mmask16 mask) {
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

#if defined(__AVX512BF16__)
LS_INLINE __m256i bf16_of(__m512 x) {
    return (__m256i)_mm512_cvtneps_pbh(x);
}

LS_INLINE __m512i bf16_of_line(__m512 first, __m512 second) {
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}
#else
/* As ls_bf16_from_f32 has it, in the low halves of words. */
LS_INLINE __m512i bf16_words(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_mask_or_epi32(_mm512_srli_epi32(up, 16), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                                high, _mm512_set1_epi32(0x7fc0));
}

LS_INLINE __m256i bf16_of(__m512 x) {
    return _mm512_cvtepi32_epi16(bf16_words(x));
}

LS_INLINE __m512i bf16_of_line(__m512 first, __m512 second) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(bf16_of(first)), bf16_of(second), 1);
}
#endif

LS_INLINE void bf16_store(ls_bf16 *y, __mmask16 mask, __m512 x) {
    _mm256_mask_storeu_epi16(y, mask, bf16_of(x));
}

LS_INLINE __m512 bf16_load_whole(const ls_bf16 *x) {
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

LS_INLINE void bf16_store_line(ls_bf16 *y, __m512 first, __m512 second) {
    _mm512_storeu_si512(y, bf16_of_line(first, second));
}

/* BF16_STRETCH elements, and back. */
LS_INLINE void bf16_load_each(const ls_bf16 *from, __m512 x[BF16_AT_ONCE]) {
    BF16_EACH(v, x[v] = bf16_load_whole(from + v * BF16_LANES));
}

LS_INLINE void bf16_store_each(ls_bf16 *to, const __m512 x[BF16_AT_ONCE]) {
#pragma GCC unroll 4
    for (int v = 0; v < BF16_AT_ONCE; v += 2) {
        bf16_store_line(to + v * BF16_LANES, x[v], x[v + 1]);
    }
}

/* p times 2^n, n the integer nearest to x: what _mm512_reduce_ps leaves of x is in [-1/2, 1/2], 0
 * of an infinity, and p is its minimax polynomial. */
LS_INLINE __m512 exp2_scaled(__m512 x, __m512 p) {
    return _mm512_scalef_ps(p, _mm512_roundscale_ps(x, 0));
}

/* 2^x within 2 ulp, for what is summed in fp32; 0 of -inf, NaN of NaN. */
LS_INLINE __m512 exp2_fp32(__m512 x) {
    const __m512 f = _mm512_reduce_ps(x, 0);
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(1.535336188e-4f), _mm512_set1_ps(1.339887440e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.618437358e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.550332471e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.402264791e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931472029e-1f));
    return exp2_scaled(x, _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f)));
}

/* 2^x within 2^-18, for what becomes bf16. */
LS_INLINE __m512 exp2_bf16(__m512 x) {
    const __m512 f = _mm512_reduce_ps(x, 0);
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(EXP2_4), _mm512_set1_ps(EXP2_3));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(EXP2_2));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(EXP2_1));
    return exp2_scaled(x, _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f)));
}

/* x[v] = 2^x[v] of BF16_AT_ONCE vectors, as exp2_bf16. Stage by stage: chains of operations one
 * after the other fill the processor's schedulers before they keep its units busy. */
LS_INLINE void exp2_bf16_each(__m512 x[BF16_AT_ONCE]) {
    __m512 f[BF16_AT_ONCE], p[BF16_AT_ONCE];
    BF16_EACH(v, f[v] = _mm512_reduce_ps(x[v], 0));
    BF16_EACH(v, x[v] = _mm512_roundscale_ps(x[v], 0));
    BF16_EACH(v, p[v] = _mm512_fmadd_ps(f[v], _mm512_set1_ps(EXP2_4), _mm512_set1_ps(EXP2_3)));
    BF16_EACH(v, p[v] = _mm512_fmadd_ps(p[v], f[v], _mm512_set1_ps(EXP2_2)));
    BF16_EACH(v, p[v] = _mm512_fmadd_ps(p[v], f[v], _mm512_set1_ps(EXP2_1)));
    BF16_EACH(v, p[v] = _mm512_fmadd_ps(p[v], f[v], _mm512_set1_ps(1.0f)));
    BF16_EACH(v, x[v] = _mm512_scalef_ps(p[v], x[v]));
}

/* 1 / (1 + e) for e >= 0, within 2^-13, for what becomes bf16. */
LS_INLINE __m512 sigmoid_of(__m512 e) {
    return _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

#endif
#endif
