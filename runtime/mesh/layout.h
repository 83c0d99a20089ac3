/* What a parameter is, and which part of it a rank holds.
 *
 * A model is a table of ls_param rows (runtime/model/). Everything else iterates that table:
 * initialisation, sharding, gradient buckets, optimizer groups, checkpoint datasets, FLOP counts,
 * the planner and the tests. */
#ifndef LS_MESH_LAYOUT_H
#define LS_MESH_LAYOUT_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LS_MAX_DIMS   4
#define LS_MAX_GROUPS 3

typedef enum ls_init { LS_INIT_ZERO, LS_INIT_ONE, LS_INIT_NORMAL } ls_init;

/* A group of the split dimension (fused q, k, v: 3 groups), which tensor ranks split on its own.
 * It consists of `units` equal units, of whole grains each. With no more ranks than units a rank
 * holds a run of whole units: runs differ by at most one unit, the memory of all is as large as the
 * longest, and what is behind a shorter run stays zero. With more ranks (a multiple of the units)
 * `ranks / units` of them share a unit: each has an equal run of its grains, or, where the unit is
 * one grain, all of it (key/value heads when there are fewer of them than ranks). */
typedef struct ls_group {
    int64_t size, units, grain; /* in elements of the dimension; units divides size, grain a unit */
} ls_group;

typedef struct ls_param {
    char name[64]; /* "layers.3.attn.qkv.weight": unique */
    int ndim;
    int64_t dims[LS_MAX_DIMS]; /* global shape; dims[0] may include padding */
    int64_t valid_rows;        /* rows of dims[0] that are real (mostly all); the rest stay zero */
    int block;                 /* index of the block that owns it, in the whole model */
    ls_init init;
    double init_std;
    bool decay;  /* weight decay applies */
    bool matrix; /* enters matrix products or look-ups: has a compute copy in bf16 */
    bool copied; /* another stage owns it (tied head of the last stage): gradients must be added */
    bool expert; /* split over expert ranks: fewer data ranks hold the same part than of others */
    int tp_axis; /* dimension split over tensor ranks (experts: expert ranks x tensor ranks), -1:
                    every rank holds all of it */
    int tp_groups;
    ls_group tp_group[LS_MAX_GROUPS]; /* one after the other in that dimension */
    int tp_rank, tp_ranks;            /* whose part this row describes; 0 of 1 when not split */
    /* What that rank holds. Without a split this is the global tensor. */
    int64_t local_dims[LS_MAX_DIMS];
    int64_t elems;  /* product of local_dims */
    int64_t offset; /* of the first element in the flat parameter buffer; a multiple of 16 */
} ls_param;

/* A box of a tensor: start[d] <= index < start[d] + extent[d]. */
typedef struct ls_box {
    int ndim;
    int64_t start[LS_MAX_DIMS], extent[LS_MAX_DIMS];
} ls_box;

/* A part of the global tensor and the place where a rank holds it: equal extents. `first`: no lower
 * tensor rank holds this part too, so that whoever counts or writes each element once takes the
 * pieces with `first`. */
typedef struct ls_piece {
    ls_box global, local; /* local: in a tensor of local_dims */
    bool first;
} ls_piece;

/* The pieces of a row, those of no elements left out; at most LS_MAX_GROUPS. Local elements outside
 * of all pieces are padding: zero, with zero gradients. A rank's memory at param->offset is a
 * row-major tensor of local_dims:
 *   ls_box whole = ls_box_whole(param->ndim, param->local_dims);
 *   for each piece, each run of piece.local is at whole, its place in the tensor is piece.global.
 */
int ls_param_pieces(const ls_param *param, ls_piece pieces[LS_MAX_GROUPS]);

/* A run of consecutive elements: global index (row-major in dims) and local index. */
typedef struct ls_run {
    int64_t global, local, elems;
} ls_run;

/* Calls visit for all runs of a rank's part, in order of the local index within each piece; stops
 * at the first failure. Only pieces with `first` when `once`. */
ls_status ls_param_runs(const ls_param *param, bool once,
                        ls_status (*visit)(void *context, const ls_run *run), void *context);

/* Balanced range i of n elements in `parts` parts: first = n i / parts, lengths differ by at most
 * one. */
static inline int64_t ls_range_first(int64_t n, int64_t parts, int64_t i) {
    return (int64_t)((__int128)n * i / parts);
}

/* What a row takes of the flat buffer: its elements, rounded up to 16 (64 bytes of fp32). */
static inline int64_t ls_param_room(int64_t elems) {
    return (elems + 15) / 16 * 16;
}

/* Fills in local_dims, elems and offset in order of the rows, for the tp_rank of each.
 * *flat_elems = length of the flat buffer. */
void ls_layout_assign(ls_param *params, int count, int64_t *flat_elems);

/* Can `ranks` split a group? */
bool ls_group_splits(const ls_group *group, int ranks);
/* Where rank's part of a group begins in the group, how much of it there is, and how much memory
 * each rank keeps for it. *first_rank: the lowest rank with the same part. */
typedef struct ls_share {
    int64_t start, extent, capacity;
    int first_rank;
} ls_share;
ls_share ls_group_share(const ls_group *group, int rank, int ranks);

/* The whole tensor as a box. */
ls_box ls_box_whole(int ndim, const int64_t *dims);
int64_t ls_box_elems(const ls_box *box);
/* Intersection; false when empty. */
bool ls_box_intersect(const ls_box *a, const ls_box *b, ls_box *out);
/* Copies `overlap` from a row-major buffer that holds box `from` to one that holds box `to`. */
void ls_box_copy(const ls_box *overlap, const ls_box *from, const void *src, const ls_box *to,
                 void *dst, size_t elem_bytes);

#endif
