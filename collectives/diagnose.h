/* Who keeps whom waiting: a verdict over the flight records of all ranks. */
#ifndef LS_COLLECTIVES_DIAGNOSE_H
#define LS_COLLECTIVES_DIAGNOSE_H

#include "collectives/flight.h"

typedef enum ls_rank_state {
    LS_RANK_ALIVE,   /* its watchdog beats or answers */
    LS_RANK_STOPPED, /* the process is there, its watchdog is not: stopped, or its host frozen */
    LS_RANK_DEAD,    /* the process has ended */
    LS_RANK_UNREACHABLE, /* its host does not answer */
    LS_RANK_LEFT         /* ended in order */
} ls_rank_state;

typedef struct ls_rank_view {
    ls_rank_state state;
    ls_flight_record *record; /* a copy; NULL: could not be had */
    char host[64];
} ls_rank_view;

typedef enum ls_verdict {
    LS_VERDICT_FINE, /* nobody waits */
    LS_VERDICT_SLOW, /* somebody waits for a rank that has time left */
    LS_VERDICT_HANG
} ls_verdict;

/* views [size], by rank. text: one line, empty when FINE; the first culprits, each with the
 * operation that it keeps others from finishing and where it was seen last. */
ls_verdict ls_diagnose(const ls_rank_view *views, int size, char *text, size_t text_size);

#endif
