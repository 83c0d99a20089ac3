#include "checkpoint/stats.h"
#include "checkpoint/values.h"
#include "runtime/base/arena.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BIN_BITS = 18, BIN_SHIFT = 32 - BIN_BITS, BINS = 1 << BIN_BITS, BLOCK = 2048 };

const double ls_stats_percents[LS_STATS_PERCENTILES] = {0.1, 1, 5, 25, 50, 75, 95, 99, 99.9};

typedef struct pass {
    ls_stats *stats;
    ls_dtype dtype;
    uint64_t *bins; /* [BINS] */
} pass;

/* Floats in their order become unsigned numbers in the same order. */
static uint32_t bin_of(double x) {
    double limited = x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x;
    float f = (float)limited;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (bits & 0x80000000u ? ~bits : bits | 0x80000000u) >> BIN_SHIFT;
}

/* The bin's middle, or its end next to zero where that is the only value that dtype has in it. */
static double bin_value(uint32_t bin, ls_dtype dtype) {
    const uint32_t below = (1u << BIN_SHIFT) - 1, zero = 0x80000000u >> BIN_SHIFT;
    if (bin == zero || bin == zero - 1) {
        return 0.0;
    }
    bool negative = bin < zero;
    uint32_t ordered = bin << BIN_SHIFT;
    ordered |= dtype != LS_BF16 ? (below + 1) / 2 : negative ? below : 0;
    uint32_t bits = negative ? ~ordered : ordered & 0x7fffffffu;
    float f;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

/* mean and std of the union; std holds the sum of squared deviations until the end (Chan, Golub,
 * LeVeque 1983, doi:10.1080/00031305.1983.10483115). */
static void moments_merge(ls_moments *to, const ls_moments *m) {
    if (m->finite > 0) {
        bool empty = to->finite == 0;
        double n = (double)to->finite, k = (double)m->finite, delta = m->mean - to->mean;
        to->min = empty || m->min < to->min ? m->min : to->min;
        to->max = empty || m->max > to->max ? m->max : to->max;
        to->mean += delta * k / (n + k);
        to->std += m->std + delta * delta * n * k / (n + k);
    }
    to->elems += m->elems;
    to->finite += m->finite;
    to->zeros += m->zeros;
    to->nans += m->nans;
    to->infinities += m->infinities;
}

static void moments_finish(ls_moments *m) {
    m->std = m->finite ? sqrt(m->std / (double)m->finite) : 0.0;
}

/* values [count] of one block. */
static ls_moments moments_of(const double *values, int64_t count, uint64_t *bins) {
    ls_moments m = {.elems = count, .min = INFINITY, .max = -INFINITY};
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < count; i++) {
        double x = values[i];
        if (!isfinite(x)) {
            m.nans += isnan(x) != 0;
            m.infinities += isinf(x) != 0;
            continue;
        }
        m.finite++;
        m.zeros += x == 0.0;
        m.min = x < m.min ? x : m.min;
        m.max = x > m.max ? x : m.max;
        sum += x;
        bins[bin_of(x)]++;
    }
    m.mean = m.finite ? sum / (double)m.finite : 0.0;
    for (int64_t i = 0; i < count; i++) {
        double d = isfinite(values[i]) ? values[i] - m.mean : 0.0;
        squares += d * d;
    }
    m.std = squares;
    return m;
}

static ls_status slab_add(void *context, int piece, const ls_box *box, const void *data) {
    pass *p = context;
    double block[BLOCK];
    int64_t count = ls_box_elems(box);
    size_t elem_bytes = ls_dtype_bytes(p->dtype);
    for (int64_t done = 0; done < count; done += BLOCK) {
        int64_t n = count - done < BLOCK ? count - done : BLOCK;
        ls_values_to_f64(block, (const char *)data + (size_t)done * elem_bytes, p->dtype, n);
        ls_moments m = moments_of(block, n, p->bins);
        moments_merge(&p->stats->pieces[piece].moments, &m);
    }
    return LS_OK;
}

static void histogram_read(const pass *p) {
    ls_stats *s = p->stats;
    const ls_moments *m = &s->moments;
    uint64_t seen = 0;
    int next = 0;
    double width = (m->max - m->min) / LS_STATS_BUCKETS;
    for (uint32_t bin = 0; bin < BINS; bin++) {
        if (p->bins[bin] == 0) {
            continue;
        }
        double value = bin_value(bin, p->dtype);
        value = value < m->min ? m->min : value > m->max ? m->max : value;
        seen += p->bins[bin];
        while (next < LS_STATS_PERCENTILES &&
               (double)seen >= ceil(ls_stats_percents[next] / 100.0 * (double)m->finite)) {
            s->percentiles[next++] = value;
        }
        int bucket = width > 0 && isfinite(width) ? (int)((value - m->min) / width) : 0;
        s->buckets[bucket < LS_STATS_BUCKETS ? bucket : LS_STATS_BUCKETS - 1] +=
            (int64_t)p->bins[bin];
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double magnitude(const ls_moments *m) {
    return fmax(fabs(m->min), fabs(m->max));
}

static ls_status outliers_find(ls_stats *s) {
    int n = s->piece_count;
    double *sorted, std = 0, most = 0;
    LS_TRY(ls_calloc(2 * (size_t)n + 1, sizeof *sorted, &sorted));
    for (int i = 0; i < n; i++) {
        sorted[i] = s->pieces[i].moments.std;
        sorted[n + i] = magnitude(&s->pieces[i].moments);
    }
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    qsort(sorted + n, (size_t)n, sizeof *sorted, ascending);
    if (n >= 3) {
        std = sorted[n / 2];
        most = sorted[n + n / 2];
    }
    free(sorted);
    for (int i = 0; i < n; i++) {
        ls_piece_stats *p = &s->pieces[i];
        const ls_moments *m = &p->moments;
        if (m->nans + m->infinities > 0) {
            snprintf(p->why, sizeof p->why, "%lld NaN, %lld infinite", (long long)m->nans,
                     (long long)m->infinities);
        } else if (std > 0 && (m->std > 4 * std || m->std < std / 4)) {
            snprintf(p->why, sizeof p->why, "std is %.3g times the median piece's", m->std / std);
        } else if (most > 0 && magnitude(m) > 10 * most) {
            snprintf(p->why, sizeof p->why, "largest is %.3g times the median piece's",
                     magnitude(m) / most);
        }
        p->outlier = p->why[0] != '\0';
    }
    return LS_OK;
}

ls_status ls_ckpt_stats(ls_ckpt *ckpt, const ls_ckpt_entry *entry, ls_stats *stats) {
    *stats = (ls_stats){.piece_count = entry->piece_count};
    pass p = {.stats = stats, .dtype = entry->dtype};
    LS_TRY(ls_calloc((size_t)entry->piece_count, sizeof *stats->pieces, &stats->pieces));
    ls_status status = ls_calloc(BINS, sizeof *p.bins, &p.bins);
    if (status == LS_OK) {
        status = ls_ckpt_stream(ckpt, entry, slab_add, &p);
    }
    for (int i = 0; i < entry->piece_count && status == LS_OK; i++) {
        moments_merge(&stats->moments, &stats->pieces[i].moments);
        moments_finish(&stats->pieces[i].moments);
    }
    if (status == LS_OK) {
        moments_finish(&stats->moments);
        histogram_read(&p);
        status = outliers_find(stats);
    }
    free(p.bins);
    if (status != LS_OK) {
        ls_ckpt_stats_release(stats);
    }
    return status;
}

void ls_ckpt_stats_release(ls_stats *stats) {
    free(stats->pieces);
    *stats = (ls_stats){0};
}
