/* The orthogonalisation of one matrix. */
#ifndef LS_OPTIM_MUON_MATRIX_H
#define LS_OPTIM_MUON_MATRIX_H

#include "optim/optim_internal.h"

/* Device memory (dev->acc): x, y of the largest matrix; a, b of its smaller side squared; parts of
 * the largest that tensor ranks split, from all of them. squares: on devices with `async`, as
 * normalize of device.h wants it for the largest. */
typedef struct ls_muon_scratch {
    void *x, *y, *a, *b, *parts;
    void *squares; /* doubles */
} ls_muon_scratch;

/* The matrix [rows, cols] at element `at` of scratch->x becomes 0.2 sqrt(max(rows, cols)) times an
 * approximation of the nearest semi-orthogonal one: X / |X|, then five times
 * X = a X + (b X X^T + c (X X^T)^2) X with (a, b, c) = (3.4445, -4.7750, 2.0315), on the smaller
 * side (Jordan 2024). */
ls_status ls_muon_orthogonalise(ls_optim *optim, const ls_muon_scratch *scratch, int64_t at,
                                int64_t rows, int64_t cols);

/* Between the local matrix of a row that tensor ranks split and scratch->x, the whole one: gather
 * brings the ranks' parts together, scatter takes this rank's part of the result. What is padding
 * in the local matrix stays as it is. gather: [collective over tensor] */
ls_status ls_muon_gather(ls_optim *optim, const ls_muon_scratch *scratch, const ls_param *param,
                         const void *local);
ls_status ls_muon_scatter(ls_optim *optim, const ls_muon_scratch *scratch, const ls_param *param,
                          void *local);

/* Do tensor (or expert) ranks split the matrices of a row, and not only their list? */
static inline bool ls_muon_is_split(const ls_param *param) {
    return param->tp_ranks > 1 && param->tp_axis >= param->ndim - 2;
}

#endif
