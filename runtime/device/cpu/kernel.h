/* What the kernels share: elements by dtype, work by thread, sums over rows.
 *
 * A kernel is written once for both dtypes, as an LS_INLINE function with a `dtype` parameter, and
 * called through LS_BY_DTYPE, which makes the dtype a constant in each copy. It handles one item of
 * work (a row, a chunk, a block of rows) whose bounds depend on the shape only; items are shared
 * among threads by a static schedule, so that no result depends on the number of threads. Sums
 * along a row run in several accumulators by hand, because the vectoriser keeps one vector for
 * each. */
#ifndef LS_DEVICE_CPU_KERNEL_H
#define LS_DEVICE_CPU_KERNEL_H

#include "runtime/device/check.h"
#include "runtime/device/cpu/device_cpu.h"
#include "runtime/device/cpu/ops.h"
#include "runtime/device/cpu/row_blocks.h"
#include "runtime/device/cpu/vec_math.h"

/* function(..., dtype) with dtype a constant; dtype has been checked to be one of the two. */
#define LS_BY_DTYPE(dtype, function, ...)                                                          \
    do {                                                                                           \
        if ((dtype) == LS_BF16) {                                                                  \
            function(__VA_ARGS__, LS_BF16);                                                        \
        } else {                                                                                   \
            function(__VA_ARGS__, LS_F32);                                                         \
        }                                                                                          \
    } while (0)

LS_INLINE float ls_load(ls_dtype dtype, const void *p, int64_t i) {
    return dtype == LS_BF16 ? ls_bf16_to_f32(((const ls_bf16 *)p)[i]) : ((const float *)p)[i];
}

LS_INLINE void ls_store(ls_dtype dtype, void *p, int64_t i, float value) {
    if (dtype == LS_BF16) {
        ((ls_bf16 *)p)[i] = ls_bf16_from_f32(value);
    } else {
        ((float *)p)[i] = value;
    }
}

/* Threads for a pass over elems elements: one where starting the others (some microseconds) costs
 * more than it saves. */
enum { LS_PARALLEL_ELEMS = 32768 };
static inline int ls_threads_for(const ls_device *dev, int64_t elems) {
    return elems < LS_PARALLEL_ELEMS ? 1 : dev->threads;
}

/* Flat arrays are worked on in chunks of this many elements. */
enum { LS_CHUNK_ELEMS = 8192 };

enum { LS_COLUMN_TILE = 64 };

/* total[c] += the sum over blocks of partial[block * stride + c], for c < cols. */
static inline void ls_add_partials(ls_row_blocks blocks, const float *partial, int64_t stride,
                                   int64_t cols, float *total, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < cols; begin += LS_COLUMN_TILE) {
        const int64_t n = ls_min(LS_COLUMN_TILE, cols - begin);
        float sum[LS_COLUMN_TILE] = {0.0f};
        for (int64_t block = 0; block < blocks.count; block++) {
            const float *p = partial + block * stride + begin;
#pragma omp simd
            for (int64_t c = 0; c < n; c++) {
                sum[c] += p[c];
            }
        }
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            total[begin + c] += sum[c];
        }
    }
}

#endif
