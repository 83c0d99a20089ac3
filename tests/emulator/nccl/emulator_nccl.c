/* NCCL of the emulated device, carried by MPI point-to-point messages on MPI_COMM_WORLD.
 *
 * A call becomes queued work of its stream; a group, one piece of work. Every message begins with a
 * header that tells what its sender called. A receiver compares it with its own call and names both
 * when they differ: kind, count, type, reduction, root and place in the communicator's order. Work
 * never blocks: it is asked again until its messages are there, as a GPU would go on by itself.
 * Sums begin with another rank each time, since NCCL promises no order. */
#include "tests/emulator/emulator.h"

#include "tests/emulator/nccl/reduce.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INIT_TAG = 16000, COMM_TAG = 17000, COMM_TAGS = 12000, RANKS_MAX = 64, PARTS_MAX = 256 };

typedef enum kind { ALL_REDUCE, REDUCE, REDUCE_SCATTER, BROADCAST, ALL_GATHER, SEND, RECV } kind;
static const char *const KINDS[] = {"ncclAllReduce", "ncclReduce",    "ncclReduceScatter",
                                    "ncclBroadcast", "ncclAllGather", "ncclSend",
                                    "ncclRecv"};

typedef struct identity {
    int32_t root, number, pid;
} identity;

struct emu_nccl {
    identity id;
    int rank, size, tag;
    int world[RANKS_MAX]; /* rank in MPI_COMM_WORLD */
    bool ready, hello_sent;
    int heard, polls;
    uint32_t calls;
};

typedef struct header {
    int32_t kind, type, op, root;
    uint32_t call;
    int32_t from;
    uint64_t count, bytes; /* of the payload */
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
    uint32_t call;
    char *in[RANKS_MAX]; /* messages that came: header, payload */
    bool came[RANKS_MAX];
} part;

typedef struct nccl_op {
    emu_op op;
    part *parts;
    int count;
    bool started;
    MPI_Request *requests;
    char **messages;
    int sent;
} nccl_op;

static int group_depth;
static struct {
    cudaStream_t stream;
    part parts[PARTS_MAX];
    int count;
} group;

const char *ncclGetErrorString(ncclResult_t result) {
    return result == ncclSuccess      ? "no error"
           : result == ncclInProgress ? "NCCL operation in progress"
           : result == ncclInvalidArgument
               ? "invalid argument (run with NCCL_DEBUG=WARN for details)"
               : "emulated error";
}

const char *ncclGetLastError(ncclComm_t comm) {
    (void)comm;
    return "";
}

ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

/* Creation: every rank tells the root who it is; the root answers with the table of all. */

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static int32_t number;
    int world = 0, running = 0;
    MPI_Initialized(&running);
    if (running) {
        MPI_Comm_rank(MPI_COMM_WORLD, &world);
    }
    const identity mine = {world, number++, (int32_t)getpid()};
    memset(id, 0, sizeof *id);
    memcpy(id, &mine, sizeof mine);
    return ncclSuccess;
}

typedef struct hello {
    identity id;
    int32_t rank, size, world;
} hello;

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    if (config->blocking != 0) {
        emu_report(
            "ncclCommInitRankConfig that blocks: set blocking to 0, so that the host can poll");
    }
    if (ranks < 1 || ranks > RANKS_MAX || rank < 0 || rank >= ranks) {
        return ncclInvalidArgument;
    }
    struct emu_nccl *c = calloc(1, sizeof *c);
    if (!c) {
        return ncclSystemError;
    }
    memcpy(&c->id, &id, sizeof c->id);
    c->rank = rank;
    c->size = ranks;
    c->tag = COMM_TAG + (c->id.root * 64 + c->id.number) % COMM_TAGS;
    c->heard = 1;
    *comm = c;
    return ncclInProgress;
}

static void advance_root(struct emu_nccl *c, int tag) {
    int flag = 0;
    MPI_Iprobe(MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
    if (flag) {
        hello from;
        MPI_Recv(&from, sizeof from, MPI_BYTE, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
        if (memcmp(&from.id, &c->id, sizeof from.id) != 0 || from.size != c->size) {
            emu_report("rank %d joins a communicator of %d ranks with another id or size %d",
                       from.rank, c->size, from.size);
        }
        c->world[from.rank] = from.world;
        c->heard++;
    }
    if (c->heard == c->size) {
        for (int r = 1; r < c->size; r++) {
            MPI_Send(c->world, RANKS_MAX, MPI_INT, c->world[r], tag + 64, MPI_COMM_WORLD);
        }
        c->ready = true;
    }
}

static void advance(struct emu_nccl *c) {
    const int tag = INIT_TAG + c->id.number % 64;
    int world = 0, flag = 0;
    if (c->size == 1) {
        c->ready = true;
        return;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &world);
    c->world[c->rank] = world;
    if (c->rank == 0) {
        advance_root(c, tag);
        return;
    }
    if (!c->hello_sent) {
        const hello mine = {c->id, c->rank, c->size, world};
        MPI_Send(&mine, sizeof mine, MPI_BYTE, c->id.root, tag, MPI_COMM_WORLD);
        c->hello_sent = true;
    }
    MPI_Iprobe(c->id.root, tag + 64, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
    if (flag) {
        MPI_Recv(c->world, RANKS_MAX, MPI_INT, c->id.root, tag + 64, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
        c->ready = true;
    }
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    if (!comm->ready && comm->polls++ > 0) { /* the first answer is always "not yet" */
        advance(comm);
    }
    *error = comm->ready ? ncclSuccess : ncclInProgress;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    (void)comm;
    cudaDeviceSynchronize();
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    free(comm);
    return ncclSuccess;
}

/* Queued work of an aborted communicator would wait for ever; the process is about to end. */
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    (void)comm;
    return ncclSuccess;
}

ncclResult_t ncclMemAlloc(void **memory, size_t bytes) {
    return cudaMalloc(memory, bytes) == cudaSuccess ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclMemFree(void *memory) {
    cudaFree(memory);
    return ncclSuccess;
}

ncclResult_t ncclCommRegister(ncclComm_t comm, void *memory, size_t bytes, void **handle) {
    (void)comm;
    emu_range range;
    if (!emu_device_find(memory, &range) || range.bytes < bytes) {
        emu_report("ncclCommRegister of %zu bytes at %p, which is no allocation", bytes, memory);
    }
    *handle = memory;
    return ncclSuccess;
}

ncclResult_t ncclCommDeregister(ncclComm_t comm, void *handle) {
    (void)comm;
    return handle ? ncclSuccess : ncclInvalidArgument;
}

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
        return p->comm->rank == p->root ? bytes : -1;
    case SEND:
        return peer == p->root ? bytes : -1;
    default:
        return -1;
    }
}

static bool expects(const part *p, int peer) {
    switch (p->kind) {
    case REDUCE:
        return p->comm->rank == p->root;
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
        for (int peer = 0; peer < c->size; peer++) {
            const char *from;
            const int64_t bytes = sends(p, peer, &from);
            if (bytes < 0 || (peer == c->rank && p->kind != SEND)) {
                continue;
            }
            emu_access_device(from, (size_t)bytes, false);
            char *message = calloc(1, sizeof(header) + (size_t)bytes);
            const header h = {p->kind, p->type, p->op,    p->kind == SEND ? -1 : p->root,
                              p->call, c->rank, p->count, (uint64_t)bytes};
            memcpy(message, &h, sizeof h);
            memcpy(message + sizeof h, from, (size_t)bytes);
            o->messages[o->sent] = message;
            MPI_Isend(message, (int)(sizeof h + (size_t)bytes), MPI_BYTE, c->world[peer], c->tag,
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
                   p->comm->rank, KINDS[p->kind], p->call, (unsigned long long)p->count, p->type,
                   p->op, p->root, peer, KINDS[h->kind], h->call, (unsigned long long)h->count,
                   h->type, h->op, h->root);
    }
}

/* Takes what has come; messages of a pair of ranks come in the order of their calls. */
static bool receive(nccl_op *o) {
    bool all = true;
    for (int i = 0; i < o->count; i++) {
        part *p = &o->parts[i];
        const struct emu_nccl *c = p->comm;
        for (int peer = 0; peer < c->size; peer++) {
            if (p->came[peer] || !expects(p, peer) || (peer == c->rank && p->kind != RECV)) {
                continue;
            }
            bool earlier = false; /* an earlier part waits for the same peer */
            for (int j = 0; j < i; j++) {
                earlier = earlier || (o->parts[j].comm == c && expects(&o->parts[j], peer) &&
                                      !o->parts[j].came[peer] &&
                                      (peer != c->rank || o->parts[j].kind == RECV));
            }
            MPI_Message message;
            MPI_Status status;
            int flag = 0, bytes = 0;
            if (!earlier) {
                MPI_Improbe(c->world[peer], c->tag, MPI_COMM_WORLD, &flag, &message, &status);
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
    const char *own = (const char *)p->send + (p->kind == REDUCE_SCATTER ? c->rank * bytes : 0);
    char *sum = malloc(bytes + 1);
    emu_access_device(own, bytes, false);
    for (int i = 0; i < c->size; i++) {
        const int r = (i + (int)p->call) % c->size;
        const char *from = r == c->rank ? own : p->in[r] + sizeof(header);
        if (i == 0) {
            memcpy(sum, from, bytes);
        } else {
            emu_nccl_combine(p->type, p->op, sum, from, p->count);
        }
    }
    if (p->op == ncclAvg) {
        emu_nccl_divide(p->type, sum, p->count, c->size);
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
        if (c->rank != p->root) {
            break;
        }
        reduce_part(p);
        break;
    case ALL_REDUCE:
    case REDUCE_SCATTER:
        reduce_part(p);
        break;
    case BROADCAST:
        place(p->recv, c->rank == p->root ? p->send : p->in[p->root] + sizeof(header), bytes);
        break;
    case ALL_GATHER:
        for (int r = 0; r < c->size; r++) {
            const char *from = r == c->rank ? p->send : p->in[r] + sizeof(header);
            place((char *)p->recv + (size_t)r * bytes, from, bytes);
        }
        break;
    case RECV:
        place(p->recv, p->in[p->root] + sizeof(header), bytes);
        break;
    case SEND:
        break;
    }
}

static bool run(emu_op *op) {
    nccl_op *o = (nccl_op *)op;
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
    return ncclSuccess;
}

static ncclResult_t call(part p, cudaStream_t stream) {
    if (!p.comm->ready) {
        emu_report("%s on a communicator that is not ready: poll ncclCommGetAsyncError",
                   KINDS[p.kind]);
    }
    const bool has_peer = p.kind == SEND || p.kind == RECV;
    if ((p.kind == REDUCE || p.kind == BROADCAST || has_peer) &&
        (p.root < 0 || p.root >= p.comm->size)) {
        return ncclInvalidArgument;
    }
    if (group.count == PARTS_MAX) {
        return ncclInvalidUsage;
    }
    if (group_depth > 0 && group.count > 0 && group.stream != stream) {
        emu_report("a group of NCCL calls on two streams, which lockstep does not do");
    }
    if (!has_peer) {
        p.call = p.comm->calls++;
    }
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
