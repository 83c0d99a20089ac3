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

/* The rows of dout that a block adds: those whose row of the table is in its group. A list of them,
 * in order, with their rows of the table. */
enum { GROUPS = 128, SCANS = 4, WARPS = THREADS / 32, LIST_MAX = 2 * SCANS * THREADS };
/* Rows of dout for one of the table that all warps share: a frequent token's, of which one warp
 * would add a thousand one by one while the others have nothing to do. */
enum { MANY = 64 };

struct row_list {
    int32_t *rows, *tos;
    int32_t *heads; /* of the first of its row of the table, how many there are; else 0 */
    int count;
};

/* Adds to the list those of rows [begin, begin + SCANS * THREADS) that are of the block's group;
 * votes [32], of which each word has a warp's rows in order. */
template <bool POSITIONS>
__device__ __forceinline__ void find_rows(const ls_embedding &o, int64_t begin, uint32_t *votes,
                                          row_list &list) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t mine[SCANS];
    int32_t to[SCANS];
#pragma unroll
    for (int u = 0; u < SCANS; u++) {
        const int64_t i = begin + u * THREADS + threadIdx.x;
        to[u] = i < o.rows ? (int32_t)table_row<POSITIONS>(o, i) : -1;
    }
#pragma unroll
    for (int u = 0; u < SCANS; u++) {
        mine[u] = __ballot_sync(LS_ALL_LANES, to[u] >= 0 && to[u] % GROUPS == (int)blockIdx.x);
        if (lane == 0) {
            votes[u * WARPS + warp] = mine[u];
        }
    }
    __syncthreads();
    const int own = __popc(votes[lane]);
    int upto = own; /* the words up to this lane's */
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int before = __shfl_sync(LS_ALL_LANES, upto, lane - step);
        upto += lane >= step ? before : 0;
    }
#pragma unroll
    for (int u = 0; u < SCANS; u++) {
        const int before = __shfl_sync(LS_ALL_LANES, upto - own, u * WARPS + warp);
        const int place = list.count + before + __popc(mine[u] & ((1u << lane) - 1u));
        if (mine[u] >> lane & 1) {
            list.rows[place] = (int32_t)(begin + u * THREADS + threadIdx.x);
            list.tos[place] = to[u];
        }
    }
    list.count += __shfl_sync(LS_ALL_LANES, upto, 31);
    __syncthreads();
}

/* The list's rows [first, last), in order, that belong to row `to` of the table: this lane's pack
 * of them is added to sum. All lanes of a warp. */
template <class T>
__device__ __forceinline__ void add_rows(const ls_embedding &o, const row_list &list, int first,
                                         int last, int to, int64_t c, bool wide, float *sum) {
    constexpr int P = pack<T>::size, AT_ONCE = 8;
    const int lane = threadIdx.x % 32;
    for (int begin = first; begin < last; begin += 32) {
        const int at = begin + lane;
        uint32_t same = __ballot_sync(LS_ALL_LANES, at < last && list.tos[at] == to);
        while (same) {
            uint4 raw[AT_ONCE];
            const int count = __popc(same);
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) {
                if (u < count) {
                    const int64_t row = list.rows[begin + __ffs((int)same) - 1];
                    same &= same - 1;
                    raw[u] = load_raw((const T *)o.dout + row * o.channels, c, o.channels, wide);
                }
            }
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) {
                if (u < count) {
                    const pack<T> a = unpack<T>(raw[u]);
#pragma unroll
                    for (int j = 0; j < P; j++) {
                        sum[j] += a.v[j];
                    }
                }
            }
        }
    }
}

/* P sums of a row of a table, from column c on. */
template <int P>
__device__ __forceinline__ void load_sums(const float *sums, int64_t c, int64_t C, bool wide,
                                          float *sum) {
#pragma unroll
    for (int j = 0; j < P; j += 4) {
        const pack<float> four = load_pack(sums, c + j, C, wide);
        memcpy(sum + j, four.v, sizeof four.v);
    }
}

template <int P>
__device__ __forceinline__ void store_sums(float *sums, int64_t c, int64_t C, bool wide,
                                           const float *sum) {
#pragma unroll
    for (int j = 0; j < P; j += 4) {
        pack<float> four;
        memcpy(four.v, sum + j, sizeof four.v);
        store_pack(sums, c + j, C, wide, four);
    }
}

/* Fills in the list's heads. */
__device__ __forceinline__ void find_heads(const row_list &list) {
    for (int i = threadIdx.x; i < list.count; i += THREADS) {
        const int32_t to = list.tos[i];
        int all = 0, before = 0;
#pragma unroll 8
        for (int k = 0; k < list.count; k++) {
            all += list.tos[k] == to;
            before += k < i && list.tos[k] == to;
        }
        list.heads[i] = before > 0 ? 0 : all;
    }
    __syncthreads();
}

/* A row of the table by all warps: each adds a run of the list, then the runs are added in order.
 * room [WARPS][P][32]. */
template <class T>
__device__ __forceinline__ void add_many(const ls_embedding &o, const row_list &list, int head,
                                         int64_t c, bool wide, float *sums, float *room) {
    constexpr int P = pack<T>::size;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int run = (list.count - head + WARPS - 1) / WARPS, first = head + warp * run;
    const int last = first + run < list.count ? first + run : list.count;
    float sum[P] = {};
    add_rows<T>(o, list, first, last, list.tos[head], c, wide, sum);
#pragma unroll
    for (int j = 0; j < P; j++) {
        room[(warp * P + j) * 32 + lane] = sum[j];
    }
    __syncthreads();
    const int64_t column = ((int64_t)blockIdx.y * 32 + lane) * P + warp;
    if (warp < P && column < o.channels) {
        float s = sums[column];
        for (int w = 0; w < WARPS; w++) {
            s += room[(w * P + warp) * 32 + lane];
        }
        sums[column] = s;
    }
    __syncthreads();
}

/* A warp for each row of the table that is in the list, or all, and 32 packs of its columns. */
template <class T, bool POSITIONS>
__device__ __forceinline__ void add_list(const ls_embedding &o, const row_list &list, bool wide,
                                         bool wide_sums, float *room) {
    constexpr int P = pack<T>::size;
    static_assert(P <= WARPS, "a warp for each column of a pack");
    const int64_t c = ((int64_t)blockIdx.y * 32 + threadIdx.x % 32) * P, C = o.channels;
    float *table = (float *)(POSITIONS ? o.dwpe : o.dwte);
    find_heads(list);
    for (int begin = 0; begin < list.count; begin += 32) {
        const int at = begin + threadIdx.x % 32;
        uint32_t many = __ballot_sync(LS_ALL_LANES, at < list.count && list.heads[at] > MANY);
        for (; many; many &= many - 1) { /* the same for all warps */
            const int head = begin + __ffs((int)many) - 1;
            add_many<T>(o, list, head, c, wide, table + list.tos[head] * C, room);
        }
    }
    for (int i = threadIdx.x / 32; i < list.count; i += WARPS) {
        if (list.heads[i] == 0 || list.heads[i] > MANY) {
            continue;
        }
        float *sums = table + list.tos[i] * C, sum[P];
        load_sums<P>(sums, c, C, wide_sums, sum);
        add_rows<T>(o, list, i, list.count, list.tos[i], c, wide, sum);
        store_sums<P>(sums, c, C, wide_sums, sum);
    }
    __syncthreads();
}

/* A block for each group of rows of the table and 32 packs of columns. It goes over all tokens (or
 * positions) and adds the rows that are its own in their order: no order is left to chance, as it
 * would be with atomic additions. */
template <class T, bool POSITIONS>
__global__ void __launch_bounds__(THREADS)
    table_gradient_kernel(ls_embedding o, bool wide, bool wide_sums) {
    LS_SHARED(uint32_t, votes, 32);
    LS_SHARED(int32_t, rows, LIST_MAX);
    LS_SHARED(int32_t, tos, LIST_MAX);
    LS_SHARED(int32_t, heads, LIST_MAX);
    LS_SHARED(float, room, WARPS * 32 * pack<T>::size);
    row_list list = {rows, tos, heads, 0};
    for (int64_t begin = 0; begin < o.rows; begin += SCANS * THREADS) {
        find_rows<POSITIONS>(o, begin, votes, list);
        if (list.count > LIST_MAX - SCANS * THREADS || begin + SCANS * THREADS >= o.rows) {
            add_list<T, POSITIONS>(o, list, wide, wide_sums, room);
            list.count = 0;
        }
    }
}

template <class T, bool POSITIONS>
static void launch_table_gradient(cudaStream_t stream, const ls_embedding *op) {
    constexpr int P = pack<T>::size;
    const float *sums = (const float *)(POSITIONS ? op->dwpe : op->dwte);
    const dim3 grid(GROUPS, (unsigned int)((op->channels + 32 * P - 1) / (32 * P)));
    auto kernel = table_gradient_kernel<T, POSITIONS>;
    LS_LAUNCH(kernel, grid, THREADS, 0, stream, *op,
              op->channels % P == 0 && is_aligned((const T *)op->dout),
              op->channels % 4 == 0 && is_aligned(sums));
}

/* Positions that follow one another: a thread for each pack of their rows. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    position_gradient_kernel(ls_embedding o, bool wide, bool wide_sums) {
    constexpr int P = pack<T>::size, AT_ONCE = 4; /* rows */
    const int64_t used = o.rows < o.seq ? o.rows : o.seq, C = o.channels, packs = (C + P - 1) / P;
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < used * packs; i += step) {
        const int64_t place = i / packs, c = (i - place * packs) * P;
        float *sums = (float *)o.dwpe + position_row(o, place) * C, sum[P];
        load_sums<P>(sums, c, C, wide_sums, sum);
        for (int64_t first = place; first < o.rows; first += AT_ONCE * o.seq) {
            uint4 raw[AT_ONCE];
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) {
                const int64_t row = first + u * o.seq;
                raw[u] = load_raw((const T *)o.dout + (row < o.rows ? row : 0) * C, c,
                                  row < o.rows ? C : 0, wide);
            }
#pragma unroll
            for (int j = 0; j < AT_ONCE * P; j++) {
                sum[j % P] += unpack<T>(raw[j / P]).v[j % P];
            }
        }
        store_sums<P>(sums, c, C, wide_sums, sum);
    }
}

template <class T> static void launch_backward(cudaStream_t stream, const ls_embedding *op) {
    constexpr int P = pack<T>::size;
    launch_table_gradient<T, false>(stream, op);
    if (op->dwpe && op->positions) { /* which may repeat */
        launch_table_gradient<T, true>(stream, op);
    } else if (op->dwpe) {
        const int64_t used = op->rows < op->seq ? op->rows : op->seq;
        auto positions = position_gradient_kernel<T>;
        LS_LAUNCH(positions, grid_for(used * ((op->channels + P - 1) / P), 1, THREADS, GRID_MOST),
                  THREADS, 0, stream, *op, op->channels % P == 0 && is_aligned((const T *)op->dout),
                  op->channels % 4 == 0 && is_aligned((const float *)op->dwpe));
    }
}

extern "C" void ls_cuda_launch_embedding_backward(cudaStream_t stream, const ls_embedding *op) {
    LS_BY_DTYPE(op->dtype, launch_backward, stream, op);
}
