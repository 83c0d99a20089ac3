/* AdamW: Loshchilov & Hutter 2017, arXiv 1711.05101; the formula is in device.h. */
#include "optim/optim_internal.h"

static ls_status adamw_update(ls_optim *optim, const ls_optim_pass *pass, const ls_optim_run *run) {
    const ls_optim_options *o = &optim->options;
    return o->dev->ops->adamw(o->dev, &(ls_adamw){.n = run->elems,
                                                  .t = pass->t,
                                                  .lr = pass->lr,
                                                  .beta1 = o->config->beta1,
                                                  .beta2 = o->config->beta2,
                                                  .eps = o->config->eps,
                                                  .weight_decay = run->weight_decay,
                                                  .grad_scale = pass->grad_scale,
                                                  .p = ls_run_masters(optim, run),
                                                  .m = ls_run_state(optim, 0, run),
                                                  .v = ls_run_state(optim, 1, run),
                                                  .grad = ls_run_grads(optim, pass, run),
                                                  .copy_dtype = o->copy_dtype,
                                                  .copy = ls_run_copies(optim, run)});
}

const ls_optim_ops ls_optim_adamw = {
    .name = "adamw",
    .states = {"exp_avg", "exp_avg_sq"},
    .update = adamw_update,
};
