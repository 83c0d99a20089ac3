/* The global gradient norm. */
#include "optim/optim_internal.h"
#include "runtime/base/exact_sum.h"

#include <math.h>

ls_status ls_optim_sum_squares(ls_optim *optim, const void *x, int64_t n, double *sum) {
    const ls_optim_options *o = &optim->options;
    *sum = 0.0;
    for (int64_t begin = 0; begin < n; begin += LS_OPTIM_SCRATCH * LS_SQUARES_ELEMS) {
        int64_t most = LS_OPTIM_SCRATCH * (int64_t)LS_SQUARES_ELEMS;
        int64_t count = n - begin < most ? n - begin : most;
        LS_TRY(o->dev->ops->sum_squares(o->dev, 0, count, ls_elem_at(x, begin, o->dev->acc),
                                        optim->scratch));
        for (int64_t i = 0; i < ls_squares_count(0, count); i++) {
            *sum += optim->scratch[i];
        }
    }
    return LS_OK;
}

static ls_status sum_terms(ls_optim *optim, const void *grads) {
    const ls_optim_options *o = &optim->options;
    double *squares = optim->squares;
    for (int i = 0; i < optim->term_count; i++) {
        const ls_optim_term *term = &optim->terms[i];
        int64_t at = o->compact_grads ? term->local_offset : term->flat_offset;
        LS_TRY(o->dev->ops->sum_squares(o->dev, term->grid_offset, term->elems,
                                        ls_elem_at(grads, at, o->dev->acc), squares));
        squares += ls_squares_count(term->grid_offset, term->elems);
    }
    return LS_OK;
}

/* Over all ranks that together hold one copy, axis by axis: maxima and sums of integers do not
 * depend on the order. */
static ls_status reduce(const ls_optim *optim, void *values, int64_t count, ls_dtype dtype,
                        ls_reduce op) {
    const ls_optim_options *o = &optim->options;
    ls_comm *const groups[] = {o->copy ? o->copy : o->shard, o->tensor, o->pipeline};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (groups[i] && groups[i]->size > 1) {
            LS_TRY(groups[i]->ops->all_reduce(groups[i], values, count, dtype, op));
        }
    }
    return LS_OK;
}

ls_status ls_optim_grad_norm(ls_optim *optim, const void *grads, double *norm) {
    LS_TRY(sum_terms(optim, grads));
    int32_t scale = LS_EXACT_ZERO;
    for (int64_t i = 0; i < optim->squares_count; i++) {
        int32_t own = ls_exact_scale(optim->squares[i]);
        scale = own > scale ? own : scale;
    }
    LS_TRY(reduce(optim, &scale, 1, LS_I32, LS_MAX));
    ls_exact_sum sum = {{0}};
    for (int64_t i = 0; i < optim->squares_count; i++) {
        ls_exact_add(&sum, optim->squares[i], scale);
    }
    LS_TRY(reduce(optim, sum.digit, LS_EXACT_DIGITS, LS_I64, LS_SUM));
    *norm = sqrt(ls_exact_value(&sum, scale));
    return LS_OK;
}

void ls_optim_tell(const ls_optim *optim, const ls_optim_ranks *ranks, const ls_comm_list *list) {
    const int sizes[] = {ranks->copy, ranks->tensor, ranks->pipeline};
    static const ls_comm_axis axes[] = {LS_COMM_DATA, LS_COMM_TENSOR, LS_COMM_PIPELINE};
    static const double bytes[] = {sizeof(int32_t), sizeof(ls_exact_sum)};
    for (int i = 0; i < 2 * 3; i++) {
        ls_comm_tell(list, (ls_comm_operation){axes[i % 3], LS_USE_ACTIVATIONS, LS_COLL_ALL_REDUCE,
                                               sizes[i % 3], bytes[i / 3], 1});
    }
    if (optim->ops->tell) {
        optim->ops->tell(optim, ranks, list);
    }
}
