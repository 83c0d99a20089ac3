/* cuBLASLt of the emulated device: queued products, computed by the CPU device. */
#include "tests/emulator/emulator.h"

#include "runtime/base/fp8.h"
#include "runtime/base/hash.h"
#include "runtime/device/device.h"
#include "tests/emulator/include/cublasLt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct emu_blas {
    ls_device *cpu;
    float *bias; /* of the product being computed, widened */
    size_t bias_elems;
    float *room[3]; /* operands in fp32 and the product, of products that are made in steps */
    size_t room_elems[3];
};

struct emu_product {
    cublasOperation_t trans_a, trans_b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    cudaDataType_t bias_type;
    void *aux;
    int64_t aux_ld;
    const float *a_scale, *b_scale;
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
    for (int i = 0; i < 3; i++) {
        free(handle->room[i]);
    }
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
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
        FIELD(aux);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
        FIELD(aux_ld);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
        FIELD(a_scale);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
        FIELD(b_scale);
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

static bool is_fp8(cudaDataType_t type) {
    return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2;
}

/* cuBLASLt documents of products in fp8: A is transposed and B is not, sizes and rows of multiples
 * of 16, matrices and rows at 16 bytes, one operand at least in E4M3; of epilogues with a matrix of
 * their own: its rows are multiples of 8 long. That a backward epilogue, or a bias of fp32, has no
 * algorithm in fp8 is this device's choice. */
static bool is_supported(const struct emu_product *p, const struct emu_layout *a,
                         const struct emu_layout *b, const struct emu_layout *d,
                         const struct emu_preference *preference) {
    const bool backward =
        p->epilogue == CUBLASLT_EPILOGUE_DGELU || p->epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
    const bool has_aux = backward || p->epilogue == CUBLASLT_EPILOGUE_GELU_AUX ||
                         p->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    if (has_aux && (p->aux_ld % 8 != 0 || p->aux_ld < (int64_t)d->rows)) {
        return false;
    }
    if (!is_fp8(a->type)) {
        return true;
    }
    const bool wide_bias = p->epilogue == CUBLASLT_EPILOGUE_BIAS && d->type == CUDA_R_32F;
    bool aligned = d->ld * (d->type == CUDA_R_32F ? 4 : 2) % 16 == 0;
    for (int i = 0; i < 4; i++) {
        aligned = aligned && preference->alignment[i] >= 16;
    }
    return aligned && !backward && !wide_bias && p->trans_a == CUBLAS_OP_T &&
           p->trans_b == CUBLAS_OP_N && !(a->type == CUDA_R_8F_E5M2 && b->type == CUDA_R_8F_E5M2) &&
           a->rows % 16 == 0 && a->cols % 16 == 0 && a->ld % 16 == 0 && b->ld % 16 == 0;
}

/* The algorithm remembers the alignments that it was asked for. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *found) {
    (void)handle;
    *found = 0;
    if (wanted < 1 || is_fp8(a->type) != is_fp8(b->type) ||
        (!is_fp8(a->type) && a->type != b->type) || c->type != d->type || c->rows != d->rows) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (!is_supported(product, a, b, d, preference)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
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
    const void *c;
    float beta;
    struct emu_product product; /* as it was when the call was made */
    cudaDataType_t a_type, b_type;
} blas_op;

static void access_rows(const void *base, size_t elem_bytes, int64_t rows, int64_t cols, int64_t ld,
                        bool write) {
    for (int64_t r = 0; r < rows; r++) {
        emu_access_device((const char *)base + (size_t)(r * ld) * elem_bytes,
                          (size_t)cols * elem_bytes, write);
    }
}

static bool has_bias(const blas_op *b) {
    return b->product.epilogue == CUBLASLT_EPILOGUE_BIAS ||
           b->product.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
}

static float element(cudaDataType_t type, const void *x, int64_t i) {
    switch (type) {
    case CUDA_R_32F:
        return ((const float *)x)[i];
    case CUDA_R_16BF:
        return ls_bf16_to_f32(((const ls_bf16 *)x)[i]);
    case CUDA_R_8F_E4M3:
        return ls_fp8_to_f32(LS_E4M3, ((const uint8_t *)x)[i]);
    case CUDA_R_8F_E5M2:
        return ls_fp8_to_f32(LS_E5M2, ((const uint8_t *)x)[i]);
    }
    return NAN;
}

static void set_element(ls_dtype dtype, void *x, int64_t i, double value) {
    if (dtype == LS_BF16) {
        ((ls_bf16 *)x)[i] = ls_bf16_from_f32((float)value);
    } else {
        ((float *)x)[i] = (float)value;
    }
}

static float *grow(float **memory, size_t *have, int64_t elems) {
    if ((size_t)elems > *have) {
        free(*memory);
        *memory = calloc((size_t)elems, sizeof(float));
        *have = (size_t)elems;
    }
    if (!*memory) {
        emu_report("no memory for a product");
    }
    return *memory;
}

static size_t bias_bytes(const blas_op *b) {
    return (size_t)b->gemm.n * (b->product.bias_type == CUDA_R_16BF ? 2 : 4);
}

static const float *widen_bias(blas_op *b) {
    struct emu_blas *blas = b->blas;
    emu_access_device(b->product.bias, bias_bytes(b), false);
    float *bias = grow(&blas->bias, &blas->bias_elems, b->gemm.n);
    for (int64_t i = 0; i < b->gemm.n; i++) {
        bias[i] = element(b->product.bias_type, b->product.bias, i);
    }
    return bias;
}

static void multiply(struct emu_blas *blas, const ls_gemm *gemm) {
    if (blas->cpu->ops->gemm(blas->cpu, gemm) != LS_OK) {
        emu_report("a product cannot be computed: %s", ls_error_last()->message);
    }
}

/* Operands as the CPU takes them, by rows without gaps. */
static const float *widen(struct emu_blas *blas, int which, cudaDataType_t type, const void *x,
                          int64_t rows, int64_t cols, int64_t ld) {
    float *to = grow(&blas->room[which], &blas->room_elems[which], rows * cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        to[i] = element(type, x, i / cols * ld + i % cols);
    }
    return to;
}

static double gelu_slope(double x) {
    const double s = 0.79788456080286535588, t = tanh(s * (x + 0.044715 * x * x * x));
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * s * (1.0 + 3.0 * 0.044715 * x * x);
}

/* What follows the product of one element; `aux` is read or written. */
static double epilogue(const blas_op *b, double sum, int64_t row, int64_t col) {
    const struct emu_product *p = &b->product;
    const int64_t at = row * p->aux_ld + col;
    if (p->epilogue == CUBLASLT_EPILOGUE_DGELU || p->epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) {
        return sum * gelu_slope(element(b->gemm.c_dtype == LS_BF16 ? CUDA_R_16BF : CUDA_R_32F,
                                        p->aux, at));
    }
    if (p->epilogue == CUBLASLT_EPILOGUE_GELU_AUX ||
        p->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) {
        set_element(b->gemm.c_dtype, p->aux, at, sum);
        return 0.5 * sum *
               (1.0 + tanh(0.79788456080286535588 * (sum + 0.044715 * sum * sum * sum)));
    }
    return sum;
}

/* In fp32, then element by element: products in fp8, and those with an activation. */
static void run_in_steps(blas_op *b) {
    const ls_gemm *g = &b->gemm;
    const struct emu_product *p = &b->product;
    const bool keeps =
        p->epilogue == CUBLASLT_EPILOGUE_GELU_AUX || p->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    const bool reads =
        p->epilogue == CUBLASLT_EPILOGUE_DGELU || p->epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
    const float *bias = has_bias(b) ? widen_bias(b) : NULL;
    float *sums = grow(&b->blas->room[2], &b->blas->room_elems[2], g->m * g->n), scale = 1.0f;
    double *bias_grad = calloc((size_t)g->n, sizeof *bias_grad);
    ls_gemm plain = {.dtype = LS_F32,
                     .c_dtype = LS_F32,
                     .trans_a = g->trans_a,
                     .trans_b = g->trans_b,
                     .m = g->m,
                     .n = g->n,
                     .k = g->k,
                     .lda = g->trans_a ? g->m : g->k,
                     .ldb = g->trans_b ? g->k : g->n,
                     .c = sums,
                     .ldc = g->n};
    if (p->a_scale && p->b_scale) {
        emu_access_device(p->a_scale, sizeof *p->a_scale, false);
        emu_access_device(p->b_scale, sizeof *p->b_scale, false);
        scale = *p->a_scale * *p->b_scale;
    }
    if (keeps || reads) {
        access_rows(p->aux, ls_dtype_bytes(g->c_dtype), g->m, g->n, p->aux_ld, keeps);
    }
    plain.a = widen(b->blas, 0, b->b_type, g->a, g->trans_a ? g->k : g->m, g->trans_a ? g->m : g->k,
                    g->lda);
    plain.b = widen(b->blas, 1, b->a_type, g->b, g->trans_b ? g->n : g->k, g->trans_b ? g->k : g->n,
                    g->ldb);
    multiply(b->blas, &plain);
    for (int64_t i = 0; i < g->m * g->n; i++) {
        const int64_t row = i / g->n, col = i % g->n, at = row * g->ldc + col;
        double sum = (double)sums[i] * (double)scale + (bias ? (double)bias[col] : 0.0);
        if (b->beta != 0.0f) {
            sum += (double)b->beta *
                   (double)element(g->c_dtype == LS_BF16 ? CUDA_R_16BF : CUDA_R_32F, b->c, at);
        }
        sum = epilogue(b, sum, row, col);
        set_element(g->c_dtype, g->c, at, sum);
        bias_grad[col] += sum;
    }
    if (p->epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) {
        emu_access_device(p->bias, bias_bytes(b), true);
        for (int64_t j = 0; j < g->n; j++) {
            set_element(p->bias_type == CUDA_R_16BF ? LS_BF16 : LS_F32, (void *)(uintptr_t)p->bias,
                        j, bias_grad[j]);
        }
    }
    free(bias_grad);
}

static size_t operand_bytes(cudaDataType_t type) {
    return type == CUDA_R_32F ? 4 : type == CUDA_R_16BF ? 2 : 1;
}

static bool run(emu_op *op) {
    blas_op *b = (blas_op *)op;
    ls_gemm g = b->gemm;
    access_rows(g.a, operand_bytes(b->b_type), g.trans_a ? g.k : g.m, g.trans_a ? g.m : g.k, g.lda,
                false);
    access_rows(g.b, operand_bytes(b->a_type), g.trans_b ? g.n : g.k, g.trans_b ? g.k : g.n, g.ldb,
                false);
    if (b->beta != 0.0f) {
        access_rows(b->c, ls_dtype_bytes(g.c_dtype), g.m, g.n, g.ldc, false);
        g.accumulate = b->c == g.c;
        g.residual = b->c != g.c || b->beta == 2.0f ? b->c : NULL;
    }
    access_rows(g.c, ls_dtype_bytes(g.c_dtype), g.m, g.n, g.ldc, true);
    if (is_fp8(b->a_type) || (b->product.epilogue != CUBLASLT_EPILOGUE_DEFAULT &&
                              b->product.epilogue != CUBLASLT_EPILOGUE_BIAS)) {
        run_in_steps(b);
        return true;
    }
    g.bias = has_bias(b) ? widen_bias(b) : NULL;
    multiply(b->blas, &g);
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

/* Algorithms are not told where the epilogue's operands lie, and may access 16 bytes of them. */
static void check_epilogue(const struct emu_product *p) {
    const bool vector = p->epilogue == CUBLASLT_EPILOGUE_BIAS ||
                        p->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS ||
                        p->epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
    const bool matrix =
        p->epilogue != CUBLASLT_EPILOGUE_DEFAULT && p->epilogue != CUBLASLT_EPILOGUE_BIAS;
    if ((vector && (uintptr_t)p->bias % 16 != 0) || (matrix && (uintptr_t)p->aux % 16 != 0)) {
        emu_report("an epilogue's vector at %p or matrix at %p is not aligned to 16 bytes", p->bias,
                   p->aux);
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
    check_epilogue(product);
    emu_range range;
    if (!emu_device_find(workspace, &range) || range.bytes < workspace_bytes) {
        emu_report("the workspace of a product is no device memory of %zu bytes", workspace_bytes);
    }
    const int64_t shape[] = {(int64_t)d_layout->rows, (int64_t)d_layout->cols, (int64_t)k,
                             a_layout->type,          b_layout->type,          d_layout->type,
                             product->trans_a,        product->trans_b,        product->epilogue};
    emu_load(ls_xxh64(shape, sizeof shape, 0), "a product of this shape");
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
                   .product = *product,
                   .a_type = a_layout->type,
                   .b_type = b_layout->type};
    emu_stream_push(stream, &o->op);
    return CUBLAS_STATUS_SUCCESS;
}
