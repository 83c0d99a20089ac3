/* A copy of the tensors that a save writes, in memory reserved in advance, so that training goes on
 * while it is written.
 *
 *   | header | rows, one a tensor | values, each at a multiple of 64 bytes |
 *
 * Ranks of a host may share theirs, so that the lowest of them writes for all: each keeps its copy
 * in memory without a name that the others find under /proc, and tells them when it is complete. */
#ifndef LS_CHECKPOINT_SNAPSHOT_H
#define LS_CHECKPOINT_SNAPSHOT_H

#include "checkpoint/saver.h"

#include <stdatomic.h>

typedef struct ls_snapshot_view {
    void *base; /* mapped */
    size_t bytes;
    ls_ckpt_tensor *tensors; /* [count]; data lies in the mapping, names in its rows */
    int count;
} ls_snapshot_view;

typedef struct ls_snapshot {
    ls_snapshot_view mine;
    ls_snapshot_view *others; /* of the other ranks of the host, in order of rank; lowest only */
    int other_count;
    int host_rank, host_index; /* this rank's place on the host; the host's place among hosts */
    atomic_bool stopping;
} ls_snapshot;

/* Memory for tensors [count], whose boxes may be empty; all of it is touched, so that no page is
 * missing later. shared: of all ranks of a host [collective then]. LS_E_MEMORY, LS_E_UNSUPPORTED
 * when ranks of a host cannot see each other's memory. */
ls_status ls_snapshot_create(ls_snapshot *snapshot, ls_comm *comm, bool shared,
                             const ls_ckpt_tensor *tensors, int count);
void ls_snapshot_release(ls_snapshot *snapshot);

/* Fills it, with all threads of the caller or by `fetch`. The tensors must be those of create but
 * for their data: LS_E_SHAPE. so_far: not LS_OK when there is nothing to fill it with, and returned
 * then. Whatever comes of it, the lowest rank of the host is told. */
ls_status ls_snapshot_fill(ls_snapshot *snapshot, ls_status so_far, const ls_ckpt_tensor *tensors,
                           int count, ls_ckpt_fetch_fn fetch, void *context);
/* Waits until the others of the host have filled theirs; for the lowest rank. False when one of
 * them has failed, or after ls_snapshot_stop. */
bool ls_snapshot_await(ls_snapshot *snapshot);
void ls_snapshot_stop(ls_snapshot *snapshot);

#endif
