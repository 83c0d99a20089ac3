/* Processes of this host. */
#ifndef LS_BASE_PROCESS_H
#define LS_BASE_PROCESS_H

#include "runtime/base/status.h"

#include <stdint.h>

/* When process `pid` was started, in clock ticks since boot (proc(5), starttime): with the number,
 * and within a boot, it names one process. LS_E_NO when there is no such process (a zombie counts
 * as none). */
ls_status ls_process_start(int64_t pid, int64_t *start_ticks);

#endif
