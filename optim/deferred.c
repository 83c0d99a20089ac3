/* Norm, clipping and update behind each other on a device, with nothing for the host to wait for in
 * between. */
#include "optim/optim_internal.h"
#include "runtime/base/exact_sum.h"

/* Of one exact sum, in device memory. */
typedef struct device_sum {
    int64_t digit[LS_EXACT_DIGITS];
    int32_t scale, unused;
} device_sum;

/* What lies in deferred_memory, before the squares. */
typedef struct deferred_head {
    device_sum norm, losses;
    ls_update_verdict verdict, gate;
} deferred_head;

bool ls_optim_defers(const ls_optim *optim) {
    return optim->options.dev->async && optim->ops->deferrable;
}

ls_status ls_optim_deferred_take(ls_optim *optim) {
    ls_device *dev = optim->options.dev;
    if (!ls_optim_defers(optim)) {
        return LS_OK;
    }
    optim->deferred_bytes = sizeof(deferred_head) + (size_t)optim->squares_count * sizeof(double);
    return dev->ops->alloc(dev, optim->deferred_bytes, &optim->deferred_memory);
}

/* Over those groups that have several ranks: on the device, which goes on behind it. */
static ls_status reduce(ls_comm *const *groups, int count, void *values, int64_t elems,
                        ls_dtype dtype, ls_reduce op) {
    for (int i = 0; i < count; i++) {
        if (groups[i] && groups[i]->size > 1) {
            LS_TRY(ls_comm_all_reduce_by_start(groups[i], values, elems, dtype, op));
        }
    }
    return LS_OK;
}

static ls_status add_up(ls_device *dev, ls_comm *const *groups, int count, int64_t n,
                        const double *x, device_sum *sum) {
    LS_TRY(dev->async->exact_scale(dev, n, x, &sum->scale));
    LS_TRY(reduce(groups, count, &sum->scale, 1, LS_I32, LS_MAX));
    LS_TRY(dev->async->exact_digits(dev, n, x, &sum->scale, sum->digit));
    return reduce(groups, count, sum->digit, LS_EXACT_DIGITS, LS_I64, LS_SUM);
}

static ls_status enqueue_squares(ls_optim *optim, const void *grads, double *squares) {
    const ls_optim_options *o = &optim->options;
    for (int i = 0; i < optim->term_count; i++) {
        const ls_optim_term *term = &optim->terms[i];
        const int64_t at = o->compact_grads ? term->local_offset : term->flat_offset;
        LS_TRY(o->dev->async->squares(o->dev, term->grid_offset, term->elems,
                                      ls_elem_at(grads, at, o->dev->acc), squares));
        squares += ls_squares_count(term->grid_offset, term->elems);
    }
    return LS_OK;
}

ls_status ls_optim_step_start(ls_optim *optim, const void *grads, double lr,
                              const ls_optim_losses *losses) {
    const ls_optim_options *o = &optim->options;
    deferred_head *head = optim->deferred_memory;
    double *squares = (double *)(head + 1);
    ls_comm *const groups[] = {o->copy ? o->copy : o->shard, o->tensor, o->pipeline};
    LS_TRY(enqueue_squares(optim, grads, squares));
    LS_TRY(add_up(o->dev, groups, 3, optim->squares_count, squares, &head->norm));
    ls_judge judge = {.scale = &head->norm.scale,
                      .digits = head->norm.digit,
                      .clip_norm = o->config->clip_norm,
                      .verdict = &head->verdict,
                      .gate = &head->gate};
    if (losses) {
        ls_comm *const over[] = {losses->data, losses->pipeline};
        LS_TRY(add_up(o->dev, over, 2, losses->count, losses->losses, &head->losses));
        judge.loss_scale = &head->losses.scale;
        judge.loss_digits = head->losses.digit;
        judge.most = losses->most;
    }
    LS_TRY(o->dev->async->judge(o->dev, &judge));
    const ls_optim_pass pass = {.grads = grads,
                                .lr = lr,
                                .grad_scale = 1.0,
                                .t = ++optim->updates,
                                .verdict = &head->verdict,
                                .gate = &head->gate};
    return optim->ops->step(optim, &pass);
}

ls_status ls_optim_step_end(ls_optim *optim, double *norm, bool *updated) {
    ls_device *dev = optim->options.dev;
    const deferred_head *head = optim->deferred_memory;
    ls_update_verdict verdict;
    LS_TRY(dev->ops->download(dev, &verdict, &head->verdict, sizeof verdict));
    *norm = verdict.norm;
    *updated = verdict.wrong == 0;
    optim->updates -= *updated ? 0 : 1;
    return LS_OK;
}
