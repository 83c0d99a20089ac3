#include "runtime/device/cuda/attention_trial.h"

#include "runtime/base/arena.h"
#include "runtime/base/dtype.h"
#include "runtime/base/rng.h"
#include "runtime/device/cuda/launch.h"
#include "runtime/device/cuda/memory_cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Operands are drawn once and repeated; no row of usual width begins where another does. */
enum { DRAWN_ELEMS = (1 << 18) - 112, SAMPLE_ROWS = 64 };
/* Of the root mean square: two ways to round to bf16 differ by about 0.005, errors by about 1. */
#define NEAR 0.05

typedef enum part { QKV, OUT, LSE, DOUT, DQKV, PARTS } part;

typedef struct trial {
    ls_cuda_device *cuda;
    ls_attention op;
    char *memory;
    int64_t elems[PARTS];
    size_t offset[PARTS], bytes;
} trial;

static char *at(const trial *t, part p) {
    return t->memory + t->offset[p];
}

static void lay_out(trial *t, const ls_attention_key *key) {
    const int64_t rows = key->batch * key->q_len;
    const int64_t elems[PARTS] = {rows * key->q_stride, rows * key->o_stride, rows * key->heads,
                                  rows * key->o_stride, rows * key->q_stride};
    for (int p = 0; p < PARTS; p++) {
        t->elems[p] = elems[p];
        t->offset[p] = t->bytes;
        t->bytes += ((size_t)elems[p] * (p == LSE ? 4 : 2) + 255) / 256 * 256;
    }
}

static void describe(trial *t, const ls_attention_key *key) {
    const int64_t k = key->heads * key->head_dim, v = k + key->kv_heads * key->head_dim;
    ls_bf16 *qkv = (ls_bf16 *)(void *)at(t, QKV), *dqkv = (ls_bf16 *)(void *)at(t, DQKV);
    t->op = (ls_attention){.dtype = LS_BF16,
                           .batch = key->batch,
                           .q_len = key->q_len,
                           .kv_len = key->kv_len,
                           .heads = key->heads,
                           .kv_heads = key->kv_heads,
                           .head_dim = key->head_dim,
                           .scale = 1.0 / sqrt((double)key->head_dim),
                           .q = qkv,
                           .k = qkv + k,
                           .v = qkv + v,
                           .q_stride = key->q_stride,
                           .kv_stride = key->kv_stride,
                           .q_batch = key->q_batch,
                           .kv_batch = key->kv_batch,
                           .out = at(t, OUT),
                           .o_stride = key->o_stride,
                           .lse = at(t, LSE),
                           .dout = at(t, DOUT),
                           .dq = dqkv,
                           .dk = dqkv + k,
                           .dv = dqkv + v};
}

static ls_status fill(const trial *t, part p) {
    ls_device *dev = &t->cuda->base;
    const int64_t drawn = t->elems[p] < DRAWN_ELEMS ? t->elems[p] : DRAWN_ELEMS;
    ls_bf16 *host;
    LS_TRY(ls_calloc(DRAWN_ELEMS, sizeof *host, &host));
    for (int64_t i = 0; i < drawn; i++) {
        host[i] =
            ls_bf16_from_f32((float)(4.0 * ls_rng_uniform(1, (uint64_t)p, (uint64_t)i) - 2.0));
    }
    ls_status status = ls_cuda_upload(dev, at(t, p), host, (size_t)drawn * sizeof *host);
    free(host);
    for (int64_t done = drawn; done < t->elems[p] && status == LS_OK;) {
        const int64_t more = t->elems[p] - done < done ? t->elems[p] - done : done;
        status = ls_cuda_copy(dev, at(t, p) + 2 * done, at(t, p), 2 * (size_t)more);
        done += more;
    }
    return status;
}

/* Results of the first and last rows of a matrix's first and last sequence, one behind another. */
static ls_status sample(const trial *t, part p, int64_t width, char **to) {
    const int64_t len = t->op.q_len, rows = len < SAMPLE_ROWS ? len : SAMPLE_ROWS;
    for (int i = 0; i < 4; i++) {
        const int64_t first = (i / 2 * (t->op.batch - 1) * len) + i % 2 * (len - rows);
        const size_t bytes = 2 * (size_t)(rows * width);
        LS_TRY(ls_cuda_download(&t->cuda->base, *to, at(t, p) + 2 * first * width, bytes));
        *to += bytes;
    }
    return LS_OK;
}

static size_t sample_elems(const trial *t) {
    const int64_t len = t->op.q_len, rows = len < SAMPLE_ROWS ? len : SAMPLE_ROWS;
    return (size_t)(4 * rows * (t->op.o_stride + t->op.q_stride));
}

static size_t lse_elems(const trial *t) {
    return (size_t)(t->op.heads * t->op.q_len); /* of the first sequence */
}

/* Forward and backward, by lockstep's kernels where `forward` is NULL; samples of out and of the
 * gradients in bf16, then lse, to `to`. */
static ls_status run(const trial *t, const ls_attention_graph *forward,
                     const ls_attention_graph *backward, void *workspace, char *to) {
    ls_cuda_device *cuda = t->cuda;
    void *delta;
    LS_TRY(ls_cuda_scratch(cuda, (size_t)t->elems[LSE] * sizeof(float), &delta));
    LS_TRY(ls_cuda_zero(&cuda->base, at(t, OUT), t->offset[DOUT] - t->offset[OUT]));
    LS_TRY(ls_cuda_zero(&cuda->base, at(t, DQKV), t->bytes - t->offset[DQKV]));
    if (forward) {
        LS_TRY(ls_attention_graph_run(forward, &t->op, NULL, workspace));
        LS_TRY(ls_attention_graph_run(backward, &t->op, delta, workspace));
    } else {
        ls_cuda_launch_attention_forward(cuda->compute, &t->op);
        LS_TRY(ls_cuda_launched("attention forward"));
        ls_cuda_launch_attention_backward(cuda->compute, &t->op, delta);
        LS_TRY(ls_cuda_launched("attention backward"));
    }
    LS_TRY(sample(t, OUT, t->op.o_stride, &to));
    LS_TRY(sample(t, DQKV, t->op.q_stride, &to));
    return ls_cuda_download(&cuda->base, to, at(t, LSE), lse_elems(t) * sizeof(float));
}

static double value(const char *from, bool bf16, size_t i) {
    return bf16 ? (double)ls_bf16_to_f32(((const ls_bf16 *)(const void *)from)[i])
                : (double)((const float *)(const void *)from)[i];
}

/* Root mean square of the difference over that of b. */
static double spread(const char *a, const char *b, bool bf16, size_t count) {
    double differences = 0.0, squares = 0.0;
    for (size_t i = 0; i < count; i++) {
        const double x = value(a, bf16, i), y = value(b, bf16, i);
        differences += (x - y) * (x - y);
        squares += y * y;
    }
    return sqrt(differences / squares);
}

static ls_status judge(const trial *t, const char *theirs, const char *again, const char *own) {
    const size_t count = sample_elems(t), bytes = 2 * count + lse_elems(t) * sizeof(float);
    const double results = spread(theirs, own, true, count);
    const double sums = spread(theirs + 2 * count, own + 2 * count, false, lse_elems(t));
    if (!(results <= NEAR && sums <= NEAR)) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "cuDNN's attention differs from lockstep's by %.3g of its size, its sums by "
                       "%.3g, when tried on this GPU; at most %.2g is rounding",
                       results, sums, NEAR);
    }
    if (memcmp(theirs, again, bytes) != 0) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "cuDNN's attention gave other bits when tried a second time on this GPU");
    }
    return LS_OK;
}

static ls_status compare(const trial *t, const ls_attention_graph *forward,
                         const ls_attention_graph *backward, void *workspace, char *host) {
    const size_t bytes = 2 * sample_elems(t) + lse_elems(t) * sizeof(float);
    LS_TRY(fill(t, QKV));
    LS_TRY(fill(t, DOUT));
    LS_TRY(run(t, forward, backward, workspace, host));
    LS_TRY(run(t, forward, backward, workspace, host + bytes));
    LS_TRY(run(t, NULL, NULL, NULL, host + 2 * bytes));
    return judge(t, host, host + bytes, host + 2 * bytes);
}

ls_status ls_cuda_attention_trial(ls_cuda_device *cuda, const ls_attention_key *key,
                                  const ls_attention_graph *forward,
                                  const ls_attention_graph *backward, void *workspace) {
    trial t = {.cuda = cuda};
    void *memory;
    char *host;
    lay_out(&t, key);
    LS_TRY(ls_cuda_alloc(&cuda->base, t.bytes, &memory));
    t.memory = memory;
    describe(&t, key);
    ls_status status = ls_calloc(3, 2 * sample_elems(&t) + lse_elems(&t) * sizeof(float), &host);
    if (status == LS_OK) {
        status = compare(&t, forward, backward, workspace, host);
        free(host);
    }
    ls_cuda_free(&cuda->base, memory);
    return status;
}
