#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/counters/counters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct mlperf {
    int fd;
    char path[1024];
    int64_t step, total_steps, block_step; /* where the interval between evaluations began */
    int64_t batch, train_sequences;        /* of a step, and of an epoch */
    int64_t before; /* sequences of the steps before this start, less steps x batch */
} mlperf;

/* One line: value and metadata are stolen. */
static ls_status say(const mlperf *s, const char *type, const char *key, double time_s, int line,
                     json_t *value, json_t *metadata) {
    json_object_set_new(metadata, "file", json_string("sink_mlperf.c"));
    json_object_set_new(metadata, "lineno", json_integer(line));
    json_t *json = json_pack("{s:s, s:I, s:s, s:s, s:o, s:o}", "namespace", "", "time_ms",
                             (json_int_t)(time_s * 1e3), "event_type", type, "key", key, "value",
                             value, "metadata", metadata);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    char *whole = NULL;
    size_t bytes = text ? strlen(text) : 0;
    if (text && (whole = malloc(bytes + 12))) {
        memcpy(whole, ":::MLLOG ", 9);
        memcpy(whole + 9, text, bytes);
        whole[9 + bytes] = '\n';
    }
    ls_status status = whole ? ls_file_write_all(s->fd, whole, bytes + 10, s->path)
                             : LS_FAIL(LS_E_MEMORY, "no memory for a line of '%s'", s->path);
    free(whole);
    free(text);
    return status;
}

#define SAY(s, type, key, time_s, value, metadata)                                                 \
    say((s), (type), (key), (time_s), __LINE__, (value), (metadata))

/* Where the run is: steps are lockstep's, the rest is how MLPerf counts. */
static json_t *place(const mlperf *s, int64_t step) {
    const int64_t samples = s->before + step * s->batch;
    json_t *json =
        json_pack("{s:I, s:I}", "step_num", (json_int_t)step, "samples_count", (json_int_t)samples);
    if (s->train_sequences > 0) {
        json_object_set_new(json, "epoch_num",
                            json_real((double)samples / (double)s->train_sequences));
    }
    return json;
}

/* Figures of the run that belong to one key each. Caller owns. */
static json_t *figures(const ls_sink_options *o) {
    static const char *const schedules[] = {"constant", "linear", "cosine", "warmup-stable-decay",
                                            "inverse square root"};
    const ls_config_optim *optim = &o->config->optim;
    const ls_config_schedule *schedule = &o->config->schedule;
    const bool ends = schedule->kind == LS_SCHEDULE_LINEAR ||
                      schedule->kind == LS_SCHEDULE_COSINE || schedule->kind == LS_SCHEDULE_WSD;
    const int64_t steps = o->total_steps - schedule->first_step, fifth = steps / 5,
                  decay_steps = schedule->kind != LS_SCHEDULE_WSD ? steps - schedule->warmup_steps
                                : schedule->decay_steps > 0       ? schedule->decay_steps
                                                                  : fifth;
    char decay[64];
    snprintf(decay, sizeof decay, "%s with linear warmup", schedules[schedule->kind]);
    json_t *json = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:I, s:I, s:s, s:f}", "seed",
        (json_int_t)o->config->run.seed, "init_checkpoint_step", (json_int_t)o->steps_done,
        "train_samples", (json_int_t)o->train_sequences, "eval_samples",
        (json_int_t)o->eval_sequences, "global_batch_size", (json_int_t)o->batch,
        "gradient_accumulation_steps", (json_int_t)o->accumulation, "max_sequence_length",
        (json_int_t)o->seq, "opt_name", optim->name, "opt_base_learning_rate", optim->lr,
        "opt_end_learning_rate", ends ? optim->lr * schedule->min_lr_ratio : optim->lr,
        "opt_learning_rate_warmup_steps", (json_int_t)schedule->warmup_steps,
        "opt_learning_rate_decay_steps", (json_int_t)decay_steps,
        "opt_learning_rate_decay_schedule", decay, "opt_gradient_clip_norm", optim->clip_norm);
    if (strcmp(optim->name, "adamw") == 0) {
        json_object_set_new(json, "opt_adamw_beta_1", json_real(optim->beta1));
        json_object_set_new(json, "opt_adamw_beta_2", json_real(optim->beta2));
        json_object_set_new(json, "opt_adamw_epsilon", json_real(optim->eps));
        json_object_set_new(json, "opt_adamw_weight_decay", json_real(optim->weight_decay));
    }
    return json;
}

static ls_status say_start(const mlperf *s, const ls_sink_options *o) {
    const double now_s = ls_clock_steady_wall_s();
    LS_TRY(
        SAY(s, "INTERVAL_START", "init_start", now_s - o->startup_s, json_null(), json_object()));
    json_t *all = figures(o), *value;
    ls_status status = LS_OK;
    const char *key;
    json_object_foreach(all, key, value) {
        if (status == LS_OK) {
            status = SAY(s, "POINT_IN_TIME", key, now_s, json_incref(value), json_object());
        }
    }
    json_decref(all);
    LS_TRY(status);
    LS_TRY(SAY(s, "INTERVAL_END", "init_stop", now_s, json_null(), json_object()));
    LS_TRY(SAY(s, "INTERVAL_START", "run_start", now_s, json_null(), json_object()));
    return SAY(s, "INTERVAL_START", "block_start", now_s, json_null(), place(s, s->step));
}

static ls_status mlperf_open(const ls_sink_options *options, void **state) {
    mlperf *s = calloc(1, sizeof *s);
    if (!s) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the MLPerf log");
    }
    *s = (mlperf){.step = options->steps_done,
                  .block_step = options->steps_done,
                  .batch = options->batch,
                  .before = options->sequences_done - options->steps_done * options->batch,
                  .train_sequences = options->train_sequences};
    ls_status status = ls_path_join(s->path, sizeof s->path, options->run_dir, "mlperf.log");
    s->fd = -1;
    if (status == LS_OK) {
        status = ls_file_open_lines(s->path, &s->fd);
    }
    if (status == LS_OK) {
        status = say_start(s, options);
    }
    if (status != LS_OK) {
        if (s->fd >= 0) {
            close(s->fd);
        }
        free(s);
        return status;
    }
    *state = s;
    return LS_OK;
}

static ls_status say_evaluation(mlperf *s, const ls_step_record *r) {
    const double begin_s =
        r->wall_time_s - r->phase_seconds[LS_PHASE_CHECKPOINT] - r->phase_seconds[LS_PHASE_EVAL];
    LS_TRY(SAY(s, "INTERVAL_END", "block_stop", begin_s, json_null(), place(s, s->block_step)));
    LS_TRY(SAY(s, "INTERVAL_START", "eval_start", begin_s, json_null(), place(s, r->step)));
    LS_TRY(SAY(s, "POINT_IN_TIME", "eval_accuracy", r->wall_time_s,
               isfinite(r->val_loss) ? json_real(r->val_loss) : json_null(), place(s, r->step)));
    LS_TRY(SAY(s, "INTERVAL_END", "eval_stop", r->wall_time_s, json_null(), place(s, r->step)));
    s->block_step = r->step;
    return r->step == r->total_steps ? LS_OK
                                     : SAY(s, "INTERVAL_START", "block_start", r->wall_time_s,
                                           json_null(), place(s, r->step));
}

static ls_status mlperf_step(void *state, const ls_step_record *r) {
    mlperf *s = state;
    s->step = r->step;
    s->total_steps = r->total_steps;
    json_t *stats = json_pack("{s:f, s:f}", "throughput", r->tokens_per_second, "lr", r->lr);
    if (isfinite(r->loss)) {
        json_object_set_new(stats, "reduced_train_loss", json_real(r->loss));
    }
    LS_TRY(SAY(s, "POINT_IN_TIME", "tracked_stats", r->wall_time_s, stats, place(s, r->step)));
    return isnan(r->val_loss) ? LS_OK : say_evaluation(s, r);
}

static void mlperf_close(void *state) {
    mlperf *s = state;
    const bool done = s->total_steps > 0 && s->step == s->total_steps;
    json_t *metadata = place(s, s->step);
    json_object_set_new(metadata, "status", json_string(done ? "success" : "aborted"));
    (void)SAY(s, "INTERVAL_END", "run_stop", ls_clock_steady_wall_s(), json_null(), metadata);
    close(s->fd);
    free(s);
}

const ls_sink_ops ls_sink_mlperf = {
    .name = "mlperf", .open = mlperf_open, .step = mlperf_step, .close = mlperf_close};
