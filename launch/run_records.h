/* What a run directory records, read back: ledger.json, starts.jsonl, train.jsonl. */
#ifndef LS_LAUNCH_RUN_RECORDS_H
#define LS_LAUNCH_RUN_RECORDS_H

#include "runtime/counters/counters.h"

/* One start of a run, from its line and the steps that it did. */
typedef struct ls_run_start {
    double begin_s, end_s; /* Unix time; end_s: of its last step, begin_s when it did none */
    int64_t ranks, hosts;
    int64_t steps, tokens; /* done, lost ones included */
    double usd;            /* NAN: unknown */
    char job[64], host[65], account[64], project[64], device[128];
} ls_run_start;

/* One step that counted. */
typedef struct ls_run_step {
    int64_t step, tokens;
    double seconds, loss, val_loss, tokens_per_second, usd; /* NAN: unknown */
    double phase_seconds[LS_PHASE_COUNT];
} ls_run_step;

typedef struct ls_run_records {
    char name[64], account[64], project[64], price_kind[32], price_date[32], outcome[256];
    double usd_per_device_hour;
    int64_t planned_steps;
    ls_counters counters; /* up to the newest record, lost steps of the last start included */
    ls_run_start *starts;
    int start_count;
    ls_run_step *steps;
    int64_t step_count;
    json_t *prediction; /* of a step, beside what it took (train_predict.h); NULL: none */
} ls_run_records;

/* run_dir has no ledger: LS_E_INPUT, saying what it is not. Torn lines are passed over. */
ls_status ls_run_records_read(const char *run_dir, ls_run_records *records);
void ls_run_records_free(ls_run_records *records);

#endif
