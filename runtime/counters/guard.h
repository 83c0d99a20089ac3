/* Judgements on numbers that ranks compare: who differs, who is slow, which loss is out of line. */
#ifndef LS_COUNTERS_GUARD_H
#define LS_COUNTERS_GUARD_H

#include <stdbool.h>
#include <stdint.h>

/* What a rank says of the state that it shares with the ranks of equal `group`. */
typedef struct ls_guard_vote {
    uint64_t group, hash;
} ls_guard_vote;

/* Ranks whose hash is not that of most of their group, into odd [count], in order; returns how
 * many. *undecided: a group has no most frequent hash (two ranks that differ); all of it is odd. */
int ls_guard_odd(const ls_guard_vote *votes, int count, int *odd, bool *undecided);

/* The rank whose seconds [count] exceed the median by the largest factor, and that factor (1 for
 * one rank). */
int ls_guard_slowest(const double *seconds, int count, double *factor);

/* Losses of late, for their mean and spread. */
enum { LS_GUARD_LOSSES = 64 };
typedef struct ls_guard_losses {
    double ring[LS_GUARD_LOSSES];
    int count, next;
} ls_guard_losses;

/* The i-th of `count`, oldest first. */
double ls_guard_loss(const ls_guard_losses *losses, int i);
/* How many standard deviations the loss lies above the mean of those of late; 0 until half of the
 * ring is filled. A loss above `limit` deviations is not taken into the ring, so that a spike does
 * not hide the next one; limit 0 takes all. */
double ls_guard_spike(ls_guard_losses *losses, double loss, double limit);
/* The largest loss that would not be out of line; infinity where there is no limit yet. */
double ls_guard_most(const ls_guard_losses *losses, double limit);

#endif
