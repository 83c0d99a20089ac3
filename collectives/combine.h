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
 * `from`; otherwise nothing overlaps. dtype has passed the check. stream: results that lie
 * elsewhere than all of `from` go past the caches. */
void ls_combine_ranks(ls_dtype dtype, ls_reduce op, int ranks, const void *const *from, int places,
                      void *const *to, int64_t count, bool stream);

/* Past the caches goes what they would not hold until it is read. Who knows what all ranks of a
 * host read and write together compares that with LS_CACHE_BYTES, of the last-level cache (what the
 * processor tells of it a virtual machine may share), or where it is only copied with
 * LS_COPIED_BYTES; who knows only what it writes itself with LS_STREAM_BYTES. */
enum { LS_STREAM_BYTES = 16 << 20, LS_CACHE_BYTES = 24 << 20, LS_COPIED_BYTES = 48 << 20 };
/* Copies bytes > 0 where to != from. of_bytes: that the caller copies in all. */
void ls_copy(void *to, const void *from, int64_t bytes, int64_t of_bytes);
/* Likewise to each of `places`, from memory that is read once; stream: past the caches. */
void ls_copy_to_all(int places, void *const *to, const void *from, int64_t bytes, bool stream);

#endif
