/* Embedding lookup and its gradient. */
#include "runtime/device/cuda/kernel.cuh"

/* The row of wte for row `row`, -1 where another part has it; that of wpe for a place in seq. */
__device__ __forceinline__ int64_t token_row(const ls_embedding &o, int64_t row) {
    const int64_t token = o.tokens[row] - (o.part ? o.first : 0);
    return o.part && (token < 0 || token >= o.vocab) ? -1 : token;
}

__device__ __forceinline__ int64_t position_row(const ls_embedding &o, int64_t place) {
    return o.positions ? o.positions[place] : o.offset + place;
}

/* place: in seq, of the first row. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    lookup_kernel(ls_embedding o, uint32_t items, uint32_t place, divider packs, divider seq,
                  bool wide) {
    constexpr int P = pack<T>::size;
    const int64_t C = o.channels;
    const uint32_t step = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < items; i += step) {
        const uint32_t row = i / packs, at = place + row;
        const int64_t c = (int64_t)(i - row * packs.by) * P, token = token_row(o, row);
        pack<T> a = {};
        if (token >= 0) {
            a = load_pack((const T *)o.wte + token * C, c, C, wide);
        }
        if (o.wpe) {
            const int64_t position = position_row(o, at - at / seq * seq.by);
            const pack<T> b = load_pack((const T *)o.wpe + position * C, c, C, wide);
#pragma unroll
            for (int j = 0; j < P; j++) {
                a.v[j] += b.v[j];
            }
        }
        store_pack((T *)o.out + row * C, c, C, wide, a);
    }
}

template <class T> static void launch_forward(cudaStream_t stream, const ls_embedding *op) {
    constexpr int P = pack<T>::size;
    const bool wide = op->channels % P == 0 && is_aligned((const T *)op->wte) &&
                      is_aligned((const T *)op->wpe) && is_aligned((T *)op->out);
    const int64_t packs = (op->channels + P - 1) / P, seq = op->seq > 0 ? op->seq : 1;
    auto kernel = lookup_kernel<T>;
    by_rows(op->rows, packs, [&](int64_t first, int64_t count) {
        ls_embedding o = *op;
        o.tokens += first;
        o.out = (T *)op->out + first * op->channels;
        LS_LAUNCH(kernel, grid_for(count * packs, 1, THREADS, GRID_MOST), THREADS, 0, stream, o,
                  (uint32_t)(count * packs), (uint32_t)(first % seq), divider_of(packs),
                  divider_of(seq), wide);
    });
}

extern "C" void ls_cuda_launch_embedding_forward(cudaStream_t stream, const ls_embedding *op) {
    LS_BY_DTYPE(op->dtype, launch_forward, stream, op);
}

/* The row of a table that row `row` of dout is added to: of wpe, else of wte; -1: none. */
template <bool POSITIONS>
__device__ __forceinline__ int64_t table_row(const ls_embedding &o, int64_t row) {
    return POSITIONS ? position_row(o, row % o.seq) : token_row(o, row);
}

/* *sum += x[list[i] * C] for all i, in order. */
template <class T>
__device__ __forceinline__ void add_listed(const T *x, int64_t C, const int32_t *list, int count,
                                           float *sum) {
    float s = count > 0 ? *sum : 0.0f;
    int i = 0;
    for (; i + 4 <= count; i += 4) {
        float y[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            y[j] = to_float(x[list[i + j] * C]);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            s += y[j];
        }
    }
    for (; i < count; i++) {
        s += to_float(x[list[i] * C]);
    }
    if (count > 0) {
        *sum = s;
    }
}

/* A block for each row. That of the first row with a token (or position) finds the others, 256 at a
 * time, and adds them in row order: no order is left to chance, as it would be with atomic
 * additions. The search reads rows^2 tokens in all, from the second cache; rows that were found are
 * fetched four at a time, so that a token that is in every tenth row does not hold up the rest. */
template <class T, bool POSITIONS>
__global__ void __launch_bounds__(THREADS) table_gradient_kernel(ls_embedding o) {
    LS_SHARED(int32_t, found, THREADS / 32);
    LS_SHARED(int32_t, list, THREADS);
    const int64_t own = blockIdx.x, rows = o.rows, C = o.channels;
    const int64_t to = table_row<POSITIONS>(o, own);
    if (to < 0) {
        return;
    }
    const T *dout = (const T *)o.dout;
    float *sums = (float *)(POSITIONS ? o.dwpe : o.dwte) + to * C;
    bool earlier = false;
    for (int64_t i = threadIdx.x; i < own; i += THREADS) {
        earlier = earlier || table_row<POSITIONS>(o, i) == to;
    }
    const bool any = __any_sync(LS_ALL_LANES, earlier);
    if (threadIdx.x % 32 == 0) {
        found[threadIdx.x / 32] = any;
    }
    __syncthreads();
    bool leave = false;
    for (int w = 0; w < THREADS / 32; w++) {
        leave = leave || found[w];
    }
    if (leave) {
        return;
    }
    for (int64_t begin = own; begin < rows; begin += THREADS) {
        const int64_t i = begin + threadIdx.x;
        const unsigned int same =
            __ballot_sync(LS_ALL_LANES, i < rows && table_row<POSITIONS>(o, i) == to);
        __syncthreads(); /* `found` has been read */
        if (threadIdx.x % 32 == 0) {
            found[threadIdx.x / 32] = (int32_t)same;
        }
        __syncthreads();
        int count = 0, place = __popc(same & ((1u << threadIdx.x % 32) - 1u));
        for (int w = 0; w < THREADS / 32; w++) {
            const int here = __popc((unsigned int)found[w]);
            place += w < (int)threadIdx.x / 32 ? here : 0;
            count += here;
        }
        if (same >> threadIdx.x % 32 & 1) {
            list[place] = (int32_t)threadIdx.x;
        }
        __syncthreads();
        for (int64_t c = threadIdx.x; c < C; c += THREADS) {
            add_listed(dout + begin * C + c, C, list, count, &sums[c]);
        }
    }
}

/* Positions that follow one another: a thread for each element of their rows. */
template <class T>
__global__ void __launch_bounds__(THREADS) position_gradient_kernel(ls_embedding o) {
    const int64_t used = o.rows < o.seq ? o.rows : o.seq, C = o.channels;
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < used * C; i += step) {
        float *to = (float *)o.dwpe + position_row(o, i / C) * C + i % C;
        float sum = *to;
        for (int64_t row = i / C; row < o.rows; row += o.seq) {
            sum += to_float(((const T *)o.dout)[row * C + i % C]);
        }
        *to = sum;
    }
}

template <class T> static void launch_backward(cudaStream_t stream, const ls_embedding *op) {
    auto tokens = table_gradient_kernel<T, false>;
    LS_LAUNCH(tokens, (unsigned int)op->rows, THREADS, 0, stream, *op);
    if (op->dwpe && op->positions) { /* which may repeat */
        auto positions = table_gradient_kernel<T, true>;
        LS_LAUNCH(positions, (unsigned int)op->rows, THREADS, 0, stream, *op);
    } else if (op->dwpe) {
        const int64_t used = op->rows < op->seq ? op->rows : op->seq;
        auto positions = position_gradient_kernel<T>;
        LS_LAUNCH(positions, grid_for(used * op->channels, 1, THREADS, GRID_MOST), THREADS, 0,
                  stream, *op);
    }
}

extern "C" void ls_cuda_launch_embedding_backward(cudaStream_t stream, const ls_embedding *op) {
    LS_BY_DTYPE(op->dtype, launch_backward, stream, op);
}
