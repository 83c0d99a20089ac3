/* The MPI back end: the library, its communicators and the blocking operations.
 *
 * Those are non-blocking ones, awaited: in a blocking call of the library this rank
 * would not move on what it has started and others wait for, and whether it has is not the same on
 * all ranks, who must not mix the two forms. */
#include "collectives/comm_mpi_impl.h"

#include "collectives/comm.h"
#include "runtime/base/arena.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Results of an all-gather up to here travel in few messages. */
enum { SMALL_BYTES = 4 << 20 };

int64_t ls_comm_mpi_chunk_bytes = 1 << 30;
int64_t ls_comm_mpi_message_bytes = 1 << 30;

static ls_comm *world_comm;
static bool has_failed;

bool ls_comm_mpi_failed(void) {
    return has_failed;
}

ls_status ls_mpi_fail(int code, const char *what) {
    has_failed = true;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) {
        snprintf(text, sizeof text, "error %d", code);
    }
    return LS_FAIL(LS_E_COMM, "MPI %s failed: %s", what, text);
}

MPI_Comm ls_mpi_handle(const ls_comm *comm) {
    return ((const mpi_comm *)comm)->handle;
}

/* Communicators */

static ls_status wrap(MPI_Comm handle, ls_comm **out);

static ls_status wrap_duplicate(MPI_Comm from, ls_comm **out) {
    MPI_Comm handle;
    MPI_TRY("communicator", MPI_Comm_dup(from, &handle));
    return wrap(handle, out);
}

static void destroy(ls_comm *comm) {
    mpi_comm *c = (mpi_comm *)comm;
    ls_pump_remove(&c->pump);
    MPI_Comm_free(&c->handle);
    for (ls_comm_request *r = c->all, *next; r; r = next) {
        next = r->next_all;
        free(r->parts);
        free(r->statuses);
        free(r->reduction.bounds);
        free(r->reduction.scratch);
        free(r);
    }
    if (comm == world_comm) {
        world_comm = NULL;
    }
    free(c->from);
    free(c->gathered);
    free(c);
}

static ls_status duplicate(ls_comm *comm, ls_comm **copy) {
    return wrap_duplicate(((mpi_comm *)comm)->handle, copy);
}

static ls_status split(ls_comm *comm, int color, ls_comm **part) {
    MPI_Comm handle;
    LS_TRY(ls_comm_check_color(color));
    MPI_TRY("split", MPI_Comm_split(((mpi_comm *)comm)->handle, color, comm->rank, &handle));
    return wrap(handle, part);
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

/* Awaits a call of the library while all else moves on. */
static ls_status finish(MPI_Request request, const char *what) {
    ls_waiting waiting = {0};
    int done = 0, code;
    while ((code = MPI_Test(&request, &done, MPI_STATUS_IGNORE)) == MPI_SUCCESS && !done) {
        ls_mpi_looked = true;
        ls_pump_all();
        ls_mpi_looked = false;
        ls_waiting_look(&waiting);
    }
    ls_waiting_end(&waiting);
    MPI_TRY(what, code);
    return LS_OK;
}

static ls_status barrier(ls_comm *comm) {
    MPI_Request request;
    MPI_TRY("barrier", MPI_Ibarrier(((mpi_comm *)comm)->handle, &request));
    return finish(request, "barrier");
}

bool ls_mpi_type(ls_dtype dtype, MPI_Datatype *type) {
    switch (dtype) {
    case LS_F32:
        *type = MPI_FLOAT;
        return true;
    case LS_F64:
        *type = MPI_DOUBLE;
        return true;
    case LS_I32:
        *type = MPI_INT32_T;
        return true;
    case LS_I64:
        *type = MPI_INT64_T;
        return true;
    case LS_U64:
        *type = MPI_UINT64_T;
        return true;
    default:
        return false;
    }
}

bool ls_mpi_op(ls_reduce op, MPI_Op *mpi_op) {
    *mpi_op = op == LS_SUM ? MPI_SUM : op == LS_MAX ? MPI_MAX : MPI_MIN;
    return op <= LS_MIN;
}

/* Chunk `at` of every block: in the receive buffer the ranks' pieces lie `bytes` apart. */
static ls_status all_gather_chunk(mpi_comm *c, const char *send, char *recv, int n, int64_t bytes) {
    MPI_Datatype piece, spaced;
    MPI_TRY("type", MPI_Type_contiguous(n, MPI_BYTE, &piece));
    int code = MPI_Type_create_resized(piece, 0, (MPI_Aint)bytes, &spaced);
    MPI_Type_free(&piece);
    MPI_TRY("type", code);
    code = MPI_Type_commit(&spaced);
    MPI_Request request = MPI_REQUEST_NULL;
    if (code == MPI_SUCCESS) {
        code = MPI_Iallgather(send, n, MPI_BYTE, recv, 1, spaced, c->handle, &request);
    }
    MPI_Type_free(&spaced);
    MPI_TRY("all-gather", code);
    return finish(request, "all-gather");
}

static ls_status take_gathered(mpi_comm *c, int64_t bytes) {
    if (bytes > c->gathered_bytes) {
        free(c->gathered);
        c->gathered_bytes = 0;
        LS_TRY(ls_calloc((size_t)bytes, 1, &c->gathered));
        c->gathered_bytes = bytes;
    }
    return LS_OK;
}

/* In log2(ranks) steps, in each of which a rank sends all that it has (Bruck et al. 1997,
 * doi:10.1109/71.642949): thousands of ranks need no connections from each to each, which the
 * library's own would make. */
static ls_status all_gather_small(mpi_comm *c, const char *send, char *recv, int64_t bytes) {
    const int rank = c->base.rank, size = c->base.size, tag = ls_mpi_next_tag(c);
    LS_TRY(take_gathered(c, size * bytes));
    memcpy(c->gathered, send, (size_t)bytes); /* block i is of rank (rank + i) % size */
    for (int64_t have = 1, n; have < size; have += n) {
        n = ls_min_i64(have, size - have);
        ls_comm_request *request;
        LS_TRY(ls_mpi_request_take(c, 2 * ls_mpi_messages(n * bytes), &request));
        LS_TRY(ls_mpi_receive(c, request, c->gathered + have * bytes, n * bytes,
                              (int)((rank + have) % size), tag));
        LS_TRY(ls_mpi_send(c, request, c->gathered, n * bytes, (int)((rank + size - have) % size),
                           tag));
        LS_TRY(ls_mpi_wait(&c->base, request));
    }
    const int64_t behind = (size - rank) * bytes; /* of the blocks from this rank's to the last */
    memcpy(recv + rank * bytes, c->gathered, (size_t)behind);
    memcpy(recv, c->gathered + behind, (size_t)(rank * bytes));
    return LS_OK;
}

static ls_status all_gather(ls_comm *comm, const void *send, void *recv, int64_t bytes) {
    LS_TRY(ls_comm_check_count(bytes, "all-gather"));
    if (bytes > 0 && bytes <= ls_min_i64(SMALL_BYTES / comm->size, ls_comm_mpi_chunk_bytes)) {
        return all_gather_small((mpi_comm *)comm, send, recv, bytes);
    }
    for (int64_t at = 0; at < bytes; at += ls_comm_mpi_chunk_bytes) {
        int n = (int)ls_min_i64(ls_comm_mpi_chunk_bytes, bytes - at);
        LS_TRY(all_gather_chunk((mpi_comm *)comm, (const char *)send + at, (char *)recv + at, n,
                                bytes));
    }
    return LS_OK;
}

static const ls_comm_ops mpi_ops = {
    .name = "mpi",
    .destroy = destroy,
    .duplicate = duplicate,
    .split = split,
    .alloc = ls_comm_host_alloc,
    .alloc_common = ls_comm_no_common,
    .give_back = ls_comm_host_give_back,
    .host = host,
    .barrier = barrier,
    .broadcast = ls_comm_broadcast_by_start,
    .all_reduce = ls_comm_all_reduce_by_start,
    .all_gather = all_gather,
    .broadcast_start = ls_mpi_broadcast_start,
    .all_reduce_start = ls_mpi_all_reduce_start,
    .reduce_start = ls_mpi_reduce_start,
    .reduce_scatter_start = ls_mpi_reduce_scatter_start,
    .all_gather_start = ls_mpi_all_gather_start,
    .all_to_all_start = ls_mpi_all_to_all_start,
    .send_start = ls_mpi_send_start,
    .recv_start = ls_mpi_recv_start,
    .test = ls_mpi_test,
    .wait = ls_mpi_wait,
};

/* Takes the handle over. */
static ls_status wrap(MPI_Comm handle, ls_comm **out) {
    mpi_comm *c = NULL;
    MPI_Comm_set_errhandler(handle, MPI_ERRORS_RETURN);
    ls_status status = ls_calloc(1, sizeof *c, &c);
    if (status == LS_OK) {
        MPI_Comm_rank(handle, &c->base.rank);
        MPI_Comm_size(handle, &c->base.size);
        status = ls_calloc((size_t)c->base.size, sizeof *c->from, &c->from);
    }
    if (status != LS_OK) {
        free(c);
        MPI_Comm_free(&handle);
        return status;
    }
    c->base.ops = &mpi_ops;
    c->handle = handle;
    c->pump.drive = ls_mpi_drive;
    ls_pump_add(&c->pump);
    *out = &c->base;
    return LS_OK;
}

/* The library */

ls_status ls_comm_mpi_init(int *argc, char ***argv, ls_comm **world) {
    int initialized = 0;
    MPI_Initialized(&initialized);
    if (initialized) {
        return LS_FAIL(LS_E_COMM, "MPI was initialised before; a process can do that once");
    }
    ls_comm_mpi_set_defaults();
    int provided = MPI_THREAD_SINGLE;
    MPI_TRY("initialisation", MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided));
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
    ls_comm_mpi_remove_files();
    ls_comm_mpi_on_loss(NULL); /* it ends the process in the same way */
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
