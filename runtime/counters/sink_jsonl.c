#include "runtime/base/file.h"
#include "runtime/counters/counters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct jsonl {
    int fd;
    char path[1024];
} jsonl;

static ls_status jsonl_open(const ls_sink_options *options, void **state) {
    jsonl *s = calloc(1, sizeof *s);
    if (!s) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the metrics file");
    }
    ls_status status = ls_path_join(s->path, sizeof s->path, options->run_dir, "train.jsonl");
    if (status == LS_OK) {
        status = ls_file_open_lines(s->path, &s->fd);
    }
    if (status != LS_OK) {
        free(s);
        return status;
    }
    *state = s;
    return LS_OK;
}

/* JSON has no NaN and no infinity: what is not a number is null. */
/* Null when no save has ended. */
static json_t *save_json(const ls_save_record *s) {
    if (s->step == 0) {
        return json_null();
    }
    return json_pack("{s:I, s:b, s:f, s:f, s:I, s:I, s:o}", "step", (json_int_t)s->step, "failed",
                     (int)s->failed, "seconds", s->seconds, "stall_ms", 1e3 * s->stall_seconds,
                     "raw_bytes", (json_int_t)s->raw_bytes, "stored_bytes",
                     (json_int_t)s->stored_bytes, "ratio",
                     ls_json_real((double)s->raw_bytes / (double)s->stored_bytes));
}

static json_t *bus_json(const ls_step_record *r) {
    json_t *bus = json_object();
    for (int a = 0; a < LS_PHASE_AXES; a++) {
        if (r->bus_bytes_per_second[a] > 0.0) {
            json_object_set_new(bus, ls_phase_name((ls_phase)(LS_PHASE_TENSOR + a)),
                                json_real(r->bus_bytes_per_second[a]));
        }
    }
    return bus;
}

/* Null where no window has ended. */
static json_t *lag_json(const ls_lag_record *lag) {
    return lag->steps == 0
               ? json_null()
               : json_pack("{s:i, s:f, s:f, s:I}", "rank", lag->rank, "seconds", lag->seconds,
                           "factor", lag->factor, "steps", (json_int_t)lag->steps);
}

static json_t *memory_json(const ls_step_record *r) {
    return json_pack("{s:I, s:I, s:o}", "now", (json_int_t)r->memory_bytes, "peak",
                     (json_int_t)r->memory_peak_bytes, "planned",
                     r->memory_planned_bytes > 0 ? json_integer((json_int_t)r->memory_planned_bytes)
                                                 : json_null());
}

static ls_status jsonl_step(void *state, const ls_step_record *r) {
    jsonl *s = state;
    json_t *phases = json_object();
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        json_object_set_new(phases, ls_phase_name((ls_phase)p), ls_json_real(r->phase_seconds[p]));
    }
    json_t *line = json_pack(
        "{s:I, s:I, s:I, s:I, s:f, s:o, s:o, s:o, s:b, s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
        "s:o, s:o, s:o, s:O*, s:o, s:o, s:o, s:o}",
        "step", (json_int_t)r->step, "tokens", (json_int_t)r->tokens, "step_tokens",
        (json_int_t)r->step_tokens, "restarts", (json_int_t)r->restarts, "time", r->wall_time_s,
        "loss", ls_json_real(r->loss), "grad_norm", ls_json_real(r->grad_norm), "lr",
        ls_json_real(r->lr), "skipped", (int)r->skipped, "seconds", r->seconds, "phase_seconds",
        phases, "tokens_per_second", ls_json_real(r->tokens_per_second), "flops_per_second",
        ls_json_real(r->flops_per_second), "mfu", ls_json_real(r->mfu), "hfu", ls_json_real(r->hfu),
        "peak_flops_per_second", ls_json_real(r->peak_flops_per_second), "bus_bytes_per_second",
        bus_json(r), "memory_bytes", memory_json(r), "slowest", lag_json(&r->lag), "val_loss",
        ls_json_real(r->val_loss), "val_losses", r->val_parts, "usd", ls_json_real(r->usd),
        "measured_joules", ls_json_real(r->measured_joules), "goodput", ls_json_real(r->goodput),
        "save", save_json(&r->save));
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(16)) : NULL;
    json_decref(line);
    if (!text) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a line of '%s'", s->path);
    }
    size_t bytes = strlen(text);
    text[bytes] = '\n'; /* in place of the NUL, so that the line is one write */
    ls_status status = ls_file_write_all(s->fd, text, bytes + 1, s->path);
    free(text);
    return status;
}

static void jsonl_close(void *state) {
    jsonl *s = state;
    close(s->fd);
    free(s);
}

const ls_sink_ops ls_sink_jsonl = {
    .name = "jsonl", .open = jsonl_open, .step = jsonl_step, .close = jsonl_close};
