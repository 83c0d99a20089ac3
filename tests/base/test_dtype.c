#include "runtime/base/dtype.h"
#include "tests/test.h"

static float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t to_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* The specification, in exact arithmetic: the nearer of the two neighbours in bfloat16, of two
 * equally near ones the even one, and infinity from half a unit above the largest value on. */
static uint16_t nearest_even(float f) {
    uint16_t below = (uint16_t)(to_bits(f) >> 16), above = (uint16_t)(below + 1);
    double x = fabs((double)f), low = fabs((double)from_bits((uint32_t)below << 16));
    double high =
        (above & 0x7fffu) == 0x7f80u ? 0x1p128 : fabs((double)from_bits((uint32_t)above << 16));
    if (x - low == high - x) {
        return below & 1 ? above : below;
    }
    return x - low < high - x ? below : above;
}

/* All 65536 upper halves with the lower halves at which rounding turns. */
static void test_rounding(void) {
    static const uint32_t lower[] = {0,      1,      2,      0x7ffe, 0x7fff, 0x8000,
                                     0x8001, 0x8002, 0xfffe, 0xffff, 0x5555, 0xaaaa};
    long wrong = 0;
    for (uint32_t upper = 0; upper <= 0xffff; upper++) {
        for (size_t i = 0; i < sizeof lower / sizeof lower[0]; i++) {
            float f = from_bits(upper << 16 | lower[i]);
            ls_bf16 rounded = ls_bf16_from_f32(f);
            if (isnan(f)) {
                bool quiet = (rounded & 0x7fc0u) == 0x7fc0u;
                bool same_sign = (rounded ^ upper) >> 15 == 0;
                wrong += !quiet || !same_sign;
            } else if (isinf(f)) {
                wrong += rounded != upper;
            } else {
                wrong += rounded != nearest_even(f);
            }
        }
    }
    CHECK_INT(wrong, 0);
}

static void test_named_values(void) {
    CHECK_INT(ls_bf16_from_f32(1.0f), 0x3f80);
    CHECK_INT(ls_bf16_from_f32(-0.0f), 0x8000);
    CHECK_INT(ls_bf16_from_f32(1.0f + 0x1p-8f), 0x3f80);            /* tie, even below */
    CHECK_INT(ls_bf16_from_f32(1.0f + 3 * 0x1p-8f), 0x3f82);        /* tie, even above */
    CHECK_INT(ls_bf16_from_f32(1.0f + 0x1p-8f + 0x1p-23f), 0x3f81); /* just above the tie */
    CHECK_INT(ls_bf16_from_f32(3.4028235e38f), 0x7f80);             /* overflow */
    CHECK_INT(ls_bf16_from_f32(from_bits(0x7f7f7fff)), 0x7f7f);     /* the last that does not */
    CHECK_INT(ls_bf16_from_f32(from_bits(1)), 0);                   /* smallest denormal */
    CHECK_INT(ls_bf16_from_f32(from_bits(0x00010000)), 1);
    CHECK_INT(ls_bf16_from_f32(from_bits(0x7f800001)), 0x7fc0); /* signalling NaN becomes quiet */
    for (uint32_t x = 0; x <= 0xffff; x++) {
        if (!isnan(from_bits(x << 16)) && ls_bf16_from_f32(ls_bf16_to_f32((ls_bf16)x)) != x) {
            CHECK_INT(x, -1);
        }
    }
}

static void test_names(void) {
    static const size_t bytes[] = {4, 8, 2, 2, 4, 8, 1, 2, 4, 8};
    for (int d = 0; d < LS_DTYPE_COUNT; d++) {
        CHECK_INT(ls_dtype_parse(ls_dtype_name((ls_dtype)d)), d);
        CHECK_INT(ls_dtype_bytes((ls_dtype)d), bytes[d]);
    }
    CHECK_STR(ls_dtype_name(LS_BF16), "bfloat16");
    CHECK_INT(ls_dtype_parse("float8"), LS_DTYPE_COUNT);
    CHECK_INT(ls_dtype_parse(""), LS_DTYPE_COUNT);
    CHECK_INT(ls_dtype_bytes(LS_DTYPE_COUNT), 0);
    CHECK_STR(ls_dtype_name(LS_DTYPE_COUNT), "unknown dtype");
}

int main(void) {
    test_rounding();
    test_named_values();
    test_names();
    return test_end();
}
