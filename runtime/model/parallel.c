/* Rows over the tensor ranks: gathered before products that need all of them, summed after products
 * that each rank makes a part of. With sequence parallelism (Korthikanti 2022, arXiv 2205.05198)
 * the sum is scattered; without it every rank has all rows and the sum is an all-reduce. */
#include "runtime/model/model_internal.h"

ls_status ls_tensor_wait(const ls_pass *pass, ls_comm_request *request) {
    ls_comm *comm = pass->model->tensor;
    return request ? comm->ops->wait(comm, request) : LS_OK;
}

/* Counts of all ranks in units of `unit`, and offsets behind them. */
static int64_t *row_shares(const ls_pass *pass, int64_t unit, int64_t **offsets) {
    const ls_model *m = pass->model;
    const int ranks = m->tensor->size;
    *offsets = m->row_offsets;
    int64_t *counts = m->row_offsets + ranks;
    for (int r = 0; r < ranks; r++) {
        const int64_t first = ls_range_first(pass->rows, ranks, r);
        (*offsets)[r] = first * unit;
        counts[r] = (ls_range_first(pass->rows, ranks, r + 1) - first) * unit;
    }
    return counts;
}

ls_status ls_rows_gather_start(const ls_pass *pass, const void *own, const void **all,
                               ls_comm_request **request) {
    const ls_model *m = pass->model;
    *all = own;
    *request = NULL;
    if (!m->sequence) {
        return LS_OK;
    }
    *all = m->gathered;
    int64_t *offsets;
    const int64_t row_bytes = m->sizes.channels * (int64_t)ls_dtype_bytes(m->dtype);
    const int64_t *counts = row_shares(pass, row_bytes, &offsets);
    return m->tensor->ops->all_gather_start(m->tensor, own, m->gathered, counts, offsets, request);
}

ls_status ls_rows_gather(const ls_pass *pass, const void *own, const void **all) {
    ls_comm_request *request;
    LS_TRY(ls_rows_gather_start(pass, own, all, &request));
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
    const int64_t *counts = row_shares(pass, row_bytes, &offsets);
    LS_TRY(m->tensor->ops->all_gather_start(m->tensor, (char *)all + offsets[m->tensor->rank], all,
                                            counts, offsets, &request));
    return ls_tensor_wait(pass, request);
}

void *ls_rows_partial(const ls_pass *pass, void *own) {
    return pass->model->sequence ? pass->model->partial : own;
}

ls_status ls_rows_sum_start(const ls_pass *pass, void *partial, void *own,
                            ls_comm_request **request) {
    const ls_model *m = pass->model;
    *request = NULL;
    if (!m->tensor) {
        return LS_OK;
    }
    if (!m->sequence) {
        return m->tensor->ops->all_reduce_start(m->tensor, own, own, pass->rows * m->sizes.channels,
                                                m->dtype, LS_SUM, request);
    }
    int64_t *offsets;
    const int64_t *counts = row_shares(pass, m->sizes.channels, &offsets);
    return m->tensor->ops->reduce_scatter_start(m->tensor, partial, own, counts, m->dtype, LS_SUM,
                                                request);
}

ls_status ls_rows_sum(const ls_pass *pass, void *partial, void *own) {
    ls_comm_request *request;
    LS_TRY(ls_rows_sum_start(pass, partial, own, &request));
    return ls_tensor_wait(pass, request);
}
