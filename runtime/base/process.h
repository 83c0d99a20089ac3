/* Processes of this host, and its start. */
#ifndef LS_BASE_PROCESS_H
#define LS_BASE_PROCESS_H

#include "runtime/base/status.h"

#include <stddef.h>
#include <stdint.h>

/* When process `pid` was started, in clock ticks since boot (proc(5), starttime): with the number,
 * and within a boot, it names one process. LS_E_NO when there is no such process (a zombie counts
 * as none). */
ls_status ls_process_start(int64_t pid, int64_t *start_ticks);

/* What tells one start of the host from another (random(4), boot_id); 37 bytes and more, never
 * empty. LS_E_IO. */
ls_status ls_process_boot(char *boot, size_t size);

/* Raises the limit of files that this process may have open (getrlimit(2), RLIMIT_NOFILE) to
 * `wanted`, or to what it may be raised to; a higher one stays. LS_E_CONFIG when that is less than
 * `least`. */
ls_status ls_process_open_files(int64_t least, int64_t wanted);

#endif
