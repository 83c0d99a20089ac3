/* Where a step's time goes: every nanosecond to one phase, communication by axis of the mesh. */
#ifndef LS_LAUNCH_TRAIN_ACCOUNT_H
#define LS_LAUNCH_TRAIN_ACCOUNT_H

#include "launch/train.h"

/* Gives the time since last_ns to what a step has measured itself, and of that what the device was
 * still at the update before to the optimizer; the rest is OTHER. */
void ls_train_account_step(ls_train *train, const ls_step_result *result, double *phase_seconds);
/* Marks of the device around an update of the weights. */
enum { LS_MARK_UPDATE, LS_MARK_UPDATED };
/* Waits for the device's end of the newest update before something else is timed. LS_E_DEVICE. */
ls_status ls_train_account_update(ls_train *train, double *phase_seconds);
/* Gives it to a phase, less what communication has taken since then. */
void ls_train_account_comm(ls_train *train, ls_phase phase, const ls_comm_meter *since,
                           double *phase_seconds);
/* Fills in the bus bandwidths of the time since then. */
void ls_train_account_bandwidth(const ls_comm_meter *since, ls_step_record *record);
/* Fills in MFU and HFU from record->flops_per_second. */
void ls_train_account_flops(const ls_train *train, ls_step_record *record);

/* Before a step: the trace is on for those of metrics.trace_steps. [collective] */
ls_status ls_train_trace_step(ls_train *train);
/* After a step: writes the trace when that was its last; at the end of a start (ends) whatever
 * there is of it. A file that cannot be written is a warning. [collective] */
ls_status ls_train_trace_end(ls_train *train, bool ends);

#endif
