/* Causal attention with grouped queries, one row of probabilities at a time. */
#include "tests/reference/reference_ops.h"

#include "runtime/device/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Offsets of row t of batch entry b, query head h, in q (and dq), k, v (and dk, dv), out (dout). */
static int64_t q_at(const ls_attention *op, int64_t b, int64_t h, int64_t t) {
    return b * op->q_batch + t * op->q_stride + h * op->head_dim;
}

static int64_t kv_at(const ls_attention *op, int64_t b, int64_t h, int64_t t) {
    int64_t g = h / (op->heads / op->kv_heads);
    return b * op->kv_batch + t * op->kv_stride + g * op->head_dim;
}

static int64_t o_at(const ls_attention *op, int64_t b, int64_t h, int64_t t) {
    return ls_attention_out_at(op, b, h, t);
}

/* A third of what tests of attention take under sanitizers, with accesses checked one by one. */
#define UNCHECKED __attribute__((no_sanitize("address", "undefined")))

UNCHECKED static double dot(int64_t n, const double *x, const double *y) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i] * y[i];
    }
    return sum;
}

/* y += a x */
UNCHECKED static void axpy(int64_t n, double a, const double *x, double *y) {
    for (int64_t i = 0; i < n; i++) {
        y[i] += a * x[i];
    }
}

/* p[j] = softmax_j(scale q_i . k_j) over the visible keys first <= j < seen; returns log sum_j
 * exp(score_j), -inf of none. */
static double probabilities(const ls_attention *op, int64_t b, int64_t h, int64_t i, int64_t seen,
                            double *p) {
    const double *q = (const double *)op->q + q_at(op, b, h, i);
    const int64_t first = ls_attention_first(op, b, i);
    double max = -INFINITY, sum = 0.0;
    for (int64_t j = first; j < seen; j++) {
        const double *k = (const double *)op->k + kv_at(op, b, h, j);
        p[j] = op->scale * dot(op->head_dim, q, k);
        max = p[j] > max ? p[j] : max;
    }
    for (int64_t j = first; j < seen; j++) {
        p[j] = exp(p[j] - max);
        sum += p[j];
    }
    for (int64_t j = first; j < seen; j++) {
        p[j] /= sum;
    }
    return first < seen ? log(sum) + max : -INFINITY;
}

/* out_i = sum_j p_ij v_j, over the keys of this call, or with those of out before. */
static void attend(const ls_attention *op, int64_t b, int64_t h, int64_t i, double *p) {
    const int64_t seen = ls_attention_visible(op, i);
    double *out = (double *)op->out + o_at(op, b, h, i);
    double *lse = op->lse ? (double *)op->lse + ls_attention_lse_at(op, b, h, i) : NULL;
    const double part = probabilities(op, b, h, i, seen, p);
    const int64_t first = ls_attention_first(op, b, i);
    if (op->merge && first == seen) {
        return;
    }
    const double both =
        op->merge
            ? log(exp(*lse - fmax(*lse, part)) + exp(part - fmax(*lse, part))) + fmax(*lse, part)
            : part;
    for (int64_t d = 0; d < op->head_dim; d++) {
        out[d] = op->merge ? out[d] * exp(*lse - both) : 0.0;
    }
    for (int64_t j = first; j < seen; j++) {
        axpy(op->head_dim, p[j] * exp(part - both), (const double *)op->v + kv_at(op, b, h, j),
             out);
    }
    if (lse) {
        *lse = both;
    }
}

ls_status ls_ref_attention_forward(ls_device *dev, const ls_attention *op) {
    LS_TRY(ls_check_attention(dev, op, false));
    double *p = malloc(((size_t)op->kv_len + 1) * sizeof *p);
    if (!p) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a row of %lld scores", (long long)op->kv_len);
    }
    for (int64_t b = 0; b < op->batch; b++) {
        for (int64_t h = 0; h < op->heads; h++) {
            for (int64_t i = 0; i < op->q_len; i++) {
                attend(op, b, h, i, p);
            }
        }
    }
    free(p);
    return LS_OK;
}

static void zero_gradients(const ls_attention *op) {
    const size_t row_bytes = (size_t)op->head_dim * sizeof(double);
    for (int64_t b = 0; b < op->batch; b++) {
        for (int64_t h = 0; h < op->heads; h++) {
            for (int64_t t = 0; t < op->q_len; t++) {
                memset((double *)op->dq + q_at(op, b, h, t), 0, row_bytes);
            }
            for (int64_t t = 0; t < op->kv_len; t++) {
                for (int64_t d = 0; d < op->head_dim; d++) {
                    ((double *)op->dk)[kv_at(op, b, h, t) + d] = 0.0;
                    ((double *)op->dv)[kv_at(op, b, h, t) + d] = 0.0;
                }
            }
        }
    }
}

/* With dp_j = dout_i . v_j and ds_j = p_j (dp_j - sum_l p_l dp_l), where sum_l p_l dp_l = dout_i .
 * out_i: dv_j += p_j dout_i,  dq_i += scale ds_j k_j,  dk_j += scale ds_j q_i. */
ls_status ls_ref_attention_backward(ls_device *dev, const ls_attention *op) {
    LS_TRY(ls_check_attention(dev, op, true));
    double *p = malloc(((size_t)op->kv_len + 1) * sizeof *p);
    if (!p) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a row of %lld scores", (long long)op->kv_len);
    }
    const int64_t D = op->head_dim;
    if (!op->add) {
        zero_gradients(op);
    }
    for (int64_t b = 0; b < op->batch; b++) {
        for (int64_t h = 0; h < op->heads; h++) {
            for (int64_t i = 0; i < op->q_len; i++) {
                const int64_t seen = ls_attention_visible(op, i), q_i = q_at(op, b, h, i),
                              o_i = o_at(op, b, h, i);
                const double *dout = (const double *)op->dout + o_i;
                const double row_sum = dot(D, dout, (const double *)op->out + o_i);
                /* relative to all keys, of which these may be a part */
                const double part = probabilities(op, b, h, i, seen, p);
                const double share =
                    exp(part - ((const double *)op->lse)[ls_attention_lse_at(op, b, h, i)]);
                for (int64_t j = ls_attention_first(op, b, i); j < seen; j++) {
                    p[j] *= share;
                    const int64_t kv_j = kv_at(op, b, h, j);
                    double dp = dot(D, dout, (const double *)op->v + kv_j);
                    double ds = p[j] * (dp - row_sum);
                    axpy(D, p[j], dout, (double *)op->dv + kv_j);
                    axpy(D, op->scale * ds, (const double *)op->k + kv_j, (double *)op->dq + q_i);
                    axpy(D, op->scale * ds, (const double *)op->q + q_i, (double *)op->dk + kv_j);
                }
            }
        }
    }
    free(p);
    return LS_OK;
}
