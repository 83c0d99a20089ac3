/* Causal attention, forward: the order of work of FlashAttention (Dao 2022, arXiv 2205.14135). A
 * task is one tile of query rows of one key/value head: it walks over the blocks of keys that its
 * rows see, with running maxima and sums, and no other task touches its outputs. A task of very few
 * rows (generation) has its own loops, with vectors along D, bound by the reading of keys. */
#include "runtime/device/cpu/k_attention_bf16.h"
#include "runtime/device/cpu/k_gemm_dots.h"

#include <float.h>
#include <math.h>
#include <omp.h>

typedef struct forward_scratch {
    float *q_t;       /* [D, TILE] scaled queries */
    float *out_t;     /* [D, TILE] sums of probability times value; of forward_few [FEW_ROWS, ld] */
    float *scores;    /* [BLOCK, TILE] of key and row, then probabilities */
    float *max, *sum; /* [TILE] running maximum of the scores, sum of exp(score - max) */
    float *row;       /* [D] */
} forward_scratch;

static forward_scratch forward_scratch_take(void *memory, int64_t d) {
    float *piece = memory;
    const int64_t ld = ls_attention_ld(d);
    return (forward_scratch){
        .q_t = take_floats(&piece, round_up(d, STRIP) * TILE),
        .out_t = take_floats(&piece, round_up(d, STRIP) * TILE),
        .scores = take_floats(&piece, BLOCK * TILE),
        .max = take_floats(&piece, TILE),
        .sum = take_floats(&piece, TILE),
        .row = take_floats(&piece, ld),
    };
}

static void forward_begin(const ls_attention *op, const tile_rows *rows, const forward_scratch *s) {
    const int64_t d = op->head_dim;
    for (int64_t i = 0; i < rows->count; i++) {
        load_row(op->dtype, op->q, q_offset(op, rows, i), d, s->row);
        scale_row((float)op->scale, d, s->row);
        put_column(s->row, d, s->q_t + i);
    }
    for (int64_t i = rows->count; i < TILE; i++) {
        put_zero_column(d, s->q_t + i);
    }
    memset(s->out_t, 0, (size_t)(round_up(d, STRIP) * TILE) * sizeof(float));
    for (int64_t i = 0; i < TILE; i++) {
        s->max[i] = -FLT_MAX; /* not -inf: a difference from it is never a NaN */
        s->sum[i] = 0.0f;
    }
}

/* Scores to probabilities for one vector of rows from column col, relative to the new maximum;
 * what was summed before is scaled to it. */
static void forward_softmax(const tile_rows *rows, const forward_scratch *s, int64_t d, int64_t col,
                            int64_t first_key, int64_t keys, bool masked) {
    const seen_keys seen = seen_keys_of(rows, col, first_key);
    vf *max = (vf *)(s->max + col), *sum = (vf *)(s->sum + col);
    vf top = *max;
    for (int64_t j = 0; j < keys; j++) {
        vf *score = (vf *)(s->scores + j * TILE + col);
        if (masked) {
            *score = select_vf(is_seen(seen, j), *score, splat(-INFINITY));
        }
        top = max_vf(*score, top);
    }
    vf added = {0};
    for (int64_t j = 0; j < keys; j++) {
        vf *score = (vf *)(s->scores + j * TILE + col);
        *score = exp_vf(*score - top);
        added += *score;
    }
    const vf shrink = exp_vf(*max - top);
    *sum = *sum * shrink + added;
    *max = top;
    bool changed = false;
    for (int lane = 0; lane < LANES; lane++) {
        changed |= shrink[lane] != 1.0f;
    }
    for (int64_t i = 0; changed && i < d; i++) {
        *(vf *)(s->out_t + i * TILE + col) *= shrink;
    }
}

/* One block of keys, all rows of the tile. */
static void forward_block(const ls_attention *op, const tile_rows *rows, kept_keys *kept,
                          const forward_scratch *s, int64_t first_key) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const int64_t count = ls_min(BLOCK, op->kv_len - first_key);
    const key_rows b = kept_rows_block(kept, op, rows, first_key / BLOCK, first_key, count);
    const bool finite =
        !partly_seen(rows, 0, rows->count - 1, first_key, BLOCK) || all_finite(b.v, count, d, ld);
    for (int64_t col = 0, width; col < rows->count; col += width) {
        const int nv = product_width((rows->count - col + LANES - 1) / LANES);
        width = nv * LANES;
        const int64_t last = col + width - 1, keys = keys_seen(rows, col, last, first_key);
        const bool masked = partly_seen(rows, col, last, first_key, keys);
        for (int64_t j = 0; j < keys; j += STRIP) {
            product_rows(nv, false, d, b.k + j * ld, ld, s->q_t + col, TILE,
                         s->scores + j * TILE + col, TILE);
        }
        for (int v = 0; v < nv && keys > 0; v++) {
            forward_softmax(rows, s, d, col + v * LANES, first_key, keys, masked);
        }
        if (masked && !finite) {
            add_visible_cols(rows, col, width, first_key, d, b.v, ld, s->scores, s->out_t);
            continue;
        }
        for (int64_t i = 0; i < d; i += STRIP) {
            product_cols(nv, keys, b.v + i, ld, s->scores + col, TILE, s->out_t + i * TILE + col,
                         TILE);
        }
    }
}

/* out [D] becomes the result over these keys, whose lse is `part`, and over those of op->out and
 * op->lse; returns the lse of both. */
static float merge_out(const ls_attention *op, int64_t at, float old, float part, float *out) {
    const float largest = old > part ? old : part;
    const float s_old = expf(old - largest), s_part = expf(part - largest);
    const float sum = s_old + s_part;
    for (int64_t i = 0; i < op->head_dim; i++) {
        const float before = ls_load(op->dtype, op->out, at + i);
        out[i] = (s_old * before + s_part * out[i]) / sum;
    }
    return largest + logf(sum);
}

/* Row i of the tile sees no key: there is nothing to merge, or nothing at all. */
static bool store_unseen(const ls_attention *op, const tile_rows *rows, int64_t i) {
    const bool unseen = rows->begin[i] == rows->visible[i];
    if (unseen && !op->merge) {
        const size_t bytes = ls_dtype_bytes(op->dtype);
        memset((char *)op->out + (size_t)o_offset(op, rows, i) * bytes, 0,
               (size_t)op->head_dim * bytes);
    }
    if (unseen && !op->merge && op->lse) {
        ((float *)op->lse)[lse_offset(op, rows, i)] = -INFINITY;
    }
    return unseen;
}

/* Row i of the tile: out [D] is its weighted sum of values, not yet divided by the sum. */
static void store_out(const ls_attention *op, const tile_rows *rows, int64_t i, float lse,
                      float sum, float *out) {
    const int64_t at = o_offset(op, rows, i);
    scale_row(1.0f / sum, op->head_dim, out);
    float *stored = op->lse ? (float *)op->lse + lse_offset(op, rows, i) : NULL;
    if (op->merge) {
        lse = merge_out(op, at, *stored, lse, out);
    }
    store_row(op->dtype, out, op->head_dim, op->out, at);
    if (stored) {
        *stored = lse;
    }
}

static void forward_tile(const ls_attention *op, const tile_rows *rows, kept_keys *kept,
                         void *memory) {
    const forward_scratch s = forward_scratch_take(memory, op->head_dim);
    forward_begin(op, rows, &s);
    for (int64_t key = tile_begin(rows, 0); key < rows->visible[rows->count - 1]; key += BLOCK) {
        forward_block(op, rows, kept, &s, key);
    }
    for (int64_t i = 0; i < rows->count; i++) {
        if (store_unseen(op, rows, i)) {
            continue;
        }
        get_column(s.out_t + i, op->head_dim, 1.0f, s.row);
        store_out(op, rows, i, s.max[i] + logf(s.sum[i]), s.sum[i], s.row);
    }
}

#if HAS_BF16_PAIRS
typedef struct forward_scratch_bf16 {
    int32_t *q_t;     /* [ceil(D / 2), TILE] words along D */
    float *out_t;     /* [D, TILE] */
    float *scores;    /* [BLOCK, TILE] of key and row, not scaled */
    int32_t *p;       /* [BLOCK / 2, TILE] words along keys */
    float *max, *sum; /* [TILE] running maximum, or less by SLACK at most; sum of exponentials */
    float *weights;   /* [TILE] sum of the words of p: what out is divided by, so that the rounded
                         weights of a row's values add up to 1 */
    ls_bf16 *rows;    /* [TILE, ld] */
    float *v_odd,
        *out; /* [BLOCK, ld]: values of a block that are not finite; [TILE, ld]; one place */
} forward_scratch_bf16;

static forward_scratch_bf16 forward_scratch_bf16_take(void *memory, int64_t d) {
    float *piece = memory;
    const int64_t ld = ls_attention_ld(d);
    forward_scratch_bf16 s = {
        .q_t = (int32_t *)take_floats(&piece, ld / 2 * TILE),
        .out_t = take_floats(&piece, ld * TILE),
        .scores = take_floats(&piece, BLOCK * TILE),
        .p = (int32_t *)take_floats(&piece, BLOCK / 2 * TILE),
        .max = take_floats(&piece, TILE),
        .sum = take_floats(&piece, TILE),
        .weights = take_floats(&piece, TILE),
        .rows = (ls_bf16 *)take_floats(&piece, TILE * ld / 2),
        .out = take_floats(&piece, TILE * ld),
    };
    s.v_odd = s.out;
    return s;
}

static void forward_begin_bf16(const ls_attention *op, const tile_rows *rows,
                               const forward_scratch_bf16 *s) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    for (int64_t i = 0; i < rows->count; i++) {
        prefetch_row(op->q, q_offset(op, rows, i), d);
    }
    for (int64_t i = 0; i < rows->count; i++) {
        copy_bf16((const ls_bf16 *)op->q + q_offset(op, rows, i), d, ld, s->rows + i * ld);
    }
    memset(s->rows + rows->count * ld, 0, (size_t)((TILE - rows->count) * ld) * sizeof *s->rows);
    rows_along_depth(s->rows, d, s->q_t);
    memset(s->out_t, 0, (size_t)(ld * TILE) * sizeof(float));
    for (int64_t i = 0; i < TILE; i++) {
        s->max[i] = -FLT_MAX;
        s->sum[i] = s->weights[i] = 0.0f;
    }
}

/* A maximum only keeps exponentials in range, so it follows the scores when it is 8 powers of two
 * behind: most blocks then leave sums and out as they are. */
#define SLACK 8.0f

LS_INLINE vf scaled_score(const float *score, vf scale, const bool masked, seen_keys seen,
                          int64_t j) {
    const vf x = *(const vf *)score * scale;
    return masked ? select_vf(is_seen(seen, j), x, splat(-INFINITY)) : x;
}

/* Words of the probabilities of keys j and j + 1, which *added grows by. */
LS_INLINE vi two_weights(const bool masked, const bool keep, float *score, vf scale, seen_keys seen,
                         int64_t j, vf top, vf *added) {
    const vf p0 = weight_vf(scaled_score(score, scale, masked, seen, j) - top);
    const vf p1 = weight_vf(scaled_score(score + TILE, scale, masked, seen, j + 1) - top);
    *added += p0 + p1;
    if (keep) {
        *(vf *)score = p0;
        *(vf *)(score + TILE) = p1;
    }
    return pairs_of(p0, p1);
}

/* Scores to words of probabilities, for nv vectors of rows from column col; maxima are those of
 * log2(e) times a score. With `keep`, the scores become the probabilities in fp32 too. */
LS_INLINE void softmax_nv(const int nv, const bool masked, const bool keep, const ls_attention *op,
                          const tile_rows *rows, const forward_scratch_bf16 *s, int64_t col,
                          int64_t first_key, int64_t keys) {
    const vf scale = splat((float)(op->scale * M_LOG2E));
    seen_keys seen[WIDE];
    vf top[WIDE], added[WIDE], shrink[WIDE], weights[WIDE];
    const pair_factor ones = factor_of(0x3f803f80);
    for (int v = 0; v < nv; v++) {
        seen[v] = seen_keys_of(rows, col + v * LANES, first_key);
        top[v] = *(const vf *)(s->max + col + v * LANES);
        added[v] = weights[v] = (vf){0};
    }
    for (int64_t j = 0; j < keys; j++) {
        const float *score = s->scores + j * TILE + col;
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) {
            top[v] = max_vf(scaled_score(score + v * LANES, scale, masked, seen[v], j), top[v]);
        }
    }
    for (int v = 0; v < nv; v++) {
        const vf before = *(const vf *)(s->max + col + v * LANES);
        top[v] = select_vf(top[v] > before + splat(SLACK), top[v], before);
    }
    for (int64_t j = 0; j < keys; j += 2 * LANE_WORDS) {
        float *score = s->scores + j * TILE + col;
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++, score += LANES) {
            vi words[LANE_WORDS];
#pragma GCC unroll 2
            for (int n = 0; n < LANE_WORDS; n++) {
                words[n] = two_weights(masked, keep, score + 2 * n * TILE, scale, seen[v],
                                       j + 2 * n, top[v], &added[v]);
                weights[v] = add_pairs(weights[v], ones, words[n]);
            }
            store_words(words, s->p + j / 2 * TILE + LANE_WORDS * (col + v * LANES));
        }
    }
    bool changed = false;
    for (int v = 0; v < nv; v++) {
        vf *max = (vf *)(s->max + col + v * LANES), *sum = (vf *)(s->sum + col + v * LANES);
        shrink[v] = exp2_vf(*max - top[v]);
        vf *total = (vf *)(s->weights + col + v * LANES);
        *sum = *sum * shrink[v] + added[v];
        *total = *total * shrink[v] + weights[v];
        *max = top[v];
        changed |= !all_ones(shrink[v]);
    }
    for (int64_t i = 0; changed && i < op->head_dim; i++) {
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) {
            *(vf *)(s->out_t + i * TILE + col + v * LANES) *= shrink[v];
        }
    }
}

static NOINLINE void forward_softmax_bf16(int nv, bool masked, bool keep, const ls_attention *op,
                                          const tile_rows *rows, const forward_scratch_bf16 *s,
                                          int64_t col, int64_t first_key, int64_t keys) {
    if (nv == WIDE && !masked) {
        softmax_nv(WIDE, false, false, op, rows, s, col, first_key, keys);
        return;
    }
    for (int v = 0; v < nv; v++, col += LANES) {
        if (!masked) {
            softmax_nv(1, false, false, op, rows, s, col, first_key, keys);
            continue;
        }
        const int64_t seen = keys_seen_bf16(rows, col, col + LANES - 1, first_key);
        softmax_nv(1, true, keep, op, rows, s, col, first_key, seen);
        zero_words(s->p, seen, keys, col);
    }
}

static void forward_block_bf16(const ls_attention *op, const tile_rows *rows, kept_keys *kept,
                               const forward_scratch_bf16 *s, int64_t first_key) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const key_block b = kept_keys_block(kept, op, rows, first_key / BLOCK, first_key);
    const bool finite = !partly_seen(rows, 0, rows->count - 1, first_key, BLOCK) || b.finite;
    if (!finite) {
        pack_keys(op, op->v, rows->batch, rows->kv_head, first_key,
                  ls_min(BLOCK, op->kv_len - first_key), s->v_odd);
    }
    for (int64_t col = 0, width; col < rows->count; col += width) {
        const int nv = product_width((rows->count - col + LANES - 1) / LANES);
        width = nv * LANES;
        const int64_t last = col + width - 1, keys = keys_seen_bf16(rows, col, last, first_key);
        const bool masked = partly_seen(rows, col, last, first_key, keys);
        if (keys == 0) {
            continue;
        }
        multiply_depth(nv, d, keys, b.k, b.ld_k, s->q_t + LANE_WORDS * col, rows->visible + col,
                       first_key, s->scores + col);
        forward_softmax_bf16(nv, masked, !finite, op, rows, s, col, first_key, keys);
        if (masked && !finite) {
            add_visible_cols(rows, col, width, first_key, d, s->v_odd, ld, s->scores, s->out_t);
            continue;
        }
        multiply_keys(nv, d, keys, b.pairs, s->p + LANE_WORDS * col, s->out_t + col);
    }
}

static void forward_tile_bf16(const ls_attention *op, const tile_rows *rows, kept_keys *kept,
                              void *memory) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const forward_scratch_bf16 s = forward_scratch_bf16_take(memory, d);
    forward_begin_bf16(op, rows, &s);
    for (int64_t key = tile_begin(rows, 0); key < rows->visible[rows->count - 1]; key += BLOCK) {
        forward_block_bf16(op, rows, kept, &s, key);
    }
    transpose_words((const int32_t *)s.out_t, TILE, round_up(d, 4), round_up(rows->count, 4),
                    (int32_t *)s.out, ld);
    for (int64_t i = 0; i < rows->count; i++) {
        if (store_unseen(op, rows, i)) {
            continue;
        }
        const float lse = s.max[i] * (float)M_LN2 + logf(s.sum[i]);
        if (op->merge) {
            store_out(op, rows, i, lse, s.weights[i], s.out + i * ld);
            continue;
        }
        store_row_bf16(1.0f / s.weights[i], s.out + i * ld, d,
                       (ls_bf16 *)op->out + o_offset(op, rows, i));
        if (op->lse) {
            ((float *)op->lse)[lse_offset(op, rows, i)] = lse;
        }
    }
}
#endif

/* Generation: at most FEW_ROWS queries of one token, which see all keys. Beyond that the tile is
 * faster, although most of its lanes are empty. */
enum { FEW_ROWS = 4 };

/* scores [BLOCK] of `count` keys where they lie. */
static NOINLINE void few_scores(ls_dtype dtype, const void *q, float scale, int64_t d,
                                const void *k, int64_t ld, int64_t count, float *scores) {
    LS_BY_DTYPE(dtype, dot_rows, count, d, q, k, ld, scores);
    scale_row(scale, count, scores);
    for (int64_t j = count; j < BLOCK; j++) {
        scores[j] = -INFINITY;
    }
}

/* Scores [BLOCK] to probabilities relative to the new *max; returns what earlier sums shrink by. */
static float few_softmax(float *scores, float *max, float *sum) {
    float top = *max, added = 0.0f;
    for (int64_t j = 0; j < BLOCK; j++) {
        top = scores[j] > top ? scores[j] : top;
    }
    for (int64_t j = 0; j < BLOCK; j += LANES) {
        vf *score = (vf *)(scores + j);
        *score = exp_vf(*score - splat(top));
    }
    for (int64_t j = 0; j < BLOCK; j++) {
        added += scores[j];
    }
    const float shrink = exp_vf(splat(*max - top))[0];
    *sum = *sum * shrink + added;
    *max = top;
    return shrink;
}

/* out[d] = shrink * out[d] + sum_j p[j] v[j, d] */
LS_INLINE void add_values(const float *p, int64_t count, const void *v, int64_t ld, float shrink,
                          int64_t d, float *restrict out, ls_dtype dtype) {
    scale_row(shrink, d, out);
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) {
        const void *v0 = ls_at(dtype, v, j * ld), *v1 = ls_at(dtype, v0, ld),
                   *v2 = ls_at(dtype, v1, ld), *v3 = ls_at(dtype, v2, ld);
        const float p0 = p[j], p1 = p[j + 1], p2 = p[j + 2], p3 = p[j + 3];
#pragma omp simd
        for (int64_t i = 0; i < d; i++) {
            out[i] += (p0 * ls_load(dtype, v0, i) + p1 * ls_load(dtype, v1, i)) +
                      (p2 * ls_load(dtype, v2, i) + p3 * ls_load(dtype, v3, i));
        }
    }
    for (; j < count; j++) {
        for (int64_t i = 0; i < d; i++) {
            out[i] += p[j] * ls_load(dtype, v, j * ld + i);
        }
    }
}

static NOINLINE void few_values(ls_dtype dtype, const float *p, int64_t count, const void *v,
                                int64_t ld, float shrink, int64_t d, float *out) {
    LS_BY_DTYPE(dtype, add_values, p, count, v, ld, shrink, d, out);
}

/* Brings rows of a head nearer, which are too far apart for the processor to do so itself. */
static void few_fetch(const ls_attention *op, const void *from, int64_t at, int64_t count) {
    const int64_t bytes = op->head_dim * (int64_t)ls_dtype_bytes(op->dtype);
    for (int64_t j = 0; j < count; j++) {
        const char *row = ls_at(op->dtype, from, at + j * op->kv_stride);
        for (int64_t c = 0; c < bytes; c += 64) {
            __builtin_prefetch(row + c, 0, 2);
        }
    }
}

static void forward_few(const ls_attention *op, const tile_rows *rows, void *memory) {
    const forward_scratch s = forward_scratch_take(memory, op->head_dim);
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    float *out = s.out_t; /* [FEW_ROWS, ld] here */
    for (int64_t i = 0; i < rows->count; i++) {
        memset(out + i * ld, 0, (size_t)d * sizeof(float));
        s.max[i] = -FLT_MAX;
        s.sum[i] = 0.0f;
    }
    for (int64_t key = 0; key < op->kv_len; key += BLOCK) {
        const int64_t count = ls_min(BLOCK, op->kv_len - key);
        const int64_t at = kv_offset(op, rows->batch, rows->kv_head, key);
        const int64_t next = ls_min(BLOCK, op->kv_len - key - count);
        few_fetch(op, op->k, at + count * op->kv_stride, next);
        few_fetch(op, op->v, at + count * op->kv_stride, next);
        for (int64_t i = 0; i < rows->count; i++) {
            few_scores(op->dtype, ls_at(op->dtype, op->q, q_offset(op, rows, i)), (float)op->scale,
                       d, ls_at(op->dtype, op->k, at), op->kv_stride, count, s.scores);
            const float shrink = few_softmax(s.scores, s.max + i, s.sum + i);
            few_values(op->dtype, s.scores, count, ls_at(op->dtype, op->v, at), op->kv_stride,
                       shrink, d, out + i * ld);
        }
    }
    for (int64_t i = 0; i < rows->count; i++) {
        store_out(op, rows, i, s.max[i] + logf(s.sum[i]), s.sum[i], out + i * ld);
    }
}

static void forward_task(const ls_attention *op, const tile_rows *rows, kept_keys *kept,
                         void *memory) {
    kept_keys_begin(kept, rows->batch * op->kv_heads + rows->kv_head);
    if (op->q_len == 1 && rows->group <= FEW_ROWS && !op->first_key) {
        forward_few(op, rows, memory);
        return;
    }
#if HAS_BF16_PAIRS
    if (op->dtype == LS_BF16) {
        forward_tile_bf16(op, rows, kept, memory);
        return;
    }
#endif
    forward_tile(op, rows, kept, memory);
}

ls_status LS_ISA_NAME(ls_cpu_attention_forward)(ls_device *dev, const ls_attention *op) {
    LS_TRY(check_attention(dev, op, false));
    const int64_t heads = op->batch * op->kv_heads, tiles = tile_count(op);
    if (heads == 0 || tiles == 0) {
        return LS_OK;
    }
    /* A thread computes about one tile of a head where there are no more tiles than threads. */
    const int64_t kept = tiles > dev->threads ? ls_attention_kept(op->kv_len, op->head_dim) : 0;
    LS_TRY(ls_cpu_scratch_need(dev, ls_attention_scratch_bytes(op->head_dim, kept, 0)));
    /* Head by head, whose keys then stay in the cache. The last tiles see the most keys: they go
     * first, so that the threads end together. */
#pragma omp parallel num_threads(dev->threads)
    {
        float *memory = ls_cpu_scratch(dev, omp_get_thread_num());
        kept_keys keys = kept_keys_take(op, &memory, kept, false);
        begin_products(op->dtype);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < heads * tiles; task++) {
            const int64_t head = task / tiles;
            tile_rows rows;
            tile_rows_init(&rows, op, head / op->kv_heads, head % op->kv_heads,
                           tiles - 1 - task % tiles);
            forward_task(op, &rows, &keys, memory);
        }
        end_products(op->dtype);
    }
    return LS_OK;
}
