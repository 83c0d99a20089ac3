/* Communicators of the emulated NCCL. */
#ifndef LS_EMULATOR_NCCL_COMM_H
#define LS_EMULATOR_NCCL_COMM_H

#include "tests/emulator/emulator.h"

#include <nccl.h>
#include <stdbool.h>
#include <stdint.h>

enum { RANKS_MAX = 64 };

/* One communicator's creation is another's than that of a later one. */
typedef struct identity {
    int32_t root, number, pid;
} identity;

/* What its ranks must know of all of them. */
typedef struct member_table {
    identity id;
    int32_t rank, size;       /* of the one that gets it */
    int32_t world[RANKS_MAX]; /* rank in MPI_COMM_WORLD */
    int32_t pid[RANKS_MAX];
} member_table;

/* Connections are made with the first operation that needs them, on the host of both ranks. */
typedef enum emu_way { EMU_OUT, EMU_IN, EMU_ALL, EMU_WAYS } emu_way; /* sends, receives, the rest */

struct emu_nccl {
    member_table members;
    int tag;                 /* of its messages */
    int ask_tag, answer_tag; /* of its creation */
    int root;                /* of its creation, in MPI_COMM_WORLD */
    int asking, color, key;  /* ranks that create with it; of split */
    struct hello *hellos;    /* [asking], of the root */
    bool ready, hello_sent, aborted, ending, connecting;
    int ends;  /* other ranks that have called ncclCommFinalize */
    bool late; /* looks before late_until_ns, one at least, say that a call is still on its way */
    uint64_t late_until_ns;
    ncclResult_t fault;
    /* Of the device, as NCCL takes them with a communicator and for its connections. */
    void *buffers[1 + EMU_WAYS * RANKS_MAX];
    int buffer_count;
    int hellos_heard, polls;
    uint32_t calls;
    int queued; /* calls whose work has not ended */
    /* By way and rank: this rank has called the first operation of that way, and has heard that the
     * other one has called its side of it. */
    bool called[EMU_WAYS][RANKS_MAX], heard[EMU_WAYS][RANKS_MAX];
    /* A split that has not ended: what comes of it, and where its caller wants that. */
    struct emu_nccl *part, **part_at;
};

/* An operation with a peer (of EMU_ALL: with all ranks) is called; and a call returns: has it all
 * its connections? If not, no other call may follow before a look says so. */
void emu_nccl_connect(struct emu_nccl *comm, emu_way way, int peer);
bool emu_nccl_handed_over(struct emu_nccl *comm);
/* Reports calls that a communicator is not there for: not ready, or aborted. */
void emu_nccl_check_usable(const struct emu_nccl *comm, const char *call);
/* Reports that memory is freed, or a communicator destroyed, while one is registered with the
 * other. */
void emu_nccl_check_unregistered(const void *memory, const struct emu_nccl *comm, const char *call);
/* A communicator is aborted, and with it its registrations end. */
void emu_nccl_forget(const struct emu_nccl *comm);
/* Pairs of memory and communicator. */
int emu_nccl_registrations(void);
bool emu_nccl_knows(const struct emu_nccl *comm, const void *at); /* is it registered there? */
/* Communicators that were destroyed, or aborted. */
int emu_nccl_destroyed(void);
int emu_nccl_aborted(void);
/* ncclCommFinalize: tells the other ranks, and whether all of them have told. */
void emu_nccl_tell_end(const struct emu_nccl *comm);
bool emu_nccl_hear_ends(struct emu_nccl *comm);
/* The communicator has a fault from when a rank's process is gone. */
void emu_nccl_look_for_life(struct emu_nccl *comm);

#endif
