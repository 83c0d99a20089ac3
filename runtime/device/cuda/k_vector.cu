/* The optimizer's update, and sums, copies and conversions of flat arrays. */
#include "runtime/device/cuda/kernel.cuh"

struct adamw_factors {
    float beta1, rest1, beta2, rest2; /* rest = 1 - beta */
    float m_hat, v_hat;               /* 1 / (1 - beta^t) */
    float lr, eps, weight_decay, grad_scale;
};

template <class T>
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(adamw_factors k, int64_t n, float *p, float *m, float *v, const float *grad,
                 T *copy, const ls_update_verdict *verdict, bool wide) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x * 4;
    if (!take_verdict(verdict, k.grad_scale)) {
        return;
    }
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < n; i += step) {
        pack<float> pp = load_pack(p, i, n, wide), mm = load_pack(m, i, n, wide);
        pack<float> vv = load_pack(v, i, n, wide);
        const pack<float> gg = load_pack(grad, i, n, wide);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float g = k.grad_scale * gg.v[j];
            mm.v[j] = k.beta1 * mm.v[j] + k.rest1 * g;
            vv.v[j] = k.beta2 * vv.v[j] + k.rest2 * g * g;
            const float update = mm.v[j] * k.m_hat / (sqrtf(vv.v[j] * k.v_hat) + k.eps);
            pp.v[j] -= k.lr * (update + k.weight_decay * pp.v[j]);
        }
        store_pack(p, i, n, wide, pp);
        store_pack(m, i, n, wide, mm);
        store_pack(v, i, n, wide, vv);
        if (copy) {
            store_four(copy, i, n, pp);
        }
    }
}

template <class T> static void launch_adamw(cudaStream_t stream, const ls_adamw *op) {
    const adamw_factors factors = {
        (float)op->beta1,
        (float)(1.0 - op->beta1),
        (float)op->beta2,
        (float)(1.0 - op->beta2),
        (float)(1.0 / (1.0 - pow(op->beta1, (double)op->t))),
        (float)(1.0 / (1.0 - pow(op->beta2, (double)op->t))),
        (float)op->lr,
        (float)op->eps,
        (float)op->weight_decay,
        (float)op->grad_scale,
    };
    float *p = (float *)op->p, *m = (float *)op->m, *v = (float *)op->v;
    const float *grad = (const float *)op->grad;
    const bool wide = is_aligned(p) && is_aligned(m) && is_aligned(v) && is_aligned(grad);
    auto kernel = adamw_kernel<T>;
    LS_LAUNCH(kernel, grid_for(op->n, 4, THREADS, GRID_MOST), THREADS, 0, stream, factors, op->n, p,
              m, v, grad, (T *)op->copy, op->verdict, wide);
}

extern "C" void ls_cuda_launch_adamw(cudaStream_t stream, const ls_adamw *op) {
    LS_BY_DTYPE(op->copy ? op->copy_dtype : LS_F32, launch_adamw, stream, op);
}

template <class T>
__global__ void __launch_bounds__(THREADS) add_kernel(int64_t n, const T *x, T *y, bool wide) {
    constexpr int P = pack<T>::size;
    const int64_t step = (int64_t)gridDim.x * blockDim.x * P;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * P; i < n; i += step) {
        pack<T> a = load_pack(y, i, n, wide);
        const pack<T> b = load_pack(x, i, n, wide);
#pragma unroll
        for (int j = 0; j < P; j++) {
            a.v[j] += b.v[j];
        }
        store_pack(y, i, n, wide, a);
    }
}

template <class T> static void launch_add(cudaStream_t stream, int64_t n, const void *x, void *y) {
    auto kernel = add_kernel<T>;
    const bool wide = is_aligned((const T *)x) && is_aligned((const T *)y);
    LS_LAUNCH(kernel, grid_for(n, pack<T>::size, THREADS, GRID_MOST), THREADS, 0, stream, n,
              (const T *)x, (T *)y, wide);
}

extern "C" void ls_cuda_launch_add(cudaStream_t stream, ls_dtype dtype, int64_t n, const void *x,
                                   void *y) {
    LS_BY_DTYPE(dtype, launch_add, stream, n, x, y);
}

/* In as many elements as the narrower type has in a pack. */
template <class X, class Y>
__global__ void __launch_bounds__(THREADS) cast_kernel(int64_t n, const X *x, Y *y, bool wide) {
    constexpr int R = pack<X>::size, W = pack<Y>::size, P = R > W ? R : W;
    const int64_t step = (int64_t)gridDim.x * blockDim.x * P;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * P; i < n; i += step) {
        float v[P];
#pragma unroll
        for (int j = 0; j < P; j += R) {
            const pack<X> a = load_pack(x, i + j, n, wide);
#pragma unroll
            for (int k = 0; k < R; k++) {
                v[j + k] = a.v[k];
            }
        }
#pragma unroll
        for (int j = 0; j < P; j += W) {
            pack<Y> b;
#pragma unroll
            for (int k = 0; k < W; k++) {
                b.v[k] = v[j + k];
            }
            store_pack(y, i + j, n, wide, b);
        }
    }
}

template <class X, class Y>
static void launch_between(cudaStream_t stream, int64_t n, const void *x, void *y) {
    constexpr int P = pack<X>::size > pack<Y>::size ? pack<X>::size : pack<Y>::size;
    auto kernel = cast_kernel<X, Y>;
    const bool wide = is_aligned((const X *)x) && is_aligned((const Y *)y);
    LS_LAUNCH(kernel, grid_for(n, P, THREADS, GRID_MOST), THREADS, 0, stream, n, (const X *)x,
              (Y *)y, wide);
}

template <class T> static void launch_cast(cudaStream_t stream, int64_t n, const void *x, void *y) {
    launch_between<float, T>(stream, n, x, y);
}

template <class T>
static void launch_widen(cudaStream_t stream, int64_t n, const void *x, void *y) {
    launch_between<T, float>(stream, n, x, y);
}

extern "C" void ls_cuda_launch_cast(cudaStream_t stream, ls_dtype dtype, int64_t n, const void *x,
                                    void *y) {
    LS_BY_DTYPE(dtype, launch_cast, stream, n, x, y);
}

extern "C" void ls_cuda_launch_widen(cudaStream_t stream, ls_dtype dtype, int64_t n, const void *x,
                                     void *y) {
    LS_BY_DTYPE(dtype, launch_widen, stream, n, x, y);
}

/* Sums: a block of threads for each block of 65,536 elements, then one that adds these in order. */
enum { SUM_BLOCK_ELEMS = 65536 };

__global__ void __launch_bounds__(THREADS)
    sum_kernel(int64_t n, const float *x, double *partial, bool wide) {
    LS_SHARED(double, room, THREADS / 32);
    const int64_t begin = (int64_t)blockIdx.x * SUM_BLOCK_ELEMS;
    const int64_t end = begin + SUM_BLOCK_ELEMS < n ? begin + SUM_BLOCK_ELEMS : n;
    double sum = 0.0;
#pragma unroll 4 /* loads under way at once */
    for (int64_t i = begin + threadIdx.x * 4; i < end; i += THREADS * 4) {
        const pack<float> a = load_pack(x, i, end, wide);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            sum += (double)a.v[j];
        }
    }
    sum = block_sum<double, THREADS / 32>(sum, room);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
    }
}

__global__ void __launch_bounds__(THREADS)
    sum_partials_kernel(int64_t count, const double *partial, double *sum) {
    LS_SHARED(double, room, THREADS);
    double total = 0.0;
    for (int64_t begin = 0; begin < count; begin += THREADS) {
        if (begin + threadIdx.x < count) {
            room[threadIdx.x] = partial[begin + threadIdx.x];
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            const int here = count - begin < THREADS ? (int)(count - begin) : (int)THREADS;
            for (int i = 0; i < here; i++) {
                total += room[i];
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        *sum = total;
    }
}

extern "C" void ls_cuda_launch_sum_partials(cudaStream_t stream, int64_t count,
                                            const double *partial, double *sum) {
    LS_LAUNCH(sum_partials_kernel, 1, THREADS, 0, stream, count, partial, sum);
}

extern "C" int64_t ls_cuda_sum_blocks(int64_t n) {
    return (n + SUM_BLOCK_ELEMS - 1) / SUM_BLOCK_ELEMS;
}

extern "C" void ls_cuda_launch_sum(cudaStream_t stream, int64_t n, const float *x, double *partial,
                                   double *sum) {
    const int64_t blocks = ls_cuda_sum_blocks(n);
    if (blocks > 0) {
        LS_LAUNCH(sum_kernel, (unsigned int)blocks, THREADS, 0, stream, n, x, partial,
                  is_aligned(x));
    }
    ls_cuda_launch_sum_partials(stream, blocks, partial, sum);
}

/* A warp for each piece; a lane has the positions of its number modulo 32. */
__global__ void __launch_bounds__(THREADS)
    squares_kernel(int64_t skipped, int64_t n, const float *x, int64_t count, double *sums) {
    const int64_t piece = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (piece >= count) {
        return;
    }
    double sum = 0.0;
    for (int i = lane; i < LS_SQUARES_ELEMS; i += 32) {
        const int64_t at = piece * LS_SQUARES_ELEMS + i - skipped;
        const double value = at >= 0 && at < n ? (double)x[at] : 0.0;
        sum += value * value;
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        sums[piece] = sum;
    }
}

extern "C" void ls_cuda_launch_squares(cudaStream_t stream, int64_t first, int64_t n,
                                       const float *x, double *sums) {
    const int64_t count = ls_squares_count(first, n);
    LS_LAUNCH(squares_kernel, (unsigned int)((count + THREADS / 32 - 1) / (THREADS / 32)), THREADS,
              0, stream, first % LS_SQUARES_ELEMS, n, x, count, sums);
}

/* What a product leaves to do, on [m, ldc]: once for each element. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    finish_kernel(int64_t m, int64_t n, int64_t ldc, T *c, const float *bias, const T *residual,
                  bool keep_c) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < m * n; i += step) {
        const int64_t at = i / n * ldc + i % n;
        float sum = keep_c ? to_float(c[at]) : 0.0f;
        if (bias) {
            sum += bias[i % n];
        }
        if (residual) {
            sum += to_float(residual[at]);
        }
        c[at] = from_float<T>(sum);
    }
}

template <class T> static void launch_finish(cudaStream_t stream, const ls_gemm *op, bool keep_c) {
    auto kernel = finish_kernel<T>;
    LS_LAUNCH(kernel, grid_for(op->m * op->n, 1, THREADS, GRID_MOST), THREADS, 0, stream, op->m,
              op->n, op->ldc, (T *)op->c, (const float *)op->bias, (const T *)op->residual, keep_c);
}

extern "C" void ls_cuda_launch_finish(cudaStream_t stream, const ls_gemm *op, bool keep_c) {
    LS_BY_DTYPE(op->c_dtype, launch_finish, stream, op, keep_c);
}

/* A pack of a row for each thread. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    copy_rows_kernel(bool add, uint32_t items, divider packs, int64_t cols, int64_t ldx,
                     int64_t ldy, const T *x, T *y, bool wide) {
    constexpr int P = pack<T>::size;
    const uint32_t step = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < items; i += step) {
        const uint32_t r = i / packs;
        const int64_t row = r, c = (int64_t)(i - r * packs.by) * P;
        pack<T> a = load_pack(x + row * ldx, c, cols, wide);
        if (add) {
            const pack<T> b = load_pack(y + row * ldy, c, cols, wide);
#pragma unroll
            for (int j = 0; j < P; j++) {
                a.v[j] += b.v[j];
            }
        }
        store_pack(y + row * ldy, c, cols, wide, a);
    }
}

template <class T> static void launch_copy_rows(cudaStream_t stream, const ls_copy_rows *op) {
    constexpr int P = pack<T>::size;
    const T *x = (const T *)op->x;
    T *y = (T *)op->y;
    const int64_t packs = (op->cols + P - 1) / P;
    const bool wide = op->ldx % P == 0 && op->ldy % P == 0 && is_aligned(x) && is_aligned(y);
    auto kernel = copy_rows_kernel<T>;
    by_rows(op->rows, packs, [&](int64_t first, int64_t count) {
        LS_LAUNCH(kernel, grid_for(count * packs, 1, THREADS, GRID_MOST), THREADS, 0, stream,
                  op->add, (uint32_t)(count * packs), divider_of(packs), op->cols, op->ldx, op->ldy,
                  x + first * op->ldx, y + first * op->ldy, wide);
    });
}

extern "C" void ls_cuda_launch_copy_rows(cudaStream_t stream, const ls_copy_rows *op) {
    LS_BY_DTYPE(op->dtype, launch_copy_rows, stream, op);
}
