/* Processes of this host, and its start. */
#ifndef LS_BASE_PROCESS_H
#define LS_BASE_PROCESS_H

#include "runtime/base/status.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* When process `pid` was started, in clock ticks since boot (proc(5), starttime): with the number,
 * and within a boot, it names one process. LS_E_NO when there is no such process (a zombie counts
 * as none); LS_E_IO where /proc hides it (hidepid), as processes of other users. */
ls_status ls_process_start(int64_t pid, int64_t *start_ticks);

/* The Slurm job of this process as squeue and scontrol name it; "" outside of one, and for what is
 * no number. A task of an array is "12_3": the number of its own, that SLURM_JOB_ID has, is the
 * whole array's for the last one. Returns job. */
char *ls_process_slurm_job(char *job, size_t size);

/* What tells one start of the host from another (random(4), boot_id); 37 bytes and more, never
 * empty. LS_E_IO. */
ls_status ls_process_boot(char *boot, size_t size);

/* Raises the limit of files that this process may have open (getrlimit(2), RLIMIT_NOFILE) to
 * `wanted`, or to what it may be raised to; a higher one stays. LS_E_CONFIG when that is less than
 * `least`. */
ls_status ls_process_open_files(int64_t least, int64_t wanted);

/* Starts a thread that takes no signals: they are for the main thread. Returns 0 or an errno. */
int ls_process_thread(pthread_t *thread, void *(*run)(void *), void *context);

#endif
