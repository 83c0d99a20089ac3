/* LayerNorm and RMSNorm: one pass over memory; the passes within a row find it in the first cache.
 */
#include "runtime/device/cpu/k_bf16.h"

#include <math.h>
#include <string.h>

LS_INLINE float row_mean(const void *x, int64_t channels, ls_dtype dtype) {
    const int64_t quarter = channels / 4;
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t c = 0; c < quarter; c++) {
        s0 += ls_load(dtype, x, c);
        s1 += ls_load(dtype, x, c + quarter);
        s2 += ls_load(dtype, x, c + 2 * quarter);
        s3 += ls_load(dtype, x, c + 3 * quarter);
    }
    for (int64_t c = 4 * quarter; c < channels; c++) {
        s0 += ls_load(dtype, x, c);
    }
    return ((s0 + s1) + (s2 + s3)) / (float)channels;
}

/* The means of d and d^2, d = x - shift. */
LS_INLINE void row_moments(const void *x, int64_t channels, float shift, float *mean,
                           float *mean_square, ls_dtype dtype) {
    const int64_t half = channels / 2;
    float s0 = 0.0f, s1 = 0.0f, q0 = 0.0f, q1 = 0.0f;
#pragma omp simd reduction(+ : s0, s1, q0, q1)
    for (int64_t c = 0; c < half; c++) {
        float d0 = ls_load(dtype, x, c) - shift, d1 = ls_load(dtype, x, c + half) - shift;
        s0 += d0;
        s1 += d1;
        q0 += d0 * d0;
        q1 += d1 * d1;
    }
    if (channels % 2 != 0) {
        float d = ls_load(dtype, x, channels - 1) - shift;
        s0 += d;
        q0 += d * d;
    }
    *mean = (s0 + s1) / (float)channels;
    *mean_square = (q0 + q1) / (float)channels;
}

/* The variance is the corrected two-pass sum (Chan, Golub, LeVeque 1983, doi:10.2307/2683386), and
 * y is taken from x - shift - rest, so that a row far from zero loses nothing to the rounded mean.
 */
LS_INLINE void forward_row(const ls_norm *op, int64_t i, ls_dtype dtype) {
    const int64_t C = op->channels;
    const void *x = ls_at(dtype, op->x, i * C);
    void *y = ls_at_mut(dtype, op->y, ls_norm_row(i, C, op->heads, op->stride));
    const float *w = op->w, *b = op->b;
    const bool centred = op->kind == LS_LAYERNORM;
    const float shift = centred ? row_mean(x, C, dtype) : 0.0f;
    float rest, mean_square;
    row_moments(x, C, shift, &rest, &mean_square, dtype);
    if (!centred) {
        rest = 0.0f;
    }
    const float variance = mean_square - rest * rest; /* rounding may leave it below zero */
    const float rstd = 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + (float)op->eps);
    ((float *)op->rstd)[i] = rstd;
    if (centred) {
        ((float *)op->mean)[i] = shift + rest;
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            ls_store(dtype, y, c, (ls_load(dtype, x, c) - shift - rest) * rstd * w[c] + b[c]);
        }
    } else {
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            ls_store(dtype, y, c, ls_load(dtype, x, c) * rstd * w[c]);
        }
    }
}

#if HAS_BF16_VECTORS
/* A row of x in fp32, for rows that fit: then each element is converted once. */
enum { ROW_ELEMS = 8192 };

/* to [channels] = x, and the sum of x. */
LS_INLINE float widen_row(const ls_bf16 *x, int64_t channels, float *to) {
    __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                     _mm512_setzero_ps()};
    int64_t c = 0;
    for (; c + 4 * BF16_LANES <= channels; c += 4 * BF16_LANES) {
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++) {
            const __m512 v = bf16_load_whole(x + c + n * BF16_LANES);
            _mm512_store_ps(to + c + n * BF16_LANES, v);
            sum[n] = _mm512_add_ps(sum[n], v);
        }
    }
    for (; c < channels; c += BF16_LANES) {
        const __m512 v = bf16_load(x + c, bf16_mask(c, channels));
        _mm512_store_ps(to + c, v);
        sum[0] = _mm512_add_ps(sum[0], v);
    }
    return _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
}

/* d = x - shift in x's place, and the sums of d and d^2; lanes past the end stay out of them. */
LS_INLINE void moments_row(float *x, int64_t channels, float shift, float *total, float *squares) {
    const __m512 by = _mm512_set1_ps(shift);
    __m512 s[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, q[2] = {s[0], s[0]};
    int64_t c = 0;
    for (; c + 2 * BF16_LANES <= channels; c += 2 * BF16_LANES) {
#pragma GCC unroll 2
        for (int n = 0; n < 2; n++) {
            const __m512 d = _mm512_sub_ps(_mm512_load_ps(x + c + n * BF16_LANES), by);
            _mm512_store_ps(x + c + n * BF16_LANES, d);
            s[n] = _mm512_add_ps(s[n], d);
            q[n] = _mm512_fmadd_ps(d, d, q[n]);
        }
    }
    for (; c < channels; c += BF16_LANES) {
        const __m512 d = _mm512_maskz_sub_ps(bf16_mask(c, channels), _mm512_load_ps(x + c), by);
        _mm512_store_ps(x + c, d);
        s[0] = _mm512_add_ps(s[0], d);
        q[0] = _mm512_fmadd_ps(d, d, q[0]);
    }
    *total = _mm512_reduce_add_ps(_mm512_add_ps(s[0], s[1]));
    *squares = _mm512_reduce_add_ps(_mm512_add_ps(q[0], q[1]));
}

/* (d - rest) rstd w + b; b NULL: + 0. */
LS_INLINE __m512 normal_of(const float *d, __mmask16 mask, __m512 rest, __m512 rstd, const float *w,
                           const float *b) {
    const __m512 n = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(d), rest), rstd);
    const __m512 weight = _mm512_maskz_loadu_ps(mask, w);
    return b ? _mm512_fmadd_ps(n, weight, _mm512_maskz_loadu_ps(mask, b))
             : _mm512_mul_ps(n, weight);
}

/* As forward_row. */
static void forward_row_bf16(const ls_norm *op, int64_t i) {
    _Alignas(64) float d[ROW_ELEMS];
    const int64_t C = op->channels;
    const bool centred = op->kind == LS_LAYERNORM;
    const float sum = widen_row((const ls_bf16 *)op->x + i * C, C, d);
    const float shift = centred ? sum / (float)C : 0.0f;
    float total, squares;
    moments_row(d, C, shift, &total, &squares);
    const float mean = centred ? total / (float)C : 0.0f;
    const float variance = squares / (float)C - mean * mean;
    const float factor = 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + (float)op->eps);
    ((float *)op->rstd)[i] = factor;
    if (centred) {
        ((float *)op->mean)[i] = shift + mean;
    }
    const __m512 rest = _mm512_set1_ps(mean), rstd = _mm512_set1_ps(factor);
    const float *w = op->w, *b = centred ? op->b : NULL;
    ls_bf16 *y = (ls_bf16 *)op->y + ls_norm_row(i, C, op->heads, op->stride);
    int64_t c = 0;
    for (; c + BF16_LINE <= C; c += BF16_LINE) {
        const int64_t k = c + BF16_LANES;
        bf16_store_line(y + c, normal_of(d + c, 0xffff, rest, rstd, w + c, b ? b + c : NULL),
                        normal_of(d + k, 0xffff, rest, rstd, w + k, b ? b + k : NULL));
    }
    for (; c < C; c += BF16_LANES) {
        const __mmask16 mask = bf16_mask(c, C);
        bf16_store(y + c, mask, normal_of(d + c, mask, rest, rstd, w + c, b ? b + c : NULL));
    }
}
#endif

static void forward_row_of(const ls_norm *op, int64_t i) {
#if HAS_BF16_VECTORS
    if (op->dtype == LS_BF16 && op->channels <= ROW_ELEMS) {
        forward_row_bf16(op, i);
        return;
    }
#endif
    LS_BY_DTYPE(op->dtype, forward_row, op, i);
}

ls_status LS_ISA_NAME(ls_cpu_norm_forward)(ls_device *dev, const ls_norm *op) {
    LS_TRY(ls_check_norm(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->channels);
    const int64_t C = op->channels;
    ls_norm own = *op;
    own.x = op->heads > 0 ? op->kept : op->x;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        if (op->heads > 0) {
            const void *x = ls_at(op->dtype, op->y, ls_norm_row(i, C, op->heads, op->stride));
            memcpy(ls_at_mut(op->dtype, op->kept, i * C), x, (size_t)C * ls_dtype_bytes(op->dtype));
        }
        forward_row_of(&own, i);
    }
    return LS_OK;
}

/* With n = (x - mean) rstd and g = w dy: the means of g and of g n over the row. */
LS_INLINE void backward_means(const void *x, const void *dy, const float *w, int64_t channels,
                              float mean, float rstd, float *mean_g, float *mean_gn,
                              ls_dtype dtype) {
    const int64_t half = channels / 2;
    float s0 = 0.0f, s1 = 0.0f, q0 = 0.0f, q1 = 0.0f;
#pragma omp simd reduction(+ : s0, s1, q0, q1)
    for (int64_t c = 0; c < half; c++) {
        float g0 = w[c] * ls_load(dtype, dy, c);
        float g1 = w[c + half] * ls_load(dtype, dy, c + half);
        s0 += g0;
        s1 += g1;
        q0 += g0 * (ls_load(dtype, x, c) - mean);
        q1 += g1 * (ls_load(dtype, x, c + half) - mean);
    }
    if (channels % 2 != 0) {
        float g = w[channels - 1] * ls_load(dtype, dy, channels - 1);
        s0 += g;
        q0 += g * (ls_load(dtype, x, channels - 1) - mean);
    }
    *mean_g = (s0 + s1) / (float)channels;
    *mean_gn = (q0 + q1) * rstd / (float)channels;
}

/* dw_sum, db_sum are the sums of the block that row i is in; db_sum is NULL for RMSNorm. dx may be
 * dy or dresidual: each element is read before it is written. */
LS_INLINE void backward_row(const ls_norm *op, int64_t i, float *dw_sum, float *db_sum,
                            ls_dtype dtype) {
    const int64_t C = op->channels;
    const int64_t at = ls_norm_row(i, C, op->heads, op->stride);
    const void *x = ls_at(dtype, op->x, i * C), *dy = ls_at(dtype, op->dy, at);
    const void *dresidual = op->dresidual ? ls_at(dtype, op->dresidual, at) : NULL;
    void *dx = ls_at_mut(dtype, op->dx, at);
    const float *w = op->w;
    const float mean = db_sum ? ((const float *)op->mean)[i] : 0.0f;
    const float rstd = ((const float *)op->rstd)[i];
    float mean_g, mean_gn;
    backward_means(x, dy, w, C, mean, rstd, &mean_g, &mean_gn, dtype);
    if (!db_sum) {
        mean_g = 0.0f;
    } else {
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            db_sum[c] += ls_load(dtype, dy, c);
        }
    }
#pragma omp simd
    for (int64_t c = 0; c < C; c++) {
        float dy_c = ls_load(dtype, dy, c), n = (ls_load(dtype, x, c) - mean) * rstd;
        float residual = dresidual ? ls_load(dtype, dresidual, c) : 0.0f;
        dw_sum[c] += dy_c * n;
        ls_store(dtype, dx, c, rstd * (w[c] * dy_c - mean_g - n * mean_gn) + residual);
    }
}

LS_INLINE void backward_block(const ls_norm *op, int64_t begin, int64_t end, float *dw_sum,
                              float *db_sum, ls_dtype dtype) {
    for (int64_t i = begin; i < end; i++) {
        backward_row(op, i, dw_sum, db_sum, dtype);
    }
}

#if HAS_BF16_VECTORS
/* What backward_row computes of a row, each number in all lanes. */
typedef struct row_gradient {
    const ls_bf16 *x, *dy, *dresidual;
    ls_bf16 *dx;
    const float *w;
    float *dw_sum, *db_sum;
    __m512 mean, rstd, mean_g, mean_gn;
} row_gradient;

LS_INLINE __m512 lanes_of(const bool whole, const ls_bf16 *x, __mmask16 mask) {
    return whole ? bf16_load_whole(x) : bf16_load(x, mask);
}

LS_INLINE __m512 floats_of(const bool whole, const float *x, __mmask16 mask) {
    return whole ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(mask, x);
}

LS_INLINE void add_to(const bool whole, float *sum, __mmask16 mask, __m512 x, __m512 y) {
    const __m512 total = _mm512_fmadd_ps(x, y, floats_of(whole, sum, mask));
    if (whole) {
        _mm512_storeu_ps(sum, total);
    } else {
        _mm512_mask_storeu_ps(sum, mask, total);
    }
}

/* *g grows by w dy, *gn by w dy (x - mean), db_sum by dy. */
LS_INLINE void add_means(const bool whole, const row_gradient *r, int64_t c, __mmask16 mask,
                         __m512 *g, __m512 *gn) {
    const __m512 dy = lanes_of(whole, r->dy + c, mask);
    const __m512 w_dy = _mm512_mul_ps(floats_of(whole, r->w + c, mask), dy);
    const __m512 d = _mm512_sub_ps(lanes_of(whole, r->x + c, mask), r->mean);
    *g = _mm512_add_ps(*g, w_dy);
    *gn = _mm512_fmadd_ps(w_dy, d, *gn);
    if (r->db_sum) {
        add_to(whole, r->db_sum + c, mask, dy, _mm512_set1_ps(1.0f));
    }
}

/* dx; dw_sum grows by dy n. */
LS_INLINE __m512 dx_lanes(const bool whole, const row_gradient *r, int64_t c, __mmask16 mask) {
    const __m512 dy = lanes_of(whole, r->dy + c, mask);
    const __m512 n =
        _mm512_mul_ps(_mm512_sub_ps(lanes_of(whole, r->x + c, mask), r->mean), r->rstd);
    const __m512 residual =
        r->dresidual ? lanes_of(whole, r->dresidual + c, mask) : _mm512_setzero_ps();
    add_to(whole, r->dw_sum + c, mask, dy, n);
    const __m512 g = _mm512_fmsub_ps(floats_of(whole, r->w + c, mask), dy, r->mean_g);
    return _mm512_fmadd_ps(r->rstd, _mm512_fnmadd_ps(n, r->mean_gn, g), residual);
}

static void backward_row_bf16(const ls_norm *op, int64_t i, float *dw_sum, float *db_sum) {
    const int64_t C = op->channels, at = ls_norm_row(i, C, op->heads, op->stride);
    const float rstd = ((const float *)op->rstd)[i];
    row_gradient r = {.x = (const ls_bf16 *)op->x + i * C,
                      .dy = (const ls_bf16 *)op->dy + at,
                      .dresidual = op->dresidual ? (const ls_bf16 *)op->dresidual + at : NULL,
                      .dx = (ls_bf16 *)op->dx + at,
                      .w = op->w,
                      .dw_sum = dw_sum,
                      .db_sum = db_sum,
                      .mean = _mm512_set1_ps(db_sum ? ((const float *)op->mean)[i] : 0.0f),
                      .rstd = _mm512_set1_ps(rstd)};
    __m512 g[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, gn[2] = {g[0], g[0]};
    int64_t c = 0;
    for (; c + BF16_LINE <= C; c += BF16_LINE) {
        add_means(true, &r, c, 0xffff, &g[0], &gn[0]);
        add_means(true, &r, c + BF16_LANES, 0xffff, &g[1], &gn[1]);
    }
    for (; c < C; c += BF16_LANES) {
        add_means(false, &r, c, bf16_mask(c, C), &g[0], &gn[0]);
    }
    const float sum_g = db_sum ? _mm512_reduce_add_ps(_mm512_add_ps(g[0], g[1])) : 0.0f;
    const float sum_gn = _mm512_reduce_add_ps(_mm512_add_ps(gn[0], gn[1]));
    r.mean_g = _mm512_set1_ps(sum_g / (float)C);
    r.mean_gn = _mm512_set1_ps(sum_gn * rstd / (float)C);
    for (c = 0; c + BF16_LINE <= C; c += BF16_LINE) {
        const __m512 first = dx_lanes(true, &r, c, 0xffff);
        bf16_store_line(r.dx + c, first, dx_lanes(true, &r, c + BF16_LANES, 0xffff));
    }
    for (; c < C; c += BF16_LANES) {
        const __mmask16 mask = bf16_mask(c, C);
        bf16_store(r.dx + c, mask, dx_lanes(false, &r, c, mask));
    }
}

static void backward_rows(const ls_norm *op, int64_t begin, int64_t end, float *dw_sum,
                          float *db_sum) {
    if (op->dtype == LS_F32) {
        backward_block(op, begin, end, dw_sum, db_sum, LS_F32);
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        backward_row_bf16(op, i, dw_sum, db_sum);
    }
}
#else
static void backward_rows(const ls_norm *op, int64_t begin, int64_t end, float *dw_sum,
                          float *db_sum) {
    LS_BY_DTYPE(op->dtype, backward_block, op, begin, end, dw_sum, db_sum);
}
#endif

ls_status LS_ISA_NAME(ls_cpu_norm_backward)(ls_device *dev, const ls_norm *op) {
    LS_TRY(ls_check_norm(dev, op));
    const int64_t C = op->channels;
    const bool centred = op->kind == LS_LAYERNORM;
    const int64_t stride = centred ? 2 * C : C;
    const ls_row_blocks blocks = ls_row_blocks_of(op->rows);
    const int threads = ls_threads_for(dev, op->rows * C);
    void *shared;
    LS_TRY(ls_cpu_shared(dev, (size_t)(blocks.count * stride) * sizeof(float), &shared));
    float *partial = shared;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < blocks.count; block++) {
        const int64_t begin = block * blocks.block_rows;
        const int64_t end = ls_min(begin + blocks.block_rows, op->rows);
        float *dw_sum = partial + block * stride, *db_sum = centred ? dw_sum + C : NULL;
        memset(dw_sum, 0, (size_t)stride * sizeof(float));
        backward_rows(op, begin, end, dw_sum, db_sum);
    }
    ls_add_partials(blocks, partial, stride, C, op->dw, threads);
    if (centred) {
        ls_add_partials(blocks, partial + C, stride, C, op->db, threads);
    }
    const ls_bias_grad sums = {op->dtype, op->rows, C, op->dx, op->dx_sums};
    return op->dx_sums ? dev->ops->bias_grad(dev, &sums) : LS_OK;
}
