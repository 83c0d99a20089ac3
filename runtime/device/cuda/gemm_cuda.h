/* What the files of the CUDA device's matrix products share.
 *
 * cuBLASLt's matrices are stored by columns: a row-major C = A B is its C^T = B^T A^T, so operands
 * change places and nothing is transposed in memory. */
#ifndef LS_DEVICE_CUDA_GEMM_CUDA_H
#define LS_DEVICE_CUDA_GEMM_CUDA_H

#include "runtime/device/cuda/device_cuda.h"

#include <cublasLt.h>

#define LS_CUBLAS_WORKSPACE_BYTES ((size_t)32 << 20) /* what NVIDIA advises for sm_90 */

/* A product as cuBLASLt gets it. */
typedef struct ls_cuda_product {
    const ls_gemm *op;              /* with the operands that are multiplied */
    cudaDataType_t a_type, b_type;  /* of those */
    const float *a_scale, *b_scale; /* device memory: what they are multiplied with; NULL: 1 */
} ls_cuda_product;

/* What decides the algorithm. All members are 64 bits wide: no padding, so memcmp compares. */
typedef struct ls_gemm_key {
    int64_t m, n, k, lda, ldb, ldc;
    int64_t a_type, b_type, c_type, trans_a, trans_b, adds, scaled, epilogue;
    int64_t align_a, align_b, align_c, align_r;
} ls_gemm_key;

typedef struct ls_gemm_plan {
    ls_gemm_key key;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, c, d;
    cublasLtMatmulAlgo_t algorithm;
    bool chosen, absent; /* absent: cuBLASLt has no algorithm */
    cublasStatus_t why;  /* it is absent */
} ls_gemm_plan;

enum { LS_GEMM_PLANS_MAX = 256 };
struct ls_cuda_gemm {
    cublasLtHandle_t handle;
    void *workspace;
    void *bias; /* rounded to bf16 for outputs of that type; or the bias's gradient */
    size_t bias_bytes;
    ls_gemm_plan plans[LS_GEMM_PLANS_MAX];
    int count, next; /* the oldest gives way */
};

ls_status ls_cublas_check(cublasStatus_t status, const char *what);
/* gemm_plan.c: the plan of a key, valid until the next call. Its algorithm is chosen once its
 * pointers are set, which cuBLASLt may look at. */
ls_status ls_gemm_find_plan(ls_cuda_gemm *g, const ls_gemm_key *key, ls_gemm_plan **plan);
ls_status ls_gemm_choose(ls_cuda_gemm *g, ls_gemm_plan *plan);
ls_status ls_gemm_set(ls_gemm_plan *plan, cublasLtMatmulDescAttributes_t attribute,
                      const void *value, size_t bytes);
static inline cudaDataType_t ls_cublas_type(ls_dtype dtype) {
    return dtype == LS_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}
/* gemm_cublaslt.c */
ls_status ls_cuda_multiply(ls_cuda_device *cuda, const ls_cuda_product *product);
/* gemm_fp8.c: rounds the operands and multiplies them. k > 0. */
ls_status ls_cuda_multiply_fp8(ls_cuda_device *cuda, const ls_gemm *op);

#endif
