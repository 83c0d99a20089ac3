/* Creation, faults and end of the emulated NCCL's communicators.
 *
 * Every rank tells the root who it is; the root answers with the table of the ranks that have the
 * same color. NCCL's own way to learn of a dead rank is its sockets; here it is the process id.
 *
 * EMULATED_NCCL_ABSENT=RANK: that rank does not come to creations of communicators from an id.
 * EMULATED_NCCL_FAULT=N: each communicator has a fault from its N-th call on; 0: from its creation
 * on. The first call that needs a connection is on its way until the other ranks have called it
 * too. EMULATED_NCCL_LATE=SECONDS: calls are on their way when they return, at the first look after
 * and for so long. */
#include "tests/emulator/nccl/emulator_comm.h"

#include "runtime/base/clock.h"

#include <errno.h>
#include <mpi.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A communicator's tags are its own while fewer than NUMBERS of its root's are in use: those of its
 * messages, then those to the root and back as it is created, from an id or by a split of it. */
enum { NUMBERS = 1 << 14, TAGS = RANKS_MAX * NUMBERS };
enum { COMM_TAG = 1 << 15, INIT_TAG = COMM_TAG + TAGS, SPLIT_TAG = INIT_TAG + 2 * TAGS };
enum { WAY_TAG = SPLIT_TAG + 2 * TAGS }; /* of its connections */
enum { COMM_BYTES = 64 << 10, WAY_BYTES = 32 << 10 };

typedef struct hello {
    identity id;
    int32_t rank, size, world, pid, color, key;
} hello;

const char *ncclGetErrorString(ncclResult_t result) {
    switch (result) {
    case ncclSuccess:
        return "no error";
    case ncclInProgress:
        return "NCCL operation in progress";
    case ncclInvalidArgument:
        return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    default:
        return "emulated error";
    }
}

const char *ncclGetLastError(ncclComm_t comm) {
    (void)comm;
    return "";
}

ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

static identity next_identity(void) {
    static int32_t number;
    int world = 0, running = 0;
    MPI_Initialized(&running);
    if (running) {
        MPI_Comm_rank(MPI_COMM_WORLD, &world);
    }
    return (identity){world, number++, (int32_t)getpid()};
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    const identity mine = next_identity();
    memset(id, 0, sizeof *id);
    memcpy(id, &mine, sizeof mine);
    return ncclSuccess;
}

static void expect_polls(const ncclConfig_t *config, const char *call) {
    if (config->blocking != 0) {
        emu_report("%s that blocks: set blocking to 0, so that the host can poll", call);
    }
}

static int tag_of(const identity *id) {
    return id->root * NUMBERS + id->number % NUMBERS;
}

static void ask_on(struct emu_nccl *c, int first_tag) {
    c->ask_tag = first_tag + tag_of(&c->members.id);
    c->answer_tag = c->ask_tag + TAGS;
}

static struct emu_nccl *new_comm(int rank, int asking) {
    struct emu_nccl *c = calloc(1, sizeof *c);
    if (c) {
        c->members.rank = rank;
        c->asking = asking;
    }
    return c;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    expect_polls(config, "ncclCommInitRankConfig");
    if (ranks < 1 || ranks > RANKS_MAX || rank < 0 || rank >= ranks) {
        return ncclInvalidArgument;
    }
    struct emu_nccl *c = new_comm(rank, ranks);
    if (!c) {
        return ncclSystemError;
    }
    memcpy(&c->members.id, &id, sizeof c->members.id);
    c->root = c->members.id.root;
    ask_on(c, INIT_TAG);
    c->key = rank;
    *comm = c;
    return ncclInProgress;
}

ncclResult_t ncclCommSplit(ncclComm_t whole, int color, int key, ncclComm_t *part,
                           ncclConfig_t *config) {
    expect_polls(config, "ncclCommSplit");
    emu_nccl_check_usable(whole, "ncclCommSplit");
    if (whole->queued > 0) {
        emu_report("ncclCommSplit while %d calls of the communicator are under way", whole->queued);
    }
    if (color < 0) {
        return ncclInvalidArgument;
    }
    struct emu_nccl *c = new_comm(whole->members.rank, whole->members.size);
    if (!c) {
        return ncclSystemError;
    }
    c->members.id = whole->members.id;
    c->root = whole->members.world[0];
    ask_on(c, SPLIT_TAG);
    c->color = color;
    c->key = key;
    *part = NULL; /* until a look at the whole says that the split has ended */
    whole->part = c;
    whole->part_at = part;
    return ncclInProgress;
}

static void advance(struct emu_nccl *c);

/* Gets on with a split; true: none is under way. */
static bool end_split(struct emu_nccl *whole) {
    struct emu_nccl *c = whole->part;
    if (c && !c->ready && c->polls++ > 0) {
        advance(c);
    }
    if (c && c->ready) {
        *whole->part_at = c;
        whole->part = NULL;
    }
    return !whole->part;
}

/* The ranks of a color, in order of their keys. */
static void answer(const struct emu_nccl *c, identity id, const hello *to, member_table *table) {
    *table = (member_table){.id = id};
    for (int r = 0; r < c->asking; r++) {
        const hello *h = &c->hellos[r];
        int before = 0;
        for (int i = 0; i < c->asking; i++) {
            const hello *other = &c->hellos[i];
            before += other->color == h->color &&
                      (other->key < h->key || (other->key == h->key && i < r));
        }
        if (h->color == to->color) {
            table->world[before] = h->world;
            table->pid[before] = h->pid;
            table->size++;
            table->rank = h == to ? before : table->rank;
        }
    }
}

static void take_buffer(struct emu_nccl *c, size_t bytes) {
    if (cudaMalloc(&c->buffers[c->buffer_count++], bytes) != cudaSuccess) {
        emu_report("no memory for the buffers of a communicator");
    }
}

static void open_comm(struct emu_nccl *c, const member_table *table) {
    take_buffer(c, COMM_BYTES);
    c->members = *table;
    c->tag = COMM_TAG + tag_of(&table->id);
    c->ready = true;
    free(c->hellos);
    c->hellos = NULL;
}

static void advance_root(struct emu_nccl *c, const hello *mine) {
    int flag = 0;
    if (!c->hellos) {
        c->hellos = calloc((size_t)c->asking, sizeof *c->hellos);
        c->hellos[mine->rank] = *mine;
        c->hellos_heard = 1;
    }
    MPI_Iprobe(MPI_ANY_SOURCE, c->ask_tag, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
    if (flag) {
        hello from;
        MPI_Recv(&from, sizeof from, MPI_BYTE, MPI_ANY_SOURCE, c->ask_tag, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
        if (memcmp(&from.id, &mine->id, sizeof from.id) != 0 || from.size != c->asking) {
            emu_report("rank %d joins a communicator of %d ranks with another id or size %d",
                       from.rank, c->asking, from.size);
        }
        c->hellos[from.rank] = from;
        c->hellos_heard++;
    }
    if (c->hellos_heard < c->asking) {
        return;
    }
    /* The parts of a split share a number: no two ranks are in two of them. */
    const identity id = c->ask_tag >= SPLIT_TAG ? next_identity() : mine->id;
    member_table table, own;
    for (int r = 0; r < c->asking; r++) {
        answer(c, id, &c->hellos[r], &table);
        if (r == mine->rank) {
            own = table;
        } else {
            MPI_Send(&table, sizeof table, MPI_BYTE, c->hellos[r].world, c->answer_tag,
                     MPI_COMM_WORLD);
        }
    }
    open_comm(c, &own);
}

static void advance(struct emu_nccl *c) {
    int flag = 0;
    hello mine = {c->members.id,     c->members.rank, c->asking, 0,
                  (int32_t)getpid(), c->color,        c->key};
    MPI_Comm_rank(MPI_COMM_WORLD, &mine.world);
    const char *absent = getenv("EMULATED_NCCL_ABSENT");
    if (absent && atoi(absent) == mine.rank && c->ask_tag < SPLIT_TAG) {
        return;
    }
    if (mine.world == c->root) {
        advance_root(c, &mine);
        return;
    }
    if (!c->hello_sent) {
        MPI_Send(&mine, sizeof mine, MPI_BYTE, c->root, c->ask_tag, MPI_COMM_WORLD);
        c->hello_sent = true;
    }
    MPI_Iprobe(c->root, c->answer_tag, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
    if (flag) {
        member_table table;
        MPI_Recv(&table, sizeof table, MPI_BYTE, c->root, c->answer_tag, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
        open_comm(c, &table);
    }
}

static void hear_calls(struct emu_nccl *c) {
    const int tag = WAY_TAG + c->tag - COMM_TAG;
    for (int flag = 1; flag;) {
        int32_t told[2];
        MPI_Iprobe(MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
        if (flag) {
            MPI_Recv(told, 2, MPI_INT32_T, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            c->heard[told[0]][told[1]] = true;
        }
    }
}

void emu_nccl_connect(struct emu_nccl *c, emu_way way, int peer) {
    const int32_t tell[2] = {way, c->members.rank};
    for (int r = 0; r < c->members.size; r++) {
        if ((r == peer || way == EMU_ALL) && r != c->members.rank && !c->called[way][r]) {
            MPI_Send(tell, 2, MPI_INT32_T, c->members.world[r], WAY_TAG + c->tag - COMM_TAG,
                     MPI_COMM_WORLD);
            c->called[way][r] = true;
            take_buffer(c, WAY_BYTES);
        }
    }
}

/* Are all connections there that were called for? */
static bool connected(struct emu_nccl *c) {
    hear_calls(c);
    const emu_way other[] = {EMU_IN, EMU_OUT, EMU_ALL};
    for (int way = 0; way < EMU_WAYS; way++) {
        for (int r = 0; r < c->members.size; r++) {
            if (c->called[way][r] && !c->heard[other[way]][r]) {
                return false;
            }
        }
    }
    return true;
}

bool emu_nccl_handed_over(struct emu_nccl *c) {
    const char *late_s = getenv("EMULATED_NCCL_LATE");
    c->late = late_s != NULL;
    c->late_until_ns = ls_clock_ns() + (late_s ? (uint64_t)(1e9 * atof(late_s)) : 0);
    c->connecting = !connected(c);
    return !c->connecting && !c->late;
}

void emu_nccl_check_usable(const struct emu_nccl *c, const char *call) {
    if (!c) {
        emu_report("%s on no communicator, as of a split that has not ended", call);
    }
    if (c->aborted) {
        emu_report("%s on a communicator that was aborted", call);
    }
    if (!c->ready || c->part || c->connecting) {
        emu_report("%s on a communicator that is not ready%s: poll ncclCommGetAsyncError", call,
                   c->part         ? ", for it is being split"
                   : c->connecting ? ", for an earlier call is on its way"
                                   : "");
    }
}

void emu_nccl_look_for_life(struct emu_nccl *c) {
    for (int r = 0; c->ready && r < c->members.size; r++) {
        if (kill(c->members.pid[r], 0) != 0 && errno == ESRCH) {
            c->fault = ncclRemoteError;
        }
    }
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *error) {
    const char *fault = getenv("EMULATED_NCCL_FAULT");
    if (c->aborted) {
        emu_report("ncclCommGetAsyncError on a communicator that was aborted");
    }
    if (!c->ready && c->polls++ > 0) { /* the first answer is always "not yet" */
        advance(c);
    }
    if (fault && c->ready && c->calls >= (uint32_t)atoi(fault)) {
        c->fault = ncclSystemError;
    }
    c->connecting = c->ready && !connected(c);
    if (c->ending || c->connecting) {
        emu_nccl_look_for_life(c);
    }
    const bool done =
        c->ready && !c->connecting && end_split(c) && (!c->ending || emu_nccl_hear_ends(c));
    *error = c->late                   ? ncclInProgress
             : c->fault != ncclSuccess ? c->fault
             : done                    ? ncclSuccess
                                       : ncclInProgress;
    c->late = c->late && ls_clock_ns() < c->late_until_ns;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    emu_nccl_check_usable(comm, "ncclCommFinalize");
    emu_nccl_check_unregistered(NULL, comm, "ncclCommFinalize");
    if (comm->queued > 0) {
        emu_report("ncclCommFinalize while %d calls of the communicator are under way",
                   comm->queued);
    }
    comm->ending = true;
    emu_nccl_tell_end(comm);
    return ncclInProgress;
}

static int destroyed, aborted;

int emu_nccl_destroyed(void) {
    return destroyed;
}

int emu_nccl_aborted(void) {
    return aborted;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    destroyed++;
    emu_nccl_check_usable(comm, "ncclCommDestroy");
    if (!comm->ending || comm->ends < comm->members.size - 1) {
        emu_report("ncclCommDestroy that waits for other ranks: call ncclCommFinalize and poll "
                   "first");
    }
    for (int i = 0; i < comm->buffer_count; i++) {
        cudaFree(comm->buffers[i]);
    }
    free(comm);
    return ncclSuccess;
}

/* Its queued work ends at the next look; the memory stays, so that later calls can be reported. */
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    aborted++;
    comm->aborted = true;
    emu_nccl_forget(comm);
    return ncclSuccess;
}
