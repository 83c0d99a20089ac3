/* cuDNN's graph API from C: a graph of operations, made node by node, and the plan that runs it.
 *
 * The library is opened when it is first wanted (cudnn_load.c), so that a program built with
 * cuDNN's headers runs where cuDNN is not. Tensors have four dimensions, batch, heads, rows and
 * columns; a dimension of 1 is repeated where operands meet, and so are heads, in groups, in
 * products.
 *
 * A graph remembers the first failure: what is added after it does nothing, and ls_cudnn_graph_plan
 * reports it. */
#ifndef LS_DEVICE_CUDA_CUDNN_GRAPH_H
#define LS_DEVICE_CUDA_CUDNN_GRAPH_H

#include "runtime/base/status.h"

#include <cudnn.h>
#include <stdbool.h>

/* X(member, symbol, result, parameters) */
#define LS_CUDNN_CALLS(X)                                                                          \
    X(version, "cudnnGetVersion", size_t, (void))                                                  \
    X(error_text, "cudnnGetErrorString", const char *, (cudnnStatus_t))                            \
    X(last_error, "cudnnGetLastErrorString", void, (char *, size_t))                               \
    X(start, "cudnnCreate", cudnnStatus_t, (cudnnHandle_t *))                                      \
    X(end, "cudnnDestroy", cudnnStatus_t, (cudnnHandle_t))                                         \
    X(set_stream, "cudnnSetStream", cudnnStatus_t, (cudnnHandle_t, cudaStream_t))                  \
    X(create, "cudnnBackendCreateDescriptor", cudnnStatus_t,                                       \
      (cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t *))                                  \
    X(destroy, "cudnnBackendDestroyDescriptor", cudnnStatus_t, (cudnnBackendDescriptor_t))         \
    X(set, "cudnnBackendSetAttribute", cudnnStatus_t,                                              \
      (cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t,         \
       int64_t, const void *))                                                                     \
    X(get, "cudnnBackendGetAttribute", cudnnStatus_t,                                              \
      (cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t,         \
       int64_t, int64_t *, void *))                                                                \
    X(finalize, "cudnnBackendFinalize", cudnnStatus_t, (cudnnBackendDescriptor_t))                 \
    X(execute, "cudnnBackendExecute", cudnnStatus_t,                                               \
      (cudnnHandle_t, cudnnBackendDescriptor_t, cudnnBackendDescriptor_t))

typedef struct ls_cudnn {
#define X(member, symbol, result, parameters) result(*member) parameters;
    LS_CUDNN_CALLS(X)
#undef X
} ls_cudnn;

/* Once a process. LS_E_UNSUPPORTED: there is no cuDNN of version 9 here; the message says why. */
ls_status ls_cudnn_load(const ls_cudnn **calls);

enum {
    LS_CUDNN_DIMS = 4,
    LS_CUDNN_NODES_MAX = 64,    /* operations, and tensors, of a graph */
    LS_CUDNN_POINTERS_MAX = 16, /* tensors in memory */
};

typedef struct ls_cudnn_shape {
    int64_t dim[LS_CUDNN_DIMS], stride[LS_CUDNN_DIMS]; /* elements */
} ls_cudnn_shape;

/* A tensor of a graph; its unique id is what it is plus one. */
typedef int ls_cudnn_tensor;
#define LS_CUDNN_NONE (-1)

typedef struct ls_cudnn_graph {
    const ls_cudnn *calls;
    cudnnHandle_t handle;            /* NULL: planned for `device`, without a GPU */
    cudnnBackendDescriptor_t device; /* of type DEVICEPROP; NULL with a handle */
    cudnnBackendDescriptor_t made[4 * LS_CUDNN_NODES_MAX];
    int made_count;
    cudnnBackendDescriptor_t tensor[LS_CUDNN_NODES_MAX], op[LS_CUDNN_NODES_MAX];
    cudnnDataType_t type[LS_CUDNN_NODES_MAX];
    ls_cudnn_shape shape[LS_CUDNN_NODES_MAX];
    int tensor_count, op_count;
    cudnnBackendDescriptor_t plan; /* NULL: none yet */
    int64_t workspace_bytes;
    int64_t engine; /* of the plan */
    ls_status status;
} ls_cudnn_graph;

/* Zeroes *g first. ls_cudnn_graph_release frees what the graph holds, its plan too. */
void ls_cudnn_graph_init(ls_cudnn_graph *g, const ls_cudnn *calls, cudnnHandle_t handle,
                         cudnnBackendDescriptor_t device);
void ls_cudnn_graph_release(ls_cudnn_graph *g);

/* Row-major without gaps. */
ls_cudnn_shape ls_cudnn_packed(int64_t batch, int64_t heads, int64_t rows, int64_t cols);
/* In the device's memory, aligned to 16 bytes; one number of the host, given when the plan runs; or
 * one that no memory has, between operations. */
ls_cudnn_tensor ls_cudnn_memory(ls_cudnn_graph *g, cudnnDataType_t type,
                                const ls_cudnn_shape *shape);
ls_cudnn_tensor ls_cudnn_value(ls_cudnn_graph *g, cudnnDataType_t type);
ls_cudnn_tensor ls_cudnn_virtual(ls_cudnn_graph *g, cudnnDataType_t type,
                                 const ls_cudnn_shape *shape);

/* y = mode(x, b), computed in `math`. b, t: LS_CUDNN_NONE where the mode has no such operand;
 * `axis` of GEN_INDEX, else -1. */
typedef struct ls_cudnn_pointwise {
    cudnnPointwiseMode_t mode;
    cudnnDataType_t math;
    ls_cudnn_tensor x, b, t, y;
    int64_t axis;
} ls_cudnn_pointwise;
void ls_cudnn_add_pointwise(ls_cudnn_graph *g, const ls_cudnn_pointwise *op);
/* The same with fp32 in and a new virtual fp32 tensor of the shape of x as y, which it returns. */
ls_cudnn_tensor ls_cudnn_map(ls_cudnn_graph *g, cudnnPointwiseMode_t mode, ls_cudnn_tensor x,
                             ls_cudnn_tensor b);
/* c = a b in fp32, rounded to the type of c. */
void ls_cudnn_add_matmul(ls_cudnn_graph *g, ls_cudnn_tensor a, ls_cudnn_tensor b,
                         ls_cudnn_tensor c);
/* y = sum or maximum of x over the dimensions that are smaller in y. */
void ls_cudnn_add_reduction(ls_cudnn_graph *g, cudnnReduceTensorOp_t how, ls_cudnn_tensor x,
                            ls_cudnn_tensor y);
/* y = x with rows and columns exchanged, as the strides of y say. */
void ls_cudnn_add_reshape(ls_cudnn_graph *g, ls_cudnn_tensor x, ls_cudnn_tensor y);

/* Chooses an engine that gives the same bits in every run, and plans. LS_E_UNSUPPORTED: cuDNN has
 * no such engine for this graph; `what` names it in the message. */
ls_status ls_cudnn_graph_plan(ls_cudnn_graph *g, const char *what);

/* Enqueues the plan on the handle's stream. Values are read before it returns. workspace: of
 * g->workspace_bytes. */
typedef struct ls_cudnn_pointer {
    ls_cudnn_tensor tensor;
    const void *at;
} ls_cudnn_pointer;
ls_status ls_cudnn_graph_run(const ls_cudnn_graph *g, const ls_cudnn_pointer *pointers, int count,
                             void *workspace);

#endif
