/* Kernels with and without the faults that the emulated device must report. */
#include "runtime/device/cuda/attention_tile.cuh"
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

/* Half of a warp shuffles, the other half votes. */
__global__ void unlike_kernel(float *x, bool unlike) {
    if (unlike && threadIdx.x % 2 == 0) {
        x[threadIdx.x] = (float)__ballot_sync(LS_ALL_LANES, 1);
    } else {
        x[threadIdx.x] = __shfl_sync(LS_ALL_LANES, x[threadIdx.x], 20);
    }
}

/* A product by a warp of which some lanes have left. */
__global__ void product_kernel(float *x, int lanes) {
    const uint32_t a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if ((int)threadIdx.x >= lanes) {
        return;
    }
    mma_bf16(c, a, b);
    x[threadIdx.x] = c[0];
}

struct large_argument {
    char bytes[4096];
};

__global__ void argument_kernel(float *x, large_argument) {
    x[0] = 1.0f;
}

__global__ void four_kernel(float *x, int first) {
    const uint4 four = load_whole<uint4>(x + first);
    store_whole<uint4>(x + first, &four);
}

__global__ void large_kernel(float *x) {
    LS_SHARED_DYNAMIC(float, room);
    room[threadIdx.x] = 1.0f;
    x[threadIdx.x] = room[threadIdx.x];
}

/* The first half warp brings 16 rows of 16 bytes; the second warp reads them as matrices. */
__global__ void matrix_kernel(float *x, planted_fault fault) {
    LS_SHARED_DYNAMIC(bf16_t, rows);
    const int past = fault == PLANTED_PAST_SOURCE, odd = fault == PLANTED_UNALIGNED;
    if (threadIdx.x < 16) {
        const bf16_t *from = (const bf16_t *)x + 8 * (threadIdx.x + past);
        copy_async(rows + 8 * threadIdx.x, from + odd, true);
        copy_commit();
        if (fault == PLANTED_LAST_GROUP) {
            copy_wait_but<1>();
        } else if (fault != PLANTED_NO_WAIT) {
            copy_wait_but<0>();
        }
    }
    if (fault != PLANTED_NO_BARRIER) {
        __syncthreads();
    }
    if (threadIdx.x >= 32) {
        const int row = threadIdx.x % 16 + (fault == PLANTED_PAST_SHARED);
        uint32_t r[4];
        load_matrices<false>(r, rows + 8 * row + (fault == PLANTED_ODD_ROW));
        x[threadIdx.x] = (float)r[0];
    }
    if (fault == PLANTED_NO_WAIT || fault == PLANTED_LAST_GROUP) {
        copy_wait();
    }
}

extern "C" void planted_matrix(cudaStream_t stream, float *x, planted_fault fault) {
    LS_LAUNCH(matrix_kernel, 1, 64, 16 * 16, stream, x, fault);
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

extern "C" void planted_unlike(cudaStream_t stream, float *x, bool unlike) {
    LS_LAUNCH(unlike_kernel, 1, 32, 0, stream, x, unlike);
}

extern "C" void planted_product(cudaStream_t stream, float *x, int lanes) {
    LS_LAUNCH(product_kernel, 1, 32, 0, stream, x, lanes);
}

extern "C" void planted_argument(cudaStream_t stream, float *x) {
    LS_LAUNCH(argument_kernel, 1, 1, 0, stream, x, large_argument{});
}

extern "C" void planted_four(cudaStream_t stream, float *x, int first) {
    LS_LAUNCH(four_kernel, 1, 1, 0, stream, x, first);
}

extern "C" void planted_large(cudaStream_t stream, float *x, int bytes, bool asked_for) {
    if (asked_for) {
        cudaFuncSetAttribute(large_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    }
    LS_LAUNCH(large_kernel, 1, 32, (size_t)bytes, stream, x);
}

extern "C" void planted_high(cudaStream_t stream, float *x, unsigned int blocks) {
    LS_LAUNCH(fill_kernel, dim3(1, blocks), 32, 0, stream, x, 32, 1.0f);
}
