/* Reduction of gradients into shards, block by block, so that no rank ever has all of them
 * (ZeRO 2 and 3: Rajbhandari 2019, arXiv 1910.02054).
 *
 * Backward adds a block's gradients to a buffer that is lent for this block only. When they are
 * final, the ranks exchange the block's units: each gets what its shard keeps of all ranks' and
 * adds that to its sums, for every micro-batch anew. The units of the partition are the buckets.
 *
 * The order of additions is that of reduce.h, with other leaves: micro-batch `local` of rank r is
 * leaf local * R + r, so that the ranks' leaves of one exchange are neighbours in the tree and the
 * sums of one exchange fold into few nodes: a rank keeps log2(M/R) + 1 of them. Of C ranks that
 * share each micro-batch, the first ones' leaves, so numbered among R/C ranks, come before the
 * second ones': C times as many nodes. For the same M the sums have the same bits as there when the
 * ranks take the same samples for the same leaves.
 * fast: the R leaves of an exchange are added in the tree, the exchanges one after the other.
 * bf16: likewise, but those of other ranks are rounded to bf16 on their way. */
#ifndef LS_COLLECTIVES_SCATTER_H
#define LS_COLLECTIVES_SCATTER_H

#include "collectives/reduce.h"

typedef struct ls_scatter ls_scatter;

typedef struct ls_scatter_options {
    ls_comm
        *comm; /* borrowed; rank r keeps shard r mod shards, the ranks of a shard are replicas */
    ls_device *dev; /* borrowed; comm is for its memory */
    ls_reduction reduction;
    int64_t micro_batches;         /* of a rank: M/R */
    int context_ranks;             /* as in reduce.h */
    const ls_partition *partition; /* borrowed; no unit reaches over the end of a block */
    const ls_range *blocks;        /* [block_count], read by create */
    int block_count;
    /* Buffers: two of pool_elems for blocks of at most so many elements, and one for all larger
     * ones; first_held: block 0 has one of its own, because others are lent while it is. */
    int64_t pool_elems;
    bool first_held;
    void *sums; /* borrowed: what this rank's shard keeps, unit after unit (ls_partition_elems) */
} ls_scatter_options;

/* Takes all memory. Errors as of ls_reducer_create. [collective] */
ls_status ls_scatter_create(const ls_scatter_options *options, ls_scatter **scatter);
/* What create would take; of options.comm rank, size and on_device are read. */
ls_status ls_scatter_plan(const ls_scatter_options *options, ls_reduction_bytes *bytes);
/* Safe on NULL. After a failure while operations were under way the memory is not freed.
 * [collective] */
void ls_scatter_destroy(ls_scatter *scatter);

/* The calls of a global batch: begin { micro_begin { block, ready }... }... finish, with progress
 * anywhere; every rank makes each block ready once a micro-batch and in the same order. */
ls_status ls_scatter_begin(ls_scatter *scatter);
ls_status ls_scatter_micro_begin(ls_scatter *scatter);
/* *grads [elements of the block]: where to add its gradients, the same until ready. *fresh: it may
 * hold anything and must be written first. Waits when all buffers are under way. */
ls_status ls_scatter_block(ls_scatter *scatter, int block, void **grads, bool *fresh);
/* The block's gradients of this micro-batch are final: starts to exchange them. */
ls_status ls_scatter_ready(ls_scatter *scatter, int block);
/* Not collective. */
ls_status ls_scatter_progress(ls_scatter *scatter);
/* Waits until the sums are complete. LS_E_SHAPE when a micro-batch is missing. [collective] */
ls_status ls_scatter_finish(ls_scatter *scatter, uint64_t *wait_ns);

#endif
