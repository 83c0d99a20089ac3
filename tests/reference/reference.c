/* The reference device's memory and its table of operations. */
#include "tests/reference/reference.h"

#include "runtime/device/marks.h"
#include "tests/reference/reference_ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void reference_close(ls_device *dev) {
    free(dev);
}

static ls_status reference_reserve(ls_device *dev, const ls_device_limits *limits) {
    (void)dev, (void)limits; /* no scratch memory that outlives an operation */
    return LS_OK;
}

static ls_status reference_alloc(ls_device *dev, size_t bytes, void **memory) {
    (void)dev;
    size_t rounded_bytes = (bytes + 63) / 64 * 64;
    *memory = NULL;
    if (rounded_bytes >= bytes) {
        *memory = aligned_alloc(64, rounded_bytes ? rounded_bytes : 64);
    }
    if (!*memory) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %zu bytes", bytes);
    }
    memset(*memory, 0, rounded_bytes);
    return LS_OK;
}

static void reference_free(ls_device *dev, void *memory) {
    (void)dev;
    free(memory);
}

static ls_status reference_copy(ls_device *dev, void *to, const void *from, size_t bytes) {
    (void)dev;
    if (bytes > 0) {
        memmove(to, from, bytes);
    }
    return LS_OK;
}

static ls_status reference_zero(ls_device *dev, void *memory, size_t bytes) {
    (void)dev;
    if (bytes > 0) {
        memset(memory, 0, bytes);
    }
    return LS_OK;
}

static ls_status reference_sync(ls_device *dev) {
    (void)dev;
    return LS_OK;
}

static const ls_device_ops reference_ops = {
    .name = "reference",
    .close = reference_close,
    .reserve = reference_reserve,
    .alloc = reference_alloc,
    .free = reference_free,
    .upload = reference_copy,
    .download = reference_copy,
    .copy = reference_copy,
    .zero = reference_zero,
    .sync = reference_sync,
    .mark = ls_host_mark,
    .between = ls_host_between,
    .gemm = ls_ref_gemm,
    .bias_grad = ls_ref_bias_grad,
    .embedding_forward = ls_ref_embedding_forward,
    .embedding_backward = ls_ref_embedding_backward,
    .norm_forward = ls_ref_norm_forward,
    .norm_backward = ls_ref_norm_backward,
    .rope = ls_ref_rope,
    .gelu_forward = ls_ref_gelu_forward,
    .gelu_backward = ls_ref_gelu_backward,
    .swiglu_forward = ls_ref_swiglu_forward,
    .swiglu_backward = ls_ref_swiglu_backward,
    .attention_forward = ls_ref_attention_forward,
    .attention_backward = ls_ref_attention_backward,
    .cross_entropy = ls_ref_cross_entropy,
    .cross_entropy_share = ls_ref_cross_entropy_share,
    .cross_entropy_merge = ls_ref_cross_entropy_merge,
    .copy_rows = ls_ref_copy_rows,
    .route_forward = ls_ref_route_forward,
    .route_backward = ls_ref_route_backward,
    .select_rows = ls_ref_select_rows,
    .combine_forward = ls_ref_combine_forward,
    .combine_backward = ls_ref_combine_backward,
    .adamw = ls_ref_adamw,
    .lion = ls_ref_lion,
    .sgd = ls_ref_sgd,
    .adafactor_squares = ls_ref_adafactor_squares,
    .adafactor_norm = ls_ref_adafactor_norm,
    .adafactor_apply = ls_ref_adafactor_apply,
    .blend = ls_ref_blend,
    .add = ls_ref_add,
    .cast = ls_ref_cast,
    .widen = ls_ref_widen,
    .sum_squares = ls_ref_sum_squares,
    .sum = ls_ref_sum,
};

ls_status ls_device_open_reference(const ls_device_options *options, ls_device **dev) {
    (void)options;
    *dev = calloc(1, sizeof **dev);
    if (!*dev) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a device");
    }
    **dev = (ls_device){
        .ops = &reference_ops, .acc = LS_F64, .host_memory = true, .has_fp8 = true, .threads = 1};
    snprintf((*dev)->describe, sizeof(*dev)->describe, "reference: float64 in plain loops");
    return LS_OK;
}
