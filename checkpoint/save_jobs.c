#include "checkpoint/parity.h"
#include "checkpoint/prune.h"
#include "checkpoint/save_internal.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ls_save_report(ls_save_said *out, ls_status status) {
    const ls_error *last = ls_error_last();
    out->status = (int32_t)status;
    out->line = status == LS_OK ? 0 : last->line;
    snprintf(out->file, sizeof out->file, "%s", status != LS_OK && last->file ? last->file : "");
    snprintf(out->message, sizeof out->message, "%.*s", (int)sizeof out->message - 1,
             status == LS_OK ? "" : last->message);
}

static ls_status tensor_check(const ls_ckpt_tensor *t) {
    int64_t bytes;
    LS_TRY(ls_ckpt_dims_check(t->dtype, t->ndim, t->dims, &bytes));
    if (t->box.ndim != t->ndim) {
        return LS_FAIL(LS_E_SHAPE, "%d dimensions, its box has %d", t->ndim, t->box.ndim);
    }
    for (int d = 0; d < t->ndim; d++) {
        if (t->box.start[d] < 0 || t->box.extent[d] < 0 ||
            t->box.extent[d] > t->dims[d] - t->box.start[d]) {
            return LS_FAIL(LS_E_SHAPE, "the box [%lld, +%lld) leaves dimension %d of %lld elements",
                           (long long)t->box.start[d], (long long)t->box.extent[d], d,
                           (long long)t->dims[d]);
        }
    }
    return t->data || ls_box_elems(&t->box) == 0 ? LS_OK : LS_FAIL(LS_E_INPUT, "it has no data");
}

ls_status ls_save_check(const ls_ckpt_save_options *options, const ls_ckpt_tensor *tensors,
                        int count) {
    if (options->step < 0 || options->tokens < 0) {
        return LS_FAIL(LS_E_INPUT, "step %lld and tokens %lld must not be negative",
                       (long long)options->step, (long long)options->tokens);
    }
    if (options->level < 0 || options->level > 19) {
        return LS_FAIL(LS_E_INPUT, "compression level %d is not in 0..19", options->level);
    }
    if (options->parity < 0 || options->parity > LS_PARITY_MAX) {
        return LS_FAIL(LS_E_INPUT, "%d parity files are not in 0..%d", options->parity,
                       LS_PARITY_MAX);
    }
    if (!json_is_object(options->run) || !json_is_object(options->counters) ||
        !options->config_text) {
        return LS_FAIL(LS_E_INPUT, "run and counters must be objects, config_text must be given");
    }
    for (int i = 0; i < count; i++) {
        LS_TRY(ls_ckpt_name_check(tensors[i].name));
        ls_status status = tensor_check(&tensors[i]);
        if (status != LS_OK) {
            return ls_error_prefix(status, "tensor '%s'", tensors[i].name);
        }
    }
    return LS_OK;
}

/* Tensors of all ranks of the host as one table. Caller frees *all. */
static ls_status host_tensors(const ls_ckpt_saver *s, ls_ckpt_tensor **all, int *count) {
    int n = s->count;
    for (int i = 0; i < s->snapshot.other_count; i++) {
        n += s->snapshot.others[i].count;
    }
    LS_TRY(ls_calloc((size_t)n, sizeof **all, all));
    if (s->count > 0) {
        memcpy(*all, s->tensors, (size_t)s->count * sizeof **all);
    }
    *count = s->count;
    for (int i = 0; i < s->snapshot.other_count; i++) {
        const ls_snapshot_view *other = &s->snapshot.others[i];
        if (other->count > 0) {
            memcpy(*all + *count, other->tensors, (size_t)other->count * sizeof **all);
        }
        *count += other->count;
    }
    return LS_OK;
}

static ls_status write_file(ls_ckpt_saver *s, json_t **record) {
    ls_ckpt_tensor *all;
    int count;
    if (s->copies) { /* first of all, so that nobody who waits for it waits for a disk */
        ls_snapshot_complete(&s->snapshot, s->now ? omp_get_max_threads() : s->options.threads);
    }
    bool complete = s->snapshot.other_count == 0 || ls_snapshot_await(&s->snapshot);
    if (s->mine.status != LS_OK) {
        return LS_OK; /* the start has said why */
    }
    LS_TRY(ls_ckpt_place_create(&s->place, s->comm->rank == 0));
    if (!s->file[0] || !complete) { /* whoever has failed says why */
        *record = json_object();
        return *record ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for the manifest");
    }
    LS_TRY(host_tensors(s, &all, &count));
    ls_status status = ls_ckpt_file_write(s->place.directory, s->file, s->comm->rank == 0,
                                          &s->options, all, count, record);
    free(all);
    return status;
}

/* What this rank will say next: how its job went, and how long its part of the manifest is. */
static void conclude(ls_ckpt_saver *s, ls_status status) {
    if (s->mine.status != LS_OK) {
        return;
    }
    if (status == LS_OK) {
        free(s->text);
        s->text = json_dumps(s->record, JSON_COMPACT);
        s->mine.record_bytes = s->text ? (int64_t)strlen(s->text) : 0;
        status = s->text ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for the manifest");
    }
    ls_save_report(&s->mine, status);
}

void ls_save_job_write(void *context) {
    ls_ckpt_saver *s = context;
    ls_status status = write_file(s, &s->record);
    const json_t *file = json_array_get(json_object_get(s->record, "files"), 0);
    s->mine.data_bytes = json_integer_value(json_object_get(file, "bytes"));
    memcpy(s->mine.data_file, s->file, sizeof s->mine.data_file);
    conclude(s, status);
}

/* The parity files of a group are made by the rank that wrote its first file. */
static ls_status write_parity(ls_ckpt_saver *s) {
    const char **names;
    int64_t *bytes;
    int files = 0, mine = -1, first, end;
    LS_TRY(ls_calloc((size_t)s->comm->size, sizeof *names, &names));
    ls_status status = ls_calloc((size_t)s->comm->size, sizeof *bytes, &bytes);
    for (int r = 0; r < s->comm->size && status == LS_OK; r++) {
        if (s->reports[r].data_bytes > 0) {
            mine = r == s->comm->rank ? files : mine;
            names[files] = s->reports[r].data_file;
            bytes[files++] = s->reports[r].data_bytes;
        }
    }
    for (int g = 0; g < ls_parity_groups(files) && status == LS_OK; g++) {
        ls_parity_range(files, g, &first, &end);
        if (first == mine) {
            status = ls_ckpt_parity_add(s->place.directory, names, bytes, files, g,
                                        s->options.parity, s->record);
        }
    }
    free(names);
    free(bytes);
    return status;
}

void ls_save_job_parity(void *context) {
    ls_ckpt_saver *s = context;
    conclude(s, write_parity(s));
}

static ls_status commit(ls_ckpt_saver *s) {
    json_t *root = NULL, *index = json_object();
    const int64_t *offsets = ls_save_row(s, RECEIVED_OFFSETS);
    ls_status status = ls_ckpt_manifest_create(&s->options, &root);
    for (int r = 0; r < s->comm->size && status == LS_OK; r++) {
        json_t *part =
            json_loadb(s->texts + offsets[r], (size_t)s->reports[r].record_bytes, 0, NULL);
        status = part ? ls_ckpt_manifest_merge(root, index, part)
                      : LS_FAIL(LS_E_COMM, "the record of rank %d arrived damaged", r);
        json_decref(part);
    }
    if (status == LS_OK) {
        status = ls_ckpt_commit(&s->place, root, true, &s->verdict.totals);
    }
    if (status == LS_OK && ls_ckpt_prune(s->root, &s->options.keep) != LS_OK) {
        ls_log_warn("old checkpoints could not be removed: %s", ls_error_last()->message);
    }
    json_decref(index);
    json_decref(root);
    return status;
}

void ls_save_job_commit(void *context) {
    ls_ckpt_saver *s = context;
    ls_status status = commit(s);
    if (status != LS_OK) {
        ls_ckpt_place_remove(&s->place);
    }
    ls_save_report(&s->verdict.said, status);
    s->verdict.seconds = 1e-9 * (double)(ls_clock_ns() - s->start_ns);
}

/* After a failure. Another rank has a place of its own only where the directory is not shared, or
 * where it was told of another step. */
void ls_save_job_clean(void *context) {
    ls_ckpt_saver *s = context;
    char owner[1200];
    if (s->comm->rank == 0 ||
        ls_path_join(owner, sizeof owner, s->place.temporary, LS_CKPT_OWNER) != LS_OK ||
        !ls_path_exists(owner)) {
        ls_ckpt_place_remove(&s->place);
    }
}
