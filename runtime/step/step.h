/* The training step: micro-batches with gradient accumulation, reduction overlapped with backward,
 * up to the mean gradient of the global batch. Its use is the caller's; a loss or gradient that is
 * not finite reaches the result as it is. */
#ifndef LS_STEP_STEP_H
#define LS_STEP_STEP_H

#include "collectives/reduce.h"
#include "runtime/data/data.h"
#include "runtime/model/model.h"

typedef struct ls_step_options {
    ls_model *model; /* borrowed, as all below */
    ls_device *dev;
    ls_comm *comm;
    ls_reducer *reducer;
    ls_loader *loader;
    const ls_dataset *dataset;
    uint64_t seed;
    int64_t batch;       /* sequences of the global batch */
    int64_t rank_micros; /* micro-batches of this rank */
} ls_step_options;

typedef struct ls_step_result {
    double loss;         /* mean over the targets of the global batch */
    int64_t targets;     /* of the global batch */
    void *grads;         /* flat mean gradient, the same on every rank, until the next step */
    uint64_t data_ns;    /* waiting for the loader */
    uint64_t compute_ns; /* forward and backward */
    uint64_t comm_ns;    /* exposed communication, folding of gradients included */
} ls_step_result;

/* Step `step` (0-based: samples step*batch ...). [collective] */
ls_status ls_step_run(const ls_step_options *options, int64_t step, ls_step_result *result);

/* Mean loss over a dataset (batches 0), or over `batches` micro-batches of all ranks together,
 * whose windows are spread evenly over it: its beginning alone would be a few documents.
 * Micro-batch i is computed by rank i mod size and the sums are added in order of i: the same bits
 * for every number of ranks. [collective] */
typedef struct ls_eval_result {
    double loss;
    int64_t targets;
} ls_eval_result;
ls_status ls_step_evaluate(ls_model *model, ls_comm *comm, const ls_dataset *dataset, int64_t micro,
                           int64_t batches, ls_eval_result *result);

#endif
