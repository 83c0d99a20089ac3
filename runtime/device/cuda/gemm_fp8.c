/* Products in fp8: both operands are rounded to 8 bits, k innermost as Hopper's tensor cores want
 * them, at scales that stay on the device; cuBLASLt takes the scales back out of the product. */
#include "runtime/device/cuda/gemm_cuda.h"
#include "runtime/device/cuda/launch.h"

enum { ALIGN_ELEMS = 16, ALIGN_BYTES = 256 };

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

/* Of both operands' rounded copies, and of what is counted on the way. */
typedef struct layout {
    int64_t k;                          /* padded with zeros */
    size_t a, b, partial, scale, total; /* offsets in bytes */
} layout;

static layout layout_of(int64_t m, int64_t n, int64_t k) {
    layout l = {.k = round_up(k, ALIGN_ELEMS)};
    l.b = (size_t)round_up(m * l.k, ALIGN_BYTES);
    l.partial = l.b + (size_t)round_up(n * l.k, ALIGN_BYTES);
    l.scale = l.partial + LS_CUDA_FP8_PARTS * sizeof(float);
    l.total = l.scale + (size_t)ALIGN_BYTES;
    return l;
}

size_t ls_cuda_fp8_scratch_bytes(int64_t m, int64_t n, int64_t k) {
    return layout_of(m, n, k).total;
}

ls_status ls_cuda_multiply_fp8(ls_cuda_device *cuda, const ls_gemm *op) {
    const layout l = layout_of(op->m, op->n, op->k);
    const bool grad = op->fp8 == LS_FP8_GRAD_A;
    void *scratch;
    LS_TRY(ls_cuda_scratch(cuda, l.total, &scratch));
    char *base = scratch;
    float *partial = (float *)(base + l.partial), *scales = (float *)(base + l.scale);
    ls_cuda_launch_fp8(cuda->compute, &(ls_cuda_fp8){.dtype = op->dtype,
                                                     .format = grad ? LS_E5M2 : LS_E4M3,
                                                     .turned = op->trans_a,
                                                     .rows = op->m,
                                                     .cols = op->k,
                                                     .ld = op->lda,
                                                     .padded = l.k,
                                                     .x = op->a,
                                                     .y = base + l.a,
                                                     .partial = partial,
                                                     .inverse = &scales[0]});
    ls_cuda_launch_fp8(cuda->compute, &(ls_cuda_fp8){.dtype = op->dtype,
                                                     .format = LS_E4M3,
                                                     .turned = !op->trans_b,
                                                     .rows = op->n,
                                                     .cols = op->k,
                                                     .ld = op->ldb,
                                                     .padded = l.k,
                                                     .x = op->b,
                                                     .y = base + l.b,
                                                     .partial = partial,
                                                     .inverse = &scales[1]});
    ls_gemm rounded = *op;
    rounded.trans_a = false;
    rounded.trans_b = true;
    rounded.k = rounded.lda = rounded.ldb = l.k;
    rounded.a = base + l.a;
    rounded.b = base + l.b;
    return ls_cuda_multiply(cuda,
                            &(ls_cuda_product){.op = &rounded,
                                               .a_type = grad ? CUDA_R_8F_E5M2 : CUDA_R_8F_E4M3,
                                               .b_type = CUDA_R_8F_E4M3,
                                               .a_scale = &scales[0],
                                               .b_scale = &scales[1]});
}
