/* What the planner is told of the operations that this program makes. */
#ifndef LS_LAUNCH_PLAN_TELL_H
#define LS_LAUNCH_PLAN_TELL_H

#include "launch/train_layout.h"
#include "runtime/plan/cost.h"

/* A run's settings; its axes, micro-batch, zero stage and recomputation are the layout's too. */
typedef struct ls_plan_teller {
    const ls_config *config; /* borrowed, as dev, whose memory is the host's */
    ls_device *dev;
    ls_dtype dtype;
} ls_plan_teller;

void ls_plan_axes(const ls_plan_layout *layout, int size[LS_AXIS_COUNT]);

/* For ls_plan_job.tell; context: an ls_plan_teller. */
ls_status ls_plan_tell(void *context, const ls_plan_layout *layout, int stage,
                       const ls_comm_list *list);

#endif
