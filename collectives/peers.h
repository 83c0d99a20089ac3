/* The flight records of the other ranks: of this host's from memory, of others by TCP, with no help
 * from MPI, whose processes may all be stuck.
 *
 * A thread beats this rank's heart and answers others. Who asks must know the job's secret, which
 * rank 0 draws at the start. */
#ifndef LS_COLLECTIVES_PEERS_H
#define LS_COLLECTIVES_PEERS_H

#include "collectives/diagnose.h"

typedef struct ls_peers ls_peers;

typedef struct ls_peers_options {
    ls_comm *comm;          /* the world; used by open only */
    const char *flight_dir; /* of ls_flight_options */
    double beat_s;
    void (*dismissed)(void); /* another rank ends the job; called on the answering thread */
} ls_peers_options;

/* Opens this rank's flight record, exchanges addresses and starts to answer; *peers is there before
 * `dismissed` can be called. LS_E_IO, LS_E_COMM, the same on all ranks. [collective] */
ls_status ls_peers_open(const ls_peers_options *options, ls_peers **peers);
/* Stops answering and closes the record. Safe on NULL. Not collective. */
void ls_peers_close(ls_peers *peers);

/* The state of all ranks; a heart that has not beaten for stale_s has stopped, and a host that has
 * not answered after answer_s is not reached. views [size]; free with
 * ls_peers_free_views. */
ls_status ls_peers_look(ls_peers *peers, double stale_s, double answer_s, ls_rank_view **views);
void ls_peers_free_views(ls_rank_view *views, int size);
/* Lowest rank of this host whose process ended without closing its record; -1: none. Cheap. */
int ls_peers_dead_here(const ls_peers *peers);
/* Tells all other ranks that answer that the job ends. */
void ls_peers_dismiss(ls_peers *peers);
/* Writes this rank's record to dir, and as the lowest rank of this host that is alive also those of
 * the ranks that are not, whose files it removes. */
ls_status ls_peers_write(ls_peers *peers, double stale_s, const char *dir);
/* After a dismissal: those of the ranks of this host that have not written their own and left
 * within a fifth of a second. A launcher that has lost a rank may kill them before they come to it.
 */
ls_status ls_peers_write_late(ls_peers *peers, const char *dir);

#endif
