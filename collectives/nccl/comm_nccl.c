/* Creation and end of NCCL communicators, their memory, and the blocking operations. */
#include "collectives/nccl/comm_nccl.h"

#include "collectives/flight.h"
#include "collectives/nccl/comm_nccl_impl.h"
#include "collectives/recorded.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ls_comm_ops NCCL_OPS;

/* So that no kernel waits for ranks that do not come. A half-made communicator ends so too: to
 * destroy it may wait for them. */
static void give_up(nccl_comm *c) {
    if (c->handle && !c->broken) {
        c->broken = true;
        ncclCommAbort(c->handle);
    }
}

static ls_status fail(nccl_comm *c, ncclResult_t result, const char *what) {
    ls_status status = LS_FAIL(LS_E_COMM, "NCCL, %s: %s (%s)", what, ncclGetErrorString(result),
                               c->handle ? ncclGetLastError(c->handle) : "");
    if (c->handle && !c->broken) {
        snprintf(c->fault, sizeof c->fault, "%.250s", ls_error_last()->message);
        give_up(c);
    }
    return status;
}

/* A non-blocking communicator says ncclInProgress until it has done its part on the host. */
static ls_status settle(nccl_comm *c, double deadline_s /* 0: none */, const char *what) {
    const uint64_t start_ns = ls_clock_ns();
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) {
        ncclResult_t result = ncclCommGetAsyncError(c->handle, &state);
        if (result != ncclSuccess) {
            return fail(c, result, what);
        }
        ls_pump_all();
        if (c->broken) { /* a fault of what was under way, that was seen there */
            return ls_nccl_poll(c);
        }
        if (deadline_s > 0.0 && (double)(ls_clock_ns() - start_ns) > 1e9 * deadline_s) {
            fail(c, ncclInProgress, what);
            return LS_FAIL(
                LS_E_COMM,
                "NCCL, %s: not all of %d ranks have come within %.0f s; look for the rank "
                "that is missing, and for NCCL_SOCKET_IFNAME where hosts cannot reach each "
                "other",
                what, c->base.size, deadline_s);
        }
    }
    return state == ncclSuccess ? LS_OK : fail(c, state, what);
}

ls_status ls_nccl_check(nccl_comm *c, ncclResult_t result, const char *what) {
    if (result == ncclSuccess) {
        return LS_OK;
    }
    if (result != ncclInProgress) {
        return fail(c, result, what);
    }
    /* Where a flight record is kept a watchdog looks (watch.h): it knows who has time left, and can
     * say who is missing. */
    return settle(c, ls_flight_own() ? 0.0 : c->deadline_s, what);
}

ls_status ls_nccl_poll(nccl_comm *c) {
    ncclResult_t state = ncclSuccess;
    if (c->broken) {
        return LS_FAIL(LS_E_COMM, "the communicator has failed before: %s", c->fault);
    }
    ncclResult_t result = ncclCommGetAsyncError(c->handle, &state);
    result = result == ncclSuccess ? state : result;
    return result == ncclSuccess || result == ncclInProgress ? LS_OK
                                                             : fail(c, result, "a collective");
}

static uint64_t ns_of(float ms) {
    return ms > 0.0f ? (uint64_t)(1e6 * (double)ms) : 0; /* less: it was over before */
}

/* False: the device has not yet come past both. */
static bool elapsed(cudaEvent_t from, cudaEvent_t to, float *ms) {
    const cudaError_t error = cudaEventElapsedTime(ms, from, to);
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError();
    }
    return error == cudaSuccess;
}

void ls_nccl_note_end(nccl_comm *c, ls_comm_request *request) {
    float ms = 0.0f;
    request->ended = true;
    if (c->base.listener) {
        (void)elapsed(request->begun, request->done, &ms);
        c->base.listener->ended(c->base.listener, request, ns_of(ms));
    }
}

void ls_nccl_note_passed(nccl_comm *c, ls_comm_request *request, float stalled_ms) {
    if (c->base.listener) {
        c->base.listener->passed(c->base.listener, request, ns_of(stalled_ms));
    }
    c->pump.pending--;
    request->next = c->free;
    c->free = request;
}

/* Lets queued work go on, which a GPU does by itself, and looks for faults: whoever waits for the
 * device would wait for ever for ranks that are gone. Requests that were waited for and have
 * completed meanwhile come back. */
static void drive(ls_pump *pump) {
    nccl_comm *c = (nccl_comm *)((char *)pump - offsetof(nccl_comm, pump));
    if (cudaStreamQuery(c->stream) == cudaErrorNotReady) {
        (void)cudaGetLastError();
    }
    if (c->handle && !c->broken && c->pump.pending > 0) {
        (void)ls_nccl_poll(c); /* aborts; the next operation says so */
    }
    for (ls_comm_request *r = c->waited; r; r = r->next) {
        if (!r->ended && ls_cuda_query(r->done) != cudaSuccess) {
            break;
        }
        if (!r->ended) {
            ls_nccl_note_end(c, r);
        }
    }
    float ms;
    while (c->waited && c->waited->ended && elapsed(c->waited->waits, c->waited->done, &ms)) {
        ls_comm_request *request = c->waited;
        c->waited = request->next;
        c->last_waited = c->waited ? c->last_waited : NULL;
        ls_nccl_note_passed(c, request, ms);
    }
}

/* NCCL ends a communicator together with the other ranks on the host: polled, as all that waits for
 * them, while its destruction by itself would block. */
static void end_handle(nccl_comm *c) {
    const ncclResult_t result = ncclCommFinalize(c->handle);
    const ls_status status = result == ncclSuccess || result == ncclInProgress
                                 ? settle(c, c->deadline_s, "ending a communicator")
                                 : fail(c, result, "ending a communicator");
    if (status == LS_OK) {
        ncclCommDestroy(c->handle);
    } else {
        ls_log_warn("%s", ls_error_last()->message);
    }
}

/* Whoever waits for the device may wait for other ranks: the record says for which operation. */
static void while_waiting(bool over) {
    if (!over) {
        ls_pump_all();
    }
    ls_recorded_device_wait(!over);
}

static void release(nccl_comm *c) {
    ls_pump_remove(&c->pump);
    if (c->stream && !c->broken) {
        cudaEventRecord(c->ready, c->stream);
        (void)ls_cuda_wait(c->cuda, c->ready);
    }
    if (c->handle) {
        ls_nccl_memory_forget(c);
    }
    if (c->handle && !c->broken) {
        end_handle(c);
    }
    while (c->all) {
        ls_comm_request *request = c->all;
        c->all = request->next_all;
        const cudaEvent_t events[] = {request->begun, request->done, request->waits};
        for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
            if (events[i]) {
                cudaEventDestroy(events[i]);
            }
        }
        free(request);
    }
    if (c->ready) {
        cudaEventDestroy(c->ready);
    }
    if (c->stream) {
        cudaStreamDestroy(c->stream);
    }
    if (c->host) {
        c->host->ops->destroy(c->host);
    }
    free(c);
}

/* id NULL: none is needed. */
static ls_status prepare(nccl_comm *c, ncclUniqueId *id) {
    LS_CUDA_TRY(cudaSetDevice(c->cuda->ordinal), "choosing the device");
    LS_TRY(ls_cuda_stream_create(true, &c->stream)); /* others may wait for its operations */
    LS_CUDA_TRY(cudaEventCreateWithFlags(&c->ready, cudaEventDisableTiming), "creating an event");
    if (id) {
        memset(id, 0, sizeof *id);
    }
    if (id && c->base.rank == 0) {
        ncclResult_t result = ncclGetUniqueId(id);
        if (result != ncclSuccess) {
            return fail(c, result, "making an id");
        }
    }
    return LS_OK;
}

/* Creates over c->host, which c owns: from an id of its own. */
static ls_status open_comm(nccl_comm *c) {
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    LS_TRY(ls_comm_agree(c->host, prepare(c, &id)));
    LS_TRY(c->host->ops->broadcast(c->host, &id, sizeof id, 0));
    ncclResult_t result =
        ncclCommInitRankConfig(&c->handle, c->base.size, id, c->base.rank, &config);
    return ls_comm_agree(c->host, ls_nccl_check(c, result, "creating a communicator"));
}

#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 18, 3)
/* NCCL asks that nothing is under way on a communicator that is split. */
static ls_status drain(nccl_comm *c) {
    LS_CUDA_TRY(cudaEventRecord(c->ready, c->stream), "recording an event");
    LS_TRY(ls_cuda_wait(c->cuda, c->ready));
    return ls_nccl_poll(c);
}

static ls_status split_handle(nccl_comm *c, nccl_comm *whole, int color) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const ncclResult_t result =
        ncclCommSplit(whole->handle, color, whole->base.rank, &c->handle, &config);
    LS_TRY(ls_nccl_check(whole, result, "splitting a communicator"));
    return ls_nccl_check(c, ncclInProgress, "splitting a communicator");
}

/* Or from one with more ranks, over whose connections the new ranks meet. That one is given up by
 * all where it fails one rank: what the others have of it is good for nothing any more. */
static ls_status open_part(nccl_comm *c, nccl_comm *whole, int color) {
    LS_TRY(ls_comm_agree(c->host, prepare(c, NULL)));
    ls_status status = ls_comm_agree(whole->host, drain(whole));
    if (status == LS_OK) {
        status = ls_comm_agree(whole->host, split_handle(c, whole, color));
    }
    if (status != LS_OK && !whole->broken) {
        snprintf(whole->fault, sizeof whole->fault, "%.250s", ls_error_last()->message);
        give_up(whole);
    }
    return status;
}
#else
static ls_status open_part(nccl_comm *c, nccl_comm *whole, int color) {
    (void)whole;
    (void)color;
    return open_comm(c);
}
#endif

/* whole NULL: not a part. Takes host over. */
static ls_status create(ls_comm *host, ls_cuda_device *cuda, double deadline_s, nccl_comm *whole,
                        int color, ls_comm **comm) {
    nccl_comm *c;
    *comm = NULL;
    ls_status status = ls_calloc(1, sizeof *c, &c);
    if (ls_comm_agree(host, status) != LS_OK) {
        host->ops->destroy(host);
        return ls_error_last()->code;
    }
    c->base = (ls_comm){.ops = &NCCL_OPS,
                        .rank = host->rank,
                        .size = host->size,
                        .on_device = true,
                        .orders = true,
                        .host_side = host};
    c->host = host;
    c->cuda = cuda;
    c->before = c->behind = cuda->compute;
    c->deadline_s = deadline_s;
    c->pump.drive = drive;
    ls_pump_add(&c->pump);
    const int64_t free_bytes = ls_nccl_free_bytes();
    status = whole ? open_part(c, whole, color) : open_comm(c);
    if (status != LS_OK) {
        give_up(c); /* complete here, perhaps, and not elsewhere */
        release(c);
        return status;
    }
    ls_nccl_count_taken(free_bytes);
    cuda->idle = while_waiting;
    *comm = &c->base;
    return LS_OK;
}

ls_status ls_comm_nccl(const ls_comm_nccl_options *o, ls_comm **comm) {
    *comm = NULL;
    ls_status status = LS_OK;
    if (!ls_device_is_cuda(o->dev)) {
        status =
            LS_FAIL(LS_E_UNSUPPORTED, "NCCL works on GPUs, not on device '%s'", o->dev->describe);
    }
    LS_TRY(ls_comm_agree(o->host, status));
    ls_comm *host;
    LS_TRY(o->host->ops->duplicate(o->host, &host));
    return create(host, ls_cuda_of(o->dev), o->deadline_s > 0.0 ? o->deadline_s : 120.0, NULL, 0,
                  comm);
}

char *ls_comm_nccl_version(char *buf, size_t size) {
    int version = 0;
    ncclGetVersion(&version);
    snprintf(buf, size, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    return buf;
}

static void nccl_destroy(ls_comm *comm) {
    if (comm) {
        release((nccl_comm *)comm);
    }
}

static ls_status nccl_duplicate(ls_comm *comm, ls_comm **copy) {
    nccl_comm *c = (nccl_comm *)comm;
    ls_comm *host;
    *copy = NULL;
    LS_TRY(c->host->ops->duplicate(c->host, &host));
    return create(host, c->cuda, c->deadline_s, c, 0, copy);
}

static ls_status nccl_split(ls_comm *comm, int color, ls_comm **part) {
    nccl_comm *c = (nccl_comm *)comm;
    ls_comm *host;
    *part = NULL;
    LS_TRY(c->host->ops->split(c->host, color, &host));
    return create(host, c->cuda, c->deadline_s, c, color, part);
}

static ls_status nccl_alloc(ls_comm *comm, int64_t bytes, void **memory) {
    nccl_comm *c = (nccl_comm *)comm;
    *memory = NULL;
    LS_TRY(ls_comm_check_count(bytes, "memory"));
    const size_t wanted = bytes > 0 ? (size_t)bytes : 1;
    LS_TRY(ls_nccl_memory_take(wanted, memory));
    return c->cuda->base.ops->zero(&c->cuda->base, *memory, wanted);
}

static void nccl_give_back(ls_comm *comm, void *memory) {
    nccl_comm *c = (nccl_comm *)comm;
    if (memory) {
        c->cuda->base.ops->sync(&c->cuda->base);
        ls_nccl_memory_give_back(memory);
    }
}

static ls_status nccl_host(ls_comm *comm, int *lowest) {
    nccl_comm *c = (nccl_comm *)comm;
    return c->host->ops->host(c->host, lowest);
}

/* Also after all that this rank has started. */
static ls_status nccl_barrier(ls_comm *comm) {
    nccl_comm *c = (nccl_comm *)comm;
    LS_CUDA_TRY(cudaEventRecord(c->ready, c->stream), "recording an event");
    LS_TRY(ls_cuda_wait(c->cuda, c->ready));
    LS_TRY(ls_nccl_poll(c));
    return c->host->ops->barrier(c->host);
}

static ls_status nccl_broadcast(ls_comm *comm, void *buf, int64_t bytes, int root) {
    ls_comm *host = comm->host_side;
    LS_TRY(ls_nccl_poll((nccl_comm *)comm));
    return host->ops->broadcast(host, buf, bytes, root);
}

static ls_status nccl_all_reduce(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype,
                                 ls_reduce op) {
    ls_comm *host = comm->host_side;
    LS_TRY(ls_nccl_poll((nccl_comm *)comm));
    return host->ops->all_reduce(host, buf, count, dtype, op);
}

static ls_status nccl_all_gather(ls_comm *comm, const void *send, void *recv, int64_t bytes) {
    ls_comm *host = comm->host_side;
    LS_TRY(ls_nccl_poll((nccl_comm *)comm));
    return host->ops->all_gather(host, send, recv, bytes);
}

static const ls_comm_ops NCCL_OPS = {
    .name = "nccl",
    .destroy = nccl_destroy,
    .duplicate = nccl_duplicate,
    .split = nccl_split,
    .alloc = nccl_alloc,
    .alloc_common = ls_comm_no_common,
    .give_back = nccl_give_back,
    .host = nccl_host,
    .barrier = nccl_barrier,
    .broadcast = nccl_broadcast,
    .all_reduce = nccl_all_reduce,
    .all_gather = nccl_all_gather,
    .broadcast_start = ls_nccl_broadcast_start,
    .all_reduce_start = ls_nccl_all_reduce_start,
    .reduce_start = ls_nccl_reduce_start,
    .reduce_scatter_start = ls_nccl_reduce_scatter_start,
    .all_gather_start = ls_nccl_all_gather_start,
    .all_to_all_start = ls_nccl_all_to_all_start,
    .send_start = ls_nccl_send_start,
    .recv_start = ls_nccl_recv_start,
    .test = ls_nccl_test,
    .wait = ls_nccl_wait,
};
