/* In place of attention by cuDNN where lockstep is built without its headers. */
#include "runtime/device/cuda/device_cuda.h"

#include <stdio.h>

ls_status ls_cuda_cudnn_start(ls_cuda_device *cuda, ls_attention_by by) {
    cuda->attention.left_open = by == LS_ATTENTION_AUTO;
    return by != LS_ATTENTION_CUDNN
               ? LS_OK
               : LS_FAIL(LS_E_UNSUPPORTED, "this lockstep was built without cuDNN; build with "
                                           "-DCUDNN_ROOT=, or set numerics.attention to own");
}

void ls_cuda_cudnn_end(ls_cuda_device *cuda) {
    (void)cuda;
}

ls_status ls_cuda_cudnn_attention(ls_cuda_device *cuda, const ls_attention *op, void *delta,
                                  bool *done) {
    (void)cuda;
    (void)op;
    (void)delta;
    *done = false;
    return LS_OK;
}

ls_status ls_cuda_cudnn_reserve(ls_cuda_device *cuda, const ls_device_limits *limits) {
    cuda->attention.reserved = cuda->attention.reserved || limits->bf16_batch > 0;
    return LS_OK;
}

ls_status ls_cuda_attention_offer(ls_device *dev, ls_attention_offer *offer) {
    offer->number = ls_cuda_of(dev)->attention.reserved ? 0 : -1;
    snprintf(offer->text, sizeof offer->text, "this lockstep was built without cuDNN");
    return LS_OK;
}

void ls_cuda_attention_settle(ls_device *dev, bool accept) {
    (void)dev;
    (void)accept;
}

int ls_cuda_cudnn_plans(const ls_cuda_device *cuda) {
    (void)cuda;
    return -1;
}
