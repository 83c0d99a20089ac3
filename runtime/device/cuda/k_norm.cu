/* LayerNorm and RMSNorm. Forward: a warp for each row, which it reads once from memory and then
 * from the first cache. Backward: a block goes over a run of rows, makes dx, and keeps the sums for
 * dw and db of its columns in registers; partial sums of the runs are then added in order. */
#include "runtime/device/cuda/kernel.cuh"

enum { ROWS_A_BLOCK = 4 };

/* Row sums of d = x - shift and of d^2. */
template <class T>
__device__ __forceinline__ void row_moments(const T *x, int64_t C, int lane, float shift, bool wide,
                                            float *sum, float *squares) {
    constexpr int P = pack<T>::size;
    float s = 0.0f, q = 0.0f;
    for (int64_t c = (int64_t)lane * P; c < C; c += 32 * P) {
        const pack<T> a = load_pack(x, c, C, wide);
#pragma unroll
        for (int j = 0; j < P; j++) {
            const float d = c + j < C ? a.v[j] - shift : 0.0f;
            s += d;
            q += d * d;
        }
    }
    *sum = warp_sum(s);
    *squares = warp_sum(q);
}

/* The variance is the corrected two-pass sum (Chan, Golub, LeVeque 1983, doi:10.2307/2683386), and
 * y is taken from x - shift - rest, so that a row far from zero loses nothing to the rounded mean.
 */
template <class T, bool CENTRED>
__global__ void __launch_bounds__(32 * ROWS_A_BLOCK)
    norm_forward_kernel(int64_t rows, int64_t C, float eps, const T *x_all, const float *w,
                        const float *b, T *y_all, float *mean, float *rstd_all, bool wide,
                        bool wide_w) {
    constexpr int P = pack<T>::size;
    const int lane = threadIdx.x % 32;
    const int64_t row = (int64_t)blockIdx.x * ROWS_A_BLOCK + threadIdx.x / 32;
    if (row >= rows) {
        return;
    }
    const T *x = x_all + row * C;
    float shift = 0.0f, rest = 0.0f, squares;
    if (CENTRED) {
        row_moments(x, C, lane, 0.0f, wide, &shift, &squares);
        shift /= (float)C;
    }
    row_moments(x, C, lane, shift, wide, &rest, &squares);
    rest = CENTRED ? rest / (float)C : 0.0f;
    const float variance = squares / (float)C - rest * rest; /* rounding may leave it below zero */
    const float rstd = 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + eps);
    if (lane == 0) {
        rstd_all[row] = rstd;
        if (CENTRED) {
            mean[row] = shift + rest;
        }
    }
    for (int64_t c = (int64_t)lane * P; c < C; c += 32 * P) {
        pack<T> a = load_pack(x, c, C, wide);
#pragma unroll
        for (int k = 0; k < P; k += 4) {
            const pack<float> wk = load_pack(w, c + k, C, wide_w);
            pack<float> bk;
            if (CENTRED) {
                bk = load_pack(b, c + k, C, wide_w);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float d = CENTRED ? a.v[k + j] - shift - rest : a.v[k + j];
                a.v[k + j] = CENTRED ? d * rstd * wk.v[j] + bk.v[j] : d * rstd * wk.v[j];
            }
        }
        store_pack(y_all + row * C, c, C, wide, a);
    }
}

template <class T> static void launch_forward(cudaStream_t stream, const ls_norm *op) {
    const bool centred = op->kind == LS_LAYERNORM;
    const T *x = (const T *)op->x;
    const float *w = (const float *)op->w, *b = (const float *)op->b;
    const bool wide = op->channels % pack<T>::size == 0 && is_aligned(x) && is_aligned((T *)op->y);
    auto kernel = centred ? norm_forward_kernel<T, true> : norm_forward_kernel<T, false>;
    LS_LAUNCH(kernel, (unsigned int)((op->rows + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK),
              32 * ROWS_A_BLOCK, 0, stream, op->rows, op->channels, (float)op->eps, x, w, b,
              (T *)op->y, (float *)op->mean, (float *)op->rstd, wide,
              is_aligned(w) && (!centred || is_aligned(b)));
}

extern "C" void ls_cuda_launch_norm_forward(cudaStream_t stream, const ls_norm *op) {
    LS_BY_DTYPE(op->dtype, launch_forward, stream, op);
}

/* Backward */

static const int64_t RUNS_MAX = 256, RUN_ROWS_MIN = 8;

static int64_t run_rows_of(int64_t rows) {
    const int64_t each = (rows + RUNS_MAX - 1) / RUNS_MAX;
    return each < RUN_ROWS_MIN ? RUN_ROWS_MIN : each;
}

static int64_t runs_of(int64_t rows) {
    return (rows + run_rows_of(rows) - 1) / run_rows_of(rows);
}

extern "C" int64_t ls_cuda_norm_scratch_elems(int64_t rows, int64_t channels) {
    return 2 * runs_of(rows) * channels;
}

struct norm_backward_arguments {
    int64_t rows, run_rows, C;
    const void *x, *dy, *dresidual;
    const float *w, *mean, *rstd;
    void *dx;
    float *partial; /* [2][runs][C] */
    bool wide, wide_w;
};

/* Packs of a row that a thread has. */
template <class T, int PACKS>
__device__ __forceinline__ void load_row(pack<T> *a, const void *matrix, int64_t row, int64_t last,
                                         int64_t C, bool wide) {
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        const int64_t c = ((int64_t)k * THREADS + threadIdx.x) * pack<T>::size;
        a[k] = load_pack((const T *)matrix + row * C, c, row < last ? C : 0, wide);
    }
}

/* A thread's k-th pack of a row of x and dy. */
template <class T>
__device__ __forceinline__ void load_packs(pack<T> *x, pack<T> *dy,
                                           const norm_backward_arguments &o, int64_t row, int k) {
    const int64_t c = ((int64_t)k * THREADS + threadIdx.x) * pack<T>::size;
    x[0] = load_pack((const T *)o.x + row * o.C, c, o.C, o.wide);
    dy[0] = load_pack((const T *)o.dy + row * o.C, c, o.C, o.wide);
}

/* A block's sums over its rows, of a thread's columns. */
template <bool CENTRED, int P, int N>
__device__ __forceinline__ void store_partials(const float (&dw)[N], const float (&db)[N],
                                               const norm_backward_arguments &o) {
    float *partial = o.partial + blockIdx.x * o.C, *partial_b = partial + gridDim.x * o.C;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int64_t c = ((int64_t)(i / P) * THREADS + threadIdx.x) * P + i % P;
        if (c < o.C) {
            partial[c] = dw[i];
            if (CENTRED) {
                partial_b[c] = db[i];
            }
        }
    }
}

/* xhat and g = dy w of a thread's k-th pack; kept [its P columns]: w, or NULL to read it. */
template <class T>
__device__ __forceinline__ void norm_terms(const norm_backward_arguments &o, const pack<T> &x,
                                           const pack<T> &dy, int k, float mean, float rstd,
                                           const float *kept, float *xhat, float *g) {
    constexpr int P = pack<T>::size;
    const int64_t c = ((int64_t)k * THREADS + threadIdx.x) * P;
#pragma unroll
    for (int j = 0; j < P; j++) {
        const bool inside = c + j < o.C;
        xhat[j] = inside ? (x.v[j] - mean) * rstd : 0.0f;
        g[j] = inside ? dy.v[j] * (kept ? kept[j] : o.w[c + j]) : 0.0f;
    }
}

template <int N, int P>
__device__ __forceinline__ void keep_weights(float *w, const norm_backward_arguments &o) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int64_t c = ((int64_t)(i / P) * THREADS + threadIdx.x) * P + i % P;
        w[i] = c < o.C ? o.w[c] : 0.0f;
    }
}

/* Columns (threadIdx + k THREADS) P and following belong to a thread, k < PACKS. Where registers
 * allow it, a row is on its way while the one before is summed; where they do not suffice for a
 * row, it is read again, from the caches, once its sums are known. */
template <class T, bool CENTRED, int PACKS>
__global__ void __launch_bounds__(THREADS) norm_backward_kernel(norm_backward_arguments o) {
    constexpr int P = pack<T>::size, N = PACKS * P;
    constexpr bool AHEAD = N <= 16, AGAIN = N > 32;
    constexpr int HELD = AGAIN ? 1 : PACKS; /* packs of a row in registers */
    LS_SHARED(float, room, 2 * 2 * (THREADS / 32));
    float dw[N], db[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        dw[i] = db[i] = 0.0f;
    }
    const int64_t first = (int64_t)blockIdx.x * o.run_rows;
    const int64_t last = first + o.run_rows < o.rows ? first + o.run_rows : o.rows;
    pack<T> x[HELD], dy[HELD], residual[AHEAD ? PACKS : 1] = {};
    float w[AHEAD ? N : 1];
    if (AHEAD) {
        load_row<T, HELD>(x, o.x, first, last, o.C, o.wide);
        load_row<T, HELD>(dy, o.dy, first, last, o.C, o.wide);
    }
    keep_weights<AHEAD ? N : 0, P>(w, o);
    for (int64_t row = first; row < last; row++) {
        const float rstd = o.rstd[row], mean = CENTRED ? o.mean[row] : 0.0f;
        float xhat[HELD * P], g[HELD * P], sum_g = 0.0f, sum_gx = 0.0f;
        if (!AHEAD && !AGAIN) {
            load_row<T, HELD>(x, o.x, row, last, o.C, o.wide);
            load_row<T, HELD>(dy, o.dy, row, last, o.C, o.wide);
        }
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            const int at = AGAIN ? 0 : k;
            if (AGAIN) {
                load_packs(x, dy, o, row, k);
            }
            norm_terms(o, x[at], dy[at], k, mean, rstd, AHEAD ? w + at * P : NULL, xhat + at * P,
                       g + at * P);
#pragma unroll
            for (int j = 0; j < P; j++) {
                dw[k * P + j] += dy[at].v[j] * xhat[at * P + j];
                db[k * P + j] += dy[at].v[j];
                sum_g += g[at * P + j];
                sum_gx += g[at * P + j] * xhat[at * P + j];
            }
        }
        if (AHEAD) {
            load_row<T, HELD>(x, o.x, row + 1, last, o.C, o.wide);
            load_row<T, HELD>(dy, o.dy, row + 1, last, o.C, o.wide);
        }
        if (AHEAD && o.dresidual) {
            load_row<T, AHEAD ? PACKS : 1>(residual, o.dresidual, row, last, o.C, o.wide);
        }
        float *here = room + (row % 2) * 2 * (THREADS / 32);
        sum_gx = block_sum<float, THREADS / 32>(sum_gx, here) / (float)o.C;
        if (CENTRED) {
            sum_g = block_sum<float, THREADS / 32>(sum_g, here + THREADS / 32) / (float)o.C;
        }
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            const int at = AGAIN ? 0 : k;
            const int64_t c = ((int64_t)k * THREADS + threadIdx.x) * P;
            pack<T> out = residual[AHEAD ? k : 0];
            if (AGAIN) {
                load_packs(x, dy, o, row, k);
                norm_terms(o, x[0], dy[0], k, mean, rstd, NULL, xhat, g);
            }
            if (!AHEAD && o.dresidual) {
                out = load_pack((const T *)o.dresidual + row * o.C, c, o.C, o.wide);
            }
#pragma unroll
            for (int j = 0; j < P; j++) {
                const int i = at * P + j;
                const float centre = CENTRED ? sum_g : 0.0f;
                const float dx = rstd * (g[i] - centre - xhat[i] * sum_gx);
                out.v[j] = o.dresidual ? out.v[j] + dx : dx;
            }
            store_pack((T *)o.dx + row * o.C, c, o.C, o.wide, out);
        }
    }
    store_partials<CENTRED, P>(dw, db, o);
}

/* sum[c] += the partial sums of column c: eight runs of them, and these in order. */
__global__ void __launch_bounds__(256)
    add_partials_kernel(int64_t count, int64_t C, const float *partial, float *sum) {
    LS_SHARED(float, room, 256);
    const int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x % 32;
    const int part = threadIdx.x / 32;
    const int64_t each = (count + 7) / 8, first = part * each;
    const int64_t last = first + each < count ? first + each : count;
    float s = 0.0f;
    for (int64_t i = first; i < last && c < C; i++) {
        s += partial[i * C + c];
    }
    room[threadIdx.x] = s;
    __syncthreads();
    if (part == 0 && c < C) {
        for (int i = 1; i < 8; i++) {
            s += room[i * 32 + threadIdx.x];
        }
        sum[c] += s;
    }
}

static void add_partials(cudaStream_t stream, int64_t count, int64_t C, const float *partial,
                         void *sum) {
    LS_LAUNCH(add_partials_kernel, (unsigned int)((C + 31) / 32), 256, 0, stream, count, C, partial,
              (float *)sum);
}

template <class T, bool CENTRED>
static void launch_packs(cudaStream_t stream, const norm_backward_arguments &o) {
    const int64_t packs = (o.C + THREADS * pack<T>::size - 1) / (THREADS * pack<T>::size);
    constexpr int LAST = LS_CUDA_NORM_CHANNELS_MAX / (THREADS * pack<T>::size);
    auto kernel = packs <= 1   ? norm_backward_kernel<T, CENTRED, 1>
                  : packs <= 2 ? norm_backward_kernel<T, CENTRED, 2>
                  : packs <= 4 ? norm_backward_kernel<T, CENTRED, 4>
                  : packs <= 8 ? norm_backward_kernel<T, CENTRED, 8>
                               : norm_backward_kernel<T, CENTRED, LAST>;
    LS_LAUNCH(kernel, (unsigned int)runs_of(o.rows), THREADS, 0, stream, o);
}

template <class T>
static void launch_backward(cudaStream_t stream, const ls_norm *op, float *partial) {
    const bool centred = op->kind == LS_LAYERNORM;
    norm_backward_arguments o = {};
    o.rows = op->rows;
    o.run_rows = run_rows_of(op->rows);
    o.C = op->channels;
    o.x = op->x;
    o.dy = op->dy;
    o.dresidual = op->dresidual;
    o.w = (const float *)op->w;
    o.mean = (const float *)op->mean;
    o.rstd = (const float *)op->rstd;
    o.dx = op->dx;
    o.partial = partial;
    o.wide = o.C % pack<T>::size == 0 && is_aligned((const T *)o.x) &&
             is_aligned((const T *)o.dy) && is_aligned((const T *)o.dresidual) &&
             is_aligned((T *)o.dx);
    if (centred) {
        launch_packs<T, true>(stream, o);
    } else {
        launch_packs<T, false>(stream, o);
    }
    const int64_t runs = runs_of(o.rows);
    add_partials(stream, runs, o.C, partial, op->dw);
    if (centred) {
        add_partials(stream, runs, o.C, partial + runs * o.C, op->db);
    }
}

extern "C" void ls_cuda_launch_norm_backward(cudaStream_t stream, const ls_norm *op,
                                             float *partial) {
    LS_BY_DTYPE(op->dtype, launch_backward, stream, op, partial);
}

/* Bias: a thread sums a column over a run of rows. */

extern "C" int64_t ls_cuda_bias_scratch_elems(int64_t rows, int64_t cols) {
    return runs_of(rows) * cols;
}

/* A warp covers 32 packs of columns; eight warps take every eighth row of the run. */
template <class T>
__global__ void __launch_bounds__(256)
    column_sums_kernel(int64_t rows, int64_t run_rows, int64_t cols, const T *dy, float *partial,
                       bool wide) {
    constexpr int P = pack<T>::size;
    LS_SHARED(float, room, 8 * 32 * P);
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int64_t c = ((int64_t)blockIdx.x * 32 + lane) * P;
    const int64_t first = (int64_t)blockIdx.y * run_rows;
    const int64_t last = first + run_rows < rows ? first + run_rows : rows;
    float sum[P] = {};
    for (int64_t row = first + part; row < last && c < cols; row += 8) {
        const pack<T> a = load_pack(dy + row * cols, c, cols, wide);
#pragma unroll
        for (int j = 0; j < P; j++) {
            sum[j] += a.v[j];
        }
    }
#pragma unroll
    for (int j = 0; j < P; j++) {
        room[(part * P + j) * 32 + lane] = sum[j];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 32 * P; i += 256) {
        const int64_t column = (int64_t)blockIdx.x * 32 * P + i;
        float s = 0.0f;
        for (int p = 0; p < 8; p++) {
            s += room[(p * P + i % P) * 32 + i / P];
        }
        if (column < cols) {
            partial[blockIdx.y * cols + column] = s;
        }
    }
}

template <class T>
static void launch_bias_grad(cudaStream_t stream, const ls_bias_grad *op, float *partial) {
    constexpr int P = pack<T>::size;
    const T *dy = (const T *)op->dy;
    const int64_t runs = runs_of(op->rows);
    const dim3 grid((unsigned int)((op->cols + 32 * P - 1) / (32 * P)), (unsigned int)runs);
    auto kernel = column_sums_kernel<T>;
    LS_LAUNCH(kernel, grid, 256, 0, stream, op->rows, run_rows_of(op->rows), op->cols, dy, partial,
              op->cols % P == 0 && is_aligned(dy));
    add_partials(stream, runs, op->cols, partial, op->dbias);
}

extern "C" void ls_cuda_launch_bias_grad(cudaStream_t stream, const ls_bias_grad *op,
                                         float *partial) {
    LS_BY_DTYPE(op->dtype, launch_bias_grad, stream, op, partial);
}
