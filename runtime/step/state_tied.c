/* An embedding that the first stage looks up and the last multiplies with: each has a copy, and
 * gradients of its own use. Both get the sum, so that equal updates follow. */
#include "runtime/step/state_internal.h"

#include <string.h>

int64_t ls_state_tied_piece_bytes = 8 << 20;

bool ls_state_find_tied(const ls_state *s, const state_part **part, int *first, int *end) {
    for (int i = 0; i < s->param_count; i++) {
        const ls_param *row = &s->params[i];
        if (strcmp(row->name, "tok_embed.weight") != 0) {
            continue;
        }
        const state_part *p = s->parts;
        while (p + 1 < s->parts + s->options.part_count && p[1].base <= row->offset) {
            p++;
        }
        const ls_unit *units = p->partition.units;
        *first = 0;
        while (units[*first].range.first < row->offset - p->base) {
            (*first)++;
        }
        *end = *first; /* the row is a block for itself */
        while (*end < p->partition.unit_count && units[*end].block == units[*first].block) {
            (*end)++;
        }
        *part = p;
        return true;
    }
    return false;
}

int64_t ls_state_tied_piece(const ls_state *s, int64_t left) {
    const int64_t most = ls_state_tied_piece_bytes / (int64_t)s->acc_bytes;
    return left < most ? left : most;
}

ls_status ls_state_plan_tied(ls_state *s) {
    const state_part *part;
    int unit, end;
    int64_t most = 0;
    if (!s->options.tied || !ls_state_find_tied(s, &part, &unit, &end)) {
        return LS_OK;
    }
    for (; unit < end; unit++) {
        const int64_t elems = ls_partition_slice(&part->partition, unit, part->shard).elems;
        const int64_t piece = ls_state_tied_piece(s, elems);
        most = piece > most ? piece : most;
    }
    return ls_state_take(s, &s->bytes.reduction, (size_t)most * s->acc_bytes, &s->twin);
}

/* Adds the other stage's gradients to this one's. */
static ls_status add_piece(ls_state *s, void *own, int64_t elems) {
    ls_comm *comm = s->options.tied;
    const int other = comm->rank == 0 ? comm->size - 1 : 0;
    const int64_t bytes = elems * (int64_t)s->acc_bytes;
    ls_comm_request *requests[2];
    /* On a device messages go one after the other: one sends first, the other receives. */
    for (int i = 0; i < 2; i++) {
        const bool sends = (i == 0) == (comm->rank == 0);
        LS_TRY(sends ? comm->ops->send_start(comm, own, bytes, other, &requests[i])
                     : comm->ops->recv_start(comm, s->twin, bytes, other, &requests[i]));
    }
    LS_TRY(comm->ops->wait(comm, requests[0]));
    LS_TRY(comm->ops->wait(comm, requests[1]));
    return s->dev->ops->add(s->dev, s->dev->acc, elems, s->twin, own);
}

ls_status ls_state_add_tied(ls_state *s) {
    const state_part *part;
    int unit, end;
    if (!ls_state_find_tied(s, &part, &unit, &end)) {
        return LS_OK; /* a stage in between */
    }
    for (; unit < end; unit++) {
        const ls_range slice = ls_partition_slice(&part->partition, unit, part->shard);
        const int64_t at = s->full_grads ? part->base + slice.first : part->places[unit];
        for (int64_t done = 0, n; done < slice.elems; done += n) {
            n = ls_state_tied_piece(s, slice.elems - done);
            LS_TRY(add_piece(s, ls_state_at(s->grads, at + done, s->acc_bytes), n));
        }
    }
    return LS_OK;
}
