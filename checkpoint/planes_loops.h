/* What planes.c and planes_avx2.c share: the loops around interleave() and deinterleave(), which
 * each gives in its instructions. xxHash is inlined, since the library's functions are those of the
 * baseline. */
#include "checkpoint/planes.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Bytes that are put together or taken apart and hashed while the first-level cache holds them. */
enum { BLOCK_BYTES = 8192 };

/* Both do the first elements of `count`, as many as fill whole vectors; they return how many. */
static size_t interleave(uint8_t *out, const uint8_t *in, size_t elems, size_t width, size_t count);
static size_t deinterleave(uint8_t *out, const uint8_t *in, size_t elems, size_t width,
                           size_t count);

static uint64_t join(uint8_t *out, const uint8_t *planes, size_t elems, size_t width, size_t count,
                     size_t hashed) {
    const size_t block = BLOCK_BYTES / width;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (size_t at = 0; at < count; at += block) {
        const size_t n = count - at < block ? count - at : block;
        const uint8_t *in = planes + at;
        uint8_t *to = out + at * width;
        for (size_t i = interleave(to, in, elems, width, n); i < n; i++) {
            for (size_t b = 0; b < width; b++) {
                to[i * width + b] = in[b * elems + i];
            }
        }
        if (at < hashed) {
            XXH3_64bits_update(&state, to, (hashed - at < n ? hashed - at : n) * width);
        }
    }
    return XXH3_64bits_digest(&state);
}

static uint64_t split(uint8_t *planes, const uint8_t *in, size_t elems, size_t width,
                      size_t hashed) {
    const size_t block = BLOCK_BYTES / width;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (size_t at = 0; at < elems; at += block) {
        const size_t n = elems - at < block ? elems - at : block;
        const uint8_t *from = in + at * width;
        uint8_t *out = planes + at;
        if (at < hashed) {
            XXH3_64bits_update(&state, from, (hashed - at < n ? hashed - at : n) * width);
        }
        for (size_t i = deinterleave(out, from, elems, width, n); i < n; i++) {
            for (size_t b = 0; b < width; b++) {
                out[b * elems + i] = from[i * width + b];
            }
        }
    }
    return XXH3_64bits_digest(&state);
}

static uint64_t hash(const void *values, size_t bytes) {
    return XXH3_64bits(values, bytes);
}
