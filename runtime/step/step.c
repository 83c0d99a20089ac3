/* One training step: micro-batches in, the mean gradient over the global batch out. */
#include "runtime/step/step.h"

#include "collectives/flight.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"

#include <stdlib.h>

/* Drives the reduction from inside backward, and measures what that costs. */
typedef struct overlap {
    ls_reducer *reducer;
    const ls_param *params;
    int param; /* the last whose gradient is not final */
    uint64_t spent_ns;
} overlap;

static ls_status on_ready(void *context, int64_t first_elem) {
    overlap *o = context;
    while (o->param > 0 && o->params[o->param].offset >= first_elem) {
        o->param--;
    }
    ls_flight_mark(LS_FLIGHT_BACKWARD, o->params[o->param].block);
    uint64_t start_ns = ls_clock_ns();
    LS_TRY(ls_reducer_ready(o->reducer, first_elem));
    LS_TRY(ls_reducer_progress(o->reducer));
    o->spent_ns += ls_clock_ns() - start_ns;
    return LS_OK;
}

/* Micro-batch `local` of this rank; adds to the times of result. */
static ls_status run_micro(const ls_step_options *o, int64_t local, double loss_scale,
                           double *loss_sum, ls_step_result *result) {
    const int32_t *tokens, *targets;
    void *grads;
    uint64_t wait_ns;
    int param_count;
    overlap over = {.reducer = o->reducer, .params = ls_model_params(o->model, &param_count)};
    over.param = param_count - 1;
    ls_flight_mark(LS_FLIGHT_DATA, -1);
    LS_TRY(ls_loader_next(o->loader, &tokens, &targets, &wait_ns));
    ls_flight_mark(LS_FLIGHT_FORWARD, -1);
    uint64_t start_ns = ls_clock_ns();
    LS_TRY(ls_reducer_micro_begin(o->reducer, local, &grads));
    LS_TRY(ls_model_forward_backward(o->model, tokens, targets, loss_scale, grads, on_ready, &over,
                                     loss_sum));
    uint64_t computed_ns = ls_clock_ns();
    LS_TRY(ls_reducer_micro_end(o->reducer));
    result->data_ns += wait_ns;
    result->compute_ns += computed_ns - start_ns - over.spent_ns;
    result->comm_ns += ls_clock_ns() - computed_ns + over.spent_ns;
    return LS_OK;
}

static ls_status run_micros(const ls_step_options *o, double *losses, ls_step_result *result) {
    double loss_scale = 1.0 / (double)result->targets;
    LS_TRY(ls_reducer_begin(o->reducer));
    for (int64_t local = 0; local < o->rank_micros; local++) {
        LS_TRY(run_micro(o, local, loss_scale, &losses[local], result));
    }
    ls_flight_mark(LS_FLIGHT_GRADIENTS, -1);
    uint64_t start_ns = ls_clock_ns();
    uint64_t wait_ns;
    double total;
    LS_TRY(ls_reducer_finish(o->reducer, &result->grads, &wait_ns));
    LS_TRY(ls_reducer_sum_scalar(o->reducer, losses, &total));
    result->comm_ns += ls_clock_ns() - start_ns;
    result->loss = total / (double)result->targets;
    return LS_OK;
}

ls_status ls_step_run(const ls_step_options *options, int64_t step, ls_step_result *result) {
    *result = (ls_step_result){0};
    result->targets = ls_dataset_count_targets(options->dataset, options->seed,
                                               step * options->batch, options->batch);
    if (result->targets < 1) {
        return LS_FAIL(LS_E_INPUT, "the batch of step %lld has no target; the data is too short",
                       (long long)step);
    }
    double *losses; /* a few numbers, once a step */
    LS_TRY(ls_calloc((size_t)options->rank_micros, sizeof *losses, &losses));
    ls_status status = run_micros(options, losses, result);
    free(losses);
    return status;
}
