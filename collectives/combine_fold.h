/* The loops of reductions of types that the processor adds as they are. */
#ifndef LS_COLLECTIVES_COMBINE_FOLD_H
#define LS_COLLECTIVES_COMBINE_FOLD_H

#include "collectives/comm.h"

/* Elements that are reduced at a time: the stack of partial sums stays in the first cache. */
enum { LS_FOLD_ELEMS = 512 };

/* Leaves of the left child of a node with `leaves` of them: the largest power of two below. */
static inline int ls_left_leaves(int leaves) {
    int left = 1;
    while (2 * left < leaves) {
        left *= 2;
    }
    return left;
}

/* to[j] [n], j < places (1 or 2), n <= LS_FOLD_ELEMS, get elements [at, at + n) of the ranks' from
 * [ranks], ranks >= 2, reduced. to[j] may be from[i] + at; otherwise nothing overlaps. */
typedef void ls_fold_fn(ls_reduce op, int ranks, const void *const *from, int64_t at, int n,
                        int places, void *const *to);

/* The function of a type on this machine, the same bits on every one; NULL: none. */
ls_fold_fn *ls_fold_of(ls_dtype dtype);

#endif
