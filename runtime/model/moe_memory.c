/* Memory of a mixture of experts. */
#include "runtime/model/model_internal.h"

ls_status ls_moe_lay_out(ls_model *m, ls_moe_acts *moe) {
    const ls_sizes *s = &m->sizes;
    const ls_moe_limits most = ls_moe_limits_of(m);
    LS_TRY(ls_take(m, most.rows * s->experts, m->dev->acc, &moe->probs));
    LS_TRY(ls_take(m, most.choices, m->dev->acc, &moe->gates));
    LS_TRY(ls_take(m, most.choices, LS_I32, &moe->chosen));
    LS_TRY(ls_take(m, most.choices, LS_I32, &moe->slots));
    LS_TRY(ls_take(m, most.slots, LS_I32, &moe->slot_rows));
    LS_TRY(ls_take(m, most.received, LS_I32, &moe->order));
    LS_TRY(ls_take(m, most.arrived, LS_I32, &moe->back));
    const int64_t on_host = m->moe_fixed ? 0 : s->experts, here = s->experts - on_host;
    LS_TRY(ls_take(m, here, m->dev->acc, &moe->wanted_here));
    LS_TRY(ls_take_host(m, m->expert_ranks * on_host, LS_I64, &moe->kept));
    LS_TRY(ls_take_host(m, on_host, LS_I64, &moe->wanted));
    LS_TRY(ls_take(m, most.received * s->channels, m->dtype, &moe->in));
    return ls_take(m, most.slots * s->channels, m->dtype, &moe->out);
}

/* What the rows are placed with, by the device or by the host. */
static ls_status lay_out_placing(ls_model *m, const ls_moe_limits *most) {
    const int64_t experts = m->sizes.experts;
    if (m->moe_fixed) {
        const int64_t elems[] = {
            most->own_counts, m->part.tensor_ranks > 1 ? most->tensor_counts : 0, most->all_counts,
            3 * most->own_counts, (m->part.tensor_ranks + m->expert_ranks) * experts};
        for (size_t i = 0; i < sizeof elems / sizeof *elems; i++) {
            LS_TRY(ls_take(m, elems[i], LS_I32, &m->moe_places[i]));
        }
        return LS_OK;
    }
    LS_TRY(ls_take_host(m, experts, LS_I64, &m->moe_counts));
    LS_TRY(ls_take_host(m, most->own_counts, LS_I64, &m->moe_own));
    LS_TRY(ls_take_host(m, most->tensor_counts, LS_I64, &m->moe_tensor));
    LS_TRY(ls_take_host(m, most->all_counts, LS_I64, &m->moe_all));
    LS_TRY(ls_take_host(m, most->choices, LS_I32, &m->moe_host.chosen));
    LS_TRY(ls_take_host(m, most->choices, LS_I32, &m->moe_host.slots));
    LS_TRY(ls_take_host(m, most->slots, LS_I32, &m->moe_host.slot_rows));
    LS_TRY(ls_take_host(m, most->received, LS_I32, &m->moe_host.order));
    return ls_take_host(m, most->received, LS_I32, &m->moe_host.back);
}

ls_status ls_moe_lay_out_flight(ls_model *m) {
    const ls_sizes *s = &m->sizes;
    const ls_moe_limits most = ls_moe_limits_of(m);
    const ls_dtype acc = m->dev->acc;
    LS_TRY(ls_take(m, most.rows * s->experts, acc, &m->moe_logits));
    LS_TRY(lay_out_placing(m, &most));
    if (m->expert_ranks > 1) {
        LS_TRY(ls_take(m, most.arrived * s->channels, m->dtype, &m->moe_arrived));
        LS_TRY(ls_take_host(m, 4 * m->expert_ranks, LS_I64, &m->moe_exchange));
    }
    if (m->part.tensor_ranks > 1) {
        LS_TRY(ls_take(m, s->experts * s->channels, acc, &m->moe_router_grad));
    }
    if (m->expert_ranks > 1 || m->options.training) {
        LS_TRY(ls_take(m, most.slots * s->channels, m->dtype, &m->moe_sent));
        LS_TRY(ls_take(m, most.received * s->channels, m->dtype, &m->moe_rows));
    }
    if (!m->options.training) {
        return LS_OK;
    }
    LS_TRY(ls_take(m, most.rows * s->experts, m->dtype, &m->moe_dlogits));
    LS_TRY(ls_take(m, most.choices, acc, &m->moe_dgates));
    LS_TRY(ls_take(m, s->experts, acc, &m->moe_balance));
    LS_TRY(m->moe_fixed ? LS_OK : ls_take_host(m, s->experts, acc, &m->moe_host.balance));
    return ls_take(m, most.received * s->ffn, m->dtype, &m->moe_dact);
}
