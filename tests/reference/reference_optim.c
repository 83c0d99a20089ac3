/* The optimizers' updates: the formulas of device.h in plain loops. */
#include "runtime/device/check.h"
#include "tests/reference/reference_ops.h"

#include <math.h>

ls_status ls_ref_adamw(ls_device *dev, const ls_adamw *op) {
    LS_TRY(ls_check_adamw(dev, op));
    const double *grad = op->grad;
    double *p = op->p, *m = op->m, *v = op->v, *copy = op->copy;
    const double b1 = op->beta1, b2 = op->beta2;
    for (int64_t i = 0; i < op->n; i++) {
        double g = op->grad_scale * grad[i];
        m[i] = b1 * m[i] + (1.0 - b1) * g;
        v[i] = b2 * v[i] + (1.0 - b2) * g * g;
        double m_hat = m[i] / (1.0 - pow(b1, (double)op->t));
        double v_hat = v[i] / (1.0 - pow(b2, (double)op->t));
        p[i] -= op->lr * (m_hat / (sqrt(v_hat) + op->eps) + op->weight_decay * p[i]);
        if (copy) {
            copy[i] = p[i];
        }
    }
    return LS_OK;
}

ls_status ls_ref_lion(ls_device *dev, const ls_lion *op) {
    LS_TRY(ls_check_update(dev, "lion", op->n, op->copy, op->copy_dtype));
    LS_TRY(ls_check_verdict(dev, "lion", op->verdict));
    const double *grad = op->grad, b1 = op->beta1, b2 = op->beta2;
    double *p = op->p, *m = op->m, *copy = op->copy;
    for (int64_t i = 0; i < op->n; i++) {
        double g = op->grad_scale * grad[i];
        double c = b1 * m[i] + (1.0 - b1) * g;
        double sign = c > 0.0 ? 1.0 : c < 0.0 ? -1.0 : c;
        p[i] -= op->lr * (sign + op->weight_decay * p[i]);
        m[i] = b2 * m[i] + (1.0 - b2) * g;
        if (copy) {
            copy[i] = p[i];
        }
    }
    return LS_OK;
}

ls_status ls_ref_sgd(ls_device *dev, const ls_sgd *op) {
    LS_TRY(ls_check_update(dev, "sgd", op->n, op->copy, op->copy_dtype));
    LS_TRY(ls_check_verdict(dev, "sgd", op->verdict));
    const double *grad = op->grad;
    double *p = op->p, *m = op->m, *copy = op->copy;
    for (int64_t i = 0; i < op->n; i++) {
        double g = op->grad_scale * grad[i] + op->weight_decay * p[i];
        double update = g;
        if (m) {
            m[i] = op->momentum * m[i] + g;
            update = op->nesterov ? g + op->momentum * m[i] : m[i];
        }
        p[i] -= op->lr * update;
        if (copy) {
            copy[i] = p[i];
        }
    }
    return LS_OK;
}

ls_status ls_ref_adafactor_squares(ls_device *dev, const ls_adafactor *op) {
    LS_TRY(ls_check_adafactor(dev, op));
    double *v = op->v;
    for (int64_t i = 0; i < op->n; i++) {
        double g = op->grad_scale * ((const double *)op->grad)[i];
        if (op->row_sums) {
            double *row = op->row_sums + 2 * ((op->first + i) / op->cols);
            double *col = op->col_sums + 2 * ((op->first + i) % op->cols);
            double high = (g * g + op->split[0]) - op->split[0];
            double low = ((g * g - high) + op->split[1]) - op->split[1];
            row[0] += high;
            row[1] += low;
            col[0] += high;
            col[1] += low;
        } else {
            v[i] = op->beta2 * v[i] + (1.0 - op->beta2) * g * g;
        }
    }
    return LS_OK;
}

static double direction(const ls_adafactor *op, int64_t i) {
    const double *row = op->row, *col = op->col, *v = op->v;
    int64_t at = op->first + i;
    double square = row ? row[at / op->cols] * op->factor * col[at % op->cols] : v[i];
    return op->grad_scale * ((const double *)op->grad)[i] / sqrt(fmax(square, 1e-30));
}

ls_status ls_ref_adafactor_norm(ls_device *dev, const ls_adafactor *op, double *sums) {
    LS_TRY(ls_check_adafactor(dev, op));
    for (int64_t piece = 0; piece < ls_squares_count(op->grid, op->n); piece++) {
        sums[piece] = 0.0;
    }
    for (int64_t i = 0; i < op->n; i++) {
        const int64_t piece = (op->grid % LS_SQUARES_ELEMS + i) / LS_SQUARES_ELEMS;
        sums[piece] += direction(op, i) * direction(op, i);
    }
    return LS_OK;
}

ls_status ls_ref_adafactor_apply(ls_device *dev, const ls_adafactor *op) {
    LS_TRY(ls_check_adafactor(dev, op));
    double *p = op->p, *copy = op->copy;
    for (int64_t i = 0; i < op->n; i++) {
        p[i] = op->keep * p[i] - op->lr * direction(op, i);
        if (copy) {
            copy[i] = p[i];
        }
    }
    return LS_OK;
}

ls_status ls_ref_blend(ls_device *dev, int64_t n, double a, const void *x, double b, void *y) {
    (void)dev;
    LS_TRY(ls_check_size("blend", "n", n, 0));
    for (int64_t i = 0; i < n; i++) {
        double *to = (double *)y + i;
        *to = a * ((const double *)x)[i] + (b == 0.0 ? 0.0 : b * *to);
    }
    return LS_OK;
}
