/* What a run does about a step whose numbers are in doubt: a loss or gradient that is not finite,
 * or a loss far out of line. */
#ifndef LS_LAUNCH_TRAIN_RECOVER_H
#define LS_LAUNCH_TRAIN_RECOVER_H

#include "launch/train.h"

typedef enum ls_advice { LS_STEP_GOOD, LS_STEP_SKIP, LS_STEP_RELOAD } ls_advice;

/* The update that follows a step. On a device that decides by itself it was asked for before the
 * step was judged: then `made` says whether the device made it, and the norm is known. */
typedef struct ls_update {
    double grad_norm;
    bool decided, made;
} ls_update;

/* Judges the step that has just run, whose gradient norm is taken here if it is not known; what the
 * device has not updated was bad. In doubt it is run once
 * more from the same data: other bits then are a fault of the machine, and the second result
 * stands. What stays bad is skipped, or asks for a reload, or ends the run (LS_E_DIVERGED), as
 * faults.on_nonfinite and faults.on_spike say. [collective] */
ls_status ls_recover_judge(ls_train *train, ls_step_result *result, ls_update *update,
                           ls_advice *advice);

/* Goes back to the newest checkpoint, and leaves out the data from there up to the bad step and
 * faults.skip_batches more (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, section 5.1). A reload
 * that a crash interrupts comes again, bit for bit, after the next start. LS_E_DIVERGED after
 * faults.max_reloads of them without a checkpoint beyond the bad step, or without any checkpoint.
 * [collective] */
ls_status ls_recover_reload(ls_train *train);

#endif
