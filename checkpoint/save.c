/* The stages of a save; saver.h tells them. */
#include "checkpoint/save_internal.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void give(ls_ckpt_saver *s, ls_save_stage next, ls_job_fn job) {
    static ls_worker none;
    s->stage = next;
    ls_worker_give(s->now ? &none : &s->worker, job, s);
}

static ls_status report_start(ls_ckpt_saver *s) {
    s->stage = REPORT;
    return s->comm->ops->all_gather_start(s->comm, &s->mine, s->reports,
                                          ls_save_row(s, REPORT_BYTES),
                                          ls_save_row(s, REPORT_OFFSETS), &s->request);
}

/* What all ranks conclude from the reports: the error of the lowest rank that failed, or that they
 * were asked for different saves. */
static ls_status reports_judge(const ls_ckpt_saver *s) {
    const ls_save_said *all = s->reports, *failed = NULL;
    bool same = true;
    char prefix[32] = "";
    for (int r = s->comm->size - 1; r >= 0; r--) {
        failed = all[r].status != LS_OK ? &all[r] : failed;
        same = same && all[r].status == all[0].status;
    }
    if (failed) {
        if (!same) {
            snprintf(prefix, sizeof prefix, "rank %d: ", (int)(failed - all));
        }
        return ls_error_set((ls_status)failed->status, failed->file, failed->line, "%s%s", prefix,
                            failed->message);
    }
    for (int r = 1; r < s->comm->size; r++) {
        if (all[r].step != all[0].step || all[r].tokens != all[0].tokens ||
            all[r].level != all[0].level || all[r].parity != all[0].parity) {
            return LS_FAIL(LS_E_CONFIG,
                           "rank %d saves step %lld, tokens %lld, level %lld, parity %lld; rank 0 "
                           "saves step %lld, tokens %lld, level %lld, parity %lld",
                           r, (long long)all[r].step, (long long)all[r].tokens,
                           (long long)all[r].level, (long long)all[r].parity,
                           (long long)all[0].step, (long long)all[0].tokens,
                           (long long)all[0].level, (long long)all[0].parity);
        }
    }
    return LS_OK;
}

static ls_status gather_start(ls_ckpt_saver *s) {
    int64_t total = 0;
    for (int r = 0; r < s->comm->size; r++) {
        int64_t bytes = s->comm->rank == 0 ? s->reports[r].record_bytes : 0;
        ls_save_row(s, RECEIVED_BYTES)[r] = bytes;
        ls_save_row(s, RECEIVED_OFFSETS)[r] = total;
        ls_save_row(s, SENT_BYTES)[r] = r == 0 ? s->mine.record_bytes : 0;
        total += bytes;
    }
    s->stage = GATHER;
    LS_TRY(ls_calloc((size_t)total, 1, &s->texts));
    return s->comm->ops->all_to_all_start(
        s->comm, s->text, ls_save_row(s, SENT_BYTES), ls_save_row(s, ZEROS), s->texts,
        ls_save_row(s, RECEIVED_BYTES), ls_save_row(s, RECEIVED_OFFSETS), &s->request);
}

static ls_status tell_start(ls_ckpt_saver *s) {
    s->stage = TELL;
    return s->comm->ops->broadcast_start(s->comm, &s->verdict, sizeof s->verdict, 0, &s->request);
}

/* The error lives in the saver: messages point at its file name. */
static void fail(ls_ckpt_saver *s, ls_status status) {
    ls_save_report(&s->verdict.said, status);
    give(s, CLEAN, ls_save_job_clean);
}

static char *fetched_values(const ls_ckpt_saver *s) {
    return (char *)s->snapshot.mine.base + s->snapshot.mine.values_at;
}

/* Once, when the snapshot's memory has been touched: then it takes no time. */
static void pin(ls_ckpt_saver *s) {
    const size_t bytes = s->snapshot.mine.bytes - s->snapshot.mine.values_at;
    if (!s->pin_tried && s->fetch->pin && s->worker.running && bytes > 0) {
        s->pinned = s->fetch->pin(s->fetch_context, fetched_values(s), bytes) == LS_OK;
        if (!s->pinned) {
            ls_log_warn("training waits for copies of its state: %s", ls_error_last()->message);
        }
    }
    s->pin_tried = true;
}

static void fetch_end(ls_ckpt_saver *s, ls_status status) {
    if (s->mine.status == LS_OK) {
        ls_save_report(&s->mine, status);
    }
    ls_snapshot_fetched(&s->snapshot, s->mine.status == LS_OK);
    give(s, WRITE, ls_save_job_write);
}

/* From here on the copy goes on beside the caller, or is over. */
static void fetch_begin(ls_ckpt_saver *s, ls_status status) {
    const ls_snapshot_view *to = &s->snapshot.mine;
    if (status == LS_OK) {
        pin(s);
        status = (s->pinned ? s->fetch->start : s->fetch->copy)(s->fetch_context, to->tensors,
                                                                to->count);
    }
    if (status == LS_OK && s->pinned) {
        s->stage = FETCH;
    } else {
        fetch_end(s, status);
    }
}

/* What follows when the job or the request of the stage is done. */
static ls_status next_stage(ls_ckpt_saver *s) {
    ls_status status;
    switch (s->stage) {
    case FETCH:
        fetch_end(s, LS_OK);
        return LS_OK;
    case WRITE:
        return report_start(s);
    case REPORT:
        status = reports_judge(s);
        if (status != LS_OK) {
            fail(s, status);
            return LS_OK;
        }
        if (s->options.parity > 0 && !s->parity_made) {
            s->parity_made = true;
            give(s, PARITY, ls_save_job_parity);
            return LS_OK;
        }
        return gather_start(s);
    case PARITY:
        return report_start(s);
    case GATHER:
        if (s->comm->rank == 0) {
            give(s, COMMIT, ls_save_job_commit);
            return LS_OK;
        }
        return tell_start(s);
    case COMMIT:
        return tell_start(s);
    case TELL:
        if (s->verdict.said.status != LS_OK && s->comm->rank != 0) {
            give(s, CLEAN, ls_save_job_clean); /* rank 0 has, of what it sees */
            return LS_OK;
        }
        s->stage = IDLE;
        return LS_OK;
    case CLEAN:
    case IDLE:
        s->stage = IDLE;
    }
    return LS_OK;
}

/* A thread that waits must not take the processor from those it waits for. It waits in the
 * operation, so that the watchdog looks for them. */
static ls_status request_done(ls_ckpt_saver *s, bool wait, bool *done) {
    if (!wait) {
        return s->comm->ops->test(s->comm, s->request, done);
    }
    *done = true;
    return ls_comm_wait_asleep(s->comm, s->request);
}

static ls_status advance(ls_ckpt_saver *s, bool wait) {
    bool done = true;
    while (s->stage != IDLE && done) {
        bool in_job =
            s->stage == WRITE || s->stage == PARITY || s->stage == COMMIT || s->stage == CLEAN;
        if (s->stage == FETCH) {
            ls_status status = s->fetch->done(s->fetch_context, wait, &done);
            if (status != LS_OK) {
                fetch_end(s, status);
                continue;
            }
        } else if (in_job) {
            done = s->now || ls_worker_done(&s->worker, wait);
        } else {
            LS_TRY(request_done(s, wait, &done));
            s->request = done ? NULL : s->request;
        }
        if (done) {
            LS_TRY(next_stage(s));
        }
    }
    return LS_OK;
}

/* ---- one save ---- */

static void forget(ls_ckpt_saver *s) {
    json_decref(s->record);
    free(s->text);
    free(s->texts);
    free(s->config_text);
    free(s->root);
    json_decref(s->run);
    json_decref(s->counters);
    s->text = s->texts = s->config_text = s->root = NULL;
    s->record = s->run = s->counters = NULL;
    s->parity_made = false;
}

/* The caller's things are his again when start returns. */
static ls_status options_keep(ls_ckpt_saver *s, const ls_ckpt_save_options *options) {
    s->options = *options;
    s->options.config_text = s->config_text = strdup(options->config_text);
    s->options.root = s->root = strdup(options->root);
    s->options.run = s->run = json_deep_copy(options->run);
    s->options.counters = s->counters = json_deep_copy(options->counters);
    return s->config_text && s->root && s->run && s->counters
               ? LS_OK
               : LS_FAIL(LS_E_MEMORY, "no memory for what a checkpoint says of its run");
}

static void file_choose(ls_ckpt_saver *s) {
    s->file[0] = '\0';
    if (!s->per_host) {
        snprintf(s->file, sizeof s->file, "rank-%05d.h5", s->comm->rank);
    } else if (s->snapshot.host_rank == 0) {
        snprintf(s->file, sizeof s->file, "node-%05d.h5", s->snapshot.host_index);
    }
}

static ls_status prepare(ls_ckpt_saver *s, const ls_ckpt_save_options *options,
                         const ls_ckpt_tensor *tensors, int count) {
    LS_TRY(ls_ckpt_place_name(&s->place, options->root, options->step, s->nonce));
    LS_TRY(ls_save_check(options, tensors, count));
    return options_keep(s, options);
}

void ls_ckpt_saver_start(ls_ckpt_saver *s, const ls_ckpt_save_options *options,
                         const ls_ckpt_tensor *tensors, int count, bool now) {
    s->start_ns = ls_clock_ns();
    (void)ls_worker_done(&s->worker, true); /* it may still touch the snapshot */
    s->now = now || !s->worker.running;
    s->tensors = tensors;
    s->count = count;
    file_choose(s);
    s->mine = (ls_save_said){.step = options->step,
                             .tokens = options->tokens,
                             .level = options->level,
                             .parity = options->parity};
    ls_status status = prepare(s, options, tensors, count);
    s->copies = !s->now || s->per_host || s->fetch;
    if (s->copies) {
        status = ls_snapshot_begin(&s->snapshot, status, tensors, count, s->fetch != NULL);
        s->tensors = s->snapshot.mine.tensors;
    }
    if (s->fetch) {
        fetch_begin(s, status);
    } else {
        ls_save_report(&s->mine, status); /* here: the error record is this thread's */
        give(s, WRITE, ls_save_job_write);
    }
    s->stall_ns = ls_clock_ns() - s->start_ns;
}

void ls_ckpt_saver_settle(ls_ckpt_saver *s) {
    if (s->stage == FETCH) {
        uint64_t start_ns = ls_clock_ns();
        bool done;
        ls_status status = s->fetch->hold(s->fetch_context);
        if (status != LS_OK) {
            (void)s->fetch->done(s->fetch_context, true, &done);
            fetch_end(s, status);
        }
        s->stall_ns += ls_clock_ns() - start_ns;
    } else if (s->stage != IDLE && s->copies) {
        uint64_t start_ns = ls_clock_ns();
        ls_snapshot_complete(&s->snapshot, omp_get_max_threads());
        s->stall_ns += ls_clock_ns() - start_ns;
    }
}

bool ls_ckpt_saver_busy(const ls_ckpt_saver *s) {
    return s->stage != IDLE;
}

ls_status ls_ckpt_saver_any_busy(ls_ckpt_saver *s, bool *busy) {
    int32_t flag = ls_ckpt_saver_busy(s);
    LS_TRY(s->caller->ops->all_reduce(s->caller, &flag, 1, LS_I32, LS_MAX));
    *busy = flag != 0;
    return LS_OK;
}

static void outcome_fill(ls_ckpt_saver *s, ls_ckpt_outcome *out) {
    static _Thread_local char file[sizeof s->verdict.said.file]; /* error records point at it */
    const ls_save_said *r = &s->verdict.said;
    *out = (ls_ckpt_outcome){.status = (ls_status)r->status,
                             .step = s->mine.step,
                             .stall_seconds = 1e-9 * (double)s->stall_ns};
    if (out->status != LS_OK) {
        memcpy(file, r->file, sizeof file);
        ls_error_set(out->status, file, r->line, "%s", r->message);
        out->error = *ls_error_last();
        return;
    }
    out->result = (ls_ckpt_save_result){.raw_bytes = s->verdict.totals.raw_bytes,
                                        .stored_bytes = s->verdict.totals.stored_bytes,
                                        .seconds = s->verdict.seconds};
    memcpy(out->result.path, s->place.final, sizeof out->result.path);
}

ls_status ls_ckpt_saver_poll(ls_ckpt_saver *s, bool wait, bool *ended, ls_ckpt_outcome *outcome) {
    *ended = false;
    if (s->stage == IDLE) {
        return LS_OK;
    }
    uint64_t start_ns = ls_clock_ns();
    LS_TRY(advance(s, wait));
    s->stall_ns += ls_clock_ns() - start_ns;
    *ended = s->stage == IDLE;
    if (*ended) {
        outcome_fill(s, outcome);
        forget(s);
        s->nonce[1]++;
    }
    return LS_OK;
}

/* ---- savers ---- */

/* Tables, and the part of the names that all ranks share. [collective] */
static ls_status tables_create(ls_ckpt_saver *s) {
    size_t ranks = (size_t)s->comm->size;
    ls_status status = ls_calloc(ranks, sizeof *s->reports, &s->reports);
    if (status == LS_OK) {
        status = ls_calloc(TABLE_ROWS * ranks, sizeof *s->table, &s->table);
    }
    if (status == LS_OK && s->comm->rank == 0) {
        status = ls_ckpt_random(s->nonce);
    }
    LS_TRY(ls_comm_agree(s->comm, status));
    for (size_t r = 0; r < ranks; r++) {
        ls_save_row(s, REPORT_BYTES)[r] = (int64_t)sizeof(ls_save_said);
        ls_save_row(s, REPORT_OFFSETS)[r] = (int64_t)(r * sizeof(ls_save_said));
    }
    return s->comm->ops->broadcast(s->comm, s->nonce, sizeof s->nonce, 0);
}

static ls_status create(ls_ckpt_saver *s, const ls_ckpt_saver_options *o) {
    LS_TRY(o->comm->ops->duplicate(o->comm, &s->comm));
    LS_TRY(tables_create(s));
    if (o->async || o->writer_per_host || o->fetch) {
        LS_TRY(ls_comm_agree(s->comm, ls_snapshot_create(&s->snapshot, s->comm, o->writer_per_host,
                                                         o->tensors, o->count)));
    }
    LS_TRY(ls_comm_agree(s->comm, o->async ? ls_worker_start(&s->worker) : LS_OK));
    return LS_OK;
}

ls_status ls_ckpt_saver_create(const ls_ckpt_saver_options *options, ls_ckpt_saver **saver) {
    ls_ckpt_saver *s;
    *saver = NULL;
    LS_TRY(ls_comm_agree(options->comm, ls_calloc(1, sizeof *s, &s)));
    s->caller = options->comm;
    s->per_host = options->writer_per_host;
    s->fetch = options->fetch;
    s->fetch_context = options->fetch_context;
    ls_status status = create(s, options);
    if (status != LS_OK) {
        ls_ckpt_saver_destroy(s);
        return status;
    }
    *saver = s;
    return LS_OK;
}

void ls_ckpt_saver_destroy(ls_ckpt_saver *s) {
    if (!s) {
        return;
    }
    ls_snapshot_stop(&s->snapshot);
    ls_worker_stop(&s->worker);
    if (s->stage == IDLE && s->comm) {
        s->comm->ops->destroy(s->comm);
    }
    if (s->pinned) {
        (void)s->fetch->unpin(s->fetch_context, fetched_values(s));
    }
    ls_snapshot_release(&s->snapshot);
    if (s->request) { /* other ranks' messages may still arrive in what it holds */
        return;
    }
    forget(s);
    free(s->reports);
    free(s->table);
    free(s);
}

static void touch_snapshot(void *saver) {
    ls_snapshot_touch(&((ls_ckpt_saver *)saver)->snapshot);
}

void ls_ckpt_saver_touch(ls_ckpt_saver *s) {
    if (s->stage == IDLE && s->worker.running) {
        ls_worker_give(&s->worker, touch_snapshot, s);
    }
}

int64_t ls_ckpt_saver_bytes(const ls_ckpt_saver *s) {
    return (int64_t)s->snapshot.mine.bytes;
}

ls_status ls_ckpt_save(ls_comm *comm, const ls_ckpt_save_options *options,
                       const ls_ckpt_tensor *tensors, int count, ls_ckpt_save_result *result) {
    ls_ckpt_saver s = {.comm = comm};
    ls_ckpt_outcome outcome;
    bool ended;
    ls_status status = tables_create(&s);
    if (status == LS_OK) {
        ls_ckpt_saver_start(&s, options, tensors, count, true);
        status = ls_ckpt_saver_poll(&s, true, &ended, &outcome);
    }
    if (status == LS_OK) {
        status = outcome.status;
    }
    if (status == LS_OK && result) {
        *result = outcome.result;
    }
    forget(&s);
    free(s.reports);
    free(s.table);
    return status;
}
