/* AdamW; the formula is in device.h. */
#include "optim/optim_internal.h"

ls_status ls_adamw_run(ls_optim *optim, const ls_optim_pass *pass, const ls_optim_run *run,
                       int first_state) {
    const ls_optim_options *o = &optim->options;
    return o->dev->ops->adamw(o->dev, &(ls_adamw){.n = run->elems,
                                                  .t = pass->t,
                                                  .lr = pass->lr * run->rule.lr_scale,
                                                  .beta1 = o->config->beta1,
                                                  .beta2 = o->config->beta2,
                                                  .eps = o->config->eps,
                                                  .weight_decay = run->rule.weight_decay,
                                                  .grad_scale = pass->grad_scale,
                                                  .p = ls_run_masters(optim, run, 0),
                                                  .m = ls_run_state(optim, first_state, run, 0),
                                                  .v = ls_run_state(optim, first_state + 1, run, 0),
                                                  .grad = ls_run_grads(optim, pass, run, 0),
                                                  .copy_dtype = o->copy_dtype,
                                                  .copy = ls_run_copies(optim, run, 0),
                                                  .verdict = pass->verdict});
}

static ls_status adamw_step(ls_optim *optim, const ls_optim_pass *pass) {
    for (int i = 0; i < optim->run_count; i++) {
        LS_TRY(ls_adamw_run(optim, pass, &optim->runs[i], 0));
    }
    return LS_OK;
}

static ls_optim_shape adamw_shape(const ls_config_optim *config, const ls_param *param, int state) {
    (void)config, (void)param, (void)state;
    return LS_STATE_FULL;
}

const ls_optim_ops ls_optim_adamw = {
    .name = "adamw",
    .states = {"exp_avg", "exp_avg_sq"},
    .shape = adamw_shape,
    .deferrable = true,
    .step = adamw_step,
};
