/* RMSNorm of the heads of queries and keys, in place in their matrix: as many lanes for a row as it
 * has packs, a row or several to a warp. */
#include "runtime/device/cuda/kernel.cuh"

struct head_arguments {
    uint32_t rows, run_rows; /* below 2^31 */
    int C;
    divider heads;
    int64_t stride;
    float eps;
    const float *w;
    float *rstd;
    void *kept, *y;
    const void *x, *dy;
    void *dx;
    float *partial; /* [runs][C] */
    bool wide, wide_w;
};

/* LANES threads have a row, PACKS packs each; TEAMS rows to a block, AT_ONCE of a thread on their
 * way. */
template <class T, int LANES, int PACKS> struct head_shape {
    static constexpr int P = pack<T>::size, TEAMS = THREADS / LANES, AT_ONCE = PACKS == 1 ? 4 : 2;
    static constexpr int N = PACKS * P;

    static __device__ __forceinline__ int column(int k) {
        return (k * LANES + (int)threadIdx.x % LANES) * P;
    }

    static __device__ __forceinline__ void weights(const head_arguments &o, float *w) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const pack<float> four = load_pack(o.w, column(i / P) + i % P, o.C, o.wide_w);
            memcpy(w + i, four.v, sizeof four.v);
        }
    }

    /* Row `row`, which begins at p; zeros where there is none. */
    static __device__ __forceinline__ void load(const head_arguments &o, const T *p, bool there,
                                                uint4 *raw) {
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            raw[k] = load_raw(p, column(k), there ? o.C : 0, o.wide);
        }
    }
};

/* Where a head lies in its matrix. */
__device__ __forceinline__ int64_t head_place(const head_arguments &o, uint32_t row) {
    const uint32_t token = row / o.heads;
    return token * o.stride + (int64_t)(row - token * o.heads.by) * o.C;
}

template <class T, int LANES, int PACKS>
__global__ void __launch_bounds__(THREADS) heads_forward_kernel(head_arguments o) {
    typedef head_shape<T, LANES, PACKS> shape;
    constexpr int P = shape::P, AT_ONCE = shape::AT_ONCE;
    const uint32_t first = blockIdx.x * (shape::TEAMS * AT_ONCE) + threadIdx.x / LANES;
    uint4 raw[AT_ONCE][PACKS];
    float w[shape::N];
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
        const uint32_t row = first + u * shape::TEAMS;
        shape::load(o, (const T *)o.y + head_place(o, row), row < o.rows, raw[u]);
    }
    shape::weights(o, w);
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
        const uint32_t row = first + u * shape::TEAMS;
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < shape::N; i++) {
            const float x = unpack<T>(raw[u][i / P]).v[i % P];
            squares += x * x;
        }
        squares = lanes_sum<LANES>(squares);
        const float rstd = 1.0f / sqrtf(squares / (float)o.C + o.eps);
        if (row >= o.rows) {
            continue;
        }
        if (threadIdx.x % LANES == 0) {
            o.rstd[row] = rstd;
        }
        T *kept = (T *)o.kept + (int64_t)row * o.C, *y = (T *)o.y + head_place(o, row);
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            pack<T> a = unpack<T>(raw[u][k]);
#pragma unroll
            for (int j = 0; j < P; j++) {
                a.v[j] = a.v[j] * rstd * w[k * P + j];
            }
            store_raw(kept, shape::column(k), o.C, o.wide, &raw[u][k]);
            store_pack(y, shape::column(k), o.C, o.wide, a);
        }
    }
}

/* dx of a row, and its part of dw. */
template <class T, int LANES, int PACKS>
__device__ __forceinline__ void head_gradient(const head_arguments &o, const uint4 *raw_x,
                                              const uint4 *raw_dy, float rstd, const float *w,
                                              T *dx /* NULL: no row */, float *dw) {
    typedef head_shape<T, LANES, PACKS> shape;
    constexpr int P = shape::P;
    float xhat[shape::N], g[shape::N], sum = 0.0f;
#pragma unroll
    for (int i = 0; i < shape::N; i++) {
        const float dy = unpack<T>(raw_dy[i / P]).v[i % P];
        xhat[i] = unpack<T>(raw_x[i / P]).v[i % P] * rstd;
        g[i] = dy * w[i];
        dw[i] += dy * xhat[i];
        sum += g[i] * xhat[i];
    }
    const float of_xhat = rstd * (lanes_sum<LANES>(sum) / (float)o.C);
#pragma unroll
    for (int k = 0; dx && k < PACKS; k++) {
        pack<T> out;
#pragma unroll
        for (int j = 0; j < P; j++) {
            out.v[j] = rstd * g[k * P + j] - xhat[k * P + j] * of_xhat;
        }
        store_pack(dx, shape::column(k), o.C, o.wide, out);
    }
}

/* A block goes over a run of rows; the sums of its teams' columns are added in order. */
template <class T, int LANES, int PACKS>
__global__ void __launch_bounds__(THREADS) heads_backward_kernel(head_arguments o) {
    typedef head_shape<T, LANES, PACKS> shape;
    constexpr int AT_ONCE = shape::AT_ONCE, WIDTH = LANES * shape::N;
    LS_SHARED(float, room, shape::TEAMS *WIDTH);
    const uint32_t first = blockIdx.x * o.run_rows, team = threadIdx.x / LANES;
    const uint32_t last = first + o.run_rows < o.rows ? first + o.run_rows : o.rows;
    float w[shape::N], dw[shape::N] = {};
    shape::weights(o, w);
    for (uint32_t begin = first; begin < last; begin += shape::TEAMS * AT_ONCE) {
        uint4 x[AT_ONCE][PACKS], dy[AT_ONCE][PACKS];
        float rstd[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            const uint32_t row = begin + u * shape::TEAMS + team;
            shape::load(o, (const T *)o.x + (int64_t)row * o.C, row < last, x[u]);
            shape::load(o, (const T *)o.dy + head_place(o, row), row < last, dy[u]);
            rstd[u] = row < last ? o.rstd[row] : 0.0f;
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            const uint32_t row = begin + u * shape::TEAMS + team;
            T *dx = row < last ? (T *)o.dx + head_place(o, row) : (T *)NULL;
            head_gradient<T, LANES, PACKS>(o, x[u], dy[u], rstd[u], w, dx, dw);
        }
    }
#pragma unroll
    for (int i = 0; i < shape::N; i++) {
        room[team * WIDTH + shape::column(i / shape::P) + i % shape::P] = dw[i];
    }
    __syncthreads();
    for (int c = threadIdx.x; c < o.C; c += THREADS) {
        float sum = room[c];
        for (int t = 1; t < shape::TEAMS; t++) {
            sum += room[t * WIDTH + c];
        }
        o.partial[(int64_t)blockIdx.x * o.C + c] = sum;
    }
}

template <class T> static head_arguments arguments_of(const ls_norm *op) {
    constexpr int P = pack<T>::size;
    head_arguments o = {};
    o.rows = (uint32_t)op->rows;
    o.C = (int)op->channels;
    o.heads = divider_of(op->heads);
    o.stride = op->stride;
    o.eps = (float)op->eps;
    o.w = (const float *)op->w;
    o.rstd = (float *)op->rstd;
    o.kept = op->kept;
    o.y = op->y;
    o.x = op->x;
    o.dy = op->dy;
    o.dx = op->dx;
    o.wide = o.C % P == 0 && o.stride % P == 0;
    const void *const pointers[] = {o.kept, o.y, o.x, o.dy, o.dx};
    for (const void *p : pointers) {
        o.wide = o.wide && is_aligned(p);
    }
    o.wide_w = is_aligned(o.w);
    return o;
}

template <class T, int LANES, int PACKS>
static void launch(cudaStream_t stream, const head_arguments &o, unsigned int runs) {
    constexpr int ROWS = head_shape<T, LANES, PACKS>::TEAMS * head_shape<T, LANES, PACKS>::AT_ONCE;
    auto kernel =
        runs > 0 ? heads_backward_kernel<T, LANES, PACKS> : heads_forward_kernel<T, LANES, PACKS>;
    LS_LAUNCH(kernel, runs > 0 ? runs : (o.rows + ROWS - 1) / ROWS, THREADS, 0, stream, o);
}

/* runs 0: forward. Rows have at most 256 columns. */
template <class T>
static void launch_lanes(cudaStream_t stream, const head_arguments &o, unsigned int runs) {
    const int packs = (o.C + pack<T>::size - 1) / pack<T>::size;
    if (packs <= 8) {
        launch<T, 8, 1>(stream, o, runs);
    } else if (packs <= 16) {
        launch<T, 16, 1>(stream, o, runs);
    } else if (packs <= 32) {
        launch<T, 32, 1>(stream, o, runs);
    } else if constexpr (sizeof(T) == sizeof(float)) {
        launch<T, 32, 2>(stream, o, runs);
    }
}

template <class T> static void launch_forward(cudaStream_t stream, const ls_norm *op) {
    launch_lanes<T>(stream, arguments_of<T>(op), 0);
}

/* Three runs where the other norms' backward has one, which keeps three sums. */
template <class T>
static void launch_backward(cudaStream_t stream, const ls_norm *op, float *partial) {
    head_arguments o = arguments_of<T>(op);
    o.run_rows = (uint32_t)(ls_cuda_norm_run_rows(op->rows) + 2) / 3;
    o.partial = partial;
    const unsigned int runs = (o.rows + o.run_rows - 1) / o.run_rows;
    launch_lanes<T>(stream, o, runs);
    ls_cuda_launch_add_partials(stream, runs, o.C, partial, op->dw, NULL, NULL);
}

extern "C" void ls_cuda_launch_heads_norm_forward(cudaStream_t stream, const ls_norm *op) {
    LS_BY_DTYPE(op->dtype, launch_forward, stream, op);
}

extern "C" void ls_cuda_launch_heads_norm_backward(cudaStream_t stream, const ls_norm *op,
                                                   float *partial) {
    LS_BY_DTYPE(op->dtype, launch_backward, stream, op, partial);
}
