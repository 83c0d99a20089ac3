/* Opens and closes the CPU device; its memory and scratch. */
#include "runtime/device/cpu/device_cpu.h"
#include "runtime/base/arena.h"
#include "runtime/base/text.h"
#include "runtime/device/cpu/k_attention_scratch.h"
#include "runtime/device/cpu/row_blocks.h"

#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define MAX_THREADS     4096

/* X(level): the tables that runtime/device/CMakeLists.txt compiles. */
#if defined(__x86_64__)
#define LEVELS(X) X(generic) X(avx2) X(avx512) X(avx512_bf16)
extern const ls_device_ops ls_cpu_ops_amx_bf16; /* a level of some of the files only */
extern const ls_gemm_tiles ls_cpu_gemm_tiles_amx_bf16;
#elif defined(__aarch64__)
#define LEVELS(X) X(generic) X(sve) X(sve_bf16)
#else
#define LEVELS(X) X(generic)
#endif

#define X(level)                                                                                   \
    extern const ls_device_ops ls_cpu_ops_##level;                                                 \
    extern const ls_gemm_kernels ls_cpu_gemm_kernels_##level;                                      \
    extern const ls_gemm_tiles ls_cpu_gemm_tiles_##level;
LEVELS(X)
#undef X

/* Points the device at the kernels that are compiled for isa or the closest level below. */
static void select_kernels(ls_cpu_device *cpu, ls_isa isa) {
#define USE(level)                                                                                 \
    cpu->base.ops = &ls_cpu_ops_##level;                                                           \
    cpu->gemm_kernels = &ls_cpu_gemm_kernels_##level;                                              \
    cpu->gemm_tiles = &ls_cpu_gemm_tiles_##level
    USE(generic);
#if defined(__x86_64__)
    if (isa == LS_ISA_AVX512_BF16 || isa == LS_ISA_AMX_BF16) {
        USE(avx512_bf16);
        if (isa == LS_ISA_AMX_BF16) {
            cpu->base.ops = &ls_cpu_ops_amx_bf16;
            cpu->gemm_tiles = &ls_cpu_gemm_tiles_amx_bf16;
        }
    } else if (isa == LS_ISA_AVX512) {
        USE(avx512);
    } else if (isa == LS_ISA_AVX2) {
        USE(avx2);
    }
#elif defined(__aarch64__)
    if (isa == LS_ISA_SVE_BF16) {
        USE(sve_bf16);
    } else if (isa == LS_ISA_SVE) {
        USE(sve);
    }
#else
    (void)isa;
#endif
#undef USE
}

static ls_status no_room(size_t bytes) {
    char text[32];
    return LS_FAIL(LS_E_MEMORY,
                   "the cpu device found no room for %s; use a smaller model or batch.micro, or "
                   "more ranks",
                   ls_text_bytes(text, sizeof text, (double)bytes));
}

/* Asks for huge pages. Advice only: failing costs speed, nothing else. Not for the end, where a
 * huge page would take more memory than was asked for. */
static void advise(void *piece, size_t bytes) {
    if (bytes >= HUGE_PAGE_BYTES) {
        madvise(piece, bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES, MADV_HUGEPAGE);
    }
}

/* Memory that is not zeroed or touched, so that each thread's first use places its pages. */
static ls_status take(size_t bytes, void **memory) {
    *memory = NULL;
    if (bytes == 0) {
        bytes = 1;
    }
    if (bytes > SIZE_MAX - HUGE_PAGE_BYTES) {
        return LS_FAIL(LS_E_MEMORY, "%zu bytes of device memory were asked for", bytes);
    }
    size_t align = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 64;
    size_t padded = (bytes + align - 1) / align * align;
    void *taken = aligned_alloc(align, padded);
    if (!taken) {
        return no_room(bytes);
    }
    advise(taken, bytes);
    *memory = taken;
    return LS_OK;
}

void *ls_cpu_scratch(ls_device *dev, int thread) {
    ls_cpu_device *cpu = (ls_cpu_device *)dev;
    return cpu->scratch + (size_t)thread * cpu->scratch_stride;
}

/* Whole pages, so that no two threads share one. */
static size_t stride_of(size_t bytes_per_thread) {
    return (bytes_per_thread + 4095) / 4096 * 4096;
}

ls_status ls_cpu_scratch_need(ls_device *dev, size_t bytes_per_thread) {
    ls_cpu_device *cpu = (ls_cpu_device *)dev;
    if (bytes_per_thread <= cpu->scratch_stride) {
        return LS_OK;
    }
    size_t threads = (size_t)dev->threads;
    if (bytes_per_thread > SIZE_MAX / threads - 4096) {
        return LS_FAIL(LS_E_MEMORY, "%zu bytes of scratch for each of %zu threads were asked for",
                       bytes_per_thread, threads);
    }
    const size_t stride = stride_of(bytes_per_thread);
    void *grown;
    LS_TRY(take(stride * threads, &grown));
    free(cpu->scratch);
    dev->scratch_bytes += (stride - cpu->scratch_stride) * threads;
    cpu->scratch = grown;
    cpu->scratch_stride = stride;
    return LS_OK;
}

ls_status ls_cpu_shared(ls_device *dev, size_t bytes, void **memory) {
    ls_cpu_device *cpu = (ls_cpu_device *)dev;
    *memory = cpu->shared;
    if (bytes <= cpu->shared_bytes) {
        return LS_OK;
    }
    void *grown;
    LS_TRY(take(bytes, &grown));
    free(cpu->shared);
    dev->scratch_bytes += bytes - cpu->shared_bytes;
    cpu->shared = grown;
    cpu->shared_bytes = bytes;
    *memory = grown;
    return LS_OK;
}

/* Large pieces are zero without having been touched: calloc knows that what it maps is new. The
 * start of the allocation lies before the piece.  */
ls_status ls_cpu_alloc(ls_device *dev, size_t bytes, void **memory) {
    (void)dev;
    const size_t align = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 64;
    *memory = NULL;
    void *start = bytes <= SIZE_MAX - 2 * align ? calloc(1, bytes + 2 * align) : NULL;
    if (!start) {
        return no_room(bytes);
    }
    char *piece = (char *)(((uintptr_t)start + sizeof start + align - 1) / align * align);
    memcpy(piece - sizeof start, &start, sizeof start);
    advise(piece, bytes);
    *memory = piece;
    return LS_OK;
}

void ls_cpu_free(ls_device *dev, void *memory) {
    (void)dev;
    if (memory) {
        void *start;
        memcpy(&start, (char *)memory - sizeof start, sizeof start);
        free(start);
    }
}

ls_status ls_cpu_free_bytes(ls_device *dev, int64_t *bytes) {
    *bytes = 0;
    return LS_FAIL(LS_E_UNSUPPORTED, "%s has no memory but the host's", dev->describe);
}

ls_status ls_cpu_copy(ls_device *dev, void *to, const void *from, size_t bytes) {
    (void)dev;
    if (bytes > 0) {
        memcpy(to, from, bytes);
    }
    return LS_OK;
}

ls_status ls_cpu_zero(ls_device *dev, void *memory, size_t bytes) {
    const size_t block = (size_t)1 << 20;
    size_t blocks = (bytes + block - 1) / block;
#pragma omp parallel for num_threads(dev->threads) schedule(static) if (blocks > 1)
    for (size_t i = 0; i < blocks; i++) {
        size_t start = i * block;
        memset((char *)memory + start, 0, bytes - start < block ? bytes - start : block);
    }
    return LS_OK;
}

ls_status ls_cpu_sync(ls_device *dev) {
    (void)dev;
    return LS_OK;
}

void ls_cpu_close(ls_device *dev) {
    ls_cpu_device *cpu = (ls_cpu_device *)dev;
    if (cpu) {
        ls_matmul_cache_destroy(cpu->matmuls);
        free(cpu->scratch);
        free(cpu->shared);
        free(cpu);
    }
}

/* Of all threads in common, and of each. */
static void needs(const ls_device *dev, const ls_device_limits *limits, size_t *shared,
                  size_t *scratch) {
    /* Two partial sums, for dw and db of a norm, are the most that a sum over rows takes. */
    const int64_t partials = 2 * ls_row_blocks_of(limits->rows).count * limits->channels;
    *shared = (size_t)partials * sizeof(float);
    *scratch = ls_attention_scratch_limit(limits);
    ls_cpu_gemm_needs(dev, limits, shared, scratch);
}

ls_status ls_cpu_reserve(ls_device *dev, const ls_device_limits *limits) {
    size_t shared_bytes, scratch_bytes;
    void *shared;
    needs(dev, limits, &shared_bytes, &scratch_bytes);
    LS_TRY(ls_cpu_shared(dev, shared_bytes, &shared));
    return ls_cpu_scratch_need(dev, scratch_bytes);
}

size_t ls_cpu_scratch_planned(const ls_device *dev, const ls_device_limits *limits) {
    size_t shared, scratch;
    needs(dev, limits, &shared, &scratch);
    return shared + stride_of(scratch) * (size_t)dev->threads;
}

static void describe(ls_cpu_device *cpu) {
    char processor[56], library[16];
    ls_cpu_describe(processor, sizeof processor);
    ls_dnnl_describe(library, sizeof library);
    snprintf(cpu->base.describe, sizeof cpu->base.describe, "cpu: %s, %d thread%s, %s", processor,
             cpu->base.threads, cpu->base.threads == 1 ? "" : "s", library);
}

ls_status ls_device_open_cpu(const ls_device_options *options, ls_device **dev) {
    *dev = NULL;
    ls_isa isa;
    LS_TRY(ls_cpu_isa(&isa));
    ls_gemm_preference preference;
    LS_TRY(ls_gemm_preference_read(&preference));
    int threads = options && options->threads ? options->threads : ls_cpu_usable();
    if (threads < 1 || threads > MAX_THREADS) {
        return LS_FAIL(LS_E_INPUT,
                       "the cpu device was asked for %d threads; use 1 to %d, or 0 for "
                       "all processors of the affinity mask, or the cgroup's quota of them",
                       threads, MAX_THREADS);
    }
    LS_TRY(ls_dnnl_limit_isa(isa));
    ls_cpu_device *cpu;
    LS_TRY(ls_calloc(1, sizeof *cpu, &cpu));
    select_kernels(cpu, isa);
    cpu->base.acc = LS_F32;
    cpu->base.host_memory = true;
    cpu->base.threads = threads;
    cpu->isa = isa;
    cpu->preference = preference;
    cpu->library_has_bf16 = ls_isa_has_fast_bf16(isa) && ls_dnnl_has_fast_bf16();
    cpu->base.fast_bf16 =
        ls_isa_has_fast_bf16(isa) && (cpu->library_has_bf16 || ls_gemm_tile_for(cpu, LS_BF16));
    cpu->base.products_apart = isa == LS_ISA_AMX_BF16;
    describe(cpu);
    ls_status status;
    LS_TRY_GOTO(ls_matmul_cache_create(&cpu->matmuls), fail);
    LS_TRY_GOTO(ls_cpu_scratch_need(&cpu->base, LS_CPU_SCRATCH_MIN_BYTES), fail);
    *dev = &cpu->base;
    return LS_OK;
fail:
    ls_cpu_close(&cpu->base);
    return status;
}
