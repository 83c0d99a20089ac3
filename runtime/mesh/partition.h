/* Who keeps which elements of a flat parameter buffer that several ranks divide among themselves
 * (ZeRO: Rajbhandari 2019, arXiv 1910.02054).
 *
 * A block's elements are cut into units of equal size, and each unit into one slice for each shard,
 * in order of the shards:
 *
 *   block 0            block 1
 *   | unit 0 | unit 1  | unit 2    |        unit 2 of 3 shards: | slice 0 | slice 1 | slice 2 |
 *
 * Cuts lie at multiples of LS_CHUNK_ELEMS from the block's start. Slices of a unit differ by at
 * most one such chunk, and so do the shards' sums of a block: the surplus goes round. How a block
 * is cut depends on nothing but its size, so that a parameter that is a block for itself is cut the
 * same wherever it lies. */
#ifndef LS_MESH_PARTITION_H
#define LS_MESH_PARTITION_H

#include "runtime/mesh/layout.h"

#include <stdint.h>

enum { LS_CHUNK_ELEMS = 1024 };

/* Elements [first, first + elems) of a flat buffer. */
typedef struct ls_range {
    int64_t first, elems;
} ls_range;

/* What two ranges have in common; of no elements where there is nothing. */
static inline ls_range ls_range_common(ls_range a, ls_range b) {
    const int64_t first = a.first > b.first ? a.first : b.first;
    const int64_t a_end = a.first + a.elems, b_end = b.first + b.elems;
    const int64_t end = a_end < b_end ? a_end : b_end;
    return (ls_range){.first = first, .elems = end > first ? end - first : 0};
}

typedef struct ls_unit {
    ls_range range;
    int block;
    int turn; /* the shard that gets the first surplus chunk */
} ls_unit;

typedef struct ls_partition {
    int shards, unit_count;
    ls_unit *units; /* in order of their elements, without gaps */
} ls_partition;

/* block_first [blocks + 1]: where blocks begin, and the end of the last. unit_elems: most elements
 * of a unit, rounded up to a multiple of LS_CHUNK_ELEMS. LS_E_SHAPE for sizes that cannot be. */
ls_status ls_partition_init(const int64_t *block_first, int blocks, int shards, int64_t unit_elems,
                            ls_partition *partition);
/* Safe on a zeroed struct. */
void ls_partition_release(ls_partition *partition);

/* What `shard` keeps of a unit; possibly nothing. */
ls_range ls_partition_slice(const ls_partition *partition, int unit, int shard);
/* What it keeps of all units. */
int64_t ls_partition_elems(const ls_partition *partition, int shard);

/* Elements [first, first + elems) of a row-major tensor as boxes, in order, each of consecutive
 * elements: for two dimensions the rest of a row, whole rows, the beginning of a row. Returns their
 * number. */
enum { LS_RANGE_BOXES = 2 * LS_MAX_DIMS - 1 };
int ls_range_boxes(int ndim, const int64_t *dims, ls_range range, ls_box boxes[LS_RANGE_BOXES]);

#endif
