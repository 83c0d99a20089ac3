#include "runtime/model/pick.h"

#include "runtime/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int descending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Of logits that are drawn from; `top` is the largest, and has the weight 1. */
typedef struct draw {
    const float *logits;
    int64_t vocab;
    double temperature, top;
} draw;

static float weight(const draw *d, double logit) {
    return expf((float)((logit - d->top) / d->temperature));
}

/* weights [vocab] of all that are `floor` or more, 0 of the others; returns their sum. */
static double weigh_from(const draw *d, float floor, float *weights) {
    double sum = 0.0;
    for (int64_t i = 0; i < d->vocab; i++) {
        weights[i] = d->logits[i] >= floor ? weight(d, d->logits[i]) : 0.0f;
        sum += weights[i];
    }
    return sum;
}

/* The logits of `floor` or more, largest first; returns how many. */
static int64_t sort_from(const draw *d, float floor, float *sorted) {
    int64_t count = 0;
    for (int64_t i = 0; i < d->vocab; i++) {
        if (d->logits[i] >= floor) {
            sorted[count++] = d->logits[i];
        }
    }
    qsort(sorted, (size_t)count, sizeof *sorted, descending);
    return count;
}

/* The least logit of the nucleus. Tokens with less than an even share of what may be left out are,
 * all together, no more than that: the nucleus is among the others, which alone are sorted. */
static float nucleus(const draw *d, float floor, double top_p, float *sorted) {
    const double all = weigh_from(d, floor, sorted);
    const double even = log((1.0 - top_p) * all / (double)d->vocab) * d->temperature + d->top;
    const double least = fmin(even, d->top);
    const int64_t count = sort_from(d, fmaxf(floor, nextafterf((float)least, -INFINITY)), sorted);
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        sum += weight(d, sorted[i]);
        if (sum >= top_p * all) {
            return sorted[i];
        }
    }
    return sorted[count - 1];
}

/* The k-th largest of x, which comes into another order (Hoare 1961, doi:10.1145/366622.366647). */
static float kth_largest(float *x, int64_t count, int64_t k) {
    int64_t low = 0, high = count - 1;
    while (low < high) {
        const float pivot = x[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot) {
                i++;
            }
            while (x[j] < pivot) {
                j--;
            }
            if (i <= j) {
                const float swapped = x[i];
                x[i++] = x[j];
                x[j--] = swapped;
            }
        }
        if (k - 1 <= j) {
            high = j;
        } else if (k - 1 >= i) {
            low = i;
        } else {
            break; /* between them all are the pivot */
        }
    }
    return x[k - 1];
}

static int64_t largest(const float *logits, int64_t vocab) {
    int64_t best = 0;
    for (int64_t i = 0; i < vocab; i++) {
        best = logits[i] > logits[best] ? i : best;
        if (!isfinite(logits[i])) {
            return -1 - i;
        }
    }
    return best;
}

ls_status ls_pick(const ls_pick_options *options, const float *logits, int64_t vocab,
                  float *scratch, uint64_t index, int32_t *token) {
    const int64_t best = largest(logits, vocab);
    if (best < 0) {
        return LS_FAIL(LS_E_DIVERGED, "the logit of token %lld is %g: the weights are not sound",
                       (long long)(-1 - best), (double)logits[-1 - best]);
    }
    *token = (int32_t)best;
    if (options->temperature == 0.0) {
        return LS_OK;
    }
    const draw d = {logits, vocab, options->temperature, logits[best]};
    float floor = -INFINITY;
    if (options->top_k > 0 && options->top_k < vocab) {
        memcpy(scratch, logits, (size_t)vocab * sizeof *scratch);
        floor = kth_largest(scratch, vocab, options->top_k);
    }
    floor = options->top_p < 1.0 ? nucleus(&d, floor, options->top_p, scratch) : floor;
    double left = ls_rng_uniform(options->seed, 0, index) * weigh_from(&d, floor, scratch);
    for (int64_t i = 0; i < vocab; i++) {
        left -= scratch[i];
        if (left < 0.0) {
            *token = (int32_t)i;
            return LS_OK;
        }
    }
    return LS_OK; /* rounding left a crumb: the likeliest */
}
