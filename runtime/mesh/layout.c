#include "runtime/mesh/layout.h"

#include <string.h>

enum { OFFSET_ALIGN_ELEMS = 16 };

void ls_layout_assign(ls_param *params, int count, int64_t *flat_elems) {
    int64_t offset = 0;
    for (int i = 0; i < count; i++) {
        ls_param *p = &params[i];
        p->elems = 1;
        for (int d = 0; d < p->ndim; d++) {
            p->elems *= p->dims[d];
        }
        p->offset = offset;
        offset += (p->elems + OFFSET_ALIGN_ELEMS - 1) / OFFSET_ALIGN_ELEMS * OFFSET_ALIGN_ELEMS;
    }
    *flat_elems = offset;
}

ls_box ls_box_whole(int ndim, const int64_t *dims) {
    ls_box box = {.ndim = ndim};
    memcpy(box.extent, dims, (size_t)ndim * sizeof *dims);
    return box;
}

int64_t ls_box_elems(const ls_box *box) {
    int64_t elems = 1;
    for (int d = 0; d < box->ndim; d++) {
        elems *= box->extent[d];
    }
    return elems;
}

bool ls_box_intersect(const ls_box *a, const ls_box *b, ls_box *out) {
    ls_box box = {.ndim = a->ndim};
    if (a->ndim != b->ndim) {
        return false;
    }
    for (int d = 0; d < a->ndim; d++) {
        int64_t a_end = a->start[d] + a->extent[d], b_end = b->start[d] + b->extent[d];
        int64_t start = a->start[d] > b->start[d] ? a->start[d] : b->start[d];
        int64_t end = a_end < b_end ? a_end : b_end;
        if (end <= start) {
            return false;
        }
        box.start[d] = start;
        box.extent[d] = end - start;
    }
    *out = box;
    return true;
}

/* Offset in elements of an index of the tensor inside the buffer of a box. */
static int64_t offset_in(const ls_box *box, const int64_t *index) {
    int64_t offset = 0;
    for (int d = 0; d < box->ndim; d++) {
        offset = offset * box->extent[d] + index[d] - box->start[d];
    }
    return offset;
}

void ls_box_copy(const ls_box *overlap, const ls_box *from, const void *src, const ls_box *to,
                 void *dst, size_t elem_bytes) {
    /* Rows of dimensions that both buffers hold whole are one run of memory. */
    int inner = overlap->ndim;
    int64_t run_elems = 1;
    while (inner > 0) {
        inner--;
        run_elems *= overlap->extent[inner];
        if (from->extent[inner] != overlap->extent[inner] ||
            to->extent[inner] != overlap->extent[inner]) {
            break;
        }
    }
    int64_t index[LS_MAX_DIMS] = {0}, runs = 1;
    memcpy(index, overlap->start, sizeof index);
    for (int d = 0; d < inner; d++) {
        runs *= overlap->extent[d];
    }
    for (int64_t i = 0; i < runs; i++) {
        memcpy((char *)dst + (size_t)offset_in(to, index) * elem_bytes,
               (const char *)src + (size_t)offset_in(from, index) * elem_bytes,
               (size_t)run_elems * elem_bytes);
        for (int d = inner - 1; d >= 0; d--) { /* the next outer index, like an odometer */
            if (++index[d] < overlap->start[d] + overlap->extent[d]) {
                break;
            }
            index[d] = overlap->start[d];
        }
    }
}
