/* Where the rows of a mixture of experts go: counted, cut at the capacity and placed without the
 * host. Integers are added, so that the order of the atomic operations does not matter. */
#include "runtime/device/cuda/kernel.cuh"

__device__ __forceinline__ int64_t segment_of(const ls_place &o, int64_t row) {
    row += o.first;
    return o.seq > 0 ? 2 * (row / o.seq) + (row % o.seq >= o.low) : 0;
}

__global__ void __launch_bounds__(THREADS) place_clear_kernel(int64_t n, int32_t *counts) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) {
        counts[i] = 0;
    }
}

__global__ void __launch_bounds__(THREADS) place_count_kernel(ls_place o) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < o.rows * o.each) {
        atomicAdd(&o.counts[segment_of(o, i / o.each) * o.experts + o.chosen[i]], 1);
    }
}

/* A thread for each expert. */
__global__ void __launch_bounds__(THREADS) place_keep_kernel(ls_place o) {
    const int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x, E = o.experts;
    const int64_t part_elems = o.segments * E;
    if (e >= E) {
        return;
    }
    int32_t *kept = o.places + e, *before = kept + part_elems, *kept_before = before + part_elems;
    int32_t own = 0, own_kept = 0;
    float wanted = 0.0f;
    int64_t room = o.capacity;
    for (int t = 0; t < o.tensors; t++) {
        o.kept[t * E + e] = 0;
    }
    for (int64_t segment = 0; segment < o.segments; segment++) {
        for (int place = 0; place < o.contexts; place++) {
            const int context = segment % 2 == 0 ? place : o.contexts - 1 - place;
            for (int t = 0; t < o.tensors; t++) {
                const int32_t count =
                    o.all[((int64_t)context * o.tensors + t) * part_elems + segment * E + e];
                const int32_t taken = count < room ? count : (int32_t)room;
                room -= taken;
                if (context != o.context) {
                    continue;
                }
                wanted += (float)count;
                o.kept[t * E + e] += taken;
                if (t == o.tensor) {
                    kept[segment * E] = taken;
                    before[segment * E] = own;
                    kept_before[segment * E] = own_kept;
                    own += count;
                    own_kept += taken;
                }
            }
        }
    }
    ((float *)o.wanted)[e] = wanted;
}

/* Choices that are kept of experts [first, end) on one rank. */
__device__ __forceinline__ int64_t sum_kept(const int32_t *kept, int64_t first, int64_t end) {
    int64_t sum = 0;
    for (int64_t e = first; e < end; e++) {
        sum += kept[e];
    }
    return sum;
}

/* A block for each expert goes over the choices, as many at a time as it has threads. */
__global__ void __launch_bounds__(THREADS) place_rows_kernel(ls_place o) {
    LS_SHARED(uint32_t, same, THREADS / 32);
    const int64_t e = blockIdx.x, E = o.experts, part_elems = o.segments * E;
    const int32_t *kept = o.places + e, *before = kept + part_elems;
    const int32_t *kept_before = before + part_elems;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t first = o.room > 0 ? e * o.room : sum_kept(o.kept + o.tensor * E, 0, e);
    int32_t seen = 0;
    for (int64_t begin = 0; begin < o.rows * o.each; begin += THREADS) {
        const int64_t i = begin + threadIdx.x;
        const bool mine = i < o.rows * o.each && o.chosen[i] == e;
        const uint32_t votes = __ballot_sync(LS_ALL_LANES, mine);
        __syncthreads(); /* `same` has been read */
        if (lane == 0) {
            same[warp] = votes;
        }
        __syncthreads();
        int32_t place = seen + __popc(votes & ((1u << lane) - 1u));
        for (int w = 0; w < THREADS / 32; w++) {
            const int32_t count = __popc(same[w]);
            place += w < warp ? count : 0;
            seen += count;
        }
        if (mine) {
            const int64_t at = segment_of(o, i / o.each) * E;
            const int32_t inside = place - before[at];
            const int64_t slot = first + kept_before[at] + inside;
            const bool fits = inside < kept[at];
            o.slots[i] = fits ? (int32_t)slot : -1;
            if (fits) {
                o.slot_rows[slot] = (int32_t)(i / o.each);
            }
        }
    }
    const int32_t filled = o.kept[o.tensor * E + e];
    if (o.bounds && threadIdx.x == 0) {
        o.bounds[e] = (int32_t)first;
        if (e == E - 1) {
            o.bounds[E] = (int32_t)first + filled;
        }
    }
    for (int64_t i = filled + (int64_t)threadIdx.x; i < o.room; i += THREADS) {
        o.slot_rows[first + i] = -1;
    }
}

/* A block for each expert here. */
__global__ void __launch_bounds__(THREADS) place_order_kernel(ls_place_order o) {
    const int64_t e = blockIdx.x, end = o.first + o.local;
    const bool fixed = o.room > 0;
    int64_t at = 0, rows = e * o.each, before = 0; /* what ranks before have sent */
    for (int r = 0; !fixed && r < o.ranks; r++) {
        rows += sum_kept(o.kept + r * o.experts, o.first, o.first + e);
    }
    for (int r = 0; r < o.ranks; r++) {
        const int32_t *kept = o.kept + r * o.experts;
        const int64_t count = kept[o.first + e];
        const int64_t arrives =
            fixed ? (r * o.local + e) * o.room : before + sum_kept(kept, o.first, o.first + e);
        before += fixed ? 0 : sum_kept(kept, o.first, end);
        for (int64_t i = threadIdx.x; i < (fixed ? o.room : count); i += THREADS) {
            o.back[arrives + i] = i < count ? (int32_t)(rows + at + i) : -1;
            if (i < count) {
                o.order[rows + at + i] = (int32_t)(arrives + i);
            }
        }
        at += count;
    }
    for (int64_t i = at + threadIdx.x; i < o.each; i += THREADS) {
        o.order[rows + i] = -1;
    }
}

extern "C" void ls_cuda_launch_place_count(cudaStream_t stream, const ls_place *op) {
    const int64_t n = op->segments * op->experts, choices = op->rows * op->each;
    LS_LAUNCH(place_clear_kernel, grid_for(n, 1, THREADS, INT32_MAX), THREADS, 0, stream, n,
              op->counts);
    if (choices > 0) {
        LS_LAUNCH(place_count_kernel, grid_for(choices, 1, THREADS, INT32_MAX), THREADS, 0, stream,
                  *op);
    }
}

extern "C" void ls_cuda_launch_place_keep(cudaStream_t stream, const ls_place *op) {
    LS_LAUNCH(place_keep_kernel, grid_for(op->experts, 1, THREADS, INT32_MAX), THREADS, 0, stream,
              *op);
}

extern "C" void ls_cuda_launch_place_rows(cudaStream_t stream, const ls_place *op) {
    LS_LAUNCH(place_rows_kernel, (unsigned int)op->experts, THREADS, 0, stream, *op);
}

extern "C" void ls_cuda_launch_place_order(cudaStream_t stream, const ls_place_order *op) {
    LS_LAUNCH(place_order_kernel, (unsigned int)op->local, THREADS, 0, stream, *op);
}
