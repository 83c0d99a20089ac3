/* Matrix products, in 8 bits too, with what may follow them. */
#include "runtime/base/arena.h"
#include "runtime/base/fp8.h"
#include "runtime/device/check.h"
#include "runtime/device/gemm_parts.h"
#include "tests/reference/reference_ops.h"

#include <math.h>
#include <stdlib.h>

/* C[i,j] = sum_l op(A)[i,l] op(B)[l,j] + (accumulate) C[i,j] + bias[j] + residual[i,j] */
static void multiply(const ls_gemm *op) {
    const double *a = op->a, *b = op->b, *bias = op->bias, *residual = op->residual;
    double *c = op->c;
    for (int64_t i = 0; i < op->m; i++) {
        for (int64_t j = 0; j < op->n; j++) {
            double sum = 0.0;
            for (int64_t l = 0; l < op->k; l++) {
                double a_il = op->trans_a ? a[l * op->lda + i] : a[i * op->lda + l];
                double b_lj = op->trans_b ? b[j * op->ldb + l] : b[l * op->ldb + j];
                sum += a_il * b_lj;
            }
            int64_t ij = i * op->ldc + j;
            sum += op->accumulate ? c[ij] : 0.0;
            sum += bias ? bias[j] : 0.0;
            sum += residual ? residual[ij] : 0.0;
            c[ij] = sum;
        }
    }
}

/* to [rows, cols] = x in 8 bits and back, at the scale of its largest magnitude. */
static void round_to_fp8(ls_fp8_format format, int64_t rows, int64_t cols, int64_t ld,
                         const double *x, double *to) {
    double most = 0.0;
    for (int64_t i = 0; i < rows * cols; i++) {
        const double magnitude = fabs(x[i / cols * ld + i % cols]);
        most = magnitude > most ? magnitude : most;
    }
    const double scale = (double)ls_fp8_scale(format, (float)most);
    for (int64_t i = 0; i < rows * cols; i++) {
        const double scaled = x[i / cols * ld + i % cols] * scale;
        to[i] = (double)ls_fp8_to_f32(format, ls_fp8_from_f32(format, (float)scaled)) / scale;
    }
}

static ls_status multiply_fp8(const ls_gemm *op) {
    const int64_t a_rows = op->trans_a ? op->k : op->m, a_cols = op->trans_a ? op->m : op->k;
    const int64_t b_rows = op->trans_b ? op->n : op->k, b_cols = op->trans_b ? op->k : op->n;
    double *a;
    LS_TRY(ls_calloc((size_t)((op->m + op->n) * op->k) + 1, sizeof *a, &a));
    double *b = a + op->m * op->k;
    round_to_fp8(op->fp8 == LS_FP8_GRAD_A ? LS_E5M2 : LS_E4M3, a_rows, a_cols, op->lda, op->a, a);
    round_to_fp8(LS_E4M3, b_rows, b_cols, op->ldb, op->b, b);
    ls_gemm rounded = *op;
    rounded.a = a;
    rounded.lda = a_cols;
    rounded.b = b;
    rounded.ldb = b_cols;
    multiply(&rounded);
    free(a);
    return LS_OK;
}

ls_status ls_ref_gemm(ls_device *dev, const ls_gemm *op) {
    LS_TRY(ls_check_gemm(dev, op));
    if (op->m == 0 || op->n == 0) {
        return LS_OK;
    }
    const ls_gemm product = ls_gemm_product_part(op);
    if (op->fp8 != LS_FP8_NONE) {
        LS_TRY(multiply_fp8(&product));
    } else {
        multiply(&product);
    }
    return op->act == LS_ACT_NONE ? LS_OK : ls_gemm_act_part(dev, op);
}
