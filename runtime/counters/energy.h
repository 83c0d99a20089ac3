/* Measured energy of this host, from the counters that it has: RAPL (Linux powercap; processor
 * packages, their DRAM where it is a domain of its own). Where there is none nothing is invented.
 */
#ifndef LS_COUNTERS_ENERGY_H
#define LS_COUNTERS_ENERGY_H

#include "runtime/base/status.h"

typedef struct ls_energy ls_energy;

/* folder: NULL for /sys/class/powercap. *energy is NULL when there is no counter that can be read.
 */
ls_status ls_energy_open(const char *folder, ls_energy **energy);
void ls_energy_close(ls_energy *energy);
/* Joules since open. The counters wrap within minutes at high power (powercap.rst): read it at
 * least once a minute. LS_E_IO. */
ls_status ls_energy_joules(ls_energy *energy, double *joules);
/* What is counted: "RAPL: package-0, dram". */
const char *ls_energy_scope(const ls_energy *energy);

#endif
