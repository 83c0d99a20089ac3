/* What optimizers see of the state that they update. */
#ifndef LS_OPTIM_OPTIM_INTERNAL_H
#define LS_OPTIM_OPTIM_INTERNAL_H

#include "optim/optim.h"
#include "runtime/device/device_async.h"

/* What groups say of a parameter. */
typedef struct ls_optim_rule {
    double lr_scale, weight_decay;
} ls_optim_rule;

/* Neighbours among the owned elements with equal rules and states, updated in one call; gaps
 * between their parameters are updated with them: elements that are zero in parameters, gradients
 * and states stay zero. */
typedef struct ls_optim_run {
    int64_t flat_offset, local_offset, elems;
    int64_t state_offset[LS_OPTIM_MAX_STATES]; /* -1: no such FULL state here */
    int param;                                 /* the only one of an optimizer with `apart` */
    ls_optim_rule rule;
} ls_optim_run;

/* The part of one parameter in one owned range that this rank counts in the norm. */
typedef struct ls_optim_term {
    int64_t flat_offset, local_offset, elems;
    int64_t grid_offset; /* from the start of the block */
} ls_optim_term;

/* One step, as a back end sees it. */
typedef struct ls_optim_pass {
    const void *grads;
    double lr, grad_scale;
    int64_t t; /* 1 for the first */
    /* On the device, of a deferred step; NULL: none. gate: with factor 1. */
    const ls_update_verdict *verdict, *gate;
} ls_optim_pass;

/* The seam. A back end is a name, its states, and one step. */
typedef struct ls_optim_ops {
    const char *name;
    const char *states[LS_OPTIM_MAX_STATES]; /* names; NULL where there are fewer */
    ls_optim_shape (*shape)(const ls_config_optim *config, const ls_param *param, int state);
    bool apart;      /* a run is of one parameter */
    bool deferrable; /* step heeds a verdict, and waits for nothing */
    /* What a step needs beside the states, in optim->own; NULL: nothing. [collective over shard] */
    ls_status (*prepare)(ls_optim *optim);
    void (*release)(ls_optim *optim); /* after prepare, whether it failed or not */
    ls_status (*step)(ls_optim *optim, const ls_optim_pass *pass);
    /* The operations of step; NULL: none. */
    void (*tell)(const ls_optim *optim, const ls_optim_ranks *ranks, const ls_comm_list *list);
} ls_optim_ops;

enum { LS_OPTIM_SCRATCH = 1024 };
struct ls_optim {
    ls_optim_options options;
    const ls_optim_ops *ops;
    ls_optim_rule *rules; /* [param_count] */
    int state_count;
    void *states[LS_OPTIM_MAX_STATES];
    int64_t state_elems[LS_OPTIM_MAX_STATES];
    int64_t *vectors; /* [LS_OPTIM_MAX_STATES][param_count]: of ROWS and COLS states, their place */
    ls_optim_run *runs;
    int run_count, run_room;
    ls_optim_term *terms;
    int term_count, term_room;
    double *squares; /* of the terms' pieces, in order */
    int64_t squares_count;
    double scratch[LS_OPTIM_SCRATCH]; /* of ls_optim_sum_squares */
    int64_t updates;
    void *own;
    size_t own_bytes;      /* of device memory */
    void *deferred_memory; /* deferred.c, on the device */
    size_t deferred_bytes;
};

extern const ls_optim_ops ls_optim_adamw, ls_optim_lion, ls_optim_sgd, ls_optim_adafactor,
    ls_optim_muon;

/* groups.c: config->groups and the table, for each parameter. */
ls_status ls_optim_read_rules(const ls_optim_options *options, ls_optim_rule *rules);
/* ranges.c: checks options->owned and fills in runs, terms, vectors and the sizes that follow. */
ls_status ls_optim_divide(ls_optim *optim);
/* Where the block of a flat element begins, and with it the grid. */
int64_t ls_optim_block_start(const ls_optim_options *options, int64_t flat);
/* norm.c: sum of squares of n elements at x (dev->acc). */
ls_status ls_optim_sum_squares(ls_optim *optim, const void *x, int64_t n, double *sum);
/* deferred.c: memory for deferred steps, where there can be any. */
ls_status ls_optim_deferred_take(ls_optim *optim);
/* adamw.c: its update of a run, with states 0 and 1 unless told. */
ls_status ls_adamw_run(ls_optim *optim, const ls_optim_pass *pass, const ls_optim_run *run,
                       int first_state);

/* A parameter as matrices [rows, cols], one after the other. */
typedef struct ls_matrices {
    int64_t count, rows, cols;
} ls_matrices;
static inline ls_matrices ls_matrices_of(const ls_param *param) {
    ls_matrices m = {.count = 1, .rows = 1, .cols = param->local_dims[param->ndim - 1]};
    if (param->ndim > 1) {
        m.rows = param->local_dims[param->ndim - 2];
    }
    for (int d = 0; d < param->ndim - 2; d++) {
        m.count *= param->local_dims[d];
    }
    return m;
}

/* Element i of a buffer. */
static inline void *ls_elem_at(const void *buffer, int64_t i, ls_dtype dtype) {
    return (char *)buffer + i * (int64_t)ls_dtype_bytes(dtype);
}

/* Element i of a run in each buffer. */
static inline void *ls_run_masters(const ls_optim *optim, const ls_optim_run *run, int64_t i) {
    const ls_optim_options *o = &optim->options;
    return ls_elem_at(o->masters, (o->compact_masters ? run->local_offset : run->flat_offset) + i,
                      o->dev->acc);
}

static inline void *ls_run_copies(const ls_optim *optim, const ls_optim_run *run, int64_t i) {
    const ls_optim_options *o = &optim->options;
    return o->copies ? ls_elem_at(o->copies,
                                  (o->compact_copies ? run->local_offset : run->flat_offset) + i,
                                  o->copy_dtype)
                     : NULL;
}

static inline const void *ls_run_grads(const ls_optim *optim, const ls_optim_pass *pass,
                                       const ls_optim_run *run, int64_t i) {
    const ls_optim_options *o = &optim->options;
    return ls_elem_at(pass->grads, (o->compact_grads ? run->local_offset : run->flat_offset) + i,
                      o->dev->acc);
}

static inline void *ls_run_state(const ls_optim *optim, int state, const ls_optim_run *run,
                                 int64_t i) {
    return run->state_offset[state] < 0
               ? NULL
               : ls_elem_at(optim->states[state], run->state_offset[state] + i,
                            optim->options.dev->acc);
}

#endif
