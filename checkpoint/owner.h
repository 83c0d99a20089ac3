/* Who a run directory or an unfinished save belongs to, and whether that process is gone.
 *
 * On the host of the owner the process itself is looked for: its number and the time of its start,
 * in the same boot and the same space of process numbers. From elsewhere only Slurm can tell: its
 * job or step has ended, or is an earlier start of this very job. Whatever is not proven counts as
 * alive. */
#ifndef LS_CHECKPOINT_OWNER_H
#define LS_CHECKPOINT_OWNER_H

#include "runtime/base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ls_owner {
    char host[128], boot[48], space[48]; /* host name, boot id, space of process numbers */
    char cluster[64], job[32], step[32]; /* Slurm's; "" outside of it */
    int64_t restart;                     /* how often Slurm has requeued the job */
    int64_t pid, start_ticks;            /* of the process: proc(5), starttime */
    double since_s;                      /* Unix time */
} ls_owner;

typedef enum ls_owner_state {
    LS_OWNER_SELF,
    LS_OWNER_ALIVE,
    LS_OWNER_GONE,
    LS_OWNER_UNKNOWN /* on another host, and nobody here knows */
} ls_owner_state;

ls_status ls_owner_self(ls_owner *owner);
/* May run squeue. */
ls_owner_state ls_owner_look(const ls_owner *owner);
/* "process 4242 on host a (Slurm job 17), since 2025-03-01 12:00:00 UTC" into buf; returns buf. */
char *ls_owner_text(const ls_owner *owner, char *buf, size_t size);

/* As a new file, synced. LS_E_EXISTS when there is one; LS_E_IO. */
ls_status ls_owner_write(const ls_owner *owner, const char *path);
/* The text of such a file; `where` names it in messages. */
ls_status ls_owner_parse(const char *text, size_t bytes, const char *where, ls_owner *owner);
/* LS_E_CORRUPT when the file is not one of these, LS_E_INPUT when it is not there. */
ls_status ls_owner_read(const char *path, ls_owner *owner);

/* ---- the lock of a directory ---- */

/* DIRECTORY/lock.json names the process that works there. */
typedef struct ls_lock {
    char path[1100]; /* "": not taken */
    ls_owner self;
} ls_lock;

/* LS_E_EXISTS names the holder and says what to do when it is known to be gone but not here. A
 * holder that is provably gone is replaced. Not collective: one process of a job takes it. */
ls_status ls_lock_take(ls_lock *lock, const char *directory);
/* Safe when not taken. A lock that someone else has taken over stays. */
void ls_lock_release(ls_lock *lock);

#endif
