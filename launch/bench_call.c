#include "launch/bench_call.h"

#include <string.h>

ls_bench_shape ls_bench_shape_of(const ls_bench_call *call, int64_t bytes) {
    const int64_t n = bytes / (int64_t)ls_dtype_bytes(call->dtype), size = call->comm->size;
    const bool blocks = call->coll == LS_COLL_REDUCE_SCATTER || call->coll == LS_COLL_ALL_GATHER ||
                        call->coll == LS_COLL_ALL_TO_ALL;
    ls_bench_shape s = {.all = n, .block = n, .send = n, .recv = n};
    if (blocks) {
        s.block = n / size;
        s.all = s.block * size;
        s.send = call->coll == LS_COLL_ALL_GATHER ? s.block : s.all;
        s.recv = call->coll == LS_COLL_REDUCE_SCATTER ? s.block : s.all;
    }
    return s;
}

static ls_status send_recv(ls_comm *comm, const char *send, char *recv, int64_t bytes) {
    const int size = comm->size;
    ls_comm_request *in, *out;
    if (size == 1) {
        memcpy(recv, send, (size_t)bytes);
        return LS_OK;
    }
    LS_TRY(comm->ops->recv_start(comm, recv, bytes, (comm->rank + size - 1) % size, &in));
    LS_TRY(comm->ops->send_start(comm, send, bytes, (comm->rank + 1) % size, &out));
    LS_TRY(comm->ops->wait(comm, in));
    return comm->ops->wait(comm, out);
}

ls_status ls_bench_call_run(const ls_bench_call *call, ls_bench_shape s, const char *send,
                            char *recv) {
    ls_comm *c = call->comm;
    const int64_t elem = (int64_t)ls_dtype_bytes(call->dtype);
    const int64_t unit = call->coll == LS_COLL_REDUCE_SCATTER ? 1 : elem;
    int64_t *counts = call->counts, *offsets = call->offsets;
    for (int rank = 0; rank < c->size; rank++) {
        counts[rank] = s.block * unit;
        offsets[rank] = rank * s.block * unit;
    }
    ls_comm_request *r = NULL;
    switch (call->coll) {
    case LS_COLL_ALL_REDUCE:
        if (send == recv) {
            return c->ops->all_reduce(c, recv, s.all, call->dtype, call->op);
        }
        LS_TRY(c->ops->all_reduce_start(c, send, recv, s.all, call->dtype, call->op, &r));
        break;
    case LS_COLL_REDUCE:
        LS_TRY(c->ops->reduce_start(c, send, recv, s.all, call->dtype, call->op, 0, &r));
        break;
    case LS_COLL_REDUCE_SCATTER:
        LS_TRY(c->ops->reduce_scatter_start(c, send, recv, counts, call->dtype, call->op, &r));
        break;
    case LS_COLL_ALL_GATHER:
        LS_TRY(c->ops->all_gather_start(c, send, recv, counts, offsets, &r));
        break;
    case LS_COLL_ALL_TO_ALL:
        LS_TRY(c->ops->all_to_all_start(c, send, counts, offsets, recv, counts, offsets, &r));
        break;
    case LS_COLL_BROADCAST:
        return c->ops->broadcast(c, recv, s.all * elem, 0);
    default:
        return send_recv(c, send, recv, s.all * elem);
    }
    return c->ops->wait(c, r);
}
