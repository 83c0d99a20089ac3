/* The memory that attention works in, per thread: block sizes and layout, the same for all levels,
 * so that device_cpu.c can reserve it before step one. */
#ifndef LS_DEVICE_CPU_K_ATTENTION_SCRATCH_H
#define LS_DEVICE_CPU_K_ATTENTION_SCRATCH_H

#include "runtime/device/device.h"

/* A tile is up to TILE rows of queries: pairs (token, head of the group), token-major. Keys come in
 * blocks of BLOCK. TILE is a multiple of three vectors at every level, BLOCK of every strip. */
enum { LS_ATTENTION_TILE = 96, LS_ATTENTION_BLOCK = 64 };

/* Keys of one task of the backward pass when a key/value head is cut between tasks. */
enum { LS_ATTENTION_SPLIT = 4 * LS_ATTENTION_BLOCK };

/* Most bytes that a thread spends on the gradients of a whole key/value head. */
#define LS_ATTENTION_HEAD_MAX_BYTES ((size_t)64 << 20)

/* Floats between rows of a packed [rows, D] matrix: D rounded up to 32, which tiles of bf16 take at
 * a time, and an odd number of 64-byte lines, since the rows of an even number would fall into few
 * sets of the first-level cache. */
static inline int64_t ls_attention_ld(int64_t head_dim) {
    return ((head_dim + 31) / 32 * 2 | 1) * 16;
}

/* dk and dv of `keys` keys, in fp32. */
static inline size_t ls_attention_kv_gradient_bytes(int64_t keys, int64_t head_dim) {
    int64_t rows = (keys + LS_ATTENTION_BLOCK - 1) / LS_ATTENTION_BLOCK * LS_ATTENTION_BLOCK;
    return 2 * sizeof(float) * (size_t)(rows * ls_attention_ld(head_dim));
}

/* The most keys of which one task can hold the gradients of a whole key/value head. */
static inline int64_t ls_attention_head_keys(int64_t head_dim) {
    const size_t block = ls_attention_kv_gradient_bytes(LS_ATTENTION_BLOCK, head_dim);
    return (int64_t)(LS_ATTENTION_HEAD_MAX_BYTES / block) * LS_ATTENTION_BLOCK;
}

/* Most bytes that a thread spends on keys in the forms that products take. */
#define LS_ATTENTION_KEPT_MAX_BYTES ((size_t)6 << 20)

/* A block of keys, in fp32 or in at most three forms of bf16, with a word of what is known of it.
 */
static inline size_t ls_attention_kept_bytes(int64_t blocks, int64_t head_dim) {
    const int64_t words = 2 * LS_ATTENTION_BLOCK * ls_attention_ld(head_dim);
    return (size_t)blocks * (4 * (size_t)words + sizeof(int32_t)) + 64;
}

/* Blocks of a head's keys that a thread keeps in those forms for all tiles that it computes. */
static inline int64_t ls_attention_kept(int64_t keys, int64_t head_dim) {
    const int64_t blocks = (keys + LS_ATTENTION_BLOCK - 1) / LS_ATTENTION_BLOCK;
    const int64_t most =
        (int64_t)(LS_ATTENTION_KEPT_MAX_BYTES / ls_attention_kept_bytes(1, head_dim));
    return blocks < most ? blocks : most;
}

/* Bytes of scratch that a thread needs for tiles of this head size, `kept` blocks of keys and, in
 * the backward pass, gradients of `keys` keys (0: forward). */
static inline size_t ls_attention_scratch_bytes(int64_t head_dim, int64_t kept, int64_t keys) {
    const int64_t ld = ls_attention_ld(head_dim), tile = LS_ATTENTION_TILE;
    /* [D, TILE] or [TILE, D], [BLOCK, D], [BLOCK, TILE], rows of TILE: in fp32 5, 2, 2 and 4 of
     * them backward and less forward, with products of bf16 4.5, 2, 3.5 and 2. */
    int64_t floats =
        5 * tile * ld + 2 * LS_ATTENTION_BLOCK * ld + 4 * LS_ATTENTION_BLOCK * tile + 4 * tile + ld;
    return sizeof(float) * (size_t)floats + ls_attention_kept_bytes(kept, head_dim) +
           ls_attention_kv_gradient_bytes(keys, head_dim);
}

/* What the limits of ls_device_ops.reserve can need: of sequences that are too long for a whole
 * head the shorter ones, and parts, may have as many keys as it takes. */
static inline size_t ls_attention_scratch_limit(const ls_device_limits *limits) {
    const int64_t whole = ls_attention_head_keys(limits->head_dim);
    const int64_t keys = limits->seq < whole ? limits->seq : whole;
    return ls_attention_scratch_bytes(limits->head_dim,
                                      ls_attention_kept(limits->seq, limits->head_dim),
                                      keys > LS_ATTENTION_SPLIT ? keys : LS_ATTENTION_SPLIT);
}

#endif
