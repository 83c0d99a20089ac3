/* Rounding to 8 bits: the largest magnitude, then the numbers at the scale that follows from it,
 * with rows and columns exchanged where the product wants them so. */
#include "runtime/device/cuda/kernel.cuh"

#ifndef LS_EMULATED_DEVICE
#include <cuda_fp8.h>
#endif

enum { TILE = 64, PIECE = 16 }; /* PIECE: bytes that a thread writes at once */

__device__ __forceinline__ unsigned char to_fp8(ls_fp8_format format, float x) {
#ifdef LS_EMULATED_DEVICE
    return ls_fp8_from_f32(format, x);
#else
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, format == LS_E4M3 ? __NV_E4M3 : __NV_E5M2);
#endif
}

/* NaNs are not counted: they stay NaNs at any scale. */
__device__ __forceinline__ float block_max(float x, float *room) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = x;
    }
    __syncthreads();
    float most = room[0];
    for (int w = 1; w < THREADS / 32; w++) {
        most = room[w] > most ? room[w] : most;
    }
    return most;
}

/* partial [gridDim.x]: the largest magnitude that each block has met, with what an earlier launch
 * left there if it is `more` of the same; `packs` of them to a row. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    largest_kernel(uint32_t items, divider packs, int64_t cols, int64_t ld, const T *x,
                   float *partial, bool more, bool wide) {
    LS_SHARED(float, room, THREADS / 32);
    constexpr int P = pack<T>::size;
    constexpr uint32_t AT_ONCE = 4; /* packs of a thread on their way */
    const uint32_t step = gridDim.x * blockDim.x;
    float most = more ? partial[blockIdx.x] : 0.0f;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < items; i += AT_ONCE * step) {
        uint4 raw[AT_ONCE];
#pragma unroll
        for (uint32_t u = 0; u < AT_ONCE; u++) {
            const uint32_t at = i + u * step, r = at / packs;
            const int64_t row = at < items ? r : 0, c = (int64_t)(at - r * packs.by) * P;
            raw[u] = load_raw(x + row * ld, c, at < items ? cols : 0, wide);
        }
#pragma unroll
        for (uint32_t j = 0; j < AT_ONCE * P; j++) {
            const float magnitude = fabsf(unpack<T>(raw[j / P]).v[j % P]);
            most = magnitude > most ? magnitude : most;
        }
    }
    most = block_max(most, room);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = most;
    }
}

/* The scale, for every thread; block 0 leaves its inverse. */
__device__ __forceinline__ float take_scale(ls_fp8_format format, int parts, const float *partial,
                                            float *inverse, float *room) {
    float most = 0.0f;
    for (int i = threadIdx.x; i < parts; i += THREADS) {
        most = partial[i] > most ? partial[i] : most;
    }
    const float scale = ls_fp8_scale(format, block_max(most, room));
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        *inverse = 1.0f / scale;
    }
    return scale;
}

/* y [rows, padded], zeros beyond cols; `pieces` of them to a row. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    round_kernel(ls_fp8_format format, uint32_t items, divider pieces, int64_t cols, int64_t ld,
                 const T *x, unsigned char *y, int parts, const float *partial, float *inverse,
                 bool wide) {
    LS_SHARED(float, room, THREADS / 32);
    constexpr int P = pack<T>::size;
    const float scale = take_scale(format, parts, partial, inverse, room);
    const uint32_t step = gridDim.x * blockDim.x;
    const int64_t padded = (int64_t)pieces.by * PIECE;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < items; i += step) {
        const uint32_t r = i / pieces;
        const int64_t row = r, col = (int64_t)(i - r * pieces.by) * PIECE;
        unsigned char out[PIECE];
#pragma unroll
        for (int j = 0; j < PIECE; j += P) {
            const pack<T> a = load_pack(x + row * ld, col + j, cols, wide);
#pragma unroll
            for (int k = 0; k < P; k++) {
                out[j + k] = to_fp8(format, a.v[k] * scale);
            }
        }
        store_whole<uint4>(y + row * padded + col, out);
    }
}

/* y [rows, padded] from x [cols, rows]: a tile for each block, through shared memory, whose rows
 * are 4 bytes longer so that a column does not lie in one bank. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    turn_kernel(ls_fp8_format format, int64_t rows, int64_t cols, int64_t ld, int64_t padded,
                const T *x, unsigned char *y, int parts, const float *partial, float *inverse,
                bool wide) {
    LS_SHARED(float, room, THREADS / 32);
    LS_SHARED(unsigned char, tile, TILE *(TILE + 4));
    constexpr int P = pack<T>::size;
    const float scale = take_scale(format, parts, partial, inverse, room);
    const int line = threadIdx.x / (TILE / PIECE), at = threadIdx.x % (TILE / PIECE) * PIECE;
    const int64_t first_row = (int64_t)blockIdx.x * TILE, first_col = (int64_t)blockIdx.y * TILE;
    for (int j = 0; j < PIECE; j += P) {
        pack<T> a = {};
        if (first_col + line < cols) {
            a = load_pack(x + (first_col + line) * ld, first_row + at + j, rows, wide);
        }
#pragma unroll
        for (int k = 0; k < P; k++) {
            tile[line * (TILE + 4) + at + j + k] = to_fp8(format, a.v[k] * scale);
        }
    }
    __syncthreads();
    if (first_row + line < rows && first_col + at < padded) {
        unsigned char out[PIECE];
#pragma unroll
        for (int j = 0; j < PIECE; j++) {
            out[j] = tile[(at + j) * (TILE + 4) + line];
        }
        store_whole<uint4>(y + (first_row + line) * padded + first_col + at, out);
    }
}

template <class T> static void launch_fp8(cudaStream_t stream, const ls_cuda_fp8 *op) {
    constexpr int P = pack<T>::size;
    const T *x = (const T *)op->x;
    unsigned char *y = (unsigned char *)op->y;
    const bool wide = op->ld % P == 0 && is_aligned(x);
    const int64_t stored_rows = op->turned ? op->cols : op->rows;
    const int64_t stored_cols = op->turned ? op->rows : op->cols;
    auto largest = largest_kernel<T>;
    auto rounding = round_kernel<T>;
    auto turning = turn_kernel<T>;
    const int64_t packs = (stored_cols + P - 1) / P, pieces = op->padded / PIECE;
    const unsigned int parts = grid_for(stored_rows * packs, 1, THREADS, LS_CUDA_FP8_PARTS);
    by_rows(stored_rows, packs, [&](int64_t first, int64_t count) {
        LS_LAUNCH(largest, parts, THREADS, 0, stream, (uint32_t)(count * packs), divider_of(packs),
                  stored_cols, op->ld, x + first * op->ld, op->partial, first > 0, wide);
    });
    if (op->turned) {
        const dim3 grid((unsigned int)((op->rows + TILE - 1) / TILE),
                        (unsigned int)((op->padded + TILE - 1) / TILE));
        LS_LAUNCH(turning, grid, THREADS, 0, stream, op->format, op->rows, op->cols, op->ld,
                  op->padded, x, y, (int)parts, op->partial, op->inverse, wide);
        return;
    }
    by_rows(op->rows, pieces, [&](int64_t first, int64_t count) {
        LS_LAUNCH(rounding, grid_for(count * pieces, 1, THREADS, GRID_MOST), THREADS, 0, stream,
                  op->format, (uint32_t)(count * pieces), divider_of(pieces), op->cols, op->ld,
                  x + first * op->ld, y + first * op->padded, (int)parts, op->partial, op->inverse,
                  wide);
    });
}

extern "C" void ls_cuda_launch_fp8(cudaStream_t stream, const ls_cuda_fp8 *op) {
    LS_BY_DTYPE(op->dtype, launch_fp8, stream, op);
}
