/* The operations that kernel_cases.c has cases for. What an operation's dim[] means stands with its
 * definition in kernel_ops.c or
 * kernel_optim.c. */
#ifndef LS_TESTS_KERNEL_OPS_H
#define LS_TESTS_KERNEL_OPS_H

#include "tests/device/kernel_cases.h"

extern const kt_op kt_norm_forward, kt_norm_backward;
extern const kt_op kt_rope, kt_gelu_forward, kt_gelu_backward, kt_swiglu_forward,
    kt_swiglu_backward;
extern const kt_op kt_embedding_forward, kt_embedding_backward, kt_bias_grad;
extern const kt_op kt_cross_entropy, kt_cross_entropy_parts, kt_embedding_parts, kt_copy_rows;
extern const kt_op kt_route_forward, kt_route_backward, kt_select_rows, kt_combine_forward,
    kt_combine_backward;
extern const kt_op kt_adamw, kt_lion, kt_sgd, kt_adafactor_squares, kt_adafactor_norm,
    kt_adafactor_apply, kt_blend;
extern const kt_op kt_add, kt_cast, kt_widen, kt_sum_squares, kt_sum;

extern const kt_op kt_gemm, kt_gemm_gelu, kt_gemm_gelu_grad, kt_gemm_fp8, kt_attention_forward,
    kt_attention_backward, kt_attention_parts; /* kernel_matrix.c */

#endif
