/* Transposing four by four words (fp32, or two bf16), in vectors that every level has. */
#ifndef LS_DEVICE_CPU_QUADS_H
#define LS_DEVICE_CPU_QUADS_H

#include <stdint.h>
#include <string.h>

typedef int32_t ls_quad __attribute__((vector_size(16), may_alias));

static inline ls_quad ls_quad_load(const void *src) {
    ls_quad q;
    memcpy(&q, src, sizeof q);
    return q;
}

/* dst [4, ld] words = the transposed of the four rows. */
static inline void ls_quads_transpose(ls_quad a, ls_quad b, ls_quad c, ls_quad d, void *dst,
                                      int64_t ld) {
    const ls_quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const ls_quad ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const ls_quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const ls_quad cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const ls_quad columns[4] = {__builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5),
                                __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
                                __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
                                __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
    for (int i = 0; i < 4; i++) {
        memcpy((char *)dst + i * ld * 4, &columns[i], sizeof columns[i]);
    }
}

#endif
