/* Operations of a mixture of experts. */
#include "runtime/base/arena.h"
#include "tests/device/kernel_ops.h"

#include <stdlib.h>

/* route: dim = rows, experts, each */
static int plan_route_forward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                              kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)dtype;
    const int64_t n = c->dim[0] * c->dim[1], choices = c->dim[0] * c->dim[2];
    return KT_PLAN({"logits", acc, n, KT_IN, .scale = 2.0, .varied = true},
                   {"probs", acc, n, KT_OUT}, {"chosen", LS_I32, choices, KT_OUT},
                   {"gates", acc, choices, KT_OUT});
}

static ls_route route_of(const kt_case *c, ls_dtype dtype) {
    return (ls_route){.dtype = dtype, .rows = c->dim[0], .experts = c->dim[1], .each = c->dim[2]};
}

static ls_status run_route_forward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                   void *const *at) {
    ls_route op = route_of(c, dtype);
    op.logits = at[0];
    op.probs = at[1];
    op.chosen = at[2];
    op.gates = at[3];
    return dev->ops->route_forward(dev, &op);
}

const kt_op kt_route_forward = {"route_forward",      {1e-6, 2e-6},       {1e-6, 2e-6},
                                "fp32 exp and a sum", plan_route_forward, run_route_forward};

static int plan_route_backward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                               kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t n = c->dim[0] * c->dim[1], choices = c->dim[0] * c->dim[2];
    return KT_PLAN({"logits", acc, n, KT_IN, .scale = 2.0}, {"probs", acc, n, KT_OUT},
                   {"chosen", LS_I32, choices, KT_OUT}, {"gates", acc, choices, KT_OUT},
                   {"dgates", acc, choices, KT_IN, .varied = true},
                   {"balance", acc, c->dim[1], KT_IN}, {"dlogits", dtype, n, KT_OUT});
}

static ls_status run_route_backward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                    void *const *at) {
    LS_TRY(run_route_forward(dev, c, dtype, at));
    ls_route op = route_of(c, dtype);
    op.logits = at[0];
    op.probs = at[1];
    op.chosen = at[2];
    op.gates = at[3];
    op.dgates = at[4];
    op.balance = at[5];
    op.dlogits = at[6];
    return dev->ops->route_backward(dev, &op);
}

const kt_op kt_route_backward = {"route_backward",    {2e-6, 4e-6},
                                 {3e-3, 5e-3},        "differences of fp32 sums over experts",
                                 plan_route_backward, run_route_backward};

/* select_rows: dim = rows of y, cols, rows of x */
static int plan_select_rows(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                            kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)acc;
    return KT_PLAN({"index", LS_I32, c->dim[0], KT_IN, KT_TARGETS, .range = c->dim[2]},
                   {"x", dtype, c->dim[2] * c->dim[1], KT_IN},
                   {"y", dtype, c->dim[0] * c->dim[1], KT_OUT});
}

static ls_status run_select_rows(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                 void *const *at) {
    return dev->ops->select_rows(dev, &(ls_select_rows){.dtype = dtype,
                                                        .rows = c->dim[0],
                                                        .cols = c->dim[1],
                                                        .index = at[0],
                                                        .x = at[1],
                                                        .y = at[2]});
}

const kt_op kt_select_rows = {"select_rows", {0, 0},           {0, 0},
                              "a copy",      plan_select_rows, run_select_rows};

/* combine: dim = rows, cols, each, rows of x, with weights, with residual */
static int plan_combine_forward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                                kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t n = c->dim[0] * c->dim[1], terms = c->dim[0] * c->dim[2];
    return KT_PLAN({"index", LS_I32, terms, KT_IN, KT_TARGETS, .range = c->dim[3]},
                   {"weights", acc, c->dim[4] ? terms : 0, KT_IN},
                   {"x", dtype, c->dim[3] * c->dim[1], KT_IN, .varied = true},
                   {"residual", dtype, c->dim[5] ? n : 0, KT_IN}, {"y", dtype, n, KT_OUT});
}

static ls_combine combine_of(const kt_case *c, ls_dtype dtype, void *const *at) {
    return (ls_combine){.dtype = dtype,
                        .rows = c->dim[0],
                        .cols = c->dim[1],
                        .each = c->dim[2],
                        .index = at[0],
                        .weights = c->dim[4] ? at[1] : NULL,
                        .x = at[2]};
}

static ls_status run_combine_forward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                     void *const *at) {
    ls_combine op = combine_of(c, dtype, at);
    op.residual = c->dim[5] ? at[3] : NULL;
    op.y = at[4];
    return dev->ops->combine_forward(dev, &op);
}

const kt_op kt_combine_forward = {"combine_forward",    {1e-6, 2e-6},
                                  {3e-3, 5e-3},         "a few products and one rounding",
                                  plan_combine_forward, run_combine_forward};

/* Each row of x once at most: the index is made here from that of KT_TOKENS, unused rows of x
 * keep their dx. */
static int plan_combine_backward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                                 kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t terms = c->dim[0] * c->dim[2];
    return KT_PLAN(
        {"index", LS_I32, terms, KT_INOUT, KT_TARGETS, .range = c->dim[3]},
        {"weights", acc, c->dim[4] ? terms : 0, KT_IN}, {"x", dtype, c->dim[3] * c->dim[1], KT_IN},
        {"dy", dtype, c->dim[0] * c->dim[1], KT_IN, .varied = true},
        {"dx", dtype, c->dim[3] * c->dim[1], KT_INOUT}, {"dweights", acc, terms, KT_OUT});
}

static ls_status run_combine_backward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                      void *const *at) {
    const int64_t terms = c->dim[0] * c->dim[2];
    int32_t *index;
    LS_TRY(ls_calloc((size_t)terms + 1, sizeof *index, &index));
    ls_status status = dev->ops->download(dev, index, at[0], (size_t)terms * sizeof *index);
    for (int64_t i = 0; i < terms; i++) {
        index[i] = index[i] < 0 || i >= c->dim[3] ? -1 : (int32_t)(c->dim[3] - 1 - i);
    }
    if (status == LS_OK) {
        status = dev->ops->upload(dev, at[0], index, (size_t)terms * sizeof *index);
    }
    free(index);
    LS_TRY(status);
    ls_combine op = combine_of(c, dtype, at);
    op.dy = at[3];
    op.dx = at[4];
    op.dweights = at[5];
    return dev->ops->combine_backward(dev, &op);
}

const kt_op kt_combine_backward = {"combine_backward",    {2e-6, 4e-6},
                                   {3e-3, 5e-3},          "fp32 sums over the columns",
                                   plan_combine_backward, run_combine_backward};
