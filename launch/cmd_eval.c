#include "launch/choices.h"
#include "launch/cmd.h"
#include "launch/devices.h"
#include "launch/json_text.h"
#include "launch/tokenizer_files.h"
#include "launch/weights.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/counters/counters.h"
#include "runtime/data/data.h"
#include "runtime/step/step.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_DATA,
    OPT_SPLIT,
    OPT_BATCHES,
    OPT_MICRO,
    OPT_CHOICES,
    OPT_FIELDS,
    OPT_TOKENIZER,
    OPT_COMPUTE,
    OPT_DEVICE,
    OPT_THREADS,
    OPT_JSON,
    OPT_COUNT
};

static const ls_option options[] = {
    [OPT_DATA] = {"data", 'd', "DIR", NULL,
                  "token shards, or a mixture as data.dir of a run; default: the run's own"},
    [OPT_SPLIT] = {"split", 's', "NAME", "val", "train or val"},
    [OPT_BATCHES] = {"batches", 'n', "N", "0",
                     "micro-batches (or questions), spread evenly over the split; 0: all of it"},
    [OPT_MICRO] = {"micro", 'b', "N", NULL, "sequences of a micro-batch; default: the run's"},
    [OPT_CHOICES] = {"choices", 0, "FILE", NULL,
                     "multiple-choice questions instead, JSONL: which ending is likeliest?"},
    [OPT_FIELDS] = {"fields", 0, "NAMES", "ctx,endings,label",
                    "of a question: its context, its list of endings, the right one's number"},
    [OPT_TOKENIZER] =
        {"tokenizer", 0, "FILE", NULL,
         "the questions', where no tokenizer.json lies beside the checkpoints of a run"},
    [OPT_COMPUTE] = {"compute", 0, "TYPE", NULL, "auto, fp32 or bf16; default: the run's"},
    [OPT_DEVICE] = {"device", 0, "NAME", "auto", "cpu or cuda; auto: a GPU where there is one"},
    [OPT_THREADS] = {"threads", 0, "N", "0",
                     "threads of a rank; 0: the host's divided by its ranks"},
    [OPT_JSON] = {"json", 0, NULL, NULL, "print a JSON object"},
    {NULL, 0, NULL, NULL, NULL}};

typedef struct outcome {
    double loss, bits; /* a byte; NAN: its bytes are not known */
    int64_t targets;
} outcome;

typedef struct eval {
    ls_session session;
    ls_weights weights;
    ls_dataset *dataset;
    outcome *parts; /* of the data */
    long long batches, micro, threads;
    ls_split split;
    ls_cfg_device device;
    ls_compute compute;
    const char *data;
    const char *choices_path, *fields, *tokenizer_path;
    ls_choices choices;
    ls_tokenizer *tokenizer;
    bool json;
} eval;

/* LS_COMPUTE_COUNT: not given. */
static ls_status parse_compute(const char *text, ls_compute *compute) {
    static const char *const names[] = {
        [LS_COMPUTE_AUTO] = "auto", [LS_COMPUTE_FP32] = "fp32", [LS_COMPUTE_BF16] = "bf16"};
    *compute = LS_COMPUTE_COUNT;
    for (size_t i = 0; text && i < sizeof names / sizeof *names; i++) {
        *compute = strcmp(text, names[i]) == 0 ? (ls_compute)i : *compute;
    }
    return !text || *compute != LS_COMPUTE_COUNT
               ? LS_OK
               : LS_FAIL(LS_E_USAGE, "--compute is '%s'; auto, fp32 or bf16 is needed", text);
}

static ls_status parse(eval *e, const char **values) {
    for (int i = 0; i < OPT_COUNT; i++) {
        values[i] = values[i] ? values[i] : options[i].fallback;
    }
    e->data = values[OPT_DATA];
    e->json = values[OPT_JSON] != NULL;
    e->choices_path = values[OPT_CHOICES];
    e->fields = values[OPT_FIELDS];
    e->tokenizer_path = values[OPT_TOKENIZER];
    if (e->choices_path && (values[OPT_DATA] || values[OPT_MICRO])) {
        return LS_FAIL(LS_E_USAGE, "--choices are questions instead of data; "
                                   "leave --data and --micro out");
    }
    if (strcmp(values[OPT_SPLIT], "train") != 0 && strcmp(values[OPT_SPLIT], "val") != 0) {
        return LS_FAIL(LS_E_USAGE, "--split is '%s'; train or val is needed", values[OPT_SPLIT]);
    }
    e->split = strcmp(values[OPT_SPLIT], "train") == 0 ? LS_SPLIT_TRAIN : LS_SPLIT_VAL;
    LS_TRY(ls_device_parse(values[OPT_DEVICE], &e->device));
    LS_TRY(parse_compute(values[OPT_COMPUTE], &e->compute));
    LS_TRY(ls_option_int("batches", values[OPT_BATCHES], 0, INT64_MAX, &e->batches));
    LS_TRY(ls_option_int("threads", values[OPT_THREADS], 0, 4096, &e->threads));
    return values[OPT_MICRO] ? ls_option_int("micro", values[OPT_MICRO], 1, 1 << 20, &e->micro)
                             : LS_OK;
}

static ls_status open_checkpoint(eval *e, const char *path) {
    LS_TRY(ls_weights_open(&e->session, path, &e->weights));
    LS_TRY(ls_session_open(&e->session, NULL, e->device, e->threads));
    if (e->compute != LS_COMPUTE_COUNT) {
        e->weights.config.numerics.compute = e->compute;
    }
    return LS_OK;
}

static ls_status load(eval *e) {
    const ls_config *config = &e->weights.config;
    e->data = e->data ? e->data : config->data.dir;
    e->micro = e->micro ? e->micro : config->batch.micro;
    ls_status status =
        ls_dataset_open(e->data, e->split, config->data.sequence, false, &e->dataset);
    if (status != LS_OK && e->data == config->data.dir && !ls_path_is_dir(e->data)) {
        ls_error_prefix(status, "the run's own data (--data names another directory)");
    }
    if (status == LS_OK && ls_dataset_describe(e->dataset)->vocab > config->model.vocab) {
        status = LS_FAIL(LS_E_INPUT,
                         "the tokens in '%s' go up to %lld, but the model's vocabulary is %lld",
                         e->data, (long long)ls_dataset_describe(e->dataset)->vocab - 1,
                         (long long)config->model.vocab);
    }
    LS_TRY(ls_session_agree(&e->session, status));
    if (e->session.comm->rank == 0) {
        ls_weights_doubt_data(e->weights.ckpt, config->model.vocab, e->data,
                              ls_dataset_describe(e->dataset));
    }
    ls_model_options model = {.batch = e->micro,
                              .seq = config->data.sequence,
                              .document_mask = config->data.document_mask,
                              .document_token = ls_dataset_document_token(e->dataset),
                              .narrow_logits =
                                  e->weights.config.numerics.logits == LS_CFG_LOGITS_COMPUTE,
                              .loss_mask = ls_dataset_is_masked(e->dataset)};
    return ls_session_agree(&e->session, ls_weights_load(&e->weights, e->session.dev, model));
}

static double bits_per_byte(const ls_dataset_info *info, double loss) {
    return info->bytes ? loss / log(2.0) * (double)info->targets / (double)info->bytes : NAN;
}

/* What is not finite is null. */
static json_t *result_json(const char *data, const outcome *r) {
    return json_pack("{s:o, s:I, s:o, s:o, s:o}", "data", ls_json_text(data), "targets",
                     (json_int_t)r->targets, "loss", ls_json_real(r->loss), "perplexity",
                     ls_json_real(exp(r->loss)), "bits_per_byte", ls_json_real(r->bits));
}

static ls_status print_json(const eval *e, const outcome *all, const char *dtype) {
    json_t *json = json_pack("{s:i, s:o, s:s}", "schema", 1, "checkpoint",
                             ls_json_text(ls_ckpt_path(e->weights.ckpt)), "compute", dtype);
    json_t *mean = result_json(e->data, all);
    json_object_update(json, mean);
    json_decref(mean);
    const int parts = ls_dataset_parts(e->dataset);
    json_t *list = parts > 1 ? json_array() : NULL;
    for (int i = 0; list && i < parts; i++) {
        const ls_dataset_part part = ls_dataset_part_at(e->dataset, i);
        json_t *one = result_json(part.dir, &e->parts[i]);
        json_object_set_new(one, "share", json_real(part.share));
        json_array_append_new(list, one);
    }
    if (list) {
        json_object_set_new(json, "parts", list);
    }
    return ls_json_print(json, LS_JSON_ALL_DIGITS);
}

static void print_text(const outcome *r) {
    printf("loss %.6f, perplexity %.4f", r->loss, exp(r->loss));
    if (!isnan(r->bits)) {
        printf(", %.4f bits per byte", r->bits);
    }
    printf("\n");
}

static const char *dtype_name(const eval *e) {
    return ls_dtype_name(ls_session_dtype(e->weights.config.numerics.compute, e->session.dev));
}

static ls_status print_result(const eval *e, const outcome *all) {
    const char *dtype = dtype_name(e);
    const int parts = ls_dataset_parts(e->dataset);
    if (e->json) {
        LS_TRY(print_json(e, all, dtype));
    } else {
        printf("%s\n%lld targets of '%s', computed in %s\n", ls_ckpt_path(e->weights.ckpt),
               (long long)all->targets, e->data, dtype);
        print_text(all);
        for (int i = 0; i < parts && parts > 1; i++) {
            const ls_dataset_part part = ls_dataset_part_at(e->dataset, i);
            printf("%5.1f %% %s: ", 100 * part.share, part.dir);
            print_text(&e->parts[i]);
        }
    }
    return isfinite(all->loss)
               ? LS_OK
               : LS_FAIL(LS_E_DIVERGED,
                         "the loss is %g, not finite: weights of '%s' are not (see `lockstep ckpt "
                         "stats`), or values overflow on the way (--compute fp32 tells)",
                         all->loss, ls_ckpt_path(e->weights.ckpt));
}

/* Each part of the data; *all: their mean by their shares. */
static ls_status evaluate(eval *e, outcome *all) {
    const ls_runner_options runner_options = {
        .dev = e->session.dev, .models = &e->weights.model, .parts = 1, .data = e->session.comm};
    const int parts = ls_dataset_parts(e->dataset);
    ls_runner *runner;
    *all = (outcome){0};
    LS_TRY(ls_calloc((size_t)parts, sizeof *e->parts, &e->parts));
    LS_TRY(ls_runner_create(&runner_options, &runner));
    ls_status status = LS_OK;
    for (int i = 0; i < parts && status == LS_OK; i++) {
        const ls_dataset_part part = ls_dataset_part_at(e->dataset, i);
        ls_eval_result result = {0};
        status = ls_step_evaluate(runner, e->dataset, i, e->micro, (e->batches + parts - 1) / parts,
                                  &result);
        if (status == LS_OK && result.targets == 0) {
            status =
                LS_FAIL(LS_E_INPUT, "no token of what was read of '%s' is a target; %s", part.dir,
                        e->batches > 0 ? "raise --batches" : "its loss mask takes all out");
        }
        e->parts[i] = (outcome){result.loss, bits_per_byte(part.info, result.loss), result.targets};
        all->loss += part.share * result.loss;
        all->bits += part.share * e->parts[i].bits;
        all->targets += result.targets;
    }
    ls_runner_destroy(runner);
    return status;
}

static ls_status evaluate_data(eval *e) {
    outcome result;
    LS_TRY(load(e));
    LS_TRY(evaluate(e, &result));
    const bool first_rank = e->session.comm->rank == 0;
    return ls_session_agree(&e->session, first_rank ? print_result(e, &result) : LS_OK);
}

static ls_status read_choices(eval *e) {
    const char *name =
        json_string_value(json_object_get(ls_ckpt_run(e->weights.ckpt), "tokenizer"));
    LS_TRY(
        ls_tokenizer_find(ls_ckpt_path(e->weights.ckpt), name, e->tokenizer_path, &e->tokenizer));
    const ls_choices_encoder encoder = {.tokenizer = e->tokenizer,
                                        .begin = ls_weights_begin(&e->weights),
                                        .vocab = e->weights.config.model.vocab};
    return ls_choices_read(e->choices_path, e->fields, &encoder, &e->choices);
}

/* Of a share of so many: the standard error of the mean. */
static double standard_error(double share, int64_t count) {
    return count > 1 ? sqrt(share * (1.0 - share) / (double)(count - 1)) : NAN;
}

static ls_status print_score(const eval *e, const ls_choices_score *s) {
    const double acc = (double)s->right / (double)s->questions;
    const double norm = (double)s->right_norm / (double)s->questions;
    const double error = standard_error(acc, s->questions);
    const double norm_error = standard_error(norm, s->questions);
    if (e->json) {
        return ls_json_print(
            json_pack("{s:i, s:o, s:s, s:o, s:I, s:I, s:f, s:f, s:o, s:f, s:o}", "schema", 1,
                      "checkpoint", ls_json_text(ls_ckpt_path(e->weights.ckpt)), "compute",
                      dtype_name(e), "choices", ls_json_text(e->choices_path), "questions",
                      (json_int_t)s->questions, "cut", (json_int_t)s->cut, "chance", s->chance,
                      "acc", acc, "acc_stderr", ls_json_real(error), "acc_norm", norm,
                      "acc_norm_stderr", ls_json_real(norm_error)),
            LS_JSON_ALL_DIGITS);
    }
    printf("%s\n%lld questions of '%s', computed in %s\n", ls_ckpt_path(e->weights.ckpt),
           (long long)s->questions, e->choices_path, dtype_name(e));
    if (s->cut > 0) {
        printf("%lld are longer than the model's context and lost their beginning\n",
               (long long)s->cut);
    }
    printf("acc %.4f +- %.4f, acc_norm %.4f +- %.4f (by chance %.4f)\n", acc, error, norm,
           norm_error, s->chance);
    return LS_OK;
}

static ls_status evaluate_choices(eval *e) {
    ls_choices_score score;
    LS_TRY(ls_session_agree(&e->session, read_choices(e)));
    LS_TRY(ls_choices_evaluate(&e->session, &e->weights, &e->choices, e->batches, &score));
    const bool first_rank = e->session.comm->rank == 0;
    return ls_session_agree(&e->session, first_rank ? print_score(e, &score) : LS_OK);
}

static ls_status run_eval(int argc, char **argv) {
    static eval e; /* one a process */
    LS_TRY(ls_session_begin(&e.session, &argc, &argv));
    const char *values[OPT_COUNT];
    int first;
    ls_status status = ls_options_parse(&ls_verb_eval, argc, argv, values, &first);
    if (status == LS_OK && first + 1 != argc) {
        status = LS_FAIL(LS_E_USAGE,
                         "one checkpoint is needed, found %d operands; usage: lockstep eval %s",
                         argc - first, ls_verb_eval.synopsis);
    }
    if (status == LS_OK) {
        status = parse(&e, values);
    }
    LS_TRY(ls_session_agree(&e.session, status));
    status = open_checkpoint(&e, argv[first]);
    if (status == LS_OK) {
        status = e.choices_path ? evaluate_choices(&e) : evaluate_data(&e);
    }
    ls_choices_release(&e.choices);
    ls_tokenizer_release(e.tokenizer);
    ls_weights_close(&e.weights);
    free(e.parts);
    ls_dataset_close(e.dataset);
    ls_session_close(&e.session);
    return status;
}

const ls_verb ls_verb_eval = {
    .name = "eval",
    .synopsis = "[options] CHECKPOINT",
    .summary = "loss and bits per byte on prepared data, or multiple-choice questions",
    .text = "Evaluates a checkpoint on token shards, alone or under mpirun. The result does not\n"
            "depend on the number of ranks. Of a mixture each part is told, and their mean by\n"
            "their shares.\n"
            "\n"
            "  lockstep eval runs/first --data data --split val\n"
            "\n"
            "With --choices it answers multiple-choice questions, a line of JSONL each: of the\n"
            "endings of a context the one that is likeliest, by all of its tokens (acc) or a\n"
            "character (acc_norm), as lm-evaluation-harness counts them.\n"
            "\n"
            "  lockstep eval runs/first --choices hellaswag_val.jsonl --fields ctx,endings,label",
    .options = options,
    .run = run_eval,
};
