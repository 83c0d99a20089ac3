#include "runtime/base/file.h"
#include "runtime/counters/counters.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Nobody reads the file more often, and replacing it takes longer than all other records. */
static const double LEAST_SECONDS = 1.0;

typedef struct prometheus {
    int64_t every;
    double written_s;       /* wall time of the record that the file has */
    ls_step_record waiting; /* the newest one, when the file does not have it; else its step is 0 */
    char path[1024], run[256]; /* run: as a label's value */
} prometheus;

/* The text format escapes backslash, quote and newline in label values. */
static void escape(char *to, size_t size, const char *from) {
    size_t n = 0;
    for (; *from && n + 3 < size; from++) {
        if (*from == '\\' || *from == '"' || *from == '\n') {
            to[n++] = '\\';
        }
        to[n++] = *from == '\n' ? 'n' : *from;
    }
    to[n] = '\0';
}

static ls_status prometheus_open(const ls_sink_options *options, void **state) {
    prometheus *s = calloc(1, sizeof *s);
    if (!s) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the Prometheus file");
    }
    s->every = options->every > 0 ? options->every : 1;
    const char *slash = strrchr(options->run_dir, '/');
    escape(s->run, sizeof s->run, slash ? slash + 1 : options->run_dir);
    ls_status status = ls_path_join(s->path, sizeof s->path, options->run_dir, "metrics.prom");
    if (status != LS_OK) {
        free(s);
        return status;
    }
    *state = s;
    return LS_OK;
}

static void head(FILE *f, const char *name, const char *type, const char *help) {
    fprintf(f, "# HELP lockstep_%s %s\n# TYPE lockstep_%s %s\n", name, help, name, type);
}

/* What is unknown is left out: a sample cannot be null. */
static void metric(FILE *f, const prometheus *s, const char *name, const char *type,
                   const char *help, double value) {
    if (!isnan(value)) {
        head(f, name, type, help);
        fprintf(f, "lockstep_%s{run=\"%s\"} %.17g\n", name, s->run, value);
    }
}

static void write_bus(FILE *f, const prometheus *s, const ls_step_record *r) {
    bool any = false;
    for (int a = 0; a < LS_PHASE_AXES; a++) {
        if (r->bus_bytes_per_second[a] > 0.0) {
            if (!any) {
                head(f, "bus_bytes_per_second", "gauge",
                     "Bus bandwidth of an axis while it communicates, on rank 0.");
            }
            any = true;
            fprintf(f, "lockstep_bus_bytes_per_second{run=\"%s\",axis=\"%s\"} %.9g\n", s->run,
                    strchr(ls_phase_name((ls_phase)(LS_PHASE_TENSOR + a)), '_') + 1,
                    r->bus_bytes_per_second[a]);
        }
    }
}

static void write_metrics(FILE *f, const prometheus *s, const ls_step_record *r) {
    /* No counters: a start from an earlier checkpoint goes back. */
    metric(f, s, "step", "gauge", "Optimizer steps that the weights have had.", (double)r->step);
    metric(f, s, "trained_tokens", "gauge", "Tokens in these steps.", (double)r->tokens);
    metric(f, s, "restarts_total", "counter", "Starts after the first one.", (double)r->restarts);
    metric(f, s, "planned_steps", "gauge", "Optimizer steps that the run is to have.",
           (double)r->total_steps);
    metric(f, s, "training_loss", "gauge", "Mean loss of the step's batch in nats.", r->loss);
    metric(f, s, "validation_loss", "gauge", "Mean loss on the validation split in nats.",
           r->val_loss);
    metric(f, s, "gradient_norm", "gauge", "Global norm of the gradient before clipping.",
           r->grad_norm);
    metric(f, s, "learning_rate", "gauge", "Learning rate of the step.", r->lr);
    metric(f, s, "tokens_per_second", "gauge", "Tokens per second of the step.",
           r->tokens_per_second);
    metric(f, s, "flops_per_second", "gauge",
           "Model FLOPs per second of the step, 6N + causal attention.", r->flops_per_second);
    metric(f, s, "model_flops_utilization_ratio", "gauge",
           "Model FLOPs (6N + causal attention) over the devices' peak.", r->mfu);
    metric(f, s, "hardware_flops_utilization_ratio", "gauge",
           "The same with recomputed layers counted.", r->hfu);
    metric(f, s, "device_peak_flops_per_second", "gauge", "The peak that the ratios refer to.",
           r->peak_flops_per_second);
    metric(f, s, "resident_memory_bytes", "gauge",
           "Resident set of rank 0; shared pages count in parts.", (double)r->memory_bytes);
    metric(f, s, "resident_memory_peak_bytes", "gauge",
           "Highest resident set of rank 0; shared pages count in parts.",
           (double)r->memory_peak_bytes);
    metric(f, s, "planned_memory_bytes", "gauge", "Memory that a rank was planned to take.",
           r->memory_planned_bytes > 0 ? (double)r->memory_planned_bytes : NAN);
    if (r->lag.steps > 0) {
        metric(f, s, "slowest_rank", "gauge", "Rank that computed longest of late.", r->lag.rank);
        metric(f, s, "slowest_rank_lag_seconds", "gauge",
               "Time by which it computed longer than the median, over the window.",
               r->lag.seconds);
        metric(f, s, "slowest_rank_window_steps", "gauge", "Steps of that window.",
               (double)r->lag.steps);
    }
    write_bus(f, s, r);
    metric(f, s, "devices", "gauge", "Devices of the job.", r->devices);
    metric(f, s, "goodput_ratio", "gauge", "Share of wall time in steps that counted.", r->goodput);
    metric(f, s, "cost_usd_total", "counter", "Dollars spent on the run.", r->usd);
    metric(f, s, "energy_joules_total", "counter", "Measured energy of the run.",
           r->measured_joules);
    metric(f, s, "remaining_seconds", "gauge", "Estimate of the time left.", r->left_seconds);
    head(f, "step_phase_seconds", "gauge", "Seconds of the step by phase, on rank 0.");
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        fprintf(f, "lockstep_step_phase_seconds{run=\"%s\",phase=\"%s\"} %.9g\n", s->run,
                ls_phase_name((ls_phase)p), r->phase_seconds[p]);
    }
    metric(f, s, "last_step_timestamp_seconds", "gauge", "Unix time at the end of the step.",
           r->wall_time_s);
}

/* Replaced at once, and not synced: it is worth nothing after a crash. */
static ls_status write_file(prometheus *s, const ls_step_record *r) {
    char temporary[1040];
    snprintf(temporary, sizeof temporary, "%s.tmp", s->path);
    FILE *f = fopen(temporary, "w");
    if (f) {
        write_metrics(f, s, r);
    }
    if (!f || fclose(f) != 0 || rename(temporary, s->path) != 0) {
        ls_status status = LS_FAIL(LS_E_IO, "cannot write '%s': %s", s->path, strerror(errno));
        unlink(temporary);
        return status;
    }
    s->written_s = r->wall_time_s;
    s->waiting.step = 0;
    return LS_OK;
}

static ls_status prometheus_step(void *state, const ls_step_record *r) {
    prometheus *s = state;
    const bool last = r->step == r->total_steps;
    if (r->step % s->every != 0 && !last) {
        return LS_OK;
    }
    if (!last && fabs(r->wall_time_s - s->written_s) < LEAST_SECONDS) {
        s->waiting = *r;
        return LS_OK;
    }
    return write_file(s, r);
}

static void prometheus_close(void *state) {
    prometheus *s = state;
    if (s->waiting.step > 0) {
        (void)write_file(s, &s->waiting);
    }
    free(s);
}

const ls_sink_ops ls_sink_prometheus = {.name = "prometheus",
                                        .open = prometheus_open,
                                        .step = prometheus_step,
                                        .close = prometheus_close};
