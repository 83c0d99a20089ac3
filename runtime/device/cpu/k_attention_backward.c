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
#include "runtime/device/cpu/k_attention_tile.h"

#include <omp.h>

typedef struct backward_scratch {
    float *q_t, *dout_t; /* [D, TILE]; queries are scaled */
    float *q, *dout;     /* [TILE, ld] */
    float *dq_t;         /* [D, TILE] */
    float *k, *v;        /* [BLOCK, ld] */
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
        .k = take_floats(&piece, BLOCK * ld),
        .v = take_floats(&piece, BLOCK * ld),
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
    const vi visible = *(const vi *)(rows->visible + col) - (int32_t)first_key;
    const vf lse = *(const vf *)(s->lse + col), delta = *(const vf *)(s->delta + col);
    for (int64_t j = 0; j < keys; j++) {
        vf *p = (vf *)(s->p + j * TILE + col), *ds = (vf *)(s->ds + j * TILE + col);
        vf prob = exp_vf(*p - lse);
        vf dscore = prob * (*ds - delta);
        if (masked) {
            const vi seen = visible > (int32_t)j;
            prob = select_vf(seen, prob, (vf){0});
            dscore = select_vf(seen, dscore, (vf){0});
        }
        *p = prob;
        *ds = dscore;
    }
}

/* p and ds of a block, and its part of dq. */
static void backward_scores(const ls_attention *op, const tile_rows *rows,
                            const backward_scratch *s, int64_t first_key, bool want_dq,
                            bool keys_finite) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    for (int64_t col = 0, width; col < rows->count; col += width) {
        const int nv = product_width((rows->count - col + LANES - 1) / LANES);
        width = nv * LANES;
        const int64_t keys = keys_seen(rows, col + width - 1, first_key);
        const bool masked = first_key + keys > rows->visible[col];
        for (int64_t j = 0; j < keys; j += STRIP) {
            product_rows(nv, false, d, s->k + j * ld, ld, s->q_t + col, TILE, s->p + j * TILE + col,
                         TILE);
            product_rows(nv, false, d, s->v + j * ld, ld, s->dout_t + col, TILE,
                         s->ds + j * TILE + col, TILE);
        }
        for (int v = 0; v < nv; v++) {
            backward_softmax(rows, s, col + v * LANES, first_key, keys, masked);
        }
        if (!want_dq) {
            continue;
        }
        if (masked && !keys_finite) {
            add_visible_cols(rows, col, width, first_key, d, s->k, ld, s->ds, s->dq_t);
            continue;
        }
        for (int64_t i = 0; i < d; i += STRIP) {
            product_cols(nv, keys, s->k + i, ld, s->ds + col, TILE, s->dq_t + i * TILE + col, TILE);
        }
    }
}

/* out [keys, ld] += p^T b: the block's part of dv (p, dout) or dk (ds, q). */
static void backward_keys(const ls_attention *op, const tile_rows *rows, int64_t first_key,
                          int64_t keys, const float *p, const float *b, float *out) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    for (int64_t col = 0, width; col < d; col += width) {
        const int nv = product_width((d - col + LANES - 1) / LANES);
        width = nv * LANES;
        for (int64_t j = 0; j < keys; j += STRIP) {
            /* Rows before the first one that sees this strip have no part in it. */
            const int64_t token = first_key + j - rows->past;
            int64_t row = token * rows->group - rows->first;
            row = row < 0 ? 0 : row;
            product_rows(nv, true, rows->count - row, p + j * TILE + row, TILE, b + row * ld + col,
                         ld, out + j * ld + col, ld);
        }
    }
}

static void backward_block(const ls_attention *op, const tile_rows *rows, const backward_scratch *s,
                           const backward_range *range, int64_t first_key) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const int64_t count = ls_min(BLOCK, op->kv_len - first_key);
    const int64_t keys = keys_seen(rows, rows->count - 1, first_key);
    const bool diagonal = first_key + keys > rows->visible[0];
    pack_keys(op, op->k, rows->batch, rows->kv_head, first_key, count, s->k);
    pack_keys(op, op->v, rows->batch, rows->kv_head, first_key, count, s->v);
    backward_scores(op, rows, s, first_key, range->want_dq,
                    !diagonal || all_finite(s->k, count, d, ld));
    if (!range->want_dkv) {
        return;
    }
    float *dk = s->dk + (first_key - range->first_key) * ld;
    float *dv = s->dv + (first_key - range->first_key) * ld;
    if (diagonal && !s->rows_finite) {
        add_visible_rows(rows, first_key, count, d, s->p, s->dout, ld, dv, ld);
        add_visible_rows(rows, first_key, count, d, s->ds, s->q, ld, dk, ld);
        return;
    }
    backward_keys(op, rows, first_key, keys, s->p, s->dout, dv);
    backward_keys(op, rows, first_key, keys, s->ds, s->q, dk);
}

/* With op->add what is there already is added to row, whose place is then overwritten. */
static void store_gradient(const ls_attention *op, float *row, void *to, int64_t at) {
    for (int64_t i = 0; op->add && i < op->head_dim; i++) {
        row[i] += ls_load(op->dtype, to, at + i);
    }
    store_row(op->dtype, row, op->head_dim, to, at);
}

static void store_dq(const ls_attention *op, const tile_rows *rows, const backward_scratch *s) {
    for (int64_t i = 0; i < rows->count; i++) {
        get_column(s->dq_t + i, op->head_dim, (float)op->scale, s->row);
        store_gradient(op, s->row, op->dq, q_offset(op, rows, i));
    }
}

static void backward_task(const ls_attention *op, const backward_range *range, void *memory) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const int64_t keys = range->want_dkv ? range->end_key - range->first_key : 0;
    backward_scratch s = backward_scratch_take(memory, d, keys);
    zero_floats(s.dk, round_up(keys, BLOCK) * ld);
    zero_floats(s.dv, round_up(keys, BLOCK) * ld);
    for (int64_t tile = range->first_tile; tile < range->end_tile; tile++) {
        tile_rows rows;
        tile_rows_init(&rows, op, range->batch, range->kv_head, tile);
        const int64_t seen = ls_min(range->end_key, rows.visible[rows.count - 1]);
        if (range->first_key >= seen) {
            continue;
        }
        backward_begin(op, &rows, &s);
        for (int64_t key = range->first_key; key < seen; key += BLOCK) {
            backward_block(op, &rows, &s, range, key);
        }
        if (range->want_dq) {
            store_dq(op, &rows, &s);
        }
    }
    for (int64_t j = 0; j < keys; j++) {
        const int64_t at = kv_offset(op, range->batch, range->kv_head, range->first_key + j);
        store_gradient(op, s.dk + j * ld, op->dk, at);
        store_gradient(op, s.dv + j * ld, op->dv, at);
    }
}

/* True when tasks of a whole head each (5 products) end sooner than pieces (4 and 3 products) that
 * share the threads evenly. Decides speed and memory only, never a bit of the result. */
static bool whole_heads(const ls_device *dev, const ls_attention *op, int64_t heads) {
    const int64_t rounds = (heads + dev->threads - 1) / dev->threads;
    return ls_attention_head_fits(op->kv_len, op->head_dim) &&
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
    LS_TRY(ls_cpu_scratch_need(dev, ls_attention_scratch_bytes(op->head_dim, keys)));
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1)
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
        backward_task(op, &range, ls_cpu_scratch(dev, omp_get_thread_num()));
    }
    return LS_OK;
}
