/* Matrix products by cuBLASLt. cuBLASLt's matrices are stored by columns: a row-major C = A B is
 * its C^T = B^T A^T, so operands change places and nothing is transposed in memory. */
#include "runtime/base/arena.h"
#include "runtime/device/check.h"
#include "runtime/device/cuda/device_cuda.h"
#include "runtime/device/cuda/launch.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

enum { PLANS_MAX = 256, ALIGN_MAX = 256 };
#define WORKSPACE_BYTES ((size_t)32 << 20) /* what NVIDIA advises for sm_90 */

/* What decides the algorithm. All members are 64 bits wide: no padding, so memcmp compares. */
typedef struct plan_key {
    int64_t m, n, k, lda, ldb, ldc;
    int64_t dtype, c_dtype, trans_a, trans_b, bias, adds;
    int64_t align_a, align_b, align_c, align_r;
} plan_key;

typedef struct plan {
    plan_key key;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, c, d;
    cublasLtMatmulAlgo_t algorithm;
} plan;

struct ls_cuda_gemm {
    cublasLtHandle_t handle;
    void *workspace, *bias; /* bias: rounded to bf16 for outputs of that type */
    size_t bias_bytes;
    plan plans[PLANS_MAX];
    int count, next; /* the oldest gives way */
};

static ls_status check(cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS) {
        return LS_OK;
    }
    return LS_FAIL(status == CUBLAS_STATUS_NOT_SUPPORTED ? LS_E_UNSUPPORTED : LS_E_DEVICE,
                   "cuBLASLt, %s: %s", what, cublasLtGetStatusName(status));
}

ls_status ls_cuda_gemm_start(ls_cuda_device *cuda) {
    if (cuda->gemm) {
        return LS_OK;
    }
    LS_TRY(ls_calloc(1, sizeof *cuda->gemm, &cuda->gemm));
    LS_TRY(check(cublasLtCreate(&cuda->gemm->handle), "starting"));
    cuda->base.scratch_bytes += WORKSPACE_BYTES;
    return cuda->base.ops->alloc(&cuda->base, WORKSPACE_BYTES, &cuda->gemm->workspace);
}

static void release_plan(plan *p) {
    cublasLtMatrixLayout_t layouts[] = {p->a, p->b, p->c, p->d};
    for (int i = 0; i < 4; i++) {
        if (layouts[i]) {
            cublasLtMatrixLayoutDestroy(layouts[i]);
        }
    }
    if (p->product) {
        cublasLtMatmulDescDestroy(p->product);
    }
    memset(p, 0, sizeof *p);
}

void ls_cuda_gemm_destroy(ls_cuda_device *cuda) {
    ls_cuda_gemm *g = cuda->gemm;
    if (!g) {
        return;
    }
    for (int i = 0; i < g->count; i++) {
        release_plan(&g->plans[i]);
    }
    cudaFree(g->workspace);
    cudaFree(g->bias);
    if (g->handle) {
        cublasLtDestroy(g->handle);
    }
    free(g);
    cuda->gemm = NULL;
}

static cudaDataType_t type_of(int64_t dtype) {
    return dtype == LS_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static int64_t alignment(const void *p) {
    const uintptr_t bits = (uintptr_t)p | ALIGN_MAX;
    return (int64_t)(bits & (~bits + 1));
}

static ls_status set_product(plan *p, cublasLtMatmulDescAttributes_t attribute, const void *value,
                             size_t bytes) {
    return check(cublasLtMatmulDescSetAttribute(p->product, attribute, value, bytes),
                 "describing a product");
}

static ls_status describe(const plan_key *k, plan *p) {
    const cudaDataType_t in = type_of(k->dtype), out = type_of(k->c_dtype);
    const cublasOperation_t plain = CUBLAS_OP_N, turned = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue =
        k->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    LS_TRY(check(cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "describing a product"));
    LS_TRY(
        set_product(p, CUBLASLT_MATMUL_DESC_TRANSA, k->trans_b ? &turned : &plain, sizeof plain));
    LS_TRY(
        set_product(p, CUBLASLT_MATMUL_DESC_TRANSB, k->trans_a ? &turned : &plain, sizeof plain));
    LS_TRY(set_product(p, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    if (k->bias) {
        LS_TRY(set_product(p, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out, sizeof out));
    }
    const uint64_t m = (uint64_t)k->m, n = (uint64_t)k->n, depth = (uint64_t)k->k;
    LS_TRY(check(cublasLtMatrixLayoutCreate(&p->a, in, k->trans_b ? depth : n,
                                            k->trans_b ? n : depth, k->ldb),
                 "describing B"));
    LS_TRY(check(cublasLtMatrixLayoutCreate(&p->b, in, k->trans_a ? m : depth,
                                            k->trans_a ? depth : m, k->lda),
                 "describing A"));
    LS_TRY(check(cublasLtMatrixLayoutCreate(&p->c, out, n, m, k->ldc), "describing C"));
    return check(cublasLtMatrixLayoutCreate(&p->d, out, n, m, k->ldc), "describing C");
}

/* No scheme of reduction that adds in an order that changes from run to run. */
static ls_status choose(ls_cuda_gemm *g, plan *p) {
    cublasLtMatmulPreference_t wish = NULL;
    const size_t workspace_bytes = WORKSPACE_BYTES;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE |
                             CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE |
                             CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t bytes;
    } alignments[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)p->key.align_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)p->key.align_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)p->key.align_r},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)p->key.align_c},
    };
    ls_status status;
    LS_TRY(check(cublasLtMatmulPreferenceCreate(&wish), "choosing"));
    LS_TRY_GOTO(
        check(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                   &workspace_bytes, sizeof workspace_bytes),
              "choosing"),
        done);
    LS_TRY_GOTO(
        check(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                   &schemes, sizeof schemes),
              "choosing"),
        done);
    for (int i = 0; i < 4; i++) {
        LS_TRY_GOTO(check(cublasLtMatmulPreferenceSetAttribute(wish, alignments[i].attribute,
                                                               &alignments[i].bytes,
                                                               sizeof alignments[i].bytes),
                          "choosing"),
                    done);
    }
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    LS_TRY_GOTO(check(cublasLtMatmulAlgoGetHeuristic(g->handle, p->product, p->a, p->b, p->c, p->d,
                                                     wish, 1, &found, &count),
                      "choosing an algorithm"),
                done);
    if (count == 0) {
        status = LS_FAIL(LS_E_UNSUPPORTED,
                         "cuBLASLt has no algorithm for a product of m %lld, n %lld, k %lld of %s",
                         (long long)p->key.m, (long long)p->key.n, (long long)p->key.k,
                         ls_dtype_name((ls_dtype)p->key.dtype));
        goto done;
    }
    p->algorithm = found.algo;
done:
    cublasLtMatmulPreferenceDestroy(wish);
    return status;
}

static ls_status find_plan(ls_cuda_gemm *g, const plan_key *key, plan **out) {
    for (int i = 0; i < g->count; i++) {
        if (memcmp(&g->plans[i].key, key, sizeof *key) == 0) {
            *out = &g->plans[i];
            return LS_OK;
        }
    }
    plan *p = &g->plans[g->next];
    release_plan(p);
    ls_status status = describe(key, p);
    p->key = *key;
    status = status == LS_OK ? choose(g, p) : status;
    if (status != LS_OK) {
        release_plan(p);
        return status;
    }
    g->count = g->count < PLANS_MAX ? g->count + 1 : PLANS_MAX;
    g->next = (g->next + 1) % PLANS_MAX;
    *out = p;
    return LS_OK;
}

/* The bias in the type of C, which is what the epilogue reads. */
static ls_status bias_of(ls_cuda_device *cuda, const ls_gemm *op, const void **bias) {
    ls_cuda_gemm *g = cuda->gemm;
    *bias = op->bias;
    if (!op->bias || op->c_dtype == LS_F32) {
        return LS_OK;
    }
    const size_t bytes = (size_t)op->n * sizeof(ls_bf16);
    if (bytes > g->bias_bytes) {
        void *grown;
        LS_TRY(cuda->base.ops->alloc(&cuda->base, bytes, &grown));
        cudaFree(g->bias);
        cuda->base.scratch_bytes += bytes - g->bias_bytes;
        g->bias = grown;
        g->bias_bytes = bytes;
    }
    ls_cuda_launch_cast(cuda->compute, LS_BF16, op->n, op->bias, g->bias);
    *bias = g->bias;
    return LS_OK;
}

static ls_status multiply(ls_cuda_device *cuda, const ls_gemm *op) {
    /* The old C and the residual are what is added to the product; both, when they are the same
     * memory, are twice C. A residual beside an old C is added afterwards. */
    const void *added = op->accumulate || !op->residual ? op->c : op->residual;
    const bool twice = op->accumulate && op->residual == op->c;
    const bool adds = op->accumulate || op->residual;
    const float one = 1.0f, beta = twice ? 2.0f : adds ? 1.0f : 0.0f;
    const void *bias;
    LS_TRY(ls_cuda_gemm_start(cuda));
    LS_TRY(bias_of(cuda, op, &bias));
    const plan_key key = {.m = op->m,
                          .n = op->n,
                          .k = op->k,
                          .lda = op->lda,
                          .ldb = op->ldb,
                          .ldc = op->ldc,
                          .dtype = op->dtype,
                          .c_dtype = op->c_dtype,
                          .trans_a = op->trans_a,
                          .trans_b = op->trans_b,
                          .bias = bias != NULL,
                          .adds = adds,
                          .align_a = alignment(op->a),
                          .align_b = alignment(op->b),
                          .align_c = alignment(op->c),
                          .align_r = alignment(added)};
    plan *p;
    LS_TRY(find_plan(cuda->gemm, &key, &p));
    if (bias) {
        LS_TRY(set_product(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    }
    LS_TRY(check(cublasLtMatmul(cuda->gemm->handle, p->product, &one, op->b, p->a, op->a, p->b,
                                &beta, added, p->c, op->c, p->d, &p->algorithm,
                                cuda->gemm->workspace, WORKSPACE_BYTES, cuda->compute),
                 "multiplying"));
    if (op->accumulate && op->residual && !twice) {
        ls_gemm rest = *op;
        rest.bias = NULL;
        ls_cuda_launch_finish(cuda->compute, &rest, true);
    }
    return LS_OK;
}

ls_status ls_cuda_gemm_run(ls_device *dev, const ls_gemm *op) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    LS_TRY(ls_check_gemm(dev, op));
    if (op->m == 0 || op->n == 0) {
        return LS_OK;
    }
    if (op->k > 0) {
        LS_TRY(multiply(cuda, op));
    } else {
        ls_cuda_launch_finish(cuda->compute, op, op->accumulate);
    }
    return ls_cuda_check(cudaGetLastError(), "product", __FILE__, __LINE__);
}
