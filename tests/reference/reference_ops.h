/* The operations of the reference device; contracts in device.h. */
#ifndef LS_TESTS_REFERENCE_OPS_H
#define LS_TESTS_REFERENCE_OPS_H

#include "runtime/device/device.h"

ls_status ls_ref_gemm(ls_device *dev, const ls_gemm *op);
ls_status ls_ref_bias_grad(ls_device *dev, const ls_bias_grad *op);
ls_status ls_ref_embedding_forward(ls_device *dev, const ls_embedding *op);
ls_status ls_ref_embedding_backward(ls_device *dev, const ls_embedding *op);
ls_status ls_ref_norm_forward(ls_device *dev, const ls_norm *op);
ls_status ls_ref_norm_backward(ls_device *dev, const ls_norm *op);
ls_status ls_ref_rope(ls_device *dev, const ls_rope *op);
ls_status ls_ref_gelu_forward(ls_device *dev, const ls_gelu *op);
ls_status ls_ref_gelu_backward(ls_device *dev, const ls_gelu *op);
ls_status ls_ref_swiglu_forward(ls_device *dev, const ls_swiglu *op);
ls_status ls_ref_swiglu_backward(ls_device *dev, const ls_swiglu *op);
ls_status ls_ref_attention_forward(ls_device *dev, const ls_attention *op);
ls_status ls_ref_attention_backward(ls_device *dev, const ls_attention *op);
ls_status ls_ref_cross_entropy(ls_device *dev, const ls_cross_entropy *op);
ls_status ls_ref_cross_entropy_share(ls_device *dev, const ls_cross_entropy *op);
ls_status ls_ref_cross_entropy_merge(ls_device *dev, const ls_cross_entropy *op);
ls_status ls_ref_copy_rows(ls_device *dev, const ls_copy_rows *op);
ls_status ls_ref_route_forward(ls_device *dev, const ls_route *op);
ls_status ls_ref_route_backward(ls_device *dev, const ls_route *op);
ls_status ls_ref_select_rows(ls_device *dev, const ls_select_rows *op);
ls_status ls_ref_combine_forward(ls_device *dev, const ls_combine *op);
ls_status ls_ref_combine_backward(ls_device *dev, const ls_combine *op);
ls_status ls_ref_adamw(ls_device *dev, const ls_adamw *op);
ls_status ls_ref_lion(ls_device *dev, const ls_lion *op);
ls_status ls_ref_sgd(ls_device *dev, const ls_sgd *op);
ls_status ls_ref_adafactor_squares(ls_device *dev, const ls_adafactor *op);
ls_status ls_ref_adafactor_norm(ls_device *dev, const ls_adafactor *op, double *sum);
ls_status ls_ref_adafactor_apply(ls_device *dev, const ls_adafactor *op);
ls_status ls_ref_blend(ls_device *dev, int64_t n, double a, const void *x, double b, void *y);
ls_status ls_ref_add(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y);
ls_status ls_ref_cast(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y);
ls_status ls_ref_widen(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y);
ls_status ls_ref_sum_squares(ls_device *dev, int64_t first, int64_t n, const void *x, double *sums);
ls_status ls_ref_sum(ls_device *dev, int64_t n, const void *x, double *sum);

#endif
