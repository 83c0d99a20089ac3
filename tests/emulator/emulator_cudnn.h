/* The emulated cuDNN's descriptors, and a graph that a plan has copied of them. */
#ifndef LS_TESTS_EMULATOR_CUDNN_H
#define LS_TESTS_EMULATOR_CUDNN_H

#include "tests/emulator/emulator.h"
#include "tests/emulator/include/cudnn.h"

enum { EMU_DIMS = 4, EMU_OPS_MAX = 64, EMU_POINTERS_MAX = 32 };

typedef struct emu_tensor {
    int64_t id, dim[EMU_DIMS], stride[EMU_DIMS], alignment;
    cudnnDataType_t type;
    bool is_virtual, by_value;
} emu_tensor;

typedef struct emu_node {
    cudnnBackendDescriptorType_t kind; /* an OPERATION_ */
    int mode;                          /* of a pointwise operation or a reduction */
    cudnnDataType_t math;
    int64_t axis;
    int x, b, t, y; /* index in tensors; -1: none */
} emu_node;

typedef struct emu_graph_copy {
    int users; /* a plan, and its runs that are queued */
    int node_count, tensor_count;
    emu_node node[EMU_OPS_MAX];
    emu_tensor tensor[3 * EMU_OPS_MAX];
    int64_t workspace_bytes;
} emu_graph_copy;

/* Where a run's tensors are: of values a copy. */
typedef struct emu_pointers {
    void *at[3 * EMU_OPS_MAX];
    double value[3 * EMU_OPS_MAX];
    void *workspace;
    double factor; /* of results in bf16; not 1 is an error of the library's */
} emu_pointers;

/* emulator_cudnn_run.c: queues the graph; takes one use of it. */
void emu_graph_enqueue(cudaStream_t stream, emu_graph_copy *graph, const emu_pointers *pointers);
void emu_graph_leave(emu_graph_copy *graph);
double emu_element(cudnnDataType_t type, const void *at, int64_t i);

#endif
