/* Attention by cuDNN where it serves the shape: plans are kept, one a shape and direction. Left
 * open (LS_ATTENTION_AUTO), the plans are made by reserve alone and tried (attention_trial.c), and
 * serve once they have been accepted. */
#include "runtime/base/arena.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/device/cuda/attention_trial.h"
#include "runtime/device/cuda/device_cuda.h"
#include "runtime/device/cuda/memory_cuda.h"

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

static ls_status start(ls_cuda_device *cuda, const ls_cudnn *calls) {
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
    return LS_OK;
}

static void name(const ls_cudnn *calls, char *text, size_t size) {
    const size_t version = calls->version();
    snprintf(text, size, "cuDNN %zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
}

static void refuse(ls_cuda_device *cuda, const char *why) {
    if (!cuda->attention.refusal[0]) {
        snprintf(cuda->attention.refusal, sizeof cuda->attention.refusal, "%.239s", why);
    }
}

ls_status ls_cuda_cudnn_start(ls_cuda_device *cuda, ls_attention_by by) {
    const ls_cudnn *calls;
    char words[48];
    if (by == LS_ATTENTION_OWN) {
        return LS_OK;
    }
    cuda->attention.left_open = by == LS_ATTENTION_AUTO;
    ls_status status = ls_cudnn_load(&calls);
    if (status == LS_OK) {
        status = start(cuda, calls);
    }
    if (status != LS_OK && cuda->attention.left_open) {
        refuse(cuda, ls_error_last()->message);
        ls_cuda_cudnn_end(cuda);
        return LS_OK;
    }
    LS_TRY(status);
    if (by == LS_ATTENTION_CUDNN) {
        const size_t used = strlen(cuda->base.describe);
        name(calls, words, sizeof words);
        snprintf(cuda->base.describe + used, sizeof cuda->base.describe - used, ", %s", words);
    }
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

/* As much as may be asked for without the rest of training lacking it. */
static ls_status check_workspace(ls_cuda_device *cuda, int64_t bytes) {
    char wanted[32], most[32];
    int64_t limit = WORKSPACE_MAX_BYTES, free_bytes;
    if (cuda->attention.left_open && bytes > (int64_t)cuda->cudnn->workspace_bytes) {
        LS_TRY(ls_cuda_free_bytes(&cuda->base, &free_bytes));
        limit = free_bytes / 4 < limit ? free_bytes / 4 : limit;
    }
    if (bytes > limit) {
        return LS_FAIL(LS_E_UNSUPPORTED, "cuDNN wants %s of workspace for it; at most %s are given",
                       ls_text_bytes(wanted, sizeof wanted, (double)bytes),
                       ls_text_bytes(most, sizeof most, (double)limit));
    }
    return LS_OK;
}

static plan *find_plan(const struct ls_cuda_cudnn *c, const ls_attention_key *key) {
    for (int i = 0; i < c->count; i++) {
        if (memcmp(&c->plans[i]->key, key, sizeof *key) == 0) {
            return c->plans[i];
        }
    }
    return NULL;
}

/* The plan of a key, with its workspace; NULL: there are too many. */
static ls_status make_plan(ls_cuda_device *cuda, const ls_attention_key *key, plan **made) {
    struct ls_cuda_cudnn *c = cuda->cudnn;
    plan *p;
    *made = NULL;
    if (c->count == PLANS_MAX) {
        return LS_OK;
    }
    LS_TRY(ls_calloc(1, sizeof *p, &p));
    p->key = *key;
    c->plans[c->count++] = *made = p;
    ls_status status = ls_attention_graph_make(&p->attention, key, c->calls, c->handle, NULL);
    const int64_t bytes = p->attention.graph.workspace_bytes;
    if (status == LS_OK) {
        status = check_workspace(cuda, bytes);
    }
    if (status == LS_OK) {
        status = ls_cuda_grow(cuda, (size_t)bytes, &c->workspace, &c->workspace_bytes);
    }
    p->refused = status != LS_OK;
    if (p->refused) {
        ls_cudnn_graph_release(&p->attention.graph);
    }
    if (status == LS_E_UNSUPPORTED && !cuda->attention.left_open) {
        tell(key);
    }
    return status == LS_E_UNSUPPORTED ? LS_OK : status;
}

static bool aligned(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

/* What is described to cuDNN at all: bf16 with an lse, each row seeing all keys up to its own or to
 * the last, one at least, 16-byte accesses. */
static bool may_serve(const ls_attention *op, bool backward) {
    const int64_t strides[] = {op->q_stride, op->kv_stride, op->o_stride, op->q_batch,
                               op->kv_batch, op->o_batch,   op->head_dim};
    const void *const pointers[] = {op->q, op->k, op->v, op->out};
    const void *const gradients[] = {op->dout, op->dq, op->dk, op->dv};
    bool serves = op->dtype == LS_BF16 && op->lse && !op->merge && !op->add && !op->first_key &&
                  op->q_len > 1 && (op->full || op->kv_len >= op->q_len);
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
    const bool closed = cuda->attention.left_open && !cuda->attention.accepted;
    *done = false;
    if (!cuda->cudnn || closed || !may_serve(op, delta != NULL)) {
        return LS_OK;
    }
    const ls_attention_key key = ls_attention_key_of(op, delta != NULL);
    plan *p = find_plan(cuda->cudnn, &key);
    if (!p && !cuda->attention.left_open) {
        LS_TRY(make_plan(cuda, &key, &p));
    }
    if (!p || p->refused) {
        return LS_OK;
    }
    *done = true;
    return ls_attention_graph_run(&p->attention, op, delta, cuda->cudnn->workspace);
}

/* Plans both directions, and tries them before they are offered. Whatever fails of that, a library
 * that cuDNN does not find for instance, is left to lockstep's own kernels: they meet what ails the
 * GPU itself, and report it. */
static void plan_for_offer(ls_cuda_device *cuda, const ls_attention_key *forward,
                           const ls_attention_key *backward) {
    plan *p, *q;
    if (make_plan(cuda, forward, &p) != LS_OK || !p || p->refused ||
        make_plan(cuda, backward, &q) != LS_OK || !q || q->refused ||
        ls_cuda_attention_trial(cuda, forward, &p->attention, &q->attention,
                                cuda->cudnn->workspace) != LS_OK) {
        refuse(cuda, ls_error_last()->message);
    }
}

ls_status ls_cuda_cudnn_reserve(ls_cuda_device *cuda, const ls_device_limits *limits) {
    ls_attention_key keys[2];
    plan *p;
    if (limits->bf16_batch == 0) {
        return LS_OK;
    }
    cuda->attention.reserved = true;
    for (int backward = 0; backward <= 1; backward++) {
        keys[backward] = ls_attention_key_fused(backward, limits->bf16_batch, limits->seq,
                                                limits->heads, limits->kv_heads, limits->head_dim);
        if (cuda->cudnn && !cuda->attention.left_open && !find_plan(cuda->cudnn, &keys[backward])) {
            LS_TRY(make_plan(cuda, &keys[backward], &p));
        }
    }
    if (!cuda->cudnn || !cuda->attention.left_open || cuda->attention.refusal[0] ||
        find_plan(cuda->cudnn, &keys[1])) {
        return LS_OK;
    }
    if (limits->head_dim % 8 != 0) {
        refuse(cuda, "heads are no multiple of 8 elements wide");
        return LS_OK;
    }
    plan_for_offer(cuda, &keys[0], &keys[1]);
    return LS_OK;
}

ls_status ls_cuda_attention_offer(ls_device *dev, ls_attention_offer *offer) {
    const ls_cuda_device *cuda = ls_cuda_of(dev);
    struct cudaDeviceProp gpu;
    *offer = (ls_attention_offer){.number = cuda->attention.reserved ? 0 : -1};
    if (!cuda->cudnn || cuda->attention.refusal[0]) {
        snprintf(offer->text, sizeof offer->text, "%s",
                 cuda->attention.refusal[0] ? cuda->attention.refusal : "cuDNN is not asked for");
        return LS_OK;
    }
    name(cuda->cudnn->calls, offer->text, sizeof offer->text);
    if (cuda->attention.reserved) {
        LS_CUDA_TRY(cudaGetDeviceProperties(&gpu, cuda->ordinal), "asking for properties");
        offer->number = (int64_t)cuda->cudnn->calls->version() * 1000000 +
                        (10 * gpu.major + gpu.minor) * 1000 + gpu.multiProcessorCount;
    }
    return LS_OK;
}

void ls_cuda_attention_settle(ls_device *dev, bool accept) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    cuda->attention.accepted = accept;
    if (!accept && cuda->attention.left_open && cuda->cudnn) {
        dev->scratch_bytes -= cuda->cudnn->workspace_bytes;
        ls_cuda_cudnn_end(cuda);
    }
}

int ls_cuda_cudnn_plans(const ls_cuda_device *cuda) {
    int count = cuda->cudnn ? 0 : -1;
    for (int i = 0; cuda->cudnn && i < cuda->cudnn->count; i++) {
        count += !cuda->cudnn->plans[i]->refused;
    }
    return count;
}
