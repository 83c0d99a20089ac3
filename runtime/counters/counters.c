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

static json_t *ratio_or_null(double amount, double seconds) {
    return seconds > 0.0 && isfinite(amount / seconds) ? json_real(amount / seconds) : json_null();
}

/* Seconds of training proper: what throughput is measured over. */
static double training_seconds(const ls_counters *c) {
    return c->seconds[LS_PHASE_COMPUTE] + c->seconds[LS_PHASE_COMM] + c->seconds[LS_PHASE_OPTIM] +
           c->seconds[LS_PHASE_DATA];
}

json_t *ls_counters_json(const ls_counters *c) {
    json_t *phases = json_object();
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        json_object_set_new(phases, ls_phase_name((ls_phase)p), json_real(c->seconds[p]));
    }
    double seconds = training_seconds(c);
    return json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:o, s:s}", "steps",
                     (json_int_t)c->steps, "tokens", (json_int_t)c->tokens, "skipped_steps",
                     (json_int_t)c->skipped_steps, "restarts", (json_int_t)c->restarts,
                     "device_seconds", c->device_seconds, "flops", c->flops, "phase_seconds",
                     phases, "tokens_per_second", ratio_or_null((double)c->tokens, seconds),
                     "flops_per_second", ratio_or_null(c->flops, seconds), "flops_convention",
                     "6N + 6 L H D T per token (causal attention)");
}

static int64_t get_int(const json_t *json, const char *key) {
    return json_integer_value(json_object_get(json, key));
}

ls_status ls_counters_parse(const json_t *json, ls_counters *c) {
    *c = (ls_counters){0};
    if (!json_is_object(json)) {
        return LS_FAIL(LS_E_INPUT, "the counters are not a JSON object");
    }
    c->steps = get_int(json, "steps");
    c->tokens = get_int(json, "tokens");
    c->skipped_steps = get_int(json, "skipped_steps");
    c->restarts = get_int(json, "restarts");
    c->device_seconds = json_number_value(json_object_get(json, "device_seconds"));
    c->flops = json_number_value(json_object_get(json, "flops"));
    const json_t *phases = json_object_get(json, "phase_seconds");
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        c->seconds[p] = json_number_value(json_object_get(phases, ls_phase_name((ls_phase)p)));
    }
    return LS_OK;
}

ls_status ls_memory_resident(int64_t *now_bytes, int64_t *peak_bytes) {
    FILE *f = fopen("/proc/self/status", "r");
    if (!f) {
        return LS_FAIL(LS_E_IO, "cannot open /proc/self/status");
    }
    char line[256];
    long long kib;
    *now_bytes = *peak_bytes = 0;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmRSS: %lld kB", &kib) == 1) {
            *now_bytes = kib * 1024;
        } else if (sscanf(line, "VmHWM: %lld kB", &kib) == 1) {
            *peak_bytes = kib * 1024;
        }
    }
    fclose(f);
    return LS_OK;
}
