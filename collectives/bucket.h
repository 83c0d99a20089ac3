/* Where gradients are cut: the flat buffer into buckets, which travel one after the other, and a
 * bucket into slices, each added up by one rank. Functions of sizes alone, so that whoever predicts
 * a step asks the same rule as those who send. */
#ifndef LS_COLLECTIVES_BUCKET_H
#define LS_COLLECTIVES_BUCKET_H

#include "runtime/mesh/partition.h"

/* The most of a bucket of `bytes` of gradients: bucket_bytes (0: 25 MiB), or of a small model a
 * 32nd of it, since communication begins with the first that is full, but not less than 1 MiB, nor
 * than 64 KiB for each of `ranks`. */
int64_t ls_bucket_bytes(int64_t bytes, int64_t bucket_bytes, int ranks);

/* Elements [0, elems) into buckets of at most as much, which are sent from the last to the first.
 * Those at the front, final last, are ever smaller: a 16th, a 16th, an 8th, a 4th and a half of a
 * bucket, since nothing hides the very last one. fronts (NULL: not known): the first fronts[i]
 * elements become final after all behind them, and a good while after, so that no bucket has some
 * of both. Release with ls_partition_release; LS_E_SHAPE below 0, LS_E_MEMORY. */
enum { LS_BUCKET_FRONTS = 2 };
ls_status ls_bucket_cut(int64_t elems, int64_t elem_bytes, int64_t bucket_bytes,
                        const int64_t fronts[LS_BUCKET_FRONTS], int ranks, ls_partition *buckets);

/* A cache line or more, so that slices are added at full speed. */
int64_t ls_bucket_align(int64_t elems);
/* What `rank` of `ranks` (a multiple of the shards) adds up of a bucket: its replica's part of what
 * its shard, rank mod shards, keeps. Empty for the last ranks of a small bucket. */
ls_range ls_bucket_slice(const ls_partition *buckets, int bucket, int ranks, int rank);
/* The longest slice of any rank and bucket, aligned. */
int64_t ls_bucket_longest_slice(const ls_partition *buckets, int ranks);
/* Bytes of the longest bucket in bf16, whole cache lines. */
int64_t ls_bucket_narrow_bytes(const ls_partition *buckets);

#endif
