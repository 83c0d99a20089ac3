/* The table of operations: checks, scratch, launch. */
#include "runtime/device/check.h"
#include "runtime/device/cuda/device_cuda.h"
#include "runtime/device/cuda/launch.h"
#include "runtime/device/cuda/memory_cuda.h"

/* A grid's first dimension; blocks of rows are one of its elements each. */
#define GRID_MAX ((int64_t)0x7fffffff)
/* Keys and queries: the attention kernels count them in int, tiles further than they go. */
#define LENGTH_MAX ((int64_t)1 << 30)

static ls_status check_rows(const char *what, int64_t rows) {
    if (rows > GRID_MAX) {
        return LS_FAIL(LS_E_UNSUPPORTED, "%s: %lld rows; a grid has at most %lld", what,
                       (long long)rows, (long long)GRID_MAX);
    }
    return LS_OK;
}

static ls_status check_norm(ls_device *dev, const ls_norm *op) {
    LS_TRY(ls_check_norm(dev, op));
    const int most = op->heads > 0 ? LS_CUDA_HEAD_DIM_MAX : LS_CUDA_NORM_CHANNELS_MAX;
    if (op->channels > most) {
        return LS_FAIL(LS_E_UNSUPPORTED, "norm%s: %lld channels; a GPU serves up to %d",
                       op->heads > 0 ? " of heads" : "", (long long)op->channels, most);
    }
    return check_rows("norm", op->rows);
}

static ls_status norm_forward(ls_device *dev, const ls_norm *op) {
    LS_TRY(check_norm(dev, op));
    if (op->rows == 0) {
        return LS_OK;
    }
    (op->heads > 0 ? ls_cuda_launch_heads_norm_forward
                   : ls_cuda_launch_norm_forward)(ls_cuda_stream(dev), op);
    return ls_cuda_launched("norm forward");
}

static ls_status norm_backward(ls_device *dev, const ls_norm *op) {
    LS_TRY(check_norm(dev, op));
    if (op->rows == 0) {
        return LS_OK;
    }
    void *partial;
    const int64_t elems = ls_cuda_norm_scratch_elems(op->rows, op->channels);
    LS_TRY(ls_cuda_scratch(ls_cuda_of(dev), (size_t)elems * sizeof(float), &partial));
    (op->heads > 0 ? ls_cuda_launch_heads_norm_backward
                   : ls_cuda_launch_norm_backward)(ls_cuda_stream(dev), op, partial);
    return ls_cuda_launched("norm backward");
}

static ls_status bias_grad(ls_device *dev, const ls_bias_grad *op) {
    LS_TRY(ls_check_bias_grad(dev, op));
    if (op->rows == 0 || op->cols == 0) {
        return LS_OK;
    }
    void *partial;
    const int64_t elems = ls_cuda_bias_scratch_elems(op->rows, op->cols);
    LS_TRY(ls_cuda_scratch(ls_cuda_of(dev), (size_t)elems * sizeof(float), &partial));
    ls_cuda_launch_bias_grad(ls_cuda_stream(dev), op, partial);
    return ls_cuda_launched("bias gradient");
}

static ls_status embedding_forward(ls_device *dev, const ls_embedding *op) {
    LS_TRY(ls_check_embedding(dev, op));
    if (op->rows == 0) {
        return LS_OK;
    }
    ls_cuda_launch_embedding_forward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("embedding forward");
}

static ls_status embedding_backward(ls_device *dev, const ls_embedding *op) {
    LS_TRY(ls_check_embedding(dev, op));
    LS_TRY(check_rows("embedding", op->rows));
    if (op->rows == 0) {
        return LS_OK;
    }
    ls_cuda_launch_embedding_backward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("embedding backward");
}

static ls_status rope(ls_device *dev, const ls_rope *op) {
    LS_TRY(ls_check_rope(dev, op));
    if (op->rows == 0 || op->heads == 0) {
        return LS_OK;
    }
    ls_cuda_launch_rope(ls_cuda_stream(dev), op);
    return ls_cuda_launched("rope");
}

static ls_status gelu_forward(ls_device *dev, const ls_gelu *op) {
    LS_TRY(ls_check_gelu(dev, op));
    if (op->n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_gelu_forward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("gelu forward");
}

static ls_status gelu_backward(ls_device *dev, const ls_gelu *op) {
    LS_TRY(ls_check_gelu(dev, op));
    if (op->n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_gelu_backward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("gelu backward");
}

static ls_status swiglu_forward(ls_device *dev, const ls_swiglu *op) {
    LS_TRY(ls_check_swiglu(dev, op));
    if (op->rows == 0 || op->ffn == 0) {
        return LS_OK;
    }
    ls_cuda_launch_swiglu_forward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("swiglu forward");
}

static ls_status swiglu_backward(ls_device *dev, const ls_swiglu *op) {
    LS_TRY(ls_check_swiglu(dev, op));
    if (op->rows == 0 || op->ffn == 0) {
        return LS_OK;
    }
    ls_cuda_launch_swiglu_backward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("swiglu backward");
}

static ls_status check_attention(ls_device *dev, const ls_attention *op, bool backward) {
    LS_TRY(ls_check_attention(dev, op, backward));
    if (op->head_dim > LS_CUDA_HEAD_DIM_MAX) {
        return LS_FAIL(LS_E_UNSUPPORTED, "attention: head_dim is %lld; a GPU serves up to %d",
                       (long long)op->head_dim, LS_CUDA_HEAD_DIM_MAX);
    }
    if (!(op->scale > 0.0)) { /* the kernels seek the largest score before it is scaled */
        return LS_FAIL(LS_E_UNSUPPORTED, "attention: scale is %g; a GPU serves those above 0",
                       op->scale);
    }
    if (op->kv_len > LENGTH_MAX || op->q_len > LENGTH_MAX || op->batch > 65535 ||
        op->heads > 65535) {
        return LS_FAIL(
            LS_E_UNSUPPORTED,
            "attention: q_len %lld, kv_len %lld, batch %lld, heads %lld; a GPU serves up "
            "to %lld, as many, 65535 and 65535",
            (long long)op->q_len, (long long)op->kv_len, (long long)op->batch, (long long)op->heads,
            (long long)LENGTH_MAX);
    }
    return LS_OK;
}

static ls_status attention_forward(ls_device *dev, const ls_attention *op) {
    bool done;
    LS_TRY(check_attention(dev, op, false));
    if (op->batch == 0 || op->q_len == 0) {
        return LS_OK;
    }
    LS_TRY(ls_cuda_cudnn_attention(ls_cuda_of(dev), op, NULL, &done));
    if (done) {
        return LS_OK;
    }
    ls_cuda_launch_attention_forward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("attention forward");
}

static ls_status attention_backward(ls_device *dev, const ls_attention *op) {
    LS_TRY(check_attention(dev, op, true));
    if (op->batch == 0 || op->q_len == 0) {
        return LS_OK;
    }
    void *delta;
    bool done;
    const size_t elems = (size_t)(op->batch * op->heads * op->q_len);
    LS_TRY(ls_cuda_scratch(ls_cuda_of(dev), elems * sizeof(float), &delta));
    LS_TRY(ls_cuda_cudnn_attention(ls_cuda_of(dev), op, delta, &done));
    if (done) {
        return LS_OK;
    }
    ls_cuda_launch_attention_backward(ls_cuda_stream(dev), op, delta);
    return ls_cuda_launched("attention backward");
}

static ls_status cross_entropy(ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_cross_entropy(dev, op));
    LS_TRY(check_rows("cross_entropy", op->rows));
    if (op->rows == 0) {
        return LS_OK;
    }
    ls_cuda_launch_cross_entropy(ls_cuda_stream(dev), op);
    return ls_cuda_launched("cross-entropy");
}

static ls_status cross_entropy_share(ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_softmax_part(dev, op));
    LS_TRY(check_rows("cross_entropy of parts", op->rows));
    if (op->rows == 0) {
        return LS_OK;
    }
    ls_cuda_launch_cross_entropy_share(ls_cuda_stream(dev), op);
    return ls_cuda_launched("cross-entropy of a part");
}

static ls_status cross_entropy_merge(ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_softmax_part(dev, op));
    LS_TRY(check_rows("cross_entropy of parts", op->rows));
    if (op->rows == 0) {
        return LS_OK;
    }
    ls_cuda_launch_cross_entropy_merge(ls_cuda_stream(dev), op);
    return ls_cuda_launched("cross-entropy of parts");
}

static ls_status copy_rows(ls_device *dev, const ls_copy_rows *op) {
    LS_TRY(ls_check_copy_rows(dev, op));
    if (op->rows == 0 || op->cols == 0) {
        return LS_OK;
    }
    ls_cuda_launch_copy_rows(ls_cuda_stream(dev), op);
    return ls_cuda_launched("copy of rows");
}

static ls_status lion(ls_device *dev, const ls_lion *op) {
    LS_TRY(ls_check_update(dev, "lion", op->n, op->copy, op->copy_dtype));
    LS_TRY(ls_check_verdict(dev, "lion", op->verdict));
    if (op->n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_lion(ls_cuda_stream(dev), op);
    return ls_cuda_launched("Lion");
}

static ls_status sgd(ls_device *dev, const ls_sgd *op) {
    LS_TRY(ls_check_update(dev, "sgd", op->n, op->copy, op->copy_dtype));
    LS_TRY(ls_check_verdict(dev, "sgd", op->verdict));
    if (op->n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_sgd(ls_cuda_stream(dev), op);
    return ls_cuda_launched("SGD");
}

static ls_status adafactor_squares(ls_device *dev, const ls_adafactor *op) {
    LS_TRY(ls_check_adafactor(dev, op));
    if (op->n == 0) {
        return LS_OK;
    }
    void *partial;
    const size_t elems = (size_t)ls_cuda_adafactor_scratch_elems(op);
    LS_TRY(ls_cuda_scratch(ls_cuda_of(dev), elems * sizeof(double), &partial));
    ls_cuda_launch_adafactor_squares(ls_cuda_stream(dev), op, partial);
    return ls_cuda_launched("Adafactor's squares");
}

static ls_status adafactor_norm(ls_device *dev, const ls_adafactor *op, double *sums) {
    LS_TRY(ls_check_adafactor(dev, op));
    if (op->n == 0) {
        return LS_OK;
    }
    const size_t bytes = (size_t)ls_squares_count(op->grid, op->n) * sizeof(double);
    void *on_device;
    LS_TRY(ls_cuda_scratch(ls_cuda_of(dev), bytes, &on_device));
    ls_cuda_launch_adafactor_norm(ls_cuda_stream(dev), op, on_device);
    LS_TRY(ls_cuda_launched("Adafactor's norm"));
    return ls_cuda_download(dev, sums, on_device, bytes);
}

static ls_status adafactor_apply(ls_device *dev, const ls_adafactor *op) {
    LS_TRY(ls_check_adafactor(dev, op));
    if (op->n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_adafactor_apply(ls_cuda_stream(dev), op);
    return ls_cuda_launched("Adafactor");
}

static ls_status blend(ls_device *dev, int64_t n, double a, const void *x, double b, void *y) {
    LS_TRY(ls_check_size("blend", "n", n, 0));
    if (n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_blend(ls_cuda_stream(dev), NULL, n, a, x, b, y);
    return ls_cuda_launched("blend");
}

static ls_status route_forward(ls_device *dev, const ls_route *op) {
    LS_TRY(ls_check_route(dev, op));
    if (op->rows == 0) {
        return LS_OK;
    }
    ls_cuda_launch_route_forward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("routing");
}

static ls_status route_backward(ls_device *dev, const ls_route *op) {
    LS_TRY(ls_check_route(dev, op));
    if (op->rows == 0) {
        return LS_OK;
    }
    ls_cuda_launch_route_backward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("routing backward");
}

static ls_status select_rows(ls_device *dev, const ls_select_rows *op) {
    LS_TRY(ls_check_select_rows(dev, op));
    if (op->rows == 0 || op->cols == 0) {
        return LS_OK;
    }
    ls_cuda_launch_select_rows(ls_cuda_stream(dev), op);
    return ls_cuda_launched("selection of rows");
}

static ls_status combine_forward(ls_device *dev, const ls_combine *op) {
    LS_TRY(ls_check_combine(dev, op));
    if (op->rows == 0 || op->cols == 0) {
        return LS_OK;
    }
    ls_cuda_launch_combine_forward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("combination");
}

static ls_status combine_backward(ls_device *dev, const ls_combine *op) {
    LS_TRY(ls_check_combine(dev, op));
    if (op->rows == 0 || op->each == 0) {
        return LS_OK;
    }
    ls_cuda_launch_combine_backward(ls_cuda_stream(dev), op);
    return ls_cuda_launched("combination backward");
}

static ls_status adamw(ls_device *dev, const ls_adamw *op) {
    LS_TRY(ls_check_adamw(dev, op));
    if (op->n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_adamw(ls_cuda_stream(dev), op);
    return ls_cuda_launched("AdamW");
}

typedef void (*launch_flat)(cudaStream_t stream, ls_dtype dtype, int64_t n, const void *x, void *y);

static ls_status flat(ls_device *dev, const char *what, launch_flat launch, ls_dtype dtype,
                      int64_t n, const void *x, void *y) {
    LS_TRY(ls_check_dtype(dev, what, dtype));
    LS_TRY(ls_check_size(what, "n", n, 0));
    if (n == 0) {
        return LS_OK;
    }
    launch(ls_cuda_stream(dev), dtype, n, x, y);
    return ls_cuda_launched(what);
}

static ls_status add(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    return flat(dev, "add", ls_cuda_launch_add, dtype, n, x, y);
}

static ls_status cast(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    return flat(dev, "cast", ls_cuda_launch_cast, dtype, n, x, y);
}

static ls_status widen(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    return flat(dev, "widen", ls_cuda_launch_widen, dtype, n, x, y);
}

static ls_status sum(ls_device *dev, int64_t n, const void *x, double *total) {
    LS_TRY(ls_check_size("sum", "n", n, 0));
    ls_cuda_device *cuda = ls_cuda_of(dev);
    void *partial;
    LS_TRY(ls_cuda_scratch(cuda, (size_t)ls_cuda_sum_blocks(n) * sizeof(double), &partial));
    ls_cuda_launch_sum(cuda->compute, n, x, partial, total);
    return ls_cuda_launched("sum");
}

static ls_status sum_squares(ls_device *dev, int64_t first, int64_t n, const void *x,
                             double *sums) {
    LS_TRY(ls_check_sum_squares(first, n));
    if (n == 0) {
        return LS_OK;
    }
    const size_t bytes = (size_t)ls_squares_count(first, n) * sizeof(double);
    void *on_device;
    LS_TRY(ls_cuda_scratch(ls_cuda_of(dev), bytes, &on_device));
    ls_cuda_launch_squares(ls_cuda_stream(dev), first, n, x, on_device);
    LS_TRY(ls_cuda_launched("sum of squares"));
    return ls_cuda_download(dev, sums, on_device, bytes);
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static size_t kernels_scratch(const ls_device_limits *limits) {
    int64_t elems = ls_cuda_norm_scratch_elems(limits->rows, limits->channels);
    elems = larger(elems, ls_cuda_bias_scratch_elems(limits->rows, limits->channels));
    elems = larger(elems, limits->rows * limits->heads);
    size_t bytes = (size_t)elems * sizeof(float);
    if (limits->fp8_elems > 0) {
        const size_t fp8_bytes = (size_t)limits->fp8_elems + ls_cuda_fp8_scratch_bytes(1, 1, 1);
        bytes = fp8_bytes > bytes ? fp8_bytes : bytes;
    }
    return bytes;
}

static size_t scratch(const ls_device *dev, const ls_device_limits *limits) {
    (void)dev;
    return ls_cuda_gemm_bytes(limits->channels) + kernels_scratch(limits);
}

static ls_status reserve(ls_device *dev, const ls_device_limits *limits) {
    void *memory;
    LS_TRY(ls_cuda_gemm_start(ls_cuda_of(dev), limits->channels));
    LS_TRY(ls_cuda_cudnn_reserve(ls_cuda_of(dev), limits));
    return ls_cuda_scratch(ls_cuda_of(dev), kernels_scratch(limits), &memory);
}

const ls_device_ops ls_cuda_ops = {
    .name = "cuda",
    .close = ls_cuda_close,
    .reserve = reserve,
    .scratch = scratch,
    .alloc = ls_cuda_alloc,
    .free = ls_cuda_free,
    .free_bytes = ls_cuda_free_bytes,
    .upload = ls_cuda_upload,
    .download = ls_cuda_download,
    .copy = ls_cuda_copy,
    .zero = ls_cuda_zero,
    .sync = ls_cuda_sync,
    .mark = ls_cuda_mark,
    .between = ls_cuda_between,
    .gemm = ls_cuda_gemm_run,
    .bias_grad = bias_grad,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .norm_forward = norm_forward,
    .norm_backward = norm_backward,
    .rope = rope,
    .gelu_forward = gelu_forward,
    .gelu_backward = gelu_backward,
    .swiglu_forward = swiglu_forward,
    .swiglu_backward = swiglu_backward,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .cross_entropy = cross_entropy,
    .cross_entropy_share = cross_entropy_share,
    .cross_entropy_merge = cross_entropy_merge,
    .copy_rows = copy_rows,
    .route_forward = route_forward,
    .route_backward = route_backward,
    .select_rows = select_rows,
    .combine_forward = combine_forward,
    .combine_backward = combine_backward,
    .adamw = adamw,
    .lion = lion,
    .sgd = sgd,
    .adafactor_squares = adafactor_squares,
    .adafactor_norm = adafactor_norm,
    .adafactor_apply = adafactor_apply,
    .blend = blend,
    .add = add,
    .cast = cast,
    .widen = widen,
    .sum_squares = sum_squares,
    .sum = sum,
};
