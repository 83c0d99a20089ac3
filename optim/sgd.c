/* SGD; the formula is in device.h. */
#include "optim/optim_internal.h"

static ls_status sgd_step(ls_optim *optim, const ls_optim_pass *pass) {
    const ls_optim_options *o = &optim->options;
    for (int i = 0; i < optim->run_count; i++) {
        const ls_optim_run *run = &optim->runs[i];
        LS_TRY(o->dev->ops->sgd(o->dev, &(ls_sgd){.n = run->elems,
                                                  .lr = pass->lr * run->rule.lr_scale,
                                                  .momentum = o->config->momentum,
                                                  .weight_decay = run->rule.weight_decay,
                                                  .grad_scale = pass->grad_scale,
                                                  .nesterov = o->config->nesterov,
                                                  .p = ls_run_masters(optim, run, 0),
                                                  .m = ls_run_state(optim, 0, run, 0),
                                                  .grad = ls_run_grads(optim, pass, run, 0),
                                                  .copy_dtype = o->copy_dtype,
                                                  .copy = ls_run_copies(optim, run, 0),
                                                  .verdict = pass->verdict}));
    }
    return LS_OK;
}

static ls_optim_shape sgd_shape(const ls_config_optim *config, const ls_param *param, int state) {
    (void)param, (void)state;
    return config->momentum > 0.0 ? LS_STATE_FULL : LS_STATE_NONE;
}

const ls_optim_ops ls_optim_sgd = {
    .name = "sgd",
    .states = {"momentum_buffer"},
    .shape = sgd_shape,
    .deferrable = true,
    .step = sgd_step,
};
