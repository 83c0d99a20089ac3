/* The reference's gradients against central differences. Operations that work in place or are
 * forward and backward in one are put in the form that kt_check_gradient takes; these forms run on
 * the reference only, whose memory is the host's. */
#include "tests/device/kernel_ops.h"

#include <string.h>

/* The sum of all losses, and grad_scale as its gradient; dim as for kt_cross_entropy. */
static int plan_loss_forward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                             kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)dtype;
    return KT_PLAN({"logits", acc, c->dim[0] * c->dim[2], KT_IN},
                   {"targets", LS_I32, c->dim[0], KT_IN, KT_TARGETS, .range = c->dim[1]},
                   {"losses", acc, c->dim[0], KT_INOUT}, {"total", acc, 1, KT_OUT});
}

static ls_cross_entropy loss_of(const kt_case *c, void *const *at) {
    return (ls_cross_entropy){.dtype = LS_F64,
                              .rows = c->dim[0],
                              .vocab = c->dim[1],
                              .ld = c->dim[2],
                              .logits = at[0],
                              .targets = at[1],
                              .losses = at[2]};
}

static ls_status run_loss_forward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                  void *const *at) {
    (void)dtype;
    const ls_cross_entropy op = loss_of(c, at);
    LS_TRY(dev->ops->cross_entropy(dev, &op));
    return dev->ops->sum(dev, c->dim[0], at[2], at[3]);
}

static int plan_loss_backward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                              kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)dtype;
    return KT_PLAN({"logits", acc, c->dim[0] * c->dim[2], KT_IN},
                   {"targets", LS_I32, c->dim[0], KT_IN, KT_TARGETS, .range = c->dim[1]},
                   {"losses", acc, c->dim[0], KT_INOUT}, {"dtotal", acc, 1, KT_IN},
                   {"dlogits", acc, c->dim[0] * c->dim[2], KT_OUT});
}

static ls_status run_loss_backward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                   void *const *at) {
    (void)dtype;
    ls_cross_entropy op = loss_of(c, at);
    op.grad_scale = *(const double *)at[3];
    op.dlogits = at[4];
    return dev->ops->cross_entropy(dev, &op);
}

/* Rotation from x to out, and its inverse from dout to dx; dim as for kt_rope. */
static int plan_rotate(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                       kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t n = c->dim[0] * (c->dim[3] * c->dim[4] + c->dim[5]);
    const int64_t table = (c->dim[1] + c->dim[2]) * c->dim[4] / 2;
    const bool inverse = c->op->name[0] == 'd';
    (void)dtype;
    return KT_PLAN({inverse ? "dx" : "out", acc, n, KT_OUT}, {"cos", acc, table, KT_IN},
                   {"sin", acc, table, KT_IN}, {inverse ? "dout" : "x", acc, n, KT_IN});
}

static ls_status run_rotate(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    const size_t elems = (size_t)(c->dim[0] * (c->dim[3] * c->dim[4] + c->dim[5]));
    memcpy(at[0], at[3], elems * sizeof(double));
    kt_case rope = *c;
    rope.dim[6] = c->op->name[0] == 'd';
    return kt_rope.run(dev, &rope, dtype, at);
}

/* y = bias in every row, as the matrix product's epilogue; dim as for kt_bias_grad. */
static int plan_bias(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                     kt_buffer buffers[KT_BUFFERS_MAX]) {
    return KT_PLAN({"bias", acc, c->dim[1], KT_IN}, {"y", dtype, c->dim[0] * c->dim[1], KT_OUT});
}

static ls_status run_bias(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return dev->ops->gemm(dev, &(ls_gemm){.dtype = dtype,
                                          .c_dtype = dtype,
                                          .m = c->dim[0],
                                          .n = c->dim[1],
                                          .c = at[1],
                                          .ldc = c->dim[1],
                                          .bias = at[0]});
}

static const kt_op loss_forward = {
    .name = "loss", .plan = plan_loss_forward, .run = run_loss_forward};
static const kt_op loss_backward = {
    .name = "dloss", .plan = plan_loss_backward, .run = run_loss_backward};
static const kt_op rotate = {.name = "rotate", .plan = plan_rotate, .run = run_rotate};
static const kt_op rotate_back = {.name = "drotate", .plan = plan_rotate, .run = run_rotate};
static const kt_op bias = {.name = "bias", .plan = plan_bias, .run = run_bias};

int kt_check_all_gradients(void) {
    static const struct {
        const kt_op *forward, *backward;
        int64_t dim[KT_DIMS];
    } pairs[] = {
        {&kt_norm_forward, &kt_norm_backward, {3, 5, LS_LAYERNORM}},
        {&kt_norm_forward, &kt_norm_backward, {3, 5, LS_RMSNORM}},
        {&kt_gelu_forward, &kt_gelu_backward, {17}},
        {&kt_swiglu_forward, &kt_swiglu_backward, {3, 5}},
        {&kt_embedding_forward, &kt_embedding_backward, {7, 4, 3, 5, 1, 1}},
        {&loss_forward, &loss_backward, {5, 7, 9}},
        {&rotate, &rotate_back, {4, 2, 1, 3, 6, 2}},
        {&bias, &kt_bias_grad, {4, 3}},
    };
    int failures = 0;
    for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
        failures += kt_check_gradient(pairs[p].forward, pairs[p].backward, pairs[p].dim);
    }
    return failures;
}
