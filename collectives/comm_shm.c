/* Ranks that share memory: windows, requests and the calls. What operations do is in
 * comm_shm_step.c. */
#include "collectives/combine.h"
#include "collectives/comm_shm_impl.h"
#include "runtime/base/arena.h"
#include "runtime/base/cpu.h"
#include "runtime/base/log.h"

#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

/* Looks at the others before the processor is offered: to the ranks that wait for it where there
 * are more of them than processors. */
enum { SPINS = 200, SPINS_SHARED = 4 };

static void destroy(ls_comm *comm);

/* Windows */

static void window_free(shm_window *w) {
    if (w->bases) {
        ls_shm_view_free(w);
        MPI_Win_free(&w->handle);
        free(w->bases);
        w->bases = NULL;
    }
}

size_t ls_comm_shm_bytes(void) {
    return offsetof(shm_part, in);
}

/* Every rank's part on pages of its own, or with `common` one for all, which is the lowest rank's.
 * Pages come to lie in the memory node of who touches them first. */
static ls_status window_take(shm_comm *c, int64_t bytes, bool common, shm_window *w) {
    const MPI_Comm handle = ls_mpi_handle(c->mpi);
    char **bases = NULL;
    ls_status status =
        ls_comm_agree(c->mpi, ls_calloc((size_t)c->base.size, sizeof *bases, &bases));
    if (status != LS_OK) {
        free(bases);
        return status;
    }
    MPI_Info info;
    MPI_Info_create(&info);
    MPI_Info_set(info, "alloc_shared_noncontig", "true");
    void *mine = NULL;
    const MPI_Aint taken = common && c->base.rank > 0 ? 0 : (MPI_Aint)(bytes + CACHE_LINE);
    int code = MPI_Win_allocate_shared(taken, 1, info, handle, &mine, &w->handle);
    MPI_Info_free(&info);
    if (code != MPI_SUCCESS) {
        free(bases);
        return ls_mpi_fail(code, "shared window");
    }
    for (int rank = 0; rank < c->base.size; rank++) {
        MPI_Aint size;
        int unit;
        void *base = NULL;
        MPI_Win_shared_query(w->handle, common ? 0 : rank, &size, &unit, &base);
        /* The same offset in every process, since mappings begin at pages. */
        bases[rank] = (char *)base + (CACHE_LINE - (uintptr_t)base % CACHE_LINE) % CACHE_LINE;
    }
    w->bases = bases;
    ls_shm_view_take(w, c->base.size, bytes);
    return LS_OK;
}

/* Would `shares` of `bytes` fit the file system that windows lie in? Touching a page that
 * does not would end the process, and where the library itself finds no room on one rank (Open MPI
 * 4.1) the others wait for ever. In containers it is small (docker: 64 MiB unless --shm-size). */
static bool has_room(int shares, int64_t bytes) {
    struct statvfs fs;
    const double needed = 1.05 * (double)(bytes + CACHE_LINE) * shares;
    return statvfs("/dev/shm", &fs) != 0 || needed <= (double)fs.f_bavail * (double)fs.f_frsize;
}

/* Says so where there is none. All ranks must want the same: plans name regions by their number. */
static ls_status find_room(shm_comm *c, int shares, int64_t bytes, const char *instead,
                           bool *room) {
    const int64_t which = 2 * c->memory->next_id + (shares == 1);
    int64_t least[] = {has_room(shares, bytes), bytes, -bytes, which, -which};
    LS_TRY(c->mpi->ops->all_reduce(c->mpi, least, sizeof least / sizeof *least, LS_I64, LS_MIN));
    LS_TRY(ls_comm_check_count(least[1], "memory"));
    if (least[1] != -least[2] || least[3] != -least[4]) {
        return LS_FAIL(LS_E_SHAPE,
                       "the ranks allocate different memory: %lld to %lld bytes%s; all must make "
                       "the same calls with the same size",
                       (long long)least[1], (long long)-least[2],
                       least[3] == -least[4] ? "" : ", in common only on some or one more often");
    }
    *room = least[0];
    if (!*room && c->base.rank == 0) {
        ls_log_warn("/dev/shm has no room for %d x %lld bytes: %s; enlarge it (docker: --shm-size)",
                    shares, (long long)bytes, instead);
    }
    return LS_OK;
}

/* A rank's memory, or its part of what all have in common, is zeroed by it. */
static ls_status take_region(shm_comm *c, int64_t bytes, bool common, void **memory) {
    const int me = c->base.rank, size = c->base.size;
    const int64_t first = common ? ls_slice_first(bytes, size, me) : 0;
    const int64_t end = common ? ls_slice_first(bytes, size, me + 1) : bytes;
    shm_region *region = NULL;
    ls_status status = ls_comm_agree(c->mpi, ls_calloc(1, sizeof *region, &region));
    if (status == LS_OK) {
        status = window_take(c, bytes, common, &region->window);
    }
    if (status == LS_OK) {
        ls_shm_touch(&region->window, region->window.bases[me] + first, end - first);
        status = c->mpi->ops->barrier(c->mpi);
    }
    if (status != LS_OK) {
        if (region) {
            window_free(&region->window);
        }
        free(region);
        return status;
    }
    region->id = c->memory->next_id++;
    region->bytes = bytes;
    region->common = common;
    region->next = c->memory->regions;
    c->memory->regions = region;
    *memory = region->window.bases[me];
    return LS_OK;
}

static ls_status alloc(ls_comm *comm, int64_t bytes, void **memory) {
    shm_comm *c = (shm_comm *)comm;
    bool room;
    LS_TRY(
        find_room(c, comm->size, bytes, "they are private, and collectives over them copy", &room));
    return room ? take_region(c, bytes, false, memory)
                : ls_comm_agree(c->mpi, ls_comm_host_alloc(comm, bytes, memory));
}

static ls_status alloc_common(ls_comm *comm, int64_t bytes, void **memory) {
    shm_comm *c = (shm_comm *)comm;
    bool room;
    LS_TRY(find_room(c, 1, bytes, "the ranks do not have them in common", &room));
    return room ? take_region(c, bytes, true, memory)
                : LS_FAIL(LS_E_UNSUPPORTED, "/dev/shm has no room for %lld bytes in common",
                          (long long)bytes);
}

static void give_back(ls_comm *comm, void *memory) {
    shm_memory *all = ((shm_comm *)comm)->memory;
    for (shm_region **at = &all->regions; memory && *at; at = &(*at)->next) {
        shm_region *region = *at;
        if (region->window.bases[comm->rank] == memory) {
            *at = region->next;
            window_free(&region->window);
            free(region);
            return;
        }
    }
    ls_comm_host_give_back(comm, memory);
}

/* Requests */

static ls_status request_take(shm_comm *c, shm_kind kind, ls_comm_request **out) {
    ls_comm_request *r = c->free;
    if (r) {
        c->free = r->next;
    } else {
        const int64_t size = c->base.size;
        LS_TRY(ls_calloc(1, sizeof *r, &r));
        ls_status status = ls_calloc((size_t)(4 * size), sizeof *r->send_counts, &r->send_counts);
        if (status != LS_OK) {
            free(r);
            return status;
        }
        r->send_offsets = r->send_counts + size;
        r->recv_counts = r->send_counts + 2 * size;
        r->recv_offsets = r->send_counts + 3 * size;
        r->next_all = c->all;
        c->all = r;
    }
    r->kind = kind;
    r->next = NULL;
    r->status = LS_OK;
    r->dtype = LS_U8;
    r->op = LS_SUM;
    r->root = EVERYBODY;
    r->send = NULL;
    r->recv = NULL;
    r->count = r->step = 0;
    r->heard = 0;
    r->announced = r->done = r->pushes = r->owes = r->common = r->yields = false;
    r->message = NULL;
    *out = r;
    return LS_OK;
}

/* Puts an operation behind those that are under way. */
static ls_status enqueue(shm_comm *c, ls_comm_request *r, ls_comm_request **request) {
    if (c->head) {
        c->tail->next = r;
    } else {
        c->head = r;
    }
    c->tail = r;
    c->pump.pending++;
    *request = r;
    ls_shm_drive(&c->pump);
    return LS_OK;
}

/* What has been done is given back. */
static ls_status end(shm_comm *c, ls_comm_request *r) {
    const ls_status status = r->status;
    r->next = c->free;
    c->free = r;
    return status;
}

static ls_status test(ls_comm *comm, ls_comm_request *r, bool *done) {
    shm_comm *c = (shm_comm *)comm;
    if (r->kind == SHM_MESSAGE) {
        LS_TRY(c->mpi->ops->test(c->mpi, r->message, done));
    } else {
        ls_pump_all();
        *done = r->done;
    }
    return *done ? end(c, r) : LS_OK;
}

/* Looks at this communicator's ranks most of the time, and now and then at all else. */
static ls_status wait_for(ls_comm *comm, ls_comm_request *r) {
    shm_comm *c = (shm_comm *)comm;
    if (r->kind == SHM_MESSAGE) {
        LS_TRY(c->mpi->ops->wait(c->mpi, r->message));
        return end(c, r);
    }
    c->waits = true;
    for (int looks = 1; !r->done; looks++) {
        ls_shm_drive(&c->pump);
        if (looks % c->spins == 0 && !r->done) {
            ls_pump_all();
            sched_yield();
        }
    }
    c->waits = false;
    return end(c, r);
}

/* Operations */

static ls_status reduce_to(ls_comm *comm, const void *send, void *recv, int64_t count,
                           ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request) {
    ls_comm_request *r;
    LS_TRY(ls_combine_check(dtype));
    LS_TRY(ls_comm_check_count(count, "reduction"));
    LS_TRY(request_take((shm_comm *)comm, SHM_REDUCE, &r));
    r->send = send;
    r->recv = recv;
    r->count = count;
    r->dtype = dtype;
    r->op = op;
    r->root = root;
    return enqueue((shm_comm *)comm, r, request);
}

static ls_status all_reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                                  ls_dtype dtype, ls_reduce op, ls_comm_request **request) {
    return reduce_to(comm, send, recv, count, dtype, op, EVERYBODY, request);
}

static ls_status reduce_start(ls_comm *comm, const void *send, void *recv, int64_t count,
                              ls_dtype dtype, ls_reduce op, int root, ls_comm_request **request) {
    LS_TRY(ls_comm_check_rank(comm, root, "a reduction to"));
    return reduce_to(comm, send, recv, count, dtype, op, root, request);
}

static ls_status reduce_scatter_start(ls_comm *comm, const void *send, void *recv,
                                      const int64_t *counts, ls_dtype dtype, ls_reduce op,
                                      ls_comm_request **request) {
    ls_comm_request *r;
    LS_TRY(ls_combine_check(dtype));
    for (int rank = 0; rank < comm->size; rank++) {
        LS_TRY(ls_comm_check_count(counts[rank], "reduction"));
    }
    LS_TRY(request_take((shm_comm *)comm, SHM_SCATTER, &r));
    r->send = send;
    r->recv = recv;
    r->dtype = dtype;
    r->op = op;
    int64_t offset = 0;
    for (int rank = 0; rank < comm->size; rank++) {
        r->send_counts[rank] = counts[rank];
        r->send_offsets[rank] = offset;
        offset += counts[rank];
    }
    r->count = offset;
    return enqueue((shm_comm *)comm, r, request);
}

static ls_status broadcast_start(ls_comm *comm, void *buf, int64_t bytes, int root,
                                 ls_comm_request **request) {
    ls_comm_request *r;
    LS_TRY(ls_comm_check_count(bytes, "broadcast"));
    LS_TRY(ls_comm_check_rank(comm, root, "a broadcast from"));
    LS_TRY(request_take((shm_comm *)comm, SHM_BROADCAST, &r));
    r->send = buf;
    r->recv = buf;
    r->count = bytes;
    r->root = root;
    return enqueue((shm_comm *)comm, r, request);
}

static ls_status all_gather_start(ls_comm *comm, const void *send, void *recv,
                                  const int64_t *counts, const int64_t *offsets,
                                  ls_comm_request **request) {
    const size_t bytes = (size_t)comm->size * sizeof *counts;
    ls_comm_request *r;
    int64_t total = 0;
    for (int rank = 0; rank < comm->size; rank++) {
        LS_TRY(ls_comm_check_count(counts[rank], "all-gather"));
        total += counts[rank];
    }
    LS_TRY(request_take((shm_comm *)comm, SHM_GATHER, &r));
    r->send = send;
    r->recv = recv;
    r->count = total;
    memcpy(r->send_counts, counts, bytes);
    memcpy(r->recv_counts, counts, bytes);
    memcpy(r->recv_offsets, offsets, bytes);
    ls_shm_copy_own((shm_comm *)comm, r);
    return enqueue((shm_comm *)comm, r, request);
}

static ls_status all_to_all_start(ls_comm *comm, const void *send, const int64_t *send_counts,
                                  const int64_t *send_offsets, void *recv,
                                  const int64_t *recv_counts, const int64_t *recv_offsets,
                                  ls_comm_request **request) {
    const size_t bytes = (size_t)comm->size * sizeof *send_counts;
    const int me = comm->rank;
    ls_comm_request *r;
    for (int rank = 0; rank < comm->size; rank++) {
        LS_TRY(ls_comm_check_count(send_counts[rank], "all-to-all"));
        LS_TRY(ls_comm_check_count(recv_counts[rank], "all-to-all"));
    }
    LS_TRY(ls_comm_check_own(comm, send_counts[me], recv_counts[me]));
    LS_TRY(request_take((shm_comm *)comm, SHM_EXCHANGE, &r));
    r->send = send;
    r->recv = recv;
    memcpy(r->send_counts, send_counts, bytes);
    memcpy(r->send_offsets, send_offsets, bytes);
    memcpy(r->recv_counts, recv_counts, bytes);
    memcpy(r->recv_offsets, recv_offsets, bytes);
    shm_copy(r->recv + recv_offsets[me], r->send + send_offsets[me], send_counts[me]);
    return enqueue((shm_comm *)comm, r, request);
}

/* Puts a short message behind those to or from the same rank. */
static ls_status post(shm_comm *c, ls_comm_request *r, ls_comm_request **queue) {
    while (*queue) {
        queue = &(*queue)->next;
    }
    *queue = r;
    c->letters++;
    c->pump.pending++;
    ls_shm_deliver(c);
    return LS_OK;
}

static ls_status send_start(ls_comm *comm, const void *buf, int64_t bytes, int to,
                            ls_comm_request **request) {
    shm_comm *c = (shm_comm *)comm;
    LS_TRY(ls_comm_check_count(bytes, "message"));
    LS_TRY(ls_comm_check_peer(comm, to, "a message to"));
    const bool letter = bytes <= LETTER_BYTES && c->mail[to].out;
    LS_TRY(request_take(c, letter ? SHM_SEND : SHM_MESSAGE, request));
    if (!letter) {
        return c->mpi->ops->send_start(c->mpi, buf, bytes, to, &(*request)->message);
    }
    (*request)->send = buf;
    (*request)->count = bytes;
    (*request)->root = to;
    return post(c, *request, &c->mail[to].sends);
}

static ls_status recv_start(ls_comm *comm, void *buf, int64_t bytes, int from,
                            ls_comm_request **request) {
    shm_comm *c = (shm_comm *)comm;
    LS_TRY(ls_comm_check_count(bytes, "message"));
    LS_TRY(ls_comm_check_peer(comm, from, "a message from"));
    const bool letter = bytes <= LETTER_BYTES && c->mail[from].in;
    LS_TRY(request_take(c, letter ? SHM_RECV : SHM_MESSAGE, request));
    if (!letter) {
        return c->mpi->ops->recv_start(c->mpi, buf, bytes, from, &(*request)->message);
    }
    (*request)->recv = buf;
    (*request)->count = bytes;
    (*request)->root = from;
    return post(c, *request, &c->mail[from].recvs);
}

static ls_status barrier(ls_comm *comm) {
    ls_comm_request *r;
    LS_TRY(request_take((shm_comm *)comm, SHM_BARRIER, &r));
    LS_TRY(enqueue((shm_comm *)comm, r, &r));
    return wait_for(comm, r);
}

static ls_status broadcast(ls_comm *comm, void *buf, int64_t bytes, int root) {
    return ls_comm_broadcast_by_start(comm, buf, bytes, root);
}

static ls_status all_reduce(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype, ls_reduce op) {
    return ls_comm_all_reduce_by_start(comm, buf, count, dtype, op);
}

static ls_status all_gather(ls_comm *comm, const void *send, void *recv, int64_t bytes) {
    ls_comm_request *r;
    LS_TRY(ls_comm_check_count(bytes, "all-gather"));
    LS_TRY(request_take((shm_comm *)comm, SHM_GATHER, &r));
    r->send = send;
    r->recv = recv;
    r->count = bytes * comm->size;
    for (int rank = 0; rank < comm->size; rank++) {
        r->send_counts[rank] = r->recv_counts[rank] = bytes;
        r->recv_offsets[rank] = rank * bytes;
    }
    ls_shm_copy_own((shm_comm *)comm, r);
    LS_TRY(enqueue((shm_comm *)comm, r, &r));
    return wait_for(comm, r);
}

/* Communicators */

static ls_status host(ls_comm *comm, int *lowest) {
    (void)comm;
    *lowest = 0;
    return LS_OK;
}

static ls_status wrap(ls_comm *mpi, shm_memory *memory, ls_comm **comm);

static ls_status duplicate(ls_comm *comm, ls_comm **copy) {
    shm_comm *c = (shm_comm *)comm;
    ls_comm *mpi;
    LS_TRY(c->mpi->ops->duplicate(c->mpi, &mpi));
    return wrap(mpi, c->memory, copy);
}

static ls_status split(ls_comm *comm, int color, ls_comm **part) {
    ls_comm *mpi = ((shm_comm *)comm)->mpi;
    LS_TRY(mpi->ops->split(mpi, color, &mpi));
    return wrap(mpi, NULL, part);
}

static const ls_comm_ops shm_ops = LS_COMM_OPS("shm");

static void destroy(ls_comm *comm) {
    shm_comm *c = (shm_comm *)comm;
    ls_pump_remove(&c->pump);
    if (--c->memory->users == 0) {
        while (c->memory->regions) {
            give_back(comm, c->memory->regions->window.bases[comm->rank]);
        }
        free(c->memory);
    }
    window_free(&c->window);
    for (ls_comm_request *r = c->all, *next; r; r = next) {
        next = r->next_all;
        free(r->send_counts);
        free(r);
    }
    c->mpi->ops->destroy(c->mpi);
    free(c->from);
    free(c->to);
    free(c->mail);
    free(c);
}

/* For the windows of messages, without which there is no communicator. */
static ls_status check_room(const shm_comm *c, int64_t bytes) {
    if (has_room(c->base.size, bytes)) {
        return LS_OK;
    }
    return LS_FAIL(
        LS_E_MEMORY,
        "/dev/shm has no room for %d x %lld bytes, by which the ranks of this host talk; "
        "enlarge it (docker: --shm-size), remove what old jobs have left there, or set "
        "parallel.transport=mpi",
        c->base.size, (long long)bytes);
}

/* Takes mpi over, also when it fails. memory: of the communicator that this is a duplicate of. */
static ls_status wrap(ls_comm *mpi, shm_memory *memory, ls_comm **comm) {
    shm_comm *c = NULL;
    const size_t size = (size_t)mpi->size;
    ls_status status = ls_calloc(1, sizeof *c, &c);
    if (status == LS_OK) {
        status = ls_calloc(size, sizeof *c->from, &c->from);
    }
    if (status == LS_OK) {
        status = ls_calloc(size + 1, sizeof *c->to, &c->to);
    }
    if (status == LS_OK) {
        status = ls_calloc(size, sizeof *c->mail, &c->mail);
    }
    if (status == LS_OK && !memory) {
        status = ls_calloc(1, sizeof *c->memory, &c->memory);
    }
    status = ls_comm_agree(mpi, status);
    if (status == LS_OK) {
        c->base = (ls_comm){.ops = &shm_ops, .rank = mpi->rank, .size = mpi->size};
        c->mpi = mpi;
        c->pump.drive = ls_shm_drive;
        c->channels = shm_channels(mpi->size);
        c->spins = ls_cpu_available() < mpi->size ? SPINS_SHARED : SPINS;
        status = ls_comm_agree(mpi, check_room(c, shm_part_bytes(mpi->size)));
    }
    if (status == LS_OK) {
        status = window_take(c, shm_part_bytes(mpi->size), false, &c->window);
    }
    if (status == LS_OK) {
        /* Stages are written before they are read: not every communicator uses its own. */
        shm_part *part = shm_part_of(c, mpi->rank);
        const size_t first = offsetof(shm_part, channels);
        memset(part, 0, offsetof(shm_part, in));
        memset(part->channels, 0, (size_t)shm_part_bytes(mpi->size) - first);
        ls_shm_open_channels(c);
        status = mpi->ops->barrier(mpi);
    }
    if (status != LS_OK) {
        if (c) {
            window_free(&c->window);
            free(c->memory);
            free(c->from);
            free(c->to);
            free(c->mail);
        }
        free(c);
        mpi->ops->destroy(mpi);
        return status;
    }
    c->memory = memory ? memory : c->memory;
    c->memory->users++;
    ls_pump_add(&c->pump);
    *comm = &c->base;
    return LS_OK;
}

ls_status ls_comm_shm(ls_comm *mpi, ls_comm **comm) {
    ls_status status = LS_OK;
    int lowest = 0;
    if (strcmp(mpi->ops->name, "mpi") != 0) {
        return LS_FAIL(LS_E_UNSUPPORTED, "shared windows over the back end '%s'; mpi is needed",
                       mpi->ops->name);
    }
    LS_TRY(mpi->ops->host(mpi, &lowest));
    if (lowest != 0) {
        status = LS_FAIL(LS_E_UNSUPPORTED, "the ranks lie on several hosts; shared windows need "
                                           "those of one");
    }
    LS_TRY(ls_comm_agree(mpi, status));
    LS_TRY(mpi->ops->duplicate(mpi, &mpi));
    return wrap(mpi, NULL, comm);
}
