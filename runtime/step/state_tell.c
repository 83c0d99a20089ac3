/* The operations of a planned state in a step. */
#include "collectives/sum_tree.h"
#include "runtime/step/state_internal.h"

/* Of an element of gradients on its way. */
static double wire_bytes(const ls_state *s, int ranks) {
    return ls_reducer_narrows(s->options.reduction, ranks) ? 2.0 : (double)s->acc_bytes;
}

static double slice_bytes(const ls_state *s, const ls_partition *p, int unit, int ranks, int rank) {
    return (double)ls_bucket_slice(p, unit, ranks, rank).elems * wire_bytes(s, ranks);
}

static void tell_use(const ls_state *s, ls_comm_use use, ls_coll coll, int ranks, double bytes) {
    ls_comm_tell(s->told, (ls_comm_operation){LS_COMM_DATA, use, coll, ranks, bytes, 1});
}

static void tell(const ls_state *s, ls_coll coll, int ranks, double bytes) {
    tell_use(s, LS_USE_STATE, coll, ranks, bytes);
}

void ls_state_fronts(const ls_state *s, const state_part *part, int64_t fronts[LS_BUCKET_FRONTS]) {
    const bool embeds = !part->is_experts && part->model.first_block == 0;
    const int layer = part->first_block + embeds; /* or a block of another part, or none */
    fronts[0] = embeds ? s->blocks[part->first_block].range.elems : 0;
    fronts[1] = fronts[0] + (layer < s->block_count ? s->blocks[layer].last_elems : 0);
}

/* Of gradients that are complete with the first layer's or later, nothing is left to compute beside
 * but the embedding's, which is little. */
static ls_comm_use use_of(const ls_state *s, const state_part *part, ls_range gradients) {
    const bool embeds = !part->is_experts && part->model.first_block == 0;
    const int64_t layers = embeds ? s->blocks[part->first_block].range.elems : 0;
    return gradients.first <= layers ? LS_USE_LAST : LS_USE_STATE;
}

/* Each rank sends the others their slices of a unit. */
static void tell_exchange(const ls_state *s, const state_part *part, const ls_partition *p, int u) {
    const int ranks = part->data->size;
    double sent = 0;
    for (int r = 0; r < ranks; r++) {
        sent += r == part->data->rank ? 0 : slice_bytes(s, p, u, ranks, r);
    }
    tell(s, LS_COLL_ALL_TO_ALL, ranks, ls_comm_exchanged(sent, ranks));
}

/* The replicas of a shard gather what they have added up. */
static void tell_replicas(const ls_state *s, const state_part *part, const ls_partition *p, int u) {
    const int64_t elems = ls_partition_slice(p, u, part->data->rank % p->shards).elems;
    tell(s, LS_COLL_ALL_GATHER, part->data->size / p->shards, (double)elems * (double)s->acc_bytes);
}

static int context_ranks(const ls_state *s, const state_part *part) {
    return ls_reducer_contexts(s->options.reduction, part->data->size, s->options.context_ranks);
}

/* Nodes of the tree of sums that this rank has, and the most of any. */
static int count_nodes(const ls_state *s, const state_part *part, int *most) {
    const bool invariant = s->options.reduction == LS_REDUCTION_INVARIANT;
    const int64_t local = invariant ? s->options.rank_micros : 1;
    const int ranks = part->data->size;
    int own = 0;
    ls_tree_stack range;
    *most = 0;
    for (int r = 0; r < ranks; r++) {
        const int place = ls_reducer_place(r, ranks, context_ranks(s, part));
        ls_tree_fold_range(&range, local * ranks, place * local, local);
        own = r == part->data->rank ? range.depth : own;
        *most = range.depth > *most ? range.depth : *most;
    }
    return own;
}

static void tell_bucket(const ls_state *s, const state_part *part, const ls_partition *p, int u,
                        int nodes, int most) {
    const int ranks = part->data->size;
    const double bytes = (double)p->units[u].range.elems * wire_bytes(s, ranks);
    const bool at_once = most == 1 && context_ranks(s, part) == 1;
    if (at_once && p->shards == 1) {
        tell_use(s, use_of(s, part, p->units[u].range), LS_COLL_ALL_REDUCE, ranks, bytes);
    } else if (at_once && p->shards == ranks) {
        tell_use(s, use_of(s, part, p->units[u].range), LS_COLL_REDUCE_SCATTER, ranks, bytes);
    } else if (ls_reducer_narrows(s->options.reduction, ranks)) {
        const int64_t kept = ls_partition_slice(p, u, part->data->rank % p->shards).elems;
        tell(s, LS_COLL_REDUCE_SCATTER, p->shards, bytes);
        tell(s, LS_COLL_ALL_REDUCE, ranks / p->shards, (double)kept * wire_bytes(s, ranks));
    } else {
        for (int i = 0; i < most; i++) {
            if (i < nodes) {
                tell_exchange(s, part, p, u);
            } else { /* it only receives */
                tell(s, LS_COLL_ALL_TO_ALL, ranks, 0);
            }
        }
        tell_replicas(s, part, p, u);
    }
}

static ls_status tell_reducer(const ls_state *s, const state_part *part, int64_t elems) {
    ls_partition buckets = {0};
    const ls_partition *p = &part->partition;
    int most, nodes = count_nodes(s, part, &most);
    if (s->options.zero == 0) {
        int64_t fronts[LS_BUCKET_FRONTS];
        ls_state_fronts(s, part, fronts);
        LS_TRY(ls_bucket_cut(elems, (int64_t)s->acc_bytes, s->options.bucket_bytes, fronts,
                             part->data->size, &buckets));
        p = &buckets;
    }
    for (int u = 0; u < p->unit_count; u++) {
        tell_bucket(s, part, p, u, nodes, most);
    }
    ls_partition_release(&buckets);
    return LS_OK;
}

static void tell_scatter(const ls_state *s, const state_part *part) {
    const ls_partition *p = &part->partition;
    for (int u = 0; u < p->unit_count; u++) {
        for (int64_t micro = 0; micro < s->options.rank_micros; micro++) {
            tell_exchange(s, part, p, u);
        }
        tell_replicas(s, part, p, u);
    }
}

static ls_status tell_gradients(const ls_state *s) {
    for (int p = 0; p < s->part_count; p++) {
        const state_part *part = &s->parts[p];
        const int64_t end = p + 1 < s->part_count ? s->parts[p + 1].base : s->flat_elems;
        if (s->options.zero > 1) {
            tell_scatter(s, part);
        } else {
            LS_TRY(tell_reducer(s, part, end - part->base));
        }
    }
    return LS_OK;
}

/* Each end of the pipeline sends the other what it keeps of the embedding's gradient, in pieces. */
static void tell_tied(const ls_state *s) {
    const state_part *part;
    int unit, end;
    if (!s->options.tied || !ls_state_find_tied(s, &part, &unit, &end)) {
        return;
    }
    for (; unit < end; unit++) {
        const int64_t elems = ls_partition_slice(&part->partition, unit, part->shard).elems;
        for (int64_t done = 0, n; done < elems; done += n) {
            n = ls_state_tied_piece(s, elems - done);
            ls_comm_tell(s->told,
                         (ls_comm_operation){LS_COMM_PIPELINE, LS_USE_STATE, LS_COLL_SEND_RECV, 2,
                                             (double)n * (double)s->acc_bytes, 1});
        }
    }
}

void ls_state_tell_units(const ls_state *s, const state_part *part, int first, int count,
                         ls_comm_use use) {
    const size_t elem_bytes = s->has_copies ? s->copy_bytes : s->acc_bytes;
    for (int u = first; u < first + count; u++) {
        const double elems = (double)part->partition.units[u].range.elems;
        ls_comm_tell(s->told, (ls_comm_operation){LS_COMM_DATA, use, LS_COLL_ALL_GATHER,
                                                  part->shards, elems * (double)elem_bytes, 1});
    }
}

/* After an update; of parameters in common, around it. */
static void tell_share(const ls_state *s) {
    if (s->common) {
        ls_comm_tell(s->told, (ls_comm_operation){LS_COMM_DATA, LS_USE_PARAMETERS, LS_COLL_BARRIER,
                                                  s->options.shards, 0, 2});
    }
    for (int p = 0; p < s->part_count && s->options.zero < 3; p++) {
        ls_state_tell_units(s, &s->parts[p], 0, s->parts[p].partition.unit_count,
                            LS_USE_PARAMETERS);
    }
    int64_t elems = 0;
    for (int i = 0; i < s->param_count; i++) {
        elems += s->params[i].matrix ? 0 : s->params[i].elems;
    }
    if (s->has_copies) {
        ls_comm_tell(s->told, (ls_comm_operation){LS_COMM_DATA, LS_USE_PARAMETERS,
                                                  LS_COLL_ALL_GATHER, s->options.shards,
                                                  (double)elems * (double)s->acc_bytes, 1});
    }
}

/* A part's blocks in the order in which ls_model_store says that they are asked for. */
static ls_status use(state_part *part, int block, bool backward) {
    const ls_config_model *config = part->state->options.config;
    const int head = (int)config->layers + 1;
    int used[2] = {block}, count = 1;
    if (block == head && config->tied && part->model.first_block == 0) {
        used[count++] = 0;
    }
    if (part->experts && block > 0 && block < head) {
        used[count++] = head + block;
    }
    for (int i = 0; i < count; i++) {
        LS_TRY(ls_state_plan_use(part, used[i], backward, true));
    }
    for (int i = count - 1; i >= 0; i--) {
        LS_TRY(ls_state_plan_use(part, used[i], backward, false));
    }
    return LS_OK;
}

static ls_status tell_pass(state_part *part, bool backward) {
    const int head = (int)part->state->options.config->layers + 1;
    const int first = part->model.first_block, end = first + part->model.block_count;
    for (int i = 0; i < end - first; i++) {
        const int block = backward ? end - 1 - i : first + i;
        if (backward || block < head) { /* the head runs in backward */
            LS_TRY(use(part, block, backward));
        }
    }
    return LS_OK;
}

ls_status ls_state_tell(ls_state *s, const ls_pipe_pass *passes, int64_t count,
                        const ls_comm_list *list) {
    s->told = list;
    LS_TRY(tell_gradients(s));
    tell_tied(s);
    if (s->options.zero > 0) {
        tell_share(s);
    }
    for (int64_t i = 0; i < count && s->options.zero == 3 && !s->common; i++) {
        LS_TRY(tell_pass(&s->parts[passes[i].part], passes[i].backward));
    }
    return LS_OK;
}
