/* Mixture of experts: routing, and rows picked by index and combined again. A warp for each row. */
#include "runtime/device/cuda/kernel.cuh"

enum { ROWS_A_BLOCK = 4 };

static unsigned int blocks_for(int64_t rows) {
    return (unsigned int)((rows + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK);
}

__device__ __forceinline__ int64_t own_row() {
    return (int64_t)blockIdx.x * ROWS_A_BLOCK + threadIdx.x / 32;
}

/* The maximum over n floats and the sum of their exp(x - maximum), for every lane. */
__device__ __forceinline__ void softmax_parts(const float *x, int64_t n, float *max, float *sum) {
    float largest = -INFINITY, total = 0.0f;
    for (int64_t i = threadIdx.x % 32; i < n; i += 32) {
        largest = x[i] > largest ? x[i] : largest;
    }
    *max = warp_max(largest);
    for (int64_t i = threadIdx.x % 32; i < n; i += 32) {
        total += expf(x[i] - *max);
    }
    *sum = warp_sum(total);
}

/* Is expert e, with logit a, to be chosen before f with b? */
__device__ __forceinline__ bool comes_before(float a, int64_t e, float b, int64_t f) {
    if (a == b || (isnan(a) && isnan(b))) {
        return e < f;
    }
    return isnan(a) || a > b;
}

__global__ void __launch_bounds__(32 * ROWS_A_BLOCK) route_kernel(ls_route o) {
    const int64_t row = own_row(), E = o.experts;
    const int lane = threadIdx.x % 32;
    if (row >= o.rows) {
        return;
    }
    const float *x = (const float *)o.logits + row * E;
    float *gates = (float *)o.gates + row * o.each, max, sum, largest = -INFINITY,
          chosen_sum = 0.0f;
    softmax_parts(x, E, &max, &sum);
    for (int64_t e = lane; e < E; e += 32) {
        ((float *)o.probs)[row * E + e] = expf(x[e] - max) / sum;
        const float own = x[e];
        int before = 0; /* of the logits, in the order of choice */
        for (int f = 0; f < (int)E; f++) {
            before += comes_before(x[f], f, own, e);
        }
        if (before < o.each) {
            o.chosen[row * o.each + before] = (int32_t)e;
            gates[before] = own;
        }
    }
    __syncwarp();
    for (int64_t j = lane; j < o.each; j += 32) {
        largest = gates[j] > largest ? gates[j] : largest;
    }
    largest = warp_max(largest);
    for (int64_t j = lane; j < o.each; j += 32) {
        chosen_sum += expf(gates[j] - largest);
    }
    chosen_sum = warp_sum(chosen_sum);
    for (int64_t j = lane; j < o.each; j += 32) {
        gates[j] = expf(gates[j] - largest) / chosen_sum;
    }
}

template <class T>
__global__ void __launch_bounds__(32 * ROWS_A_BLOCK) route_backward_kernel(ls_route o) {
    const int64_t row = own_row(), E = o.experts;
    const int lane = threadIdx.x % 32;
    if (row >= o.rows) {
        return;
    }
    const float *p = (const float *)o.probs + row * E, *balance = (const float *)o.balance;
    const float *g = (const float *)o.gates + row * o.each;
    const float *dg = (const float *)o.dgates + row * o.each;
    const int32_t *chosen = o.chosen + row * o.each;
    float mean = 0.0f, gate_mean = 0.0f;
    for (int64_t e = lane; e < E; e += 32) {
        mean += p[e] * balance[e];
    }
    for (int64_t j = lane; j < o.each; j += 32) {
        gate_mean += g[j] * dg[j];
    }
    mean = warp_sum(mean);
    gate_mean = warp_sum(gate_mean);
    for (int64_t e = lane; e < E; e += 32) {
        float d = p[e] * (balance[e] - mean);
        for (int64_t j = 0; j < o.each; j++) {
            d += chosen[j] == e ? g[j] * (dg[j] - gate_mean) : 0.0f;
        }
        ((T *)o.dlogits)[row * E + e] = from_float<T>(d);
    }
}

/* Packs of a row that a lane has on their way at once. */
enum { AT_ONCE = 4 };

template <class T>
__device__ __forceinline__ void load_packs(uint4 *raw, const T *row, int64_t c, int64_t cols,
                                           bool wide) {
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
        raw[u] = load_raw(row, c + u * 32 * pack<T>::size, cols, wide);
    }
}

template <class T>
__global__ void __launch_bounds__(32 * ROWS_A_BLOCK) select_kernel(ls_select_rows o, bool wide) {
    constexpr int P = pack<T>::size;
    const int64_t row = own_row();
    if (row >= o.rows) {
        return;
    }
    const int64_t from = o.index[row];
    for (int64_t c = (int64_t)(threadIdx.x % 32) * P; c < o.cols; c += AT_ONCE * 32 * P) {
        uint4 raw[AT_ONCE] = {};
        if (from >= 0) {
            load_packs(raw, (const T *)o.x + from * o.cols, c, o.cols, wide);
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            store_pack((T *)o.y + row * o.cols, c + u * 32 * P, o.cols, wide, unpack<T>(raw[u]));
        }
    }
}

__device__ __forceinline__ float weight_of(const ls_combine &o, int64_t term) {
    return o.weights ? ((const float *)o.weights)[term] : 1.0f;
}

template <class T>
__global__ void __launch_bounds__(32 * ROWS_A_BLOCK) combine_kernel(ls_combine o, bool wide) {
    constexpr int P = pack<T>::size;
    const int64_t row = own_row();
    if (row >= o.rows) {
        return;
    }
    for (int64_t c = (int64_t)(threadIdx.x % 32) * P; c < o.cols; c += AT_ONCE * 32 * P) {
        uint4 raw[AT_ONCE] = {};
        pack<T> sum[AT_ONCE];
        if (o.residual) {
            load_packs(raw, (const T *)o.residual + row * o.cols, c, o.cols, wide);
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            sum[u] = unpack<T>(raw[u]);
        }
        for (int64_t t = row * o.each; t < (row + 1) * o.each; t++) {
            if (o.index[t] < 0) {
                continue;
            }
            const float weight = weight_of(o, t);
            load_packs(raw, (const T *)o.x + o.index[t] * o.cols, c, o.cols, wide);
#pragma unroll
            for (int i = 0; i < AT_ONCE * P; i++) {
                sum[i / P].v[i % P] += weight * unpack<T>(raw[i / P]).v[i % P];
            }
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            store_pack((T *)o.y + row * o.cols, c + u * 32 * P, o.cols, wide, sum[u]);
        }
    }
}

/* Rows here are terms: row i of dy and its j-th index. */
template <class T>
__global__ void __launch_bounds__(32 * ROWS_A_BLOCK)
    combine_backward_kernel(ls_combine o, bool wide) {
    constexpr int P = pack<T>::size;
    const int64_t term = own_row();
    if (term >= o.rows * o.each) {
        return;
    }
    const int64_t to = o.index[term];
    const float weight = weight_of(o, term);
    float dot = 0.0f;
    for (int64_t c = (int64_t)(threadIdx.x % 32) * P; to >= 0 && c < o.cols;
         c += AT_ONCE * 32 * P) {
        uint4 x[AT_ONCE], dy[AT_ONCE];
        load_packs(x, (const T *)o.x + to * o.cols, c, o.cols, wide);
        load_packs(dy, (const T *)o.dy + term / o.each * o.cols, c, o.cols, wide);
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            const pack<T> a = unpack<T>(x[u]);
            pack<T> d = unpack<T>(dy[u]);
#pragma unroll
            for (int j = 0; j < P; j++) {
                dot += a.v[j] * d.v[j]; /* both are zeros beyond the columns */
                d.v[j] *= weight;
            }
            store_pack((T *)o.dx + to * o.cols, c + u * 32 * P, o.cols, wide, d);
        }
    }
    dot = warp_sum(dot);
    if (threadIdx.x % 32 == 0 && o.dweights) {
        ((float *)o.dweights)[term] = dot;
    }
}

extern "C" void ls_cuda_launch_route_forward(cudaStream_t stream, const ls_route *op) {
    LS_LAUNCH(route_kernel, blocks_for(op->rows), 32 * ROWS_A_BLOCK, 0, stream, *op);
}

template <class T> static void launch_route_backward(cudaStream_t stream, const ls_route *op) {
    auto kernel = route_backward_kernel<T>;
    LS_LAUNCH(kernel, blocks_for(op->rows), 32 * ROWS_A_BLOCK, 0, stream, *op);
}

extern "C" void ls_cuda_launch_route_backward(cudaStream_t stream, const ls_route *op) {
    LS_BY_DTYPE(op->dtype, launch_route_backward, stream, op);
}

template <class T> static void launch_select(cudaStream_t stream, const ls_select_rows *op) {
    auto kernel = select_kernel<T>;
    LS_LAUNCH(kernel, blocks_for(op->rows), 32 * ROWS_A_BLOCK, 0, stream, *op,
              op->cols % pack<T>::size == 0 && is_aligned((const T *)op->x) &&
                  is_aligned((T *)op->y));
}

extern "C" void ls_cuda_launch_select_rows(cudaStream_t stream, const ls_select_rows *op) {
    LS_BY_DTYPE(op->dtype, launch_select, stream, op);
}

template <class T> static bool is_wide(const ls_combine *op) {
    return op->cols % pack<T>::size == 0 && is_aligned((const T *)op->x) &&
           is_aligned((const T *)op->residual) && is_aligned((T *)op->y) &&
           is_aligned((const T *)op->dy) && is_aligned((T *)op->dx);
}

template <class T> static void launch_combine(cudaStream_t stream, const ls_combine *op) {
    auto kernel = combine_kernel<T>;
    LS_LAUNCH(kernel, blocks_for(op->rows), 32 * ROWS_A_BLOCK, 0, stream, *op, is_wide<T>(op));
}

extern "C" void ls_cuda_launch_combine_forward(cudaStream_t stream, const ls_combine *op) {
    LS_BY_DTYPE(op->dtype, launch_combine, stream, op);
}

template <class T> static void launch_combine_backward(cudaStream_t stream, const ls_combine *op) {
    auto kernel = combine_backward_kernel<T>;
    LS_LAUNCH(kernel, blocks_for(op->rows * op->each), 32 * ROWS_A_BLOCK, 0, stream, *op,
              is_wide<T>(op));
}

extern "C" void ls_cuda_launch_combine_backward(cudaStream_t stream, const ls_combine *op) {
    LS_BY_DTYPE(op->dtype, launch_combine_backward, stream, op);
}
