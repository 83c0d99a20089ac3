/* NCCL of the emulated device, carried by MPI point-to-point messages on MPI_COMM_WORLD.
 *
 * A call becomes queued work of its stream; a group, one piece of work. Every message begins with a
 * header that tells what its sender called. A receiver compares it with its own call and names both
 * when they differ: kind, count, type, reduction, root and place in the communicator's order; and
 * the place among all collective calls of the two ranks, for several communicators whose kernels
 * two GPUs start in different orders can wait for each other. A message is sent when it has been
 * received, since NCCL promises no buffer for it. Work
 * never blocks: it is asked again until its messages are there, as a GPU would go on by itself.
 * Sums begin with another rank each time, since NCCL promises no order.
 *
 * Memory that is registered on one side of a call and not on the other is reported: "mixing
 * registered and non-registered buffers can result in undefined behavior" (NCCL's User Buffer
 * Registration).
 *
 * EMULATED_NCCL_REGISTERED=N: calls over N or more elements, on memory that their communicator does
 * not know, are reported. */
#include "tests/emulator/emulator.h"

#include "tests/emulator/nccl/emulator_comm.h"
#include "tests/emulator/nccl/reduce.h"

#include <mpi.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS_MAX = 256 };

typedef enum kind {
    ALL_REDUCE,
    REDUCE,
    REDUCE_SCATTER,
    BROADCAST,
    ALL_GATHER,
    SEND,
    RECV,
    FINALIZE
} kind;
static const char *const KINDS[] = {"ncclAllReduce", "ncclReduce",      "ncclReduceScatter",
                                    "ncclBroadcast", "ncclAllGather",   "ncclSend",
                                    "ncclRecv",      "ncclCommFinalize"};

typedef struct header {
    int32_t kind, type, op, root;
    uint32_t call;
    int32_t from;
    uint64_t count, bytes; /* of the payload */
    uint32_t before;       /* collective calls of the two ranks, of all communicators */
    uint32_t registered;   /* as in the part */
} header;

/* One call within a group. */
typedef struct part {
    kind kind;
    ncclDataType_t type;
    ncclRedOp_t op;
    int root; /* or peer */
    uint64_t count;
    const void *send;
    void *recv;
    struct emu_nccl *comm;
    uint32_t call, before[RANKS_MAX]; /* as in the header */
    uint32_t registered;              /* memory that all ranks of the call have, by bits */
    char *in[RANKS_MAX];              /* messages that came: header, payload */
    bool came[RANKS_MAX];
} part;

typedef struct nccl_op {
    emu_op op;
    part *parts;
    int count;
    bool started;
    unsigned turns;
    MPI_Request *requests;
    char **messages;
    int sent;
} nccl_op;

/* Turns of waiting work between two looks at the processes of the other ranks. */
enum { LIFE_TURNS = 256 };

static int group_depth;
static struct {
    cudaStream_t stream;
    part parts[PARTS_MAX];
    int count;
} group;

/* What a part sends to a peer and expects from it, in bytes; -1: no message. */

static int64_t sends(const part *p, int peer, const char **from) {
    const int64_t bytes = (int64_t)(p->count * emu_nccl_bytes(p->type));
    *from = p->send;
    switch (p->kind) {
    case ALL_REDUCE:
    case ALL_GATHER:
        return bytes;
    case REDUCE_SCATTER:
        *from += peer * bytes;
        return bytes;
    case REDUCE:
        return peer == p->root ? bytes : -1;
    case BROADCAST:
        return p->comm->members.rank == p->root ? bytes : -1;
    case SEND:
        return peer == p->root ? bytes : -1;
    default:
        return -1;
    }
}

static bool expects(const part *p, int peer) {
    switch (p->kind) {
    case REDUCE:
        return p->comm->members.rank == p->root;
    case BROADCAST:
    case RECV:
        return peer == p->root;
    case SEND:
        return false;
    default:
        return true;
    }
}

static void start_sends(nccl_op *o) {
    o->requests = calloc((size_t)o->count * RANKS_MAX, sizeof *o->requests);
    o->messages = calloc((size_t)o->count * RANKS_MAX, sizeof *o->messages);
    for (int i = 0; i < o->count; i++) {
        part *p = &o->parts[i];
        const struct emu_nccl *c = p->comm;
        for (int peer = 0; peer < c->members.size; peer++) {
            const char *from;
            const int64_t bytes = sends(p, peer, &from);
            if (bytes < 0 || (peer == c->members.rank && p->kind != SEND)) {
                continue;
            }
            emu_access_device(from, (size_t)bytes, false);
            char *message = calloc(1, sizeof(header) + (size_t)bytes);
            const header h = {
                p->kind,         p->type,         p->op,    p->kind == SEND ? -1 : p->root,
                p->call,         c->members.rank, p->count, (uint64_t)bytes,
                p->before[peer], p->registered};
            memcpy(message, &h, sizeof h);
            memcpy(message + sizeof h, from, (size_t)bytes);
            o->messages[o->sent] = message;
            (p->kind == SEND ? MPI_Issend : MPI_Isend)(message, (int)(sizeof h + (size_t)bytes),
                                                       MPI_BYTE, c->members.world[peer], c->tag,
                                                       MPI_COMM_WORLD, &o->requests[o->sent++]);
        }
    }
    o->started = true;
}

static void check_message(const part *p, int peer, const header *h) {
    const bool message = p->kind == RECV;
    if (h->kind != (message ? SEND : (int32_t)p->kind) || h->type != (int32_t)p->type ||
        h->count != p->count ||
        (!message && (h->op != (int32_t)p->op || h->root != p->root || h->call != p->call))) {
        emu_report("mismatched NCCL calls: rank %d calls %s (call %u, count %llu, type %d, op %d, "
                   "root %d), but rank %d calls %s (call %u, count %llu, type %d, op %d, root %d)",
                   p->comm->members.rank, KINDS[p->kind], p->call, (unsigned long long)p->count,
                   p->type, p->op, p->root, peer, KINDS[h->kind], h->call,
                   (unsigned long long)h->count, h->type, h->op, h->root);
    }
    if (!message && h->before != p->before[peer]) {
        emu_report("NCCL calls in different orders: %s (call %u of its communicator) is collective "
                   "call %u of all that rank %d has made with rank %d, which made it as call %u: "
                   "kernels of several communicators then wait for each other",
                   KINDS[p->kind], p->call, p->before[peer], p->comm->members.rank, peer,
                   h->before);
    }
    if (h->registered != p->registered) {
        emu_report("memory of %s (%llu elements) that is registered with the communicator of rank "
                   "%d and not with that of rank %d",
                   KINDS[p->kind], (unsigned long long)p->count,
                   p->registered > h->registered ? p->comm->members.rank : peer,
                   p->registered > h->registered ? peer : p->comm->members.rank);
    }
}

/* Takes what has come; messages of a pair of ranks come in the order of their calls. */
static bool receive(nccl_op *o) {
    bool all = true;
    for (int i = 0; i < o->count; i++) {
        part *p = &o->parts[i];
        const struct emu_nccl *c = p->comm;
        for (int peer = 0; peer < c->members.size; peer++) {
            if (p->came[peer] || !expects(p, peer) ||
                (peer == c->members.rank && p->kind != RECV)) {
                continue;
            }
            bool earlier = false; /* an earlier part waits for the same peer */
            for (int j = 0; j < i; j++) {
                earlier = earlier || (o->parts[j].comm == c && expects(&o->parts[j], peer) &&
                                      !o->parts[j].came[peer] &&
                                      (peer != c->members.rank || o->parts[j].kind == RECV));
            }
            MPI_Message message;
            MPI_Status status;
            int flag = 0, bytes = 0;
            if (!earlier) {
                MPI_Improbe(c->members.world[peer], c->tag, MPI_COMM_WORLD, &flag, &message,
                            &status);
            }
            if (!flag) {
                all = false;
                continue;
            }
            MPI_Get_count(&status, MPI_BYTE, &bytes);
            p->in[peer] = malloc((size_t)bytes);
            MPI_Mrecv(p->in[peer], bytes, MPI_BYTE, &message, MPI_STATUS_IGNORE);
            check_message(p, peer, (const header *)(const void *)p->in[peer]);
            p->came[peer] = true;
        }
    }
    return all;
}

static void reduce_part(const part *p) {
    const struct emu_nccl *c = p->comm;
    const size_t bytes = p->count * emu_nccl_bytes(p->type);
    const char *own =
        (const char *)p->send + (p->kind == REDUCE_SCATTER ? c->members.rank * bytes : 0);
    char *sum = malloc(bytes + 1);
    emu_access_device(own, bytes, false);
    for (int i = 0; i < c->members.size; i++) {
        const int r = (i + (int)p->call) % c->members.size;
        const char *from = r == c->members.rank ? own : p->in[r] + sizeof(header);
        if (i == 0) {
            memcpy(sum, from, bytes);
        } else {
            emu_nccl_combine(p->type, p->op, sum, from, p->count);
        }
    }
    if (p->op == ncclAvg) {
        emu_nccl_divide(p->type, sum, p->count, c->members.size);
    }
    emu_access_device(p->recv, bytes, true);
    memcpy(p->recv, sum, bytes);
    free(sum);
}

static void place(char *to, const char *from, size_t bytes) {
    emu_access_device(to, bytes, true);
    memmove(to, from, bytes);
}

static void finish_part(const part *p) {
    const struct emu_nccl *c = p->comm;
    const size_t bytes = p->count * emu_nccl_bytes(p->type);
    switch (p->kind) {
    case REDUCE:
        if (c->members.rank != p->root) {
            break;
        }
        reduce_part(p);
        break;
    case ALL_REDUCE:
    case REDUCE_SCATTER:
        reduce_part(p);
        break;
    case BROADCAST:
        place(p->recv, c->members.rank == p->root ? p->send : p->in[p->root] + sizeof(header),
              bytes);
        break;
    case ALL_GATHER:
        for (int r = 0; r < c->members.size; r++) {
            const char *from = r == c->members.rank ? p->send : p->in[r] + sizeof(header);
            place((char *)p->recv + (size_t)r * bytes, from, bytes);
        }
        break;
    case RECV:
        place(p->recv, p->in[p->root] + sizeof(header), bytes);
        break;
    case SEND:
    case FINALIZE:
        break;
    }
}

/* Work of an aborted communicator ends, with nothing done; its messages stay, since MPI may still
 * read them. */
static bool aborted(nccl_op *o) {
    bool any = false;
    for (int i = 0; i < o->count; i++) {
        any = any || o->parts[i].comm->aborted;
    }
    o->sent = any ? 0 : o->sent;
    return any;
}

static bool run(emu_op *op) {
    nccl_op *o = (nccl_op *)op;
    if (aborted(o)) {
        return true;
    }
    for (int i = 0; i < o->count && o->turns++ % LIFE_TURNS == 0; i++) {
        emu_nccl_look_for_life(o->parts[i].comm);
    }
    if (!o->started) {
        start_sends(o);
    }
    int sent = 0;
    MPI_Testall(o->sent, o->requests, &sent, MPI_STATUSES_IGNORE);
    if (!receive(o) || !sent) {
        return false;
    }
    for (int i = 0; i < o->count; i++) {
        finish_part(&o->parts[i]);
    }
    return true;
}

static void release(emu_op *op) {
    nccl_op *o = (nccl_op *)op;
    for (int i = 0; i < o->count; i++) {
        o->parts[i].comm->queued--;
        for (int r = 0; r < RANKS_MAX; r++) {
            free(o->parts[i].in[r]);
        }
    }
    for (int i = 0; i < o->sent; i++) {
        free(o->messages[i]);
    }
    free(o->messages);
    free(o->requests);
    free(o->parts);
    free(o);
}

ncclResult_t ncclGroupStart(void) {
    group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
    if (group_depth == 0) {
        emu_report("ncclGroupEnd without ncclGroupStart");
    }
    if (--group_depth > 0 || group.count == 0) {
        return ncclSuccess;
    }
    nccl_op *o = calloc(1, sizeof *o);
    o->op = (emu_op){.name = KINDS[group.parts[0].kind], .run = run, .release = release};
    o->count = group.count;
    o->parts = calloc((size_t)group.count, sizeof *o->parts);
    memcpy(o->parts, group.parts, (size_t)group.count * sizeof *o->parts);
    group.count = 0;
    emu_stream_push(group.stream, &o->op);
    ncclResult_t result = ncclSuccess;
    for (int i = 0; i < o->count; i++) {
        result = emu_nccl_handed_over(o->parts[i].comm) ? result : ncclInProgress;
    }
    return result;
}

static void check_registered(const part *p, const void *at) {
    if (emu_nccl_knows(p->comm, at)) {
        return;
    }
    emu_report("%s of %llu elements at %p, which are not registered with the communicator",
               KINDS[p->kind], (unsigned long long)p->count, at);
}

static void check_memory(const part *p) {
    const bool is_root = p->comm->members.rank == p->root;
    const bool sends = p->kind != RECV && (p->kind != BROADCAST || is_root);
    const bool receives = p->kind != SEND && (p->kind != REDUCE || is_root);
    if (sends) {
        check_registered(p, p->send);
    }
    if (receives) {
        check_registered(p, p->recv);
    }
}

/* Of what is sent, and of what is received, where every rank does that; a message has one bit for
 * both of its ends. */
static uint32_t registered_of(const part *p) {
    const bool send = p->send && emu_nccl_knows(p->comm, p->send);
    const bool recv = p->recv && emu_nccl_knows(p->comm, p->recv);
    switch (p->kind) {
    case SEND:
        return send;
    case RECV:
    case BROADCAST:
        return recv;
    case REDUCE:
        return send;
    default:
        return (uint32_t)send + 2 * (uint32_t)recv;
    }
}

/* By rank in MPI_COMM_WORLD. */
static uint32_t calls_with[RANKS_MAX];

static void number_call(part *p) {
    const member_table *m = &p->comm->members;
    p->call = p->comm->calls++;
    for (int r = 0; r < m->size; r++) {
        p->before[r] = r == m->rank ? 0 : calls_with[m->world[r]]++;
    }
}

void emu_nccl_tell_end(const struct emu_nccl *c) {
    header h = {.kind = FINALIZE, .root = -1, .call = c->calls, .from = c->members.rank};
    for (int r = 0; r < c->members.size; r++) {
        if (r != c->members.rank) {
            MPI_Send(&h, sizeof h, MPI_BYTE, c->members.world[r], c->tag, MPI_COMM_WORLD);
        }
    }
}

bool emu_nccl_hear_ends(struct emu_nccl *c) {
    for (int flag = 1; flag && c->ends < c->members.size - 1;) {
        MPI_Status status;
        header h;
        MPI_Iprobe(MPI_ANY_SOURCE, c->tag, MPI_COMM_WORLD, &flag, &status);
        if (!flag) {
            break;
        }
        int bytes;
        MPI_Get_count(&status, MPI_BYTE, &bytes);
        if (bytes != (int)sizeof h) {
            emu_report("ncclCommFinalize of rank %d, while a rank calls something else on the "
                       "communicator",
                       c->members.rank);
        }
        MPI_Recv(&h, sizeof h, MPI_BYTE, status.MPI_SOURCE, c->tag, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
        if (h.kind != FINALIZE) {
            emu_report("ncclCommFinalize of rank %d, while rank %d calls %s", c->members.rank,
                       h.from, KINDS[h.kind]);
        }
        c->ends++;
    }
    return c->ends == c->members.size - 1;
}

static ncclResult_t call(part p, cudaStream_t stream) {
    emu_nccl_check_usable(p.comm, KINDS[p.kind]);
    const bool has_peer = p.kind == SEND || p.kind == RECV;
    if ((p.kind == REDUCE || p.kind == BROADCAST || has_peer) &&
        (p.root < 0 || p.root >= p.comm->members.size)) {
        return ncclInvalidArgument;
    }
    if (group.count == PARTS_MAX) {
        return ncclInvalidUsage;
    }
    const char *registered_from = getenv("EMULATED_NCCL_REGISTERED");
    if (p.count > 0 && registered_from && p.count >= (size_t)atoll(registered_from)) {
        check_memory(&p);
    }
    if (group_depth > 0 && group.count > 0 && group.stream != stream) {
        emu_report("a group of NCCL calls on two streams, which lockstep does not do");
    }
    emu_nccl_connect(p.comm, p.kind == SEND ? EMU_OUT : has_peer ? EMU_IN : EMU_ALL, p.root);
    if (!has_peer) {
        number_call(&p);
    }
    p.registered = p.count > 0 ? registered_of(&p) : 0;
    p.comm->queued++;
    ncclGroupStart();
    group.stream = stream;
    group.parts[group.count++] = p;
    return ncclGroupEnd();
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    return call((part){.kind = ALL_REDUCE,
                       .type = type,
                       .op = op,
                       .count = count,
                       .send = send,
                       .recv = recv,
                       .comm = comm},
                stream);
}

ncclResult_t ncclReduce(const void *send, void *recv, size_t count, ncclDataType_t type,
                        ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream) {
    return call((part){.kind = REDUCE,
                       .type = type,
                       .op = op,
                       .root = root,
                       .count = count,
                       .send = send,
                       .recv = recv,
                       .comm = comm},
                stream);
}

ncclResult_t ncclReduceScatter(const void *send, void *recv, size_t recv_count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    return call((part){.kind = REDUCE_SCATTER,
                       .type = type,
                       .op = op,
                       .count = recv_count,
                       .send = send,
                       .recv = recv,
                       .comm = comm},
                stream);
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
    return call((part){.kind = BROADCAST,
                       .type = type,
                       .root = root,
                       .count = count,
                       .send = send,
                       .recv = recv,
                       .comm = comm},
                stream);
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t send_count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
    return call((part){.kind = ALL_GATHER,
                       .type = type,
                       .count = send_count,
                       .send = send,
                       .recv = recv,
                       .comm = comm},
                stream);
}

ncclResult_t ncclSend(const void *send, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
    return call(
        (part){
            .kind = SEND, .type = type, .root = peer, .count = count, .send = send, .comm = comm},
        stream);
}

ncclResult_t ncclRecv(void *recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return call(
        (part){
            .kind = RECV, .type = type, .root = peer, .count = count, .recv = recv, .comm = comm},
        stream);
}
