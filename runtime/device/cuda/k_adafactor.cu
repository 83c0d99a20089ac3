/* What Adafactor sums over parameters, without the host: exact totals of each, its statistics, and
 * the rate of its update. A block, or a thread, for each parameter. */
#include "runtime/base/exact_sum.h"
#include "runtime/device/cuda/kernel.cuh"

__device__ __forceinline__ int32_t larger(int32_t a, int32_t b) {
    return a > b ? a : b;
}

__global__ void __launch_bounds__(THREADS)
    segment_scales_kernel(const int64_t *ends, const double *x, int32_t *scales) {
    LS_SHARED(int32_t, room, THREADS / 32);
    int32_t most = LS_EXACT_ZERO;
    for (int64_t i = ends[blockIdx.x] + threadIdx.x; i < ends[blockIdx.x + 1]; i += THREADS) {
        most = larger(most, ls_exact_scale(x[i]));
    }
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
        most = larger(most, __shfl_xor_sync(LS_ALL_LANES, most, half));
    }
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = most;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < THREADS / 32; w++) {
            most = larger(most, room[w]);
        }
        scales[blockIdx.x] = most;
    }
}

__global__ void __launch_bounds__(THREADS)
    segment_digits_kernel(const int64_t *ends, const double *x, const int32_t *scales,
                          int64_t *digits) {
    LS_SHARED(long long, room, LS_EXACT_DIGITS *(THREADS / 32));
    const int32_t unit = scales[blockIdx.x];
    ls_exact_sum sum = {{0}};
    for (int64_t i = ends[blockIdx.x] + threadIdx.x; i < ends[blockIdx.x + 1]; i += THREADS) {
        ls_exact_add(&sum, x[i], unit);
    }
#pragma unroll
    for (int d = 0; d < LS_EXACT_DIGITS; d++) {
        const long long total =
            block_sum<long long, THREADS / 32>((long long)sum.digit[d], room + d * (THREADS / 32));
        if (threadIdx.x == 0) {
            digits[LS_EXACT_DIGITS * (int64_t)blockIdx.x + d] = total;
        }
    }
}

__device__ __forceinline__ double total_of(const ls_adafactor_sums &s, int64_t i) {
    ls_exact_sum sum;
    for (int d = 0; d < LS_EXACT_DIGITS; d++) {
        sum.digit[d] = s.digits[LS_EXACT_DIGITS * i + d];
    }
    return ls_exact_value(&sum, s.scales[i]);
}

__global__ void __launch_bounds__(THREADS) splits_kernel(ls_adafactor_all o) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= o.count) {
        return;
    }
    const ls_adafactor_param p = o.params[i];
    const double scale = o.grad_scale * (o.verdict ? (double)o.verdict->factor : 1.0);
    double split[2];
    /* Twice: the scaled gradients are rounded. */
    ls_adafactor_splits(2.0 * total_of(o.grads, i) * scale * scale, p.padded_elems, split);
    for (int64_t m = p.first_term; m < p.first_term + p.matrices; m++) {
        o.terms[m].split[0] = split[0];
        o.terms[m].split[1] = split[1];
    }
}

/* n states: x = beta2 x + (1 - beta2) sum / each. */
__device__ __forceinline__ void blend_states(const ls_adafactor_all &o, int64_t n, double each,
                                             const double *sums, float *x) {
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        const double mean = (sums[2 * i] + sums[2 * i + 1]) / each;
        x[i] = (float)(o.beta2 * (double)x[i] + (1.0 - o.beta2) * mean);
    }
}

/* Rows and columns, and of each matrix the sum of the rows that count here. */
__global__ void __launch_bounds__(THREADS) states_kernel(ls_adafactor_all o) {
    LS_SHARED(double, room, 2 * (THREADS / 32));
    const ls_adafactor_param p = o.params[blockIdx.x];
    float *rows = (float *)o.row_states + p.row_entry;
    if (!o.verdict || o.verdict->wrong == 0) {
        blend_states(o, p.matrices * p.rows, p.row_elems, o.row_sums + 2 * p.row_entry, rows);
        blend_states(o, p.matrices * p.cols, p.col_elems, o.col_sums + 2 * p.col_entry,
                     (float *)o.col_states + p.col_entry);
    }
    __syncthreads();
    double sum = 0.0;
    for (int64_t m = 0; m < p.matrices; m++) {
        sum = 0.0;
        for (int64_t r = threadIdx.x; r < p.rows; r += THREADS) {
            sum += o.row_counts[p.row_entry + m * p.rows + r] ? (double)rows[m * p.rows + r] : 0.0;
        }
        sum = block_sum<double, THREADS / 32>(sum, room + m % 2 * (THREADS / 32));
        if (threadIdx.x == 0) {
            o.row_totals[p.first_term + m] = sum;
        }
    }
    if (threadIdx.x == 0) {
        o.row_means[blockIdx.x] = p.whole ? sum : 0.0;
    }
}

__global__ void __launch_bounds__(THREADS) factors_kernel(ls_adafactor_all o) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= o.count) {
        return;
    }
    const ls_adafactor_param p = o.params[i];
    for (int64_t m = p.first_term; m < p.first_term + p.matrices; m++) {
        const double mean = (p.whole ? o.row_means[i] : o.row_totals[m]) / p.col_elems;
        o.terms[m].factor = (float)(1.0 / (mean < 1e-30 ? 1e-30 : mean));
    }
}

__global__ void __launch_bounds__(THREADS) rates_kernel(ls_adafactor_all o) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= o.count) {
        return;
    }
    const ls_adafactor_param p = o.params[i];
    const double size = sqrt(total_of(o.sizes, i) / p.real_elems);
    const double update = sqrt(total_of(o.updates, i) / p.real_elems);
    const double rate = o.lr * p.lr_scale * fmax(o.least_size, size) / fmax(1.0, update);
    for (int64_t m = p.first_term; m < p.first_term + p.matrices; m++) {
        o.terms[m].lr = (float)rate;
    }
}

extern "C" void ls_cuda_launch_segment_scales(cudaStream_t stream, int64_t count,
                                              const int64_t *ends, const double *x,
                                              int32_t *scales) {
    LS_LAUNCH(segment_scales_kernel, (unsigned int)count, THREADS, 0, stream, ends, x, scales);
}

extern "C" void ls_cuda_launch_segment_digits(cudaStream_t stream, int64_t count,
                                              const int64_t *ends, const double *x,
                                              const int32_t *scales, int64_t *digits) {
    LS_LAUNCH(segment_digits_kernel, (unsigned int)count, THREADS, 0, stream, ends, x, scales,
              digits);
}

extern "C" void ls_cuda_launch_adafactor_all(cudaStream_t stream, const ls_adafactor_all *op) {
    const unsigned int blocks = grid_for(op->count, 1, THREADS, INT32_MAX);
    switch (op->what) {
    case LS_ADAFACTOR_SPLITS:
        LS_LAUNCH(splits_kernel, blocks, THREADS, 0, stream, *op);
        break;
    case LS_ADAFACTOR_STATES:
        LS_LAUNCH(states_kernel, (unsigned int)op->count, THREADS, 0, stream, *op);
        break;
    case LS_ADAFACTOR_FACTORS:
        LS_LAUNCH(factors_kernel, blocks, THREADS, 0, stream, *op);
        break;
    case LS_ADAFACTOR_RATES:
        LS_LAUNCH(rates_kernel, blocks, THREADS, 0, stream, *op);
        break;
    }
}
