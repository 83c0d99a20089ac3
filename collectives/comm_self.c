/* The back end of one rank: nothing is sent, every operation is complete when it returns. */
#include "collectives/comm.h"

#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

/* What a started operation returns; it has completed already. */
static char completed;

static ls_status check_bytes(int64_t bytes) {
    if (bytes < 0) {
        return LS_FAIL(LS_E_SHAPE, "a collective over %lld bytes or elements; 0 is the least",
                       (long long)bytes);
    }
    return LS_OK;
}

static void destroy(ls_comm *comm) {
    free(comm);
}

static ls_status duplicate(ls_comm *comm, ls_comm **copy) {
    (void)comm;
    return ls_comm_self(copy);
}

static ls_status host(ls_comm *comm, int *lowest) {
    *lowest = comm->rank;
    return LS_OK;
}

static ls_status barrier(ls_comm *comm) {
    (void)comm;
    return LS_OK;
}

static ls_status broadcast(ls_comm *comm, void *buf, int64_t bytes, int root) {
    (void)comm;
    (void)buf;
    if (root != 0) {
        return LS_FAIL(LS_E_SHAPE, "a broadcast from rank %d of 1", root);
    }
    return check_bytes(bytes);
}

static ls_status all_reduce(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype, ls_reduce op) {
    (void)comm;
    (void)buf;
    (void)op;
    switch (dtype) {
    case LS_F32:
    case LS_F64:
    case LS_I32:
    case LS_I64:
    case LS_U64:
        return check_bytes(count);
    default:
        return LS_FAIL(LS_E_UNSUPPORTED, "all-reduce of %s", ls_dtype_name(dtype));
    }
}

static void copy_block(const char *from, char *to, int64_t bytes) {
    if (bytes > 0 && from != to) {
        memcpy(to, from, (size_t)bytes);
    }
}

static ls_status all_gather(ls_comm *comm, const void *send, void *recv, int64_t bytes) {
    (void)comm;
    LS_TRY(check_bytes(bytes));
    copy_block(send, recv, bytes);
    return LS_OK;
}

static ls_status all_reduce_start(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype,
                                  ls_reduce op, ls_comm_request **request) {
    LS_TRY(all_reduce(comm, buf, count, dtype, op));
    *request = (ls_comm_request *)&completed;
    return LS_OK;
}

static ls_status all_gather_start(ls_comm *comm, const void *send, void *recv,
                                  const int64_t *counts, const int64_t *offsets,
                                  ls_comm_request **request) {
    (void)comm;
    LS_TRY(check_bytes(counts[0]));
    copy_block(send, (char *)recv + offsets[0], counts[0]);
    *request = (ls_comm_request *)&completed;
    return LS_OK;
}

static ls_status all_to_all_start(ls_comm *comm, const void *send, const int64_t *send_counts,
                                  const int64_t *send_offsets, void *recv,
                                  const int64_t *recv_counts, const int64_t *recv_offsets,
                                  ls_comm_request **request) {
    (void)comm;
    LS_TRY(check_bytes(send_counts[0]));
    if (send_counts[0] != recv_counts[0]) {
        return LS_FAIL(LS_E_SHAPE, "rank 0 sends itself %lld bytes and expects %lld",
                       (long long)send_counts[0], (long long)recv_counts[0]);
    }
    copy_block((const char *)send + send_offsets[0], (char *)recv + recv_offsets[0],
               send_counts[0]);
    *request = (ls_comm_request *)&completed;
    return LS_OK;
}

static ls_status test(ls_comm *comm, ls_comm_request *request, bool *done) {
    (void)comm;
    (void)request;
    *done = true;
    return LS_OK;
}

static ls_status wait_for(ls_comm *comm, ls_comm_request *request) {
    (void)comm;
    (void)request;
    return LS_OK;
}

static const ls_comm_ops self_ops = {
    .name = "self",
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

ls_status ls_comm_self(ls_comm **comm) {
    LS_TRY(ls_calloc(1, sizeof **comm, comm));
    **comm = (ls_comm){.ops = &self_ops, .rank = 0, .size = 1};
    return LS_OK;
}
