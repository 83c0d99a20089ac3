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

#define LS_MAX_DIMS 4

typedef enum ls_init { LS_INIT_ZERO, LS_INIT_ONE, LS_INIT_NORMAL } ls_init;

typedef struct ls_param {
    char name[64]; /* "layers.3.attn.qkv.weight": unique */
    int ndim;
    int64_t dims[LS_MAX_DIMS]; /* global shape; dims[0] may include padding */
    int64_t valid_rows;        /* rows of dims[0] that are real (mostly all); the rest stay zero */
    int block;                 /* index of the block that owns it */
    ls_init init;
    double init_std;
    bool decay;          /* weight decay applies */
    bool matrix;         /* enters matrix products or look-ups: has a compute copy in bf16 */
    int tp_axis;         /* dimension split over tensor ranks, -1: replicated */
    int tp_groups;       /* groups inside that dimension, each split on its own (fused q,k,v: 3) */
    int64_t tp_sizes[3]; /* of those groups; q is wider than k and v with grouped queries */
    int64_t elems;       /* product of dims */
    int64_t offset;      /* of the first element in the flat parameter buffer; a multiple of 16 */
} ls_param;

/* A box of a tensor: start[d] <= index < start[d] + extent[d]. */
typedef struct ls_box {
    int ndim;
    int64_t start[LS_MAX_DIMS], extent[LS_MAX_DIMS];
} ls_box;

/* Fills in elems and offset in order of the rows; each offset is rounded up to 16 elements (64
 * bytes of fp32). *flat_elems = length of the flat buffer. */
void ls_layout_assign(ls_param *params, int count, int64_t *flat_elems);

/* The whole tensor as a box. */
ls_box ls_box_whole(int ndim, const int64_t *dims);
int64_t ls_box_elems(const ls_box *box);
/* Intersection; false when empty. */
bool ls_box_intersect(const ls_box *a, const ls_box *b, ls_box *out);
/* Copies `overlap` from a row-major buffer that holds box `from` to one that holds box `to`. */
void ls_box_copy(const ls_box *overlap, const ls_box *from, const void *src, const ls_box *to,
                 void *dst, size_t elem_bytes);

#endif
