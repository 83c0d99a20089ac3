#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/counters/counters.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct mlperf {
    int fd;
    char path[1024];
    int64_t step, total_steps;
} mlperf;

/* One line: value and metadata are stolen. */
static ls_status say(const mlperf *s, const char *type, const char *key, double time_s, int line,
                     json_t *value, json_t *metadata) {
    json_object_set_new(metadata, "file", json_string("sink_mlperf.c"));
    json_object_set_new(metadata, "lineno", json_integer(line));
    json_t *json = json_pack("{s:s, s:I, s:s, s:s, s:o, s:o}", "namespace", "", "time_ms",
                             (json_int_t)(time_s * 1e3), "event_type", type, "key", key, "value",
                             value, "metadata", metadata);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    char *whole = NULL;
    size_t bytes = text ? strlen(text) : 0;
    if (text && (whole = malloc(bytes + 12))) {
        memcpy(whole, ":::MLLOG ", 9);
        memcpy(whole + 9, text, bytes);
        whole[9 + bytes] = '\n';
    }
    ls_status status = whole ? ls_file_write_all(s->fd, whole, bytes + 10, s->path)
                             : LS_FAIL(LS_E_MEMORY, "no memory for a line of '%s'", s->path);
    free(whole);
    free(text);
    return status;
}

#define SAY(s, type, key, time_s, value, metadata)                                                 \
    say((s), (type), (key), (time_s), __LINE__, (value), (metadata))
#define STEP(r) json_pack("{s:I}", "step_num", (json_int_t)(r)->step)

static ls_status mlperf_open(const char *run_dir, int64_t every, void **state) {
    (void)every;
    mlperf *s = calloc(1, sizeof *s);
    if (!s) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the MLPerf log");
    }
    ls_status status = ls_path_join(s->path, sizeof s->path, run_dir, "mlperf.log");
    if (status == LS_OK) {
        s->fd = open(s->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        status = s->fd >= 0 ? SAY(s, "INTERVAL_START", "run_start", ls_clock_steady_wall_s(),
                                  json_null(), json_object())
                            : LS_FAIL(LS_E_IO, "cannot open '%s': %s", s->path, strerror(errno));
    }
    if (status != LS_OK) {
        free(s);
        return status;
    }
    *state = s;
    return LS_OK;
}

static ls_status mlperf_step(void *state, const ls_step_record *r) {
    mlperf *s = state;
    s->step = r->step;
    s->total_steps = r->total_steps;
    json_t *stats = json_pack("{s:f, s:f}", "throughput", r->tokens_per_second, "lr", r->lr);
    if (isfinite(r->loss)) {
        json_object_set_new(stats, "reduced_train_loss", json_real(r->loss));
    }
    LS_TRY(SAY(s, "POINT_IN_TIME", "tracked_stats", r->wall_time_s, stats, STEP(r)));
    if (isnan(r->val_loss)) {
        return LS_OK;
    }
    double begin_s =
        r->wall_time_s - r->phase_seconds[LS_PHASE_CHECKPOINT] - r->phase_seconds[LS_PHASE_EVAL];
    LS_TRY(SAY(s, "INTERVAL_START", "eval_start", begin_s, json_null(), STEP(r)));
    LS_TRY(SAY(s, "POINT_IN_TIME", "eval_accuracy", r->wall_time_s,
               isfinite(r->val_loss) ? json_real(r->val_loss) : json_null(), STEP(r)));
    return SAY(s, "INTERVAL_END", "eval_stop", r->wall_time_s, json_null(), STEP(r));
}

static void mlperf_close(void *state) {
    mlperf *s = state;
    bool done = s->total_steps > 0 && s->step == s->total_steps;
    json_t *metadata = json_pack("{s:s}", "status", done ? "success" : "aborted");
    (void)SAY(s, "INTERVAL_END", "run_stop", ls_clock_steady_wall_s(), json_null(), metadata);
    close(s->fd);
    free(s);
}

const ls_sink_ops ls_sink_mlperf = {
    .name = "mlperf", .open = mlperf_open, .step = mlperf_step, .close = mlperf_close};
