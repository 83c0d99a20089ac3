#include "launch/ckpt_verbs.h"
#include "launch/train_pieces.h"
#include "launch/weights.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a checkpoint was trained with, beside this run. */
typedef struct differences {
    ls_config saved;
    char *never, *change; /* lines, of values that cannot be others, and of those that can */
    int never_count, change_count;
    char fingerprint[24], saved_fingerprint[24]; /* of the training data */
    bool other_data;
    bool other_samples; /* of other data, or of another length */
} differences;

static void release_differences(differences *d) {
    free(d->never);
    free(d->change);
}

static ls_status compare(const ls_train *train, ls_ckpt *ckpt, differences *d) {
    const char *text = ls_ckpt_config(ckpt), *then = "in the checkpoint", *now = "in this run";
    char where[1100];
    snprintf(where, sizeof where, "the configuration in %s", ls_ckpt_path(ckpt));
    LS_TRY(ls_config_load_text(&d->saved, where, text, strlen(text), NULL, 0));
    LS_TRY(ls_config_compare(LS_RESUME_SAME, &d->saved, then, &train->config, now, &d->never,
                             &d->never_count));
    LS_TRY(ls_config_compare(LS_RESUME_CHANGE, &d->saved, then, &train->config, now, &d->change,
                             &d->change_count));
    snprintf(d->fingerprint, sizeof d->fingerprint, "%016" PRIx64,
             ls_dataset_describe(train->train_data)->fingerprint);
    const char *saved = json_string_value(json_object_get(ls_ckpt_run(ckpt), "data_fingerprint"));
    snprintf(d->saved_fingerprint, sizeof d->saved_fingerprint, "%s",
             saved ? saved : d->fingerprint);
    d->other_data = strcmp(d->saved_fingerprint, d->fingerprint) != 0;
    d->other_samples = d->other_data || d->saved.data.sequence != train->config.data.sequence;
    return LS_OK;
}

static ls_status check_differences(const ls_train *train, ls_ckpt *ckpt, const differences *d) {
    const char *path = ls_ckpt_path(ckpt);
    if (d->never_count > 0) {
        return LS_FAIL(
            LS_E_CONFIG,
            "%s was written by another configuration:\n%sgive the run its old values, or "
            "begin a new one with its weights: run.name=OTHER run.init=%s",
            path, d->never, path);
    }
    if (d->change_count > 0 && !train->may_change) {
        return LS_FAIL(LS_E_CONFIG,
                       "%s was trained otherwise:\n%sgive the run its old values, or add --change "
                       "to go on with the new ones from step %lld",
                       path, d->change, (long long)ls_ckpt_step(ckpt));
    }
    if (d->other_data && !train->may_change) {
        return LS_FAIL(LS_E_INPUT,
                       "the training data in '%s' has fingerprint %s, but %s was trained on %s; "
                       "give data.dir the data that the run began with, or add --change to go on "
                       "with this data",
                       train->config.data.dir, d->fingerprint, path, d->saved_fingerprint);
    }
    return ls_train_check_schedule(train, ls_ckpt_step(ckpt));
}

ls_status ls_train_check_schedule(const ls_train *train, int64_t step) {
    const int64_t first = train->config.schedule.first_step;
    return first <= step
               ? LS_OK
               : LS_FAIL(LS_E_CONFIG,
                         "schedule.first_step is %lld, and the run goes on from step %lld: the "
                         "steps between them have no learning rate; lower schedule.first_step",
                         (long long)first, (long long)step);
}

static void append_text(json_t *list, char *text) {
    json_array_append_new(list, text ? json_string(text) : NULL);
    free(text);
}

/* A line of events.jsonl, and one a difference on the console. Rank 0 only. */
static ls_status tell_changes(const ls_train *train, const differences *d) {
    json_t *changes = json_array();
    for (const char *line = d->change; *line; line = strchr(line, '\n') + 1) {
        json_array_append_new(changes, json_stringn(line, strcspn(line, "\n")));
    }
    if (d->other_data) {
        append_text(changes, ls_text_format("training data: fingerprint %s in the checkpoint, %s "
                                            "in this run",
                                            d->saved_fingerprint, d->fingerprint));
    }
    const int parts = ls_dataset_parts(train->train_data);
    for (int i = 0; i < parts && parts > 1 && d->other_samples; i++) {
        append_text(changes, ls_text_format("training data: '%s' from its sample %lld on",
                                            ls_dataset_part_at(train->train_data, i).dir,
                                            (long long)ls_dataset_place(train->train_data, i, 0)));
    }
    if (d->other_samples && parts == 1) {
        append_text(changes,
                    train->next_sample > 0
                        ? ls_text_format("training data: read on from sample %lld, where the run "
                                         "left it",
                                         (long long)train->next_sample)
                        : ls_text_format("training data: read from its beginning, in samples of "
                                         "%lld tokens",
                                         (long long)train->layout.seq));
    }
    size_t i;
    const json_t *change;
    json_array_foreach(changes, i, change) {
        ls_log_info("from step %lld on: %s", (long long)train->step + 1, json_string_value(change));
    }
    char path[1024];
    LS_TRY(ls_path_join(path, sizeof path, train->run_dir, "events.jsonl"));
    json_t *event =
        json_pack("{s:s, s:f, s:I, s:o}", "event", "change", "time", ls_clock_steady_wall_s(),
                  "after_step", (json_int_t)train->step, "changes", changes);
    char *text = event ? json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(16)) : NULL;
    json_decref(event);
    const ls_status status =
        text ? ls_file_append_line(path, text) : LS_FAIL(LS_E_MEMORY, "no memory for '%s'", path);
    free(text);
    return status;
}

/* A number of the run's record; of checkpoints that do not have it yet, what it was by then.
 * Nothing is trusted: one that no run comes to would overflow when batches are added to it. */
static ls_status run_number(const json_t *object, const char *key, int64_t otherwise,
                            int64_t *number) {
    const int64_t most = INT64_MAX / 4;
    const json_t *given = json_object_get(object, key);
    *number = json_is_integer(given) ? json_integer_value(given) : otherwise;
    return *number >= 0 && *number <= most
               ? LS_OK
               : LS_FAIL(LS_E_CORRUPT,
                         "the checkpoint's '%s' is %" PRId64 "; 0 to %" PRId64 " is possible", key,
                         *number, most);
}

void ls_train_place_key(const ls_dataset_info *data, int64_t seq, char key[48]) {
    snprintf(key, 48, "%016" PRIx64 "/%" PRId64, data->fingerprint, seq);
}

/* Each part of a mixture goes on where `places` says, after samples that are read already. */
static ls_status enter_parts(ls_train *train, json_t *places) {
    ls_dataset *data = train->train_data;
    for (int i = 0; i < ls_dataset_parts(data); i++) {
        char key[48];
        ls_train_place_key(ls_dataset_part_at(data, i).info, ls_dataset_seq(data), key);
        int64_t place;
        LS_TRY(run_number(places, key, 0, &place));
        ls_dataset_resume(data, i, 0);
        ls_dataset_resume(data, i, place - ls_dataset_place(data, i, train->next_sample));
    }
    return LS_OK;
}

/* Data cut into samples of another length is other samples in another order: what was read of each
 * directory before the run changed to others, by "FINGERPRINT/LENGTH". */
static ls_status change_place(ls_train *train, const differences *d, json_t *parts) {
    char left[48], entered[48];
    snprintf(left, sizeof left, "%s/%" PRId64, d->saved_fingerprint, d->saved.data.sequence);
    ls_train_place_key(ls_dataset_describe(train->train_data), train->config.data.sequence,
                       entered);
    train->places = train->places ? train->places : json_object();
    if ((parts ? json_object_update(train->places, parts)
               : json_object_set_new(train->places, left, json_integer(train->next_sample))) != 0) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the run's places in its data");
    }
    train->next_sample = 0;
    if (ls_dataset_parts(train->train_data) > 1) {
        return enter_parts(train, train->places);
    }
    LS_TRY(run_number(train->places, entered, 0, &train->next_sample));
    json_object_del(train->places, entered);
    return LS_OK;
}

/* Sequences that were read stay read, whatever a batch has been and is now. */
static ls_status take_place(ls_train *train, ls_ckpt *ckpt, const differences *d) {
    const json_t *run = ls_ckpt_run(ckpt);
    int64_t batches, positions;
    train->step = train->saved_step = ls_ckpt_step(ckpt);
    if (__builtin_mul_overflow(train->step, d->saved.batch.sequences, &batches)) {
        batches = -1;
    }
    LS_TRY(run_number(run, "sequences", batches, &train->sequences));
    if (__builtin_mul_overflow(train->sequences, d->saved.data.sequence, &positions)) {
        positions = -1;
    }
    LS_TRY(run_number(run, "positions", positions, &train->positions));
    LS_TRY(run_number(run, "samples", batches, &train->next_sample));
    json_decref(train->places);
    train->places = json_deep_copy(json_object_get(run, "places"));
    json_t *parts = json_object_get(run, "parts");
    LS_TRY(d->other_samples ? change_place(train, d, parts) : LS_OK);
    if (!d->other_samples && ls_dataset_parts(train->train_data) > 1) {
        LS_TRY(enter_parts(train, parts));
    }
    ls_train_count_steps(train);
    return LS_OK;
}

void ls_train_count_steps(ls_train *train) {
    const int64_t step_tokens = train->layout.batch * train->layout.seq;
    int64_t by_tokens = INT64_MAX;
    if (train->config.run.tokens > 0) {
        const int64_t left = train->config.run.tokens - train->positions;
        by_tokens = train->step + (left + (left > 0 ? step_tokens - 1 : 0)) / step_tokens;
    }
    train->total_steps = train->config.run.steps > 0 && train->config.run.steps < by_tokens
                             ? train->config.run.steps
                             : by_tokens;
}

/* The losses of late, so that a resumed run sees the same spikes. */
static void load_losses(ls_train *train, const json_t *losses) {
    ls_guard_losses *l = &train->losses;
    *l = (ls_guard_losses){.count = (int)json_array_size(losses)};
    l->count = l->count < LS_GUARD_LOSSES ? l->count : LS_GUARD_LOSSES;
    for (int i = 0; i < l->count; i++) {
        l->ring[i] = json_number_value(json_array_get(losses, (size_t)i));
    }
    l->next = l->count % LS_GUARD_LOSSES;
}

/* What a checkpoint says of the run beside its tensors. */
static ls_status take_record(ls_train *train, ls_ckpt *ckpt) {
    ls_train_compare_attention(train, ls_ckpt_run(ckpt));
    LS_TRY(ls_counters_parse(ls_ckpt_counters(ckpt), &train->counters));
    train->counters.tokens = ls_ckpt_tokens(ckpt);
    load_losses(train, json_object_get(ls_ckpt_run(ckpt), "losses"));
    int64_t updates;
    LS_TRY(run_number(ls_ckpt_run(ckpt), "optimizer_updates", 0, &updates));
    ls_optim_set_updates(train->optim, updates);
    snprintf(train->last_ckpt, sizeof train->last_ckpt, "%s", ls_ckpt_path(ckpt));
    return LS_OK;
}

/* [collective] */
static ls_status load(ls_train *train, ls_ckpt *ckpt) {
    differences d = {.never = NULL};
    ls_status status = compare(train, ckpt, &d);
    status = status == LS_OK ? check_differences(train, ckpt, &d) : status;
    status = ls_session_agree(&train->session, status);
    status = status == LS_OK ? ls_pieces_load(train, ckpt, false) : status;
    status = status == LS_OK ? take_record(train, ckpt) : status;
    if (status == LS_OK) {
        status = take_place(train, ckpt, &d);
    }
    const bool changes = d.change_count > 0 || d.other_data;
    if (status == LS_OK && changes && train->session.comm->rank == 0) {
        status = tell_changes(train, &d);
    }
    release_differences(&d);
    return status;
}

/* Checks that configuration and data are those of the run, fills in masters, optimizer state, step
 * and counters. [collective] */
static ls_status load_run(ls_train *train, ls_ckpt *ckpt) {
    LS_TRY(ls_session_agree(&train->session, load(train, ckpt)));
    return ls_session_agree(&train->session, ls_state_refresh(train->state));
}

/* On rank 0. *found is NULL when there is none. */
static ls_status look_below(ls_train *train, int64_t below, ls_ckpt **found) {
    const ls_status status = ls_ckpt_open_below(train->ckpt_root, below, found);
    if (status == LS_E_CORRUPT) {
        return LS_FAIL(status,
                       "%s: no run begins anew over checkpoints that are there; 'lockstep ckpt "
                       "doctor' says what is wrong with them; move them away to begin anew",
                       ls_error_last()->message);
    }
    return status == LS_E_INPUT ? LS_OK : status;
}

/* Rank 0 looks for the newest checkpoint below a step, for all. *found is NULL when there is none;
 * LS_E_CORRUPT when there are some and none is valid. [collective] */
static ls_status find_checkpoint(ls_train *train, int64_t below, ls_ckpt **found) {
    const bool reader = train->session.comm->rank == 0;
    *found = NULL;
    LS_TRY(ls_session_agree(&train->session, reader ? look_below(train, below, found) : LS_OK));
    const ls_status status =
        ls_session_agree(&train->session, ls_ckpt_spread(train->session.comm, found));
    if (status != LS_OK) {
        ls_ckpt_close(*found);
        *found = NULL;
    }
    return status;
}

/* The newest checkpoint whose chunks are what they were. */
static ls_status load_newest(ls_train *train, ls_ckpt **ckpt) {
    LS_TRY(find_checkpoint(train, INT64_MAX, ckpt));
    while (*ckpt) {
        ls_status status = load_run(train, *ckpt);
        if (status != LS_E_CORRUPT) {
            return status;
        }
        const ls_error error = *ls_error_last();
        const char *path = ls_ckpt_path(*ckpt), *name = strrchr(path, '/');
        const int64_t below = ls_ckpt_step_parse(name ? name + 1 : path);
        ls_ckpt_close(*ckpt);
        status = find_checkpoint(train, below, ckpt);
        if (status != LS_OK && status != LS_E_CORRUPT) {
            return status;
        }
        if (!*ckpt) { /* no run begins anew over what was there */
            return ls_error_restore(&error);
        }
        if (train->session.comm->rank == 0) {
            ls_log_warn("the checkpoint of step %lld is skipped: %s", (long long)below,
                        error.message);
        }
    }
    return LS_OK;
}

ls_status ls_train_check_place(const ls_train *train, int argc, char **argv) {
    char folder[PATH_MAX], checkpoints[PATH_MAX];
    bool told = ls_path_exists(train->run_dir);
    for (int i = 1; i < argc; i++) {
        told =
            told || strncmp(argv[i], "run.name=", 9) == 0 || strncmp(argv[i], "run.dir=", 8) == 0;
    }
    if (told || !realpath(argv[0], folder)) {
        return LS_OK;
    }
    *strrchr(folder, '/') = '\0';
    char *name = strrchr(folder, '/');
    if (!name || ls_path_join(checkpoints, sizeof checkpoints, folder, "checkpoints") != LS_OK ||
        !ls_path_is_dir(checkpoints)) {
        return LS_OK;
    }
    *name++ = '\0';
    return LS_FAIL(LS_E_CONFIG,
                   "'%s' is of a run that has checkpoints beside it, but run.dir and run.name are "
                   "'%s', which does not exist here; to go on with that run add run.dir='%s' "
                   "run.name='%s'",
                   argv[0], train->run_dir, folder[0] ? folder : "/", name);
}

ls_status ls_train_resume(ls_train *train, char path[1024]) {
    ls_ckpt *ckpt = NULL;
    const ls_status status = load_newest(train, &ckpt);
    snprintf(path, 1024, "%s", ckpt ? ls_ckpt_path(ckpt) : "");
    ls_ckpt_close(ckpt);
    return status;
}

/* Why weights do not fit. A vocabulary that the data gave can be larger, for it has no token of
 * many that a model knows. */
static ls_status refuse_weights(const ls_train *train, const ls_ckpt *ckpt, ls_status status) {
    const ls_dataset_info *data = ls_dataset_describe(train->train_data);
    const char *init = train->config.run.init;
    ls_config theirs;
    LS_TRY(ls_ckpt_settings(ckpt, &theirs));
    const long long own = train->config.model.vocab, needed = theirs.model.vocab;
    if (own == needed) {
        return ls_error_prefix(status,
                               "run.init is of another model ('lockstep ckpt show %s --config' "
                               "tells its settings)",
                               init);
    }
    if (needed < data->vocab) {
        return LS_FAIL(LS_E_CONFIG,
                       "run.init '%s' has a vocabulary of %lld, but the tokens in '%s' go up to "
                       "%lld; prepare the data with the tokenizer of run.init's model",
                       init, needed, train->config.data.dir, (long long)data->vocab - 1);
    }
    return LS_FAIL(
        LS_E_CONFIG,
        "run.init '%s' has a vocabulary of %lld, and this model one of %lld; if the data "
        "was prepared with the tokenizer of run.init's model, say model.vocab=%lld",
        init, needed, own, needed);
}

ls_status ls_train_load_weights(ls_train *train) {
    ls_ckpt *ckpt;
    ls_status status = ls_weights_find(&train->session, train->config.run.init, &ckpt);
    if (status == LS_OK) {
        status = ls_pieces_load(train, ckpt, true);
    }
    if (status == LS_OK) {
        ls_log_info("begun with the weights of %s (step %lld)", ls_ckpt_path(ckpt),
                    (long long)ls_ckpt_step(ckpt));
        if (train->session.comm->rank == 0) {
            ls_weights_doubt_data(ckpt, train->config.model.vocab, train->config.data.dir,
                                  ls_dataset_describe(train->train_data));
        }
    }
    if (status == LS_E_SHAPE) {
        status = refuse_weights(train, ckpt, status);
    } else if (status != LS_OK) {
        status = ls_error_prefix(status, "run.init");
    }
    ls_ckpt_close(ckpt);
    LS_TRY(status);
    return ls_session_agree(&train->session, ls_state_refresh(train->state));
}
