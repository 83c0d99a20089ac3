/* Memory of the process beside what was planned. */
#include "launch/train.h"
#include "runtime/base/arena.h"

#include <stdlib.h>

/* Program, libraries, MPI and device: what there is before training takes anything. */
ls_status ls_train_memory_begin(ls_train *train) {
    int64_t peak;
    ls_device *dev = train->session.dev;
    if (!dev->host_memory) {
        LS_TRY(dev->ops->free_bytes(dev, &train->memory.device_free_bytes));
    }
    return ls_memory_taken(&train->memory.program_bytes, &peak);
}

/* A GPU's memory is not the process's. */
int64_t ls_train_memory_planned(const ls_train *train) {
    const size_t state = train->session.dev->host_memory
                             ? ls_layout_used(&train->planned) + train->planned.scratch
                             : (size_t)0;
    return train->memory.program_bytes + (int64_t)state + (int64_t)train->planned.saves;
}

/* What tokens beyond an even share have made of the memory that is reserved for them. */
int64_t ls_train_memory_uneven(const ls_train *train) {
    size_t bytes = 0;
    for (int p = 0; p < train->layout.part_count; p++) {
        bytes += ls_model_memory(train->models[p]).uneven;
    }
    return (int64_t)bytes;
}

static double beyond_plan(const ls_memory_record *m) {
    return (double)m->peak_bytes / (double)(m->planned_bytes + m->uneven_bytes);
}

/* The rank that is furthest above its plan, or least below. */
static ls_memory_record worst_of(const ls_memory_record *all, int ranks) {
    ls_memory_record worst = all[0];
    for (int r = 1; r < ranks; r++) {
        worst = beyond_plan(&all[r]) > beyond_plan(&worst) ? all[r] : worst;
    }
    return worst;
}

/* What writing takes, of a run that has not saved anything. */
static int64_t never_written(const ls_train *train) {
    return train->has_saved
               ? 0
               : (int64_t)ls_ckpt_writing_bytes(train->session.threads, train->planned.piece);
}

static ls_status take_figures(ls_train *train, ls_memory_record *mine) {
    ls_device *dev = train->session.dev;
    int64_t now;
    mine->rank = train->session.comm->rank;
    mine->planned_bytes = ls_train_memory_planned(train) - never_written(train);
    mine->uneven_bytes = ls_train_memory_uneven(train);
    if (!dev->host_memory) {
        LS_TRY(dev->ops->free_bytes(dev, &now));
        mine->device_bytes = mine->device_free_bytes - now;
        mine->device_planned_bytes =
            (int64_t)(ls_layout_total(&train->planned) + dev->scratch_bytes);
    }
    LS_TRY(ls_memory_taken(&now, &mine->peak_bytes));
    mine->others_bytes = ls_memory_others();
    return LS_OK;
}

ls_status ls_train_memory_end(ls_train *train) {
    ls_comm *comm = train->session.comm;
    ls_memory_record *mine = &train->memory, *all;
    LS_TRY(ls_session_agree(&train->session, take_figures(train, mine)));
    LS_TRY(ls_session_agree(&train->session, ls_calloc((size_t)comm->size, sizeof *all, &all)));
    const ls_status status = comm->ops->all_gather(comm, mine, all, sizeof *mine);
    if (status == LS_OK) {
        *mine = worst_of(all, comm->size);
    }
    free(all);
    return status;
}
