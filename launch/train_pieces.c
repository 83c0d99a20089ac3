/* A rank keeps ranges of its flat space. The part of a parameter in such a range is a few boxes of
 * the tensor that the rank holds of it, each one run of memory (ls_range_boxes); the rank's tensor
 * is made of a few parts of the global one (ls_param_pieces). Their intersections are what the
 * checkpoint is told. */
#include "launch/train_pieces.h"

#include "runtime/base/arena.h"
#include "runtime/device/device_async.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where a box lies: inside a run of memory that holds the box `run`, dense from `begin` on or,
 * NULL, spread. own: a dense copy on the host. */
struct ls_piece_place {
    char *memory, *begin;
    ls_box run, local;
    bool expert; /* see ls_param */
    void *own;
};

typedef struct listing {
    const ls_train *train;
    bool to_save;
    ls_pieces *out;
} listing;

static ls_status make_room(ls_pieces *p) {
    if (p->count < p->room) {
        return LS_OK;
    }
    const size_t room = 2 * (size_t)p->room + 64;
    ls_ckpt_tensor *tensors = reallocarray(p->tensors, room, sizeof *tensors);
    p->tensors = tensors ? tensors : p->tensors;
    struct ls_piece_place *places = reallocarray(p->places, room, sizeof *places);
    p->places = places ? places : p->places;
    if (!tensors || !places) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %zu pieces of tensors", room);
    }
    p->room = (int)room;
    return LS_OK;
}

/* Dense: all dimensions but the first that the box spans are whole in the run. */
static bool is_dense(const ls_box *local, const ls_box *run) {
    int d = 0;
    while (d < local->ndim && local->extent[d] == 1) {
        d++;
    }
    for (d++; d < local->ndim; d++) {
        if (local->extent[d] != run->extent[d]) {
            return false;
        }
    }
    return true;
}

/* The whole run on the host: where it lies, or a copy of it. */
static ls_status run_on_host(const ls_pieces *p, const struct ls_piece_place *place, ls_dtype dtype,
                             char **run) {
    const size_t bytes = (size_t)ls_box_elems(&place->run) * ls_dtype_bytes(dtype);
    *run = place->memory;
    if (p->dev->host_memory) {
        return LS_OK;
    }
    LS_TRY(ls_calloc(1, bytes, run));
    ls_status status = p->dev->ops->download(p->dev, *run, place->memory, bytes);
    if (status != LS_OK) {
        free(*run);
    }
    return status;
}

static void run_release(const ls_pieces *p, char *run) {
    if (!p->dev->host_memory) {
        free(run);
    }
}

ls_status ls_pieces_fetch(const ls_pieces *p, int index) {
    const struct ls_piece_place *place = &p->places[index];
    const ls_dtype dtype = p->tensors[index].dtype;
    if (!place->own) {
        return LS_OK;
    }
    if (place->begin) {
        return p->dev->ops->download(p->dev, place->own, place->begin,
                                     (size_t)ls_box_elems(&place->local) * ls_dtype_bytes(dtype));
    }
    char *run;
    LS_TRY(run_on_host(p, place, dtype, &run));
    ls_box_copy(&place->local, &place->run, run, &place->local, place->own, ls_dtype_bytes(dtype));
    run_release(p, run);
    return LS_OK;
}

/* The box `local` of the run at memory, which is `global` in the tensor. */
static ls_status add(const listing *l, const ls_param *row, const char *name, const ls_box *run,
                     char *memory, const ls_box *local, const ls_box *global) {
    ls_pieces *p = l->out;
    const ls_dtype acc = l->train->session.dev->acc;
    const size_t elem_bytes = ls_dtype_bytes(acc);
    LS_TRY(make_room(p));
    struct ls_piece_place *place = &p->places[p->count];
    *place = (struct ls_piece_place){
        .memory = memory, .run = *run, .local = *local, .expert = row->expert};
    if (is_dense(local, run)) {
        int64_t at = 0;
        for (int d = 0; d < local->ndim; d++) {
            at = at * run->extent[d] + local->start[d] - run->start[d];
        }
        place->begin = memory + at * (int64_t)elem_bytes;
    }
    ls_ckpt_tensor *t = &p->tensors[p->count];
    *t = (ls_ckpt_tensor){.name = name, .dtype = acc, .ndim = row->ndim, .box = *global};
    memcpy(t->dims, row->dims, sizeof t->dims);
    t->dims[0] = row->valid_rows; /* padding of the vocabulary is not saved */
    p->count++;
    t->data = place->begin;
    if (!place->begin || (!l->to_save && !p->dev->host_memory)) {
        LS_TRY(ls_calloc((size_t)ls_box_elems(local), elem_bytes, &place->own));
        t->data = place->own;
    }
    return l->to_save ? ls_pieces_fetch(p, p->count - 1) : LS_OK;
}

/* Elements [from, to) of the row's memory, at `memory`. */
static ls_status add_range(const listing *l, const ls_param *row, const char *name, int64_t from,
                           int64_t to, char *memory) {
    const size_t elem_bytes = ls_dtype_bytes(l->train->session.dev->acc);
    ls_box runs[LS_RANGE_BOXES];
    ls_piece pieces[LS_MAX_GROUPS];
    const int run_count = ls_range_boxes(row->ndim, row->local_dims,
                                         (ls_range){.first = from, .elems = to - from}, runs);
    const int piece_count = ls_param_pieces(row, pieces);
    ls_box real = ls_box_whole(row->ndim, row->dims);
    real.extent[0] = row->valid_rows;
    for (int r = 0; r < run_count; r++) {
        for (int i = 0; i < piece_count; i++) {
            ls_box local, global, kept;
            if ((l->to_save && !pieces[i].first) ||
                !ls_box_intersect(&runs[r], &pieces[i].local, &local)) {
                continue;
            }
            global = local;
            for (int d = 0; d < row->ndim; d++) {
                global.start[d] += pieces[i].global.start[d] - pieces[i].local.start[d];
            }
            if (!ls_box_intersect(&global, &real, &kept)) {
                continue;
            }
            local.extent[0] = kept.extent[0]; /* rows are cut off at the end only */
            LS_TRY(add(l, row, name, &runs[r], memory, &local, &kept));
        }
        memory += ls_box_elems(&runs[r]) * (int64_t)elem_bytes;
    }
    return LS_OK;
}

/* A state that is a vector (Adafactor's) is equal on all shards: the first one saves it. Tensor
 * ranks have parts of it unless they split the dimension that it lacks. */
static ls_status add_vector(const listing *l, int index, const ls_param *row, const char *name,
                            int state) {
    const ls_train *train = l->train;
    const ls_comm *shard = row->expert ? train->groups.expert_shard : train->groups.shard;
    const ls_optim_shape shape = ls_optim_state_shape(train->optim, state, index);
    if (shape == LS_STATE_NONE || (l->to_save && shard && shard->rank > 0)) {
        return LS_OK;
    }
    ls_param vector = *row;
    vector.ndim--;
    const int left_out = shape == LS_STATE_ROWS ? vector.ndim : vector.ndim - 1;
    int64_t elems = 1;
    for (int d = 0; d < vector.ndim; d++) {
        vector.dims[d] = row->dims[d + (d >= left_out)];
        vector.local_dims[d] = row->local_dims[d + (d >= left_out)];
        elems *= vector.local_dims[d];
    }
    vector.tp_axis = row->tp_axis == left_out ? -1 : row->tp_axis - (row->tp_axis > left_out);
    vector.valid_rows = left_out == 0 ? vector.dims[0] : row->valid_rows;
    return add_range(l, &vector, name, 0, elems, ls_optim_state_vector(train->optim, state, index));
}

/* state -1: masters. */
static ls_status add_row(const listing *l, int index, const ls_param *row, int state) {
    const ls_train *train = l->train;
    int owned_count;
    const ls_owned *owned = ls_state_owned(train->state, &owned_count);
    char *name = l->out->names[l->out->name_count++];
    if (state < 0) {
        snprintf(name, sizeof *l->out->names, "%s", row->name);
    } else {
        snprintf(name, sizeof *l->out->names, "optim.%s.%s",
                 ls_optim_state_name(train->optim, state), row->name);
        if (ls_optim_state_shape(train->optim, state, index) != LS_STATE_FULL) {
            return add_vector(l, index, row, name, state);
        }
    }
    for (int i = 0; i < owned_count; i++) {
        const ls_range r = owned[i].range;
        const int64_t row_end = row->offset + row->elems, range_end = r.first + r.elems;
        const int64_t from = row->offset > r.first ? row->offset : r.first;
        const int64_t to = row_end < range_end ? row_end : range_end;
        if (from >= to) {
            continue;
        }
        char *memory = state < 0 ? ls_state_master_at(train->state, from)
                                 : ls_optim_state_at(train->optim, state, from);
        if (memory) {
            LS_TRY(add_range(l, row, name, from - row->offset, to - row->offset, memory));
        }
    }
    return LS_OK;
}

static size_t piece_bytes(const ls_ckpt_tensor *t) {
    return (size_t)ls_box_elems(&t->box) * ls_dtype_bytes(t->dtype);
}

/* Of a piece those rows that `share`, a box of the piece, has. */
static ls_ckpt_tensor rows_of(const ls_ckpt_tensor *piece, const ls_box *share) {
    ls_ckpt_tensor rows = *piece;
    const size_t row_bytes = piece_bytes(piece) / (size_t)piece->box.extent[0];
    rows.data = (char *)rows.data + (size_t)share->start[0] * row_bytes;
    rows.box.start[0] += share->start[0];
    rows.box.extent[0] = share->extent[0];
    return rows;
}

/* What of the pieces of experts (or of the others) this one of the replicas is to write. parts:
 * scratch. */
static void assign_share(const ls_train *train, const ls_pieces *p, bool experts,
                         ls_ckpt_tensor *parts, ls_box *boxes) {
    const ls_layout *l = &train->layout;
    const int groups = experts ? l->experts : 1, shards = experts ? l->expert_shards : l->shards;
    const int rank = ls_layout_data_rank(l) / groups, ranks = ls_layout_data_size(l) / groups;
    int count = 0;
    for (int i = 0; i < p->count; i++) {
        if (p->places[i].expert == experts) {
            parts[count] = p->tensors[i];
            memcpy(parts[count++].dims, p->tensors[i].box.extent, sizeof parts->dims);
        }
    }
    ls_box *found = boxes + p->count;
    ls_ckpt_assign(parts, count, rank / shards, ranks / shards, found);
    for (int i = 0; i < p->count; i++) {
        if (p->places[i].expert == experts) {
            boxes[i] = *found++;
        }
    }
}

/* Replicas hold the same: each keeps of the list what it is to write. */
static ls_status keep_own_share(const ls_train *train, ls_pieces *p) {
    ls_ckpt_tensor *parts = NULL;
    ls_box *boxes = NULL;
    LS_TRY(ls_calloc((size_t)p->count + 1, sizeof *parts, &parts));
    ls_status status = ls_calloc(2 * (size_t)p->count + 1, sizeof *boxes, &boxes);
    int kept = 0;
    for (int experts = 0; status == LS_OK && experts < 2; experts++) {
        assign_share(train, p, experts, parts, boxes);
    }
    for (int i = 0; status == LS_OK && i < p->count; i++) {
        if (ls_box_elems(&boxes[i]) == 0) {
            free(p->places[i].own);
            continue;
        }
        p->places[kept] = p->places[i];
        p->tensors[kept++] = rows_of(&p->tensors[i], &boxes[i]);
    }
    p->count = status == LS_OK ? kept : p->count;
    free(parts);
    free(boxes);
    return status;
}

ls_status ls_pieces_list(const ls_train *train, bool to_save, ls_pieces *pieces) {
    *pieces = (ls_pieces){.dev = train->session.dev};
    const listing l = {.train = train, .to_save = to_save, .out = pieces};
    int rows;
    const ls_param *params = ls_state_params(train->state, &rows);
    const int states = ls_optim_state_count(train->optim);
    LS_TRY(ls_calloc((size_t)(rows * (1 + states)) + 1, sizeof *pieces->names, &pieces->names));
    for (int state = -1; state < states; state++) {
        for (int i = 0; i < rows; i++) {
            if (!(to_save && params[i].copied)) {
                LS_TRY(add_row(&l, i, &params[i], state));
            }
        }
    }
    return to_save ? keep_own_share(train, pieces) : LS_OK;
}

static ls_status store(const ls_pieces *p, const struct ls_piece_place *place, ls_dtype dtype) {
    ls_device *dev = p->dev;
    char *run;
    if (place->begin) {
        return dev->ops->upload(dev, place->begin, place->own,
                                (size_t)ls_box_elems(&place->local) * ls_dtype_bytes(dtype));
    }
    LS_TRY(run_on_host(p, place, dtype, &run));
    ls_box_copy(&place->local, &place->local, place->own, &place->run, run, ls_dtype_bytes(dtype));
    ls_status status =
        dev->host_memory
            ? LS_OK
            : dev->ops->upload(dev, place->memory, run,
                               (size_t)ls_box_elems(&place->run) * ls_dtype_bytes(dtype));
    run_release(p, run);
    return status;
}

/* After loading: from their own memory to the rank's. */
static ls_status store_all(const ls_pieces *p) {
    for (int i = 0; i < p->count; i++) {
        if (p->places[i].own) {
            LS_TRY(store(p, &p->places[i], p->tensors[i].dtype));
        }
    }
    return LS_OK;
}

/* Of the list, what the rank `rank` of `ranks` that hold the same reads: rows of each, none of
 * many. boxes: scratch. */
static void choose_part(const ls_pieces *p, int rank, int ranks, ls_ckpt_tensor *part,
                        ls_box *boxes) {
    for (int i = 0; i < p->count; i++) {
        part[i] = p->tensors[i];
        memcpy(part[i].dims, part[i].box.extent, sizeof part[i].dims);
    }
    ls_ckpt_assign(part, p->count, rank, ranks, boxes);
    for (int i = 0; i < p->count; i++) {
        part[i] = rows_of(&p->tensors[i], &boxes[i]);
    }
}

/* Each part from who has read it to all of `same`. [collective on same] */
static ls_status give_parts(const ls_pieces *p, ls_comm *same, ls_ckpt_tensor *part,
                            ls_box *boxes) {
    for (int r = 0; r < same->size; r++) {
        choose_part(p, r, same->size, part, boxes);
        for (int i = 0; i < p->count; i++) {
            const int64_t bytes = (int64_t)piece_bytes(&part[i]);
            if (bytes > 0) {
                LS_TRY(same->ops->broadcast(same, part[i].data, bytes, r));
            }
        }
    }
    return LS_OK;
}

/* [collective] */
static ls_status load_parts(ls_train *train, ls_ckpt *ckpt, const ls_pieces *p, ls_comm *same) {
    ls_ckpt_tensor *part = NULL;
    ls_box *boxes = NULL;
    ls_status status = ls_calloc((size_t)p->count + 1, sizeof *part, &part);
    if (status == LS_OK) {
        status = ls_calloc((size_t)p->count + 1, sizeof *boxes, &boxes);
    }
    if (status == LS_OK) {
        choose_part(p, same->rank, same->size, part, boxes);
        status = ls_ckpt_load(ckpt, part, p->count);
    }
    status = ls_session_agree(&train->session, status);
    if (status == LS_OK) {
        status = give_parts(p, same, part, boxes);
    }
    free(part);
    free(boxes);
    return status;
}

/* Masters come first in the list; what follows is the optimizer's. */
static int count_masters(const ls_pieces *p) {
    int count = 0;
    while (count < p->count && strncmp(p->tensors[count].name, "optim.", 6) != 0) {
        count++;
    }
    return count;
}

ls_status ls_pieces_load(ls_train *train, ls_ckpt *ckpt, bool masters_only) {
    const ls_layout *l = &train->layout;
    ls_comm *world = train->session.comm, *same;
    ls_pieces pieces;
    /* Data ranks at the same place in their copies of the model, by the first of them. */
    const int slot = ls_layout_data_rank(l) % ls_layout_copy_size(l);
    const int color = (l->mesh.coord[LS_AXIS_PIPELINE] * ls_layout_copy_size(l) + slot) *
                          l->mesh.size[LS_AXIS_TENSOR] +
                      l->mesh.coord[LS_AXIS_TENSOR];
    LS_TRY(ls_layout_data_size(l) > ls_layout_copy_size(l) ? world->ops->split(world, color, &same)
                                                           : ls_comm_self(&same));
    ls_status status = ls_session_agree(&train->session, ls_pieces_list(train, false, &pieces));
    const int all = pieces.count;
    pieces.count = masters_only ? count_masters(&pieces) : all;
    status = status == LS_OK ? load_parts(train, ckpt, &pieces, same) : status;
    if (status == LS_OK) {
        status = store_all(&pieces);
    }
    pieces.count = all;
    ls_pieces_release(&pieces);
    same->ops->destroy(same);
    return ls_session_agree(&train->session, status);
}

ls_status ls_pieces_copy(const ls_pieces *p, const ls_ckpt_tensor *to, bool beside) {
    for (int i = 0; i < p->count; i++) { /* first: the host leaves memory alone that is copied to */
        if (p->places[i].own) {
            memcpy(to[i].data, p->tensors[i].data, piece_bytes(&p->tensors[i]));
        }
    }
    for (int i = 0; i < p->count; i++) {
        const size_t bytes = piece_bytes(&p->tensors[i]);
        if (!p->places[i].own && bytes > 0) {
            LS_TRY((beside ? p->dev->async->fetch
                           : p->dev->ops->download)(p->dev, to[i].data, p->tensors[i].data, bytes));
        }
    }
    return LS_OK;
}

void ls_pieces_release(ls_pieces *p) {
    for (int i = 0; i < p->count; i++) {
        free(p->places[i].own);
    }
    free(p->tensors);
    free(p->places);
    free(p->names);
    *p = (ls_pieces){0};
}
