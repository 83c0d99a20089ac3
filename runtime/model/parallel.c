/* Rows over the tensor ranks: gathered before products that need all of them, summed after products
 * that each rank makes a part of. With sequence parallelism (Korthikanti 2022, arXiv 2205.05198)
 * the sum is scattered; without it every rank has all rows and the sum is an all-reduce. */
#include "runtime/model/model_internal.h"

ls_status ls_tensor_wait(const ls_pass *pass, ls_comm_request *request) {
    ls_comm *comm = pass->model->tensor;
    return request ? comm->ops->wait(comm, request) : LS_OK;
}

int ls_rows_chunks(const ls_pass *pass) {
    enum { LEAST_ROWS = 96 }; /* of a product; fewer lose more than they hide */
    const ls_model *m = pass->model;
    const int ranks = m->part.tensor_ranks;
    const int64_t fit = ranks > 1 ? pass->rows / ranks / LEAST_ROWS : 1;
    return fit < 1 ? 1 : fit < LS_ROW_CHUNKS ? (int)fit : LS_ROW_CHUNKS;
}

ls_range ls_rows_of_chunk(const ls_pass *pass, int rank, ls_chunk chunk) {
    const int ranks = pass->model->part.tensor_ranks;
    const int64_t first = ls_range_first(pass->rows, ranks, rank);
    const int64_t rows = ls_range_first(pass->rows, ranks, rank + 1) - first;
    const int64_t from = ls_range_first(rows, chunk.count, chunk.index);
    return (ls_range){.first = first + from,
                      .elems = ls_range_first(rows, chunk.count, chunk.index + 1) - from};
}

/* Counts of all ranks in units of `unit`, and offsets behind them. */
static int64_t *row_shares(const ls_pass *pass, ls_chunk chunk, int64_t unit, int64_t **offsets) {
    const ls_model *m = pass->model;
    const int ranks = m->tensor->size;
    *offsets = m->row_offsets;
    int64_t *counts = m->row_offsets + ranks;
    for (int r = 0; r < ranks; r++) {
        const ls_range rows = ls_rows_of_chunk(pass, r, chunk);
        (*offsets)[r] = rows.first * unit;
        counts[r] = rows.elems * unit;
    }
    return counts;
}

ls_status ls_rows_gather_start(const ls_pass *pass, const void *own, ls_chunk chunk,
                               const void **all, ls_comm_request **request) {
    const ls_model *m = pass->model;
    *all = own;
    *request = NULL;
    if (!m->sequence) {
        return LS_OK;
    }
    *all = m->gathered;
    int64_t *offsets;
    const int64_t row_bytes = m->sizes.channels * (int64_t)ls_dtype_bytes(m->dtype);
    const int64_t *counts = row_shares(pass, chunk, row_bytes, &offsets);
    const char *from = (const char *)own + offsets[m->tensor->rank] - pass->own_first * row_bytes;
    return m->tensor->ops->all_gather_start(m->tensor, from, m->gathered, counts, offsets, request);
}

ls_status ls_rows_gather(const ls_pass *pass, const void *own, const void **all) {
    ls_comm_request *request;
    LS_TRY(ls_rows_gather_start(pass, own, ls_all_rows, all, &request));
    return ls_tensor_wait(pass, request);
}

ls_status ls_rows_share(const ls_pass *pass, void *all) {
    const ls_model *m = pass->model;
    if (!m->tensor || m->sequence) {
        return LS_OK;
    }
    int64_t *offsets;
    ls_comm_request *request;
    const int64_t row_bytes = m->sizes.channels * (int64_t)ls_dtype_bytes(m->dtype);
    const int64_t *counts = row_shares(pass, ls_all_rows, row_bytes, &offsets);
    LS_TRY(m->tensor->ops->all_gather_start(m->tensor, (char *)all + offsets[m->tensor->rank], all,
                                            counts, offsets, &request));
    return ls_tensor_wait(pass, request);
}

void *ls_rows_partial(const ls_pass *pass, void *own) {
    return pass->model->sequence ? pass->model->partial : own;
}

int64_t ls_rows_before(const ls_pass *pass, ls_chunk chunk) {
    int64_t rows = 0;
    for (int r = 0; r < pass->model->part.tensor_ranks; r++) {
        rows += ls_rows_of_chunk(pass, r, chunk).first -
                ls_range_first(pass->rows, pass->model->part.tensor_ranks, r);
    }
    return rows;
}

ls_status ls_rows_sum_start(const ls_pass *pass, ls_chunk chunk, void *partial, void *own,
                            ls_comm_request **request) {
    const ls_model *m = pass->model;
    const int64_t c = m->sizes.channels;
    *request = NULL;
    if (!m->tensor) {
        return LS_OK;
    }
    if (!m->sequence) {
        const int64_t first = ls_range_first(pass->rows, chunk.count, chunk.index);
        const int64_t end = ls_range_first(pass->rows, chunk.count, chunk.index + 1);
        void *rows = ls_elems_at(own, first * c, m->dtype);
        return m->tensor->ops->all_reduce_start(m->tensor, rows, rows, (end - first) * c, m->dtype,
                                                LS_SUM, request);
    }
    int64_t *offsets;
    const int64_t *counts = row_shares(pass, chunk, c, &offsets);
    const int64_t to = offsets[m->tensor->rank] - pass->own_first * c;
    return m->tensor->ops->reduce_scatter_start(
        m->tensor, ls_elems_at(partial, ls_rows_before(pass, chunk) * c, m->dtype),
        ls_elems_at(own, to, m->dtype), counts, m->dtype, LS_SUM, request);
}

ls_status ls_rows_sum(const ls_pass *pass, void *partial, void *own) {
    ls_comm_request *request;
    LS_TRY(ls_rows_sum_start(pass, ls_all_rows, partial, own, &request));
    return ls_tensor_wait(pass, request);
}
