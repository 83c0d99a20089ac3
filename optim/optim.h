/* Optimizers over the flat parameter buffer, learning-rate schedules, clipping. */
#ifndef LS_OPTIM_OPTIM_H
#define LS_OPTIM_OPTIM_H

#include "runtime/config/config.h"
#include "runtime/device/device.h"
#include "runtime/mesh/layout.h"

/* Learning rate of optimizer step `step` (1 .. total). Warm-up is linear from lr/warmup_steps to
 * lr. After it: constant; linear and cosine (Loshchilov & Hutter 2016, arXiv 1608.03983) to
 * lr*min_lr_ratio at `total`; wsd (Hu 2024, arXiv 2404.06395) constant, then linear over
 * decay_steps to lr*min_lr_ratio; inverse_sqrt (Vaswani 2017, arXiv 1706.03762)
 * lr*sqrt(max(warmup,1)/step). */
double ls_schedule_lr(const ls_config_schedule *schedule, double lr, int64_t step, int64_t total);

typedef struct ls_optim ls_optim;

typedef struct ls_optim_options {
    const ls_config_optim *config; /* borrowed */
    ls_device *dev;                /* borrowed */
    const ls_param *params;        /* borrowed */
    int param_count;
    int64_t flat_elems;
    void *masters; /* borrowed: flat, dev->acc */
    void *copies;  /* borrowed: flat, copy_dtype; NULL: none */
    ls_dtype copy_dtype;
} ls_optim_options;

/* A state tensor set of the optimizer: flat, dev->acc, laid out as the parameters. */
typedef struct ls_optim_state {
    const char *name; /* "exp_avg", "exp_avg_sq" */
    void *flat;
} ls_optim_state;

#define LS_OPTIM_MAX_STATES 2

/* The seam. A back end is a name, its states, and one update. */
typedef struct ls_optim_ops {
    const char *name;
    const char *states[LS_OPTIM_MAX_STATES]; /* names; NULL where there are fewer */
    /* Update t (1 for the first) of elements [offset, offset + n) of the flat buffers, from
     * grad_scale * grads. Elements that are zero in parameters, gradients and states stay zero:
     * the gaps between parameters are updated with them. */
    ls_status (*update)(ls_optim *optim, int64_t offset, int64_t n, const void *grads, double lr,
                        double weight_decay, double grad_scale, int64_t t);
} ls_optim_ops;

/* LS_E_CONFIG for an unknown name, listing the known ones. */
ls_status ls_optim_create(const ls_optim_options *options, ls_optim **optim);
void ls_optim_destroy(ls_optim *optim);
size_t ls_optim_bytes(const ls_optim *optim);
const ls_optim_state *ls_optim_states(const ls_optim *optim, int *count);
/* Updates made so far; set on resume. */
int64_t ls_optim_updates(const ls_optim *optim);
void ls_optim_set_updates(ls_optim *optim, int64_t updates);

/* sqrt of the sum of squares over all real parameters, in a fixed order (table order, blocks of
 * ls_device_ops.sum_squares). grads: flat, dev->acc. */
ls_status ls_optim_grad_norm(ls_optim *optim, const void *grads, double *norm);

/* One step with gradients clipped to clip_norm (scale = min(1, clip/norm)). Weight decay only where
 * the table says. The caller has checked that norm is finite. */
ls_status ls_optim_step(ls_optim *optim, const void *grads, double norm, double lr);

#endif
