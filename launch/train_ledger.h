/* The run's ledger: what it has spent in seconds, dollars and joules, over all its starts.
 *
 *   starts.jsonl   a line a start: when, where, on what, at what price
 *   ledger.json    the receipt so far, replaced at every checkpoint and at the end */
#ifndef LS_LAUNCH_TRAIN_LEDGER_H
#define LS_LAUNCH_TRAIN_LEDGER_H

#include "launch/train.h"

/* Finds the price; before anything is done, since the configuration may be wrong. */
ls_status ls_train_ledger_price(ls_train *train);
/* Adds what earlier starts have spent beyond the checkpoint that was loaded, and this start up to
 * now; writes its line. [collective] */
ls_status ls_train_ledger_begin(ls_train *train);
/* seconds of wall time of all devices. */
void ls_train_ledger_spend(ls_train *train, double seconds);
/* Fills in what the ledger knows for a step's record; reads the energy counters when due.
 * [collective] */
ls_status ls_train_ledger_record(ls_train *train, bool due, ls_step_record *record);
/* Rank 0 writes ledger.json; a failure is a warning. */
void ls_train_ledger_write(const ls_train *train);
void ls_train_ledger_end(ls_train *train);

#endif
