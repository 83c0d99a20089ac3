#include "collectives/watch.h"
#include "launch/train.h"
#include "launch/train_account.h"
#include "launch/train_guard.h"
#include "launch/train_ledger.h"
#include "launch/train_predict.h"
#include "launch/train_recover.h"
#include "launch/train_stop.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <math.h>
#include <string.h>

enum { MAX_SINKS = 5 };
#define WARN_AGAIN_NS UINT64_C(60000000000)

typedef struct sinks {
    const ls_sink_ops *ops[MAX_SINKS];
    void *state[MAX_SINKS];
    int count;
    int64_t lost[MAX_SINKS]; /* records */
    uint64_t warned_ns[MAX_SINKS];
} sinks;

/* Optimizer steps since the loop began, for the time left. The first one is left out: it pays for
 * page faults and primitive creation. */
typedef struct pace {
    uint64_t first_done_ns;
    int64_t first_step;
} pace;

static ls_sink_options sink_options(const ls_train *train) {
    const ls_config *config = &train->config;
    const int64_t wanted = config->eval.batches * config->batch.micro,
                  there = train->val_data ? ls_dataset_describe(train->val_data)->windows : 0;
    return (ls_sink_options){
        .run_dir = train->run_dir,
        .every = config->metrics.every,
        .config = config,
        .steps_done = train->step,
        .sequences_done = train->sequences,
        .total_steps = train->total_steps,
        .batch = train->layout.batch,
        .accumulation = train->layout.rank_micros,
        .seq = train->layout.seq,
        .train_sequences = ls_dataset_describe(train->train_data)->windows,
        .eval_sequences = wanted > 0 && wanted < there ? wanted : there,
        .startup_s = ls_session_age_s(),
    };
}

static ls_status open_sinks(ls_train *train, sinks *out) {
    *out = (sinks){0};
    ls_status status = LS_OK;
    if (train->session.comm->rank == 0) {
        const ls_config_metrics *metrics = &train->config.metrics;
        const ls_sink_options options = sink_options(train);
        const struct {
            const ls_sink_ops *ops;
            bool wanted;
        } all[MAX_SINKS] = {{&ls_sink_jsonl, true},
                            {&ls_sink_console, true},
                            {&ls_sink_prometheus, metrics->prometheus},
                            {&ls_sink_tensorboard, metrics->tensorboard},
                            {&ls_sink_mlperf, metrics->mlperf}};
        for (int i = 0; i < MAX_SINKS && status == LS_OK; i++) {
            if (all[i].wanted) {
                out->ops[out->count] = all[i].ops;
                status = all[i].ops->open(&options, &out->state[out->count]);
                out->count += status == LS_OK;
            }
        }
    }
    return ls_session_agree(&train->session, status);
}

/* A full disk must not stop the run: records are lost with a warning, but one a minute, as a log
 * may lie on that disk. */
static void give_record(sinks *s, const ls_step_record *record) {
    for (int i = 0; i < s->count; i++) {
        if (s->ops[i]->step(s->state[i], record) == LS_OK) {
            continue;
        }
        const uint64_t now = ls_clock_ns();
        s->lost[i]++;
        if (s->lost[i] == 1 || now - s->warned_ns[i] >= WARN_AGAIN_NS) {
            s->warned_ns[i] = now;
            ls_log_warn("step %lld: %s; records lost there so far: %lld", (long long)record->step,
                        ls_error_last()->message, (long long)s->lost[i]);
        }
    }
}

static void close_sinks(sinks *s) {
    for (int i = 0; i < s->count; i++) {
        s->ops[i]->close(s->state[i]);
    }
}

ls_step_options ls_train_step_options(const ls_train *train) {
    return (ls_step_options){.runner = train->runner,
                             .state = train->state,
                             .loader = train->loader,
                             .dataset = train->train_data,
                             .seed = (uint64_t)train->config.run.seed,
                             .batch = train->layout.batch,
                             .zero = (int)train->config.parallel.zero};
}

/* Step and update. A device that decides by itself whether there is an update gets it behind the
 * step, and is waited for once; else the update waits until the step was judged. */
static ls_status compute_step(ls_train *train, ls_step_record *record, ls_step_result *result,
                              ls_update *update) {
    const ls_step_options options = ls_train_step_options(train);
    const int64_t first = train->next_sample;
    if (!ls_optim_defers(train->optim)) {
        return ls_step_run(&options, first, result);
    }
    LS_TRY(ls_step_start(&options, first, result));
    ls_flight_mark(LS_FLIGHT_UPDATE, -1);
    ls_train_save_settle(train);
    ls_optim_losses losses = {.data = train->groups.data, .pipeline = train->groups.pipeline};
    losses.losses = ls_step_losses(&options, &losses.count);
    losses.most =
        ls_guard_most(&train->losses, train->config.faults.loss_spike) * (double)result->targets;
    ls_device *dev = train->session.dev;
    LS_TRY(dev->ops->mark(dev, LS_MARK_UPDATE));
    LS_TRY(ls_optim_step_start(train->optim, ls_state_buffers_of(train->state).grads, record->lr,
                               &losses));
    LS_TRY(dev->ops->mark(dev, LS_MARK_UPDATED));
    train->updating = true;
    train->update_s = 0.0;
    LS_TRY(ls_state_share(train->state));
    LS_TRY(ls_step_finish(&options, result));
    update->decided = true;
    return ls_optim_step_end(train->optim, &update->grad_norm, &update->made);
}

static ls_status update_weights(ls_train *train, ls_step_result *result, ls_update *update,
                                ls_step_record *record, ls_advice *advice) {
    LS_TRY(ls_recover_judge(train, result, update, advice));
    record->loss = train->train_loss = result->loss;
    record->grad_norm = update->grad_norm;
    record->skipped = *advice != LS_STEP_GOOD;
    if (record->skipped) {
        train->counters.skipped_steps++;
        return LS_OK;
    }
    if (update->made) {
        return LS_OK;
    }
    const void *grads = ls_state_buffers_of(train->state).grads;
    ls_device *dev = train->session.dev;
    LS_TRY(dev->ops->mark(dev, LS_MARK_UPDATE));
    LS_TRY(ls_optim_step(train->optim, grads, record->grad_norm, record->lr));
    LS_TRY(dev->ops->mark(dev, LS_MARK_UPDATED));
    train->updating = true;
    return ls_state_share(train->state);
}

/* Of a mixture the mean of its parts by their shares, which is what training lowers. */
static ls_status evaluate(ls_train *train, ls_step_record *record) {
    const int parts = ls_dataset_parts(train->val_data);
    const int64_t batches = (train->config.eval.batches + parts - 1) / parts;
    json_t *losses = parts > 1 ? json_object() : NULL;
    double loss = 0.0;
    ls_status status = LS_OK;
    for (int i = 0; i < parts && status == LS_OK; i++) {
        const ls_dataset_part part = ls_dataset_part_at(train->val_data, i);
        ls_eval_result result;
        status = ls_step_evaluate(train->runner, train->val_data, i, train->config.batch.micro,
                                  batches, &result);
        loss += status == LS_OK ? part.share * result.loss : 0.0;
        if (status == LS_OK && result.targets == 0 && train->session.comm->rank == 0) {
            ls_log_warn("step %lld: no token that was evaluated of %s is a target; raise "
                        "eval.batches",
                        (long long)train->step, part.dir);
        }
        if (losses && status == LS_OK) {
            json_object_set_new(losses, part.dir, ls_json_real(result.loss));
        }
    }
    json_decref(train->val_parts);
    train->val_parts = losses;
    LS_TRY(status);
    train->val_loss = record->val_loss = loss;
    record->val_parts = losses;
    train->val_step = train->step;
    return LS_OK;
}

static bool due(int64_t step, int64_t every, bool last) {
    return last || (every > 0 && step % every == 0);
}

static double time_left(const ls_train *train, pace *p) {
    uint64_t now = ls_clock_ns();
    if (p->first_done_ns == 0) {
        *p = (pace){now, train->step};
        return NAN;
    }
    double per_step =
        1e-9 * (double)(now - p->first_done_ns) / (double)(train->step - p->first_step);
    return per_step * (double)(train->total_steps - train->step);
}

static ls_status run_step(ls_train *train, ls_step_record *record, ls_advice *advice) {
    ls_step_result result;
    ls_update update = {0};
    ls_comm_meter before[LS_COMM_AXIS_COUNT], updating[LS_COMM_AXIS_COUNT];
    ls_meters_read(before);
    record->lr = ls_schedule_lr(&train->config.schedule, train->config.optim.lr, train->step + 1,
                                train->total_steps);
    LS_TRY(compute_step(train, record, &result, &update));
    ls_flight_mark(LS_FLIGHT_UPDATE, -1);
    ls_train_account_step(train, &result, record->phase_seconds);
    ls_meters_read(updating);
    train->compute_ns += result.compute_ns;
    train->lag_steps++;
    train->step++;
    train->next_sample += train->layout.batch;
    train->sequences += train->layout.batch;
    train->positions += train->layout.batch * train->layout.seq;
    record->step = train->step;
    record->total_steps = train->total_steps;
    ls_train_save_settle(train);
    ls_train_account(train, LS_PHASE_CHECKPOINT, record->phase_seconds);
    LS_TRY(update_weights(train, &result, &update, record, advice));
    train->counters.steps = train->step;
    train->counters.tokens += result.tokens;
    const double step_flops =
        train->flops_per_token * (double)result.tokens -
        train->head_flops_per_token * (double)(result.tokens - result.targets);
    train->counters.flops += step_flops;
    const double before_update_s = record->phase_seconds[LS_PHASE_OPTIM];
    ls_train_account_comm(train, LS_PHASE_OPTIM, updating, record->phase_seconds);
    train->update_s = record->phase_seconds[LS_PHASE_OPTIM] - before_update_s;
    ls_train_account_bandwidth(before, record);
    double seconds = 0.0;
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        seconds += record->phase_seconds[p];
    }
    record->tokens = train->counters.tokens;
    record->step_tokens = result.tokens;
    record->tokens_per_second = (double)result.tokens / seconds;
    record->flops_per_second = step_flops / seconds;
    ls_train_account_flops(train, record);
    return LS_OK;
}

/* Evaluation and checkpoint after a step, then its record. */
static ls_status after_step(ls_train *train, sinks *s, pace *p, bool stop, ls_step_record *record) {
    const bool last = train->step == train->total_steps;
    const bool evaluates = train->val_data && due(train->step, train->config.eval.every, last);
    const bool now = stop || (last && train->config.checkpoint.at_end);
    const bool save = due(train->step, train->config.checkpoint.every, now);
    const int64_t compare_every = train->config.faults.compare_every;
    const bool compare = compare_every > 0 && due(train->step, compare_every, save);
    record->val_loss = NAN;
    record->val_parts = NULL;
    if (evaluates || save || compare || last || stop) {
        LS_TRY(ls_train_account_update(train, record->phase_seconds));
    }
    if (evaluates) {
        ls_flight_mark(LS_FLIGHT_EVAL, -1);
        LS_TRY(evaluate(train, record));
        ls_train_account(train, LS_PHASE_EVAL, record->phase_seconds);
    }
    if (compare) {
        LS_TRY(ls_guard_replicas(train));
        ls_train_account(train, LS_PHASE_OTHER, record->phase_seconds);
    }
    LS_TRY(ls_train_save_poll(train, false));
    if (save) {
        ls_flight_mark(LS_FLIGHT_CHECKPOINT, -1);
        LS_TRY(ls_train_save(train, now));
    }
    ls_train_account(train, LS_PHASE_CHECKPOINT, record->phase_seconds);
    record->left_seconds = time_left(train, p);
    const bool report = due(train->step, train->config.metrics.every, last || stop);
    if (report) {
        LS_TRY(ls_guard_stragglers(train, &record->lag));
    }
    LS_TRY(ls_train_ledger_record(train, report, record));
    ls_train_account(train, LS_PHASE_OTHER, record->phase_seconds); /* the record ends here */
    record->wall_time_s = ls_clock_steady_wall_s();
    if (train->session.comm->rank == 0) {
        LS_TRY(ls_memory_watched(&record->memory_bytes, &record->memory_peak_bytes));
        record->memory_planned_bytes =
            ls_train_memory_planned(train) + ls_train_memory_uneven(train);
        record->restarts = train->counters.restarts;
        record->save = train->save;
        train->save = (ls_save_record){0};
        for (int phase = 0; phase < LS_PHASE_COUNT; phase++) {
            record->seconds += record->phase_seconds[phase];
        }
        give_record(s, record);
        ls_train_predict_compare(record);
    }
    return LS_OK;
}

/* Behind what could not be saved. */
static const char *newest(const ls_train *train, char text[1400]) {
    const char *last = train->last_ckpt;
    snprintf(text, 1400, "%s%s%s", last[0] ? "the newest one is " : "there is none", last,
             last[0] ? ": make room, and go on from there with --resume"
                     : ": make room, and begin again with --resume");
    return text;
}

/* Is the checkpoint that this start has saved of the step still there? Rank 0 looks. */
static ls_status check_there(const ls_train *train) {
    char manifest[1100];
    LS_TRY(ls_path_join(manifest, sizeof manifest, train->last_ckpt, "manifest.json"));
    return !train->has_saved || train->session.comm->rank != 0 || ls_path_exists(manifest)
               ? LS_OK
               : LS_FAIL(LS_E_IO,
                         "step %lld was saved, and '%s' is not there any more: find out what else "
                         "removes files there, and go on with --resume",
                         (long long)train->step, manifest);
}

static ls_status stopped(ls_train *train, const char *why) {
    char text[1400];
    const bool saved = train->saved_step == train->step;
    LS_TRY(ls_session_agree(&train->session, saved ? check_there(train) : LS_OK));
    if (saved) {
        ls_train_stop_met(train);
    }
    return ls_session_agree(
        &train->session,
        saved ? LS_FAIL(LS_E_STOPPED,
                        "stopped on request after step %lld of %lld (%s); go on with --resume",
                        (long long)train->step, (long long)train->total_steps, why)
              : LS_FAIL(LS_E_IO,
                        "stopped on request after step %lld (%s), but its checkpoint could not be "
                        "saved; %s",
                        (long long)train->step, why, newest(train, text)));
}

/* A save that fails stops no training, but a run whose result is not there is not done. */
static ls_status check_saved(ls_train *train) {
    char text[1400];
    if (!train->config.checkpoint.at_end) {
        return LS_OK;
    }
    return ls_session_agree(
        &train->session,
        train->saved_step == train->step
            ? check_there(train)
            : LS_FAIL(LS_E_IO,
                      "trained to the end, step %lld, but its checkpoint could not be saved; %s",
                      (long long)train->step, newest(train, text)));
}

static ls_status loop(ls_train *train, sinks *s) {
    pace p = {0};
    int64_t skipped_in_a_row = 0;
    bool touched = false;
    const char *stop;
    /* Asked before there was anything to train: what was resumed is saved already. */
    LS_TRY(ls_train_stop_agreed(train, &stop));
    if (stop && train->saved_step == train->step && train->step < train->total_steps) {
        return stopped(train, stop);
    }
    while (train->step < train->total_steps) {
        ls_step_record record = {0};
        ls_watch_begin_step();
        ls_advice advice;
        LS_TRY(ls_train_trace_step(train));
        LS_TRY(run_step(train, &record, &advice));
        LS_TRY(ls_train_stop_agreed(train, &stop));
        ls_train_account(train, LS_PHASE_WORLD, record.phase_seconds);
        ls_watch_end_step(train->step);
        if (advice == LS_STEP_RELOAD) {
            LS_TRY(ls_recover_reload(train));
            if (stop) {
                return stopped(train, stop);
            }
            p = (pace){0};
            continue;
        }
        LS_TRY(after_step(train, s, &p, stop != NULL, &record));
        if (!touched && train->step < train->total_steps) {
            ls_ckpt_saver_touch(train->saver);
            touched = true;
        }
        LS_TRY(ls_train_trace_end(train, false));
        skipped_in_a_row = record.skipped ? skipped_in_a_row + 1 : 0;
        if (skipped_in_a_row > train->config.faults.max_skipped) {
            return ls_session_agree(
                &train->session,
                LS_FAIL(LS_E_DIVERGED,
                        "%lld steps in a row had a loss or gradient that is not finite (step %lld: "
                        "loss %g, norm %g); the weights are those before them. Lower optim.lr, or "
                        "raise faults.max_skipped",
                        (long long)skipped_in_a_row, (long long)train->step, record.loss,
                        record.grad_norm));
        }
        if (stop && train->step < train->total_steps) {
            return stopped(train, stop);
        }
    }
    return LS_OK;
}

ls_status ls_train_loop(ls_train *train) {
    sinks s;
    LS_TRY(ls_train_predict(train));
    ls_train_stop_begin(train);
    LS_TRY(open_sinks(train, &s));
    ls_status status = loop(train, &s);
    if (status == LS_OK || status == LS_E_STOPPED || status == LS_E_DIVERGED) { /* on all ranks */
        const ls_error error = *ls_error_last();
        ls_flight_mark(LS_FLIGHT_CHECKPOINT, -1);
        ls_status ended = ls_train_save_poll(train, true);
        if (ended == LS_OK) {
            ended = ls_train_trace_end(train, true);
        }
        if (ended == LS_OK && status != LS_E_DIVERGED) {
            ended = ls_train_memory_end(train);
        }
        if (ended == LS_OK && status == LS_OK) {
            ended = check_saved(train);
        }
        if (ended != LS_OK) {
            status = ended;
        } else if (status != LS_OK) { /* what has gone well meanwhile is not how the run ended */
            ls_error_restore(&error);
            status = ls_session_agree(&train->session, status);
        }
    }
    const ls_error ending = *ls_error_last();
    ls_flight_mark(LS_FLIGHT_END, -1);
    ls_train_ledger_write(train);
    close_sinks(&s);
    return status == LS_OK ? LS_OK : ls_error_restore(&ending);
}
