#include "launch/plan_tell.h"

void ls_plan_axes(const ls_plan_layout *l, int size[LS_AXIS_COUNT]) {
    size[LS_AXIS_PIPELINE] = l->pipeline;
    size[LS_AXIS_REPLICATE] = l->replicate;
    size[LS_AXIS_SHARD] = l->shard;
    size[LS_AXIS_CONTEXT] = l->context;
    size[LS_AXIS_TENSOR] = l->tensor;
}

ls_status ls_plan_tell(void *context, const ls_plan_layout *l, int stage,
                       const ls_comm_list *list) {
    const ls_plan_teller *t = context;
    int size[LS_AXIS_COUNT];
    ls_layout layout;
    ls_plan_axes(l, size);
    const int ranks = ls_plan_devices(l), first = stage * (ranks / l->pipeline);
    ls_status status =
        ls_layout_init_rank(&layout, t->config, t->dev, t->dtype, size, first, ranks);
    if (status == LS_OK) {
        status = ls_layout_tell(&layout, list);
    }
    ls_layout_release(&layout);
    /* Whether to stop (train_stop.c). */
    ls_comm_tell(list, (ls_comm_operation){LS_COMM_WORLD, LS_USE_ACTIVATIONS, LS_COLL_ALL_REDUCE,
                                           ls_plan_devices(l), sizeof(int32_t), 1});
    return status;
}
