/* The MPI back end.
 *
 * Reductions use the library's collectives. The exchanges with a block per rank (all_gather_start,
 * all_to_all_start) are point-to-point messages between all pairs, which is also what Open MPI does
 * for MPI_Ialltoallv and MPI_Iallgatherv, but with 64-bit counts and offsets. One tag serves them
 * all: ranks start operations in the same order, and MPI matches the messages of a pair in order.
 */
#include "collectives/comm_mpi.h"

#include "collectives/comm.h"
#include "runtime/base/arena.h"

#include <ctype.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { EXCHANGE_TAG = 1 };

int64_t ls_comm_mpi_chunk_bytes = 1 << 30;

struct ls_comm_request {
    ls_comm_request *next_all, *next_free;
    int count, capacity; /* of parts, the MPI requests of its chunks, and statuses */
    MPI_Request *parts;
    MPI_Status *statuses;
};

typedef struct mpi_comm {
    ls_comm base;
    MPI_Comm handle;
    /* Requests are kept for reuse. One that met an error stays out of `free`, as MPI may still be
     * using its parts. */
    ls_comm_request *all, *free;
} mpi_comm;

static ls_comm *world_comm;

static ls_status mpi_fail(int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) {
        snprintf(text, sizeof text, "error %d", code);
    }
    return LS_FAIL(LS_E_COMM, "MPI %s failed: %s", what, text);
}

#define MPI_TRY(what, call)                                                                        \
    do {                                                                                           \
        int mpi_try_code_ = (call);                                                                \
        if (mpi_try_code_ != MPI_SUCCESS) {                                                        \
            return mpi_fail(mpi_try_code_, (what));                                                \
        }                                                                                          \
    } while (0)

static ls_status check_count(int64_t count, const char *what) {
    if (count < 0) {
        return LS_FAIL(LS_E_SHAPE, "%s of %lld bytes or elements; 0 is the least", what,
                       (long long)count);
    }
    return LS_OK;
}

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t chunks_of(int64_t bytes) {
    return (bytes + ls_comm_mpi_chunk_bytes - 1) / ls_comm_mpi_chunk_bytes;
}

/* Requests */

/* A request with room for `parts` and none in it. */
static ls_status request_take(mpi_comm *c, int64_t parts, ls_comm_request **out) {
    if (parts > INT32_MAX) {
        return LS_FAIL(LS_E_SHAPE, "an exchange of %lld messages; %d is the most", (long long)parts,
                       INT32_MAX);
    }
    if (!c->free) {
        ls_comm_request *fresh;
        LS_TRY(ls_calloc(1, sizeof *fresh, &fresh));
        fresh->next_all = c->all;
        c->all = fresh;
        c->free = fresh;
    }
    ls_comm_request *request = c->free;
    if (parts > request->capacity) {
        free(request->parts);
        free(request->statuses);
        *request =
            (ls_comm_request){.next_all = request->next_all, .next_free = request->next_free};
        LS_TRY(ls_calloc((size_t)parts, sizeof *request->parts, &request->parts));
        LS_TRY(ls_calloc((size_t)parts, sizeof *request->statuses, &request->statuses));
        request->capacity = (int)parts;
    }
    request->count = 0;
    c->free = request->next_free;
    *out = request;
    return LS_OK;
}

static void request_give_back(mpi_comm *c, ls_comm_request *request) {
    request->next_free = c->free;
    c->free = request;
}

static ls_status request_fail(const ls_comm_request *request, int code) {
    for (int i = 0; code == MPI_ERR_IN_STATUS && i < request->count; i++) {
        int part = request->statuses[i].MPI_ERROR;
        if (part != MPI_SUCCESS && part != MPI_ERR_PENDING) {
            code = part;
        }
    }
    return mpi_fail(code, "transfer");
}

static ls_status test(ls_comm *comm, ls_comm_request *request, bool *done) {
    int flag = 0;
    int code = MPI_Testall(request->count, request->parts, &flag, request->statuses);
    if (code != MPI_SUCCESS) {
        return request_fail(request, code);
    }
    *done = flag != 0;
    if (flag) {
        request_give_back((mpi_comm *)comm, request);
    }
    return LS_OK;
}

/* Not MPI_Waitall: that of Open MPI 4.1 never returns when a part has failed before the call. */
static ls_status wait_for(ls_comm *comm, ls_comm_request *request) {
    bool done = false;
    while (!done) {
        LS_TRY(test(comm, request, &done));
    }
    return LS_OK;
}

/* Communicators */

static ls_status wrap_duplicate(MPI_Comm from, ls_comm **out);

static void destroy(ls_comm *comm) {
    mpi_comm *c = (mpi_comm *)comm;
    MPI_Comm_free(&c->handle);
    for (ls_comm_request *r = c->all, *next; r; r = next) {
        next = r->next_all;
        free(r->parts);
        free(r->statuses);
        free(r);
    }
    if (comm == world_comm) {
        world_comm = NULL;
    }
    free(c);
}

static ls_status duplicate(ls_comm *comm, ls_comm **copy) {
    return wrap_duplicate(((mpi_comm *)comm)->handle, copy);
}

static ls_status host(ls_comm *comm, int *lowest) {
    mpi_comm *c = (mpi_comm *)comm;
    MPI_Comm shared;
    MPI_TRY("split by host", MPI_Comm_split_type(c->handle, MPI_COMM_TYPE_SHARED, comm->rank,
                                                 MPI_INFO_NULL, &shared));
    *lowest = comm->rank;
    int code = MPI_Bcast(lowest, 1, MPI_INT, 0, shared);
    MPI_Comm_free(&shared);
    MPI_TRY("broadcast in a host", code);
    return LS_OK;
}

/* Blocking operations */

static ls_status barrier(ls_comm *comm) {
    MPI_TRY("barrier", MPI_Barrier(((mpi_comm *)comm)->handle));
    return LS_OK;
}

static ls_status broadcast(ls_comm *comm, void *buf, int64_t bytes, int root) {
    mpi_comm *c = (mpi_comm *)comm;
    LS_TRY(check_count(bytes, "broadcast"));
    if (root < 0 || root >= comm->size) {
        return LS_FAIL(LS_E_SHAPE, "a broadcast from rank %d of %d", root, comm->size);
    }
    for (int64_t at = 0; at < bytes; at += ls_comm_mpi_chunk_bytes) {
        int n = (int)min_i64(ls_comm_mpi_chunk_bytes, bytes - at);
        MPI_TRY("broadcast", MPI_Bcast((char *)buf + at, n, MPI_BYTE, root, c->handle));
    }
    return LS_OK;
}

static ls_status mpi_type(ls_dtype dtype, MPI_Datatype *type) {
    switch (dtype) {
    case LS_F32:
        *type = MPI_FLOAT;
        return LS_OK;
    case LS_F64:
        *type = MPI_DOUBLE;
        return LS_OK;
    case LS_I32:
        *type = MPI_INT32_T;
        return LS_OK;
    case LS_I64:
        *type = MPI_INT64_T;
        return LS_OK;
    case LS_U64:
        *type = MPI_UINT64_T;
        return LS_OK;
    default:
        return LS_FAIL(LS_E_UNSUPPORTED, "all-reduce of %s", ls_dtype_name(dtype));
    }
}

static MPI_Op mpi_op(ls_reduce op) {
    return op == LS_SUM ? MPI_SUM : op == LS_MAX ? MPI_MAX : MPI_MIN;
}

static ls_status all_reduce(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype, ls_reduce op) {
    mpi_comm *c = (mpi_comm *)comm;
    MPI_Datatype type = MPI_DATATYPE_NULL;
    LS_TRY(mpi_type(dtype, &type));
    LS_TRY(check_count(count, "all-reduce"));
    const int64_t elem_bytes = (int64_t)ls_dtype_bytes(dtype);
    const int64_t chunk = ls_comm_mpi_chunk_bytes / elem_bytes;
    for (int64_t at = 0; at < count; at += chunk) {
        int n = (int)min_i64(chunk, count - at);
        MPI_TRY("all-reduce", MPI_Allreduce(MPI_IN_PLACE, (char *)buf + at * elem_bytes, n, type,
                                            mpi_op(op), c->handle));
    }
    return LS_OK;
}

/* Chunk `at` of every block: in the receive buffer the ranks' pieces lie `bytes` apart. */
static ls_status all_gather_chunk(mpi_comm *c, const char *send, char *recv, int n, int64_t bytes) {
    MPI_Datatype piece, spaced;
    MPI_TRY("type", MPI_Type_contiguous(n, MPI_BYTE, &piece));
    int code = MPI_Type_create_resized(piece, 0, (MPI_Aint)bytes, &spaced);
    MPI_Type_free(&piece);
    MPI_TRY("type", code);
    code = MPI_Type_commit(&spaced);
    if (code == MPI_SUCCESS) {
        code = MPI_Allgather(send, n, MPI_BYTE, recv, 1, spaced, c->handle);
    }
    MPI_Type_free(&spaced);
    MPI_TRY("all-gather", code);
    return LS_OK;
}

static ls_status all_gather(ls_comm *comm, const void *send, void *recv, int64_t bytes) {
    LS_TRY(check_count(bytes, "all-gather"));
    for (int64_t at = 0; at < bytes; at += ls_comm_mpi_chunk_bytes) {
        int n = (int)min_i64(ls_comm_mpi_chunk_bytes, bytes - at);
        LS_TRY(all_gather_chunk((mpi_comm *)comm, (const char *)send + at, (char *)recv + at, n,
                                bytes));
    }
    return LS_OK;
}

/* Non-blocking operations */

static ls_status all_reduce_start(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype,
                                  ls_reduce op, ls_comm_request **request) {
    mpi_comm *c = (mpi_comm *)comm;
    MPI_Datatype type = MPI_DATATYPE_NULL;
    LS_TRY(mpi_type(dtype, &type));
    LS_TRY(check_count(count, "all-reduce"));
    const int64_t elem_bytes = (int64_t)ls_dtype_bytes(dtype);
    const int64_t chunk = ls_comm_mpi_chunk_bytes / elem_bytes;
    ls_comm_request *r;
    LS_TRY(request_take(c, (count + chunk - 1) / chunk, &r));
    for (int64_t at = 0; at < count; at += chunk) {
        int n = (int)min_i64(chunk, count - at);
        MPI_TRY("all-reduce", MPI_Iallreduce(MPI_IN_PLACE, (char *)buf + at * elem_bytes, n, type,
                                             mpi_op(op), c->handle, &r->parts[r->count]));
        r->count++;
    }
    *request = r;
    return LS_OK;
}

static ls_status receive_start(mpi_comm *c, ls_comm_request *r, char *to, int64_t bytes, int peer) {
    for (int64_t at = 0; at < bytes; at += ls_comm_mpi_chunk_bytes) {
        int n = (int)min_i64(ls_comm_mpi_chunk_bytes, bytes - at);
        MPI_TRY("receive", MPI_Irecv(to + at, n, MPI_BYTE, peer, EXCHANGE_TAG, c->handle,
                                     &r->parts[r->count]));
        r->count++;
    }
    return LS_OK;
}

static ls_status send_start(mpi_comm *c, ls_comm_request *r, const char *from, int64_t bytes,
                            int peer) {
    for (int64_t at = 0; at < bytes; at += ls_comm_mpi_chunk_bytes) {
        int n = (int)min_i64(ls_comm_mpi_chunk_bytes, bytes - at);
        MPI_TRY("send", MPI_Isend(from + at, n, MPI_BYTE, peer, EXCHANGE_TAG, c->handle,
                                  &r->parts[r->count]));
        r->count++;
    }
    return LS_OK;
}

/* Blocks of an exchange, by peer. Without offsets every peer is sent the one block at `base`, of
 * counts[rank] bytes. */
typedef struct blocks {
    char *base;
    const int64_t *counts, *offsets;
} blocks;

static int64_t send_bytes(const blocks *send, int rank, int peer) {
    return send->counts[send->offsets ? peer : rank];
}

static char *send_at(const blocks *send, int peer) {
    return send->base + (send->offsets ? send->offsets[peer] : 0);
}

static ls_status exchange_start(mpi_comm *c, const blocks *send, const blocks *recv,
                                ls_comm_request **request) {
    const int rank = c->base.rank, size = c->base.size;
    int64_t parts = 0;
    for (int peer = 0; peer < size; peer++) {
        LS_TRY(check_count(send_bytes(send, rank, peer), "exchange"));
        LS_TRY(check_count(recv->counts[peer], "exchange"));
        parts += peer == rank ? 0 : chunks_of(send_bytes(send, rank, peer));
        parts += peer == rank ? 0 : chunks_of(recv->counts[peer]);
    }
    const int64_t own = recv->counts[rank];
    if (send_bytes(send, rank, rank) != own) {
        return LS_FAIL(LS_E_SHAPE, "rank %d sends itself %lld bytes and expects %lld", rank,
                       (long long)send_bytes(send, rank, rank), (long long)own);
    }
    ls_comm_request *r;
    LS_TRY(request_take(c, parts, &r));
    /* Each rank begins with its neighbour, so that no rank is everybody's first. */
    for (int i = 1; i < size; i++) {
        int peer = (rank + size - i) % size;
        LS_TRY(receive_start(c, r, recv->base + recv->offsets[peer], recv->counts[peer], peer));
    }
    for (int i = 1; i < size; i++) {
        int peer = (rank + i) % size;
        LS_TRY(send_start(c, r, send_at(send, peer), send_bytes(send, rank, peer), peer));
    }
    char *to = recv->base + recv->offsets[rank];
    if (own > 0 && to != send_at(send, rank)) {
        memcpy(to, send_at(send, rank), (size_t)own);
    }
    *request = r;
    return LS_OK;
}

static ls_status all_gather_start(ls_comm *comm, const void *send, void *recv,
                                  const int64_t *counts, const int64_t *offsets,
                                  ls_comm_request **request) {
    const blocks mine = {.base = (char *)send, .counts = counts};
    const blocks all = {.base = recv, .counts = counts, .offsets = offsets};
    return exchange_start((mpi_comm *)comm, &mine, &all, request);
}

static ls_status all_to_all_start(ls_comm *comm, const void *send, const int64_t *send_counts,
                                  const int64_t *send_offsets, void *recv,
                                  const int64_t *recv_counts, const int64_t *recv_offsets,
                                  ls_comm_request **request) {
    const blocks out = {.base = (char *)send, .counts = send_counts, .offsets = send_offsets};
    const blocks in = {.base = recv, .counts = recv_counts, .offsets = recv_offsets};
    return exchange_start((mpi_comm *)comm, &out, &in, request);
}

static const ls_comm_ops mpi_ops = {
    .name = "mpi",
    .destroy = destroy,
    .duplicate = duplicate,
    .host = host,
    .barrier = barrier,
    .broadcast = broadcast,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .all_reduce_start = all_reduce_start,
    .all_gather_start = all_gather_start,
    .all_to_all_start = all_to_all_start,
    .test = test,
    .wait = wait_for,
};

static ls_status wrap_duplicate(MPI_Comm from, ls_comm **out) {
    mpi_comm *c;
    LS_TRY(ls_calloc(1, sizeof *c, &c));
    c->base.ops = &mpi_ops;
    int code = MPI_Comm_dup(from, &c->handle);
    if (code != MPI_SUCCESS) {
        free(c);
        return mpi_fail(code, "communicator");
    }
    MPI_Comm_set_errhandler(c->handle, MPI_ERRORS_RETURN);
    MPI_Comm_rank(c->handle, &c->base.rank);
    MPI_Comm_size(c->handle, &c->base.size);
    *out = &c->base;
    return LS_OK;
}

/* The library */

/* May this process read memory with process_vm_readv? A system call filter that forbids it for the
 * memory of others forbids it for its own. */
static bool may_copy_between_processes(void) {
    int from = 1, to = 0;
    const struct iovec local = {.iov_base = &to, .iov_len = sizeof to};
    const struct iovec remote = {.iov_base = &from, .iov_len = sizeof from};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)sizeof to;
}

/* Defaults of ours for Open MPI, where the user has set nothing (--mca, OMPI_MCA_...). */
static void set_defaults(void) {
    /* Waiting ranks spin. Where others want the processor too (threads of this or another rank),
     * yielding saves whole time slices; where nobody does, it is one system call for each turn. */
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    /* Without this, containers that forbid the call get a line "Read -1, expected ..." for each
     * message before the fallback takes over. */
    if (!may_copy_between_processes()) {
        setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    }
}

ls_status ls_comm_mpi_init(int *argc, char ***argv, ls_comm **world) {
    int initialized = 0;
    MPI_Initialized(&initialized);
    if (initialized) {
        return LS_FAIL(LS_E_COMM, "MPI was initialised before; a process can do that once");
    }
    set_defaults();
    int provided = MPI_THREAD_SINGLE;
    MPI_TRY("initialisation", MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
    if (provided < MPI_THREAD_FUNNELED) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "%s has no support for threads (level %d, at least MPI_THREAD_FUNNELED = %d "
                       "is needed); use a build with threads",
                       ls_comm_mpi_version(), provided, MPI_THREAD_FUNNELED);
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    LS_TRY(wrap_duplicate(MPI_COMM_WORLD, &world_comm));
    *world = world_comm;
    return LS_OK;
}

static bool mpi_is_active(void) {
    int initialized = 0, finalized = 0;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    return initialized && !finalized;
}

void ls_comm_mpi_finalize(void) {
    if (mpi_is_active()) {
        if (world_comm) {
            destroy(world_comm);
        }
        MPI_Finalize();
    }
}

void ls_comm_mpi_abort(int exit_status) {
    if (mpi_is_active()) {
        MPI_Abort(MPI_COMM_WORLD, exit_status);
    }
    _exit(exit_status);
}

/* Libraries describe themselves in lines such as "Open MPI v4.1.4, package: Debian OpenMPI, ..."
 * and "MPICH Version:\t4.0.2\nMPICH Release date: ...": the name, and the first word with a digit.
 */
const char *ls_comm_mpi_version(void) {
    static char version[64];
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    if (version[0] || MPI_Get_library_version(text, &length) != MPI_SUCCESS) {
        return version[0] ? version : "MPI";
    }
    text[strcspn(text, ",\n")] = '\0';
    char *number = text;
    while (*number && !isdigit((unsigned char)*number)) {
        number++;
    }
    char name[32] = "";
    snprintf(name, sizeof name, "%.*s", (int)(number - text), text);
    char *end = strstr(name, " Version");
    end = end ? end : name + strlen(name);
    while (end > name && (end[-1] == 'v' || isspace((unsigned char)end[-1]))) {
        end--;
    }
    *end = '\0';
    snprintf(version, sizeof version, "%s %.24s", name, number);
    return version;
}
