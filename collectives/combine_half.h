/* 16-bit floating-point vectors to fp32 and back, for reductions. */
#ifndef LS_COLLECTIVES_COMBINE_HALF_H
#define LS_COLLECTIVES_COMBINE_HALF_H

#include "runtime/base/dtype.h"

/* The functions of a type on this machine; the same bits on every one. */
typedef struct ls_half_ops {
    void (*widen)(const uint16_t *from, int64_t count, float *to);
    void (*sum)(const uint16_t *a, const uint16_t *b, int64_t count, float *to); /* in fp32 */
    void (*narrow)(const float *from, int64_t count, uint16_t *to); /* to nearest even */
} ls_half_ops;

/* dtype: F16 or BF16. */
const ls_half_ops *ls_half_ops_of(ls_dtype dtype);

#endif
