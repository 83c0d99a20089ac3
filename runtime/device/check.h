/* The argument checks that every device makes, so that all refuse the same things in the same
 * words. They look at sizes and dtypes only, cost nanoseconds and exist in every build. */
#ifndef LS_DEVICE_CHECK_H
#define LS_DEVICE_CHECK_H

#include "runtime/device/device.h"

/* Activations are F64 on the reference device, F32 or BF16 on all others. */
static inline ls_status ls_check_dtype(const ls_device *dev, const char *what, ls_dtype dtype) {
    bool served = dev->acc == LS_F64 ? dtype == LS_F64 : dtype == LS_F32 || dtype == LS_BF16;
    if (!served) {
        return LS_FAIL(LS_E_UNSUPPORTED, "%s: dtype %s on device %s; it serves %s", what,
                       ls_dtype_name(dtype), dev->ops->name,
                       dev->acc == LS_F64 ? "float64" : "float32 and bfloat16");
    }
    return LS_OK;
}

static inline ls_status ls_check_size(const char *what, const char *name, int64_t found,
                                      int64_t least) {
    if (found < least) {
        return LS_FAIL(LS_E_SHAPE, "%s: %s is %lld; at least %lld is needed", what, name,
                       (long long)found, (long long)least);
    }
    return LS_OK;
}

static inline ls_status ls_check_gemm_extras(const ls_device *dev, const ls_gemm *op) {
    if (op->act != LS_ACT_NONE &&
        (op->c_dtype != op->dtype || op->ldc != op->n || op->accumulate || op->residual ||
         !op->pre || (op->act == LS_ACT_GELU_GRAD && op->bias))) {
        return LS_FAIL(LS_E_SHAPE, "gemm: an activation wants C like A, ldc equal to n, a place "
                                   "for what is before it, no old C, no residual, and backward no "
                                   "bias");
    }
    if (op->fp8 != LS_FP8_NONE && !dev->has_fp8) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "gemm: products in fp8 on device '%s'; they need a GPU of compute "
                       "capability 8.9 or more",
                       dev->describe);
    }
    if (op->fp8 != LS_FP8_NONE && op->n % 16 != 0) {
        return LS_FAIL(LS_E_SHAPE, "gemm: n is %lld; products in fp8 want a multiple of 16",
                       (long long)op->n);
    }
    const uintptr_t places = (uintptr_t)op->c | (uintptr_t)op->residual |
                             (uintptr_t)op->ldc * ls_dtype_bytes(op->c_dtype);
    if (op->fp8 != LS_FP8_NONE && places % 16 != 0) {
        return LS_FAIL(LS_E_SHAPE,
                       "gemm: C at %p, the residual at %p, rows of %lld elements; products in fp8 "
                       "want each row of both to begin at a multiple of 16 bytes",
                       op->c, op->residual, (long long)op->ldc);
    }
    return LS_OK;
}

static inline ls_status ls_check_gemm(const ls_device *dev, const ls_gemm *op) {
    LS_TRY(ls_check_dtype(dev, "gemm", op->dtype));
    if (op->c_dtype != op->dtype && op->c_dtype != dev->acc) {
        return LS_FAIL(LS_E_UNSUPPORTED, "gemm: c_dtype is %s; it must be %s or %s",
                       ls_dtype_name(op->c_dtype), ls_dtype_name(op->dtype),
                       ls_dtype_name(dev->acc));
    }
    LS_TRY(ls_check_size("gemm", "m", op->m, 0));
    LS_TRY(ls_check_size("gemm", "n", op->n, 0));
    LS_TRY(ls_check_size("gemm", "k", op->k, 0));
    if (op->m == 0 || op->n == 0) {
        return LS_OK;
    }
    LS_TRY(ls_check_size("gemm", "ldc", op->ldc, op->n));
    if (op->k > 0) {
        LS_TRY(ls_check_size("gemm", "lda", op->lda, op->trans_a ? op->m : op->k));
        LS_TRY(ls_check_size("gemm", "ldb", op->ldb, op->trans_b ? op->k : op->n));
    }
    return ls_check_gemm_extras(dev, op);
}

static inline ls_status ls_check_bias_grad(const ls_device *dev, const ls_bias_grad *op) {
    LS_TRY(ls_check_dtype(dev, "bias_grad", op->dtype));
    LS_TRY(ls_check_size("bias_grad", "rows", op->rows, 0));
    return ls_check_size("bias_grad", "cols", op->cols, 0);
}

static inline ls_status ls_check_embedding(const ls_device *dev, const ls_embedding *op) {
    LS_TRY(ls_check_dtype(dev, "embedding", op->dtype));
    LS_TRY(ls_check_size("embedding", "rows", op->rows, 0));
    LS_TRY(ls_check_size("embedding", "seq", op->seq, 1));
    LS_TRY(ls_check_size("embedding", "channels", op->channels, 1));
    LS_TRY(ls_check_size("embedding", "vocab", op->vocab, op->part ? 0 : 1));
    return ls_check_size("embedding", "offset", op->offset, 0);
}

static inline ls_status ls_check_norm(const ls_device *dev, const ls_norm *op) {
    const char *what = op->kind == LS_LAYERNORM ? "layernorm" : "rmsnorm";
    LS_TRY(ls_check_dtype(dev, what, op->dtype));
    LS_TRY(ls_check_size(what, "rows", op->rows, 0));
    LS_TRY(ls_check_size(what, "channels", op->channels, 1));
    LS_TRY(ls_check_size(what, "heads", op->heads, 0));
    if (op->heads > 0 && (op->kind != LS_RMSNORM || op->dresidual || op->dx_sums)) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "%s: heads of a wider matrix; these have RMSNorm, no residual and no sums",
                       what);
    }
    return ls_check_size(what, "stride", op->stride, op->heads * op->channels);
}

static inline ls_status ls_check_rope(const ls_device *dev, const ls_rope *op) {
    LS_TRY(ls_check_dtype(dev, "rope", op->dtype));
    LS_TRY(ls_check_size("rope", "rows", op->rows, 0));
    LS_TRY(ls_check_size("rope", "seq", op->seq, 1));
    LS_TRY(ls_check_size("rope", "offset", op->offset, 0));
    LS_TRY(ls_check_size("rope", "heads", op->heads, 0));
    LS_TRY(ls_check_size("rope", "head_dim", op->head_dim, 2));
    if (op->head_dim % 2 != 0) {
        return LS_FAIL(LS_E_SHAPE, "rope: head_dim is %lld; it must be even",
                       (long long)op->head_dim);
    }
    return ls_check_size("rope", "row_stride", op->row_stride, op->heads * op->head_dim);
}

static inline ls_status ls_check_gelu(const ls_device *dev, const ls_gelu *op) {
    LS_TRY(ls_check_dtype(dev, "gelu", op->dtype));
    return ls_check_size("gelu", "n", op->n, 0);
}

static inline ls_status ls_check_swiglu(const ls_device *dev, const ls_swiglu *op) {
    LS_TRY(ls_check_dtype(dev, "swiglu", op->dtype));
    LS_TRY(ls_check_size("swiglu", "rows", op->rows, 0));
    return ls_check_size("swiglu", "ffn", op->ffn, 0);
}

static inline ls_status ls_check_attention(const ls_device *dev, const ls_attention *op,
                                           bool backward) {
    LS_TRY(ls_check_dtype(dev, "attention", op->dtype));
    LS_TRY(ls_check_size("attention", "batch", op->batch, 0));
    LS_TRY(ls_check_size("attention", "q_len", op->q_len, 0));
    LS_TRY(ls_check_size("attention", "kv_len", op->kv_len, op->full ? 1 : op->q_len));
    LS_TRY(ls_check_size("attention", "heads", op->heads, 1));
    LS_TRY(ls_check_size("attention", "kv_heads", op->kv_heads, 1));
    LS_TRY(ls_check_size("attention", "head_dim", op->head_dim, 1));
    if (op->heads % op->kv_heads != 0) {
        return LS_FAIL(LS_E_SHAPE, "attention: %lld heads do not divide into %lld key/value heads",
                       (long long)op->heads, (long long)op->kv_heads);
    }
    LS_TRY(ls_check_size("attention", "q_stride", op->q_stride, op->heads * op->head_dim));
    LS_TRY(ls_check_size("attention", "kv_stride", op->kv_stride, op->kv_heads * op->head_dim));
    LS_TRY(ls_check_size("attention", "o_stride", op->o_stride, op->heads * op->head_dim));
    if (backward ? op->merge : op->add) {
        return LS_FAIL(LS_E_SHAPE, "attention: merge is for forward, add for backward");
    }
    return LS_OK;
}

/* Offsets of row t of batch entry b and head h, in out (and dout), and in lse. */
static inline int64_t ls_attention_out_at(const ls_attention *op, int64_t b, int64_t h, int64_t t) {
    const int64_t batch = op->o_batch > 0 ? op->o_batch : op->q_len * op->o_stride;
    return b * batch + t * op->o_stride + h * op->head_dim;
}

static inline int64_t ls_attention_lse_at(const ls_attention *op, int64_t b, int64_t h, int64_t t) {
    return (b * op->heads + h) * (op->lse_row > 0 ? op->lse_row : op->q_len) + t;
}

/* Row t sees keys before this one, from ls_attention_first on. */
static inline int64_t ls_attention_visible(const ls_attention *op, int64_t t) {
    return op->full ? op->kv_len : t + 1 + op->kv_len - op->q_len;
}

/* The first key that row t of batch entry b sees, at most ls_attention_visible. Reads first_key:
 * for who may read the device's memory. */
static inline int64_t ls_attention_first(const ls_attention *op, int64_t b, int64_t t) {
    if (!op->first_key) {
        return 0;
    }
    const int64_t batch = op->first_key_batch > 0 ? op->first_key_batch : op->q_len;
    const int64_t first = op->first_key[b * batch + t], visible = ls_attention_visible(op, t);
    return first < visible ? first : visible;
}

static inline ls_status ls_check_cross_entropy(const ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_dtype(dev, "cross_entropy", op->dtype));
    LS_TRY(ls_check_size("cross_entropy", "rows", op->rows, 0));
    LS_TRY(ls_check_size("cross_entropy", "vocab", op->vocab, 1));
    return ls_check_size("cross_entropy", "ld", op->ld, op->vocab);
}

static inline ls_status ls_check_softmax_part(const ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_dtype(dev, "cross_entropy of parts", op->dtype));
    LS_TRY(ls_check_size("cross_entropy of parts", "rows", op->rows, 0));
    LS_TRY(ls_check_size("cross_entropy of parts", "vocab", op->vocab, 0));
    LS_TRY(ls_check_size("cross_entropy of parts", "first", op->first, 0));
    return ls_check_size("cross_entropy of parts", "ld", op->ld, op->vocab);
}

static inline ls_status ls_check_route(const ls_device *dev, const ls_route *op) {
    LS_TRY(ls_check_dtype(dev, "route", op->dtype));
    LS_TRY(ls_check_size("route", "rows", op->rows, 0));
    LS_TRY(ls_check_size("route", "each", op->each, 1));
    return ls_check_size("route", "experts", op->experts, op->each);
}

static inline ls_status ls_check_select_rows(const ls_device *dev, const ls_select_rows *op) {
    LS_TRY(ls_check_dtype(dev, "select_rows", op->dtype));
    LS_TRY(ls_check_size("select_rows", "rows", op->rows, 0));
    return ls_check_size("select_rows", "cols", op->cols, 0);
}

static inline ls_status ls_check_combine(const ls_device *dev, const ls_combine *op) {
    LS_TRY(ls_check_dtype(dev, "combine", op->dtype));
    LS_TRY(ls_check_size("combine", "rows", op->rows, 0));
    LS_TRY(ls_check_size("combine", "cols", op->cols, 0));
    return ls_check_size("combine", "each", op->each, 0);
}

static inline ls_status ls_check_copy_rows(const ls_device *dev, const ls_copy_rows *op) {
    LS_TRY(ls_check_dtype(dev, "copy_rows", op->dtype));
    LS_TRY(ls_check_size("copy_rows", "rows", op->rows, 0));
    LS_TRY(ls_check_size("copy_rows", "cols", op->cols, 0));
    LS_TRY(ls_check_size("copy_rows", "ldx", op->ldx, op->cols));
    return ls_check_size("copy_rows", "ldy", op->ldy, op->cols);
}

/* verdict: on devices that have them. */
static inline ls_status ls_check_verdict(const ls_device *dev, const char *what,
                                         const ls_update_verdict *verdict) {
    return !verdict || dev->async ? LS_OK
                                  : LS_FAIL(LS_E_UNSUPPORTED,
                                            "%s: a verdict on device %s, whose updates are over "
                                            "when a call returns",
                                            what, dev->ops->name);
}

static inline ls_status ls_check_update(const ls_device *dev, const char *what, int64_t n,
                                        const void *copy, ls_dtype copy_dtype) {
    if (copy) {
        LS_TRY(ls_check_dtype(dev, what, copy_dtype));
    }
    return ls_check_size(what, "n", n, 0);
}

static inline ls_status ls_check_adamw(const ls_device *dev, const ls_adamw *op) {
    LS_TRY(ls_check_update(dev, "adamw", op->n, op->copy, op->copy_dtype));
    LS_TRY(ls_check_verdict(dev, "adamw", op->verdict));
    return ls_check_size("adamw", "t", op->t, 1);
}

static inline ls_status ls_check_adafactor(const ls_device *dev, const ls_adafactor *op) {
    LS_TRY(ls_check_update(dev, "adafactor", op->n, op->copy, op->copy_dtype));
    LS_TRY(ls_check_size("adafactor", "first", op->first, 0));
    LS_TRY(ls_check_size("adafactor", "grid", op->grid, 0));
    return ls_check_size("adafactor", "cols", op->cols, 1);
}

static inline ls_status ls_check_sum_squares(int64_t first, int64_t n) {
    LS_TRY(ls_check_size("sum_squares", "first", first, 0));
    return ls_check_size("sum_squares", "n", n, 0);
}

#endif
