/* Products with weight matrices, split over the tensor ranks (Shoeybi 2019, arXiv 1909.08053): by
 * columns, where each rank makes some of the outputs, or by rows, where each makes a part of the
 * sum. Communication goes on beside the products that do not need it, chunk by chunk (Wang 2022,
 * doi:10.1145/3567955.3567959). */
#include "runtime/model/model_internal.h"

ls_projection ls_projection_whole(const ls_model *m, int block, ls_row weight, ls_row bias) {
    return (ls_projection){.block = block,
                           .weight = weight,
                           .bias = bias,
                           .count = ls_model_row(m, block, weight)->local_dims[0]};
}

/* Products in fp8 give rows of multiples of 16. */
ls_status ls_fp8_check(const ls_model *m) {
    const ls_sizes *s = &m->sizes;
    if (!m->options.fp8) {
        return LS_OK;
    }
    if (!m->dev->has_fp8) {
        return LS_FAIL(LS_E_CONFIG,
                       "numerics.compute is fp8, which needs a GPU of compute capability 8.9 or "
                       "more (Ada, Hopper, Blackwell); this is '%s': use bf16",
                       m->dev->describe);
    }
    if (s->channels % 16 || s->q_width % 16 || s->qkv_width % 16 || s->ffn % 16) {
        return LS_FAIL(LS_E_CONFIG,
                       "numerics.compute is fp8, which needs multiples of 16 on each rank; there "
                       "are %lld channels, %lld of all heads, %lld with keys and values, ffn %lld",
                       (long long)s->channels, (long long)s->q_width, (long long)s->qkv_width,
                       (long long)s->ffn);
    }
    return LS_OK;
}

/* Of both operands of the largest product: of rows and weights, or of two matrices of rows. */
int64_t ls_fp8_elems(const ls_model *m, int64_t pass_rows) {
    const ls_sizes *s = &m->sizes;
    const int64_t rows = (pass_rows + 15) / 16 * 16, c = s->channels;
    const int64_t shapes[][2] = {{c, s->qkv_width}, {s->q_width, c}, {c, s->up_width}, {s->ffn, c}};
    int64_t most = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && m->options.fp8; i++) {
        const int64_t in = shapes[i][0], out = shapes[i][1];
        const int64_t weights = in * out + rows * (in > out ? in : out), both = rows * (in + out);
        most = weights > most ? weights : most;
        most = both > most ? both : most;
    }
    return most;
}

/* The head stays in the type of the activations. */
static ls_fp8_use fp8_of(const ls_model *m, ls_projection p, ls_fp8_use use) {
    return m->options.fp8 && p.block < m->blocks - 1 ? use : LS_FP8_NONE;
}

/* Where the activation of what is made at y lies. */
static void *act_beside(ls_projection p, void *y) {
    return p.act ? (char *)p.act + ((char *)y - (char *)p.act_of) : NULL;
}

/* y [rows, count] with leading dimension ldy = x W^T + its bias if `biased` + residual; with p.act
 * also its gelu. */
static ls_status project(const ls_model *m, int64_t rows, ls_projection p, bool biased,
                         const void *x, void *y, int64_t ldy, const void *residual) {
    const int64_t in = ls_model_row(m, p.block, p.weight)->local_dims[1];
    const void *bias = biased ? ls_vector(m, p.block, p.bias, p.first) : NULL;
    const void *rounded = biased ? ls_vector_copy(m, p.block, p.bias, p.first) : NULL;
    void *act = act_beside(p, y);
    return m->dev->ops->gemm(m->dev, &(ls_gemm){
                                         .dtype = m->dtype,
                                         .c_dtype = m->dtype,
                                         .trans_b = true,
                                         .m = rows,
                                         .n = p.count,
                                         .k = in,
                                         .a = x,
                                         .lda = in,
                                         .b = ls_matrix(m, p.block, p.weight, p.first),
                                         .ldb = in,
                                         .c = act ? act : y,
                                         .ldc = ldy,
                                         .bias = bias,
                                         .bias_rounded = rounded,
                                         .residual = residual,
                                         .act = act ? LS_ACT_GELU : LS_ACT_NONE,
                                         .pre = act ? y : NULL,
                                         .fp8 = fp8_of(m, p, LS_FP8_VALUES),
                                     });
}

/* The bias is that of the rank's own outputs. */
static ls_status project_rows(const ls_pass *pass, ls_projection p, int64_t rows, const void *x,
                              void *y, int64_t ldy) {
    const ls_model *m = pass->model;
    return project(m, rows, p, true, x, y, ldy, NULL);
}

/* A product of rows of x [rows, C], into y with leading dimension ldy. */
typedef ls_status (*rows_fn)(const ls_pass *pass, ls_projection p, int64_t rows, const void *x,
                             void *y, int64_t ldy);

/* Gathers x [n, C] of all ranks and calls fn for all rows: for the rank's own while those of the
 * others arrive, then chunk by chunk. */
static ls_status gather_beside(const ls_pass *pass, ls_projection p, const void *x, void *y,
                               int64_t ldy, rows_fn fn, const void **all) {
    const ls_model *m = pass->model;
    const int chunks = ls_rows_chunks(pass), ranks = m->part.tensor_ranks;
    const int64_t c = m->sizes.channels;
    ls_comm_request *requests[LS_ROW_CHUNKS];
    if (!m->sequence) {
        *all = x;
        return fn(pass, p, pass->rows, x, y, ldy);
    }
    for (int i = 0; i < chunks; i++) {
        LS_TRY(ls_rows_gather_start(pass, x, (ls_chunk){i, chunks}, all, &requests[i]));
    }
    LS_TRY(fn(pass, p, pass->own_rows, x, ls_elems_at(y, pass->own_first * ldy, m->dtype), ldy));
    for (int i = 0; i < chunks; i++) {
        LS_TRY(ls_tensor_wait(pass, requests[i]));
        for (int r = 0; r < ranks; r++) {
            const ls_range rows = ls_rows_of_chunk(pass, r, (ls_chunk){i, chunks});
            if (r != m->part.tensor_rank) {
                LS_TRY(fn(pass, p, rows.elems, ls_elems_at(*all, rows.first * c, m->dtype),
                          ls_elems_at(y, rows.first * ldy, m->dtype), ldy));
            }
        }
    }
    return LS_OK;
}

ls_status ls_column_forward(const ls_pass *pass, ls_projection p, const void *x, void *y,
                            int64_t ldy) {
    const void *all;
    return gather_beside(pass, p, x, y, ldy, project_rows, &all);
}

/* The products of a chunk, into the sum's parts. The bias enters the sum once. */
static ls_status project_chunk(const ls_pass *pass, ls_projection p, ls_chunk chunk, const void *x,
                               void *partial) {
    const ls_model *m = pass->model;
    const int64_t in = ls_model_row(m, p.block, p.weight)->local_dims[1];
    const bool all_rows = chunk.count == 1 || !m->sequence;
    const bool biased = m->tensor->rank == 0;
    int64_t to = m->sequence ? ls_rows_before(pass, chunk) : 0;
    for (int r = 0; r < (all_rows ? 1 : m->tensor->size); r++) {
        ls_range rows = ls_rows_of_chunk(pass, r, chunk);
        if (all_rows) {
            to = rows.first = ls_range_first(pass->rows, chunk.count, chunk.index);
            rows.elems = ls_range_first(pass->rows, chunk.count, chunk.index + 1) - to;
        }
        LS_TRY(project(m, rows.elems, p, biased, ls_elems_at(x, rows.first * in, m->dtype),
                       ls_elems_at(partial, to * p.count, m->dtype), p.count, NULL));
        to += rows.elems;
    }
    return LS_OK;
}

ls_status ls_row_forward(const ls_pass *pass, ls_projection p, const void *x, const void *residual,
                         void *y) {
    const ls_model *m = pass->model;
    if (!m->tensor) {
        return project(m, pass->rows, p, true, x, y, p.count, residual);
    }
    /* The residual is added after the sum: rounded to bf16 with it, a part would lose what is small
     * beside it. */
    const int chunks = ls_rows_chunks(pass);
    ls_comm_request *requests[LS_ROW_CHUNKS];
    void *partial = ls_rows_partial(pass, y);
    for (int c = 0; c < chunks; c++) {
        const ls_chunk chunk = {c, chunks};
        LS_TRY(project_chunk(pass, p, chunk, x, partial));
        LS_TRY(ls_rows_sum_start(pass, chunk, partial, y, &requests[c]));
    }
    for (int c = 0; c < chunks; c++) {
        const int64_t first = ls_range_first(pass->own_rows, chunks, c) * p.count;
        const int64_t end = ls_range_first(pass->own_rows, chunks, c + 1) * p.count;
        LS_TRY(ls_tensor_wait(pass, requests[c]));
        LS_TRY(m->dev->ops->add(m->dev, m->dtype, end - first,
                                ls_elems_at(residual, first, m->dtype),
                                ls_elems_at(y, first, m->dtype)));
    }
    return LS_OK;
}

ls_status ls_project_dx(const ls_pass *pass, ls_projection p, int64_t rows, const void *dy,
                        void *dx) {
    const ls_model *m = pass->model;
    const int64_t *dims = ls_model_row(m, p.block, p.weight)->local_dims;
    void *act = act_beside(p, dx);
    LS_TRY(m->dev->ops->gemm(m->dev, &(ls_gemm){
                                         .dtype = m->dtype,
                                         .c_dtype = m->dtype,
                                         .m = rows,
                                         .n = dims[1],
                                         .k = dims[0],
                                         .a = dy,
                                         .lda = dims[0],
                                         .b = ls_matrix(m, p.block, p.weight, 0),
                                         .ldb = dims[1],
                                         .c = dx,
                                         .ldc = dims[1],
                                         .act = act ? LS_ACT_GELU_GRAD : LS_ACT_NONE,
                                         .pre = act,
                                         .dbias = p.act_bias,
                                         .fp8 = fp8_of(m, p, LS_FP8_GRAD_A),
                                     }));
    return ls_pass_tick(pass);
}

/* dw [count, in] += (or =) dy[:, first : first + count]^T x, dy with `out` columns. */
static ls_status product_dw(const ls_pass *pass, ls_projection p, int64_t rows, const void *x,
                            const void *dy, bool add, void *dw) {
    const ls_model *m = pass->model;
    const int64_t *dims = ls_model_row(m, p.block, p.weight)->local_dims;
    LS_TRY(m->dev->ops->gemm(m->dev, &(ls_gemm){
                                         .dtype = m->dtype,
                                         .c_dtype = m->dev->acc,
                                         .trans_a = true,
                                         .accumulate = add,
                                         .m = p.count,
                                         .n = dims[1],
                                         .k = rows,
                                         .a = ls_elems_at(dy, p.first, m->dtype),
                                         .lda = dims[0],
                                         .b = x,
                                         .ldb = dims[1],
                                         .c = dw,
                                         .ldc = dims[1],
                                         .fp8 = fp8_of(m, p, LS_FP8_GRAD_A),
                                     }));
    return ls_pass_tick(pass);
}

ls_status ls_project_dw(const ls_pass *pass, int block, ls_row weight, int64_t rows, const void *x,
                        const void *dy, bool add) {
    return product_dw(pass, ls_projection_whole(pass->model, block, weight, weight), rows, x, dy,
                      add, ls_gradient(pass, block, weight));
}

static ls_status bias_grad(const ls_pass *pass, ls_projection p, const void *dy, void *dbias) {
    const ls_model *m = pass->model;
    LS_TRY(m->dev->ops->bias_grad(
        m->dev,
        &(ls_bias_grad){
            .dtype = m->dtype, .rows = pass->rows, .cols = p.count, .dy = dy, .dbias = dbias}));
    return ls_pass_tick(pass);
}

/* Weight and bias of q, k, v where ranks share a key/value head: each has the gradient that its own
 * queries make, and their sum is the parameter's. */
static ls_status shared_qkv_grads(const ls_pass *pass, ls_projection p, const void *x,
                                  const void *dy) {
    const ls_model *m = pass->model;
    const ls_dtype acc = m->dev->acc;
    const ls_sizes *s = &m->sizes;
    const int64_t kv_elems = 2 * s->kv_width * s->channels;
    ls_projection q = p, kv = p;
    q.count = kv.first = s->q_width;
    kv.count = 2 * s->kv_width;
    char *weight = ls_gradient(pass, p.block, p.weight), *bias = ls_gradient(pass, p.block, p.bias);
    void *bias_sum = ls_elems_at(m->kv_grads, kv_elems, acc);
    LS_TRY(product_dw(pass, q, pass->rows, x, dy, true, weight));
    LS_TRY(product_dw(pass, kv, pass->rows, x, dy, false, m->kv_grads));
    LS_TRY(ls_comm_all_reduce_by_start(m->kv_sharers, m->kv_grads, kv_elems, acc, LS_SUM));
    LS_TRY(m->dev->ops->add(m->dev, acc, kv_elems, m->kv_grads,
                            ls_elems_at(weight, s->q_width * s->channels, acc)));
    if (!bias) {
        return LS_OK;
    }
    LS_TRY(m->dev->ops->zero(m->dev, bias_sum, (size_t)p.count * ls_dtype_bytes(acc)));
    LS_TRY(bias_grad(pass, p, dy, bias_sum));
    LS_TRY(ls_comm_all_reduce_by_start(m->kv_sharers, ls_elems_at(bias_sum, s->q_width, acc),
                                       kv.count, acc, LS_SUM));
    return m->dev->ops->add(m->dev, acc, p.count, bias_sum, bias);
}

static ls_status weight_grads(const ls_pass *pass, ls_projection p, const void *x, const void *dy) {
    if (pass->model->kv_sharers && p.weight == LS_QKV_W) {
        return shared_qkv_grads(pass, p, x, dy);
    }
    const bool add = !pass->model->bases[p.block].fresh;
    LS_TRY(ls_project_dw(pass, p.block, p.weight, pass->rows, x, dy, add));
    void *dbias = p.bias_done ? NULL : ls_gradient(pass, p.block, p.bias);
    if (dbias && p.dy_sums) {
        const ls_model *m = pass->model;
        return m->dev->ops->add(m->dev, m->dev->acc, p.count, p.dy_sums, dbias);
    }
    return dbias ? bias_grad(pass, p, dy, dbias) : LS_OK;
}

ls_status ls_column_backward(ls_pass *pass, ls_projection p, const void *x, const void *dy,
                             void *dx) {
    const void *all;
    ls_comm_request *gather, *sum;
    if (!pass->model->tensor) { /* what is sent may leave beside the product for dx */
        LS_TRY(weight_grads(pass, p, x, dy));
        LS_TRY(ls_block_final_from(pass, p.block, p.weight));
        return ls_project_dx(pass, p, pass->rows, dy, dx);
    }
    void *partial = ls_rows_partial(pass, dx);
    LS_TRY(
        ls_rows_gather_start(pass, x, ls_all_rows, &all, &gather)); /* beside the product for dx */
    LS_TRY(ls_project_dx(pass, p, pass->rows, dy, partial));
    LS_TRY(ls_tensor_wait(pass, gather));
    LS_TRY(ls_rows_sum_start(pass, ls_all_rows, partial, dx, &sum)); /* beside the product for dW */
    LS_TRY(weight_grads(pass, p, all, dy));
    LS_TRY(ls_tensor_wait(pass, sum));
    /* Of a sequence in parts the norms behind q, k, v are summed at the end. */
    return pass->model->sequence && p.weight == LS_QKV_W
               ? LS_OK
               : ls_block_final_from(pass, p.block, p.weight);
}

static ls_status dx_rows(const ls_pass *pass, ls_projection p, int64_t rows, const void *dy,
                         void *dx, int64_t ldx) {
    (void)ldx; /* the width of dx */
    return ls_project_dx(pass, p, rows, dy, dx);
}

ls_status ls_row_backward(const ls_pass *pass, ls_projection p, const void *x, const void *dy,
                          void *dx) {
    const void *all;
    const int64_t in = ls_model_row(pass->model, p.block, p.weight)->local_dims[1];
    LS_TRY(gather_beside(pass, p, dy, dx, in, dx_rows, &all));
    return weight_grads(pass, p, x, all);
}
