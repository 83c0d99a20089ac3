/* What a device-hour costs. */
#ifndef LS_COUNTERS_COST_H
#define LS_COUNTERS_COST_H

#include "runtime/config/config.h"
#include "runtime/counters/counters.h"

/* Dollars per device-hour: the price given or, without one, that of the contract: its sum over the
 * device-hours that it delivers and that are used. NAN: unknown. LS_E_CONFIG for a contract that is
 * incomplete, and for deliveries that do not grow in time. */
ls_status ls_cost_price(const ls_config_cost *cost, double *usd_per_device_hour);

/* Adds device_seconds at this price, power and carbon intensity. */
void ls_cost_spend(const ls_config_cost *cost, double usd_per_device_hour, double device_seconds,
                   ls_counters *counters);

#endif
