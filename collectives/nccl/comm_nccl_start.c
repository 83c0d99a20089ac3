/* Operations of the NCCL communicator: each is queued on its stream behind what the device was
 * given before, and ends with an event that test and wait look at. */
#include "collectives/nccl/comm_nccl_impl.h"
#include "runtime/base/arena.h"

#include <stdlib.h>

static ls_status type_of(ls_dtype dtype, ncclDataType_t *type) {
    switch (dtype) {
    case LS_F32:
        *type = ncclFloat32;
        return LS_OK;
    case LS_F64:
        *type = ncclFloat64;
        return LS_OK;
    case LS_F16:
        *type = ncclFloat16;
        return LS_OK;
    case LS_BF16: /* ncclBfloat16, which nccl.h shows C++ alone before CUDA 13 */
        *type = (ncclDataType_t)9;
        return LS_OK;
    case LS_I32:
        *type = ncclInt32;
        return LS_OK;
    case LS_I64:
        *type = ncclInt64;
        return LS_OK;
    case LS_U64:
        *type = ncclUint64;
        return LS_OK;
    default:
        *type = ncclUint8; /* not used */
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "a reduction of %s; float32, float64, float16, bfloat16, int32, int64 and "
                       "uint64 are served",
                       ls_dtype_name(dtype));
    }
}

static ls_status op_of(ls_reduce op, ncclRedOp_t *out) {
    static const ncclRedOp_t ops[] = {[LS_SUM] = ncclSum,
                                      [LS_MAX] = ncclMax,
                                      [LS_MIN] = ncclMin,
                                      [LS_AVG] = ncclAvg,
                                      [LS_SUM_TREE] = ncclSum};
    *out = ops[op];
    return op != LS_SUM_TREE
               ? LS_OK
               : LS_FAIL(LS_E_UNSUPPORTED,
                         "NCCL adds in an order of its own; sums in a fixed tree need the CPU "
                         "(run.device=cpu), or numerics.reduction=fast");
}

/* A request; and the stream waits for what the device has been given. send, recv: to be registered,
 * or NULL. What is sent must be registered on both sides or on neither (NCCL's User Buffer
 * Registration: a mix "can result in undefined behavior"; over NVLink the two sides then count
 * pieces of different sizes): of a message nobody knows the other side. */
static ls_status begin(nccl_comm *c, const void *send, const void *recv,
                       ls_comm_request **request) {
    LS_TRY(ls_nccl_poll(c));
    if (c->started < LS_NCCL_FIRST_OPERATIONS) {
        c->free_bytes = ls_nccl_free_bytes();
    }
    ls_nccl_memory_use(c, send);
    ls_nccl_memory_use(c, recv);
    if (!c->free) {
        ls_comm_request *fresh;
        LS_TRY(ls_calloc(1, sizeof *fresh, &fresh));
        fresh->next_all = c->all;
        c->all = fresh;
        cudaEvent_t *const events[] = {&fresh->begun, &fresh->done, &fresh->waits};
        for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
            LS_CUDA_TRY(cudaEventCreateWithFlags(events[i], cudaEventDefault), "creating an event");
        }
        c->free = fresh;
    }
    LS_CUDA_TRY(cudaEventRecord(c->ready, c->before), "recording an event");
    LS_CUDA_TRY(cudaStreamWaitEvent(c->stream, c->ready, 0), "waiting for an event");
    LS_CUDA_TRY(cudaEventRecord(c->free->begun, c->stream), "recording an event");
    *request = c->free;
    c->free = c->free->next;
    return LS_OK;
}

static ls_status end(nccl_comm *c, ncclResult_t result, const char *what,
                     ls_comm_request *request) {
    ls_status status = ls_nccl_check(c, result, what);
    if (c->started < LS_NCCL_FIRST_OPERATIONS) {
        c->started++;
        ls_nccl_count_taken(c->free_bytes);
    }
    if (status == LS_OK) {
        status = ls_cuda_check(cudaEventRecord(request->done, c->stream), "recording an event",
                               __FILE__, __LINE__);
    }
    if (status != LS_OK) {
        request->next = c->free;
        c->free = request;
        return status;
    }
    c->pump.pending++;
    return LS_OK;
}

ls_status ls_nccl_test(ls_comm *comm, ls_comm_request *request, bool *done) {
    nccl_comm *c = (nccl_comm *)comm;
    ls_pump_all();
    *done = false;
    const cudaError_t error = ls_cuda_query(request->done);
    if (error == cudaErrorNotReady) {
        return ls_nccl_poll(c);
    }
    *done = error == cudaSuccess;
    if (*done) {
        ls_nccl_note_end(c, request);
        ls_nccl_note_passed(c, request, 0.0f);
    }
    LS_TRY(ls_cuda_check(error, "a collective", __FILE__, __LINE__));
    return ls_nccl_poll(c); /* what was aborted ends too */
}

ls_status ls_nccl_wait(ls_comm *comm, ls_comm_request *request) {
    nccl_comm *c = (nccl_comm *)comm;
    LS_CUDA_TRY(cudaEventRecord(request->waits, c->behind), "recording an event");
    LS_CUDA_TRY(cudaStreamWaitEvent(c->behind, request->done, 0), "waiting for an event");
    request->next = NULL;
    request->ended = false;
    *(c->last_waited ? &c->last_waited->next : &c->waited) = request;
    c->last_waited = request;
    return ls_nccl_poll(c);
}

ls_status ls_nccl_broadcast_start(ls_comm *comm, void *buf, int64_t bytes, int root,
                                  ls_comm_request **request) {
    nccl_comm *c = (nccl_comm *)comm;
    LS_TRY(ls_comm_check_count(bytes, "broadcast"));
    LS_TRY(ls_comm_check_rank(comm, root, "a broadcast from"));
    LS_TRY(begin(c, buf, buf, request));
    return end(c, ncclBroadcast(buf, buf, (size_t)bytes, ncclUint8, root, c->handle, c->stream),
               "broadcast", *request);
}

ls_status ls_nccl_all_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                                   ls_dtype dtype, ls_reduce op, ls_comm_request **request) {
    nccl_comm *c = (nccl_comm *)comm;
    ncclDataType_t type;
    ncclRedOp_t reduction;
    LS_TRY(ls_comm_check_count(count, "all_reduce"));
    LS_TRY(type_of(dtype, &type));
    LS_TRY(op_of(op, &reduction));
    LS_TRY(begin(c, send, recv, request));
    return end(c, ncclAllReduce(send, recv, (size_t)count, type, reduction, c->handle, c->stream),
               "all_reduce", *request);
}

ls_status ls_nccl_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                               ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request) {
    nccl_comm *c = (nccl_comm *)comm;
    ncclDataType_t type;
    ncclRedOp_t reduction;
    LS_TRY(ls_comm_check_count(count, "reduce"));
    LS_TRY(ls_comm_check_rank(comm, root, "a reduction to"));
    LS_TRY(type_of(dtype, &type));
    LS_TRY(op_of(op, &reduction));
    LS_TRY(begin(c, send, recv, request));
    return end(c,
               ncclReduce(send, recv, (size_t)count, type, reduction, root, c->handle, c->stream),
               "reduce", *request);
}

/* Several calls as one; the first failure counts. */
static void first_failure(ncclResult_t *result, ncclResult_t next) {
    if (*result == ncclSuccess || *result == ncclInProgress) {
        *result = next == ncclSuccess ? *result : next;
    }
}

static bool all_equal(const int64_t *counts, int size) {
    for (int r = 1; r < size; r++) {
        if (counts[r] != counts[0]) {
            return false;
        }
    }
    return true;
}

ls_status ls_nccl_reduce_scatter_start(ls_comm *comm, const void *send, void *recv,
                                       const int64_t *counts, ls_dtype dtype, ls_reduce op,
                                       ls_comm_request **request) {
    nccl_comm *c = (nccl_comm *)comm;
    ncclDataType_t type;
    ncclRedOp_t reduction;
    for (int r = 0; r < comm->size; r++) {
        LS_TRY(ls_comm_check_count(counts[r], "reduce_scatter"));
    }
    LS_TRY(type_of(dtype, &type));
    LS_TRY(op_of(op, &reduction));
    LS_TRY(begin(c, send, recv, request));
    if (all_equal(counts, comm->size)) {
        return end(
            c,
            ncclReduceScatter(send, recv, (size_t)counts[0], type, reduction, c->handle, c->stream),
            "reduce_scatter", *request);
    }
    const char *from = send;
    ncclResult_t result = ncclGroupStart();
    for (int r = 0; r < comm->size; r++) {
        if (counts[r] > 0) {
            first_failure(&result, ncclReduce(from, recv, (size_t)counts[r], type, reduction, r,
                                              c->handle, c->stream));
        }
        from += (size_t)counts[r] * ls_dtype_bytes(dtype);
    }
    first_failure(&result, ncclGroupEnd());
    return end(c, result, "reduce_scatter", *request);
}

ls_status ls_nccl_all_gather_start(ls_comm *comm, const void *send, void *recv,
                                   const int64_t *counts, const int64_t *offsets,
                                   ls_comm_request **request) {
    nccl_comm *c = (nccl_comm *)comm;
    bool even = all_equal(counts, comm->size);
    for (int r = 0; r < comm->size; r++) {
        LS_TRY(ls_comm_check_count(counts[r], "all_gather"));
        even = even && offsets[r] == r * counts[0];
    }
    LS_TRY(begin(c, send, recv, request));
    if (even) {
        return end(c, ncclAllGather(send, recv, (size_t)counts[0], ncclUint8, c->handle, c->stream),
                   "all_gather", *request);
    }
    ncclResult_t result = ncclGroupStart();
    for (int r = 0; r < comm->size; r++) {
        char *to = (char *)recv + offsets[r];
        if (counts[r] > 0) {
            first_failure(&result, ncclBroadcast(r == comm->rank ? send : to, to, (size_t)counts[r],
                                                 ncclUint8, r, c->handle, c->stream));
        }
    }
    first_failure(&result, ncclGroupEnd());
    return end(c, result, "all_gather", *request);
}

ls_status ls_nccl_all_to_all_start(ls_comm *comm, const void *send, const int64_t *send_counts,
                                   const int64_t *send_offsets, void *recv,
                                   const int64_t *recv_counts, const int64_t *recv_offsets,
                                   ls_comm_request **request) {
    nccl_comm *c = (nccl_comm *)comm;
    for (int r = 0; r < comm->size; r++) {
        LS_TRY(ls_comm_check_count(send_counts[r], "exchange"));
        LS_TRY(ls_comm_check_count(recv_counts[r], "exchange"));
    }
    LS_TRY(ls_comm_check_own(comm, send_counts[comm->rank], recv_counts[comm->rank]));
    const bool both = ls_nccl_memory_has(send) && ls_nccl_memory_has(recv);
    LS_TRY(begin(c, both ? send : NULL, both ? recv : NULL, request));
    ncclResult_t result = ncclGroupStart();
    for (int r = 0; r < comm->size; r++) {
        if (send_counts[r] > 0) {
            first_failure(&result,
                          ncclSend((const char *)send + send_offsets[r], (size_t)send_counts[r],
                                   ncclUint8, r, c->handle, c->stream));
        }
        if (recv_counts[r] > 0) {
            first_failure(&result, ncclRecv((char *)recv + recv_offsets[r], (size_t)recv_counts[r],
                                            ncclUint8, r, c->handle, c->stream));
        }
    }
    first_failure(&result, ncclGroupEnd());
    return end(c, result, "exchange", *request);
}

ls_status ls_nccl_send_start(ls_comm *comm, const void *buf, int64_t bytes, int to,
                             ls_comm_request **request) {
    nccl_comm *c = (nccl_comm *)comm;
    LS_TRY(ls_comm_check_count(bytes, "message"));
    LS_TRY(ls_comm_check_peer(comm, to, "a message to"));
    LS_TRY(begin(c, NULL, NULL, request));
    return end(c, ncclSend(buf, (size_t)bytes, ncclUint8, to, c->handle, c->stream), "message",
               *request);
}

ls_status ls_nccl_recv_start(ls_comm *comm, void *buf, int64_t bytes, int from,
                             ls_comm_request **request) {
    nccl_comm *c = (nccl_comm *)comm;
    LS_TRY(ls_comm_check_count(bytes, "message"));
    LS_TRY(ls_comm_check_peer(comm, from, "a message from"));
    LS_TRY(begin(c, NULL, NULL, request));
    return end(c, ncclRecv(buf, (size_t)bytes, ncclUint8, from, c->handle, c->stream), "message",
               *request);
}
