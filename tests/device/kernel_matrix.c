/* Products and attention, as cases for any device. */
#include "tests/device/kernel_ops.h"

#include "runtime/base/arena.h"

#include <math.h>
#include <stdlib.h>

/* gemm: dim = m, n, k, flags, elements between rows beyond their length */
enum { TRANS_A = 1, TRANS_B = 2, ACCUMULATE = 4, BIAS = 8, RESIDUAL = 16, C_ACC = 32 };
enum { RESIDUAL_IS_C = 128 };

static int64_t gemm_ld(int64_t cols, const kt_case *c) {
    return cols + c->dim[4];
}

static int64_t gemm_ldc(const kt_case *c) {
    return c->dim[1] + (c->op->aligned ? 16 : 1) * c->dim[4];
}

static int plan_gemm(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                     kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t m = c->dim[0], n = c->dim[1], k = c->dim[2], flags = c->dim[3];
    const int64_t ta = flags & TRANS_A, tb = flags & TRANS_B;
    const int64_t lda = gemm_ld(ta ? m : k, c), ldb = gemm_ld(tb ? k : n, c), ldc = gemm_ldc(c);
    const ls_dtype out = flags & C_ACC ? acc : dtype;
    /* The columns beyond n belong to nobody: C is changed in place, so that they are compared. */
    return KT_PLAN(
        {"a", dtype, (ta ? k : m) * lda, KT_IN, .varied = true},
        {"b", dtype, (tb ? n : k) * ldb, KT_IN}, {"bias", acc, flags & BIAS ? n : 0, KT_IN},
        {"residual", out, flags & RESIDUAL ? m * ldc : 0, KT_IN}, {"c", out, m * ldc, KT_INOUT});
}

static ls_status multiply(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at,
                          ls_fp8_use fp8) {
    const int64_t m = c->dim[0], n = c->dim[1], k = c->dim[2], flags = c->dim[3];
    return dev->ops->gemm(dev, &(ls_gemm){.dtype = dtype,
                                          .c_dtype = flags & C_ACC ? dev->acc : dtype,
                                          .trans_a = flags & TRANS_A,
                                          .trans_b = flags & TRANS_B,
                                          .accumulate = flags & ACCUMULATE,
                                          .m = m,
                                          .n = n,
                                          .k = k,
                                          .a = at[0],
                                          .lda = gemm_ld(flags & TRANS_A ? m : k, c),
                                          .b = at[1],
                                          .ldb = gemm_ld(flags & TRANS_B ? k : n, c),
                                          .c = at[4],
                                          .ldc = gemm_ldc(c),
                                          .bias = flags & BIAS ? at[2] : NULL,
                                          .residual = flags & RESIDUAL        ? at[3]
                                                      : flags & RESIDUAL_IS_C ? at[4]
                                                                              : NULL,
                                          .fp8 = fp8});
}

static ls_status run_gemm(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return multiply(dev, c, dtype, at, LS_FP8_NONE);
}

const kt_op kt_gemm = {
    "gemm",       {3e-6, 5e-6},
    {5e-3, 6e-3}, "fp32 sums over k; a bias or an intermediate C rounded to bf16",
    plan_gemm,    run_gemm,
    true};

/* gemm with an activation: dim = m, n, k, flags (of BIAS: with one, or backward with its gradient).
 * Forward by x W^T, backward by dy W, as a layer's products are. */
static int plan_gemm_gelu(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                          kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t m = c->dim[0], n = c->dim[1], k = c->dim[2];
    return KT_PLAN({"a", dtype, m * k, KT_IN, .varied = true}, {"b", dtype, n * k, KT_IN},
                   {"bias", acc, c->dim[3] & BIAS ? n : 0, KT_IN}, {"pre", dtype, m * n, KT_OUT},
                   {"c", dtype, m * n, KT_OUT});
}

static ls_gemm gemm_act(const kt_case *c, ls_dtype dtype, void *const *at, ls_act act) {
    const int64_t m = c->dim[0], n = c->dim[1], k = c->dim[2];
    return (ls_gemm){.dtype = dtype,
                     .c_dtype = dtype,
                     .trans_b = act == LS_ACT_GELU,
                     .m = m,
                     .n = n,
                     .k = k,
                     .a = at[0],
                     .lda = k,
                     .b = at[1],
                     .ldb = act == LS_ACT_GELU ? k : n,
                     .c = at[4],
                     .ldc = n,
                     .act = act,
                     .pre = at[3]};
}

static ls_status run_gemm_gelu(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    ls_gemm op = gemm_act(c, dtype, at, LS_ACT_GELU);
    op.bias = c->dim[3] & BIAS ? at[2] : NULL;
    return dev->ops->gemm(dev, &op);
}

static int plan_gemm_gelu_grad(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                               kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t m = c->dim[0], n = c->dim[1], k = c->dim[2];
    /* The sums of a column may be rounded to dtype, and cancel. */
    return KT_PLAN({"a", dtype, m * k, KT_IN, .varied = true}, {"b", dtype, n * k, KT_IN},
                   {"dbias", acc, c->dim[3] & BIAS ? n : 0, KT_INOUT,
                    .slack = dtype == LS_BF16 ? 2000.0 : 4.0},
                   {"pre", dtype, m * n, KT_IN}, {"c", dtype, m * n, KT_OUT});
}

static ls_status run_gemm_gelu_grad(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                    void *const *at) {
    ls_gemm op = gemm_act(c, dtype, at, LS_ACT_GELU_GRAD);
    op.dbias = c->dim[3] & BIAS ? at[2] : NULL;
    return dev->ops->gemm(dev, &op);
}

/* gemm in fp8: the dims and flags of gemm, and GRAD_A. */
enum { GRAD_A = 64 };

static ls_status run_gemm_fp8(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return multiply(dev, c, dtype, at, c->dim[3] & GRAD_A ? LS_FP8_GRAD_A : LS_FP8_VALUES);
}

const kt_op kt_gemm_gelu = {"gemm_gelu",
                            {3e-6, 5e-6},
                            {7e-3, 8e-3},
                            "as gemm; the sum before the activation may be rounded to bf16",
                            plan_gemm_gelu,
                            run_gemm_gelu,
                            true};
const kt_op kt_gemm_gelu_grad = {
    "gemm_gelu_grad",
    {3e-6, 5e-6},
    {7e-3, 8e-3},
    "as gemm; the product may be rounded to bf16 before it is multiplied",
    plan_gemm_gelu_grad,
    run_gemm_gelu_grad,
    true};
const kt_op kt_gemm_fp8 = {
    "gemm_fp8", {3e-6, 5e-6}, {5e-3, 6e-3}, "as gemm: operands are rounded to 8 bits alike",
    plan_gemm,  run_gemm_fp8, true,         true};

/* attention: dim = batch, query length, key length, heads, key/value heads, D, gap, length of a
 * document (0: no documents), full. Keys and values are two parts of one matrix; `gap` elements end
 * every row. `starts`: of each row first_key; then the same for each of the four chunks of keys. */
typedef struct attention_sizes {
    int64_t q_stride, kv_stride, o_stride, q, kv, o, lse, starts;
} attention_sizes;

static attention_sizes sizes_of(const kt_case *c) {
    const int64_t *d = c->dim, q_width = d[3] * d[5], kv_width = d[4] * d[5];
    attention_sizes s = {.q_stride = q_width + d[6],
                         .kv_stride = 2 * kv_width + d[6],
                         .o_stride = q_width + d[6],
                         .lse = d[0] * d[3] * d[1],
                         .starts = d[7] > 0 ? 5 * d[0] * d[1] : 0};
    s.q = d[0] * d[1] * s.q_stride;
    s.kv = d[0] * d[2] * s.kv_stride;
    s.o = d[0] * d[1] * s.o_stride;
    return s;
}

typedef struct chunks_of_keys {
    int64_t at[5];
} chunks_of_keys;

static chunks_of_keys chunks_of(const kt_case *c) {
    const int64_t n = c->dim[2];
    return (chunks_of_keys){{0, n / 4, n / 4 + 1, n / 2 + 1, n}};
}

/* Documents of the length and a little more or less; of operations in which rows see all keys, the
 * last rows see none. */
static ls_status put_starts(ls_device *dev, const kt_case *c, int32_t *to) {
    const int64_t n = c->dim[0] * c->dim[1], keys = c->dim[2];
    const chunks_of_keys chunks = chunks_of(c);
    int32_t *starts;
    LS_TRY(ls_calloc((size_t)(5 * n) + 1, sizeof *starts, &starts));
    int64_t begin = 0, length = c->dim[7];
    for (int64_t i = 0; i < n; i++) {
        const int64_t t = i % c->dim[1];
        if (t == 0 || t - begin >= length) {
            begin = t;
            length = c->dim[7] - 1 + (i * 7 + i / c->dim[1]) % 4;
        }
        const bool none = c->dim[8] && t >= c->dim[1] * 3 / 4;
        starts[i] = (int32_t)(none ? keys : begin);
        for (int k = 0; k < 4; k++) {
            const int64_t before = starts[i] - chunks.at[k];
            const int64_t most = chunks.at[k + 1] - chunks.at[k];
            starts[(k + 1) * n + i] = (int32_t)(before < 0 ? 0 : before < most ? before : most);
        }
    }
    const ls_status status = dev->ops->upload(dev, to, starts, (size_t)(5 * n) * sizeof *starts);
    free(starts);
    return status;
}

static ls_attention attention_op(const kt_case *c, ls_dtype dtype, const void *q, const void *kv,
                                 const int32_t *starts) {
    const attention_sizes s = sizes_of(c);
    const int64_t *d = c->dim;
    return (ls_attention){.first_key = d[7] > 0 ? starts : NULL,
                          .full = d[8] != 0,
                          .dtype = dtype,
                          .batch = d[0],
                          .q_len = d[1],
                          .kv_len = d[2],
                          .heads = d[3],
                          .kv_heads = d[4],
                          .head_dim = d[5],
                          .scale = 1.0 / sqrt((double)d[5]),
                          .q = q,
                          .k = kv,
                          .v = (const char *)kv + (size_t)(d[4] * d[5]) * ls_dtype_bytes(dtype),
                          .q_stride = s.q_stride,
                          .kv_stride = s.kv_stride,
                          .q_batch = d[1] * s.q_stride,
                          .kv_batch = d[2] * s.kv_stride,
                          .o_stride = s.o_stride};
}

static int plan_attention_forward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                                  kt_buffer buffers[KT_BUFFERS_MAX]) {
    const attention_sizes s = sizes_of(c);
    return KT_PLAN({"q", dtype, s.q, KT_IN, .varied = true}, {"kv", dtype, s.kv, KT_IN},
                   {"out", dtype, s.o, KT_INOUT}, {"lse", acc, s.lse, KT_OUT},
                   {"starts", LS_I32, s.starts, KT_INOUT, KT_TOKENS, .range = 1});
}

static ls_status run_attention_forward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                       void *const *at) {
    LS_TRY(c->dim[7] > 0 ? put_starts(dev, c, at[4]) : LS_OK);
    ls_attention op = attention_op(c, dtype, at[0], at[1], at[4]);
    op.out = at[2];
    op.lse = at[3];
    return dev->ops->attention_forward(dev, &op);
}

/* Runs forward first: backward reads what it left. */
static int plan_attention_backward(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                                   kt_buffer buffers[KT_BUFFERS_MAX]) {
    const attention_sizes s = sizes_of(c);
    return KT_PLAN({"q", dtype, s.q, KT_IN, .varied = true}, {"kv", dtype, s.kv, KT_IN},
                   {"dout", dtype, s.o, KT_IN}, {"out", dtype, s.o, KT_INOUT},
                   {"lse", acc, s.lse, KT_OUT}, {"dq", dtype, s.q, KT_INOUT},
                   {"dkv", dtype, s.kv, KT_INOUT},
                   {"starts", LS_I32, s.starts, KT_INOUT, KT_TOKENS, .range = 1});
}

static ls_status run_attention_backward(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                        void *const *at) {
    LS_TRY(c->dim[7] > 0 ? put_starts(dev, c, at[7]) : LS_OK);
    ls_attention op = attention_op(c, dtype, at[0], at[1], at[7]);
    op.out = at[3];
    op.lse = at[4];
    LS_TRY(dev->ops->attention_forward(dev, &op));
    op.dout = at[2];
    op.dq = at[5];
    op.dk = at[6];
    op.dv = (char *)at[6] + (size_t)(c->dim[4] * c->dim[5]) * ls_dtype_bytes(dtype);
    return dev->ops->attention_backward(dev, &op);
}

/* Rows by rows and keys of four chunks, as ring attention has them; the reference does the whole at
 * once. dim[1] is dim[2], 8 at least. Gradients are added to what is there. */
static ls_status run_attention_chunks(ls_device *dev, const kt_case *c, ls_attention whole,
                                      bool backward) {
    const int64_t n = c->dim[1];
    const chunks_of_keys chunks = chunks_of(c);
    const int64_t *cut = chunks.at;
    const int64_t elem = (int64_t)ls_dtype_bytes(whole.dtype);
    for (int a = 0; a < 4; a++) {
        for (int b = a; b >= 0; b--) {
            const int64_t q = cut[a] * whole.q_stride * elem, o = cut[a] * whole.o_stride * elem;
            const int64_t kv = cut[b] * whole.kv_stride * elem;
            ls_attention op = whole;
            op.q_len = cut[a + 1] - cut[a];
            op.kv_len = cut[b + 1] - cut[b];
            op.full = b < a;
            op.merge = !backward && b < a;
            op.add = backward;
            op.o_batch = n * whole.o_stride;
            op.lse_row = n;
            op.first_key_batch = n;
            op.first_key =
                whole.first_key ? whole.first_key + (b + 1) * c->dim[0] * n + cut[a] : NULL;
            op.q = (const char *)whole.q + q;
            op.k = (const char *)whole.k + kv;
            op.v = (const char *)whole.v + kv;
            op.out = (char *)whole.out + o;
            op.lse = (char *)whole.lse + cut[a] * (int64_t)ls_dtype_bytes(dev->acc);
            op.dout = (const char *)whole.dout + o;
            op.dq = (char *)whole.dq + q;
            op.dk = (char *)whole.dk + kv;
            op.dv = (char *)whole.dv + kv;
            LS_TRY(backward ? dev->ops->attention_backward(dev, &op)
                            : dev->ops->attention_forward(dev, &op));
        }
    }
    return LS_OK;
}

static ls_status run_attention_parts(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                     void *const *at) {
    LS_TRY(c->dim[7] > 0 ? put_starts(dev, c, at[7]) : LS_OK);
    ls_attention op = attention_op(c, dtype, at[0], at[1], at[7]);
    op.out = at[3];
    op.lse = at[4];
    op.dout = at[2];
    op.dq = at[5];
    op.dk = at[6];
    op.dv = (char *)at[6] + (size_t)(c->dim[4] * c->dim[5]) * ls_dtype_bytes(dtype);
    if (dev->acc != LS_F64) {
        LS_TRY(run_attention_chunks(dev, c, op, false));
        return run_attention_chunks(dev, c, op, true);
    }
    LS_TRY(dev->ops->attention_forward(dev, &op));
    op.add = true;
    return dev->ops->attention_backward(dev, &op);
}

const kt_op kt_attention_parts = {
    "attention_parts",       {4e-6, 8e-6},
    {1.5e-2, 2e-2},          "as whole; out and gradients are rounded once a part",
    plan_attention_backward, run_attention_parts};
const kt_op kt_attention_forward = {
    "attention_forward",    {2e-6, 4e-6},
    {6e-3, 8e-3},           "fp32 sums over keys; probabilities may be rounded to bf16",
    plan_attention_forward, run_attention_forward};
const kt_op kt_attention_backward = {
    "attention_backward",    {4e-6, 8e-6},
    {1e-2, 1.2e-2},          "fp32 sums over tokens; out, p and ds may be rounded to bf16",
    plan_attention_backward, run_attention_backward};
