/* Attention's products of bf16 matrices with fp32 sums, where the processor multiplies pairs of
 * bf16 (k_attention_pairs.h), quads (k_attention_mmla.h) or tiles of them (AMX). A word holds two
 * elements that are neighbours along the summed dimension; one operand enters as broadcast words or
 * as rows of tiles, the other as vectors of them, which are the rows of tiles too. Included by
 * k_attention*.c; empty at the levels without such an instruction, whose bf16 goes through the fp32
 * products of k_attention_tile.h. */
#ifndef LS_DEVICE_CPU_K_ATTENTION_BF16_H
#define LS_DEVICE_CPU_K_ATTENTION_BF16_H

#include "runtime/device/cpu/k_amx.h"
#include "runtime/device/cpu/k_attention_pairs.h"
#include "runtime/device/cpu/quads.h"

#if HAS_BF16_PAIRS

/* Two neighbours of a bf16 matrix, wherever it lies. */
typedef int32_t word __attribute__((aligned(2), may_alias));

/* to [ld] = n elements, then zeros. */
static inline void copy_bf16(const ls_bf16 *from, int64_t n, int64_t ld, ls_bf16 *to) {
    memcpy(to, from, (size_t)n * sizeof *to);
    memset(to + n, 0, (size_t)(ld - n) * sizeof *to);
}

/* to [cols, ld_to] = from [rows, ld_from] transposed; rows and cols are multiples of 4. */
static NOINLINE void transpose_words(const int32_t *from, int64_t ld_from, int64_t rows,
                                     int64_t cols, int32_t *to, int64_t ld_to) {
    for (int64_t i = 0; i < rows; i += 4) {
        for (int64_t j = 0; j < cols; j += 4) {
            const int32_t *at = from + i * ld_from + j;
            ls_quads_transpose(ls_quad_load(at), ls_quad_load(at + ld_from),
                               ls_quad_load(at + 2 * ld_from), ls_quad_load(at + 3 * ld_from),
                               to + j * ld_to + i, ld_to);
        }
    }
}

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
#include "runtime/device/cpu/k_attention_mmla.h"
#else
/* Keys come in whole units, D in whole words or steps of tiles. With tiles, a unit is what a
 * product over keys takes at a time, and so are rows of queries in one over rows. A lane of a
 * vector of rows has LANE_WORDS words one after the other. */
#if HAS_AMX
enum { KEY_UNIT = 32, ROW_UNIT = 32, DEPTH_UNIT = 32, LANE_WORDS = 1 };
#else
enum { KEY_UNIT = STRIP, ROW_UNIT = 1, DEPTH_UNIT = 2, LANE_WORDS = 1 };
#endif

/* Words of keys, LANE_WORDS vectors of them, become those of their lanes. */
LS_INLINE void store_words(const vi words[LANE_WORDS], int32_t *to) {
    *(vi *)to = words[0];
}

/* bf16 of keys j and j + 1 for the vector of rows from col on, as multiply_rows takes them. */
LS_INLINE void store_two_keys(vf first, vf second, ls_bf16 *to, int64_t j, int64_t col) {
    store_lanes(first, to + j * TILE + col);
    store_lanes(second, to + (j + 1) * TILE + col);
}

#if !HAS_AMX
/* C [STRIP, nv vectors] = (C if add) + sum over pairs k of A(m, k) B[k, :], with the word A(m, k)
 * at a[m * a_row + k * a_k]. b and c are aligned to vectors. */
LS_INLINE void pairs_nv(const int nv, const bool add, int64_t count, const word *a, int64_t a_row,
                        int64_t a_k, const int32_t *b, int64_t b_k, float *c, int64_t c_row) {
    vf sum[STRIP][WIDE];
#pragma GCC unroll 8
    for (int m = 0; m < STRIP; m++) {
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) {
            sum[m][v] = add ? ((const vf *)(c + m * c_row))[v] : (vf){0};
        }
    }
    for (int64_t k = 0; k < count; k++) {
        const vi *bk = (const vi *)(b + k * b_k);
#pragma GCC unroll 8
        for (int m = 0; m < STRIP; m++) {
            const pair_factor am = factor_of(a[m * a_row + k * a_k]);
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++) {
                sum[m][v] = add_pairs(sum[m][v], am, bk[v]);
            }
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < STRIP; m++) {
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) {
            ((vf *)(c + m * c_row))[v] = sum[m][v];
        }
    }
}

/* A row-major: its words along a row are what is summed over. */
static NOINLINE void pairs_rows(int nv, bool add, int64_t count, const word *a, int64_t lda,
                                const int32_t *b, int64_t ldb, float *c, int64_t ldc) {
    switch (2 * nv + add) {
    case 2:
        pairs_nv(1, false, count, a, lda, 1, b, ldb, c, ldc);
        break;
    case 3:
        pairs_nv(1, true, count, a, lda, 1, b, ldb, c, ldc);
        break;
    case 4:
        pairs_nv(2, false, count, a, lda, 1, b, ldb, c, ldc);
        break;
    case 5:
        pairs_nv(2, true, count, a, lda, 1, b, ldb, c, ldc);
        break;
    case 6:
        pairs_nv(3, false, count, a, lda, 1, b, ldb, c, ldc);
        break;
    default:
        pairs_nv(3, true, count, a, lda, 1, b, ldb, c, ldc);
    }
}

/* C += A^T B: a column of A's words is what is summed over. */
static NOINLINE void pairs_cols(int nv, int64_t count, const word *a, int64_t lda, const int32_t *b,
                                int64_t ldb, float *c, int64_t ldc) {
    switch (nv) {
    case 1:
        pairs_nv(1, true, count, a, 1, lda, b, ldb, c, ldc);
        break;
    case 2:
        pairs_nv(2, true, count, a, 1, lda, b, ldb, c, ldc);
        break;
    default:
        pairs_nv(3, true, count, a, 1, lda, b, ldb, c, ldc);
    }
}
#endif

/* Keys first .. first + count - 1 of k or v as words along D, and the words between two of them:
 * where they lie if they may stay there, or in `to` [BLOCK, ld] with zeros to the right of D and in
 * the rows that complete the last unit. */
static inline const word *keys_bf16(const ls_attention *op, const void *from, const tile_rows *rows,
                                    int64_t first, int64_t count, bool may_stay, ls_bf16 *to,
                                    int64_t *ld_words) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d);
    const ls_bf16 *at = (const ls_bf16 *)from + kv_offset(op, rows->batch, rows->kv_head, first);
    if (may_stay && count % KEY_UNIT == 0 && d % DEPTH_UNIT == 0 && op->kv_stride % 2 == 0) {
        *ld_words = op->kv_stride / 2;
        return (const word *)at;
    }
    for (int64_t j = 0; j < count; j++) {
        copy_bf16(at + j * op->kv_stride, d, ld, to + j * ld);
    }
    memset(to + count * ld, 0, (size_t)((round_up(count, KEY_UNIT) - count) * ld) * sizeof *to);
    *ld_words = ld / 2;
    return (const word *)to;
}

/* to [BLOCK / 2, ld] = the same keys as words along keys. */
static inline void pair_keys(const ls_attention *op, const void *from, const tile_rows *rows,
                             int64_t first, int64_t count, int32_t *to) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d), even = count - count % 2;
    const ls_bf16 *at = (const ls_bf16 *)from + kv_offset(op, rows->batch, rows->kv_head, first);
    for (int64_t j = 0; j < even; j += 2, at += 2 * op->kv_stride) {
        pair_rows(at, at + op->kv_stride, d, ld, to + j / 2 * ld);
    }
    memset(to + even / 2 * ld, 0,
           (size_t)((round_up(count, KEY_UNIT) - even) / 2 * ld) * sizeof *to);
    for (int64_t c = 0; even < count && c < d; c++) {
        to[even / 2 * ld + c] = at[c];
    }
}

/* Words along D of packed rows that products over D read. */
static inline int64_t depth_words(int64_t d) {
    return HAS_AMX ? round_up(d, DEPTH_UNIT) / 2 : round_up((d + 1) / 2, 4);
}

/* to [ceil(D / 2), TILE] = words along D of rows [TILE, ld]. */
static inline void rows_along_depth(const ls_bf16 *rows, int64_t d, int32_t *to) {
    transpose_words((const int32_t *)rows, ls_attention_ld(d) / 2, TILE, depth_words(d), to, TILE);
}

/* to [TILE / 2, ld] = words along rows. */
static inline void rows_along_rows(const ls_bf16 *rows, int64_t d, int32_t *to) {
    const int64_t ld = ls_attention_ld(d);
    for (int64_t i = 0; i < TILE; i += 2) {
        const ls_bf16 *row = rows + i * ld;
        pair_rows(row, row + ld, d, ld, to + i / 2 * ld);
    }
}

#if HAS_AMX
/* C [high tiles, wide tiles] from blocks of 2 x 2. */
static NOINLINE void tiles_multiply(int64_t high, int64_t wide, const ls_amx_block *whole) {
    for (int64_t i = 0; i < high; i += 2) {
        for (int64_t j = 0; j < wide; j += 2) {
            ls_amx_block t = *whole;
            t.a += i * t.a_tile;
            t.b += j * 64;
            t.c += i * LS_AMX_ROWS * t.c_row + j * 64;
            t.add = t.add ? t.c : NULL;
            switch (2 * (i + 1 < high) + (j + 1 < wide)) {
            case 3:
                ls_amx_multiply(2, 2, &t, 0);
                break;
            case 2:
                ls_amx_multiply(2, 1, &t, 0);
                break;
            case 1:
                ls_amx_multiply(1, 2, &t, 0);
                break;
            default:
                ls_amx_multiply(1, 1, &t, 0);
            }
        }
    }
}
#endif

/* out [keys, nv vectors of rows] = the products over D of keys (words along D) and rows (words
 * along D, [D / 2, TILE]). A row sees the keys before `visible` of it; vectors of rows of which
 * none sees a strip of keys may be left out of it. */
static inline void multiply_depth(int nv, int64_t d, int64_t keys, const word *k, int64_t ld_k,
                                  const int32_t *rows, const int32_t *visible, int64_t first_key,
                                  float *out) {
#if HAS_AMX
    (void)visible, (void)first_key;
    tiles_multiply(keys / LS_AMX_ROWS, nv,
                   &(ls_amx_block){.a = (const char *)k,
                                   .a_row = ld_k * 4,
                                   .a_tile = LS_AMX_ROWS * ld_k * 4,
                                   .a_k = 64,
                                   .b = (const char *)rows,
                                   .b_row = TILE * 4,
                                   .b_k = LS_AMX_WORDS * TILE * 4,
                                   .steps = depth_words(d) / LS_AMX_WORDS,
                                   .c = (char *)out,
                                   .c_row = TILE * 4});
#else
    for (int64_t j = 0, col = 0; j < keys; j += STRIP) {
        for (; visible[col + LANES - 1] <= first_key + j; col += LANES) {
            nv--;
        }
        pairs_rows(nv, false, (d + 1) / 2, k + j * ld_k, ld_k, rows + col, TILE,
                   out + j * TILE + col, TILE);
    }
#endif
}

/* out_t [D, nv vectors of rows] += the products over keys of k (of a key_block) and p
 * (words along keys, [keys / 2, TILE]). */
static inline void multiply_keys(int nv, int64_t d, int64_t keys, const int32_t *k,
                                 const int32_t *p, float *out_t) {
#if HAS_AMX
    tiles_multiply(round_up(d, LS_AMX_ROWS) / LS_AMX_ROWS, nv,
                   &(ls_amx_block){.a = (const char *)k,
                                   .a_row = BLOCK / 2 * 4,
                                   .a_tile = LS_AMX_ROWS * BLOCK / 2 * 4,
                                   .a_k = 64,
                                   .b = (const char *)p,
                                   .b_row = TILE * 4,
                                   .b_k = LS_AMX_WORDS * TILE * 4,
                                   .steps = keys / KEY_UNIT,
                                   .add = (const char *)out_t,
                                   .c = (char *)out_t,
                                   .add_row = TILE * 4,
                                   .c_row = TILE * 4});
#else
    for (int64_t i = 0; i < d; i += STRIP) {
        pairs_cols(nv, keys / 2, k + i, ls_attention_ld(d), p, TILE, out_t + i * TILE, TILE);
    }
#endif
}

/* out [keys, ld] += the products over rows [first, end) of the tile of p (bf16 [keys, TILE]) and b
 * (words along rows, [TILE / 2, ld]), for the `keys` keys of a strip or unit. */
static inline void multiply_rows(int64_t d, int64_t keys, int64_t first, int64_t end,
                                 const ls_bf16 *p, const int32_t *b, float *out) {
    const int64_t ld = ls_attention_ld(d), pair = first / ROW_UNIT * ROW_UNIT / 2;
#if HAS_AMX
    tiles_multiply(keys / LS_AMX_ROWS, round_up(d, LS_AMX_ROWS) / LS_AMX_ROWS,
                   &(ls_amx_block){.a = (const char *)(p + 2 * pair),
                                   .a_row = TILE * 2,
                                   .a_tile = LS_AMX_ROWS * TILE * 2,
                                   .a_k = 64,
                                   .b = (const char *)(b + pair * ld),
                                   .b_row = ld * 4,
                                   .b_k = LS_AMX_WORDS * ld * 4,
                                   .steps = (round_up(end, ROW_UNIT) - 2 * pair) / ROW_UNIT,
                                   .add = (const char *)out,
                                   .c = (char *)out,
                                   .add_row = ld * 4,
                                   .c_row = ld * 4});
#else
    (void)keys;
    for (int64_t col = 0, width; col < d; col += width) {
        const int nv = product_width((d - col + LANES - 1) / LANES);
        width = nv * LANES;
        pairs_rows(nv, true, (end + 1) / 2 - pair, (const word *)p + pair, TILE / 2,
                   b + pair * ld + col, ld, out + col, ld);
    }
#endif
}

#endif

/* keys_seen in whole units. */
static inline int64_t keys_seen_bf16(const tile_rows *rows, int64_t col, int64_t last,
                                     int64_t first_key) {
    return round_up(keys_seen(rows, col, last, first_key), KEY_UNIT);
}

/* No probability: words of keys [seen, keys), for the vector of rows at column col. */
static inline void zero_words(int32_t *words, int64_t seen, int64_t keys, int64_t col) {
    for (int64_t j = seen; j < keys; j += 2 * LANE_WORDS) {
        for (int n = 0; n < LANE_WORDS; n++) {
            *(vi *)(words + j / 2 * TILE + LANE_WORDS * col + n * LANES) = (vi){0};
        }
    }
}

/* Around products of bf16, in each thread. */
static inline void begin_products(ls_dtype dtype) {
#if HAS_AMX
    if (dtype == LS_BF16) {
        ls_amx_begin();
    }
#else
    (void)dtype;
#endif
}

static inline void end_products(ls_dtype dtype) {
#if HAS_AMX
    if (dtype == LS_BF16) {
        ls_amx_end();
    }
#else
    (void)dtype;
#endif
}

/* The keys of the block from `first` on, which lie far apart, come nearer. */
static inline void prefetch_keys(const ls_attention *op, const void *from, const tile_rows *rows,
                                 int64_t first) {
    const int64_t count = ls_min(BLOCK, op->kv_len - first);
    for (int64_t j = 0; j < count; j++) {
        const ls_bf16 *at =
            (const ls_bf16 *)from + kv_offset(op, rows->batch, rows->kv_head, first + j);
        for (int64_t c = 0; c < op->head_dim; c += 32) {
            __builtin_prefetch(at + c);
        }
    }
}

/* A row of the tile comes nearer: from far memory, many at once take little longer than one. */
static inline void prefetch_row(const void *from, int64_t at, int64_t n) {
    for (int64_t c = 0; c < n; c += 32) {
        __builtin_prefetch((const ls_bf16 *)from + at + c);
    }
}

static inline bool all_finite_bf16(const void *x, int64_t n) {
    const ls_bf16 *bits = x;
    int odd = 0;
    for (int64_t i = 0; i < n; i++) {
        odd |= (bits[i] & 0x7f80) == 0x7f80;
    }
    return !odd;
}

/* What products take of a block of keys. */
typedef struct key_block {
    const word *k, *v;    /* words along D; v in the backward pass alone */
    int64_t ld_k, ld_v;   /* words from key to key */
    const int32_t *pairs; /* words along keys of v, in the backward pass of k: [BLOCK / 2, ld], or
                             for tiles [D, BLOCK / 2] */
    bool finite;          /* what is in pairs */
} key_block;

static inline kept_keys kept_keys_take(const ls_attention *op, float **piece, int64_t kept,
                                       bool backward) {
    if (op->dtype != LS_BF16) {
        return kept_rows_take(piece, op->head_dim, kept);
    }
    const int64_t ld = ls_attention_ld(op->head_dim), slots = kept + 1;
    return (kept_keys){
        .backward = backward,
        .kept = kept,
        .head = -1,
        .k_halves = (ls_bf16 *)take_floats(piece, slots * BLOCK * ld / 2),
        .v_halves = backward ? (ls_bf16 *)take_floats(piece, slots * BLOCK * ld / 2) : NULL,
        .pairs = (int32_t *)take_floats(piece, slots * BLOCK / 2 * ld),
        .finite = (int32_t *)take_floats(piece, slots),
        .upright = HAS_AMX ? (int32_t *)take_floats(piece, BLOCK / 2 * ld) : NULL,
    };
}

/* Block number `block` of the kept ones, which begins at key `first`. */
static inline key_block kept_keys_block(kept_keys *keys, const ls_attention *op,
                                        const tile_rows *rows, int64_t block, int64_t first) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d), slot = ls_min(block, keys->kept);
    ls_bf16 *k = keys->k_halves + slot * BLOCK * ld;
    ls_bf16 *v = keys->backward ? keys->v_halves + slot * BLOCK * ld : NULL;
    int32_t *pairs = keys->pairs + slot * BLOCK / 2 * ld;
    key_block b = {(const word *)k, (const word *)v, ld / 2, ld / 2, pairs, false};
    if (block >= keys->kept || keys->finite[slot] < 0) {
        const int64_t count = ls_min(BLOCK, op->kv_len - first), whole = round_up(count, KEY_UNIT);
        const bool may_stay = block >= keys->kept;
        b.k = keys_bf16(op, op->k, rows, first, count, may_stay, k, &b.ld_k);
        if (keys->backward) {
            b.v = keys_bf16(op, op->v, rows, first, count, may_stay, v, &b.ld_v);
        }
        int32_t *upright = HAS_AMX ? keys->upright : pairs;
        pair_keys(op, keys->backward ? op->k : op->v, rows, first, count, upright);
        keys->finite[slot] = all_finite_bf16(upright, whole * ld);
#if HAS_AMX
        transpose_words(upright, ld, whole / 2, round_up(d, LS_AMX_ROWS), pairs, BLOCK / 2);
#endif
        prefetch_keys(op, op->k, rows, first + BLOCK);
        prefetch_keys(op, op->v, rows, first + BLOCK);
    }
    b.finite = keys->finite[slot];
    return b;
}

#else
static inline kept_keys kept_keys_take(const ls_attention *op, float **piece, int64_t kept,
                                       bool backward) {
    (void)backward;
    return kept_rows_take(piece, op->head_dim, kept);
}

static inline void begin_products(ls_dtype dtype) {
    (void)dtype;
}

static inline void end_products(ls_dtype dtype) {
    (void)dtype;
}
#endif
#endif
