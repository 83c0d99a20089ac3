/* The operations that a rank will make in a step, told ahead by those who make them, each beside
 * the code that does: a planner adds up their times, a dry run their bytes, and what a run has
 * counted (meter.h) must be the same. */
#ifndef LS_COLLECTIVES_OPERATION_H
#define LS_COLLECTIVES_OPERATION_H

#include "collectives/meter.h"
#include "collectives/wire_cost.h"

/* What an operation carries: activations, which were just computed and are waited for at once, or
 * beside other work; those kept since the forward pass, or left behind by a head's long products,
 * beside other work; the state: gradients, written in the course of a backward pass, and
 * parameters, gathered after an update (which a profile does not tell apart); last: gradients that
 * the end of the pass leaves, which are waited for at once; blocks: parameters gathered before
 * their use (ZeRO 3). */
typedef enum ls_comm_use {
    LS_USE_ACTIVATIONS,
    LS_USE_BESIDE,
    LS_USE_KEPT,
    LS_USE_STATE,
    LS_USE_LAST,
    LS_USE_BLOCKS,
    LS_USE_PARAMETERS,
    LS_USE_COUNT
} ls_comm_use;

typedef struct ls_comm_operation {
    ls_comm_axis axis;
    ls_comm_use use;
    ls_coll coll;
    int ranks;
    double bytes; /* as wire_cost.h counts them */
    double count; /* a step */
} ls_comm_operation;

typedef struct ls_comm_list {
    void (*add)(void *context, const ls_comm_operation *operation);
    void *context;
} ls_comm_list;

/* What one rank does with itself is no operation. */
static inline void ls_comm_tell(const ls_comm_list *list, ls_comm_operation operation) {
    if (operation.ranks > 1 && operation.count > 0) {
        list->add(list->context, &operation);
    }
}

/* An all-to-all's bytes as wire_cost.h counts them, of which a rank sends so many to others. */
static inline double ls_comm_exchanged(double sent, int ranks) {
    return ranks > 1 ? sent * ranks / (ranks - 1) : 0;
}

#endif
