#ifndef LS_TESTS_STEP_ZERO_BUBBLE_H
#define LS_TESTS_STEP_ZERO_BUBBLE_H

#include "runtime/base/status.h"

#include <stdint.h>

/* The zero-bubble schedule ZB-H1 (Qi 2023, arXiv 2401.10241), played beside those that run: the
 * backward pass in two, gradients of the input (which the stage before waits for) and of the
 * weights (which nobody does). It idles for (P-1)(forward + input - weight) where 1F1B idles for
 * (P-1)(forward + input + weight) and the interleaved form for that over V, so that with V = 3 this
 * is as good and with V = 4 better, unless a message takes over a 20th of a stage's forward pass
 * (tests/step/test_pipeline.c): of 8 ranks' step with 16 micro-batches 12.7 %, where 1F1B idles for
 * 30.4 %, 3 parts for 12.7 % and 4 parts for 9.9 %. It does not run for that reason. */
typedef struct split_costs {
    double forward_s, input_s, weight_s, transfer_s;
} split_costs;

typedef struct split_time {
    double seconds, bubble; /* as of ls_pipe_time */
    int alive;              /* most micro-batches whose activations a rank keeps */
    int held;               /* of which also the gradients of outputs, for the weights */
} split_time;

/* LS_E_SHAPE for sizes below 1. */
ls_status zero_bubble_play(int ranks, int64_t micros, const split_costs *costs, split_time *time);

#endif
