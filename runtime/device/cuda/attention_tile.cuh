/* Tiles of attention: products of 16 x 8 pieces by one warp, on tensor cores for bf16 and by plain
 * multiplications for fp32, with the same layout of the results in registers.
 *
 * Lane l of a warp has g = l / 4 and t = l % 4. A piece of C keeps in c[0], c[1] row g, columns 2t
 * and 2t + 1, in c[2], c[3] the same of row g + 8 (PTX ISA, mma.sync.m16n8k16). Tiles lie in shared
 * memory with rows of `ld` elements, ld chosen so that the lanes of a load meet different banks. */
#ifndef LS_DEVICE_CUDA_ATTENTION_TILE_CUH
#define LS_DEVICE_CUDA_ATTENTION_TILE_CUH

#include "runtime/device/cuda/kernel.cuh"

#define LS_MASKED (-INFINITY)

#ifdef LS_EMULATED_DEVICE
__device__ __forceinline__ void mma_bf16(float *c, const uint32_t *a, const uint32_t *b) {
    emu_mma_bf16_16x8x16(c, a, b);
}
#else
__device__ __forceinline__ void mma_bf16(float *c, const uint32_t *a, const uint32_t *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

__device__ __forceinline__ uint32_t two(const bf16_t *p) {
    return *reinterpret_cast<const uint32_t *>(p);
}

__device__ __forceinline__ uint32_t two(bf16_t low, bf16_t high) {
    return (uint32_t)low.bits | (uint32_t)high.bits << 16;
}

/* c[i] (16 x 8) += A (16 x k) B_i, i < n / 8. A: rows of shared memory from `a`. B_i (k x 8):
 * BY_ROWS: its column j is row 8i + j of `b`; else its row j is row j of `b` from column 8i on.
 * k is a multiple of 16, n of 8. */
template <bool BY_ROWS, int N_MAX>
__device__ __forceinline__ void multiply(float (*c)[4], const bf16_t *a, int lda, const bf16_t *b,
                                         int ldb, int n, int k) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int d = 0; d < k; d += 16) {
        const bf16_t *low = a + g * lda + d + 2 * t, *high = low + 8 * lda;
        const uint32_t af[4] = {two(low), two(high), two(low + 8), two(high + 8)};
#pragma unroll
        for (int i = 0; i < N_MAX / 8; i++) {
            if (i * 8 >= n) {
                break;
            }
            uint32_t bf[2];
            if (BY_ROWS) {
                const bf16_t *from = b + (8 * i + g) * ldb + d + 2 * t;
                bf[0] = two(from);
                bf[1] = two(from + 8);
            } else {
                const bf16_t *from = b + (d + 2 * t) * ldb + 8 * i + g;
                bf[0] = two(from[0], from[ldb]);
                bf[1] = two(from[8 * ldb], from[9 * ldb]);
            }
            mma_bf16(c[i], af, bf);
        }
    }
}

template <bool BY_ROWS, int N_MAX>
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

/* Rows [first, first + tile) of a matrix whose row i is from + i * stride, D columns, into shared
 * memory with zeros where there is no row or column, up to `columns` (a multiple of 16). All
 * threads of the block. */
template <class T>
__device__ __forceinline__ void load_tile(T *to, int ld, const T *from, int64_t stride,
                                          int64_t first, int64_t rows, int tile, int D, int columns,
                                          bool wide) {
    constexpr int P = pack<T>::size;
    const int packs = columns / P;
    for (int i = threadIdx.x; i < tile * packs; i += blockDim.x) {
        const int r = i / packs, d = i % packs * P;
        const T *row = from + (first + r) * stride;
        if (wide && first + r < rows && d + P <= D) {
            *reinterpret_cast<uint4 *>(to + r * ld + d) = *reinterpret_cast<const uint4 *>(row + d);
        } else {
            for (int j = 0; j < P; j++) {
                to[r * ld + d + j] =
                    first + r < rows && d + j < D ? row[d + j] : from_float<T>(0.0f);
            }
        }
    }
}

template <class T> struct tile_of {
    static constexpr int pad = 16 / (int)sizeof(T); /* elements that end a row */
};

struct attention_arguments {
    ls_attention op;
    int64_t o_batch, lse_row; /* not 0 */
    int columns;              /* head_dim rounded up to 16 */
    bool wide;                /* 16-byte accesses to q, k, v and dout */
    float *delta;             /* [B,H,q_len] */
};

/* Row i sees the keys below this. */
__device__ __forceinline__ int64_t keys_of(const attention_arguments &o, int64_t row) {
    return o.op.full ? o.op.kv_len : row + 1 + o.op.kv_len - o.op.q_len;
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
