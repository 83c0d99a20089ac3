/* Reductions of the ranks' vectors against a plain walk of the tree, element by element: every
 * type, reduction, number of places, in place and elsewhere, whole and odd lengths, through and
 * past the caches. LOCKSTEP_ISA chooses the level. */
#include "collectives/combine.h"
#include "runtime/base/cpu.h"
#include "runtime/base/rng.h"
#include "tests/test.h"

enum { RANKS = 9, PLACES = 4, ELEMS = 1500, GUARD = 16 };

static char vectors[RANKS][ELEMS * 8], results[PLACES][(ELEMS + GUARD) * 8];

static double number(ls_dtype dtype, const char *at) {
    return dtype == LS_F32    ? (double)*(const float *)at
           : dtype == LS_F64  ? *(const double *)at
           : dtype == LS_BF16 ? (double)ls_bf16_to_f32(*(const ls_bf16 *)at)
                              : (double)ls_f16_to_f32(*(const ls_f16 *)at);
}

static void put_number(ls_dtype dtype, char *at, double x) {
    switch (dtype) {
    case LS_F32:
        *(float *)at = (float)x;
        break;
    case LS_F64:
        *(double *)at = x;
        break;
    case LS_BF16:
        *(ls_bf16 *)at = ls_bf16_from_f32((float)x);
        break;
    default:
        *(ls_f16 *)at = ls_f16_from_f32((float)x);
        break;
    }
}

/* In the arithmetic of the type, or fp32 for 16 bits: each sum is rounded. */
static double join(ls_dtype dtype, ls_reduce op, double a, double b) {
    if (op == LS_MAX || op == LS_MIN) {
        return (op == LS_MAX ? a > b : a < b) ? a : b;
    }
    return dtype == LS_F64 ? a + b : (double)((float)a + (float)b);
}

/* The balanced tree: its left child has the largest power of two of leaves below all. */
static double plain_number(ls_dtype dtype, ls_reduce op, int first, int ranks, int64_t i) {
    if (ranks == 1) {
        return number(dtype, vectors[first] + i * (int64_t)ls_dtype_bytes(dtype));
    }
    int left = 1;
    while (left * 2 < ranks) {
        left *= 2;
    }
    return join(dtype, op, plain_number(dtype, op, first, left, i),
                plain_number(dtype, op, first + left, ranks - left, i));
}

static uint64_t integer(ls_dtype dtype, int rank, int64_t i) {
    return dtype == LS_I32   ? (uint64_t)(int64_t)((const int32_t *)vectors[rank])[i]
           : dtype == LS_I64 ? (uint64_t)((const int64_t *)vectors[rank])[i]
                             : ((const uint64_t *)vectors[rank])[i];
}

static bool is_less(ls_dtype dtype, uint64_t a, uint64_t b) {
    return dtype == LS_U64 ? a < b : (int64_t)a < (int64_t)b;
}

static void put_plain(ls_dtype dtype, ls_reduce op, int ranks, int64_t i, char *at) {
    if (dtype <= LS_F16) {
        const double node = plain_number(dtype, op, 0, ranks, i);
        put_number(dtype, at,
                   op != LS_AVG      ? node
                   : dtype == LS_F64 ? node / ranks
                                     : (double)((float)node / (float)ranks));
        return;
    }
    uint64_t x = integer(dtype, 0, i);
    for (int rank = 1; rank < ranks; rank++) {
        const uint64_t y = integer(dtype, rank, i);
        x = op == LS_MAX   ? (is_less(dtype, x, y) ? y : x)
            : op == LS_MIN ? (is_less(dtype, y, x) ? y : x)
                           : x + y;
    }
    if (dtype == LS_I32) {
        *(int32_t *)at = (int32_t)x / (op == LS_AVG ? ranks : 1);
    } else if (dtype == LS_I64) {
        *(int64_t *)at = (int64_t)x / (op == LS_AVG ? ranks : 1);
    } else {
        *(uint64_t *)at = x / (op == LS_AVG ? (uint64_t)ranks : 1);
    }
}

static void fill(ls_dtype dtype, int64_t seed) {
    for (int rank = 0; rank < RANKS; rank++) {
        for (int64_t i = 0; i < ELEMS; i++) {
            const ls_rng_block b = ls_rng_draw(5, (uint64_t)seed, (uint64_t)(rank * ELEMS + i));
            const uint64_t bits = (uint64_t)b.v[0] << 32 | b.v[1];
            char *at = vectors[rank] + i * (int64_t)ls_dtype_bytes(dtype);
            if (dtype <= LS_F16) { /* of several magnitudes, so that the order counts */
                put_number(dtype, at, (double)(int64_t)bits * (bits % 3 ? 0x1p-63 : 0x1p-55));
            } else if (dtype == LS_I32) {
                *(int32_t *)at = (int32_t)bits;
            } else {
                *(uint64_t *)at = bits;
            }
        }
    }
}

/* in: the rank in whose vector the first place lies; -1: elsewhere. */
static void check(ls_dtype dtype, ls_reduce op, int ranks, int places, int in, int64_t count,
                  bool stream) {
    static char expected[ELEMS * 8];
    const int64_t bytes = (int64_t)ls_dtype_bytes(dtype);
    const void *from[RANKS];
    void *to[PLACES];
    fill(dtype, count + ranks);
    for (int64_t i = 0; i < count; i++) {
        put_plain(dtype, op, ranks, i, expected + i * bytes);
    }
    memset(results, 0x55, sizeof results);
    for (int rank = 0; rank < ranks; rank++) {
        from[rank] = vectors[rank];
    }
    for (int j = 0; j < places; j++) { /* an element beside the beginning of a line, too */
        to[j] = j == 0 && in >= 0 ? vectors[in] : results[j] + j * bytes;
    }
    ls_combine_ranks(dtype, op, ranks, from, places, to, count, stream);
    for (int j = 0; j < places; j++) {
        CHECK(memcmp(to[j], expected, (size_t)(count * bytes)) == 0);
        for (int64_t i = 0; i < 8 && to[j] != vectors[in < 0 ? 0 : in]; i++) {
            CHECK_INT(((const char *)to[j])[count * bytes + i], 0x55);
        }
    }
}

int main(void) {
    const ls_dtype dtypes[] = {LS_F32, LS_F64, LS_BF16, LS_F16, LS_I32, LS_I64, LS_U64};
    const int64_t counts[] = {0, 1, 7, 64, 511, 512, 513, ELEMS};
    ls_isa isa;
    if (ls_cpu_isa(&isa) != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        return 77;
    }
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        for (int op = LS_SUM; op <= LS_SUM_TREE; op++) {
            for (int ranks = 1; ranks <= RANKS; ranks++) {
                for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
                    const int places = 1 + (int)(c + (size_t)ranks) % PLACES;
                    check(dtypes[d], (ls_reduce)op, ranks, places, -1, counts[c], c % 3 == 0);
                    check(dtypes[d], (ls_reduce)op, ranks, 2, (int)c % ranks, counts[c], false);
                    check(dtypes[d], (ls_reduce)op, ranks, 1, (ranks - 1) / 2, counts[c], true);
                }
            }
        }
    }
    return test_end();
}
