/* Each operation's buffers and its call. */
#include "tests/device/kernel_ops.h"

#include <math.h>
#include <stdlib.h>

/* Rounding to the 8 bits of bf16 is off by 2^-8 at most; fp32 errors before it add little. */
#define BF16_ROUNDED                                                                               \
    { 3.95e-3, 3.95e-3 }

/* norm: dim = rows, C, kind, (backward) residual, dx_sums; heads, elements between tokens beyond
 * heads * C: y then has gaps that must stay, x comes in it and is kept, and dx lies on dy. */
static int64_t norm_elems(const kt_case *c) {
    const int64_t heads = c->dim[5];
    return heads > 0 ? c->dim[0] / heads * (heads * c->dim[1] + c->dim[6]) : c->dim[0] * c->dim[1];
}

static int plan_norm_forward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                             kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t rows = c->dim[0], C = c->dim[1];
    const bool centred = c->dim[2] == LS_LAYERNORM, of_heads = c->dim[5] > 0;
    /* Rounding in a sum grows with the root of its length (Higham 1993, doi:10.1137/0914050). */
    const double length = C > 4096 ? sqrt((double)C / 4096) : 1.0;
    return KT_PLAN(
        {of_heads ? "kept" : "x", dtype, rows * C, of_heads ? KT_OUT : KT_IN, .varied = !of_heads},
        {"w", acc, C, KT_IN},
        {"y", dtype, norm_elems(c), of_heads ? KT_INOUT : KT_OUT, .varied = of_heads},
        {"rstd", acc, rows, KT_OUT, .slack = length}, {"b", acc, centred ? C : 0, KT_IN},
        {"mean", acc, centred ? rows : 0, KT_OUT, .slack = 10.0 * length /* near 0 */});
}

static ls_status run_norm_forward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                  void *const *at) {
    const bool centred = c->dim[2] == LS_LAYERNORM;
    return dev->ops->norm_forward(dev, &(ls_norm){.kind = (ls_norm_kind)c->dim[2],
                                                  .dtype = dtype,
                                                  .rows = c->dim[0],
                                                  .channels = c->dim[1],
                                                  .eps = 1e-5,
                                                  .x = c->dim[5] ? NULL : at[0],
                                                  .kept = c->dim[5] ? at[0] : NULL,
                                                  .w = at[1],
                                                  .y = at[2],
                                                  .rstd = at[3],
                                                  .b = centred ? at[4] : NULL,
                                                  .mean = centred ? at[5] : NULL,
                                                  .heads = c->dim[5],
                                                  .stride = c->dim[5] * c->dim[1] + c->dim[6]});
}

const kt_op kt_norm_forward = {"norm_forward",    {2e-6, 4e-6},
                               BF16_ROUNDED,      "fp32 sums of a row in at least 16 partial sums",
                               plan_norm_forward, run_norm_forward};

static int plan_norm_backward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                              kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t rows = c->dim[0], C = c->dim[1];
    const bool centred = c->dim[2] == LS_LAYERNORM, residual = c->dim[3] != 0;
    return KT_PLAN({"x", dtype, rows * C, KT_IN, .varied = true}, {"w", acc, C, KT_IN},
                   {"dy", dtype, norm_elems(c), c->dim[5] ? KT_INOUT : KT_IN},
                   {"rstd", acc, rows, KT_IN, KT_POSITIVE},
                   {"dx", dtype, c->dim[5] ? 0 : rows * C, KT_OUT,
                    .on = residual ? "dresidual" : "dy", .slack = C < 4 ? 20.0 : 1.0},
                   {"dw", acc, C, KT_INOUT}, {"db", acc, centred ? C : 0, KT_INOUT},
                   {"mean", acc, centred ? rows : 0, KT_IN},
                   {"dresidual", dtype, residual ? rows * C : 0, KT_IN},
                   {"dx_sums", acc, c->dim[4] ? C : 0, KT_INOUT,
                    .slack = dtype == LS_BF16 ? 2000.0 : 20.0}); /* of rounded terms */
}

static ls_status run_norm_backward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                   void *const *at) {
    const bool centred = c->dim[2] == LS_LAYERNORM;
    return dev->ops->norm_backward(dev, &(ls_norm){.kind = (ls_norm_kind)c->dim[2],
                                                   .dtype = dtype,
                                                   .rows = c->dim[0],
                                                   .channels = c->dim[1],
                                                   .eps = 1e-5,
                                                   .x = at[0],
                                                   .w = at[1],
                                                   .dy = at[2],
                                                   .rstd = at[3],
                                                   .dx = at[c->dim[5] ? 2 : 4],
                                                   .dw = at[5],
                                                   .db = centred ? at[6] : NULL,
                                                   .mean = centred ? at[7] : NULL,
                                                   .dresidual = c->dim[3] ? at[8] : NULL,
                                                   .dx_sums = c->dim[4] ? at[9] : NULL,
                                                   .heads = c->dim[5],
                                                   .stride = c->dim[5] * c->dim[1] + c->dim[6]});
}

const kt_op kt_norm_backward = {
    "norm_backward",    {2e-6, 5e-6},
    BF16_ROUNDED,       "fp32 sums of a row and over rows; few channels cancel",
    plan_norm_backward, run_norm_backward};

/* rope: dim = rows, seq, offset, heads, D, elements between rows beyond heads * D, inverse */
static int plan_rope(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                     kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t stride = c->dim[3] * c->dim[4] + c->dim[5];
    const int64_t positions = c->dim[1] + c->dim[2];
    return KT_PLAN({"x", dtype, c->dim[0] * stride, KT_INOUT, .varied = true},
                   {"cos", acc, positions * c->dim[4] / 2, KT_IN},
                   {"sin", acc, positions * c->dim[4] / 2, KT_IN});
}

static ls_status run_rope(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return dev->ops->rope(dev, &(ls_rope){.dtype = dtype,
                                          .inverse = c->dim[6] != 0,
                                          .rows = c->dim[0],
                                          .seq = c->dim[1],
                                          .offset = c->dim[2],
                                          .heads = c->dim[3],
                                          .head_dim = c->dim[4],
                                          .row_stride = c->dim[3] * c->dim[4] + c->dim[5],
                                          .x = at[0],
                                          .cos = at[1],
                                          .sin = at[2]});
}

const kt_op kt_rope = {"rope",    {2e-7, 2e-7}, BF16_ROUNDED, "two products and a sum in fp32",
                       plan_rope, run_rope};

/* gelu: dim = n */
static int plan_gelu_forward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                             kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)acc;
    return KT_PLAN({"x", dtype, c->dim[0], KT_IN, .scale = 3.0, .varied = true},
                   {"y", dtype, c->dim[0], KT_OUT});
}

static ls_status run_gelu_forward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                  void *const *at) {
    return dev->ops->gelu_forward(
        dev, &(ls_gelu){.dtype = dtype, .n = c->dim[0], .x = at[0], .y = at[1]});
}

const kt_op kt_gelu_forward = {"gelu_forward",    {4e-7, 5e-7},
                               BF16_ROUNDED,      "one exp in fp32, its argument rounded",
                               plan_gelu_forward, run_gelu_forward};

static int plan_gelu_backward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                              kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)acc;
    return KT_PLAN({"x", dtype, c->dim[0], KT_IN, .scale = 3.0, .varied = true},
                   {"dy", dtype, c->dim[0], KT_IN}, {"dx", dtype, c->dim[0], KT_OUT, .on = "dy"});
}

static ls_status run_gelu_backward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                   void *const *at) {
    return dev->ops->gelu_backward(
        dev, &(ls_gelu){.dtype = dtype, .n = c->dim[0], .x = at[0], .dy = at[1], .dx = at[2]});
}

const kt_op kt_gelu_backward = {"gelu_backward",    {4e-7, 5e-7},
                                BF16_ROUNDED,       "one exp in fp32, its argument rounded",
                                plan_gelu_backward, run_gelu_backward};

/* swiglu: dim = rows, F */
static int plan_swiglu_forward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                               kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)acc;
    const int64_t n = c->dim[0] * c->dim[1];
    return KT_PLAN({"x", dtype, 2 * n, KT_IN, .scale = 3.0, .varied = true},
                   {"y", dtype, n, KT_OUT});
}

static ls_status run_swiglu_forward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                    void *const *at) {
    return dev->ops->swiglu_forward(
        dev,
        &(ls_swiglu){.dtype = dtype, .rows = c->dim[0], .ffn = c->dim[1], .x = at[0], .y = at[1]});
}

const kt_op kt_swiglu_forward = {"swiglu_forward",    {4e-7, 5e-7},
                                 BF16_ROUNDED,        "one exp in fp32, its argument rounded",
                                 plan_swiglu_forward, run_swiglu_forward};

static int plan_swiglu_backward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                                kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)acc;
    const int64_t n = c->dim[0] * c->dim[1];
    return KT_PLAN({"x", dtype, 2 * n, KT_IN, .scale = 3.0, .varied = true},
                   {"dy", dtype, n, KT_IN}, {"dx", dtype, 2 * n, KT_OUT, .on = "x"});
}

static ls_status run_swiglu_backward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                     void *const *at) {
    return dev->ops->swiglu_backward(dev, &(ls_swiglu){.dtype = dtype,
                                                       .rows = c->dim[0],
                                                       .ffn = c->dim[1],
                                                       .x = at[0],
                                                       .dy = at[1],
                                                       .dx = at[2]});
}

const kt_op kt_swiglu_backward = {"swiglu_backward",    {3e-7, 5e-7},
                                  BF16_ROUNDED,         "one exp in fp32, its argument rounded",
                                  plan_swiglu_backward, run_swiglu_backward};

/* embedding: dim = rows, seq, C, V, offset, with positions */
static int plan_embedding_forward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                                  kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)acc;
    const int64_t C = c->dim[2];
    return KT_PLAN({"tokens", LS_I32, c->dim[0], KT_IN, KT_TOKENS, .range = c->dim[3]},
                   {"wte", dtype, c->dim[3] * C, KT_IN, .varied = true},
                   {"out", dtype, c->dim[0] * C, KT_OUT},
                   {"wpe", dtype, c->dim[5] ? (c->dim[1] + c->dim[4]) * C : 0, KT_IN});
}

static ls_embedding embedding_of(const kt_case *c, ls_dtype dtype) {
    return (ls_embedding){.dtype = dtype,
                          .rows = c->dim[0],
                          .seq = c->dim[1],
                          .channels = c->dim[2],
                          .vocab = c->dim[3],
                          .offset = c->dim[4]};
}

static ls_status run_embedding_forward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                       void *const *at) {
    ls_embedding op = embedding_of(c, dtype);
    op.tokens = at[0];
    op.wte = at[1];
    op.out = at[2];
    op.wpe = c->dim[5] ? at[3] : NULL;
    return dev->ops->embedding_forward(dev, &op);
}

const kt_op kt_embedding_forward = {"embedding_forward",    {1e-7, 1e-7},
                                    BF16_ROUNDED,           "at most one addition",
                                    plan_embedding_forward, run_embedding_forward};

static int plan_embedding_backward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                                   kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t C = c->dim[2];
    return KT_PLAN({"tokens", LS_I32, c->dim[0], KT_IN, KT_TOKENS, .range = c->dim[3]},
                   {"dout", dtype, c->dim[0] * C, KT_IN, .varied = true},
                   {"dwte", acc, c->dim[3] * C, KT_INOUT},
                   {"dwpe", acc, c->dim[5] ? (c->dim[1] + c->dim[4]) * C : 0, KT_INOUT});
}

static ls_status run_embedding_backward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                        void *const *at) {
    ls_embedding op = embedding_of(c, dtype);
    op.tokens = at[0];
    op.dout = at[1];
    op.dwte = at[2];
    op.dwpe = c->dim[5] ? at[3] : NULL;
    return dev->ops->embedding_backward(dev, &op);
}

const kt_op kt_embedding_backward = {"embedding_backward",
                                     {2e-6, 4e-6},
                                     BF16_ROUNDED,
                                     "fp32 sums over the rows that have the token",
                                     plan_embedding_backward,
                                     run_embedding_backward};

/* bias_grad: dim = rows, cols */
static int plan_bias_grad(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                          kt_buffer buffers[KT_BUFFERS_MAX]) {
    return KT_PLAN({"dy", dtype, c->dim[0] * c->dim[1], KT_IN, .varied = true},
                   {"dbias", acc, c->dim[1], KT_INOUT});
}

static ls_status run_bias_grad(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return dev->ops->bias_grad(
        dev,
        &(ls_bias_grad){
            .dtype = dtype, .rows = c->dim[0], .cols = c->dim[1], .dy = at[0], .dbias = at[1]});
}

const kt_op kt_bias_grad = {"bias_grad",    {1e-6, 2e-6},
                            BF16_ROUNDED,   "fp32 sums over blocks of rows",
                            plan_bias_grad, run_bias_grad};

/* cross_entropy: dim = rows, V, ld, with gradient, logits of dtype. The columns from V on are NaN.
 */
static int plan_cross_entropy(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                              kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t n = c->dim[0] * c->dim[2];
    return KT_PLAN({"logits", c->dim[4] ? dtype : acc, n, KT_IN, .scale = 4.0, .cols = c->dim[2],
                    .valid = c->dim[1], .varied = true},
                   {"targets", LS_I32, c->dim[0], KT_IN, KT_TARGETS, .range = c->dim[1]},
                   {"losses", acc, c->dim[0], KT_OUT},
                   {"dlogits", dtype, c->dim[3] ? n : 0, KT_OUT, .on = "logits"});
}

static ls_status run_cross_entropy(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                   void *const *at) {
    return dev->ops->cross_entropy(dev, &(ls_cross_entropy){.dtype = dtype,
                                                            .narrow = c->dim[4] != 0,
                                                            .rows = c->dim[0],
                                                            .vocab = c->dim[1],
                                                            .ld = c->dim[2],
                                                            .logits = at[0],
                                                            .targets = at[1],
                                                            .losses = at[2],
                                                            .dlogits = c->dim[3] ? at[3] : NULL,
                                                            .grad_scale = 0.125});
}

const kt_op kt_cross_entropy = {"cross_entropy",    {1e-6, 2e-6},
                                BF16_ROUNDED,       "fp32 exp, sums in fp32 within a block",
                                plan_cross_entropy, run_cross_entropy};

/* add, cast, sum: dim = n; sum_squares: dim = n, first */
static int plan_add(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                    kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)acc;
    return KT_PLAN({"x", dtype, c->dim[0], KT_IN, .varied = true},
                   {"y", dtype, c->dim[0], KT_INOUT});
}

static ls_status run_add(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return dev->ops->add(dev, dtype, c->dim[0], at[0], at[1]);
}

const kt_op kt_add = {"add", {6e-8, 6e-8}, BF16_ROUNDED, "one rounding", plan_add, run_add};

static int plan_cast(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                     kt_buffer buffers[KT_BUFFERS_MAX]) {
    return KT_PLAN({"x", acc, c->dim[0], KT_IN, .varied = true}, {"y", dtype, c->dim[0], KT_OUT});
}

static ls_status run_cast(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return dev->ops->cast(dev, dtype, c->dim[0], at[0], at[1]);
}

const kt_op kt_cast = {"cast", {0.0, 0.0}, BF16_ROUNDED, "one rounding", plan_cast, run_cast};

static int plan_widen(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                      kt_buffer buffers[KT_BUFFERS_MAX]) {
    return KT_PLAN({"x", dtype, c->dim[0], KT_IN, .varied = true}, {"y", acc, c->dim[0], KT_OUT});
}

static ls_status run_widen(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return dev->ops->widen(dev, dtype, c->dim[0], at[0], at[1]);
}

const kt_op kt_widen = {"widen", {0.0, 0.0}, {0.0, 0.0}, "exact", plan_widen, run_widen};

static int plan_sum(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                    kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)dtype;
    return KT_PLAN({"x", acc, c->dim[0], KT_IN, .varied = true}, {"sum", LS_F64, 1, KT_OUT});
}

static ls_status run_sum(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    (void)dtype;
    return dev->ops->sum(dev, c->dim[0], at[0], at[1]);
}

static int plan_sum_squares(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                            kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)dtype;
    return KT_PLAN({"x", acc, c->dim[0], KT_IN, .varied = true},
                   {"sums", LS_F64, ls_squares_count(c->dim[1], c->dim[0]), KT_OUT});
}

static ls_status run_sum_squares(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                 void *const *at) {
    (void)dtype;
    size_t count = (size_t)ls_squares_count(c->dim[1], c->dim[0]);
    double *sums = calloc(count + 1, sizeof *sums);
    ls_status status = dev->ops->sum_squares(dev, c->dim[1], c->dim[0], at[0], sums);
    if (status == LS_OK) {
        status = dev->ops->upload(dev, at[1], sums, count * sizeof *sums);
    }
    free(sums);
    return status;
}

const kt_op kt_sum = {"sum",    {1e-11, 1e-11}, {0.0, 0.0}, "double sums with cancellation",
                      plan_sum, run_sum};
const kt_op kt_sum_squares = {"sum_squares",    {1e-13, 1e-13},
                              {0.0, 0.0},       "double sums of one sign",
                              plan_sum_squares, run_sum_squares};
