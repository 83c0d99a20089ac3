#include "collectives/comm_impl.h"

#include "runtime/base/arena.h"
#include "runtime/base/clock.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MEMORY_ALIGN = 64, HUGE_PAGE = 2 << 20 };

/* Pumps with nothing under way are driven each so many turns: the library may hold messages whose
 * sends have ended for this process. */
enum { IDLE_TURNS = 64 };

/* Looks at the peers before the processor is offered to others; time after which those who may
 * sleep between looks, and for how long: an eighth of what they have waited, since a look costs
 * what ranks that still compute could use. */
enum { SPINS = 100, AWAKE_NS = 100000, LEAST_NAP_NS = 50000, MOST_NAP_NS = 300000 };
enum { SLICE_NS = 100000 };

ls_status ls_comm_check_count(int64_t count, const char *what) {
    if (count < 0) {
        return LS_FAIL(LS_E_SHAPE, "%s of %lld bytes or elements; 0 is the least", what,
                       (long long)count);
    }
    return LS_OK;
}

ls_status ls_comm_check_rank(const ls_comm *comm, int rank, const char *what) {
    if (rank < 0 || rank >= comm->size) {
        return LS_FAIL(LS_E_SHAPE, "%s rank %d of %d", what, rank, comm->size);
    }
    return LS_OK;
}

ls_status ls_comm_check_peer(const ls_comm *comm, int rank, const char *what) {
    LS_TRY(ls_comm_check_rank(comm, rank, what));
    if (rank == comm->rank) {
        return LS_FAIL(LS_E_SHAPE, "%s rank %d by itself; messages go to another rank", what, rank);
    }
    return LS_OK;
}

ls_status ls_comm_check_color(int color) {
    if (color < 0) {
        return LS_FAIL(LS_E_SHAPE, "color %d of a group; 0 is the least", color);
    }
    return LS_OK;
}

ls_status ls_comm_check_own(const ls_comm *comm, int64_t sent, int64_t expected) {
    if (sent != expected) {
        return LS_FAIL(LS_E_SHAPE, "rank %d sends itself %lld bytes and expects %lld", comm->rank,
                       (long long)sent, (long long)expected);
    }
    return LS_OK;
}

bool ls_waiting_may_nap;

void ls_waiting_short_slices(bool wanted) {
    const struct { /* as of version 0 of sched_setattr(2), whose header does not go with sched.h */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } wish = {.size = sizeof wish,
              .policy = SCHED_OTHER,
              .nice = getpriority(PRIO_PROCESS, 0),
              .runtime = wanted ? SLICE_NS : 0};
    if (sched_getscheduler(0) == SCHED_OTHER) {
        syscall(SYS_sched_setattr, 0, &wish, 0);
    }
}

static void nap(uint64_t waited_ns) {
    const int64_t wish_ns = ls_min_i64((int64_t)waited_ns / 8, MOST_NAP_NS);
    const struct timespec time = {.tv_nsec = wish_ns > LEAST_NAP_NS ? wish_ns : LEAST_NAP_NS};
    nanosleep(&time, NULL);
}

void ls_waiting_look(ls_waiting *w) {
    if (!ls_waiting_may_nap) {
        if (++w->looks % SPINS == 0) {
            sched_yield();
        }
        return;
    }
    const uint64_t now_ns = ls_clock_ns();
    w->begin_ns = w->begin_ns > 0 ? w->begin_ns : now_ns;
    if (now_ns > w->begin_ns + AWAKE_NS) {
        if (!w->naps) {
            ls_waiting_short_slices(true);
        }
        w->naps = true;
        nap(now_ns - w->begin_ns);
    } else if (++w->looks % SPINS == 0) {
        sched_yield();
    }
}

void ls_waiting_end(const ls_waiting *w) {
    if (w->naps) {
        ls_waiting_short_slices(false);
    }
}

ls_status ls_comm_wait_asleep(ls_comm *comm, ls_comm_request *request) {
    const bool may = ls_waiting_may_nap;
    ls_waiting_may_nap = true;
    ls_status status = comm->ops->wait(comm, request);
    ls_waiting_may_nap = may;
    return status;
}

ls_status ls_comm_wait_by_test(ls_comm *comm, ls_comm_request *request) {
    ls_waiting waiting = {0};
    bool done = false;
    ls_status status = comm->ops->test(comm, request, &done);
    while (status == LS_OK && !done) {
        ls_waiting_look(&waiting);
        status = comm->ops->test(comm, request, &done);
    }
    ls_waiting_end(&waiting);
    return status;
}

ls_status ls_comm_broadcast_by_start(ls_comm *comm, void *buf, int64_t bytes, int root) {
    ls_comm_request *request;
    LS_TRY(comm->ops->broadcast_start(comm, buf, bytes, root, &request));
    return comm->ops->wait(comm, request);
}

ls_status ls_comm_all_reduce_by_start(ls_comm *comm, void *buf, int64_t count, ls_dtype dtype,
                                      ls_reduce op) {
    ls_comm_request *request;
    LS_TRY(comm->ops->all_reduce_start(comm, buf, buf, count, dtype, op, &request));
    return comm->ops->wait(comm, request);
}

ls_status ls_comm_all_gather_by_start(ls_comm *comm, const void *send, void *recv, int64_t bytes) {
    int64_t *counts;
    ls_comm_request *request;
    LS_TRY(ls_comm_check_count(bytes, "all-gather"));
    LS_TRY(ls_calloc(2 * (size_t)comm->size, sizeof *counts, &counts));
    int64_t *offsets = counts + comm->size;
    for (int r = 0; r < comm->size; r++) {
        counts[r] = bytes;
        offsets[r] = r * bytes;
    }
    ls_status status = comm->ops->all_gather_start(comm, send, recv, counts, offsets, &request);
    free(counts);
    LS_TRY(status);
    return comm->ops->wait(comm, request);
}

ls_status ls_comm_host_alloc(ls_comm *comm, int64_t bytes, void **memory) {
    (void)comm;
    LS_TRY(ls_comm_check_count(bytes, "memory"));
    const size_t align = bytes < HUGE_PAGE ? MEMORY_ALIGN : HUGE_PAGE;
    const size_t padded = ((size_t)bytes / align + 1) * align;
    *memory = aligned_alloc(align, padded);
    if (!*memory) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %zu bytes", padded);
    }
    if (align == HUGE_PAGE) { /* advice only: failing costs speed; what lies behind takes nothing */
        madvise(*memory, (size_t)bytes / align * align, MADV_HUGEPAGE);
    }
    memset(*memory, 0, (size_t)bytes);
    return LS_OK;
}

void ls_comm_host_give_back(ls_comm *comm, void *memory) {
    (void)comm;
    free(memory);
}

ls_status ls_comm_no_common(ls_comm *comm, int64_t bytes, void **memory) {
    (void)bytes;
    *memory = NULL;
    return LS_FAIL(LS_E_UNSUPPORTED, "memory in common with the back end '%s'; shm is needed",
                   comm->ops->name);
}

_Atomic uint64_t ls_moved_ns;

static ls_pump *pumps;
static bool driving;

void ls_pump_add(ls_pump *pump) {
    pump->next = pumps;
    pumps = pump;
}

void ls_pump_remove(ls_pump *pump) {
    for (ls_pump **p = &pumps; *p; p = &(*p)->next) {
        if (*p == pump) {
            *p = pump->next;
            return;
        }
    }
}

void ls_pump_all(void) {
    static unsigned turns;
    if (driving) {
        return;
    }
    driving = true;
    const bool all = turns++ % IDLE_TURNS == 0;
    for (ls_pump *p = pumps; p; p = p->next) {
        if (p->pending > 0 || all) {
            p->drive(p);
        }
    }
    driving = false;
}

int ls_pump_pending(void) {
    int pending = 0;
    for (const ls_pump *p = pumps; p; p = p->next) {
        pending += p->pending;
    }
    return pending;
}
