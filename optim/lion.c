/* Lion; the formula is in device.h. */
#include "optim/optim_internal.h"

static ls_status lion_step(ls_optim *optim, const ls_optim_pass *pass) {
    const ls_optim_options *o = &optim->options;
    for (int i = 0; i < optim->run_count; i++) {
        const ls_optim_run *run = &optim->runs[i];
        LS_TRY(o->dev->ops->lion(o->dev, &(ls_lion){.n = run->elems,
                                                    .lr = pass->lr * run->rule.lr_scale,
                                                    .beta1 = o->config->beta1,
                                                    .beta2 = o->config->beta2,
                                                    .weight_decay = run->rule.weight_decay,
                                                    .grad_scale = pass->grad_scale,
                                                    .p = ls_run_masters(optim, run, 0),
                                                    .m = ls_run_state(optim, 0, run, 0),
                                                    .grad = ls_run_grads(optim, pass, run, 0),
                                                    .copy_dtype = o->copy_dtype,
                                                    .copy = ls_run_copies(optim, run, 0),
                                                    .verdict = pass->verdict}));
    }
    return LS_OK;
}

static ls_optim_shape lion_shape(const ls_config_optim *config, const ls_param *param, int state) {
    (void)config, (void)param, (void)state;
    return LS_STATE_FULL;
}

const ls_optim_ops ls_optim_lion = {
    .name = "lion",
    .states = {"exp_avg"},
    .shape = lion_shape,
    .deferrable = true,
    .step = lion_step,
};
