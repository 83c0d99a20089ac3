#include "runtime/counters/guard.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int ls_guard_odd(const ls_guard_vote *votes, int count, int *odd, bool *undecided) {
    int found = 0;
    *undecided = false;
    for (int i = 0; i < count; i++) {
        int mine = 0, best = 0; /* ranks with this hash; with the most frequent other one */
        for (int j = 0; j < count; j++) {
            if (votes[j].group != votes[i].group) {
                continue;
            }
            int same = 0;
            for (int k = 0; k < count; k++) {
                same += votes[k].group == votes[j].group && votes[k].hash == votes[j].hash;
            }
            if (votes[j].hash == votes[i].hash) {
                mine = same;
            } else {
                best = same > best ? same : best;
            }
        }
        if (best >= mine) {
            odd[found++] = i;
            *undecided = *undecided || best == mine;
        }
    }
    return found;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int ls_guard_slowest(const double *seconds, int count, double *factor) {
    int slowest = 0;
    for (int i = 1; i < count; i++) {
        slowest = seconds[i] > seconds[slowest] ? i : slowest;
    }
    double *sorted = malloc((size_t)count * sizeof *sorted);
    *factor = 1.0;
    if (sorted) {
        memcpy(sorted, seconds, (size_t)count * sizeof *sorted);
        qsort(sorted, (size_t)count, sizeof *sorted, compare);
        double median = sorted[(count - 1) / 2]; /* of two ranks: the faster */
        *factor = median > 0.0 ? seconds[slowest] / median : 1.0;
        free(sorted);
    }
    return slowest;
}

/* False while too little is known. */
static bool spread_of(const ls_guard_losses *l, double *mean, double *deviation) {
    double variance = 0.0;
    *mean = 0.0;
    for (int i = 0; i < l->count; i++) {
        *mean += l->ring[i] / l->count;
    }
    for (int i = 0; i < l->count; i++) {
        variance += (l->ring[i] - *mean) * (l->ring[i] - *mean) / l->count;
    }
    *deviation = sqrt(variance);
    return l->count >= LS_GUARD_LOSSES / 2 && variance > 0.0;
}

double ls_guard_spike(ls_guard_losses *l, double loss, double limit) {
    double mean, deviation;
    const double z = spread_of(l, &mean, &deviation) ? (loss - mean) / deviation : 0.0;
    if (isfinite(loss) && (limit <= 0.0 || z <= limit)) {
        l->ring[l->next] = loss;
        l->next = (l->next + 1) % LS_GUARD_LOSSES;
        l->count += l->count < LS_GUARD_LOSSES;
    }
    return z;
}

double ls_guard_most(const ls_guard_losses *l, double limit) {
    double mean, deviation;
    return limit > 0.0 && spread_of(l, &mean, &deviation) ? mean + limit * deviation : INFINITY;
}
