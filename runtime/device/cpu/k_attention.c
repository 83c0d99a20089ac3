/* Causal attention, forward: the order of work of FlashAttention (Dao 2022, arXiv 2205.14135). A
 * task is one tile of query rows of one key/value head: it walks over the blocks of keys that its
 * rows see, with running maxima and sums, and no other task touches its outputs. */
#include "runtime/device/cpu/k_attention_tile.h"

#include <float.h>
#include <math.h>
#include <omp.h>

typedef struct forward_scratch {
    float *q_t;       /* [D, TILE] scaled queries */
    float *out_t;     /* [D, TILE] sums of probability times value */
    float *k, *v;     /* [BLOCK, ld] */
    float *scores;    /* [BLOCK, TILE] of key and row, then probabilities */
    float *max, *sum; /* [TILE] running maximum of the scores, sum of exp(score - max) */
    float *row;       /* [D] */
} forward_scratch;

static forward_scratch forward_scratch_take(void *memory, int64_t d) {
    float *piece = memory;
    const int64_t ld = ls_attention_ld(d);
    return (forward_scratch){
        .q_t = take_floats(&piece, d * TILE),
        .out_t = take_floats(&piece, round_up(d, STRIP) * TILE),
        .k = take_floats(&piece, BLOCK * ld),
        .v = take_floats(&piece, BLOCK * ld),
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
    const vi visible = *(const vi *)(rows->visible + col) - (int32_t)first_key;
    vf *max = (vf *)(s->max + col), *sum = (vf *)(s->sum + col);
    vf top = *max;
    for (int64_t j = 0; j < keys; j++) {
        vf *score = (vf *)(s->scores + j * TILE + col);
        if (masked) {
            *score = select_vf(visible > (int32_t)j, *score, splat(-INFINITY));
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
static void forward_block(const ls_attention *op, const tile_rows *rows, const forward_scratch *s,
                          int64_t first_key) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const int64_t count = ls_min(BLOCK, op->kv_len - first_key);
    pack_keys(op, op->k, rows->batch, rows->kv_head, first_key, count, s->k);
    pack_keys(op, op->v, rows->batch, rows->kv_head, first_key, count, s->v);
    const bool finite = first_key + BLOCK <= rows->visible[0] || all_finite(s->v, count, d, ld);
    for (int64_t col = 0, width; col < rows->count; col += width) {
        const int nv = product_width((rows->count - col + LANES - 1) / LANES);
        width = nv * LANES;
        const int64_t keys = keys_seen(rows, col + width - 1, first_key);
        const bool masked = first_key + keys > rows->visible[col];
        for (int64_t j = 0; j < keys; j += STRIP) {
            product_rows(nv, false, d, s->k + j * ld, ld, s->q_t + col, TILE,
                         s->scores + j * TILE + col, TILE);
        }
        for (int v = 0; v < nv && keys > 0; v++) {
            forward_softmax(rows, s, d, col + v * LANES, first_key, keys, masked);
        }
        if (masked && !finite) {
            add_visible_cols(rows, col, width, first_key, d, s->v, ld, s->scores, s->out_t);
            continue;
        }
        for (int64_t i = 0; i < d; i += STRIP) {
            product_cols(nv, keys, s->v + i, ld, s->scores + col, TILE, s->out_t + i * TILE + col,
                         TILE);
        }
    }
}

static void forward_end(const ls_attention *op, const tile_rows *rows, const forward_scratch *s) {
    const int64_t d = op->head_dim;
    for (int64_t i = 0; i < rows->count; i++) {
        get_column(s->out_t + i, d, 1.0f / s->sum[i], s->row);
        store_row(op->dtype, s->row, d, op->out, o_offset(op, rows, i));
        if (op->lse) {
            ((float *)op->lse)[lse_offset(op, rows, i)] = s->max[i] + logf(s->sum[i]);
        }
    }
}

ls_status LS_ISA_NAME(ls_cpu_attention_forward)(ls_device *dev, const ls_attention *op) {
    LS_TRY(check_attention(dev, op, false));
    const int64_t heads = op->batch * op->kv_heads, tiles = tile_count(op);
    if (heads == 0 || tiles == 0) {
        return LS_OK;
    }
    LS_TRY(ls_cpu_scratch_need(dev, ls_attention_scratch_bytes(op->head_dim, 0)));
    /* The last tiles see the most keys: they go first, so that the threads end together. */
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < heads * tiles; task++) {
        const forward_scratch s =
            forward_scratch_take(ls_cpu_scratch(dev, omp_get_thread_num()), op->head_dim);
        const int64_t head = task % heads;
        tile_rows rows;
        tile_rows_init(&rows, op, head / op->kv_heads, head % op->kv_heads,
                       tiles - 1 - task / heads);
        forward_begin(op, &rows, &s);
        for (int64_t key = 0; key < rows.visible[rows.count - 1]; key += BLOCK) {
            forward_block(op, &rows, &s, key);
        }
        forward_end(op, &rows, &s);
    }
    return LS_OK;
}
