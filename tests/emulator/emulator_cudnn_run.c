/* Runs a graph of cuDNN's operations as its nodes say, one after the other, in plain loops: tensors
 * between them are rounded to their types. */
#include "tests/emulator/emulator_cudnn.h"

#include "runtime/base/dtype.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct graph_op {
    emu_op op;
    emu_graph_copy *graph;
    emu_pointers pointers;
    double *held[3 * EMU_OPS_MAX]; /* of a tensor, packed; NULL: not made yet */
} graph_op;

double emu_element(cudnnDataType_t type, const void *at, int64_t i) {
    switch (type) {
    case CUDNN_DATA_FLOAT:
        return (double)((const float *)at)[i];
    case CUDNN_DATA_INT32:
        return ((const int32_t *)at)[i];
    case CUDNN_DATA_BFLOAT16:
        return (double)ls_bf16_to_f32(((const ls_bf16 *)at)[i]);
    case CUDNN_DATA_BOOLEAN:
        break;
    }
    return ((const bool *)at)[i];
}

static double rounded(cudnnDataType_t type, double x) {
    switch (type) {
    case CUDNN_DATA_FLOAT:
        return (double)(float)x;
    case CUDNN_DATA_BFLOAT16:
        return (double)ls_bf16_to_f32(ls_bf16_from_f32((float)x));
    case CUDNN_DATA_INT32:
    case CUDNN_DATA_BOOLEAN:
        break;
    }
    return trunc(x);
}

static int64_t elems_of(const emu_tensor *t) {
    return t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3];
}

static size_t bytes_of(cudnnDataType_t type) {
    return type == CUDNN_DATA_BFLOAT16 ? 2 : type == CUDNN_DATA_BOOLEAN ? 1 : 4;
}

/* The place of packed element i, and from a place its element in the tensor's memory. */
static void place_of(const emu_tensor *t, int64_t i, int64_t place[EMU_DIMS]) {
    for (int d = EMU_DIMS - 1; d >= 0; d--) {
        place[d] = i % t->dim[d];
        i /= t->dim[d];
    }
}

static int64_t offset_of(const emu_tensor *t, int64_t i) {
    int64_t place[EMU_DIMS], offset = 0;
    place_of(t, i, place);
    for (int d = 0; d < EMU_DIMS; d++) {
        offset += place[d] * t->stride[d];
    }
    return offset;
}

/* The packed element of t at a place of a larger tensor: what has fewer is repeated, in groups. */
static int64_t shared_at(const emu_tensor *t, const int64_t place[EMU_DIMS],
                         const int64_t dim[EMU_DIMS]) {
    int64_t at = 0;
    for (int d = 0; d < EMU_DIMS; d++) {
        at = at * t->dim[d] + place[d] * t->dim[d] / dim[d];
    }
    return at;
}

static double *hold(graph_op *g, int which) {
    const emu_tensor *t = &g->graph->tensor[which];
    g->held[which] = calloc((size_t)elems_of(t), sizeof(double));
    if (!g->held[which]) {
        emu_report("no memory for a tensor of cuDNN");
    }
    return g->held[which];
}

/* The elements of an operand: of memory, read when it is first wanted. */
static const double *operand(graph_op *g, int which) {
    const emu_tensor *t = &g->graph->tensor[which];
    if (g->held[which]) {
        return g->held[which];
    }
    double *x = hold(g, which);
    if (t->by_value) {
        x[0] = g->pointers.value[which];
        return x;
    }
    const size_t bytes = bytes_of(t->type);
    for (int64_t i = 0; i < elems_of(t); i++) {
        const int64_t at = offset_of(t, i);
        emu_access_device((const char *)g->pointers.at[which] + at * (int64_t)bytes, bytes, false);
        x[i] = emu_element(t->type, g->pointers.at[which], at);
    }
    return x;
}

static void finish(graph_op *g, int which) {
    const emu_tensor *t = &g->graph->tensor[which];
    double *x = g->held[which];
    for (int64_t i = 0; i < elems_of(t); i++) {
        x[i] = rounded(t->type, x[i]);
        if (!t->is_virtual) {
            const int64_t at = offset_of(t, i);
            char *to = (char *)g->pointers.at[which] + at * (int64_t)bytes_of(t->type);
            emu_access_device(to, bytes_of(t->type), true);
            if (t->type == CUDNN_DATA_BFLOAT16) {
                *(ls_bf16 *)to = ls_bf16_from_f32((float)(x[i] * g->pointers.factor));
            } else {
                *(float *)to = (float)x[i];
            }
        }
    }
}

static double point(const emu_node *n, double x, double b, double t, const int64_t place[]) {
    switch ((cudnnPointwiseMode_t)n->mode) {
    case CUDNN_POINTWISE_ADD:
        return x + b;
    case CUDNN_POINTWISE_SUB:
        return x - b;
    case CUDNN_POINTWISE_MUL:
        return x * b;
    case CUDNN_POINTWISE_DIV:
        return x / b;
    case CUDNN_POINTWISE_EXP:
        return exp(x);
    case CUDNN_POINTWISE_LOG:
        return log(x);
    case CUDNN_POINTWISE_CMP_GE:
        return x >= b;
    case CUDNN_POINTWISE_GEN_INDEX:
        return (double)place[n->axis];
    case CUDNN_POINTWISE_BINARY_SELECT:
        return t != 0.0 ? x : b;
    }
    return NAN;
}

static void run_pointwise(graph_op *g, const emu_node *n) {
    const emu_tensor *tensors = g->graph->tensor, *y = &tensors[n->y];
    const double *x = operand(g, n->x), *b = n->b >= 0 ? operand(g, n->b) : NULL;
    const double *t = n->t >= 0 ? operand(g, n->t) : NULL;
    double *to = hold(g, n->y);
    for (int64_t i = 0; i < elems_of(y); i++) {
        int64_t place[EMU_DIMS];
        place_of(y, i, place);
        to[i] = point(n, x[shared_at(&tensors[n->x], place, y->dim)],
                      b ? b[shared_at(&tensors[n->b], place, y->dim)] : 0.0,
                      t ? t[shared_at(&tensors[n->t], place, y->dim)] : 0.0, place);
    }
}

static void run_matmul(graph_op *g, const emu_node *n) {
    const emu_tensor *ta = &g->graph->tensor[n->x], *tb = &g->graph->tensor[n->b];
    const emu_tensor *tc = &g->graph->tensor[n->y];
    const double *a = operand(g, n->x), *b = operand(g, n->b);
    const int64_t rows = tc->dim[2], cols = tc->dim[3], depth = ta->dim[3];
    double *c = hold(g, n->y);
    if (tb->dim[2] != depth || ta->dim[2] != rows || tb->dim[3] != cols) {
        emu_report("a product of cuDNN of matrices that do not fit");
    }
    for (int64_t i = 0; i < elems_of(tc); i++) {
        int64_t place[EMU_DIMS], of_a[EMU_DIMS], of_b[EMU_DIMS];
        place_of(tc, i, place);
        memcpy(of_a, place, sizeof place);
        memcpy(of_b, place, sizeof place);
        of_a[3] = of_b[2] = 0;
        const int64_t dim_a[] = {tc->dim[0], tc->dim[1], rows, depth};
        const int64_t dim_b[] = {tc->dim[0], tc->dim[1], depth, cols};
        const double *row = a + shared_at(ta, of_a, dim_a), *col = b + shared_at(tb, of_b, dim_b);
        for (int64_t k = 0; k < depth; k++) {
            c[i] += row[k] * col[k * cols];
        }
    }
}

static void run_reduction(graph_op *g, const emu_node *n) {
    const emu_tensor *tx = &g->graph->tensor[n->x], *ty = &g->graph->tensor[n->y];
    const double *x = operand(g, n->x);
    double *y = hold(g, n->y);
    const bool is_max = n->mode == CUDNN_REDUCE_TENSOR_MAX;
    for (int64_t i = 0; is_max && i < elems_of(ty); i++) {
        y[i] = -INFINITY;
    }
    for (int64_t i = 0; i < elems_of(tx); i++) {
        int64_t place[EMU_DIMS];
        place_of(tx, i, place);
        double *to = &y[shared_at(ty, place, tx->dim)];
        *to = !is_max ? *to + x[i] : isnan(x[i]) || x[i] > *to ? x[i] : *to;
    }
}

/* Rows and columns exchanged: the same element at the same place of memory. */
static void run_reshape(graph_op *g, const emu_node *n) {
    const emu_tensor *tx = &g->graph->tensor[n->x], *ty = &g->graph->tensor[n->y];
    const double *x = operand(g, n->x);
    double *y = hold(g, n->y);
    const int64_t rows = tx->dim[2], cols = tx->dim[3];
    if (ty->dim[2] != cols || ty->dim[3] != rows || ty->stride[2] != tx->stride[3] ||
        ty->stride[3] != tx->stride[2] || ty->stride[1] != tx->stride[1]) {
        emu_report("a reshape of cuDNN that does not exchange rows and columns");
    }
    for (int64_t i = 0; i < elems_of(tx); i++) {
        y[i - i % (rows * cols) + i % cols * rows + i / cols % rows] = x[i];
    }
}

static bool run(emu_op *op) {
    graph_op *g = (graph_op *)op;
    if (g->graph->workspace_bytes > 0) {
        emu_access_device(g->pointers.workspace, (size_t)g->graph->workspace_bytes, true);
    }
    for (int i = 0; i < g->graph->node_count; i++) {
        const emu_node *n = &g->graph->node[i];
        if (n->kind == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) {
            run_pointwise(g, n);
        } else if (n->kind == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR) {
            run_matmul(g, n);
        } else if (n->kind == CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR) {
            run_reduction(g, n);
        } else {
            run_reshape(g, n);
        }
        finish(g, n->y);
    }
    for (int i = 0; i < g->graph->tensor_count; i++) {
        free(g->held[i]);
        g->held[i] = NULL; /* a graph of CUDA's may run it again */
    }
    return true;
}

void emu_graph_leave(emu_graph_copy *graph) {
    if (graph && --graph->users == 0) {
        free(graph);
    }
}

static void release(emu_op *op) {
    emu_graph_leave(((graph_op *)op)->graph);
    free(op);
}

void emu_graph_enqueue(cudaStream_t stream, emu_graph_copy *graph, const emu_pointers *pointers) {
    graph_op *g = calloc(1, sizeof *g);
    if (!g) {
        emu_report("no memory for a run of cuDNN");
    }
    g->op = (emu_op){.name = "a graph of cuDNN", .run = run, .release = release};
    g->graph = graph;
    g->pointers = *pointers;
    graph->users++;
    emu_load((uint64_t)(uintptr_t)graph, "a plan of cuDNN");
    emu_stream_push(stream, &g->op);
}
