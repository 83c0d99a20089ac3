/* Causal attention, backward: FlashAttention-2 (Dao 2023, arXiv 2307.08691) in two kernels, one
 * with blocks of keys for dk and dv and one with blocks of queries for dq. The products of the
 * scores are made twice; in exchange no sum needs atomic additions, so that every run has the same
 * bits. delta_i = dout_i . out_i,  p_ij = exp(scale s_ij - lse_i),  ds_ij = p_ij (dout_i . v_j -
 * delta_i) dv_j = sum_i p_ij dout_i,  dk_j = scale sum_i ds_ij q_i,  dq_i = scale sum_j ds_ij k_j
 * with sums over i for all query heads of a key/value head, in order. */
#include "runtime/device/cuda/attention_tile.cuh"

/* delta [B,H,T], a warp for each; a block has rows of one head. */
template <class T> __global__ void __launch_bounds__(THREADS) delta_kernel(attention_arguments o) {
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int64_t head = blockIdx.y, batch = blockIdx.z;
    if (row >= o.op.q_len) {
        return;
    }
    const int64_t at = batch * o.o_batch + row * o.op.o_stride + head * o.op.head_dim;
    float sum = 0.0f;
    for (int64_t d = threadIdx.x % 32; d < o.op.head_dim; d += 32) {
        sum += to_float(((const T *)o.op.out)[at + d]) * to_float(((const T *)o.op.dout)[at + d]);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) {
        o.delta[(batch * o.op.heads + head) * o.op.q_len + row] = sum;
    }
}

/* factor * 16 rows of a warp to memory, those below `rows`; or added to what is there. */
template <class T, int PIECES>
__device__ __forceinline__ void put(T *to, int64_t stride, int64_t first, int64_t rows, int D,
                                    const float (*c)[4], float factor, bool add) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4 * PIECES; i++) {
        const int j = i % 4, d = i / 4 * 8 + 2 * t + j % 2;
        const int64_t row = first + g + 8 * (j / 2);
        if (row < rows && d < D) {
            T *at = to + row * stride + d;
            *at = from_float<T>(c[i / 4][j] * factor + (add ? to_float(*at) : 0.0f));
        }
    }
}

/* p [16 keys from first_key, ROWS queries from `begin`]: of scores, to probabilities; dp: of
 * dout . v, to the gradient of the scores. lse, in units of log2, and delta: of these queries. */
template <int PIECES, int ROWS>
__device__ __forceinline__ void key_scores(const attention_arguments &o, int64_t first_key,
                                           int64_t begin, const float *lse, const float *delta,
                                           float (*p)[4], float (*dp)[4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float to_log2 = (float)(o.op.scale * 1.4426950408889634);
    /* Of the queries, [from, to) see a key. */
    const int to = places_below(o.op.q_len, begin, ROWS);
    int from[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t key = first_key + g + 8 * half;
        from[half] = key >= o.op.kv_len ? ROWS
                     : o.op.full        ? 0
                                 : places_below(key - (o.op.kv_len - o.op.q_len), begin, ROWS);
    }
#pragma unroll
    for (int i = 0; i < 4 * PIECES; i++) {
        const int j = i % 4, column = i / 4 * 8 + 2 * t + j % 2;
        const bool seen = column >= from[j / 2] && column < to;
        const float x = p[i / 4][j] * to_log2;
        p[i / 4][j] = seen ? exp2_of(x - lse[column]) : 0.0f;
        dp[i / 4][j] = seen ? p[i / 4][j] * (dp[i / 4][j] - delta[column]) : 0.0f;
    }
}

/* A block has ROWS keys, 16 to a warp, and goes over the queries that see them; makes dk, dv or
 * both: registers do not hold both of wide heads. */
template <class T, int ROWS, int D_MAX, bool DK, bool DV>
__global__ void __launch_bounds__(ROWS * 2) key_gradient_kernel(attention_arguments o) {
    LS_SHARED_DYNAMIC(T, tiles);
    LS_SHARED(float, lse, ROWS);
    LS_SHARED(float, delta, ROWS);
    constexpr int PAD = tile_of<T>::pad, PIECES = ROWS / 8, HEAD_PIECES = D_MAX / 8;
    const int D = (int)o.op.head_dim, ld = o.columns + PAD, ldp = ROWS + PAD;
    const int warp = threadIdx.x / 32;
    T *k_tile = tiles, *v_tile = k_tile + ROWS * ld, *q_tile = v_tile + ROWS * ld;
    T *dout_tile = q_tile + ROWS * ld;
    T *p_tile = dout_tile + ROWS * ld + warp * kept_elems<T>(ldp);
    const int64_t kv_head = blockIdx.y, batch = blockIdx.z, first = (int64_t)blockIdx.x * ROWS;
    const int64_t len = o.op.q_len, kv_len = o.op.kv_len, group = o.op.heads / o.op.kv_heads;
    /* The first query that sees the first key. */
    const int64_t past = kv_len - len;
    const int64_t first_query = o.op.full || first <= past ? 0 : first - past;
    const int64_t kv_at = batch * o.op.kv_batch + kv_head * D;

    float dk[DK ? HEAD_PIECES : 1][4], dv[DV ? HEAD_PIECES : 1][4];
    clear<DK ? HEAD_PIECES : 1>(dk);
    clear<DV ? HEAD_PIECES : 1>(dv);
    load_tile<ROWS, D_MAX>(k_tile, ld, (const T *)o.op.k + kv_at, o.op.kv_stride, first, kv_len, D,
                           o.columns, o.wide);
    load_tile<ROWS, D_MAX>(v_tile, ld, (const T *)o.op.v + kv_at, o.op.kv_stride, first, kv_len, D,
                           o.columns, o.wide);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        const T *q = (const T *)o.op.q + batch * o.op.q_batch + head * D;
        const T *dout = (const T *)o.op.dout + batch * o.o_batch + head * D;
        const float *lses = (const float *)o.op.lse + (batch * o.op.heads + head) * o.lse_row;
        const float *deltas = o.delta + (batch * o.op.heads + head) * len;
        for (int64_t begin = first_query; begin < len; begin += ROWS) {
            __syncthreads();
            load_tile<ROWS, D_MAX>(q_tile, ld, q, o.op.q_stride, begin, len, D, o.columns, o.wide);
            load_tile<ROWS, D_MAX>(dout_tile, ld, dout, o.op.o_stride, begin, len, D, o.columns,
                                   o.wide);
            for (int i = threadIdx.x; i < ROWS; i += blockDim.x) {
                const bool inside = begin + i < len;
                lse[i] = inside ? lses[begin + i] * LS_LOG2E : 0.0f;
                delta[i] = inside ? deltas[begin + i] : 0.0f;
            }
            copy_wait();
            __syncthreads();
            /* Rows are keys, columns queries. */
            float p[PIECES][4], dp[PIECES][4];
            clear<PIECES>(p);
            clear<PIECES>(dp);
            multiply<true, ROWS>(p, k_tile + warp * 16 * ld, ld, q_tile, ld, ROWS, o.columns);
            if constexpr (DK) {
                multiply<true, ROWS>(dp, v_tile + warp * 16 * ld, ld, dout_tile, ld, ROWS,
                                     o.columns);
            }
            key_scores<PIECES, ROWS>(o, first + warp * 16, begin, lse, delta, p, dp);
            if constexpr (DV) {
                multiply_kept<PIECES, D_MAX>(dv, p, p_tile, ldp, dout_tile, ld, o.columns);
            }
            if constexpr (DK) {
                multiply_kept<PIECES, D_MAX>(dk, dp, p_tile, ldp, q_tile, ld, o.columns);
            }
        }
    }
    copy_wait(); /* where no query sees a key */
    if constexpr (DK) {
        put<T, HEAD_PIECES>((T *)o.op.dk + kv_at, o.op.kv_stride, first + warp * 16, kv_len, D, dk,
                            (float)o.op.scale, o.op.add);
    }
    if constexpr (DV) {
        put<T, HEAD_PIECES>((T *)o.op.dv + kv_at, o.op.kv_stride, first + warp * 16, kv_len, D, dv,
                            1.0f, o.op.add);
    }
}

/* A block has ROWS queries, 16 to a warp, and goes over the keys that they see. */
template <class T, int ROWS, int D_MAX>
__global__ void __launch_bounds__(ROWS * 2) query_gradient_kernel(attention_arguments o) {
    LS_SHARED_DYNAMIC(T, tiles);
    constexpr int PAD = tile_of<T>::pad, PIECES = ROWS / 8, HEAD_PIECES = D_MAX / 8;
    const int D = (int)o.op.head_dim, ld = o.columns + PAD, ldp = ROWS + PAD;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    T *q_tile = tiles, *dout_tile = q_tile + ROWS * ld, *k_tile = dout_tile + ROWS * ld;
    T *v_tile = k_tile + ROWS * ld;
    T *ds_tile = v_tile + ROWS * ld + warp * kept_elems<T>(ldp);
    const int64_t head = blockIdx.y, batch = blockIdx.z, len = o.op.q_len;
    const int64_t first = ((int64_t)gridDim.x - 1 - blockIdx.x) * ROWS;
    const int64_t q_at = batch * o.op.q_batch + head * D;
    const int64_t kv_at = batch * o.op.kv_batch + head / (o.op.heads / o.op.kv_heads) * D;
    const int64_t end = keys_of(o, (first + ROWS < len ? first + ROWS : len) - 1);
    const float scale = (float)o.op.scale, to_log2 = (float)(o.op.scale * 1.4426950408889634);
    float lse[2], delta[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t row = first + warp * 16 + g + 8 * half;
        const int64_t line = batch * o.op.heads + head;
        lse[half] = row < len ? ((const float *)o.op.lse)[line * o.lse_row + row] * LS_LOG2E : 0.0f;
        delta[half] = row < len ? o.delta[line * len + row] : 0.0f;
    }
    float dq[HEAD_PIECES][4];
    clear<HEAD_PIECES>(dq);
    load_tile<ROWS, D_MAX>(q_tile, ld, (const T *)o.op.q + q_at, o.op.q_stride, first, len, D,
                           o.columns, o.wide);
    load_tile<ROWS, D_MAX>(dout_tile, ld, (const T *)o.op.dout + batch * o.o_batch + head * D,
                           o.op.o_stride, first, len, D, o.columns, o.wide);
    for (int64_t begin = 0; begin < end; begin += ROWS) {
        __syncthreads();
        load_tile<ROWS, D_MAX>(k_tile, ld, (const T *)o.op.k + kv_at, o.op.kv_stride, begin,
                               o.op.kv_len, D, o.columns, o.wide);
        load_tile<ROWS, D_MAX>(v_tile, ld, (const T *)o.op.v + kv_at, o.op.kv_stride, begin,
                               o.op.kv_len, D, o.columns, o.wide);
        copy_wait();
        __syncthreads();
        float p[PIECES][4], dp[PIECES][4];
        clear<PIECES>(p);
        clear<PIECES>(dp);
        multiply<true, ROWS>(p, q_tile + warp * 16 * ld, ld, k_tile, ld, ROWS, o.columns);
        multiply<true, ROWS>(dp, dout_tile + warp * 16 * ld, ld, v_tile, ld, ROWS, o.columns);
        int seen[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int64_t query = first + warp * 16 + g + 8 * half;
            seen[half] = query < len ? places_below(keys_of(o, query), begin, ROWS) : 0;
        }
#pragma unroll
        for (int i = 0; i < 4 * PIECES; i++) {
            const int j = i % 4;
            const float x = p[i / 4][j] * to_log2;
            dp[i / 4][j] = i / 4 * 8 + 2 * t + j % 2 < seen[j / 2]
                               ? exp2_of(x - lse[j / 2]) * (dp[i / 4][j] - delta[j / 2])
                               : 0.0f;
        }
        multiply_kept<PIECES, D_MAX>(dq, dp, ds_tile, ldp, k_tile, ld, o.columns);
    }
    copy_wait();
    put<T, HEAD_PIECES>((T *)o.op.dq + q_at, o.op.q_stride, first + warp * 16, len, D, dq, scale,
                        o.op.add);
}

template <class T, int ROWS, int D_MAX, bool DK, bool DV>
static void launch_keys(cudaStream_t stream, const attention_arguments &o, int bytes) {
    const unsigned int tiles = (unsigned int)((o.op.kv_len + ROWS - 1) / ROWS);
    auto keys = key_gradient_kernel<T, ROWS, D_MAX, DK, DV>;
    cudaFuncSetAttribute(keys, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    LS_LAUNCH(keys, dim3(tiles, (unsigned int)o.op.kv_heads, (unsigned int)o.op.batch), ROWS * 2,
              (size_t)bytes, stream, o);
}

template <class T, int ROWS, int D_MAX>
static void launch_tiles(cudaStream_t stream, const attention_arguments &o) {
    const int ld = o.columns + tile_of<T>::pad, ldp = ROWS + tile_of<T>::pad;
    const int bytes = (4 * ROWS * ld + ROWS / 16 * kept_elems<T>(ldp)) * (int)sizeof(T);
    const unsigned int q_tiles = (unsigned int)((o.op.q_len + ROWS - 1) / ROWS);
    const unsigned int batch = (unsigned int)o.op.batch;
    const int64_t lines = (o.op.q_len + THREADS / 32 - 1) / (THREADS / 32);
    auto deltas = delta_kernel<T>;
    auto queries = query_gradient_kernel<T, ROWS, D_MAX>;
    cudaFuncSetAttribute(queries, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    LS_LAUNCH(deltas, dim3((unsigned int)lines, (unsigned int)o.op.heads, batch), THREADS, 0,
              stream, o);
    if constexpr (D_MAX > 128) {
        launch_keys<T, ROWS, D_MAX, true, false>(stream, o, bytes);
        launch_keys<T, ROWS, D_MAX, false, true>(stream, o, bytes);
    } else {
        launch_keys<T, ROWS, D_MAX, true, true>(stream, o, bytes);
    }
    LS_LAUNCH(queries, dim3(q_tiles, (unsigned int)o.op.heads, batch), ROWS * 2, (size_t)bytes,
              stream, o);
}

extern "C" void ls_cuda_launch_attention_backward(cudaStream_t stream, const ls_attention *op,
                                                  float *delta) {
    if (op->dtype == LS_BF16) {
        const attention_arguments o = attention_arguments_of<bf16_t>(op, delta);
        if (o.columns <= 64) {
            launch_tiles<bf16_t, 64, 64>(stream, o);
        } else if (o.columns <= 128) {
            launch_tiles<bf16_t, 64, 128>(stream, o);
        } else {
            launch_tiles<bf16_t, 32, 256>(stream, o);
        }
    } else {
        const attention_arguments o = attention_arguments_of<float>(op, delta);
        if (o.columns <= 128) {
            launch_tiles<float, 32, 128>(stream, o);
        } else {
            launch_tiles<float, 16, 256>(stream, o);
        }
    }
}
