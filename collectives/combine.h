/* Reduction of the ranks' vectors element by element, the arithmetic that the back ends share.
 *
 * Sums are the balanced tree of sum_tree.h over the ranks. F16 and BF16 are widened to fp32 and
 * rounded once, to nearest even, at the end; integers wrap. */
#ifndef LS_COLLECTIVES_COMBINE_H
#define LS_COLLECTIVES_COMBINE_H

#include "collectives/comm.h"

/* LS_E_UNSUPPORTED for types without arithmetic here. */
ls_status ls_combine_check(ls_dtype dtype);

/* to[j] [count], j < places, all get from[0 .. ranks-1] [count] reduced. Any of `to` may be any of
 * `from`; otherwise nothing overlaps. dtype has passed the check. */
void ls_combine_ranks(ls_dtype dtype, ls_reduce op, int ranks, const void *const *from, int places,
                      void *const *to, int64_t count);

/* Copies bytes > 0 where to != from. of_bytes: that the caller copies in all; from LS_STREAM_BYTES
 * on the copy goes past the caches. LS_CACHE_BYTES: of the last-level cache, for what all ranks of
 * a host read and write. (What the processor tells of its cache a virtual machine may share.) */
enum { LS_STREAM_BYTES = 8 << 20, LS_CACHE_BYTES = 24 << 20 };
void ls_copy(void *to, const void *from, int64_t bytes, int64_t of_bytes);
/* Likewise to each of `places`, from memory that is read once; stream: past the caches. */
void ls_copy_to_all(int places, void *const *to, const void *from, int64_t bytes, bool stream);

#endif
