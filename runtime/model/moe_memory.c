/* Memory of a mixture of experts. */
#include "runtime/model/model_internal.h"

/* Memory of the host is not there before it is written to, but huge pages are as a whole: half of
 * one, on average, where what is used ends, and half of one where the next piece begins. */
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

static void count_spare(ls_model *m, const ls_moe_limits *most, int64_t width, ls_dtype dtype) {
    if (m->dev->host_memory) {
        const size_t row_bytes = (size_t)width * ls_dtype_bytes(dtype);
        const size_t bytes = (size_t)most->spare * row_bytes;
        m->bytes.spare += bytes - (bytes < HUGE_PAGE_BYTES ? bytes : HUGE_PAGE_BYTES);
        m->moe_over[m->moe_over_now].row_bytes += row_bytes;
    }
}

static int over_count(const ls_model *m) {
    return 1 + m->slots * (m->part_layers + 1);
}

void ls_moe_count_over(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    const ls_moe_limits most = ls_moe_limits_of(m);
    const int64_t over = ls_moe_received(pass, moe) - (most.received - most.spare);
    ls_moe_over *places[] = {&m->moe_over[0], &m->moe_over[moe->over]};
    for (int i = 0; i < 2; i++) {
        places[i]->rows = over > places[i]->rows ? over : places[i]->rows;
    }
}

size_t ls_moe_uneven_bytes(const ls_model *m) {
    size_t bytes = 0;
    for (int i = 0; m->sizes.experts > 0 && i < over_count(m); i++) {
        bytes += (size_t)m->moe_over[i].rows * m->moe_over[i].row_bytes;
    }
    return bytes;
}

ls_status ls_take_received(ls_model *m, int64_t width, ls_dtype dtype, void *piece) {
    const ls_moe_limits most = ls_moe_limits_of(m);
    count_spare(m, &most, width, dtype);
    return ls_take(m, most.received * width, dtype, piece);
}

/* The same of the host's memory. */
static ls_status take_received_host(ls_model *m, int64_t width, ls_dtype dtype, void *piece) {
    const ls_moe_limits most = ls_moe_limits_of(m);
    count_spare(m, &most, width, dtype);
    return ls_take_host(m, most.received * width, dtype, piece);
}

ls_status ls_moe_lay_out(ls_model *m, ls_moe_acts *moe) {
    const ls_sizes *s = &m->sizes;
    const ls_moe_limits most = ls_moe_limits_of(m);
    moe->over = m->moe_over_now;
    LS_TRY(ls_take(m, most.rows * s->experts, m->dev->acc, &moe->probs));
    LS_TRY(ls_take(m, most.choices, m->dev->acc, &moe->gates));
    LS_TRY(ls_take(m, most.choices, LS_I32, &moe->chosen));
    LS_TRY(ls_take(m, most.choices, LS_I32, &moe->slots));
    LS_TRY(ls_take(m, most.slots, LS_I32, &moe->slot_rows));
    LS_TRY(ls_take_received(m, 1, LS_I32, &moe->order));
    LS_TRY(ls_take(m, most.arrived, LS_I32, &moe->back));
    const int64_t here = m->moe_placed ? s->experts : 0;
    const int64_t kept = m->moe_fixed || m->moe_grouped ? 0 : s->experts;
    LS_TRY(ls_take(m, here, m->dev->acc, &moe->wanted_here));
    LS_TRY(ls_take(m, m->moe_grouped ? s->experts + 1 : 0, LS_I32, &moe->bounds));
    LS_TRY(ls_take_host(m, m->expert_ranks * kept, LS_I64, &moe->kept));
    LS_TRY(ls_take_host(m, s->experts - here, LS_I64, &moe->wanted));
    LS_TRY(ls_take_received(m, s->channels, m->dtype, &moe->in));
    return ls_take(m, most.slots * s->channels, m->dtype, &moe->out);
}

/* What the rows are placed with, by the device or by the host. */
static ls_status lay_out_placing(ls_model *m, const ls_moe_limits *most) {
    const int64_t experts = m->sizes.experts;
    if (m->moe_placed) {
        const int64_t elems[] = {
            most->own_counts, m->part.tensor_ranks > 1 ? most->tensor_counts : 0, most->all_counts,
            3 * most->own_counts, (m->part.tensor_ranks + m->expert_ranks) * experts};
        for (size_t i = 0; i < sizeof elems / sizeof *elems; i++) {
            LS_TRY(ls_take(m, elems[i], LS_I32, &m->moe_places[i]));
        }
        return ls_take_host(m, m->moe_fixed || m->moe_grouped ? 0 : m->expert_ranks * experts,
                            LS_I32, &m->moe_host.kept);
    }
    LS_TRY(ls_take_host(m, experts, LS_I64, &m->moe_counts));
    LS_TRY(ls_take_host(m, most->own_counts, LS_I64, &m->moe_own));
    LS_TRY(ls_take_host(m, most->tensor_counts, LS_I64, &m->moe_tensor));
    LS_TRY(ls_take_host(m, most->all_counts, LS_I64, &m->moe_all));
    LS_TRY(ls_take_host(m, most->choices, LS_I32, &m->moe_host.chosen));
    LS_TRY(ls_take_host(m, most->choices, LS_I32, &m->moe_host.slots));
    LS_TRY(ls_take_host(m, most->slots, LS_I32, &m->moe_host.slot_rows));
    LS_TRY(take_received_host(m, 1, LS_I32, &m->moe_host.order));
    return take_received_host(m, 1, LS_I32, &m->moe_host.back);
}

ls_status ls_moe_lay_out_flight(ls_model *m) {
    const ls_sizes *s = &m->sizes;
    const ls_moe_limits most = ls_moe_limits_of(m);
    const ls_dtype acc = m->dev->acc;
    LS_TRY(ls_take(m, most.rows * s->experts, acc, &m->moe_logits));
    LS_TRY(lay_out_placing(m, &most));
    if (m->expert_ranks > 1) {
        LS_TRY(ls_take(m, most.arrived * s->channels, m->dtype, &m->moe_arrived));
        count_spare(m, &most, s->channels, m->dtype);
        LS_TRY(ls_take_host(m, 4 * m->expert_ranks, LS_I64, &m->moe_exchange));
    }
    if (m->part.tensor_ranks > 1) {
        LS_TRY(ls_take(m, s->experts * s->channels, acc, &m->moe_router_grad));
    }
    if (m->expert_ranks > 1 || m->options.training) {
        LS_TRY(ls_take(m, most.slots * s->channels, m->dtype, &m->moe_sent));
        LS_TRY(ls_take_received(m, s->channels, m->dtype, &m->moe_rows));
    }
    if (!m->options.training) {
        return LS_OK;
    }
    LS_TRY(ls_take(m, most.rows * s->experts, m->dtype, &m->moe_dlogits));
    LS_TRY(ls_take(m, most.choices, acc, &m->moe_dgates));
    LS_TRY(ls_take(m, s->experts, acc, &m->moe_balance));
    LS_TRY(m->moe_placed ? LS_OK : ls_take_host(m, s->experts, acc, &m->moe_host.balance));
    return ls_take_received(m, s->ffn, m->dtype, &m->moe_dact);
}
