/* What tests of gradient reduction share: the least device that reducers need, gradients, and what
 * their sums must be. */
#ifndef LS_TESTS_COLLECTIVES_GRADS_H
#define LS_TESTS_COLLECTIVES_GRADS_H

#include "collectives/reduce.h"

#include "runtime/base/rng.h"
#include "tests/test.h"

/* The device */

static int allocations_before_failure = -1;
static int allocations_live;

static ls_status device_alloc(ls_device *dev, size_t bytes, void **memory) {
    (void)dev;
    if (allocations_before_failure == 0) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %zu bytes", bytes);
    }
    allocations_before_failure -= allocations_before_failure > 0;
    size_t padded = (bytes + 63) / 64 * 64;
    *memory = aligned_alloc(64, padded);
    memset(*memory, 0, padded);
    allocations_live++;
    return LS_OK;
}

static void device_free(ls_device *dev, void *memory) {
    (void)dev;
    free(memory);
    allocations_live--;
}

static ls_status device_zero(ls_device *dev, void *memory, size_t bytes) {
    (void)dev;
    memset(memory, 0, bytes);
    return LS_OK;
}

static double get(const void *grads, ls_dtype acc, int64_t i) {
    return acc == LS_F32 ? (double)((const float *)grads)[i] : ((const double *)grads)[i];
}

static void set(void *grads, ls_dtype acc, int64_t i, double value) {
    if (acc == LS_F32) {
        ((float *)grads)[i] = (float)value;
    } else {
        ((double *)grads)[i] = value;
    }
}

static ls_status device_add(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    CHECK(dtype == dev->acc);
    for (int64_t i = 0; i < n; i++) {
        set(y, dtype, i, get(y, dtype, i) + get(x, dtype, i)); /* one rounding, of F32 too */
    }
    return LS_OK;
}

static ls_status device_copy(ls_device *dev, void *to, const void *from, size_t bytes) {
    (void)dev;
    memcpy(to, from, bytes);
    return LS_OK;
}

static ls_status device_cast(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    CHECK(dtype == LS_BF16);
    for (int64_t i = 0; i < n; i++) {
        ((ls_bf16 *)y)[i] = ls_bf16_from_f32((float)get(x, dev->acc, i));
    }
    return LS_OK;
}

static ls_status device_widen(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    CHECK(dtype == LS_BF16);
    for (int64_t i = 0; i < n; i++) {
        set(y, dev->acc, i, ls_bf16_to_f32(((const ls_bf16 *)x)[i]));
    }
    return LS_OK;
}

static const ls_device_ops device_ops = {
    .name = "test",
    .alloc = device_alloc,
    .free = device_free,
    .copy = device_copy,
    .zero = device_zero,
    .add = device_add,
    .cast = device_cast,
    .widen = device_widen,
};

/* Gradients of micro-batch `leaf` of a global batch: of very different sizes, so that every other
 * order of the sum gives other bits; or integers. */

static double draw_grad(uint64_t batch, int64_t leaf, int64_t i, bool exact) {
    ls_rng_block b = ls_rng_draw(batch, (uint64_t)leaf, (uint64_t)i);
    if (exact) {
        return (double)(b.v[0] % 2001) - 1000;
    }
    return ldexp((double)(int32_t)b.v[0], (int)(b.v[1] % 24) - 40);
}

static inline void clear_fresh(void *grads, ls_dtype acc, int64_t elems, bool fresh) {
    if (fresh) {
        memset(grads, 0, (size_t)elems * ls_dtype_bytes(acc));
    }
}

static void add_to(void *grads, ls_dtype acc, int64_t i, double value) {
    set(grads, acc, i, get(grads, acc, i) + (acc == LS_F32 ? (double)(float)value : value));
}

/* Node (level, index) of reduce.h at element i. */
static double define(ls_dtype acc, uint64_t batch, int64_t leaves, int level, int64_t index,
                     int64_t i) {
    if (level == 0) {
        double g = draw_grad(batch, index, i, false);
        return acc == LS_F32 ? (double)(float)g : g;
    }
    double left = define(acc, batch, leaves, level - 1, 2 * index, i);
    if ((2 * index + 1) * (INT64_C(1) << (level - 1)) >= leaves) {
        return left;
    }
    double right = define(acc, batch, leaves, level - 1, 2 * index + 1, i);
    return acc == LS_F32 ? (double)((float)left + (float)right) : left + right;
}

typedef struct shape {
    ls_reduction reduction;
    ls_dtype acc;
    int64_t elems, leaves, bucket_bytes;
    const ls_partition *partition; /* NULL: none */
    int contexts;                  /* ranks that share each micro-batch; 0: 1 */
} shape;

static double expected_grad(const shape *s, uint64_t batch, int64_t i) {
    if (s->reduction != LS_REDUCTION_INVARIANT) {
        double sum = 0;
        for (int64_t leaf = 0; leaf < s->leaves; leaf++) {
            sum += draw_grad(batch, leaf, i, true);
        }
        return sum;
    }
    int top = 0;
    while ((INT64_C(1) << top) < s->leaves) {
        top++;
    }
    return define(s->acc, batch, s->leaves, top, 0, i);
}

static inline double bf16_of(double x) {
    return ls_bf16_to_f32(ls_bf16_from_f32((float)x));
}

static inline bool keeps(const ls_partition *p, int rank, int64_t elem) {
    for (int u = 0; u < p->unit_count; u++) {
        ls_range slice = ls_partition_slice(p, u, rank % p->shards);
        if (elem >= slice.first && elem < slice.first + slice.elems) {
            return true;
        }
    }
    return false;
}

#endif
