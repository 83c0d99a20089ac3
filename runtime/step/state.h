/* The training state of a rank: parameters, their compute copies, gradients; which of them it keeps
 * when ranks divide them (ZeRO: Rajbhandari 2019, arXiv 1910.02054), and how the others come to it.
 *
 *   zero  keeps of the group's                     gathers
 *   0     everything                               -
 *   1     a shard of masters and optimizer state   parameters after each update
 *   2     and of gradients                         parameters after each update
 *   3     and of parameters                        each block before its use, again in backward
 *
 * Ranks of one host need not copy what another one keeps: with zero 3 and `common` the parameters
 * lie once in memory that all of them have, each updates its shard there, and the others read it
 * where it lies. Nothing is gathered then; all wait for each other when the last has read, in
 * ls_state_finish, and when the last has written, in ls_state_share. Between the two, and before
 * the first use, the owner may write.
 *
 * Masters and gradients are dev->acc. Where the compute copies have another dtype they are what
 * travels, and norms and biases, which have no copy, are gathered once after each update; else the
 * masters travel, and with zero 1 and 2 every rank has all of them. Several parts of a model
 * (interleaved pipeline stages) lie one after the other in one flat space.
 *
 * Experts that expert ranks split lie behind everything else. Fewer ranks hold the same ones: their
 * gradients are added up, and they are divided, in groups of their own. */
#ifndef LS_STEP_STATE_H
#define LS_STEP_STATE_H

#include "collectives/reduce.h"
#include "runtime/mesh/partition.h"
#include "runtime/model/model.h"
#include "runtime/step/pipeline.h"

typedef struct ls_state ls_state;

typedef struct ls_state_options {
    const ls_config_model *config; /* borrowed, as all below */
    ls_device *dev;
    ls_dtype dtype;             /* of activations and copies; dev->acc: no copies */
    const ls_model_part *parts; /* read by create */
    int part_count;
    int zero;
    ls_reduction reduction;
    int64_t rank_micros;  /* micro-batches of this rank in a global batch */
    int context_ranks;    /* ranks next to each other in data that have the same ones; 0: 1 */
    int64_t bucket_bytes; /* of gradients sent together */
    /* With zero 3: the ranks that divide parameters share a host. Where their communicator has no
     * memory in common, or experts are apart, each gathers what it uses; see ls_state_is_common. */
    bool common;
    /* The ranks that hold the same parts, for the device's memory: rank r keeps shard r mod shards.
     * For ls_state_plan only rank, size and on_device are read. */
    ls_comm *data;
    int shards; /* 1 with zero 0 */
    /* With several expert ranks: the ranks of `data` that hold the same experts, and by how many
     * these are divided; rank r keeps shard r mod expert_shards. Else NULL. */
    ls_comm *expert_data;
    int expert_shards;
    /* The pipeline's ranks, when its first and its last hold a tied embedding each; NULL: none or
     * one does. */
    ls_comm *tied;
} ls_state_options;

/* Bytes by kind. gathered: windows of parameters that others keep, norms and biases; reduction:
 * gradients on their way. Of what lies once for several ranks each counts an equal part. shared: of
 * these, what the ranks of a host read and write of each other where it lies; it is not taken
 * besides. others: what other ranks count of memory in common. between_hosts: what comes to it
 * where the ranks of a reduction lie on several hosts (collectives/reduce.h). */
typedef struct ls_state_bytes {
    size_t masters, copies, grads, gathered, reduction, shared, others, between_hosts;
} ls_state_bytes;

/* Two stages with a tied embedding exchange its gradients in pieces of so much: the other's take
 * this memory, and no more of them come before they are asked for. Tests choose less. */
extern int64_t ls_state_tied_piece_bytes;

/* What create takes, by the same code. *state: one without memory, that only answers questions;
 * destroy it. Not collective. */
ls_status ls_state_plan(const ls_state_options *options, ls_state_bytes *bytes, ls_state **state);
/* The operations of a planned state in a step of these passes, on a device whose memory is the
 * host's: gradients, parameters after the update, with zero 3 blocks before their use. Once. */
ls_status ls_state_tell(ls_state *state, const ls_pipe_pass *passes, int64_t count,
                        const ls_comm_list *list);
/* Takes all memory, zeroed. The same status on all ranks of `data`. [collective over data and
 * expert_data] */
ls_status ls_state_create(const ls_state_options *options, ls_state **state);
void ls_state_destroy(ls_state *state); /* [collective over data] */
ls_state_bytes ls_state_memory(const ls_state *state);
/* Do the ranks have their parameters in common, as was asked? The same on all. */
bool ls_state_is_common(const ls_state *state);

/* For ls_model_options.store of a part. Owned by the state. */
const ls_model_store *ls_state_store(ls_state *state, int part);

/* Rows of all parts with their offsets in the flat space, experts apart last. Their `block` numbers
 * the blocks in which the space is divided, from 0. */
const ls_param *ls_state_params(const ls_state *state, int *count);
int64_t ls_state_flat_elems(const ls_state *state);

/* What this rank keeps: ranges in order, and their places in buffers that hold nothing else. */
typedef struct ls_owned {
    ls_range range;
    int64_t place;
} ls_owned;
const ls_owned *ls_state_owned(const ls_state *state, int *count);

/* Buffers of acc, acc and dtype (NULL: no copies); compact: they hold owned elements only, by
 * place, else the whole flat space. */
typedef struct ls_state_buffers {
    void *masters, *grads, *copies;
    bool compact_masters, compact_grads, compact_copies;
} ls_state_buffers;
ls_state_buffers ls_state_buffers_of(const ls_state *state);

/* The master of an owned element; what follows it in its range follows it in memory. */
void *ls_state_master_at(const ls_state *state, int64_t elem);

/* Initial values of what is owned (ls_model_init_values), then ls_state_refresh. No rank of `data`
 * may be in a call of the model any more. */
ls_status ls_state_init(ls_state *state, uint64_t seed);
/* Rounds copies of owned masters that came from elsewhere, then ls_state_share. */
ls_status ls_state_refresh(ls_state *state);
/* Owned masters and copies are new: gives them to the ranks that keep them whole. [collective] */
ls_status ls_state_share(ls_state *state);

/* The calls of a global batch come in this order, for each part each of its micro-batches from 0
 * on: begin { micro_begin, backward of the part's model, micro_end }... finish. */
ls_status ls_state_begin(ls_state *state);
ls_status ls_state_micro_begin(ls_state *state, int part, int64_t local);
ls_status ls_state_micro_end(ls_state *state, int part);
/* Waits; the gradients buffer then holds the sums of owned elements, tied ones added up.
 * [collective over data, expert_data and tied] */
ls_status ls_state_finish(ls_state *state);
/* Other communication to drive between the operations of the model's calls; NULL: none. */
void ls_state_drive(ls_state *state, ls_status (*drive)(void *context), void *context);
/* Nanoseconds spent in communication over data inside the model's calls and the above, and (apart)
 * over tied; both are set to 0. */
uint64_t ls_state_take_comm_ns(ls_state *state, uint64_t *tied_ns);

/* Micro-batch `local` of data rank `rank` (replicas x shards, without context ranks) of `ranks` is
 * this one of the global batch: neighbours with zero 0 and 1, every ranks-th one above. Loss sums
 * in this order have the same bits for every number of ranks. */
static inline int64_t ls_state_micro(int zero, int64_t rank_micros, int ranks, int rank,
                                     int64_t local) {
    return zero <= 1 ? rank * rank_micros + local : local * ranks + rank;
}

#endif
