/* Sums, copies and conversions of flat arrays. */
#include "runtime/device/cpu/kernel.h"

typedef void (*chunk_run)(ls_dtype dtype, const void *x, void *y, int64_t begin, int64_t end);

static ls_status by_chunks(ls_device *dev, const char *what, chunk_run run, ls_dtype dtype,
                           int64_t n, const void *x, void *y) {
    LS_TRY(ls_check_dtype(dev, what, dtype));
    LS_TRY(ls_check_size(what, "n", n, 0));
    const int threads = ls_threads_for(dev, n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t begin = 0; begin < n; begin += LS_CHUNK_ELEMS) {
        run(dtype, x, y, begin, ls_min(begin + LS_CHUNK_ELEMS, n));
    }
    return LS_OK;
}

LS_INLINE void cast_typed(const void *x, void *y, int64_t begin, int64_t end, ls_dtype dtype) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        ls_store(dtype, y, i, ((const float *)x)[i]);
    }
}

static void cast_chunk(ls_dtype dtype, const void *x, void *y, int64_t begin, int64_t end) {
    LS_BY_DTYPE(dtype, cast_typed, x, y, begin, end);
}

ls_status LS_ISA_NAME(ls_cpu_cast)(ls_device *dev, ls_dtype dtype, int64_t n, const void *x,
                                   void *y) {
    return by_chunks(dev, "cast", cast_chunk, dtype, n, x, y);
}

LS_INLINE void widen_typed(const void *x, void *y, int64_t begin, int64_t end, ls_dtype dtype) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        ((float *)y)[i] = ls_load(dtype, x, i);
    }
}

static void widen_chunk(ls_dtype dtype, const void *x, void *y, int64_t begin, int64_t end) {
    LS_BY_DTYPE(dtype, widen_typed, x, y, begin, end);
}

ls_status LS_ISA_NAME(ls_cpu_widen)(ls_device *dev, ls_dtype dtype, int64_t n, const void *x,
                                    void *y) {
    return by_chunks(dev, "widen", widen_chunk, dtype, n, x, y);
}

LS_INLINE void add_typed(const void *x, void *y, int64_t begin, int64_t end, ls_dtype dtype) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        ls_store(dtype, y, i, ls_load(dtype, y, i) + ls_load(dtype, x, i));
    }
}

static void add_chunk(ls_dtype dtype, const void *x, void *y, int64_t begin, int64_t end) {
    LS_BY_DTYPE(dtype, add_typed, x, y, begin, end);
}

ls_status LS_ISA_NAME(ls_cpu_add)(ls_device *dev, ls_dtype dtype, int64_t n, const void *x,
                                  void *y) {
    return by_chunks(dev, "add", add_chunk, dtype, n, x, y);
}

enum { SUM_BLOCK_ELEMS = 65536, SUM_PIECE_ELEMS = 1024 };

/* The sum of x or x^2 over one piece. The lanes are written out, so that the order does not depend
 * on where x lies in memory (compilers peel loops to align them) or on the level; squares of floats
 * are exact in double. */
enum { SUM_LANES = 16 };
LS_INLINE double piece_sum(const float *x, int64_t n, bool square) {
    double lane[SUM_LANES] = {0.0};
    int64_t i = 0;
    for (; i + SUM_LANES <= n; i += SUM_LANES) {
        for (int l = 0; l < SUM_LANES; l++) {
            const double a = x[i + l];
            lane[l] += square ? a * a : a;
        }
    }
    for (int l = 0; i + l < n; l++) {
        const double a = x[i + l];
        lane[l] += square ? a * a : a;
    }
    for (int half = SUM_LANES / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) {
            lane[l] += lane[l + half];
        }
    }
    return lane[0];
}

ls_status LS_ISA_NAME(ls_cpu_sum_squares)(ls_device *dev, int64_t first, int64_t n, const void *x,
                                          double *sums) {
    LS_TRY(ls_check_sum_squares(first, n));
    const int64_t skew = first % LS_SQUARES_ELEMS, count = ls_squares_count(first, n);
    const int threads = ls_threads_for(dev, n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t piece = 0; piece < count; piece++) {
        const int64_t begin = piece > 0 ? piece * LS_SQUARES_ELEMS - skew : 0;
        const int64_t end = ls_min((piece + 1) * LS_SQUARES_ELEMS - skew, n);
        sums[piece] = piece_sum((const float *)x + begin, end - begin, true);
    }
    return LS_OK;
}

static double block_sum(const float *x, int64_t n) {
    double sum = 0.0;
    for (int64_t begin = 0; begin < n; begin += SUM_PIECE_ELEMS) {
        sum += piece_sum(x + begin, ls_min(SUM_PIECE_ELEMS, n - begin), false);
    }
    return sum;
}

ls_status LS_ISA_NAME(ls_cpu_sum)(ls_device *dev, int64_t n, const void *x, double *sum) {
    LS_TRY(ls_check_size("sum", "n", n, 0));
    const int64_t count = (n + SUM_BLOCK_ELEMS - 1) / SUM_BLOCK_ELEMS;
    void *shared;
    LS_TRY(ls_cpu_shared(dev, (size_t)count * sizeof(double), &shared));
    double *partial = shared;
    const int threads = ls_threads_for(dev, n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < count; block++) {
        const int64_t begin = block * SUM_BLOCK_ELEMS;
        partial[block] = block_sum((const float *)x + begin, ls_min(SUM_BLOCK_ELEMS, n - begin));
    }
    *sum = 0.0;
    for (int64_t block = 0; block < count; block++) {
        *sum += partial[block];
    }
    return LS_OK;
}

LS_INLINE void copy_row(const ls_copy_rows *op, int64_t i, ls_dtype dtype) {
    const void *x = ls_at(dtype, op->x, i * op->ldx);
    void *y = ls_at_mut(dtype, op->y, i * op->ldy);
    if (!op->add) {
        memcpy(y, x, (size_t)op->cols * (dtype == LS_BF16 ? sizeof(ls_bf16) : sizeof(float)));
        return;
    }
#pragma omp simd
    for (int64_t c = 0; c < op->cols; c++) {
        ls_store(dtype, y, c, ls_load(dtype, y, c) + ls_load(dtype, x, c));
    }
}

ls_status LS_ISA_NAME(ls_cpu_copy_rows)(ls_device *dev, const ls_copy_rows *op) {
    LS_TRY(ls_check_copy_rows(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->cols);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        LS_BY_DTYPE(op->dtype, copy_row, op, i);
    }
    return LS_OK;
}
