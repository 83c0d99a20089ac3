/* The inside of the CPU device: threads, scratch memory and what every level of kernels shares.
 *
 * Kernels run their loops with `#pragma omp parallel for num_threads(dev->threads)`; a thread's
 * number there (omp_get_thread_num) names its scratch. Which thread does which piece of work must
 * never change a result (device.h, "Order"). */
#ifndef LS_DEVICE_CPU_DEVICE_CPU_H
#define LS_DEVICE_CPU_DEVICE_CPU_H

#include "runtime/device/cpu/gemm.h"
#include "runtime/device/device.h"

#include <stddef.h>

typedef struct ls_cpu_device {
    ls_device base; /* first: an ls_device of this back end is one of these */
    ls_isa isa;
    char *scratch; /* [threads] pieces of scratch_stride bytes */
    size_t scratch_stride;
    void *shared;
    size_t shared_bytes;
    const ls_gemm_kernels *gemm_kernels;
    const ls_gemm_tiles *gemm_tiles;
    bool library_has_bf16; /* oneDNN multiplies bf16 fast at this level */
    ls_gemm_preference preference;
    ls_gemm_path forced_path; /* LS_GEMM_AUTO but in tests and benchmarks */
    ls_matmul_cache *matmuls;
} ls_cpu_device;

static inline int64_t ls_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* p + i elements of fp32 or bf16. */
static inline const void *ls_at(ls_dtype dtype, const void *p, int64_t i) {
    return (const char *)p + i * (int64_t)(dtype == LS_BF16 ? sizeof(ls_bf16) : sizeof(float));
}

static inline void *ls_at_mut(ls_dtype dtype, void *p, int64_t i) {
    return (char *)p + i * (int64_t)(dtype == LS_BF16 ? sizeof(ls_bf16) : sizeof(float));
}

/* Each thread has at least this much scratch from the moment the device is open. */
#define LS_CPU_SCRATCH_MIN_BYTES ((size_t)256 << 10)

/* Scratch memory of one thread, aligned to 64 bytes, not zeroed, valid until the operation returns
 * or calls ls_cpu_scratch_need. `thread` is in [0, dev->threads). */
void *ls_cpu_scratch(ls_device *dev, int thread);

/* Grows every thread's scratch to bytes_per_thread; what was in it is lost. Call it first in an
 * operation, outside parallel regions; it costs a comparison once the size is there. */
ls_status ls_cpu_scratch_need(ls_device *dev, size_t bytes_per_thread);

/* Memory that all threads of an operation see (partial sums, say), separate from their scratch:
 * aligned to 64 bytes, not zeroed, grown when needed, valid until the operation returns. One a
 * device: a second call in the same operation gives the same memory. Outside parallel regions. */
ls_status ls_cpu_shared(ls_device *dev, size_t bytes, void **memory);

/* Operations that are compiled once, for all levels. */
void ls_cpu_close(ls_device *dev);
ls_status ls_cpu_reserve(ls_device *dev, const ls_device_limits *limits);
size_t ls_cpu_scratch_planned(const ls_device *dev, const ls_device_limits *limits);
ls_status ls_cpu_alloc(ls_device *dev, size_t bytes, void **memory);
void ls_cpu_free(ls_device *dev, void *memory);
ls_status ls_cpu_free_bytes(ls_device *dev, int64_t *bytes);
ls_status ls_cpu_copy(ls_device *dev, void *to, const void *from, size_t bytes);
ls_status ls_cpu_zero(ls_device *dev, void *memory, size_t bytes);
ls_status ls_cpu_sync(ls_device *dev);
ls_status ls_cpu_gemm(ls_device *dev, const ls_gemm *op);
/* Raises both to what products need, shared and in each thread. */
void ls_cpu_gemm_needs(const ls_device *dev, const ls_device_limits *limits, size_t *shared_bytes,
                       size_t *scratch_bytes);

#endif
