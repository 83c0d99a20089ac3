/* Byte planes, as HDF5's shuffle makes them, and XXH3-64 of values: compiled once for the baseline
 * and once for AVX2, chosen at run time by ls_cpu_isa. */
#ifndef LS_CHECKPOINT_PLANES_H
#define LS_CHECKPOINT_PLANES_H

#include <stddef.h>
#include <stdint.h>

typedef struct ls_planes_ops {
    const char *name;
    /* planes[b * elems + i] = in[i * width + b] for all i < elems. Returns the hash of the first
     * `hashed` <= elems elements of in. */
    uint64_t (*split)(uint8_t *planes, const uint8_t *in, size_t elems, size_t width,
                      size_t hashed);
    /* out[i * width + b] = planes[b * elems + i] for all i < count, count <= elems. Returns the
     * hash of the first `hashed` <= count elements of out. */
    uint64_t (*join)(uint8_t *out, const uint8_t *planes, size_t elems, size_t width, size_t count,
                     size_t hashed);
    uint64_t (*hash)(const void *values, size_t bytes);
} ls_planes_ops;

extern const ls_planes_ops ls_planes_generic;
#if defined(__x86_64__)
extern const ls_planes_ops ls_planes_avx2;
#endif

/* The best of them here. */
const ls_planes_ops *ls_planes(void);

#endif
