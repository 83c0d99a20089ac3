/* Statistics of a tensor in one pass and bounded memory. */
#ifndef LS_CHECKPOINT_STATS_H
#define LS_CHECKPOINT_STATS_H

#include "checkpoint/ckpt.h"

#define LS_STATS_PERCENTILES 9
#define LS_STATS_BUCKETS     16

extern const double ls_stats_percents[LS_STATS_PERCENTILES];

/* Of finite elements, but for the three counts. All 0 when there are none. */
typedef struct ls_moments {
    int64_t elems, finite, zeros, nans, infinities;
    double min, max, mean, std; /* std of the population */
} ls_moments;

typedef struct ls_piece_stats {
    ls_moments moments;
    bool outlier;
    char why[64];
} ls_piece_stats;

/* Percentiles are the nearest-rank values of a histogram over the order of the float bits: sign,
 * exponent and 9 bits of mantissa make 2^18 bins, so that they are off by at most 2^-10 of
 * themselves, and exact for bfloat16. Elements beyond float32's range count as its largest. */
typedef struct ls_stats {
    ls_moments moments;
    double percentiles[LS_STATS_PERCENTILES];
    int64_t buckets[LS_STATS_BUCKETS]; /* of equal width from min to max */
    int piece_count;
    ls_piece_stats *pieces; /* [piece_count], owned */
} ls_stats;

/* A piece is an outlier when it holds NaN or infinities; or, among 3 pieces or more, when its
 * standard deviation is 4 times off that of the median piece, or its largest magnitude 10 times
 * that of the median piece. Release after success. */
ls_status ls_ckpt_stats(ls_ckpt *ckpt, const ls_ckpt_entry *entry, ls_stats *stats);
void ls_ckpt_stats_release(ls_stats *stats);

#endif
