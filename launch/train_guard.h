/* Guards of a run against numbers that go wrong, and against ranks that hold others back. All are
 * collective: every rank calls them after the same step. */
#ifndef LS_LAUNCH_TRAIN_GUARD_H
#define LS_LAUNCH_TRAIN_GUARD_H

#include "launch/train.h"

/* Ranks that hold the same parameters and optimizer states must hold the same bits. LS_E_DEVICE on
 * every rank, naming the rank and the parameter that differ, and whether the rank computes
 * something else again beside the others: memory or a processor has failed silently. Costs a pass
 * over what is owned and 16 bytes a rank. [collective] */
ls_status ls_guard_replicas(ls_train *train);

/* Which parameter's gradient is not finite, and on which rank first: writes "rank 2 on host b,
 * first in layers.3.mlp.up.weight", or that only the loss is. [collective] */
ls_status ls_guard_culprit(ls_train *train, char *text, size_t size);

/* Gathers the seconds that each rank computed since the last call, tells the slowest, and warns of
 * one that is slower than the median by faults.straggler. On one rank lag->steps is 0. [collective]
 */
ls_status ls_guard_stragglers(ls_train *train, ls_lag_record *lag);

#endif
