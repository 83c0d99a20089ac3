/* RoPE, GELU and SwiGLU: element by element, bound by memory. */
#include "runtime/device/cpu/k_activation_neon.h"

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
/* -z log2(e), z = x (a + b x^2) as above. */
LS_INLINE __m512 gelu_power(__m512 x, __m512 x2) {
    const __m512 a = _mm512_set1_ps(-(float)M_LOG2E * GELU_LINEAR);
    const __m512 b = _mm512_set1_ps(-(float)M_LOG2E * GELU_CUBIC);
    return _mm512_mul_ps(x, _mm512_fmadd_ps(b, x2, a));
}

LS_INLINE __m512 gelu_of(__m512 x) {
    return _mm512_mul_ps(x, sigmoid_of(exp2_bf16(gelu_power(x, _mm512_mul_ps(x, x)))));
}

LS_INLINE void gelu_forward_each(const ls_bf16 *from, ls_bf16 *to) {
    __m512 x[BF16_AT_ONCE], e[BF16_AT_ONCE];
    bf16_load_each(from, x);
    BF16_EACH(v, e[v] = _mm512_mul_ps(x[v], x[v]));
    BF16_EACH(v, e[v] = gelu_power(x[v], e[v]));
    exp2_bf16_each(e);
    BF16_EACH(v, x[v] = _mm512_mul_ps(x[v], sigmoid_of(e[v])));
    bf16_store_each(to, x);
}

static void gelu_forward_bf16(const ls_gelu *op, int64_t begin, int64_t end) {
    const ls_bf16 *x = op->x;
    ls_bf16 *y = op->y;
    int64_t i = begin;
    for (; i + BF16_STRETCH <= end; i += BF16_STRETCH) {
        gelu_forward_each(x + i, y + i);
    }
    for (; i < end; i += BF16_LANES) {
        const __mmask16 mask = bf16_mask(i, end);
        bf16_store(y + i, mask, gelu_of(bf16_load(x + i, mask)));
    }
}

LS_INLINE __m512 gelu_clamp(__m512 x) {
    const __m512 limit = _mm512_set1_ps(9.5f), low = _mm512_set1_ps(-9.5f);
    return _mm512_max_ps(low, _mm512_min_ps(limit, x)); /* of a NaN, the second operand */
}

/* x z' */
LS_INLINE __m512 gelu_slope(__m512 x, __m512 x2) {
    const __m512 a = _mm512_set1_ps(GELU_LINEAR), b3 = _mm512_set1_ps(3.0f * GELU_CUBIC);
    return _mm512_mul_ps(x, _mm512_fmadd_ps(b3, x2, a));
}

/* y' = s + s (1 - s) x z', of e = e^-z. */
LS_INLINE __m512 gelu_derivative(__m512 e, __m512 s, __m512 slope) {
    return _mm512_fmadd_ps(_mm512_mul_ps(s, _mm512_mul_ps(e, s)), slope, s);
}

LS_INLINE __m512 gelu_gradient_of(__m512 x, __m512 dy) {
    x = gelu_clamp(x);
    const __m512 x2 = _mm512_mul_ps(x, x), e = exp2_bf16(gelu_power(x, x2));
    return _mm512_mul_ps(dy, gelu_derivative(e, sigmoid_of(e), gelu_slope(x, x2)));
}

LS_INLINE void gelu_backward_each(const ls_bf16 *from, const ls_bf16 *dy, ls_bf16 *to) {
    __m512 x[BF16_AT_ONCE], e[BF16_AT_ONCE], s[BF16_AT_ONCE];
    bf16_load_each(from, x);
    BF16_EACH(v, x[v] = gelu_clamp(x[v]));
    BF16_EACH(v, s[v] = _mm512_mul_ps(x[v], x[v]));
    BF16_EACH(v, e[v] = gelu_power(x[v], s[v]));
    BF16_EACH(v, x[v] = gelu_slope(x[v], s[v]));
    exp2_bf16_each(e);
    BF16_EACH(v, s[v] = sigmoid_of(e[v]));
    BF16_EACH(v, e[v] = gelu_derivative(e[v], s[v], x[v]));
    BF16_EACH(v, e[v] = _mm512_mul_ps(e[v], bf16_load_whole(dy + v * BF16_LANES)));
    bf16_store_each(to, e);
}

static void gelu_backward_bf16(const ls_gelu *op, int64_t begin, int64_t end) {
    const ls_bf16 *x = op->x, *dy = op->dy;
    ls_bf16 *dx = op->dx;
    int64_t i = begin;
    for (; i + BF16_STRETCH <= end; i += BF16_STRETCH) {
        gelu_backward_each(x + i, dy + i, dx + i);
    }
    for (; i < end; i += BF16_LANES) {
        const __mmask16 mask = bf16_mask(i, end);
        bf16_store(dx + i, mask, gelu_gradient_of(bf16_load(x + i, mask), bf16_load(dy + i, mask)));
    }
}
#elif HAS_BF16_NEON
static void gelu_forward_bf16(const ls_gelu *op, int64_t begin, int64_t end) {
    const ls_bf16 *x = op->x;
    ls_bf16 *y = op->y;
    NEON_EACH(i, n, begin, end, neon_gelu_forward(x + i, y + i, n, GELU_LINEAR, GELU_CUBIC));
}

static void gelu_backward_bf16(const ls_gelu *op, int64_t begin, int64_t end) {
    const ls_bf16 *x = op->x, *dy = op->dy;
    ls_bf16 *dx = op->dx;
    NEON_EACH(i, n, begin, end,
              neon_gelu_backward(x + i, dy + i, dx + i, n, GELU_LINEAR, GELU_CUBIC));
}
#endif

#if HAS_BF16_VECTORS || HAS_BF16_NEON
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
/* The power of two that is e^-gate. */
LS_INLINE __m512 swiglu_power(__m512 gate) {
    return _mm512_mul_ps(gate, _mm512_set1_ps(-(float)M_LOG2E));
}

LS_INLINE __m512 swiglu_of(__m512 g, __m512 u) {
    return _mm512_mul_ps(_mm512_mul_ps(g, u), sigmoid_of(exp2_bf16(swiglu_power(g))));
}

/* The same place of the next row comes nearer: rows of two halves are too short for the processor
 * to see what follows. */
LS_INLINE void prefetch_stretch(const ls_bf16 *x) {
#pragma GCC unroll 4
    for (int at = 0; at < BF16_STRETCH; at += BF16_LINE) {
        __builtin_prefetch(x + at);
    }
}

LS_INLINE void swiglu_forward_each(const ls_bf16 *gate, const ls_bf16 *up, ls_bf16 *y) {
    __m512 g[BF16_AT_ONCE], e[BF16_AT_ONCE];
    bf16_load_each(gate, g);
    BF16_EACH(v, e[v] = swiglu_power(g[v]));
    exp2_bf16_each(e);
    BF16_EACH(v, g[v] = _mm512_mul_ps(g[v], bf16_load_whole(up + v * BF16_LANES)));
    BF16_EACH(v, g[v] = _mm512_mul_ps(g[v], sigmoid_of(e[v])));
    bf16_store_each(y, g);
}

static void swiglu_forward_bf16(const ls_swiglu *op, int64_t i) {
    const int64_t F = op->ffn;
    const ls_bf16 *gate = (const ls_bf16 *)op->x + i * 2 * F, *up = gate + F;
    ls_bf16 *y = (ls_bf16 *)op->y + i * F;
    int64_t f = 0;
    for (; f + BF16_STRETCH <= F; f += BF16_STRETCH) {
        prefetch_stretch(gate + f + 2 * F);
        prefetch_stretch(up + f + 2 * F);
        swiglu_forward_each(gate + f, up + f, y + f);
    }
    for (; f < F; f += BF16_LANES) {
        const __mmask16 mask = bf16_mask(f, F);
        bf16_store(y + f, mask, swiglu_of(bf16_load(gate + f, mask), bf16_load(up + f, mask)));
    }
}

typedef struct swiglu_gradient {
    __m512 gate, up;
} swiglu_gradient;

/* s = sigmoid(g) */
LS_INLINE swiglu_gradient swiglu_gradient_of(__m512 g, __m512 u, __m512 dy, __m512 s) {
    const __m512 one = _mm512_set1_ps(1.0f), dy_s = _mm512_mul_ps(dy, s);
    const __m512 slope = _mm512_fmadd_ps(g, _mm512_sub_ps(one, s), one);
    return (swiglu_gradient){.gate = _mm512_mul_ps(_mm512_mul_ps(dy_s, u), slope),
                             .up = _mm512_mul_ps(dy_s, g)};
}

LS_INLINE void swiglu_backward_each(const ls_bf16 *gate, const ls_bf16 *up, const ls_bf16 *dy,
                                    ls_bf16 *dgate, ls_bf16 *dup) {
    __m512 g[BF16_AT_ONCE], e[BF16_AT_ONCE];
    bf16_load_each(gate, g);
    BF16_EACH(v, e[v] = swiglu_power(g[v]));
    exp2_bf16_each(e);
    BF16_EACH(v, {
        const int64_t at = v * BF16_LANES;
        const swiglu_gradient d = swiglu_gradient_of(g[v], bf16_load_whole(up + at),
                                                     bf16_load_whole(dy + at), sigmoid_of(e[v]));
        e[v] = d.gate;
        g[v] = d.up;
    });
    bf16_store_each(dgate, e);
    bf16_store_each(dup, g);
}

static void swiglu_backward_bf16(const ls_swiglu *op, int64_t i) {
    const int64_t F = op->ffn;
    const ls_bf16 *gate = (const ls_bf16 *)op->x + i * 2 * F, *up = gate + F;
    const ls_bf16 *dy = (const ls_bf16 *)op->dy + i * F;
    ls_bf16 *dgate = (ls_bf16 *)op->dx + i * 2 * F, *dup = dgate + F;
    int64_t f = 0;
    for (; f + BF16_STRETCH <= F; f += BF16_STRETCH) {
        prefetch_stretch(gate + f + 2 * F);
        prefetch_stretch(up + f + 2 * F);
        swiglu_backward_each(gate + f, up + f, dy + f, dgate + f, dup + f);
    }
    for (; f < F; f += BF16_LANES) {
        const __mmask16 mask = bf16_mask(f, F);
        const __m512 g = bf16_load(gate + f, mask);
        const swiglu_gradient d =
            swiglu_gradient_of(g, bf16_load(up + f, mask), bf16_load(dy + f, mask),
                               sigmoid_of(exp2_bf16(swiglu_power(g))));
        bf16_store(dgate + f, mask, d.gate);
        bf16_store(dup + f, mask, d.up);
    }
}
#elif HAS_BF16_NEON
static void swiglu_forward_bf16(const ls_swiglu *op, int64_t i) {
    const int64_t F = op->ffn;
    const ls_bf16 *gate = (const ls_bf16 *)op->x + i * 2 * F, *up = gate + F;
    ls_bf16 *y = (ls_bf16 *)op->y + i * F;
    NEON_EACH(f, n, 0, F, neon_swiglu_forward(gate + f, up + f, y + f, n));
}

static void swiglu_backward_bf16(const ls_swiglu *op, int64_t i) {
    const int64_t F = op->ffn;
    const ls_bf16 *gate = (const ls_bf16 *)op->x + i * 2 * F, *up = gate + F;
    const ls_bf16 *dy = (const ls_bf16 *)op->dy + i * F;
    ls_bf16 *dgate = (ls_bf16 *)op->dx + i * 2 * F, *dup = dgate + F;
    NEON_EACH(f, n, 0, F, neon_swiglu_backward(gate + f, up + f, dy + f, dgate + f, dup + f, n));
}
#endif

#if HAS_BF16_VECTORS || HAS_BF16_NEON
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
