#include "checkpoint/planes.h"
#include "checkpoint/planes_loops.h"
#include "runtime/base/cpu.h"

#include <string.h>

/* Sixteen bytes, on every processor; the compiler chooses the instructions. */
typedef uint8_t v16 __attribute__((vector_size(16)));

static inline v16 load16(const uint8_t *p) {
    v16 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store16(uint8_t *p, v16 v) {
    memcpy(p, &v, sizeof v);
}

#define EVEN(a, b)                                                                                 \
    __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODD(a, b)                                                                                  \
    __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
#define ZIP_LOW(a, b)                                                                              \
    __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP_HIGH(a, b)                                                                             \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define ZIP_PAIRS_LOW(a, b)                                                                        \
    __builtin_shufflevector(a, b, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23)
#define ZIP_PAIRS_HIGH(a, b)                                                                       \
    __builtin_shufflevector(a, b, 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31)

static size_t interleave(uint8_t *out, const uint8_t *in, size_t elems, size_t width,
                         size_t count) {
    size_t i = 0;
    for (; width == 2 && i + 16 <= count; i += 16) {
        v16 a = load16(in + i), b = load16(in + elems + i);
        store16(out + 2 * i, ZIP_LOW(a, b));
        store16(out + 2 * i + 16, ZIP_HIGH(a, b));
    }
    for (; width == 4 && i + 16 <= count; i += 16) {
        v16 a = load16(in + i), b = load16(in + elems + i);
        v16 c = load16(in + 2 * elems + i), d = load16(in + 3 * elems + i);
        v16 low_ab = ZIP_LOW(a, b), high_ab = ZIP_HIGH(a, b);
        v16 low_cd = ZIP_LOW(c, d), high_cd = ZIP_HIGH(c, d);
        store16(out + 4 * i, ZIP_PAIRS_LOW(low_ab, low_cd));
        store16(out + 4 * i + 16, ZIP_PAIRS_HIGH(low_ab, low_cd));
        store16(out + 4 * i + 32, ZIP_PAIRS_LOW(high_ab, high_cd));
        store16(out + 4 * i + 48, ZIP_PAIRS_HIGH(high_ab, high_cd));
    }
    return i;
}

static size_t deinterleave(uint8_t *out, const uint8_t *in, size_t elems, size_t width,
                           size_t count) {
    size_t i = 0;
    for (; width == 2 && i + 16 <= count; i += 16) {
        v16 a = load16(in + 2 * i), b = load16(in + 2 * i + 16);
        store16(out + i, EVEN(a, b));
        store16(out + elems + i, ODD(a, b));
    }
    for (; width == 4 && i + 16 <= count; i += 16) {
        v16 a = load16(in + 4 * i), b = load16(in + 4 * i + 16);
        v16 c = load16(in + 4 * i + 32), d = load16(in + 4 * i + 48);
        v16 even_ab = EVEN(a, b), even_cd = EVEN(c, d), odd_ab = ODD(a, b), odd_cd = ODD(c, d);
        store16(out + i, EVEN(even_ab, even_cd));
        store16(out + elems + i, EVEN(odd_ab, odd_cd));
        store16(out + 2 * elems + i, ODD(even_ab, even_cd));
        store16(out + 3 * elems + i, ODD(odd_ab, odd_cd));
    }
    return i;
}

const ls_planes_ops ls_planes_generic = {
    .name = "generic", .split = split, .join = join, .hash = hash};

const ls_planes_ops *ls_planes(void) {
#if defined(__x86_64__)
    ls_isa isa;
    if (ls_cpu_isa(&isa) == LS_OK && isa >= LS_ISA_AVX2) {
        return &ls_planes_avx2;
    }
#endif
    return &ls_planes_generic;
}
