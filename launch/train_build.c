/* Makes what trains: groups of ranks, state, models, optimizer, runner; from the layout, after the
 * plan has shown that everything fits together. */
#include "collectives/recorded.h"
#include "launch/train.h"
#include "runtime/base/arena.h"
#include "runtime/mesh/mesh.h"

#include <math.h>
#include <stdlib.h>

/* Groups of `size` ranks; on each the same `color`, another one in each group. */
static ls_status split_by(ls_train *train, int color, int size, const char *name, ls_comm_axis axis,
                          ls_comm **group) {
    ls_comm *world = train->session.fabric;
    *group = NULL;
    if (size == 1) { /* on every rank */
        return LS_OK;
    }
    LS_TRY(world->ops->split(world, color, group));
    ls_comm_name_group(*group, name);
    ls_comm_set_axis(*group, axis);
    return LS_OK;
}

/* Ranks whose coordinates are equal except along `axes` (a bit for each). */
static ls_status split(ls_train *train, unsigned axes, const char *name, ls_comm_axis axis,
                       ls_comm **group) {
    const ls_mesh *mesh = &train->session.mesh;
    int first[LS_AXIS_COUNT], size = 1;
    for (int a = 0; a < LS_AXIS_COUNT; a++) {
        const bool varies = axes >> a & 1;
        first[a] = varies ? 0 : mesh->coord[a];
        size *= varies ? mesh->size[a] : 1;
    }
    return split_by(train, ls_mesh_rank(mesh, first), size, name, axis, group);
}

/* Groups of neighbours in the data group, and those of equal places in them. A rank's number in the
 * world is (stage * data ranks + data rank) * tensor ranks + tensor rank. */
static ls_status make_expert_groups(ls_train *train) {
    const ls_layout *l = &train->layout;
    ls_groups *g = &train->groups;
    const int tensor = l->mesh.size[LS_AXIS_TENSOR], t = l->mesh.coord[LS_AXIS_TENSOR];
    const int data = ls_layout_data_size(l), own = ls_layout_data_rank(l), ranks = l->experts;
    const int first = l->mesh.coord[LS_AXIS_PIPELINE] * data; /* of the stage */
    const int copy = ls_layout_copy_size(l), wide = ranks * l->expert_shards;
    if (ranks == 1) {
        return LS_OK;
    }
    LS_TRY(split_by(train, (first + own / ranks * ranks) * tensor, ranks * tensor, "expert",
                    LS_COMM_EXPERT, &g->experts));
    LS_TRY(split_by(train, (first + own % ranks) * tensor + t, data / ranks, "expert.data",
                    LS_COMM_DATA, &g->expert_data));
    if (!g->expert_data) {
        LS_TRY(ls_comm_self_on(train->session.dev, &g->expert_data));
    }
    LS_TRY(split_by(train, (first + own / wide * wide + own % ranks) * tensor + t, l->expert_shards,
                    "expert.shard", LS_COMM_DATA, &g->expert_shard));
    return split_by(train, (first + own / copy * copy) * tensor + t, copy, "copy", LS_COMM_DATA,
                    &g->copy);
}

static ls_status make_groups(ls_train *train) {
    ls_groups *g = &train->groups;
    const unsigned shard = 1U << LS_AXIS_SHARD | 1U << LS_AXIS_CONTEXT;
    LS_TRY(split(train, shard | 1U << LS_AXIS_REPLICATE, "data", LS_COMM_DATA, &g->data));
    if (!g->data) {
        LS_TRY(ls_comm_self_on(train->session.dev, &g->data));
    }
    if (train->config.parallel.zero > 0) {
        LS_TRY(split(train, shard, "shard", LS_COMM_DATA, &g->shard));
    }
    LS_TRY(split(train, 1U << LS_AXIS_TENSOR, "tensor", LS_COMM_TENSOR, &g->tensor));
    LS_TRY(split(train, 1U << LS_AXIS_CONTEXT, "context", LS_COMM_CONTEXT, &g->context));
    LS_TRY(split(train, 1U << LS_AXIS_PIPELINE, "pipeline", LS_COMM_PIPELINE, &g->pipeline));
    return make_expert_groups(train);
}

static ls_status make_state(ls_train *train) {
    ls_state_options options = ls_layout_state(&train->layout);
    options.data = train->groups.data;
    options.expert_data = train->groups.expert_data;
    options.tied = ls_layout_has_twin(&train->layout) ? train->groups.pipeline : NULL;
    LS_TRY(ls_session_agree(&train->session, ls_state_create(&options, &train->state)));
    if (options.common && !ls_state_is_common(train->state)) { /* the host had no room for it */
        train->layout.common = false;
        LS_TRY(ls_layout_plan(&train->layout, &train->planned));
    }
    return LS_OK;
}

static ls_status make_models(ls_train *train) {
    const ls_layout *l = &train->layout;
    LS_TRY(ls_calloc((size_t)l->part_count, sizeof *train->models, &train->models));
    for (int p = 0; p < l->part_count; p++) {
        ls_model_options options = ls_layout_model(l, p, &train->groups);
        options.store = ls_state_store(train->state, p);
        LS_TRY(ls_model_create(&options, &train->models[p]));
    }
    return LS_OK;
}

static ls_status make_optim(ls_train *train) {
    ls_optim_options options;
    ls_optim_range *owned = NULL, *not_counted = NULL;
    ls_status status =
        ls_layout_optim(&train->layout, train->state, &options, &owned, &not_counted);
    if (status == LS_OK) {
        options.shard = train->groups.shard;
        options.copy = train->groups.copy;
        options.expert_shard = train->groups.expert_shard;
        options.experts = train->groups.experts;
        options.tensor = train->groups.tensor;
        options.pipeline = train->groups.pipeline;
        status = ls_optim_create(&options, &train->optim);
    }
    free(owned);
    free(not_counted);
    return status;
}

static ls_status make_runner(ls_train *train) {
    ls_runner_options options = ls_layout_runner(&train->layout);
    options.models = train->models;
    options.data = train->groups.data;
    options.pipeline = train->groups.pipeline;
    return ls_session_agree(&train->session, ls_runner_create(&options, &train->runner));
}

/* What was taken, by kind, as those that took it count. */
static ls_layout_bytes taken(const ls_train *train) {
    ls_layout_bytes b = {.state = ls_state_memory(train->state),
                         .optim = ls_optim_bytes(train->optim),
                         .boundary = ls_runner_bytes(train->runner)};
    for (int p = 0; p < train->layout.part_count; p++) {
        const ls_model_bytes m = ls_model_memory(train->models[p]);
        b.activations += m.activations + m.masters + m.copies;
        b.tables += m.tables;
    }
    return b;
}

/* The plan is what users size machines by. */
static ls_status check_plan(const ls_train *train) {
    const ls_layout_bytes found = taken(train);
    const double planned = (double)ls_layout_total(&train->planned);
    const double total = (double)ls_layout_total(&found);
    if (fabs(total - planned) > 0.01 * planned) {
        return LS_FAIL(LS_E_MEMORY,
                       "training took %.0f bytes of memory, and %.0f were planned; they must agree "
                       "within 1%%: report this with the run's configuration",
                       total, planned);
    }
    return LS_OK;
}

ls_status ls_train_start_loader(ls_train *train) {
    ls_loader_destroy(train->loader);
    train->loader = NULL;
    const ls_loader_options loader =
        ls_layout_loader(&train->layout, train->train_data, train->next_sample);
    return ls_session_agree(&train->session, ls_loader_create(&loader, &train->loader));
}

ls_status ls_train_build(ls_train *train) {
    ls_session *session = &train->session;
    LS_TRY(ls_session_agree(session, make_groups(train)));
    LS_TRY(make_state(train));
    LS_TRY(ls_session_agree(session, make_models(train)));
    LS_TRY(ls_train_settle_attention(train));
    LS_TRY(ls_session_agree(session, make_optim(train)));
    LS_TRY(make_runner(train));
    return ls_session_agree(session, check_plan(train));
}

void ls_train_release(ls_train *train) {
    ls_runner_destroy(train->runner);
    ls_optim_destroy(train->optim);
    for (int p = 0; train->models && p < train->layout.part_count; p++) {
        ls_model_destroy(train->models[p]);
    }
    free(train->models);
    ls_state_destroy(train->state);
    ls_groups *g = &train->groups;
    ls_comm *const groups[] = {g->data,    g->shard,       g->tensor,       g->context, g->pipeline,
                               g->experts, g->expert_data, g->expert_shard, g->copy};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (groups[i]) {
            groups[i]->ops->destroy(groups[i]);
        }
    }
    ls_layout_release(&train->layout);
}
