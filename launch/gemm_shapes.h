/* The matrix products of one training step of a model, from its parameter table. */
#ifndef LS_LAUNCH_GEMM_SHAPES_H
#define LS_LAUNCH_GEMM_SHAPES_H

#include "runtime/config/config.h"
#include "runtime/device/device.h"

typedef struct ls_gemm_shape {
    char name[48]; /* "attn.qkv dW" */
    int64_t count; /* times in a step */
    ls_gemm op;    /* sizes, flags and dtypes; no pointers */
    bool bias, residual;
} ls_gemm_shape;

/* Forward, input gradient (dX) and weight gradient (dW) of every projection for a micro-batch of
 * rows tokens, the head in chunks. dtype: of activations; acc: of the device. Products of equal
 * shape and kind are listed once. Caller frees *shapes. LS_E_CONFIG as of ls_model_table. */
ls_status ls_gemm_shapes(const ls_config_model *config, int64_t rows, ls_dtype dtype, ls_dtype acc,
                         ls_gemm_shape **shapes, int *count);

double ls_gemm_shape_flops(const ls_gemm_shape *shape); /* of one product */

/* Bytes of a, b and c of one product, and the same with memory filled with numbers in [-1, 1). */
typedef struct ls_gemm_operands {
    size_t a_bytes, b_bytes, c_bytes, bias_bytes;
    void *a, *b, *c, *bias;
} ls_gemm_operands;

/* Device memory (of a host_memory device) that is large enough for each of the shapes. */
ls_status ls_gemm_operands_create(ls_device *dev, const ls_gemm_shape *shapes, int count,
                                  ls_gemm_operands *operands);
void ls_gemm_operands_release(ls_device *dev, ls_gemm_operands *operands);

/* The product of a shape on those operands. */
ls_gemm ls_gemm_shape_op(const ls_gemm_shape *shape, const ls_gemm_operands *operands);

#endif
