/* Inputs of the collective tests: a function of who sends and where, so that every rank knows what
 * it must receive; and small integers, whose sums are exact in every type and order. */
#ifndef LS_TESTS_PATTERN_H
#define LS_TESTS_PATTERN_H

#include "collectives/comm.h"
#include "runtime/base/rng.h"

#include <stdbool.h>

static inline unsigned char pattern_byte(int64_t seed, int rank, int64_t i) {
    return (unsigned char)(seed * 31 + rank * 97 + i * 7 + (i >> 8) * 13);
}

static inline void pattern_fill(unsigned char *to, int64_t seed, int rank, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i++) {
        to[i] = pattern_byte(seed, rank, i);
    }
}

static inline bool pattern_holds(const unsigned char *found, int64_t seed, int rank,
                                 int64_t bytes) {
    for (int64_t i = 0; i < bytes; i++) {
        if (found[i] != pattern_byte(seed, rank, i)) {
            return false;
        }
    }
    return true;
}

/* -50 ... 50; the unsigned and 64-bit types move it to where 32 bits would not do. */
static inline int64_t pattern_integer(int64_t seed, int rank, int64_t i) {
    return (seed * 17 + rank * 41 + i * 7 + (i / 101) * 3) % 101 - 50;
}

static inline void pattern_set(void *buf, ls_dtype dtype, int64_t i, int64_t value) {
    switch (dtype) {
    case LS_F32:
        ((float *)buf)[i] = (float)value;
        break;
    case LS_F64:
        ((double *)buf)[i] = (double)value * 0x1p40 + (double)value;
        break;
    case LS_I32:
        ((int32_t *)buf)[i] = (int32_t)value * (1 << 20);
        break;
    case LS_I64:
        ((int64_t *)buf)[i] = value * (INT64_C(1) << 50) + value;
        break;
    default:
        ((uint64_t *)buf)[i] = ((uint64_t)value << 50) + (uint64_t)value;
        break;
    }
}

/* Element i of an all-reduce over `size` ranks, written to buf[i]. */
static inline void pattern_set_reduced(void *buf, ls_dtype dtype, ls_reduce op, int64_t seed,
                                       int size, int64_t i) {
    int64_t value = pattern_integer(seed, 0, i);
    for (int rank = 1; rank < size; rank++) {
        int64_t other = pattern_integer(seed, rank, i);
        bool above = other > value;
        if (dtype == LS_U64 && (other < 0) != (value < 0)) {
            above = other < 0; /* negative ones wrap to the top */
        }
        value = op == LS_SUM ? value + other : above == (op == LS_MAX) ? other : value;
    }
    pattern_set(buf, dtype, i, value);
}

/* 0 ... below - 1, the same on every rank for the same arguments. */
static inline int64_t pattern_draw(uint64_t stream, uint64_t index, int64_t below) {
    return (int64_t)(ls_rng_draw(20240607, stream, index).v[0] % (uint64_t)below);
}

#endif
