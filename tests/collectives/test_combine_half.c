/* The conversions and sums of this processor against those of dtype.h: every 16-bit number, and
 * fp32 numbers at and beside every tie, infinities and NaN among others. */
#include "collectives/combine_half.h"
#include "tests/test.h"

enum { ALL = 1 << 16 };

/* Every number and another one, in pieces that leave rests of other lengths. */
static void check_sum(const ls_half_ops *half, const uint16_t *halves, float (*to_f32)(uint16_t)) {
    static uint16_t others[ALL];
    static float sums[ALL];
    int64_t wrong = 0;
    for (int i = 0; i < ALL; i++) {
        others[i] = (uint16_t)(i * 40503u + 11);
    }
    for (int at = 0, n = 1; at < ALL; at += n, n = n % 77 + 1) {
        n = n < ALL - at ? n : ALL - at;
        half->sum(halves + at, others + at, n, sums + at);
    }
    for (int i = 0; i < ALL; i++) {
        const float expected = to_f32(halves[i]) + to_f32(others[i]);
        wrong += expected != expected ? sums[i] == sums[i]
                                      : memcmp(&expected, &sums[i], sizeof expected) != 0;
    }
    CHECK_INT(wrong, 0);
}

static void check(ls_dtype dtype, float (*to_f32)(uint16_t), uint16_t (*from_f32)(float)) {
    static uint16_t halves[ALL], narrow[ALL];
    static float wide[ALL], x[ALL];
    const ls_half_ops *half = ls_half_ops_of(dtype);
    int64_t wrong = 0;
    for (int i = 0; i < ALL; i++) {
        halves[i] = (uint16_t)i;
    }
    half->widen(halves, ALL, wide);
    for (int i = 0; i < ALL; i++) {
        const float expected = to_f32((uint16_t)i);
        const bool nan = expected != expected;
        wrong += nan ? wide[i] == wide[i] : memcmp(&expected, &wide[i], sizeof expected) != 0;
    }
    CHECK_INT(wrong, 0);
    check_sum(half, halves, to_f32);
    for (int offset = -1; offset <= 1; offset++) {
        for (int odd = 0; odd < 2; odd++) { /* blocks of NaN end at other places */
            for (int i = 0; i < ALL; i++) { /* between two neighbours */
                const uint32_t tie = dtype == LS_BF16 ? 0x8000u : 0x1000u;
                uint32_t bits;
                const float base = to_f32((uint16_t)(i * (odd ? 40503u : 1u)));
                memcpy(&bits, &base, sizeof bits);
                bits = (bits & 0x7fffffffu) < 0x7f800000u ? bits + tie + (uint32_t)offset : bits;
                memcpy(&x[i], &bits, sizeof bits);
            }
            half->narrow(x, ALL - 5 * odd, narrow);
            for (int i = 0; i < ALL - 5 * odd; i++) {
                wrong += narrow[i] != from_f32(x[i]);
            }
            CHECK_INT(wrong, 0);
        }
    }
}

static float bf16_to_f32(uint16_t x) {
    return ls_bf16_to_f32(x);
}
static uint16_t bf16_from_f32(float x) {
    return ls_bf16_from_f32(x);
}
static float f16_to_f32(uint16_t x) {
    return ls_f16_to_f32(x);
}
static uint16_t f16_from_f32(float x) {
    return ls_f16_from_f32(x);
}

int main(void) {
    check(LS_BF16, bf16_to_f32, bf16_from_f32);
    check(LS_F16, f16_to_f32, f16_from_f32);
    return test_end();
}
