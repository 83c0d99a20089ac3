/* Hand-over between pipeline stages, for the files of this room.
 *
 * Stage v P + p is part v of rank p. Forward goes to the next stage, backward to the one before;
 * each has a communicator of its own, so that neither has to wait for the other. On a device, where
 * the messages of a communicator go one after the other, a rank with several parts also sends by
 * another one than it receives by. A message is
 * awaited in memory of its own, asked for one pass ahead but in the first step (step.c); what is
 * sent stays in a ring until it has left. */
#ifndef LS_STEP_RUNNER_H
#define LS_STEP_RUNNER_H

#include "runtime/step/step.h"

typedef struct runner_ring {
    char *memory; /* [entries] messages */
    int entries;
    int64_t used;
    ls_comm_request **requests; /* [entries]: on their way; NULL: none */
} runner_ring;

struct ls_runner {
    ls_runner_options options;
    ls_model **models;
    bool planning, has_stepped; /* all passes were made once */
    size_t bytes;
    int rank, ranks, stages;
    int data_rank, data_ranks; /* without context ranks */
    ls_pipe_pass *passes;
    int64_t pass_count;
    int *alive;           /* [parts] */
    int32_t *batches;     /* [alive[0], 2, batch_tokens] tokens and targets for later parts */
    double *losses;       /* [micros] of a step; device memory, zeros but on the last stage */
    double *host_losses;  /* [micros] the same in host memory, then [micros * data's size] of all */
    ls_comm *way[2][3];   /* forward, backward; of the messages that a rank sends: see way_of */
    int lanes;            /* of each */
    runner_ring *inputs;  /* [parts]: x_in, until backward is done; one more than alive */
    runner_ring dx;       /* gradients that arrive */
    runner_ring sends[2]; /* forward, backward */
    uint64_t comm_ns;     /* handing over and waiting for neighbours */
};

static inline int ls_runner_stage(const ls_runner *r, int part) {
    return part * r->ranks + r->rank;
}

static inline bool ls_runner_is_first(const ls_runner *r, int part) {
    return ls_runner_stage(r, part) == 0;
}

static inline bool ls_runner_is_last(const ls_runner *r, int part) {
    return ls_runner_stage(r, part) == r->stages - 1;
}

/* Asks for the message of the `index`-th use of a ring. */
ls_status ls_runner_receive(ls_runner *r, bool backward, runner_ring *ring, int64_t index);
/* Waits for it. */
ls_status ls_runner_await(ls_runner *r, bool backward, runner_ring *ring, int64_t index,
                          void **message);
/* An entry to write a message to, and its sending. */
ls_status ls_runner_prepare(ls_runner *r, bool backward, void **message);
ls_status ls_runner_send(ls_runner *r, bool backward);
/* Drives what is being sent: MPI moves a large message only while its sender is inside a call. */
ls_status ls_runner_progress(void *runner);
/* Until all that was sent has left. */
ls_status ls_runner_drain(ls_runner *r);

#endif
