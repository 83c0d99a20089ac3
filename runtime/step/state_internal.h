/* What the files of the state share. */
#ifndef LS_STEP_STATE_INTERNAL_H
#define LS_STEP_STATE_INTERNAL_H

#include "collectives/bucket.h"
#include "collectives/scatter.h"
#include "runtime/base/arena.h"
#include "runtime/step/state.h"

/* A block of the model with its place in the flat space of all parts. */
typedef struct state_block {
    ls_range range;
    int part;
    int first_unit, units; /* of the part's partition */
    int64_t vector_elems;  /* up to the end of its last norm or bias */
    int64_t last_elems;    /* at its front, that become final last: before a layer's attention */
    int64_t grads_micro;   /* the last of its part's micro-batches that asked for its gradients */
} state_block;

typedef struct state_part {
    ls_state *state;
    ls_model_part model;
    bool is_experts;            /* the experts of the layers of a part, where they are kept apart */
    struct state_part *experts; /* of this part; NULL: none apart */
    ls_comm *data;              /* the ranks that hold the same, of which each keeps a shard */
    int shards, shard;
    int64_t base;           /* of its elements in the flat space */
    int first_block;        /* in state->blocks */
    ls_partition partition; /* of its own flat space */
    int64_t *places;        /* [units]: of this rank's slices in compact buffers */
    ls_reducer *reducer;    /* zero 0 and 1 */
    void *micro_grads;      /* of the micro-batch under way; zero 0 and 1 */
    bool micro_fresh;       /* they must be written first */
    int64_t micros;         /* begun so far */
    ls_scatter *scatter;    /* above */
    ls_model_store store;
} state_part;

/* Memory for a block's parameters while they are used, or until another block needs it. */
typedef struct state_window {
    void *masters, *copies;
    int block; /* -1: none */
    int users;
    int64_t used_at;
    ls_comm_request **requests; /* on their way; as many as `pending` */
    int pending;
} state_window;

/* Windows for layers, one for larger blocks, and those for experts apart. */
enum { STATE_POOL = 2, STATE_EXPERTS = STATE_POOL + 1, STATE_WINDOWS = STATE_EXPERTS + STATE_POOL };

/* Memory that collectives send from or receive in, of a communicator that works on it where it
 * lies. `at` gets it when there are communicators. */
typedef enum state_sender {
    STATE_DATA,
    STATE_GATHER,
    STATE_EXPERT_GATHER,
    STATE_COMMON, /* of the ranks of STATE_GATHER */
    STATE_SENDERS
} state_sender;
typedef struct state_sent {
    void **at;
    state_sender sender;
    size_t offset; /* in its memory */
} state_sent;
enum { STATE_SENT = 4 + STATE_WINDOWS };

/* A part of a norm or bias that `shard` keeps. */
typedef struct state_vector {
    int shard;
    int64_t elem, elems; /* in the flat space */
    int64_t place;       /* in state->vectors */
} state_vector;

struct ls_state {
    ls_state_options options;
    ls_device *dev;
    bool planning;
    ls_state_bytes bytes;
    bool common; /* see state.h */
    bool has_copies, full_masters, full_copies, full_grads, windowed;
    size_t acc_bytes, copy_bytes; /* of an element */
    state_part *parts;            /* [part_count]: of the model, then those of experts apart */
    int part_count;
    state_block *blocks;
    int block_count;
    int64_t pool_elems;   /* blocks of more use the large window and buffer */
    int64_t expert_elems; /* of the largest block of experts apart */
    ls_param *params;
    int param_count;
    int64_t flat_elems;
    ls_owned *owned;
    int owned_count;
    int64_t owned_elems;
    int64_t most_owned; /* of any shard; on a GPU only */
    void *masters, *copies, *grads;
    void *twin; /* gradients of a tied embedding from the other stage */
    state_sent sent[STATE_SENT];
    int sent_count;
    size_t sent_bytes[STATE_SENDERS];
    void *sent_memory[STATE_SENDERS];

    /* The ranks among which the space, and that of experts apart, is divided; NULL with zero 0. */
    ls_comm *gather_comm[2];
    state_window windows[STATE_WINDOWS];
    int64_t uses;
    ls_comm_request **requests; /* of ls_state_share; as many as units */
    int64_t *counts, *offsets;  /* [shards] */
    state_vector *vector_parts; /* by shard */
    int vector_part_count;
    int64_t *vector_places; /* [param_count] */
    void *vectors, *packed; /* all norms and biases; and by shard, as they travel */
    uint64_t comm_ns, tied_ns;
    const ls_comm_list *told;          /* while operations of a planned state are listed */
    ls_status (*drive)(void *context); /* NULL: none */
    void *drive_context;
};

/* Zeroed device memory, or only its bytes when planning. */
ls_status ls_state_take(ls_state *s, size_t *kind, size_t bytes, void **memory);
/* Likewise, later, for collectives: as many bytes on all ranks of the communicator, or in all. */
void ls_state_take_sent(ls_state *s, state_sender sender, size_t *kind, size_t bytes,
                        void **memory);
/* Gives back what either has taken, where it is not the communicator's. */
void ls_state_free(ls_state *s, void **memory);
/* state_gather.c: windows, norms and biases. */
ls_status ls_state_plan_gathers(ls_state *s);
void ls_state_release_gathers(ls_state *s);
void ls_state_set_store(state_part *part);
/* A planned state's windows: the model's use of a block (numbered as in ls_model_store) begins or
 * ends. Gathers are told. */
ls_status ls_state_plan_use(state_part *part, int block, bool backward, bool begins);
/* state_tell.c: what becomes final last of a part's gradients, from its start: the embedding's, and
 * the first layer's that come behind attention's backward pass, for query, key and value. */
void ls_state_fronts(const ls_state *s, const state_part *part, int64_t fronts[LS_BUCKET_FRONTS]);
/* Gathers of units of a part, to s->told. */
void ls_state_tell_units(const ls_state *s, const state_part *part, int first, int count,
                         ls_comm_use use);
/* state_tied.c: adds up the gradients of an embedding that two stages hold. */
ls_status ls_state_plan_tied(ls_state *s);
ls_status ls_state_add_tied(ls_state *s);
/* Elements that travel next when so many are left of a slice. */
int64_t ls_state_tied_piece(const ls_state *s, int64_t left);
/* The part and the units of the tied embedding on this rank; false: it has none. */
bool ls_state_find_tied(const ls_state *s, const state_part **part, int *first, int *end);

static inline void *ls_state_at(const void *base, int64_t elem, size_t elem_bytes) {
    return (char *)base + elem * (int64_t)elem_bytes;
}

#endif
