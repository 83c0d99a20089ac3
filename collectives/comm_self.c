/* The back end of one rank: nothing is sent, every operation is complete when it returns. */
#include "collectives/combine.h"
#include "collectives/comm_impl.h"

#include "runtime/base/arena.h"
#include "runtime/device/device.h"

#include <stdlib.h>
#include <string.h>

typedef struct self_comm {
    ls_comm base;
    ls_device *dev; /* NULL: the host's memory */
} self_comm;

/* What a started operation returns; it has completed already, or is queued on the device. */
static char completed;

static ls_device *device_of(const ls_comm *comm) {
    return ((const self_comm *)comm)->dev;
}

static void destroy(ls_comm *comm) {
    if (comm && comm->host_side) {
        comm->host_side->ops->destroy(comm->host_side);
    }
    free(comm);
}

static ls_status duplicate(ls_comm *comm, ls_comm **copy) {
    return device_of(comm) ? ls_comm_self_on(device_of(comm), copy) : ls_comm_self(copy);
}

static ls_status split(ls_comm *comm, int color, ls_comm **part) {
    LS_TRY(ls_comm_check_color(color));
    return duplicate(comm, part);
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
    (void)buf;
    LS_TRY(ls_comm_check_rank(comm, root, "a broadcast from"));
    return ls_comm_check_count(bytes, "broadcast");
}

static ls_status all_reduce(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype, ls_reduce op) {
    (void)comm;
    (void)buf;
    (void)op;
    LS_TRY(ls_combine_check(dtype));
    return ls_comm_check_count(count, "reduction");
}

/* Of started operations. */
static ls_status copy_block(const ls_comm *comm, const char *from, char *to, int64_t bytes) {
    ls_device *dev = device_of(comm);
    if (bytes <= 0 || from == to) {
        return LS_OK;
    }
    if (dev) {
        return dev->ops->copy(dev, to, from, (size_t)bytes);
    }
    memcpy(to, from, (size_t)bytes);
    return LS_OK;
}

static ls_status all_gather(ls_comm *comm, const void *send, void *recv, int64_t bytes) {
    (void)comm;
    LS_TRY(ls_comm_check_count(bytes, "all-gather"));
    if (bytes > 0 && send != recv) {
        memcpy(recv, send, (size_t)bytes);
    }
    return LS_OK;
}

static ls_status broadcast_start(ls_comm *comm, void *buf, int64_t bytes, int root,
                                 ls_comm_request **request) {
    *request = (ls_comm_request *)&completed;
    return broadcast(comm, buf, bytes, root);
}

static ls_status all_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                                  ls_dtype dtype, ls_reduce op, ls_comm_request **request) {
    LS_TRY(all_reduce(comm, recv, count, dtype, op));
    *request = (ls_comm_request *)&completed;
    return copy_block(comm, send, recv, count * (int64_t)ls_dtype_bytes(dtype));
}

static ls_status reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                              ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request) {
    LS_TRY(ls_comm_check_rank(comm, root, "a reduction to"));
    return all_reduce_start(comm, send, recv, count, dtype, op, request);
}

static ls_status reduce_scatter_start(ls_comm *comm, const void *send, void *recv,
                                      const int64_t *counts, ls_dtype dtype, ls_reduce op,
                                      ls_comm_request **request) {
    return all_reduce_start(comm, send, recv, counts[0], dtype, op, request);
}

static ls_status all_gather_start(ls_comm *comm, const void *send, void *recv,
                                  const int64_t *counts, const int64_t *offsets,
                                  ls_comm_request **request) {
    LS_TRY(ls_comm_check_count(counts[0], "all-gather"));
    *request = (ls_comm_request *)&completed;
    return copy_block(comm, send, (char *)recv + offsets[0], counts[0]);
}

static ls_status all_to_all_start(ls_comm *comm, const void *send, const int64_t *send_counts,
                                  const int64_t *send_offsets, void *recv,
                                  const int64_t *recv_counts, const int64_t *recv_offsets,
                                  ls_comm_request **request) {
    LS_TRY(ls_comm_check_count(send_counts[0], "all-to-all"));
    LS_TRY(ls_comm_check_own(comm, send_counts[0], recv_counts[0]));
    *request = (ls_comm_request *)&completed;
    return copy_block(comm, (const char *)send + send_offsets[0], (char *)recv + recv_offsets[0],
                      send_counts[0]);
}

static ls_status alloc(ls_comm *comm, int64_t bytes, void **memory) {
    ls_device *dev = device_of(comm);
    LS_TRY(ls_comm_check_count(bytes, "memory"));
    return dev ? dev->ops->alloc(dev, (size_t)bytes, memory)
               : ls_comm_host_alloc(comm, bytes, memory);
}

static ls_status alloc_common(ls_comm *comm, int64_t bytes, void **memory) {
    return alloc(comm, bytes, memory);
}

static void give_back(ls_comm *comm, void *memory) {
    ls_device *dev = device_of(comm);
    if (!dev) {
        ls_comm_host_give_back(comm, memory);
    } else if (memory) {
        dev->ops->free(dev, memory);
    }
}

static ls_status send_start(ls_comm *comm, const void *buf, int64_t bytes, int to,
                            ls_comm_request **request) {
    (void)buf;
    (void)bytes;
    (void)request;
    return ls_comm_check_peer(comm, to, "a message to");
}

static ls_status recv_start(ls_comm *comm, void *buf, int64_t bytes, int from,
                            ls_comm_request **request) {
    (void)buf;
    (void)bytes;
    (void)request;
    return ls_comm_check_peer(comm, from, "a message from");
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

static const ls_comm_ops self_ops = LS_COMM_OPS("self");

ls_status ls_comm_self(ls_comm **comm) {
    self_comm *c;
    *comm = NULL;
    LS_TRY(ls_calloc(1, sizeof *c, &c));
    c->base = (ls_comm){.ops = &self_ops, .rank = 0, .size = 1};
    *comm = &c->base;
    return LS_OK;
}

ls_status ls_comm_self_on(ls_device *dev, ls_comm **comm) {
    ls_comm *host;
    if (dev->host_memory) {
        return ls_comm_self(comm);
    }
    LS_TRY(ls_comm_self(&host));
    ls_status status = ls_comm_self(comm);
    if (status != LS_OK) {
        free(host);
        return status;
    }
    (*comm)->on_device = true;
    (*comm)->host_side = host;
    ((self_comm *)*comm)->dev = dev;
    return LS_OK;
}
