/* AdamW: Loshchilov & Hutter 2017, arXiv 1711.05101; the formula is in device.h. */
#include "optim/optim_internal.h"

static ls_status adamw_update(ls_optim *optim, int64_t offset, int64_t n, const void *grads,
                              double lr, double weight_decay, double grad_scale, int64_t t) {
    const ls_optim_options *o = &optim->options;
    const ls_dtype acc = o->dev->acc;
    return o->dev->ops->adamw(
        o->dev,
        &(ls_adamw){.n = n,
                    .t = t,
                    .lr = lr,
                    .beta1 = o->config->beta1,
                    .beta2 = o->config->beta2,
                    .eps = o->config->eps,
                    .weight_decay = weight_decay,
                    .grad_scale = grad_scale,
                    .p = ls_flat_at(o->masters, offset, acc),
                    .m = ls_flat_at(optim->states[0].flat, offset, acc),
                    .v = ls_flat_at(optim->states[1].flat, offset, acc),
                    .grad = ls_flat_at(grads, offset, acc),
                    .copy_dtype = o->copy_dtype,
                    .copy = o->copies ? ls_flat_at(o->copies, offset, o->copy_dtype) : NULL});
}

const ls_optim_ops ls_optim_adamw = {
    .name = "adamw",
    .states = {"exp_avg", "exp_avg_sq"},
    .update = adamw_update,
};
