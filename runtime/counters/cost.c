#include "runtime/counters/cost.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#define HOURS_PER_YEAR (24.0 * 365.25)

static ls_status bad_deliveries(const ls_config_cost *cost) {
    return LS_FAIL(LS_E_CONFIG,
                   "cost.contract_devices is '%s'; it is years after the start:devices, the years "
                   "growing from 0 to less than the %g of cost.contract_years, as in "
                   "0:10000,1.5:59000, or days after cost.contract_start ('%s') in their place, as "
                   "in 2026-11-01:10000",
                   cost->contract_devices, cost->contract_years, cost->contract_start);
}

/* Unix time of a day "2026-11-01" at the beginning of text; NAN when there is none. */
static double day_of(const char *text, const char **end) {
    struct tm day = {0};
    const char *after = strptime(text, "%Y-%m-%d", &day);
    *end = after ? after : text;
    return after ? (double)timegm(&day) : NAN;
}

/* Years after the start, from a number or a day; *end == text: neither. */
static double delivery_years(const ls_config_cost *cost, const char *text, const char **end) {
    const char *start_end;
    const double day = day_of(text, end);
    if (isfinite(day)) {
        return (day - day_of(cost->contract_start, &start_end)) / (3600.0 * HOURS_PER_YEAR);
    }
    char *number_end;
    const double years = strtod(text, &number_end);
    *end = number_end;
    return years;
}

/* Device-hours between the deliveries and the end of the contract. */
static ls_status delivered_hours(const ls_config_cost *cost, double *hours) {
    const char *p = cost->contract_devices;
    double at = 0.0, devices = 0.0;
    bool first = true;
    *hours = 0.0;
    do {
        const char *end;
        double next = delivery_years(cost, p, &end);
        if (end == p || *end != ':' || !(next >= 0.0) || next >= cost->contract_years ||
            (!first && next <= at)) {
            return bad_deliveries(cost);
        }
        *hours += (next - at) * HOURS_PER_YEAR * devices;
        at = next;
        p = end + 1;
        char *number_end;
        devices = strtod(p, &number_end);
        end = number_end;
        if (end == p || (*end != ',' && *end != '\0') || !(devices >= 0.0) || !isfinite(devices)) {
            return bad_deliveries(cost);
        }
        p = end;
        first = false;
    } while (*p++ == ',');
    *hours += (cost->contract_years - at) * HOURS_PER_YEAR * devices;
    return *hours > 0.0 ? LS_OK : bad_deliveries(cost);
}

ls_status ls_cost_price(const ls_config_cost *cost, double *usd_per_device_hour) {
    *usd_per_device_hour = NAN;
    if (cost->usd_per_device_hour > 0.0) {
        *usd_per_device_hour = cost->usd_per_device_hour;
        return LS_OK;
    }
    if (cost->kind != LS_PRICE_CONTRACT) {
        return LS_OK;
    }
    if (!(cost->contract_usd > 0.0) || !(cost->contract_years > 0.0)) {
        return LS_FAIL(LS_E_CONFIG,
                       "cost.kind is contract, but cost.contract_usd is %g and cost.contract_years "
                       "%g; give both, or the price itself as cost.usd_per_device_hour",
                       cost->contract_usd, cost->contract_years);
    }
    double hours;
    LS_TRY(delivered_hours(cost, &hours));
    *usd_per_device_hour = cost->contract_usd / (hours * cost->contract_utilisation);
    return LS_OK;
}

/* Unknown plus something known is what is known. */
static void add(double *total, double amount) {
    if (isfinite(amount)) {
        *total = (isfinite(*total) ? *total : 0.0) + amount;
    }
}

void ls_cost_spend(const ls_config_cost *cost, double usd_per_device_hour, double device_seconds,
                   ls_counters *counters) {
    counters->device_seconds += device_seconds;
    add(&counters->usd, device_seconds / 3600.0 * usd_per_device_hour);
    if (cost->watts_per_device > 0.0) {
        double joules = device_seconds * cost->watts_per_device * cost->pue;
        add(&counters->modelled_joules, joules);
        if (cost->carbon_g_per_kwh > 0.0) {
            add(&counters->carbon_g, joules / 3.6e6 * cost->carbon_g_per_kwh);
        }
    }
}
