/* Softmax cross-entropy, fused: a block for each row finds the softmax's denominator online
 * (Milakov & Gimelshein 2018, arXiv 1805.02867) in one pass and writes the gradient in a second,
 * from the end of the row, whose last part came last. Large blocks: what all rows under way take,
 * 26 MB on 132 multiprocessors with 50257 columns, is to stay in the second cache in between. */
#include "runtime/device/cuda/kernel.cuh"

#include <float.h>

enum { LOSS_THREADS = 1024, LOSS_WARPS = LOSS_THREADS / 32 };

/* The maximum starts finite, so that exp(-inf - max) is 0 and +inf gives inf - inf; a NaN never
 * becomes the maximum but reaches the sum. */
__device__ __forceinline__ void denominator(const float *x, int64_t vocab, bool wide, float *room,
                                            float *max_out, double *sum_out, double *sums) {
    float max = -FLT_MAX, sum = 0.0f;
    constexpr int AT_ONCE = 2; /* packs, so that enough of them are on their way */
    for (int64_t v = threadIdx.x * 4; v < vocab; v += AT_ONCE * LOSS_THREADS * 4) {
        pack<float> a[AT_ONCE];
        float largest = max;
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            a[u] = load_pack(x, v + u * LOSS_THREADS * 4, vocab, wide);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE * 4; i++) {
            const bool inside = v + i / 4 * LOSS_THREADS * 4 + i % 4 < vocab;
            largest = inside && a[i / 4].v[i % 4] > largest ? a[i / 4].v[i % 4] : largest;
        }
        if (largest > max) {
            sum *= expf(max - largest);
            max = largest;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE * 4; i++) {
            const bool inside = v + i / 4 * LOSS_THREADS * 4 + i % 4 < vocab;
            sum += inside ? expf(a[i / 4].v[i % 4] - max) : 0.0f;
        }
    }
    const float warp = warp_max(max);
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = warp;
    }
    __syncthreads();
    float whole = room[0];
#pragma unroll
    for (int w = 1; w < LOSS_WARPS; w++) {
        whole = room[w] > whole ? room[w] : whole;
    }
    /* A thread without elements has sum 0, and exp(-FLT_MAX - max) is 0 or 1. */
    *sum_out = block_sum<double, LOSS_WARPS>((double)(sum * expf(max - whole)), sums);
    *max_out = whole;
}

struct loss_arguments {
    int64_t rows, vocab, ld, first;
    const float *logits;
    const int32_t *targets;
    float *losses, *share;
    const float *shares;
    int parts;
    void *dlogits;
    float grad_scale;
    bool wide;
};

/* The column of this part that row `row` is to hit; -1: none. */
__device__ __forceinline__ int64_t target_column(const loss_arguments &o, int64_t row) {
    const int64_t column = o.targets[row] - o.first;
    return o.targets[row] >= 0 && column >= 0 && column < o.vocab ? column : -1;
}

/* dlogits may be logits: each element is read before it is written, by the same thread. */
template <class T>
__device__ __forceinline__ void gradient_row(const loss_arguments &o, int64_t row, float max,
                                             float factor, int64_t target) {
    constexpr int P = pack<T>::size;
    const float *x = o.logits + row * o.ld;
    T *dlogits = (T *)o.dlogits + row * o.ld;
    const bool ignored = o.targets[row] < 0;
    const int64_t strips = (o.ld + LOSS_THREADS * P - 1) / (LOSS_THREADS * P);
    for (int64_t strip = strips - 1; strip >= 0; strip--) {
        const int64_t v = (strip * LOSS_THREADS + threadIdx.x) * P;
        if (v >= o.ld) {
            continue;
        }
        pack<T> d;
#pragma unroll
        for (int k = 0; k < P; k += 4) {
            pack<float> a = {};
            if (!ignored) {
                a = load_pack(x, v + k, o.vocab, o.wide);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int64_t at = v + k + j;
                const float p = !ignored && at < o.vocab ? expf(a.v[j] - max) * factor : 0.0f;
                d.v[k + j] = at == target ? p - o.grad_scale : p;
            }
        }
        store_pack(dlogits, v, o.ld, o.wide, d);
    }
}

template <class T>
__global__ void __launch_bounds__(LOSS_THREADS) cross_entropy_kernel(loss_arguments o) {
    LS_SHARED(float, room, LOSS_WARPS);
    LS_SHARED(double, sums, LOSS_WARPS);
    const int64_t row = blockIdx.x, target = target_column(o, row);
    float max = 0.0f, factor = 0.0f;
    if (target >= 0) {
        double sum;
        const float *x = o.logits + row * o.ld, x_target = x[target];
        denominator(x, o.vocab, o.wide, room, &max, &sum, sums); /* ends behind a barrier */
        factor = (float)((double)o.grad_scale / sum);
        if (threadIdx.x == 0) {
            o.losses[row] = (float)(log(sum) + ((double)max - (double)x_target));
        }
    } else if (threadIdx.x == 0) {
        o.losses[row] = 0.0f;
    }
    if (o.dlogits) {
        gradient_row<T>(o, row, max, factor, target);
    }
}

__global__ void __launch_bounds__(LOSS_THREADS) share_kernel(loss_arguments o) {
    LS_SHARED(float, room, LOSS_WARPS);
    LS_SHARED(double, sums, LOSS_WARPS);
    const int64_t row = blockIdx.x, target = target_column(o, row);
    const float *x = o.logits + row * o.ld;
    float max;
    double sum;
    denominator(x, o.vocab, o.wide, room, &max, &sum, sums);
    if (threadIdx.x == 0) {
        o.share[3 * row] = max;
        o.share[3 * row + 1] = (float)sum;
        o.share[3 * row + 2] = target < 0 ? 0.0f : x[target];
    }
}

template <class T> __global__ void __launch_bounds__(LOSS_THREADS) merge_kernel(loss_arguments o) {
    const int64_t row = blockIdx.x;
    float max = -FLT_MAX, factor = 0.0f;
    double sum = 0.0, x_target = 0.0;
    if (o.targets[row] >= 0) {
        for (int part = 0; part < o.parts; part++) {
            const float *share = o.shares + 3 * (part * o.rows + row);
            max = share[0] > max ? share[0] : max;
        }
        for (int part = 0; part < o.parts; part++) {
            const float *share = o.shares + 3 * (part * o.rows + row);
            sum += (double)share[1] * exp((double)share[0] - (double)max);
            x_target += (double)share[2];
        }
        factor = (float)((double)o.grad_scale / sum);
    }
    if (o.losses && threadIdx.x == 0) {
        o.losses[row] = o.targets[row] >= 0 ? (float)(log(sum) + ((double)max - x_target)) : 0.0f;
    }
    if (o.dlogits) {
        gradient_row<T>(o, row, max, factor, target_column(o, row));
    }
}

template <class T> static loss_arguments loss_arguments_of(const ls_cross_entropy *op) {
    loss_arguments o = {};
    o.rows = op->rows;
    o.vocab = op->vocab;
    o.ld = op->ld;
    o.first = op->first;
    o.logits = (const float *)op->logits;
    o.targets = op->targets;
    o.losses = (float *)op->losses;
    o.share = (float *)op->share;
    o.shares = (const float *)op->shares;
    o.parts = op->parts;
    o.dlogits = op->dlogits;
    o.grad_scale = (float)op->grad_scale;
    o.wide = op->ld % pack<T>::size == 0 && is_aligned(o.logits) && is_aligned((T *)op->dlogits);
    return o;
}

template <class T> static void launch(cudaStream_t stream, const ls_cross_entropy *op) {
    loss_arguments o = loss_arguments_of<T>(op);
    o.first = 0;
    auto kernel = cross_entropy_kernel<T>;
    LS_LAUNCH(kernel, (unsigned int)op->rows, LOSS_THREADS, 0, stream, o);
}

template <class T> static void launch_merge(cudaStream_t stream, const ls_cross_entropy *op) {
    auto kernel = merge_kernel<T>;
    LS_LAUNCH(kernel, (unsigned int)op->rows, LOSS_THREADS, 0, stream, loss_arguments_of<T>(op));
}

extern "C" void ls_cuda_launch_cross_entropy(cudaStream_t stream, const ls_cross_entropy *op) {
    LS_BY_DTYPE(op->dtype, launch, stream, op);
}

extern "C" void ls_cuda_launch_cross_entropy_share(cudaStream_t stream,
                                                   const ls_cross_entropy *op) {
    LS_LAUNCH(share_kernel, (unsigned int)op->rows, LOSS_THREADS, 0, stream,
              loss_arguments_of<float>(op));
}

extern "C" void ls_cuda_launch_cross_entropy_merge(cudaStream_t stream,
                                                   const ls_cross_entropy *op) {
    LS_BY_DTYPE(op->dtype, launch_merge, stream, op);
}
