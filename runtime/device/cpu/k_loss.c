/* Softmax cross-entropy, fused: one pass finds the softmax's denominator online, block by block
 * (Milakov & Gimelshein 2018, arXiv 1805.02867), a second writes the gradient while the row is
 * still in cache. */
#include "runtime/device/cpu/k_bf16_neon.h"

#include <assert.h>
#include <float.h>
#include <math.h>

/* A block of logits stays in the first cache between its maximum and its sum. */
enum { BLOCK_ELEMS = 2048 };
/* Gradients of more bytes are written past the caches, which do not hold them until they are read.
 */
enum { STREAM_BYTES = 16 << 20 };

static bool is_narrow(const ls_cross_entropy *op) {
    return op->narrow && op->dtype == LS_BF16;
}

/* Row i's logit in column v. */
static float logit(const ls_cross_entropy *op, int64_t i, int64_t v) {
    return ls_load(is_narrow(op) ? LS_BF16 : LS_F32, op->logits, i * op->ld + v);
}

/* Columns [begin, begin + count) of row i in fp32: where they lie, or in room. */
static const float *logits_of(const ls_cross_entropy *op, int64_t i, int64_t begin, int64_t count,
                              float *room) {
    const int64_t at = i * op->ld + begin;
    if (!is_narrow(op)) {
        return (const float *)op->logits + at;
    }
    const ls_bf16 *x = (const ls_bf16 *)op->logits + at;
#pragma omp simd
    for (int64_t v = 0; v < count; v++) {
        room[v] = ls_load(LS_BF16, x, v);
    }
    return room;
}

#if HAS_BF16_VECTORS
/* The largest of x, NaNs disregarded (maxps gives its second operand for a NaN). */
LS_INLINE float block_max(const float *x, int64_t n) {
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 m0 = lowest, m1 = lowest;
    int64_t i = 0;
    for (; i + 2 * BF16_LANES <= n; i += 2 * BF16_LANES) {
        m0 = _mm512_max_ps(_mm512_loadu_ps(x + i), m0);
        m1 = _mm512_max_ps(_mm512_loadu_ps(x + i + BF16_LANES), m1);
    }
    for (; i < n; i += BF16_LANES) {
        m0 = _mm512_max_ps(_mm512_mask_loadu_ps(lowest, bf16_mask(i, n), x + i), m0);
    }
    return _mm512_reduce_max_ps(_mm512_max_ps(m0, m1));
}

/* Meanwhile the next block comes nearer. */
LS_INLINE float block_sum_exp(const float *x, int64_t n, float max) {
    const __m512 log2_e = _mm512_set1_ps((float)M_LOG2E), top = _mm512_set1_ps(max);
    __m512 s0 = _mm512_setzero_ps(), s1 = s0;
    int64_t i = 0;
    for (; i + 2 * BF16_LANES <= n; i += 2 * BF16_LANES) {
        const __m512 a = _mm512_sub_ps(_mm512_loadu_ps(x + i), top);
        const __m512 b = _mm512_sub_ps(_mm512_loadu_ps(x + i + BF16_LANES), top);
        __builtin_prefetch(x + i + BLOCK_ELEMS);
        __builtin_prefetch(x + i + BLOCK_ELEMS + BF16_LANES);
        s0 = _mm512_add_ps(s0, exp2_fp32(_mm512_mul_ps(a, log2_e)));
        s1 = _mm512_add_ps(s1, exp2_fp32(_mm512_mul_ps(b, log2_e)));
    }
    for (; i < n; i += BF16_LANES) {
        const __mmask16 mask = bf16_mask(i, n);
        const __m512 a = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), top);
        s0 = _mm512_mask_add_ps(s0, mask, s0, exp2_fp32(_mm512_mul_ps(a, log2_e)));
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(s0, s1));
}

/* to[v] = exp(x[v] - max) factor. to may be x: an element is read before its place is written.
 * Meanwhile the row `next` comes into the second cache. */
LS_INLINE void probabilities_lines(const bool stream, const float *x, const float *next, int64_t n,
                                   float max, float factor, ls_bf16 *to) {
    const __m512 log2_e = _mm512_set1_ps((float)M_LOG2E), top = _mm512_set1_ps(max);
    const __m512 scale = _mm512_set1_ps(factor);
    int64_t v = 0;
    for (; v + BF16_LINE <= n; v += BF16_LINE) {
        const __m512 a = _mm512_sub_ps(_mm512_loadu_ps(x + v), top);
        const __m512 b = _mm512_sub_ps(_mm512_loadu_ps(x + v + BF16_LANES), top);
        _mm_prefetch((const char *)(next + v), _MM_HINT_T1);
        _mm_prefetch((const char *)(next + v + BF16_LANES), _MM_HINT_T1);
        const __m512 p = _mm512_mul_ps(exp2_bf16(_mm512_mul_ps(a, log2_e)), scale);
        const __m512 q = _mm512_mul_ps(exp2_bf16(_mm512_mul_ps(b, log2_e)), scale);
        if (stream) {
            _mm512_stream_si512((__m512i *)(to + v), bf16_of_line(p, q));
        } else {
            bf16_store_line(to + v, p, q);
        }
    }
    for (; v < n; v += BF16_LANES) {
        const __mmask16 mask = bf16_mask(v, n);
        const __m512 a = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + v), top);
        bf16_store(to + v, mask, _mm512_mul_ps(exp2_bf16(_mm512_mul_ps(a, log2_e)), scale));
    }
    if (stream) {
        _mm_sfence();
    }
}

static void probabilities_bf16(const ls_cross_entropy *op, const float *x, int64_t n, float max,
                               float factor, ls_bf16 *to) {
    const bool large = op->rows * op->ld * (int64_t)sizeof *to > STREAM_BYTES;
    const float *next = is_narrow(op) ? x : x + op->ld;
    if (large && (uintptr_t)to % 64 == 0) {
        probabilities_lines(true, x, next, n, max, factor, to);
    } else {
        probabilities_lines(false, x, next, n, max, factor, to);
    }
}
#elif HAS_BF16_NEON
/* The largest of x, NaNs disregarded (FMAXNM). */
LS_INLINE float block_max(const float *x, int64_t n) {
    float32x4_t m[4];
    for (int v = 0; v < 4; v++) {
        m[v] = vdupq_n_f32(-INFINITY);
    }
    int64_t i = 0;
    for (; i + 4 * NEON_LANES <= n; i += 4 * NEON_LANES) {
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            m[v] = vmaxnmq_f32(m[v], vld1q_f32(x + i + v * NEON_LANES));
        }
    }
    float max = vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(m[0], m[1]), vmaxnmq_f32(m[2], m[3])));
    for (; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    return max;
}

LS_INLINE float32x4_t exp_lanes(float32x4_t x) {
    x = vmaxq_f32(x, vdupq_n_f32(LS_SOFTMAX_LEAST));
    const float32x4_t log2_e = vdupq_n_f32(LS_LOG2_E), shift = vdupq_n_f32(LS_EXPONENT_SHIFT);
    const float32x4_t biased = vfmaq_f32(shift, x, log2_e);
    const float32x4_t f = vfmaq_f32(vsubq_f32(shift, biased), x, log2_e);
    const int32x4_t scale = vshlq_n_s32(vreinterpretq_s32_f32(biased), 23);
    return vmulq_f32(LS_EXP2_POLYNOMIAL(f), vreinterpretq_f32_s32(scale));
}

LS_INLINE float block_sum_exp(const float *x, int64_t n, float max) {
    const float32x4_t top = vdupq_n_f32(max);
    float32x4_t s0 = vdupq_n_f32(0.0f), s1 = s0;
    int64_t i = 0;
    for (; i + 2 * NEON_LANES <= n; i += 2 * NEON_LANES) {
        s0 = vaddq_f32(s0, exp_lanes(vsubq_f32(vld1q_f32(x + i), top)));
        s1 = vaddq_f32(s1, exp_lanes(vsubq_f32(vld1q_f32(x + i + NEON_LANES), top)));
    }
    float sum = vaddvq_f32(vaddq_f32(s0, s1));
    for (; i < n; i++) {
        sum += ls_vec_exp_softmax(x[i] - max);
    }
    return sum;
}

static void probabilities_bf16(const ls_cross_entropy *op, const float *x, int64_t n, float max,
                               float factor, ls_bf16 *to) {
    (void)op;
    const float32x4_t log2_e = vdupq_n_f32(LS_LOG2_E), top = vdupq_n_f32(max);
    int64_t v = 0;
    for (; v + NEON_LANES <= n; v += NEON_LANES) { /* read before its place is written */
        const float32x4_t p = neon_exp2(vmulq_f32(vsubq_f32(vld1q_f32(x + v), top), log2_e));
        neon_store(to + v, NEON_LANES, vmulq_n_f32(p, factor));
    }
    for (; v < n; v++) {
        to[v] = ls_bf16_from_f32(ls_vec_exp_softmax(x[v] - max) * factor);
    }
}
#else
/* Floats as integers of the same order: a maximum of integers vectorises with every compiler, one
 * of floats only where NaNs may be disregarded. Its own inverse. */
LS_INLINE int32_t order_bits(int32_t bits) {
    return bits ^ (int32_t)((uint32_t)(bits >> 31) >> 1);
}

LS_INLINE float block_max(const float *x, int64_t n) {
    const int64_t half = n / 2;
    int32_t m0 = INT32_MIN, m1 = INT32_MIN;
#pragma omp simd reduction(max : m0, m1)
    for (int64_t i = 0; i < n - half; i++) { /* the middle element twice, when n is odd */
        int32_t a, b;
        memcpy(&a, x + i, sizeof a);
        memcpy(&b, x + i + half, sizeof b);
        a = order_bits(a);
        b = order_bits(b);
        m0 = a > m0 ? a : m0;
        m1 = b > m1 ? b : m1;
    }
    float max;
    const int32_t bits = order_bits(m0 > m1 ? m0 : m1);
    memcpy(&max, &bits, sizeof max);
    return max;
}

LS_INLINE float block_sum_exp(const float *x, int64_t n, float max) {
    const int64_t half = n / 2;
    float s0 = 0.0f, s1 = 0.0f;
#pragma omp simd reduction(+ : s0, s1)
    for (int64_t i = 0; i < half; i++) {
        s0 += ls_vec_exp_softmax(x[i] - max);
        s1 += ls_vec_exp_softmax(x[i + half] - max);
    }
    if (n % 2 != 0) {
        s0 += ls_vec_exp_softmax(x[n - 1] - max);
    }
    return s0 + s1;
}

#endif

/* *max = the largest of row i, *sum = sum exp(x - max). A NaN never becomes the maximum but reaches
 * the sum; the maximum starts finite, so that exp(-inf - max) is 0 and +inf gives inf - inf. */
static void denominator(const ls_cross_entropy *op, int64_t i, float *max, double *sum) {
    float room[BLOCK_ELEMS];
    *max = -FLT_MAX;
    *sum = 0.0;
    for (int64_t begin = 0; begin < op->vocab; begin += BLOCK_ELEMS) {
        const int64_t count = ls_min(BLOCK_ELEMS, op->vocab - begin);
        const float *x = logits_of(op, i, begin, count, room);
        const float largest = block_max(x, count);
        if (largest > *max) {
            *sum *= exp((double)*max - (double)largest);
            *max = largest;
        }
        *sum += (double)block_sum_exp(x, count, *max);
    }
}

/* The target's column, -1 where another part has it. */
static inline int64_t target_column(const ls_cross_entropy *op, int64_t i) {
    const int64_t column = op->targets[i] - op->first;
    return column >= 0 && column < op->vocab ? column : -1;
}

/* to[v] = exp(x[v] - max) factor for v < n. */
LS_INLINE void probabilities(const ls_cross_entropy *op, const float *x, int64_t n, float max,
                             float factor, void *to, ls_dtype dtype) {
    (void)op;
    int64_t first = 0;
#if HAS_BF16_VECTORS || HAS_BF16_NEON
    if (dtype == LS_BF16) {
        probabilities_bf16(op, x, n, max, factor, to);
        first = n;
    }
#endif
#pragma omp simd
    for (int64_t v = first; v < n; v++) {
        ls_store(dtype, to, v, ls_vec_exp_softmax(x[v] - max) * factor);
    }
}

/* dlogits may be logits: each element is read before it is written. */
LS_INLINE void gradient_row(const ls_cross_entropy *op, int64_t i, float max, float factor,
                            ls_dtype dtype) {
    float room[BLOCK_ELEMS];
    void *dlogits = ls_at_mut(dtype, op->dlogits, i * op->ld);
    const int64_t target = target_column(op, i), piece = is_narrow(op) ? BLOCK_ELEMS : op->vocab;
    const float x_target = target < 0 ? 0.0f : logit(op, i, target);
    for (int64_t begin = 0; begin < op->vocab; begin += piece) {
        const int64_t count = ls_min(piece, op->vocab - begin);
        probabilities(op, logits_of(op, i, begin, count, room), count, max, factor,
                      ls_at_mut(dtype, dlogits, begin), dtype);
    }
    if (target >= 0) {
        const float p_target = ls_vec_exp_softmax(x_target - max) * factor;
        ls_store(dtype, dlogits, target, p_target - (float)op->grad_scale);
    }
    for (int64_t v = op->vocab; v < op->ld; v++) {
        ls_store(dtype, dlogits, v, 0.0f);
    }
}

static void ignore_row(const ls_cross_entropy *op, int64_t i) {
    if (op->losses) {
        ((float *)op->losses)[i] = 0.0f;
    }
    if (op->dlogits) {
        const size_t bytes = op->dtype == LS_BF16 ? sizeof(ls_bf16) : sizeof(float);
        memset((char *)op->dlogits + (size_t)(i * op->ld) * bytes, 0, (size_t)op->ld * bytes);
    }
}

static void loss_row(const ls_cross_entropy *op, int64_t i) {
    float *losses = op->losses;
    const int32_t target = op->targets[i];
    assert(target == -1 || (target >= 0 && target < op->vocab));
    if (target == -1) {
        ignore_row(op, i);
        return;
    }
    float max;
    double sum;
    denominator(op, i, &max, &sum);
    losses[i] = (float)(log(sum) + ((double)max - (double)logit(op, i, target)));
    if (op->dlogits) {
        LS_BY_DTYPE(op->dtype, gradient_row, op, i, max, (float)(op->grad_scale / sum));
    }
}

ls_status LS_ISA_NAME(ls_cpu_cross_entropy)(ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_cross_entropy(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->vocab);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        loss_row(op, i);
    }
    return LS_OK;
}

static void share_row(const ls_cross_entropy *op, int64_t i) {
    float *share = (float *)op->share + 3 * i;
    const int64_t target = target_column(op, i);
    double sum;
    denominator(op, i, &share[0], &sum);
    share[1] = (float)sum;
    share[2] = target < 0 ? 0.0f : logit(op, i, target);
}

ls_status LS_ISA_NAME(ls_cpu_cross_entropy_share)(ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_softmax_part(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->vocab);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        share_row(op, i);
    }
    return LS_OK;
}

static void merge_row(const ls_cross_entropy *op, int64_t i) {
    if (op->targets[i] == -1) {
        ignore_row(op, i);
        return;
    }
    float max = -FLT_MAX;
    double sum = 0.0, x_target = 0.0;
    for (int part = 0; part < op->parts; part++) {
        const float *share = (const float *)op->shares + 3 * (part * op->rows + i);
        max = share[0] > max ? share[0] : max;
    }
    for (int part = 0; part < op->parts; part++) {
        const float *share = (const float *)op->shares + 3 * (part * op->rows + i);
        sum += (double)share[1] * exp((double)share[0] - (double)max);
        x_target += (double)share[2];
    }
    if (op->losses) {
        ((float *)op->losses)[i] = (float)(log(sum) + ((double)max - x_target));
    }
    if (op->dlogits) {
        LS_BY_DTYPE(op->dtype, gradient_row, op, i, max, (float)(op->grad_scale / sum));
    }
}

ls_status LS_ISA_NAME(ls_cpu_cross_entropy_merge)(ls_device *dev, const ls_cross_entropy *op) {
    LS_TRY(ls_check_softmax_part(dev, op));
    const int threads = ls_threads_for(dev, op->rows * op->vocab);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < op->rows; i++) {
        merge_row(op, i);
    }
    return LS_OK;
}
