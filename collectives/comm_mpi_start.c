/* Non-blocking operations of the MPI back end, and their requests.
 *
 * The exchanges with a block per rank (all_gather_start, all_to_all_start) are point-to-point
 * messages between all pairs, which is also what Open MPI does for MPI_Ialltoallv and
 * MPI_Iallgatherv, but with 64-bit counts and offsets. Ranks start operations in the same order, so
 * they agree on a tag for each without talking about it. */
#include "collectives/comm_mpi_impl.h"

#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

/* Tags of exchanges come in pairs from FIRST_TAG on and are used again after so many operations; a
 * library has at least 32767. */
enum { MESSAGE_TAG = 1, FIRST_TAG = 2, TAG_PAIRS = 8192 };

bool ls_mpi_looked;

int ls_mpi_next_tag(mpi_comm *c) {
    return FIRST_TAG + 2 * (int)(c->sequence++ % TAG_PAIRS);
}

static int64_t message_bytes(void) {
    return ls_min_i64(ls_comm_mpi_message_bytes, ls_comm_mpi_chunk_bytes);
}

int64_t ls_mpi_messages(int64_t bytes) {
    return ls_ceil_div(bytes, message_bytes());
}

ls_status ls_mpi_request_take(mpi_comm *c, int64_t parts, ls_comm_request **out) {
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
        request->parts = NULL;
        request->statuses = NULL;
        request->capacity = 0;
        LS_TRY(ls_calloc((size_t)parts, sizeof *request->parts, &request->parts));
        LS_TRY(ls_calloc((size_t)parts, sizeof *request->statuses, &request->statuses));
        request->capacity = (int)parts;
    }
    request->count = 0;
    c->free = request->next_free;
    c->pump.pending++;
    *out = request;
    return LS_OK;
}

void ls_mpi_request_give_back(mpi_comm *c, ls_comm_request *request) {
    request->next_free = c->free;
    c->free = request;
    c->pump.pending--;
}

ls_status ls_mpi_request_fail(const ls_comm_request *request, int code) {
    for (int i = 0; code == MPI_ERR_IN_STATUS && i < request->count; i++) {
        int part = request->statuses[i].MPI_ERROR;
        if (part != MPI_SUCCESS && part != MPI_ERR_PENDING) {
            code = part;
        }
    }
    return ls_mpi_fail(code, "transfer");
}

ls_status ls_mpi_test(ls_comm *comm, ls_comm_request *request, bool *done) {
    int flag = 0, code = MPI_SUCCESS;
    *done = false;
    if (!request->reduction.active) {
        LS_TRY(request->reduction.status);
        code = MPI_Testall(request->count, request->parts, &flag, request->statuses);
        ls_mpi_looked = true;
    }
    ls_pump_all();
    ls_mpi_looked = false;
    if (code != MPI_SUCCESS) {
        return ls_mpi_request_fail(request, code);
    }
    *done = flag != 0;
    if (flag) {
        ls_mpi_request_give_back((mpi_comm *)comm, request);
    }
    return LS_OK;
}

/* Not MPI_Waitall: that of Open MPI 4.1 never returns when a part has failed before the call. */
ls_status ls_mpi_wait(ls_comm *comm, ls_comm_request *request) {
    return ls_comm_wait_by_test(comm, request);
}

ls_status ls_mpi_broadcast_start(ls_comm *comm, void *buf, int64_t bytes, int root,
                                 ls_comm_request **request) {
    mpi_comm *c = (mpi_comm *)comm;
    LS_TRY(ls_comm_check_count(bytes, "broadcast"));
    LS_TRY(ls_comm_check_rank(comm, root, "a broadcast from"));
    ls_comm_request *r;
    LS_TRY(ls_mpi_request_take(c, ls_ceil_div(bytes, ls_comm_mpi_chunk_bytes), &r));
    for (int64_t at = 0; at < bytes; at += ls_comm_mpi_chunk_bytes) {
        int n = (int)ls_min_i64(ls_comm_mpi_chunk_bytes, bytes - at);
        MPI_TRY("broadcast",
                MPI_Ibcast((char *)buf + at, n, MPI_BYTE, root, c->handle, &r->parts[r->count]));
        r->count++;
    }
    *request = r;
    return LS_OK;
}

ls_status ls_mpi_receive(mpi_comm *c, ls_comm_request *r, char *to, int64_t bytes, int peer,
                         int tag) {
    const int64_t most = message_bytes();
    for (int64_t at = 0; at < bytes; at += most) {
        int n = (int)ls_min_i64(most, bytes - at);
        MPI_TRY("receive",
                MPI_Irecv(to + at, n, MPI_BYTE, peer, tag, c->handle, &r->parts[r->count]));
        r->count++;
    }
    return LS_OK;
}

ls_status ls_mpi_send(mpi_comm *c, ls_comm_request *r, const char *from, int64_t bytes, int peer,
                      int tag) {
    const int64_t most = message_bytes();
    for (int64_t at = 0; at < bytes; at += most) {
        int n = (int)ls_min_i64(most, bytes - at);
        MPI_TRY("send",
                MPI_Isend(from + at, n, MPI_BYTE, peer, tag, c->handle, &r->parts[r->count]));
        r->count++;
    }
    return LS_OK;
}

ls_status ls_mpi_send_start(ls_comm *comm, const void *buf, int64_t bytes, int to,
                            ls_comm_request **request) {
    LS_TRY(ls_comm_check_count(bytes, "message"));
    LS_TRY(ls_comm_check_peer(comm, to, "a message to"));
    LS_TRY(ls_mpi_request_take((mpi_comm *)comm, ls_mpi_messages(bytes), request));
    return ls_mpi_send((mpi_comm *)comm, *request, buf, bytes, to, MESSAGE_TAG);
}

ls_status ls_mpi_recv_start(ls_comm *comm, void *buf, int64_t bytes, int from,
                            ls_comm_request **request) {
    LS_TRY(ls_comm_check_count(bytes, "message"));
    LS_TRY(ls_comm_check_peer(comm, from, "a message from"));
    LS_TRY(ls_mpi_request_take((mpi_comm *)comm, ls_mpi_messages(bytes), request));
    return ls_mpi_receive((mpi_comm *)comm, *request, buf, bytes, from, MESSAGE_TAG);
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
        LS_TRY(ls_comm_check_count(send_bytes(send, rank, peer), "exchange"));
        LS_TRY(ls_comm_check_count(recv->counts[peer], "exchange"));
        parts += peer == rank ? 0 : ls_mpi_messages(send_bytes(send, rank, peer));
        parts += peer == rank ? 0 : ls_mpi_messages(recv->counts[peer]);
    }
    const int64_t own = recv->counts[rank];
    LS_TRY(ls_comm_check_own(&c->base, send_bytes(send, rank, rank), own));
    ls_comm_request *r;
    LS_TRY(ls_mpi_request_take(c, parts, &r));
    const int tag = ls_mpi_next_tag(c);
    /* Each rank begins with its neighbour, so that no rank is everybody's first. */
    for (int i = 1; i < size; i++) {
        int peer = (rank + size - i) % size;
        LS_TRY(
            ls_mpi_receive(c, r, recv->base + recv->offsets[peer], recv->counts[peer], peer, tag));
    }
    for (int i = 1; i < size; i++) {
        int peer = (rank + i) % size;
        LS_TRY(ls_mpi_send(c, r, send_at(send, peer), send_bytes(send, rank, peer), peer, tag));
    }
    char *to = recv->base + recv->offsets[rank];
    if (own > 0 && to != send_at(send, rank)) {
        memcpy(to, send_at(send, rank), (size_t)own);
    }
    *request = r;
    return LS_OK;
}

ls_status ls_mpi_all_gather_start(ls_comm *comm, const void *send, void *recv,
                                  const int64_t *counts, const int64_t *offsets,
                                  ls_comm_request **request) {
    const blocks mine = {.base = (char *)send, .counts = counts};
    const blocks all = {.base = recv, .counts = counts, .offsets = offsets};
    return exchange_start((mpi_comm *)comm, &mine, &all, request);
}

ls_status ls_mpi_all_to_all_start(ls_comm *comm, const void *send, const int64_t *send_counts,
                                  const int64_t *send_offsets, void *recv,
                                  const int64_t *recv_counts, const int64_t *recv_offsets,
                                  ls_comm_request **request) {
    const blocks out = {.base = (char *)send, .counts = send_counts, .offsets = send_offsets};
    const blocks in = {.base = recv, .counts = recv_counts, .offsets = recv_offsets};
    return exchange_start((mpi_comm *)comm, &out, &in, request);
}
