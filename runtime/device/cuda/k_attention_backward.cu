/* Causal attention, backward: FlashAttention-2 (Dao 2023, arXiv 2307.08691) in two kernels, one
 * with blocks of keys for dk and dv and one with blocks of queries for dq. The products of the
 * scores are made twice; in exchange no sum needs atomic additions, so that every run has the same
 * bits. delta_i = dout_i . out_i,  p_ij = exp(scale s_ij - lse_i),  ds_ij = p_ij (dout_i . v_j -
 * delta_i) dv_j = sum_i p_ij dout_i,  dk_j = scale sum_i ds_ij q_i,  dq_i = scale sum_j ds_ij k_j
 * with sums over i for all query heads of a key/value head, in order. A NaN or infinity in q, k or
 * dout may also reach gradients of the same tile that do not depend on it. */
#include "runtime/device/cuda/attention_tile.cuh"

/* delta [B,H,T], LANES lanes for each, a power of two; a block has rows of one head. */
template <class T, int LANES>
__global__ void __launch_bounds__(THREADS) delta_kernel(attention_arguments o) {
    constexpr int P = pack<T>::size;
    const int64_t row = (int64_t)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    const int64_t head = blockIdx.y, batch = blockIdx.z;
    const bool inside = row < o.op.q_len, wide = o.wide && is_aligned((const T *)o.op.out);
    const int64_t at =
        batch * o.o_batch + (inside ? row : 0) * o.op.o_stride + head * o.op.head_dim;
    const int place = threadIdx.x % LANES, end = inside ? (int)o.op.head_dim : 0;
    float sum = 0.0f;
    for (int d = place * P; d < end; d += LANES * P) {
        const uint4 raw_out = load_raw((const T *)o.op.out + at, d, end, wide);
        const uint4 raw_dout = load_raw((const T *)o.op.dout + at, d, end, wide);
        const pack<T> out = unpack<T>(raw_out), dout = unpack<T>(raw_dout);
#pragma unroll
        for (int j = 0; j < P; j++) {
            sum += out.v[j] * dout.v[j];
        }
    }
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) {
        sum += __shfl_xor_sync(LS_ALL_LANES, sum, step);
    }
    if (inside && place == 0) {
        o.delta[(batch * o.op.heads + head) * o.op.q_len + row] = sum;
    }
}

/* factor * 16 rows of a warp to memory, those below `rows`; or added to what is there. */
template <class T, int PIECES>
__device__ __forceinline__ void put(T *to, int64_t stride, int64_t first, int64_t rows, int D,
                                    const float (*c)[4], float factor, bool add) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t row = first + g + 8 * half;
        T *at = to + row * stride;
#pragma unroll
        for (int i = 0; row < rows && i < PIECES; i++) {
            const int d = 8 * i + 2 * t;
            const float a = add && d < D ? to_float(at[d]) : 0.0f;
            const float b = add && d + 1 < D ? to_float(at[d + 1]) : 0.0f;
            store_two(at, d, D, c[i][2 * half] * factor + a, c[i][2 * half + 1] * factor + b);
        }
    }
}

/* p [16 keys from own_first, ROWS queries from `begin`]: of scores, to probabilities; dp: of
 * dout . v, to the gradient of the scores. */
template <int PIECES, int ROWS>
__device__ __forceinline__ void key_scores(const attention_arguments &o, int own_first, int begin,
                                           const float *lse, const float *delta,
                                           const int *first_keys, float (*p)[4], float (*dp)[4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float to_log2 = (float)(o.op.scale * 1.4426950408889634);
    const int past = (int)(o.op.kv_len - o.op.q_len), len = (int)o.op.q_len;
#pragma unroll
    for (int i = 0; i < 4 * PIECES; i++) {
        const int j = i % 4, column = i / 4 * 8 + 2 * t + j % 2;
        p[i / 4][j] = exp2_of(fmaf(p[i / 4][j], to_log2, -lse[column]));
        dp[i / 4][j] = p[i / 4][j] * (dp[i / 4][j] - delta[column]);
    }
    const int last_key = own_first + 15;
    if (last_key < (int)o.op.kv_len && begin + ROWS <= len &&
        (o.op.full || last_key <= begin + past) && first_keys[ROWS - 1] <= own_first) {
        return;
    }
    const int to = places_below(len, begin, ROWS);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int key = own_first + g + 8 * half;
        const int from = key >= (int)o.op.kv_len ? ROWS
                         : o.op.full             ? 0
                                                 : places_below(key - past, begin, ROWS);
#pragma unroll
        for (int i = 0; i < 2 * PIECES; i++) {
            const int j = 2 * half + i % 2, column = i / 2 * 8 + 2 * t + i % 2;
            if (column < from || column >= to || first_keys[column] > key) {
                p[i / 2][j] = dp[i / 2][j] = 0.0f;
            }
        }
    }
}

/* How many queries, of which each sees the keys from one on that is not below those of the queries
 * before, see keys before `key`. */
__device__ __forceinline__ int queries_before(const attention_arguments &o, int64_t batch,
                                              int key) {
    int low = 0, high = (int)o.op.q_len;
    while (o.op.first_key && low < high) {
        const int middle = (low + high) / 2;
        if (first_key_of(o, batch, middle) < key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return high;
}

/* What a thread of 2 ROWS fetches of the queries from `begin` on: the first half lse, in units of
 * log2, and the first keys, the second half delta. */
struct query_number {
    float number;
    int first_key;
};

template <int ROWS>
__device__ __forceinline__ query_number query_number_of(const attention_arguments &o, int64_t head,
                                                        int begin) {
    const int len = (int)o.op.q_len, own = begin + (int)threadIdx.x % ROWS;
    const int row = own < len ? own : len - 1;
    const int64_t line = (int64_t)blockIdx.z * o.op.heads + head;
    if (threadIdx.x < ROWS) {
        return {((const float *)o.op.lse)[line * o.lse_row + row] * LS_LOG2E,
                first_key_of(o, blockIdx.z, row)};
    }
    return {o.delta[line * len + row], 0};
}

/* dk, dv or both of a warp's keys from `first` on, of the head whose rows begin at kv_at. */
template <class T, int PIECES, bool DK, bool DV>
__device__ __forceinline__ void put_keys(const attention_arguments &o, int64_t kv_at, int first,
                                         const float (*dk)[4], const float (*dv)[4]) {
    const int D = (int)o.op.head_dim, len = (int)o.op.kv_len;
    if constexpr (DK) {
        put<T, PIECES>((T *)o.op.dk + kv_at, o.op.kv_stride, first, len, D, dk, (float)o.op.scale,
                       o.op.add);
    }
    if constexpr (DV) {
        put<T, PIECES>((T *)o.op.dv + kv_at, o.op.kv_stride, first, len, D, dv, 1.0f, o.op.add);
    }
}

/* A block has ROWS keys, 16 to a warp, and goes over the queries that see them; makes dk, dv or
 * both: registers do not hold both of wide heads. */
template <class T, int ROWS, int D_MAX, bool DK, bool DV>
__global__ void __launch_bounds__(ROWS * 2) key_gradient_kernel(attention_arguments o) {
    LS_SHARED_DYNAMIC(T, tiles);
    LS_SHARED(float, numbers, 2 * ROWS); /* lse in units of log2 and delta of the queries */
    LS_SHARED(int, first_keys, ROWS);    /* theirs, too */
    constexpr int PAD = tile_of<T>::pad, PIECES = ROWS / 8, HEAD_PIECES = D_MAX / 8;
    const int D = (int)o.op.head_dim, columns = columns_of<T, D_MAX>(o);
    const int ld = columns + PAD, ldp = ROWS + PAD, warp = threadIdx.x / 32;
    T *k_tile = tiles, *v_tile = k_tile + ROWS * ld, *q_tile = v_tile + ROWS * ld;
    T *dout_tile = q_tile + ROWS * ld;
    T *p_tile = dout_tile + ROWS * ld + warp * kept_elems<T>(ldp);
    const int64_t kv_head = blockIdx.y, batch = blockIdx.z;
    const int64_t group = o.op.heads / o.op.kv_heads, end_head = (kv_head + 1) * group;
    const int64_t kv_at = batch * o.op.kv_batch + kv_head * D;
    const int first = (int)blockIdx.x * ROWS, len = (int)o.op.q_len, kv_len = (int)o.op.kv_len;
    /* The first query that sees the first key. */
    const int past = kv_len - len, first_query = o.op.full || first <= past ? 0 : first - past;
    const T *q = (const T *)o.op.q + batch * o.op.q_batch;
    const T *dout = (const T *)o.op.dout + batch * o.o_batch;

    float dk[DK ? HEAD_PIECES : 1][4], dv[DV ? HEAD_PIECES : 1][4];
    clear<DK ? HEAD_PIECES : 1>(dk);
    clear<DV ? HEAD_PIECES : 1>(dv);
    load_tile<ROWS, D_MAX>(k_tile, ld, (const T *)o.op.k + kv_at, o.op.kv_stride, first, kv_len, D,
                           columns, o.wide);
    load_tile<ROWS, D_MAX>(v_tile, ld, (const T *)o.op.v + kv_at, o.op.kv_stride, first, kv_len, D,
                           columns, o.wide);
    int64_t head = kv_head * group;
    int begin = first_query;
    const int end = queries_before(o, batch, first + ROWS);
    if (begin < end) {
        load_tile<ROWS, D_MAX>(dout_tile, ld, dout + head * D, o.op.o_stride, begin, len, D,
                               columns, o.wide);
    }
    /* q comes while dp is made, the next dout while dk is. */
    while (begin < end && head < end_head) {
        copy_wait();
        __syncthreads(); /* dout is there, q and the numbers of the tile before have been read */
        load_tile<ROWS, D_MAX>(q_tile, ld, q + head * D, o.op.q_stride, begin, len, D, columns,
                               o.wide);
        const query_number mine = query_number_of<ROWS>(o, head, begin);
        /* Rows are keys, columns queries. */
        float p[PIECES][4], dp[PIECES][4];
        clear<PIECES>(p);
        clear<PIECES>(dp);
        if constexpr (DK) {
            multiply<true, ROWS>(dp, v_tile + warp * 16 * ld, ld, dout_tile, ld, ROWS, columns);
        }
        numbers[threadIdx.x] = mine.number;
        if (threadIdx.x < ROWS) {
            first_keys[threadIdx.x] = mine.first_key;
        }
        copy_wait();
        __syncthreads();
        multiply<true, ROWS>(p, k_tile + warp * 16 * ld, ld, q_tile, ld, ROWS, columns);
        key_scores<PIECES, ROWS>(o, first + warp * 16, begin, numbers, numbers + ROWS, first_keys,
                                 p, dp);
        if constexpr (DV) {
            multiply_kept<PIECES, D_MAX>(dv, p, p_tile, ldp, dout_tile, ld, columns);
        }
        begin += ROWS;
        if (begin >= end) {
            begin = first_query;
            head++;
        }
        __syncthreads(); /* dout has been read */
        if (head < end_head) {
            load_tile<ROWS, D_MAX>(dout_tile, ld, dout + head * D, o.op.o_stride, begin, len, D,
                                   columns, o.wide);
        }
        if constexpr (DK) {
            multiply_kept<PIECES, D_MAX>(dk, dp, p_tile, ldp, q_tile, ld, columns);
        }
    }
    copy_wait(); /* where no query sees a key */
    put_keys<T, HEAD_PIECES, DK, DV>(o, kv_at, first + warp * 16, dk, dv);
}

/* p [16 queries, 8 PIECES keys from `begin`]: scores; dp: of dout . v, to the gradient of the
 * scores. lse, in units of log2, and delta: of rows g and g + 8. */
template <int PIECES>
__device__ __forceinline__ void query_scores(const attention_arguments &o, int first_row, int begin,
                                             bool whole, const float *lse, const float *delta,
                                             const float (*p)[4], float (*dp)[4]) {
    const float to_log2 = (float)(o.op.scale * 1.4426950408889634);
#pragma unroll
    for (int i = 0; i < 4 * PIECES; i++) {
        const int j = i % 4;
        dp[i / 4][j] =
            exp2_of(fmaf(p[i / 4][j], to_log2, -lse[j / 2])) * (dp[i / 4][j] - delta[j / 2]);
    }
    if (!whole) {
        mask_keys<PIECES>(o, first_row, begin, 0.0f, dp);
    }
}

/* A block of WARPS warps has 16 M queries to a warp, and goes over the keys that they see. */
template <class T, int WARPS, int KEYS, int D_MAX, int M>
__global__ void __launch_bounds__(WARPS * 32, 2) query_gradient_kernel(attention_arguments o) {
    LS_SHARED_DYNAMIC(T, tiles);
    constexpr int PAD = tile_of<T>::pad, PIECES = KEYS / 8, HEAD_PIECES = D_MAX / 8;
    constexpr int ROWS = 16 * M * WARPS, BLOCK = 32 * WARPS;
    const int D = (int)o.op.head_dim, columns = columns_of<T, D_MAX>(o);
    const int ld = columns + PAD, ldp = KEYS + PAD;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
    T *q_tile = tiles, *dout_tile = q_tile + ROWS * ld, *k_tile = dout_tile + ROWS * ld;
    T *v_tile = k_tile + KEYS * ld;
    T *ds_tile = v_tile + KEYS * ld + warp * kept_elems<T>(ldp);
    const int64_t head = blockIdx.y, batch = blockIdx.z;
    const int len = (int)o.op.q_len, kv_len = (int)o.op.kv_len;
    const int first = ((int)gridDim.x - 1 - (int)blockIdx.x) * ROWS;
    const int own_first = first + warp * 16 * M;
    const int64_t q_at = batch * o.op.q_batch + head * D;
    const int64_t kv_at = batch * o.op.kv_batch + head / (o.op.heads / o.op.kv_heads) * D;
    const T *k = (const T *)o.op.k + kv_at, *v = (const T *)o.op.v + kv_at;
    const int keys = keys_of(o, (first + ROWS < len ? first + ROWS : len) - 1);
    const int begins = first_key_of(o, batch, first) / KEYS * KEYS;
    const key_bounds bounds = key_bounds_of(o, own_first, 16 * M);
    float lse[M][2], delta[M][2];
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        const int row = own_first + g + 8 * i;
        const int64_t line = batch * o.op.heads + head;
        lse[i / 2][i % 2] =
            row < len ? ((const float *)o.op.lse)[line * o.lse_row + row] * LS_LOG2E : 0.0f;
        delta[i / 2][i % 2] = row < len ? o.delta[line * len + row] : 0.0f;
    }
    float dq[M * HEAD_PIECES][4];
    clear<M * HEAD_PIECES>(dq);
    load_tile<ROWS, D_MAX, BLOCK>(q_tile, ld, (const T *)o.op.q + q_at, o.op.q_stride, first, len,
                                  D, columns, o.wide);
    load_tile<ROWS, D_MAX, BLOCK>(dout_tile, ld,
                                  (const T *)o.op.dout + batch * o.o_batch + head * D,
                                  o.op.o_stride, first, len, D, columns, o.wide);
    load_tile<KEYS, D_MAX, BLOCK>(v_tile, ld, v, o.op.kv_stride, begins, kv_len, D, columns,
                                  o.wide);
    for (int begin = begins; begin < keys; begin += KEYS) {
        /* k comes while dp is made, the next v while it is used. */
        copy_wait();
        __syncthreads(); /* v is there, k of the tile before has been read */
        load_tile<KEYS, D_MAX, BLOCK>(k_tile, ld, k, o.op.kv_stride, begin, kv_len, D, columns,
                                      o.wide);
        const bool seen = begin < bounds.end && begin + KEYS > bounds.begin;
        float p[M * PIECES][4], dp[M * PIECES][4];
        clear<M * PIECES>(p);
        clear<M * PIECES>(dp);
        if (seen) {
            multiply<true, KEYS, M>(dp, dout_tile + warp * 16 * M * ld, ld, v_tile, ld, KEYS,
                                    columns);
        }
        copy_wait();
        __syncthreads();
        if (begin + KEYS < keys) {
            load_tile<KEYS, D_MAX, BLOCK>(v_tile, ld, v, o.op.kv_stride, begin + KEYS, kv_len, D,
                                          columns, o.wide);
        }
        if (!seen) {
            continue;
        }
        const bool whole = begin >= bounds.all_begin && begin + KEYS <= bounds.all_end;
        multiply<true, KEYS, M>(p, q_tile + warp * 16 * M * ld, ld, k_tile, ld, KEYS, columns);
#pragma unroll
        for (int m = 0; m < M; m++) {
            query_scores<PIECES>(o, own_first + 16 * m, begin, whole, lse[m], delta[m],
                                 p + m * PIECES, dp + m * PIECES);
        }
        multiply_kept<PIECES, D_MAX, M>(dq, dp, ds_tile, ldp, k_tile, ld, columns);
    }
    copy_wait();
#pragma unroll
    for (int m = 0; m < M; m++) {
        put<T, HEAD_PIECES>((T *)o.op.dq + q_at, o.op.q_stride, own_first + 16 * m, len, D,
                            dq + m * HEAD_PIECES, (float)o.op.scale, o.op.add);
    }
}

template <class T, int ROWS, int D_MAX, bool DK, bool DV>
static void launch_keys(cudaStream_t stream, const attention_arguments &o, int bytes) {
    const unsigned int tiles = (unsigned int)((o.op.kv_len + ROWS - 1) / ROWS);
    auto keys = key_gradient_kernel<T, ROWS, D_MAX, DK, DV>;
    cudaFuncSetAttribute(keys, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    LS_LAUNCH(keys, dim3(tiles, (unsigned int)o.op.kv_heads, (unsigned int)o.op.batch), ROWS * 2,
              (size_t)bytes, stream, o);
}

template <class T, int WARPS, int KEYS, int D_MAX, int M>
static void launch_queries(cudaStream_t stream, const attention_arguments &o) {
    constexpr int ROWS = 16 * M * WARPS;
    const int ld = columns_of<T, D_MAX>(o) + tile_of<T>::pad, ldp = KEYS + tile_of<T>::pad;
    const int bytes = ((2 * ROWS + 2 * KEYS) * ld + WARPS * kept_elems<T>(ldp)) * (int)sizeof(T);
    const unsigned int tiles = (unsigned int)((o.op.q_len + ROWS - 1) / ROWS);
    auto queries = query_gradient_kernel<T, WARPS, KEYS, D_MAX, M>;
    cudaFuncSetAttribute(queries, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    LS_LAUNCH(queries, dim3(tiles, (unsigned int)o.op.heads, (unsigned int)o.op.batch), WARPS * 32,
              (size_t)bytes, stream, o);
}

template <class T, int ROWS, int D_MAX>
static void launch_tiles(cudaStream_t stream, const attention_arguments &o) {
    const int ld = columns_of<T, D_MAX>(o) + tile_of<T>::pad, ldp = ROWS + tile_of<T>::pad;
    const int bytes = (4 * ROWS * ld + ROWS / 16 * kept_elems<T>(ldp)) * (int)sizeof(T);
    constexpr int PACKS = D_MAX / pack<T>::size;
    constexpr int LANES = PACKS > 16 ? 32 : PACKS > 8 ? 16 : PACKS > 4 ? 8 : 2;
    const int64_t lines = (o.op.q_len + THREADS / LANES - 1) / (THREADS / LANES);
    auto deltas = delta_kernel<T, LANES>;
    LS_LAUNCH(deltas, dim3((unsigned int)lines, (unsigned int)o.op.heads, (unsigned int)o.op.batch),
              THREADS, 0, stream, o);
    if constexpr (D_MAX > 128) {
        launch_keys<T, ROWS, D_MAX, true, false>(stream, o, bytes);
        launch_keys<T, ROWS, D_MAX, false, true>(stream, o, bytes);
    } else {
        launch_keys<T, ROWS, D_MAX, true, true>(stream, o, bytes);
    }
    /* 32 queries to a warp where registers hold their gradient: of what it reads of k and v, half.
     */
    constexpr bool two = sizeof(T) == sizeof(bf16_t) && D_MAX <= 128;
    launch_queries<T, ROWS / 16, two ? ROWS / 2 : ROWS, D_MAX, two ? 2 : 1>(stream, o);
}

extern "C" void ls_cuda_launch_attention_backward(cudaStream_t stream, const ls_attention *op,
                                                  float *delta) {
    if (op->dtype == LS_BF16) {
        const attention_arguments o = attention_arguments_of<bf16_t>(op, delta);
        if (o.columns <= 16) {
            launch_tiles<bf16_t, 64, 16>(stream, o);
        } else if (o.columns <= 64) {
            launch_tiles<bf16_t, 64, 64>(stream, o);
        } else if (o.columns <= 96) {
            launch_tiles<bf16_t, 64, 96>(stream, o);
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
