/* The optimizers' operations: buffers and calls. */
#include "tests/device/kernel_ops.h"

/* Rounding to the 8 bits of bf16 is off by 2^-8 at most; fp32 errors before it add little. */
#define BF16_ROUNDED                                                                               \
    { 3.95e-3, 3.95e-3 }

/* adamw: dim = n, t, with copy */
static int plan_adamw(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                      kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t n = c->dim[0];
    return KT_PLAN({"p", acc, n, KT_INOUT}, {"m", acc, n, KT_INOUT, .scale = 0.1},
                   {"v", acc, n, KT_INOUT, KT_POSITIVE, .scale = 0.01},
                   {"grad", acc, n, KT_IN, .varied = true},
                   {"copy", dtype, c->dim[2] ? n : 0, KT_OUT});
}

static ls_status run_adamw(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return dev->ops->adamw(dev, &(ls_adamw){.n = c->dim[0],
                                            .t = c->dim[1],
                                            .lr = 0.01,
                                            .beta1 = 0.9,
                                            .beta2 = 0.95,
                                            .eps = 1e-8,
                                            .weight_decay = 0.1,
                                            .grad_scale = 0.5,
                                            .p = at[0],
                                            .m = at[1],
                                            .v = at[2],
                                            .grad = at[3],
                                            .copy_dtype = dtype,
                                            .copy = c->dim[2] ? at[4] : NULL});
}

const kt_op kt_adamw = {"adamw",    {2e-7, 3e-7}, BF16_ROUNDED, "a chain of fp32 roundings",
                        plan_adamw, run_adamw};

/* lion: dim = n, with copy */
static int plan_lion(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                     kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t n = c->dim[0];
    return KT_PLAN({"p", acc, n, KT_INOUT}, {"m", acc, n, KT_INOUT, .scale = 0.1},
                   {"grad", acc, n, KT_IN, .varied = true},
                   {"copy", dtype, c->dim[1] ? n : 0, KT_OUT});
}

static ls_status run_lion(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return dev->ops->lion(dev, &(ls_lion){.n = c->dim[0],
                                          .lr = 0.01,
                                          .beta1 = 0.9,
                                          .beta2 = 0.99,
                                          .weight_decay = 0.1,
                                          .grad_scale = 0.5,
                                          .p = at[0],
                                          .m = at[1],
                                          .grad = at[2],
                                          .copy_dtype = dtype,
                                          .copy = c->dim[1] ? at[3] : NULL});
}

const kt_op kt_lion = {"lion",    {2e-7, 3e-7}, BF16_ROUNDED, "a chain of fp32 roundings",
                       plan_lion, run_lion};

/* sgd: dim = n, with copy, with momentum, nesterov */
static int plan_sgd(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                    kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t n = c->dim[0];
    return KT_PLAN({"p", acc, n, KT_INOUT}, {"m", acc, c->dim[2] ? n : 0, KT_INOUT, .scale = 0.1},
                   {"grad", acc, n, KT_IN, .varied = true},
                   {"copy", dtype, c->dim[1] ? n : 0, KT_OUT});
}

static ls_status run_sgd(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return dev->ops->sgd(dev, &(ls_sgd){.n = c->dim[0],
                                        .lr = 0.01,
                                        .momentum = 0.9,
                                        .weight_decay = 0.1,
                                        .grad_scale = 0.5,
                                        .nesterov = c->dim[3],
                                        .p = at[0],
                                        .m = c->dim[2] ? at[1] : NULL,
                                        .grad = at[2],
                                        .copy_dtype = dtype,
                                        .copy = c->dim[1] ? at[3] : NULL});
}

const kt_op kt_sgd = {"sgd",    {2e-7, 3e-7}, BF16_ROUNDED, "a chain of fp32 roundings",
                      plan_sgd, run_sgd};

/* adafactor: dim = first, n, rows, cols of a matrix, or 0, n, 0, n of a vector */
static int64_t rows_of(const kt_case *c) {
    return c->dim[2];
}

static ls_adafactor adafactor_op(const kt_case *c) {
    return (ls_adafactor){.first = c->dim[0],
                          .n = c->dim[1],
                          .cols = c->dim[3],
                          .grid = 1000,
                          .grad_scale = 0.5,
                          .beta2 = 0.8,
                          .factor = 1.5,
                          .keep = 0.99,
                          .lr = 0.01};
}

static int plan_squares(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                        kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)dtype;
    const bool vector = rows_of(c) == 0;
    return KT_PLAN({"grad", acc, c->dim[1], KT_IN, .varied = true},
                   {"row_sums", LS_F64, 2 * rows_of(c), KT_INOUT, KT_POSITIVE},
                   {"col_sums", LS_F64, vector ? 0 : 2 * c->dim[3], KT_INOUT, KT_POSITIVE},
                   {"v", acc, vector ? c->dim[1] : 0, KT_INOUT, KT_POSITIVE});
}

static ls_status run_squares(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    (void)dtype;
    ls_adafactor op = adafactor_op(c);
    op.grad = at[0];
    op.row_sums = rows_of(c) ? at[1] : NULL;
    op.col_sums = rows_of(c) ? at[2] : NULL;
    op.v = rows_of(c) ? NULL : at[3];
    ls_adafactor_splits(c->variant == KT_LARGE ? 0x1p45 : 0x1p17, c->dim[1], op.split);
    return dev->ops->adafactor_squares(dev, &op);
}

const kt_op kt_adafactor_squares = {"adafactor_squares",          {2e-7, 3e-7}, BF16_ROUNDED,
                                    "double sums, added in fp32", plan_squares, run_squares};

static int plan_direction(const kt_case *c, ls_dtype acc, kt_buffer out,
                          kt_buffer buffers[KT_BUFFERS_MAX]) {
    const bool vector = rows_of(c) == 0;
    return KT_PLAN({"grad", acc, c->dim[1], KT_IN, .varied = true},
                   {"row", acc, rows_of(c), KT_IN, KT_POSITIVE},
                   {"col", acc, vector ? 0 : c->dim[3], KT_IN, KT_POSITIVE},
                   {"v", acc, vector ? c->dim[1] : 0, KT_IN, KT_POSITIVE}, out);
}

static ls_adafactor direction_op(const kt_case *c, void *const *at) {
    ls_adafactor op = adafactor_op(c);
    op.grad = at[0];
    op.row = rows_of(c) ? at[1] : NULL;
    op.col = rows_of(c) ? at[2] : NULL;
    op.v = rows_of(c) ? NULL : at[3];
    return op;
}

static int plan_norm(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                     kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)dtype;
    const int64_t pieces = ls_squares_count(adafactor_op(c).grid, c->dim[1]);
    return plan_direction(c, acc, (kt_buffer){"sums", LS_F64, pieces, KT_OUT}, buffers);
}

static ls_status run_norm(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    (void)dtype;
    const ls_adafactor op = direction_op(c, at);
    double sums[64];
    LS_TRY(dev->ops->adafactor_norm(dev, &op, sums));
    const int64_t pieces = ls_squares_count(op.grid, op.n);
    return dev->ops->upload(dev, at[4], sums, (size_t)pieces * sizeof *sums);
}

const kt_op kt_adafactor_norm = {"adafactor_norm", {3e-7, 3e-7},
                                 BF16_ROUNDED,     "fp32 terms, summed in double",
                                 plan_norm,        run_norm};

static int plan_apply(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                      kt_buffer buffers[KT_BUFFERS_MAX]) {
    int count = plan_direction(c, acc, (kt_buffer){"p", acc, c->dim[1], KT_INOUT}, buffers);
    buffers[count] = (kt_buffer){"copy", dtype, c->dim[1], KT_OUT};
    return count + 1;
}

static ls_status run_apply(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    ls_adafactor op = direction_op(c, at);
    op.p = at[4];
    op.copy = at[5];
    op.copy_dtype = dtype;
    return dev->ops->adafactor_apply(dev, &op);
}

const kt_op kt_adafactor_apply = {"adafactor_apply",           {3e-7, 5e-7}, BF16_ROUNDED,
                                  "a chain of fp32 roundings", plan_apply,   run_apply};

/* blend: dim = n, whether b is 0 */
static int plan_blend(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                      kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)dtype;
    return KT_PLAN({"x", acc, c->dim[0], KT_IN, .varied = true},
                   {"y", acc, c->dim[0], c->dim[1] ? KT_OUT : KT_INOUT});
}

static ls_status run_blend(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    (void)dtype;
    return dev->ops->blend(dev, c->dim[0], 0.75, at[0], c->dim[1] ? 0.0 : -1.25, at[1]);
}

const kt_op kt_blend = {"blend",    {2e-7, 2e-7}, BF16_ROUNDED, "three fp32 roundings",
                        plan_blend, run_blend};
