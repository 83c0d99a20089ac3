/* A save under way: what its stages (save.c) and its jobs (save_jobs.c) share. */
#ifndef LS_CHECKPOINT_SAVE_H
#define LS_CHECKPOINT_SAVE_H

#include "checkpoint/commit.h"
#include "checkpoint/snapshot.h"
#include "checkpoint/worker.h"

typedef enum ls_save_stage {
    IDLE,
    FETCH,
    WRITE,
    REPORT,
    PARITY,
    GATHER,
    COMMIT,
    CLEAN,
    TELL
} ls_save_stage;

/* What ranks tell each other. */
typedef struct ls_save_said {
    int32_t status, line;
    int64_t record_bytes;
    int64_t step, tokens, level, parity;
    int64_t data_bytes; /* of the file that it wrote; 0: none */
    char data_file[32];
    char file[64]; /* where in the source it failed */
    char message[512];
} ls_save_said;

typedef struct ls_save_verdict { /* rank 0's, about the commit */
    ls_save_said said;
    ls_ckpt_totals totals;
    double seconds; /* from its start */
} ls_save_verdict;

/* Rows of the table. */
enum {
    REPORT_BYTES,
    REPORT_OFFSETS,
    SENT_BYTES,
    ZEROS,
    RECEIVED_BYTES,
    RECEIVED_OFFSETS,
    TABLE_ROWS
};

struct ls_ckpt_saver {
    ls_comm *comm;   /* for the stages */
    ls_comm *caller; /* for what blocks; NULL: comm is borrowed */
    bool per_host;   /* the lowest rank of a host writes for all of it */
    bool now;        /* the jobs of this save run on the calling thread */
    const ls_ckpt_fetch *fetch;
    void *fetch_context;
    bool pin_tried, pinned; /* the snapshot's values are, for fetch->start */
    ls_snapshot snapshot;
    uint64_t nonce[2]; /* of the next save's name */
    ls_worker worker;
    ls_save_stage stage;
    /* Of the save under way. */
    ls_ckpt_save_options options;
    char *root, *config_text;
    json_t *run, *counters;
    ls_ckpt_place place;
    const ls_ckpt_tensor *tensors;
    int count;
    bool copies;   /* tensors are those of the snapshot */
    char file[32]; /* what this rank writes; "": nothing */
    json_t *record;
    char *text, *texts; /* this rank's record; rank 0: all of them, in order of rank */
    bool parity_made;
    ls_save_said mine, *reports; /* [ranks] */
    int64_t *table;              /* [TABLE_ROWS][ranks] counts and offsets of the exchanges */
    ls_save_verdict verdict;
    ls_comm_request *request;
    uint64_t start_ns, stall_ns;
};

/* A row of table. */
static inline int64_t *ls_save_row(const ls_ckpt_saver *s, int row) {
    return s->table + (size_t)row * (size_t)s->comm->size;
}

/* Why it has come to nothing, in words that can travel. */
void ls_save_report(ls_save_said *out, ls_status status);
/* Are step, options and tensors such as can be saved? */
ls_status ls_save_check(const ls_ckpt_save_options *options, const ls_ckpt_tensor *tensors,
                        int count);

/* Jobs; their context is the saver. They leave how they went in mine or in verdict. */
void ls_save_job_write(void *context);
void ls_save_job_parity(void *context);
void ls_save_job_commit(void *context);
void ls_save_job_clean(void *context);

#endif
