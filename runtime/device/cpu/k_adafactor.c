/* Adafactor's sums and updates on part of a matrix; a vector is one row. */
#include "runtime/device/cpu/kernel.h"

#include <math.h>

#define LEAST_SQUARE 1e-30f

/* The part of row r that lies in [first, first + n), in elements from `first`. */
LS_INLINE void row_bounds(const ls_adafactor *op, int64_t r, int64_t *begin, int64_t *end) {
    const int64_t start = r * op->cols - op->first;
    *begin = start > 0 ? start : 0;
    *end = ls_min(start + op->cols, op->n);
}

static int64_t first_row(const ls_adafactor *op) {
    return op->first / op->cols;
}

static int64_t last_row(const ls_adafactor *op) {
    return (op->first + op->n - 1) / op->cols;
}

/* Sums of term(i), i in [begin, end), in lanes: see piece_sum in k_vector.c. */
enum { LANES = 16 };
#define LANE_SUM(begin, end, term, sum)                                                            \
    do {                                                                                           \
        double lane[LANES] = {0.0};                                                                \
        int64_t base = (begin);                                                                    \
        for (; base + LANES <= (end); base += LANES) {                                             \
            for (int l = 0; l < LANES; l++) {                                                      \
                const int64_t i = base + l;                                                        \
                const double value = (term);                                                       \
                lane[l] += value * value;                                                          \
            }                                                                                      \
        }                                                                                          \
        for (int l = 0; base + l < (end); l++) {                                                   \
            const int64_t i = base + l;                                                            \
            const double value = (term);                                                           \
            lane[l] += value * value;                                                              \
        }                                                                                          \
        for (int half = LANES / 2; half > 0; half /= 2) {                                          \
            for (int l = 0; l < half; l++) {                                                       \
                lane[l] += lane[l + half];                                                         \
            }                                                                                      \
        }                                                                                          \
        (sum) = lane[0];                                                                           \
    } while (0)

/* The parts of a square (device.h). */
#define SQUARE_PARTS(g, high, low)                                                                 \
    const double value = (g), square = value * value;                                              \
    const double high = (square + split[0]) - split[0];                                            \
    const double low = ((square - high) + split[1]) - split[1]

static void add_row_sums(const ls_adafactor *op, int threads) {
    const float *grad = op->grad, scale = (float)op->grad_scale;
    const double *split = op->split;
    double *sums = op->row_sums;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = first_row(op); r <= last_row(op); r++) {
        int64_t begin, end;
        row_bounds(op, r, &begin, &end);
        double high_sum = 0.0, low_sum = 0.0;
#pragma omp simd reduction(+ : high_sum, low_sum)
        for (int64_t i = begin; i < end; i++) {
            SQUARE_PARTS(scale * grad[i], high, low);
            high_sum += high;
            low_sum += low;
        }
        sums[2 * r] += high_sum;
        sums[2 * r + 1] += low_sum;
    }
}

static void add_col_sums(const ls_adafactor *op, int threads) {
    const float *grad = op->grad, scale = (float)op->grad_scale;
    const double *split = op->split;
    double *sums = op->col_sums;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t tile = 0; tile < op->cols; tile += LS_COLUMN_TILE) {
        double high_sum[LS_COLUMN_TILE] = {0.0}, low_sum[LS_COLUMN_TILE] = {0.0};
        for (int64_t r = first_row(op); r <= last_row(op); r++) {
            int64_t begin, end;
            row_bounds(op, r, &begin, &end);
            const int64_t from = r * op->cols + tile - op->first;
            begin = begin > from ? begin : from;
            end = ls_min(end, from + LS_COLUMN_TILE);
#pragma omp simd
            for (int64_t i = begin; i < end; i++) {
                SQUARE_PARTS(scale * grad[i], high, low);
                high_sum[i - from] += high;
                low_sum[i - from] += low;
            }
        }
        for (int64_t c = 0; c < ls_min(LS_COLUMN_TILE, op->cols - tile); c++) {
            sums[2 * (tile + c)] += high_sum[c];
            sums[2 * (tile + c) + 1] += low_sum[c];
        }
    }
}

ls_status LS_ISA_NAME(ls_cpu_adafactor_squares)(ls_device *dev, const ls_adafactor *op) {
    LS_TRY(ls_check_adafactor(dev, op));
    const int threads = ls_threads_for(dev, op->n);
    if (op->n > 0 && op->row_sums) {
        add_row_sums(op, threads);
        add_col_sums(op, threads);
    } else if (op->v) {
        const float *grad = op->grad, scale = (float)op->grad_scale;
        const float keep = (float)op->beta2, rest = (float)(1.0 - op->beta2);
        float *v = op->v;
        for (int64_t i = 0; i < op->n; i++) {
            const float g = scale * grad[i];
            v[i] = keep * v[i] + rest * g * g;
        }
    }
    return LS_OK;
}

/* u of element i of the matrix; `row` is that of its row times factor. */
LS_INLINE float direction(float g, float row, const float *factors, int64_t at) {
    const float square = row * factors[at];
    return g / sqrtf(square > LEAST_SQUARE ? square : LEAST_SQUARE);
}

/* What divides the gradients of row r: row and col factors of a matrix, 1 and v of a vector. The
 * latter belong to element i at i + *skew. */
LS_INLINE const float *row_factors(const ls_adafactor *op, int64_t r, float *row, int64_t *skew) {
    *row = op->row ? ((const float *)op->row)[r] * (float)op->factor : 1.0f;
    *skew = op->row ? op->first - r * op->cols : 0;
    return op->row ? op->col : op->v;
}

/* Elements [begin, end), row by row. */
static double direction_squares(const ls_adafactor *op, int64_t begin, int64_t end) {
    const float *grad = op->grad, scale = (float)op->grad_scale;
    double sum = 0.0;
    while (begin < end) {
        const int64_t r = (op->first + begin) / op->cols;
        int64_t row_begin, row_end, skew;
        float row;
        row_bounds(op, r, &row_begin, &row_end);
        row_end = ls_min(row_end, end);
        const float *factors = row_factors(op, r, &row, &skew);
        double part;
        LANE_SUM(begin, row_end, direction(scale * grad[i], row, factors, i + skew), part);
        sum += part;
        begin = row_end;
    }
    return sum;
}

ls_status LS_ISA_NAME(ls_cpu_adafactor_norm)(ls_device *dev, const ls_adafactor *op, double *sums) {
    LS_TRY(ls_check_adafactor(dev, op));
    const int64_t skew = op->grid % LS_SQUARES_ELEMS, count = ls_squares_count(op->grid, op->n);
    const int threads = ls_threads_for(dev, op->n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t piece = 0; piece < count; piece++) {
        const int64_t begin = piece > 0 ? piece * LS_SQUARES_ELEMS - skew : 0;
        sums[piece] =
            direction_squares(op, begin, ls_min((piece + 1) * LS_SQUARES_ELEMS - skew, op->n));
    }
    return LS_OK;
}

LS_INLINE void round_row(const float *p, void *copy, int64_t begin, int64_t end, ls_dtype dtype) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        ls_store(dtype, copy, i, p[i]);
    }
}

ls_status LS_ISA_NAME(ls_cpu_adafactor_apply)(ls_device *dev, const ls_adafactor *op) {
    LS_TRY(ls_check_adafactor(dev, op));
    if (op->n == 0) {
        return LS_OK;
    }
    const float *grad = op->grad, scale = (float)op->grad_scale;
    const float keep = (float)op->keep, lr = (float)op->lr;
    float *p = op->p;
    const int threads = ls_threads_for(dev, op->n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = first_row(op); r <= last_row(op); r++) {
        int64_t begin, end, skew;
        float row;
        row_bounds(op, r, &begin, &end);
        const float *factors = row_factors(op, r, &row, &skew);
#pragma omp simd
        for (int64_t i = begin; i < end; i++) {
            p[i] = keep * p[i] - lr * direction(scale * grad[i], row, factors, i + skew);
        }
        if (op->copy) {
            LS_BY_DTYPE(op->copy_dtype, round_row, p, op->copy, begin, end);
        }
    }
    return LS_OK;
}
