/* Measured energy of what trains, from one kind of counter: several would count parts twice. Where
 * there is none nothing is invented. */
#ifndef LS_COUNTERS_ENERGY_H
#define LS_COUNTERS_ENERGY_H

#include "runtime/base/status.h"

#include <stdbool.h>

/* X(code, text), the best first. */
#define LS_ENERGY_LIST(X)                                                                          \
    X(LS_ENERGY_NVML, "NVML") /* the GPU of a rank, or its module (nvml.h): on every rank */       \
    X(LS_ENERGY_NODE, "node counter") /* Cray's pm_counters, that Slurm's plugin reads: a host's   \
                                         first rank */                                             \
    X(LS_ENERGY_SLURM, "Slurm")       /* what accounting gathers of the step (sstat): rank 0 */    \
    X(LS_ENERGY_RAPL, "RAPL")         /* Linux powercap: packages, and their DRAM where it is a    \
                                         domain of its own: a host's first rank */
typedef enum ls_energy_kind {
#define X(code, text) code,
    LS_ENERGY_LIST(X)
#undef X
        LS_ENERGY_KINDS
} ls_energy_kind;

typedef struct ls_energy ls_energy;

/* NULL or empty: as said. */
typedef struct ls_energy_options {
    const char *gpu_bus_id; /* of this rank's GPU; empty: it has none, and no NVML */
    bool first_of_host, first_of_job;
    const char *powercap;    /* /sys/class/powercap */
    const char *pm_counters; /* /sys/cray/pm_counters */
} ls_energy_options;

/* *energy is NULL when this rank has no counter of that kind to read. */
ls_status ls_energy_open(ls_energy_kind kind, const ls_energy_options *options, ls_energy **energy);
void ls_energy_close(ls_energy *energy);
/* Joules since open. RAPL wraps within minutes at high power (powercap.rst): read it at least once
 * a minute. Slurm is asked at most every 30 s, and so far counts what it had gathered then.
 * LS_E_IO, LS_E_DEVICE. */
ls_status ls_energy_joules(ls_energy *energy, double *joules);
/* What is counted: "RAPL: package-0, dram", "NVML: GPU". */
const char *ls_energy_scope(const ls_energy *energy);

#endif
