/* Graphs of cuDNN's operations, their plans and their runs. */
#include "runtime/device/cuda/cudnn_graph.h"

#include <stdio.h>
#include <string.h>

enum { ALIGNMENT_BYTES = 16, CONFIGS_MAX = 32, NOTES_MAX = 32 };

static ls_status refused(const ls_cudnn *calls, cudnnStatus_t status, const char *what) {
    char words[256] = "";
    calls->last_error(words, sizeof words);
    for (char *c = words; *c; c++) {
        *c = *c == '\n' ? ' ' : *c;
    }
    /* 3000 to 3999: it cannot do this. */
    return LS_FAIL(status >= CUDNN_STATUS_NOT_SUPPORTED && (int)status < 4000 ? LS_E_UNSUPPORTED
                                                                              : LS_E_DEVICE,
                   "cuDNN, %s: %s (%d)%s%s", what, calls->error_text(status), (int)status,
                   *words ? ": " : "", words);
}

static bool took(ls_cudnn_graph *g, cudnnStatus_t status, const char *what) {
    if (g->status == LS_OK && status != CUDNN_STATUS_SUCCESS) {
        g->status = refused(g->calls, status, what);
    }
    return g->status == LS_OK;
}

void ls_cudnn_graph_init(ls_cudnn_graph *g, const ls_cudnn *calls, cudnnHandle_t handle,
                         cudnnBackendDescriptor_t device) {
    memset(g, 0, sizeof *g);
    g->calls = calls;
    g->handle = handle;
    g->device = device;
}

void ls_cudnn_graph_release(ls_cudnn_graph *g) {
    if (g->plan) {
        g->calls->destroy(g->plan);
    }
    while (g->made_count > 0) {
        g->calls->destroy(g->made[--g->made_count]);
    }
    memset(g, 0, sizeof *g);
}

/* A descriptor that lives as long as the graph; NULL after a failure. */
static cudnnBackendDescriptor_t make(ls_cudnn_graph *g, cudnnBackendDescriptorType_t type,
                                     const char *what) {
    cudnnBackendDescriptor_t made = NULL;
    if (g->status == LS_OK && g->made_count == (int)(sizeof g->made / sizeof *g->made)) {
        g->status =
            LS_FAIL(LS_E_UNSUPPORTED, "a graph of cuDNN has more than %d parts", g->made_count);
    }
    if (g->status != LS_OK || !took(g, g->calls->create(type, &made), what)) {
        return NULL;
    }
    g->made[g->made_count++] = made;
    return made;
}

static void set(ls_cudnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    if (g->status == LS_OK) {
        took(g, g->calls->set(d, name, type, count, values), "describing a graph");
    }
}

static void set_part(ls_cudnn_graph *g, cudnnBackendDescriptor_t d,
                     cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t part) {
    set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

static void finish(ls_cudnn_graph *g, cudnnBackendDescriptor_t d, const char *what) {
    if (g->status == LS_OK) {
        took(g, g->calls->finalize(d), what);
    }
}

/* Tensors */

typedef enum place { IN_MEMORY, BY_VALUE, NOWHERE } place;

static ls_cudnn_tensor add_tensor(ls_cudnn_graph *g, cudnnDataType_t type,
                                  const ls_cudnn_shape *shape, place where) {
    const int64_t id = g->tensor_count + 1, alignment = ALIGNMENT_BYTES;
    const bool yes = true;
    if (g->status == LS_OK && g->tensor_count == LS_CUDNN_NODES_MAX) {
        g->status = LS_FAIL(LS_E_UNSUPPORTED, "a graph of cuDNN has more than %d tensors",
                            LS_CUDNN_NODES_MAX);
    }
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR, "describing a tensor");
    set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, LS_CUDNN_DIMS, shape->dim);
    set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, LS_CUDNN_DIMS, shape->stride);
    set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    if (where != IN_MEMORY) {
        set(g, d, where == NOWHERE ? CUDNN_ATTR_TENSOR_IS_VIRTUAL : CUDNN_ATTR_TENSOR_IS_BY_VALUE,
            CUDNN_TYPE_BOOLEAN, 1, &yes);
    }
    finish(g, d, "describing a tensor");
    if (g->status != LS_OK) {
        return 0;
    }
    g->tensor[g->tensor_count] = d;
    g->type[g->tensor_count] = type;
    g->shape[g->tensor_count] = *shape;
    return g->tensor_count++;
}

ls_cudnn_shape ls_cudnn_packed(int64_t batch, int64_t heads, int64_t rows, int64_t cols) {
    return (ls_cudnn_shape){{batch, heads, rows, cols},
                            {heads * rows * cols, rows * cols, cols, 1}};
}

ls_cudnn_tensor ls_cudnn_memory(ls_cudnn_graph *g, cudnnDataType_t type,
                                const ls_cudnn_shape *shape) {
    return add_tensor(g, type, shape, IN_MEMORY);
}

ls_cudnn_tensor ls_cudnn_value(ls_cudnn_graph *g, cudnnDataType_t type) {
    const ls_cudnn_shape one = ls_cudnn_packed(1, 1, 1, 1);
    return add_tensor(g, type, &one, BY_VALUE);
}

ls_cudnn_tensor ls_cudnn_virtual(ls_cudnn_graph *g, cudnnDataType_t type,
                                 const ls_cudnn_shape *shape) {
    return add_tensor(g, type, shape, NOWHERE);
}

/* Operations */

static void set_tensor(ls_cudnn_graph *g, cudnnBackendDescriptor_t d,
                       cudnnBackendAttributeName_t name, ls_cudnn_tensor tensor) {
    if (g->status == LS_OK && tensor != LS_CUDNN_NONE) {
        set_part(g, d, name, g->tensor[tensor]);
    }
}

static void add_op(ls_cudnn_graph *g, cudnnBackendDescriptor_t op, const char *what) {
    finish(g, op, what);
    if (g->status == LS_OK && g->op_count == LS_CUDNN_NODES_MAX) {
        g->status = LS_FAIL(LS_E_UNSUPPORTED, "a graph of cuDNN has more than %d operations",
                            LS_CUDNN_NODES_MAX);
    }
    if (g->status == LS_OK) {
        g->op[g->op_count++] = op;
    }
}

void ls_cudnn_add_pointwise(ls_cudnn_graph *g, const ls_cudnn_pointwise *p) {
    cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, "an operation");
    set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &p->mode);
    set(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &p->math);
    if (p->mode == CUDNN_POINTWISE_GEN_INDEX) {
        set(g, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &p->axis);
    }
    finish(g, how, "an operation");
    cudnnBackendDescriptor_t op =
        make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, "an operation");
    set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_tensor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, p->x);
    set_tensor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, p->b);
    set_tensor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, p->t);
    set_tensor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, p->y);
    add_op(g, op, "an operation element by element");
}

ls_cudnn_tensor ls_cudnn_map(ls_cudnn_graph *g, cudnnPointwiseMode_t mode, ls_cudnn_tensor x,
                             ls_cudnn_tensor b) {
    const ls_cudnn_tensor y = ls_cudnn_virtual(g, CUDNN_DATA_FLOAT, &g->shape[x]);
    ls_cudnn_add_pointwise(g, &(ls_cudnn_pointwise){.mode = mode,
                                                    .math = CUDNN_DATA_FLOAT,
                                                    .x = x,
                                                    .b = b,
                                                    .t = LS_CUDNN_NONE,
                                                    .y = y,
                                                    .axis = -1});
    return y;
}

void ls_cudnn_add_matmul(ls_cudnn_graph *g, ls_cudnn_tensor a, ls_cudnn_tensor b,
                         ls_cudnn_tensor c) {
    const cudnnDataType_t math = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR, "a product");
    set(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
    finish(g, how, "a product");
    cudnnBackendDescriptor_t op = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, "a product");
    set_tensor(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_tensor(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_tensor(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    set_part(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    add_op(g, op, "a product");
}

void ls_cudnn_add_reduction(ls_cudnn_graph *g, cudnnReduceTensorOp_t sum, ls_cudnn_tensor x,
                            ls_cudnn_tensor y) {
    const cudnnDataType_t math = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, "a reduction");
    set(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
    set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &sum);
    finish(g, how, "a reduction");
    cudnnBackendDescriptor_t op =
        make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, "a reduction");
    set_part(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    set_tensor(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_tensor(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    add_op(g, op, "a reduction");
}

void ls_cudnn_add_reshape(ls_cudnn_graph *g, ls_cudnn_tensor x, ls_cudnn_tensor y) {
    cudnnBackendDescriptor_t op = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, "a shape");
    set_tensor(g, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_tensor(g, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    add_op(g, op, "a change of shape");
}

/* Plans */

/* Does this engine say that its results may change from run to run? */
static bool changes(const ls_cudnn *calls, cudnnBackendDescriptor_t engine) {
    cudnnBackendNumericalNote_t notes[NOTES_MAX];
    int64_t count = 0;
    if (calls->get(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, NOTES_MAX,
                   &count, notes) != CUDNN_STATUS_SUCCESS) {
        return true;
    }
    for (int64_t i = 0; i < count && i < NOTES_MAX; i++) {
        if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) {
            return true;
        }
    }
    return false;
}

/* The engine of a configuration, if its results do not change. */
static bool is_sound(ls_cudnn_graph *g, cudnnBackendDescriptor_t config) {
    cudnnBackendDescriptor_t engine = NULL;
    int64_t count = 0;
    if (g->calls->create(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) != CUDNN_STATUS_SUCCESS) {
        return false;
    }
    bool sound = g->calls->get(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                               1, &count, &engine) == CUDNN_STATUS_SUCCESS &&
                 !changes(g->calls, engine);
    sound = sound && g->calls->get(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
                                   &count, &g->engine) == CUDNN_STATUS_SUCCESS;
    g->calls->destroy(engine);
    return sound;
}

/* A plan of a configuration; false: there is none. */
static bool plan_of(ls_cudnn_graph *g, cudnnBackendDescriptor_t config) {
    const ls_cudnn *calls = g->calls;
    int64_t count = 0;
    if (calls->create(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &g->plan) != CUDNN_STATUS_SUCCESS) {
        return false;
    }
    cudnnStatus_t status = calls->set(g->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                      CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
    if (status == CUDNN_STATUS_SUCCESS && g->handle) {
        status =
            calls->set(g->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->handle);
    }
    status = status == CUDNN_STATUS_SUCCESS ? calls->finalize(g->plan) : status;
    if (status == CUDNN_STATUS_SUCCESS) {
        status = calls->get(g->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                            &count, &g->workspace_bytes);
    }
    if (status != CUDNN_STATUS_SUCCESS) {
        calls->destroy(g->plan);
        g->plan = NULL;
    }
    return status == CUDNN_STATUS_SUCCESS;
}

/* The first configuration of those that cuDNN proposes in this mode that is sound and has a plan.
 */
static void choose(ls_cudnn_graph *g, cudnnBackendDescriptor_t graph, cudnnBackendHeurMode_t mode) {
    cudnnBackendDescriptor_t configs[CONFIGS_MAX];
    cudnnBackendDescriptor_t asked = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "choosing");
    int64_t count = 0;
    set_part(g, asked, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(g, asked, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (g->device) {
        set_part(g, asked, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, g->device);
    }
    /* cuDNN says by this that it proposes nothing. */
    if (g->status != LS_OK || g->calls->finalize(asked) != CUDNN_STATUS_SUCCESS) {
        return;
    }
    for (int i = 0; i < CONFIGS_MAX; i++) {
        configs[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "choosing");
    }
    if (g->status != LS_OK ||
        !took(g,
              g->calls->get(asked, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                            CONFIGS_MAX, &count, configs),
              "choosing")) {
        return;
    }
    for (int64_t i = 0; i < count && i < CONFIGS_MAX && !g->plan; i++) {
        if (is_sound(g, configs[i])) {
            plan_of(g, configs[i]);
        }
    }
}

ls_status ls_cudnn_graph_plan(ls_cudnn_graph *g, const char *what) {
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    cudnnBackendDescriptor_t graph =
        make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "describing a graph");
    set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->op_count, g->op);
    if (g->handle) {
        set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->handle);
    }
    finish(g, graph, what);
    for (size_t i = 0; i < sizeof modes / sizeof *modes && g->status == LS_OK && !g->plan; i++) {
        choose(g, graph, modes[i]);
    }
    if (g->status == LS_OK && !g->plan) {
        g->status = LS_FAIL(LS_E_UNSUPPORTED,
                            "cuDNN %zu has no engine for %s whose results are the same in each run",
                            g->calls->version(), what);
    }
    return g->status;
}

ls_status ls_cudnn_graph_run(const ls_cudnn_graph *g, const ls_cudnn_pointer *pointers, int count,
                             void *workspace) {
    const ls_cudnn *calls = g->calls;
    const void *at[LS_CUDNN_POINTERS_MAX];
    int64_t ids[LS_CUDNN_POINTERS_MAX];
    cudnnBackendDescriptor_t pack = NULL;
    if (count > LS_CUDNN_POINTERS_MAX) {
        return LS_FAIL(LS_E_UNSUPPORTED, "a run of cuDNN with %d pointers; at most %d", count,
                       LS_CUDNN_POINTERS_MAX);
    }
    for (int i = 0; i < count; i++) {
        at[i] = pointers[i].at;
        ids[i] = pointers[i].tensor + 1;
    }
    cudnnStatus_t status = calls->create(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (status != CUDNN_STATUS_SUCCESS) {
        return refused(calls, status, "running a graph");
    }
    const struct {
        cudnnBackendAttributeName_t name;
        cudnnBackendAttributeType_t type;
        int64_t count;
        const void *values;
    } attributes[] = {
        {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, at},
        {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids},
        {CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace},
    };
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes && status == CUDNN_STATUS_SUCCESS;
         i++) {
        status = calls->set(pack, attributes[i].name, attributes[i].type, attributes[i].count,
                            attributes[i].values);
    }
    status = status == CUDNN_STATUS_SUCCESS ? calls->finalize(pack) : status;
    status = status == CUDNN_STATUS_SUCCESS ? calls->execute(g->handle, g->plan, pack) : status;
    calls->destroy(pack);
    return status == CUDNN_STATUS_SUCCESS ? LS_OK : refused(calls, status, "running a graph");
}
