#include "runtime/mesh/partition.h"

#include "runtime/base/arena.h"

#include <stdlib.h>

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t chunks_of(int64_t elems) {
    return ceil_div(elems, LS_CHUNK_ELEMS);
}

/* Units of a block: as few as may be, equal but for the last. */
static int64_t unit_size(int64_t block_elems, int64_t unit_elems) {
    int64_t chunks = chunks_of(block_elems), most = chunks_of(unit_elems);
    return chunks > 0 ? ceil_div(chunks, ceil_div(chunks, most)) * LS_CHUNK_ELEMS : 1;
}

ls_status ls_partition_init(const int64_t *block_first, int blocks, int shards, int64_t unit_elems,
                            ls_partition *p) {
    *p = (ls_partition){.shards = shards};
    if (blocks < 0 || shards < 1 || unit_elems < 1) {
        return LS_FAIL(LS_E_SHAPE,
                       "a partition of %d blocks over %d shards in units of %lld elements; at "
                       "least 0, 1 and 1 are expected",
                       blocks, shards, (long long)unit_elems);
    }
    int64_t count = 0;
    for (int b = 0; b < blocks; b++) {
        int64_t elems = block_first[b + 1] - block_first[b];
        if (elems < 0) {
            return LS_FAIL(LS_E_SHAPE, "block %d has %lld elements", b, (long long)elems);
        }
        count += ceil_div(elems, unit_size(elems, unit_elems));
    }
    LS_TRY(ls_calloc((size_t)count, sizeof *p->units, &p->units));
    for (int b = 0; b < blocks; b++) {
        int64_t surplus = 0;
        int64_t size = unit_size(block_first[b + 1] - block_first[b], unit_elems);
        for (int64_t at = block_first[b]; at < block_first[b + 1]; at += size) {
            int64_t elems = min_i64(size, block_first[b + 1] - at);
            p->units[p->unit_count++] = (ls_unit){.range = {.first = at, .elems = elems},
                                                  .block = b,
                                                  .turn = (int)(surplus % shards)};
            surplus += chunks_of(elems) % shards;
        }
    }
    return LS_OK;
}

void ls_partition_release(ls_partition *p) {
    free(p->units);
    *p = (ls_partition){0};
}

/* Chunks before the slice of `shard`. The surplus ones go to shards turn, turn + 1, ... in a
 * circle. */
static int64_t chunks_before(const ls_unit *unit, int shards, int shard) {
    int64_t chunks = chunks_of(unit->range.elems), surplus = chunks % shards;
    int64_t upper = min_i64(shard, unit->turn + surplus) - unit->turn; /* from turn on */
    int64_t lower = min_i64(shard, unit->turn + surplus - shards);     /* beyond the end */
    return chunks / shards * shard + (upper > 0 ? upper : 0) + (lower > 0 ? lower : 0);
}

ls_range ls_partition_slice(const ls_partition *p, int unit, int shard) {
    const ls_unit *u = &p->units[unit];
    int64_t from = chunks_before(u, p->shards, shard) * LS_CHUNK_ELEMS;
    int64_t to = chunks_before(u, p->shards, shard + 1) * LS_CHUNK_ELEMS;
    from = min_i64(from, u->range.elems);
    return (ls_range){.first = u->range.first + from, .elems = min_i64(to, u->range.elems) - from};
}

int64_t ls_partition_elems(const ls_partition *p, int shard) {
    int64_t elems = 0;
    for (int u = 0; u < p->unit_count; u++) {
        elems += ls_partition_slice(p, u, shard).elems;
    }
    return elems;
}

/* The largest box of consecutive elements that starts at range.first and ends inside the range. */
static ls_box box_at(int ndim, const int64_t *dims, ls_range range) {
    ls_box box = {.ndim = ndim};
    int64_t rest = range.first, stride[LS_MAX_DIMS] = {1, 1, 1, 1};
    for (int d = ndim - 2; d >= 0; d--) {
        stride[d] = stride[d + 1] * dims[d + 1];
    }
    for (int d = 0; d < ndim; d++) {
        box.start[d] = rest / stride[d];
        box.extent[d] = 1;
        rest %= stride[d];
    }
    int d = ndim - 1; /* dimensions further in are whole */
    while (d > 0 && box.start[d] == 0 && stride[d - 1] <= range.elems) {
        box.extent[d] = dims[d];
        d--;
    }
    box.extent[d] = min_i64(dims[d] - box.start[d], range.elems / stride[d]);
    return box;
}

int ls_range_boxes(int ndim, const int64_t *dims, ls_range range, ls_box boxes[LS_RANGE_BOXES]) {
    int count = 0;
    while (range.elems > 0) {
        boxes[count] = box_at(ndim, dims, range);
        const int64_t elems = ls_box_elems(&boxes[count++]);
        range.first += elems;
        range.elems -= elems;
    }
    return count;
}
