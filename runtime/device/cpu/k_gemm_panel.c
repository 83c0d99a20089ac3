/* Copies of operands and finishing touches on tiles of a product; contracts in gemm.h. */
#include "runtime/device/cpu/gemm.h"
#include "runtime/device/cpu/k_bf16.h"
#include "runtime/device/cpu/k_gemm_dots.h"
#include "runtime/device/cpu/quads.h"

#include <string.h>
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
#include <arm_neon.h>
#endif

static inline ls_quad load_f32(const float *src) {
    return ls_quad_load(src);
}

static inline ls_quad load_bf16(const ls_bf16 *src) {
    return (ls_quad){src[0], src[1], src[2], src[3]} << 16;
}

/* The two types differ in how four elements and one are read. */
#define DEFINE_TRANSPOSE(name, type, load, convert)                                                \
    static void name(const type *src, int64_t ld_src, int64_t rows, int64_t cols, float *dst,      \
                     int64_t ld_dst) {                                                             \
        for (int64_t i = 0; i < rows; i += 4) {                                                    \
            const type *s = src + i * ld_src;                                                      \
            int64_t j = 0;                                                                         \
            for (; i + 4 <= rows && j + 4 <= cols; j += 4) {                                       \
                ls_quads_transpose(load(s + j), load(s + ld_src + j), load(s + 2 * ld_src + j),    \
                                   load(s + 3 * ld_src + j), dst + j * ld_dst + i, ld_dst);        \
            }                                                                                      \
            for (; j < cols; j++) {                                                                \
                for (int64_t r = i; r < rows && r < i + 4; r++) {                                  \
                    dst[j * ld_dst + r] = convert(src[r * ld_src + j]);                            \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }
DEFINE_TRANSPOSE(transpose_f32, float, load_f32, )
DEFINE_TRANSPOSE(transpose_bf16, ls_bf16, load_bf16, ls_bf16_to_f32)

static void copy_f32(const float *src, int64_t ld_src, int64_t rows, int64_t cols, float *dst,
                     int64_t ld_dst) {
    for (int64_t i = 0; i < rows; i++) {
        memcpy(dst + i * ld_dst, src + i * ld_src, (size_t)cols * sizeof *dst);
    }
}

static void copy_bf16(const ls_bf16 *src, int64_t ld_src, int64_t rows, int64_t cols, float *dst,
                      int64_t ld_dst) {
    for (int64_t i = 0; i < rows; i++) {
        const ls_bf16 *s = src + i * ld_src;
        float *d = dst + i * ld_dst;
#pragma omp simd
        for (int64_t j = 0; j < cols; j++) {
            d[j] = ls_bf16_to_f32(s[j]);
        }
    }
}

static void pack(ls_dtype dtype, bool trans, const void *src, int64_t ld_src, int64_t rows,
                 int64_t cols, float *dst, int64_t ld_dst) {
    if (dtype == LS_F32) {
        (trans ? transpose_f32 : copy_f32)(src, ld_src, rows, cols, dst, ld_dst);
    } else {
        (trans ? transpose_bf16 : copy_bf16)(src, ld_src, rows, cols, dst, ld_dst);
    }
}

/* product and c may be the same, and so may c and residual: element j is read before it is
 * written and no other is, so the lanes of a vector are independent. */
static void finish_f32(const float *product, int64_t cols, float *c, bool add_c, const float *bias,
                       const float *residual) {
#pragma omp simd
    for (int64_t j = 0; j < cols; j++) {
        float sum = product[j];
        sum += add_c ? c[j] : 0.0f;
        sum += bias ? bias[j] : 0.0f;
        sum += residual ? residual[j] : 0.0f;
        c[j] = sum;
    }
}

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
/* Rows of a tile are short: by the plain loop below, which GCC makes of a dozen instructions for
 * each conversion, they would take a tenth of a product's time. */
static inline float32x4_t widen_lanes(const ls_bf16 *x) {
    return vcvt_f32_bf16(vreinterpret_bf16_u16(vld1_u16(x)));
}

static int64_t finish_lanes(const float *product, int64_t cols, ls_bf16 *c, bool add_c,
                            const float *bias, const ls_bf16 *residual) {
    int64_t j = 0;
    for (; j + 4 <= cols; j += 4) {
        float32x4_t sum = vld1q_f32(product + j);
        sum = add_c ? vaddq_f32(sum, widen_lanes(c + j)) : sum;
        sum = bias ? vaddq_f32(sum, vld1q_f32(bias + j)) : sum;
        sum = residual ? vaddq_f32(sum, widen_lanes(residual + j)) : sum;
        vst1_u16(c + j, vreinterpret_u16_bf16(vcvt_bf16_f32(sum)));
    }
    return j;
}
#else
static int64_t finish_lanes(const float *product, int64_t cols, ls_bf16 *c, bool add_c,
                            const float *bias, const ls_bf16 *residual) {
    (void)product, (void)cols, (void)c, (void)add_c, (void)bias, (void)residual;
    return 0;
}
#endif

static void finish_bf16(const float *product, int64_t cols, ls_bf16 *c, bool add_c,
                        const float *bias, const ls_bf16 *residual) {
#pragma omp simd
    for (int64_t j = finish_lanes(product, cols, c, add_c, bias, residual); j < cols; j++) {
        float sum = product[j];
        sum += add_c ? ls_bf16_to_f32(c[j]) : 0.0f;
        sum += bias ? bias[j] : 0.0f;
        sum += residual ? ls_bf16_to_f32(residual[j]) : 0.0f;
        c[j] = ls_bf16_from_f32(sum);
    }
}

static void finish(const float *product, int64_t ld_product, int64_t rows, int64_t cols,
                   ls_dtype c_dtype, void *c, int64_t ldc, bool add_c, const float *bias,
                   const void *residual) {
    for (int64_t i = 0; i < rows; i++) {
        const float *p = product + i * ld_product;
        if (c_dtype == LS_F32) {
            const float *r = residual ? (const float *)residual + i * ldc : NULL;
            finish_f32(p, cols, (float *)c + i * ldc, add_c, bias, r);
        } else {
            const ls_bf16 *r = residual ? (const ls_bf16 *)residual + i * ldc : NULL;
            finish_bf16(p, cols, (ls_bf16 *)c + i * ldc, add_c, bias, r);
        }
    }
}

static void dots(ls_dtype dtype, int64_t cols, int64_t k, const void *a, const void *b, int64_t ldb,
                 float *product) {
    LS_BY_DTYPE(dtype, dot_rows, cols, k, a, b, ldb, product);
}

const ls_gemm_kernels LS_ISA_NAME(ls_cpu_gemm_kernels) = {
    .pack = pack, .finish = finish, .dots = dots};
