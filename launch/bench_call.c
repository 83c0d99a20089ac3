#include "launch/bench_call.h"

#include "launch/shortage.h"
#include "runtime/base/text.h"

#include <mpi.h>
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

ls_status ls_bench_check_room(ls_comm *world, int64_t rank_bytes, int64_t max_bytes) {
    ls_shortage worst;
    int host = 0;
    char size[32], needed[32], left[32];
    LS_TRY(world->ops->host(world, &host));
    const ls_demand mine = {.host_bytes = rank_bytes, .device_free = -1};
    LS_TRY(ls_shortage_find(world, host, mine, &worst));
    if (worst.needed_bytes <= worst.free_bytes) {
        return LS_OK;
    }
    const long long fits_kib = (long long)((double)max_bytes / worst.ratio) >> 10;
    return LS_FAIL(
        LS_E_MEMORY,
        "operations of %s take %s of memory for the buffers of %d rank%s (from rank %d on), and %s "
        "has %s free; sizes up to %lld%c fit: lower --minbytes and --maxbytes, or start fewer "
        "ranks",
        ls_text_bytes(size, sizeof size, (double)max_bytes),
        ls_text_bytes(needed, sizeof needed, (double)worst.needed_bytes), worst.ranks,
        worst.ranks == 1 ? "" : "s", worst.rank, worst.name,
        ls_text_bytes(left, sizeof left, (double)worst.free_bytes),
        fits_kib < 1024 ? fits_kib : fits_kib >> 10, fits_kib < 1024 ? 'K' : 'M');
}

static ls_status send_recv_start(ls_comm *comm, const char *send, char *recv, int64_t bytes,
                                 ls_comm_request *requests[2]) {
    const int size = comm->size;
    if (size == 1) {
        memcpy(recv, send, (size_t)bytes);
        return LS_OK;
    }
    LS_TRY(comm->ops->recv_start(comm, recv, bytes, (comm->rank + size - 1) % size, &requests[0]));
    return comm->ops->send_start(comm, send, bytes, (comm->rank + 1) % size, &requests[1]);
}

ls_status ls_bench_call_start(const ls_bench_call *call, ls_bench_shape s, const char *send,
                              char *recv, ls_comm_request *requests[2]) {
    ls_comm *c = call->comm;
    const int64_t elem = (int64_t)ls_dtype_bytes(call->dtype);
    const int64_t unit = call->coll == LS_COLL_REDUCE_SCATTER ? 1 : elem;
    int64_t *counts = call->counts, *offsets = call->offsets;
    for (int rank = 0; rank < c->size; rank++) {
        counts[rank] = s.block * unit;
        offsets[rank] = rank * s.block * unit;
    }
    if (call->others_only && call->coll == LS_COLL_ALL_TO_ALL) {
        counts[c->rank] = 0;
    }
    requests[0] = requests[1] = NULL;
    switch (call->coll) {
    case LS_COLL_ALL_REDUCE:
        return c->ops->all_reduce_start(c, send, recv, s.all, call->dtype, call->op, requests);
    case LS_COLL_REDUCE:
        return c->ops->reduce_start(c, send, recv, s.all, call->dtype, call->op, 0, requests);
    case LS_COLL_REDUCE_SCATTER:
        return c->ops->reduce_scatter_start(c, send, recv, counts, call->dtype, call->op, requests);
    case LS_COLL_ALL_GATHER:
        return c->ops->all_gather_start(c, send, recv, counts, offsets, requests);
    case LS_COLL_ALL_TO_ALL:
        return c->ops->all_to_all_start(c, send, counts, offsets, recv, counts, offsets, requests);
    default:
        return send_recv_start(c, send, recv, s.all * elem, requests);
    }
}

ls_status ls_bench_call_wait(const ls_bench_call *call, ls_comm_request *requests[2]) {
    for (int i = 0; i < 2; i++) {
        if (requests[i]) {
            LS_TRY(call->comm->ops->wait(call->comm, requests[i]));
        }
    }
    return LS_OK;
}

ls_status ls_bench_call_run(const ls_bench_call *call, ls_bench_shape s, const char *send,
                            char *recv) {
    ls_comm *c = call->comm;
    ls_comm_request *requests[2];
    if (call->coll == LS_COLL_ALL_REDUCE && send == recv) {
        return c->ops->all_reduce(c, recv, s.all, call->dtype, call->op);
    }
    if (call->coll == LS_COLL_BROADCAST) {
        return c->ops->broadcast(c, recv, s.all * (int64_t)ls_dtype_bytes(call->dtype), call->root);
    }
    LS_TRY(ls_bench_call_start(call, s, send, recv, requests));
    return ls_bench_call_wait(call, requests);
}

ls_status ls_bench_call_run_mpi(const ls_bench_call *c, ls_bench_shape s, const char *send,
                                char *recv, bool in_place) {
    const MPI_Datatype type = c->dtype == LS_F32   ? MPI_FLOAT
                              : c->dtype == LS_F64 ? MPI_DOUBLE
                              : c->dtype == LS_I32 ? MPI_INT32_T
                                                   : MPI_INT64_T;
    const MPI_Op op = c->op == LS_MAX ? MPI_MAX : c->op == LS_MIN ? MPI_MIN : MPI_SUM;
    const int n = (int)s.all, block = (int)s.block, size = c->comm->size, me = c->comm->rank;
    const void *from = in_place ? MPI_IN_PLACE : send;
    int code;
    switch (c->coll) {
    case LS_COLL_ALL_REDUCE:
        code = MPI_Allreduce(from, recv, n, type, op, MPI_COMM_WORLD);
        break;
    case LS_COLL_REDUCE:
        code = MPI_Reduce(me == 0 ? from : send, recv, n, type, op, 0, MPI_COMM_WORLD);
        break;
    case LS_COLL_REDUCE_SCATTER:
        code = MPI_Reduce_scatter_block(from, recv, block, type, op, MPI_COMM_WORLD);
        break;
    case LS_COLL_ALL_GATHER:
        code = MPI_Allgather(from, block, type, recv, block, type, MPI_COMM_WORLD);
        break;
    case LS_COLL_ALL_TO_ALL:
        code = MPI_Alltoall(send, block, type, recv, block, type, MPI_COMM_WORLD);
        break;
    case LS_COLL_BROADCAST:
        code = MPI_Bcast(recv, n, type, 0, MPI_COMM_WORLD);
        break;
    default:
        code = MPI_Sendrecv(send, n, type, (me + 1) % size, 0, recv, n, type,
                            (me + size - 1) % size, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        break;
    }
    return code == MPI_SUCCESS ? LS_OK : LS_FAIL(LS_E_COMM, "MPI gave error %d", code);
}
