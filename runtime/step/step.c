/* One training step: micro-batches in, the mean gradient over the global batch out. */
#include "runtime/step/step.h"

#include "collectives/flight.h"
#include "runtime/base/clock.h"
#include "runtime/step/runner.h"

#include <string.h>

typedef struct work {
    const ls_step_options *options;
    ls_runner *runner;
    double loss_scale, balance_scale;
    int64_t dx_asked, dx_used;
    ls_step_result *result;
} work;

/* Does the pass need something from another stage? */
static bool needs_message(const ls_runner *r, const ls_pipe_pass *p) {
    return p->backward ? !ls_runner_is_last(r, p->part) : !ls_runner_is_first(r, p->part);
}

static ls_status ask_for(work *w, int64_t pass) {
    ls_runner *r = w->runner;
    if (pass >= r->pass_count || !needs_message(r, &r->passes[pass])) {
        return LS_OK;
    }
    const ls_pipe_pass *p = &r->passes[pass];
    return p->backward ? ls_runner_receive(r, true, &r->dx, w->dx_asked++)
                       : ls_runner_receive(r, false, &r->inputs[p->part], p->micro);
}

/* The micro-batch of a pass, which comes with the rank's first part and stays for the others. */
static ls_status load(work *w, const ls_pipe_pass *p, const int32_t **tokens,
                      const int32_t **targets) {
    const ls_runner *r = w->runner;
    const int64_t count = r->options.batch_tokens;
    int32_t *kept = r->batches ? r->batches + p->micro % r->alive[0] * 2 * count : NULL;
    if (!kept || p->part == 0) {
        uint64_t wait_ns;
        ls_flight_mark(LS_FLIGHT_DATA, -1);
        LS_TRY(ls_loader_next(w->options->loader, tokens, targets, &wait_ns));
        w->result->data_ns += wait_ns;
    }
    if (kept && p->part == 0) {
        memcpy(kept, *tokens, (size_t)count * sizeof *kept);
        memcpy(kept + count, *targets, (size_t)count * sizeof *kept);
    }
    if (kept) {
        *tokens = kept;
        *targets = kept + count;
    }
    return LS_OK;
}

static ls_status forward(work *w, const ls_pipe_pass *p) {
    ls_runner *r = w->runner;
    const bool first = ls_runner_is_first(r, p->part), last = ls_runner_is_last(r, p->part);
    const int32_t *tokens = NULL, *targets = NULL;
    void *x_in = NULL, *x_out = NULL;
    if (first || last || r->options.batch_tokens > 0) {
        LS_TRY(load(w, p, &tokens, &targets));
    }
    LS_TRY(first ? LS_OK : ls_runner_await(r, false, &r->inputs[p->part], p->micro, &x_in));
    LS_TRY(last ? LS_OK : ls_runner_prepare(r, false, &x_out));
    ls_flight_mark(LS_FLIGHT_FORWARD, -1);
    LS_TRY(ls_model_forward(r->models[p->part], (int)(p->micro % r->alive[p->part]), tokens,
                            targets, x_in, x_out));
    return last ? LS_OK : ls_runner_send(r, false);
}

static ls_status backward(work *w, const ls_pipe_pass *p) {
    ls_runner *r = w->runner;
    ls_state *state = w->options->state;
    const bool first = ls_runner_is_first(r, p->part), last = ls_runner_is_last(r, p->part);
    void *dx_out = NULL, *dx_in = NULL;
    LS_TRY(last ? LS_OK : ls_runner_await(r, true, &r->dx, w->dx_used++, &dx_out));
    LS_TRY(first ? LS_OK : ls_runner_prepare(r, true, &dx_in));
    LS_TRY(ls_state_micro_begin(state, p->part, p->micro));
    LS_TRY(ls_model_backward(r->models[p->part], (int)(p->micro % r->alive[p->part]), w->loss_scale,
                             w->balance_scale, dx_out, dx_in, NULL,
                             last ? &r->losses[p->micro] : NULL));
    LS_TRY(first ? LS_OK : ls_runner_send(r, true));
    return ls_state_micro_end(state, p->part);
}

/* A message is asked for a pass early, so that it comes meanwhile. Not in the first step: a GPU's
 * kernels are loaded when they are first launched, for which CUDA may wait until all that was
 * enqueued is over (CUDA Programming Guide, Lazy Loading), and the message of the next pass may be
 * the answer to what this pass sends. */
static ls_status run_passes(work *w) {
    ls_runner *r = w->runner;
    const int64_t early = r->has_stepped ? 1 : 0;
    if (early > 0) {
        LS_TRY(ask_for(w, 0));
    }
    for (int64_t i = 0; i < r->pass_count; i++) {
        LS_TRY(ask_for(w, i + early));
        LS_TRY(r->passes[i].backward ? backward(w, &r->passes[i]) : forward(w, &r->passes[i]));
    }
    r->has_stepped = true;
    return ls_runner_drain(r);
}

/* The ranks' losses in order of micro-batch, then of context rank. */
static ls_status sum_losses(const work *w, double *total) {
    ls_runner *r = w->runner;
    ls_comm *data = r->options.data, *pipeline = r->options.pipeline;
    const int64_t micros = r->options.micros;
    const int contexts = r->options.context_ranks;
    double *own = r->host_losses, *all = own + micros, sum = 0.0;
    LS_TRY(data->ops->all_gather(data, own, all, micros * (int64_t)sizeof *own));
    for (int64_t m = 0; m < micros * r->data_ranks; m++) {
        const bool runs = w->options->zero <= 1; /* the inverse of ls_state_micro */
        const int64_t rank = runs ? m / micros : m % r->data_ranks;
        const int64_t local = runs ? m % micros : m / r->data_ranks;
        for (int c = 0; c < contexts; c++) {
            sum += all[(rank * contexts + c) * micros + local];
        }
    }
    /* Only the last stage has losses. */
    LS_TRY(pipeline ? pipeline->ops->all_reduce(pipeline, &sum, 1, LS_F64, LS_SUM) : LS_OK);
    *total = sum;
    return LS_OK;
}

/* Of the axes along which the model itself communicates. Where the host only enqueues, its own
 * times say nothing: the device's, which the meters have, are then those of all axes. */
static void add_metered(const ls_comm_meter *before, bool enqueued, ls_step_result *result) {
    ls_comm_meter now[LS_COMM_AXIS_COUNT];
    ls_meters_read(now);
    for (int a = 0; a < LS_COMM_WORLD; a++) {
        if (enqueued || (a != LS_COMM_DATA && a != LS_COMM_PIPELINE)) {
            result->comm_ns[a] = now[a].exposed_ns - before[a].exposed_ns;
        }
    }
}

static ls_status count(const ls_step_options *options, int64_t first, ls_step_result *result) {
    const ls_dataset *dataset = options->dataset;
    result->tokens = ls_dataset_count_tokens(dataset, options->seed, first, options->batch);
    result->targets = ls_dataset_count_targets(dataset, options->seed, first, options->batch);
    if (result->tokens < 1) {
        return LS_FAIL(LS_E_INPUT,
                       "the batch from sample %lld on has no target; the data is too short",
                       (long long)first);
    }
    return LS_OK;
}

/* Where a loss mask leaves no target there is no loss, whatever it is divided by. */
static double divisor(int64_t targets) {
    return targets > 0 ? (double)targets : 1.0;
}

ls_status ls_step_start(const ls_step_options *options, int64_t first, ls_step_result *result) {
    *result = (ls_step_result){0};
    LS_TRY(count(options, first, result));
    work w = {.options = options,
              .runner = options->runner,
              .loss_scale = 1.0 / divisor(result->targets),
              .balance_scale = 1.0 / (double)result->tokens,
              .result = result};
    result->start_ns = ls_clock_ns();
    ls_runner *r = w.runner;
    const bool drives = r->stages > 1 && r->options.dev->host_memory;
    r->comm_ns = 0;
    ls_state_drive(options->state, drives ? ls_runner_progress : NULL, r);
    ls_state_take_comm_ns(options->state, &(uint64_t){0});
    ls_meters_read(result->before);
    LS_TRY(ls_state_begin(options->state));
    LS_TRY(run_passes(&w));
    ls_flight_mark(LS_FLIGHT_GRADIENTS, -1);
    return ls_state_finish(options->state);
}

static ls_status finish(const work *w) {
    ls_step_result *result = w->result;
    ls_runner *r = w->runner;
    double total;
    LS_TRY(r->options.dev->ops->download(r->options.dev, r->host_losses, r->losses,
                                         (size_t)r->options.micros * sizeof *r->losses));
    const uint64_t sum_ns = ls_clock_ns();
    for (int64_t m = 0; m < r->options.micros; m++) {
        result->own_loss += r->host_losses[m];
    }
    LS_TRY(sum_losses(w, &total));
    const uint64_t end_ns = ls_clock_ns(), start_ns = result->start_ns;
    uint64_t tied_ns, other_ns = result->data_ns;
    result->comm_ns[LS_COMM_DATA] =
        ls_state_take_comm_ns(w->options->state, &tied_ns) + end_ns - sum_ns;
    result->comm_ns[LS_COMM_PIPELINE] = r->comm_ns + tied_ns;
    add_metered(result->before, !r->options.dev->host_memory, result);
    for (int a = 0; a < LS_COMM_AXIS_COUNT; a++) {
        other_ns += result->comm_ns[a];
    }
    result->compute_ns = end_ns - start_ns > other_ns ? end_ns - start_ns - other_ns : 0;
    result->loss = total / divisor(result->targets);
    return LS_OK;
}

ls_status ls_step_finish(const ls_step_options *options, ls_step_result *result) {
    return finish(&(work){.options = options, .runner = options->runner, .result = result});
}

ls_status ls_step_run(const ls_step_options *options, int64_t first, ls_step_result *result) {
    LS_TRY(ls_step_start(options, first, result));
    return ls_step_finish(options, result);
}

const double *ls_step_losses(const ls_step_options *options, int64_t *count) {
    *count = options->runner->options.micros;
    return options->runner->losses;
}
