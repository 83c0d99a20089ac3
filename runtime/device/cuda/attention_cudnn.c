/* Attention by cuDNN where it serves the shape: plans are kept, one a shape and direction. */
#include "runtime/base/arena.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/device/cuda/attention_graph.h"
#include "runtime/device/cuda/device_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sampling asks for a new length with each token: shapes beyond these are the own kernels'. */
enum { PLANS_MAX = 64 };
#define WORKSPACE_MAX_BYTES ((int64_t)4 << 30)

typedef struct plan {
    ls_attention_key key;
    bool refused;
    ls_attention_graph attention;
} plan;

struct ls_cuda_cudnn {
    const ls_cudnn *calls;
    cudnnHandle_t handle;
    void *workspace;
    size_t workspace_bytes;
    plan *plans[PLANS_MAX];
    int count;
};

ls_status ls_cuda_cudnn_start(ls_cuda_device *cuda, ls_attention_by by) {
    const ls_cudnn *calls;
    if (by == LS_ATTENTION_OWN) {
        return LS_OK;
    }
    const ls_status found = ls_cudnn_load(&calls);
    if (found != LS_OK) {
        return by == LS_ATTENTION_AUTO ? LS_OK : found;
    }
    LS_TRY(ls_calloc(1, sizeof *cuda->cudnn, &cuda->cudnn));
    cuda->cudnn->calls = calls;
    cudnnStatus_t status = calls->start(&cuda->cudnn->handle);
    if (status == CUDNN_STATUS_SUCCESS) {
        status = calls->set_stream(cuda->cudnn->handle, cuda->compute);
    }
    if (status != CUDNN_STATUS_SUCCESS) {
        return LS_FAIL(LS_E_DEVICE, "starting cuDNN %zu: %s; set numerics.attention to own",
                       calls->version(), calls->error_text(status));
    }
    const size_t version = calls->version(), used = strlen(cuda->base.describe);
    snprintf(cuda->base.describe + used, sizeof cuda->base.describe - used, ", cuDNN %zu.%zu.%zu",
             version / 10000, version / 100 % 100, version % 100);
    return LS_OK;
}

void ls_cuda_cudnn_end(ls_cuda_device *cuda) {
    struct ls_cuda_cudnn *c = cuda->cudnn;
    if (!c) {
        return;
    }
    for (int i = 0; i < c->count; i++) {
        ls_cudnn_graph_release(&c->plans[i]->attention.graph);
        free(c->plans[i]);
    }
    cudaFree(c->workspace);
    if (c->handle) {
        c->calls->end(c->handle);
    }
    free(c);
    cuda->cudnn = NULL;
}

/* Said once a shape. The error is dealt with. */
static void tell(const ls_attention_key *key) {
    ls_log_info(
        "attention %s with %lld rows, %lld keys, heads of %lld: by lockstep's own kernels; %s",
        key->backward ? "backward" : "forward", (long long)key->q_len, (long long)key->kv_len,
        (long long)key->head_dim, ls_error_last()->message);
}

static ls_status refuse_workspace(int64_t bytes) {
    char wanted[32], most[32];
    return LS_FAIL(LS_E_UNSUPPORTED, "cuDNN wants %s of workspace for it; at most %s are given",
                   ls_text_bytes(wanted, sizeof wanted, (double)bytes),
                   ls_text_bytes(most, sizeof most, (double)WORKSPACE_MAX_BYTES));
}

/* The plan of a key, with its workspace; NULL: cuDNN does not serve it. */
static ls_status find_plan(ls_cuda_device *cuda, const ls_attention_key *key, plan **found) {
    struct ls_cuda_cudnn *c = cuda->cudnn;
    *found = NULL;
    for (int i = 0; i < c->count; i++) {
        if (memcmp(&c->plans[i]->key, key, sizeof *key) == 0) {
            *found = c->plans[i]->refused ? NULL : c->plans[i];
            return LS_OK;
        }
    }
    if (c->count == PLANS_MAX) {
        return LS_OK;
    }
    plan *p;
    LS_TRY(ls_calloc(1, sizeof *p, &p));
    p->key = *key;
    c->plans[c->count++] = p;
    ls_status status = ls_attention_graph_make(&p->attention, key, c->calls, c->handle, NULL);
    const int64_t bytes = p->attention.graph.workspace_bytes;
    if (status == LS_OK && bytes > WORKSPACE_MAX_BYTES) {
        status = refuse_workspace(bytes);
    }
    if (status == LS_OK) {
        status = ls_cuda_grow(cuda, (size_t)bytes, &c->workspace, &c->workspace_bytes);
    }
    p->refused = status != LS_OK;
    if (p->refused) {
        ls_cudnn_graph_release(&p->attention.graph);
    }
    if (status == LS_E_UNSUPPORTED) {
        tell(key);
        return LS_OK;
    }
    *found = p->refused ? NULL : p;
    return status;
}

static bool aligned(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

/* What is described to cuDNN at all: bf16 with an lse, each row seeing a key, 16-byte accesses. */
static bool may_serve(const ls_attention *op, bool backward) {
    const int64_t strides[] = {op->q_stride, op->kv_stride, op->o_stride, op->q_batch,
                               op->kv_batch, op->o_batch,   op->head_dim};
    const void *const pointers[] = {op->q, op->k, op->v, op->out};
    const void *const gradients[] = {op->dout, op->dq, op->dk, op->dv};
    bool serves = op->dtype == LS_BF16 && op->lse && !op->merge && !op->add && op->q_len > 1 &&
                  (op->full || op->kv_len >= op->q_len);
    for (size_t i = 0; i < sizeof strides / sizeof *strides; i++) {
        serves = serves && strides[i] % 8 == 0;
    }
    for (int i = 0; i < 4; i++) {
        serves = serves && aligned(pointers[i]) && (!backward || aligned(gradients[i]));
    }
    return serves && aligned(op->lse);
}

ls_status ls_cuda_cudnn_attention(ls_cuda_device *cuda, const ls_attention *op, void *delta,
                                  bool *done) {
    plan *p;
    *done = false;
    if (!cuda->cudnn || !may_serve(op, delta != NULL)) {
        return LS_OK;
    }
    const ls_attention_key key = ls_attention_key_of(op, delta != NULL);
    LS_TRY(find_plan(cuda, &key, &p));
    if (!p) {
        return LS_OK;
    }
    *done = true;
    return ls_attention_graph_run(&p->attention, op, delta, cuda->cudnn->workspace);
}

ls_status ls_cuda_cudnn_reserve(ls_cuda_device *cuda, const ls_device_limits *limits) {
    if (!cuda->cudnn || limits->bf16_batch == 0) {
        return LS_OK;
    }
    for (int backward = 0; backward <= 1; backward++) {
        const ls_attention_key key =
            ls_attention_key_fused(backward, limits->bf16_batch, limits->seq, limits->heads,
                                   limits->kv_heads, limits->head_dim);
        plan *p;
        LS_TRY(find_plan(cuda, &key, &p));
    }
    return LS_OK;
}

int ls_cuda_cudnn_plans(const ls_cuda_device *cuda) {
    int count = cuda->cudnn ? 0 : -1;
    for (int i = 0; cuda->cudnn && i < cuda->cudnn->count; i++) {
        count += !cuda->cudnn->plans[i]->refused;
    }
    return count;
}
