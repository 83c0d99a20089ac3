/* In which part of a mixture a sample lies. The samples of a part lie among all as evenly as its
 * share allows: sample k is at x(k) = k * A mod 2^32, A / 2^32 being close to the golden ratio's
 * fraction, and belongs to the part in whose interval that is. Any run of n samples holds its share
 * of each part but for a number of the order of log n (Kronecker's sequence; Niederreiter 1992,
 * doi:10.1137/1.9781611970081, chapter 3). */
#ifndef LS_DATA_MIXTURE_H
#define LS_DATA_MIXTURE_H

#include "runtime/base/status.h"

#include <stdint.h>

#define LS_MIXTURE_WHOLE ((uint64_t)1 << 32)

typedef struct ls_mixture_part {
    char *dir;          /* heap */
    double weight;      /* as given, above 0 */
    uint64_t low, high; /* interval of x(k), in [0, LS_MIXTURE_WHOLE] */
} ls_mixture_part;

typedef struct ls_mixture {
    ls_mixture_part *parts; /* heap */
    int count;
} ls_mixture;

/* "DIR", or "DIR WEIGHT; DIR WEIGHT; ...". A directory that has the whole text as its name is one.
 * LS_E_CONFIG says which part is not understood. Release it also after a failure. */
ls_status ls_mixture_parse(const char *text, ls_mixture *mixture);
/* Weights to intervals. LS_E_CONFIG: one is too small. */
ls_status ls_mixture_divide(ls_mixture *mixture);
void ls_mixture_release(ls_mixture *mixture);

/* The part of sample k >= 0. */
int ls_mixture_find(const ls_mixture *mixture, int64_t sample);
/* How many of the samples below `sample` are the part's. */
int64_t ls_mixture_before(const ls_mixture_part *part, int64_t sample);

#endif
