/* In place of attention by cuDNN where lockstep is built without its headers. */
#include "runtime/device/cuda/device_cuda.h"

ls_status ls_cuda_cudnn_start(ls_cuda_device *cuda, ls_attention_by by) {
    (void)cuda;
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
    (void)cuda;
    (void)limits;
    return LS_OK;
}

int ls_cuda_cudnn_plans(const ls_cuda_device *cuda) {
    (void)cuda;
    return -1;
}
