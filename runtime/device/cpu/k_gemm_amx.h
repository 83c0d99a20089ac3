/* The micro-kernel of bf16 on AMX's tiles (k_amx.h), 32 x 32 sums, and the copies that it reads.
 * Included by k_gemm_tile.c of the level.
 *
 * A panel of B is that of the other levels, [words][32]: 16 words of it are two tiles side by side.
 * A panel of A is [16 words of K at a time][32 rows][16 words]: two tiles one below the other, each
 * 1 KiB in a row. Both are whole tiles, with zeros beyond the end of K.
 *
 * A block takes 64 cycles for 4 KiB of operands, 64 bytes a cycle, which the second cache alone
 * would not deliver. So pieces of K are short: the panel of B (24 KiB) stays in the first cache (48
 * KiB) while panels of A come by from the second, each fetched while the one before it is
 * multiplied. And since a block of C comes and goes once a piece, strips are so small that their
 * part of C stays in the second cache (2 MiB): 256 rows of 1024 columns. */
#ifndef LS_DEVICE_CPU_K_GEMM_AMX_H
#define LS_DEVICE_CPU_K_GEMM_AMX_H

#include "runtime/device/cpu/gemm.h"
#include "runtime/device/cpu/k_amx.h"

#if HAS_AMX
#include "runtime/device/cpu/k_gemm_pack.h"

enum {
    AMX_SIDE = 2 * LS_AMX_ROWS,         /* rows and columns of a block */
    AMX_STEP = LS_AMX_WORDS * AMX_SIDE, /* words of a panel between two tiles along K */
    AMX_ELEMS = 2 * LS_AMX_WORDS,       /* bf16 in a row of a tile of A */
    AMX_ROW_BYTES = LS_AMX_WORDS * 4,
};

static inline int64_t whole_steps(int64_t words) {
    return (words + LS_AMX_WORDS - 1) / LS_AMX_WORDS;
}

static void multiply_amx(int64_t rows, int64_t words, const uint32_t *a, const uint32_t *b,
                         const float *add, int64_t ld_add, float *product, int64_t ld) {
    (void)rows;
    const ls_amx_block block = {.a = (const char *)a,
                                .b = (const char *)b,
                                .a_row = AMX_ROW_BYTES,
                                .a_tile = LS_AMX_ROWS * AMX_ROW_BYTES,
                                .a_k = AMX_STEP * 4,
                                .b_row = AMX_SIDE * 4,
                                .b_k = AMX_STEP * 4,
                                .steps = whole_steps(words),
                                .add = (const char *)add,
                                .add_row = ld_add * 4,
                                .c = (char *)product,
                                .c_row = ld * 4};
    for (int64_t row = AMX_SIDE; row < 2 * AMX_SIDE; row++) { /* of the block that comes next */
        __builtin_prefetch(product + row * ld, 1);
        __builtin_prefetch(product + row * ld + LS_AMX_ROWS, 1);
    }
    ls_amx_multiply(2, 2, &block, block.steps * AMX_STEP * 4);
}

/* A panel of A from rows of src. Rows from `lanes` on repeat the last one. */
static void amx_panel_of_rows(const char *src, int64_t row_bytes, int64_t lanes, int64_t k,
                              uint32_t *dst) {
    const int64_t whole = k / AMX_ELEMS, rest = k % AMX_ELEMS;
    for (int64_t row = 0; row < AMX_SIDE; row++, dst += LS_AMX_WORDS) {
        const char *from = src + (row < lanes ? row : lanes - 1) * row_bytes;
        for (int64_t step = 0; step < whole; step++) {
            __builtin_prefetch(from + 2 * row_bytes + step * AMX_ROW_BYTES);
            memcpy(dst + step * AMX_STEP, from + step * AMX_ROW_BYTES, AMX_ROW_BYTES);
        }
        if (rest > 0) {
            uint32_t *last = dst + whole * AMX_STEP;
            memset(last, 0, AMX_ROW_BYTES);
            memcpy(last, from + whole * AMX_ROW_BYTES, (size_t)rest * 2);
        }
    }
}

/* One step of a panel of A from columns of src: 16 words of each lane side by side, then turned. */
static void amx_step_of_columns(const char *src, int64_t row_bytes, int64_t lanes, int64_t k,
                                uint32_t *dst) {
    _Alignas(64) uint32_t words[LS_AMX_WORDS][AMX_SIDE];
    for (int64_t w = (k + 1) / 2; w < LS_AMX_WORDS; w++) {
        memset(words[w], 0, sizeof words[w]);
    }
    pack_columns(LS_AMX_ROWS, true, src, row_bytes, lanes, k, AMX_SIDE, AMX_SIDE, words[0], 0);
    for (int64_t lane = 0; lane < AMX_SIDE; lane += 4) {
        for (int64_t w = 0; w < LS_AMX_WORDS; w += 4) {
            ls_quads_transpose(ls_quad_load(&words[w][lane]), ls_quad_load(&words[w + 1][lane]),
                               ls_quad_load(&words[w + 2][lane]), ls_quad_load(&words[w + 3][lane]),
                               dst + lane * LS_AMX_WORDS + w, LS_AMX_WORDS);
        }
    }
}

static void pack_a_amx(bool rows, const void *src, int64_t ld, int64_t lanes, int64_t k,
                       int64_t step, int64_t width, uint32_t *dst, int64_t panel_words) {
    (void)width;
    const int64_t row_bytes = ld * 2;
    for (int64_t first = 0; first < lanes; first += step, dst += panel_words) {
        const int64_t left = lanes - first < AMX_SIDE ? lanes - first : AMX_SIDE;
        if (rows) {
            amx_panel_of_rows((const char *)src + first * row_bytes, row_bytes, left, k, dst);
            continue;
        }
        const char *from = (const char *)src + first * 2;
        for (int64_t at = 0; at < k; at += AMX_ELEMS) {
            amx_step_of_columns(from + at * row_bytes, row_bytes, left,
                                k - at < AMX_ELEMS ? k - at : AMX_ELEMS,
                                dst + at / AMX_ELEMS * AMX_STEP);
        }
    }
}

static void pack_b_amx(bool rows, const void *src, int64_t ld, int64_t lanes, int64_t k,
                       int64_t step, int64_t width, uint32_t *dst, int64_t panel_words) {
    pack_words(LS_AMX_ROWS, true, rows, src, ld, lanes, k, step, width, dst, panel_words);
    const int64_t words = (k + 1) / 2, more = whole_steps(words) * LS_AMX_WORDS - words;
    for (int64_t first = 0; first < lanes; first += step, dst += panel_words) {
        memset(dst + words * width, 0, (size_t)(more * width) * sizeof *dst);
    }
}

#define TILE_AMX                                                                                   \
    {                                                                                              \
        .rows = AMX_SIDE, .cols = AMX_SIDE, .a_width = AMX_SIDE, .b_width = AMX_SIDE,              \
        .piece_words = 192, .block_n = 1024, .block_n_kept = 1024, .strip_panels = 8,              \
        .pack_a = pack_a_amx, .pack_b = pack_b_amx, .multiply = multiply_amx,                      \
        .begin = ls_amx_begin, .end = ls_amx_end                                                   \
    }

#endif
#endif
