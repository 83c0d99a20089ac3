/* Optimizers over the flat buffers: choice by name, states, clipping. */
#include "optim/optim_internal.h"
#include "runtime/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ls_optim_ops *const optimizers[] = {&ls_optim_adamw, &ls_optim_lion, &ls_optim_sgd,
                                                 &ls_optim_adafactor, &ls_optim_muon};

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

static ls_status take_tables(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    size_t count = (size_t)o->param_count;
    while (optim->state_count < LS_OPTIM_MAX_STATES && optim->ops->states[optim->state_count]) {
        optim->state_count++;
    }
    LS_TRY(ls_calloc(count, sizeof *optim->rules, &optim->rules));
    LS_TRY(ls_calloc(count * LS_OPTIM_MAX_STATES, sizeof *optim->vectors, &optim->vectors));
    LS_TRY(ls_optim_read_rules(o, optim->rules));
    LS_TRY(ls_optim_divide(optim));
    return ls_calloc((size_t)optim->squares_count, sizeof *optim->squares, &optim->squares);
}

static ls_status take_states(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    for (int i = 0; i < optim->state_count; i++) {
        size_t bytes = (size_t)optim->state_elems[i] * ls_dtype_bytes(o->dev->acc);
        LS_TRY(o->dev->ops->alloc(o->dev, bytes, &optim->states[i]));
    }
    return ls_optim_deferred_take(optim);
}

/* What the ranks prepare together comes behind what one of them can fail in alone. */
static ls_status prepare(ls_optim *optim, ls_status taken) {
    ls_comm *shard = optim->options.shard;
    if (!optim->ops->prepare) {
        return taken;
    }
    LS_TRY(shard && shard->size > 1 ? ls_comm_agree(shard, taken) : taken);
    return optim->ops->prepare(optim);
}

ls_status ls_optim_create(const ls_optim_options *options, ls_optim **optim) {
    *optim = NULL;
    const ls_optim_ops *ops;
    LS_TRY(find_ops(options->config->name, &ops));
    ls_optim *o;
    LS_TRY(ls_calloc(1, sizeof *o, &o));
    o->options = *options;
    o->ops = ops;
    ls_status status = take_tables(o);
    status = status == LS_OK ? take_states(o) : status;
    LS_TRY_GOTO(prepare(o, status), fail);
    o->options.owned = o->options.not_counted = NULL;
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
    if (optim->ops->release) {
        optim->ops->release(optim);
    }
    for (int i = 0; i < optim->state_count; i++) {
        dev->ops->free(dev, optim->states[i]);
    }
    if (optim->deferred_memory) {
        dev->ops->free(dev, optim->deferred_memory);
    }
    free(optim->squares);
    free(optim->terms);
    free(optim->runs);
    free(optim->vectors);
    free(optim->rules);
    free(optim);
}

size_t ls_optim_bytes(const ls_optim *optim) {
    size_t bytes = optim->own_bytes + optim->deferred_bytes;
    for (int i = 0; i < optim->state_count; i++) {
        bytes += (size_t)optim->state_elems[i] * ls_dtype_bytes(optim->options.dev->acc);
    }
    return bytes;
}

int ls_optim_state_count(const ls_optim *optim) {
    return optim->state_count;
}

const char *ls_optim_state_name(const ls_optim *optim, int state) {
    return optim->ops->states[state];
}

ls_optim_shape ls_optim_state_shape(const ls_optim *optim, int state, int param) {
    const ls_optim_options *o = &optim->options;
    return optim->ops->shape(o->config, &o->params[param], state);
}

void *ls_optim_state_at(const ls_optim *optim, int state, int64_t flat_offset) {
    for (int i = 0; i < optim->run_count; i++) {
        const ls_optim_run *run = &optim->runs[i];
        int64_t inside = flat_offset - run->flat_offset;
        if (inside >= 0 && inside < run->elems) {
            return ls_run_state(optim, state, run, inside);
        }
    }
    return NULL;
}

void *ls_optim_state_vector(const ls_optim *optim, int state, int param) {
    int64_t at = optim->vectors[state * optim->options.param_count + param];
    return ls_elem_at(optim->states[state], at, optim->options.dev->acc);
}

int64_t ls_optim_updates(const ls_optim *optim) {
    return optim->updates;
}

void ls_optim_set_updates(ls_optim *optim, int64_t updates) {
    optim->updates = updates;
}

ls_status ls_optim_step(ls_optim *optim, const void *grads, double norm, double lr) {
    const ls_config_optim *config = optim->options.config;
    bool clip = config->clip_norm > 0.0 && norm > config->clip_norm;
    const ls_optim_pass pass = {.grads = grads,
                                .lr = lr,
                                .grad_scale = clip ? config->clip_norm / norm : 1.0,
                                .t = ++optim->updates};
    return optim->ops->step(optim, &pass);
}
