/* Optimizers over the flat buffers: choice by name, states, clipping, the walk over the table. */
#include "optim/optim_internal.h"
#include "runtime/base/arena.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ls_optim_ops *const optimizers[] = {&ls_optim_adamw};

#define OPTIMIZER_COUNT (sizeof optimizers / sizeof *optimizers)

static ls_status find_ops(const char *name, const ls_optim_ops **ops) {
    char known[256] = "";
    for (size_t i = 0; i < OPTIMIZER_COUNT; i++) {
        if (strcmp(name, optimizers[i]->name) == 0) {
            *ops = optimizers[i];
            return LS_OK;
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "", optimizers[i]->name);
    }
    return LS_FAIL(LS_E_CONFIG, "optim.name is '%s'; known optimizers: %s", name, known);
}

static ls_status make_runs(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    LS_TRY(ls_calloc((size_t)o->param_count, sizeof *optim->runs, &optim->runs));
    for (int i = 0; i < o->param_count; i++) {
        const ls_param *param = &o->params[i];
        ls_optim_run *last = optim->run_count > 0 ? &optim->runs[optim->run_count - 1] : NULL;
        if (!last || last->decay != param->decay) {
            last = &optim->runs[optim->run_count++];
            *last = (ls_optim_run){.offset = param->offset, .decay = param->decay};
        }
        last->elems = param->offset + param->elems - last->offset;
    }
    return LS_OK;
}

static ls_status take_states(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    size_t bytes = (size_t)o->flat_elems * ls_dtype_bytes(o->dev->acc);
    for (int i = 0; i < LS_OPTIM_MAX_STATES && optim->ops->states[i]; i++) {
        optim->states[i].name = optim->ops->states[i];
        LS_TRY(o->dev->ops->alloc(o->dev, bytes, &optim->states[i].flat));
        optim->state_count = i + 1;
    }
    return LS_OK;
}

ls_status ls_optim_create(const ls_optim_options *options, ls_optim **optim) {
    *optim = NULL;
    const ls_optim_ops *ops;
    LS_TRY(find_ops(options->config->name, &ops));
    ls_optim *o;
    LS_TRY(ls_calloc(1, sizeof *o, &o));
    o->options = *options;
    o->ops = ops;
    ls_status status;
    LS_TRY_GOTO(make_runs(o), fail);
    LS_TRY_GOTO(take_states(o), fail);
    *optim = o;
    return LS_OK;
fail:
    ls_optim_destroy(o);
    return status;
}

void ls_optim_destroy(ls_optim *optim) {
    if (!optim) {
        return;
    }
    ls_device *dev = optim->options.dev;
    for (int i = 0; i < optim->state_count; i++) {
        dev->ops->free(dev, optim->states[i].flat);
    }
    free(optim->runs);
    free(optim);
}

size_t ls_optim_bytes(const ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    return (size_t)optim->state_count * (size_t)o->flat_elems * ls_dtype_bytes(o->dev->acc);
}

const ls_optim_state *ls_optim_states(const ls_optim *optim, int *count) {
    *count = optim->state_count;
    return optim->states;
}

int64_t ls_optim_updates(const ls_optim *optim) {
    return optim->updates;
}

void ls_optim_set_updates(ls_optim *optim, int64_t updates) {
    optim->updates = updates;
}

ls_status ls_optim_grad_norm(ls_optim *optim, const void *grads, double *norm) {
    const ls_optim_options *o = &optim->options;
    double total = 0.0;
    for (int i = 0; i < o->param_count; i++) {
        const ls_param *param = &o->params[i];
        double sum;
        LS_TRY(o->dev->ops->sum_squares(o->dev, param->elems,
                                        ls_flat_at(grads, param->offset, o->dev->acc), &sum));
        total += sum;
    }
    *norm = sqrt(total);
    return LS_OK;
}

ls_status ls_optim_step(ls_optim *optim, const void *grads, double norm, double lr) {
    const ls_config_optim *config = optim->options.config;
    bool clip = config->clip_norm > 0.0 && norm > config->clip_norm;
    double grad_scale = clip ? config->clip_norm / norm : 1.0;
    optim->updates++;
    for (int i = 0; i < optim->run_count; i++) {
        const ls_optim_run *run = &optim->runs[i];
        double decay = run->decay ? config->weight_decay : 0.0;
        LS_TRY(optim->ops->update(optim, run->offset, run->elems, grads, lr, decay, grad_scale,
                                  optim->updates));
    }
    return LS_OK;
}
