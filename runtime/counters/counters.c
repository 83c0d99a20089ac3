#include "runtime/counters/counters.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *ls_phase_name(ls_phase phase) {
    static const char *const names[] = {
#define X(code, name) [code] = name,
        LS_PHASE_LIST(X)
#undef X
    };
    return names[phase];
}

json_t *ls_json_real(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

ls_counters ls_counters_begin(void) {
    return (ls_counters){
        .measured_joules = NAN, .modelled_joules = NAN, .carbon_g = NAN, .usd = NAN};
}

ls_counters ls_counters_between(const ls_counters *early, const ls_counters *late) {
    ls_counters c = *late;
    c.steps -= early->steps;
    c.tokens -= early->tokens;
    c.skipped_steps -= early->skipped_steps;
    c.restarts -= early->restarts;
    c.lost_steps -= early->lost_steps;
    c.saves -= early->saves;
    c.failed_saves -= early->failed_saves;
    c.save_raw_bytes -= early->save_raw_bytes;
    c.save_stored_bytes -= early->save_stored_bytes;
    c.save_stall_seconds -= early->save_stall_seconds;
    c.device_seconds -= early->device_seconds;
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        c.seconds[p] -= early->seconds[p];
    }
    c.flops -= early->flops;
    c.measured_joules -= early->measured_joules;
    c.modelled_joules -= early->modelled_joules;
    c.carbon_g -= early->carbon_g;
    c.usd -= early->usd;
    return c;
}

/* Seconds of training proper: what throughput is measured over. */
static double training_seconds(const ls_counters *c) {
    double seconds = 0.0;
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        seconds += ls_phase_trains((ls_phase)p) ? c->seconds[p] : 0.0;
    }
    return seconds;
}

double ls_counters_wall(const ls_counters *c) {
    double wall = 0.0;
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        wall += c->seconds[p];
    }
    return wall;
}

double ls_counters_goodput(const ls_counters *c) {
    return training_seconds(c) / ls_counters_wall(c);
}

json_t *ls_counters_json(const ls_counters *c) {
    json_t *phases = json_object();
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        json_object_set_new(phases, ls_phase_name((ls_phase)p), json_real(c->seconds[p]));
    }
    double seconds = training_seconds(c);
    json_t *saves =
        json_pack("{s:I, s:I, s:I, s:I, s:o, s:f}", "done", (json_int_t)c->saves, "failed",
                  (json_int_t)c->failed_saves, "raw_bytes", (json_int_t)c->save_raw_bytes,
                  "stored_bytes", (json_int_t)c->save_stored_bytes, "ratio",
                  ls_json_real((double)c->save_raw_bytes / (double)c->save_stored_bytes),
                  "stall_seconds", c->save_stall_seconds);
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:o, s:f, s:f, s:f, s:o, s:f, s:o, s:o, s:s, s:o, s:o, s:o, "
        "s:o, "
        "s:o, "
        "s:o}",
        "steps", (json_int_t)c->steps, "tokens", (json_int_t)c->tokens, "skipped_steps",
        (json_int_t)c->skipped_steps, "restarts", (json_int_t)c->restarts, "lost_steps",
        (json_int_t)c->lost_steps, "saves", saves, "as_of", c->as_of_s, "device_seconds",
        c->device_seconds, "flops", c->flops, "phase_seconds", phases, "wall_seconds",
        ls_counters_wall(c), "tokens_per_second", ls_json_real((double)c->tokens / seconds),
        "flops_per_second", ls_json_real(c->flops / seconds), "flops_convention",
        "6N + 6 L H D T per token (causal attention, windows at what they show)", "goodput",
        ls_json_real(ls_counters_goodput(c)), "measured_joules", ls_json_real(c->measured_joules),
        "modelled_joules", ls_json_real(c->modelled_joules), "carbon_g", ls_json_real(c->carbon_g),
        "usd", ls_json_real(c->usd), "usd_per_mtoken",
        ls_json_real(c->usd / ((double)c->tokens * 1e-6)));
}

int64_t ls_json_integer(const json_t *json, const char *key) {
    const json_int_t most = (json_int_t)1 << 53;
    const json_int_t value = json_integer_value(json_object_get(json, key));
    return value >= -most && value <= most ? value : 0;
}

double ls_json_number(const json_t *json, const char *key) {
    const json_t *value = json_object_get(json, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

ls_status ls_counters_parse(const json_t *json, ls_counters *c) {
    *c = ls_counters_begin();
    if (!json_is_object(json)) {
        return LS_FAIL(LS_E_INPUT, "the counters are not a JSON object");
    }
    c->steps = ls_json_integer(json, "steps");
    c->tokens = ls_json_integer(json, "tokens");
    c->skipped_steps = ls_json_integer(json, "skipped_steps");
    c->restarts = ls_json_integer(json, "restarts");
    c->lost_steps = ls_json_integer(json, "lost_steps");
    c->as_of_s = json_number_value(json_object_get(json, "as_of"));
    const json_t *saves = json_object_get(json, "saves");
    c->saves = ls_json_integer(saves, "done");
    c->failed_saves = ls_json_integer(saves, "failed");
    c->save_raw_bytes = ls_json_integer(saves, "raw_bytes");
    c->save_stored_bytes = ls_json_integer(saves, "stored_bytes");
    c->save_stall_seconds = json_number_value(json_object_get(saves, "stall_seconds"));
    c->device_seconds = json_number_value(json_object_get(json, "device_seconds"));
    c->flops = json_number_value(json_object_get(json, "flops"));
    c->measured_joules = ls_json_number(json, "measured_joules");
    c->modelled_joules = ls_json_number(json, "modelled_joules");
    c->carbon_g = ls_json_number(json, "carbon_g");
    c->usd = ls_json_number(json, "usd");
    const json_t *phases = json_object_get(json, "phase_seconds");
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        c->seconds[p] = json_number_value(json_object_get(phases, ls_phase_name((ls_phase)p)));
    }
    return LS_OK;
}

/* A line "KEY:  N kB" of a file of /proc/self. */
typedef struct proc_value {
    const char *key;
    int64_t bytes; /* 0: there is no such line */
} proc_value;

static ls_status read_proc(const char *path, proc_value *values, int count) {
    FILE *f = fopen(path, "r");
    if (!f) {
        return LS_FAIL(LS_E_IO, "cannot open %s", path);
    }
    char line[256], key[64];
    long long kib;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%63[^:]: %lld kB", key, &kib) == 2) {
            for (int i = 0; i < count; i++) {
                values[i].bytes = strcmp(key, values[i].key) == 0 ? kib * 1024 : values[i].bytes;
            }
        }
    }
    fclose(f);
    return LS_OK;
}

/* What VmRSS and VmHWM count of other processes' parts of the pages that this one shares. */
static struct {
    int64_t shared_bytes, others_bytes; /* shared: RssShmem when others was read */
} shares;

static ls_status take_off_shares(bool again, int64_t *now_bytes, int64_t *peak_bytes) {
    proc_value values[] = {{"VmRSS", 0}, {"VmHWM", 0}, {"RssShmem", 0}}, own = {"Pss_Shmem", 0};
    LS_TRY(read_proc("/proc/self/status", values, 3));
    if (again || values[2].bytes != shares.shared_bytes) {
        LS_TRY(read_proc("/proc/self/smaps_rollup", &own, 1));
        shares.shared_bytes = values[2].bytes;
        shares.others_bytes = values[2].bytes - own.bytes;
    }
    *now_bytes = values[0].bytes - shares.others_bytes;
    *peak_bytes = values[1].bytes - shares.others_bytes;
    return LS_OK;
}

ls_status ls_memory_taken(int64_t *now_bytes, int64_t *peak_bytes) {
    return take_off_shares(true, now_bytes, peak_bytes);
}

ls_status ls_memory_watched(int64_t *now_bytes, int64_t *peak_bytes) {
    return take_off_shares(false, now_bytes, peak_bytes);
}

int64_t ls_memory_others(void) {
    return shares.others_bytes;
}
