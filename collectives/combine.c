#include "collectives/combine.h"

#include <stdint.h>
#include <string.h>

/* Elements that are reduced at a time: what the stack of partial sums holds stays in the first
 * cache. */
enum { BLOCK = 512 };

ls_status ls_combine_check(ls_dtype dtype) {
    switch (dtype) {
    case LS_F32:
    case LS_F64:
    case LS_F16:
    case LS_BF16:
    case LS_I32:
    case LS_I64:
    case LS_U64:
        return LS_OK;
    default:
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "a reduction of %s; float32, float64, float16, bfloat16, int32, int64 and "
                       "uint64 can be reduced",
                       ls_dtype_name(dtype));
    }
}

/* Leaves of the left child of a node with `leaves` of them: the largest power of two below. */
static int left_leaves(int leaves) {
    int left = 1;
    while (2 * left < leaves) {
        left *= 2;
    }
    return left;
}

/* LOAD widens an element to the type of the sum, STORE rounds it back. */
#define LOAD_PLAIN(x)     (x)
#define STORE_PLAIN(x)    (x)
#define SUM(a, b)         ((a) + (b))
#define SUM_WRAP_32(a, b) ((int32_t)((uint32_t)(a) + (uint32_t)(b)))
#define SUM_WRAP_64(a, b) ((int64_t)((uint64_t)(a) + (uint64_t)(b)))
#define MAX(a, b)         ((a) > (b) ? (a) : (b))
#define MIN(a, b)         ((a) < (b) ? (a) : (b))

/* first[n] = the node over from[0 .. ranks-1] at elements [at, at + n): two leaves at once, so that
 * two ranks cost one pass. */
#define DEFINE_NODE(name, op_name, elem, acc, LOAD, OP)                                            \
    static void name##_##op_name(int ranks, const void *const *from, int64_t at, int n,            \
                                 acc *restrict out) {                                              \
        const elem *a = (const elem *)from[0] + at;                                                \
        if (ranks == 1) {                                                                          \
            for (int i = 0; i < n; i++) {                                                          \
                out[i] = LOAD(a[i]);                                                               \
            }                                                                                      \
            return;                                                                                \
        }                                                                                          \
        const elem *b = (const elem *)from[1] + at;                                                \
        if (ranks == 2) {                                                                          \
            for (int i = 0; i < n; i++) {                                                          \
                out[i] = OP(LOAD(a[i]), LOAD(b[i]));                                               \
            }                                                                                      \
            return;                                                                                \
        }                                                                                          \
        acc right[BLOCK];                                                                          \
        const int left = left_leaves(ranks);                                                       \
        name##_##op_name(left, from, at, n, out);                                                  \
        name##_##op_name(ranks - left, from + left, at, n, right);                                 \
        for (int i = 0; i < n; i++) {                                                              \
            out[i] = OP(out[i], right[i]);                                                         \
        }                                                                                          \
    }

#define DEFINE_TYPE(name, elem, acc, LOAD, STORE, ADD)                                             \
    DEFINE_NODE(name, sum, elem, acc, LOAD, ADD)                                                   \
    DEFINE_NODE(name, max, elem, acc, LOAD, MAX)                                                   \
    DEFINE_NODE(name, min, elem, acc, LOAD, MIN)                                                   \
    static void name(ls_reduce op, int ranks, const void *const *from, int places,                 \
                     void *const *to, int64_t count) {                                             \
        acc node[BLOCK];                                                                           \
        for (int64_t at = 0; at < count; at += BLOCK) {                                            \
            const int n = (int)(count - at < BLOCK ? count - at : BLOCK);                          \
            if (op == LS_MAX) {                                                                    \
                name##_max(ranks, from, at, n, node);                                              \
            } else if (op == LS_MIN) {                                                             \
                name##_min(ranks, from, at, n, node);                                              \
            } else {                                                                               \
                name##_sum(ranks, from, at, n, node);                                              \
            }                                                                                      \
            if (op == LS_AVG) {                                                                    \
                for (int i = 0; i < n; i++) {                                                      \
                    node[i] = node[i] / (acc)ranks;                                                \
                }                                                                                  \
            }                                                                                      \
            for (int j = 0; j < places; j++) {                                                     \
                elem *out = (elem *)to[j] + at;                                                    \
                for (int i = 0; i < n; i++) {                                                      \
                    out[i] = STORE(node[i]);                                                       \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

DEFINE_TYPE(combine_f32, float, float, LOAD_PLAIN, STORE_PLAIN, SUM)
DEFINE_TYPE(combine_f64, double, double, LOAD_PLAIN, STORE_PLAIN, SUM)
DEFINE_TYPE(combine_bf16, ls_bf16, float, ls_bf16_to_f32, ls_bf16_from_f32, SUM)
DEFINE_TYPE(combine_f16, ls_f16, float, ls_f16_to_f32, ls_f16_from_f32, SUM)
DEFINE_TYPE(combine_i32, int32_t, int32_t, LOAD_PLAIN, STORE_PLAIN, SUM_WRAP_32)
DEFINE_TYPE(combine_i64, int64_t, int64_t, LOAD_PLAIN, STORE_PLAIN, SUM_WRAP_64)
DEFINE_TYPE(combine_u64, uint64_t, uint64_t, LOAD_PLAIN, STORE_PLAIN, SUM)

void ls_combine(ls_dtype dtype, ls_reduce op, int ranks, const void *const *from, int places,
                void *const *to, int64_t count) {
    switch (dtype) {
    case LS_F32:
        combine_f32(op, ranks, from, places, to, count);
        break;
    case LS_F64:
        combine_f64(op, ranks, from, places, to, count);
        break;
    case LS_BF16:
        combine_bf16(op, ranks, from, places, to, count);
        break;
    case LS_F16:
        combine_f16(op, ranks, from, places, to, count);
        break;
    case LS_I32:
        combine_i32(op, ranks, from, places, to, count);
        break;
    case LS_I64:
        combine_i64(op, ranks, from, places, to, count);
        break;
    default:
        combine_u64(op, ranks, from, places, to, count);
        break;
    }
}
