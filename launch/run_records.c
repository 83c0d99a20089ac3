#include "launch/run_records.h"

#include "runtime/base/arena.h"
#include "runtime/base/file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void copy_text(char *to, size_t size, const json_t *json, const char *key) {
    const char *text = json_string_value(json_object_get(json, key));
    snprintf(to, size, "%s", text ? text : "");
}

typedef ls_status (*take_line)(ls_run_records *records, const json_t *line);

/* Each line of a JSONL file; LS_OK when there is no such file. */
static ls_status each_line(const char *run_dir, const char *file, take_line take,
                           ls_run_records *records) {
    char path[1024];
    LS_TRY(ls_path_join(path, sizeof path, run_dir, file));
    FILE *f = fopen(path, "r");
    if (!f) {
        return errno == ENOENT ? LS_OK
                               : LS_FAIL(LS_E_IO, "cannot read '%s': %s", path, strerror(errno));
    }
    char *text = NULL;
    size_t size = 0;
    ls_status status = LS_OK;
    while (status == LS_OK && getline(&text, &size, f) > 0) {
        json_t *line = json_loads(text, 0, NULL);
        if (json_is_object(line)) { /* else torn by a kill */
            status = take(records, line);
        }
        json_decref(line);
    }
    free(text);
    fclose(f);
    return status;
}

/* Room for one more of an array that doubles. */
static ls_status grow(void *array, int64_t count, size_t elem_bytes) {
    if (count & (count - 1)) {
        return LS_OK;
    }
    void **memory = array;
    void *more = realloc(*memory, (size_t)(count ? 2 * count : 1) * elem_bytes);
    if (!more) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %lld records", (long long)count + 1);
    }
    *memory = more;
    return LS_OK;
}

static ls_status take_start(ls_run_records *r, const json_t *line) {
    LS_TRY(grow(&r->starts, r->start_count, sizeof *r->starts));
    ls_run_start *s = &r->starts[r->start_count++];
    *s = (ls_run_start){.begin_s = ls_json_number(line, "time"),
                        .ranks = ls_json_integer(line, "ranks"),
                        .hosts = ls_json_integer(line, "hosts"),
                        .usd = NAN};
    s->end_s = s->begin_s;
    copy_text(s->job, sizeof s->job, line, "job");
    copy_text(s->host, sizeof s->host, line, "host");
    copy_text(s->account, sizeof s->account, line, "account");
    copy_text(s->project, sizeof s->project, line, "project");
    copy_text(s->device, sizeof s->device, line, "device");
    return LS_OK;
}

/* A step that is done again takes the place of those that were lost. */
static ls_status take_step(ls_run_records *r, const json_t *line) {
    int64_t step = ls_json_integer(line, "step"), start = ls_json_integer(line, "restarts");
    while (r->step_count > 0 && r->steps[r->step_count - 1].step >= step) {
        r->step_count--;
    }
    LS_TRY(grow(&r->steps, r->step_count, sizeof *r->steps));
    ls_run_step *s = &r->steps[r->step_count++];
    *s = (ls_run_step){.step = step,
                       .tokens = ls_json_integer(line, "tokens"),
                       .seconds = ls_json_number(line, "seconds"),
                       .loss = ls_json_number(line, "loss"),
                       .val_loss = ls_json_number(line, "val_loss"),
                       .tokens_per_second = ls_json_number(line, "tokens_per_second"),
                       .usd = ls_json_number(line, "usd")};
    const json_t *phases = json_object_get(line, "phase_seconds");
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        s->phase_seconds[p] =
            json_number_value(json_object_get(phases, ls_phase_name((ls_phase)p)));
    }
    if (start >= 0 && start < r->start_count) {
        ls_run_start *of = &r->starts[start];
        of->end_s = ls_json_number(line, "time");
        of->steps++;
        of->tokens += ls_json_integer(line, "step_tokens");
        of->usd = s->usd;
    }
    return LS_OK;
}

/* usd of a start's last step is that of the run so far: make it the start's own. */
static void divide_usd(ls_run_records *r) {
    double before = 0.0;
    for (int i = 0; i < r->start_count; i++) {
        double so_far = r->starts[i].usd;
        r->starts[i].usd = so_far - before;
        before = isfinite(so_far) ? so_far : before;
    }
}

static ls_status read_ledger(const char *run_dir, ls_run_records *r) {
    char path[1024];
    LS_TRY(ls_path_join(path, sizeof path, run_dir, "ledger.json"));
    json_error_t error;
    json_t *ledger = json_load_file(path, 0, &error);
    if (!ledger) {
        return LS_FAIL(LS_E_INPUT,
                       "'%s' has no readable ledger.json (%s); give the directory of a run that "
                       "has saved a checkpoint or ended, or %s/* for all in a folder",
                       run_dir, error.text, run_dir);
    }
    ls_status status = LS_OK;
    if (ls_json_integer(ledger, "version") != 1) {
        status = LS_FAIL(LS_E_VERSION, "'%s' has version %lld; this program reads version 1", path,
                         (long long)ls_json_integer(ledger, "version"));
    }
    copy_text(r->name, sizeof r->name, ledger, "run");
    copy_text(r->account, sizeof r->account, ledger, "account");
    copy_text(r->project, sizeof r->project, ledger, "project");
    const json_t *price = json_object_get(ledger, "price");
    copy_text(r->price_kind, sizeof r->price_kind, price, "kind");
    copy_text(r->price_date, sizeof r->price_date, price, "date");
    r->usd_per_device_hour = ls_json_number(price, "usd_per_device_hour");
    r->planned_steps = ls_json_integer(ledger, "planned_steps");
    if (status == LS_OK) {
        status = ls_counters_parse(json_object_get(ledger, "counters"), &r->counters);
    }
    json_t *prediction = json_object_get(ledger, "prediction");
    r->prediction = json_is_object(prediction) ? json_incref(prediction) : NULL;
    json_decref(ledger);
    return status;
}

static void read_outcome(const char *run_dir, ls_run_records *r) {
    char path[1024];
    if (ls_path_join(path, sizeof path, run_dir, "outcome") != LS_OK) {
        return;
    }
    FILE *f = fopen(path, "r");
    if (f) {
        if (fgets(r->outcome, sizeof r->outcome, f)) {
            r->outcome[strcspn(r->outcome, "\n")] = '\0';
        }
        fclose(f);
    }
}

/* Steps that a killed start did after its last ledger. */
static void add_tail(ls_run_records *r) {
    ls_counters *c = &r->counters;
    for (int64_t i = 0; i < r->step_count; i++) {
        const ls_run_step *s = &r->steps[i];
        if (s->step <= c->steps) {
            continue;
        }
        c->steps = s->step;
        c->tokens = s->tokens;
        for (int p = 0; p < LS_PHASE_COUNT; p++) {
            c->seconds[p] += s->phase_seconds[p];
        }
        double ranks = r->start_count ? (double)r->starts[r->start_count - 1].ranks : 1.0;
        c->device_seconds += s->seconds * ranks;
        c->usd = isfinite(s->usd) ? s->usd : c->usd;
    }
}

ls_status ls_run_records_read(const char *run_dir, ls_run_records *records) {
    *records = (ls_run_records){0};
    ls_status status = read_ledger(run_dir, records);
    if (status == LS_OK) {
        status = each_line(run_dir, "starts.jsonl", take_start, records);
    }
    if (status == LS_OK) {
        status = each_line(run_dir, "train.jsonl", take_step, records);
    }
    if (status != LS_OK) {
        ls_run_records_free(records);
        return status;
    }
    divide_usd(records);
    read_outcome(run_dir, records);
    add_tail(records);
    return LS_OK;
}

void ls_run_records_free(ls_run_records *records) {
    free(records->starts);
    free(records->steps);
    json_decref(records->prediction);
    records->prediction = NULL;
    records->starts = NULL;
    records->steps = NULL;
}
