#include "launch/train_pieces.h"
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

static ls_status load(ls_train *train, ls_ckpt *ckpt) {
    LS_TRY(check_identity(train, ckpt));
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
    ls_optim_set_updates(
        train->optim, json_integer_value(json_object_get(ls_ckpt_run(ckpt), "optimizer_updates")));
    snprintf(train->last_ckpt, sizeof train->last_ckpt, "%s", ls_ckpt_path(ckpt));
    return LS_OK;
}

ls_status ls_train_load(ls_train *train, const char *path) {
    ls_ckpt *ckpt = NULL;
    ls_status status = ls_ckpt_open(path, &ckpt);
    if (status == LS_OK) {
        status = load(train, ckpt);
    }
    ls_ckpt_close(ckpt);
    LS_TRY(ls_session_agree(&train->session, status));
    return ls_session_agree(&train->session, ls_state_refresh(train->state));
}

/* Masters come first in the list; what follows is the optimizer's. */
static int count_masters(const ls_pieces *pieces) {
    int count = 0;
    while (count < pieces->count && strncmp(pieces->tensors[count].name, "optim.", 6) != 0) {
        count++;
    }
    return count;
}

static ls_status load_weights(ls_train *train, ls_ckpt **ckpt) {
    char root[1024];
    const char *given = train->config.run.init;
    LS_TRY(ls_path_join(root, sizeof root, given, "checkpoints"));
    LS_TRY(ls_ckpt_open_latest(ls_path_is_dir(root) ? root : given, ckpt));
    ls_pieces pieces;
    ls_status status = ls_pieces_list(train, false, &pieces);
    const int all = pieces.count;
    pieces.count = count_masters(&pieces);
    if (status == LS_OK) {
        status = ls_ckpt_load(*ckpt, pieces.tensors, pieces.count);
    }
    if (status == LS_OK) {
        status = ls_pieces_store(&pieces);
    }
    pieces.count = all;
    ls_pieces_release(&pieces);
    return status == LS_OK ? LS_OK : ls_error_prefix(status, "run.init");
}

ls_status ls_train_load_weights(ls_train *train) {
    ls_ckpt *ckpt = NULL;
    ls_status status = load_weights(train, &ckpt);
    if (status == LS_OK) {
        ls_log_info("begun with the weights of %s (step %lld)", ls_ckpt_path(ckpt),
                    (long long)ls_ckpt_step(ckpt));
    }
    ls_ckpt_close(ckpt);
    LS_TRY(ls_session_agree(&train->session, status));
    return ls_session_agree(&train->session, ls_state_refresh(train->state));
}
