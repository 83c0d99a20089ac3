/* Products of a mixture's experts in one launch, whose sizes only the device knows (grouped
 * products, as in MegaBlocks: Gale 2022, arXiv 2211.15841). Blocks for as many tiles as there can
 * be find out which expert's rows are theirs; those that are left end at once.
 *
 * A block has a tile of ROWS x COLUMNS of C, 32 x 64 to a warp, and goes over k in slices that come
 * to shared memory while those before are multiplied. bf16 is multiplied on tensor cores by
 * mma.sync, which reaches little more than half of what cuBLASLt's wgmma does on Hopper: worth it
 * where an expert has too few rows for a product of its own to fill the GPU. */
#include "runtime/device/cuda/attention_tile.cuh"

enum { ROWS = 128, COLUMNS = 128, WARP_ROWS = 32, WARP_COLUMNS = 64 };
enum { PIECES = WARP_COLUMNS / 8, HIGH = WARP_ROWS / 16 };

/* C [m, n] += A [m, k] B [k, n]. A_BY_K: A lies as [m, k], else as [k, m]; B as [n, k] or [k, n].
 */
template <class T, bool A_BY_K, bool B_BY_K> struct tile_shape {
    static constexpr int SLICE = sizeof(T) == 2 ? 32 : 16, STAGES = sizeof(T) == 2 ? 3 : 2;
    static constexpr int LDA = (A_BY_K ? SLICE : ROWS) + tile_of<T>::pad;
    static constexpr int LDB = (B_BY_K ? SLICE : COLUMNS) + tile_of<T>::pad;
    static constexpr int A_ELEMS = (A_BY_K ? ROWS : SLICE) * LDA;
    static constexpr int ELEMS = A_ELEMS + (B_BY_K ? COLUMNS : SLICE) * LDB; /* of a stage */
};

/* A product, and the tile of it that a block makes. */
template <class T> struct tile_product {
    const T *a, *b;
    int64_t lda, ldb;
    int m, n, k, row, column;
    bool wide;
};

/* Slice `from` of k, zeros where there is none. */
template <class T, bool A_BY_K, bool B_BY_K>
__device__ __forceinline__ void load_slice(const tile_product<T> &p, int from, T *stage) {
    typedef tile_shape<T, A_BY_K, B_BY_K> shape;
    constexpr int S = shape::SLICE;
    T *b = stage + shape::A_ELEMS;
    if (A_BY_K) {
        load_tile<ROWS, S, THREADS>(stage, shape::LDA, p.a + from, p.lda, p.row, p.m, p.k - from, S,
                                    p.wide);
    } else {
        load_tile<S, ROWS, THREADS>(stage, shape::LDA, p.a + p.row, p.lda, from, p.k, p.m - p.row,
                                    ROWS, p.wide);
    }
    if (B_BY_K) {
        load_tile<COLUMNS, S, THREADS>(b, shape::LDB, p.b + from, p.ldb, p.column, p.n, p.k - from,
                                       S, p.wide);
    } else {
        load_tile<S, COLUMNS, THREADS>(b, shape::LDB, p.b + p.column, p.ldb, from, p.k,
                                       p.n - p.column, COLUMNS, p.wide);
    }
}

/* A warp's part of a slice; a, b: its first row and column. */
template <bool A_BY_K, bool B_BY_K>
__device__ __forceinline__ void multiply_slice(float (*c)[4], const bf16_t *a, const bf16_t *b) {
    typedef tile_shape<bf16_t, A_BY_K, B_BY_K> shape;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int d = 0; d < shape::SLICE; d += 16) {
        uint32_t af[HIGH][4];
#pragma unroll
        for (int m = 0; m < HIGH; m++) {
            if (A_BY_K) {
                load_matrices<false>(af[m],
                                     a + (16 * m + lane % 16) * shape::LDA + d + lane / 16 * 8);
            } else {
                load_matrices<true>(af[m], a + (d + lane / 16 * 8 + lane % 8) * shape::LDA +
                                               16 * m + lane / 8 % 2 * 8);
            }
        }
#pragma unroll
        for (int i = 0; i < PIECES; i += 2) {
            multiply_two<B_BY_K, HIGH, PIECES>(c, af, b, shape::LDB, i, d);
        }
    }
}

template <bool A_BY_K, bool B_BY_K>
__device__ __forceinline__ void multiply_slice(float (*c)[4], const float *a, const float *b) {
    typedef tile_shape<float, A_BY_K, B_BY_K> shape;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int d = 0; d < shape::SLICE; d++) {
        float rows[2 * HIGH];
#pragma unroll
        for (int r = 0; r < 2 * HIGH; r++) {
            rows[r] = A_BY_K ? a[(8 * r + g) * shape::LDA + d] : a[d * shape::LDA + 8 * r + g];
        }
#pragma unroll
        for (int i = 0; i < 2 * PIECES; i++) {
            const int column = i / 2 * 8 + 2 * t + i % 2;
            const float x = B_BY_K ? b[column * shape::LDB + d] : b[d * shape::LDB + column];
#pragma unroll
            for (int r = 0; r < 2 * HIGH; r++) {
                c[r / 2 * PIECES + i / 2][r % 2 * 2 + i % 2] += rows[r] * x;
            }
        }
    }
}

template <class T, bool A_BY_K, bool B_BY_K>
__device__ __forceinline__ void multiply_tile(const tile_product<T> &p, float (*c)[4], T *stages) {
    typedef tile_shape<T, A_BY_K, B_BY_K> shape;
    constexpr int LAST = shape::STAGES - 1;
    const int slices = (p.k + shape::SLICE - 1) / shape::SLICE, warp = threadIdx.x / 32;
    const int a_at = warp % (ROWS / WARP_ROWS) * WARP_ROWS * (A_BY_K ? shape::LDA : 1);
    const int b_at = warp / (ROWS / WARP_ROWS) * WARP_COLUMNS * (B_BY_K ? shape::LDB : 1);
    for (int i = 0; i < LAST; i++) {
        if (i < slices) {
            load_slice<T, A_BY_K, B_BY_K>(p, i * shape::SLICE, stages + i * shape::ELEMS);
        }
        copy_commit();
    }
    for (int i = 0; i < slices; i++) {
        const T *stage = stages + i % shape::STAGES * shape::ELEMS;
        copy_wait_but<LAST - 1>();
        __syncthreads(); /* the slice is there, the one before it has been read */
        if (i + LAST < slices) {
            load_slice<T, A_BY_K, B_BY_K>(p, (i + LAST) * shape::SLICE,
                                          stages + (i + LAST) % shape::STAGES * shape::ELEMS);
        }
        copy_commit();
        multiply_slice<A_BY_K, B_BY_K>(c, stage + a_at, stage + shape::A_ELEMS + b_at);
    }
    copy_wait();
}

/* To `to` [m, n], added to what is there with ADDS. */
template <bool ADDS, class T, class C>
__device__ __forceinline__ void store_tile(const tile_product<T> &p, const float (*c)[4], C *to) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = p.row + warp % (ROWS / WARP_ROWS) * WARP_ROWS + lane / 4;
    const int column = p.column + warp / (ROWS / WARP_ROWS) * WARP_COLUMNS + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < HIGH * PIECES * 2; i++) { /* two neighbours of a row */
        const int r = row + i / 2 / PIECES * 16 + i % 2 * 8, at = column + i / 2 % PIECES * 8;
        const float *two = &c[i / 2][i % 2 * 2];
        for (int j = 0; j < 2 && r < p.m && at + j < p.n; j++) {
            C *element = &to[(int64_t)r * p.n + at + j];
            *element = from_float<C>(ADDS ? to_float(*element) + two[j] : two[j]);
        }
    }
}

/* Tile `id` of a matrix, in an order in which those under way at once are a square: they share
 * what they read in the second cache. */
__device__ __forceinline__ void place_of(int64_t id, int64_t rows, int64_t columns, int64_t *row,
                                         int64_t *column) {
    constexpr int64_t SIDE = 16;
    const int64_t first = id / (SIDE * columns) * SIDE, rest = id % (SIDE * columns);
    const int64_t high = rows - first < SIDE ? rows - first : SIDE;
    *row = first + rest % high;
    *column = rest / high;
}

/* Where rows of expert e that begin at `first` have their tiles: behind those of the experts
 * before, which have at most as many. */
__device__ __forceinline__ int64_t first_tile(int64_t first, int64_t e) {
    return first / ROWS + e;
}

/* The expert of a tile of rows, and its number there; false: nobody's. All threads search. */
__device__ __forceinline__ bool find_expert(const ls_expert_products &o, int64_t tile, int *found,
                                            int64_t *expert, int *number) {
    if (threadIdx.x == 0) {
        found[0] = -1;
    }
    __syncthreads();
    for (int64_t e = threadIdx.x; e < o.experts; e += THREADS) {
        const int64_t at = tile - first_tile(o.bounds[e], e);
        if (at >= 0 && at * ROWS < o.bounds[e + 1] - o.bounds[e]) {
            found[0] = (int)e;
            found[1] = (int)at;
        }
    }
    __syncthreads();
    *expert = found[0];
    *number = found[1];
    return found[0] >= 0;
}

/* FORWARD: [rows, out] = x [rows, in] w [out, in]^T; else [rows, in] = dy [rows, out] w. */
template <class T, bool FORWARD>
__global__ void __launch_bounds__(THREADS, 2) expert_rows_kernel(ls_expert_products o, bool wide) {
    LS_SHARED_DYNAMIC(T, stages);
    LS_SHARED(int, found, 2);
    const int64_t tiles = first_tile(o.rows, o.experts);
    const int n = (int)(FORWARD ? o.out : o.in), k = (int)(FORWARD ? o.in : o.out);
    int64_t tile, column, expert;
    int number;
    place_of(blockIdx.x, tiles, (n + COLUMNS - 1) / COLUMNS, &tile, &column);
    if (!find_expert(o, tile, found, &expert, &number)) {
        return;
    }
    const int64_t first = o.bounds[expert];
    const tile_product<T> p = {(const T *)o.a + first * k,
                               (const T *)o.b + expert * o.out * o.in,
                               k,
                               o.in,
                               (int)(o.bounds[expert + 1] - first),
                               n,
                               k,
                               number * ROWS,
                               (int)column * COLUMNS,
                               wide};
    float c[HIGH * PIECES][4];
    clear<HIGH * PIECES>(c);
    multiply_tile<T, true, FORWARD>(p, c, stages);
    store_tile<false>(p, c, (T *)o.c + first * n);
}

/* [out, in] += dy [rows, out]^T x [rows, in] */
template <class T>
__global__ void __launch_bounds__(THREADS, 2)
    expert_weights_kernel(ls_expert_products o, bool wide) {
    LS_SHARED_DYNAMIC(T, stages);
    const int64_t expert = blockIdx.y, first = o.bounds[expert];
    const int m = (int)o.out, n = (int)o.in, k = (int)(o.bounds[expert + 1] - first);
    int64_t row, column;
    place_of(blockIdx.x, (m + ROWS - 1) / ROWS, (n + COLUMNS - 1) / COLUMNS, &row, &column);
    if (k == 0) {
        return;
    }
    const tile_product<T> p = {(const T *)o.a + first * m,
                               (const T *)o.b + first * n,
                               m,
                               n,
                               m,
                               n,
                               k,
                               (int)row * ROWS,
                               (int)column * COLUMNS,
                               wide};
    float c[HIGH * PIECES][4];
    clear<HIGH * PIECES>(c);
    multiply_tile<T, false, false>(p, c, stages);
    store_tile<true>(p, c, (float *)o.c + expert * o.out * o.in);
}

template <class T, bool A_BY_K, bool B_BY_K, class K>
static void launch_tiles(cudaStream_t stream, K kernel, const ls_expert_products *op, dim3 grid) {
    typedef tile_shape<T, A_BY_K, B_BY_K> shape;
    constexpr int P = pack<T>::size;
    const size_t bytes = (size_t)shape::STAGES * shape::ELEMS * sizeof(T);
    const bool wide = op->in % P == 0 && op->out % P == 0 && is_aligned((const T *)op->a) &&
                      is_aligned((const T *)op->b);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    LS_LAUNCH(kernel, grid, THREADS, bytes, stream, *op, wide);
}

template <class T> static void launch(cudaStream_t stream, const ls_expert_products *op) {
    const int64_t in_tiles = (op->in + COLUMNS - 1) / COLUMNS;
    const int64_t out_tiles = (op->out + COLUMNS - 1) / COLUMNS;
    const int64_t row_tiles = op->rows / ROWS + op->experts;
    if (op->what == LS_EXPERT_FORWARD) {
        launch_tiles<T, true, true>(stream, expert_rows_kernel<T, true>, op,
                                    dim3((unsigned int)(row_tiles * out_tiles)));
    } else if (op->what == LS_EXPERT_INPUT_GRAD) {
        launch_tiles<T, true, false>(stream, expert_rows_kernel<T, false>, op,
                                     dim3((unsigned int)(row_tiles * in_tiles)));
    } else {
        launch_tiles<T, false, false>(
            stream, expert_weights_kernel<T>, op,
            dim3((unsigned int)(in_tiles * out_tiles), (unsigned int)op->experts));
    }
}

extern "C" void ls_cuda_launch_expert_products(cudaStream_t stream, const ls_expert_products *op) {
    LS_BY_DTYPE(op->dtype, launch, stream, op);
}
