/* GELU, SwiGLU and rotary embeddings: one pass, element by element. */
#include "runtime/device/cuda/kernel.cuh"

__device__ __forceinline__ float sigmoid(float x) {
    return reciprocal(1.0f + expf(-x));
}

/* 2 sqrt(2/pi) and its product with 0.044715: (1 + tanh(u)) / 2 = sigmoid(2u), which keeps the
 * relative accuracy of the left tail. */
#define GELU_LINEAR 1.5957691216057308f
#define GELU_CUBIC  0.07135481282553147f

__device__ __forceinline__ float gelu(float x) {
    return x * sigmoid(x * (GELU_LINEAR + GELU_CUBIC * x * x));
}

/* y = x s(z): y' = s + x s (1 - s) z', where 1 - s = e^-z s loses no digits. Beyond |x| = 9.5, y'
 * is 0 or 1 in fp32 and e^-z would overflow; the clamp keeps a NaN. */
__device__ __forceinline__ float gelu_slope(float x) {
    x = fabsf(x) > 9.5f ? copysignf(9.5f, x) : x;
    const float e = expf(-x * (GELU_LINEAR + GELU_CUBIC * x * x)), s = reciprocal(1.0f + e);
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
                a.v[j] = BACKWARD ? d.v[j] * gelu_slope(a.v[j]) : gelu(a.v[j]);
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
    swiglu_kernel(int64_t rows, int64_t F, const T *x, const T *dy, T *out, bool wide) {
    constexpr int P = pack<T>::size;
    const int64_t packs = (F + P - 1) / P, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * packs; i += step) {
        const int64_t row = i / packs, f = i % packs * P;
        const pack<T> gate = load_pack(x + row * 2 * F, f, F, wide);
        const pack<T> up = load_pack(x + row * 2 * F + F, f, F, wide);
        pack<T> a, b;
        if (BACKWARD) {
            const pack<T> d = load_pack(dy + row * F, f, F, wide);
#pragma unroll
            for (int j = 0; j < P; j++) {
                const float g = gate.v[j], s = sigmoid(g);
                a.v[j] = d.v[j] * up.v[j] * (s + g * s * (1.0f - s));
                b.v[j] = d.v[j] * g * s;
            }
            store_pack(out + row * 2 * F, f, F, wide, a);
            store_pack(out + row * 2 * F + F, f, F, wide, b);
        } else {
#pragma unroll
            for (int j = 0; j < P; j++) {
                a.v[j] = gate.v[j] * sigmoid(gate.v[j]) * up.v[j];
            }
            store_pack(out + row * F, f, F, wide, a);
        }
    }
}

template <class T>
static void launch_swiglu(cudaStream_t stream, const ls_swiglu *op, const void *dy, void *out) {
    constexpr int P = pack<T>::size;
    const T *x = (const T *)op->x;
    const bool wide = op->ffn % P == 0 && is_aligned(x) && is_aligned((const T *)dy) &&
                      is_aligned((const T *)out);
    auto kernel = dy ? swiglu_kernel<T, true> : swiglu_kernel<T, false>;
    LS_LAUNCH(kernel, grid_for(op->rows * ((op->ffn + P - 1) / P), 1, THREADS, GRID_MOST), THREADS,
              0, stream, op->rows, op->ffn, x, (const T *)dy, (T *)out, wide);
}

extern "C" void ls_cuda_launch_swiglu_forward(cudaStream_t stream, const ls_swiglu *op) {
    LS_BY_DTYPE(op->dtype, launch_swiglu, stream, op, NULL, op->y);
}

extern "C" void ls_cuda_launch_swiglu_backward(cudaStream_t stream, const ls_swiglu *op) {
    LS_BY_DTYPE(op->dtype, launch_swiglu, stream, op, op->dy, op->dx);
}

/* A pack of the lower half of a head with the same pack of the upper half. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    rope_kernel(int64_t rows, int64_t seq, int64_t offset, int64_t heads, int64_t head_dim,
                int64_t row_stride, T *x, const float *cosines, const float *sines, float sign,
                bool wide, bool wide_table) {
    constexpr int P = pack<T>::size;
    const int64_t half = head_dim / 2, packs = (half + P - 1) / P;
    const int64_t count = rows * heads * packs, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        const int64_t d = i % packs * P, head = i / packs % heads, row = i / packs / heads;
        T *low = x + row * row_stride + head * head_dim, *high = low + half;
        const int64_t position = (offset + row % seq) * half;
        pack<T> a = load_pack(low, d, half, wide), b = load_pack(high, d, half, wide);
#pragma unroll
        for (int k = 0; k < P; k += 4) {
            const pack<float> c = load_pack(cosines + position, d + k, half, wide_table);
            const pack<float> s = load_pack(sines + position, d + k, half, wide_table);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float u = a.v[k + j], v = b.v[k + j], angle = sign * s.v[j];
                a.v[k + j] = u * c.v[j] - v * angle;
                b.v[k + j] = v * c.v[j] + u * angle;
            }
        }
        store_pack(low, d, half, wide, a);
        store_pack(high, d, half, wide, b);
    }
}

template <class T> static void launch_rope(cudaStream_t stream, const ls_rope *op) {
    constexpr int P = pack<T>::size;
    const int64_t half = op->head_dim / 2;
    const bool wide = half % P == 0 && op->row_stride % P == 0 && is_aligned((const T *)op->x);
    auto kernel = rope_kernel<T>;
    LS_LAUNCH(kernel, grid_for(op->rows * op->heads * ((half + P - 1) / P), 1, THREADS, GRID_MOST),
              THREADS, 0, stream, op->rows, op->seq, op->offset, op->heads, op->head_dim,
              op->row_stride, (T *)op->x, (const float *)op->cos, (const float *)op->sin,
              op->inverse ? -1.0f : 1.0f, wide,
              half % 4 == 0 && is_aligned((const float *)op->cos) &&
                  is_aligned((const float *)op->sin));
}

extern "C" void ls_cuda_launch_rope(cudaStream_t stream, const ls_rope *op) {
    LS_BY_DTYPE(op->dtype, launch_rope, stream, op);
}
