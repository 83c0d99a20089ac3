/* Opens and closes a CUDA device; its memory, copies and waits. */
#include "runtime/device/cuda/device_cuda.h"

#include "runtime/base/arena.h"
#include "runtime/base/hash.h"
#include "runtime/base/text.h"
#include "runtime/device/cuda/memory_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STAGE_BYTES = 4 << 20, SMALL_BYTES = 512 << 10 };

ls_status ls_cuda_check(cudaError_t error, const char *what, const char *file, int line) {
    if (error == cudaSuccess) {
        return LS_OK;
    }
    return ls_error_set(error == cudaErrorMemoryAllocation ? LS_E_MEMORY : LS_E_DEVICE, file, line,
                        "CUDA, %s: %s (error %d)", what, cudaGetErrorString(error), (int)error);
}

bool ls_device_is_cuda(const ls_device *dev) {
    return dev->ops == &ls_cuda_ops;
}

cudaError_t ls_cuda_query(cudaEvent_t event) {
    const cudaError_t error = cudaEventQuery(event);
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError();
    }
    return error;
}

ls_status ls_cuda_wait(ls_cuda_device *cuda, cudaEvent_t event) {
    cudaError_t error;
    bool waited = false;
    while ((error = ls_cuda_query(event)) == cudaErrorNotReady) {
        waited = true;
        if (cuda->idle) {
            cuda->idle(false);
        }
    }
    if (waited && cuda->idle) {
        cuda->idle(true);
    }
    return ls_cuda_check(error, "waiting for the device", __FILE__, __LINE__);
}

ls_status ls_cuda_sync(ls_device *dev) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    LS_CUDA_TRY(cudaEventRecord(cuda->awaited, cuda->compute), "recording an event");
    return ls_cuda_wait(cuda, cuda->awaited);
}

ls_status ls_cuda_mark(ls_device *dev, int which) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    LS_CUDA_TRY(cudaEventRecord(cuda->marks[which], cuda->compute), "recording an event");
    cuda->marked[which] = true;
    return LS_OK;
}

ls_status ls_cuda_between(ls_device *dev, int from, int to, double *seconds) {
    const ls_cuda_device *cuda = ls_cuda_of(dev);
    const int ends[] = {from, to};
    float ms;
    *seconds = NAN;
    for (int i = 0; i < 2; i++) {
        if (!cuda->marked[ends[i]]) {
            return LS_OK;
        }
        const cudaError_t error = ls_cuda_query(cuda->marks[ends[i]]);
        if (error == cudaErrorNotReady) {
            return LS_OK;
        }
        LS_CUDA_TRY(error, "asking for an event");
    }
    LS_CUDA_TRY(cudaEventElapsedTime(&ms, cuda->marks[from], cuda->marks[to]),
                "reading the device's clock");
    *seconds = 1e-3 * (double)ms;
    return LS_OK;
}

ls_status ls_cuda_alloc(ls_device *dev, size_t bytes, void **memory) {
    *memory = NULL;
    if (bytes == 0) {
        bytes = 1;
    }
    const cudaError_t error = cudaMalloc(memory, bytes);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* it is dealt with here */
        size_t free_bytes = 0, total_bytes = 0;
        cudaMemGetInfo(&free_bytes, &total_bytes);
        char wanted[32], left[32];
        return LS_FAIL(LS_E_MEMORY,
                       "the GPU found no room for %s (%s are free); use a smaller model or "
                       "batch.micro, or more ranks",
                       ls_text_bytes(wanted, sizeof wanted, (double)bytes),
                       ls_text_bytes(left, sizeof left, (double)free_bytes));
    }
    LS_CUDA_TRY(error, "taking memory, or work before it");
    return ls_cuda_zero(dev, *memory, bytes);
}

void ls_cuda_free(ls_device *dev, void *memory) {
    (void)dev;
    cudaFree(memory);
}

ls_status ls_cuda_free_bytes(ls_device *dev, int64_t *bytes) {
    (void)dev;
    size_t free_bytes = 0, total_bytes = 0;
    LS_CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for free memory");
    *bytes = (int64_t)free_bytes;
    return LS_OK;
}

ls_status ls_cuda_zero(ls_device *dev, void *memory, size_t bytes) {
    if (bytes > 0) {
        LS_CUDA_TRY(cudaMemsetAsync(memory, 0, bytes, ls_cuda_of(dev)->compute), "filling memory");
    }
    return LS_OK;
}

ls_status ls_cuda_copy(ls_device *dev, void *to, const void *from, size_t bytes) {
    if (bytes > 0) {
        LS_CUDA_TRY(
            cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, ls_cuda_of(dev)->compute),
            "copying on the device");
    }
    return LS_OK;
}

/* The next stage, once the copy that last used it is over. */
static ls_status take_stage(ls_cuda_device *cuda, int *stage) {
    *stage = cuda->next_stage;
    cuda->next_stage = (cuda->next_stage + 1) % LS_CUDA_STAGES;
    return ls_cuda_wait(cuda, cuda->stage[*stage].free);
}

/* Tokens of a micro-batch and the like: there are so many small stages that the host need not wait
 * for the work before the copy. */
static ls_status take_small_stage(ls_cuda_device *cuda, int *stage) {
    *stage = LS_CUDA_STAGES + cuda->next_small;
    cuda->next_small = (cuda->next_small + 1) % LS_CUDA_SMALL_STAGES;
    return ls_cuda_wait(cuda, cuda->stage[*stage].free);
}

ls_status ls_cuda_upload(ls_device *dev, void *to_device, const void *from_host, size_t bytes) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    for (size_t at = 0; at < bytes; at += STAGE_BYTES) {
        const size_t count = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
        int s;
        LS_TRY(bytes <= SMALL_BYTES ? take_small_stage(cuda, &s) : take_stage(cuda, &s));
        memcpy(cuda->stage[s].memory, (const char *)from_host + at, count);
        LS_CUDA_TRY(cudaMemcpyAsync((char *)to_device + at, cuda->stage[s].memory, count,
                                    cudaMemcpyHostToDevice, cuda->compute),
                    "copying to the device");
        LS_CUDA_TRY(cudaEventRecord(cuda->stage[s].free, cuda->compute), "recording an event");
    }
    return LS_OK;
}

/* Two copies are under way at a time: one comes in while the one before is taken out. */
ls_status ls_cuda_download(ls_device *dev, void *to_host, const void *from_device, size_t bytes) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    int pending = -1;
    size_t pending_at = 0, pending_bytes = 0;
    for (size_t at = 0; at < bytes || pending >= 0; at += STAGE_BYTES) {
        int s = -1;
        size_t count = 0;
        if (at < bytes) {
            count = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
            LS_TRY(take_stage(cuda, &s));
            LS_CUDA_TRY(cudaMemcpyAsync(cuda->stage[s].memory, (const char *)from_device + at,
                                        count, cudaMemcpyDeviceToHost, cuda->compute),
                        "copying from the device");
            LS_CUDA_TRY(cudaEventRecord(cuda->stage[s].free, cuda->compute), "recording an event");
        }
        if (pending >= 0) {
            LS_TRY(ls_cuda_wait(cuda, cuda->stage[pending].free));
            memcpy((char *)to_host + pending_at, cuda->stage[pending].memory, pending_bytes);
        }
        pending = s;
        pending_at = at;
        pending_bytes = count;
    }
    return LS_OK;
}

ls_status ls_cuda_pin(ls_device *dev, void *host, size_t bytes) {
    (void)dev;
    LS_CUDA_TRY(cudaHostRegister(host, bytes, cudaHostRegisterDefault), "pinning memory");
    return LS_OK;
}

ls_status ls_cuda_unpin(ls_device *dev, void *host) {
    LS_CUDA_TRY(cudaStreamSynchronize(ls_cuda_of(dev)->copies), "waiting for copies");
    LS_CUDA_TRY(cudaHostUnregister(host), "unpinning memory");
    return LS_OK;
}

ls_status ls_cuda_fetch(ls_device *dev, void *pinned, const void *from_device, size_t bytes) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    LS_CUDA_TRY(cudaEventRecord(cuda->ready, cuda->compute), "recording an event");
    LS_CUDA_TRY(cudaStreamWaitEvent(cuda->copies, cuda->ready, 0), "ordering a copy");
    LS_CUDA_TRY(cudaMemcpyAsync(pinned, from_device, bytes, cudaMemcpyDeviceToHost, cuda->copies),
                "copying from the device");
    LS_CUDA_TRY(cudaEventRecord(cuda->fetched, cuda->copies), "recording an event");
    return LS_OK;
}

ls_status ls_cuda_hold(ls_device *dev) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    LS_CUDA_TRY(cudaStreamWaitEvent(cuda->compute, cuda->fetched, 0), "ordering after copies");
    return LS_OK;
}

ls_status ls_cuda_fetched(ls_device *dev, bool wait, bool *over) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    *over = true;
    if (wait) {
        return ls_cuda_wait(cuda, cuda->fetched);
    }
    const cudaError_t error = ls_cuda_query(cuda->fetched);
    *over = error != cudaErrorNotReady;
    return *over ? ls_cuda_check(error, "asking for copies", __FILE__, __LINE__) : LS_OK;
}

struct ls_cuda_retired {
    struct ls_cuda_retired *next;
    void *memory;
};

void ls_cuda_free_retired(ls_cuda_device *cuda) {
    while (cuda->retired) {
        struct ls_cuda_retired *r = cuda->retired;
        cuda->retired = r->next;
        cudaFree(r->memory);
        free(r);
    }
}

ls_status ls_cuda_grow(ls_cuda_device *cuda, size_t bytes, void **memory, size_t *capacity) {
    struct ls_cuda_retired *r = NULL;
    void *grown;
    if (bytes <= *capacity) {
        return LS_OK;
    }
    if (cuda->recordings > 0 && *memory) {
        LS_TRY(ls_calloc(1, sizeof *r, &r));
    }
    ls_status status = ls_cuda_alloc(&cuda->base, bytes, &grown);
    if (status != LS_OK) {
        free(r);
        return status;
    }
    if (r) {
        *r = (struct ls_cuda_retired){cuda->retired, *memory};
        cuda->retired = r;
        cuda->base.scratch_bytes += bytes;
    } else {
        cudaFree(*memory); /* waits for the work that uses it */
        cuda->base.scratch_bytes += bytes - *capacity;
    }
    *memory = grown;
    *capacity = bytes;
    return LS_OK;
}

ls_status ls_cuda_scratch(ls_cuda_device *cuda, size_t bytes, void **memory) {
    LS_TRY(ls_cuda_grow(cuda, bytes, &cuda->scratch, &cuda->scratch_capacity));
    *memory = cuda->scratch;
    return LS_OK;
}

void ls_cuda_close(ls_device *dev) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    if (!cuda) {
        return;
    }
    ls_cuda_cudnn_end(cuda);
    ls_cuda_gemm_destroy(cuda);
    ls_cuda_peek_end(cuda);
    ls_cuda_free_retired(cuda);
    cudaFree(cuda->scratch);
    cudaFree(cuda->sum);
    for (int s = 0; s < LS_CUDA_STAGES + LS_CUDA_SMALL_STAGES; s++) {
        if (cuda->stage[s].free) {
            cudaEventDestroy(cuda->stage[s].free);
        }
        cudaFreeHost(cuda->stage[s].memory);
    }
    cudaEvent_t events[] = {cuda->awaited, cuda->ready, cuda->fetched};
    for (size_t e = 0; e < sizeof events / sizeof *events; e++) {
        if (events[e]) {
            cudaEventDestroy(events[e]);
        }
    }
    for (int m = 0; m < LS_DEVICE_MARKS; m++) {
        if (cuda->marks[m]) {
            cudaEventDestroy(cuda->marks[m]);
        }
    }
    if (cuda->copies) {
        cudaStreamDestroy(cuda->copies);
    }
    if (cuda->compute) {
        cudaStreamDestroy(cuda->compute);
    }
    free(cuda);
}

ls_status ls_cuda_stream_create(bool urgent, cudaStream_t *stream) {
    int least = 0, greatest = 0;
    *stream = NULL;
    LS_CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
    LS_CUDA_TRY(
        cudaStreamCreateWithPriority(stream, cudaStreamNonBlocking, urgent ? greatest : least),
        "creating a stream");
    return LS_OK;
}

static ls_status take_resources(ls_cuda_device *cuda) {
    LS_TRY(ls_cuda_stream_create(false, &cuda->compute));
    LS_TRY(ls_cuda_stream_create(false, &cuda->copies));
    cudaEvent_t *events[] = {&cuda->awaited, &cuda->ready, &cuda->fetched};
    for (size_t e = 0; e < sizeof events / sizeof *events; e++) {
        LS_CUDA_TRY(cudaEventCreateWithFlags(events[e], cudaEventDisableTiming),
                    "creating an event");
    }
    for (int m = 0; m < LS_DEVICE_MARKS; m++) {
        LS_CUDA_TRY(cudaEventCreateWithFlags(&cuda->marks[m], cudaEventDefault),
                    "creating an event");
    }
    for (int s = 0; s < LS_CUDA_STAGES + LS_CUDA_SMALL_STAGES; s++) {
        LS_CUDA_TRY(
            cudaMallocHost(&cuda->stage[s].memory, s < LS_CUDA_STAGES ? STAGE_BYTES : SMALL_BYTES),
            "pinning memory");
        LS_CUDA_TRY(cudaEventCreateWithFlags(&cuda->stage[s].free, cudaEventDisableTiming),
                    "creating an event");
    }
    void *sum;
    LS_TRY(ls_cuda_alloc(&cuda->base, sizeof(double), &sum));
    cuda->sum = sum;
    return LS_OK;
}

static ls_status describe(ls_cuda_device *cuda) {
    struct cudaDeviceProp properties;
    int driver = 0;
    LS_CUDA_TRY(cudaGetDeviceProperties(&properties, cuda->ordinal), "asking for properties");
    LS_CUDA_TRY(cudaDriverGetVersion(&driver), "asking for the driver's version");
    if (properties.major < 8) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "GPU %d is a %s of compute capability %d.%d; lockstep needs 8.0 or more",
                       cuda->ordinal, properties.name, properties.major, properties.minor);
    }
    cuda->base.has_fp8 = 10 * properties.major + properties.minor >= 89;
    LS_CUDA_TRY(
        cudaDeviceGetPCIBusId(cuda->base.bus_id, (int)sizeof cuda->base.bus_id, cuda->ordinal),
        "asking for the PCI address");
    snprintf(cuda->base.describe, sizeof cuda->base.describe, "cuda: %.48s (sm_%d%d), driver %d.%d",
             properties.name, properties.major, properties.minor, driver / 1000,
             driver % 1000 / 10);
#ifndef LS_EMULATED_DEVICE
    /* Parts of a GPU (MIG) have one address and UUIDs of their own. */
    cuda->base.unit = ls_xxh64(properties.uuid.bytes, sizeof properties.uuid.bytes, 0) | 1;
#endif
    return LS_OK;
}

ls_status ls_device_open_cuda(const ls_device_options *options, ls_device **dev) {
    *dev = NULL;
    int count = 0;
    const int ordinal = options ? options->ordinal : 0;
    const char *how;
    if (!ls_device_has_cuda(&count, &how)) {
        return LS_FAIL(LS_E_UNSUPPORTED, "%s; check nvidia-smi, or set run.device to cpu", how);
    }
    if (ordinal < 0 || ordinal >= count) {
        return LS_FAIL(LS_E_INPUT, "GPU %d was asked for; this host has 0 to %d", ordinal,
                       count - 1);
    }
    LS_CUDA_TRY(cudaSetDevice(ordinal), "choosing the device");
    ls_cuda_device *cuda;
    LS_TRY(ls_calloc(1, sizeof *cuda, &cuda));
    cuda->base = (ls_device){.ops = &ls_cuda_ops,
                             .async = &ls_cuda_async_ops,
                             .acc = LS_F32,
                             .fast_bf16 = true,
                             .fuses_gelu = true,
                             .sums_dx = true,
                             .products_apart = true};
    cuda->base.threads = options && options->threads > 0 ? options->threads : 1;
    cuda->ordinal = ordinal;
    ls_status status = describe(cuda);
    LS_TRY_GOTO(status, fail);
    LS_TRY_GOTO(take_resources(cuda), fail);
    size_t free_bytes = 0, total_bytes = 0;
    LS_TRY_GOTO(ls_cuda_check(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for free memory",
                              __FILE__, __LINE__),
                fail);
    cuda->base.foreign_bytes = total_bytes - free_bytes;
    LS_TRY_GOTO(ls_cuda_cudnn_start(cuda, options ? options->attention : LS_ATTENTION_OWN), fail);
    *dev = &cuda->base;
    return LS_OK;
fail:
    ls_cuda_close(&cuda->base);
    return status;
}

/* The runtime that is linked in also answers 'insufficient driver' where there is none at all. */
static const char *why_no_gpu(cudaError_t error, bool *driver_found) {
    static char text[200];
    int driver = 0, built = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&built);
    *driver_found = driver > 0 && error != cudaSuccess && error != cudaErrorNoDevice;
    if (*driver_found && error == cudaErrorInsufficientDriver) {
        snprintf(text, sizeof text,
                 "no GPU can be used: the driver serves CUDA up to %d.%d and this lockstep was "
                 "built with %d.%d; install a newer driver, or build with an older CUDA Toolkit",
                 driver / 1000, driver % 1000 / 10, built / 1000, built % 1000 / 10);
    } else if (*driver_found) {
        snprintf(text, sizeof text, "no GPU can be used: CUDA says '%s' (error %d)",
                 cudaGetErrorString(error), (int)error);
    } else {
        snprintf(text, sizeof text, "no GPU was found");
    }
    return text;
}

/* What CUDA reads when it starts. Streams share so many queues of the hardware, 8 unless it is
 * told, and in a queue all wait for what cannot go on: a communicator's operation, for other
 * ranks, would hold up computation. There are streams for each communicator, and NCCL's own. */
static void set_environment(void) {
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
}

bool ls_device_has_cuda(int *count, const char **how) {
    *count = 0;
    bool driver_found = false;
    set_environment();
    const cudaError_t error = cudaGetDeviceCount(count);
    const bool found = error == cudaSuccess && *count > 0;
    cudaGetLastError();
#ifdef LS_EMULATED_DEVICE
    *how = "emulated GPU";
#else
    *how = "GPU";
#endif
    if (!found) {
        *how = why_no_gpu(error, &driver_found);
        *count = driver_found ? -1 : 0;
    }
    return found;
}
