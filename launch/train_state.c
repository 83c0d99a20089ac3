#include "launch/train_pieces.h"
#include "launch/weights.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ls_status check_identity(const ls_train *train, ls_ckpt *ckpt) {
    const char *text = ls_ckpt_config(ckpt);
    char where[1100];
    snprintf(where, sizeof where, "the configuration in %s", ls_ckpt_path(ckpt));
    ls_config saved;
    LS_TRY(ls_config_load_text(&saved, where, text, strlen(text), NULL, 0));
    char *differences = NULL;
    int count = 0;
    LS_TRY(ls_config_compare(&train->config, "this run", &saved, "the checkpoint", &differences,
                             &count));
    ls_status status = LS_OK;
    if (count > 0) {
        status = LS_FAIL(LS_E_CONFIG,
                         "%s was written by another configuration:\n%sgive the run its old values, "
                         "or start a new one with another run.name",
                         ls_ckpt_path(ckpt), differences);
    }
    free(differences);
    LS_TRY(status);
    char fingerprint[24];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64,
             ls_dataset_describe(train->train_data)->fingerprint);
    const char *saved_print =
        json_string_value(json_object_get(ls_ckpt_run(ckpt), "data_fingerprint"));
    if (saved_print && strcmp(saved_print, fingerprint) != 0) {
        return LS_FAIL(
            LS_E_INPUT,
            "the training data in '%s' has fingerprint %s, but %s was trained on %s; give "
            "data.dir the data that the run began with",
            train->config.data.dir, fingerprint, ls_ckpt_path(ckpt), saved_print);
    }
    return LS_OK;
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

/* Where several ranks hold the same state they read the same chunks. */
static void choose_reading(const ls_train *train, ls_ckpt *ckpt) {
    const ls_layout *l = &train->layout;
    ls_ckpt_share(ckpt, ls_layout_data_size(l) > ls_layout_copy_size(l));
}

static ls_status load(ls_train *train, ls_ckpt *ckpt) {
    LS_TRY(check_identity(train, ckpt));
    ls_train_compare_attention(train, ls_ckpt_run(ckpt));
    choose_reading(train, ckpt);
    ls_pieces pieces;
    ls_status status = ls_pieces_list(train, false, &pieces);
    if (status == LS_OK) {
        status = ls_ckpt_load(ckpt, pieces.tensors, pieces.count);
    }
    if (status == LS_OK) {
        status = ls_pieces_store(&pieces);
    }
    ls_pieces_release(&pieces);
    LS_TRY(status);
    LS_TRY(ls_counters_parse(ls_ckpt_counters(ckpt), &train->counters));
    train->counters.tokens = ls_ckpt_tokens(ckpt);
    train->step = train->saved_step = ls_ckpt_step(ckpt);
    train->data_offset = json_integer_value(json_object_get(ls_ckpt_run(ckpt), "data_offset"));
    load_losses(train, json_object_get(ls_ckpt_run(ckpt), "losses"));
    ls_optim_set_updates(
        train->optim, json_integer_value(json_object_get(ls_ckpt_run(ckpt), "optimizer_updates")));
    snprintf(train->last_ckpt, sizeof train->last_ckpt, "%s", ls_ckpt_path(ckpt));
    return LS_OK;
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

ls_status ls_train_resume(ls_train *train, char path[1024]) {
    ls_ckpt *ckpt = NULL;
    const ls_status status = load_newest(train, &ckpt);
    snprintf(path, 1024, "%s", ckpt ? ls_ckpt_path(ckpt) : "");
    ls_ckpt_close(ckpt);
    return status;
}

/* Masters come first in the list; what follows is the optimizer's. */
static int count_masters(const ls_pieces *pieces) {
    int count = 0;
    while (count < pieces->count && strncmp(pieces->tensors[count].name, "optim.", 6) != 0) {
        count++;
    }
    return count;
}

static ls_status load_weights(ls_train *train, ls_ckpt *ckpt) {
    choose_reading(train, ckpt);
    ls_pieces pieces;
    ls_status status = ls_pieces_list(train, false, &pieces);
    const int all = pieces.count;
    pieces.count = count_masters(&pieces);
    if (status == LS_OK) {
        status = ls_ckpt_load(ckpt, pieces.tensors, pieces.count);
    }
    if (status == LS_OK) {
        status = ls_pieces_store(&pieces);
    }
    pieces.count = all;
    ls_pieces_release(&pieces);
    return status;
}

ls_status ls_train_load_weights(ls_train *train) {
    ls_ckpt *ckpt;
    ls_status status = ls_weights_find(&train->session, train->config.run.init, &ckpt);
    if (status == LS_OK) {
        status = ls_session_agree(&train->session, load_weights(train, ckpt));
    }
    if (status == LS_OK) {
        ls_log_info("begun with the weights of %s (step %lld)", ls_ckpt_path(ckpt),
                    (long long)ls_ckpt_step(ckpt));
    }
    ls_ckpt_close(ckpt);
    if (status != LS_OK) {
        return ls_error_prefix(status, "run.init");
    }
    return ls_session_agree(&train->session, ls_state_refresh(train->state));
}
