/* Element types, and bfloat16 and float16 conversions with round-to-nearest-even. */
#ifndef LS_BASE_DTYPE_H
#define LS_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* X(code, bytes, name) */
#define LS_DTYPE_LIST(X)                                                                           \
    X(LS_F32, 4, "float32")                                                                        \
    X(LS_F64, 8, "float64")                                                                        \
    X(LS_BF16, 2, "bfloat16")                                                                      \
    X(LS_F16, 2, "float16")                                                                        \
    X(LS_I32, 4, "int32")                                                                          \
    X(LS_I64, 8, "int64")                                                                          \
    X(LS_U8, 1, "uint8")                                                                           \
    X(LS_U16, 2, "uint16")                                                                         \
    X(LS_U32, 4, "uint32")                                                                         \
    X(LS_U64, 8, "uint64")

typedef enum ls_dtype {
#define X(code, bytes, name) code,
    LS_DTYPE_LIST(X)
#undef X
        LS_DTYPE_COUNT
} ls_dtype;

size_t ls_dtype_bytes(ls_dtype dtype);
const char *ls_dtype_name(ls_dtype dtype);
/* LS_DTYPE_COUNT when there is no such name. */
ls_dtype ls_dtype_parse(const char *name);

typedef uint16_t ls_bf16;

static inline float ls_bf16_to_f32(ls_bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Ties go to the even mantissa; a NaN stays a (quiet) NaN; overflow goes to infinity. */
static inline ls_bf16 ls_bf16_from_f32(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t quiet_nan = (bits >> 16) | 0x7fc0u;
    return (ls_bf16)(f != f ? quiet_nan : rounded);
}

typedef uint16_t ls_f16;

static inline float ls_f32_of_bits_(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t ls_f32_bits_(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* Without branches, for the vectoriser. Moving the exponent by a product with 2^112 is exact, for
 * subnormals too. */
static inline float ls_f16_to_f32(ls_f16 x) {
    uint32_t magnitude = (uint32_t)(x & 0x7fffu) << 13, sign = (uint32_t)(x & 0x8000u) << 16;
    uint32_t finite = ls_f32_bits_(ls_f32_of_bits_(magnitude) * 0x1p112f);
    uint32_t special = magnitude | 0x7f800000u;
    return ls_f32_of_bits_((magnitude >= 0x0f800000u ? special : finite) | sign);
}

/* Ties go to the even mantissa; a NaN stays a (quiet) NaN; overflow goes to infinity. Subnormals
 * are rounded by an addition that puts their last bit at that of the sum. */
static inline ls_f16 ls_f16_from_f32(float f) {
    uint32_t bits = ls_f32_bits_(f), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    uint32_t subnormal = ls_f32_bits_(ls_f32_of_bits_(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    return (ls_f16)((magnitude >= 0x47800000u ? special : finite) | sign);
}

#endif
