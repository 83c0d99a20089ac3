/* When and what the run saves; checkpoint/saver.h does it. */
#include "checkpoint/prune.h"
#include "launch/train_ledger.h"
#include "launch/train_pieces.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/device/device_async.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

/* The losses of late, oldest first, where a spike would change what the run does. */
static json_t *losses_json(const ls_train *train) {
    const ls_guard_losses *l = &train->losses;
    json_t *list = json_array();
    for (int i = 0; i < l->count && train->config.faults.on_spike != LS_CFG_BAD_WARN; i++) {
        json_array_append_new(list, json_real(ls_guard_loss(l, i)));
    }
    return list;
}

/* How far the parts of a mixture have been read, by "FINGERPRINT/LENGTH"; NULL: it is none. */
static json_t *parts_json(const ls_train *train) {
    const int parts = ls_dataset_parts(train->train_data);
    json_t *places = parts > 1 ? json_object() : NULL;
    for (int i = 0; places && i < parts; i++) {
        char key[48];
        ls_train_place_key(ls_dataset_part_at(train->train_data, i).info,
                           ls_dataset_seq(train->train_data), key);
        json_object_set_new(
            places, key, json_integer(ls_dataset_place(train->train_data, i, train->next_sample)));
    }
    return places;
}

/* 64-bit numbers as text: JSON readers keep only 53 bits. */
static json_t *run_json(const ls_train *train) {
    const ls_dataset_info *data = ls_dataset_describe(train->train_data);
    json_t *begin = data->begin >= 0 ? json_integer((json_int_t)data->begin) : NULL;
    json_t *ends = NULL;
    if (data->turn_end >= 0) {
        ends = json_pack("[I,I]", (json_int_t)data->separator, (json_int_t)data->turn_end);
    }
    bool evaluated = train->val_step == train->step && isfinite(train->val_loss);
    char fingerprint[24];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, data->fingerprint);
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:O*, s:o*, s:o, s:s, s:s, s:I, s:o*, s:o*, s:I, s:I, s:o, s:o}",
        "seed", (json_int_t)train->config.run.seed, "samples", (json_int_t)train->next_sample,
        "sequences", (json_int_t)train->sequences, "positions", (json_int_t)train->positions,
        "places", train->places, "parts", parts_json(train), "losses", losses_json(train),
        "data_fingerprint", fingerprint, "tokenizer", data->tokenizer, "separator",
        (json_int_t)data->separator, "begin", begin, "ends", ends, "optimizer_updates",
        (json_int_t)ls_optim_updates(train->optim), "data_parallel",
        (json_int_t)train->layout.data_ranks, "attention", ls_train_attention_json(train),
        "val_loss", evaluated ? json_real(train->val_loss) : json_null());
}

/* ---- state in a device's memory; the context is the run ---- */

static ls_status copy(void *context, const ls_ckpt_tensor *to, int count) {
    (void)count; /* all of the list */
    return ls_pieces_copy(((const ls_train *)context)->saving, to, false);
}

static ls_status copy_start(void *context, const ls_ckpt_tensor *to, int count) {
    (void)count;
    return ls_pieces_copy(((const ls_train *)context)->saving, to, true);
}

static ls_status pin(void *context, void *memory, size_t bytes) {
    ls_device *dev = ((const ls_train *)context)->session.dev;
    return dev->async->pin(dev, memory, bytes);
}

static ls_status unpin(void *context, void *memory) {
    ls_device *dev = ((const ls_train *)context)->session.dev;
    return dev->async->unpin(dev, memory);
}

static ls_status hold(void *context) {
    ls_device *dev = ((const ls_train *)context)->session.dev;
    return dev->async->hold(dev);
}

static ls_status copy_done(void *context, bool wait, bool *done) {
    ls_device *dev = ((const ls_train *)context)->session.dev;
    return dev->async->fetched(dev, wait, done);
}

static const ls_ckpt_fetch fetch = {copy, pin, unpin, copy_start, hold, copy_done};

/* A full disk stops no training, but it is better known before. Rank 0 looks; all give their share.
 */
static ls_status check_space(ls_train *train, const ls_pieces *pieces) {
    ls_comm *comm = train->session.comm;
    int64_t bytes = 0;
    for (int i = 0; i < pieces->count; i++) {
        bytes += ls_box_elems(&pieces->tensors[i].box) *
                 (int64_t)ls_dtype_bytes(pieces->tensors[i].dtype);
    }
    LS_TRY(comm->ops->all_reduce(comm, &bytes, 1, LS_I64, LS_SUM));
    struct statvfs fs;
    const char *where = ls_path_is_dir(train->run_dir)
                            ? train->run_dir
                            : (ls_path_is_dir(train->config.run.dir) ? train->config.run.dir : ".");
    if (comm->rank == 0 && statvfs(where, &fs) == 0) {
        const double room = (double)fs.f_bavail * (double)fs.f_frsize;
        char free_text[32], need_text[32];
        if (room < 2.0 * (double)bytes) {
            ls_log_warn("%s are free for '%s', and a checkpoint takes up to %s, the one before it "
                        "beside it: make room, or set checkpoint.keep_last; a save that fails "
                        "stops no training",
                        ls_text_bytes(free_text, sizeof free_text, room), train->run_dir,
                        ls_text_bytes(need_text, sizeof need_text, (double)bytes));
        }
    }
    return LS_OK;
}

ls_status ls_train_saver_open(ls_train *train) {
    const ls_config_checkpoint *config = &train->config.checkpoint;
    ls_pieces p;
    ls_status status = ls_pieces_list(train, true, &p);
    if (status == LS_OK) {
        status = ls_calloc(1, sizeof *train->saving, &train->saving);
    }
    status = ls_session_agree(&train->session, status);
    if (status == LS_OK) {
        status = check_space(train, &p);
    }
    if (status == LS_OK) {
        const ls_ckpt_saver_options options = {
            .comm = train->session.comm,
            .async = config->async,
            .writer_per_host = config->writers == LS_CFG_WRITER_NODE,
            .fetch = train->session.dev->host_memory ? NULL : &fetch,
            .fetch_context = train,
            .tensors = p.tensors,
            .count = p.count};
        status = ls_session_agree(&train->session, ls_ckpt_saver_create(&options, &train->saver));
    }
    ls_pieces_release(&p);
    return status;
}

void ls_train_saver_close(ls_train *train) {
    ls_ckpt_saver_destroy(train->saver);
    train->saver = NULL;
    if (train->saving) {
        ls_pieces_release(train->saving);
        free(train->saving);
        train->saving = NULL;
    }
}

/* now: training waits, so that all threads are free for it. */
static int writing_threads(const ls_train *train, bool now) {
    int64_t given = train->config.checkpoint.threads, all = train->session.threads;
    return (int)(now ? all : given > 0 ? given : all / 4); /* 0: one */
}

static ls_status start(ls_train *train, bool now) {
    const ls_config_checkpoint *config = &train->config.checkpoint;
    ls_pieces p;
    char *config_text = NULL;
    train->counters.steps = train->step;
    train->counters.as_of_s =
        ls_clock_steady_wall_s() - 1e-9 * (double)(ls_clock_ns() - train->last_ns);
    json_t *run = run_json(train), *counters = ls_counters_json(&train->counters);
    ls_status status = ls_pieces_list(train, true, &p);
    train->has_saved = true;
    if (status == LS_OK) {
        status = ls_config_text(&train->config, false, &config_text);
    }
    status = ls_session_agree(&train->session, status);
    if (status == LS_OK) {
        const ls_ckpt_save_options options = {
            .root = train->ckpt_root,
            .step = train->step,
            .tokens = train->counters.tokens,
            .level = (int)config->level,
            .threads = writing_threads(train, now || !config->async),
            .parity = (int)config->parity,
            .keep = {config->keep_last, config->keep_every, config->keep_best},
            .config_text = config_text,
            .run = run,
            .counters = counters};
        *train->saving = p; /* until they are copied */
        p = (ls_pieces){0};
        ls_ckpt_saver_start(train->saver, &options, train->saving->tensors, train->saving->count,
                            now);
    }
    if (status == LS_OK && (now || !config->async)) {
        status = ls_train_save_poll(train, true);
    }
    json_decref(run);
    json_decref(counters);
    free(config_text);
    ls_pieces_release(&p);
    return status;
}

void ls_train_save_settle(ls_train *train) {
    if (train->saving) {
        ls_ckpt_saver_settle(train->saver);
        ls_pieces_release(train->saving);
    }
}

ls_status ls_train_save(ls_train *train, bool now) {
    bool busy = false;
    if (now || train->config.checkpoint.busy == LS_CFG_BUSY_WAIT) {
        LS_TRY(ls_train_save_poll(train, true));
    } else if (train->config.checkpoint.async) {
        LS_TRY(ls_ckpt_saver_any_busy(train->saver, &busy));
    }
    if (busy) {
        ls_log_info("step %lld is not saved: the checkpoint before is still being written; "
                    "checkpoint.busy=wait would wait for it",
                    (long long)train->step);
        return LS_OK;
    }
    return start(train, now);
}

static void report(ls_train *train, const ls_ckpt_outcome *outcome) {
    const ls_ckpt_save_result *r = &outcome->result;
    char stored[32], smaller[48] = "", seconds[32], stall[32];
    if (outcome->status != LS_OK) {
        if (train->session.comm->rank == 0) {
            ls_log_warn("the checkpoint of step %lld was not saved: %s; training goes on and the "
                        "checkpoints before it are untouched",
                        (long long)outcome->step, outcome->error.message);
        }
        return;
    }
    if (r->raw_bytes > r->stored_bytes) {
        snprintf(smaller, sizeof smaller, " (%.2fx smaller)",
                 (double)r->raw_bytes / (double)r->stored_bytes);
    }
    ls_log_info("checkpoint %s: %s%s in %s, training waited %s", r->path,
                ls_text_bytes(stored, sizeof stored, (double)r->stored_bytes), smaller,
                ls_text_duration(seconds, sizeof seconds, r->seconds),
                ls_text_duration(stall, sizeof stall, outcome->stall_seconds));
}

ls_status ls_train_save_poll(ls_train *train, bool wait) {
    ls_ckpt_outcome outcome;
    bool ended;
    LS_TRY(ls_ckpt_saver_poll(train->saver, wait, &ended, &outcome));
    if (!ended) {
        return LS_OK;
    }
    ls_train_save_settle(train);
    const ls_ckpt_save_result *r = &outcome.result;
    bool failed = outcome.status != LS_OK;
    report(train, &outcome);
    train->counters.saves += !failed;
    train->counters.failed_saves += failed;
    train->counters.save_raw_bytes += r->raw_bytes;
    train->counters.save_stored_bytes += r->stored_bytes;
    train->counters.save_stall_seconds += outcome.stall_seconds;
    train->limit.save_s = fmax(train->limit.save_s, r->seconds);
    if (!failed) {
        train->saved_step = outcome.step;
        memcpy(train->last_ckpt, r->path, sizeof train->last_ckpt);
    }
    train->save = (ls_save_record){.step = outcome.step,
                                   .failed = failed,
                                   .raw_bytes = r->raw_bytes,
                                   .stored_bytes = r->stored_bytes,
                                   .seconds = r->seconds,
                                   .stall_seconds = outcome.stall_seconds};
    ls_train_ledger_write(train);
    return LS_OK;
}
