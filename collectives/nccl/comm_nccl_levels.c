/* Two levels of NCCL communicators (comm_hier.h): their streams, and which ranks are where. */
#include "collectives/comm_choose.h"
#include "collectives/comm_hier.h"
#include "collectives/nccl/comm_nccl.h"
#include "collectives/nccl/comm_nccl_impl.h"
#include "runtime/base/arena.h"

#include <stdlib.h>

/* The stream beside the device's, in whose order stages follow one another. */
typedef struct side {
    ls_cuda_device *cuda;
    cudaStream_t stream;
    cudaEvent_t ready;
    uint64_t domain; /* of this rank */
} side;

static void side_destroy(void *context) {
    side *s = context;
    if (s && s->ready) {
        cudaEventDestroy(s->ready);
    }
    if (s && s->stream) {
        cudaStreamDestroy(s->stream);
    }
    free(s);
}

static ls_status side_follow(void *context) {
    side *s = context;
    LS_CUDA_TRY(cudaEventRecord(s->ready, s->cuda->compute), "recording an event");
    LS_CUDA_TRY(cudaStreamWaitEvent(s->stream, s->ready, 0), "waiting for an event");
    return LS_OK;
}

static ls_status side_create(ls_cuda_device *cuda, uint64_t domain, side **out) {
    side *s;
    LS_TRY(ls_calloc(1, sizeof *s, &s));
    s->cuda = cuda;
    s->domain = domain;
    *out = s;
    LS_CUDA_TRY(cudaSetDevice(cuda->ordinal), "choosing the device");
    LS_TRY(ls_cuda_stream_create(true, &s->stream));
    LS_CUDA_TRY(cudaEventCreateWithFlags(&s->ready, cudaEventDisableTiming), "creating an event");
    return LS_OK;
}

static void release(ls_comm *comm) {
    if (comm) {
        comm->ops->destroy(comm);
    }
}

static void side_set_device(void *context, ls_comm *comm, bool device) {
    const side *s = context;
    nccl_comm *c = (nccl_comm *)comm;
    if (c->before == s->stream) { /* not of the flat one */
        c->behind = device ? s->cuda->compute : s->stream;
    }
}

static void put_beside(ls_comm *comm, const side *s) {
    nccl_comm *c = (nccl_comm *)comm;
    c->before = c->behind = s->stream;
}

static ls_status compose(void *context, ls_comm *flat, ls_comm **comm);

/* Takes flat over, whose ranks lie evenly. */
static ls_status make_levels(ls_comm *flat, ls_spread p, uint64_t domain, ls_comm **comm) {
    ls_cuda_device *cuda = ((nccl_comm *)flat)->cuda;
    ls_comm *inside = NULL, *across = NULL, *up = NULL;
    side *s = NULL;
    ls_status status = ls_comm_agree(flat, side_create(cuda, domain, &s));
    LS_TRY_GOTO(status, failed);
    LS_TRY_GOTO(flat->ops->split(flat, p.first, &inside), failed);
    LS_TRY_GOTO(flat->ops->split(flat, p.inside, &across), failed);
    LS_TRY_GOTO(inside->ops->duplicate(inside, &up), failed);
    put_beside(inside, s);
    put_beside(across, s);
    put_beside(up, s);
    const ls_hier_order order = {.context = s,
                                 .follow = side_follow,
                                 .set_device = side_set_device,
                                 .compose = compose,
                                 .destroy = side_destroy};
    return ls_comm_hier_on_device(flat, inside, across, up, &order, comm);
failed:
    side_destroy(s);
    release(up);
    release(across);
    release(inside);
    release(flat);
    return status;
}

static ls_status over_domains(ls_comm *flat, uint64_t domain, ls_comm **comm) {
    uint64_t *domains = NULL;
    ls_spread p = {0};
    ls_status status =
        ls_comm_agree(flat, ls_calloc((size_t)flat->size, sizeof *domains, &domains));
    if (status == LS_OK) {
        status = flat->ops->all_gather(flat, &domain, domains, sizeof domain);
    }
    if (status == LS_OK) {
        p = ls_spread_of(domains, flat->rank, flat->size);
    }
    free(domains);
    if (status != LS_OK) {
        release(flat);
        return status;
    }
    if (p.even) {
        return make_levels(flat, p, domain, comm);
    }
    *comm = flat;
    return LS_OK;
}

static ls_status compose(void *context, ls_comm *flat, ls_comm **comm) {
    return over_domains(flat, ((const side *)context)->domain, comm);
}

ls_status ls_comm_nccl_levels(const ls_comm_nccl_options *options, uint64_t domain,
                              ls_comm **comm) {
    ls_comm *flat;
    LS_TRY(ls_comm_nccl(options, &flat));
    return over_domains(flat, domain, comm);
}
