/* Embedding lookup and its gradient, and the gradient of a bias. */
#include "runtime/device/cpu/kernel.h"

#include <assert.h>

/* The row of wte that a token has, -1 where another part has it. */
LS_INLINE int64_t table_row(const ls_embedding *op, int64_t i) {
    const int64_t row = op->tokens[i] - op->first;
    assert(op->part || (row >= 0 && row < op->vocab));
    return row >= 0 && row < op->vocab ? row : -1;
}

LS_INLINE int64_t position_row(const ls_embedding *op, int64_t i) {
    return op->positions ? op->positions[i % op->seq] : op->offset + i % op->seq;
}

LS_INLINE void lookup_row(const ls_embedding *op, int64_t i, ls_dtype dtype) {
    const int64_t C = op->channels, row = table_row(op, i);
    const size_t bytes = (size_t)C * (dtype == LS_BF16 ? sizeof(ls_bf16) : sizeof(float));
    const void *token = row < 0 ? NULL : ls_at(dtype, op->wte, row * C);
    void *out = ls_at_mut(dtype, op->out, i * C);
    const void *position = op->wpe ? ls_at(dtype, op->wpe, position_row(op, i) * C) : NULL;
    if (!token && !position) {
        memset(out, 0, bytes);
        return;
    }
    if (!token || !position) {
        memcpy(out, token ? token : position, bytes);
        return;
    }
#pragma omp simd
    for (int64_t c = 0; c < C; c++) {
        ls_store(dtype, out, c, ls_load(dtype, token, c) + ls_load(dtype, position, c));
    }
}

ls_status LS_ISA_NAME(ls_cpu_embedding_forward)(ls_device *dev, const ls_embedding *op) {
    LS_TRY(ls_check_embedding(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->channels);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        LS_BY_DTYPE(op->dtype, lookup_row, op, i);
    }
    return LS_OK;
}

/* Channels [begin, end) of all rows, in row order: an element's sum has the same order whatever the
 * bounds, so that these may follow the number of threads. */
LS_INLINE void scatter_channels(const ls_embedding *op, int64_t begin, int64_t end,
                                ls_dtype dtype) {
    const int64_t C = op->channels;
    for (int64_t i = 0; i < op->rows; i++) {
        const void *dout = ls_at(dtype, op->dout, i * C);
        const int64_t row = table_row(op, i);
        if (row >= 0) {
            float *token = (float *)op->dwte + row * C;
#pragma omp simd
            for (int64_t c = begin; c < end; c++) {
                token[c] += ls_load(dtype, dout, c);
            }
        }
        if (op->dwpe) {
            float *position = (float *)op->dwpe + position_row(op, i) * C;
#pragma omp simd
            for (int64_t c = begin; c < end; c++) {
                position[c] += ls_load(dtype, dout, c);
            }
        }
    }
}

ls_status LS_ISA_NAME(ls_cpu_embedding_backward)(ls_device *dev, const ls_embedding *op) {
    LS_TRY(ls_check_embedding(dev, op));
    const int64_t C = op->channels, line = 64 / sizeof(float); /* a cache line of dwte */
    const int threads = ls_threads_for(dev, op->rows * C);
    const int64_t lines = (C + line - 1) / line;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < threads; t++) {
        const int64_t begin = ls_min(lines * t / threads * line, C);
        const int64_t end = ls_min(lines * (t + 1) / threads * line, C);
        LS_BY_DTYPE(op->dtype, scatter_channels, op, begin, end);
    }
    return LS_OK;
}

LS_INLINE void column_sums(const ls_bias_grad *op, int64_t begin, int64_t end, float *sum,
                           ls_dtype dtype) {
    for (int64_t i = begin; i < end; i++) {
        const void *dy = ls_at(dtype, op->dy, i * op->cols);
#pragma omp simd
        for (int64_t c = 0; c < op->cols; c++) {
            sum[c] += ls_load(dtype, dy, c);
        }
    }
}

ls_status LS_ISA_NAME(ls_cpu_bias_grad)(ls_device *dev, const ls_bias_grad *op) {
    LS_TRY(ls_check_bias_grad(dev, op));
    const ls_row_blocks blocks = ls_row_blocks_of(op->rows);
    const int threads = ls_threads_for(dev, op->rows * op->cols);
    void *shared;
    LS_TRY(ls_cpu_shared(dev, (size_t)(blocks.count * op->cols) * sizeof(float), &shared));
    float *partial = shared;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < blocks.count; block++) {
        const int64_t begin = block * blocks.block_rows;
        const int64_t end = ls_min(begin + blocks.block_rows, op->rows);
        float *sum = partial + block * op->cols;
        memset(sum, 0, (size_t)op->cols * sizeof(float));
        LS_BY_DTYPE(op->dtype, column_sums, op, begin, end, sum);
    }
    ls_add_partials(blocks, partial, op->cols, op->cols, op->dbias, threads);
    return LS_OK;
}
