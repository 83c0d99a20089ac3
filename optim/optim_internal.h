/* What optimizers see of the state that they update. */
#ifndef LS_OPTIM_OPTIM_INTERNAL_H
#define LS_OPTIM_OPTIM_INTERNAL_H

#include "optim/optim.h"

/* Neighbours among the owned elements with equal rules, updated in one call; gaps between their
 * parameters are updated with them: elements that are zero in parameters, gradients and states stay
 * zero. */
typedef struct ls_optim_run {
    int64_t flat_offset, local_offset, elems;
    int64_t state_offset; /* in every state */
    double weight_decay;
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
} ls_optim_pass;

/* The seam. A back end is a name, its states, and one step. */
typedef struct ls_optim_ops {
    const char *name;
    const char *states[LS_OPTIM_MAX_STATES]; /* names; NULL where there are fewer */
    ls_status (*update)(ls_optim *optim, const ls_optim_pass *pass, const ls_optim_run *run);
} ls_optim_ops;

struct ls_optim {
    ls_optim_options options;
    const ls_optim_ops *ops;
    int state_count;
    void *states[LS_OPTIM_MAX_STATES];
    int64_t state_elems; /* of each */
    ls_optim_run *runs;
    int run_count, run_room;
    ls_optim_term *terms;
    int term_count, term_room;
    double *squares; /* of the terms' pieces, in order */
    int64_t squares_count;
    int64_t updates;
};

extern const ls_optim_ops ls_optim_adamw;

/* ranges.c: checks options->owned and fills in runs, terms and the sizes that follow. */
ls_status ls_optim_divide(ls_optim *optim);

/* Element i of a buffer. */
static inline void *ls_elem_at(const void *buffer, int64_t i, ls_dtype dtype) {
    return (char *)buffer + i * (int64_t)ls_dtype_bytes(dtype);
}

/* The first element of a run in each buffer. */
static inline void *ls_run_masters(const ls_optim *optim, const ls_optim_run *run) {
    const ls_optim_options *o = &optim->options;
    return ls_elem_at(o->masters, o->compact_masters ? run->local_offset : run->flat_offset,
                      o->dev->acc);
}

static inline void *ls_run_copies(const ls_optim *optim, const ls_optim_run *run) {
    const ls_optim_options *o = &optim->options;
    return o->copies
               ? ls_elem_at(o->copies, o->compact_copies ? run->local_offset : run->flat_offset,
                            o->copy_dtype)
               : NULL;
}

static inline const void *ls_run_grads(const ls_optim *optim, const ls_optim_pass *pass,
                                       const ls_optim_run *run) {
    const ls_optim_options *o = &optim->options;
    return ls_elem_at(pass->grads, o->compact_grads ? run->local_offset : run->flat_offset,
                      o->dev->acc);
}

static inline void *ls_run_state(const ls_optim *optim, int state, const ls_optim_run *run) {
    return ls_elem_at(optim->states[state], run->state_offset, optim->options.dev->acc);
}

#endif
