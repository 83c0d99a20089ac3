/* The best layout of a run for the ranks that are left. */
#ifndef LS_LAUNCH_TRAIN_FIT_H
#define LS_LAUNCH_TRAIN_FIT_H

#include "launch/train.h"

/* Prints a line "RANKS parallel.tensor=... ...": the layout of at most `ranks` ranks with the same
 * global batch and micro-batches that the planner takes for the fastest (cost.cluster), or without
 * a profile the one of most ranks. With invariant reduction the tensor, context and pipeline axes
 * and parallel.expert stay, so that losses keep their bits; else smaller ones are tried too.
 * LS_E_CONFIG: none works. Not collective. */
ls_status ls_train_fit(ls_train *train, int ranks);

#endif
