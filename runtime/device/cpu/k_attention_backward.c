/* Causal attention, backward (Dao 2022, arXiv 2205.14135, algorithm 4): probabilities are computed
 * again from lse, block by block. With dp = dout . v and delta = dout . out,
 *   ds = p (dp - delta),  dv += p dout,  dk += scale ds q,  dq += scale ds k.
 *
 * One function walks over tiles of rows and, within a tile, over blocks of keys: dq of the tile is
 * summed over its blocks, dk and dv over the tiles, always in ascending order. Called for all tiles
 * and all keys of a key/value head it yields everything at once (5 products of matrices); where
 * there are too few heads for the threads, it is called for pieces of the keys (dk, dv: 4 products)
 * and for single tiles (dq: 3 products). Either way every sum has the same terms in the same order,
 * so both ways give the same bits. */
#include "runtime/device/cpu/k_attention_bf16.h"

#include <math.h>
#include <omp.h>

typedef struct backward_scratch {
    float *q_t, *dout_t; /* [D, TILE]; queries are scaled */
    float *q, *dout;     /* [TILE, ld] */
    float *dq_t;         /* [D, TILE] */
    float *p, *ds;       /* [BLOCK, TILE] of key and row: scores, then probabilities; dp, then ds */
    float *lse, *delta;  /* [TILE] */
    float *row;          /* [ld] */
    float *dk, *dv;      /* [keys of the task, ld] */
    bool rows_finite;
} backward_scratch;

/* What one call of backward_task covers. */
typedef struct backward_range {
    int64_t batch, kv_head, first_tile, end_tile, first_key, end_key;
    bool want_dq, want_dkv;
} backward_range;

static backward_scratch backward_scratch_take(void *memory, int64_t d, int64_t keys) {
    float *piece = memory;
    const int64_t ld = ls_attention_ld(d);
    return (backward_scratch){
        .q_t = take_floats(&piece, d * TILE),
        .dout_t = take_floats(&piece, d * TILE),
        .q = take_floats(&piece, TILE * ld),
        .dout = take_floats(&piece, TILE * ld),
        .dq_t = take_floats(&piece, round_up(d, STRIP) * TILE),
        .p = take_floats(&piece, BLOCK * TILE),
        .ds = take_floats(&piece, BLOCK * TILE),
        .lse = take_floats(&piece, TILE),
        .delta = take_floats(&piece, TILE),
        .row = take_floats(&piece, ld),
        .dk = take_floats(&piece, round_up(keys, BLOCK) * ld),
        .dv = take_floats(&piece, round_up(keys, BLOCK) * ld),
    };
}

static float dot(int64_t n, const float *x, const float *y) {
    float part[16] = {0}, sum = 0.0f;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int lane = 0; lane < 16; lane++) {
            part[lane] += x[i + lane] * y[i + lane];
        }
    }
    for (; i < n; i++) {
        sum += x[i] * y[i];
    }
    for (int lane = 0; lane < 16; lane++) {
        sum += part[lane];
    }
    return sum;
}

static void zero_floats(float *x, int64_t n) {
    memset(x, 0, (size_t)n * sizeof *x);
}

/* Packs the tile's queries, dout, lse and delta, with zeros in the rows that complete it. */
static void backward_begin(const ls_attention *op, const tile_rows *rows, backward_scratch *s) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    for (int64_t i = 0; i < rows->count; i++) {
        const int64_t o = o_offset(op, rows, i);
        float *q = s->q + i * ld, *dout = s->dout + i * ld;
        load_row(op->dtype, op->q, q_offset(op, rows, i), d, q);
        scale_row((float)op->scale, d, q);
        load_row(op->dtype, op->dout, o, d, dout);
        load_row(op->dtype, op->out, o, d, s->row);
        s->lse[i] = ((const float *)op->lse)[lse_offset(op, rows, i)];
        s->delta[i] = dot(d, dout, s->row);
        put_column(q, d, s->q_t + i);
        put_column(dout, d, s->dout_t + i);
        zero_floats(q + d, ld - d);
        zero_floats(dout + d, ld - d);
    }
    for (int64_t i = rows->count; i < TILE; i++) {
        s->lse[i] = s->delta[i] = 0.0f;
        put_zero_column(d, s->q_t + i);
        put_zero_column(d, s->dout_t + i);
    }
    zero_floats(s->dq_t, round_up(d, STRIP) * TILE);
    s->rows_finite =
        all_finite(s->q, rows->count, d, ld) && all_finite(s->dout, rows->count, d, ld);
}

/* p = exp(score - lse), ds = p (dp - delta) for one vector of rows from column col. */
static void backward_softmax(const tile_rows *rows, const backward_scratch *s, int64_t col,
                             int64_t first_key, int64_t keys, bool masked) {
    const seen_keys seen = seen_keys_of(rows, col, first_key);
    const vf lse = *(const vf *)(s->lse + col), delta = *(const vf *)(s->delta + col);
    for (int64_t j = 0; j < keys; j++) {
        vf *p = (vf *)(s->p + j * TILE + col), *ds = (vf *)(s->ds + j * TILE + col);
        vf prob = exp_vf(*p - lse);
        vf dscore = prob * (*ds - delta);
        if (masked) {
            prob = select_vf(is_seen(seen, j), prob, (vf){0});
            dscore = select_vf(is_seen(seen, j), dscore, (vf){0});
        }
        *p = prob;
        *ds = dscore;
    }
}

/* p and ds of a block, and its part of dq. */
static void backward_scores(const ls_attention *op, const tile_rows *rows,
                            const backward_scratch *s, key_rows b, int64_t first_key, bool want_dq,
                            bool keys_finite) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    for (int64_t col = 0, width; col < rows->count; col += width) {
        const int nv = product_width((rows->count - col + LANES - 1) / LANES);
        width = nv * LANES;
        const int64_t last = col + width - 1, keys = keys_seen(rows, col, last, first_key);
        const bool masked = partly_seen(rows, col, last, first_key, keys);
        for (int64_t j = 0; j < keys; j += STRIP) {
            product_rows(nv, false, d, b.k + j * ld, ld, s->q_t + col, TILE, s->p + j * TILE + col,
                         TILE);
            product_rows(nv, false, d, b.v + j * ld, ld, s->dout_t + col, TILE,
                         s->ds + j * TILE + col, TILE);
        }
        for (int v = 0; v < nv; v++) {
            backward_softmax(rows, s, col + v * LANES, first_key, keys, masked);
        }
        if (!want_dq) {
            continue;
        }
        if (masked && !keys_finite) {
            add_visible_cols(rows, col, width, first_key, d, b.k, ld, s->ds, s->dq_t);
            continue;
        }
        for (int64_t i = 0; i < d; i += STRIP) {
            product_cols(nv, keys, b.k + i, ld, s->ds + col, TILE, s->dq_t + i * TILE + col, TILE);
        }
    }
}

/* The first row of the tile that sees a key: those before it have no part in the key's strip. */
static int64_t first_row(const tile_rows *rows, int64_t key) {
    const int64_t row = (key - rows->past) * rows->group - rows->first;
    return row < 0 ? 0 : row;
}

/* Rows from `row` on up to the last that may see a key before `key`. */
static int64_t rows_until(const tile_rows *rows, int64_t row, int64_t key) {
    int64_t end = rows->count;
    key = ls_min(key, rows->visible[end - 1]);
    while (end > row && rows->begin[end - 1] >= key) {
        end--;
    }
    return end;
}

/* out [keys, ld] += p^T b: the block's part of dv (p, dout) or dk (ds, q). */
static void backward_keys(const ls_attention *op, const tile_rows *rows, int64_t first_key,
                          int64_t keys, const float *p, const float *b, float *out) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    for (int64_t col = 0, width; col < d; col += width) {
        const int nv = product_width((d - col + LANES - 1) / LANES);
        width = nv * LANES;
        for (int64_t j = 0; j < keys; j += STRIP) {
            const int64_t row = first_row(rows, first_key + j);
            const int64_t end = rows_until(rows, row, first_key + j + STRIP);
            product_rows(nv, true, end - row, p + j * TILE + row, TILE, b + row * ld + col, ld,
                         out + j * ld + col, ld);
        }
    }
}

static void backward_block(const ls_attention *op, const tile_rows *rows, kept_keys *kept,
                           const backward_scratch *s, const backward_range *range,
                           int64_t first_key) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const int64_t count = ls_min(BLOCK, op->kv_len - first_key);
    const int64_t last = rows->count - 1, keys = keys_seen(rows, 0, last, first_key);
    const bool masked = partly_seen(rows, 0, last, first_key, keys);
    const key_rows b =
        kept_rows_block(kept, op, rows, (first_key - range->first_key) / BLOCK, first_key, count);
    backward_scores(op, rows, s, b, first_key, range->want_dq,
                    !masked || all_finite(b.k, count, d, ld));
    if (!range->want_dkv) {
        return;
    }
    float *dk = s->dk + (first_key - range->first_key) * ld;
    float *dv = s->dv + (first_key - range->first_key) * ld;
    if (masked && !s->rows_finite) {
        add_visible_rows(rows, first_key, count, d, s->p, s->dout, ld, dv, ld);
        add_visible_rows(rows, first_key, count, d, s->ds, s->q, ld, dk, ld);
        return;
    }
    backward_keys(op, rows, first_key, keys, s->p, s->dout, dv);
    backward_keys(op, rows, first_key, keys, s->ds, s->q, dk);
}

#if HAS_BF16_PAIRS
/* Queries are not scaled here: scores, dq and dk are. */
typedef struct backward_scratch_bf16 {
    int32_t *q_t, *dout_t; /* [ceil(D / 2), TILE] words along D */
    int32_t *q, *dout;     /* [TILE / 2, ld] words along rows */
    float *dq_t;           /* [D, TILE] */
    float *s, *dp;         /* [BLOCK, TILE] of key and row: scores, not scaled; dp */
    ls_bf16 *p, *ds;       /* [BLOCK, TILE]: words along rows */
    int32_t *ds_pairs;     /* [BLOCK / 2, TILE] words along keys */
    float *lse, *delta;    /* [TILE]; lse times log2(e) */
    float *row;            /* [ld] */
    ls_bf16 *rows;         /* [TILE, ld] */
    float *odd;            /* [TILE, ld]: an operand with elements that are not finite */
    float *dk, *dv;        /* [keys of the task, ld] */
    bool rows_finite;
} backward_scratch_bf16;

static backward_scratch_bf16 backward_scratch_bf16_take(void *memory, int64_t d, int64_t keys) {
    float *piece = memory;
    const int64_t ld = ls_attention_ld(d);
    return (backward_scratch_bf16){
        .q_t = (int32_t *)take_floats(&piece, ld / 2 * TILE),
        .dout_t = (int32_t *)take_floats(&piece, ld / 2 * TILE),
        .q = (int32_t *)take_floats(&piece, TILE / 2 * ld),
        .dout = (int32_t *)take_floats(&piece, TILE / 2 * ld),
        .dq_t = take_floats(&piece, ld * TILE),
        .s = take_floats(&piece, BLOCK * TILE),
        .dp = take_floats(&piece, BLOCK * TILE),
        .p = (ls_bf16 *)take_floats(&piece, BLOCK * TILE / 2),
        .ds = (ls_bf16 *)take_floats(&piece, BLOCK * TILE / 2),
        .ds_pairs = (int32_t *)take_floats(&piece, BLOCK / 2 * TILE),
        .lse = take_floats(&piece, TILE),
        .delta = take_floats(&piece, TILE),
        .row = take_floats(&piece, ld),
        .rows = (ls_bf16 *)take_floats(&piece, TILE * ld / 2),
        .odd = take_floats(&piece, TILE * ld),
        .dk = take_floats(&piece, round_up(keys, BLOCK) * ld),
        .dv = take_floats(&piece, round_up(keys, BLOCK) * ld),
    };
}

/* s->rows, whose rows to the tile's end become 0, as words along D and along rows. */
static void pack_rows_bf16(const backward_scratch_bf16 *s, int64_t d, int64_t count,
                           int32_t *along_d, int32_t *along_rows) {
    const int64_t ld = ls_attention_ld(d);
    memset(s->rows + count * ld, 0, (size_t)((TILE - count) * ld) * sizeof *s->rows);
    rows_along_depth(s->rows, d, along_d);
    rows_along_rows(s->rows, d, along_rows);
}

static void backward_begin_bf16(const ls_attention *op, const tile_rows *rows,
                                backward_scratch_bf16 *s) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    for (int64_t i = 0; i < rows->count; i++) {
        prefetch_row(op->q, q_offset(op, rows, i), d);
        prefetch_row(op->dout, o_offset(op, rows, i), d);
        prefetch_row(op->out, o_offset(op, rows, i), d);
    }
    for (int64_t i = 0; i < rows->count; i++) {
        copy_bf16((const ls_bf16 *)op->q + q_offset(op, rows, i), d, ld, s->rows + i * ld);
    }
    s->rows_finite = all_finite_bf16(s->rows, rows->count * ld);
    pack_rows_bf16(s, d, rows->count, s->q_t, s->q);
    for (int64_t i = 0; i < rows->count; i++) {
        const int64_t o = o_offset(op, rows, i);
        copy_bf16((const ls_bf16 *)op->dout + o, d, ld, s->rows + i * ld);
        s->lse[i] = (float)M_LOG2E * ((const float *)op->lse)[lse_offset(op, rows, i)];
        s->delta[i] = dot_bf16(d, s->rows + i * ld, (const ls_bf16 *)op->out + o);
    }
    s->rows_finite = s->rows_finite && all_finite_bf16(s->rows, rows->count * ld);
    pack_rows_bf16(s, d, rows->count, s->dout_t, s->dout);
    for (int64_t i = rows->count; i < TILE; i++) {
        s->lse[i] = s->delta[i] = 0.0f;
    }
    zero_floats(s->dq_t, round_up(d, 16) * TILE);
}

/* What backward_softmax_keys has of a vector of rows. */
typedef struct row_vector {
    seen_keys seen;
    vf lse, delta, scale;
} row_vector;

/* p and ds of keys j and j + 1 as words along rows; returns words of ds along keys. */
LS_INLINE vi backward_two_keys(const bool masked, const bool keep, const row_vector *r,
                               const backward_scratch_bf16 *s, int64_t col, int64_t j) {
    vf p[2], ds[2];
#pragma GCC unroll 2
    for (int n = 0; n < 2; n++) {
        const int64_t at = (j + n) * TILE + col;
        p[n] = weight_vf(*(const vf *)(s->s + at) * r->scale - r->lse);
        ds[n] = p[n] * (*(const vf *)(s->dp + at) - r->delta);
        if (masked) {
            p[n] = select_vf(is_seen(r->seen, j + n), p[n], (vf){0});
            ds[n] = select_vf(is_seen(r->seen, j + n), ds[n], (vf){0});
        }
        if (keep) {
            *(vf *)(s->s + at) = p[n];
            *(vf *)(s->dp + at) = ds[n];
        }
    }
    store_two_keys(p[0], p[1], s->p, j, col);
    store_two_keys(ds[0], ds[1], s->ds, j, col);
    return pairs_of(ds[0], ds[1]);
}

/* As backward_softmax, from scores that are not scaled, into words; with `keep`, the scores become
 * p and dp becomes ds in fp32 too. */
LS_INLINE void backward_softmax_keys(const bool masked, const bool keep, const ls_attention *op,
                                     const tile_rows *rows, const backward_scratch_bf16 *s,
                                     int64_t col, int64_t first_key, int64_t keys) {
    const row_vector r = {.seen = seen_keys_of(rows, col, first_key),
                          .lse = *(const vf *)(s->lse + col),
                          .delta = *(const vf *)(s->delta + col),
                          .scale = splat((float)(op->scale * M_LOG2E))};
    for (int64_t j = 0; j < keys; j += 2 * LANE_WORDS) {
        vi words[LANE_WORDS];
#pragma GCC unroll 2
        for (int n = 0; n < LANE_WORDS; n++) {
            words[n] = backward_two_keys(masked, keep, &r, s, col, j + 2 * n);
        }
        store_words(words, s->ds_pairs + j / 2 * TILE + LANE_WORDS * col);
    }
}

static NOINLINE void backward_softmax_bf16(bool masked, bool keep, const ls_attention *op,
                                           const tile_rows *rows, const backward_scratch_bf16 *s,
                                           int64_t col, int64_t first_key, int64_t keys) {
    if (!masked) {
        backward_softmax_keys(false, false, op, rows, s, col, first_key, keys);
        return;
    }
    /* Of keys that none of these rows sees, products over rows of tiles alone read p and ds. */
    const int64_t seen =
        ROW_UNIT > 1 ? keys : keys_seen_bf16(rows, col, col + LANES - 1, first_key);
    if (!keep) {
        backward_softmax_keys(true, false, op, rows, s, col, first_key, seen);
    } else {
        backward_softmax_keys(true, true, op, rows, s, col, first_key, seen);
    }
    zero_words(s->ds_pairs, seen, keys, col);
}

/* `keys`: all rows that a product over rows reads have p and ds for them, masked or not. */
static void backward_scores_bf16(const ls_attention *op, const tile_rows *rows,
                                 const backward_scratch_bf16 *s, const key_block *b,
                                 int64_t first_key, bool want_dq, bool keep) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const int64_t end = round_up(rows->count, ROW_UNIT);
    for (int64_t col = 0, width; col < end; col += width) {
        const int nv = product_width((end - col + LANES - 1) / LANES);
        width = nv * LANES;
        const int64_t last = ROW_UNIT > 1 ? rows->count - 1 : col + width - 1;
        const int64_t keys = keys_seen_bf16(rows, ROW_UNIT > 1 ? 0 : col, last, first_key);
        const bool masked = partly_seen(rows, col, last, first_key, keys);
        const int32_t *visible = rows->visible + col;
        multiply_depth(nv, d, keys, b->k, b->ld_k, s->q_t + LANE_WORDS * col, visible, first_key,
                       s->s + col);
        multiply_depth(nv, d, keys, b->v, b->ld_v, s->dout_t + LANE_WORDS * col, visible, first_key,
                       s->dp + col);
        for (int n = 0; n < nv; n++) {
            backward_softmax_bf16(masked || keep, keep, op, rows, s, col + n * LANES, first_key,
                                  keys);
        }
        if (!want_dq) {
            continue;
        }
        if (masked && !b->finite) {
            pack_keys(op, op->k, rows->batch, rows->kv_head, first_key,
                      ls_min(BLOCK, op->kv_len - first_key), s->odd);
            add_visible_cols(rows, col, width, first_key, d, s->odd, ld, s->dp, s->dq_t);
            continue;
        }
        multiply_keys(nv, d, keys, b->pairs, s->ds_pairs + LANE_WORDS * col, s->dq_t + col);
    }
}

/* out [keys, ld] += p^T b: the block's part of dv (p, dout) or dk (ds, q). */
static void backward_keys_bf16(const ls_attention *op, const tile_rows *rows, int64_t first_key,
                               int64_t keys, const ls_bf16 *p, const int32_t *b, float *out) {
    for (int64_t j = 0; j < keys; j += KEY_UNIT) {
        const int64_t row = first_row(rows, first_key + j);
        multiply_rows(op->head_dim, KEY_UNIT, row, rows_until(rows, row, first_key + j + KEY_UNIT),
                      p + j * TILE, b, out + j * ls_attention_ld(op->head_dim));
    }
}

static void load_rows_odd(const ls_attention *op, const tile_rows *rows, const void *from,
                          bool queries, float *to) {
    for (int64_t i = 0; i < rows->count; i++) {
        const int64_t at = queries ? q_offset(op, rows, i) : o_offset(op, rows, i);
        load_row(LS_BF16, from, at, op->head_dim, to + i * ls_attention_ld(op->head_dim));
    }
}

static void backward_block_bf16(const ls_attention *op, const tile_rows *rows, kept_keys *kept,
                                const backward_scratch_bf16 *s, const backward_range *range,
                                int64_t first_key) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const int64_t count = ls_min(BLOCK, op->kv_len - first_key);
    const int64_t last = rows->count - 1, keys = keys_seen_bf16(rows, 0, last, first_key);
    const bool masked = partly_seen(rows, 0, last, first_key, keys);
    const key_block b =
        kept_keys_block(kept, op, rows, (first_key - range->first_key) / BLOCK, first_key);
    backward_scores_bf16(op, rows, s, &b, first_key, range->want_dq,
                         masked && !(b.finite && s->rows_finite));
    if (!range->want_dkv) {
        return;
    }
    float *dk = s->dk + (first_key - range->first_key) * ld;
    float *dv = s->dv + (first_key - range->first_key) * ld;
    if (masked && !s->rows_finite) {
        load_rows_odd(op, rows, op->dout, false, s->odd);
        add_visible_rows(rows, first_key, count, d, s->s, s->odd, ld, dv, ld);
        load_rows_odd(op, rows, op->q, true, s->odd);
        add_visible_rows(rows, first_key, count, d, s->dp, s->odd, ld, dk, ld);
        return;
    }
    backward_keys_bf16(op, rows, first_key, keys, s->p, s->dout, dv);
    backward_keys_bf16(op, rows, first_key, keys, s->ds, s->q, dk);
}
#endif

/* to[at ...] = factor * row [D], to which with op->add what is there already is added; row is
 * overwritten. */
static void store_gradient(const ls_attention *op, float factor, float *row, void *to, int64_t at) {
#if HAS_BF16_PAIRS
    if (op->dtype == LS_BF16 && !op->add) {
        store_row_bf16(factor, row, op->head_dim, (ls_bf16 *)to + at);
        return;
    }
#endif
    scale_row(factor, op->head_dim, row);
    for (int64_t i = 0; op->add && i < op->head_dim; i++) {
        row[i] += ls_load(op->dtype, to, at + i);
    }
    store_row(op->dtype, row, op->head_dim, to, at);
}

/* dk_factor times dk, and dv, of the task's keys. */
static void store_keys(const ls_attention *op, const backward_range *range, float dk_factor,
                       float *dk, float *dv) {
    const int64_t ld = ls_attention_ld(op->head_dim);
    for (int64_t j = 0; j < range->end_key - range->first_key; j++) {
        const int64_t at = kv_offset(op, range->batch, range->kv_head, range->first_key + j);
        store_gradient(op, dk_factor, dk + j * ld, op->dk, at);
        store_gradient(op, 1.0f, dv + j * ld, op->dv, at);
    }
}

/* The keys of the range that the tile sees begin in the block of *begin and end before *end. False
 * where it sees none, and nothing is to be written for it. */
static bool range_of_tile(const ls_attention *op, const backward_range *range, int64_t tile,
                          tile_rows *rows, int64_t *begin, int64_t *end) {
    tile_rows_init(rows, op, range->batch, range->kv_head, tile);
    *begin = tile_begin(rows, range->first_key);
    *end = ls_min(range->end_key, rows->visible[rows->count - 1]);
    return range->want_dq || *begin < *end;
}

/* Blocks of keys that a task keeps: none where it computes a single tile. */
static int64_t kept_blocks(const ls_attention *op, const backward_range *range) {
    const bool again = range->end_tile - range->first_tile > 1;
    return again ? ls_attention_kept(range->end_key - range->first_key, op->head_dim) : 0;
}

static void backward_task(const ls_attention *op, const backward_range *range, float *memory) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const int64_t keys = range->want_dkv ? range->end_key - range->first_key : 0;
    kept_keys kept = kept_keys_take(op, &memory, kept_blocks(op, range), true);
    kept_keys_begin(&kept, 0);
    backward_scratch s = backward_scratch_take(memory, d, keys);
    zero_floats(s.dk, round_up(keys, BLOCK) * ld);
    zero_floats(s.dv, round_up(keys, BLOCK) * ld);
    for (int64_t tile = range->first_tile; tile < range->end_tile; tile++) {
        tile_rows rows;
        int64_t begin, end;
        if (!range_of_tile(op, range, tile, &rows, &begin, &end)) {
            continue;
        }
        backward_begin(op, &rows, &s);
        for (int64_t key = begin; key < end; key += BLOCK) {
            backward_block(op, &rows, &kept, &s, range, key);
        }
        for (int64_t i = 0; range->want_dq && i < rows.count; i++) {
            get_column(s.dq_t + i, d, 1.0f, s.row);
            store_gradient(op, (float)op->scale, s.row, op->dq, q_offset(op, &rows, i));
        }
    }
    if (range->want_dkv) {
        store_keys(op, range, 1.0f, s.dk, s.dv);
    }
}

#if HAS_BF16_PAIRS
static void backward_task_bf16(const ls_attention *op, const backward_range *range, float *memory) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const int64_t keys = range->want_dkv ? range->end_key - range->first_key : 0;
    kept_keys kept = kept_keys_take(op, &memory, kept_blocks(op, range), true);
    kept_keys_begin(&kept, 0);
    backward_scratch_bf16 s = backward_scratch_bf16_take(memory, d, keys);
    zero_floats(s.dk, round_up(keys, BLOCK) * ld);
    zero_floats(s.dv, round_up(keys, BLOCK) * ld);
    for (int64_t tile = range->first_tile; tile < range->end_tile; tile++) {
        tile_rows rows;
        int64_t begin, end;
        if (!range_of_tile(op, range, tile, &rows, &begin, &end)) {
            continue;
        }
        backward_begin_bf16(op, &rows, &s);
        for (int64_t key = begin; key < end; key += BLOCK) {
            backward_block_bf16(op, &rows, &kept, &s, range, key);
        }
        if (!range->want_dq) {
            continue;
        }
        transpose_words((const int32_t *)s.dq_t, TILE, round_up(d, 4), round_up(rows.count, 4),
                        (int32_t *)s.odd, ld);
        for (int64_t i = 0; i < rows.count; i++) {
            store_gradient(op, (float)op->scale, s.odd + i * ld, op->dq, q_offset(op, &rows, i));
        }
    }
    if (range->want_dkv) {
        store_keys(op, range, (float)op->scale, s.dk, s.dv);
    }
}
#endif

/* True when tasks of a whole head each (5 products) end sooner than pieces (4 and 3 products) that
 * share the threads evenly. Decides speed and memory only, never a bit of the result. */
static bool whole_heads(const ls_device *dev, const ls_attention *op, int64_t heads) {
    const int64_t rounds = (heads + dev->threads - 1) / dev->threads;
    return op->kv_len <= ls_attention_head_keys(op->head_dim) &&
           5 * rounds * dev->threads <= 7 * heads;
}

ls_status LS_ISA_NAME(ls_cpu_attention_backward)(ls_device *dev, const ls_attention *op) {
    LS_TRY(check_attention(dev, op, true));
    const int64_t heads = op->batch * op->kv_heads, tiles = tile_count(op);
    if (heads == 0 || tiles == 0) {
        return LS_OK;
    }
    const bool whole = whole_heads(dev, op, heads);
    const int64_t keys = whole ? op->kv_len : LS_ATTENTION_SPLIT;
    const int64_t pieces = whole ? 1 : (op->kv_len + keys - 1) / keys + tiles;
    const int64_t kept = tiles > 1 ? ls_attention_kept(keys, op->head_dim) : 0;
    LS_TRY(ls_cpu_scratch_need(dev, ls_attention_scratch_bytes(op->head_dim, kept, keys)));
#pragma omp parallel num_threads(dev->threads)
    {
        float *memory = ls_cpu_scratch(dev, omp_get_thread_num());
        begin_products(op->dtype);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < heads * pieces; task++) {
            const int64_t head = task / pieces, piece = task % pieces;
            backward_range range = {.batch = head / op->kv_heads,
                                    .kv_head = head % op->kv_heads,
                                    .end_tile = tiles,
                                    .end_key = op->kv_len,
                                    .want_dq = true,
                                    .want_dkv = true};
            if (!whole && piece < pieces - tiles) { /* the first keys are seen by the most tiles */
                range.first_key = piece * keys;
                range.end_key = ls_min(range.first_key + keys, op->kv_len);
                range.want_dq = false;
            } else if (!whole) { /* the last tiles see the most keys */
                range.first_tile = pieces - 1 - piece;
                range.end_tile = range.first_tile + 1;
                range.want_dkv = false;
            }
#if HAS_BF16_PAIRS
            if (op->dtype == LS_BF16) {
                backward_task_bf16(op, &range, memory);
                continue;
            }
#endif
            backward_task(op, &range, memory);
        }
        end_products(op->dtype);
    }
    return LS_OK;
}
