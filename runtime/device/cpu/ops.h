/* The operations of the CPU device, one set a level (see isa.h); contracts in device.h.
 * Included by cpu/k_*.c and cpu/ops_table.c only. */
#ifndef LS_DEVICE_CPU_OPS_H
#define LS_DEVICE_CPU_OPS_H

#include "runtime/device/cpu/isa.h"
#include "runtime/device/device.h"

#define LS_CPU_OP(name, type)                                                                      \
    ls_status LS_ISA_BASE_NAME(ls_cpu_##name)(ls_device * dev, const type *op)

/* k_norm.c */
LS_CPU_OP(norm_forward, ls_norm);
LS_CPU_OP(norm_backward, ls_norm);
/* k_activation.c */
LS_CPU_OP(rope, ls_rope);
LS_CPU_OP(gelu_forward, ls_gelu);
LS_CPU_OP(gelu_backward, ls_gelu);
LS_CPU_OP(swiglu_forward, ls_swiglu);
LS_CPU_OP(swiglu_backward, ls_swiglu);
/* k_embedding.c */
LS_CPU_OP(embedding_forward, ls_embedding);
LS_CPU_OP(embedding_backward, ls_embedding);
LS_CPU_OP(bias_grad, ls_bias_grad);
/* k_loss.c */
LS_CPU_OP(cross_entropy, ls_cross_entropy);
LS_CPU_OP(cross_entropy_share, ls_cross_entropy);
LS_CPU_OP(cross_entropy_merge, ls_cross_entropy);
/* k_moe.c */
LS_CPU_OP(route_forward, ls_route);
LS_CPU_OP(route_backward, ls_route);
LS_CPU_OP(select_rows, ls_select_rows);
LS_CPU_OP(combine_forward, ls_combine);
LS_CPU_OP(combine_backward, ls_combine);
/* k_attention.c (and k_attention_backward.c) */
ls_status LS_ISA_NAME(ls_cpu_attention_forward)(ls_device *dev, const ls_attention *op);
ls_status LS_ISA_NAME(ls_cpu_attention_backward)(ls_device *dev, const ls_attention *op);
/* k_optim.c */
LS_CPU_OP(adamw, ls_adamw);
LS_CPU_OP(lion, ls_lion);
LS_CPU_OP(sgd, ls_sgd);
ls_status LS_ISA_BASE_NAME(ls_cpu_blend)(ls_device *dev, int64_t n, double a, const void *x,
                                         double b, void *y);
/* k_adafactor.c */
LS_CPU_OP(adafactor_squares, ls_adafactor);
LS_CPU_OP(adafactor_apply, ls_adafactor);
ls_status LS_ISA_BASE_NAME(ls_cpu_adafactor_norm)(ls_device *dev, const ls_adafactor *op,
                                                  double *sum);
/* k_vector.c */
LS_CPU_OP(copy_rows, ls_copy_rows);
ls_status LS_ISA_BASE_NAME(ls_cpu_add)(ls_device *dev, ls_dtype dtype, int64_t n, const void *x,
                                       void *y);
ls_status LS_ISA_BASE_NAME(ls_cpu_cast)(ls_device *dev, ls_dtype dtype, int64_t n, const void *x,
                                        void *y);
ls_status LS_ISA_BASE_NAME(ls_cpu_widen)(ls_device *dev, ls_dtype dtype, int64_t n, const void *x,
                                         void *y);
ls_status LS_ISA_BASE_NAME(ls_cpu_sum_squares)(ls_device *dev, int64_t first, int64_t n,
                                               const void *x, double *sums);
ls_status LS_ISA_BASE_NAME(ls_cpu_sum)(ls_device *dev, int64_t n, const void *x, double *sum);

/* k_gemm_panel.c: `ls_gemm_kernels`, what gemm.c, which is compiled once, needs of a level
 * (gemm.h). ops_table.c: `ls_device_ops`. */

#endif
