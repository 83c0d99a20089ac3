/* Matrix products by cuBLASLt, with what may follow them in its epilogues. */
#include "runtime/device/check.h"
#include "runtime/device/cuda/gemm_cuda.h"
#include "runtime/device/cuda/launch.h"
#include "runtime/device/gemm_parts.h"

enum { ALIGN_MAX = 256, ALIGN_EPILOGUE = 16 };

static int64_t alignment(const void *p) {
    const uintptr_t bits = (uintptr_t)p | ALIGN_MAX;
    return (int64_t)(bits & (~bits + 1));
}

/* cuBLASLt wants what is before an activation in rows of multiples of 8, aligned to 16 bytes. */
static bool takes_act(const ls_gemm *op) {
    return op->act != LS_ACT_NONE && op->ldc % 8 == 0 && alignment(op->pre) >= ALIGN_EPILOGUE;
}

static cublasLtEpilogue_t epilogue_of(const ls_gemm *op) {
    switch (op->act) {
    case LS_ACT_NONE:
        break;
    case LS_ACT_GELU:
        return op->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case LS_ACT_GELU_GRAD:
        return op->dbias ? CUBLASLT_EPILOGUE_DGELU_BGRAD : CUBLASLT_EPILOGUE_DGELU;
    }
    return op->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/* Room for n elements of the type of C, for a bias or its gradient. */
static ls_status bias_room(ls_cuda_device *cuda, const ls_gemm *op) {
    ls_cuda_gemm *g = cuda->gemm;
    const size_t bytes = (size_t)op->n * ls_dtype_bytes(op->c_dtype);
    return ls_cuda_grow(cuda, bytes, &g->bias, &g->bias_bytes);
}

/* The vector of the epilogue: the bias in the type of C, as cuBLASLt wants it of bf16 (cublasLt.h,
 * CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE), or where its gradient is made. Where the caller has no
 * rounded one it is rounded for each product: the device does not know when an update has changed
 * it. Algorithms may read 16 bytes of it at once, which no preference tells them of: a bias that
 * lies elsewhere is copied. */
static ls_status vector_of(ls_cuda_device *cuda, const ls_gemm *op, const void **vector) {
    const void *bias = op->bias && op->bias_rounded ? op->bias_rounded : op->bias;
    const bool apart = op->bias && ((bias == op->bias && op->c_dtype != LS_F32) ||
                                    alignment(bias) < ALIGN_EPILOGUE);
    *vector = bias;
    if (op->dbias || apart) {
        LS_TRY(bias_room(cuda, op));
        *vector = cuda->gemm->bias;
    }
    if (apart) {
        ls_cuda_launch_cast(cuda->compute, op->c_dtype, op->n, op->bias, cuda->gemm->bias);
    }
    return LS_OK;
}

static ls_gemm_key key_of(const ls_cuda_product *product, const void *added, bool adds) {
    const ls_gemm *op = product->op;
    return (ls_gemm_key){.m = op->m,
                         .n = op->n,
                         .k = op->k,
                         .lda = op->lda,
                         .ldb = op->ldb,
                         .ldc = op->ldc,
                         .a_type = product->a_type,
                         .b_type = product->b_type,
                         .c_type = ls_cublas_type(op->c_dtype),
                         .trans_a = op->trans_a,
                         .trans_b = op->trans_b,
                         .adds = adds,
                         .scaled = product->a_scale != NULL,
                         .epilogue = epilogue_of(op),
                         .align_a = alignment(op->a),
                         .align_b = alignment(op->b),
                         .align_c = alignment(op->c),
                         .align_r = alignment(added)};
}

static ls_status set_pointers(ls_gemm_plan *p, const ls_cuda_product *product, const void *vector) {
    const ls_gemm *op = product->op;
    if (vector) {
        LS_TRY(ls_gemm_set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector, sizeof vector));
    }
    if (op->act != LS_ACT_NONE) {
        LS_TRY(ls_gemm_set(p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &op->pre, sizeof op->pre));
    }
    if (product->a_scale) { /* cuBLASLt's A is our B */
        LS_TRY(ls_gemm_set(p, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &product->b_scale,
                           sizeof product->b_scale));
        LS_TRY(ls_gemm_set(p, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &product->a_scale,
                           sizeof product->a_scale));
    }
    return LS_OK;
}

static ls_status multiply_in_parts(ls_cuda_device *cuda, const ls_cuda_product *product) {
    const ls_gemm part = ls_gemm_product_part(product->op);
    ls_cuda_product plain = *product;
    plain.op = &part;
    LS_TRY(ls_cuda_multiply(cuda, &plain));
    return ls_gemm_act_part(&cuda->base, product->op);
}

/* The bias in a pass of its own. */
static ls_status add_bias_after(ls_cuda_device *cuda, const ls_cuda_product *product) {
    ls_gemm part = *product->op, rest = *product->op;
    ls_cuda_product plain = *product;
    plain.op = &part;
    part.bias = NULL;
    rest.residual = NULL;
    LS_TRY(ls_cuda_multiply(cuda, &plain));
    ls_cuda_launch_finish(cuda->compute, &rest, true);
    return LS_OK;
}

static ls_status no_algorithm(const ls_gemm *op, cublasStatus_t why) {
    return LS_FAIL(LS_E_UNSUPPORTED,
                   "cuBLASLt has no algorithm for a product of m %lld, n %lld, k %lld of %s%s (%s)",
                   (long long)op->m, (long long)op->n, (long long)op->k, ls_dtype_name(op->dtype),
                   op->fp8 != LS_FP8_NONE ? " in fp8" : "", cublasLtGetStatusName(why));
}

/* dbias += what the epilogue has left beside the product. */
static ls_status add_bias_grad(ls_cuda_device *cuda, const ls_gemm *op) {
    return cuda->base.ops->bias_grad(&cuda->base, &(ls_bias_grad){.dtype = op->c_dtype,
                                                                  .rows = 1,
                                                                  .cols = op->n,
                                                                  .dy = cuda->gemm->bias,
                                                                  .dbias = op->dbias});
}

ls_status ls_cuda_multiply(ls_cuda_device *cuda, const ls_cuda_product *product) {
    /* The old C and the residual are what is added to the product; both, when they are the same
     * memory, are twice C. A residual beside an old C is added afterwards. */
    const ls_gemm *op = product->op;
    const void *added = op->accumulate || !op->residual ? op->c : op->residual;
    const bool twice = op->accumulate && op->residual == op->c;
    const bool adds = op->accumulate || op->residual;
    const float one = 1.0f, beta = twice ? 2.0f : adds ? 1.0f : 0.0f;
    const void *vector;
    ls_gemm_plan *p;
    if (op->act != LS_ACT_NONE && !takes_act(op)) {
        return multiply_in_parts(cuda, product);
    }
    LS_TRY(ls_cuda_gemm_start(cuda, 0));
    const ls_gemm_key key = key_of(product, added, adds);
    LS_TRY(vector_of(cuda, op, &vector));
    LS_TRY(ls_gemm_find_plan(cuda->gemm, &key, &p));
    LS_TRY(set_pointers(p, product, vector));
    LS_TRY(ls_gemm_choose(cuda->gemm, p));
    if (p->absent) {
        return op->act != LS_ACT_NONE ? multiply_in_parts(cuda, product)
               : op->bias             ? add_bias_after(cuda, product)
                                      : no_algorithm(op, p->why);
    }
    LS_TRY(ls_cublas_check(cublasLtMatmul(cuda->gemm->handle, p->product, &one, op->b, p->a, op->a,
                                          p->b, &beta, added, p->c, op->c, p->d, &p->algorithm,
                                          cuda->gemm->workspace, LS_CUBLAS_WORKSPACE_BYTES,
                                          cuda->compute),
                           "multiplying"));
    if (op->accumulate && op->residual && !twice) {
        ls_gemm rest = *op;
        rest.bias = NULL;
        ls_cuda_launch_finish(cuda->compute, &rest, true);
    }
    return op->dbias ? add_bias_grad(cuda, op) : LS_OK;
}

static ls_status multiply_nothing(ls_cuda_device *cuda, const ls_gemm *op) {
    const ls_gemm product = ls_gemm_product_part(op);
    ls_cuda_launch_finish(cuda->compute, &product, op->accumulate);
    return op->act == LS_ACT_NONE ? LS_OK : ls_gemm_act_part(&cuda->base, op);
}

ls_status ls_cuda_gemm_run(ls_device *dev, const ls_gemm *op) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    const cudaDataType_t type = ls_cublas_type(op->dtype);
    LS_TRY(ls_check_gemm(dev, op));
    if (op->m == 0 || op->n == 0) {
        return LS_OK;
    }
    LS_TRY(op->k == 0 ? multiply_nothing(cuda, op)
           : op->fp8 != LS_FP8_NONE
               ? ls_cuda_multiply_fp8(cuda, op)
               : ls_cuda_multiply(cuda, &(ls_cuda_product){op, type, type, NULL, NULL}));
    return ls_cuda_check(cudaGetLastError(), "product", __FILE__, __LINE__);
}
