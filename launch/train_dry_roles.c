#include "launch/train_dry_roles.h"

#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

/* The rows of one rank's parts of the model, and how many tokens its boundaries have. */
typedef struct rows {
    ls_param *params;
    int count;
    int64_t elems, tokens;
} rows;

/* Of all parts, one after the other. */
static ls_status list_rows(const ls_layout *l, int expert_rank, int tensor_rank, rows *r) {
    *r = (rows){0};
    for (int p = 0; p < l->part_count; p++) {
        ls_model_part part = l->parts[p];
        ls_param *params, *all;
        int count;
        int64_t elems;
        part.tensor_rank = tensor_rank;
        part.expert_rank = expert_rank;
        LS_TRY(ls_model_table_part(&l->config->model, &part, &params, &count, &elems));
        all = reallocarray(r->params, (size_t)(r->count + count) + 1, sizeof *all);
        if (all) {
            memcpy(all + r->count, params, (size_t)count * sizeof *all);
            r->params = all;
            r->count += count;
        }
        free(params);
        if (!all) {
            return LS_FAIL(LS_E_MEMORY, "no memory for %d parameters", r->count + count);
        }
        r->elems += elems;
    }
    const int64_t tokens = l->config->batch.micro * l->seq / l->mesh.size[LS_AXIS_CONTEXT];
    const int ranks = l->mesh.size[LS_AXIS_TENSOR];
    r->tokens =
        ls_range_first(tokens, ranks, tensor_rank + 1) - ls_range_first(tokens, ranks, tensor_rank);
    return LS_OK;
}

/* Of the same sizes at the same places, and counted by the same ranks? */
static bool same_pieces(const ls_param *a, const ls_param *b) {
    ls_piece x[LS_MAX_GROUPS], y[LS_MAX_GROUPS];
    const int n = ls_param_pieces(a, x);
    bool same = n == ls_param_pieces(b, y) && a->offset == b->offset && a->elems == b->elems &&
                a->copied == b->copied &&
                memcmp(a->local_dims, b->local_dims, sizeof a->local_dims) == 0;
    for (int i = 0; i < n && same; i++) {
        same = x[i].first == y[i].first;
        for (int d = 0; d < a->ndim && same; d++) {
            same = x[i].local.start[d] == y[i].local.start[d] &&
                   x[i].local.extent[d] == y[i].local.extent[d];
        }
    }
    return same;
}

static bool same_rows(const rows *a, const rows *b) {
    bool same = a->count == b->count && a->elems == b->elems && a->tokens == b->tokens;
    for (int i = 0; i < a->count && same; i++) {
        same = same_pieces(&a->params[i], &b->params[i]);
    }
    return same;
}

/* Which tensor ranks beside one expert rank are the first of their kind. */
static ls_status compare_tensor_ranks(const ls_layout *l, int expert_rank, bool *is_new) {
    const int tensor = l->mesh.size[LS_AXIS_TENSOR];
    rows *kinds;
    int count = 0;
    LS_TRY(ls_calloc((size_t)tensor, sizeof *kinds, &kinds));
    ls_status status = LS_OK;
    for (int t = 0; t < tensor && status == LS_OK; t++) {
        status = list_rows(l, expert_rank, t, &kinds[count]);
        is_new[t] = true;
        for (int k = 0; k < count && status == LS_OK; k++) {
            is_new[t] = is_new[t] && !same_rows(&kinds[k], &kinds[count]);
        }
        if (status == LS_OK && is_new[t]) {
            count++;
        } else {
            free(kinds[count].params);
            kinds[count].params = NULL;
        }
    }
    for (int k = 0; k < count; k++) {
        free(kinds[k].params);
    }
    free(kinds);
    return status;
}

/* Data ranks that together show all that a data rank can be: they differ by the part of the state
 * that they keep, by their experts, and by their place in sequences; where sums have the order of a
 * tree, also by their place in that. */
static int distinct_data_ranks(const ls_layout *l) {
    const int all = ls_layout_data_size(l), copy = ls_layout_copy_size(l);
    const int context = l->mesh.size[LS_AXIS_CONTEXT];
    const int64_t distinct = (int64_t)copy * (copy % context == 0 ? 1 : context);
    return l->config->numerics.reduction == LS_CFG_INVARIANT || distinct > all ? all
                                                                               : (int)distinct;
}

ls_status ls_dry_roles_init(const ls_layout *l, ls_dry_roles *roles) {
    *roles = (ls_dry_roles){.data_ranks = distinct_data_ranks(l),
                            .experts = l->experts,
                            .tensor = l->mesh.size[LS_AXIS_TENSOR]};
    LS_TRY(ls_calloc((size_t)roles->experts * (size_t)roles->tensor, sizeof *roles->is_new,
                     &roles->is_new));
    for (int e = 0; e < roles->experts; e++) {
        LS_TRY(compare_tensor_ranks(l, e, roles->is_new + (ptrdiff_t)e * roles->tensor));
    }
    return LS_OK;
}

void ls_dry_roles_release(ls_dry_roles *roles) {
    free(roles->is_new);
    *roles = (ls_dry_roles){0};
}

bool ls_dry_roles_is_new(const ls_dry_roles *roles, int data_rank, int tensor_rank) {
    return data_rank < roles->data_ranks &&
           roles->is_new[data_rank % roles->experts * roles->tensor + tensor_rank];
}
