#include "runtime/counters/energy.h"

#include "runtime/base/arena.h"
#include "runtime/counters/energy_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* NVML */

static ls_status read_nvml(ls_energy *e, double *joules) {
    LS_TRY(ls_nvml_energy(e->nvml, e->gpu, joules, &e->gpu_scope));
    return LS_OK;
}

/* A driver that is not there, or does not count energy, is no fault of the run. */
static ls_status open_nvml(ls_energy *e, const char *bus_id, bool *found) {
    ls_status status = ls_nvml_open(NULL, &e->nvml);
    if (status == LS_E_UNSUPPORTED) {
        return LS_OK;
    }
    LS_TRY(status);
    if (ls_nvml_find(e->nvml, bus_id, &e->gpu) != LS_OK) { /* the driver does not show it */
        return LS_OK;
    }
    LS_TRY(read_nvml(e, &e->first_joules));
    *found = e->gpu_scope != LS_NVML_NONE;
    snprintf(e->scope, sizeof e->scope, "NVML: %s", ls_nvml_scope_name(e->gpu_scope));
    return LS_OK;
}

/* A counter that began anew, as after the driver was loaded again, goes on from there. */
static ls_status advance_nvml(ls_energy *e) {
    double now;
    LS_TRY(read_nvml(e, &now));
    if (isnan(now)) {
        return LS_FAIL(LS_E_DEVICE, "GPU %d does not tell its energy any more", e->gpu);
    }
    e->joules += now >= e->first_joules ? now - e->first_joules : now;
    e->first_joules = now;
    return LS_OK;
}

/* Node counter: "123456 J 1700000000000000 us". */

static bool read_node(const ls_energy *e, double *joules) {
    FILE *f = fopen(e->path, "r");
    char unit[8] = "";
    const bool there = f && fscanf(f, "%lf %7s", joules, unit) == 2 && strcmp(unit, "J") == 0;
    if (f) {
        fclose(f);
    }
    return there;
}

static void open_node(ls_energy *e, const char *folder, bool *found) {
    snprintf(e->path, sizeof e->path, "%s/energy", folder ? folder : "/sys/cray/pm_counters");
    *found = read_node(e, &e->first_joules);
    snprintf(e->scope, sizeof e->scope, "node counter: whole host");
}

static ls_status advance_node(ls_energy *e) {
    double now;
    if (!read_node(e, &now)) {
        return LS_FAIL(LS_E_IO, "cannot read '%s', which could be read before: 'N J' is expected",
                       e->path);
    }
    e->joules = now - e->first_joules;
    return LS_OK;
}

static ls_status open_kind(ls_energy *e, const ls_energy_options *o, bool *found) {
    switch (e->kind) {
    case LS_ENERGY_NVML:
        return o->gpu_bus_id && o->gpu_bus_id[0] ? open_nvml(e, o->gpu_bus_id, found) : LS_OK;
    case LS_ENERGY_NODE:
        if (o->first_of_host) {
            open_node(e, o->pm_counters, found);
        }
        return LS_OK;
    case LS_ENERGY_SLURM:
        return o->first_of_job ? ls_energy_open_slurm(e, found) : LS_OK;
    default:
        return o->first_of_host ? ls_energy_open_rapl(e, o->powercap, found) : LS_OK;
    }
}

ls_status ls_energy_open(ls_energy_kind kind, const ls_energy_options *options,
                         ls_energy **energy) {
    *energy = NULL;
    ls_energy *e;
    LS_TRY(ls_calloc(1, sizeof *e, &e));
    e->kind = kind;
    bool found = false;
    const ls_status status = open_kind(e, options, &found);
    if (status != LS_OK || !found) {
        ls_energy_close(e);
        return status;
    }
    *energy = e;
    return LS_OK;
}

void ls_energy_close(ls_energy *energy) {
    if (energy) {
        ls_nvml_close(energy->nvml);
        free(energy);
    }
}

ls_status ls_energy_joules(ls_energy *e, double *joules) {
    switch (e->kind) {
    case LS_ENERGY_NVML:
        LS_TRY(advance_nvml(e));
        break;
    case LS_ENERGY_NODE:
        LS_TRY(advance_node(e));
        break;
    case LS_ENERGY_SLURM:
        LS_TRY(ls_energy_read_slurm(e));
        break;
    default:
        LS_TRY(ls_energy_read_rapl(e));
    }
    *joules = e->joules;
    return LS_OK;
}

const char *ls_energy_scope(const ls_energy *e) {
    return e->scope;
}
