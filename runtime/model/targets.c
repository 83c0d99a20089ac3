/* Loss masks: where few tokens are targets, the head multiplies the rows of these alone. Rows are
 * packed for some chunks at a time, and their gradients go back to where they were, zeros to the
 * others. */
#include "runtime/model/model_internal.h"

#include <string.h>

/* Rows of padding make sizes repeat: libraries prepare themselves for each. */
enum { ROWS_UNIT = 64 };

ls_status ls_targets_lay_out(ls_model *m, int64_t rows) {
    const int64_t elems = m->head_rows_together * m->sizes.channels;
    for (int i = 0; i < m->slots; i++) {
        LS_TRY(ls_take(m, 2 * rows, LS_I32, &m->slot[i].kept));
        LS_TRY(ls_take_host(m, rows, LS_I32, &m->slot[i].host_kept));
    }
    LS_TRY(ls_take_host(m, 2 * rows, LS_I32, &m->host_targets));
    LS_TRY(ls_take(m, elems, m->dtype, &m->head_x));
    return m->options.training ? ls_take(m, elems, m->dtype, &m->head_dx) : LS_OK;
}

/* Packs the targets, and notes which row each was; how many there are with padding at the end. */
static int64_t pack(const int32_t *targets, int64_t rows, int32_t *packed, int32_t *kept) {
    int64_t n = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (targets[i] >= 0) {
            packed[n] = targets[i];
            kept[n++] = (int32_t)i;
        }
    }
    for (; n < rows && (n == 0 || n % ROWS_UNIT != 0); n++) {
        packed[n] = kept[n] = -1;
    }
    return n;
}

ls_status ls_targets_load(const ls_pass *pass, const int32_t *targets) {
    const ls_model *m = pass->model;
    ls_slot *slot = pass->slot;
    const int64_t rows = pass->rows;
    const size_t bytes = (size_t)rows * sizeof *targets;
    slot->packed_rows = 0;
    if (!slot->kept) {
        return m->dev->ops->upload(m->dev, slot->targets, targets, bytes);
    }
    int32_t *packed = m->host_targets, *places = packed + rows;
    const int64_t count = pack(targets, rows, packed, slot->host_kept);
    if (count == rows) { /* nothing to gain */
        return m->dev->ops->upload(m->dev, slot->targets, targets, bytes);
    }
    slot->packed_rows = count;
    memset(places, -1, bytes);
    for (int64_t i = 0; i < count && slot->host_kept[i] >= 0; i++) {
        places[slot->host_kept[i]] = (int32_t)(i % m->head_rows_together);
    }
    LS_TRY(m->dev->ops->upload(m->dev, slot->targets, packed, (size_t)count * sizeof *packed));
    LS_TRY(
        m->dev->ops->upload(m->dev, slot->kept, slot->host_kept, (size_t)count * sizeof *packed));
    return m->dev->ops->upload(m->dev, slot->kept + rows, places, bytes);
}

int64_t ls_targets_rows(const ls_pass *pass) {
    return pass->slot->packed_rows > 0 ? pass->slot->packed_rows : pass->rows;
}

ls_status ls_targets_pick(const ls_pass *pass, const void *x, int64_t first, int64_t rows,
                          const void **picked) {
    const ls_model *m = pass->model;
    if (pass->slot->packed_rows == 0) {
        *picked = ls_elems_at(x, first * m->sizes.channels, m->dtype);
        return LS_OK;
    }
    *picked = m->head_x;
    return m->dev->ops->select_rows(m->dev, &(ls_select_rows){.dtype = m->dtype,
                                                              .rows = rows,
                                                              .cols = m->sizes.channels,
                                                              .index = pass->slot->kept + first,
                                                              .x = x,
                                                              .y = m->head_x});
}

void *ls_targets_dx(const ls_pass *pass, void *dx, int64_t first) {
    const ls_model *m = pass->model;
    return pass->slot->packed_rows > 0 ? m->head_dx
                                       : ls_elems_at(dx, first * m->sizes.channels, m->dtype);
}

/* The row with which the chunk's part of all rows begins: each reaches to the next one's. */
static int64_t part_begin(const ls_pass *pass, int64_t first) {
    const ls_slot *slot = pass->slot;
    if (first == 0) {
        return 0;
    }
    return first < slot->packed_rows && slot->host_kept[first] >= 0 ? slot->host_kept[first]
                                                                    : pass->rows;
}

ls_status ls_targets_return(const ls_pass *pass, int64_t first, int64_t rows, void *dx) {
    const ls_model *m = pass->model;
    if (pass->slot->packed_rows == 0) {
        return LS_OK;
    }
    const int64_t begin = part_begin(pass, first), end = part_begin(pass, first + rows);
    return m->dev->ops->select_rows(
        m->dev, &(ls_select_rows){.dtype = m->dtype,
                                  .rows = end - begin,
                                  .cols = m->sizes.channels,
                                  .index = pass->slot->kept + pass->rows + begin,
                                  .x = m->head_dx,
                                  .y = ls_elems_at(dx, begin * m->sizes.channels, m->dtype)});
}
