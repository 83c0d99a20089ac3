/* The order in which pipeline ranks work: 1F1B and its interleaved form (Narayanan 2021, arXiv
 * 2104.04473), and how long that takes.
 *
 * With P ranks and V parts of the model a rank, the model has P V stages; part v of rank p is stage
 * v P + p. Every rank has a list of forward and backward passes of its parts' micro-batches. It
 * warms up with forward passes, then alternates, then drains; with V = 1 rank p begins with P - p -
 * 1 passes, so that at most P - p micro-batches are alive there, however many there are.
 * Micro-batches go through the parts in groups of P; with fewer than P, or with a last group that
 * is not full, the same rule holds, warmed up by more passes where it would block. */
#ifndef LS_STEP_PIPELINE_H
#define LS_STEP_PIPELINE_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct ls_pipe_pass {
    bool backward;
    int part;
    int64_t micro;
} ls_pipe_pass;

typedef struct ls_pipe_shape {
    int ranks, parts; /* P, V */
    int64_t micros;   /* of a global batch, of one data-parallel rank */
} ls_pipe_shape;

/* Seconds of one stage's pass over a micro-batch, and of handing its result on. */
typedef struct ls_pipe_costs {
    double forward_s, backward_s, transfer_s;
} ls_pipe_costs;

typedef struct ls_pipe_time {
    double seconds; /* from the first pass to the last */
    double bubble;  /* share of that time in which ranks do nothing */
    int tries;      /* schedules that were played until one did not block */
} ls_pipe_time;

static inline int64_t ls_pipeline_passes(const ls_pipe_shape *shape) {
    return 2 * shape->parts * shape->micros;
}

/* The list of `rank`: passes [ls_pipeline_passes]. Backward passes of a part are in the order of
 * its forward passes, both by micro-batch. What one rank sends to another comes in the order in
 * which that one asks for it, forward and backward apart. LS_E_SHAPE for sizes below 1. */
ls_status ls_pipeline_schedule(const ls_pipe_shape *shape, int rank, ls_pipe_pass *passes);

/* Most micro-batches of a part that are alive at once on a rank with these passes. */
int ls_pipeline_alive(const ls_pipe_shape *shape, const ls_pipe_pass *passes, int part);

/* Plays the schedules of all ranks. */
ls_status ls_pipeline_simulate(const ls_pipe_shape *shape, const ls_pipe_costs *costs,
                               ls_pipe_time *time);

#endif
