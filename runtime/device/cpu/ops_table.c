/* The table of operations of one instruction set level. */
#include "runtime/device/cpu/device_cpu.h"
#include "runtime/device/cpu/ops.h"

const ls_device_ops LS_ISA_NAME(ls_cpu_ops) = {
    .name = "cpu",
    .close = ls_cpu_close,
    .reserve = ls_cpu_reserve,
    .alloc = ls_cpu_alloc,
    .free = ls_cpu_free,
    .upload = ls_cpu_copy,
    .download = ls_cpu_copy,
    .zero = ls_cpu_zero,
    .sync = ls_cpu_sync,
    .gemm = ls_cpu_gemm,
    .bias_grad = LS_ISA_NAME(ls_cpu_bias_grad),
    .embedding_forward = LS_ISA_NAME(ls_cpu_embedding_forward),
    .embedding_backward = LS_ISA_NAME(ls_cpu_embedding_backward),
    .norm_forward = LS_ISA_NAME(ls_cpu_norm_forward),
    .norm_backward = LS_ISA_NAME(ls_cpu_norm_backward),
    .rope = LS_ISA_NAME(ls_cpu_rope),
    .gelu_forward = LS_ISA_NAME(ls_cpu_gelu_forward),
    .gelu_backward = LS_ISA_NAME(ls_cpu_gelu_backward),
    .swiglu_forward = LS_ISA_NAME(ls_cpu_swiglu_forward),
    .swiglu_backward = LS_ISA_NAME(ls_cpu_swiglu_backward),
    .attention_forward = LS_ISA_NAME(ls_cpu_attention_forward),
    .attention_backward = LS_ISA_NAME(ls_cpu_attention_backward),
    .cross_entropy = LS_ISA_NAME(ls_cpu_cross_entropy),
    .adamw = LS_ISA_NAME(ls_cpu_adamw),
    .add = LS_ISA_NAME(ls_cpu_add),
    .cast = LS_ISA_NAME(ls_cpu_cast),
    .sum_squares = LS_ISA_NAME(ls_cpu_sum_squares),
    .sum = LS_ISA_NAME(ls_cpu_sum),
};
