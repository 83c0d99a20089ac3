#include "collectives/combine_fold.h"

#include "runtime/base/cpu.h"

#include <stdint.h>

#define SUM(a, b)         ((a) + (b))
#define SUM_WRAP_32(a, b) ((int32_t)((uint32_t)(a) + (uint32_t)(b)))
#define SUM_WRAP_64(a, b) ((int64_t)((uint64_t)(a) + (uint64_t)(b)))
#define MAX(a, b)         ((a) > (b) ? (a) : (b))
#define MIN(a, b)         ((a) < (b) ? (a) : (b))
#define SAME(x)           (x)
#define MEAN(x)           ((x) / ranks)

/* The node over from[0 .. ranks-1] at elements [at, at + n): a leaf as it lies there, others in
 * space[n]. Whatever lies where it is read is written, if at all, in the same turn of a loop. */
#define DEFINE_NODE(name, attribute, elem, OP)                                                     \
    attribute static const elem *name(int ranks, const void *const *from, int64_t at, int n,       \
                                      elem *space) {                                               \
        if (ranks == 1) {                                                                          \
            return (const elem *)from[0] + at;                                                     \
        }                                                                                          \
        elem other[LS_FOLD_ELEMS];                                                                 \
        const int left = ls_left_leaves(ranks);                                                    \
        const elem *a = name(left, from, at, n, space);                                            \
        const elem *b = name(ranks - left, from + left, at, n, other);                             \
        _Pragma("omp simd") for (int i = 0; i < n; i++) {                                          \
            space[i] = OP(a[i], b[i]);                                                             \
        }                                                                                          \
        return space;                                                                              \
    }

/* The root, into both places at once: what they hold passes the processor once. */
#define DEFINE_ROOT(name, attribute, elem, NODE, OP, DONE)                                         \
    attribute static void name(int all, const void *const *from, int64_t at, int n, int places,    \
                               void *const *to) {                                                  \
        elem left_space[LS_FOLD_ELEMS], right_space[LS_FOLD_ELEMS], ranks = (elem)all;             \
        const int left = ls_left_leaves(all);                                                      \
        const elem *a = NODE(left, from, at, n, left_space);                                       \
        const elem *b = NODE(all - left, from + left, at, n, right_space);                         \
        elem *x = to[0], *y = to[places - 1];                                                      \
        (void)ranks;                                                                               \
        if (places == 1) {                                                                         \
            _Pragma("omp simd") for (int i = 0; i < n; i++) {                                      \
                x[i] = DONE(OP(a[i], b[i]));                                                       \
            }                                                                                      \
            return;                                                                                \
        }                                                                                          \
        _Pragma("omp simd") for (int i = 0; i < n; i++) {                                          \
            const elem r = DONE(OP(a[i], b[i]));                                                   \
            x[i] = r;                                                                              \
            y[i] = r;                                                                              \
        }                                                                                          \
    }

#define DEFINE_TYPE(name, attribute, elem, ADD)                                                    \
    DEFINE_NODE(name##_sum_node, attribute, elem, ADD)                                             \
    DEFINE_NODE(name##_max_node, attribute, elem, MAX)                                             \
    DEFINE_NODE(name##_min_node, attribute, elem, MIN)                                             \
    DEFINE_ROOT(name##_sum, attribute, elem, name##_sum_node, ADD, SAME)                           \
    DEFINE_ROOT(name##_avg, attribute, elem, name##_sum_node, ADD, MEAN)                           \
    DEFINE_ROOT(name##_max, attribute, elem, name##_max_node, MAX, SAME)                           \
    DEFINE_ROOT(name##_min, attribute, elem, name##_min_node, MIN, SAME)                           \
    static void name(ls_reduce op, int ranks, const void *const *from, int64_t at, int n,          \
                     int places, void *const *to) {                                                \
        switch (op) {                                                                              \
        case LS_AVG:                                                                               \
            name##_avg(ranks, from, at, n, places, to);                                            \
            break;                                                                                 \
        case LS_MAX:                                                                               \
            name##_max(ranks, from, at, n, places, to);                                            \
            break;                                                                                 \
        case LS_MIN:                                                                               \
            name##_min(ranks, from, at, n, places, to);                                            \
            break;                                                                                 \
        default:                                                                                   \
            name##_sum(ranks, from, at, n, places, to);                                            \
            break;                                                                                 \
        }                                                                                          \
    }

#define DEFINE_LEVEL(level, attribute)                                                             \
    DEFINE_TYPE(f32_##level, attribute, float, SUM)                                                \
    DEFINE_TYPE(f64_##level, attribute, double, SUM)                                               \
    DEFINE_TYPE(i32_##level, attribute, int32_t, SUM_WRAP_32)                                      \
    DEFINE_TYPE(i64_##level, attribute, int64_t, SUM_WRAP_64)                                      \
    DEFINE_TYPE(u64_##level, attribute, uint64_t, SUM)                                             \
    static ls_fold_fn *const level[LS_DTYPE_COUNT] = {[LS_F32] = f32_##level,                      \
                                                      [LS_F64] = f64_##level,                      \
                                                      [LS_I32] = i32_##level,                      \
                                                      [LS_I64] = i64_##level,                      \
                                                      [LS_U64] = u64_##level};

DEFINE_LEVEL(generic, )
#if defined(__x86_64__)
DEFINE_LEVEL(avx2, __attribute__((target("arch=x86-64-v3"))))
DEFINE_LEVEL(avx512, __attribute__((target("arch=x86-64-v4"))))
#endif

ls_fold_fn *ls_fold_of(ls_dtype dtype) {
#if defined(__x86_64__)
    ls_isa isa;
    if (ls_cpu_isa(&isa) == LS_OK && isa >= LS_ISA_AVX2) {
        return isa >= LS_ISA_AVX512 ? avx512[dtype] : avx2[dtype];
    }
#endif
    return generic[dtype];
}
