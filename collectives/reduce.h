/* Reduction of gradients over data-parallel ranks, bucket by bucket, while backward goes on.
 *
 * Gradients live in one flat buffer in the order of the model's blocks. Backward finishes them
 * from the end to the start; ls_reducer_ready tells how far it has come, and buckets behind that
 * line are started at once. ls_reducer_progress drives started operations and is cheap enough to
 * call between any two device operations.
 *
 * fast: each rank sums its own micro-batches in one buffer; these R sums are added in the tree
 * below, with M = R. All ranks get the same bits, which depend on R.
 *
 * invariant: the sum of the micro-batches' gradients g_0 ... g_{M-1} of a global batch is one fixed
 * balanced binary tree in fp32, whoever computed which, so that the result has the same bits for
 * every number of ranks (pairwise summation: Higham 1993, doi:10.1137/0914050). Node (l, i) covers
 * leaves [i 2^l, (i+1) 2^l) and is node (l-1, 2i) + node (l-1, 2i+1), or its left child alone where
 * the right one lies beyond M. Rank r computes leaves [r M/R, (r+1) M/R) and folds them into the
 * largest nodes that lie inside that range (at most 2 log2(M/R) + 1; exactly one where M/R is a
 * power of two). Of ranks that share each micro-batch, a part of the sequences each, the first
 * ones' leaves come before the second ones', so that the result does not depend on how many others
 * there are: ls_reducer_place takes the place of r.
 *
 * bf16: as fast, but several ranks' sums are rounded to bf16 before they travel, and once more when
 * they have been added in fp32 (a communicator on_device may round them on the way): half the
 * bytes. Of shards with replicas the sums of each replica's ranks are rounded before they are
 * added.
 *
 * Otherwise the owner of each slice of a bucket receives the ranks' nodes for it and adds them in
 * tree order, and the slices are gathered: 2 (R-1)/R of the buffer are sent by each rank, as by a
 * ring (Patarasuk & Yuan 2009, doi:10.1016/j.jpdc.2008.09.002), where ranks hold one node. Where
 * ranks divide the training state (a partition), they gather only what their shard keeps: nothing
 * without replicas.
 *
 * A communicator on_device adds in an order of its own, which `fast` is content with. There, sums
 * are complete for what the device is given after finish; wait_ns is the host's part only.
 *
 * The reducer communicates on communicators of its own, so that the caller is free to use `comm`
 * between begin and finish. */
#ifndef LS_COLLECTIVES_REDUCE_H
#define LS_COLLECTIVES_REDUCE_H

#include "collectives/comm.h"
#include "runtime/device/device.h"
#include "runtime/mesh/partition.h"

typedef enum ls_reduction {
    LS_REDUCTION_FAST,
    LS_REDUCTION_INVARIANT,
    LS_REDUCTION_BF16
} ls_reduction;

typedef struct ls_reducer ls_reducer;

typedef struct ls_reducer_options {
    ls_comm *comm;  /* borrowed */
    ls_device *dev; /* borrowed; comm is for its memory */
    ls_reduction reduction;
    int64_t elems;         /* of the flat gradient buffer, dev->acc */
    int64_t micro_batches; /* M over all ranks; a multiple of comm->size */
    int64_t bucket_bytes;  /* of a bucket, at most; the last ones to become final are smaller; 0: 25
                              MiB; not used with a partition */
    int context_ranks;     /* ranks next to each other that share each micro-batch; 0: 1 */
    const int64_t *fronts; /* what becomes final last (bucket.h), or NULL; not with a partition */
    /* NULL: every rank gets the whole sum. Otherwise (borrowed) its units are the buckets, and rank
     * r gets what shard r mod shards keeps; the ranks of a shard are its replicas. */
    const ls_partition *partition;
    void *buffer; /* the gradient buffer, borrowed; NULL: taken here */
} ls_reducer_options;

/* Do gradients travel in bf16? */
static inline bool ls_reducer_narrows(ls_reduction reduction, int ranks) {
    return reduction == LS_REDUCTION_BF16 && ranks > 1;
}

/* context_ranks where it has a say; 1: leaves come in order of rank. */
static inline int ls_reducer_contexts(ls_reduction reduction, int ranks, int context_ranks) {
    return reduction == LS_REDUCTION_INVARIANT && context_ranks > 0 && context_ranks < ranks
               ? context_ranks
               : 1;
}
static inline int ls_reducer_place(int rank, int ranks, int context_ranks) {
    return rank % context_ranks * (ranks / context_ranks) + rank / context_ranks;
}

/* Takes all memory the reduction needs: the gradient buffer itself, with `invariant` as many more
 * as the tree needs (log2(M/R) where M/R is a power of two) and, on several ranks, scratch for a
 * few buckets. LS_E_SHAPE for sizes that do not fit together, LS_E_UNSUPPORTED for a communicator
 * that is not for the device's memory, LS_E_MEMORY; the same on all ranks. [collective] */
ls_status ls_reducer_create(const ls_reducer_options *options, ls_reducer **reducer);
/* Bytes. taken: by create, as ls_reducer_bytes says. shared: of these, what other ranks read where
 * it lies. between_hosts: what back ends take besides of buckets on their way, where ranks lie on
 * several hosts: the others' pieces of a sum, and what comes before it is asked for. */
typedef struct ls_reduction_bytes {
    size_t taken, shared, between_hosts;
} ls_reduction_bytes;

/* What create would take; of options.comm rank, size and on_device are read. */
ls_status ls_reducer_plan(const ls_reducer_options *options, ls_reduction_bytes *bytes);
/* LS_E_SHAPE when so many ranks do not consist of groups of context_ranks. */
ls_status ls_reducer_check_contexts(int ranks, int context_ranks);
/* LS_E_UNSUPPORTED when comm is for other memory than the device's. */
ls_status ls_reducer_check_memory(const ls_comm *comm, const ls_device *dev);
/* Safe on NULL. After a failure between begin and finish the memory is not freed, since the library
 * may still be writing to it. [collective] */
void ls_reducer_destroy(ls_reducer *reducer);
/* The gradient buffer [elems], in which the result ends. */
void *ls_reducer_buffer(const ls_reducer *reducer);
/* Bytes taken beyond the gradient buffer itself. */
size_t ls_reducer_bytes(const ls_reducer *reducer);

/* The calls of a global batch come in this order, each micro-batch from 0 to M/R - 1:
 *   begin { micro_begin ready... micro_end }... finish, with progress anywhere in between.
 * LS_E_SHAPE for another order. */
ls_status ls_reducer_begin(ls_reducer *reducer);
/* Where the backward pass of this rank's micro-batch `local` (0 .. M/R-1, in order) must add its
 * gradients: buffer [elems]. With `fast` it is the same buffer each time. *fresh: it may hold
 * anything and must be written first. */
ls_status ls_reducer_micro_begin(ls_reducer *reducer, int64_t local, void **grads, bool *fresh);
/* Gradients of elements >= first_elem of the current micro-batch are final. Does nothing before
 * the last local micro-batch; then starts the buckets that have become final. Ranks may call it at
 * different places and as often as they like. */
ls_status ls_reducer_ready(ls_reducer *reducer, int64_t first_elem);
/* Ends a micro-batch (folds nodes with `invariant`). */
ls_status ls_reducer_micro_end(ls_reducer *reducer);
/* Drives started operations and adds the slices that have arrived. Not
 * collective. */
ls_status ls_reducer_progress(ls_reducer *reducer);
/* Waits; *grads [elems] is the sum over all micro-batches, in the elements that this rank's shard
 * keeps (without a partition: all), valid until the next begin. wait_ns: time spent waiting here,
 * the communication that was not hidden. [collective] */
ls_status ls_reducer_finish(ls_reducer *reducer, void **grads, uint64_t *wait_ns);

#endif
