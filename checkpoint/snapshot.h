/* A copy of the tensors that a save writes, in memory reserved in advance, so that training goes on
 * while it is written. It is made part by part, by the thread that will write it while training
 * only reads the state; whoever is about to change the state makes what is left of it.
 *
 *   | header | rows, one a tensor | values, each at a multiple of 64 bytes |
 *
 * Ranks of a host may share theirs, so that the lowest of them writes for all: each keeps its copy
 * in memory without a name that the others find under /proc, and tells them when it is complete. */
#ifndef LS_CHECKPOINT_SNAPSHOT_H
#define LS_CHECKPOINT_SNAPSHOT_H

#include "checkpoint/saver.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct ls_snapshot_view {
    void *base;              /* mapped */
    size_t bytes, values_at; /* where values begin: at a page; of the rank's own */
    ls_ckpt_tensor *tensors; /* [count]; data lies in the mapping, names in its rows */
    int count;
} ls_snapshot_view;

typedef struct ls_snapshot {
    ls_snapshot_view mine;
    ls_snapshot_view *others; /* of the other ranks of the host, in order of rank; lowest only */
    int other_count;
    int host_rank, host_index; /* this rank's place on the host; the host's place among hosts */
    atomic_bool stopping;
    /* The copy under way: parts of equal size of all values one after the other. */
    size_t *starts;       /* [mine.count + 1] where each tensor's values begin in that order */
    const char **sources; /* [mine.count] */
    pthread_mutex_t mutex;
    pthread_cond_t complete;
    _Atomic int64_t taken; /* parts that somebody copies or has copied */
    int64_t parts, copied; /* copied: under the mutex, but for begin */
    bool made;             /* mutex and condition are */
} ls_snapshot;

/* Memory for tensors [count], whose boxes may be empty. shared: of all ranks of a host [collective
 * then]. LS_E_MEMORY, LS_E_UNSUPPORTED
 * when ranks of a host cannot see each other's memory. */
ls_status ls_snapshot_create(ls_snapshot *snapshot, ls_comm *comm, bool shared,
                             const ls_ckpt_tensor *tensors, int count);
void ls_snapshot_release(ls_snapshot *snapshot);

/* Touches all of its memory, so that no page is missing in a save; not beside another call. */
void ls_snapshot_touch(ls_snapshot *snapshot);

/* Begins to fill it. The tensors must be those of create but for their data: LS_E_SHAPE. so_far:
 * not LS_OK when there is nothing to fill it with, and returned then. The data must stay as it is
 * until ls_snapshot_complete has returned. fetched: the caller fills it, and says so. */
ls_status ls_snapshot_begin(ls_snapshot *snapshot, ls_status so_far, const ls_ckpt_tensor *tensors,
                            int count, bool fetched);
void ls_snapshot_fetched(ls_snapshot *snapshot, bool good);
/* Copies what nobody has begun to copy, with up to `threads` threads, and waits for the rest. Any
 * number of threads may call it at the same time. Once it is complete, or has failed, the lowest
 * rank of the host is told. */
void ls_snapshot_complete(ls_snapshot *snapshot, int threads);
/* Waits until the others of the host have filled theirs; for the lowest rank. False when one of
 * them has failed, or after ls_snapshot_stop. */
bool ls_snapshot_await(ls_snapshot *snapshot);
void ls_snapshot_stop(ls_snapshot *snapshot);

#endif
