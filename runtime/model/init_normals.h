/* Normal numbers for initial values, many at once. */
#ifndef LS_MODEL_INIT_NORMALS_H
#define LS_MODEL_INIT_NORMALS_H

#include "runtime/base/cpu.h"

#include <stdint.h>

/* to [2 pairs] = `std` times the normals 2 first, 2 first + 1, ... of (seed, stream). Every level
 * of instructions gives the same bits. */
typedef void ls_normals_fn(uint64_t seed, uint64_t stream, uint64_t first, int pairs, float std,
                           float *restrict to);

ls_normals_fn *ls_normals_of(ls_isa isa);

#endif
