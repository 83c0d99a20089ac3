/* Days, dollars and energy of a run whose step time is known. */
#ifndef LS_PLAN_BILL_H
#define LS_PLAN_BILL_H

#include "runtime/plan/cluster.h"
#include "runtime/plan/failures.h"

#include <stdint.h>

typedef struct ls_bill_options {
    double tokens;          /* of the whole run */
    double usd_per_hour;    /* of a device; NAN: from the profile */
    const char *price_kind; /* "spot"; NULL: the first that the profile knows */
    double mtbf_hours;      /* of a device; NAN: from the profile, else Llama 3's */
    double save_stall_s, save_commit_s, restart_s; /* NAN: estimated */
} ls_bill_options;

typedef struct ls_bill {
    double steps, days, device_hours; /* wall time: with saves, failures and restarts */
    double usd, usd_per_mtoken;       /* NAN: no price is known */
    double usd_per_hour;              /* of a device */
    ls_figure_id price;               /* LS_FIG_COUNT: given by the caller, or unknown */
    double power_w;                   /* of all, at most; the site's */
    double mwh, it_mwh;               /* site (NAN: PUE unknown) and computers alone */
    bool whole_nodes;                 /* power of hosts and fans is in it, not only of devices */
    double carbon_t;                  /* NAN: intensity unknown */
    ls_failures failures;
    double save_interval_s, goodput, interruptions;
} ls_bill;

/* checkpoint_bytes: weights and optimizer of the whole model. LS_E_CONFIG for an unknown price
 * kind, naming those that the profile has; LS_E_NO when failures leave hardly any time to train. */
ls_status ls_bill_make(const ls_cluster *cluster, const ls_bill_options *options, int devices,
                       double tokens_per_s, double tokens_per_step, double checkpoint_bytes,
                       ls_bill *bill);

#endif
