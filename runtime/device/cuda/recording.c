/* Recordings as CUDA graphs. */
#include "runtime/device/cuda/recording.h"

#include "runtime/base/arena.h"
#include "runtime/device/cuda/device_cuda.h"

#include <stdlib.h>

struct ls_recording {
    cudaGraphExec_t graph;
};

/* Other threads may do as they like. */
ls_status ls_cuda_record_begin(ls_device *dev) {
    LS_CUDA_TRY(cudaStreamBeginCapture(ls_cuda_of(dev)->compute, cudaStreamCaptureModeThreadLocal),
                "beginning a graph");
    return LS_OK;
}

ls_status ls_cuda_record_end(ls_device *dev, ls_recording **recording) {
    cudaGraph_t graph = NULL;
    ls_recording *r;
    *recording = NULL;
    LS_CUDA_TRY(cudaStreamEndCapture(ls_cuda_of(dev)->compute, &graph), "ending a graph");
    ls_status status = ls_calloc(1, sizeof *r, &r);
    if (status == LS_OK) {
        status = ls_cuda_check(cudaGraphInstantiate(&r->graph, graph, 0), "making a graph",
                               __FILE__, __LINE__);
        if (status != LS_OK) {
            free(r);
        }
    }
    cudaGraphDestroy(graph);
    ls_cuda_of(dev)->recordings += status == LS_OK;
    *recording = status == LS_OK ? r : NULL;
    return status;
}

ls_status ls_cuda_replay(ls_device *dev, ls_recording *recording) {
    LS_CUDA_TRY(cudaGraphLaunch(recording->graph, ls_cuda_of(dev)->compute), "launching a graph");
    return LS_OK;
}

void ls_cuda_recording_free(ls_device *dev, ls_recording *recording) {
    if (recording) {
        (void)ls_cuda_sync(dev);
        cudaGraphExecDestroy(recording->graph);
        free(recording);
        if (--ls_cuda_of(dev)->recordings == 0) {
            ls_cuda_free_retired(ls_cuda_of(dev));
        }
    }
}
