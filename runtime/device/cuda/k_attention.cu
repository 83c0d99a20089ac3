/* Causal attention, forward: FlashAttention-2 (Dao 2023, arXiv 2307.08691). A block of threads has
 * M * KEYS queries of one head, 16 M to a warp, and goes over the keys in tiles of KEYS. bf16
 * products run on tensor cores and accumulate in fp32; probabilities are rounded to bf16 for the
 * product with v. A NaN or infinity in v may also reach queries of the same tile that do not see
 * its key.
 */
#include "runtime/device/cuda/attention_tile.cuh"

/* What a warp keeps of its 16 rows while it goes over the keys: of rows g and g + 8 of a lane the
 * score that exponents count from, in units of log2, and this lane's share of the sum of
 * exp2(score - base). */
struct running_softmax {
    float base[2], sum[2];
};

/* Moves a base to the largest score where that is more than 2^8 times as much, as few tiles do
 * after the first, and scales what is summed of the keys before (the rule of FlashAttention-4's
 * rescaling). A row's base depends on its own scores alone. */
template <int KEY_PIECES, int HEAD_PIECES>
__device__ __forceinline__ void raise_base(float to_log2, const float (*s)[4],
                                           running_softmax &running, float (*out)[4]) {
    float raised[2];
    bool raises = false;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = s[0][2 * half];
#pragma unroll
        for (int i = 1; i < 2 * KEY_PIECES; i++) {
            largest =
                fmaxf(s[i / 2][2 * half + i % 2], largest); /* drops NaNs, which the sum gets */
        }
        largest = quad_max(largest) * to_log2;
        raised[half] = largest > running.base[half] + 8.0f ? largest : running.base[half];
        raises |= raised[half] != running.base[half];
    }
    if (!__any_sync(LS_ALL_LANES, raises)) {
        return;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float shrink =
            raised[half] != running.base[half] ? exp2_of(running.base[half] - raised[half]) : 1.0f;
        running.base[half] = raised[half];
        running.sum[half] *= shrink;
#pragma unroll
        for (int i = 0; i < 2 * HEAD_PIECES; i++) {
            out[i / 2][2 * half + i % 2] *= shrink;
        }
    }
}

/* Scores s become probabilities relative to the base. */
template <int KEY_PIECES>
__device__ __forceinline__ void add_scores(float to_log2, float (*s)[4], running_softmax &running) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        /* Rows without a finite score so far: exp2(x - 0) is 0 for -inf. */
        const float base = running.base[half] == LS_MASKED ? 0.0f : running.base[half];
        float part = 0.0f;
#pragma unroll
        for (int i = 0; i < 2 * KEY_PIECES; i++) {
            float *x = &s[i / 2][2 * half + i % 2];
            *x = exp2_of(fmaf(*x, to_log2, -base));
            part += *x;
        }
        running.sum[half] += part;
    }
}

/* Divides by the sums, merges with what is there over other keys if wanted, writes rows and lse. */
template <class T, int HEAD_PIECES>
__device__ __forceinline__ void store_rows(const attention_arguments &o, int64_t first_row,
                                           const float (*out)[4], const running_softmax &running) {
    const int D = (int)o.op.head_dim, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int64_t head = blockIdx.y, batch = blockIdx.z;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t row = first_row + g + 8 * half;
        const float sum = quad_sum(running.sum[half]);
        if (row >= o.op.q_len) {
            continue;
        }
        T *to = (T *)o.op.out + batch * o.o_batch + row * o.op.o_stride + head * D;
        float *lse = (float *)o.op.lse + (batch * o.op.heads + head) * o.lse_row + row;
        const float part = running.base[half] / LS_LOG2E + logf(sum);
        float factor = 1.0f / sum, both = part, keep = 0.0f;
        if (first_key_of(o, batch, (int)row) >= keys_of(o, row)) { /* sees no key */
            if (o.op.merge) {
                continue;
            }
            factor = 0.0f;
        } else if (o.op.merge) {
            const float old = *lse, most = old > part ? old : part;
            both = logf(expf(old - most) + expf(part - most)) + most;
            keep = expf(old - both);
            factor *= expf(part - both);
        }
#pragma unroll
        for (int i = 0; i < HEAD_PIECES; i++) {
            const int d = 8 * i + 2 * t;
            const float a = o.op.merge && d < D ? keep * to_float(to[d]) : 0.0f;
            const float b = o.op.merge && d + 1 < D ? keep * to_float(to[d + 1]) : 0.0f;
            store_two(to, d, D, a + out[i][2 * half] * factor, b + out[i][2 * half + 1] * factor);
        }
        __syncwarp(0xfu << (threadIdx.x % 32 / 4 * 4)); /* all four have read lse */
        if (o.op.lse && t == 0) {
            *lse = both;
        }
    }
}

template <class T, int KEYS, int D_MAX, int M>
__global__ void __launch_bounds__(KEYS * 2) attention_forward_kernel(attention_arguments o) {
    LS_SHARED_DYNAMIC(T, tiles);
    constexpr int PAD = tile_of<T>::pad, KEY_PIECES = KEYS / 8, HEAD_PIECES = D_MAX / 8;
    constexpr int ROWS = M * KEYS, BLOCK = 2 * KEYS;
    const int D = (int)o.op.head_dim, columns = columns_of<T, D_MAX>(o);
    const int ld = columns + PAD, ldp = KEYS + PAD;
    const float to_log2 = (float)(o.op.scale * 1.4426950408889634);
    const int warp = threadIdx.x / 32;
    T *q_tile = tiles, *k_tile = q_tile + ROWS * ld, *v_tile = k_tile + KEYS * ld;
    T *p_tile = v_tile + KEYS * ld + warp * kept_elems<T>(ldp);
    const int64_t head = blockIdx.y, batch = blockIdx.z;
    const int64_t kv_head = head / (o.op.heads / o.op.kv_heads);
    /* The longest rows first: they have the most keys to go over. */
    const int first = ((int)gridDim.x - 1 - (int)blockIdx.x) * ROWS;
    const T *q = (const T *)o.op.q + batch * o.op.q_batch + head * D;
    const int64_t kv_at = batch * o.op.kv_batch + kv_head * D;
    const int last_row = (first + ROWS < (int)o.op.q_len ? first + ROWS : (int)o.op.q_len) - 1;
    const int own_first = first + warp * 16 * M;
    /* int: registers are short, and lengths below 2^30 (ops_cuda.c). */
    const int keys = keys_of(o, last_row);
    const int begins = first_key_of(o, batch, first) / KEYS * KEYS;
    LS_SHARED(key_bounds, bounds, KEYS / 16);
    if (threadIdx.x % 32 == 0) {
        bounds[warp] = key_bounds_of(o, own_first, 16 * M);
    }

    float out[M * HEAD_PIECES][4];
    running_softmax running[M];
    clear<M * HEAD_PIECES>(out);
#pragma unroll
    for (int m = 0; m < M; m++) {
        running[m] = {{LS_MASKED, LS_MASKED}, {0.0f, 0.0f}};
    }
    load_tile<ROWS, D_MAX, BLOCK>(q_tile, ld, q, o.op.q_stride, first, o.op.q_len, D, columns,
                                  o.wide);
    load_tile<KEYS, D_MAX>(k_tile, ld, (const T *)o.op.k + kv_at, o.op.kv_stride, begins,
                           o.op.kv_len, D, columns, o.wide);
    for (int begin = begins; begin < keys; begin += KEYS) {
        /* v comes while the scores are made, the next keys while they are used. */
        copy_wait();
        __syncthreads(); /* the keys are there, v of the tile before has been read */
        load_tile<KEYS, D_MAX>(v_tile, ld, (const T *)o.op.v + kv_at, o.op.kv_stride, begin,
                               o.op.kv_len, D, columns, o.wide);
        const bool seen = begin < bounds[warp].end && begin + KEYS > bounds[warp].begin;
        float s[M * KEY_PIECES][4];
        clear<M * KEY_PIECES>(s);
        if (seen) {
            multiply<true, KEYS, M>(s, q_tile + warp * 16 * M * ld, ld, k_tile, ld, KEYS, columns);
        }
        copy_wait();
        __syncthreads();
        if (begin + KEYS < keys) {
            load_tile<KEYS, D_MAX>(k_tile, ld, (const T *)o.op.k + kv_at, o.op.kv_stride,
                                   begin + KEYS, o.op.kv_len, D, columns, o.wide);
        }
        if (!seen) {
            continue;
        }
        const bool whole = begin >= bounds[warp].all_begin && begin + KEYS <= bounds[warp].all_end;
#pragma unroll
        for (int m = 0; m < M; m++) {
            float(*const scores)[4] = s + m * KEY_PIECES;
            if (!whole) {
                mask_keys<KEY_PIECES>(o, own_first + 16 * m, begin, LS_MASKED, scores);
            }
            raise_base<KEY_PIECES, HEAD_PIECES>(to_log2, scores, running[m], out + m * HEAD_PIECES);
            add_scores<KEY_PIECES>(to_log2, scores, running[m]);
        }
        multiply_kept<KEY_PIECES, D_MAX, M>(out, s, p_tile, ldp, v_tile, ld, columns);
    }
    copy_wait();
#pragma unroll
    for (int m = 0; m < M; m++) {
        store_rows<T, HEAD_PIECES>(o, own_first + 16 * m, out + m * HEAD_PIECES, running[m]);
    }
}

template <class T, int KEYS, int D_MAX, int M>
static void launch_tiles(cudaStream_t stream, const attention_arguments &o) {
    constexpr int ROWS = M * KEYS;
    const int ld = columns_of<T, D_MAX>(o) + tile_of<T>::pad, ldp = KEYS + tile_of<T>::pad;
    const int bytes = ((ROWS + 2 * KEYS) * ld + KEYS / 16 * kept_elems<T>(ldp)) * (int)sizeof(T);
    auto kernel = attention_forward_kernel<T, KEYS, D_MAX, M>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    const dim3 grid((unsigned int)((o.op.q_len + ROWS - 1) / ROWS), (unsigned int)o.op.heads,
                    (unsigned int)o.op.batch);
    LS_LAUNCH(kernel, grid, KEYS * 2, (size_t)bytes, stream, o);
}

extern "C" void ls_cuda_launch_attention_forward(cudaStream_t stream, const ls_attention *op) {
    if (op->dtype == LS_BF16) {
        const attention_arguments o = attention_arguments_of<bf16_t>(op, NULL);
        if (o.columns <= 16) {
            launch_tiles<bf16_t, 64, 16, 2>(stream, o);
        } else if (o.columns <= 64) {
            launch_tiles<bf16_t, 64, 64, 2>(stream, o);
        } else if (o.columns <= 96) {
            launch_tiles<bf16_t, 64, 96, 2>(stream, o);
        } else if (o.columns <= 128) {
            launch_tiles<bf16_t, 64, 128, 2>(stream, o);
        } else {
            launch_tiles<bf16_t, 32, 256, 1>(stream, o);
        }
    } else {
        const attention_arguments o = attention_arguments_of<float>(op, NULL);
        if (o.columns <= 128) {
            launch_tiles<float, 32, 128, 1>(stream, o);
        } else {
            launch_tiles<float, 16, 256, 1>(stream, o);
        }
    }
}
