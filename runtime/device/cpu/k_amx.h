/* Products of bf16 on AMX's tiles: 8 registers of 16 rows x 64 bytes. Included by files of the
 * level that has them (isa.h).
 *
 * With fp32 sums C [16, 16], A holds 16 rows of 32 bf16 as they lie in a row-major matrix, and B 16
 * words for each of 16 columns: a word is two bf16 that are neighbours along K, the first in the
 * low half. One instruction multiplies them in 16 cycles, while a tile takes 8 to load from the
 * first cache, so that a block of 2 x 2 tiles of C, which loads one tile a product, is not held up.
 *
 * Plain assembly, because GCC's intrinsics do not say that they read memory. */
#ifndef LS_DEVICE_CPU_K_AMX_H
#define LS_DEVICE_CPU_K_AMX_H

#if defined(__AMX_BF16__)
#define HAS_AMX 1

#include "runtime/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    LS_AMX_ROWS = 16,  /* of A and C; columns of B and C */
    LS_AMX_WORDS = 16, /* along K in a tile of A or B */
};

/* Numbers of tile registers are part of instructions: literals. Strides are in bytes. */
#define LS_AMX_TEXT_(x) #x
#define LS_AMX_ZERO(t)  __asm__ volatile("tilezero %%tmm" LS_AMX_TEXT_(t)::: "memory")
#define LS_AMX_LOAD(t, from, stride)                                                               \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" LS_AMX_TEXT_(t)::"r"(from), "r"(stride)          \
                     : "memory")
#define LS_AMX_STORE(t, to, stride)                                                                \
    __asm__ volatile("tilestored %%tmm" LS_AMX_TEXT_(t) ", (%0,%1,1)" ::"r"(to), "r"(stride)       \
                     : "memory")
/* C += A B */
#define LS_AMX_MULTIPLY(c, a, b)                                                                   \
    __asm__ volatile(                                                                              \
        "tdpbf16ps %%tmm" LS_AMX_TEXT_(b) ", %%tmm" LS_AMX_TEXT_(a) ", %%tmm" LS_AMX_TEXT_(c)::    \
            : "memory")

/* All tiles whole, for the calling thread. The registers are state that a switch between threads
 * saves and that keeps a core from its deepest sleep: released when the work is done. */
static inline void ls_amx_begin(void) {
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } whole = {.palette = 1,
               .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
               .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ volatile("ldtilecfg %0" ::"m"(whole) : "memory");
}

static inline void ls_amx_end(void) {
    __asm__ volatile("tilerelease" ::: "memory");
}

/* Operands of a block of tiles. Steps are bytes: of A and C from a row to the next, of B from the
 * words of a step of two along K to the next; *_k from one tile along K to the next. */
typedef struct ls_amx_block {
    const char *a, *b;
    int64_t a_row, a_tile, a_k; /* a_tile: between the upper and the lower tile */
    int64_t b_row, b_k;         /* the right tile of B lies 64 bytes beside the left */
    int64_t steps;              /* tiles along K */
    const char *add;            /* what the sums begin with; NULL: zeros */
    char *c;
    int64_t add_row, c_row;
} ls_amx_block;

/* C [16 high, 16 wide] tiles of sums; high and wide are 1 or 2, constants. prefetch: bytes from an
 * element of A to one that will be wanted in the next block, brought to the first cache; 0: none.
 */
__attribute__((always_inline)) static inline void
ls_amx_multiply(const int high, const int wide, const ls_amx_block *t, const int64_t prefetch) {
    const char *add = t->add, *below = add + 16 * t->add_row;
    if (add) {
        LS_AMX_LOAD(0, add, t->add_row);
        if (wide == 2) {
            LS_AMX_LOAD(1, add + 64, t->add_row);
        }
        if (high == 2) {
            LS_AMX_LOAD(2, below, t->add_row);
        }
        if (high == 2 && wide == 2) {
            LS_AMX_LOAD(3, below + 64, t->add_row);
        }
    } else {
        LS_AMX_ZERO(0);
        LS_AMX_ZERO(1);
        LS_AMX_ZERO(2);
        LS_AMX_ZERO(3);
    }
    const char *a = t->a, *b = t->b;
    for (int64_t k = 0; k < t->steps; k++, a += t->a_k, b += t->b_k) {
        for (int line = 0; prefetch && line < high * LS_AMX_ROWS; line++) {
            __builtin_prefetch(a + prefetch + line * 64);
        }
        LS_AMX_LOAD(4, a, t->a_row);
        LS_AMX_LOAD(6, b, t->b_row);
        LS_AMX_MULTIPLY(0, 4, 6);
        if (wide == 2) {
            LS_AMX_LOAD(7, b + 64, t->b_row);
            LS_AMX_MULTIPLY(1, 4, 7);
        }
        if (high == 2) {
            LS_AMX_LOAD(5, a + t->a_tile, t->a_row);
            LS_AMX_MULTIPLY(2, 5, 6);
        }
        if (high == 2 && wide == 2) {
            LS_AMX_MULTIPLY(3, 5, 7);
        }
    }
    LS_AMX_STORE(0, t->c, t->c_row);
    if (wide == 2) {
        LS_AMX_STORE(1, t->c + 64, t->c_row);
    }
    if (high == 2) {
        LS_AMX_STORE(2, t->c + 16 * t->c_row, t->c_row);
    }
    if (high == 2 && wide == 2) {
        LS_AMX_STORE(3, t->c + 16 * t->c_row + 64, t->c_row);
    }
}

#else
#define HAS_AMX 0
#endif
#endif
