/* Comparison of a tensor in two checkpoints, in bounded memory, whatever pieces each has. */
#ifndef LS_CHECKPOINT_DIFF_H
#define LS_CHECKPOINT_DIFF_H

#include "checkpoint/ckpt.h"

typedef struct ls_difference {
    int64_t elems, differing; /* elements, and those that differ */
    int64_t nans;             /* of the differing ones: NaN on one side only */
    double max_abs;           /* of |a - b|, over differing elements that are not NaN */
    uint64_t max_ulp; /* steps between neighbours of the type that lie between a and b; integers:
                         |a - b| */
    int64_t first[LS_MAX_DIMS]; /* index of the first that differs, in row-major order */
    double a, b;                /* the values there */
} ls_difference;

/* Both must have the same dtype and shape. Elements differ when their bytes do and, for rtol > 0,
 * unless both are NaN or |a - b| <= rtol * max(|a|, |b|). A tensor whose pieces have equal boxes
 * and whose chunks have equal hashes is not read. */
ls_status ls_ckpt_compare(ls_ckpt *a, const ls_ckpt_entry *entry_a, ls_ckpt *b,
                          const ls_ckpt_entry *entry_b, double rtol, ls_difference *out);

#endif
