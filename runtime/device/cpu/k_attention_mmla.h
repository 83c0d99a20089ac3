/* Attention's products of bf16 by BFMMLA (k_mmla.h), and the forms that they take: what is words
 * along a dimension elsewhere is quads here, two words for each lane. Each sum has the bits that
 * BFDOT would give. Included by k_attention_bf16.h, which says what the functions do. */
#ifndef LS_DEVICE_CPU_K_ATTENTION_MMLA_H
#define LS_DEVICE_CPU_K_ATTENTION_MMLA_H

#include "runtime/device/cpu/k_attention_pairs.h"
#include "runtime/device/cpu/k_mmla.h"

enum { KEY_UNIT = STRIP, ROW_UNIT = 1, LANE_WORDS = 2 };

/* Two words of each lane, along the summed dimension. */
LS_INLINE void store_words(const vi words[LANE_WORDS], int32_t *to) {
    ((vi *)to)[0] = (vi)vzip1q_s32((int32x4_t)words[0], (int32x4_t)words[1]);
    ((vi *)to)[1] = (vi)vzip2q_s32((int32x4_t)words[0], (int32x4_t)words[1]);
}

/* bf16 of rows of keys j and j + 1 from column col on, in [BLOCK / 2, TILE] pairs of quads. */
LS_INLINE void store_two_keys(vf first, vf second, ls_bf16 *to, int64_t j, int64_t col) {
    store_lanes(first, to + j * TILE + 2 * col);
    store_lanes(second, to + j * TILE + 2 * col + MMLA_QUAD);
}

/* to [ld] = pairs of quads of first [n] and second [n] (NULL: zeros), then zeros. */
static inline void quads_of_two(const ls_bf16 *first, const ls_bf16 *second, int64_t n, int64_t ld,
                                ls_bf16 *to) {
    int64_t c = 0;
    for (; second && c + MMLA_PAIR <= n; c += MMLA_PAIR, to += 2 * MMLA_PAIR) {
        const uint64x2_t x = vreinterpretq_u64_u16(vld1q_u16(first + c));
        const uint64x2_t y = vreinterpretq_u64_u16(vld1q_u16(second + c));
        vst1q_u16(to, vreinterpretq_u16_u64(vzip1q_u64(x, y)));
        vst1q_u16(to + MMLA_PAIR, vreinterpretq_u16_u64(vzip2q_u64(x, y)));
    }
    memset(to, 0, (size_t)(2 * (ld - c)) * sizeof *to);
    for (; c < n; c += MMLA_QUAD, to += MMLA_PAIR) {
        const size_t bytes = (size_t)ls_min(MMLA_QUAD, n - c) * sizeof *to;
        memcpy(to, first + c, bytes);
        if (second) {
            memcpy(to + MMLA_QUAD, second + c, bytes);
        }
    }
}

/* to [ld] = quads along rows: element c of rows 0 .. count - 1 (at most 4), ld_from apart, and
 * zeros for the others and from n on. */
static inline void quads_of_rows(const ls_bf16 *from, int64_t ld_from, int64_t count, int64_t n,
                                 int64_t ld, ls_bf16 *to) {
    int64_t c = 0;
    for (; count == MMLA_QUAD && c + MMLA_PAIR <= n; c += MMLA_PAIR) {
        uint16x8_t row[MMLA_QUAD];
        for (int i = 0; i < MMLA_QUAD; i++) {
            row[i] = vld1q_u16(from + i * ld_from + c);
        }
        const uint16x8x2_t low = vzipq_u16(row[0], row[1]), high = vzipq_u16(row[2], row[3]);
        for (int half = 0; half < 2; half++) {
            const vi words[LANE_WORDS] = {(vi)low.val[half], (vi)high.val[half]};
            store_words(words, (int32_t *)(void *)(to + (c + half * LANES) * MMLA_QUAD));
        }
    }
    memset(to + c * MMLA_QUAD, 0, (size_t)((ld - c) * MMLA_QUAD) * sizeof *to);
    for (; c < n; c++) {
        for (int64_t i = 0; i < count; i++) {
            to[c * MMLA_QUAD + i] = from[i * ld_from + c];
        }
    }
}

/* to [ceil(D / 4), TILE] = quads along D of rows [TILE, ld]. */
static inline void rows_along_depth(const ls_bf16 *rows, int64_t d, int32_t *to) {
    const int64_t ld = ls_attention_ld(d);
    ls_bf16 *quads = (ls_bf16 *)to;
    for (int64_t i = 0; i < TILE; i += 2, quads += MMLA_PAIR) {
        const ls_bf16 *row = rows + i * ld;
        for (int64_t c = 0; c < d; c += MMLA_PAIR) {
            const uint64x2_t x = vreinterpretq_u64_u16(vld1q_u16(row + c));
            const uint64x2_t y = vreinterpretq_u64_u16(vld1q_u16(row + ld + c));
            vst1q_u16(quads + c * TILE, vreinterpretq_u16_u64(vzip1q_u64(x, y)));
            vst1q_u16(quads + (c + MMLA_QUAD) * TILE, vreinterpretq_u16_u64(vzip2q_u64(x, y)));
        }
    }
}

/* to [TILE / 4, ld] = quads along rows. */
static inline void rows_along_rows(const ls_bf16 *rows, int64_t d, int32_t *to) {
    const int64_t ld = ls_attention_ld(d);
    for (int64_t i = 0; i < TILE; i += MMLA_QUAD) {
        quads_of_rows(rows + i * ld, ld, MMLA_QUAD, d, ld, (ls_bf16 *)to + i * ld);
    }
}

/* to [BLOCK / 2, ld] = keys first .. first + count - 1 of k or v as pairs of quads along D, with
 * zeros to the right of D and in the rows that complete the last strip; they never stay where they
 * lie. */
static inline const word *keys_bf16(const ls_attention *op, const void *from, const tile_rows *rows,
                                    int64_t first, int64_t count, bool may_stay, ls_bf16 *to,
                                    int64_t *ld_words) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d), stride = op->kv_stride;
    const ls_bf16 *at = (const ls_bf16 *)from + kv_offset(op, rows->batch, rows->kv_head, first);
    (void)may_stay;
    for (int64_t j = 0; j < round_up(count, KEY_UNIT); j += 2) {
        quads_of_two(at + j * stride, j + 1 < count ? at + (j + 1) * stride : NULL,
                     j < count ? d : 0, ld, to + j * ld);
    }
    *ld_words = ld / 2;
    return (const word *)to;
}

/* to [BLOCK / 4, ld] = the same keys as quads along keys. */
static inline void pair_keys(const ls_attention *op, const void *from, const tile_rows *rows,
                             int64_t first, int64_t count, int32_t *to) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d), stride = op->kv_stride;
    const ls_bf16 *at = (const ls_bf16 *)from + kv_offset(op, rows->batch, rows->kv_head, first);
    for (int64_t j = 0; j < round_up(count, KEY_UNIT); j += MMLA_QUAD) {
        quads_of_rows(at + j * stride, stride, ls_min(MMLA_QUAD, count - j), d, ld,
                      (ls_bf16 *)to + j * ld);
    }
}

/* An operand of a block of sums: from pair to pair of lanes, and from quad to quad. */
typedef struct quads {
    const ls_bf16 *at;
    int64_t pair, quad;
} quads;

/* C [STRIP, nv vectors] = (C if add) + A B over `count` > 0 quads. */
LS_INLINE void quads_nv(const int nv, const bool add, int64_t count, quads a, quads b, float *c,
                        int64_t c_row) {
    float32x4_t sum[MMLA_HIGH][MMLA_WIDEST];
#pragma GCC unroll 4
    for (int i = 0; i < MMLA_HIGH; i++) {
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) {
            const float *low = c + 2 * i * c_row + v * LANES;
            const float32x4_t x = add ? vld1q_f32(low) : vdupq_n_f32(0.0f);
            const float32x4_t y = add ? vld1q_f32(low + c_row) : vdupq_n_f32(0.0f);
            sum[i][2 * v] = mmla_low(x, y);
            sum[i][2 * v + 1] = mmla_high(x, y);
        }
    }
    mmla_multiply(2 * nv, count, a.at, a.pair, a.quad, b.at, b.quad, sum);
#pragma GCC unroll 4
    for (int i = 0; i < MMLA_HIGH; i++) {
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) {
            float *low = c + 2 * i * c_row + v * LANES;
            vst1q_f32(low, mmla_low(sum[i][2 * v], sum[i][2 * v + 1]));
            vst1q_f32(low + c_row, mmla_high(sum[i][2 * v], sum[i][2 * v + 1]));
        }
    }
}

static NOINLINE void quads_set(int nv, int64_t count, quads a, quads b, float *c, int64_t c_row) {
    switch (nv) {
    case 1:
        quads_nv(1, false, count, a, b, c, c_row);
        break;
    case 2:
        quads_nv(2, false, count, a, b, c, c_row);
        break;
    default:
        quads_nv(3, false, count, a, b, c, c_row);
    }
}

static NOINLINE void quads_add(int nv, int64_t count, quads a, quads b, float *c, int64_t c_row) {
    switch (nv) {
    case 1:
        quads_nv(1, true, count, a, b, c, c_row);
        break;
    case 2:
        quads_nv(2, true, count, a, b, c, c_row);
        break;
    default:
        quads_nv(3, true, count, a, b, c, c_row);
    }
}

/* The products that k_attention_bf16.h describes. */
static inline void multiply_depth(int nv, int64_t d, int64_t keys, const word *k, int64_t ld_k,
                                  const int32_t *rows, const int32_t *visible, int64_t first_key,
                                  float *out) {
    for (int64_t j = 0, col = 0; j < keys; j += STRIP) {
        for (; visible[col + LANES - 1] <= first_key + j; col += LANES) {
            nv--;
        }
        const quads a = {(const ls_bf16 *)(k + j * ld_k), 4 * ld_k, MMLA_PAIR};
        const quads b = {(const ls_bf16 *)(rows + LANE_WORDS * col), MMLA_PAIR, TILE * MMLA_QUAD};
        quads_set(nv, (d + MMLA_QUAD - 1) / MMLA_QUAD, a, b, out + j * TILE + col, TILE);
    }
}

static inline void multiply_keys(int nv, int64_t d, int64_t keys, const int32_t *k,
                                 const int32_t *p, float *out_t) {
    const quads b = {(const ls_bf16 *)p, MMLA_PAIR, TILE * MMLA_QUAD};
    for (int64_t i = 0; keys > 0 && i < d; i += STRIP) {
        const quads a = {(const ls_bf16 *)k + i * MMLA_QUAD, MMLA_PAIR,
                         ls_attention_ld(d) * MMLA_QUAD};
        quads_add(nv, keys / MMLA_QUAD, a, b, out_t + i * TILE, TILE);
    }
}

/* Rows before `first` in its quad have p too: it is of vectors of rows, four each. */
static inline void multiply_rows(int64_t d, int64_t keys, int64_t first, int64_t end,
                                 const ls_bf16 *p, const int32_t *b, float *out) {
    const int64_t ld = ls_attention_ld(d), quad = first / MMLA_QUAD;
    const int64_t count = (end + MMLA_QUAD - 1) / MMLA_QUAD - quad;
    const quads a = {p + quad * MMLA_PAIR, 2 * TILE, MMLA_PAIR};
    (void)keys;
    for (int64_t col = 0, width; count > 0 && col < d; col += width) {
        const int nv = product_width((d - col + LANES - 1) / LANES);
        width = nv * LANES;
        const quads of_b = {(const ls_bf16 *)b + (quad * ld + col) * MMLA_QUAD, MMLA_PAIR,
                            ld * MMLA_QUAD};
        quads_add(nv, count, a, of_b, out + col, ld);
    }
}

#endif
