/* Where a step's time goes: every nanosecond to one phase, communication by axis of the mesh. */
#include "launch/train_account.h"

#include "collectives/trace.h"
#include "launch/train_ledger.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

_Static_assert((int)LS_PHASE_AXES == (int)LS_COMM_AXIS_COUNT &&
                   (int)LS_PHASE_GRADS - (int)LS_PHASE_TENSOR == (int)LS_COMM_DATA &&
                   (int)LS_PHASE_WORLD - (int)LS_PHASE_TENSOR == (int)LS_COMM_WORLD,
               "the phases of communication follow the axes");

void ls_train_account(ls_train *train, ls_phase phase, double *phase_seconds) {
    uint64_t now = ls_clock_ns();
    double seconds = 1e-9 * (double)(now - train->last_ns);
    train->last_ns = now;
    train->counters.seconds[phase] += seconds;
    ls_train_ledger_spend(train, seconds);
    if (phase_seconds) {
        phase_seconds[phase] += seconds;
    }
}

/* Gives `known` seconds of what was accounted last to their phases; no more than there was. */
static void divide(ls_train *train, ls_phase from, double available,
                   const double known[LS_PHASE_COUNT], double *phase_seconds) {
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        const double seconds = fmin(known[p], available);
        available -= seconds;
        phase_seconds[p] += seconds;
        phase_seconds[from] -= seconds;
        train->counters.seconds[p] += seconds;
        train->counters.seconds[from] -= seconds;
    }
}

/* Where the host only enqueues, an update of the weights goes on when it is accounted already, and
 * the step after it waits: seconds of that, by the device's clock. */
static double late_update(ls_train *train) {
    double seconds = NAN;
    ls_device *dev = train->session.dev;
    const bool asked = train->updating;
    train->updating = false;
    if (!asked || dev->host_memory ||
        dev->ops->between(dev, LS_MARK_UPDATE, LS_MARK_UPDATED, &seconds) != LS_OK) {
        ls_error_clear(); /* a device that has failed says so where it matters */
        return 0.0;
    }
    return fmax(0.0, seconds - train->update_s); /* 0 of NAN */
}

ls_status ls_train_account_update(ls_train *train, double *phase_seconds) {
    ls_device *dev = train->session.dev;
    train->updating = false;
    LS_TRY(dev->ops->sync(dev));
    ls_train_account(train, LS_PHASE_OPTIM, phase_seconds);
    return LS_OK;
}

void ls_train_account_step(ls_train *train, const ls_step_result *result, double *phase_seconds) {
    const double compute = 1e-9 * (double)result->compute_ns;
    const double late = fmin(late_update(train), compute);
    double known[LS_PHASE_COUNT] = {[LS_PHASE_COMPUTE] = compute - late,
                                    [LS_PHASE_OPTIM] = late,
                                    [LS_PHASE_DATA] = 1e-9 * (double)result->data_ns};
    for (int a = 0; a < LS_COMM_AXIS_COUNT; a++) {
        known[LS_PHASE_TENSOR + a] = 1e-9 * (double)result->comm_ns[a];
    }
    const double before = phase_seconds[LS_PHASE_OTHER];
    ls_train_account(train, LS_PHASE_OTHER, phase_seconds);
    divide(train, LS_PHASE_OTHER, phase_seconds[LS_PHASE_OTHER] - before, known, phase_seconds);
}

void ls_train_account_comm(ls_train *train, ls_phase phase, const ls_comm_meter *since,
                           double *phase_seconds) {
    double known[LS_PHASE_COUNT] = {0};
    ls_comm_meter now[LS_COMM_AXIS_COUNT];
    ls_meters_read(now);
    for (int a = 0; a < LS_COMM_AXIS_COUNT; a++) {
        known[LS_PHASE_TENSOR + a] = 1e-9 * (double)(now[a].exposed_ns - since[a].exposed_ns);
    }
    const double before = phase_seconds[phase];
    ls_train_account(train, phase, phase_seconds);
    divide(train, phase, phase_seconds[phase] - before, known, phase_seconds);
}

void ls_train_account_bandwidth(const ls_comm_meter *since, ls_step_record *record) {
    ls_comm_meter now[LS_COMM_AXIS_COUNT];
    ls_meters_read(now);
    for (int a = 0; a < LS_COMM_AXIS_COUNT; a++) {
        const double seconds = 1e-9 * (double)(now[a].active_ns - since[a].active_ns);
        const double bytes = now[a].wire_bytes - since[a].wire_bytes;
        record->bus_bytes_per_second[a] = seconds > 0.0 && bytes > 0.0 ? bytes / seconds : NAN;
    }
}

/* Recomputation makes the forward pass of layers twice: a third of their products (but not of the
 * head, which is never made twice) and attention, of one layer in recompute.every. */
static double recomputed_share(const ls_config *config, const ls_model_flops *flops) {
    const ls_config_recompute *redo = &config->recompute;
    const double head = 6.0 * (double)config->model.vocab * (double)config->model.channels;
    const double attention = flops->attention_causal_per_token / 3.0;
    const double products = (flops->matmul_per_token - head) / 3.0;
    const double again = redo->mode == LS_RECOMPUTE_FULL        ? products + attention
                         : redo->mode == LS_RECOMPUTE_SELECTIVE ? attention
                                                                : 0.0;
    return again / (double)redo->every /
           (flops->matmul_per_token + flops->attention_causal_per_token);
}

void ls_train_account_flops(const ls_train *train, ls_step_record *record) {
    ls_model_flops flops;
    ls_model_count_flops(&train->config.model, train->layout.seq, &flops);
    const double peak = train->peak_flops_per_s;
    record->peak_flops_per_second = peak;
    record->mfu = record->flops_per_second / (peak * train->session.comm->size);
    record->hfu = record->mfu * (1.0 + recomputed_share(&train->config, &flops));
}

ls_status ls_train_trace_step(ls_train *train) {
    int64_t first, last;
    LS_TRY(ls_config_trace_steps(&train->config.metrics, &first, &last));
    const int64_t step = train->step + 1;
    return first > 0 && step >= first && step <= last
               ? ls_session_agree(&train->session, ls_trace_begin())
               : LS_OK;
}

ls_status ls_train_trace_end(ls_train *train, bool ends) {
    int64_t first, last;
    LS_TRY(ls_config_trace_steps(&train->config.metrics, &first, &last));
    if (first == 0 || (train->step != last && !ends)) {
        return LS_OK;
    }
    char path[1024];
    LS_TRY(ls_path_join(path, sizeof path, train->run_dir, "trace.json"));
    const ls_status status = ls_trace_end(train->session.comm, path);
    if (status == LS_E_IO && train->session.comm->rank == 0) {
        ls_log_warn("%s", ls_error_last()->message);
    }
    return status == LS_E_IO ? LS_OK : status;
}
