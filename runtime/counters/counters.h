/* Counters of a run: seconds by phase, throughput, memory; the console line and train.jsonl. */
#ifndef LS_COUNTERS_COUNTERS_H
#define LS_COUNTERS_COUNTERS_H

#include "runtime/base/status.h"
#include "runtime/config/config.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Every nanosecond of the training loop belongs to one phase; OTHER is what is left of wall time.
 * X(code, name) */
#define LS_PHASE_LIST(X)                                                                           \
    X(LS_PHASE_COMPUTE, "compute") /* forward and backward */                                      \
    /* Exposed communication, in the order of collectives/meter.h's axes. */                       \
    X(LS_PHASE_TENSOR, "communication_tensor")                                                     \
    X(LS_PHASE_EXPERT, "communication_expert")                                                     \
    X(LS_PHASE_CONTEXT, "communication_context")                                                   \
    X(LS_PHASE_PIPELINE, "communication_pipeline")                                                 \
    X(LS_PHASE_GRADS, "communication_data")  /* gradients, parameters that are divided */          \
    X(LS_PHASE_WORLD, "communication_world") /* agreements of all ranks */                         \
    X(LS_PHASE_OPTIM, "optimizer")                                                                 \
    X(LS_PHASE_DATA, "data") /* waiting for the loader */                                          \
    X(LS_PHASE_EVAL, "evaluation")                                                                 \
    X(LS_PHASE_CHECKPOINT, "checkpoint")                                                           \
    X(LS_PHASE_STARTUP, "startup") /* from process start to the first step */                      \
    X(LS_PHASE_LOST, "lost")       /* steps whose results a fault destroyed */                     \
    X(LS_PHASE_DOWN, "down")       /* from the last sign of life of a start to the next start */   \
    X(LS_PHASE_OTHER, "other")

typedef enum ls_phase {
#define X(code, name) code,
    LS_PHASE_LIST(X)
#undef X
        LS_PHASE_COUNT
} ls_phase;

const char *ls_phase_name(ls_phase phase);
/* The part of a training step: what throughput and goodput are taken over. */
static inline bool ls_phase_trains(ls_phase phase) {
    return phase <= LS_PHASE_DATA;
}
enum { LS_PHASE_AXES = LS_PHASE_WORLD - LS_PHASE_TENSOR + 1 };

/* Totals over the whole history of a run; saved in checkpoints and continued by resume. What is not
 * known is NAN: nothing was there to measure it, or no price or power was given. */
typedef struct ls_counters {
    int64_t steps, tokens, skipped_steps, restarts, lost_steps;
    int64_t saves, failed_saves; /* checkpoints written, and those that could not be */
    int64_t save_raw_bytes, save_stored_bytes; /* of those written */
    double save_stall_seconds;                 /* that training has waited for them, on rank 0 */
    double as_of_s;                            /* Unix time up to which the totals account */
    double device_seconds;          /* wall seconds x ranks; down time only inside one job */
    double seconds[LS_PHASE_COUNT]; /* of rank 0 */
    double flops;                   /* model FLOPs done: 6N + causal attention */
    double measured_joules;         /* of the sources that energy.h found, over all hosts */
    double modelled_joules;         /* device seconds x cost.watts_per_device x cost.pue */
    double carbon_g;
    double usd;
} ls_counters;

/* Zero, with what is unknown at NAN. */
ls_counters ls_counters_begin(void);

/* Seconds of all phases, and the share of them in training steps that counted. */
double ls_counters_wall(const ls_counters *counters);
double ls_counters_goodput(const ls_counters *counters);

/* Totals of the stretch from one to a later one of the same run; as_of_s is the later's. */
ls_counters ls_counters_between(const ls_counters *early, const ls_counters *late);

/* What a restart from a checkpoint finds in the run's train.jsonl beyond the checkpoint's counters:
 * the end of its save, the steps after it (lost), and the silence until now (down). */
typedef struct ls_history {
    int64_t lost_steps;
    double save_s, lost_s, down_s;
    double silence_s;            /* the part of down_s after the newest record */
    double usd, measured_joules; /* of the newest record; NAN: none, or unknown there */
} ls_history;
/* step, as_of_s: of the counters to go on from; now_s: Unix time at which this start began. A torn
 * or foreign line is passed over; a missing file gives down_s only. LS_E_IO. */
ls_status ls_history_since(const char *run_dir, int64_t step, double as_of_s, double now_s,
                           ls_history *history);

/* JSON object of the totals and of derived values: tokens_per_second and flops_per_second over
 * training proper, with "flops_convention"; wall_seconds; goodput, the share of wall time in
 * training steps that counted; usd_per_mtoken. Unknown values are null. Caller owns. */
json_t *ls_counters_json(const ls_counters *counters);
/* Reads back the totals; missing members stay zero or NAN. */
ls_status ls_counters_parse(const json_t *json, ls_counters *counters);
/* Numbers in records: null for one that is not finite, NAN for one that is not there. Integers: 0
 * for one that is not there or lies beyond +-2^53, which no run counts to: sums do not overflow. */
json_t *ls_json_real(double x);
double ls_json_number(const json_t *object, const char *key);
int64_t ls_json_integer(const json_t *object, const char *key);

/* A save that has ended since the last record. */
typedef struct ls_save_record {
    int64_t step; /* of the checkpoint; 0: no save has ended */
    bool failed;
    int64_t raw_bytes, stored_bytes;
    double seconds, stall_seconds; /* in all, and of them those that training waited */
} ls_save_record;

/* The slowest rank by computing time, over the steps since the record before that has one. */
typedef struct ls_lag_record {
    int64_t steps;  /* of the window; 0: none has ended at this step */
    int rank;       /* of all ranks */
    double factor;  /* of its time to the median's */
    double seconds; /* that it computed longer than the median, in the window */
} ls_lag_record;

/* One record of train.jsonl and of the console. */
typedef struct ls_step_record {
    int64_t step, total_steps; /* steps done, of how many */
    int64_t tokens;            /* so far */
    int64_t step_tokens;       /* of this step */
    int64_t restarts;          /* of the run so far: repeated steps belong to a later one */
    double wall_time_s;        /* Unix time at the end of the step */
    double loss, grad_norm, lr;
    bool skipped;   /* non-finite: the weights were not touched */
    double seconds; /* wall time of the step, evaluation and checkpoint included */
    double phase_seconds[LS_PHASE_COUNT];
    double tokens_per_second; /* of the training step alone: without evaluation and checkpoint */
    double flops_per_second;  /* likewise, model FLOPs over all ranks */
    /* Shares of the devices' peak: of model FLOPs, and of those with what is computed twice to save
     * memory; peak FLOP/s of a device. NAN: no peak was given. */
    double mfu, hfu, peak_flops_per_second;
    double
        bus_bytes_per_second[LS_PHASE_AXES]; /* of rank 0 while it communicates; NAN: it did not */
    int64_t memory_bytes, memory_peak_bytes; /* of rank 0 (ls_memory_watched) */
    int64_t memory_planned_bytes;            /* of training, of a rank; 0: unknown */
    ls_lag_record lag;
    double val_loss;          /* NAN: no evaluation at this step */
    struct json_t *val_parts; /* by data directory, of a mixture; borrowed; NULL: there is none */
    ls_save_record save;
    double left_seconds;    /* NAN: unknown */
    double usd, left_usd;   /* so far, to go; NAN: unknown */
    double measured_joules; /* so far; NAN: unknown */
    double goodput;         /* so far */
    int devices;
    double usd_per_mtoken; /* of the run so far; NAN: unknown */
} ls_step_record;

/* A sink receives records on rank 0. Seconds are fractional. Errors: LS_E_IO. */
typedef struct ls_sink_options {
    const char *run_dir; /* exists; borrowed during open, as config */
    int64_t every;       /* detail wanted (console: one line every n steps) */
    /* What MLPerf asks of a run; the others do not look at it. */
    const ls_config *config;
    int64_t steps_done, total_steps;
    int64_t sequences_done;
    int64_t batch;                           /* sequences of the global batch */
    int64_t accumulation;                    /* micro-batches of a rank in it */
    int64_t seq;                             /* tokens of a sequence */
    int64_t train_sequences, eval_sequences; /* of the split, and of an evaluation */
    double startup_s;                        /* since the process began */
} ls_sink_options;
typedef struct ls_sink_ops {
    const char *name;
    /* *state is the sink's. */
    ls_status (*open)(const ls_sink_options *options, void **state);
    ls_status (*step)(void *state, const ls_step_record *record);
    void (*close)(void *state);
} ls_sink_ops;

extern const ls_sink_ops ls_sink_jsonl;   /* run_dir/train.jsonl: a line a step, appended at once */
extern const ls_sink_ops ls_sink_console; /* stderr: a line every n steps; between them, on a
                                             terminal, one line that replaces itself */
/* run_dir/metrics.prom: Prometheus text format for a node exporter's textfile collector, replaced
 * atomically every n steps (names and units by prometheus.io/docs/practices/naming). */
extern const ls_sink_ops ls_sink_prometheus;
/* run_dir/events.out.tfevents.*: scalars of every step, as TensorBoard reads them. */
extern const ls_sink_ops ls_sink_tensorboard;
/* run_dir/mlperf.log: ":::MLLOG {...}" lines (github.com/mlcommons/logging), all that the
 * compliance checker of the open division asks for but what only a submitter can say: cache_clear
 * and submission_*. */
extern const ls_sink_ops ls_sink_mlperf;

/* Resident and peak resident set of this process in bytes, but pages that processes share in memory
 * (windows of /dev/shm) count in equal parts for each of them, as they are shared now: summed over
 * the processes of a host it is what they take. */
ls_status ls_memory_taken(int64_t *now_bytes, int64_t *peak_bytes);
/* The same for every step: how pages are shared, which takes the kernel 20 ms a GiB to tell, is
 * asked again only when more or fewer are. */
ls_status ls_memory_watched(int64_t *now_bytes, int64_t *peak_bytes);
/* What the resident set counted of other processes' parts when either was last asked. */
int64_t ls_memory_others(void);

#endif
