#include "optim/muon_matrix.h"

#include <math.h>

#define A 3.4445
#define B (-4.7750)
#define C 2.0315

enum { ITERATIONS = 5 };

/* c [m, n] = op(a) [m, k] op(b) [k, n]. */
static ls_status product(ls_device *dev, int64_t m, int64_t n, int64_t k, const void *a,
                         bool trans_a, const void *b, bool trans_b, void *c) {
    return dev->ops->gemm(dev, &(ls_gemm){.dtype = dev->acc,
                                          .c_dtype = dev->acc,
                                          .trans_a = trans_a,
                                          .trans_b = trans_b,
                                          .m = m,
                                          .n = n,
                                          .k = k,
                                          .a = a,
                                          .lda = trans_a ? m : k,
                                          .b = b,
                                          .ldb = trans_b ? k : n,
                                          .c = c,
                                          .ldc = n});
}

/* y = A x + (B xx + C xx xx) x with xx = x x^T, or with the same on the right where it is smaller.
 */
static ls_status iterate(ls_device *dev, const ls_muon_scratch *s, const void *x, void *y,
                         int64_t rows, int64_t cols) {
    const bool wide = rows <= cols;
    const int64_t side = wide ? rows : cols;
    LS_TRY(product(dev, side, side, wide ? cols : rows, x, !wide, x, wide, s->a));
    LS_TRY(product(dev, side, side, side, s->a, false, s->a, false, s->b));
    LS_TRY(dev->ops->blend(dev, side * side, B, s->a, C, s->b));
    LS_TRY(product(dev, rows, cols, side, wide ? s->b : x, false, wide ? x : s->b, false, y));
    return dev->ops->blend(dev, rows * cols, A, x, 1.0, y);
}

static ls_status normalize(ls_optim *optim, const ls_muon_scratch *scratch, int64_t n, void *x) {
    ls_device *dev = optim->options.dev;
    const double eps = 1e-7;
    double squares;
    if (dev->async) {
        return dev->async->normalize(dev, n, eps, x, scratch->squares);
    }
    LS_TRY(ls_optim_sum_squares(optim, x, n, &squares));
    return dev->ops->blend(dev, n, 1.0 / (sqrt(squares) + eps), x, 0.0, x);
}

ls_status ls_muon_orthogonalise(ls_optim *optim, const ls_muon_scratch *scratch, int64_t at,
                                int64_t rows, int64_t cols) {
    ls_device *dev = optim->options.dev;
    void *matrix = ls_elem_at(scratch->x, at, dev->acc);
    void *x = matrix, *y = scratch->y;
    const int64_t n = rows * cols;
    LS_TRY(normalize(optim, scratch, n, x));
    for (int i = 0; i < ITERATIONS; i++) {
        LS_TRY(iterate(dev, scratch, x, y, rows, cols));
        void *swap = x;
        x = y;
        y = swap;
    }
    double scale = 0.2 * sqrt((double)(rows > cols ? rows : cols));
    return dev->ops->blend(dev, n, scale, x, 0.0, matrix);
}

/* The pieces of tensor rank `rank`, between its local matrix and the whole one. */
static ls_status copy_pieces(ls_optim *optim, const ls_param *param, int rank, void *local,
                             void *whole, bool back) {
    ls_device *dev = optim->options.dev;
    const ls_dtype acc = dev->acc;
    const int64_t local_cols = param->local_dims[1], cols = param->dims[1];
    ls_param row = *param;
    row.tp_rank = rank;
    ls_piece pieces[LS_MAX_GROUPS];
    const int count = ls_param_pieces(&row, pieces);
    for (int i = 0; i < count; i++) {
        const ls_box *from = &pieces[i].local, *to = &pieces[i].global;
        void *here = ls_elem_at(local, from->start[0] * local_cols + from->start[1], acc);
        void *there = ls_elem_at(whole, to->start[0] * cols + to->start[1], acc);
        LS_TRY(dev->ops->copy_rows(dev, &(ls_copy_rows){.dtype = acc,
                                                        .rows = from->extent[0],
                                                        .cols = from->extent[1],
                                                        .ldx = back ? cols : local_cols,
                                                        .ldy = back ? local_cols : cols,
                                                        .x = back ? there : here,
                                                        .y = back ? here : there}));
    }
    return LS_OK;
}

ls_status ls_muon_gather(ls_optim *optim, const ls_muon_scratch *scratch, const ls_param *param,
                         const void *local) {
    ls_device *dev = optim->options.dev;
    ls_comm *tensor = optim->options.tensor;
    const int64_t bytes = param->elems * (int64_t)ls_dtype_bytes(dev->acc);
    if (!tensor || tensor->size != param->tp_ranks) {
        return LS_FAIL(LS_E_SHAPE, "'%s' is split over %d tensor ranks; the group has %d",
                       param->name, param->tp_ranks, tensor ? tensor->size : 1);
    }
    LS_TRY(ls_comm_all_gather_by_start(tensor, local, scratch->parts, bytes));
    for (int rank = 0; rank < param->tp_ranks; rank++) {
        LS_TRY(copy_pieces(optim, param, rank,
                           ls_elem_at(scratch->parts, rank * param->elems, dev->acc), scratch->x,
                           false));
    }
    return LS_OK;
}

ls_status ls_muon_scatter(ls_optim *optim, const ls_muon_scratch *scratch, const ls_param *param,
                          void *local) {
    return copy_pieces(optim, param, param->tp_rank, local, scratch->x, true);
}
