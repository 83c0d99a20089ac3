/* Memory that NCCL can register. Every communicator registers it with its own first operation on
 * it: NCCL reads and writes in place only what the communicator at hand knows, and parts and copies
 * begin with nothing. */
#include "collectives/nccl/comm_nccl.h"
#include "collectives/nccl/comm_nccl_impl.h"
#include "runtime/base/arena.h"

#include <stdlib.h>

#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 19, 0)
#define CAN_REGISTER 1
#else
#define CAN_REGISTER 0
#endif

typedef struct registration {
    struct registration *next;
    const nccl_comm *comm;
    void *handle; /* NULL: refused, which costs copies */
} registration;

typedef struct nccl_memory {
    struct nccl_memory *next;
    char *base;
    size_t bytes;
    bool own; /* NCCL's, not CUDA's */
    registration *registrations;
} nccl_memory;

/* Of all communicators. */
static nccl_memory *memories;
static int64_t taken_bytes;

int64_t ls_nccl_free_bytes(void) {
    size_t free_bytes = 0, total_bytes = 0;
    return cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess ? (int64_t)free_bytes : 0;
}

void ls_nccl_count_taken(int64_t free_before) {
    taken_bytes += free_before - ls_nccl_free_bytes();
}

int64_t ls_comm_nccl_bytes(void) {
    return taken_bytes;
}

/* NCCL takes memory that it can also share by handles, which a container or virtual machine may
 * refuse: plain memory serves then, with copies where NCCL cannot share it. */
ls_status ls_nccl_memory_take(size_t bytes, void **memory) {
    nccl_memory *m;
    LS_TRY(ls_calloc(1, sizeof *m, &m));
    void *base = NULL;
#if CAN_REGISTER
    const bool own = ncclMemAlloc(&base, bytes) == ncclSuccess;
#else
    const bool own = false;
#endif
    if (!own && cudaMalloc(&base, bytes) != cudaSuccess) {
        (void)cudaGetLastError(); /* it is dealt with here */
        free(m);
        return LS_FAIL(LS_E_MEMORY, "the GPU found no room for %zu bytes that NCCL can register",
                       bytes);
    }
    *m = (nccl_memory){.next = memories, .base = base, .bytes = bytes, .own = own};
    memories = m;
    *memory = base;
    return LS_OK;
}

static void end_registration(registration *r) {
#if CAN_REGISTER
    if (r->handle && !r->comm->broken) {
        ncclCommDeregister(r->comm->handle, r->handle);
    }
#endif
    free(r);
}

void ls_nccl_memory_give_back(void *memory) {
    nccl_memory **at = &memories;
    while (*at && (*at)->base != memory) {
        at = &(*at)->next;
    }
    nccl_memory *m = *at;
    if (!m) {
        return;
    }
    *at = m->next;
    for (registration *r = m->registrations, *next; r; r = next) {
        next = r->next;
        end_registration(r);
    }
#if CAN_REGISTER
    if (m->own) {
        ncclMemFree(m->base);
        m->base = NULL;
    }
#endif
    cudaFree(m->base);
    free(m);
}

static nccl_memory *find(const void *at) {
    nccl_memory *m = memories;
    while (m && ((const char *)at < m->base || (const char *)at >= m->base + m->bytes)) {
        m = m->next;
    }
    return m;
}

bool ls_nccl_memory_has(const void *at) {
    return find(at) != NULL;
}

void ls_nccl_memory_use(const nccl_comm *c, const void *at) {
#if CAN_REGISTER
    nccl_memory *m = find(at);
    registration *r = m ? m->registrations : NULL;
    while (r && r->comm != c) {
        r = r->next;
    }
    if (!m || r || ls_calloc(1, sizeof *r, &r) != LS_OK) { /* without one there are copies */
        return;
    }
    r->comm = c;
    if (ncclCommRegister(c->handle, m->base, m->bytes, &r->handle) != ncclSuccess) {
        r->handle = NULL;
    }
    r->next = m->registrations;
    m->registrations = r;
#else
    (void)c;
    (void)at;
#endif
}

void ls_nccl_memory_forget(const nccl_comm *c) {
    for (nccl_memory *m = memories; m; m = m->next) {
        registration **at = &m->registrations;
        while (*at && (*at)->comm != c) {
            at = &(*at)->next;
        }
        registration *r = *at;
        if (r) {
            *at = r->next;
            end_registration(r);
        }
    }
}
