/* Attention as graphs of cuDNN's operations, which its fused engines recognise: the nodes and their
 * order are those of NVIDIA's cudnn-frontend (composite attention), which documents what is taken.
 */
#ifndef LS_DEVICE_CUDA_ATTENTION_GRAPH_H
#define LS_DEVICE_CUDA_ATTENTION_GRAPH_H

#include "runtime/device/cuda/cudnn_graph.h"
#include "runtime/device/device.h"

/* What decides the graph. All members are 64 bits wide: no padding, so memcmp compares. */
typedef struct ls_attention_key {
    int64_t backward, full;
    int64_t batch, q_len, kv_len, heads, kv_heads, head_dim;
    int64_t q_stride, kv_stride, o_stride, q_batch, kv_batch, o_batch, lse_row;
} ls_attention_key;

typedef struct ls_attention_graph {
    ls_cudnn_graph graph;
    ls_cudnn_tensor q, k, v, out, lse, scale;
    ls_cudnn_tensor least, q_len, kv_len; /* of the mask; LS_CUDNN_NONE without it */
    ls_cudnn_tensor dout, delta, one, dq, dk, dv;
    float least_value;
    int32_t q_len_value, kv_len_value;
} ls_attention_graph;

/* bf16 operands and results, fp32 lse. Backward: the operations' form whose sums have one order,
 * with dq made by a product instead of by additions in memory. */
ls_attention_key ls_attention_key_of(const ls_attention *op, bool backward);
/* Of sequences of len tokens whose q, k and v lie in one matrix, causal. */
ls_attention_key ls_attention_key_fused(bool backward, int64_t batch, int64_t len, int64_t heads,
                                        int64_t kv_heads, int64_t head_dim);
/* Describes and plans; to be released by ls_cudnn_graph_release(&a->graph), also after a failure.
 * LS_E_UNSUPPORTED: cuDNN does not serve this shape on this GPU. */
ls_status ls_attention_graph_make(ls_attention_graph *a, const ls_attention_key *key,
                                  const ls_cudnn *calls, cudnnHandle_t handle,
                                  cudnnBackendDescriptor_t device);
/* delta: fp32 [batch, heads, q_len], of backward. */
ls_status ls_attention_graph_run(const ls_attention_graph *a, const ls_attention *op, void *delta,
                                 void *workspace);

#endif
