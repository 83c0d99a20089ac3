#include "runtime/mesh/layout.h"

#include <string.h>

static int ranks_of(const ls_param *p) {
    return p->tp_ranks < 1 ? 1 : p->tp_ranks;
}

bool ls_group_splits(const ls_group *group, int ranks) {
    if (ranks <= group->units) {
        return true;
    }
    const int64_t grains = group->size / group->units / group->grain;
    return ranks % group->units == 0 && (grains == 1 || grains % (ranks / group->units) == 0);
}

ls_share ls_group_share(const ls_group *group, int rank, int ranks) {
    const int64_t unit = group->size / group->units;
    if (ranks <= group->units) {
        const int64_t first = ls_range_first(group->units, ranks, rank);
        const int64_t end = ls_range_first(group->units, ranks, rank + 1);
        return (ls_share){.start = first * unit,
                          .extent = (end - first) * unit,
                          .capacity = (group->units + ranks - 1) / ranks * unit,
                          .first_rank = rank};
    }
    const int sharers = (int)(ranks / group->units), part = rank % sharers;
    const int64_t start = rank / sharers * unit, grains = unit / group->grain;
    if (grains == 1) {
        return (ls_share){
            .start = start, .extent = unit, .capacity = unit, .first_rank = rank - part};
    }
    const int64_t own = grains / sharers * group->grain;
    return (ls_share){
        .start = start + part * own, .extent = own, .capacity = own, .first_rank = rank};
}

static void assign_local_dims(ls_param *p) {
    memcpy(p->local_dims, p->dims, sizeof p->local_dims);
    if (ranks_of(p) == 1 || p->tp_axis < 0) {
        return;
    }
    p->local_dims[p->tp_axis] = 0;
    for (int g = 0; g < p->tp_groups; g++) {
        p->local_dims[p->tp_axis] +=
            ls_group_share(&p->tp_group[g], p->tp_rank, p->tp_ranks).capacity;
    }
}

void ls_layout_assign(ls_param *params, int count, int64_t *flat_elems) {
    int64_t offset = 0;
    for (int i = 0; i < count; i++) {
        ls_param *p = &params[i];
        assign_local_dims(p);
        p->elems = 1;
        for (int d = 0; d < p->ndim; d++) {
            p->elems *= p->local_dims[d];
        }
        p->offset = offset;
        offset += ls_param_room(p->elems);
    }
    *flat_elems = offset;
}

int ls_param_pieces(const ls_param *p, ls_piece pieces[LS_MAX_GROUPS]) {
    const ls_box whole = ls_box_whole(p->ndim, p->dims);
    if (ranks_of(p) == 1 || p->tp_axis < 0) {
        pieces[0] = (ls_piece){.global = whole, .local = whole, .first = p->tp_rank == 0};
        return 1;
    }
    int count = 0;
    int64_t global = 0, local = 0;
    for (int g = 0; g < p->tp_groups; g++) {
        const ls_share share = ls_group_share(&p->tp_group[g], p->tp_rank, p->tp_ranks);
        ls_piece piece = {.global = whole, .local = whole, .first = share.first_rank == p->tp_rank};
        piece.global.start[p->tp_axis] = global + share.start;
        piece.local.start[p->tp_axis] = local;
        piece.global.extent[p->tp_axis] = piece.local.extent[p->tp_axis] = share.extent;
        if (share.extent > 0) {
            pieces[count++] = piece;
        }
        global += p->tp_group[g].size;
        local += share.capacity;
    }
    return count;
}

ls_status ls_param_runs(const ls_param *p, bool once,
                        ls_status (*visit)(void *context, const ls_run *run), void *context) {
    const int axis = p->tp_axis < 0 ? 0 : p->tp_axis;
    int64_t outer = 1, inner = 1; /* elements before and behind the split dimension */
    for (int d = 0; d < axis; d++) {
        outer *= p->dims[d];
    }
    for (int d = axis + 1; d < p->ndim; d++) {
        inner *= p->dims[d];
    }
    ls_piece pieces[LS_MAX_GROUPS];
    const int count = ls_param_pieces(p, pieces);
    for (int i = 0; i < count; i++) {
        if (once && !pieces[i].first) {
            continue;
        }
        const ls_box *global = &pieces[i].global, *local = &pieces[i].local;
        for (int64_t o = 0; o < outer; o++) {
            const ls_run run = {
                .global = (o * p->dims[axis] + global->start[axis]) * inner,
                .local = (o * p->local_dims[axis] + local->start[axis]) * inner,
                .elems = global->extent[axis] * inner,
            };
            LS_TRY(visit(context, &run));
        }
    }
    return LS_OK;
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
