/* What warps do in one instruction: products of 16 x 8 pieces on tensor cores (PTX ISA,
 * mma.sync.m16n8k16), loads of their operands (ldmatrix), and copies to shared memory beside other
 * work (cp.async). */
#ifndef LS_DEVICE_CUDA_WARP_MATRIX_CUH
#define LS_DEVICE_CUDA_WARP_MATRIX_CUH

#include "runtime/device/cuda/kernel.cuh"

#ifdef LS_EMULATED_DEVICE
__device__ __forceinline__ void mma_bf16(float *c, const uint32_t *a, const uint32_t *b) {
    emu_mma_bf16_16x8x16(c, a, b);
}

template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(uint32_t *r, const void *row) {
    emu_load_matrices(r, row, TRANSPOSED);
}

__device__ __forceinline__ void copy_async(void *to, const void *from, bool inside) {
    emu_copy_async(to, from, inside);
}

__device__ __forceinline__ void copy_commit() {
    emu_copy_commit();
}

template <int GROUPS> __device__ __forceinline__ void copy_wait_but() {
    emu_copy_wait_but(GROUPS);
}

__device__ __forceinline__ void copy_wait() {
    emu_copy_wait();
}

__device__ __forceinline__ uint32_t two(float low, float high) {
    return (uint32_t)from_float<bf16_t>(low).bits | (uint32_t)from_float<bf16_t>(high).bits << 16;
}
#else
__device__ __forceinline__ void mma_bf16(float *c, const uint32_t *a, const uint32_t *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices, whose rows 0 to 7 lanes 8i to 8i + 7 point to, for mma_bf16. */
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(uint32_t *r, const void *row) {
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    }
}

/* 16 bytes to shared memory, or zeros where they are not inside; there after the thread has
 * waited for it. */
__device__ __forceinline__ void copy_async(void *to, const void *from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
}

/* The thread's copies since the last one are a group. */
__device__ __forceinline__ void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* For all of the thread's groups but the last so many. */
template <int GROUPS> __device__ __forceinline__ void copy_wait_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

/* For all of the thread's copies. */
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ __forceinline__ uint32_t two(float low, float high) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &both, sizeof bits);
    return bits;
}
#endif

#endif
