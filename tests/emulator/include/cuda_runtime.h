/* Stand-in for NVIDIA's cuda_runtime.h: the part of the CUDA runtime that lockstep uses, executed
 * on the host by tests/emulator. Names and meanings are those of the CUDA Runtime API and of the
 * CUDA C++ Programming Guide; what is not here is not used by lockstep. What is
 * checked stands in tests/emulator/emulator.h. */
#ifndef LS_EMULATOR_CUDA_RUNTIME_H
#define LS_EMULATOR_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#define LS_EMULATED_DEVICE 1
#define CUDART_VERSION     13000

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801
} cudaError_t;

typedef struct emu_stream *cudaStream_t;
typedef struct emu_event *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t;
typedef struct emu_graph *cudaGraphExec_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4
};

typedef enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal = 0,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaStreamCaptureModeRelaxed = 2
} cudaStreamCaptureMode;
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};

typedef struct uint3 {
    unsigned int x, y, z;
} uint3;
#ifdef __cplusplus
struct dim3 {
    unsigned int x, y, z;
    dim3(unsigned int a = 1, unsigned int b = 1, unsigned int c = 1) : x(a), y(b), z(c) {
    }
};
#else
typedef struct dim3 {
    unsigned int x, y, z;
} dim3;
#endif

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError(void);

cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMallocHost(void **memory, size_t bytes);
cudaError_t cudaFreeHost(void *memory);
enum { cudaHostRegisterDefault = 0 };
cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned int flags);
cudaError_t cudaHostUnregister(void *memory);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

/* Inside a kernel: who am I. */
uint3 emu_thread_index(void);
uint3 emu_block_index(void);
uint3 emu_block_size(void);
uint3 emu_grid_size(void);
#define threadIdx (emu_thread_index())
#define blockIdx  (emu_block_index())
#define blockDim  (emu_block_size())
#define gridDim   (emu_grid_size())
#define warpSize  32

/* What the device-side parts of this header stand on. */
void emu_syncthreads(void);
void emu_syncwarp(unsigned int mask);
/* Gives `bits` to the warp and returns what lane `from` gave; from < 0: the ballot of all bits. */
uint64_t emu_warp_exchange(unsigned int mask, uint64_t bits, int from);
int emu_lane(void);
void *emu_shared(const char *file, int line, size_t bytes);
void *emu_shared_dynamic(void);
/* An atomic read-modify-write is about to touch this memory. */
void emu_atomic_access(void *at, size_t bytes);
/* c += A B of one warp, in the register layout of mma.sync.m16n8k16 with bf16 operands. */
void emu_mma_bf16_16x8x16(float *c, const uint32_t *a, const uint32_t *b);
/* ldmatrix.x4 of 16-bit elements: each lane gives the 16 bytes of the row that it points to, and
 * gets its elements of the four matrices. */
void emu_share_matrices(uint32_t *r, const uint32_t *bytes, int transposed);
/* Accesses of so many bytes in one piece, before they are made. */
void emu_check_aligned(const char *what, const void *address, size_t bytes);
/* cp.async of 16 bytes: what was read, for when the thread waits for it. */
void emu_copy_later(void *to, const uint32_t *bytes);
/* Those since the last call are a group. */
void emu_copy_commit(void);
/* The next of those copies, in order, that is not in one of the last `but` groups; with -1 of all
 * of them. 0: there is none. */
int emu_copy_next(int but, void **to, uint32_t *bytes);

typedef void (*emu_code)(void); /* names a kernel */
cudaError_t emu_enqueue_kernel(const char *name, emu_code code, dim3 grid, dim3 block,
                               size_t shared_bytes, cudaStream_t stream, void (*call)(void *),
                               void *closure, size_t closure_bytes, void (*release)(void *));
/* Dynamic shared memory that a kernel may have; 48 KiB until then. */
cudaError_t emu_allow_shared(emu_code code, int bytes);

#ifdef __cplusplus
} /* extern "C" */

#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct alignas(8) uint2 {
    unsigned int x, y;
};
struct alignas(16) uint4 {
    unsigned int x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

inline void __syncthreads() {
    emu_syncthreads();
}
inline void __syncwarp(unsigned int mask = 0xffffffffu) {
    emu_syncwarp(mask);
}

template <class T> inline uint64_t emu_bits_of(T value) {
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T> inline T emu_from_bits(uint64_t bits) {
    T value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T> inline T __shfl_sync(unsigned int mask, T value, int lane) {
    return emu_from_bits<T>(emu_warp_exchange(mask, emu_bits_of(value), lane & 31));
}
template <class T> inline T __shfl_xor_sync(unsigned int mask, T value, int lane_mask) {
    return emu_from_bits<T>(
        emu_warp_exchange(mask, emu_bits_of(value), (emu_lane() ^ lane_mask) & 31));
}
template <class T> inline T __shfl_down_sync(unsigned int mask, T value, unsigned int delta) {
    const int from = emu_lane() + (int)delta;
    return emu_from_bits<T>(
        emu_warp_exchange(mask, emu_bits_of(value), from > 31 ? emu_lane() : from));
}
inline unsigned int __ballot_sync(unsigned int mask, int predicate) {
    return (unsigned int)emu_warp_exchange(mask, predicate != 0, -1);
}
inline int __any_sync(unsigned int mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned int mask, int predicate) {
    return __ballot_sync(mask, predicate) == mask;
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline int __popc(unsigned int x) {
    return __builtin_popcount(x);
}

/* As an approximate instruction (.approx.ftz) may have it: off by so many units in the last place,
 * up or down as its own bits decide, and 0 where numbers have no leading 1. Powers of two are
 * exact. */
inline float emu_approximately(float exact, uint32_t ulps) {
    uint32_t bits = (uint32_t)emu_bits_of(exact);
    const uint32_t exponent = bits >> 23 & 0xffu, fraction = bits & 0x7fffffu;
    if (exponent == 0) {
        return emu_from_bits<float>(bits & 0x80000000u);
    }
    if (exponent < 0xffu && fraction >= ulps && fraction + ulps <= 0x7fffffu) {
        bits += (bits * 2654435761u) >> 31 ? ulps : 0u - ulps;
    }
    return emu_from_bits<float>(bits);
}

inline void emu_load_matrices(uint32_t *r, const void *row, bool transposed) {
    emu_check_aligned("a row of ldmatrix", row, 16);
    const uint4 raw = *(const uint4 *)row;
    uint32_t bytes[4];
    __builtin_memcpy(bytes, &raw, sizeof bytes);
    emu_share_matrices(r, bytes, transposed);
}

/* Until the thread has waited, what was there is gone and what comes is not there. */
inline void emu_copy_async(void *to, const void *from, bool inside) {
    uint4 raw = {0, 0, 0, 0};
    emu_check_aligned("the source of cp.async", from, 16);
    emu_check_aligned("the target of cp.async", to, 16);
    if (inside) {
        raw = *(const uint4 *)from;
    }
    *(uint4 *)to = uint4{~0u, ~0u, ~0u, ~0u};
    uint32_t bytes[4];
    __builtin_memcpy(bytes, &raw, sizeof bytes);
    emu_copy_later(to, bytes);
}
inline void emu_copy_wait_but(int groups) {
    void *to;
    uint32_t bytes[4];
    while (emu_copy_next(groups, &to, bytes)) {
        *(uint4 *)to = uint4{bytes[0], bytes[1], bytes[2], bytes[3]};
    }
}
inline void emu_copy_wait() {
    emu_copy_wait_but(-1);
}

template <class T> __attribute__((no_sanitize("thread"))) T atomicAdd(T *at, T value) {
    emu_atomic_access(at, sizeof *at);
    const T before = *at;
    *at = before + value;
    return before;
}

inline __attribute__((no_sanitize("thread"))) int atomicMax(int *at, int value) {
    emu_atomic_access(at, sizeof *at);
    const int before = *at;
    *at = value > before ? value : before;
    return before;
}

/* A launch copies the arguments, as the hardware's constant bank does. */
template <class... P, class... A>
inline cudaError_t emu_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                              size_t shared_bytes, cudaStream_t stream, A... arguments) {
    struct closure {
        void (*kernel)(P...);
        std::tuple<P...> arguments;
    };
    closure *c = new closure{kernel, std::tuple<P...>(arguments...)};
    return emu_enqueue_kernel(
        name, (emu_code)kernel, grid, block, shared_bytes, stream,
        [](void *p) { std::apply(((closure *)p)->kernel, ((closure *)p)->arguments); }, c,
        sizeof *c, [](void *p) { delete (closure *)p; });
}

template <class K> inline cudaError_t cudaFuncSetAttribute(K kernel, cudaFuncAttribute, int bytes) {
    return emu_allow_shared((emu_code)kernel, bytes);
}
#endif

#endif
