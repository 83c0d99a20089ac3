/* Every operation but attention, as its formula. */
#include "tests/reference/reference_ops.h"

#include "runtime/device/check.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

/* dbias[j] += sum_i dy[i,j] */
ls_status ls_ref_bias_grad(ls_device *dev, const ls_bias_grad *op) {
    LS_TRY(ls_check_bias_grad(dev, op));
    const double *dy = op->dy;
    double *dbias = op->dbias;
    for (int64_t i = 0; i < op->rows; i++) {
        for (int64_t j = 0; j < op->cols; j++) {
            dbias[j] += dy[i * op->cols + j];
        }
    }
    return LS_OK;
}

/* The row of wte of token i, -1 where another part has it; its row of wpe. */
static int64_t embedding_row(const ls_embedding *op, int64_t i) {
    const int64_t row = op->tokens[i] - op->first;
    assert(op->part || (row >= 0 && row < op->vocab));
    return row >= 0 && row < op->vocab ? row : -1;
}

static int64_t embedding_position(const ls_embedding *op, int64_t i) {
    return op->positions ? op->positions[i % op->seq] : op->offset + i % op->seq;
}

/* out[i] = wte[tokens[i]] + wpe[offset + i mod seq] */
ls_status ls_ref_embedding_forward(ls_device *dev, const ls_embedding *op) {
    LS_TRY(ls_check_embedding(dev, op));
    const int64_t C = op->channels;
    const double *wte = op->wte, *wpe = op->wpe;
    double *out = op->out;
    for (int64_t i = 0; i < op->rows; i++) {
        const int64_t token = embedding_row(op, i), position = embedding_position(op, i);
        for (int64_t c = 0; c < C; c++) {
            out[i * C + c] =
                (token < 0 ? 0.0 : wte[token * C + c]) + (wpe ? wpe[position * C + c] : 0.0);
        }
    }
    return LS_OK;
}

/* dwte[tokens[i]] += dout[i];  dwpe[offset + i mod seq] += dout[i] */
ls_status ls_ref_embedding_backward(ls_device *dev, const ls_embedding *op) {
    LS_TRY(ls_check_embedding(dev, op));
    const int64_t C = op->channels;
    const double *dout = op->dout;
    double *dwte = op->dwte, *dwpe = op->dwpe;
    for (int64_t i = 0; i < op->rows; i++) {
        const int64_t token = embedding_row(op, i), position = embedding_position(op, i);
        for (int64_t c = 0; c < C; c++) {
            if (token >= 0) {
                dwte[token * C + c] += dout[i * C + c];
            }
            if (dwpe) {
                dwpe[position * C + c] += dout[i * C + c];
            }
        }
    }
    return LS_OK;
}

/* LayerNorm: m = mean(x), r = 1/sqrt(mean((x - m)^2) + eps), y = (x - m) r w + b.
 * RMSNorm: the same with m = 0 and b = 0. */
ls_status ls_ref_norm_forward(ls_device *dev, const ls_norm *op) {
    LS_TRY(ls_check_norm(dev, op));
    const int64_t C = op->channels;
    const bool centred = op->kind == LS_LAYERNORM;
    const double *w = op->w, *b = op->b;
    for (int64_t i = 0; i < op->rows; i++) {
        double *y = (double *)op->y + ls_norm_row(i, C, op->heads, op->stride);
        const double *x = op->heads > 0 ? y : (const double *)op->x + i * C;
        double mean = 0.0, variance = 0.0;
        for (int64_t c = 0; c < C && centred; c++) {
            mean += x[c] / (double)C;
        }
        for (int64_t c = 0; c < C; c++) {
            variance += (x[c] - mean) * (x[c] - mean) / (double)C;
        }
        double rstd = 1.0 / sqrt(variance + op->eps);
        for (int64_t c = 0; c < C; c++) {
            if (op->heads > 0) {
                ((double *)op->kept)[i * C + c] = x[c];
            }
            y[c] = (x[c] - mean) * rstd * w[c] + (centred ? b[c] : 0.0);
        }
        if (centred) {
            ((double *)op->mean)[i] = mean;
        }
        ((double *)op->rstd)[i] = rstd;
    }
    return LS_OK;
}

/* With n = (x - m) r and g = w dy (the gradient of n):
 *   dx = r (g - mean(g) - n mean(g n)),  dw += dy n,  db += dy.
 * RMSNorm has neither m nor the term mean(g). */
ls_status ls_ref_norm_backward(ls_device *dev, const ls_norm *op) {
    LS_TRY(ls_check_norm(dev, op));
    const int64_t C = op->channels;
    const bool centred = op->kind == LS_LAYERNORM;
    const double *w = op->w;
    double *dw = op->dw, *db = op->db;
    for (int64_t i = 0; i < op->rows; i++) {
        const int64_t at = ls_norm_row(i, C, op->heads, op->stride);
        const double *x = (const double *)op->x + i * C, *dy = (const double *)op->dy + at;
        const double *dresidual = op->dresidual ? (const double *)op->dresidual + at : NULL;
        double *dx = (double *)op->dx + at;
        const double mean = centred ? ((const double *)op->mean)[i] : 0.0;
        const double rstd = ((const double *)op->rstd)[i];
        double mean_g = 0.0, mean_gn = 0.0;
        for (int64_t c = 0; c < C; c++) {
            double n = (x[c] - mean) * rstd, g = w[c] * dy[c];
            mean_g += centred ? g / (double)C : 0.0;
            mean_gn += g * n / (double)C;
        }
        for (int64_t c = 0; c < C; c++) {
            double n = (x[c] - mean) * rstd, g = w[c] * dy[c];
            dw[c] += dy[c] * n;
            if (centred) {
                db[c] += dy[c];
            }
            dx[c] = rstd * (g - mean_g - n * mean_gn) + (dresidual ? dresidual[c] : 0.0);
            if (op->dx_sums) {
                ((double *)op->dx_sums)[c] += dx[c];
            }
        }
    }
    return LS_OK;
}

/* (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), x1 and x2 a half of the head apart. */
ls_status ls_ref_rope(ls_device *dev, const ls_rope *op) {
    LS_TRY(ls_check_rope(dev, op));
    const int64_t half = op->head_dim / 2;
    for (int64_t i = 0; i < op->rows; i++) {
        const int64_t position = op->offset + i % op->seq;
        const double *cos_row = (const double *)op->cos + position * half;
        const double *sin_row = (const double *)op->sin + position * half;
        for (int64_t h = 0; h < op->heads; h++) {
            double *x = (double *)op->x + i * op->row_stride + h * op->head_dim;
            for (int64_t d = 0; d < half; d++) {
                double x1 = x[d], x2 = x[d + half];
                double c = cos_row[d], s = op->inverse ? -sin_row[d] : sin_row[d];
                x[d] = x1 * c - x2 * s;
                x[d + half] = x2 * c + x1 * s;
            }
        }
    }
    return LS_OK;
}

static const double GELU_SCALE = 0.79788456080286535588; /* sqrt(2 / pi) */
static const double GELU_CUBE = 0.044715;

/* y = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3) */
ls_status ls_ref_gelu_forward(ls_device *dev, const ls_gelu *op) {
    LS_TRY(ls_check_gelu(dev, op));
    const double *x = op->x;
    double *y = op->y;
    for (int64_t i = 0; i < op->n; i++) {
        double u = GELU_SCALE * (x[i] + GELU_CUBE * x[i] * x[i] * x[i]);
        y[i] = 0.5 * x[i] * (1.0 + tanh(u));
    }
    return LS_OK;
}

/* dx = dy ((1 + tanh(u))/2 + x/2 (1 - tanh(u)^2) u'),  u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2) */
ls_status ls_ref_gelu_backward(ls_device *dev, const ls_gelu *op) {
    LS_TRY(ls_check_gelu(dev, op));
    const double *x = op->x, *dy = op->dy;
    double *dx = op->dx;
    for (int64_t i = 0; i < op->n; i++) {
        double t = tanh(GELU_SCALE * (x[i] + GELU_CUBE * x[i] * x[i] * x[i]));
        double du = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x[i] * x[i]);
        dx[i] = dy[i] * (0.5 * (1.0 + t) + 0.5 * x[i] * (1.0 - t * t) * du);
    }
    return LS_OK;
}

/* y = gate s up, s = sigmoid(gate) = 1 / (1 + exp(-gate)) */
ls_status ls_ref_swiglu_forward(ls_device *dev, const ls_swiglu *op) {
    LS_TRY(ls_check_swiglu(dev, op));
    const int64_t F = op->ffn;
    for (int64_t i = 0; i < op->rows; i++) {
        const double *gate = (const double *)op->x + i * 2 * F, *up = gate + F;
        double *y = (double *)op->y + i * F;
        for (int64_t f = 0; f < F; f++) {
            y[f] = gate[f] / (1.0 + exp(-gate[f])) * up[f];
        }
    }
    return LS_OK;
}

/* dup = dy gate s,  dgate = dy up (s + gate s (1 - s)) */
ls_status ls_ref_swiglu_backward(ls_device *dev, const ls_swiglu *op) {
    LS_TRY(ls_check_swiglu(dev, op));
    const int64_t F = op->ffn;
    for (int64_t i = 0; i < op->rows; i++) {
        const double *gate = (const double *)op->x + i * 2 * F, *up = gate + F;
        const double *dy = (const double *)op->dy + i * F;
        double *dgate = (double *)op->dx + i * 2 * F, *dup = dgate + F;
        for (int64_t f = 0; f < F; f++) {
            double g = gate[f], s = 1.0 / (1.0 + exp(-g));
            double dgate_f = dy[f] * up[f] * (s + g * s * (1.0 - s));
            dup[f] = dy[f] * g * s;
            dgate[f] = dgate_f;
        }
    }
    return LS_OK;
}

/* p = softmax(logits), loss = -log p[target], dlogits = grad_scale (p - onehot(target)) */
ls_status ls_ref_cross_entropy(ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_cross_entropy(dev, op));
    const int64_t V = op->vocab;
    for (int64_t i = 0; i < op->rows; i++) {
        const double *logits = (const double *)op->logits + i * op->ld;
        double *dlogits = op->dlogits ? (double *)op->dlogits + i * op->ld : NULL;
        const int32_t target = op->targets[i];
        const bool ignored = target == -1;
        assert(ignored || (target >= 0 && target < V));
        double max = -INFINITY, sum = 0.0;
        for (int64_t v = 0; v < V; v++) {
            max = logits[v] > max ? logits[v] : max;
        }
        for (int64_t v = 0; v < V; v++) {
            sum += exp(logits[v] - max);
        }
        ((double *)op->losses)[i] = ignored ? 0.0 : log(sum) + max - logits[target];
        for (int64_t v = 0; v < op->ld && dlogits; v++) {
            double p = v < V ? exp(logits[v] - max) / sum : 0.0;
            dlogits[v] = ignored || v >= V ? 0.0 : op->grad_scale * (p - (v == target ? 1.0 : 0.0));
        }
    }
    return LS_OK;
}

static int64_t target_column(const ls_cross_entropy *op, int64_t i) {
    const int64_t column = op->targets[i] - op->first;
    return column >= 0 && column < op->vocab ? column : -1;
}

/* max_v x_v, sum_v exp(x_v - max), x_target; 0 and 0 of no columns. */
ls_status ls_ref_cross_entropy_share(ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_softmax_part(dev, op));
    for (int64_t i = 0; i < op->rows; i++) {
        const double *logits = (const double *)op->logits + i * op->ld;
        double *share = (double *)op->share + 3 * i;
        share[0] = -DBL_MAX;
        share[1] = 0.0;
        for (int64_t v = 0; v < op->vocab; v++) {
            share[0] = logits[v] > share[0] ? logits[v] : share[0];
        }
        for (int64_t v = 0; v < op->vocab; v++) {
            share[1] += exp(logits[v] - share[0]);
        }
        share[2] = target_column(op, i) < 0 ? 0.0 : logits[target_column(op, i)];
    }
    return LS_OK;
}

/* As ls_ref_cross_entropy with the maximum and the sum over all parts. */
ls_status ls_ref_cross_entropy_merge(ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_softmax_part(dev, op));
    const double *shares = op->shares;
    for (int64_t i = 0; i < op->rows; i++) {
        const bool ignored = op->targets[i] == -1;
        double max = -DBL_MAX, sum = 0.0, x_target = 0.0;
        for (int64_t part = 0; part < op->parts; part++) {
            max = fmax(max, shares[3 * (part * op->rows + i)]);
        }
        for (int64_t part = 0; part < op->parts; part++) {
            const double *share = shares + 3 * (part * op->rows + i);
            sum += share[1] * exp(share[0] - max);
            x_target += share[2];
        }
        if (op->losses) {
            ((double *)op->losses)[i] = ignored ? 0.0 : log(sum) + max - x_target;
        }
        for (int64_t v = 0; v < op->ld && op->dlogits; v++) {
            const double x = ((const double *)op->logits)[i * op->ld + v];
            const double p = exp(x - max) / sum - (v == target_column(op, i) ? 1.0 : 0.0);
            ((double *)op->dlogits)[i * op->ld + v] =
                ignored || v >= op->vocab ? 0.0 : op->grad_scale * p;
        }
    }
    return LS_OK;
}

ls_status ls_ref_copy_rows(ls_device *dev, const ls_copy_rows *op) {
    LS_TRY(ls_check_copy_rows(dev, op));
    for (int64_t i = 0; i < op->rows; i++) {
        for (int64_t c = 0; c < op->cols; c++) {
            double *y = (double *)op->y + i * op->ldy + c;
            *y = ((const double *)op->x)[i * op->ldx + c] + (op->add ? *y : 0.0);
        }
    }
    return LS_OK;
}

ls_status ls_ref_add(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    LS_TRY(ls_check_dtype(dev, "add", dtype));
    LS_TRY(ls_check_size("add", "n", n, 0));
    for (int64_t i = 0; i < n; i++) {
        ((double *)y)[i] += ((const double *)x)[i];
    }
    return LS_OK;
}

/* Of one type here: conversions copy. */
static ls_status convert(const ls_device *dev, const char *what, ls_dtype dtype, int64_t n,
                         const void *x, void *y) {
    LS_TRY(ls_check_dtype(dev, what, dtype));
    LS_TRY(ls_check_size(what, "n", n, 0));
    for (int64_t i = 0; i < n; i++) {
        ((double *)y)[i] = ((const double *)x)[i];
    }
    return LS_OK;
}

ls_status ls_ref_cast(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    return convert(dev, "cast", dtype, n, x, y);
}

ls_status ls_ref_widen(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    return convert(dev, "widen", dtype, n, x, y);
}

enum { SUM_BLOCK_ELEMS = 65536 };

ls_status ls_ref_sum_squares(ls_device *dev, int64_t first, int64_t n, const void *x,
                             double *sums) {
    (void)dev;
    LS_TRY(ls_check_sum_squares(first, n));
    memset(sums, 0, (size_t)ls_squares_count(first, n) * sizeof *sums);
    for (int64_t i = 0; i < n; i++) {
        double value = ((const double *)x)[i];
        sums[(first % LS_SQUARES_ELEMS + i) / LS_SQUARES_ELEMS] += value * value;
    }
    return LS_OK;
}

ls_status ls_ref_sum(ls_device *dev, int64_t n, const void *x, double *sum) {
    (void)dev;
    LS_TRY(ls_check_size("sum", "n", n, 0));
    *sum = 0.0;
    for (int64_t begin = 0; begin < n; begin += SUM_BLOCK_ELEMS) {
        int64_t end = begin + SUM_BLOCK_ELEMS < n ? begin + SUM_BLOCK_ELEMS : n;
        double block = 0.0;
        for (int64_t i = begin; i < end; i++) {
            block += ((const double *)x)[i];
        }
        *sum += block;
    }
    return LS_OK;
}
