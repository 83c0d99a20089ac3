/* What a rank of the mesh holds and does in training: its parts of the model, its share of the
 * batch and of the training state. The same options serve to plan and to build. */
#ifndef LS_LAUNCH_TRAIN_LAYOUT_H
#define LS_LAUNCH_TRAIN_LAYOUT_H

#include "optim/optim.h"
#include "runtime/config/config.h"
#include "runtime/mesh/mesh.h"
#include "runtime/step/step.h"

typedef struct ls_layout {
    const ls_config *config; /* resolved, with model.vocab; borrowed */
    ls_device *dev;          /* borrowed */
    ls_dtype dtype;
    ls_mesh mesh; /* of the rank that is described */
    int64_t seq, batch, rank_micros;
    int shards;     /* ranks that divide the training state */
    int data_ranks; /* replicate x shard: that divide the batch */
    /* Neighbours among the ranks of replicate, shard and context split the experts: groups of
     * `experts` ranks, which lie inside the groups of `shards` or consist of whole ones. The ranks
     * with the same experts divide them among expert_shards. */
    int experts, expert_shards;
    bool common;    /* do the ranks of `shards` have their parameters in common (step/state.h)? */
    int part_count; /* of the model, on this rank */
    int stages;     /* of the pipeline, of all ranks */
    ls_model_part *parts;
    int *alive;             /* [part_count]: micro-batches of a part that are alive at once */
    int32_t document_token; /* with data.document_mask: set by who has the data */
    bool loss_mask;         /* of the data: set by who has it */
} ls_layout;

/* Ranks that differ along some axes only; NULL where that is the rank alone. */
typedef struct ls_groups {
    ls_comm *data;  /* replicate, shard, context; never NULL */
    ls_comm *shard; /* shard, context: divide the state; NULL with zero 0 */
    ls_comm *tensor, *context, *pipeline;
    ls_comm *experts;      /* expert x tensor ranks: split the experts; NULL without expert ranks */
    ls_comm *expert_data;  /* data ranks with the same experts; NULL without expert ranks */
    ls_comm *expert_shard; /* of them those that divide their state; NULL also with zero 0 */
    ls_comm *copy; /* data ranks that together hold one copy of the model; NULL: as `shard` */
} ls_groups;

/* LS_E_CONFIG for sizes that do not fit together, naming the nearest that do. No memory but tables
 * is taken. */
ls_status ls_layout_init(ls_layout *layout, const ls_config *config, ls_device *dev, ls_dtype dtype,
                         const ls_mesh *mesh);
/* Of a rank of a mesh of these sizes, planned without the others: as if each host_ranks of them had
 * a host. Release it, after a failure too. */
ls_status ls_layout_init_rank(ls_layout *layout, const ls_config *config, ls_device *dev,
                              ls_dtype dtype, const int size[LS_AXIS_COUNT], int rank,
                              int host_ranks);
void ls_layout_release(ls_layout *layout);

/* What the console says behind the dtype. */
static inline const char *ls_layout_logits(const ls_layout *l) {
    const bool narrow = l->config->numerics.logits == LS_CFG_LOGITS_COMPUTE;
    return narrow && l->dtype != l->dev->acc ? " with logits" : "";
}

/* Ranks of replicate, shard and context together, and which of them this one is. */
static inline int ls_layout_data_size(const ls_layout *l) {
    return l->data_ranks * l->mesh.size[LS_AXIS_CONTEXT];
}
int ls_layout_data_rank(const ls_layout *layout);
/* Data ranks that together hold one copy of the model. */
static inline int ls_layout_copy_size(const ls_layout *l) {
    return l->experts > l->shards ? l->experts : l->shards;
}

/* Of part `part`; with groups (NULL: to plan) its communicators. */
ls_model_options ls_layout_model(const ls_layout *layout, int part, const ls_groups *groups);
/* Without communicators. */
ls_state_options ls_layout_state(const ls_layout *layout);
ls_runner_options ls_layout_runner(const ls_layout *layout);
/* Of this rank's micro-batches from the batch on that begins with sample `first`. */
ls_loader_options ls_layout_loader(const ls_layout *layout, const ls_dataset *dataset,
                                   int64_t first);
/* Of the optimizer over a state. *owned and *not_counted: caller frees after ls_optim_create. */
ls_status ls_layout_optim(const ls_layout *layout, const ls_state *state, ls_optim_options *options,
                          ls_optim_range **owned, ls_optim_range **not_counted);

/* Does the rank's pipeline end hold a tied embedding that another one holds too? */
bool ls_layout_has_twin(const ls_layout *layout);

/* Bytes of a rank by kind, while it trains. */
typedef struct ls_layout_bytes {
    ls_state_bytes state;
    size_t optim, activations, tables, boundary;
    size_t spare; /* of the activations (ls_model_bytes) */
    /* Not in the total of training: of operations, the device's and those among ranks, gradients
     * and parameters on their way between several hosts with them, where that is known before; the
     * copy that saves are written from, and what writing takes beside it, from the first save on.
     * Where one rank writes for its host, it counts half of the others' copies, which it reads. */
    size_t scratch, saves, writing;
} ls_layout_bytes;

/* Computed without taking any. */
ls_status ls_layout_plan(const ls_layout *layout, ls_layout_bytes *bytes);
/* The operations of a step on a device whose memory is the host's, agreements of the training loop
 * left out. Rows that go to experts are those of an even choice. */
ls_status ls_layout_tell(const ls_layout *layout, const ls_comm_list *list);
size_t ls_layout_total(const ls_layout_bytes *bytes);
/* The same without what an even choice of experts leaves untouched. */
size_t ls_layout_used(const ls_layout_bytes *bytes);
/* That, scratch and saves: of a process whose device's memory is the host's. */
static inline size_t ls_layout_process(const ls_layout_bytes *bytes) {
    return ls_layout_used(bytes) + bytes->scratch + bytes->saves + bytes->writing;
}

#endif
