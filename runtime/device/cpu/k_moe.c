/* Mixture of experts: which experts a token goes to, and the rows on their way there and back. */
#include "runtime/device/cpu/kernel.h"

#include <math.h>

static void softmax(const float *x, int64_t n, float *p) {
    float max = x[0], sum = 0.0f;
    for (int64_t i = 1; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    for (int64_t i = 0; i < n; i++) {
        p[i] = ls_vec_exp(x[i] - max);
        sum += p[i];
    }
    for (int64_t i = 0; i < n; i++) {
        p[i] /= sum;
    }
}

static bool is_chosen(const int32_t *chosen, int64_t count, int64_t expert) {
    for (int64_t j = 0; j < count; j++) {
        if (chosen[j] == expert) {
            return true;
        }
    }
    return false;
}

/* Of experts in ascending order: is the later one to be chosen before the other? */
static bool is_larger(float later, float other) {
    return later > other || (isnan(later) && !isnan(other));
}

static void route_row(const ls_route *op, int64_t i) {
    const float *logits = (const float *)op->logits + i * op->experts;
    int32_t *chosen = op->chosen + i * op->each;
    float *gates = (float *)op->gates + i * op->each;
    softmax(logits, op->experts, (float *)op->probs + i * op->experts);
    for (int64_t j = 0; j < op->each; j++) {
        int64_t best = -1;
        for (int64_t e = 0; e < op->experts; e++) {
            if (!is_chosen(chosen, j, e) && (best < 0 || is_larger(logits[e], logits[best]))) {
                best = e;
            }
        }
        chosen[j] = (int32_t)best;
        gates[j] = logits[best];
    }
    softmax(gates, op->each, gates);
}

ls_status LS_ISA_NAME(ls_cpu_route_forward)(ls_device *dev, const ls_route *op) {
    LS_TRY(ls_check_route(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->experts * op->each);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        route_row(op, i);
    }
    return LS_OK;
}

LS_INLINE void route_row_backward(const ls_route *op, int64_t i, ls_dtype dtype) {
    const float *probs = (const float *)op->probs + i * op->experts, *balance = op->balance;
    const float *gates = (const float *)op->gates + i * op->each;
    const float *dgates = (const float *)op->dgates + i * op->each;
    const int32_t *chosen = op->chosen + i * op->each;
    float mean_balance = 0.0f, mean_gate = 0.0f;
    for (int64_t e = 0; e < op->experts; e++) {
        mean_balance += probs[e] * balance[e];
    }
    for (int64_t j = 0; j < op->each; j++) {
        mean_gate += gates[j] * dgates[j];
    }
    for (int64_t e = 0; e < op->experts; e++) {
        float d = probs[e] * (balance[e] - mean_balance);
        for (int64_t j = 0; j < op->each; j++) {
            d += chosen[j] == e ? gates[j] * (dgates[j] - mean_gate) : 0.0f;
        }
        ls_store(dtype, op->dlogits, i * op->experts + e, d);
    }
}

ls_status LS_ISA_NAME(ls_cpu_route_backward)(ls_device *dev, const ls_route *op) {
    LS_TRY(ls_check_route(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->experts * op->each);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        LS_BY_DTYPE(op->dtype, route_row_backward, op, i);
    }
    return LS_OK;
}

static void select_row(const ls_select_rows *op, int64_t i) {
    const size_t bytes =
        (size_t)op->cols * (op->dtype == LS_BF16 ? sizeof(ls_bf16) : sizeof(float));
    char *y = (char *)op->y + (size_t)i * bytes;
    if (op->index[i] < 0) {
        memset(y, 0, bytes);
    } else {
        memcpy(y, (const char *)op->x + (size_t)op->index[i] * bytes, bytes);
    }
}

ls_status LS_ISA_NAME(ls_cpu_select_rows)(ls_device *dev, const ls_select_rows *op) {
    LS_TRY(ls_check_select_rows(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->cols);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        select_row(op, i);
    }
    return LS_OK;
}

static inline float weight_at(const ls_combine *op, int64_t term) {
    return op->weights ? ((const float *)op->weights)[term] : 1.0f;
}

/* In pieces of columns, whose sums stay in registers or the first cache. */
enum { PIECE = 256 };

LS_INLINE void combine_row(const ls_combine *op, int64_t i, ls_dtype dtype) {
    for (int64_t begin = 0; begin < op->cols; begin += PIECE) {
        const int64_t n = ls_min(PIECE, op->cols - begin);
        float sum[PIECE] = {0.0f};
        for (int64_t c = 0; op->residual && c < n; c++) {
            sum[c] = ls_load(dtype, op->residual, i * op->cols + begin + c);
        }
        for (int64_t j = 0; j < op->each; j++) {
            const int64_t row = op->index[i * op->each + j];
            if (row < 0) {
                continue;
            }
            const float weight = weight_at(op, i * op->each + j);
            const void *x = ls_at(dtype, op->x, row * op->cols + begin);
#pragma omp simd
            for (int64_t c = 0; c < n; c++) {
                sum[c] += weight * ls_load(dtype, x, c);
            }
        }
        void *y = ls_at_mut(dtype, op->y, i * op->cols + begin);
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            ls_store(dtype, y, c, sum[c]);
        }
    }
}

ls_status LS_ISA_NAME(ls_cpu_combine_forward)(ls_device *dev, const ls_combine *op) {
    LS_TRY(ls_check_combine(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->cols);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        LS_BY_DTYPE(op->dtype, combine_row, op, i);
    }
    return LS_OK;
}

LS_INLINE void combine_row_backward(const ls_combine *op, int64_t i, ls_dtype dtype) {
    const void *dy = ls_at(dtype, op->dy, i * op->cols);
    for (int64_t j = 0; j < op->each; j++) {
        const int64_t term = i * op->each + j, row = op->index[term];
        float sum = 0.0f;
        if (row >= 0) {
            const float weight = weight_at(op, term);
            const void *x = ls_at(dtype, op->x, row * op->cols);
            void *dx = ls_at_mut(dtype, op->dx, row * op->cols);
#pragma omp simd reduction(+ : sum)
            for (int64_t c = 0; c < op->cols; c++) {
                const float d = ls_load(dtype, dy, c);
                sum += ls_load(dtype, x, c) * d;
                ls_store(dtype, dx, c, weight * d);
            }
        }
        ((float *)op->dweights)[term] = sum;
    }
}

ls_status LS_ISA_NAME(ls_cpu_combine_backward)(ls_device *dev, const ls_combine *op) {
    LS_TRY(ls_check_combine(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->cols);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        LS_BY_DTYPE(op->dtype, combine_row_backward, op, i);
    }
    return LS_OK;
}
