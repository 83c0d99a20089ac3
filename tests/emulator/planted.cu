/* Kernels with and without the faults that the emulated device must report. */
#include "runtime/device/cuda/kernel.cuh"
#include "tests/emulator/planted.h"

/* Reverses 64 numbers through shared memory; without the barrier it is a race. */
__global__ void reverse_kernel(float *x, bool barrier) {
    LS_SHARED(float, room, 64);
    room[threadIdx.x] = x[threadIdx.x];
    if (barrier) {
        __syncthreads();
    }
    x[threadIdx.x] = room[63 - threadIdx.x];
}

/* The same within a warp, where __syncwarp is enough. */
__global__ void warp_reverse_kernel(float *x, bool barrier) {
    LS_SHARED(float, room, 64);
    room[threadIdx.x] = x[threadIdx.x];
    if (barrier) {
        __syncwarp();
    }
    x[threadIdx.x] = room[threadIdx.x ^ 31];
}

__global__ void fill_kernel(float *x, int n, float value) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        x[i] = value;
    }
}

__global__ void add_kernel(float *x, int n, float value) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        x[i] += value;
    }
}

__global__ void sum_kernel(const float *x, float *sum) {
    *sum = warp_sum(x[threadIdx.x]);
}

/* Half of a warp waits at the barrier, the other half for the whole warp. */
__global__ void parted_kernel(float *x) {
    if (threadIdx.x % 32 < 16) {
        __syncthreads();
    } else {
        x[threadIdx.x] = __shfl_sync(LS_ALL_LANES, x[threadIdx.x], 20);
    }
}

extern "C" void planted_reverse(cudaStream_t stream, float *x, bool barrier, bool in_warp) {
    auto kernel = in_warp ? warp_reverse_kernel : reverse_kernel;
    LS_LAUNCH(kernel, 1, 64, 0, stream, x, barrier);
}

extern "C" void planted_fill(cudaStream_t stream, float *x, int n, float value) {
    LS_LAUNCH(fill_kernel, (unsigned int)(n + 31) / 32, 32, 0, stream, x, n, value);
}

extern "C" void planted_add(cudaStream_t stream, float *x, int n, float value) {
    LS_LAUNCH(add_kernel, (unsigned int)(n + 31) / 32, 32, 0, stream, x, n, value);
}

extern "C" void planted_sum(cudaStream_t stream, const float *x, float *sum) {
    LS_LAUNCH(sum_kernel, 1, 32, 0, stream, x, sum);
}

extern "C" void planted_parted(cudaStream_t stream, float *x) {
    LS_LAUNCH(parted_kernel, 1, 64, 0, stream, x);
}
