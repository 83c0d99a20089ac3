/* What the kernels share: launches, packs of 16 bytes, sums over warps and blocks.
 *
 * The same files are compiled by nvcc for GPUs and, for tests, by the host's compiler for the
 * emulated device (tests/emulator), which defines LS_EMULATED_DEVICE in its cuda_runtime.h. What
 * the two write differently is here and nowhere else.
 *
 * Bits. A kernel's result depends on the shape only, never on the alignment of its buffers: where
 * 16-byte accesses are impossible, the same thread takes the same elements one by one. */
#ifndef LS_DEVICE_CUDA_KERNEL_CUH
#define LS_DEVICE_CUDA_KERNEL_CUH

#include "runtime/device/cuda/launch.h"

#include <math.h>

#ifdef LS_EMULATED_DEVICE
#define LS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    emu_launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define LS_SHARED(type, name, count)                                                               \
    type *name = (type *)emu_shared(__FILE__, __LINE__, sizeof(type) * (count))
#define LS_SHARED_DYNAMIC(type, name) type *name = (type *)emu_shared_dynamic()
#define LS_ALIGNED_TO(bytes, at)      emu_check_aligned("an access", at, bytes)
#else
#include <cuda_bf16.h>
#define LS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define LS_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define LS_SHARED_DYNAMIC(type, name)                                                              \
    extern __shared__ __align__(128) unsigned char ls_dynamic_shared[];                            \
    type *name = reinterpret_cast<type *>(ls_dynamic_shared)
#define LS_ALIGNED_TO(bytes, at) ((void)0)
#endif

#define LS_ALL_LANES 0xffffffffu

/* 1 / x, off by an ulp at most, and 0 where that is below 2^-126: an instruction, where keeping
 * such numbers takes six more and an exact division ten. */
__device__ __forceinline__ float reciprocal(float x) {
#ifdef LS_EMULATED_DEVICE
    return emu_approximately(1.0f / x, 1);
#else
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* 2^x; results below 2^-126 are 0. */
__device__ __forceinline__ float exp2_of(float x) {
#ifdef LS_EMULATED_DEVICE
    return emu_approximately(exp2f(x), 2);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* e^x, off by |x| + 3 units of 2^-24 at most: two instructions, where expf takes nine, which is
 * what holds up kernels that should wait for memory. */
__device__ __forceinline__ float exp_of(float x) {
    return exp2_of(x * 1.4426950408889634f);
}

/* bf16 as it lies in memory. */
struct bf16_t {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) {
    return x;
}

__device__ __forceinline__ float to_float(bf16_t x) {
    const unsigned int bits = (unsigned int)x.bits << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

template <class T> __device__ __forceinline__ T from_float(float x);

template <> __device__ __forceinline__ float from_float<float>(float x) {
    return x;
}

template <> __device__ __forceinline__ bf16_t from_float<bf16_t>(float x) {
    bf16_t y;
#ifdef LS_EMULATED_DEVICE
    y.bits = ls_bf16_from_f32(x);
#else
    const __nv_bfloat16 rounded = __float2bfloat16_rn(x);
    memcpy(&y, &rounded, sizeof y);
#endif
    return y;
}

/* 16 bytes of T as floats. */
template <class T> struct pack {
    static constexpr int size = 16 / (int)sizeof(T);
    float v[size];
};

template <class T> __host__ __device__ inline bool is_aligned(const T *p) {
    return ((uintptr_t)p & 15) == 0;
}

/* sizeof(V) bytes, a multiple of which `at` is, in one access. */
template <class V> __device__ __forceinline__ V load_whole(const void *at) {
    LS_ALIGNED_TO(sizeof(V), at);
    return *reinterpret_cast<const V *>(at);
}

template <class V> __device__ __forceinline__ void store_whole(void *at, const void *from) {
    V raw;
    memcpy(&raw, from, sizeof raw);
    LS_ALIGNED_TO(sizeof(V), at);
    *reinterpret_cast<V *>(at) = raw;
}

template <class T> __device__ __forceinline__ pack<T> unpack(const uint4 &raw) {
    pack<T> y;
    T x[pack<T>::size];
    memcpy(x, &raw, sizeof raw);
#pragma unroll
    for (int k = 0; k < pack<T>::size; k++) {
        y.v[k] = to_float(x[k]);
    }
    return y;
}

/* Elements [i, i + size) of p as they lie there, those from n on as 0. wide: p + i is aligned to 16
 * bytes. What is loaded is not looked at here, so that several loads are under way at once. */
template <class T>
__device__ __forceinline__ uint4 load_raw(const T *p, int64_t i, int64_t n, bool wide) {
    uint4 raw;
    if (wide && i + pack<T>::size <= n) {
        raw = load_whole<uint4>(p + i);
    } else {
        T x[pack<T>::size];
#pragma unroll
        for (int k = 0; k < pack<T>::size; k++) {
            x[k] = i + k < n ? p[i + k] : from_float<T>(0.0f);
        }
        memcpy(&raw, x, sizeof raw);
    }
    return raw;
}

template <class T>
__device__ __forceinline__ pack<T> load_pack(const T *p, int64_t i, int64_t n, bool wide) {
    return unpack<T>(load_raw(p, i, n, wide));
}

template <class T>
__device__ __forceinline__ void store_raw(T *p, int64_t i, int64_t n, bool wide, const void *raw) {
    if (wide && i + pack<T>::size <= n) {
        store_whole<uint4>(p + i, raw);
        return;
    }
    T x[pack<T>::size];
    memcpy(x, raw, sizeof x);
#pragma unroll
    for (int k = 0; k < pack<T>::size; k++) {
        if (i + k < n) {
            p[i + k] = x[k];
        }
    }
}

template <class T>
__device__ __forceinline__ void store_pack(T *p, int64_t i, int64_t n, bool wide,
                                           const pack<T> &y) {
    T x[pack<T>::size];
#pragma unroll
    for (int k = 0; k < pack<T>::size; k++) {
        x[k] = from_float<T>(y.v[k]);
    }
    store_raw(p, i, n, wide, x);
}

/* The same of four floats, in one access where the place allows it. */
template <class T>
__device__ __forceinline__ void store_four(T *p, int64_t i, int64_t n, const pack<float> &y) {
    T x[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        x[k] = from_float<T>(y.v[k]);
    }
    if (i + 4 <= n && ((uintptr_t)(p + i) & (sizeof x - 1)) == 0) {
        if constexpr (sizeof x == sizeof(uint2)) {
            store_whole<uint2>(p + i, x);
        } else {
            store_whole<uint4>(p + i, x);
        }
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (i + k < n) {
            p[i + k] = x[k];
        }
    }
}

/* Every lane gets the sum over the LANES, a power of two, that it belongs to; the order is that of
 * a butterfly, so all get the same bits. All lanes of a warp take part. */
template <int LANES, class T> __device__ __forceinline__ T lanes_sum(T x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(LS_ALL_LANES, x, step);
    }
    return x;
}

template <class T> __device__ __forceinline__ T warp_sum(T x) {
    return lanes_sum<32>(x);
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(LS_ALL_LANES, x, step);
        x = other > x ? other : x;
    }
    return x;
}

/* Sums over a block of whole warps, for every thread; room [WARPS] of shared memory, which may be
 * used again after the next barrier. */
template <class T, int WARPS> __device__ __forceinline__ T block_sum(T x, T *room) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = x;
    }
    __syncthreads();
    T sum = room[0];
#pragma unroll
    for (int w = 1; w < WARPS; w++) {
        sum += room[w];
    }
    return sum;
}

/* A sum over the warp of each of N values, a power of two: that of x[i] in lanes 32 / N i and on.
 */
template <int N> __device__ __forceinline__ float warp_sums(float *x) {
    int step = 16;
#pragma unroll
    for (int half = N / 2; half > 0; half /= 2, step /= 2) {
        const bool upper = threadIdx.x & (unsigned int)step;
#pragma unroll
        for (int i = 0; i < half; i++) {
            const float own = upper ? x[i + half] : x[i], other = upper ? x[i] : x[i + half];
            x[i] = own + __shfl_xor_sync(LS_ALL_LANES, other, step);
        }
    }
    float sum = x[0];
#pragma unroll
    for (; step > 0; step /= 2) {
        sum += __shfl_xor_sync(LS_ALL_LANES, sum, step);
    }
    return sum;
}

/* What gradients are multiplied with; false: nothing is to be changed. */
__device__ __forceinline__ bool take_verdict(const ls_update_verdict *verdict, float &grad_scale) {
    if (verdict) {
        grad_scale *= verdict->factor;
        return verdict->wrong == 0;
    }
    return true;
}

/* Blocks of `threads` for n items in packs of `each`, at most `most`. */
static inline unsigned int grid_for(int64_t n, int64_t each, int64_t threads, int64_t most) {
    const int64_t blocks = (n + each * threads - 1) / (each * threads);
    return (unsigned int)(blocks < most ? blocks : most);
}

/* Division of numbers below 2^31 by one that is known at launch: a multiplication and a shift,
 * where the division of 64-bit numbers takes 40 instructions or more (Granlund & Montgomery 1994,
 * doi:10.1145/178243.178249). */
struct divider {
    uint32_t by, multiplier, shift;
};

static inline divider divider_of(int64_t by) {
    uint32_t bits = 0;
    while ((int64_t)1 << bits < by) {
        bits++;
    }
    const uint64_t power = (uint64_t)1 << (31 + bits);
    return {(uint32_t)by, (uint32_t)((power + (uint64_t)by - 1) / (uint64_t)by), 31 + bits};
}

__device__ __forceinline__ uint32_t operator/(uint32_t n, const divider &d) {
    return (uint32_t)((uint64_t)n * d.multiplier >> d.shift);
}

/* What a launch that counts packs of rows in 32 bits goes over at most: twice that is below 2^31.
 * On the emulated device few, so that tests need several launches. */
#ifdef LS_EMULATED_DEVICE
static const int64_t ITEMS_MAX = 512;
#else
static const int64_t ITEMS_MAX = (int64_t)1 << 30;
#endif

/* each(first, count) for runs of rows whose items, so many to a row, are at most ITEMS_MAX. */
template <class F> static void by_rows(int64_t rows, int64_t row_items, F each) {
    const int64_t most = row_items < ITEMS_MAX ? ITEMS_MAX / row_items : 1;
    for (int64_t first = 0; first < rows; first += most) {
        each(first, rows - first < most ? rows - first : most);
    }
}

/* call<T>(...) by the dtype of the activations: the operations were checked to be F32 or BF16. */
#define LS_BY_DTYPE(dtype, call, ...)                                                              \
    do {                                                                                           \
        if ((dtype) == LS_BF16) {                                                                  \
            call<bf16_t>(__VA_ARGS__);                                                             \
        } else {                                                                                   \
            call<float>(__VA_ARGS__);                                                              \
        }                                                                                          \
    } while (0)

enum { GRID_MOST = 4096, THREADS = 256 };

#endif
