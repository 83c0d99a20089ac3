#include "checkpoint/prune.h"
#include "launch/cmd.h"
#include "launch/session_limit.h"
#include "launch/tokenizer_files.h"
#include "launch/train.h"
#include "launch/train_fit.h"
#include "launch/train_ledger.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_RESUME,
    OPT_CHANGE,
    OPT_UNTIL,
    OPT_QUIET,
    OPT_DRY,
    OPT_RANKS,
    OPT_FIT,
    OPT_RUN_DIR,
    OPT_COUNT
};

static const ls_option options[] = {
    [OPT_RESUME] = {"resume", 'r', NULL, NULL,
                    "continue the run from its newest valid checkpoint; begin it if there is none"},
    [OPT_CHANGE] = {"change", 0, NULL, NULL,
                    "with --resume: go on with a batch, length of samples, optimizer settings, "
                    "schedule, precision or data that are not the checkpoint's; what changes is "
                    "told and recorded. Other data, and samples of another length, begin anew, but "
                    "go on where the run has left them before; shares of a mixture, where each "
                    "directory was left"},
    [OPT_UNTIL] = {"until", 'u', "STEP", NULL,
                   "save, stop and exit with 75 after this step, as if asked to by a signal"},
    [OPT_QUIET] = {"quiet", 'q', NULL, NULL, "no progress on stderr, warnings and errors only"},
    [OPT_DRY] =
        {"dry-run", 'n', NULL, NULL,
         "print the mesh, what each rank would hold and send, the pipeline's idle time and, "
         "with cost.cluster, how long a step would take; train nothing"},
    [OPT_RANKS] = {"ranks", 0, "N", NULL, "plan a dry run for N ranks; default: those that run"},
    [OPT_FIT] = {"fit", 0, NULL, NULL,
                 "print the best layout for --ranks N or fewer, as settings; train nothing"},
    [OPT_RUN_DIR] = {"run-dir", 0, NULL, NULL, "print the run's directory; train nothing"},
    {NULL, 0, NULL, NULL, NULL}};

/* A setting is section.key=value; a path may have a '=' too, behind a '/'. */
static bool is_path(const char *word) {
    const size_t key = strcspn(word, "=");
    return word[key] == '\0' || memchr(word, '/', key) != NULL;
}

/* Not a run, nor a checkpoint of one: their settings can be said. */
static ls_status refuse_folder(const char *path) {
    static const char *const files[] = {"config.yaml", "../config.yaml", "../../config.yaml"};
    char config[PATH_MAX];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (ls_path_join(config, sizeof config, path, files[i]) == LS_OK &&
            ls_path_exists(config)) {
            return LS_FAIL(LS_E_USAGE,
                           "'%s' is a directory; to go on with its run: lockstep train '%s' "
                           "--resume",
                           path, config);
        }
    }
    return LS_FAIL(LS_E_USAGE, "'%s' is a directory; give a configuration, a YAML file", path);
}

/* The settings of a run are in its checkpoints, too. */
static ls_status load_file(ls_config *config, const char *path, const char *const *sets,
                           int count) {
    char folder[PATH_MAX], checkpoints[PATH_MAX];
    const char *slash = path ? strrchr(path, '/') : NULL;
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    if (path && !ls_path_exists(path) && errno == ENOENT &&
        ls_path_join(checkpoints, sizeof checkpoints, folder, "checkpoints") == LS_OK &&
        ls_path_is_dir(checkpoints)) {
        return LS_FAIL(LS_E_INPUT,
                       "'%s' does not exist; the settings are in the run's checkpoints too: "
                       "lockstep ckpt show '%s' --config >'%s'",
                       path, folder, path);
    }
    return ls_config_load(config, path, sets, count);
}

static ls_status load_config(ls_train *train, bool dry, int argc, char **argv, int first) {
    const char *path = NULL;
    if (first < argc && is_path(argv[first])) {
        path = argv[first++];
    }
    ls_status status =
        path && ls_path_is_dir(path)
            ? refuse_folder(path)
            : load_file(&train->config, path, (const char *const *)argv + first, argc - first);
    const bool needs_data = !dry || train->config.model.vocab == 0;
    if (status == LS_OK && !dry && train->config.run.steps == 0 && train->config.run.tokens == 0) {
        status = LS_FAIL(LS_E_CONFIG, "neither run.steps nor run.tokens is given; set one of them, "
                                      "such as run.steps=1000");
    }
    if (status == LS_OK && needs_data && !train->config.data.dir[0]) {
        status =
            LS_FAIL(LS_E_CONFIG, "data.dir is not given; make one with 'lockstep prep INPUT -o "
                                 "DIR' and say data.dir=DIR");
    }
    LS_TRY(ls_session_agree(&train->session, status));
    ls_sha256 hash;
    LS_TRY(ls_session_agree(&train->session, ls_config_hash(&train->config, &hash)));
    return ls_session_agree(
        &train->session,
        ls_comm_check_same(train->session.comm, "configuration", &hash, sizeof hash));
}

/* Checksums are read once a host: its first rank does it for the others. */
static ls_status open_data(ls_train *train) {
    ls_config *config = &train->config;
    const int64_t seq = config->data.sequence;
    bool verify = config->data.verify && train->session.mesh.host_rank == 0;
    ls_status status =
        ls_dataset_open(config->data.dir, LS_SPLIT_TRAIN, seq, verify, &train->train_data);
    if (status == LS_OK) {
        const ls_dataset_info *info = ls_dataset_describe(train->train_data);
        if (config->model.vocab == 0) {
            config->model.vocab = info->vocab;
        } else if (config->model.vocab < info->vocab) {
            status = LS_FAIL(
                LS_E_CONFIG, "model.vocab is %lld, but the tokens in '%s' go up to %lld; %s",
                (long long)config->model.vocab, config->data.dir, (long long)info->vocab - 1,
                config->run.init[0] != '\0'
                    ? "prepare the data with the tokenizer of run.init's model"
                    : "prepare the data with this model's tokenizer, or, for a new run, take the "
                      "vocabulary from the data with model.vocab=0");
        }
    }
    LS_TRY(ls_session_agree(&train->session, status));
    status = ls_dataset_open(config->data.dir, LS_SPLIT_VAL, seq, verify, &train->val_data);
    if (status == LS_E_INPUT && ls_dataset_lacks(config->data.dir, LS_SPLIT_VAL)) {
        status = LS_OK;
    }
    return ls_session_agree(&train->session, status);
}

/* Before any memory is taken. */
static ls_status lay_out(ls_train *train) {
    ls_device *dev = train->session.dev;
    const ls_dtype dtype = ls_session_dtype(train->config.numerics.compute, dev);
    LS_TRY(ls_layout_init(&train->layout, &train->config, dev, dtype, &train->session.mesh));
    train->layout.document_token = ls_dataset_document_token(train->train_data);
    train->layout.loss_mask = ls_dataset_is_masked(train->train_data);
    LS_TRY(ls_layout_plan(&train->layout, &train->planned));
    ls_train_count_steps(train);
    return LS_OK;
}

/* The run directory is this job's from here on, and what jobs before it have left there is cleared.
 * Rank 0 only. */
static ls_status own_run_dir(ls_train *train) {
    LS_TRY(ls_lock_take(&train->lock, train->run_dir));
    return ls_ckpt_stale_sweep(train->ckpt_root, true);
}

static ls_status name_run_dir(ls_train *train) {
    return ls_path_join(train->run_dir, sizeof train->run_dir, train->config.run.dir,
                        train->config.run.name);
}

static ls_status check_names(const ls_train *train) {
    const char *const paths[] = {train->config.run.dir, train->run_dir};
    for (int i = 0; i < 2; i++) {
        if (ls_path_exists(paths[i]) && !ls_path_is_dir(paths[i])) {
            return LS_FAIL(LS_E_CONFIG,
                           "'%s' is no directory; choose another run.dir or run.name: the run's "
                           "files go to '%s'",
                           paths[i], train->run_dir);
        }
    }
    return LS_OK;
}

/* Refuses a run directory that exists before any work is done, or that another job works in; it is
 * made after everything else has succeeded, so that a run that could not begin leaves nothing
 * behind. */
static ls_status check_run_dir(ls_train *train, bool resume) {
    ls_status status = name_run_dir(train);
    if (status == LS_OK) {
        status =
            ls_path_join(train->ckpt_root, sizeof train->ckpt_root, train->run_dir, "checkpoints");
    }
    status = status == LS_OK && train->session.comm->rank == 0 ? check_names(train) : status;
    if (status == LS_OK && train->session.comm->rank == 0 && !resume &&
        ls_path_exists(train->run_dir)) {
        status = LS_FAIL(LS_E_EXISTS,
                         "the run directory '%s' exists; add --resume to continue that run, or "
                         "choose another run.name",
                         train->run_dir);
    } else if (status == LS_OK && train->session.comm->rank == 0 &&
               ls_path_is_dir(train->run_dir)) {
        status = own_run_dir(train);
    }
    return ls_session_agree(&train->session, status);
}

/* Only the job that owns the directory tells there how it ends: another's word would be taken for
 * that of the job that runs. */
static ls_status tell_outcome(ls_train *train) {
    bool owned = train->lock.path[0] != '\0'; /* on rank 0, which takes it */
    ls_comm *comm = train->session.comm;
    LS_TRY(ls_session_agree(&train->session,
                            comm->ops->broadcast(comm, &owned, (int64_t)sizeof owned, 0)));
    if (!owned || train->tells_outcome) {
        return LS_OK;
    }
    train->tells_outcome = true;
    return ls_session_tell_outcome(&train->session, train->run_dir, &train->earlier_outcome);
}

static ls_status write_run_dir(ls_train *train) {
    LS_TRY(ls_dir_create(train->run_dir));
    LS_TRY(train->lock.path[0] ? LS_OK : own_run_dir(train));
    char path[900];
    LS_TRY(ls_path_join(path, sizeof path, train->run_dir, "config.yaml"));
    char *text;
    LS_TRY(ls_config_text(&train->config, true, &text));
    ls_status status = ls_file_replace(path, text, strlen(text));
    free(text);
    LS_TRY(status);
    return ls_tokenizer_known(ls_dataset_describe(train->train_data)->tokenizer)
               ? ls_tokenizer_carry(ls_dataset_part_at(train->train_data, 0).dir, train->ckpt_root)
               : LS_OK;
}

static ls_status make_run_dir(ls_train *train) {
    return ls_session_agree(&train->session,
                            train->session.comm->rank == 0 ? write_run_dir(train) : LS_OK);
}

static ls_status begin_or_resume(ls_train *train, bool resuming) {
    char path[1024] = "";
    if (resuming) {
        LS_TRY(ls_train_resume(train, path));
    }
    if (!path[0]) {
        const ls_config_run *run = &train->config.run;
        if (resuming && train->session.comm->rank == 0) {
            ls_log_info("no checkpoint in %s: the run begins anew", train->ckpt_root);
        }
        LS_TRY(ls_session_agree(&train->session, ls_train_check_schedule(train, 0)));
        LS_TRY(ls_session_agree(&train->session, ls_state_init(train->state, (uint64_t)run->seed)));
        return run->init[0] ? ls_train_load_weights(train) : LS_OK;
    }
    ls_log_info("resumed from %s at step %lld of %lld", path, (long long)train->step,
                (long long)train->total_steps);
    if (train->step > train->total_steps && train->session.comm->rank == 0) {
        ls_log_warn("the run has gone beyond its %lld steps, to step %lld: nothing is left to "
                    "train; raise run.steps (or run.tokens) to go on",
                    (long long)train->total_steps, (long long)train->step);
    }
    return LS_OK;
}

/* Settings that the model or another setting makes none. Rank 0 only. */
static void warn_of_unused_settings(const ls_config *c) {
    const bool llama = c->model.family == LS_FAMILY_LLAMA3;
    if (!llama && (c->model.rope_theta != 500000.0 || c->model.rope_scaling)) {
        ls_log_warn("model.rope_%s is set, and family gpt2 has learned positions: it has no effect",
                    c->model.rope_scaling ? "scaling" : "theta");
    }
    if (c->model.expert_capacity > 0.0 && c->model.experts == 0) {
        ls_log_warn("model.expert_capacity is %g, and model.experts is 0: it has no effect",
                    c->model.expert_capacity);
    }
    if (c->schedule.decay_steps > 0 && c->schedule.kind != LS_SCHEDULE_WSD) {
        ls_log_warn("schedule.decay_steps is %lld, and schedule.kind is not wsd: it has no effect",
                    (long long)c->schedule.decay_steps);
    }
    if (c->recompute.every > 1 && c->recompute.mode == LS_RECOMPUTE_NONE) {
        ls_log_warn("recompute.every is %lld, and recompute.mode is none: nothing is recomputed",
                    (long long)c->recompute.every);
    } else if (c->recompute.every > c->model.layers) {
        ls_log_warn(
            "recompute.every is %lld, and the model has %lld layers: the first one alone is "
            "recomputed",
            (long long)c->recompute.every, (long long)c->model.layers);
    }
}

/* Settings that do not do what they say, for the sake of others. Rank 0 only. */
static void warn_of_idle_settings(const ls_train *train) {
    const ls_config *c = &train->config;
    const long long steps = (long long)train->total_steps;
    int64_t first = 0, last;
    warn_of_unused_settings(c);
    if (ls_config_trace_steps(&c->metrics, &first, &last) == LS_OK && first > train->total_steps) {
        ls_log_warn("metrics.trace_steps is '%s', and the run ends with step %lld: nothing is "
                    "traced",
                    c->metrics.trace_steps, steps);
    }
    if (c->schedule.warmup_steps > train->total_steps - c->schedule.first_step) {
        ls_log_warn("schedule.warmup_steps is %lld, and the run ends with step %lld: the learning "
                    "rate never comes to optim.lr, %g; lower schedule.warmup_steps",
                    (long long)c->schedule.warmup_steps, steps, c->optim.lr);
    }
    if (c->checkpoint.keep_best > 0 && c->eval.every == 0) {
        ls_log_warn("checkpoint.keep_best is %lld, but only the last step is evaluated; set "
                    "eval.every to the steps between saves (%lld)",
                    (long long)c->checkpoint.keep_best, (long long)c->checkpoint.every);
    }
}

/* How often a run reads each part of its mixture, from where it is to its end. Rank 0 only. */
static void announce_mixture(const ls_train *train) {
    const ls_dataset *data = train->train_data;
    const int64_t samples = (train->total_steps - train->step) * train->layout.batch;
    for (int i = 0; i < ls_dataset_parts(data) && ls_dataset_parts(data) > 1; i++) {
        const ls_dataset_part part = ls_dataset_part_at(data, i);
        char tokens[32];
        ls_log_info("%.4g %% of the samples from %s, whose %s tokens are read %.3g times",
                    100 * part.share, part.dir,
                    ls_text_count(tokens, sizeof tokens, (double)part.info->tokens),
                    part.share * (double)samples / (double)part.info->windows);
    }
}

static void announce(const ls_train *train) {
    char params[32], memory[32], tokens[32], copy[32], all[32], targets[48] = "";
    const ls_dataset_info *data = ls_dataset_describe(train->train_data);
    const int64_t snapshot = ls_ckpt_saver_bytes(train->saver);
    int64_t count = ls_model_param_count(&train->config.model);
    char domains[48] = "";
    const int count_of_domains = train->session.domains.hosts;
    if (count_of_domains > 0) {
        snprintf(domains, sizeof domains, ", %d NVLink domain%s", count_of_domains,
                 count_of_domains == 1 ? "" : "s");
    }
    ls_log_info("%s: %s parameters, %s%s, %s on %d rank%s of %d thread%s, %d host%s%s",
                train->config.run.name, ls_text_count(params, sizeof params, (double)count),
                ls_dtype_name(train->layout.dtype), ls_layout_logits(&train->layout),
                train->session.dev->describe, train->session.comm->size,
                train->session.comm->size == 1 ? "" : "s", train->session.threads,
                train->session.threads == 1 ? "" : "s", train->session.mesh.hosts,
                train->session.mesh.hosts == 1 ? "" : "s", domains);
    if (ls_dataset_is_masked(train->train_data)) {
        snprintf(targets, sizeof targets, ", %.1f %% of them targets",
                 100.0 * (double)data->targets / (double)data->tokens);
    }
    ls_log_info(
        "batch of %lld sequences x %lld tokens in micro-batches of %lld; %lld steps over %s "
        "tokens of data%s; %s a rank%s%s, %s with program and libraries",
        (long long)train->layout.batch, (long long)train->layout.seq,
        (long long)train->config.batch.micro, (long long)train->total_steps,
        ls_text_count(tokens, sizeof tokens, (double)data->tokens), targets,
        ls_text_bytes(memory, sizeof memory, (double)ls_layout_used(&train->planned)),
        snapshot > 0 ? ", and for saves in the background " : "",
        snapshot > 0 ? ls_text_bytes(copy, sizeof copy, (double)snapshot) : "",
        ls_text_bytes(all, sizeof all, (double)ls_train_memory_planned(train)));
    if (train->session.comm->rank == 0) {
        announce_mixture(train);
        warn_of_idle_settings(train);
    }
}

static ls_status setup(ls_train *train, bool resume, int argc, char **argv, int first) {
    ls_session_limit_start("to read the configuration"); /* until the ranks are connected */
    LS_TRY(load_config(train, false, argc, argv, first));
    const ls_config *config = &train->config;
    LS_TRY(check_run_dir(train, resume));
    const bool from_file = resume && first < argc && is_path(argv[first]);
    LS_TRY(ls_session_agree(&train->session,
                            from_file ? ls_train_check_place(train, argc - first, argv + first)
                                      : LS_OK));
    LS_TRY(ls_session_agree(&train->session, ls_train_ledger_price(train)));
    LS_TRY(tell_outcome(train));
    train->session.attention = config->numerics.attention;
    LS_TRY(ls_session_open(&train->session, &config->parallel, config->run.device,
                           config->run.threads));
    LS_TRY(ls_session_connect(&train->session, config->parallel.transport));
    LS_TRY(ls_session_watch(&train->session, &config->faults, train->run_dir));
    LS_TRY(ls_session_agree(&train->session, ls_train_memory_begin(train)));
    LS_TRY(open_data(train));
    LS_TRY(ls_session_agree(&train->session, lay_out(train)));
    LS_TRY(ls_train_memory_check(train));
    LS_TRY(ls_train_build(train));
    LS_TRY(begin_or_resume(train, resume));
    LS_TRY(ls_train_saver_open(train));
    LS_TRY(make_run_dir(train));
    LS_TRY(tell_outcome(train)); /* of a new directory */
    LS_TRY(ls_train_start_loader(train));
    ls_model_flops flops;
    ls_model_count_flops(&config->model, train->layout.seq, &flops);
    train->flops_per_token = flops.matmul_per_token + flops.attention_causal_per_token;
    train->head_flops_per_token = flops.head_per_token;
    LS_TRY(ls_train_ledger_begin(train));
    announce(train);
    return LS_OK;
}

/* On the first rank alone; the others only agree. */
static ls_status dry_run(ls_train *train, bool fit, long long ranks, int argc, char **argv,
                         int first) {
    LS_TRY(load_config(train, true, argc, argv, first));
    LS_TRY(ls_session_open(&train->session, NULL, train->config.run.device,
                           train->config.run.threads));
    LS_TRY(ls_session_agree(&train->session, ls_train_memory_begin(train)));
    if (train->config.model.vocab == 0) {
        LS_TRY(open_data(train));
    }
    ls_status status = LS_OK;
    if (train->session.comm->rank == 0) {
        status = fit ? ls_train_fit(train, (int)ranks) : ls_train_dry_run(train, (int)ranks);
    }
    return ls_session_agree(&train->session, status);
}

static ls_status print_run_dir(ls_train *train, int argc, char **argv, int first) {
    LS_TRY(load_config(train, true, argc, argv, first));
    LS_TRY(ls_session_agree(&train->session, name_run_dir(train)));
    if (train->session.comm->rank == 0) {
        puts(train->run_dir);
    }
    return LS_OK;
}

/* The losses of a mixture's parts. */
static void print_parts(json_t *losses) {
    const char *dir, *between = ": ";
    const json_t *loss;
    json_object_foreach(losses, dir, loss) {
        printf("%s%s %.4f", between, dir, json_number_value(loss));
        between = ", ";
    }
}

static void summarise(const ls_train *train) {
    char tokens[32], seconds[32];
    double wall = ls_counters_wall(&train->counters);
    printf("%s: step %lld of %lld, %s tokens in %s\n", train->config.run.name,
           (long long)train->step, (long long)train->total_steps,
           ls_text_count(tokens, sizeof tokens, (double)train->counters.tokens),
           ls_text_duration(seconds, sizeof seconds, wall));
    if (!isnan(train->train_loss)) {
        printf("training loss %.4f\n", train->train_loss);
    }
    if (!isnan(train->val_loss)) {
        const ls_dataset_info *val = ls_dataset_describe(train->val_data);
        printf("validation loss %.4f", train->val_loss);
        if (val->bytes > 0 && !train->val_parts) {
            printf(", %.3f bits per byte",
                   train->val_loss / log(2.0) * (double)val->targets / (double)val->bytes);
        }
        print_parts(train->val_parts);
        printf("\n");
    }
    if (isfinite(train->counters.usd)) {
        char usd[32];
        printf("cost %s\n", ls_text_usd(usd, sizeof usd, train->counters.usd));
    }
    if (train->memory.peak_bytes > 0) {
        char peak[32], planned[32], others[32], more[32], uneven[80] = "";
        if (train->memory.uneven_bytes > 0) {
            snprintf(uneven, sizeof uneven, " and %s for an uneven choice of experts",
                     ls_text_bytes(more, sizeof more, (double)train->memory.uneven_bytes));
        }
        printf("memory of rank %lld %s at most, %s planned%s", (long long)train->memory.rank,
               ls_text_bytes(peak, sizeof peak, (double)train->memory.peak_bytes),
               ls_text_bytes(planned, sizeof planned, (double)train->memory.planned_bytes), uneven);
        if (train->memory.others_bytes > 0) {
            printf("; its resident set counts %s of other ranks' too",
                   ls_text_bytes(others, sizeof others, (double)train->memory.others_bytes));
        }
        printf("\n");
    }
    if (train->memory.device_bytes > 0) {
        const ls_memory_record *m = &train->memory;
        char taken[32], planned[32], nccl[32], foreign[32];
        printf("GPU memory of rank %lld %s, %s planned; besides %s of NCCL's and %s that was taken "
               "before, CUDA's context among it\n",
               (long long)m->rank, ls_text_bytes(taken, sizeof taken, (double)m->device_bytes),
               ls_text_bytes(planned, sizeof planned, (double)m->device_planned_bytes),
               ls_text_bytes(nccl, sizeof nccl, (double)m->device_nccl_bytes),
               ls_text_bytes(foreign, sizeof foreign, (double)m->device_foreign_bytes));
    }
    if (train->last_ckpt[0]) {
        printf("checkpoint %s\n", train->last_ckpt);
    }
}

/* Every rank comes here, after a failure that all of them know of too: a save that is still under
 * way on some of them is ended by all, and keeps its state; what was saved before the failure is
 * sound. */
static void tear_down(ls_train *train) {
    if (train->saver) {
        const ls_error failure = *ls_error_last();
        (void)ls_train_save_poll(train, true);
        if (failure.code != LS_OK) {
            ls_error_restore(&failure);
        }
    }
    ls_train_saver_close(train);
    ls_lock_release(&train->lock);
    ls_loader_destroy(train->loader);
    ls_train_release(train);
    ls_dataset_close(train->train_data);
    ls_dataset_close(train->val_data);
    json_decref(train->places);
    json_decref(train->val_parts);
    ls_train_ledger_end(train);
    ls_session_close(&train->session);
}

static ls_status parse_ranks(const char *const *values, long long *ranks) {
    if (!values[OPT_DRY] && !values[OPT_FIT]) {
        return LS_FAIL(LS_E_USAGE,
                       "--ranks is for --dry-run and --fit; to train on %s ranks, start them "
                       "with mpirun -n %s",
                       values[OPT_RANKS], values[OPT_RANKS]);
    }
    return ls_option_int("ranks", values[OPT_RANKS], 1, 1 << 20, ranks);
}

static ls_status run_train(int argc, char **argv) {
    static ls_train train; /* large, and one a process */
    train.val_loss = train.train_loss = NAN;
    train.saved_step = -1;
    train.counters = ls_counters_begin();
    ls_session_watch_signals();
    LS_TRY(ls_session_begin(&train.session, &argc, &argv));
    const char *values[OPT_COUNT];
    int first;
    ls_session_limit_start("to read the command line");
    LS_TRY(ls_session_agree(&train.session,
                            ls_options_parse(&ls_verb_train, argc, argv, values, &first)));
    ls_log_set_quiet(values[OPT_QUIET] != NULL);
    long long until = INT64_MAX;
    if (values[OPT_UNTIL]) {
        LS_TRY(ls_session_agree(&train.session,
                                ls_option_int("until", values[OPT_UNTIL], 1, INT64_MAX, &until)));
    }
    train.until_step = until;
    train.may_change = values[OPT_CHANGE] != NULL;
    if (train.may_change && !values[OPT_RESUME]) {
        return ls_session_agree(&train.session,
                                LS_FAIL(LS_E_USAGE, "--change is for runs that are resumed: add "
                                                    "--resume"));
    }
    long long ranks = train.session.comm->size;
    if (values[OPT_RANKS]) {
        LS_TRY(ls_session_agree(&train.session, parse_ranks(values, &ranks)));
    }
    ls_session_limit_start(NULL);
    const bool where = values[OPT_RUN_DIR] != NULL, fit = values[OPT_FIT] != NULL;
    const bool dry = where || fit || values[OPT_DRY] != NULL;
    ls_status status = where ? print_run_dir(&train, argc, argv, first)
                       : dry ? dry_run(&train, fit, ranks, argc, argv, first)
                             : setup(&train, values[OPT_RESUME] != NULL, argc, argv, first);
    if (status == LS_OK && !dry) {
        status = ls_train_loop(&train);
        if (status == LS_OK || ls_session_failure_shared()) {
            ls_session_tell_end(&train.session, status);
        }
        if ((status == LS_OK || status == LS_E_STOPPED) && train.session.comm->rank == 0) {
            summarise(&train);
        }
    }
    if (status == LS_OK || ls_session_failure_shared()) {
        tear_down(&train);
    }
    return status;
}

const ls_verb ls_verb_train = {
    .name = "train",
    .synopsis = "[--resume] [CONFIG.yaml] [section.key=value ...]",
    .summary = "train a model (under mpirun or srun; alone: one rank)",
    .text =
        "Trains the model that the configuration describes. Settings come from the file, then\n"
        "from section.key=value on the command line. Everything about the run is kept in\n"
        "RUN.DIR/RUN.NAME: config.yaml, train.jsonl (a line a step), checkpoints/,\n"
        "ledger.json (the receipt), starts.jsonl (a line a start), outcome (how it ended),\n"
        "metrics.prom and TensorBoard's event files.\n"
        "SIGINT, SIGTERM, SIGUSR1, SIGHUP (a terminal that is closed; nohup keeps it away), the\n"
        "file RUN.DIR/RUN.NAME/stop and the near end of a Slurm job finish the step, save a\n"
        "checkpoint and exit with 75.\n"
        "\n"
        "  lockstep train gpt2.yaml run.name=first data.dir=data\n"
        "  mpirun -n 8 lockstep train gpt2.yaml optim.lr=6e-4 --resume\n"
        "  lockstep train big.yaml parallel.tensor=8 parallel.zero=3 --dry-run --ranks 64",
    .options = options,
    .settings = true,
    .run = run_train,
};
