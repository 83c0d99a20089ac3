/* Backward of LayerNorm and RMSNorm, and biases' gradients: a block goes over a run of rows and
 * keeps the sums of its columns in registers; partial sums of the runs are then added in order. */
#include "runtime/device/cuda/warp_matrix.cuh"

static const int64_t RUNS_MAX = 256, RUN_ROWS_MIN = 8;

extern "C" int64_t ls_cuda_norm_run_rows(int64_t rows) {
    const int64_t each = (rows + RUNS_MAX - 1) / RUNS_MAX;
    return each < RUN_ROWS_MIN ? RUN_ROWS_MIN : each;
}

static int64_t runs_of(int64_t rows) {
    return (rows + ls_cuda_norm_run_rows(rows) - 1) / ls_cuda_norm_run_rows(rows);
}

extern "C" int64_t ls_cuda_norm_scratch_elems(int64_t rows, int64_t channels) {
    return 3 * runs_of(rows) * channels;
}

/* A block's threads are teams; a team has a row at a time, its warps' sums meet in shared memory.
 * What a thread needs of the rows to come it copies to a ring of its own there, so that as much is
 * under way as the memory wants and only sums have to wait for other threads. By
 * counting, with 1600 columns in bf16 and a residual: two blocks of a multiprocessor have 43 to 86
 * KB under way, where 4.8 TB/s times 0.7 us want 25; a row of LayerNorm takes 450 cycles to issue,
 * and to copy as many bytes an H200 takes 710. */
struct norm_backward_arguments {
    int64_t rows;
    int run_rows, C;
    const void *matrix[3]; /* x, dy, dresidual or NULL */
    const float *w, *mean, *rstd;
    void *dx;
    float *partial; /* [3][runs][C]: of dw, db, dx */
    int team_threads, stages;
    bool wide, wide_w;
};

enum { TEAMS_MAX = THREADS / 32 };

template <class T, int PACKS> struct norm_backward_shape {
    static constexpr int P = pack<T>::size, N = PACKS * P; /* columns of a thread */
    static constexpr int BATCH = N <= 8 ? 2 : 1;           /* rows of a team between two barriers */
    static constexpr int EACH = BATCH * PACKS;             /* packs of a matrix in a stage */
    static constexpr bool KEEPS = N <= 16;                 /* xhat and g, in registers */
    static constexpr bool RINGS = PACKS <= 8; /* larger rows are read where they are used */
    static constexpr bool SUMS = N <= 8;      /* dx too, while registers last */
};

template <class T, int PACKS> struct norm_backward_thread {
    typedef norm_backward_shape<T, PACKS> shape;
    const norm_backward_arguments &o;
    uint4 *ring;         /* [matrices][stages][BATCH][PACKS][threads], from this thread on */
    int place;           /* in the team */
    int row, step, last; /* of the run: the first row of this batch; to its next row; their end */

    __device__ __forceinline__ int column(int k) const {
        return (k * o.team_threads + place) * shape::P;
    }

    __device__ __forceinline__ uint4 *slot(int matrix, int stage, int i) const {
        return ring + ((matrix * o.stages + stage) * shape::EACH + i) * (int)blockDim.x;
    }

    /* Where that row of the run begins. */
    __device__ __forceinline__ int64_t begin(int from) const {
        return ((int64_t)blockIdx.x * o.run_rows + from) * o.C;
    }

    /* Batch `ahead` from now on its way; zeros where there is no row or column. */
    __device__ __forceinline__ void fetch(int ahead, int stage) const {
#pragma unroll
        for (int b = 0; b < shape::BATCH; b++) {
            const int from = row + (ahead * shape::BATCH + b) * step;
            const int64_t at = from < last ? begin(from) : 0;
            const int end = from < last ? o.C : 0;
#pragma unroll
            for (int matrix = 0; matrix < 3; matrix++) {
                if (matrix == 2 && !o.matrix[2]) {
                    break;
                }
                const T *x = (const T *)o.matrix[matrix] + at;
#pragma unroll 2
                for (int k = 0; k < PACKS; k++) {
                    uint4 *to = slot(matrix, stage, b * PACKS + k);
                    const int c = column(k);
                    if (o.wide) {
                        copy_async(to, x + (c < end ? c : 0), c < end);
                    } else {
                        *to = load_raw(x, c, end, false);
                    }
                }
            }
        }
        copy_commit();
    }

    __device__ __forceinline__ pack<T> take(int matrix, int stage, int b, int k) const {
        const int from = row + b * step;
        if (shape::RINGS) {
            return unpack<T>(load_whole<uint4>(slot(matrix, stage, b * PACKS + k)));
        }
        const int64_t at = from < last ? begin(from) : 0;
        return load_pack((const T *)o.matrix[matrix] + at, column(k), from < last ? o.C : 0,
                         o.wide);
    }

    __device__ __forceinline__ void weights(int k, float *w) const {
#pragma unroll
        for (int i = 0; i < shape::P; i += 4) {
            const pack<float> four = load_pack(o.w, column(k) + i, o.C, o.wide_w);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                w[i + j] = four.v[j];
            }
        }
    }

    /* xhat and g = dy w of a pack; beyond the columns x, dy and w are zeros. */
    __device__ __forceinline__ void terms(int stage, int b, int k, const float *w, float mean,
                                          float rstd, pack<T> *dy, float *xhat, float *g) const {
        const pack<T> x = take(0, stage, b, k);
        *dy = take(1, stage, b, k);
#pragma unroll
        for (int j = 0; j < shape::P; j++) {
            xhat[j] = (x.v[j] - mean) * rstd;
            g[j] = dy->v[j] * w[j];
        }
    }

    /* A batch's part of dw and db, and of the rows' sums: of g xhat, then of g. xhat and g are kept
     * for store_batch, or room for those of a pack. */
    template <bool CENTRED>
    __device__ __forceinline__ void add_batch(int stage, const float *mean, const float *rstd,
                                              float *dw, float *db, float *xhat, float *g,
                                              float *sums) const {
        constexpr int P = shape::P, BATCH = shape::BATCH;
        float w[P];
#pragma unroll
        for (int i = 0; i < BATCH * PACKS; i++) {
            const int k = i / BATCH, b = i % BATCH, at = shape::KEEPS ? i * P : 0;
            pack<T> dy;
            if (!shape::KEEPS) {
                __syncwarp(); /* registers are short: packs are not to be loaded all at once */
            }
            if (b == 0) {
                weights(k, w);
            }
            terms(stage, b, k, w, mean[b], rstd[b], &dy, xhat + at, g + at);
#pragma unroll
            for (int j = 0; j < P; j++) {
                dw[k * P + j] += dy.v[j] * xhat[at + j];
                db[k * P + j] += dy.v[j];
                sums[b] += g[at + j] * xhat[at + j];
                if (CENTRED) {
                    sums[BATCH + b] += g[at + j];
                }
            }
        }
    }

    /* dx of a batch, and with SUMS its part of dx_sums. */
    template <bool CENTRED, bool SUMS>
    __device__ __forceinline__ void store_batch(int stage, const float *mean, const float *rstd,
                                                const float *sums, float *xhat, float *g,
                                                float *dx_sums) const {
        constexpr int P = shape::P, BATCH = shape::BATCH;
        const float inverse = 1.0f / (float)o.C;
#pragma unroll
        for (int i = 0; i < BATCH * PACKS; i++) {
            const int k = i / BATCH, b = i % BATCH, at = shape::KEEPS ? i * P : 0;
            const float of_xhat = rstd[b] * (sums[b] * inverse);
            const float of_all = CENTRED ? rstd[b] * (sums[BATCH + b] * inverse) : 0.0f;
            pack<T> out = {}, dy;
            if (!shape::KEEPS) {
                float w[P];
                __syncwarp();
                weights(k, w);
                terms(stage, b, k, w, mean[b], rstd[b], &dy, xhat, g);
            }
            if (o.matrix[2]) {
                out = take(2, stage, b, k);
            }
#pragma unroll
            for (int j = 0; j < P; j++) {
                out.v[j] += rstd[b] * g[at + j] - (xhat[at + j] * of_xhat + of_all);
                if (SUMS) {
                    dx_sums[k * P + j] += out.v[j]; /* 0 where there is no row */
                }
            }
            if (row + b * step < last) {
                store_pack((T *)o.dx + begin(row + b * step), column(k), o.C, o.wide, out);
            }
        }
    }
};

__device__ __forceinline__ void wait_for_stage(int stages) {
    if (stages == 4) {
        copy_wait_but<3>();
    } else if (stages == 2) {
        copy_wait_but<1>();
    } else {
        copy_wait();
    }
}

/* Sums of each of N values over a team, for all its threads; room [TEAMS_MAX][N][TEAMS_MAX], where
 * warps that a team does not have left zeros. */
template <int N>
__device__ __forceinline__ void team_sums(float *x, float *room, int team_threads) {
    const int lane = threadIdx.x % 32, team = threadIdx.x / team_threads;
    const int warp = threadIdx.x % team_threads / 32;
    float *own = room + team * N * TEAMS_MAX;
    const float sum = warp_sums<N>(x);
    if (lane % (32 / N) == 0) {
        own[lane / (32 / N) * TEAMS_MAX + warp] = sum;
    }
    __syncthreads();
    float whole = own[lane % (N * TEAMS_MAX)];
#pragma unroll
    for (int step = TEAMS_MAX / 2; step > 0; step /= 2) {
        whole += __shfl_xor_sync(LS_ALL_LANES, whole, step);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = __shfl_sync(LS_ALL_LANES, whole, i * TEAMS_MAX);
    }
}

/* The sums of a block over its rows, of a team's columns: of all teams, in order. */
template <class T, bool CENTRED, bool SUMS, int PACKS>
__device__ __forceinline__ void store_partials(const norm_backward_thread<T, PACKS> &t,
                                               const float *dw, const float *db,
                                               const float *dx_sums) {
    constexpr int P = pack<T>::size;
    const int threads = t.o.team_threads, team = threadIdx.x / threads;
    float *partial = t.o.partial + (int64_t)blockIdx.x * t.o.C;
    float *partial_b = partial + (int64_t)gridDim.x * t.o.C;
    float *partial_dx = partial_b + (int64_t)gridDim.x * t.o.C;
#pragma unroll 1
    for (int now = 0; now < (int)blockDim.x / threads; now++) {
#pragma unroll
        for (int i = 0; i < PACKS * P; i++) {
            const int c = t.column(i / P) + i % P;
            if (team == now && c < t.o.C) {
                partial[c] = (now > 0 ? partial[c] : 0.0f) + dw[i];
                if (CENTRED) {
                    partial_b[c] = (now > 0 ? partial_b[c] : 0.0f) + db[i];
                }
                if (SUMS) {
                    partial_dx[c] = (now > 0 ? partial_dx[c] : 0.0f) + dx_sums[i];
                }
            }
        }
        __syncthreads();
    }
}

/* Means and 1 / standard deviations of the rows of a batch, `ahead` of this one. */
template <class T, bool CENTRED, int PACKS>
__device__ __forceinline__ void load_moments(const norm_backward_thread<T, PACKS> &t, int ahead,
                                             float *mean, float *rstd) {
    constexpr int BATCH = norm_backward_shape<T, PACKS>::BATCH;
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
        const int row = t.row + (ahead * BATCH + b) * t.step;
        const int64_t at = (int64_t)blockIdx.x * t.o.run_rows + row;
        rstd[b] = row < t.last ? t.o.rstd[at] : 0.0f;
        mean[b] = CENTRED && row < t.last ? t.o.mean[at] : 0.0f;
    }
}

template <class T, bool CENTRED, bool SUMS, int PACKS>
__global__ void __launch_bounds__(THREADS, norm_backward_shape<T, PACKS>::N <= 16 ? 2 : 1)
    norm_backward_kernel(norm_backward_arguments o) {
    typedef norm_backward_shape<T, PACKS> shape;
    constexpr int N = shape::N, BATCH = shape::BATCH;
    constexpr int VALUES = BATCH * (CENTRED ? 2 : 1), ROOM = TEAMS_MAX * VALUES * TEAMS_MAX;
    constexpr int KEPT = shape::KEEPS ? BATCH * N : shape::P;
    LS_SHARED_DYNAMIC(uint4, ring);
    LS_SHARED(float, room, 2 * ROOM);
    const int teams = (int)blockDim.x / o.team_threads;
    const int64_t first = (int64_t)blockIdx.x * o.run_rows;
    const int last = first + o.run_rows < o.rows ? o.run_rows : (int)(o.rows - first);
    norm_backward_thread<T, PACKS> t = {o,
                                        ring + threadIdx.x,
                                        (int)threadIdx.x % o.team_threads,
                                        (int)threadIdx.x / o.team_threads,
                                        teams,
                                        last};
#pragma unroll 1
    for (int i = 0; i < o.stages; i++) {
        t.fetch(i, i);
    }
    float dw[N] = {}, db[N] = {}, dx_sums[SUMS ? N : 1] = {}, mean[BATCH], rstd[BATCH];
    load_moments<T, CENTRED, PACKS>(t, 0, mean, rstd);
    for (int i = threadIdx.x; i < 2 * ROOM; i += blockDim.x) {
        room[i] = 0.0f;
    }
    __syncthreads();
    int stage = 0, parity = 0;
    for (int begin = 0; begin < last; begin += teams * BATCH) {
        float xhat[KEPT], g[KEPT], sums[VALUES] = {}, next_rstd[BATCH], next_mean[BATCH];
        wait_for_stage(o.stages);
        t.template add_batch<CENTRED>(stage, mean, rstd, dw, db, xhat, g, sums);
        load_moments<T, CENTRED, PACKS>(t, 1, next_mean, next_rstd);
        team_sums<VALUES>(sums, room + parity * ROOM, o.team_threads);
        t.template store_batch<CENTRED, SUMS>(stage, mean, rstd, sums, xhat, g, dx_sums);
        if (o.stages > 0) {
            t.fetch(o.stages, stage);
            stage = stage + 1 < o.stages ? stage + 1 : 0;
        }
        t.row += BATCH * teams;
        parity ^= 1;
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            rstd[b] = next_rstd[b];
            mean[b] = next_mean[b];
        }
    }
    copy_wait();
    store_partials<T, CENTRED, SUMS>(t, dw, db, dx_sums);
}

/* sum[c] += the partial sums of column c: eight runs of them, and these in order. The grid's second
 * dimension: dw and its partial sums, db and its, dx_sums and its. */
__global__ void __launch_bounds__(256)
    add_partials_kernel(int64_t count, int64_t C, const float *partial, float *dw, float *db,
                        float *dx_sums) {
    LS_SHARED(float, room, 256);
    const int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x % 32;
    const int part = threadIdx.x / 32;
    const int64_t each = (count + 7) / 8, first = part * each;
    const int64_t last = first + each < count ? first + each : count;
    float *sum = blockIdx.y == 0 ? dw : blockIdx.y == 1 ? db : dx_sums;
    float s = 0.0f;
    partial += (int64_t)blockIdx.y * count * C;
#pragma unroll 8
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

extern "C" void ls_cuda_launch_add_partials(cudaStream_t stream, int64_t count, int64_t C,
                                            const float *partial, void *dw, void *db,
                                            void *dx_sums) {
    const dim3 grid((unsigned int)((C + 31) / 32), dx_sums ? 3 : db ? 2 : 1);
    LS_LAUNCH(add_partials_kernel, grid, 256, 0, stream, count, C, partial, (float *)dw,
              (float *)db, (float *)dx_sums);
}

/* As many stages of the ring as leave room for a second block, or else for one. */
static int stages_for(int64_t stage_bytes) {
    enum { WANTED_BYTES = 80 * 1024, LEFT_BYTES = 3 * 1024 /* static shared memory */ };
    int device = 0, most = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
            cudaSuccess) {
        return 1; /* reported by the launch */
    }
    most -= LEFT_BYTES;
    return 4 * stage_bytes <= (most < WANTED_BYTES ? most : WANTED_BYTES) ? 4
           : 2 * stage_bytes <= most                                      ? 2
                                                                          : 1;
}

template <class T, bool CENTRED, bool SUMS, int PACKS>
static void launch_backward_packs(cudaStream_t stream, norm_backward_arguments o) {
    typedef norm_backward_shape<T, PACKS> shape;
    const int64_t packs = (o.C + shape::P - 1) / shape::P;
    o.team_threads = (int)((packs + 32 * PACKS - 1) / (32 * PACKS)) * 32;
    const int threads = THREADS / o.team_threads * o.team_threads;
    const int64_t stage_bytes =
        (o.matrix[2] ? 3 : 2) * (int64_t)shape::EACH * threads * (int64_t)sizeof(uint4);
    o.stages = shape::RINGS ? stages_for(stage_bytes) : 0;
    const int64_t bytes = o.stages * stage_bytes;
    auto kernel = norm_backward_kernel<T, CENTRED, SUMS, PACKS>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    LS_LAUNCH(kernel, (unsigned int)runs_of(o.rows), (unsigned int)threads, (size_t)bytes, stream,
              o);
}

/* Also sums of the columns of dx, where the kernel can make them; false: they are left to do. */
template <class T, bool CENTRED, int PACKS>
static bool launch_summing(cudaStream_t stream, const norm_backward_arguments &o, bool sums) {
    if constexpr (CENTRED && norm_backward_shape<T, PACKS>::SUMS) {
        if (sums) {
            launch_backward_packs<T, CENTRED, true, PACKS>(stream, o);
            return true;
        }
    }
    launch_backward_packs<T, CENTRED, false, PACKS>(stream, o);
    return false;
}

template <class T, bool CENTRED>
static bool launch_packs(cudaStream_t stream, const norm_backward_arguments &o, bool sums) {
    const int64_t packs = (o.C + THREADS * pack<T>::size - 1) / (THREADS * pack<T>::size);
    constexpr int LAST = LS_CUDA_NORM_CHANNELS_MAX / (THREADS * pack<T>::size);
    if (packs <= 1) {
        return launch_summing<T, CENTRED, 1>(stream, o, sums);
    }
    if (packs <= 2) {
        return launch_summing<T, CENTRED, 2>(stream, o, sums);
    }
    if (packs <= 4) {
        launch_backward_packs<T, CENTRED, false, 4>(stream, o);
    } else if (packs <= 8) {
        launch_backward_packs<T, CENTRED, false, 8>(stream, o);
    } else {
        launch_backward_packs<T, CENTRED, false, LAST>(stream, o);
    }
    return false;
}

/* Bias: a thread sums a column over a run of rows. */

extern "C" int64_t ls_cuda_bias_scratch_elems(int64_t rows, int64_t cols) {
    return runs_of(rows) * cols;
}

/* A warp covers 32 packs of columns; eight warps take every eighth row of the run. dbias: of a
 * single run, else NULL. */
template <class T>
__global__ void __launch_bounds__(256)
    column_sums_kernel(int64_t rows, int64_t run_rows, int64_t cols, const T *dy, float *partial,
                       float *dbias, bool wide) {
    constexpr int P = pack<T>::size, AT_ONCE = 4; /* rows */
    LS_SHARED(float, room, 8 * 32 * P);
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int64_t c = ((int64_t)blockIdx.x * 32 + lane) * P;
    const int64_t first = (int64_t)blockIdx.y * run_rows;
    const int64_t last = first + run_rows < rows ? first + run_rows : rows;
    float sum[P] = {};
    for (int64_t row = first + part; row < last && c < cols; row += AT_ONCE * 8) {
        uint4 raw[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            const bool inside = row + u * 8 < last;
            raw[u] = load_raw(dy + (inside ? row + u * 8 : 0) * cols, c, inside ? cols : 0, wide);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE * P; i++) {
            sum[i % P] += unpack<T>(raw[i / P]).v[i % P];
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
        if (column < cols && dbias) {
            dbias[column] += s;
        } else if (column < cols) {
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
    LS_LAUNCH(kernel, grid, 256, 0, stream, op->rows, ls_cuda_norm_run_rows(op->rows), op->cols, dy,
              partial, runs == 1 ? (float *)op->dbias : (float *)NULL,
              op->cols % P == 0 && is_aligned(dy));
    if (runs > 1) {
        ls_cuda_launch_add_partials(stream, runs, op->cols, partial, op->dbias, NULL, NULL);
    }
}

template <class T>
static void launch_backward(cudaStream_t stream, const ls_norm *op, float *partial) {
    const bool centred = op->kind == LS_LAYERNORM;
    norm_backward_arguments o = {};
    o.rows = op->rows;
    o.run_rows = (int)ls_cuda_norm_run_rows(op->rows);
    o.C = (int)op->channels;
    o.matrix[0] = op->x;
    o.matrix[1] = op->dy;
    o.matrix[2] = op->dresidual;
    o.w = (const float *)op->w;
    o.mean = (const float *)op->mean;
    o.rstd = (const float *)op->rstd;
    o.dx = op->dx;
    o.partial = partial;
    o.wide = o.C % pack<T>::size == 0 && is_aligned((const T *)op->x) &&
             is_aligned((const T *)op->dy) && is_aligned((const T *)op->dresidual) &&
             is_aligned((T *)o.dx);
    o.wide_w = is_aligned(o.w);
    const bool sums = op->dx_sums != NULL;
    const bool summed =
        centred ? launch_packs<T, true>(stream, o, sums) : launch_packs<T, false>(stream, o, sums);
    ls_cuda_launch_add_partials(stream, runs_of(o.rows), o.C, partial, op->dw,
                                centred ? op->db : NULL, summed ? op->dx_sums : NULL);
    if (sums && !summed) {
        const ls_bias_grad rest = {op->dtype, op->rows, op->channels, op->dx, op->dx_sums};
        launch_bias_grad<T>(stream, &rest, partial);
    }
}

extern "C" void ls_cuda_launch_norm_backward(cudaStream_t stream, const ls_norm *op,
                                             float *partial) {
    LS_BY_DTYPE(op->dtype, launch_backward, stream, op, partial);
}

extern "C" void ls_cuda_launch_bias_grad(cudaStream_t stream, const ls_bias_grad *op,
                                         float *partial) {
    LS_BY_DTYPE(op->dtype, launch_bias_grad, stream, op, partial);
}
