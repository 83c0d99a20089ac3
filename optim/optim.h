/* Optimizers over the flat parameter buffer or the part of it that a rank owns, learning-rate
 * schedules, clipping. */
#ifndef LS_OPTIM_OPTIM_H
#define LS_OPTIM_OPTIM_H

#include "collectives/comm.h"
#include "collectives/operation.h"
#include "runtime/config/config.h"
#include "runtime/device/device.h"
#include "runtime/mesh/layout.h"

/* Learning rate of optimizer step `step` (1 .. total). Warm-up is linear from lr/warmup_steps to
 * lr. After it: constant; linear and cosine (Loshchilov & Hutter 2016, arXiv 1608.03983) to
 * lr*min_lr_ratio at `total`; wsd (Hu 2024, arXiv 2404.06395) constant, then linear over
 * decay_steps to lr*min_lr_ratio; inverse_sqrt (Vaswani 2017, arXiv 1706.03762)
 * lr*sqrt(max(warmup,1)/step). Steps and total count from schedule->first_step, before which there
 * is no rate. */
double ls_schedule_lr(const ls_config_schedule *schedule, double lr, int64_t step, int64_t total);

/* Part of the flat buffer: elements [flat_offset, flat_offset + elems). In buffers that hold owned
 * elements only ("compact") they begin at local_offset, a multiple of 16. */
typedef struct ls_optim_range {
    int64_t flat_offset, elems, local_offset;
} ls_optim_range;

/* Owned ranges start and end at multiples of this many elements, counted from the start of their
 * block, or at the block's end: norms are sums over pieces of that grid. */
#define LS_OPTIM_ALIGN_ELEMS LS_SQUARES_ELEMS

typedef struct ls_optim ls_optim;

typedef struct ls_optim_options {
    const ls_config_optim *config; /* borrowed */
    ls_device *dev;                /* borrowed */
    const ls_param *params;        /* borrowed; the rows that this rank's flat buffer holds */
    int param_count;
    int64_t flat_elems;
    /* What this rank updates, in order of flat_offset (ZeRO: a slice of each block; read by create,
     * not kept). NULL: everything, with local_offset equal to flat_offset. */
    const ls_optim_range *owned;
    int owned_count;
    /* Buffers that hold owned elements only are indexed by local_offset, the others by
     * flat_offset. */
    bool compact_masters, compact_copies, compact_grads;
    void *masters; /* borrowed: dev->acc */
    void *copies;  /* borrowed: copy_dtype; NULL: none */
    ls_dtype copy_dtype;
    /* Flat ranges whose gradients another rank of the groups below holds too and counts in the
     * norm, in order: parameters that tensor ranks replicate, the second copy of a tied one.
     * local_offset is not used. Read by create, not kept. */
    const ls_optim_range *not_counted;
    int not_counted_count;
    /* Borrowed; the groups that together hold one copy of the model. shard: the ranks among which
     * the same flat buffer is divided (with ZeRO over all data-parallel ranks: these); tensor,
     * pipeline: the axes. NULL: this rank alone. */
    ls_comm *shard, *tensor, *pipeline;
    /* Borrowed: data-parallel ranks that together hold one copy of the model, where that are others
     * than those of shard (expert ranks); NULL: these. */
    ls_comm *copy;
    /* Borrowed: with several expert ranks those that divide the experts' part of the flat buffer,
     * and those that split the experts; NULL: this rank alone. */
    ls_comm *expert_shard, *experts;
    /* Where only the memory is asked for, before there are `shard` and `expert_shard`: their sizes.
     * 0: 1. Such an optimizer must not step. */
    int planned_shards, planned_expert_shards;
} ls_optim_options;

/* Optimizers, by config->name:
 *   adamw      Loshchilov & Hutter 2017, arXiv 1711.05101
 *   lion       Chen 2023, arXiv 2302.06675
 *   sgd        with momentum (Sutskever 2013, PMLR 28(3):1139) and Nesterov's form; weight decay is
 *              added to the gradient, as in torch.optim.SGD
 *   adafactor  Shazeer & Stern 2018, arXiv 1804.04235: second moments of matrices as sums of rows
 *              and columns, b2 = 1 - t^-0.8, updates relative to the size of the parameter and
 *              clipped to a root mean square of 1, no first moment
 *   muon       Jordan 2024 (kellerjordan.github.io/posts/muon): the momentum of the matrices of
 *              layers, orthogonalised by five steps of a quintic Newton-Schulz iteration, each
 *              group of a fused matrix (q, k, v; gate, up) on its own, and scaled by
 *              0.2 sqrt(max(rows, cols)) to the size of AdamW's updates (Liu 2025,
 *              arXiv 2502.16982); AdamW for everything else. Ranks of `shard` work on different
 *              matrices.
 *
 * Parameter groups. config->groups is a list "PATTERN [lr=SCALE] [decay=VALUE]; ..." (patterns of
 * fnmatch(3)); the learning rate of parameters whose name matches is multiplied by SCALE, and VALUE
 * takes the place of config->weight_decay, also where the table says that nothing decays. Of
 * several entries the last counts. One may match none of the parameters that a rank holds; see
 * ls_optim_check_groups.
 *
 * create takes the states of owned elements, zeroed. LS_E_CONFIG for an unknown name, listing the
 * known ones, and for groups of another form; LS_E_SHAPE for ranges that overlap, are out of order
 * or off the grid; LS_E_UNSUPPORTED for adafactor and muon where ranks split the matrices of a list
 * of them. What one rank of shard fails in alone before they work together is the status of all.
 * [collective over shard] */
ls_status ls_optim_create(const ls_optim_options *options, ls_optim **optim);
void ls_optim_destroy(ls_optim *optim);
/* LS_E_CONFIG for an entry of config->groups that has another form, or that matches none of the
 * parameters of the whole model. */
ls_status ls_optim_check_groups(const ls_config_optim *config, const ls_param *params, int count);
/* Of device memory for states and what a step needs beside them. */
size_t ls_optim_bytes(const ls_optim *optim);

/* The sizes of the groups that options name, 1 where there is none, and this rank's place in those
 * that divide the state. */
typedef struct ls_optim_ranks {
    int copy, tensor, pipeline; /* that together hold one copy of the model */
    int shard, shard_rank, expert_shard, expert_shard_rank, experts;
} ls_optim_ranks;
/* The operations of the gradient norm and of a step of a planned optimizer, on a device whose
 * memory is the host's. */
void ls_optim_tell(const ls_optim *optim, const ls_optim_ranks *ranks, const ls_comm_list *list);

/* States. Their number and names ("exp_avg", "exp_avg_sq") are the same on all ranks; a parameter
 * need not have all of them. */
#define LS_OPTIM_MAX_STATES 3
typedef enum ls_optim_shape {
    LS_STATE_NONE,
    LS_STATE_FULL, /* of the parameter's shape; a rank holds its owned elements */
    LS_STATE_ROWS, /* without the last dimension; */
    LS_STATE_COLS  /* without the last but one; both of this tensor (or expert) rank's part, and
                      equal  on all ranks that divide it (shard, expert_shard) */
} ls_optim_shape;
int ls_optim_state_count(const ls_optim *optim);
const char *ls_optim_state_name(const ls_optim *optim, int state);
ls_optim_shape ls_optim_state_shape(const ls_optim *optim, int state, int param);
/* Device memory (dev->acc) of a FULL state of an owned element of a parameter; what follows it in
 * the owned range and in the parameter follows it here. NULL: not owned, or no such state there. */
void *ls_optim_state_at(const ls_optim *optim, int state, int64_t flat_offset);
/* Device memory (dev->acc) of a ROWS or COLS state of a parameter. */
void *ls_optim_state_vector(const ls_optim *optim, int state, int param);

/* Updates made so far; set on resume. */
int64_t ls_optim_updates(const ls_optim *optim);
void ls_optim_set_updates(ls_optim *optim, int64_t updates);

/* The 2-norm of the gradients of all parameters of the model, each counted once; gaps between
 * parameters are not read. Sums of squares over pieces of the grid in double, added as exact_sum.h
 * says: the same bits for every division into shards, every order and number of ranks, and on every
 * rank. A gradient that is not finite makes the norm so on all ranks. grads: dev->acc.
 * [collective over copy, tensor and pipeline] */
ls_status ls_optim_grad_norm(ls_optim *optim, const void *grads, double *norm);

/* One step with gradients clipped to clip_norm (scale = min(1, clip/norm)). Weight decay only where
 * the table or a group says. The caller has checked that norm is finite.
 * [collective over shard, tensor and pipeline] */
ls_status ls_optim_step(ls_optim *optim, const void *grads, double norm, double lr);

/* The same without a wait between gradients and update, on devices that go on when a call has
 * returned (dev->async), of all optimizers: clip factor and the verdict whether there is an
 * update at all (the norm is finite, the losses too, and these add up to no more than `most`) stay
 * on the device. The norm has the bits of ls_optim_grad_norm. */
bool ls_optim_defers(const ls_optim *optim);
typedef struct ls_optim_losses {
    const double *losses; /* [count] device memory; summed over data and pipeline (NULL: alone) */
    int64_t count;
    double most;
    ls_comm *data, *pipeline;
} ls_optim_losses;
/* losses NULL: they do not count. Enqueues. [collective as ls_optim_step, and over losses' groups]
 */
ls_status ls_optim_step_start(ls_optim *optim, const void *grads, double lr,
                              const ls_optim_losses *losses);
/* Waits, and says how it came out; without an update the step was not made. Not collective. */
ls_status ls_optim_step_end(ls_optim *optim, double *norm, bool *updated);

#endif
