/* How cuBLASLt is asked for a product, and what it chose: kept for products of the same shape. */
#include "runtime/device/cuda/gemm_cuda.h"

#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

ls_status ls_cublas_check(cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS) {
        return LS_OK;
    }
    return LS_FAIL(status == CUBLAS_STATUS_NOT_SUPPORTED ? LS_E_UNSUPPORTED : LS_E_DEVICE,
                   "cuBLASLt, %s: %s", what, cublasLtGetStatusName(status));
}

static ls_status start(ls_cuda_device *cuda) {
    LS_TRY(ls_calloc(1, sizeof *cuda->gemm, &cuda->gemm));
    LS_TRY(ls_cublas_check(cublasLtCreate(&cuda->gemm->handle), "starting"));
    cuda->base.scratch_bytes += LS_CUBLAS_WORKSPACE_BYTES;
    return cuda->base.ops->alloc(&cuda->base, LS_CUBLAS_WORKSPACE_BYTES, &cuda->gemm->workspace);
}

ls_status ls_cuda_gemm_start(ls_cuda_device *cuda, int64_t bias_elems) {
    LS_TRY(cuda->gemm ? LS_OK : start(cuda));
    return ls_cuda_grow(cuda, (size_t)bias_elems * sizeof(float), &cuda->gemm->bias,
                        &cuda->gemm->bias_bytes);
}

size_t ls_cuda_gemm_bytes(int64_t bias_elems) {
    return LS_CUBLAS_WORKSPACE_BYTES + (size_t)bias_elems * sizeof(float);
}

static void release_plan(ls_gemm_plan *p) {
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

ls_status ls_gemm_set(ls_gemm_plan *plan, cublasLtMatmulDescAttributes_t attribute,
                      const void *value, size_t bytes) {
    return ls_cublas_check(cublasLtMatmulDescSetAttribute(plan->product, attribute, value, bytes),
                           "describing a product");
}

static ls_status describe_product(const ls_gemm_key *k, ls_gemm_plan *p) {
    const cublasOperation_t plain = CUBLAS_OP_N, turned = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = (cublasLtEpilogue_t)k->epilogue;
    const cudaDataType_t out = (cudaDataType_t)k->c_type;
    LS_TRY(ls_cublas_check(cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                           "describing a product"));
    LS_TRY(
        ls_gemm_set(p, CUBLASLT_MATMUL_DESC_TRANSA, k->trans_b ? &turned : &plain, sizeof plain));
    LS_TRY(
        ls_gemm_set(p, CUBLASLT_MATMUL_DESC_TRANSB, k->trans_a ? &turned : &plain, sizeof plain));
    LS_TRY(ls_gemm_set(p, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    if (epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
        LS_TRY(ls_gemm_set(p, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out, sizeof out));
    }
    if (epilogue != CUBLASLT_EPILOGUE_DEFAULT && epilogue != CUBLASLT_EPILOGUE_BIAS) {
        LS_TRY(ls_gemm_set(p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &k->ldc, sizeof k->ldc));
    }
    return LS_OK;
}

static ls_status describe(const ls_gemm_key *k, ls_gemm_plan *p) {
    const cudaDataType_t out = (cudaDataType_t)k->c_type;
    const uint64_t m = (uint64_t)k->m, n = (uint64_t)k->n, depth = (uint64_t)k->k;
    LS_TRY(describe_product(k, p));
    LS_TRY(ls_cublas_check(cublasLtMatrixLayoutCreate(&p->a, (cudaDataType_t)k->b_type,
                                                      k->trans_b ? depth : n,
                                                      k->trans_b ? n : depth, k->ldb),
                           "describing B"));
    LS_TRY(ls_cublas_check(cublasLtMatrixLayoutCreate(&p->b, (cudaDataType_t)k->a_type,
                                                      k->trans_a ? m : depth,
                                                      k->trans_a ? depth : m, k->lda),
                           "describing A"));
    LS_TRY(ls_cublas_check(cublasLtMatrixLayoutCreate(&p->c, out, n, m, k->ldc), "describing C"));
    return ls_cublas_check(cublasLtMatrixLayoutCreate(&p->d, out, n, m, k->ldc), "describing C");
}

static ls_status wish_for(cublasLtMatmulPreference_t wish,
                          cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                          size_t bytes) {
    return ls_cublas_check(cublasLtMatmulPreferenceSetAttribute(wish, attribute, value, bytes),
                           "choosing");
}

/* No scheme of reduction that adds in an order that changes from run to run. */
static ls_status set_wishes(const ls_gemm_key *k, cublasLtMatmulPreference_t wish) {
    const size_t workspace_bytes = LS_CUBLAS_WORKSPACE_BYTES;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE |
                             CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE |
                             CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t bytes;
    } alignments[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)k->align_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)k->align_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)k->align_r},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)k->align_c},
    };
    LS_TRY(wish_for(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                    sizeof workspace_bytes));
    LS_TRY(wish_for(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes));
    for (int i = 0; i < 4; i++) {
        LS_TRY(wish_for(wish, alignments[i].attribute, &alignments[i].bytes,
                        sizeof alignments[i].bytes));
    }
    return LS_OK;
}

ls_status ls_gemm_choose(ls_cuda_gemm *g, ls_gemm_plan *p) {
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t found = {.state = CUBLAS_STATUS_NOT_SUPPORTED};
    int count = 0;
    if (p->chosen) {
        return LS_OK;
    }
    LS_TRY(ls_cublas_check(cublasLtMatmulPreferenceCreate(&wish), "choosing"));
    ls_status status = set_wishes(&p->key, wish);
    if (status == LS_OK) {
        const cublasStatus_t chosen = cublasLtMatmulAlgoGetHeuristic(
            g->handle, p->product, p->a, p->b, p->c, p->d, wish, 1, &found, &count);
        /* NOT_SUPPORTED by the documentation; versions differ in what they call a value they do
         * not take, of an epilogue or of fp8. */
        p->absent = chosen == CUBLAS_STATUS_NOT_SUPPORTED ||
                    chosen == CUBLAS_STATUS_INVALID_VALUE || count == 0 ||
                    (chosen == CUBLAS_STATUS_SUCCESS && found.state != CUBLAS_STATUS_SUCCESS);
        p->why = chosen == CUBLAS_STATUS_SUCCESS && count > 0 ? found.state : chosen;
        status = p->absent ? LS_OK : ls_cublas_check(chosen, "choosing an algorithm");
    }
    if (status == LS_OK && !p->absent) {
        p->algorithm = found.algo;
    }
    p->chosen = status == LS_OK;
    cublasLtMatmulPreferenceDestroy(wish);
    return status;
}

ls_status ls_gemm_find_plan(ls_cuda_gemm *g, const ls_gemm_key *key, ls_gemm_plan **plan) {
    for (int i = 0; i < g->count; i++) {
        if (memcmp(&g->plans[i].key, key, sizeof *key) == 0) {
            *plan = &g->plans[i];
            return LS_OK;
        }
    }
    ls_gemm_plan *p = &g->plans[g->next];
    release_plan(p);
    ls_status status = describe(key, p);
    p->key = *key;
    if (status != LS_OK) {
        release_plan(p);
        return status;
    }
    g->count = g->count < LS_GEMM_PLANS_MAX ? g->count + 1 : LS_GEMM_PLANS_MAX;
    g->next = (g->next + 1) % LS_GEMM_PLANS_MAX;
    *plan = p;
    return LS_OK;
}
