/* LayerNorm and RMSNorm: a warp, or a block, for each row, which it holds in registers. */
#include "runtime/device/cuda/kernel.cuh"

enum { ROWS_A_BLOCK = 4 };

struct norm_forward_arguments {
    int64_t rows;
    int C;
    float eps;
    const void *x;
    const float *w, *b;
    void *y;
    float *mean, *rstd;
    bool wide, wide_w;
};

/* y of a row, of which a thread has the packs a. */
template <class T, bool CENTRED, int EACH, int PACKS>
__device__ __forceinline__ void store_norm(const norm_forward_arguments &o, int64_t row, pack<T> *a,
                                           float shift, float rest, float rstd) {
    constexpr int P = pack<T>::size;
    const int place = threadIdx.x % EACH;
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        const int c = (k * EACH + place) * P;
#pragma unroll
        for (int i = 0; i < P; i += 4) {
            const pack<float> w = load_pack(o.w, c + i, o.C, o.wide_w);
            pack<float> b = {};
            if (CENTRED) {
                b = load_pack(o.b, c + i, o.C, o.wide_w);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float d = CENTRED ? a[k].v[i + j] - shift - rest : a[k].v[i + j];
                a[k].v[i + j] = CENTRED ? d * rstd * w.v[j] + b.v[j] : d * rstd * w.v[j];
            }
        }
        store_pack((T *)o.y + row * o.C, c, o.C, o.wide, a[k]);
    }
}

/* The variance is the corrected two-pass sum (Chan, Golub, LeVeque 1983, doi:10.2307/2683386), and
 * y is taken from x - shift - rest, so that a row far from zero loses nothing to the rounded mean.
 * WHOLE: all threads of a block share a row, else those of a warp; a thread has PACKS packs. */
template <class T, bool CENTRED, bool WHOLE, int PACKS>
__global__ void __launch_bounds__(WHOLE ? THREADS : 32 * ROWS_A_BLOCK)
    norm_forward_kernel(norm_forward_arguments o) {
    constexpr int P = pack<T>::size, EACH = WHOLE ? THREADS : 32;
    LS_SHARED(float, room, 3 * THREADS / 32);
    const int place = threadIdx.x % EACH;
    const int64_t row =
        WHOLE ? (int64_t)blockIdx.x : (int64_t)blockIdx.x * ROWS_A_BLOCK + threadIdx.x / 32;
    if (row >= o.rows) {
        return;
    }
    const auto sum_of = [&](float part, int which) {
        return WHOLE ? block_sum<float, THREADS / 32>(part, room + which * (THREADS / 32))
                     : warp_sum(part);
    };
    uint4 raw[PACKS];
    pack<T> a[PACKS];
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        raw[k] = load_raw((const T *)o.x + row * o.C, (k * EACH + place) * P, o.C, o.wide);
    }
    float sum = 0.0f, off = 0.0f, squares = 0.0f;
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        a[k] = unpack<T>(raw[k]);
#pragma unroll
        for (int j = 0; CENTRED && j < P; j++) {
            sum += a[k].v[j];
        }
    }
    const float shift = CENTRED ? sum_of(sum, 0) / (float)o.C : 0.0f;
#pragma unroll
    for (int i = 0; i < PACKS * P; i++) {
        const bool inside = (i / P * EACH + place) * P + i % P < o.C;
        const float d = inside ? a[i / P].v[i % P] - shift : 0.0f;
        off += d;
        squares += d * d;
    }
    squares = sum_of(squares, 1);
    const float rest = CENTRED ? sum_of(off, 2) / (float)o.C : 0.0f;
    const float variance =
        squares / (float)o.C - rest * rest; /* rounding may leave it below zero */
    const float rstd = 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + o.eps);
    if (place == 0) {
        o.rstd[row] = rstd;
        if (CENTRED) {
            o.mean[row] = shift + rest;
        }
    }
    store_norm<T, CENTRED, EACH, PACKS>(o, row, a, shift, rest, rstd);
}

template <class T, bool CENTRED>
static void launch_forward_packs(cudaStream_t stream, const norm_forward_arguments &o) {
    constexpr int LAST = LS_CUDA_NORM_CHANNELS_MAX / (THREADS * pack<T>::size);
    const int64_t packs = (o.C + pack<T>::size - 1) / pack<T>::size;
    const bool whole = packs > 8 * 32;
    auto kernel = packs <= 2 * 32        ? norm_forward_kernel<T, CENTRED, false, 2>
                  : packs <= 4 * 32      ? norm_forward_kernel<T, CENTRED, false, 4>
                  : !whole               ? norm_forward_kernel<T, CENTRED, false, 8>
                  : packs <= 2 * THREADS ? norm_forward_kernel<T, CENTRED, true, 2>
                  : packs <= 4 * THREADS ? norm_forward_kernel<T, CENTRED, true, 4>
                  : packs <= 8 * THREADS ? norm_forward_kernel<T, CENTRED, true, 8>
                                         : norm_forward_kernel<T, CENTRED, true, LAST>;
    const int64_t each = whole ? 1 : ROWS_A_BLOCK;
    LS_LAUNCH(kernel, (unsigned int)((o.rows + each - 1) / each),
              whole ? THREADS : 32 * ROWS_A_BLOCK, 0, stream, o);
}

template <class T> static void launch_forward(cudaStream_t stream, const ls_norm *op) {
    const bool centred = op->kind == LS_LAYERNORM;
    norm_forward_arguments o = {};
    o.rows = op->rows;
    o.C = (int)op->channels;
    o.eps = (float)op->eps;
    o.x = op->x;
    o.w = (const float *)op->w;
    o.b = (const float *)op->b;
    o.y = op->y;
    o.mean = (float *)op->mean;
    o.rstd = (float *)op->rstd;
    o.wide = o.C % pack<T>::size == 0 && is_aligned((const T *)o.x) && is_aligned((T *)o.y);
    o.wide_w = is_aligned(o.w) && (!centred || is_aligned(o.b));
    if (centred) {
        launch_forward_packs<T, true>(stream, o);
    } else {
        launch_forward_packs<T, false>(stream, o);
    }
}

extern "C" void ls_cuda_launch_norm_forward(cudaStream_t stream, const ls_norm *op) {
    LS_BY_DTYPE(op->dtype, launch_forward, stream, op);
}
