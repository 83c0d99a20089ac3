/* What the forward and the backward pass of attention share: vectors, products of small matrices,
 * packing, and the rows of a tile. Included by k_attention*.c, compiled once a level (isa.h).
 *
 * Scores are kept transposed, S^T[key][row], with neighbouring query rows in neighbouring lanes.
 * So the softmax of a row never leaves its lane (maxima and sums over keys are plain vector
 * operations), keys and values enter as broadcast scalars, in the order in which they are stored,
 * and a NaN in one row cannot reach another. */
#ifndef LS_DEVICE_CPU_K_ATTENTION_TILE_H
#define LS_DEVICE_CPU_K_ATTENTION_TILE_H

#include "runtime/device/cpu/k_attention_scratch.h"
#include "runtime/device/cpu/kernel.h"

#include <string.h>

/* LANES floats a vector; the product kernel keeps STRIP x up to 3 vectors of C in registers: 12 of
 * 16 registers, or 24 of 32. */
#if defined(__AVX512F__)
enum { LANES = 16, STRIP = 8 };
#elif defined(__AVX__)
enum { LANES = 8, STRIP = 4 };
#elif defined(__aarch64__)
enum { LANES = 4, STRIP = 8 };
#else
enum { LANES = 4, STRIP = 4 };
#endif
enum { TILE = LS_ATTENTION_TILE, BLOCK = LS_ATTENTION_BLOCK, WIDE = 3 };

typedef float vf __attribute__((vector_size(LANES * 4), may_alias));
typedef float vf_any __attribute__((vector_size(LANES * 4), may_alias, aligned(4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4), may_alias));

/* Inner loops keep their registers to themselves when they are functions of their own. */
#define NOINLINE __attribute__((noinline))

LS_INLINE vf splat(float x) {
    return x - (vf){0}; /* x - 0 is x, also for -0 */
}

LS_INLINE vf select_vf(vi mask, vf yes, vf no) {
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

/* a > b ? a : b by lane, b where one is NaN; written so that it becomes one instruction on x86 and
 * two on aarch64, where GCC takes the loop through memory at the levels with SVE. */
LS_INLINE vf max_vf(vf a, vf b) {
#if defined(__aarch64__)
    return select_vf((vi)(a > b), a, b);
#else
    vf r = b;
#pragma omp simd
    for (int lane = 0; lane < LANES; lane++) {
        r[lane] = a[lane] > b[lane] ? a[lane] : b[lane];
    }
    return r;
#endif
}

static inline int64_t round_up(int64_t x, int64_t unit) {
    return (x + unit - 1) / unit * unit;
}

/* ls_vec_exp_softmax of each lane. */
LS_INLINE vf exp_vf(vf x) {
    const vf shift = splat(LS_EXPONENT_SHIFT);
    x = max_vf(splat(LS_SOFTMAX_LEAST), x);
    const vf biased = x * LS_LOG2_E + shift;
    const vf f = x * LS_LOG2_E - (biased - shift);
    return LS_EXP2_POLYNOMIAL(f) * (vf)((vi)biased << 23);
}

/* C [STRIP, nv vectors] = (C if add) + sum_k A(m, k) B[k, :], with A(m, k) at
 * a[m * a_row + k * a_k]. b and c are aligned to vectors. */
LS_INLINE void product_nv(const int nv, const bool add, int64_t count, const float *a,
                          int64_t a_row, int64_t a_k, const float *b, int64_t b_k, float *c,
                          int64_t c_row) {
    vf sum[STRIP][WIDE];
#pragma GCC unroll 8
    for (int m = 0; m < STRIP; m++) {
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) {
            sum[m][v] = add ? ((const vf *)(c + m * c_row))[v] : (vf){0};
        }
    }
#pragma GCC unroll 2
    for (int64_t k = 0; k < count; k++) {
        const vf *bk = (const vf *)(b + k * b_k);
#pragma GCC unroll 8
        for (int m = 0; m < STRIP; m++) {
            const float am = a[m * a_row + k * a_k];
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++) {
                sum[m][v] += am * bk[v];
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

/* C [STRIP, nv vectors] = sum over k < count of A[m, k] B[k, :] (+ C if add); A row-major. */
static NOINLINE void product_rows(int nv, bool add, int64_t count, const float *a, int64_t lda,
                                  const float *b, int64_t ldb, float *c, int64_t ldc) {
    if (add) {
        switch (nv) {
        case 1:
            product_nv(1, true, count, a, lda, 1, b, ldb, c, ldc);
            break;
        case 2:
            product_nv(2, true, count, a, lda, 1, b, ldb, c, ldc);
            break;
        default:
            product_nv(3, true, count, a, lda, 1, b, ldb, c, ldc);
        }
        return;
    }
    switch (nv) {
    case 1:
        product_nv(1, false, count, a, lda, 1, b, ldb, c, ldc);
        break;
    case 2:
        product_nv(2, false, count, a, lda, 1, b, ldb, c, ldc);
        break;
    default:
        product_nv(3, false, count, a, lda, 1, b, ldb, c, ldc);
    }
}

/* C [STRIP, nv vectors] += sum over k < count of A[k, m] B[k, :]. */
static NOINLINE void product_cols(int nv, int64_t count, const float *a, int64_t lda,
                                  const float *b, int64_t ldb, float *c, int64_t ldc) {
    switch (nv) {
    case 1:
        product_nv(1, true, count, a, 1, lda, b, ldb, c, ldc);
        break;
    case 2:
        product_nv(2, true, count, a, 1, lda, b, ldb, c, ldc);
        break;
    default:
        product_nv(3, true, count, a, 1, lda, b, ldb, c, ldc);
    }
}

/* Vectors that the next product takes of `left`; 4 go as 2 + 2, since one alone is slow. */
static inline int product_width(int64_t left) {
    return left == 4 ? 2 : (int)ls_min(left, WIDE);
}

/* The rows of queries that one task looks at together. */
typedef struct tile_rows {
    int64_t batch, kv_head;
    int64_t group;        /* query heads of the key/value head */
    int64_t first, count; /* rows first .. first + count - 1; row = token * group + head of group */
    int64_t past;         /* a row sees keys up to its token + past: kv_len - q_len, or all */
    /* A row sees keys begin .. visible - 1; both ascend. Rows past the end see as the last. */
    _Alignas(64) int32_t begin[TILE];
    _Alignas(64) int32_t visible[TILE];
} tile_rows;

static inline int64_t row_token(const tile_rows *rows, int64_t row) {
    return (rows->first + row) / rows->group;
}

static inline int64_t row_head(const tile_rows *rows, int64_t row) {
    return rows->kv_head * rows->group + (rows->first + row) % rows->group;
}

static inline int64_t tile_count(const ls_attention *op) {
    return (op->heads / op->kv_heads * op->q_len + TILE - 1) / TILE;
}

static inline void tile_rows_init(tile_rows *rows, const ls_attention *op, int64_t batch,
                                  int64_t kv_head, int64_t tile) {
    rows->batch = batch;
    rows->kv_head = kv_head;
    rows->group = op->heads / op->kv_heads;
    rows->first = tile * TILE;
    rows->count = ls_min(TILE, rows->group * op->q_len - rows->first);
    rows->past = op->full ? op->kv_len : op->kv_len - op->q_len;
    for (int64_t i = 0; i < TILE; i++) {
        int64_t token = row_token(rows, ls_min(i, rows->count - 1));
        rows->begin[i] = (int32_t)ls_attention_first(op, batch, token);
        rows->visible[i] = (int32_t)ls_attention_visible(op, token);
    }
}

/* Where the keys that the tile sees begin, in whole blocks from key `from` on. */
static inline int64_t tile_begin(const tile_rows *rows, int64_t from) {
    return from + (rows->begin[0] > from ? (rows->begin[0] - from) / BLOCK * BLOCK : 0);
}

/* Do the rows from column col to `last` not all see keys first_key .. first_key + keys - 1? */
static inline bool partly_seen(const tile_rows *rows, int64_t col, int64_t last, int64_t first_key,
                               int64_t keys) {
    return first_key + keys > rows->visible[col] || first_key < rows->begin[last];
}

/* By lane, for the vector of rows from column col: is key first_key + j seen? */
typedef struct seen_keys {
    vi begin, visible;
} seen_keys;

LS_INLINE seen_keys seen_keys_of(const tile_rows *rows, int64_t col, int64_t first_key) {
    return (seen_keys){*(const vi *)(rows->begin + col) - (int32_t)first_key,
                       *(const vi *)(rows->visible + col) - (int32_t)first_key};
}

LS_INLINE vi is_seen(seen_keys keys, int64_t j) {
    return (keys.visible > (int32_t)j) & (keys.begin <= (int32_t)j);
}

/* Element offsets of a row of the tile, and of a key. */
static inline int64_t q_offset(const ls_attention *op, const tile_rows *rows, int64_t row) {
    return rows->batch * op->q_batch + row_token(rows, row) * op->q_stride +
           row_head(rows, row) * op->head_dim;
}

static inline int64_t o_offset(const ls_attention *op, const tile_rows *rows, int64_t row) {
    return ls_attention_out_at(op, rows->batch, row_head(rows, row), row_token(rows, row));
}

static inline int64_t lse_offset(const ls_attention *op, const tile_rows *rows, int64_t row) {
    return ls_attention_lse_at(op, rows->batch, row_head(rows, row), row_token(rows, row));
}

static inline int64_t kv_offset(const ls_attention *op, int64_t batch, int64_t kv_head,
                                int64_t key) {
    return batch * op->kv_batch + key * op->kv_stride + kv_head * op->head_dim;
}

/* to[n] = from[offset ...], in fp32. */
static inline void load_row(ls_dtype dtype, const void *from, int64_t offset, int64_t n,
                            float *restrict to) {
    if (dtype == LS_F32) {
        memcpy(to, (const float *)from + offset, (size_t)n * sizeof(float));
        return;
    }
    const ls_bf16 *x = (const ls_bf16 *)from + offset;
    for (int64_t i = 0; i < n; i++) {
        to[i] = ls_bf16_to_f32(x[i]);
    }
}

static inline void store_row(ls_dtype dtype, const float *restrict from, int64_t n, void *to,
                             int64_t offset) {
    if (dtype == LS_F32) {
        memcpy((float *)to + offset, from, (size_t)n * sizeof(float));
        return;
    }
    ls_bf16 *y = (ls_bf16 *)to + offset;
    for (int64_t i = 0; i < n; i++) {
        y[i] = ls_bf16_from_f32(from[i]);
    }
}

/* to [BLOCK, ld] = keys first .. first + count - 1 of k or v, with zeros to the right of D and in
 * the rows that complete the last strip. */
static inline void pack_keys(const ls_attention *op, const void *from, int64_t batch,
                             int64_t kv_head, int64_t first, int64_t count, float *to) {
    const int64_t d = op->head_dim, ld = ls_attention_ld(d), width = round_up(d, 16);
    for (int64_t j = 0; j < count; j++) {
        load_row(op->dtype, from, kv_offset(op, batch, kv_head, first + j), d, to + j * ld);
        for (int64_t i = d; i < width; i++) {
            to[j * ld + i] = 0.0f;
        }
    }
    for (int64_t j = count; j < round_up(count, STRIP); j++) {
        memset(to + j * ld, 0, (size_t)width * sizeof(float));
    }
}

/* A row becomes a column of a transposed tile, and back. */
static inline void put_column(const float *from, int64_t n, float *to) {
    for (int64_t i = 0; i < n; i++) {
        to[i * TILE] = from[i];
    }
}

static inline void scale_row(float factor, int64_t n, float *x) {
    for (int64_t i = 0; i < n; i++) {
        x[i] *= factor;
    }
}

static inline void put_zero_column(int64_t n, float *to) {
    for (int64_t i = 0; i < n; i++) {
        to[i * TILE] = 0.0f;
    }
}

static inline void get_column(const float *from, int64_t n, float factor, float *to) {
    for (int64_t i = 0; i < n; i++) {
        to[i] = factor * from[i * TILE];
    }
}

/* Keys of the block from first_key on up to the last that rows from column col to `last` see, in
 * whole strips. */
static inline int64_t keys_seen(const tile_rows *rows, int64_t col, int64_t last,
                                int64_t first_key) {
    const int64_t keys = ls_min(BLOCK, rows->visible[last] - first_key);
    return keys > 0 && rows->begin[col] < first_key + keys ? round_up(keys, STRIP) : 0;
}

/* A masked probability is 0, but 0 times a NaN or an infinity that the row does not see would be a
 * NaN. Blocks on the diagonal are therefore looked at first, and those that are not finite go
 * through add_visible_*, which leave masked terms out. */
static inline bool all_finite(const float *x, int64_t rows, int64_t cols, int64_t ld) {
    int odd = 0;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            odd |= !(x[i * ld + j] * 0.0f == 0.0f);
        }
    }
    return !odd;
}

/* out_t[i, c] += sum_j a[j, i] p[j, c] over the keys j that column c sees; col <= c < col + width.
 */
static inline void add_visible_cols(const tile_rows *rows, int64_t col, int64_t width,
                                    int64_t first_key, int64_t d, const float *a, int64_t lda,
                                    const float *p, float *out_t) {
    for (int64_t c = col; c < col + width; c++) {
        const int64_t before = rows->begin[c] - first_key;
        const int64_t keys = ls_min(BLOCK, rows->visible[c] - first_key);
        for (int64_t j = before > 0 ? before : 0; j < keys; j++) {
            for (int64_t i = 0; i < d; i++) {
                out_t[i * TILE + c] += a[j * lda + i] * p[j * TILE + c];
            }
        }
    }
}

/* out[j, i] += sum_c p[j, c] b[c, i] over the rows c of the tile that see key first_key + j. */
static inline void add_visible_rows(const tile_rows *rows, int64_t first_key, int64_t keys,
                                    int64_t d, const float *p, const float *b, int64_t ldb,
                                    float *out, int64_t ld_out) {
    for (int64_t j = 0; j < keys; j++) {
        for (int64_t c = 0; c < rows->count; c++) {
            const int64_t key = first_key + j;
            const bool seen = rows->begin[c] <= key && key < rows->visible[c];
            for (int64_t i = 0; seen && i < d; i++) {
                out[j * ld_out + i] += p[j * TILE + c] * b[c * ldb + i];
            }
        }
    }
}

/* A piece of scratch memory, in floats; pieces start at 64-byte lines. */
static inline float *take_floats(float **free_floats, int64_t count) {
    float *piece = *free_floats;
    *free_floats += round_up(count, 16);
    return piece;
}

/* Blocks of keys in the forms that products take. A thread makes them once for all tiles that it
 * computes of a head, or of a range of its keys; side by side they take fewer pages and sets of the
 * cache, too, than rows of k and v. Those from `kept` on are made for each tile, in the last slot.
 * Products of bf16 have forms of their own (k_attention_bf16.h). */
typedef struct kept_keys {
    bool backward;
    int64_t kept, head;
    float *k, *v;                 /* [kept + 1, BLOCK, ld] */
    ls_bf16 *k_halves, *v_halves; /* [kept + 1, BLOCK, ld]; v in the backward pass alone */
    int32_t *pairs;               /* [kept + 1, BLOCK / 2, ld] */
    int32_t *finite;              /* [kept + 1] are pairs? -1: not made of this head so far */
    int32_t *upright;             /* [BLOCK / 2, ld]: pairs before they are turned for tiles */
} kept_keys;

static inline kept_keys kept_rows_take(float **piece, int64_t d, int64_t kept) {
    const int64_t floats = (kept + 1) * BLOCK * ls_attention_ld(d);
    return (kept_keys){.kept = kept,
                       .head = -1,
                       .k = take_floats(piece, floats),
                       .v = take_floats(piece, floats),
                       .finite = (int32_t *)take_floats(piece, kept + 1)};
}

/* What was kept of another head is of no use. */
static inline void kept_keys_begin(kept_keys *keys, int64_t head) {
    if (keys->head != head) {
        keys->head = head;
        memset(keys->finite, -1, (size_t)(keys->kept + 1) * sizeof *keys->finite);
    }
}

/* What products of fp32 take of a block of keys: [BLOCK, ld]. */
typedef struct key_rows {
    const float *k, *v;
} key_rows;

/* Block number `block` of the kept ones, `count` keys from `first` on. */
static inline key_rows kept_rows_block(kept_keys *keys, const ls_attention *op,
                                       const tile_rows *rows, int64_t block, int64_t first,
                                       int64_t count) {
    const int64_t slot = ls_min(block, keys->kept);
    const int64_t at = slot * BLOCK * ls_attention_ld(op->head_dim);
    if (block >= keys->kept || keys->finite[slot] < 0) {
        pack_keys(op, op->k, rows->batch, rows->kv_head, first, count, keys->k + at);
        pack_keys(op, op->v, rows->batch, rows->kv_head, first, count, keys->v + at);
        keys->finite[slot] = 0;
    }
    return (key_rows){keys->k + at, keys->v + at};
}

static inline ls_status check_attention(const ls_device *dev, const ls_attention *op,
                                        bool backward) {
    LS_TRY(ls_check_attention(dev, op, backward));
    if (op->kv_len > INT32_MAX - BLOCK) {
        return LS_FAIL(LS_E_UNSUPPORTED, "attention: kv_len is %lld; the cpu device takes %d",
                       (long long)op->kv_len, INT32_MAX - BLOCK);
    }
    return LS_OK;
}

#endif
