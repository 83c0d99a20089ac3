/* The kinds of energy counters, for the files of this room. */
#ifndef LS_COUNTERS_ENERGY_IMPL_H
#define LS_COUNTERS_ENERGY_IMPL_H

#include "runtime/counters/energy.h"
#include "runtime/device/cuda/nvml.h"

#include <stdint.h>

enum { ENERGY_ZONES = 64 };

typedef struct energy_zone {
    char path[320];
    uint64_t last_uj, range_uj;
} energy_zone;

struct ls_energy {
    ls_energy_kind kind;
    char scope[256];
    double first_joules; /* of a counter that only grows; at open */
    double joules;       /* since open */
    /* NVML */
    ls_nvml *nvml;
    int gpu;
    ls_nvml_scope gpu_scope;
    /* node counter */
    char path[320];
    /* Slurm */
    char step[64];
    uint64_t asked_ns, ask_every_ns;
    /* RAPL */
    energy_zone zones[ENERGY_ZONES];
    int zone_count;
};

/* Each leaves *found false when there is nothing to read. */
ls_status ls_energy_open_rapl(ls_energy *energy, const char *folder, bool *found);
ls_status ls_energy_read_rapl(ls_energy *energy);
ls_status ls_energy_open_slurm(ls_energy *energy, bool *found);
ls_status ls_energy_read_slurm(ls_energy *energy);

#endif
