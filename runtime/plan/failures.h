/* Failures: how often a job of many devices is interrupted, how often it should save, and what is
 * left of its time. Daly 2006, "A higher order estimate of the optimum checkpoint interval for
 * restart dumps", doi:10.1016/j.future.2004.11.016; exponential failures, also while restarting. */
#ifndef LS_PLAN_FAILURES_H
#define LS_PLAN_FAILURES_H

/* Device-hours between interruptions that nobody planned: 419 in 54 days on 16,384 devices
 * (Llama 3, arXiv 2407.21783, section 3.3.4). */
#define LS_MTBF_DEVICE_HOURS (16384.0 * 54 * 24 / 419)

typedef struct ls_failures {
    double mtbf_s;    /* of the whole job: of a device over their number */
    double stall_s;   /* a save keeps training waiting */
    double commit_s;  /* and is safe this long after that; 0 when the stall is all of it */
    double restart_s; /* from an interruption to the first new step */
} ls_failures;

/* Best seconds of training between saves: Daly's equation 37, at most mtbf_s. A job that loses
 * nothing by saving (stall_s 0) still needs a positive one: stall_s of at least 1 ms is assumed. */
double ls_failures_best_interval_s(const ls_failures *f);

/* Share of the wall time that is training which is kept, with saves every interval_s seconds of
 * training: Daly's equation 20, with work between stall and commit lost at an interruption too. */
double ls_failures_goodput(const ls_failures *f, double interval_s);

#endif
