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

ls_status ls_muon_orthogonalise(ls_optim *optim, const ls_muon_scratch *scratch, int64_t at,
                                int64_t rows, int64_t cols) {
    ls_device *dev = optim->options.dev;
    void *matrix = ls_elem_at(scratch->x, at, dev->acc);
    void *x = matrix, *y = scratch->y;
    const int64_t n = rows * cols;
    double squares;
    LS_TRY(ls_optim_sum_squares(optim, x, n, &squares));
    LS_TRY(dev->ops->blend(dev, n, 1.0 / (sqrt(squares) + 1e-7), x, 0.0, x));
    for (int i = 0; i < ITERATIONS; i++) {
        LS_TRY(iterate(dev, scratch, x, y, rows, cols));
        void *swap = x;
        x = y;
        y = swap;
    }
    double scale = 0.2 * sqrt((double)(rows > cols ? rows : cols));
    return dev->ops->blend(dev, n, scale, x, 0.0, matrix);
}
