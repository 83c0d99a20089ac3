/* Counters of a run: seconds by phase, throughput, memory; the console line and train.jsonl. */
#ifndef LS_COUNTERS_COUNTERS_H
#define LS_COUNTERS_COUNTERS_H

#include "runtime/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Every nanosecond of the training loop belongs to one phase; OTHER is what is left of wall time.
 * X(code, name) */
#define LS_PHASE_LIST(X)                                                                           \
    X(LS_PHASE_COMPUTE, "compute")    /* forward and backward */                                   \
    X(LS_PHASE_COMM, "communication") /* exposed */                                                \
    X(LS_PHASE_OPTIM, "optimizer")                                                                 \
    X(LS_PHASE_DATA, "data") /* waiting for the loader */                                          \
    X(LS_PHASE_EVAL, "evaluation")                                                                 \
    X(LS_PHASE_CHECKPOINT, "checkpoint")                                                           \
    X(LS_PHASE_STARTUP, "startup") /* from process start to the first step */                      \
    X(LS_PHASE_OTHER, "other")

typedef enum ls_phase {
#define X(code, name) code,
    LS_PHASE_LIST(X)
#undef X
        LS_PHASE_COUNT
} ls_phase;

const char *ls_phase_name(ls_phase phase);

/* Totals over the whole history of a run; saved in checkpoints and continued by resume. */
typedef struct ls_counters {
    int64_t steps, tokens, skipped_steps, restarts;
    double device_seconds;          /* wall seconds x ranks */
    double seconds[LS_PHASE_COUNT]; /* of rank 0 */
    double flops;                   /* model FLOPs done: 6N + causal attention */
} ls_counters;

/* JSON object of the totals and of derived rates (tokens_per_second, flops_per_second, with
 * "flops_convention": "6N+causal-attention"); unknown values are null. Caller owns. */
json_t *ls_counters_json(const ls_counters *counters);
/* Reads back the totals; missing members stay zero. */
ls_status ls_counters_parse(const json_t *json, ls_counters *counters);

/* One record of train.jsonl and of the console. */
typedef struct ls_step_record {
    int64_t step, total_steps; /* steps done, of how many */
    int64_t tokens;            /* so far */
    int64_t restarts;          /* of the run so far: repeated steps belong to a later one */
    double wall_time_s;        /* Unix time at the end of the step */
    double loss, grad_norm, lr;
    bool skipped;   /* non-finite: the weights were not touched */
    double seconds; /* wall time of the step, evaluation and checkpoint included */
    double phase_seconds[LS_PHASE_COUNT];
    double tokens_per_second; /* of the training step alone: without evaluation and checkpoint */
    double flops_per_second;  /* likewise, model FLOPs over all ranks */
    int64_t memory_bytes;     /* resident set of rank 0 */
    double val_loss;          /* NAN: no evaluation at this step */
    double left_seconds;      /* NAN: unknown */
} ls_step_record;

/* A sink receives records on rank 0. Seconds are fractional. Errors: LS_E_IO. */
typedef struct ls_sink_ops {
    const char *name;
    /* run_dir exists. every: detail wanted (console: one line every n steps). *state is the sink's.
     */
    ls_status (*open)(const char *run_dir, int64_t every, void **state);
    ls_status (*step)(void *state, const ls_step_record *record);
    void (*close)(void *state);
} ls_sink_ops;

extern const ls_sink_ops ls_sink_jsonl;   /* run_dir/train.jsonl: a line a step, appended at once */
extern const ls_sink_ops ls_sink_console; /* stderr: a line every n steps; between them, on a
                                             terminal, one line that replaces itself */

/* Resident and peak resident set of this process in bytes. */
ls_status ls_memory_resident(int64_t *now_bytes, int64_t *peak_bytes);

#endif
