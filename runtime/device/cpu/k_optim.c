/* The updates of elementwise optimizers, and blends, each one pass over memory: copies are rounded
 * in the same loop, so that memory has something to do meanwhile. Compiled without contraction to
 * fused products, so that an element's bits do not depend on where it stands in a call, nor on the
 * level.
 */
#include "runtime/device/cpu/kernel.h"

#include <math.h>

typedef struct adamw_factors {
    float beta1, rest1, beta2, rest2; /* rest = 1 - beta */
    float m_hat, v_hat;               /* 1 / (1 - beta^t) */
    float lr, eps, weight_decay, grad_scale;
} adamw_factors;

LS_INLINE void store_copy(const bool copy, ls_dtype dtype, void *to, int64_t i, float value) {
    if (copy) {
        ls_store(dtype, to, i, value);
    }
}

LS_INLINE void adamw_chunk(const ls_adamw *op, const adamw_factors *f, int64_t begin, int64_t end,
                           const bool copy, ls_dtype dtype) {
    float *p = op->p, *m = op->m, *v = op->v;
    const float *grad = op->grad;
    const adamw_factors k = *f;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        float g = k.grad_scale * grad[i];
        float m_i = k.beta1 * m[i] + k.rest1 * g;
        float v_i = k.beta2 * v[i] + k.rest2 * g * g;
        m[i] = m_i;
        v[i] = v_i;
        float update = m_i * k.m_hat / (sqrtf(v_i * k.v_hat) + k.eps) + k.weight_decay * p[i];
        p[i] -= k.lr * update;
        store_copy(copy, dtype, op->copy, i, p[i]);
    }
}

/* chunk(op, factors, begin, end, copy, dtype) over n elements; with op->copy it rounds what it
 * writes to op->p into a copy of that dtype. */
#define UPDATE_CHUNKS(dev, op, chunk, factors)                                                     \
    do {                                                                                           \
        const int threads = ls_threads_for((dev), (op)->n);                                        \
        _Pragma("omp parallel for num_threads(threads) schedule(static)") for (int64_t begin = 0;  \
                                                                               begin < (op)->n;    \
                                                                               begin +=            \
                                                                               LS_CHUNK_ELEMS) {   \
            const int64_t end = ls_min(begin + LS_CHUNK_ELEMS, (op)->n);                           \
            if ((op)->copy) {                                                                      \
                LS_BY_DTYPE((op)->copy_dtype, chunk, (op), (factors), begin, end, true);           \
            } else {                                                                               \
                chunk((op), (factors), begin, end, false, LS_F32);                                 \
            }                                                                                      \
        }                                                                                          \
    } while (0)

ls_status LS_ISA_NAME(ls_cpu_adamw)(ls_device *dev, const ls_adamw *op) {
    LS_TRY(ls_check_adamw(dev, op));
    const adamw_factors factors = {
        .beta1 = (float)op->beta1,
        .rest1 = (float)(1.0 - op->beta1),
        .beta2 = (float)op->beta2,
        .rest2 = (float)(1.0 - op->beta2),
        .m_hat = (float)(1.0 / (1.0 - pow(op->beta1, (double)op->t))),
        .v_hat = (float)(1.0 / (1.0 - pow(op->beta2, (double)op->t))),
        .lr = (float)op->lr,
        .eps = (float)op->eps,
        .weight_decay = (float)op->weight_decay,
        .grad_scale = (float)op->grad_scale,
    };
    UPDATE_CHUNKS(dev, op, adamw_chunk, &factors);
    return LS_OK;
}

typedef struct lion_factors {
    float beta1, rest1, beta2, rest2, lr, weight_decay, grad_scale;
} lion_factors;

LS_INLINE void lion_chunk(const ls_lion *op, const lion_factors *f, int64_t begin, int64_t end,
                          const bool copy, ls_dtype dtype) {
    float *p = op->p, *m = op->m;
    const float *grad = op->grad;
    const lion_factors k = *f;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        float g = k.grad_scale * grad[i];
        float c = k.beta1 * m[i] + k.rest1 * g;
        float sign = c > 0.0f ? 1.0f : c < 0.0f ? -1.0f : c; /* zero and NaN stay */
        m[i] = k.beta2 * m[i] + k.rest2 * g;
        p[i] -= k.lr * (sign + k.weight_decay * p[i]);
        store_copy(copy, dtype, op->copy, i, p[i]);
    }
}

ls_status LS_ISA_NAME(ls_cpu_lion)(ls_device *dev, const ls_lion *op) {
    LS_TRY(ls_check_update(dev, "lion", op->n, op->copy, op->copy_dtype));
    LS_TRY(ls_check_verdict(dev, "lion", op->verdict));
    const lion_factors factors = {
        .beta1 = (float)op->beta1,
        .rest1 = (float)(1.0 - op->beta1),
        .beta2 = (float)op->beta2,
        .rest2 = (float)(1.0 - op->beta2),
        .lr = (float)op->lr,
        .weight_decay = (float)op->weight_decay,
        .grad_scale = (float)op->grad_scale,
    };
    UPDATE_CHUNKS(dev, op, lion_chunk, &factors);
    return LS_OK;
}

typedef struct sgd_factors {
    float lr, momentum, weight_decay, grad_scale;
} sgd_factors;

LS_INLINE void sgd_chunk(const ls_sgd *op, const sgd_factors *f, int64_t begin, int64_t end,
                         const bool copy, ls_dtype dtype) {
    float *p = op->p, *m = op->m;
    const float *grad = op->grad;
    const sgd_factors k = *f;
    if (!m) {
#pragma omp simd
        for (int64_t i = begin; i < end; i++) {
            p[i] -= k.lr * (k.grad_scale * grad[i] + k.weight_decay * p[i]);
            store_copy(copy, dtype, op->copy, i, p[i]);
        }
        return;
    }
    const bool nesterov = op->nesterov;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        float g = k.grad_scale * grad[i] + k.weight_decay * p[i];
        float m_i = k.momentum * m[i] + g;
        m[i] = m_i;
        p[i] -= k.lr * (nesterov ? g + k.momentum * m_i : m_i);
        store_copy(copy, dtype, op->copy, i, p[i]);
    }
}

ls_status LS_ISA_NAME(ls_cpu_sgd)(ls_device *dev, const ls_sgd *op) {
    LS_TRY(ls_check_update(dev, "sgd", op->n, op->copy, op->copy_dtype));
    LS_TRY(ls_check_verdict(dev, "sgd", op->verdict));
    const sgd_factors factors = {.lr = (float)op->lr,
                                 .momentum = (float)op->momentum,
                                 .weight_decay = (float)op->weight_decay,
                                 .grad_scale = (float)op->grad_scale};
    UPDATE_CHUNKS(dev, op, sgd_chunk, &factors);
    return LS_OK;
}

static void blend_chunk(float a, const float *x, float b, float *y, int64_t n) {
    if (b == 0.0f) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            y[i] = a * x[i];
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            y[i] = a * x[i] + b * y[i];
        }
    }
}

ls_status LS_ISA_NAME(ls_cpu_blend)(ls_device *dev, int64_t n, double a, const void *x, double b,
                                    void *y) {
    LS_TRY(ls_check_size("blend", "n", n, 0));
    const int threads = ls_threads_for(dev, n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < n; begin += LS_CHUNK_ELEMS) {
        blend_chunk((float)a, (const float *)x + begin, (float)b, (float *)y + begin,
                    ls_min(LS_CHUNK_ELEMS, n - begin));
    }
    return LS_OK;
}
