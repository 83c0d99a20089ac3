#include "launch/train_recover.h"

#include "collectives/watch.h"
#include "launch/train_guard.h"
#include "launch/train_ledger.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct look {
    bool finite, spike;
    double z; /* standard deviations above the losses before */
} look;

static look look_at(ls_train *train, const ls_step_result *result, double grad_norm) {
    look l = {.finite = isfinite(result->loss) && isfinite(grad_norm)};
    if (l.finite) {
        const double limit = train->config.faults.loss_spike;
        l.z = ls_guard_spike(&train->losses, result->loss, limit);
        l.spike = limit > 0.0 && l.z > limit;
    }
    return l;
}

static ls_status take_norm(ls_train *train, double *grad_norm) {
    return ls_optim_grad_norm(train->optim, ls_state_buffers_of(train->state).grads, grad_norm);
}

/* train->step is done already: the step in doubt is the one before. */
static ls_status run_again(ls_train *train, ls_step_result *result) {
    const int64_t batch = train->layout.batch;
    train->next_sample -= batch;
    LS_TRY(ls_train_start_loader(train));
    const ls_step_options again = ls_train_step_options(train);
    LS_TRY(ls_step_run(&again, train->next_sample, result));
    train->next_sample += batch;
    return LS_OK;
}

/* Which rank's own part came out differently? */
static ls_status tell_repeat(ls_train *train, const ls_step_result *before,
                             const ls_step_result *after, double norm_before, double norm_after) {
    ls_comm *comm = train->session.comm;
    char mine[72] = "", host[64] = "", *all;
    if (memcmp(&before->own_loss, &after->own_loss, sizeof before->own_loss) != 0) {
        gethostname(host, sizeof host - 1);
        snprintf(mine, sizeof mine, "%s", host);
    }
    LS_TRY(ls_session_agree(&train->session, ls_calloc((size_t)comm->size, sizeof mine, &all)));
    ls_status status = comm->ops->all_gather(comm, mine, all, sizeof mine);
    if (status == LS_OK && comm->rank == 0) {
        char who[160] = "in backward or between the ranks";
        for (int r = comm->size - 1; r >= 0; r--) {
            if (all[(size_t)r * sizeof mine]) {
                snprintf(who, sizeof who, "on rank %d of host %s", r,
                         all + (size_t)r * sizeof mine);
            }
        }
        ls_log_warn("step %lld: a fault of the machine, %s: loss %g, norm %g; it did not repeat: "
                    "loss %g, norm %g, which stand",
                    (long long)train->step, who, before->loss, norm_before, after->loss,
                    norm_after);
    }
    free(all);
    return status;
}

static ls_status repeat(ls_train *train, ls_step_result *result, double *grad_norm, look *l) {
    const ls_step_result before = *result;
    const double norm_before = *grad_norm;
    LS_TRY(run_again(train, result));
    LS_TRY(take_norm(train, grad_norm));
    /* Of ranks that each hold a part of the norm and the loss, all have the same. */
    const bool same = memcmp(&before.loss, &result->loss, sizeof before.loss) == 0 &&
                      memcmp(&norm_before, grad_norm, sizeof norm_before) == 0;
    if (same) {
        return LS_OK;
    }
    LS_TRY(tell_repeat(train, &before, result, norm_before, *grad_norm));
    *l = look_at(train, result, *grad_norm);
    return LS_OK;
}

static ls_status act(ls_train *train, const ls_step_result *result, double grad_norm, const look *l,
                     ls_advice *advice) {
    const ls_cfg_on_bad act =
        l->finite ? train->config.faults.on_spike : train->config.faults.on_nonfinite;
    char what[400], culprit[256];
    if (l->finite) {
        snprintf(what, sizeof what,
                 "step %lld: the loss %.4f lies %.1f standard deviations above those of the steps "
                 "before it: a bad batch, or a learning rate that is too high",
                 (long long)train->step, result->loss, l->z);
    } else {
        LS_TRY(ls_guard_culprit(train, culprit, sizeof culprit));
        snprintf(what, sizeof what, "step %lld: loss %g, gradient norm %g: not finite, %s",
                 (long long)train->step, result->loss, grad_norm, culprit);
    }
    *advice = act == LS_CFG_BAD_RELOAD              ? LS_STEP_RELOAD
              : act == LS_CFG_BAD_WARN && l->finite ? LS_STEP_GOOD
                                                    : LS_STEP_SKIP;
    if (act == LS_CFG_BAD_STOP) {
        return ls_session_agree(&train->session, LS_FAIL(LS_E_DIVERGED, "%s", what));
    }
    if (train->session.comm->rank == 0) {
        ls_log_warn("%s%s", what, *advice == LS_STEP_SKIP ? "; the weights keep their values" : "");
    }
    return LS_OK;
}

ls_status ls_recover_judge(ls_train *train, ls_step_result *result, ls_update *update,
                           ls_advice *advice) {
    *advice = LS_STEP_GOOD;
    if (!update->decided) {
        LS_TRY(take_norm(train, &update->grad_norm));
    }
    look l = look_at(train, result, update->grad_norm);
    l.spike = update->decided ? l.finite && !update->made : l.spike;
    if ((!l.finite || l.spike) && train->config.faults.repeat_steps) {
        LS_TRY(repeat(train, result, &update->grad_norm, &l));
    }
    return !l.finite || l.spike ? act(train, result, update->grad_norm, &l, advice) : LS_OK;
}

/* What was done since the checkpoint is lost; all time stays accounted for. */
static void lose_steps(ls_counters *c, const ls_counters *now) {
    const ls_counters saved = *c;
    *c = *now;
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        if (ls_phase_trains((ls_phase)p) || p == LS_PHASE_OTHER) {
            c->seconds[LS_PHASE_LOST] += now->seconds[p] - saved.seconds[p];
            c->seconds[p] = saved.seconds[p];
        }
    }
    c->lost_steps += now->steps - saved.steps;
    c->steps = saved.steps;
    c->tokens = saved.tokens;
    c->flops = saved.flops;
}

static ls_status write_event(const ls_train *train, int64_t bad_step, int64_t first) {
    char path[1024], line[320];
    LS_TRY(ls_path_join(path, sizeof path, train->run_dir, "events.jsonl"));
    snprintf(line, sizeof line,
             "{\"event\":\"reload\",\"time\":%.3f,\"bad_step\":%" PRId64 ",\"to_step\":%" PRId64
             ",\"sequences_left_out\":[%" PRId64 ",%" PRId64 "]}",
             ls_clock_steady_wall_s(), bad_step, train->step, first, train->next_sample);
    return ls_file_append_line(path, line);
}

static ls_status no_way_back(ls_train *train, int64_t bad_step, const char *why) {
    return ls_session_agree(&train->session,
                            LS_FAIL(LS_E_DIVERGED,
                                    "step %lld is bad, and %s; lower optim.lr, or look into the "
                                    "data",
                                    (long long)bad_step, why));
}

ls_status ls_recover_reload(ls_train *train) {
    const int64_t bad_step = train->step;
    char path[1024];
    ls_flight_mark(LS_FLIGHT_CHECKPOINT, -1);
    LS_TRY(ls_train_save_poll(train, true));
    const ls_counters now = train->counters;
    const int64_t after_bad = train->next_sample;
    train->reloads = bad_step > train->worst_step ? 1 : train->reloads + 1;
    train->worst_step = bad_step > train->worst_step ? bad_step : train->worst_step;
    if (train->reloads > train->config.faults.max_reloads) {
        char why[64];
        snprintf(why, sizeof why, "%d reloads (faults.max_reloads) did not get past it",
                 (int)train->config.faults.max_reloads);
        return no_way_back(train, bad_step, why);
    }
    LS_TRY(ls_train_resume(train, path));
    if (!path[0]) {
        return no_way_back(train, bad_step, "there is no checkpoint before it");
    }
    lose_steps(&train->counters, &now);
    const int64_t first = train->next_sample;
    train->next_sample = after_bad + train->config.faults.skip_batches * train->layout.batch;
    LS_TRY(ls_train_start_loader(train));
    ls_train_account(train, LS_PHASE_LOST, NULL);
    if (train->session.comm->rank == 0) {
        ls_log_info("back to step %lld; the sequences %lld to %lld of the data are left out",
                    (long long)train->step, (long long)first, (long long)(train->next_sample - 1));
        if (write_event(train, bad_step, first) != LS_OK) {
            ls_log_warn("%s", ls_error_last()->message);
        }
    }
    return LS_OK;
}
