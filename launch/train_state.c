#include "launch/train.h"
#include "runtime/base/arena.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A parameter's dataset holds its real rows: padding of the vocabulary is not saved. */
static void add_tensor(ls_ckpt_tensor *tensor, char *name, size_t name_bytes, const char *prefix,
                       const ls_param *param, ls_dtype acc, void *data) {
    snprintf(name, name_bytes, "%s%s", prefix, param->name);
    *tensor = (ls_ckpt_tensor){.name = name, .dtype = acc, .ndim = param->ndim};
    memcpy(tensor->dims, param->dims, sizeof tensor->dims);
    tensor->dims[0] = param->valid_rows;
    tensor->box = ls_box_whole(param->ndim, tensor->dims);
    tensor->data = data;
}

ls_status ls_train_tensors(const ls_train *train, ls_ckpt_tensor **tensors, int *count,
                           char (**names)[96]) {
    int param_count, state_count = ls_optim_state_count(train->optim);
    const ls_param *params = ls_model_params(train->model, &param_count);
    size_t total = (size_t)param_count * (size_t)(1 + state_count);
    LS_TRY(ls_calloc(total, sizeof **tensors, tensors));
    ls_status status = ls_calloc(total, sizeof **names, names);
    if (status != LS_OK) {
        free(*tensors);
        return status;
    }
    ls_dtype acc = train->session.dev->acc;
    size_t n = 0;
    for (int i = 0; i < param_count; i++, n++) {
        add_tensor(&(*tensors)[n], (*names)[n], sizeof **names, "", &params[i], acc,
                   (char *)ls_model_masters(train->model) +
                       (size_t)params[i].offset * ls_dtype_bytes(acc));
    }
    for (int s = 0; s < state_count; s++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "optim.%s.", ls_optim_state_name(train->optim, s));
        for (int i = 0; i < param_count; i++, n++) {
            add_tensor(&(*tensors)[n], (*names)[n], sizeof **names, prefix, &params[i], acc,
                       ls_optim_state_at(train->optim, s, params[i].offset));
        }
    }
    *count = (int)n;
    return LS_OK;
}

/* 64-bit numbers as text: JSON readers keep only 53 bits. */
static json_t *run_json(const ls_train *train) {
    const ls_dataset_info *data = ls_dataset_describe(train->train_data);
    char fingerprint[24];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, data->fingerprint);
    return json_pack("{s:I, s:I, s:s, s:s, s:I, s:I, s:I}", "seed",
                     (json_int_t)train->config.run.seed, "samples",
                     (json_int_t)(train->step * train->batch), "data_fingerprint", fingerprint,
                     "tokenizer", data->tokenizer, "separator", (json_int_t)data->separator,
                     "optimizer_updates", (json_int_t)ls_optim_updates(train->optim),
                     "data_parallel", (json_int_t)train->session.comm->size);
}

/* Keeps of each replicated tensor the box that this rank writes. */
static int keep_assigned(const ls_train *train, ls_ckpt_tensor *tensors, int count, ls_box *boxes) {
    ls_ckpt_assign(tensors, count, train->session.comm->rank, train->session.comm->size, boxes);
    int kept = 0;
    for (int i = 0; i < count; i++) {
        if (ls_box_elems(&boxes[i]) == 0) {
            continue;
        }
        ls_ckpt_tensor t = tensors[i];
        size_t row_bytes = ls_dtype_bytes(t.dtype);
        for (int d = 1; d < t.ndim; d++) {
            row_bytes *= (size_t)t.dims[d];
        }
        t.data = (char *)t.data + (size_t)boxes[i].start[0] * row_bytes;
        t.box = boxes[i];
        tensors[kept++] = t;
    }
    return kept;
}

static ls_status save(ls_train *train, ls_ckpt_save_result *result) {
    ls_ckpt_tensor *tensors = NULL;
    char(*names)[96] = NULL;
    ls_box *boxes = NULL;
    char *config_text = NULL;
    int count = 0;
    json_t *run = run_json(train), *counters = ls_counters_json(&train->counters);
    ls_status status = ls_train_tensors(train, &tensors, &count, &names);
    if (status == LS_OK) {
        status = ls_calloc((size_t)count, sizeof *boxes, &boxes);
    }
    if (status == LS_OK) {
        status = ls_config_text(&train->config, false, &config_text);
    }
    status = ls_session_agree(&train->session, status);
    if (status == LS_OK) {
        count = keep_assigned(train, tensors, count, boxes);
        ls_ckpt_save_options options = {.root = train->ckpt_root,
                                        .step = train->step,
                                        .tokens = train->counters.tokens,
                                        .level = (int)train->config.checkpoint.level,
                                        .threads = train->session.threads,
                                        .config_text = config_text,
                                        .run = run,
                                        .counters = counters};
        status = ls_ckpt_save(train->session.comm, &options, tensors, count, result);
    }
    json_decref(run);
    json_decref(counters);
    free(config_text);
    free(boxes);
    free(names);
    free(tensors);
    return status;
}

ls_status ls_train_save(ls_train *train, bool *saved) {
    ls_ckpt_save_result result = {0};
    train->counters.steps = train->step;
    ls_status status = save(train, &result);
    *saved = status == LS_OK;
    if (status != LS_OK) {
        if (train->session.comm->rank == 0) {
            ls_log_warn("the checkpoint of step %lld was not saved: %s; training goes on and the "
                        "checkpoints before it are untouched",
                        (long long)train->step, ls_error_last()->message);
        }
        return LS_OK;
    }
    train->saved_step = train->step;
    memcpy(train->last_ckpt, result.path, sizeof train->last_ckpt);
    char stored[32], seconds[32];
    ls_log_info("checkpoint %s: %s (%.2fx smaller) in %s", result.path,
                ls_text_bytes(stored, sizeof stored, (double)result.stored_bytes),
                result.stored_bytes ? (double)result.raw_bytes / (double)result.stored_bytes : 1.0,
                ls_text_duration(seconds, sizeof seconds, result.seconds));
    return LS_OK;
}

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
    ls_ckpt_tensor *tensors;
    char(*names)[96];
    int count;
    LS_TRY(ls_train_tensors(train, &tensors, &count, &names));
    ls_status status = ls_ckpt_load(ckpt, tensors, count);
    free(names);
    free(tensors);
    LS_TRY(status);
    LS_TRY(ls_model_refresh(train->model));
    LS_TRY(ls_counters_parse(ls_ckpt_counters(ckpt), &train->counters));
    train->counters.restarts++;
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
    return ls_session_agree(&train->session, status);
}
