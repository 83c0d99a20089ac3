/* RoPE, GELU and SwiGLU: element by element, bound by memory. */
#include "runtime/device/cpu/k_bf16.h"

#include <math.h>

LS_INLINE void rope_row(const ls_rope *op, int64_t i, ls_dtype dtype) {
    const int64_t half = op->head_dim / 2, position = op->offset + i % op->seq;
    const float *cos_row = (const float *)op->cos + position * half;
    const float *sin_row = (const float *)op->sin + position * half;
    const float sign = op->inverse ? -1.0f : 1.0f;
    for (int64_t h = 0; h < op->heads; h++) {
        void *x = ls_at_mut(dtype, op->x, i * op->row_stride + h * op->head_dim);
#pragma omp simd
        for (int64_t d = 0; d < half; d++) {
            float x1 = ls_load(dtype, x, d), x2 = ls_load(dtype, x, d + half);
            float c = cos_row[d], s = sign * sin_row[d];
            ls_store(dtype, x, d, x1 * c - x2 * s);
            ls_store(dtype, x, d + half, x2 * c + x1 * s);
        }
    }
}

ls_status LS_ISA_NAME(ls_cpu_rope)(ls_device *dev, const ls_rope *op) {
    LS_TRY(ls_check_rope(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->heads * op->head_dim);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        LS_BY_DTYPE(op->dtype, rope_row, op, i);
    }
    return LS_OK;
}

/* 2 sqrt(2/pi) and its product with 0.044715: (1 + tanh(u)) / 2 = sigmoid(2u), which keeps the
 * relative accuracy of the left tail. */
static const float GELU_LINEAR = 1.5957691216057308f, GELU_CUBIC = 0.07135481282553147f;

LS_INLINE void gelu_forward_chunk(const ls_gelu *op, int64_t begin, int64_t end, ls_dtype dtype) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        float x = ls_load(dtype, op->x, i);
        ls_store(dtype, op->y, i, x * ls_vec_sigmoid(x * (GELU_LINEAR + GELU_CUBIC * x * x)));
    }
}

/* y = x s(z), z = x (a + b x^2): y' = s + x s (1 - s) z', z' = a + 3 b x^2, where 1 - s = e^-z s
 * loses no digits. Beyond |x| = 9.5, y' is 0 or 1 in fp32 (within 1e-30) and e^-z would overflow;
 * the clamp keeps a NaN. */
LS_INLINE void gelu_backward_chunk(const ls_gelu *op, int64_t begin, int64_t end, ls_dtype dtype) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        float x = ls_vec_clamp(ls_load(dtype, op->x, i), 9.5f);
        float e = ls_vec_exp(-x * (GELU_LINEAR + GELU_CUBIC * x * x)), s = 1.0f / (1.0f + e);
        float slope = GELU_LINEAR + 3.0f * GELU_CUBIC * x * x;
        float derivative = s + x * s * (e * s) * slope;
        ls_store(dtype, op->dx, i, ls_load(dtype, op->dy, i) * derivative);
    }
}

#if HAS_BF16_VECTORS
/* e^-z, z = x (a + b x^2) as above. */
LS_INLINE __m512 gelu_exp(__m512 x, __m512 x2) {
    const __m512 a = _mm512_set1_ps(-(float)M_LOG2E * GELU_LINEAR);
    const __m512 b = _mm512_set1_ps(-(float)M_LOG2E * GELU_CUBIC);
    return exp2_bf16(_mm512_mul_ps(x, _mm512_fmadd_ps(b, x2, a)));
}

LS_INLINE __m512 gelu_of(__m512 x) {
    return _mm512_mul_ps(x, sigmoid_of(gelu_exp(x, _mm512_mul_ps(x, x))));
}

static void gelu_forward_bf16(const ls_gelu *op, int64_t begin, int64_t end) {
    const ls_bf16 *x = op->x;
    ls_bf16 *y = op->y;
    int64_t i = begin;
    for (; i + BF16_LINE <= end; i += BF16_LINE) {
        bf16_store_line(y + i, gelu_of(bf16_load_whole(x + i)),
                        gelu_of(bf16_load_whole(x + i + BF16_LANES)));
    }
    for (; i < end; i += BF16_LANES) {
        const __mmask16 mask = bf16_mask(i, end);
        bf16_store(y + i, mask, gelu_of(bf16_load(x + i, mask)));
    }
}

LS_INLINE __m512 gelu_gradient_of(__m512 x, __m512 dy) {
    const __m512 a = _mm512_set1_ps(GELU_LINEAR), b3 = _mm512_set1_ps(3.0f * GELU_CUBIC);
    const __m512 limit = _mm512_set1_ps(9.5f), low = _mm512_set1_ps(-9.5f);
    x = _mm512_max_ps(low, _mm512_min_ps(limit, x)); /* of a NaN, the second operand */
    const __m512 x2 = _mm512_mul_ps(x, x), e = gelu_exp(x, x2), s = sigmoid_of(e);
    const __m512 slope = _mm512_mul_ps(x, _mm512_fmadd_ps(b3, x2, a));
    /* s + s (1 - s) x z' */
    return _mm512_mul_ps(dy, _mm512_fmadd_ps(_mm512_mul_ps(s, _mm512_mul_ps(e, s)), slope, s));
}

static void gelu_backward_bf16(const ls_gelu *op, int64_t begin, int64_t end) {
    const ls_bf16 *x = op->x, *dy = op->dy;
    ls_bf16 *dx = op->dx;
    int64_t i = begin;
    for (; i + BF16_LINE <= end; i += BF16_LINE) {
        const int64_t k = i + BF16_LANES;
        bf16_store_line(dx + i, gelu_gradient_of(bf16_load_whole(x + i), bf16_load_whole(dy + i)),
                        gelu_gradient_of(bf16_load_whole(x + k), bf16_load_whole(dy + k)));
    }
    for (; i < end; i += BF16_LANES) {
        const __mmask16 mask = bf16_mask(i, end);
        bf16_store(dx + i, mask, gelu_gradient_of(bf16_load(x + i, mask), bf16_load(dy + i, mask)));
    }
}
#define GELU_CHUNK(name, op, begin, end)                                                           \
    do {                                                                                           \
        if ((op)->dtype == LS_BF16) {                                                              \
            name##_bf16(op, begin, end);                                                           \
        } else {                                                                                   \
            name##_chunk(op, begin, end, LS_F32);                                                  \
        }                                                                                          \
    } while (0)
#else
#define GELU_CHUNK(name, op, begin, end) LS_BY_DTYPE((op)->dtype, name##_chunk, op, begin, end)
#endif

ls_status LS_ISA_NAME(ls_cpu_gelu_forward)(ls_device *dev, const ls_gelu *op) {
    LS_TRY(ls_check_gelu(dev, op));
    const int threads = ls_threads_for(dev, op->n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < op->n; begin += LS_CHUNK_ELEMS) {
        const int64_t end = ls_min(begin + LS_CHUNK_ELEMS, op->n);
        GELU_CHUNK(gelu_forward, op, begin, end);
    }
    return LS_OK;
}

ls_status LS_ISA_NAME(ls_cpu_gelu_backward)(ls_device *dev, const ls_gelu *op) {
    LS_TRY(ls_check_gelu(dev, op));
    const int threads = ls_threads_for(dev, op->n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < op->n; begin += LS_CHUNK_ELEMS) {
        const int64_t end = ls_min(begin + LS_CHUNK_ELEMS, op->n);
        GELU_CHUNK(gelu_backward, op, begin, end);
    }
    return LS_OK;
}

LS_INLINE void swiglu_forward_row(const ls_swiglu *op, int64_t i, ls_dtype dtype) {
    const int64_t F = op->ffn;
    const void *gate = ls_at(dtype, op->x, i * 2 * F), *up = ls_at(dtype, gate, F);
    void *y = ls_at_mut(dtype, op->y, i * F);
#pragma omp simd
    for (int64_t f = 0; f < F; f++) {
        float g = ls_load(dtype, gate, f);
        ls_store(dtype, y, f, g * ls_vec_sigmoid(g) * ls_load(dtype, up, f));
    }
}

/* dup = dy g s, dgate = dy up s (1 + g (1 - s)) */
LS_INLINE void swiglu_backward_row(const ls_swiglu *op, int64_t i, ls_dtype dtype) {
    const int64_t F = op->ffn;
    const void *gate = ls_at(dtype, op->x, i * 2 * F), *up = ls_at(dtype, gate, F);
    const void *dy = ls_at(dtype, op->dy, i * F);
    void *dgate = ls_at_mut(dtype, op->dx, i * 2 * F), *dup = ls_at_mut(dtype, dgate, F);
#pragma omp simd
    for (int64_t f = 0; f < F; f++) {
        float g = ls_load(dtype, gate, f), u = ls_load(dtype, up, f), dy_f = ls_load(dtype, dy, f);
        float s = ls_vec_sigmoid(g);
        ls_store(dtype, dgate, f, dy_f * u * s * (1.0f + g * (1.0f - s)));
        ls_store(dtype, dup, f, dy_f * g * s);
    }
}

#if HAS_BF16_VECTORS
LS_INLINE __m512 swiglu_exp(__m512 gate) {
    return exp2_bf16(_mm512_mul_ps(gate, _mm512_set1_ps(-(float)M_LOG2E)));
}

LS_INLINE __m512 swiglu_of(__m512 g, __m512 u) {
    return _mm512_mul_ps(_mm512_mul_ps(g, u), sigmoid_of(swiglu_exp(g)));
}

static void swiglu_forward_bf16(const ls_swiglu *op, int64_t i) {
    const int64_t F = op->ffn;
    const ls_bf16 *gate = (const ls_bf16 *)op->x + i * 2 * F, *up = gate + F;
    ls_bf16 *y = (ls_bf16 *)op->y + i * F;
    int64_t f = 0;
    for (; f + BF16_LINE <= F; f += BF16_LINE) {
        const int64_t k = f + BF16_LANES;
        bf16_store_line(y + f, swiglu_of(bf16_load_whole(gate + f), bf16_load_whole(up + f)),
                        swiglu_of(bf16_load_whole(gate + k), bf16_load_whole(up + k)));
    }
    for (; f < F; f += BF16_LANES) {
        const __mmask16 mask = bf16_mask(f, F);
        bf16_store(y + f, mask, swiglu_of(bf16_load(gate + f, mask), bf16_load(up + f, mask)));
    }
}

typedef struct swiglu_gradient {
    __m512 gate, up;
} swiglu_gradient;

LS_INLINE swiglu_gradient swiglu_gradient_of(__m512 g, __m512 u, __m512 dy) {
    const __m512 one = _mm512_set1_ps(1.0f), s = sigmoid_of(swiglu_exp(g));
    const __m512 dy_s = _mm512_mul_ps(dy, s);
    const __m512 slope = _mm512_fmadd_ps(g, _mm512_sub_ps(one, s), one);
    return (swiglu_gradient){.gate = _mm512_mul_ps(_mm512_mul_ps(dy_s, u), slope),
                             .up = _mm512_mul_ps(dy_s, g)};
}

static void swiglu_backward_bf16(const ls_swiglu *op, int64_t i) {
    const int64_t F = op->ffn;
    const ls_bf16 *gate = (const ls_bf16 *)op->x + i * 2 * F, *up = gate + F;
    const ls_bf16 *dy = (const ls_bf16 *)op->dy + i * F;
    ls_bf16 *dgate = (ls_bf16 *)op->dx + i * 2 * F, *dup = dgate + F;
    int64_t f = 0;
    for (; f + BF16_LINE <= F; f += BF16_LINE) {
        const int64_t k = f + BF16_LANES;
        const swiglu_gradient first = swiglu_gradient_of(
            bf16_load_whole(gate + f), bf16_load_whole(up + f), bf16_load_whole(dy + f));
        const swiglu_gradient second = swiglu_gradient_of(
            bf16_load_whole(gate + k), bf16_load_whole(up + k), bf16_load_whole(dy + k));
        bf16_store_line(dgate + f, first.gate, second.gate);
        bf16_store_line(dup + f, first.up, second.up);
    }
    for (; f < F; f += BF16_LANES) {
        const __mmask16 mask = bf16_mask(f, F);
        const swiglu_gradient d = swiglu_gradient_of(
            bf16_load(gate + f, mask), bf16_load(up + f, mask), bf16_load(dy + f, mask));
        bf16_store(dgate + f, mask, d.gate);
        bf16_store(dup + f, mask, d.up);
    }
}
#define SWIGLU_ROW(name, op, i)                                                                    \
    do {                                                                                           \
        if ((op)->dtype == LS_BF16) {                                                              \
            name##_bf16(op, i);                                                                    \
        } else {                                                                                   \
            name##_row(op, i, LS_F32);                                                             \
        }                                                                                          \
    } while (0)
#else
#define SWIGLU_ROW(name, op, i) LS_BY_DTYPE((op)->dtype, name##_row, op, i)
#endif

ls_status LS_ISA_NAME(ls_cpu_swiglu_forward)(ls_device *dev, const ls_swiglu *op) {
    LS_TRY(ls_check_swiglu(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->ffn);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        SWIGLU_ROW(swiglu_forward, op, i);
    }
    return LS_OK;
}

ls_status LS_ISA_NAME(ls_cpu_swiglu_backward)(ls_device *dev, const ls_swiglu *op) {
    LS_TRY(ls_check_swiglu(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->ffn);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        SWIGLU_ROW(swiglu_backward, op, i);
    }
    return LS_OK;
}
