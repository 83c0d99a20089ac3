/* Mixture of experts, by the formulas of device.h. */
#include "runtime/device/check.h"
#include "tests/reference/reference_ops.h"

#include <math.h>
#include <string.h>

static void softmax(const double *x, int64_t n, double *p) {
    double max = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        max = fmax(max, x[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        p[i] = exp(x[i] - max);
        sum += p[i];
    }
    for (int64_t i = 0; i < n; i++) {
        p[i] /= sum;
    }
}

/* A NaN comes before all numbers. */
static bool comes_before(double a, int64_t e, double b, int64_t f) {
    if (a == b || (isnan(a) && isnan(b))) {
        return e < f;
    }
    return isnan(a) || a > b;
}

/* How many of the logits come before expert e in the order of choice. */
static int64_t rank_of(const double *logits, int64_t experts, int64_t e) {
    int64_t rank = 0;
    for (int64_t f = 0; f < experts; f++) {
        rank += comes_before(logits[f], f, logits[e], e);
    }
    return rank;
}

ls_status ls_ref_route_forward(ls_device *dev, const ls_route *op) {
    LS_TRY(ls_check_route(dev, op));
    for (int64_t i = 0; i < op->rows; i++) {
        const double *logits = (const double *)op->logits + i * op->experts;
        double *gates = (double *)op->gates + i * op->each;
        softmax(logits, op->experts, (double *)op->probs + i * op->experts);
        for (int64_t e = 0; e < op->experts; e++) {
            const int64_t rank = rank_of(logits, op->experts, e);
            if (rank < op->each) {
                op->chosen[i * op->each + rank] = (int32_t)e;
                gates[rank] = logits[e];
            }
        }
        softmax(gates, op->each, gates);
    }
    return LS_OK;
}

ls_status ls_ref_route_backward(ls_device *dev, const ls_route *op) {
    LS_TRY(ls_check_route(dev, op));
    const double *balance = op->balance;
    for (int64_t i = 0; i < op->rows; i++) {
        const double *p = (const double *)op->probs + i * op->experts;
        const double *g = (const double *)op->gates + i * op->each;
        const double *dg = (const double *)op->dgates + i * op->each;
        double *dlogits = (double *)op->dlogits + i * op->experts;
        for (int64_t e = 0; e < op->experts; e++) {
            dlogits[e] = p[e] * balance[e];
            for (int64_t f = 0; f < op->experts; f++) {
                dlogits[e] -= p[e] * p[f] * balance[f];
            }
        }
        for (int64_t j = 0; j < op->each; j++) {
            for (int64_t l = 0; l < op->each; l++) {
                dlogits[op->chosen[i * op->each + j]] +=
                    g[j] * ((l == j ? 1.0 : 0.0) - g[l]) * dg[l];
            }
        }
    }
    return LS_OK;
}

ls_status ls_ref_select_rows(ls_device *dev, const ls_select_rows *op) {
    LS_TRY(ls_check_select_rows(dev, op));
    for (int64_t i = 0; i < op->rows; i++) {
        for (int64_t c = 0; c < op->cols; c++) {
            ((double *)op->y)[i * op->cols + c] =
                op->index[i] < 0 ? 0.0 : ((const double *)op->x)[op->index[i] * op->cols + c];
        }
    }
    return LS_OK;
}

static double weight_at(const ls_combine *op, int64_t term) {
    return op->weights ? ((const double *)op->weights)[term] : 1.0;
}

ls_status ls_ref_combine_forward(ls_device *dev, const ls_combine *op) {
    LS_TRY(ls_check_combine(dev, op));
    for (int64_t i = 0; i < op->rows; i++) {
        for (int64_t c = 0; c < op->cols; c++) {
            double sum = op->residual ? ((const double *)op->residual)[i * op->cols + c] : 0.0;
            for (int64_t t = i * op->each; t < (i + 1) * op->each; t++) {
                sum += op->index[t] < 0 ? 0.0
                                        : weight_at(op, t) *
                                              ((const double *)op->x)[op->index[t] * op->cols + c];
            }
            ((double *)op->y)[i * op->cols + c] = sum;
        }
    }
    return LS_OK;
}

ls_status ls_ref_combine_backward(ls_device *dev, const ls_combine *op) {
    LS_TRY(ls_check_combine(dev, op));
    for (int64_t t = 0; t < op->rows * op->each; t++) {
        const double *dy = (const double *)op->dy + t / op->each * op->cols;
        double *dweight = (double *)op->dweights + t;
        *dweight = 0.0;
        for (int64_t c = 0; c < op->cols && op->index[t] >= 0; c++) {
            const int64_t at = op->index[t] * op->cols + c;
            *dweight += ((const double *)op->x)[at] * dy[c];
            ((double *)op->dx)[at] = weight_at(op, t) * dy[c];
        }
    }
    return LS_OK;
}
