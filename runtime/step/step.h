/* The training step: micro-batches with gradient accumulation through the stages of a pipeline,
 * reduction overlapped with backward, up to the mean gradient of the global batch; and evaluation.
 * What is done with the gradient is the caller's; a loss or gradient that is not finite reaches the
 * result as it is. */
#ifndef LS_STEP_STEP_H
#define LS_STEP_STEP_H

#include "collectives/meter.h"
#include "runtime/data/data.h"
#include "runtime/step/pipeline.h"
#include "runtime/step/state.h"

/* What a rank computes with: its parts of the model, the ranks that hold the same ones, and its
 * neighbours in the pipeline. */
typedef struct ls_runner ls_runner;

typedef struct ls_runner_options {
    ls_device *dev;          /* borrowed, as all below */
    ls_model *const *models; /* of the parts, read by create */
    int parts;
    ls_comm *data;     /* ranks with the same parts; context ranks innermost */
    int context_ranks; /* 0: 1 */
    ls_comm *pipeline; /* NULL: one stage */
    bool gathers;      /* the models' parameters come by collectives: all ranks of data run alike */
    int64_t micros;    /* of this rank in a global batch; 0: evaluation only */
    size_t boundary_bytes; /* of what stages hand on: ls_model_boundary_elems times the dtype's */
    int64_t batch_tokens;  /* B T of a micro-batch, where all parts read it (document masks); 0 */
} ls_runner_options;

/* Buffers between stages, and the list of passes. Not collective but for the duplicates of
 * `pipeline`. */
ls_status ls_runner_create(const ls_runner_options *options, ls_runner **runner);
void ls_runner_destroy(ls_runner *runner);
/* Bytes of those buffers; the first for a runner that is planned (models NULL, pipeline's rank and
 * size). */
ls_status ls_runner_plan(const ls_runner_options *options, size_t *bytes);
size_t ls_runner_bytes(const ls_runner *runner);
/* The operations of a step that are the runner's own: messages between stages, losses. Of `data`
 * and `pipeline` rank and size are read, of `models` nothing. */
void ls_runner_tell(const ls_runner_options *options, const ls_comm_list *list);

typedef struct ls_step_options {
    ls_runner *runner; /* borrowed, as all below */
    ls_state *state;
    ls_loader *loader; /* used by stages with the embedding or the head, or by all (batch_tokens) */
    const ls_dataset *dataset;
    uint64_t seed;
    int64_t batch; /* sequences of the global batch */
    int zero;
} ls_step_options;

typedef struct ls_step_result {
    double loss;      /* mean over the targets of the global batch */
    double own_loss;  /* sum over the targets of this rank's micro-batches; differs by rank */
    int64_t tokens;   /* of the global batch: positions with a next token */
    int64_t targets;  /* of these; fewer with a loss mask, perhaps none: then the loss is 0 */
    uint64_t data_ns; /* waiting for the loader */
    /* Forward and backward; where the host only enqueues, also what the device still had to do of
     * the update before. */
    uint64_t compute_ns;
    /* Exposed communication; folding of gradients is the data axis's. Those inside the model
     * (tensor, expert, context), and all on devices without host memory, where folding is compute,
     * are known of recorded communicators only, else part of compute. */
    uint64_t comm_ns[LS_COMM_AXIS_COUNT];
    uint64_t start_ns; /* of a step that is under way, as is what the meters had told before it */
    ls_comm_meter before[LS_COMM_AXIS_COUNT];
} ls_step_result;

/* A step over the batch that begins with sample `first` (data.h). The state's gradients are then
 * the mean gradient in what this rank keeps. The result is the same on all ranks. [collective] */
ls_status ls_step_run(const ls_step_options *options, int64_t first, ls_step_result *result);
/* The same in two parts. After the first a device may still be at work; what it is given then
 * counts as part of the step. The second waits for it. [collective] */
ls_status ls_step_start(const ls_step_options *options, int64_t first, ls_step_result *result);
ls_status ls_step_finish(const ls_step_options *options, ls_step_result *result);
/* In the device's memory: sums over the targets of this rank's micro-batches, in between. */
const double *ls_step_losses(const ls_step_options *options, int64_t *count);

/* Mean loss over a part of a dataset (batches 0), or over `batches` micro-batches of all ranks
 * together, whose windows are spread evenly over it: its beginning alone would be a few documents.
 * Micro-batch i is computed by data rank i mod size and the sums are added in order of i: the same
 * bits for every number of data ranks. micro: at most the models' batch. [collective] */
typedef struct ls_eval_result {
    double loss; /* NAN where a loss mask left no target */
    int64_t targets;
} ls_eval_result;
ls_status ls_step_evaluate(ls_runner *runner, const ls_dataset *dataset, int part, int64_t micro,
                           int64_t batches, ls_eval_result *result);

#endif
