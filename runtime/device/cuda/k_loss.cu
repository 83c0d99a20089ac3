/* Softmax cross-entropy, fused: a block finds a row's denominator of the softmax online (Milakov &
 * Gimelshein 2018, arXiv 1805.02867) in one pass and writes the gradient in a second.
 *
 * Where shared memory holds a row (50304 columns: 208 of 227 KiB on Hopper) the block keeps it
 * there and goes on to further rows, each of which comes while the gradient of the one before is
 * written: memory is busy throughout. Longer rows are read twice, the second time from the end,
 * whose last part came last; blocks are large so that what all rows under way take stays in the
 * second cache in between. */
#include "runtime/device/cuda/warp_matrix.cuh"

#include <float.h>

enum { LOSS_THREADS = 1024, LOSS_WARPS = LOSS_THREADS / 32 };

enum { AT_ONCE = 2 }; /* packs that are added together */

/* The share of a thread in a row's denominator, relative to the largest that it has met. That
 * starts finite, so that exp(-inf - max) is 0 and +inf gives inf - inf; a NaN never becomes the
 * maximum but reaches the sum. */
struct running_sum {
    float max, sum;
};

/* Packs of columns, LOSS_THREADS packs apart; `left`: columns from the first of these on. X is here
 * and below the type of the logits, T that of their gradients. */
template <bool WHOLE, class X>
__device__ __forceinline__ void add_some(running_sum &r, const pack<X> *a, int left) {
    constexpr int P = pack<X>::size;
    float largest = r.max;
#pragma unroll
    for (int i = 0; i < AT_ONCE * P; i++) {
        const bool inside = WHOLE || i / P * LOSS_THREADS * P + i % P < left;
        largest = inside && a[i / P].v[i % P] > largest ? a[i / P].v[i % P] : largest;
    }
    if (largest > r.max) {
        r.sum *= exp_of(r.max - largest);
        r.max = largest;
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE * P; i++) {
        const bool inside = WHOLE || i / P * LOSS_THREADS * P + i % P < left;
        r.sum += inside ? exp_of(a[i / P].v[i % P] - r.max) : 0.0f;
    }
}

template <class X>
__device__ __forceinline__ void add_packs(running_sum &r, const pack<X> *a, int64_t left) {
    constexpr int SPAN = ((AT_ONCE - 1) * LOSS_THREADS + 1) * pack<X>::size;
    if (left >= SPAN) {
        add_some<true>(r, a, SPAN);
    } else {
        add_some<false>(r, a, (int)left);
    }
}

/* The largest of a block's threads, for all of them; room [LOSS_WARPS]. */
__device__ __forceinline__ float largest_of(float x, float *room) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = x;
    }
    __syncthreads();
    return warp_max(room[threadIdx.x % LOSS_WARPS]);
}

template <class X>
__device__ __forceinline__ void denominator(const X *x, int64_t vocab, bool wide, float *room,
                                            float *max_out, double *sum_out, double *sums) {
    constexpr int P = pack<X>::size;
    running_sum own = {-FLT_MAX, 0.0f};
    for (int64_t v = threadIdx.x * P; v < vocab; v += AT_ONCE * LOSS_THREADS * P) {
        pack<X> a[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            a[u] = load_pack(x, v + u * LOSS_THREADS * P, vocab, wide);
        }
        add_packs(own, a, vocab - v);
    }
    const float whole = largest_of(own.max, room);
    /* A thread without elements has sum 0, and exp(-FLT_MAX - max) is 0 or 1. */
    *sum_out = block_sum<double, LOSS_WARPS>((double)(own.sum * exp_of(own.max - whole)), sums);
    *max_out = whole;
}

struct loss_arguments {
    int64_t rows, vocab, ld, first;
    const void *logits;
    const int32_t *targets;
    float *losses, *share;
    const float *shares;
    int parts;
    void *dlogits;
    float grad_scale;
    bool wide;
};

template <class X>
__device__ __forceinline__ const X *row_of(const loss_arguments &o, int64_t row) {
    return (const X *)o.logits + row * o.ld;
}

/* The column of this part that row `row` is to hit; -1: none. */
__device__ __forceinline__ int64_t target_column(const loss_arguments &o, int64_t row) {
    const int64_t column = o.targets[row] - o.first;
    return o.targets[row] >= 0 && column >= 0 && column < o.vocab ? column : -1;
}

/* dlogits may be logits: each element is read before it is written, by the same thread. */
template <class T, class X>
__device__ __forceinline__ void gradient_row(const loss_arguments &o, int64_t row, float max,
                                             float factor, int64_t target) {
    constexpr int P = pack<T>::size, X_P = pack<X>::size;
    const X *x = row_of<X>(o, row);
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
        for (int k = 0; k < P; k += X_P) {
            pack<X> a = {};
            if (!ignored) {
                a = load_pack(x, v + k, o.vocab, o.wide);
            }
#pragma unroll
            for (int j = 0; j < X_P; j++) {
                const int64_t at = v + k + j;
                const float p = !ignored && at < o.vocab ? exp_of(a.v[j] - max) * factor : 0.0f;
                d.v[k + j] = at == target ? p - o.grad_scale : p;
            }
        }
        store_pack(dlogits, v, o.ld, o.wide, d);
    }
}

template <class T, class X>
__global__ void __launch_bounds__(LOSS_THREADS) cross_entropy_kernel(loss_arguments o) {
    LS_SHARED(float, room, LOSS_WARPS);
    LS_SHARED(double, sums, LOSS_WARPS);
    const int64_t row = blockIdx.x, target = target_column(o, row);
    float max = 0.0f, factor = 0.0f;
    if (target >= 0) {
        double sum;
        const X *x = row_of<X>(o, row);
        const float x_target = to_float(x[target]);
        denominator(x, o.vocab, o.wide, room, &max, &sum, sums); /* ends behind a barrier */
        factor = (float)((double)o.grad_scale / sum);
        if (threadIdx.x == 0) {
            o.losses[row] = (float)(log(sum) + ((double)max - (double)x_target));
        }
    } else if (threadIdx.x == 0) {
        o.losses[row] = 0.0f;
    }
    if (o.dlogits) {
        gradient_row<T, X>(o, row, max, factor, target);
    }
}

/* A block's rows, kept in shared memory: pack k of a thread lies at k * LOSS_THREADS from its first
 * place. Pairs of packs are groups of copies, the last perhaps a single one. A row has less than
 * 2^17 columns. */
struct kept_rows {
    uint4 *own;
    int packs, vocab, ld;
};

/* The first column of a thread's pack. */
template <class X> __device__ __forceinline__ int kept_column(int k) {
    return (k * LOSS_THREADS + (int)threadIdx.x) * pack<X>::size;
}

/* Packs [first, first + AT_ONCE) of row x on their way; x NULL: nothing is. */
template <class X>
__device__ __forceinline__ void fetch_packs(const kept_rows &kept, int first, const X *x) {
#pragma unroll
    for (int k = first; x && k < first + AT_ONCE; k++) {
        if (kept_column<X>(k) < kept.ld) {
            copy_async(kept.own + k * LOSS_THREADS, x + kept_column<X>(k), true);
        }
    }
    copy_commit();
}

/* For all groups of copies but the last so many: a number that instructions have in them. */
__device__ __forceinline__ void wait_for_groups(int but) {
    switch (but) {
    case 0:
        return copy_wait_but<0>();
    case 1:
        return copy_wait_but<1>();
    case 2:
        return copy_wait_but<2>();
    case 3:
        return copy_wait_but<3>();
    case 4:
        return copy_wait_but<4>();
    case 5:
        return copy_wait_but<5>();
    default:
        return copy_wait_but<6>();
    }
}

enum { KEPT_PACKS_MAX = 14 }; /* 7 groups */

/* The row's largest logit, and grad_scale over its denominator; its loss to memory. */
template <class X>
__device__ __forceinline__ void kept_denominator(const loss_arguments &o, const kept_rows &kept,
                                                 int64_t row, int target, float *max_out,
                                                 float *factor_out) {
    LS_SHARED(float, room, LOSS_WARPS);
    LS_SHARED(double, sums, LOSS_WARPS);
    LS_SHARED(float, factor, 1);
    running_sum own = {-FLT_MAX, 0.0f};
    const int groups = (kept.packs + AT_ONCE - 1) / AT_ONCE;
    for (int i = 0; i < groups; i++) {
        pack<X> a[AT_ONCE] = {};
        wait_for_groups(groups - 1 - i);
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            if (kept_column<X>(i * AT_ONCE + u) < kept.ld) {
                a[u] = unpack<X>(load_whole<uint4>(kept.own + (i * AT_ONCE + u) * LOSS_THREADS));
            }
        }
        add_packs(own, a, kept.vocab - kept_column<X>(i * AT_ONCE));
    }
    const float whole = largest_of(own.max, room);
    const double part = warp_sum((double)(own.sum * exp_of(own.max - whole)));
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = part;
    }
    __syncthreads();
    float x_target = 0.0f;
    double sum = 0.0;
    if (threadIdx.x == 0) { /* whose first place is the row's */
        sum = sums[0];
        for (int w = 1; w < LOSS_WARPS; w++) {
            sum += sums[w];
        }
        factor[0] = (float)((double)o.grad_scale / sum);
        x_target = to_float(((const X *)kept.own)[target]);
    }
    __syncthreads(); /* from here on the row may give way to the next */
    *factor_out = factor[0];
    *max_out = whole;
    if (threadIdx.x == 0) {
        o.losses[row] = (float)(log(sum) + ((double)whole - (double)x_target));
    }
}

/* The gradient of a thread's packs [first, first + AT_ONCE) of a row. */
template <class T, class X>
__device__ __forceinline__ void kept_gradient(const loss_arguments &o, const kept_rows &kept,
                                              int first, T *dlogits, int target, float max,
                                              float factor) {
    constexpr int P = pack<X>::size;
#pragma unroll
    for (int k = first; k < first + AT_ONCE; k++) {
        const int v = kept_column<X>(k);
        if (v >= kept.ld) {
            continue;
        }
        pack<X> d = {};
        if (target >= 0) {
            const pack<X> a = unpack<X>(load_whole<uint4>(kept.own + k * LOSS_THREADS));
#pragma unroll
            for (int j = 0; j < P; j++) {
                d.v[j] = exp_of(a.v[j] - max) * factor;
            }
        }
        if (v + P > kept.vocab || (v <= target && target < v + P)) {
#pragma unroll
            for (int j = 0; j < P; j++) {
                d.v[j] = v + j >= kept.vocab ? 0.0f : d.v[j];
                d.v[j] -= v + j == target ? o.grad_scale : 0.0f;
            }
        }
        if constexpr (P == 4) {
            store_four(dlogits, v, kept.ld, d);
        } else {
            store_pack(dlogits, v, kept.ld, true, d);
        }
    }
}

template <class T, class X>
__global__ void __launch_bounds__(LOSS_THREADS) kept_kernel(loss_arguments o, int packs) {
    LS_SHARED_DYNAMIC(uint4, rows);
    const kept_rows kept = {rows + threadIdx.x, packs, (int)o.vocab, (int)o.ld};
    int64_t row = blockIdx.x;
    int target = (int)target_column(o, row);
    for (int k = 0; k < packs; k += AT_ONCE) {
        fetch_packs(kept, k, target >= 0 ? row_of<X>(o, row) : NULL);
    }
    while (row < o.rows) {
        const int64_t next = row + gridDim.x;
        const int next_target = next < o.rows ? (int)target_column(o, next) : -1;
        const X *next_x = next_target >= 0 ? row_of<X>(o, next) : NULL;
        float max = 0.0f, factor = 0.0f;
        if (target >= 0) {
            kept_denominator<X>(o, kept, row, target, &max, &factor);
        } else if (threadIdx.x == 0) {
            o.losses[row] = 0.0f;
        }
        for (int k = 0; k < packs; k += AT_ONCE) {
            if (o.dlogits) {
                kept_gradient<T, X>(o, kept, k, (T *)o.dlogits + row * o.ld, target, max, factor);
            }
            fetch_packs(kept, k, next_x);
        }
        row = next;
        target = next_target;
    }
    copy_wait();
}

template <class X> __global__ void __launch_bounds__(LOSS_THREADS) share_kernel(loss_arguments o) {
    LS_SHARED(float, room, LOSS_WARPS);
    LS_SHARED(double, sums, LOSS_WARPS);
    const int64_t row = blockIdx.x, target = target_column(o, row);
    const X *x = row_of<X>(o, row);
    float max;
    double sum;
    denominator(x, o.vocab, o.wide, room, &max, &sum, sums);
    if (threadIdx.x == 0) {
        o.share[3 * row] = max;
        o.share[3 * row + 1] = (float)sum;
        o.share[3 * row + 2] = target < 0 ? 0.0f : to_float(x[target]);
    }
}

template <class T, class X>
__global__ void __launch_bounds__(LOSS_THREADS) merge_kernel(loss_arguments o) {
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
        gradient_row<T, X>(o, row, max, factor, target_column(o, row));
    }
}

template <class T> static loss_arguments loss_arguments_of(const ls_cross_entropy *op) {
    loss_arguments o = {};
    o.rows = op->rows;
    o.vocab = op->vocab;
    o.ld = op->ld;
    o.first = op->first;
    o.logits = op->logits;
    o.targets = op->targets;
    o.losses = (float *)op->losses;
    o.share = (float *)op->share;
    o.shares = (const float *)op->shares;
    o.parts = op->parts;
    o.dlogits = op->dlogits;
    o.grad_scale = (float)op->grad_scale;
    o.wide = op->ld % pack<T>::size == 0 && is_aligned(o.logits) && is_aligned(o.dlogits);
    return o;
}

/* A row of so many packs a thread fits into shared memory, beside what the kernel has of its own;
 * multiprocessors: of this GPU. */
static bool fits(int64_t packs, int *multiprocessors) {
    const int64_t bytes = packs * LOSS_THREADS * (int64_t)sizeof(uint4) + 1024;
    int device = 0, most = 0;
    return packs <= KEPT_PACKS_MAX && cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) ==
               cudaSuccess &&
           cudaDeviceGetAttribute(multiprocessors, cudaDevAttrMultiProcessorCount, device) ==
               cudaSuccess &&
           bytes <= most;
}

template <class T> static void launch(cudaStream_t stream, const ls_cross_entropy *op) {
    loss_arguments o = loss_arguments_of<T>(op);
    const int64_t round = LOSS_THREADS * (op->narrow ? pack<T>::size : pack<float>::size);
    const int64_t packs = (o.ld + round - 1) / round;
    int blocks = 0;
    o.first = 0;
    if (o.wide && fits(packs, &blocks)) {
        auto keeping = op->narrow ? kept_kernel<T, T> : kept_kernel<T, float>;
        const int bytes = (int)packs * LOSS_THREADS * (int)sizeof(uint4);
        cudaFuncSetAttribute(keeping, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
        LS_LAUNCH(keeping, grid_for(o.rows, 1, 1, blocks), LOSS_THREADS, (size_t)bytes, stream, o,
                  (int)packs);
        return;
    }
    auto kernel = op->narrow ? cross_entropy_kernel<T, T> : cross_entropy_kernel<T, float>;
    LS_LAUNCH(kernel, (unsigned int)op->rows, LOSS_THREADS, 0, stream, o);
}

template <class X> static void launch_share(cudaStream_t stream, const ls_cross_entropy *op) {
    auto kernel = share_kernel<X>;
    LS_LAUNCH(kernel, (unsigned int)op->rows, LOSS_THREADS, 0, stream, loss_arguments_of<X>(op));
}

template <class T> static void launch_merge(cudaStream_t stream, const ls_cross_entropy *op) {
    auto kernel = op->narrow ? merge_kernel<T, T> : merge_kernel<T, float>;
    LS_LAUNCH(kernel, (unsigned int)op->rows, LOSS_THREADS, 0, stream, loss_arguments_of<T>(op));
}

extern "C" void ls_cuda_launch_cross_entropy(cudaStream_t stream, const ls_cross_entropy *op) {
    LS_BY_DTYPE(op->dtype, launch, stream, op);
}

extern "C" void ls_cuda_launch_cross_entropy_share(cudaStream_t stream,
                                                   const ls_cross_entropy *op) {
    LS_BY_DTYPE(op->narrow ? op->dtype : LS_F32, launch_share, stream, op);
}

extern "C" void ls_cuda_launch_cross_entropy_merge(cudaStream_t stream,
                                                   const ls_cross_entropy *op) {
    LS_BY_DTYPE(op->dtype, launch_merge, stream, op);
}
