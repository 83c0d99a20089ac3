#include "runtime/counters/guard.h"
#include "runtime/base/sort.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* By group, then by hash: equal votes are neighbours. */
static int compare_votes(const void *a, const void *b, void *context) {
    const ls_guard_vote *votes = context, *x = &votes[*(const int *)a],
                        *y = &votes[*(const int *)b];
    if (x->group != y->group) {
        return x->group < y->group ? -1 : 1;
    }
    return x->hash < y->hash ? -1 : x->hash > y->hash;
}

static int compare_ints(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}

/* Where the run of equal votes (or, with whole, of the same group) that begins at `from` ends. */
static int end_of_run(const ls_guard_vote *votes, const int *order, int count, int from,
                      bool whole) {
    const ls_guard_vote *first = &votes[order[from]];
    int to = from + 1;
    while (to < count && votes[order[to]].group == first->group &&
           (whole || votes[order[to]].hash == first->hash)) {
        to++;
    }
    return to;
}

int ls_guard_odd(const ls_guard_vote *votes, int count, int *odd, bool *undecided) {
    int found = 0;
    *undecided = false;
    for (int i = 0; i < count; i++) {
        odd[i] = i;
    }
    qsort_r(odd, (size_t)count, sizeof *odd, compare_votes, (void *)votes);
    for (int begin = 0, end; begin < count; begin = end) {
        int most = 0, winners = 0;
        end = end_of_run(votes, odd, count, begin, true);
        for (int at = begin, next; at < end; at = next) {
            next = end_of_run(votes, odd, end, at, false);
            winners = next - at > most ? 1 : winners + (next - at == most);
            most = next - at > most ? next - at : most;
        }
        *undecided = *undecided || winners > 1;
        for (int at = begin, next; at < end; at = next) {
            next = end_of_run(votes, odd, end, at, false);
            for (int i = at; i < next && (winners > 1 || next - at < most); i++) {
                odd[found++] = odd[i]; /* never beyond i */
            }
        }
    }
    qsort(odd, (size_t)found, sizeof *odd, compare_ints);
    return found;
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
        ls_sort_doubles(sorted, (size_t)count);
        double median = sorted[(count - 1) / 2]; /* of two ranks: the faster */
        *factor = median > 0.0 ? seconds[slowest] / median : 1.0;
        free(sorted);
    }
    return slowest;
}

double ls_guard_loss(const ls_guard_losses *l, int i) {
    const int oldest = l->count < LS_GUARD_LOSSES ? 0 : l->next;
    return l->ring[(oldest + i) % LS_GUARD_LOSSES];
}

/* False while too little is known. */
static bool spread_of(const ls_guard_losses *l, double *mean, double *deviation) {
    double variance = 0.0;
    *mean = 0.0;
    for (int i = 0; i < l->count; i++) { /* in the order in which a resumed run has them too */
        *mean += ls_guard_loss(l, i) / l->count;
    }
    for (int i = 0; i < l->count; i++) {
        const double off = ls_guard_loss(l, i) - *mean;
        variance += off * off / l->count;
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
