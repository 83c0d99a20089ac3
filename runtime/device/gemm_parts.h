/* A product with an activation as the operations that it stands for: for devices that fuse nothing,
 * and for shapes that a library of products does not fuse. */
#ifndef LS_DEVICE_GEMM_PARTS_H
#define LS_DEVICE_GEMM_PARTS_H

#include "runtime/device/device.h"

/* The product alone, with its bias; a sum that an activation follows goes to `pre`. */
static inline ls_gemm ls_gemm_product_part(const ls_gemm *op) {
    ls_gemm product = *op;
    product.act = LS_ACT_NONE;
    product.pre = product.dbias = NULL;
    if (op->act == LS_ACT_GELU) {
        product.c = op->pre;
    }
    return product;
}

/* What is left to do then. */
static inline ls_status ls_gemm_act_part(ls_device *dev, const ls_gemm *op) {
    ls_gelu gelu = {.dtype = op->dtype, .n = op->m * op->n, .x = op->pre};
    if (op->act == LS_ACT_GELU) {
        gelu.y = op->c;
        return dev->ops->gelu_forward(dev, &gelu);
    }
    gelu.dy = gelu.dx = op->c;
    LS_TRY(dev->ops->gelu_backward(dev, &gelu));
    if (!op->dbias) {
        return LS_OK;
    }
    return dev->ops->bias_grad(
        dev,
        &(ls_bias_grad){
            .dtype = op->dtype, .rows = op->m, .cols = op->n, .dy = op->c, .dbias = op->dbias});
}

#endif
