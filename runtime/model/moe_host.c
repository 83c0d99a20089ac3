/* Where the rows of a mixture of experts go, found out on the host: it fetches what was chosen,
 * counts it over the ranks that share the micro-batch, and has the device's operations told which
 * row comes from where. */
#include "runtime/model/model_internal.h"

/* The segment of one of the rows that this rank routes. */
static int64_t segment_of(const ls_pass *pass, const ls_zigzag *z, int64_t row) {
    row += ls_moe_own(pass).first;
    return 2 * (row / pass->seq) + (row % pass->seq >= z->low_count);
}

/* m->moe_own by segment and expert. */
static ls_status count_own(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    const int64_t experts = m->sizes.experts, each = m->sizes.each;
    const int64_t choices = ls_moe_own(pass).rows * each;
    const ls_zigzag z = ls_zigzag_of(m->options.seq, m->context_rank, m->context_ranks);
    memset(m->moe_own, 0, (size_t)(ls_moe_segments(m, pass->batch) * experts) * sizeof(int64_t));
    LS_TRY(m->dev->ops->download(m->dev, m->moe_host.chosen, moe->chosen,
                                 (size_t)choices * sizeof(int32_t)));
    for (int64_t i = 0; i < choices; i++) {
        const int64_t segment = ls_moe_counts_segments(m) ? segment_of(pass, &z, i / each) : 0;
        m->moe_own[segment * experts + m->moe_host.chosen[i]]++;
    }
    return LS_OK;
}

static ls_status gather_counts(ls_comm *comm, const int64_t *own, int64_t *all, int64_t count) {
    if (!comm) {
        memcpy(all, own, (size_t)count * sizeof *own);
        return LS_OK;
    }
    return comm->ops->all_gather(comm, own, all, count * (int64_t)sizeof *own);
}

/* Turns the choices of an expert in one segment of all tensor ranks, `stride` apart, into those
 * that are kept, as long as there is room. */
static void keep_some(int64_t *counts, int64_t stride, int ranks, int64_t *room) {
    for (int t = 0; t < ranks; t++) {
        int64_t *count = &counts[t * stride];
        *count = *count < *room ? *count : *room;
        *room -= *count;
    }
}

/* The same for all segments of a micro-batch, counts [contexts, tensor ranks, segments, E], in
 * order of their rows. */
static void keep_in_order(const ls_pass *pass, int64_t *counts) {
    const ls_model *m = pass->model;
    const int64_t experts = m->sizes.experts, parts = ls_moe_segments(m, pass->batch);
    const int64_t stride = parts * experts;
    const int ranks = m->part.tensor_ranks,
              contexts = ls_moe_counts_segments(m) ? m->context_ranks : 1;
    for (int64_t e = 0; e < experts; e++) {
        int64_t room = ls_moe_capacity(m, ls_moe_whole_rows(pass));
        for (int64_t run = 0; run < parts * contexts; run++) {
            /* Low chunks by context rank, then high ones the other way round. */
            const int64_t part = run / contexts, place = run % contexts;
            const int64_t context = part % 2 == 0 ? place : contexts - 1 - place;
            keep_some(counts + context * ranks * stride + part * experts + e, stride, ranks, &room);
        }
    }
}

/* The choices of all tensor ranks, how many of each segment are kept (in m->moe_own), and of each
 * rank that shares the experts. */
static ls_status count_choices(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    const int64_t experts = m->sizes.experts, own = ls_moe_segments(m, pass->batch) * experts;
    const int64_t tensor = own * m->part.tensor_ranks;
    int64_t *counts = m->moe_tensor;
    LS_TRY(count_own(pass, moe));
    LS_TRY(gather_counts(m->tensor, m->moe_own, counts, own));
    memset(moe->wanted, 0, (size_t)experts * sizeof *moe->wanted);
    for (int64_t i = 0; i < tensor; i++) {
        moe->wanted[i % experts] += counts[i];
    }
    if (ls_moe_counts_segments(m)) {
        LS_TRY(gather_counts(m->context, m->moe_tensor, m->moe_all, tensor));
        counts = m->moe_all;
    }
    keep_in_order(pass, counts);
    counts += ls_moe_counts_segments(m) ? m->context_rank * tensor : 0;
    memcpy(m->moe_own, counts + m->part.tensor_rank * own, (size_t)own * sizeof *counts);
    /* Of the tensor ranks it is known already. */
    const bool apart = m->part.expert_ranks > 1;
    int64_t *kept = apart ? m->moe_counts : moe->kept;
    memset(kept, 0, (size_t)(experts * (apart ? 1 : m->expert_ranks)) * sizeof *kept);
    for (int64_t i = 0; i < (apart ? own : tensor); i++) {
        kept[(apart ? 0 : i / own * experts) + i % experts] += (apart ? m->moe_own : counts)[i];
    }
    return apart ? gather_counts(m->experts, kept, moe->kept, experts) : LS_OK;
}

static ls_status upload_ids(const ls_model *m, int32_t *to, const int32_t *from, int64_t count) {
    return m->dev->ops->upload(m->dev, to, from, (size_t)count * sizeof *from);
}

/* A slot for each choice that is kept, in order of expert, then of row. */
static ls_status assign_slots(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    const int64_t experts = m->sizes.experts, each = m->sizes.each;
    const int64_t *kept = moe->kept + m->expert_rank * experts;
    const ls_zigzag z = ls_zigzag_of(m->options.seq, m->context_rank, m->context_ranks);
    int64_t *next = m->moe_counts, slots = 0;
    for (int64_t e = 0; e < experts; e++) {
        next[e] = slots;
        slots += kept[e];
    }
    int32_t *slot = m->moe_host.slots, *slot_rows = m->moe_host.slot_rows;
    const int64_t choices = ls_moe_own(pass).rows * each;
    for (int64_t i = 0; i < choices; i++) {
        const int32_t e = m->moe_host.chosen[i];
        const int64_t segment = ls_moe_counts_segments(m) ? segment_of(pass, &z, i / each) : 0;
        slot[i] = -1;
        if (m->moe_own[segment * experts + e] > 0) {
            m->moe_own[segment * experts + e]--;
            slot[i] = (int32_t)next[e]++;
            slot_rows[slot[i]] = (int32_t)(i / each);
        }
    }
    LS_TRY(upload_ids(m, moe->slots, slot, choices));
    return upload_ids(m, moe->slot_rows, slot_rows, slots);
}

/* Rows arrive by rank, then expert; experts want them by expert, then rank. */
static ls_status order_rows(const ls_pass *pass, const ls_moe_acts *moe) {
    const ls_model *m = pass->model;
    const int64_t experts = m->sizes.experts;
    const int rank = m->expert_rank, ranks = m->expert_ranks;
    int64_t place = 0;
    for (int64_t e = ls_moe_expert_first(m, rank); e < ls_moe_expert_first(m, rank + 1); e++) {
        int64_t before = 0; /* rows of the ranks before */
        for (int r = 0; r < ranks; r++) {
            int64_t arrived = before;
            for (int64_t f = ls_moe_expert_first(m, rank); f < e; f++) {
                arrived += moe->kept[r * experts + f];
            }
            for (int64_t i = 0; i < moe->kept[r * experts + e]; i++, place++) {
                m->moe_host.order[place] = (int32_t)(arrived + i);
                m->moe_host.back[arrived + i] = (int32_t)place;
            }
            before += ls_moe_kept_of(pass, moe, r, rank);
        }
    }
    LS_TRY(upload_ids(m, moe->order, m->moe_host.order, place));
    return upload_ids(m, moe->back, m->moe_host.back, place);
}

ls_status ls_moe_place_by_host(const ls_pass *pass, const ls_moe_acts *moe) {
    LS_TRY(count_choices(pass, moe));
    LS_TRY(assign_slots(pass, moe));
    return order_rows(pass, moe);
}
