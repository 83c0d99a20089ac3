/* The kernels, as C sees them: launchers of the .cu files. A launcher enqueues on the stream and
 * returns; operations were checked, and have at least one element. Launch errors are for
 * cudaGetLastError. Scratch is device memory of the size that the matching ls_cuda_..._scratch
 * function gives. */
#ifndef LS_DEVICE_CUDA_LAUNCH_H
#define LS_DEVICE_CUDA_LAUNCH_H

#include "runtime/base/fp8.h"
#include "runtime/device/device_async.h"

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

/* k_vector.cu */
void ls_cuda_launch_adamw(cudaStream_t stream, const ls_adamw *op);
void ls_cuda_launch_add(cudaStream_t stream, ls_dtype dtype, int64_t n, const void *x, void *y);
void ls_cuda_launch_cast(cudaStream_t stream, ls_dtype dtype, int64_t n, const void *x, void *y);
void ls_cuda_launch_widen(cudaStream_t stream, ls_dtype dtype, int64_t n, const void *x, void *y);
/* sum [1] (device) = the sum of x; partial: a number for each block of 65,536 elements. */
void ls_cuda_launch_sum(cudaStream_t stream, int64_t n, const float *x, double *partial,
                        double *sum);
int64_t ls_cuda_sum_blocks(int64_t n);
/* sums [ls_squares_count(first, n)] (device), as sum_squares of device.h has them. */
void ls_cuda_launch_squares(cudaStream_t stream, int64_t first, int64_t n, const float *x,
                            double *sums);
/* c [m, ldc] (dtype) += residual, for products with both an old C and a residual; and
 * c = residual or zero, plus bias, for products of nothing. NULL: none. */
void ls_cuda_launch_finish(cudaStream_t stream, const ls_gemm *op, bool keep_c);

/* sum [1] = those of partial [count] in order. */
void ls_cuda_launch_sum_partials(cudaStream_t stream, int64_t count, const double *partial,
                                 double *sum);
void ls_cuda_launch_copy_rows(cudaStream_t stream, const ls_copy_rows *op);

/* k_fp8.cu: y [rows, padded] (device memory, aligned to 16 bytes) = x [rows, cols], or where it is
 * `turned` x [cols, rows], times a power of two and rounded to 8 bits, zeros beyond cols; inverse
 * [1]: of that power. partial: LS_CUDA_FP8_PARTS floats. padded: a multiple of 16. */
enum { LS_CUDA_FP8_PARTS = 512 };
typedef struct ls_cuda_fp8 {
    ls_dtype dtype;
    ls_fp8_format format;
    bool turned;
    int64_t rows, cols, ld, padded;
    const void *x;
    void *y;
    float *partial, *inverse;
} ls_cuda_fp8;
void ls_cuda_launch_fp8(cudaStream_t stream, const ls_cuda_fp8 *op);
/* Scratch of a product in fp8 (gemm_fp8.c). */
size_t ls_cuda_fp8_scratch_bytes(int64_t m, int64_t n, int64_t k);

/* k_verdict.cu: device.h has what they do. */
void ls_cuda_launch_exact_scale(cudaStream_t stream, int64_t n, const double *x, int32_t *scale);
void ls_cuda_launch_exact_digits(cudaStream_t stream, int64_t n, const double *x,
                                 const int32_t *scale, int64_t *digits);
void ls_cuda_launch_judge(cudaStream_t stream, const ls_judge *op);

/* k_optim.cu */
void ls_cuda_launch_lion(cudaStream_t stream, const ls_lion *op);
void ls_cuda_launch_sgd(cudaStream_t stream, const ls_sgd *op);
void ls_cuda_launch_blend(cudaStream_t stream, const ls_update_verdict *verdict, int64_t n,
                          double a, const float *x, double b, float *y); /* verdict: or NULL */
void ls_cuda_launch_normalize(cudaStream_t stream, int64_t n, double eps, float *x,
                              double *squares);
int64_t ls_cuda_adafactor_scratch_elems(const ls_adafactor *op); /* doubles */
void ls_cuda_launch_adafactor_squares(cudaStream_t stream, const ls_adafactor *op, double *partial);
/* sums [ls_squares_count(grid, n)] on the device. */
void ls_cuda_launch_adafactor_norm(cudaStream_t stream, const ls_adafactor *op, double *sums);
void ls_cuda_launch_adafactor_apply(cudaStream_t stream, const ls_adafactor *op);
/* k_adafactor.cu */
void ls_cuda_launch_segment_scales(cudaStream_t stream, int64_t count, const int64_t *ends,
                                   const double *x, int32_t *scales);
void ls_cuda_launch_segment_digits(cudaStream_t stream, int64_t count, const int64_t *ends,
                                   const double *x, const int32_t *scales, int64_t *digits);
void ls_cuda_launch_adafactor_all(cudaStream_t stream, const ls_adafactor_all *op);

/* k_activation.cu */
void ls_cuda_launch_gelu_forward(cudaStream_t stream, const ls_gelu *op);
void ls_cuda_launch_gelu_backward(cudaStream_t stream, const ls_gelu *op);
void ls_cuda_launch_swiglu_forward(cudaStream_t stream, const ls_swiglu *op);
void ls_cuda_launch_swiglu_backward(cudaStream_t stream, const ls_swiglu *op);
void ls_cuda_launch_rope(cudaStream_t stream, const ls_rope *op);

/* k_norm.cu */
void ls_cuda_launch_norm_forward(cudaStream_t stream, const ls_norm *op);
/* k_norm_backward.cu */
void ls_cuda_launch_norm_backward(cudaStream_t stream, const ls_norm *op, float *partial);
/* Columns that a block of the norms keeps in registers. */
enum { LS_CUDA_NORM_CHANNELS_MAX = 16384 };
int64_t ls_cuda_norm_scratch_elems(int64_t rows, int64_t channels);
int64_t ls_cuda_norm_run_rows(int64_t rows); /* of a block */
/* dw [C] += the sums of partial [count, C], in order, and so db and dx_sums, with theirs behind it.
 * NULL: dx_sums, or that and db. */
void ls_cuda_launch_add_partials(cudaStream_t stream, int64_t count, int64_t C,
                                 const float *partial, void *dw, void *db, void *dx_sums);
void ls_cuda_launch_bias_grad(cudaStream_t stream, const ls_bias_grad *op, float *partial);
int64_t ls_cuda_bias_scratch_elems(int64_t rows, int64_t cols);
/* k_norm_heads.cu: norms with `heads`, of at most LS_CUDA_HEAD_DIM_MAX channels. */
void ls_cuda_launch_heads_norm_forward(cudaStream_t stream, const ls_norm *op);
void ls_cuda_launch_heads_norm_backward(cudaStream_t stream, const ls_norm *op, float *partial);

/* k_embedding.cu */
void ls_cuda_launch_embedding_forward(cudaStream_t stream, const ls_embedding *op);
void ls_cuda_launch_embedding_backward(cudaStream_t stream, const ls_embedding *op);

/* k_moe.cu */
void ls_cuda_launch_route_forward(cudaStream_t stream, const ls_route *op);
void ls_cuda_launch_route_backward(cudaStream_t stream, const ls_route *op);
void ls_cuda_launch_select_rows(cudaStream_t stream, const ls_select_rows *op);
void ls_cuda_launch_combine_forward(cudaStream_t stream, const ls_combine *op);
void ls_cuda_launch_combine_backward(cudaStream_t stream, const ls_combine *op);

/* k_place.cu: device.h has what they do. */
void ls_cuda_launch_place_count(cudaStream_t stream, const ls_place *op);
void ls_cuda_launch_place_keep(cudaStream_t stream, const ls_place *op);
void ls_cuda_launch_place_rows(cudaStream_t stream, const ls_place *op);
void ls_cuda_launch_place_order(cudaStream_t stream, const ls_place_order *op);

/* k_experts.cu */
void ls_cuda_launch_expert_products(cudaStream_t stream, const ls_expert_products *op);

/* k_loss.cu */
void ls_cuda_launch_cross_entropy(cudaStream_t stream, const ls_cross_entropy *op);
void ls_cuda_launch_cross_entropy_share(cudaStream_t stream, const ls_cross_entropy *op);
void ls_cuda_launch_cross_entropy_merge(cudaStream_t stream, const ls_cross_entropy *op);

/* k_attention.cu, k_attention_backward.cu; delta [B,H,T] */
void ls_cuda_launch_attention_forward(cudaStream_t stream, const ls_attention *op);
void ls_cuda_launch_attention_backward(cudaStream_t stream, const ls_attention *op, float *delta);
enum { LS_CUDA_HEAD_DIM_MAX = 256 };

#ifdef __cplusplus
}
#endif

#endif
