/* Who asks a run to stop: a signal, --until, the file `stop` in the run directory, and the time
 * limit of a Slurm job. */
#ifndef LS_LAUNCH_TRAIN_STOP_H
#define LS_LAUNCH_TRAIN_STOP_H

#include "launch/train.h"

/* Finds the time limit of the job that this run belongs to, on rank 0; none is no error. */
void ls_train_stop_begin(ls_train *train);

/* Why to stop after this step, the same on all ranks: any rank's request counts. NULL: go on.
 * [collective] */
ls_status ls_train_stop_agreed(ls_train *train, const char **why);

/* The request has been met: removes the file that made it, so that the next start goes on. Rank 0.
 */
void ls_train_stop_met(const ls_train *train);

#endif
