/* Products of one row with rows of B, bound by the reading of B, which is read where it lies.
 *
 * Rows are taken one after the other, in the order of memory, which the processor fetches ahead
 * then: with several rows at a time it reads half as fast. A row's sum is in SUMS vectors, so that
 * no product waits for the one before. */
#ifndef LS_DEVICE_CPU_K_GEMM_DOTS_H
#define LS_DEVICE_CPU_K_GEMM_DOTS_H

#include "runtime/device/cpu/kernel.h"

#if defined(__AVX512BW__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
enum { DOT_BYTES = 64 };
#elif defined(__AVX__)
enum { DOT_BYTES = 32 };
#else
enum { DOT_BYTES = 16 };
#endif
enum { SUMS = 4 };

typedef float dot_vec __attribute__((vector_size(DOT_BYTES)));
typedef uint32_t dot_words __attribute__((vector_size(DOT_BYTES)));

LS_INLINE dot_words dot_load(const char *x) {
    dot_words words;
    memcpy(&words, x, sizeof words);
    return words;
}

/* sum + the products of the elements of x and y. */
LS_INLINE dot_vec dot_add(dot_vec sum, dot_words x, dot_words y, ls_dtype dtype) {
    if (dtype == LS_F32) {
        return sum + (dot_vec)x * (dot_vec)y;
    }
#if defined(__AVX512BF16__)
    return (dot_vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    return (dot_vec)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)x, (bfloat16x8_t)y);
#else
    sum += (dot_vec)(x << 16) * (dot_vec)(y << 16);
    return sum + (dot_vec)(x & 0xffff0000u) * (dot_vec)(y & 0xffff0000u);
#endif
}

/* What is left of a row, and zeros. */
LS_INLINE dot_words dot_end(const char *x, int64_t bytes) {
#if defined(__AVX512BW__)
    return (dot_words)_mm512_maskz_loadu_epi8(((uint64_t)1 << bytes) - 1, x);
#else
    dot_words end = {0};
    memcpy(&end, x, (size_t)bytes);
    return end;
#endif
}

LS_INLINE float dot_total(const dot_vec *sum) {
    typedef float quad __attribute__((vector_size(16)));
    const dot_vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    quad part[DOT_BYTES / 16];
    memcpy(part, &all, sizeof part);
    for (int half = DOT_BYTES / 32; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            part[i] += part[i + half];
        }
    }
    return (part[0][0] + part[0][1]) + (part[0][2] + part[0][3]);
}

/* product [cols] = the products of a [k] with each of cols rows of b [cols, ldb]. */
LS_INLINE void dot_rows(int64_t cols, int64_t k, const void *a, const void *b, int64_t ldb,
                        float *product, ls_dtype dtype) {
    const int64_t elem = (int64_t)ls_dtype_bytes(dtype), bytes = k * elem;
    const int64_t whole = bytes / DOT_BYTES * DOT_BYTES;
    const dot_words a_end = dot_end((const char *)a + whole, bytes - whole);
    for (int64_t j = 0; j < cols; j++) {
        const char *x = a, *y = (const char *)b + j * ldb * elem;
        dot_vec sum[SUMS] = {{0}};
        int64_t at = 0;
        while (at + SUMS * DOT_BYTES <= whole) {
#pragma GCC unroll 4
            for (int n = 0; n < SUMS; n++, at += DOT_BYTES) {
                sum[n] = dot_add(sum[n], dot_load(x + at), dot_load(y + at), dtype);
            }
        }
        for (; at < whole; at += DOT_BYTES) {
            sum[0] = dot_add(sum[0], dot_load(x + at), dot_load(y + at), dtype);
        }
        if (at < bytes) {
            sum[1] = dot_add(sum[1], a_end, dot_end(y + at, bytes - at), dtype);
        }
        product[j] = dot_total(sum);
    }
}

#endif
