/* Exact sums and the verdict on an update, without the host. Integers are added and compared, so
 * that the order of the atomic operations does not matter. */
#include "runtime/base/exact_sum.h"
#include "runtime/device/cuda/kernel.cuh"

__global__ void exact_clear_kernel(int32_t *scale, unsigned long long *digits) {
    if (scale) {
        *scale = LS_EXACT_ZERO;
    }
    for (int i = 0; digits && i < LS_EXACT_DIGITS; i++) {
        digits[i] = 0;
    }
}

__global__ void __launch_bounds__(THREADS)
    exact_scale_kernel(int64_t n, const double *x, int32_t *scale) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    int32_t most = LS_EXACT_ZERO;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        const int32_t own = ls_exact_scale(x[i]);
        most = own > most ? own : most;
    }
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
        const int32_t other = __shfl_xor_sync(LS_ALL_LANES, most, half);
        most = other > most ? other : most;
    }
    if (threadIdx.x % 32 == 0) {
        atomicMax(scale, most);
    }
}

__global__ void __launch_bounds__(THREADS)
    exact_digits_kernel(int64_t n, const double *x, const int32_t *scale,
                        unsigned long long *digits) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    const int32_t unit = *scale;
    ls_exact_sum sum = {{0}};
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        ls_exact_add(&sum, x[i], unit);
    }
#pragma unroll
    for (int d = 0; d < LS_EXACT_DIGITS; d++) {
        const long long total = warp_sum((long long)sum.digit[d]);
        if (threadIdx.x % 32 == 0) {
            atomicAdd(&digits[d], (unsigned long long)total);
        }
    }
}

__global__ void judge_kernel(ls_judge op) {
    ls_exact_sum sum, losses;
    for (int i = 0; i < LS_EXACT_DIGITS; i++) {
        sum.digit[i] = op.digits[i];
        losses.digit[i] = op.loss_digits ? op.loss_digits[i] : 0;
    }
    const double norm = sqrt(ls_exact_value(&sum, *op.scale));
    const double loss = op.loss_digits ? ls_exact_value(&losses, *op.loss_scale) : 0.0;
    op.verdict->norm = norm;
    op.verdict->factor =
        op.clip_norm > 0.0 && norm > op.clip_norm ? (float)(op.clip_norm / norm) : 1.0f;
    /* Not finite numbers compare false. */
    op.verdict->wrong = norm < INFINITY && loss < INFINITY && !(loss > op.most) ? 0 : 1;
    if (op.gate) {
        *op.gate = *op.verdict;
        op.gate->factor = 1.0f;
    }
}

extern "C" void ls_cuda_launch_exact_scale(cudaStream_t stream, int64_t n, const double *x,
                                           int32_t *scale) {
    LS_LAUNCH(exact_clear_kernel, 1, 1, 0, stream, scale, (unsigned long long *)nullptr);
    if (n > 0) {
        LS_LAUNCH(exact_scale_kernel, grid_for(n, 1, THREADS, GRID_MOST), THREADS, 0, stream, n, x,
                  scale);
    }
}

extern "C" void ls_cuda_launch_exact_digits(cudaStream_t stream, int64_t n, const double *x,
                                            const int32_t *scale, int64_t *digits) {
    LS_LAUNCH(exact_clear_kernel, 1, 1, 0, stream, (int32_t *)nullptr,
              (unsigned long long *)digits);
    if (n > 0) {
        LS_LAUNCH(exact_digits_kernel, grid_for(n, 1, THREADS, GRID_MOST), THREADS, 0, stream, n, x,
                  scale, (unsigned long long *)digits);
    }
}

extern "C" void ls_cuda_launch_judge(cudaStream_t stream, const ls_judge *op) {
    LS_LAUNCH(judge_kernel, 1, 1, 0, stream, *op);
}
