/* Graphs: what a stream was given while it was captured, to be given again. */
#include "tests/emulator/emulator.h"

#include <stdlib.h>

struct emu_graph {
    emu_op *first, **last;
    int users; /* the graph and what was instantiated from it */
};

static struct emu_graph *capture;
static cudaStream_t captured;

void emu_capture_forbids(const char *what) {
    if (capture) {
        emu_report("%s while a stream is captured into a graph", what);
    }
}

bool emu_capture_runs(void) {
    return capture != NULL;
}

bool emu_capture_take(cudaStream_t stream, emu_op *op) {
    if (!capture || stream != captured) {
        return false;
    }
    op->next = NULL;
    *capture->last = op;
    capture->last = &op->next;
    return true;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    (void)mode;
    emu_stream_id(stream);
    emu_capture_forbids("another capture");
    capture = calloc(1, sizeof *capture);
    if (!capture) {
        return cudaErrorMemoryAllocation;
    }
    capture->last = &capture->first;
    captured = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = NULL;
    if (!capture || stream != captured) {
        return cudaErrorInvalidValue;
    }
    *graph = capture;
    capture->users = 1;
    capture = NULL;
    captured = NULL;
    return cudaSuccess;
}

static cudaError_t leave(struct emu_graph *graph) {
    if (!graph || --graph->users > 0) {
        return cudaSuccess;
    }
    while (graph->first) {
        emu_op *op = graph->first;
        graph->first = op->next;
        op->release(op);
    }
    free(graph);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags) {
    (void)flags;
    graph->users++;
    *exec = graph;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return leave(graph);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    cudaDeviceSynchronize();
    return leave(exec);
}

typedef struct replay_op {
    emu_op op;
    emu_op *node;
} replay_op;

static bool run_node(emu_op *op) {
    emu_op *node = ((replay_op *)op)->node;
    return node->run(node);
}

static void release_replay(emu_op *op) {
    free(op);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    emu_capture_forbids("the launch of a graph");
    for (emu_op *node = exec->first; node; node = node->next) {
        replay_op *r = calloc(1, sizeof *r);
        if (!r) {
            return cudaErrorMemoryAllocation;
        }
        r->op = (emu_op){.name = node->name, .run = run_node, .release = release_replay};
        r->node = node;
        emu_stream_push(stream, &r->op);
    }
    return cudaSuccess;
}
