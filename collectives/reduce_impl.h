/* What reduce.c and reduce_narrow.c share. */
#ifndef LS_COLLECTIVES_REDUCE_IMPL_H
#define LS_COLLECTIVES_REDUCE_IMPL_H

#include "collectives/bucket.h"
#include "collectives/reduce.h"
#include "collectives/sum_tree.h"

enum { LS_REDUCER_SLOTS = 4, LS_REDUCER_NARROW_BYTES = 2 };

struct ls_reducer {
    ls_comm *comm; /* the caller's */
    ls_comm *exchange_comm, *gather_comm;
    ls_device *dev;
    int64_t elem_bytes, elems;
    int64_t micro_batches, local_batches; /* M, M/R */
    int64_t leaves, local_leaves;         /* of the tree: the same, or with fast R, 1 */
    int context_ranks;                    /* 1 where leaves come in order of rank */
    int shards, shard, replicas;          /* rank = replica * shards + shard */
    bool invariant;
    bool narrow;                /* reduce_narrow.c */
    ls_partition own_partition; /* without one of the caller's */
    const ls_partition *partition;
    int64_t bucket_count, slice_elems; /* slice_elems: of the longest slice */
    size_t extra_bytes;
    bool planning; /* device memory is counted, not taken */

    /* Buffers are this rank's stack of nodes from the bottom; the result ends in buffer 0. */
    void **buffers;
    bool lent_buffer;               /* buffer 0 is the caller's */
    void *memory;                   /* of the others, from exchange_comm */
    int buffer_count, most_buffers; /* of this rank, of any */
    ls_tree_stack stack;
    int64_t next_batch; /* local; local_batches + 1 outside begin ... finish */
    bool in_batch;
    ls_tree_add adds[LS_TREE_MAX_ADDS]; /* those that the current leaf allows */
    int add_count;

    /* All ranks' nodes: rank r's are [first_node[r], first_node[r + 1]). A slot of the scratch
     * memory holds a slice of each node of the other ranks. */
    int *first_node;
    int most_nodes; /* of a rank */
    ls_tree_add *tree_adds;
    int tree_add_count;
    char **places;      /* [nodes], of what is being added */
    void *stage;        /* narrow: [slots], the longest bucket in bf16; in `memory` */
    int64_t slot_bytes; /* of it; 0 unless narrow */
    void *scratch;      /* on a device in `memory`, since the library may have to know it */

    /* Buckets that backward has finished, and that have entered and left the stages. */
    int64_t ready, started, summed, done;
    ls_comm_request **exchanges;     /* [slots][most_nodes] */
    ls_comm_request **gathers;       /* [bucket_count] */
    int64_t *counts[2], *offsets[2]; /* [ranks], of sends and receives; in bytes */
};

/* The bucket that is the order-th to be sent. */
static inline int ls_reducer_unit(const ls_reducer *r, int64_t order) {
    return (int)(r->bucket_count - 1 - order);
}

static inline ls_range ls_reducer_slice(const ls_reducer *r, int unit, int rank) {
    return ls_bucket_slice(r->partition, unit, r->comm->size, rank);
}

/* One node on each rank, no replicas of shards, and a communicator whose order of sums will do? */
static inline bool ls_reducer_is_one_call(const ls_reducer *r) {
    return r->most_nodes == 1 && (r->shards == 1 || r->replicas == 1) && r->context_ranks == 1 &&
           (!r->invariant || !r->comm->on_device || r->comm->size == 1);
}

/* Buckets that may be on their way at once: one is added up while others travel. On a device, where
 * nobody would want to wait for one, all, if they need no memory for it. */
static inline int64_t ls_reducer_slots(const ls_reducer *r) {
    return r->comm->on_device && ls_reducer_is_one_call(r) && !r->narrow &&
                   r->bucket_count > LS_REDUCER_SLOTS
               ? r->bucket_count
               : LS_REDUCER_SLOTS;
}

/* reduce_narrow.c. Of all slots, 0 where gradients are not narrow. */
int64_t ls_reducer_stage_bytes(const ls_reducer *r);
/* The stages of a bucket: begin to reduce it; what to do once that has come to its end; and when
 * the replicas have reduced it. */
ls_status ls_reducer_narrow_start(ls_reducer *r, int64_t order);
ls_status ls_reducer_narrow_summed(ls_reducer *r, int64_t order);
ls_status ls_reducer_narrow_gathered(ls_reducer *r, int64_t order);

#endif
