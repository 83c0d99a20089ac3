/* What optimizers see of the state that they update. */
#ifndef LS_OPTIM_OPTIM_INTERNAL_H
#define LS_OPTIM_OPTIM_INTERNAL_H

#include "optim/optim.h"

/* Neighbours in the flat buffers with equal weight decay, updated in one call. */
typedef struct ls_optim_run {
    int64_t offset, elems;
    bool decay;
} ls_optim_run;

struct ls_optim {
    ls_optim_options options;
    const ls_optim_ops *ops;
    ls_optim_state states[LS_OPTIM_MAX_STATES];
    int state_count;
    ls_optim_run *runs;
    int run_count;
    int64_t updates;
};

extern const ls_optim_ops ls_optim_adamw;

/* Element i of a flat buffer. */
static inline void *ls_flat_at(const void *flat, int64_t i, ls_dtype dtype) {
    return (char *)flat + i * (int64_t)ls_dtype_bytes(dtype);
}

#endif
