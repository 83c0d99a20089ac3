/* The device seam: memory and the operations of a transformer's training step.
 *
 * A device is opened once per process and serves one compute stream. Operations are enqueued on
 * that stream in call order; the CPU device has finished an operation when the call returns.
 * Pointers named in operation structs are device memory; `host_memory` devices share it with the
 * host. Nothing here is collective.
 *
 * Types. Each operation names the dtype of its activations (`dtype`): LS_F32 or LS_BF16. Losses,
 * statistics, gradients of parameters, one-dimensional parameters (norms, biases) and optimizer
 * state have the device's accumulation dtype `acc`: LS_F32 on every production device. The
 * reference device of the tests has acc LS_F64 and computes everything in double precision with
 * plain loops: it is the specification of every operation below.
 *
 * Order. Results are a pure function of the arguments: never of the number of threads, of earlier
 * calls or of the run. Sums over rows or tokens use blocks whose bounds depend on the shape only.
 *
 * Layout. Row-major, innermost dimension contiguous; leading dimensions and strides in elements.
 * Letters: B batch, T tokens of a sequence, N = B*T rows, C channels, H query heads, G key/value
 * heads, D head size, F feed-forward size, V vocabulary.
 *
 * Errors. LS_E_SHAPE for sizes that are negative or do not fit together, LS_E_UNSUPPORTED for a
 * dtype or size that the device does not serve (never a silent fallback), LS_E_DEVICE for a fault
 * of the device. Operations on zero rows do nothing and succeed. */
#ifndef LS_DEVICE_DEVICE_H
#define LS_DEVICE_DEVICE_H

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ls_device ls_device;

/* Upper bounds of what will be asked for, so that scratch memory is taken before step one. */
typedef struct ls_device_limits {
    int64_t rows;     /* N of a micro-batch */
    int64_t seq;      /* longest key/value length of attention */
    int64_t channels; /* widest row of a norm, activation or bias; widest side of a matrix */
    int64_t inner;    /* widest of the narrower sides of matrices; 0: as channels */
    bool bf16;        /* operands of products are all bf16 */
    int64_t heads, kv_heads, head_dim;
    int64_t vocab; /* widest row of cross_entropy */
    /* Sequences of `seq` tokens in training's attention in bf16, of one document; 0: none. */
    int64_t bf16_batch;
    int64_t fp8_elems; /* of both operands of a product in fp8, k padded to multiples of 16 */
} ls_device_limits;

/* C[M,N] = op(A)[M,K] * op(B)[K,N] (+ C if accumulate) (+ bias over rows) (+ residual).
 * A, B have dtype `dtype`; C has `c_dtype`: `dtype` or the device's acc. bias [N] acc, or NULL.
 * bias_rounded [N] c_dtype, or NULL: the same, for devices that would first make it so.
 * residual [M,N] c_dtype with leading dimension ldc, or NULL; may alias C. op transposes when
 * trans_x is set: A is then stored [K,M] with leading dimension lda. k == 0 contributes zero.
 * Products accumulate in fp32 (fp64 on the reference).
 *
 * `act`, with c_dtype = dtype, ldc = N and neither accumulate nor residual: what follows the
 * product at once, of the sum before or after it is rounded. `pre` [M,N] dtype, beside C.
 *   LS_ACT_GELU: pre = product + bias; C = gelu(pre)
 *   LS_ACT_GELU_GRAD: C = product * gelu'(pre); dbias [N] acc (NULL: not wanted) += its column
 *       sums, which may be rounded to dtype once. No bias.
 *
 * `fp8`, on devices that have it: A and B are rounded to 8 bits first (Micikevicius 2022, arXiv
 * 2209.05433), each multiplied by a power of two that takes its largest magnitude close to the
 * format's (runtime/base/fp8.h; current scaling: of these values, not of earlier ones), and what
 * is rounded away is lost. N is a multiple of 16, and rows of C and of the residual begin at
 * multiples of 16 bytes. Not finite operands give NaNs.
 *   LS_FP8_VALUES: A and B in E4M3; LS_FP8_GRAD_A: A, a gradient, in E5M2 */
typedef enum ls_act { LS_ACT_NONE, LS_ACT_GELU, LS_ACT_GELU_GRAD } ls_act;
typedef enum ls_fp8_use { LS_FP8_NONE, LS_FP8_VALUES, LS_FP8_GRAD_A } ls_fp8_use;
typedef struct ls_gemm {
    ls_dtype dtype, c_dtype;
    bool trans_a, trans_b, accumulate;
    int64_t m, n, k;
    const void *a;
    int64_t lda;
    const void *b;
    int64_t ldb;
    void *c;
    int64_t ldc;
    const void *bias;
    const void *bias_rounded;
    const void *residual;
    ls_act act;
    void *pre, *dbias;
    ls_fp8_use fp8;
} ls_gemm;

/* dbias[cols] (acc) += column sums of dy [rows, cols] dtype. */
typedef struct ls_bias_grad {
    ls_dtype dtype;
    int64_t rows, cols;
    const void *dy;
    void *dbias;
} ls_bias_grad;

/* out[i, :] = wte[tokens[i], :] + wpe[(offset + i mod seq), :] for i < rows.
 * wte [V,C] dtype; wpe [context,C] dtype or NULL; tokens int32 (device memory), each in [0, vocab):
 * checked by the data room, asserted here. Backward adds to dwte, dwpe (acc); dwpe NULL with wpe.
 * With positions (int32 [seq], device memory) the row of wpe is positions[i mod seq].
 * With `part` wte is rows [first, first + vocab) of a larger table (vocab may be 0): other tokens
 * count as zero rows, in dwte too. */
typedef struct ls_embedding {
    ls_dtype dtype;
    int64_t rows, seq, channels, vocab, offset;
    bool part;
    int64_t first;
    const int32_t *positions;
    const int32_t *tokens;
    const void *wte, *wpe;
    void *out;        /* forward */
    const void *dout; /* backward [rows, C] dtype */
    void *dwte, *dwpe;
} ls_embedding;

/* LayerNorm (Ba, Kiros, Hinton 2016, arXiv 1607.06450): y = (x - mean) * rstd * w + b,
 * rstd = 1/sqrt(var + eps), var over C without Bessel's correction.
 * RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): y = x * rstd * w, rstd = 1/sqrt(mean(x^2) +
 * eps). x, y [rows, C] dtype; w, b [C] acc; mean, rstd [rows] acc, kept for backward. RMSNorm has
 * b, mean, db NULL. Backward: dx = (dresidual or 0) + dL/dx; dw += ..., db += ...; dx may alias dy
 * or dresidual. dx_sums [C] acc, or NULL: += its column sums, before it is rounded or after.
 * With heads > 0, of RMSNorm, the rows are the heads of tokens, of which y, dy and dx lie in a
 * wider matrix: row i begins at (i / heads) * stride + (i mod heads) * C there. Forward finds x in
 * y's place and leaves it in `kept` [rows, C], as which backward takes x. No dresidual and dx_sums.
 */
typedef enum ls_norm_kind { LS_LAYERNORM, LS_RMSNORM } ls_norm_kind;
typedef struct ls_norm {
    ls_norm_kind kind;
    ls_dtype dtype;
    int64_t rows, channels;
    double eps;
    const void *x, *w, *b;
    void *y;           /* forward */
    void *mean, *rstd; /* written by forward, read by backward */
    const void *dy, *dresidual;
    void *dx, *dw, *db, *dx_sums;
    int64_t heads, stride;
    void *kept;
} ls_norm;

/* Where row i of y, dy and dx begins. */
static inline int64_t ls_norm_row(int64_t i, int64_t channels, int64_t heads, int64_t stride) {
    return heads == 0 ? i * channels : i / heads * stride + i % heads * channels;
}

/* Rotary position embedding (Su 2021, arXiv 2104.09864), rotating the halves as in the published
 * Llama code for Hugging Face: with c, s = cos, sin of row (offset + i mod seq), for d < D/2
 *   x[d], x[d + D/2] = x[d] c[d] - x[d + D/2] s[d], x[d + D/2] c[d] + x[d] s[d].
 * In place on x: row i, head h starts at x + i*row_stride + h*head_dim. cos, sin [positions, D/2]
 * acc. inverse rotates back (the backward pass). */
typedef struct ls_rope {
    ls_dtype dtype;
    bool inverse;
    int64_t rows, seq, offset, heads, head_dim, row_stride;
    void *x;
    const void *cos, *sin;
} ls_rope;

/* GELU by tanh (Hendrycks & Gimpel 2016, arXiv 1606.08415), n elements of dtype.
 * forward: y = gelu(x). backward: dx = dy * gelu'(x); dx may alias dy. */
typedef struct ls_gelu {
    ls_dtype dtype;
    int64_t n;
    const void *x;
    void *y;
    const void *dy;
    void *dx;
} ls_gelu;

/* SwiGLU (Shazeer 2020, arXiv 2002.05202): x [rows, 2F] holds gate then up;
 * y [rows, F] = gate * sigmoid(gate) * up. backward: dx [rows, 2F] from dy [rows, F]; dx may alias
 * x. */
typedef struct ls_swiglu {
    ls_dtype dtype;
    int64_t rows, ffn;
    const void *x;
    void *y;
    const void *dy;
    void *dx;
} ls_swiglu;

/* Causal attention with grouped queries (Ainslie 2023, arXiv 2305.13245), by online softmax
 * (Milakov & Gimelshein 2018, arXiv 1805.02867; Dao 2022, arXiv 2205.14135): no T x T matrix.
 * For each batch entry and head h, with g = h / (H/G), query row i sees key rows
 * j <= i + (kv_len - q_len):  out_i = sum_j softmax_j(scale * q_i . k_j) v_j.
 * Row i of batch entry b, head h: q + (b*q_batch + i*q_stride + h*D); k and v likewise with their
 * strides and head g; out with o_stride and o_batch = q_len*o_stride. lse [B,H,q_len] acc = log of
 * the softmax denominator, kept for backward (NULL: not wanted).
 * Backward writes dq, dk, dv, which have the strides of q, k, v, from dout and out (strides of
 * out). q, k, v may be parts of one fused matrix; dq, dk, dv too.
 *
 * Parts of a longer sequence (ring attention: Liu 2023, arXiv 2310.01889). `full`: every row sees
 * every key, and kv_len may be less than q_len. `merge`, forward: out and lse hold the result over
 * other keys and become that over both: with s = exp(lse - lse_new) of either, out = s_old out_old
 * + s_part out_part. Backward over parts takes out and lse over all keys; `add`: it adds to dq, dk
 * and dv instead of writing them, in fp32, rounded once. o_batch and lse_row place a part of the
 * rows in a larger out and lse.
 *
 * Documents in one sequence, of which rows see their own alone (Zhao 2024, arXiv 2402.13991):
 * of the keys above a row sees those from its `first_key` on, which is never less than the row's
 * before. A row that sees none has out 0 and lse -inf. */
typedef struct ls_attention {
    ls_dtype dtype;
    int64_t batch, q_len, kv_len, heads, kv_heads, head_dim;
    double scale;
    const void *q, *k, *v;
    int64_t q_stride, kv_stride; /* elements between tokens */
    int64_t q_batch, kv_batch;   /* elements between batch entries */
    void *out;                   /* forward; read by backward */
    int64_t o_stride;
    void *lse;
    int64_t o_batch; /* elements between batch entries of out and dout; 0: q_len * o_stride */
    int64_t lse_row; /* elements between heads of lse; 0: q_len */
    bool full, merge, add;
    const int32_t *first_key; /* [B, q_len], in the device's memory; NULL: 0 */
    int64_t first_key_batch;  /* elements between its batch entries; 0: q_len */
    const void *dout;
    void *dq, *dk, *dv;
} ls_attention;

/* Softmax cross-entropy of logits [rows, ld], the first vocab columns being real: of acc, narrow
 * ones of dtype.
 * losses[i] (acc) = log(sum exp(logits_i)) - logits_i[targets[i]], or 0 where targets[i] == -1.
 * With dlogits != NULL also dlogits [rows, ld] dtype = grad_scale * (softmax - onehot), zero in
 * ignored rows and in columns >= vocab. dlogits may alias logits of dtype.
 *
 * Columns that several ranks hold (Shoeybi 2019, arXiv 1909.08053): each has columns [first, first
 * + vocab) of all (vocab may be 0). cross_entropy_share writes share [rows, 3] acc = maximum, sum
 * of exp(logit - maximum), and the target's logit or 0 where another rank has it;
 * cross_entropy_merge takes shares [parts, rows, 3], those of all ranks, adds them in this order,
 * and writes losses (NULL: not wanted) and dlogits of the rank's own columns. Targets count over
 * all columns. */
typedef struct ls_cross_entropy {
    ls_dtype dtype;
    bool narrow;
    int64_t rows, vocab, ld;
    const void *logits;
    const int32_t *targets;
    void *losses;
    void *dlogits;
    double grad_scale;
    int64_t first;
    void *share;
    const void *shares;
    int parts;
} ls_cross_entropy;

/* y[i, c] = x[i, c], or += with `add` (in fp32, rounded once): rows of cols elements of dtype, ldx
 * and ldy between rows. x and y do not overlap. */
typedef struct ls_copy_rows {
    ls_dtype dtype;
    bool add;
    int64_t rows, cols, ldx, ldy;
    const void *x;
    void *y;
} ls_copy_rows;

/* Mixture of experts: token-choice routing (Shazeer 2017, arXiv 1701.06538; the gates of Jiang
 * 2024, arXiv 2401.04088). logits, probs [rows, experts] acc; chosen int32, gates acc [rows, each]:
 * probs = softmax(logits); chosen = the `each` largest, descending, the lower index first among
 * equals and NaNs before all numbers; gates = softmax over the chosen logits. A row with a NaN or
 * +infinity has NaNs in both, and different experts nevertheless.
 * Backward: dlogits [rows, experts] dtype from dgates [rows, each] acc and balance [experts] acc,
 * the gradient of every row's probabilities beside that of the gates:
 *   dlogits_e = p_e (balance_e - sum_f p_f balance_f) + (e chosen: g_e (dg_e - sum_j g_j dg_j)). */
typedef struct ls_route {
    ls_dtype dtype;
    int64_t rows, experts, each; /* 1 <= each <= experts */
    const void *logits;
    void *probs;
    int32_t *chosen;
    void *gates;
    const void *dgates, *balance;
    void *dlogits;
} ls_route;

/* y[i, :] = x[index[i], :], zeros where index[i] is -1; i < rows, cols elements of dtype. */
typedef struct ls_select_rows {
    ls_dtype dtype;
    int64_t rows, cols;
    const int32_t *index;
    const void *x;
    void *y;
} ls_select_rows;

/* y[i, :] = residual[i, :] + sum over j < each of weight[i, j] x[index[i, j], :], in fp32 and
 * rounded once. index int32 [rows, each], -1: no term; weights [rows, each] acc, NULL: ones;
 * residual NULL: zeros. Backward, where no index occurs twice: dx[index[i, j], :] = weight[i, j]
 * dy[i, :] and dweights[i, j] = x[index[i, j], :] . dy[i, :] (acc; 0 without a term). */
typedef struct ls_combine {
    ls_dtype dtype;
    int64_t rows, cols, each;
    const int32_t *index;
    const void *weights;
    const void *x, *residual;
    void *y;
    const void *dy;
    void *dx, *dweights;
} ls_combine;

/* Whether an update is made, and what its gradient is multiplied with, decided where the gradients
 * are: in device memory, so that the host need not wait for a norm before it can ask for the
 * update. */
typedef struct ls_update_verdict {
    double norm;   /* of the gradients */
    float factor;  /* beside grad_scale */
    int32_t wrong; /* not 0: nothing is changed */
} ls_update_verdict;

/* What was enqueued once, to be enqueued again in one call. */
typedef struct ls_recording ls_recording;
typedef struct ls_device_async_ops ls_device_async_ops; /* device_async.h */

/* AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101), n elements, all acc but copy:
 *   g = grad_scale * grad; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
 *   p -= lr * ((m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps) + weight_decay * p)
 * copy (copy_dtype, NULL: none) receives the rounded new p. */
typedef struct ls_adamw {
    int64_t n, t; /* t: 1 for the first update */
    double lr, beta1, beta2, eps, weight_decay, grad_scale;
    void *p, *m, *v;
    const void *grad;
    ls_dtype copy_dtype;
    void *copy;
    const ls_update_verdict *verdict; /* device memory, on devices with `async`; NULL: none */
} ls_adamw;

/* Lion (Chen 2023, arXiv 2302.06675), n elements, all acc but copy; sign(0) = 0:
 *   g = grad_scale * grad; p -= lr * (sign(b1 m + (1-b1) g) + weight_decay * p);
 *   m = b2 m + (1-b2) g */
typedef struct ls_lion {
    int64_t n;
    double lr, beta1, beta2, weight_decay, grad_scale;
    void *p, *m;
    const void *grad;
    ls_dtype copy_dtype;
    void *copy; /* as in ls_adamw */
    const ls_update_verdict *verdict;
} ls_lion;

/* SGD with momentum (Sutskever 2013, PMLR 28(3):1139), as torch.optim.SGD does it:
 *   g = grad_scale * grad + weight_decay * p; m = momentum * m + g;
 *   p -= lr * (nesterov ? g + momentum * m : m), or lr * g where m is NULL */
typedef struct ls_sgd {
    int64_t n;
    double lr, momentum, weight_decay, grad_scale;
    bool nesterov;
    void *p, *m;
    const void *grad;
    ls_dtype copy_dtype;
    void *copy; /* as in ls_adamw */
    const ls_update_verdict *verdict;
} ls_sgd;

/* Elements [first, first + n) of a matrix with rows of `cols` elements, for Adafactor (Shazeer &
 * Stern 2018, arXiv 1804.04235); all acc but copy and the sums. With g = grad_scale * grad:
 *   adafactor_squares: g_i^2 is added to entry i / cols of row_sums and i mod cols of col_sums (i
 *       from the matrix's first element; both arrays are whole), or where row_sums is NULL, a
 *       vector: v_i = beta2 v_i + (1 - beta2) g_i^2. An entry is a pair of doubles, to which the
 *       parts h = (g^2 + split[0]) - split[0] and ((g^2 - h) + split[1]) - split[1] are added: with
 *       splits that suit the sums (ls_adafactor_splits) no addition rounds, so that these have the
 *       same bits in every order (Rump 2008, doi:10.1137/050645671);
 *   u_i = g_i / sqrt(max(row[i / cols] * factor * col[i mod cols], 1e-30)), or with v_i;
 *   adafactor_norm: sums of u_i^2 as of sum_squares, element 0 at position `grid`; waits;
 *   adafactor_apply: p = keep * p - lr * u.
 * On devices with `async`, split, factor and lr may be `terms` (device memory; NULL: not), and
 * `verdict` decides as in ls_adamw. */
typedef struct ls_adafactor_terms {
    double split[2];
    float factor, lr;
} ls_adafactor_terms;

typedef struct ls_adafactor {
    int64_t first, n, cols;
    double grad_scale, beta2, factor, keep, lr;
    const void *grad;
    double *row_sums, *col_sums, split[2];
    int64_t grid;
    const void *row, *col;
    void *v;
    void *p;
    ls_dtype copy_dtype;
    void *copy; /* as in ls_adamw */
    const ls_adafactor_terms *terms;
    const ls_update_verdict *verdict;
} ls_adafactor;

#ifdef __CUDACC__
#define LS_ADAFACTOR_FUNCTION static inline __host__ __device__
#else
#define LS_ADAFACTOR_FUNCTION static inline
#endif

/* Splits for `count` squares of which no sum is more than `most`: what each part loses is below
 * 2^-52 of what it sums. */
LS_ADAFACTOR_FUNCTION void ls_adafactor_splits(double most, int64_t count, double split[2]) {
    int high, many;
    (void)frexp(most, &high);          /* most < 2^high */
    (void)frexp((double)count, &many); /* count < 2^many */
    split[0] = ldexp(1.5, high + 1);
    split[1] = ldexp(1.5, high + 1 - 52 + many);
}

enum { LS_SQUARES_ELEMS = 1024 };
static inline int64_t ls_squares_count(int64_t first, int64_t n) {
    return n > 0 ? (first % LS_SQUARES_ELEMS + n + LS_SQUARES_ELEMS - 1) / LS_SQUARES_ELEMS : 0;
}

enum { LS_DEVICE_MARKS = 2 };

typedef struct ls_device_ops {
    const char *name;
    void (*close)(ls_device *dev);

    /* Grows the device's scratch memory to what the limits need. Call before step one; an
     * operation beyond the limits may grow it again. */
    ls_status (*reserve)(ls_device *dev, const ls_device_limits *limits);
    /* Bytes of scratch memory with which reserve leaves a device that had none or less, without
     * the workspace of cuDNN, which plans first; NULL: not known before. */
    size_t (*scratch)(const ls_device *dev, const ls_device_limits *limits);
    /* Zeroed memory, aligned to 64 bytes or more; freed by free. Not for use inside a step. */
    ls_status (*alloc)(ls_device *dev, size_t bytes, void **memory);
    void (*free)(ls_device *dev, void *memory);
    /* What alloc could take in all. LS_E_UNSUPPORTED where it is the host's memory. */
    ls_status (*free_bytes)(ls_device *dev, int64_t *bytes);
    ls_status (*upload)(ls_device *dev, void *to_device, const void *from_host, size_t bytes);
    ls_status (*download)(ls_device *dev, void *to_host, const void *from_device, size_t bytes);
    /* From device memory to device memory; the two do not overlap. */
    ls_status (*copy)(ls_device *dev, void *to, const void *from, size_t bytes);
    ls_status (*zero)(ls_device *dev, void *memory, size_t bytes);
    /* Waits for all enqueued work. */
    ls_status (*sync)(ls_device *dev);
    /* Time on the device's own clock. mark puts mark `which`, below LS_DEVICE_MARKS, behind what is
     * enqueued; between gives the seconds from one to another, NAN while one of them has not been
     * reached (or set), and does not wait. */
    ls_status (*mark)(ls_device *dev, int which);
    ls_status (*between)(ls_device *dev, int from, int to, double *seconds);

    ls_status (*gemm)(ls_device *dev, const ls_gemm *op);
    ls_status (*bias_grad)(ls_device *dev, const ls_bias_grad *op);
    ls_status (*embedding_forward)(ls_device *dev, const ls_embedding *op);
    ls_status (*embedding_backward)(ls_device *dev, const ls_embedding *op);
    ls_status (*norm_forward)(ls_device *dev, const ls_norm *op);
    ls_status (*norm_backward)(ls_device *dev, const ls_norm *op);
    ls_status (*rope)(ls_device *dev, const ls_rope *op);
    ls_status (*gelu_forward)(ls_device *dev, const ls_gelu *op);
    ls_status (*gelu_backward)(ls_device *dev, const ls_gelu *op);
    ls_status (*swiglu_forward)(ls_device *dev, const ls_swiglu *op);
    ls_status (*swiglu_backward)(ls_device *dev, const ls_swiglu *op);
    ls_status (*attention_forward)(ls_device *dev, const ls_attention *op);
    ls_status (*attention_backward)(ls_device *dev, const ls_attention *op);
    ls_status (*cross_entropy)(ls_device *dev, const ls_cross_entropy *op);
    ls_status (*cross_entropy_share)(ls_device *dev, const ls_cross_entropy *op);
    ls_status (*cross_entropy_merge)(ls_device *dev, const ls_cross_entropy *op);
    ls_status (*copy_rows)(ls_device *dev, const ls_copy_rows *op);
    ls_status (*route_forward)(ls_device *dev, const ls_route *op);
    ls_status (*route_backward)(ls_device *dev, const ls_route *op);
    ls_status (*select_rows)(ls_device *dev, const ls_select_rows *op);
    ls_status (*combine_forward)(ls_device *dev, const ls_combine *op);
    ls_status (*combine_backward)(ls_device *dev, const ls_combine *op);
    ls_status (*adamw)(ls_device *dev, const ls_adamw *op);
    ls_status (*lion)(ls_device *dev, const ls_lion *op);
    ls_status (*sgd)(ls_device *dev, const ls_sgd *op);
    ls_status (*adafactor_squares)(ls_device *dev, const ls_adafactor *op);
    ls_status (*adafactor_norm)(ls_device *dev, const ls_adafactor *op, double *sums);
    ls_status (*adafactor_apply)(ls_device *dev, const ls_adafactor *op);

    /* y = a x + b y, n elements of acc; b == 0: y is not read. */
    ls_status (*blend)(ls_device *dev, int64_t n, double a, const void *x, double b, void *y);
    /* y[i] += x[i], n elements of dtype. */
    ls_status (*add)(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y);
    /* y = x converted from acc to dtype, rounding to nearest even. */
    ls_status (*cast)(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y);
    /* The other way round: y = x converted from dtype to acc. */
    ls_status (*widen)(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y);
    /* Sums of x[i]^2, x [n] acc, in double, of the pieces that a grid of LS_SQUARES_ELEMS elements
     * cuts x into, where x[0] has position `first` in the grid: sums (host) receives
     * ls_squares_count(first, n) numbers, in order. A sum depends on its piece's elements only, not
     * on what stands around it. NaN and infinity propagate. Waits for the result. */
    ls_status (*sum_squares)(ls_device *dev, int64_t first, int64_t n, const void *x, double *sums);
    /* *sum (device memory) = sum of x[i], n elements of acc: double sums of blocks of 65,536, added
     * in order. */
    ls_status (*sum)(ls_device *dev, int64_t n, const void *x, double *sum);
} ls_device_ops;

struct ls_device {
    const ls_device_ops *ops;         /* every slot is filled */
    const ls_device_async_ops *async; /* NULL: operations are over when a call returns */
    ls_dtype acc;
    bool host_memory;     /* device memory can be read and written by the host and by MPI */
    bool fast_bf16;       /* bf16 products run faster than fp32 ones */
    bool fuses_gelu;      /* products with `act` save a pass over memory */
    bool sums_dx;         /* norm_backward's dx_sums save one */
    bool has_fp8;         /* products with `fp8` */
    bool products_apart;  /* bf16 products run on units of their own, beside vectors' work */
    int threads;          /* that work for this device on the host */
    uint64_t unit;        /* names a GPU on its host; 0: the host's processors, or none is shared */
    char describe[96];    /* "cpu: AMD EPYC 7763 (avx2), 2 threads, oneDNN 2.6.3" */
    char bus_id[32];      /* of a GPU, its PCI address; else empty */
    size_t scratch_bytes; /* taken by reserve and alloc-internal buffers so far */
    size_t foreign_bytes; /* of a GPU, taken when it was opened: by CUDA, by who else uses it */
    uint64_t marks_ns[LS_DEVICE_MARKS]; /* of devices that have finished when a call returns */
};

/* Whose kernels a GPU's attention is: lockstep's; cuDNN's where it offers to and is accepted (AUTO;
 * device_async.h); or cuDNN's, which must be there, and lockstep's for what it does not serve with
 * the same bits in each run. */
typedef enum ls_attention_by {
    LS_ATTENTION_OWN,
    LS_ATTENTION_AUTO,
    LS_ATTENTION_CUDNN
} ls_attention_by;

typedef struct ls_device_options {
    int threads; /* of the cpu device; 0: all processors that it may use (ls_cpu_usable) */
    int ordinal; /* of the GPU, as CUDA counts those that this process may see */
    ls_attention_by attention;
} ls_device_options;

/* Back ends. Each opens a device that its `ops->close` ends; options NULL: all defaults. */
ls_status ls_device_open_cpu(const ls_device_options *options, ls_device **dev);
/* LS_E_UNSUPPORTED where lockstep was built without CUDA, or no GPU is found. */
ls_status ls_device_open_cuda(const ls_device_options *options, ls_device **dev);
/* Is there a GPU that open_cuda can open, and how many? *how is static: "GPU", "emulated GPU" in
 * programs that were linked with the emulated device of the tests, or why there is none; then
 * *count is -1 where there is a driver and CUDA cannot work with it, else 0. */
bool ls_device_has_cuda(int *count, const char **how);

#endif
