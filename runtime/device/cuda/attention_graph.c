/* The graphs of attention. B batch, H query heads, G key/value heads, S query rows, T keys, D. */
#include "runtime/device/cuda/attention_graph.h"

#include <float.h>
#include <math.h>

#define BF16 CUDNN_DATA_BFLOAT16
#define F32  CUDNN_DATA_FLOAT
#define I32  CUDNN_DATA_INT32
#define NONE LS_CUDNN_NONE

ls_attention_key ls_attention_key_of(const ls_attention *op, bool backward) {
    return (ls_attention_key){.backward = backward,
                              .full = op->full,
                              .batch = op->batch,
                              .q_len = op->q_len,
                              .kv_len = op->kv_len,
                              .heads = op->heads,
                              .kv_heads = op->kv_heads,
                              .head_dim = op->head_dim,
                              .q_stride = op->q_stride,
                              .kv_stride = op->kv_stride,
                              .o_stride = op->o_stride,
                              .q_batch = op->q_batch,
                              .kv_batch = op->kv_batch,
                              .o_batch = op->o_batch ? op->o_batch : op->q_len * op->o_stride,
                              .lse_row = op->lse_row ? op->lse_row : op->q_len};
}

ls_attention_key ls_attention_key_fused(bool backward, int64_t batch, int64_t len, int64_t heads,
                                        int64_t kv_heads, int64_t head_dim) {
    const int64_t width = (heads + 2 * kv_heads) * head_dim;
    const ls_attention op = {.batch = batch,
                             .q_len = len,
                             .kv_len = len,
                             .heads = heads,
                             .kv_heads = kv_heads,
                             .head_dim = head_dim,
                             .q_stride = width,
                             .kv_stride = width,
                             .o_stride = heads * head_dim,
                             .q_batch = len * width,
                             .kv_batch = len * width};
    return ls_attention_key_of(&op, backward);
}

static ls_cudnn_shape rows_of(const ls_attention_key *key, int64_t batch, int64_t stride) {
    return (ls_cudnn_shape){{key->batch, key->heads, key->q_len, key->head_dim},
                            {batch, key->head_dim, stride, 1}};
}

static ls_cudnn_shape keys_of(const ls_attention_key *key) {
    return (ls_cudnn_shape){{key->batch, key->kv_heads, key->kv_len, key->head_dim},
                            {key->kv_batch, key->head_dim, key->kv_stride, 1}};
}

static ls_cudnn_shape turned(ls_cudnn_shape shape) {
    return (ls_cudnn_shape){{shape.dim[0], shape.dim[1], shape.dim[3], shape.dim[2]},
                            {shape.stride[0], shape.stride[1], shape.stride[3], shape.stride[2]}};
}

static ls_cudnn_shape lse_of(const ls_attention_key *key) {
    return (ls_cudnn_shape){{key->batch, key->heads, key->q_len, 1},
                            {key->heads * key->lse_row, key->lse_row, 1, 1}};
}

/* A virtual tensor y = mode(x, b, t) of the shape of x. */
static ls_cudnn_tensor point(ls_cudnn_graph *g, cudnnPointwiseMode_t mode, cudnnDataType_t math,
                             cudnnDataType_t type, ls_cudnn_tensor x, ls_cudnn_tensor b,
                             ls_cudnn_tensor t, int64_t axis) {
    const ls_cudnn_tensor y = ls_cudnn_virtual(g, type, &g->shape[x]);
    ls_cudnn_add_pointwise(g, &(ls_cudnn_pointwise){mode, math, x, b, t, y, axis});
    return y;
}

/* Scores of keys that a row does not see become -infinity: row + kv_len - q_len >= column is seen.
 */
static ls_cudnn_tensor mask(ls_attention_graph *a, const ls_attention_key *key, ls_cudnn_tensor s) {
    ls_cudnn_graph *g = &a->graph;
    if (key->full) {
        return s;
    }
    a->least = ls_cudnn_value(g, F32);
    ls_cudnn_tensor row = point(g, CUDNN_POINTWISE_GEN_INDEX, F32, I32, s, NONE, NONE, 2);
    const ls_cudnn_tensor col = point(g, CUDNN_POINTWISE_GEN_INDEX, F32, I32, s, NONE, NONE, 3);
    if (key->kv_len != key->q_len) {
        a->kv_len = ls_cudnn_value(g, I32);
        a->q_len = ls_cudnn_value(g, I32);
        row = point(g, CUDNN_POINTWISE_ADD, I32, I32, row, a->kv_len, NONE, -1);
        row = point(g, CUDNN_POINTWISE_SUB, I32, I32, row, a->q_len, NONE, -1);
    }
    const ls_cudnn_tensor seen = point(g, CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN,
                                       CUDNN_DATA_BOOLEAN, row, col, NONE, -1);
    return point(g, CUDNN_POINTWISE_BINARY_SELECT, F32, F32, s, a->least, seen, -1);
}

/* scale q k^T [B,H,S,T] */
static ls_cudnn_tensor scores(ls_attention_graph *a, const ls_attention_key *key) {
    ls_cudnn_graph *g = &a->graph;
    const ls_cudnn_shape shape = ls_cudnn_packed(key->batch, key->heads, key->q_len, key->kv_len);
    const ls_cudnn_tensor s = ls_cudnn_virtual(g, F32, &shape);
    ls_cudnn_add_matmul(g, a->q, a->k, s);
    return ls_cudnn_map(g, CUDNN_POINTWISE_MUL, s, a->scale);
}

static void make_forward(ls_attention_graph *a, const ls_attention_key *key) {
    ls_cudnn_graph *g = &a->graph;
    const ls_cudnn_shape column = ls_cudnn_packed(key->batch, key->heads, key->q_len, 1);
    const ls_cudnn_tensor s = mask(a, key, scores(a, key));
    const ls_cudnn_tensor most = ls_cudnn_virtual(g, F32, &column);
    const ls_cudnn_tensor sum = ls_cudnn_virtual(g, F32, &column);
    ls_cudnn_add_reduction(g, CUDNN_REDUCE_TENSOR_MAX, s, most);
    const ls_cudnn_tensor e =
        ls_cudnn_map(g, CUDNN_POINTWISE_EXP, ls_cudnn_map(g, CUDNN_POINTWISE_SUB, s, most), NONE);
    ls_cudnn_add_reduction(g, CUDNN_REDUCE_TENSOR_ADD, e, sum);
    const ls_cudnn_tensor log = ls_cudnn_map(g, CUDNN_POINTWISE_LOG, sum, NONE);
    ls_cudnn_add_pointwise(
        g, &(ls_cudnn_pointwise){CUDNN_POINTWISE_ADD, F32, most, log, NONE, a->lse, -1});
    const ls_cudnn_tensor p = point(g, CUDNN_POINTWISE_DIV, F32, BF16, e, sum, NONE, -1);
    ls_cudnn_add_matmul(g, p, a->v, a->out);
}

/* x^T, rounded to bf16, times b: the gradient of keys or values, summed over the query heads of
 * each of their heads. */
static void head_gradient(ls_cudnn_graph *g, const ls_attention_key *key, ls_cudnn_tensor x,
                          ls_cudnn_tensor b, ls_cudnn_tensor gradient) {
    const ls_cudnn_shape shape =
        turned(ls_cudnn_packed(key->batch, key->heads, key->q_len, key->kv_len));
    const ls_cudnn_tensor t = ls_cudnn_virtual(g, BF16, &shape);
    ls_cudnn_add_reshape(g, x, t);
    if (key->heads == key->kv_heads) {
        ls_cudnn_add_matmul(g, t, b, gradient);
        return;
    }
    const ls_cudnn_shape whole =
        ls_cudnn_packed(key->batch, key->heads, key->kv_len, key->head_dim);
    const ls_cudnn_tensor all = ls_cudnn_virtual(g, BF16, &whole);
    ls_cudnn_add_matmul(g, t, b, all);
    ls_cudnn_add_reduction(g, CUDNN_REDUCE_TENSOR_ADD, all, gradient);
}

/* delta = rows' sums of dout out [B,H,S,1], which cuDNN wants in memory. */
static void make_delta(ls_attention_graph *a, const ls_attention_key *key) {
    ls_cudnn_graph *g = &a->graph;
    const ls_cudnn_shape column = ls_cudnn_packed(key->batch, key->heads, key->q_len, 1);
    const ls_cudnn_shape rows = ls_cudnn_packed(key->batch, key->heads, key->q_len, key->head_dim);
    const ls_cudnn_tensor products = ls_cudnn_virtual(g, F32, &rows);
    const ls_cudnn_tensor sums = ls_cudnn_virtual(g, F32, &column);
    a->delta = ls_cudnn_memory(g, F32, &column);
    a->one = ls_cudnn_value(g, F32);
    ls_cudnn_add_pointwise(
        g, &(ls_cudnn_pointwise){CUDNN_POINTWISE_MUL, F32, a->dout, a->out, NONE, products, -1});
    ls_cudnn_add_reduction(g, CUDNN_REDUCE_TENSOR_ADD, products, sums);
    ls_cudnn_add_pointwise(
        g, &(ls_cudnn_pointwise){CUDNN_POINTWISE_MUL, F32, sums, a->one, NONE, a->delta, -1});
}

static void make_backward(ls_attention_graph *a, const ls_attention_key *key) {
    ls_cudnn_graph *g = &a->graph;
    const ls_cudnn_shape keys = keys_of(key), rows = rows_of(key, key->q_batch, key->q_stride);
    const ls_cudnn_shape out_rows = rows_of(key, key->o_batch, key->o_stride);
    a->dout = ls_cudnn_memory(g, BF16, &out_rows);
    a->dq = ls_cudnn_memory(g, BF16, &rows);
    a->dk = ls_cudnn_memory(g, BF16, &keys);
    a->dv = ls_cudnn_memory(g, BF16, &keys);
    make_delta(a, key);
    const ls_cudnn_tensor s =
        mask(a, key, ls_cudnn_map(g, CUDNN_POINTWISE_SUB, scores(a, key), a->lse));
    const ls_cudnn_tensor p = ls_cudnn_map(g, CUDNN_POINTWISE_EXP, s, NONE);
    head_gradient(g, key, p, a->dout, a->dv);
    ls_cudnn_tensor ds = ls_cudnn_virtual(g, F32, &g->shape[p]);
    ls_cudnn_add_matmul(g, a->dout, a->v, ds);
    ds = ls_cudnn_map(g, CUDNN_POINTWISE_SUB, ds, a->delta);
    ds = ls_cudnn_map(g, CUDNN_POINTWISE_MUL, ds, p);
    ds = ls_cudnn_map(g, CUDNN_POINTWISE_MUL, ds, a->scale);
    head_gradient(g, key, ds, a->q, a->dk);
    const ls_cudnn_tensor k = ls_cudnn_virtual(g, BF16, &keys);
    ls_cudnn_add_reshape(g, a->k, k);
    ls_cudnn_add_matmul(g, ds, k, a->dq);
}

ls_status ls_attention_graph_make(ls_attention_graph *a, const ls_attention_key *key,
                                  const ls_cudnn *calls, cudnnHandle_t handle,
                                  cudnnBackendDescriptor_t device) {
    ls_cudnn_graph *g = &a->graph;
    const ls_cudnn_shape keys = keys_of(key), keys_turned = turned(keys), lse = lse_of(key);
    const ls_cudnn_shape rows = rows_of(key, key->q_batch, key->q_stride);
    const ls_cudnn_shape out_rows = rows_of(key, key->o_batch, key->o_stride);
    ls_cudnn_graph_init(g, calls, handle, device);
    a->least = a->q_len = a->kv_len = NONE;
    /* cuDNN below 9.10 takes the least finite number for what is masked. */
    a->least_value = calls->version() < 91000 ? -FLT_MAX : -INFINITY;
    a->q_len_value = (int32_t)key->q_len;
    a->kv_len_value = (int32_t)key->kv_len;
    a->q = ls_cudnn_memory(g, BF16, &rows);
    a->k = ls_cudnn_memory(g, BF16, &keys_turned);
    a->v = ls_cudnn_memory(g, BF16, key->backward ? &keys_turned : &keys);
    a->out = ls_cudnn_memory(g, BF16, &out_rows);
    a->lse = ls_cudnn_memory(g, F32, &lse);
    a->scale = ls_cudnn_value(g, F32);
    if (key->backward) {
        make_backward(a, key);
    } else {
        make_forward(a, key);
    }
    return ls_cudnn_graph_plan(g, key->backward ? "attention backward" : "attention forward");
}

ls_status ls_attention_graph_run(const ls_attention_graph *a, const ls_attention *op, void *delta,
                                 void *workspace) {
    const float scale = (float)op->scale, one = 1.0f;
    ls_cudnn_pointer at[LS_CUDNN_POINTERS_MAX] = {
        {a->q, op->q},     {a->k, op->k},     {a->v, op->v},
        {a->out, op->out}, {a->lse, op->lse}, {a->scale, &scale},
    };
    int count = 6;
    if (a->least != NONE) {
        at[count++] = (ls_cudnn_pointer){a->least, &a->least_value};
    }
    if (a->q_len != NONE) {
        at[count++] = (ls_cudnn_pointer){a->q_len, &a->q_len_value};
        at[count++] = (ls_cudnn_pointer){a->kv_len, &a->kv_len_value};
    }
    if (delta) {
        at[count++] = (ls_cudnn_pointer){a->dout, op->dout};
        at[count++] = (ls_cudnn_pointer){a->delta, delta};
        at[count++] = (ls_cudnn_pointer){a->one, &one};
        at[count++] = (ls_cudnn_pointer){a->dq, op->dq};
        at[count++] = (ls_cudnn_pointer){a->dk, op->dk};
        at[count++] = (ls_cudnn_pointer){a->dv, op->dv};
    }
    return ls_cudnn_graph_run(&a->graph, at, count, workspace);
}
