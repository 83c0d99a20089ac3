/* cuDNN's graph API on the emulated device: descriptors with their rules, plans, and their start.
 *
 * Reported: a part that is not finalized, what is set after finalizing, tensors of one id, a tensor
 * that is made twice or read before, a run with missing, unknown or unaligned pointers, host memory
 * for a tensor or device memory for a value, too small a workspace, and a run by an engine whose
 * results may change. Wrong attributes get BAD_PARAM, as cuDNN gives it. */
#include "tests/emulator/emulator_cudnn.h"

#include "runtime/device/cuda/cudnn_graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The most that this device takes of a head; and engines: the first changes its results. */
enum { HEAD_MAX = 128, CHANGING = 0, SOUND = 1, ATTRIBUTES_MAX = 8 };

struct emu_cudnn {
    cudaStream_t stream;
};

/* What a descriptor takes. */
typedef struct attribute_rule {
    int of;   /* cudnnBackendDescriptorType_t */
    int name; /* cudnnBackendAttributeName_t */
    int type; /* cudnnBackendAttributeType_t */
    int64_t least, most;
    bool needed;
} attribute_rule;

#define OF(name)   CUDNN_BACKEND_##name##_DESCRIPTOR
#define ATTR(name) CUDNN_ATTR_##name
#define TYPE(name) CUDNN_TYPE_##name
#define PART       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1
static const attribute_rule rules[] = {
    {OF(TENSOR), ATTR(TENSOR_DATA_TYPE), TYPE(DATA_TYPE), 1, 1, true},
    {OF(TENSOR), ATTR(TENSOR_DIMENSIONS), TYPE(INT64), EMU_DIMS, EMU_DIMS, true},
    {OF(TENSOR), ATTR(TENSOR_STRIDES), TYPE(INT64), EMU_DIMS, EMU_DIMS, true},
    {OF(TENSOR), ATTR(TENSOR_UNIQUE_ID), TYPE(INT64), 1, 1, true},
    {OF(TENSOR), ATTR(TENSOR_BYTE_ALIGNMENT), TYPE(INT64), 1, 1, true},
    {OF(TENSOR), ATTR(TENSOR_IS_VIRTUAL), TYPE(BOOLEAN), 1, 1, false},
    {OF(TENSOR), ATTR(TENSOR_IS_BY_VALUE), TYPE(BOOLEAN), 1, 1, false},
    {OF(POINTWISE), ATTR(POINTWISE_MODE), TYPE(POINTWISE_MODE), 1, 1, true},
    {OF(POINTWISE), ATTR(POINTWISE_MATH_PREC), TYPE(DATA_TYPE), 1, 1, true},
    {OF(POINTWISE), ATTR(POINTWISE_AXIS), TYPE(INT64), 1, 1, false},
    {OF(MATMUL), ATTR(MATMUL_COMP_TYPE), TYPE(DATA_TYPE), 1, 1, true},
    {OF(REDUCTION), ATTR(REDUCTION_COMP_TYPE), TYPE(DATA_TYPE), 1, 1, true},
    {OF(REDUCTION), ATTR(REDUCTION_OPERATOR), TYPE(REDUCTION_OPERATOR_TYPE), 1, 1, true},
    {OF(OPERATION_POINTWISE), ATTR(OPERATION_POINTWISE_PW_DESCRIPTOR), PART, true},
    {OF(OPERATION_POINTWISE), ATTR(OPERATION_POINTWISE_XDESC), PART, true},
    {OF(OPERATION_POINTWISE), ATTR(OPERATION_POINTWISE_BDESC), PART, false},
    {OF(OPERATION_POINTWISE), ATTR(OPERATION_POINTWISE_TDESC), PART, false},
    {OF(OPERATION_POINTWISE), ATTR(OPERATION_POINTWISE_YDESC), PART, true},
    {OF(OPERATION_MATMUL), ATTR(OPERATION_MATMUL_DESC), PART, true},
    {OF(OPERATION_MATMUL), ATTR(OPERATION_MATMUL_ADESC), PART, true},
    {OF(OPERATION_MATMUL), ATTR(OPERATION_MATMUL_BDESC), PART, true},
    {OF(OPERATION_MATMUL), ATTR(OPERATION_MATMUL_CDESC), PART, true},
    {OF(OPERATION_REDUCTION), ATTR(OPERATION_REDUCTION_DESC), PART, true},
    {OF(OPERATION_REDUCTION), ATTR(OPERATION_REDUCTION_XDESC), PART, true},
    {OF(OPERATION_REDUCTION), ATTR(OPERATION_REDUCTION_YDESC), PART, true},
    {OF(OPERATION_RESHAPE), ATTR(OPERATION_RESHAPE_XDESC), PART, true},
    {OF(OPERATION_RESHAPE), ATTR(OPERATION_RESHAPE_YDESC), PART, true},
    {OF(OPERATIONGRAPH), ATTR(OPERATIONGRAPH_HANDLE), TYPE(HANDLE), 1, 1, true},
    {OF(OPERATIONGRAPH), ATTR(OPERATIONGRAPH_OPS), TYPE(BACKEND_DESCRIPTOR), 1, EMU_OPS_MAX, true},
    {OF(ENGINEHEUR), ATTR(ENGINEHEUR_OPERATION_GRAPH), PART, true},
    {OF(ENGINEHEUR), ATTR(ENGINEHEUR_MODE), TYPE(HEUR_MODE), 1, 1, true},
    {OF(EXECUTION_PLAN), ATTR(EXECUTION_PLAN_HANDLE), TYPE(HANDLE), 1, 1, true},
    {OF(EXECUTION_PLAN), ATTR(EXECUTION_PLAN_ENGINE_CONFIG), PART, true},
    {OF(VARIANT_PACK), ATTR(VARIANT_PACK_DATA_POINTERS), TYPE(VOID_PTR), 1, EMU_POINTERS_MAX, true},
    {OF(VARIANT_PACK), ATTR(VARIANT_PACK_UNIQUE_IDS), TYPE(INT64), 1, EMU_POINTERS_MAX, true},
    {OF(VARIANT_PACK), ATTR(VARIANT_PACK_WORKSPACE), TYPE(VOID_PTR), 1, 1, true},
};
enum { RULES = sizeof rules / sizeof *rules };

struct emu_descriptor {
    cudnnBackendDescriptorType_t type;
    bool finalized;
    struct {
        const attribute_rule *rule;
        int64_t count;
        void *values;
    } set[ATTRIBUTES_MAX];
    int set_count;
    emu_graph_copy *graph; /* of a graph, a configuration and a plan */
    int engine;            /* of the last two and of an engine */
};

static size_t value_bytes(int type) {
    switch (type) {
    case CUDNN_TYPE_BOOLEAN:
        return sizeof(bool);
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        return 8;
    default:
        return sizeof(int);
    }
}

/* The values of an attribute; NULL: it was not set. */
static const void *values_of(const struct emu_descriptor *d, int name, int64_t *count) {
    for (int i = 0; i < d->set_count; i++) {
        if (d->set[i].rule->name == name) {
            *count = d->set[i].count;
            return d->set[i].values;
        }
    }
    *count = 0;
    return NULL;
}

static int64_t int_of(const struct emu_descriptor *d, int name, int64_t otherwise) {
    int64_t count;
    const void *values = values_of(d, name, &count);
    for (int r = 0; r < RULES && values; r++) {
        if (rules[r].name == name) {
            return rules[r].type == CUDNN_TYPE_INT64     ? *(const int64_t *)values
                   : rules[r].type == CUDNN_TYPE_BOOLEAN ? *(const bool *)values
                                                         : *(const int *)values;
        }
    }
    return otherwise;
}

static struct emu_descriptor *part_of(const struct emu_descriptor *d, int name) {
    int64_t count;
    struct emu_descriptor *const *part = values_of(d, name, &count);
    if (part && !(*part)->finalized) {
        emu_report("cuDNN gets a descriptor of type %d that is not finalized", (*part)->type);
    }
    return part ? *part : NULL;
}

static cudnnStatus_t create(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *made) {
    *made = calloc(1, sizeof **made);
    if (!*made) {
        return CUDNN_STATUS_INTERNAL_ERROR;
    }
    (*made)->type = type;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t destroy(cudnnBackendDescriptor_t d) {
    for (int i = 0; i < d->set_count; i++) {
        free(d->set[i].values);
    }
    emu_graph_leave(d->graph);
    free(d);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t set(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                         cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    if (d->finalized) {
        emu_report("attribute %d of a descriptor of cuDNN is set after it was finalized", name);
    }
    for (int r = 0; r < RULES; r++) {
        const attribute_rule *rule = &rules[r];
        if (rule->of != (int)d->type || rule->name != (int)name) {
            continue;
        }
        if (rule->type != (int)type || count < rule->least || count > rule->most ||
            d->set_count == ATTRIBUTES_MAX) {
            return CUDNN_STATUS_BAD_PARAM;
        }
        void *copy = malloc((size_t)count * value_bytes(type));
        if (!copy) {
            return CUDNN_STATUS_INTERNAL_ERROR;
        }
        memcpy(copy, values, (size_t)count * value_bytes(type));
        d->set[d->set_count].rule = rule;
        d->set[d->set_count].count = count;
        d->set[d->set_count++].values = copy;
        return CUDNN_STATUS_SUCCESS;
    }
    return CUDNN_STATUS_BAD_PARAM;
}

/* How $LOCKSTEP_EMULATOR_CUDNN wants it: a word, or a version. */
static bool is_to_be(const char *word) {
    const char *how = getenv("LOCKSTEP_EMULATOR_CUDNN");
    return how && strcmp(how, word) == 0;
}

/* Graphs */

/* The index of a tensor in the copy, which gets it when it is new. */
static int copy_tensor(emu_graph_copy *graph, const struct emu_descriptor *d) {
    emu_tensor t = {.id = int_of(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, 0),
                    .alignment = int_of(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1),
                    .type = (cudnnDataType_t)int_of(d, CUDNN_ATTR_TENSOR_DATA_TYPE, 0),
                    .is_virtual = int_of(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, 0) != 0,
                    .by_value = int_of(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, 0) != 0};
    int64_t count;
    memcpy(t.dim, values_of(d, CUDNN_ATTR_TENSOR_DIMENSIONS, &count), sizeof t.dim);
    memcpy(t.stride, values_of(d, CUDNN_ATTR_TENSOR_STRIDES, &count), sizeof t.stride);
    for (int i = 0; i < graph->tensor_count; i++) {
        const emu_tensor *other = &graph->tensor[i];
        if (other->id == t.id) {
            if (memcmp(other->dim, t.dim, sizeof t.dim) != 0 || other->type != t.type) {
                emu_report("two tensors of a graph of cuDNN have the id %lld", (long long)t.id);
            }
            return i;
        }
    }
    graph->tensor[graph->tensor_count] = t;
    return graph->tensor_count++;
}

static int tensor_at(emu_graph_copy *graph, const struct emu_descriptor *op, int name) {
    const struct emu_descriptor *t = part_of(op, name);
    return t ? copy_tensor(graph, t) : -1;
}

static void copy_node(emu_graph_copy *graph, const struct emu_descriptor *op) {
    emu_node *n = &graph->node[graph->node_count++];
    const struct emu_descriptor *how = NULL;
    *n = (emu_node){.kind = op->type, .b = -1, .t = -1};
    if (op->type == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR) {
        how = part_of(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
        n->mode = (int)int_of(how, CUDNN_ATTR_POINTWISE_MODE, 0);
        n->axis = int_of(how, CUDNN_ATTR_POINTWISE_AXIS, -1);
        n->x = tensor_at(graph, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC);
        n->b = tensor_at(graph, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
        n->t = tensor_at(graph, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC);
        n->y = tensor_at(graph, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    } else if (op->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR) {
        part_of(op, CUDNN_ATTR_OPERATION_MATMUL_DESC);
        n->x = tensor_at(graph, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC);
        n->b = tensor_at(graph, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC);
        n->y = tensor_at(graph, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    } else if (op->type == CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR) {
        how = part_of(op, CUDNN_ATTR_OPERATION_REDUCTION_DESC);
        n->mode = (int)int_of(how, CUDNN_ATTR_REDUCTION_OPERATOR, 0);
        n->x = tensor_at(graph, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC);
        n->y = tensor_at(graph, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    } else {
        n->x = tensor_at(graph, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC);
        n->y = tensor_at(graph, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
    }
}

/* Each tensor is made once, and before it is read. */
static void check_order(const emu_graph_copy *graph) {
    bool made[3 * EMU_OPS_MAX] = {false};
    for (int i = 0; i < graph->node_count; i++) {
        const emu_node *n = &graph->node[i];
        const int read[] = {n->x, n->b, n->t};
        for (int r = 0; r < 3; r++) {
            if (read[r] >= 0 && graph->tensor[read[r]].is_virtual && !made[read[r]]) {
                emu_report("operation %d of a graph of cuDNN reads tensor %lld before it is made",
                           i, (long long)graph->tensor[read[r]].id);
            }
        }
        if (made[n->y] || graph->tensor[n->y].by_value) {
            emu_report("operation %d of a graph of cuDNN makes tensor %lld again", i,
                       (long long)graph->tensor[n->y].id);
        }
        made[n->y] = true;
    }
}

static cudnnStatus_t copy_graph(struct emu_descriptor *d) {
    int64_t count;
    struct emu_descriptor *const *ops = values_of(d, CUDNN_ATTR_OPERATIONGRAPH_OPS, &count);
    d->graph = calloc(1, sizeof *d->graph);
    if (!d->graph) {
        return CUDNN_STATUS_INTERNAL_ERROR;
    }
    d->graph->users = 1;
    for (int64_t i = 0; i < count; i++) {
        if (!ops[i]->finalized) {
            emu_report("operation %lld of a graph of cuDNN is not finalized", (long long)i);
        }
        copy_node(d->graph, ops[i]);
    }
    check_order(d->graph);
    return CUDNN_STATUS_SUCCESS;
}

/* As cuDNN: no engine for larger heads; backward needs a matrix of probabilities. */
static cudnnStatus_t propose(const struct emu_descriptor *d) {
    emu_graph_copy *graph = part_of(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)->graph;
    for (int i = 0; i < graph->node_count; i++) {
        const emu_node *n = &graph->node[i];
        if (n->kind == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR &&
            !graph->tensor[n->x].is_virtual && graph->tensor[n->x].dim[3] > HEAD_MAX) {
            return CUDNN_STATUS_NOT_SUPPORTED;
        }
        if (n->kind == CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR) {
            const int64_t *dim = graph->tensor[n->x].dim;
            graph->workspace_bytes = 2 * dim[0] * dim[1] * dim[2] * dim[3];
        }
    }
    return CUDNN_STATUS_SUCCESS;
}

static void take_graph(struct emu_descriptor *d, const struct emu_descriptor *from, int engine) {
    d->graph = from->graph;
    d->graph->users++;
    d->engine = engine;
    d->finalized = true;
}

static cudnnStatus_t finalize(cudnnBackendDescriptor_t d) {
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    for (int r = 0; r < RULES; r++) {
        int64_t count;
        if (rules[r].of == (int)d->type && rules[r].needed &&
            !values_of(d, rules[r].name, &count)) {
            return CUDNN_STATUS_BAD_PARAM;
        }
    }
    if (d->type == CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {
        status = is_to_be("broken") ? CUDNN_STATUS_INTERNAL_ERROR : copy_graph(d);
    } else if (d->type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR) {
        status = propose(d);
    } else if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
        emu_capture_forbids("planning by cuDNN");
        const struct emu_descriptor *config = part_of(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
        take_graph(d, config, config->engine);
    }
    d->finalized = status == CUDNN_STATUS_SUCCESS;
    return status;
}

static cudnnStatus_t get(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                         cudnnBackendAttributeType_t type, int64_t wanted, int64_t *count,
                         void *values) {
    (void)type;
    cudnnBackendDescriptor_t *made = values;
    *count = 1;
    switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS:
        *count = wanted < 2 ? wanted : 2;
        for (int64_t i = 0; i < *count; i++) {
            take_graph(made[i], part_of(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH),
                       i == 0 || is_to_be("changing") ? CHANGING : SOUND);
        }
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINECFG_ENGINE:
        take_graph(made[0], d, d->engine);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
        *count = d->engine == CHANGING;
        if (*count > 0) {
            *(cudnnBackendNumericalNote_t *)values = CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
        }
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
        *(int64_t *)values = d->engine;
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
        *(int64_t *)values = d->graph->workspace_bytes;
        return CUDNN_STATUS_SUCCESS;
    default:
        return CUDNN_STATUS_BAD_PARAM;
    }
}

/* Runs */

static void take_pointer(const emu_tensor *t, void *at, int which, emu_pointers *pointers) {
    emu_range range;
    const bool on_device = emu_device_find(at, &range);
    if (t->is_virtual || on_device == t->by_value) {
        emu_report("a run of cuDNN gets %s for tensor %lld, which is %s",
                   on_device ? "device memory" : "memory of the host", (long long)t->id,
                   t->is_virtual ? "virtual"
                   : t->by_value ? "a value"
                                 : "on the device");
    }
    if (on_device && (uintptr_t)at % (uintptr_t)t->alignment != 0) {
        emu_report("a run of cuDNN gets %p for tensor %lld, which was described as aligned to %lld "
                   "bytes",
                   at, (long long)t->id, (long long)t->alignment);
    }
    pointers->at[which] = at;
    pointers->value[which] = t->by_value ? emu_element(t->type, at, 0) : 0.0;
}

static void take_pointers(const struct emu_descriptor *pack, const emu_graph_copy *graph,
                          emu_pointers *pointers) {
    int64_t count, ids;
    void *const *at = values_of(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &count);
    const int64_t *id = values_of(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &ids);
    for (int64_t i = 0; i < count; i++) {
        int which = 0;
        while (which < graph->tensor_count && (i >= ids || graph->tensor[which].id != id[i])) {
            which++;
        }
        if (which == graph->tensor_count || pointers->at[which]) {
            emu_report(
                "a run of cuDNN gets a pointer for a tensor that the graph does not have, or "
                "two for one");
        }
        take_pointer(&graph->tensor[which], at[i], which, pointers);
    }
    for (int i = 0; i < graph->tensor_count; i++) {
        if (!graph->tensor[i].is_virtual && !pointers->at[i]) {
            emu_report("a run of cuDNN gets no pointer for tensor %lld",
                       (long long)graph->tensor[i].id);
        }
    }
}

static cudnnStatus_t execute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                             cudnnBackendDescriptor_t pack) {
    static int runs;
    emu_pointers pointers = {0};
    emu_range range;
    int64_t count;
    if (!plan->finalized || !pack->finalized) {
        emu_report("a run of cuDNN by a plan or with pointers that are not finalized");
    }
    if (plan->engine == CHANGING) {
        emu_report("a run of cuDNN by an engine whose results may change from run to run");
    }
    take_pointers(pack, plan->graph, &pointers);
    if (is_to_be("failing")) {
        return CUDNN_STATUS_EXECUTION_FAILED;
    }
    void *const *workspace = values_of(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &count);
    const int64_t bytes = plan->graph->workspace_bytes;
    if (bytes > 0 && (!emu_device_find(*workspace, &range) ||
                      range.base + range.bytes < (char *)*workspace + bytes)) {
        emu_report("the workspace of a run of cuDNN is no device memory of %lld bytes",
                   (long long)bytes);
    }
    pointers.workspace = *workspace;
    pointers.factor = is_to_be("wrong")      ? -1.0
                      : is_to_be("unsteady") ? 1.0 + runs++ / 2 / 64.0
                                             : 1.0;
    emu_graph_enqueue(handle->stream, plan->graph, &pointers);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t start(cudnnHandle_t *handle) {
    *handle = calloc(1, sizeof **handle);
    return *handle ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_INTERNAL_ERROR;
}

static cudnnStatus_t end(cudnnHandle_t handle) {
    cudaDeviceSynchronize();
    free(handle);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t set_stream(cudnnHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

static size_t version(void) {
    const char *how = getenv("LOCKSTEP_EMULATOR_CUDNN");
    const size_t wanted = how ? strtoul(how, NULL, 10) : 0;
    return wanted > 0 ? wanted : 91900;
}

static const char *error_text(cudnnStatus_t status) {
    return status == CUDNN_STATUS_NOT_SUPPORTED      ? "CUDNN_STATUS_NOT_SUPPORTED"
           : status == CUDNN_STATUS_BAD_PARAM        ? "CUDNN_STATUS_BAD_PARAM"
           : status == CUDNN_STATUS_INTERNAL_ERROR   ? "CUDNN_STATUS_INTERNAL_ERROR"
           : status == CUDNN_STATUS_EXECUTION_FAILED ? "CUDNN_STATUS_EXECUTION_FAILED"
                                                     : "?";
}

static void last_error(char *words, size_t size) {
    snprintf(words, size, "%s", "");
}

/* In place of cudnn_load.c. $LOCKSTEP_EMULATOR_CUDNN: absent, as where there is none; changing,
 * only engines that say so; wrong or unsteady, results that are; broken, no graphs, and failing, no
 * runs, as where cuDNN lacks a library of its own; or a version, as 91000. */
ls_status ls_cudnn_load(const ls_cudnn **calls) {
    static const ls_cudnn emulated = {.version = version,
                                      .error_text = error_text,
                                      .last_error = last_error,
                                      .start = start,
                                      .end = end,
                                      .set_stream = set_stream,
                                      .create = create,
                                      .destroy = destroy,
                                      .set = set,
                                      .get = get,
                                      .finalize = finalize,
                                      .execute = execute};
    *calls = &emulated;
    if (is_to_be("absent")) {
        return LS_FAIL(LS_E_UNSUPPORTED, "no cuDNN that lockstep can use: it is to be absent");
    }
    return LS_OK;
}
