/* Tiles of attention: products of 16 x 8 pieces by one warp, on tensor cores for bf16 and by plain
 * multiplications for fp32, with the same layout of the results in registers.
 *
 * Lane l of a warp has g = l / 4 and t = l % 4. A piece of C keeps in c[0], c[1] row g, columns 2t
 * and 2t + 1, in c[2], c[3] the same of row g + 8 (PTX ISA, mma.sync.m16n8k16). Tiles lie in shared
 * memory with rows of `ld` elements, ld chosen so that the lanes of a load meet different banks. */
#ifndef LS_DEVICE_CUDA_ATTENTION_TILE_CUH
#define LS_DEVICE_CUDA_ATTENTION_TILE_CUH

#include "runtime/device/cuda/warp_matrix.cuh"

#define LS_MASKED (-INFINITY)

/* Steps of k that products by two pieces of rows have unrolled: as many as there are where
 * registers hold what that brings under way. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
#define LS_UNROLL_WIDE 8
#else
#define LS_UNROLL_WIDE 1
#endif

/* c[i] and c[i + 1] += A B_i and A B_{i+1}, with A in registers and rows [d, d + 16) of B; for each
 * of M pieces of rows, whose c are N apart: what is read of B serves them all. */
template <bool BY_ROWS, int M, int N>
__device__ __forceinline__ void multiply_two(float (*c)[4], const uint32_t (*af)[4],
                                             const bf16_t *b, int ldb, int i, int d) {
    const int lane = threadIdx.x % 32, row = lane % 8, second = lane / 8 % 2, piece = lane / 16;
    uint32_t bf[4];
    if (BY_ROWS) {
        load_matrices<false>(bf, b + (8 * (i + piece) + row) * ldb + d + 8 * second);
    } else {
        load_matrices<true>(bf, b + (d + 8 * second + row) * ldb + 8 * (i + piece));
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
        mma_bf16(c[m * N + i], af[m], bf);
        mma_bf16(c[m * N + i + 1], af[m], bf + 2);
    }
}

/* c[i] (16 x 8) += A (16 x k) B_i, i < n / 8. A: rows of shared memory from `a`. B_i (k x 8):
 * BY_ROWS: its column j is row 8i + j of `b`; else its row j is row j of `b` from column 8i on.
 * k and n are multiples of 16. With M > 1, of bf16, the same for the next rows of A, c N_MAX / 8
 * further. */
template <bool BY_ROWS, int N_MAX, int M = 1>
__device__ __forceinline__ void multiply(float (*c)[4], const bf16_t *a, int lda, const bf16_t *b,
                                         int ldb, int n, int k) {
    const int lane = threadIdx.x % 32;
    [[maybe_unused]] constexpr int TIMES = M > 1 ? (N_MAX > 32 ? LS_UNROLL_WIDE : 1) : 2;
#pragma unroll TIMES
    for (int d = 0; d < k; d += 16) {
        uint32_t af[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            load_matrices<false>(af[m], a + (16 * m + lane % 16) * lda + d + lane / 16 * 8);
        }
#pragma unroll
        for (int i = 0; i < N_MAX / 8; i += 2) {
            if (i * 8 >= n) {
                break;
            }
            multiply_two<BY_ROWS, M, N_MAX / 8>(c, af, b, ldb, i, d);
        }
    }
}

template <bool BY_ROWS, int N_MAX, int M = 1>
__device__ __forceinline__ void multiply(float (*c)[4], const float *a, int lda, const float *b,
                                         int ldb, int n, int k) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float *low = a + g * lda, *high = low + 8 * lda;
    for (int d = 0; d < k; d++) {
        const float a0 = low[d], a1 = high[d];
#pragma unroll
        for (int i = 0; i < N_MAX / 8; i++) {
            if (i * 8 >= n) {
                break;
            }
            const int j = 8 * i + 2 * t;
            const float b0 = BY_ROWS ? b[j * ldb + d] : b[d * ldb + j];
            const float b1 = BY_ROWS ? b[(j + 1) * ldb + d] : b[d * ldb + j + 1];
            c[i][0] += a0 * b0;
            c[i][1] += a0 * b1;
            c[i][2] += a1 * b0;
            c[i][3] += a1 * b1;
        }
    }
}

template <int PIECES> __device__ __forceinline__ void clear(float (*c)[4]) {
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0.0f;
    }
}

/* 16 rows of a warp, from piece registers to shared memory. */
template <int PIECES>
__device__ __forceinline__ void keep(float *tile, int ld, const float (*c)[4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4 * PIECES; i++) {
        const int j = i % 4;
        tile[(g + 8 * (j / 2)) * ld + i / 4 * 8 + 2 * t + j % 2] = c[i / 4][j];
    }
}

/* c += P B, as multiply<false> has it, with P (16 x 8 PIECES) in registers as products leave it,
 * rounded to T. Pieces of bf16 are what mma takes as A; of fp32 they pass through `tile`. */
template <int PIECES, int N_MAX, int M = 1>
__device__ __forceinline__ void multiply_kept(float (*c)[4], const float (*p)[4], bf16_t *, int,
                                              const bf16_t *b, int ldb, int n) {
#pragma unroll
    for (int k = 0; k < PIECES; k += 2) {
        uint32_t af[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            const float *low = p[m * PIECES + k], *high = p[m * PIECES + k + 1];
            af[m][0] = two(low[0], low[1]);
            af[m][1] = two(low[2], low[3]);
            af[m][2] = two(high[0], high[1]);
            af[m][3] = two(high[2], high[3]);
        }
#pragma unroll
        for (int i = 0; i < N_MAX / 8; i += 2) {
            if (i * 8 >= n) {
                break;
            }
            multiply_two<false, M, N_MAX / 8>(c, af, b, ldb, i, 8 * k);
        }
    }
}

template <int PIECES, int N_MAX, int M = 1>
__device__ __forceinline__ void multiply_kept(float (*c)[4], const float (*p)[4], float *tile,
                                              int ldp, const float *b, int ldb, int n) {
    __syncwarp(); /* `tile` has been read */
    keep<PIECES>(tile, ldp, p);
    __syncwarp();
    multiply<false, N_MAX>(c, tile, ldp, b, ldb, n, 8 * PIECES);
}

/* a and b to columns d and d + 1 of a row, those below D; d is even. In one access where the row
 * begins at a multiple of two elements. */
template <class T>
__device__ __forceinline__ void store_two(T *row, int d, int D, float a, float b) {
    if (d + 1 < D && ((uintptr_t)row & (2 * sizeof(T) - 1)) == 0) {
        if constexpr (sizeof(T) == sizeof(bf16_t)) {
            const uint32_t word = two(a, b);
            store_whole<uint32_t>(row + d, &word);
        } else {
            const float words[] = {a, b};
            store_whole<uint2>(row + d, words);
        }
        return;
    }
    if (d < D) {
        row[d] = from_float<T>(a);
    }
    if (d + 1 < D) {
        row[d + 1] = from_float<T>(b);
    }
}

/* Sum or maximum over the four lanes that share a row. */
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(LS_ALL_LANES, x, 1);
    return x + __shfl_xor_sync(LS_ALL_LANES, x, 2);
}

__device__ __forceinline__ float quad_max(float x) {
    for (int step = 1; step <= 2; step *= 2) {
        const float other = __shfl_xor_sync(LS_ALL_LANES, x, step);
        x = other > x ? other : x;
    }
    return x;
}

/* Rows [first, first + TILE) of a matrix whose row i is from + i * stride, D columns, into shared
 * memory with zeros where there is no row or column, up to `columns` (a multiple of 16, at most
 * D_MAX). All BLOCK threads of the block; each then calls copy_wait. A thread has the same columns
 * of every STEP-th row, so that most of an address is made once. */
template <int TILE, int D_MAX, int BLOCK = 2 * TILE, class T>
__device__ __forceinline__ void load_tile(T *to, int ld, const T *from, int64_t stride, int first,
                                          int rows, int D, int columns, bool wide) {
    constexpr int P = pack<T>::size, PACKS = D_MAX / P;
    constexpr int LANES = PACKS > 16 ? 32 : PACKS > 8 ? 16 : PACKS > 4 ? 8 : PACKS > 2 ? 4 : 2;
    constexpr int STEP = BLOCK / LANES;
    static_assert(PACKS <= LANES || PACKS % LANES == 0, "packs of a row");
    static_assert(TILE % STEP == 0 || STEP > TILE, "rows of a tile");
    const int r = threadIdx.x / LANES;
    if (STEP > TILE && r >= TILE) {
        return;
    }
    for (int d = threadIdx.x % LANES * P; d < columns; d += LANES * P) {
        const T *row = from + (int64_t)(first + r) * stride + d;
        T *at = to + r * ld + d;
        if (wide) {
#pragma unroll
            for (int i = 0; i < TILE; i += STEP, row += STEP * stride) {
                copy_async(at + i * ld, row, first + r + i < rows && d < D);
            }
        } else {
            for (int i = 0; i < TILE; i += STEP, row += STEP * stride) {
                for (int j = 0; j < P; j++) {
                    const bool inside = first + r + i < rows && d + j < D;
                    at[i * ld + j] = inside ? row[j] : from_float<T>(0.0f);
                }
            }
        }
    }
}

template <class T> struct tile_of {
    static constexpr int pad = 16 / (int)sizeof(T); /* elements that end a row */
};

/* Elements of the tile for each warp that multiply_kept wants. */
template <class T> __host__ __device__ constexpr int kept_elems(int ldp) {
    return sizeof(T) == sizeof(float) ? 16 * ldp : 0;
}

#define LS_LOG2E 1.4426950408889634f

struct attention_arguments {
    ls_attention op;
    int64_t o_batch, lse_row, first_key_batch; /* not 0 */
    int columns;                               /* head_dim rounded up to 16 */
    bool wide;                                 /* 16-byte accesses to q, k, v and dout */
    float *delta;                              /* [B,H,q_len] */
};

/* Columns of a tile: in bf16 always D_MAX, so that addresses in it are known. */
template <class T, int D_MAX>
__host__ __device__ __forceinline__ int columns_of(const attention_arguments &o) {
    return sizeof(T) == sizeof(bf16_t) ? D_MAX : o.columns;
}

/* Row i sees the keys below this. */
__device__ __forceinline__ int keys_of(const attention_arguments &o, int row) {
    const int kv_len = (int)o.op.kv_len;
    const int keys = o.op.full ? kv_len : row + 1 + kv_len - (int)o.op.q_len;
    return keys < kv_len ? keys : kv_len;
}

/* And from this one on, which may be beyond them. Rows past the end as the last. */
__device__ __forceinline__ int first_key_of(const attention_arguments &o, int64_t batch, int row) {
    if (!o.op.first_key) {
        return 0;
    }
    const int last = (int)o.op.q_len - 1;
    const int first = o.op.first_key[batch * o.first_key_batch + (row < last ? row : last)];
    return first > 0 ? first : 0;
}

/* Of rows [first, first + count) some see keys from `begin` on and before `end`, all of them those
 * from all_begin on and before all_end. */
struct key_bounds {
    int begin, end, all_begin, all_end;
};

__device__ __forceinline__ key_bounds key_bounds_of(const attention_arguments &o, int first,
                                                    int count) {
    const int last = first + count - 1;
    return {first_key_of(o, blockIdx.z, first), keys_of(o, last), first_key_of(o, blockIdx.z, last),
            keys_of(o, first)};
}

/* How many of `tile` places from `begin` on are below `end`. */
__device__ __forceinline__ int places_below(int end, int begin, int tile) {
    return end <= begin ? 0 : end - begin < tile ? end - begin : tile;
}

/* What is of keys that a row does not see becomes `hidden`. s [16 x 8 KEY_PIECES]: of rows from
 * first_row on and keys from `begin` on. */
template <int KEY_PIECES>
__device__ __forceinline__ void mask_keys(const attention_arguments &o, int first_row, int begin,
                                          float hidden, float (*s)[4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first_row + g + 8 * half;
        const int seen = places_below(keys_of(o, row), begin, 8 * KEY_PIECES);
        const int from = first_key_of(o, blockIdx.z, row) - begin;
#pragma unroll
        for (int i = 0; i < 2 * KEY_PIECES; i++) {
            const int column = i / 2 * 8 + 2 * t + i % 2;
            if (column < from || column >= seen) {
                s[i / 2][2 * half + i % 2] = hidden;
            }
        }
    }
}

template <class T>
static attention_arguments attention_arguments_of(const ls_attention *op, float *delta) {
    const void *const pointers[] = {op->q, op->k, op->v, op->dout};
    const int64_t strides[] = {op->q_stride, op->kv_stride, op->q_batch, op->kv_batch,
                               op->o_stride, op->o_batch,   op->head_dim};
    attention_arguments o = {};
    o.op = *op;
    o.o_batch = op->o_batch > 0 ? op->o_batch : op->q_len * op->o_stride;
    o.lse_row = op->lse_row > 0 ? op->lse_row : op->q_len;
    o.first_key_batch = op->first_key_batch > 0 ? op->first_key_batch : op->q_len;
    o.columns = (int)(op->head_dim + 15) / 16 * 16;
    o.wide = true;
    o.delta = delta;
    for (const void *p : pointers) {
        o.wide = o.wide && is_aligned((const T *)p);
    }
    for (int64_t s : strides) {
        o.wide = o.wide && s % pack<T>::size == 0;
    }
    return o;
}

#endif
