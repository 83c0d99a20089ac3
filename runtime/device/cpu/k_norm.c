/* LayerNorm and RMSNorm: one pass over memory; the passes within a row find it in the first cache.
 */
#include "runtime/device/cpu/kernel.h"

#include <math.h>

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
    void *y = ls_at_mut(dtype, op->y, i * C);
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

ls_status LS_ISA_NAME(ls_cpu_norm_forward)(ls_device *dev, const ls_norm *op) {
    LS_TRY(ls_check_norm(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->channels);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        LS_BY_DTYPE(op->dtype, forward_row, op, i);
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
    const void *x = ls_at(dtype, op->x, i * C), *dy = ls_at(dtype, op->dy, i * C);
    const void *dresidual = op->dresidual ? ls_at(dtype, op->dresidual, i * C) : NULL;
    void *dx = ls_at_mut(dtype, op->dx, i * C);
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
        LS_BY_DTYPE(op->dtype, backward_block, op, begin, end, dw_sum, db_sum);
    }
    ls_add_partials(blocks, partial, stride, C, op->dw, threads);
    if (centred) {
        ls_add_partials(blocks, partial + C, stride, C, op->db, threads);
    }
    return LS_OK;
}
