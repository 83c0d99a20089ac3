/* The GPU device beside its floors, all in one run: operations that move memory beside a copy,
 * matrix products beside cuBLASLt called directly, attention beside the largest product's rate.
 *
 *   bench_gpu [repeats [FILE]]     repeats 0: tiny sizes, once, to see that it works
 *
 * FILE receives the figures beside what they should be, for tests/gpu/report.awk. */
#include "runtime/base/clock.h"
#include "runtime/device/cuda/device_cuda.h"
#include "runtime/device/device.h"

#include <cublasLt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct bench {
    ls_device *dev;
    int repeats;
    bool tiny;
    char *memory; /* for all operands, `bytes` large */
    size_t bytes;
    double copy_gb_s, gemm_tflop_s;
    FILE *figures; /* NULL: not wanted */
} bench;

/* A percentage that should be at least so much. */
static void figure(const bench *b, const char *kind, const char *name, double percent,
                   double least) {
    if (b->figures) {
        fprintf(b->figures, "%s %s, %%\t%.1f\tleast\t%g\n", kind, name, percent, least);
    }
}

static void check(ls_status status) {
    if (status != LS_OK) {
        fprintf(stderr, "bench_gpu: %s\n", ls_error_last()->message);
        exit(3);
    }
}

/* All memory becomes numbers between 1/8 and 2 of either sign, as bf16 and as fp32: a GPU that
 * multiplies zeros, or the NaNs that some operations make of them, draws less power and keeps
 * higher clocks than one that trains. */
static void fill(const bench *b) {
    const size_t part_bytes = (size_t)1 << 20;
    uint16_t *part = malloc(part_bytes);
    uint32_t state = 1;
    if (!part) {
        check(LS_FAIL(LS_E_MEMORY, "no memory for %zu bytes of numbers", part_bytes));
    }
    for (size_t i = 0; i < part_bytes / sizeof *part; i++) {
        state = state * 1664525u + 1013904223u;
        part[i] = (uint16_t)((state >> 16 & 0x81ffu) | 0x3e00u);
    }
    check(b->dev->ops->upload(b->dev, b->memory, part, part_bytes));
    for (size_t done = part_bytes; done < b->bytes; done *= 2) {
        check(b->dev->ops->copy(b->dev, b->memory + done, b->memory, done));
    }
    free(part);
}

/* The i-th operand: parts of the memory, far enough from each other. */
static void *operand(const bench *b, int i) {
    return b->memory + (size_t)i * (b->bytes / 8);
}

typedef ls_status (*run_fn)(const bench *b, void *context);

/* Seconds of one call: the median of three batches of `repeats` calls, after one to warm up. */
static double seconds_of(const bench *b, run_fn run, void *context) {
    double times[3];
    check(run(b, context));
    check(b->dev->ops->sync(b->dev));
    for (int i = 0; i < 3; i++) {
        const uint64_t start_ns = ls_clock_ns();
        for (int r = 0; r < b->repeats; r++) {
            check(run(b, context));
        }
        check(b->dev->ops->sync(b->dev));
        times[i] = 1e-9 * (double)(ls_clock_ns() - start_ns) / b->repeats;
    }
    const double low = times[0] < times[1] ? times[0] : times[1];
    const double high = times[0] < times[1] ? times[1] : times[0];
    return times[2] < low ? low : times[2] > high ? high : times[2];
}

/* Memory */

static ls_status run_copy(const bench *b, void *context) {
    return b->dev->ops->copy(b->dev, operand(b, 0), operand(b, 4), *(const size_t *)context);
}

static void show_memory(const bench *b, const char *name, double bytes, double seconds) {
    const double gb_s = 1e-9 * bytes / seconds;
    printf("%-28s %9.1f GB/s   %5.1f %% of the copy\n", name, gb_s, 100.0 * gb_s / b->copy_gb_s);
    figure(b, "of a copy:", name, 100.0 * gb_s / b->copy_gb_s, 85.0);
}

#define RUN(name, slot, type)                                                                      \
    static ls_status run_##name(const bench *b, void *context) {                                   \
        return b->dev->ops->slot(b->dev, (const type *)context);                                   \
    }
RUN(norm, norm_forward, ls_norm)
RUN(norm_backward, norm_backward, ls_norm)
RUN(gelu, gelu_forward, ls_gelu)
RUN(gelu_backward, gelu_backward, ls_gelu)
RUN(swiglu, swiglu_forward, ls_swiglu)
RUN(swiglu_backward, swiglu_backward, ls_swiglu)
RUN(rope, rope, ls_rope)
RUN(bias_grad, bias_grad, ls_bias_grad)
RUN(loss, cross_entropy, ls_cross_entropy)
RUN(embedding, embedding_forward, ls_embedding)
RUN(embedding_backward, embedding_backward, ls_embedding)
RUN(adamw, adamw, ls_adamw)
RUN(lion, lion, ls_lion)

static void bench_norms(const bench *b, int64_t rows, int64_t channels) {
    const double matrix = 2.0 * (double)(rows * channels);
    for (int kind = LS_LAYERNORM; kind <= LS_RMSNORM; kind++) {
        const bool layer = kind == LS_LAYERNORM;
        ls_norm norm = {.kind = (ls_norm_kind)kind,
                        .dtype = LS_BF16,
                        .rows = rows,
                        .channels = channels,
                        .eps = 1e-5,
                        .x = operand(b, 0),
                        .y = operand(b, 1),
                        .w = operand(b, 2),
                        .b = layer ? operand(b, 3) : NULL,
                        .mean = layer ? operand(b, 4) : NULL,
                        .rstd = operand(b, 5)};
        show_memory(b, layer ? "LayerNorm forward" : "RMSNorm forward", 2 * matrix,
                    seconds_of(b, run_norm, &norm));
        norm.dy = operand(b, 1);
        norm.dx = operand(b, 6);
        norm.dw = operand(b, 7);
        norm.db = layer ? (float *)operand(b, 7) + channels : NULL;
        show_memory(b, layer ? "LayerNorm backward" : "RMSNorm backward", 3 * matrix,
                    seconds_of(b, run_norm_backward, &norm));
        norm.dresidual = operand(b, 3);
        norm.dx_sums = layer ? (float *)operand(b, 7) + 2 * channels : NULL;
        show_memory(b, layer ? "LayerNorm backward, residual" : "RMSNorm backward, residual",
                    4 * matrix, seconds_of(b, run_norm_backward, &norm));
    }
}

static void bench_activations(const bench *b, int64_t rows, int64_t channels) {
    const double matrix = 2.0 * (double)(rows * channels);
    ls_gelu gelu = {.dtype = LS_BF16,
                    .n = rows * channels,
                    .x = operand(b, 0),
                    .y = operand(b, 1),
                    .dy = operand(b, 1),
                    .dx = operand(b, 2)};
    show_memory(b, "GELU forward", 2 * matrix, seconds_of(b, run_gelu, &gelu));
    show_memory(b, "GELU backward", 3 * matrix, seconds_of(b, run_gelu_backward, &gelu));
    ls_swiglu swiglu = {.dtype = LS_BF16,
                        .rows = rows / 2,
                        .ffn = channels,
                        .x = operand(b, 0),
                        .y = operand(b, 1),
                        .dy = operand(b, 1),
                        .dx = operand(b, 2)};
    show_memory(b, "SwiGLU forward", 1.5 * matrix, seconds_of(b, run_swiglu, &swiglu));
    show_memory(b, "SwiGLU backward", 2.5 * matrix, seconds_of(b, run_swiglu_backward, &swiglu));
    const int64_t head = 64, heads = channels / head;
    ls_rope rope = {.dtype = LS_BF16,
                    .rows = rows,
                    .seq = 1024,
                    .heads = heads,
                    .head_dim = head,
                    .row_stride = channels,
                    .x = operand(b, 0),
                    .cos = operand(b, 1),
                    .sin = operand(b, 2)};
    show_memory(b, "RoPE", 2 * matrix, seconds_of(b, run_rope, &rope));
    ls_bias_grad bias = {.dtype = LS_BF16,
                         .rows = rows,
                         .cols = channels,
                         .dy = operand(b, 0),
                         .dbias = operand(b, 1)};
    show_memory(b, "gradient of a bias", matrix, seconds_of(b, run_bias_grad, &bias));
}

/* Logits fp32 or bf16, their gradient bf16, of 50304 columns: read once, or twice where they leave
 * the cache between the sum and the gradient. */
static void bench_loss(const bench *b) {
    const int64_t vocab = b->tiny ? 100 : 50257, ld = b->tiny ? 128 : 50304;
    const int64_t rows = (int64_t)(b->bytes / 8 / 4) / ld;
    fill(b);
    check(b->dev->ops->zero(b->dev, operand(b, 2), (size_t)rows * sizeof(int32_t)));
    ls_cross_entropy loss = {.dtype = LS_BF16,
                             .rows = rows,
                             .vocab = vocab,
                             .ld = ld,
                             .logits = operand(b, 0),
                             .targets = operand(b, 2),
                             .losses = operand(b, 3),
                             .dlogits = operand(b, 4),
                             .grad_scale = 1.0};
    show_memory(b, "cross-entropy and gradient", 6.0 * (double)(rows * ld),
                seconds_of(b, run_loss, &loss));
    loss.narrow = true;
    show_memory(b, "cross-entropy of bf16 logits", 4.0 * (double)(rows * ld),
                seconds_of(b, run_loss, &loss));
}

/* Tokens as text has them: the r-th most frequent with a share of 1 / r. Returns how many there
 * are.
 */
static int64_t draw_tokens(int64_t rows, int64_t vocab, int32_t *tokens) {
    bool *met = calloc((size_t)vocab, sizeof *met);
    int64_t distinct = 0;
    uint32_t state = 1;
    for (int64_t i = 0; i < rows; i++) {
        state = state * 1664525u + 1013904223u;
        const int64_t drawn = (int64_t)exp(log((double)vocab) * (double)(state >> 8) * 0x1p-24);
        tokens[i] = (int32_t)(drawn < vocab ? drawn : vocab) - 1;
        distinct += met && !met[tokens[i]];
        if (met) {
            met[tokens[i]] = true;
        }
    }
    free(met);
    return distinct;
}

/* Of a micro-batch of GPT-2 124M: each matrix and each row that is met once. No streams of memory:
 * the frequent tokens' rows are sums of thousands. */
static void bench_embeddings(const bench *b) {
    const int64_t channels = b->tiny ? 64 : 768, rows = b->tiny ? 512 : 16384;
    const int64_t vocab = b->tiny ? 50 : 50257, seq = b->tiny ? 128 : 1024;
    int32_t *tokens = calloc((size_t)rows, sizeof *tokens);
    check(tokens ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for tokens"));
    const double tables = (double)((draw_tokens(rows, vocab, tokens) + seq) * channels);
    const double matrix = 2.0 * (double)(rows * channels);
    fill(b);
    check(b->dev->ops->upload(b->dev, operand(b, 3), tokens, (size_t)rows * sizeof *tokens));
    free(tokens);
    ls_embedding op = {.dtype = LS_BF16,
                       .rows = rows,
                       .seq = seq,
                       .channels = channels,
                       .vocab = vocab,
                       .tokens = operand(b, 3),
                       .wte = operand(b, 0),
                       .wpe = operand(b, 1),
                       .out = operand(b, 2),
                       .dout = operand(b, 2),
                       .dwte = operand(b, 4),
                       .dwpe = operand(b, 5)};
    const double forward_s = seconds_of(b, run_embedding, &op);
    const double backward_s = seconds_of(b, run_embedding_backward, &op);
    printf("embedding %.1f us, its gradients %.1f; moved at a copy's rate %.1f and %.1f us\n",
           1e6 * forward_s, 1e6 * backward_s, 1e-3 * (matrix + 2 * tables) / b->copy_gb_s,
           1e-3 * (matrix + 8 * tables) / b->copy_gb_s);
}

static void bench_updates(const bench *b, int64_t n) {
    fill(b);
    for (int moment = 1; moment <= 2; moment++) { /* of squares none is below zero */
        check(b->dev->ops->zero(b->dev, operand(b, moment), (size_t)n * sizeof(float)));
    }
    ls_adamw adamw = {.n = n,
                      .t = 1,
                      .lr = 1e-6,
                      .beta1 = 0.9,
                      .beta2 = 0.95,
                      .eps = 1e-8,
                      .grad_scale = 1.0,
                      .p = operand(b, 0),
                      .m = operand(b, 1),
                      .v = operand(b, 2),
                      .grad = operand(b, 3),
                      .copy_dtype = LS_BF16,
                      .copy = operand(b, 4)};
    show_memory(b, "AdamW with bf16 copy", 30.0 * (double)n, seconds_of(b, run_adamw, &adamw));
    ls_lion lion = {.n = n,
                    .lr = 1e-6,
                    .beta1 = 0.9,
                    .beta2 = 0.99,
                    .grad_scale = 1.0,
                    .p = operand(b, 0),
                    .m = operand(b, 1),
                    .grad = operand(b, 3),
                    .copy_dtype = LS_BF16,
                    .copy = operand(b, 4)};
    show_memory(b, "Lion with bf16 copy", 22.0 * (double)n, seconds_of(b, run_lion, &lion));
}

static void bench_memory(bench *b) {
    const size_t bytes = b->bytes / 8;
    const int64_t channels = b->tiny ? 64 : 1600, rows = (int64_t)(bytes / 8) / channels;
    fill(b);
    b->copy_gb_s = 2e-9 * (double)bytes / seconds_of(b, run_copy, &(size_t){bytes});
    printf("%-28s %9.1f GB/s\n", "copy, read and written", b->copy_gb_s);
    bench_norms(b, rows, channels);
    bench_activations(b, rows, channels);
    bench_loss(b);
    bench_embeddings(b);
    bench_updates(b, rows * channels);
}

/* Products: C [m, n] = A [m, k] B [n, k]^T, bf16 in and out, as forward makes them. */

typedef struct product {
    const char *name;
    int64_t m, n, k;
    ls_act act;     /* beside it: with its gelu, or with the bias's gradient */
    ls_fp8_use fp8; /* operands rounded first */
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t description;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
} product;

static void check_blas(cublasStatus_t status) {
    if (status != CUBLAS_STATUS_SUCCESS) {
        fprintf(stderr, "bench_gpu: cuBLASLt: %s\n", cublasLtGetStatusName(status));
        exit(3);
    }
}

static ls_status run_product(const bench *b, void *context) {
    const product *p = context;
    return b->dev->ops->gemm(b->dev,
                             &(ls_gemm){.dtype = LS_BF16,
                                        .c_dtype = LS_BF16,
                                        .trans_b = p->act != LS_ACT_GELU_GRAD,
                                        .m = p->m,
                                        .n = p->n,
                                        .k = p->k,
                                        .a = operand(b, 0),
                                        .lda = p->k,
                                        .b = operand(b, 2),
                                        .ldb = p->act == LS_ACT_GELU_GRAD ? p->n : p->k,
                                        .c = operand(b, 4),
                                        .ldc = p->n,
                                        .act = p->act,
                                        .pre = operand(b, 5),
                                        .dbias = p->act == LS_ACT_GELU_GRAD ? operand(b, 6) : NULL,
                                        .fp8 = p->fp8});
}

/* By columns, as in gemm_cublaslt.c: C^T = B A^T. */
static ls_status run_direct(const bench *b, void *context) {
    const product *p = context;
    const float one = 1.0f, zero = 0.0f;
    check_blas(cublasLtMatmul(p->handle, p->description, &one, operand(b, 2), p->a, operand(b, 0),
                              p->b, &zero, operand(b, 4), p->c, operand(b, 4), p->c, &p->algorithm,
                              operand(b, 6), b->bytes / 8, ls_cuda_of(b->dev)->compute));
    return LS_OK;
}

static void prepare_direct(const bench *b, product *p) {
    const cublasOperation_t turned = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    const size_t workspace = b->bytes / 8;
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    check_blas(cublasLtMatmulDescCreate(&p->description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    check_blas(cublasLtMatmulDescSetAttribute(p->description, CUBLASLT_MATMUL_DESC_TRANSA, &turned,
                                              sizeof turned));
    check_blas(cublasLtMatmulDescSetAttribute(p->description, CUBLASLT_MATMUL_DESC_TRANSB, &plain,
                                              sizeof plain));
    check_blas(
        cublasLtMatrixLayoutCreate(&p->a, CUDA_R_16BF, (uint64_t)p->k, (uint64_t)p->n, p->k));
    check_blas(
        cublasLtMatrixLayoutCreate(&p->b, CUDA_R_16BF, (uint64_t)p->k, (uint64_t)p->m, p->k));
    check_blas(
        cublasLtMatrixLayoutCreate(&p->c, CUDA_R_16BF, (uint64_t)p->n, (uint64_t)p->m, p->n));
    check_blas(cublasLtMatmulPreferenceCreate(&wish));
    check_blas(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                    &workspace, sizeof workspace));
    check_blas(cublasLtMatmulAlgoGetHeuristic(p->handle, p->description, p->a, p->b, p->c, p->c,
                                              wish, 1, &found, &count));
    check_blas(count > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED);
    p->algorithm = found.algo;
    cublasLtMatmulPreferenceDestroy(wish);
}

static void release_direct(product *p) {
    cublasLtMatrixLayoutDestroy(p->a);
    cublasLtMatrixLayoutDestroy(p->b);
    cublasLtMatrixLayoutDestroy(p->c);
    cublasLtMatmulDescDestroy(p->description);
}

/* The same product with what may be fused to it, and in fp8 with the rounding of both operands. */
static void bench_variants(const bench *b, const product *plain, double tflop, double plain_s) {
    static const char *const names[] = {"with GELU", "with GELU's gradient", "in fp8"};
    for (int i = 0; i < 3; i++) {
        product p = *plain;
        p.act = i == 0 ? LS_ACT_GELU : i == 1 ? LS_ACT_GELU_GRAD : LS_ACT_NONE;
        p.fp8 = i == 2 ? LS_FP8_VALUES : LS_FP8_NONE;
        if (i == 2 && !b->dev->has_fp8) {
            continue;
        }
        const double seconds = seconds_of(b, run_product, &p);
        printf("   %-25s %9.1f TFLOP/s %5.2f times the product's time\n", names[i], tflop / seconds,
               seconds / plain_s);
    }
}

static void bench_products(bench *b) {
    product products[] = {{.name = "8192^3", .m = 8192, .n = 8192, .k = 8192},
                          {.name = "124M qkv", .m = 16384, .n = 2304, .k = 768},
                          {.name = "124M up", .m = 16384, .n = 3072, .k = 768},
                          {.name = "124M down", .m = 16384, .n = 768, .k = 3072},
                          {.name = "1558M qkv", .m = 8192, .n = 4800, .k = 1600},
                          {.name = "1558M up", .m = 8192, .n = 6400, .k = 1600},
                          {.name = "1558M down", .m = 8192, .n = 1600, .k = 6400}};
    cublasLtHandle_t handle;
    fill(b);
    check_blas(cublasLtCreate(&handle));
    for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
        product *p = &products[i];
        p->handle = handle;
        if (b->tiny) {
            p->m = p->n = p->k = 32 + 16 * (int64_t)i;
        }
        prepare_direct(b, p);
        const double own_s = seconds_of(b, run_product, p), direct_s = seconds_of(b, run_direct, p);
        const double tflop = 2e-12 * (double)p->m * (double)p->n * (double)p->k;
        b->gemm_tflop_s = i == 0 ? tflop / own_s : b->gemm_tflop_s;
        printf("product %-20s %9.1f TFLOP/s %5.1f %% of cuBLASLt\n", p->name, tflop / own_s,
               100.0 * direct_s / own_s);
        figure(b, "of cuBLASLt alone: product", p->name, 100.0 * direct_s / own_s, 97.0);
        release_direct(p);
        bench_variants(b, p, tflop, own_s);
    }
    cublasLtDestroy(handle);
    if (b->figures) {
        fprintf(b->figures, "# product %.1f\n", b->gemm_tflop_s);
    }
}

/* Attention, B=2 H=16 T=4096 D=128, causal; half of what full attention would multiply. */

static ls_status run_attention(const bench *b, void *context) {
    return b->dev->ops->attention_forward(b->dev, context);
}

static ls_status run_attention_backward(const bench *b, void *context) {
    return b->dev->ops->attention_backward(b->dev, context);
}

/* plans: of cuDNN's, that must serve it; -1: none. */
static void bench_attention(const bench *b, const char *by, int plans) {
    const int64_t batch = 2, heads = b->tiny ? 1 : 16, len = b->tiny ? 64 : 4096, size = 128;
    const int64_t width = 3 * heads * size;
    char *qkv = operand(b, 0), *dqkv = operand(b, 3);
    ls_attention op = {.dtype = LS_BF16,
                       .batch = batch,
                       .q_len = len,
                       .kv_len = len,
                       .heads = heads,
                       .kv_heads = heads,
                       .head_dim = size,
                       .scale = 0.088,
                       .q = qkv,
                       .k = qkv + 2 * heads * size,
                       .v = qkv + 4 * heads * size,
                       .q_stride = width,
                       .kv_stride = width,
                       .q_batch = len * width,
                       .kv_batch = len * width,
                       .out = operand(b, 1),
                       .o_stride = heads * size,
                       .lse = operand(b, 2),
                       .dout = operand(b, 4),
                       .dq = dqkv,
                       .dk = dqkv + 2 * heads * size,
                       .dv = dqkv + 4 * heads * size};
    const double tflop = 2e-12 * (double)(batch * heads * len * len * size);
    char name[64];
    fill(b);
    if (run_attention(b, &op) != LS_OK || run_attention_backward(b, &op) != LS_OK ||
        (plans >= 0 && ls_cuda_cudnn_plans(ls_cuda_of(b->dev)) != plans)) {
        printf("attention %-6s not measured: %s\n", by, ls_error_last()->message);
        return;
    }
    const double forward_s = seconds_of(b, run_attention, &op);
    const double backward_s = seconds_of(b, run_attention_backward, &op);
    snprintf(name, sizeof name, "attention %s forward, T=4096 D=128", by);
    printf("attention %-6s %-11s %9.1f TFLOP/s %5.1f %% of the product 8192^3\n", by, "forward",
           tflop / forward_s, 100.0 * tflop / forward_s / b->gemm_tflop_s);
    figure(b, "of a product's rate:", name, 100.0 * tflop / forward_s / b->gemm_tflop_s, 70.0);
    printf("attention %-6s %-11s %9.1f TFLOP/s %5.1f %%\n", by, "backward",
           2.5 * tflop / backward_s, 250.0 * tflop / backward_s / b->gemm_tflop_s);
}

/* By lockstep's kernels and by cuDNN, on the same memory. */
static void bench_attentions(const bench *b) {
    bench other = *b;
    const ls_device_options options = {.attention = LS_ATTENTION_CUDNN};
    bench_attention(b, "own", -1);
    if (ls_device_open_cuda(&options, &other.dev) != LS_OK) {
        printf("attention cuDNN: %s\n", ls_error_last()->message);
        return;
    }
    bench_attention(&other, "cuDNN", 2);
    other.dev->ops->close(other.dev);
}

int main(int argc, char **argv) {
    const int repeats = argc > 1 ? atoi(argv[1]) : 20;
    bench b = {.repeats = repeats > 0 ? repeats : 1, .tiny = repeats <= 0};
    void *memory;
    if (ls_device_open_cuda(NULL, &b.dev) != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        return 77;
    }
    b.bytes = b.tiny ? (size_t)2 << 20 : (size_t)4 << 30;
    check(b.dev->ops->alloc(b.dev, b.bytes, &memory));
    b.memory = memory;
    b.figures = argc > 2 ? fopen(argv[2], "w") : NULL;
    printf("%s\n", b.dev->describe);
    bench_memory(&b);
    bench_products(&b);
    bench_attentions(&b);
    b.dev->ops->free(b.dev, memory);
    b.dev->ops->close(b.dev);
    return b.figures && fclose(b.figures) != 0 ? 3 : 0;
}
