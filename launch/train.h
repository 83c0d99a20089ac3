/* The training run: what cmd_train.c sets up, train_build.c makes, train_state.c loads,
 * train_save.c saves, train_loop.c drives, train_memory.c and train_room.c compare with the plan.
 */
#ifndef LS_LAUNCH_TRAIN_H
#define LS_LAUNCH_TRAIN_H

#include "checkpoint/owner.h"
#include "checkpoint/saver.h"
#include "launch/session.h"
#include "launch/train_layout.h"
#include "optim/optim.h"
#include "runtime/counters/counters.h"
#include "runtime/counters/energy.h"
#include "runtime/counters/guard.h"
#include "runtime/step/step.h"

/* The rank that has been the slowest by too much for some windows in a row. */
typedef struct ls_straggler {
    int rank, windows;
    double lost_s; /* that the others waited */
    bool told;
} ls_straggler;

/* Memory of a rank's process; what is shared in memory counts in equal parts. */
typedef struct ls_memory_record {
    int64_t program_bytes; /* before training takes anything: program, libraries, MPI, device */
    int64_t planned_bytes; /* that, training, and what the saves take that there were */
    int64_t uneven_bytes;  /* more, for tokens that have not chosen their experts evenly */
    int64_t peak_bytes;
    int64_t others_bytes; /* that the resident set counts besides: other ranks' shared memory */
    int64_t rank;
    /* Of its GPU, whose memory is all taken before step one: what was free before, what training
     * has taken, and what was planned with the device's scratch; 0: no GPU. Besides, measured: what
     * NCCL has taken, and what was taken when the device was opened, CUDA's context among it. */
    int64_t device_free_bytes, device_bytes, device_planned_bytes;
    int64_t device_nccl_bytes, device_foreign_bytes;
} ls_memory_record;

/* Of the job that the run belongs to; seconds of the monotonic clock, on rank 0. */
typedef struct ls_job_limit {
    double end_s; /* NAN: none */
    double asked_s, step_began_s;
    double step_s, save_s; /* the newest step, and the longest save */
} ls_job_limit;

typedef struct ls_train {
    ls_config config; /* resolved; const after setup */
    ls_session session;
    char run_dir[768];
    char ckpt_root[800];
    ls_dataset *train_data, *val_data; /* val_data NULL: there is no validation split */
    ls_layout layout;
    ls_layout_bytes planned;
    ls_memory_record memory; /* at the end: of the rank that is furthest above its plan */
    ls_groups groups;
    ls_state *state;
    ls_model **models; /* of the parts */
    ls_optim *optim;
    ls_runner *runner;
    char attention[48]; /* on GPUs whose it is, on all ranks: "own", "cuDNN 9.19.0"; else empty */
    ls_loader *loader;
    int64_t step, total_steps;   /* done, of how many */
    int64_t next_sample;         /* of the data's order: what the next step begins with */
    int64_t sequences;           /* in the batches of the steps done */
    int64_t positions;           /* of those sequences: what run.tokens counts */
    struct json_t *places;       /* where the run left other data; NULL: there is none */
    int64_t worst_step, reloads; /* the latest bad step, and reloads for its sake */
    int64_t until_step;          /* stop after this one, as if asked to */
    bool may_change;             /* what the checkpoint was trained with, see LS_RESUME_CHANGE */
    int64_t saved_step;          /* -1: none */
    ls_counters counters;
    double usd_per_device_hour; /* NAN: unknown */
    ls_energy *energy;          /* this host's, on its first rank; NULL: none */
    bool energy_measured;       /* on any host */
    double energy_before_j;     /* of earlier starts */
    ls_outcome earlier_outcome; /* of the start before this; rank 0 */
    bool tells_outcome;         /* how it ends, in the run directory */
    uint64_t compute_ns;        /* of this rank, since stragglers were looked for */
    ls_straggler straggler;
    ls_guard_losses losses;
    int64_t lag_steps; /* since stragglers were looked for */
    ls_job_limit limit;
    double flops_per_token;
    double head_flops_per_token; /* of these; a token that is no target has none */
    double peak_flops_per_s;     /* of a device; NAN: unknown */
    uint64_t last_ns;            /* up to when the counters have accounted */
    bool updating;               /* the device may still be at the newest update of the weights */
    double update_s;             /* that are accounted to it */
    double val_loss;             /* newest; NAN: none */
    double train_loss;
    int64_t val_step;         /* of val_loss */
    struct json_t *val_parts; /* of a mixture: loss by data directory; NULL: none */
    char last_ckpt[1024];
    ls_lock lock; /* of the run directory; rank 0 */
    ls_ckpt_saver *saver;
    struct ls_pieces *saving; /* what a save that has begun copies (train_pieces.h) */
    ls_save_record save;      /* that has ended since the last record */
    bool has_saved;           /* a save has begun since the start */
} ls_train;

/* Reserves what saves need. [collective] */
ls_status ls_train_saver_open(ls_train *train);
/* Safe when there is nothing to close. Not collective after the last save has ended. */
void ls_train_saver_close(ls_train *train);
/* Saves masters and optimizer state in the checkpoint root: begins to, or, with now, is done when
 * it returns. A failure is reported, never fatal: saved_step tells. [collective] */
ls_status ls_train_save(ls_train *train, bool now);
/* Before masters or optimizer state are changed: the save under way has its copy of them when it
 * returns. Not collective. */
void ls_train_save_settle(ls_train *train);
/* Moves on what is being saved; wait: to its end. [collective] */
ls_status ls_train_save_poll(ls_train *train, bool wait);

/* Loads the newest checkpoint of the run. With train->may_change the settings that fit its state
 * may be others than there, which is told and recorded. What was found at first sight may turn out
 * to be damaged when it is read: then the one before it is taken. *path is empty when there is no
 * checkpoint; LS_E_CORRUPT when there are some, none of which can be loaded. [collective] */
ls_status ls_train_resume(ls_train *train, char path[1024]);
/* Before that, with the configuration file and the settings behind it: LS_E_CONFIG where the file
 * is of a run that lies elsewhere, moved or seen from another working directory. Another run of its
 * name would begin anew. */
ls_status ls_train_check_place(const ls_train *train, int argc, char **argv);

/* (Re)starts the loader at next_sample. [collective] */
ls_status ls_train_start_loader(ls_train *train);
/* LS_E_CONFIG when the schedule begins later than the run goes on, after `step`. */
ls_status ls_train_check_schedule(const ls_train *train, int64_t step);
/* total_steps, of the steps that are done and what is still to be trained. */
void ls_train_count_steps(ls_train *train);
/* Under which a checkpoint has how far data was read in samples of seq tokens:
 * "FINGERPRINT/LENGTH". */
void ls_train_place_key(const ls_dataset_info *data, int64_t seq, char key[48]);

/* Fills in the masters alone, from run.init; the initial values of the rest are there already.
 * [collective] */
ls_status ls_train_load_weights(ls_train *train);

/* Takes all memory of the run, as train->layout and train->planned say; release gives it back, from
 * groups to layout. [collective] */
ls_status ls_train_build(ls_train *train);
void ls_train_release(ls_train *train);
/* For build, when the models have reserved what they need: cuDNN does attention when all ranks
 * offer the same, else lockstep; and it is said which, and why. [collective] */
ls_status ls_train_settle_attention(ls_train *train);
/* train->attention for records; null where there is none. */
struct json_t *ls_train_attention_json(const ls_train *train);
/* At resume: a warning when the checkpoint, whose run record is given, was trained with another. */
void ls_train_compare_attention(const ls_train *train, const struct json_t *run);

/* Prints what `ranks` ranks would hold and send, from the configuration; nothing of the run but
 * train->config and the device is needed or changed. LS_E_CONFIG for what cannot work. Not
 * collective. */
ls_status ls_train_dry_run(ls_train *train, int ranks);

/* Memory of the process: begin when the device is open, end after the last step. [end: collective]
 */
ls_status ls_train_memory_begin(ls_train *train);
/* Before any is taken: LS_E_MEMORY when the ranks of a host would together take more than the host
 * or their memory cgroup has free, or a rank more than its GPU, with what would need less; a
 * warning when it is close. [collective] */
ls_status ls_train_memory_check(ls_train *train);
int64_t ls_train_memory_planned(const ls_train *train);
int64_t ls_train_memory_uneven(const ls_train *train);
ls_status ls_train_memory_end(ls_train *train);

/* Of the run's steps, with the loader as it is now. */
ls_step_options ls_train_step_options(const ls_train *train);

/* Runs until total_steps or until asked to stop (LS_E_STOPPED). [collective] */
ls_status ls_train_loop(ls_train *train);

/* Gives the time since last_ns to a phase. */
void ls_train_account(ls_train *train, ls_phase phase, double *phase_seconds);

#endif
