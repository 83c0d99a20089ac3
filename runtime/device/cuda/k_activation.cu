/* GELU, SwiGLU and rotary embeddings: one pass, element by element. */
#include "runtime/device/cuda/kernel.cuh"

/* e^x and 1 / x as precise as results of T can show. */
template <class T> __device__ __forceinline__ float exp_for(float x) {
    return sizeof(T) == sizeof(float) ? expf(x) : exp_of(x);
}

template <class T> __device__ __forceinline__ float inverse_for(float x) {
    return sizeof(T) == sizeof(float) ? 1.0f / x : reciprocal(x);
}

template <class T> __device__ __forceinline__ float sigmoid(float x) {
    return inverse_for<T>(1.0f + exp_for<T>(-x));
}

/* 2 sqrt(2/pi) and its product with 0.044715: (1 + tanh(u)) / 2 = sigmoid(2u), which keeps the
 * relative accuracy of the left tail. */
#define GELU_LINEAR 1.5957691216057308f
#define GELU_CUBIC  0.07135481282553147f

template <class T> __device__ __forceinline__ float gelu(float x) {
    return x * sigmoid<T>(x * (GELU_LINEAR + GELU_CUBIC * x * x));
}

/* y = x s(z): y' = s + x s (1 - s) z', where 1 - s = e^-z s loses no digits. Beyond |x| = 9.5, y'
 * is 0 or 1 in fp32 and e^-z would overflow; the clamp keeps a NaN. */
template <class T> __device__ __forceinline__ float gelu_slope(float x) {
    x = fabsf(x) > 9.5f ? copysignf(9.5f, x) : x;
    const float e = exp_for<T>(-x * (GELU_LINEAR + GELU_CUBIC * x * x));
    const float s = inverse_for<T>(1.0f + e);
    return s + x * s * (e * s) * (GELU_LINEAR + 3.0f * GELU_CUBIC * x * x);
}

template <class T, bool BACKWARD>
__global__ void __launch_bounds__(THREADS)
    gelu_kernel(int64_t n, const T *x, const T *dy, T *out, bool wide) {
    constexpr int P = pack<T>::size, LOADS = 2; /* under way of each thread */
    constexpr int64_t AT_ONCE = BACKWARD ? 1 : 2;
    const int64_t step = (int64_t)gridDim.x * blockDim.x * P;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * P; i < n;
         i += AT_ONCE * step) {
        uint4 raw[LOADS];
        raw[0] = load_raw(x, i, n, wide);
        raw[1] = BACKWARD ? load_raw(dy, i, n, wide) : load_raw(x, i + step, n, wide);
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            pack<T> a = unpack<T>(raw[u]);
            const pack<T> d = unpack<T>(raw[1]);
#pragma unroll
            for (int j = 0; j < P; j++) {
                a.v[j] = BACKWARD ? d.v[j] * gelu_slope<T>(a.v[j]) : gelu<T>(a.v[j]);
            }
            store_pack(out, i + u * step, n, wide, a);
        }
    }
}

template <class T> static void launch_gelu_forward(cudaStream_t stream, const ls_gelu *op) {
    const T *x = (const T *)op->x;
    T *y = (T *)op->y;
    auto kernel = gelu_kernel<T, false>;
    LS_LAUNCH(kernel, grid_for(op->n, pack<T>::size, THREADS, GRID_MOST), THREADS, 0, stream, op->n,
              x, (const T *)NULL, y, is_aligned(x) && is_aligned(y));
}

template <class T> static void launch_gelu_backward(cudaStream_t stream, const ls_gelu *op) {
    const T *x = (const T *)op->x, *dy = (const T *)op->dy;
    T *dx = (T *)op->dx;
    auto kernel = gelu_kernel<T, true>;
    LS_LAUNCH(kernel, grid_for(op->n, pack<T>::size, THREADS, GRID_MOST), THREADS, 0, stream, op->n,
              x, dy, dx, is_aligned(x) && is_aligned(dy) && is_aligned(dx));
}

extern "C" void ls_cuda_launch_gelu_forward(cudaStream_t stream, const ls_gelu *op) {
    LS_BY_DTYPE(op->dtype, launch_gelu_forward, stream, op);
}

extern "C" void ls_cuda_launch_gelu_backward(cudaStream_t stream, const ls_gelu *op) {
    LS_BY_DTYPE(op->dtype, launch_gelu_backward, stream, op);
}

/* A pack of a row's gates with the same pack of its ups; `packs` of them to a row. */
template <class T, bool BACKWARD>
__global__ void __launch_bounds__(THREADS)
    swiglu_kernel(uint32_t items, divider packs, int64_t F, const T *x, const T *dy, T *out,
                  bool wide) {
    constexpr int P = pack<T>::size;
    const uint32_t step = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < items; i += step) {
        const uint32_t r = i / packs;
        const int64_t row = r, f = (int64_t)(i - r * packs.by) * P;
        const uint4 raw_gate = load_raw(x + row * 2 * F, f, F, wide);
        const uint4 raw_up = load_raw(x + row * 2 * F + F, f, F, wide);
        pack<T> a, b;
        if (BACKWARD) {
            const uint4 raw = load_raw(dy + row * F, f, F, wide);
            const pack<T> gate = unpack<T>(raw_gate), up = unpack<T>(raw_up), d = unpack<T>(raw);
#pragma unroll
            for (int j = 0; j < P; j++) {
                const float g = gate.v[j], s = sigmoid<T>(g);
                a.v[j] = d.v[j] * up.v[j] * (s + g * s * (1.0f - s));
                b.v[j] = d.v[j] * g * s;
            }
            store_pack(out + row * 2 * F, f, F, wide, a);
            store_pack(out + row * 2 * F + F, f, F, wide, b);
        } else {
            const pack<T> gate = unpack<T>(raw_gate), up = unpack<T>(raw_up);
#pragma unroll
            for (int j = 0; j < P; j++) {
                a.v[j] = gate.v[j] * sigmoid<T>(gate.v[j]) * up.v[j];
            }
            store_pack(out + row * F, f, F, wide, a);
        }
    }
}

template <class T>
static void launch_swiglu(cudaStream_t stream, const ls_swiglu *op, const void *dy, void *out) {
    constexpr int P = pack<T>::size;
    const T *x = (const T *)op->x;
    const int64_t F = op->ffn, packs = (F + P - 1) / P, out_row = dy ? 2 * F : F;
    const bool wide =
        F % P == 0 && is_aligned(x) && is_aligned((const T *)dy) && is_aligned((const T *)out);
    auto kernel = dy ? swiglu_kernel<T, true> : swiglu_kernel<T, false>;
    by_rows(op->rows, packs, [&](int64_t first, int64_t count) {
        LS_LAUNCH(kernel, grid_for(count * packs, 1, THREADS, GRID_MOST), THREADS, 0, stream,
                  (uint32_t)(count * packs), divider_of(packs), F, x + first * 2 * F,
                  dy ? (const T *)dy + first * F : NULL, (T *)out + first * out_row, wide);
    });
}

extern "C" void ls_cuda_launch_swiglu_forward(cudaStream_t stream, const ls_swiglu *op) {
    LS_BY_DTYPE(op->dtype, launch_swiglu, stream, op, NULL, op->y);
}

extern "C" void ls_cuda_launch_swiglu_backward(cudaStream_t stream, const ls_swiglu *op) {
    LS_BY_DTYPE(op->dtype, launch_swiglu, stream, op, op->dy, op->dx);
}

struct rope_arguments {
    uint32_t items, place; /* place: in seq, of the first row */
    divider packs, heads, seq;
    int64_t half, row_stride;
    void *x;
    const float *cosines, *sines; /* from the first position on */
    float sign;
    bool wide, wide_table;
};

/* A pack of the lower half of a head with the same pack of the upper half. All that is loaded is
 * under way before any of it is used. */
template <class T> __global__ void __launch_bounds__(THREADS) rope_kernel(rope_arguments o) {
    constexpr int P = pack<T>::size, FOURS = P / 4;
    const uint32_t step = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < o.items; i += step) {
        const uint32_t line = i / o.packs, row = line / o.heads, place = o.place + row;
        const int64_t d = (int64_t)(i - line * o.packs.by) * P;
        T *low = (T *)o.x + row * o.row_stride + (line - row * o.heads.by) * 2 * o.half;
        T *high = low + o.half;
        const int64_t position = (place - place / o.seq * o.seq.by) * o.half;
        const uint4 raw_low = load_raw(low, d, o.half, o.wide);
        const uint4 raw_high = load_raw(high, d, o.half, o.wide);
        uint4 raw_c[FOURS], raw_s[FOURS];
#pragma unroll
        for (int k = 0; k < FOURS; k++) {
            raw_c[k] = load_raw(o.cosines + position, d + 4 * k, o.half, o.wide_table);
            raw_s[k] = load_raw(o.sines + position, d + 4 * k, o.half, o.wide_table);
        }
        pack<T> a = unpack<T>(raw_low), b = unpack<T>(raw_high);
#pragma unroll
        for (int k = 0; k < P; k++) {
            const float c = unpack<float>(raw_c[k / 4]).v[k % 4];
            const float angle = o.sign * unpack<float>(raw_s[k / 4]).v[k % 4];
            const float u = a.v[k], v = b.v[k];
            a.v[k] = u * c - v * angle;
            b.v[k] = v * c + u * angle;
        }
        store_pack(low, d, o.half, o.wide, a);
        store_pack(high, d, o.half, o.wide, b);
    }
}

template <class T> static void launch_rope(cudaStream_t stream, const ls_rope *op) {
    constexpr int P = pack<T>::size;
    const int64_t half = op->head_dim / 2, packs = (half + P - 1) / P, each = op->heads * packs;
    rope_arguments o = {};
    o.packs = divider_of(packs);
    o.heads = divider_of(op->heads);
    o.seq = divider_of(op->seq);
    o.half = half;
    o.row_stride = op->row_stride;
    o.cosines = (const float *)op->cos + op->offset * half;
    o.sines = (const float *)op->sin + op->offset * half;
    o.sign = op->inverse ? -1.0f : 1.0f;
    o.wide = half % P == 0 && op->row_stride % P == 0 && is_aligned((const T *)op->x);
    o.wide_table = half % 4 == 0 && is_aligned(o.cosines) && is_aligned(o.sines);
    auto kernel = rope_kernel<T>;
    by_rows(op->rows, each, [&](int64_t first, int64_t count) {
        o.items = (uint32_t)(count * each);
        o.place = (uint32_t)(first % op->seq);
        o.x = (T *)op->x + first * op->row_stride;
        LS_LAUNCH(kernel, grid_for(o.items, 1, THREADS, GRID_MOST), THREADS, 0, stream, o);
    });
}

extern "C" void ls_cuda_launch_rope(cudaStream_t stream, const ls_rope *op) {
    LS_BY_DTYPE(op->dtype, launch_rope, stream, op);
}
