/* Non-blocking reductions of the MPI back end.
 *
 * All-reduce of types that the library adds, in its order, is its own, but for long vectors in
 * place, which it reduces to one rank and broadcasts. All else is made here: every rank receives
 * its slice of the others' vectors, adds them in fp32 in the tree of combine.h, and the slices are
 * gathered by everybody (all-reduce), by the root (reduce) or by nobody (reduce-scatter); direct
 * exchange and gather, as in Thakur, Rabenseifner, Gropp 2005, doi:10.1177/1094342005051521. */
#include "collectives/combine.h"
#include "collectives/comm_mpi_impl.h"

#include "runtime/base/arena.h"

#include <stdlib.h>

enum { EVERYBODY = -1, NOBODY = -2 };
/* From so many ranks and bytes on the library has rings for vectors that are not in place, but
 * reduces and broadcasts in place (libnbc's nbc_iallreduce.c). */
enum { RING_RANKS = 4, RING_BYTES = 64 << 10 };

static int64_t slice_bytes(const mpi_reduction *r, int rank) {
    return (r->bounds[rank + 1] - r->bounds[rank]) * (int64_t)ls_dtype_bytes(r->dtype);
}

static int64_t slice_at(const mpi_reduction *r, int rank) {
    return r->bounds[rank] * (int64_t)ls_dtype_bytes(r->dtype);
}

static bool receives(const mpi_reduction *r, int rank) {
    return r->root == EVERYBODY || r->root == rank;
}

/* Where `peer`'s piece of this rank's slice arrives. */
static char *piece_of(const mpi_comm *c, const mpi_reduction *r, int peer) {
    const int rank = c->base.rank;
    return r->scratch + (peer < rank ? peer : peer - 1) * slice_bytes(r, rank);
}

/* Sends each rank its slice; the others' pieces of this rank's slice arrive in scratch. */
static ls_status exchange(mpi_comm *c, ls_comm_request *request) {
    const mpi_reduction *r = &request->reduction;
    const int rank = c->base.rank, size = c->base.size;
    const int64_t own = slice_bytes(r, rank);
    for (int i = 1; i < size; i++) {
        int peer = (rank + size - i) % size;
        LS_TRY(ls_mpi_receive(c, request, piece_of(c, r, peer), own, peer, r->tag));
    }
    for (int i = 1; i < size; i++) {
        int peer = (rank + i) % size;
        LS_TRY(ls_mpi_send(c, request, r->send + slice_at(r, peer), slice_bytes(r, peer), peer,
                           r->tag));
    }
    return LS_OK;
}

static void add_up(mpi_comm *c, mpi_reduction *r) {
    const int rank = c->base.rank;
    for (int peer = 0; peer < c->base.size; peer++) {
        c->from[peer] = peer == rank ? r->send + slice_at(r, rank) : piece_of(c, r, peer);
    }
    void *const to[] = {r->sum};
    ls_combine_ranks(r->dtype, r->op, c->base.size, c->from, 1, to,
                     r->bounds[rank + 1] - r->bounds[rank],
                     slice_bytes(r, rank) >= LS_STREAM_BYTES);
}

static ls_status gather(mpi_comm *c, ls_comm_request *request) {
    const mpi_reduction *r = &request->reduction;
    const int rank = c->base.rank, size = c->base.size;
    request->count = 0;
    for (int i = 1; i < size && receives(r, rank); i++) {
        int peer = (rank + size - i) % size;
        LS_TRY(ls_mpi_receive(c, request, r->recv + slice_at(r, peer), slice_bytes(r, peer), peer,
                              r->tag + 1));
    }
    for (int i = 1; i < size; i++) {
        int peer = (rank + i) % size;
        if (receives(r, peer)) {
            LS_TRY(ls_mpi_send(c, request, r->sum, slice_bytes(r, rank), peer, r->tag + 1));
        }
    }
    return LS_OK;
}

/* Moves one reduction on; true when it has ended. */
static bool advance(mpi_comm *c, ls_comm_request *request) {
    mpi_reduction *r = &request->reduction;
    int flag = 0;
    int code = MPI_Testall(request->count, request->parts, &flag, request->statuses);
    if (code != MPI_SUCCESS) {
        r->status = ls_mpi_request_fail(request, code);
        return true;
    }
    if (!flag || r->gathering) {
        return flag;
    }
    add_up(c, r);
    r->gathering = true;
    r->status = gather(c, request);
    return r->status != LS_OK || request->count == 0;
}

void ls_mpi_drive(ls_pump *pump) {
    mpi_comm *c = (mpi_comm *)((char *)pump - offsetof(mpi_comm, pump));
    if (!c->active && !ls_mpi_looked) { /* any look at the library moves its operations on */
        int flag;
        MPI_Iprobe(MPI_ANY_SOURCE, PROBE_TAG, c->handle, &flag, MPI_STATUS_IGNORE);
    }
    /* Where the oldest in a stage waits, so do those behind it: only the oldest are asked for, as
     * each question is a look at all of the library's connections and an offer of the processor. */
    bool waits[2] = {false};
    for (ls_comm_request **at = &c->active; *at;) {
        ls_comm_request *request = *at;
        const bool stage = request->reduction.gathering;
        if (!waits[stage] && advance(c, request)) {
            *at = request->next_active;
            request->reduction.active = false;
        } else {
            waits[stage] = waits[stage] || request->reduction.gathering == stage;
            at = &request->next_active;
        }
    }
}

/* MPI calls of a message for every slice, twice over: more than either stage needs. */
static int64_t most_parts(const mpi_reduction *r, int rank, int size) {
    int64_t parts = 0;
    for (int peer = 0; peer < size; peer++) {
        parts += ls_mpi_messages(slice_bytes(r, peer)) + ls_mpi_messages(slice_bytes(r, rank));
    }
    return parts;
}

/* Takes a request whose bounds can be filled in. */
static ls_status prepare(mpi_comm *c, ls_dtype dtype, ls_reduce op, ls_comm_request **out) {
    ls_comm_request *request;
    LS_TRY(ls_mpi_request_take(c, 0, &request));
    mpi_reduction *r = &request->reduction;
    ls_status status =
        r->bounds ? LS_OK : ls_calloc((size_t)c->base.size + 1, sizeof *r->bounds, &r->bounds);
    if (status != LS_OK) {
        ls_mpi_request_give_back(c, request);
        return status;
    }
    r->dtype = dtype;
    r->op = op;
    r->status = LS_OK;
    r->gathering = false;
    *out = request;
    return LS_OK;
}

static ls_status scratch_take(mpi_comm *c, mpi_reduction *r, int64_t bytes) {
    if (bytes > r->scratch_bytes) {
        ls_comm_host_give_back(&c->base, r->scratch);
        r->scratch = NULL;
        r->scratch_bytes = 0;
        void *scratch;
        LS_TRY(ls_comm_host_alloc(&c->base, bytes, &scratch));
        r->scratch = scratch;
        r->scratch_bytes = bytes;
    }
    return LS_OK;
}

/* Starts what has been prepared; bounds, root, send and recv are set. */
static ls_status launch(mpi_comm *c, ls_comm_request *request) {
    mpi_reduction *r = &request->reduction;
    const int rank = c->base.rank, size = c->base.size;
    /* Taking it again with room for the parts gives the same request. */
    ls_mpi_request_give_back(c, request);
    LS_TRY(ls_mpi_request_take(c, most_parts(r, rank, size), &request));
    const bool keeps = r->root == NOBODY || receives(r, rank);
    ls_status status = scratch_take(c, r, (keeps ? size - 1 : size) * slice_bytes(r, rank));
    if (status != LS_OK) {
        ls_mpi_request_give_back(c, request);
        return status;
    }
    if (!keeps) { /* behind the pieces */
        r->sum = r->scratch + (size - 1) * slice_bytes(r, rank);
    } else {
        r->sum = r->root == NOBODY ? r->recv : r->recv + slice_at(r, rank);
    }
    r->tag = ls_mpi_next_tag(c);
    LS_TRY(exchange(c, request));
    r->active = true;
    request->next_active = NULL;
    ls_comm_request **at = &c->active;
    while (*at) {
        at = &(*at)->next_active;
    }
    *at = request;
    return LS_OK;
}

static ls_status check(int64_t count, ls_dtype dtype) {
    LS_TRY(ls_combine_check(dtype));
    return ls_comm_check_count(count, "reduction");
}

static ls_status reduce_to(ls_comm *comm, const void *send, void *recv, int64_t count,
                           ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request) {
    mpi_comm *c = (mpi_comm *)comm;
    LS_TRY(prepare(c, dtype, op, request));
    mpi_reduction *r = &(*request)->reduction;
    for (int rank = 0; rank <= comm->size; rank++) {
        r->bounds[rank] = ls_slice_first(count, comm->size, rank);
    }
    r->send = send;
    r->recv = recv;
    r->root = root;
    return launch(c, *request);
}

ls_status ls_mpi_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                              ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request) {
    LS_TRY(ls_comm_check_rank(comm, root, "a reduction to"));
    LS_TRY(check(count, dtype));
    return reduce_to(comm, send, recv, count, dtype, op, root, request);
}

ls_status ls_mpi_reduce_scatter_start(ls_comm *comm, const void *send, void *recv,
                                      const int64_t *counts, ls_dtype dtype, ls_reduce op,
                                      ls_comm_request **request) {
    mpi_comm *c = (mpi_comm *)comm;
    for (int rank = 0; rank < comm->size; rank++) {
        LS_TRY(check(counts[rank], dtype));
    }
    LS_TRY(prepare(c, dtype, op, request));
    mpi_reduction *r = &(*request)->reduction;
    r->bounds[0] = 0;
    for (int rank = 0; rank < comm->size; rank++) {
        r->bounds[rank + 1] = r->bounds[rank] + counts[rank];
    }
    r->send = send;
    r->recv = recv;
    r->root = NOBODY;
    return launch(c, *request);
}

ls_status ls_mpi_all_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                                  ls_dtype dtype, ls_reduce op, ls_comm_request **request) {
    mpi_comm *c = (mpi_comm *)comm;
    LS_TRY(check(count, dtype));
    MPI_Datatype type = MPI_DATATYPE_NULL;
    MPI_Op mpi_op = MPI_OP_NULL;
    const int64_t elem_bytes = (int64_t)ls_dtype_bytes(dtype);
    const bool broadcasts =
        send == recv && comm->size >= RING_RANKS && count * elem_bytes >= RING_BYTES;
    if (broadcasts || !ls_mpi_type(dtype, &type) || !ls_mpi_op(op, &mpi_op)) {
        return reduce_to(comm, send, recv, count, dtype, op, EVERYBODY, request);
    }
    const int64_t chunk = ls_comm_mpi_chunk_bytes / elem_bytes;
    ls_comm_request *r;
    LS_TRY(ls_mpi_request_take(c, (count + chunk - 1) / chunk, &r));
    for (int64_t at = 0; at < count; at += chunk) {
        int n = (int)ls_min_i64(chunk, count - at);
        const void *from = send == recv ? MPI_IN_PLACE : (const char *)send + at * elem_bytes;
        MPI_TRY("all-reduce", MPI_Iallreduce(from, (char *)recv + at * elem_bytes, n, type, mpi_op,
                                             c->handle, &r->parts[r->count]));
        r->count++;
    }
    *request = r;
    return LS_OK;
}
