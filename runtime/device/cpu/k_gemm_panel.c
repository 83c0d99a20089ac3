/* Conversions and finishing touches on tiles of a product; contracts in gemm.h. */
#include "runtime/device/cpu/gemm.h"

static void widen(const ls_bf16 *src, int64_t ld_src, int64_t rows, int64_t cols, float *dst,
                  int64_t ld_dst) {
    for (int64_t i = 0; i < rows; i++) {
        const ls_bf16 *s = src + i * ld_src;
        float *d = dst + i * ld_dst;
        for (int64_t j = 0; j < cols; j++) {
            d[j] = ls_bf16_to_f32(s[j]);
        }
    }
}

/* product and c may be the same, and so may c and residual: element j is read before it is
 * written and no other is, so the lanes of a vector are independent. */
static void finish_f32(const float *product, int64_t cols, float *c, bool add_c, const float *bias,
                       const float *residual) {
    if (add_c) {
#pragma omp simd
        for (int64_t j = 0; j < cols; j++) {
            float sum = product[j] + c[j];
            sum += bias ? bias[j] : 0.0f;
            sum += residual ? residual[j] : 0.0f;
            c[j] = sum;
        }
        return;
    }
#pragma omp simd
    for (int64_t j = 0; j < cols; j++) {
        float sum = product[j];
        sum += bias ? bias[j] : 0.0f;
        sum += residual ? residual[j] : 0.0f;
        c[j] = sum;
    }
}

static void finish_bf16(const float *product, int64_t cols, ls_bf16 *c, bool add_c,
                        const float *bias, const ls_bf16 *residual) {
#pragma omp simd
    for (int64_t j = 0; j < cols; j++) {
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

const ls_gemm_kernels LS_ISA_NAME(ls_cpu_gemm_kernels) = {.widen = widen, .finish = finish};
