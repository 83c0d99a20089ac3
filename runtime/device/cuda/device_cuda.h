/* The CUDA device, as the back end's own files and the NCCL communicator see it.
 *
 * One stream takes all operations, in call order. The host never waits for it inside a step except
 * where the device seam says so (download, sync, sums). Waits poll, and call `idle` in between, so
 * that whoever must make progress on the host (MPI) does. */
#ifndef LS_DEVICE_CUDA_DEVICE_CUDA_H
#define LS_DEVICE_CUDA_DEVICE_CUDA_H

#include "runtime/device/device_async.h"

#include <cuda_runtime.h>

enum { LS_CUDA_STAGES = 2, LS_CUDA_SMALL_STAGES = 32 };

typedef struct ls_cuda_gemm ls_cuda_gemm; /* gemm_cublaslt.c */

typedef struct ls_cuda_device {
    ls_device base;
    int ordinal;
    cudaStream_t compute, copies; /* copies: of fetch */
    cudaEvent_t ready, fetched;   /* what fetch waits for; behind the last copy */
    /* Pinned memory that uploads and downloads of any host memory pass through. */
    struct {
        void *memory;
        cudaEvent_t free; /* recorded behind the last copy */
    } stage[LS_CUDA_STAGES + LS_CUDA_SMALL_STAGES];
    int next_stage, next_small;
    cudaEvent_t awaited;
    cudaEvent_t marks[LS_DEVICE_MARKS]; /* timed */
    bool marked[LS_DEVICE_MARKS];
    void *scratch; /* device memory, grown by ls_cuda_scratch */
    size_t scratch_capacity;
    int recordings; /* that there are: what they were recorded with must stay */
    struct ls_cuda_retired *retired;
    double *sum; /* one number, on the device */
    ls_cuda_gemm *gemm;
    struct ls_cuda_cudnn *cudnn; /* NULL: not used */
    struct {
        cudaStream_t stream; /* NULL: nothing was peeked at yet */
        cudaEvent_t ready, over;
        void *memory; /* pinned */
        size_t bytes;
    } peek;
    struct {
        bool left_open;    /* LS_ATTENTION_AUTO: cuDNN's where it is accepted */
        bool accepted;     /* by settle */
        bool reserved;     /* in bf16, for training */
        char refusal[240]; /* why cuDNN does not do what was reserved; empty: it would */
    } attention;
    void (*idle)(bool over); /* again and again while a wait lasts, and once after it */
} ls_cuda_device;

/* LS_OK for cudaSuccess; else LS_E_MEMORY or LS_E_DEVICE with CUDA's words and what was done. */
ls_status ls_cuda_check(cudaError_t error, const char *what, const char *file, int line);
#define LS_CUDA_TRY(call, what) LS_TRY(ls_cuda_check((call), (what), __FILE__, __LINE__))

static inline ls_cuda_device *ls_cuda_of(ls_device *dev) {
    return (ls_cuda_device *)dev;
}

/* A stream that waits for no other, of the device that this thread has chosen. urgent: its kernels
 * get the multiprocessors that come free before those of other streams do. */
ls_status ls_cuda_stream_create(bool urgent, cudaStream_t *stream);

/* Of a kernel that was just launched. */
static inline ls_status ls_cuda_launched(const char *what) {
    return ls_cuda_check(cudaGetLastError(), what, __FILE__, __LINE__);
}

static inline cudaStream_t ls_cuda_stream(ls_device *dev) {
    return ls_cuda_of(dev)->compute;
}

/* True for devices that ls_device_open_cuda made. */
bool ls_device_is_cuda(const ls_device *dev);
/* cudaEventQuery; that an event has not happened is no error for cudaGetLastError to find. */
cudaError_t ls_cuda_query(cudaEvent_t event);
/* Waits until an event has happened, polling. */
ls_status ls_cuda_wait(ls_cuda_device *cuda, cudaEvent_t event);
ls_status ls_cuda_sync(ls_device *dev);
/* Device scratch of at least so many bytes, valid until the next call. */
ls_status ls_cuda_scratch(ls_cuda_device *cuda, size_t bytes, void **memory);
/* Larger memory of the device's own in place of *memory [*capacity]. What was there is freed once
 * no recording is left that may use it. */
ls_status ls_cuda_grow(ls_cuda_device *cuda, size_t bytes, void **memory, size_t *capacity);
void ls_cuda_free_retired(ls_cuda_device *cuda);

/* Takes the library, its workspace and room for a bias of so many numbers; by reserve, or by the
 * first product. */
ls_status ls_cuda_gemm_start(ls_cuda_device *cuda, int64_t bias_elems);
size_t ls_cuda_gemm_bytes(int64_t bias_elems); /* what that takes */
void ls_cuda_gemm_destroy(ls_cuda_device *cuda);
ls_status ls_cuda_gemm_run(ls_device *dev, const ls_gemm *op);

/* attention_cudnn.c: opens cuDNN for attention as the options ask; plans what limits foresee, with
 * its workspace; and takes an operation, with delta the backward one, where cuDNN serves it
 * (*done). With LS_ATTENTION_AUTO it serves what was reserved and accepted and nothing else, so
 * that ranks agree. */
ls_status ls_cuda_cudnn_start(ls_cuda_device *cuda, ls_attention_by by);
void ls_cuda_cudnn_end(ls_cuda_device *cuda);
ls_status ls_cuda_cudnn_reserve(ls_cuda_device *cuda, const ls_device_limits *limits);
ls_status ls_cuda_cudnn_attention(ls_cuda_device *cuda, const ls_attention *op, void *delta,
                                  bool *done);

/* As ls_device_async_ops has them. */
ls_status ls_cuda_attention_offer(ls_device *dev, ls_attention_offer *offer);
void ls_cuda_attention_settle(ls_device *dev, bool accept);

/* How many plans of cuDNN's there are; -1: cuDNN is not used. */
int ls_cuda_cudnn_plans(const ls_cuda_device *cuda);

extern const ls_device_ops ls_cuda_ops;
extern const ls_device_async_ops ls_cuda_async_ops;

#endif
