/* cuBLASLt of the emulated device: queued products, computed by the CPU device. */
#include "tests/emulator/emulator.h"

#include "runtime/device/device.h"
#include "tests/emulator/include/cublasLt.h"

#include <stdlib.h>
#include <string.h>

struct emu_blas {
    ls_device *cpu;
    float *bias; /* of the product being computed, widened */
    size_t bias_elems;
};

struct emu_product {
    cublasOperation_t trans_a, trans_b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    cudaDataType_t bias_type;
};

struct emu_layout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
};

struct emu_preference {
    uint32_t schemes;
    uint32_t alignment[4];
};

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    *handle = calloc(1, sizeof **handle);
    if (!*handle || ls_device_open_cpu(&(ls_device_options){.threads = 1}, &(*handle)->cpu)) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    cudaDeviceSynchronize();
    handle->cpu->ops->close(handle->cpu);
    free(handle->bias);
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusName(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "?";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *product, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    *product = calloc(1, sizeof **product);
    if (!*product || compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    (*product)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product) {
    free(product);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes) {
    void *field = NULL;
    size_t expected = 0;
#define FIELD(name)                                                                                \
    field = &product->name;                                                                        \
    expected = sizeof product->name;                                                               \
    break
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        FIELD(trans_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        FIELD(trans_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        FIELD(epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        FIELD(bias);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        FIELD(bias_type);
    }
#undef FIELD
    if (!field || bytes != expected) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
    *layout = calloc(1, sizeof **layout);
    if (!*layout || ld < (int64_t)rows || rows == 0 || cols == 0) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    **layout = (struct emu_layout){type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    free(layout);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = calloc(1, sizeof **preference);
    return *preference ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    free(preference);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
        return bytes == sizeof(size_t) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
    }
    if (bytes != sizeof(uint32_t)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    uint32_t *field =
        attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK
            ? &preference->schemes
            : &preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES];
    memcpy(field, value, sizeof *field);
    return CUBLAS_STATUS_SUCCESS;
}

/* The algorithm remembers the alignments that it was asked for. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *found) {
    (void)handle;
    (void)product;
    if (wanted < 1 || a->type != b->type || c->type != d->type || c->rows != d->rows) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (preference->schemes & CUBLASLT_REDUCTION_SCHEME_INPLACE) {
        emu_report("a product is chosen that may add in any order (reduction scheme INPLACE)");
    }
    memset(results, 0, sizeof *results);
    for (int i = 0; i < 4; i++) {
        results->algo.data[i] = preference->alignment[i];
    }
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

typedef struct blas_op {
    emu_op op;
    struct emu_blas *blas;
    ls_gemm gemm;
    const void *c, *bias;
    float beta;
    bool bias_is_bf16;
} blas_op;

static void access_rows(const void *base, ls_dtype dtype, int64_t rows, int64_t cols, int64_t ld,
                        bool write) {
    const size_t elem_bytes = ls_dtype_bytes(dtype);
    for (int64_t r = 0; r < rows; r++) {
        emu_access_device((const char *)base + (size_t)(r * ld) * elem_bytes,
                          (size_t)cols * elem_bytes, write);
    }
}

static void widen_bias(blas_op *b) {
    struct emu_blas *blas = b->blas;
    const size_t n = (size_t)b->gemm.n;
    emu_access_device(b->bias, n * (b->bias_is_bf16 ? 2 : 4), false);
    if (n > blas->bias_elems) {
        free(blas->bias);
        blas->bias = calloc(n, sizeof(float));
        blas->bias_elems = n;
    }
    for (size_t i = 0; i < n; i++) {
        blas->bias[i] = b->bias_is_bf16 ? ls_bf16_to_f32(((const ls_bf16 *)b->bias)[i])
                                        : ((const float *)b->bias)[i];
    }
    b->gemm.bias = blas->bias;
}

static bool run(emu_op *op) {
    blas_op *b = (blas_op *)op;
    ls_gemm *g = &b->gemm;
    access_rows(g->a, g->dtype, g->trans_a ? g->k : g->m, g->trans_a ? g->m : g->k, g->lda, false);
    access_rows(g->b, g->dtype, g->trans_b ? g->n : g->k, g->trans_b ? g->k : g->n, g->ldb, false);
    if (b->bias) {
        widen_bias(b);
    }
    if (b->beta != 0.0f) {
        access_rows(b->c, g->c_dtype, g->m, g->n, g->ldc, false);
        g->accumulate = b->c == g->c;
        g->residual = b->c != g->c || b->beta == 2.0f ? b->c : NULL;
    }
    access_rows(g->c, g->c_dtype, g->m, g->n, g->ldc, true);
    if (b->blas->cpu->ops->gemm(b->blas->cpu, g) != LS_OK) {
        emu_report("a product cannot be computed: %s", ls_error_last()->message);
    }
    return true;
}

static void release(emu_op *op) {
    free(op);
}

static ls_dtype dtype_of(cudaDataType_t type) {
    return type == CUDA_R_16BF ? LS_BF16 : LS_F32;
}

static void check_alignment(const void *p, uint64_t alignment, char name) {
    if (alignment > 1 && (uintptr_t)p % alignment != 0) {
        emu_report("matrix %c at %p is not aligned to the %llu bytes that its algorithm was chosen "
                   "for",
                   name, p, (unsigned long long)alignment);
    }
}

/* D^T by rows: what cuBLASLt calls A is the second operand. */
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                              const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
                              const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    const bool trans_a = product->trans_a == CUBLAS_OP_T, trans_b = product->trans_b == CUBLAS_OP_T;
    const uint64_t k = trans_a ? a_layout->rows : a_layout->cols;
    const float scale = *(const float *)alpha, keep = *(const float *)beta;
    if (scale != 1.0f || (keep != 0.0f && keep != 1.0f && keep != 2.0f) ||
        k != (trans_b ? b_layout->cols : b_layout->rows) || c_layout->ld != d_layout->ld ||
        (trans_a ? a_layout->cols : a_layout->rows) != d_layout->rows ||
        (trans_b ? b_layout->rows : b_layout->cols) != d_layout->cols) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    check_alignment(a, algorithm->data[0], 'A');
    check_alignment(b, algorithm->data[1], 'B');
    check_alignment(c, algorithm->data[2], 'C');
    check_alignment(d, algorithm->data[3], 'D');
    emu_range range;
    if (!emu_device_find(workspace, &range) || range.bytes < workspace_bytes) {
        emu_report("the workspace of a product is no device memory of %zu bytes", workspace_bytes);
    }
    blas_op *o = calloc(1, sizeof *o);
    if (!o) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    *o = (blas_op){.op = {.name = "product", .run = run, .release = release},
                   .blas = handle,
                   .gemm = {.dtype = dtype_of(a_layout->type),
                            .c_dtype = dtype_of(d_layout->type),
                            .trans_a = trans_b,
                            .trans_b = trans_a,
                            .m = (int64_t)d_layout->cols,
                            .n = (int64_t)d_layout->rows,
                            .k = (int64_t)k,
                            .a = b,
                            .lda = b_layout->ld,
                            .b = a,
                            .ldb = a_layout->ld,
                            .c = d,
                            .ldc = d_layout->ld},
                   .c = c,
                   .beta = keep,
                   .bias = product->epilogue == CUBLASLT_EPILOGUE_BIAS ? product->bias : NULL,
                   .bias_is_bf16 = product->bias_type == CUDA_R_16BF};
    emu_stream_push(stream, &o->op);
    return CUBLAS_STATUS_SUCCESS;
}
