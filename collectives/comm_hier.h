/* The back end of ranks on several hosts: composed of one among the ranks of a host (inside) and
 * one among those of equal place on their hosts (across).
 *
 * An all-reduce reduces and scatters inside, reduces each shard across by all ranks of a host in
 * parallel, and gathers inside, chunk after chunk, so that the stages of a chunk overlap those of
 * the next; the other operations go the same two ways, so that each byte crosses between hosts as
 * rarely as it can (Thakur, Rabenseifner, Gropp 2005, doi:10.1177/1094342005051521; Cho et al.
 * 2019, doi:10.1147/JRD.2019.2947013). The flat back end over all ranks takes what gains nothing
 * (messages, all-to-all, barriers, small vectors) and what would be rounded differently: SUM_TREE
 * and AVG where the ranks of a host are no power of two or do not follow one another, sums of
 * 16-bit types, averages of integers. A SUM is added inside first: its order depends on the hosts.
 */
#ifndef LS_COLLECTIVES_COMM_HIER_H
#define LS_COLLECTIVES_COMM_HIER_H

#include "collectives/comm.h"

/* Bytes of a chunk (on a device: of 1/32 of one), those from which on vectors are not left to the
 * flat back end, and those of a block that an all-gather sends at least at a time: of a chunk that
 * thousands of ranks share, each would send a few hundred to every host. Equal on all ranks; change
 * them only while no operation is under way. */
extern int64_t ls_comm_hier_chunk_bytes, ls_comm_hier_least_bytes, ls_comm_hier_piece_bytes;

/* flat: of all ranks, of the back end mpi; inside: of this host's ranks; across: of the ranks with
 * this one's rank inside, one a host, in the same order everywhere. All three are taken over, also
 * after a failure. LS_E_UNSUPPORTED on all ranks where the groups do not fit together. alloc gives
 * memory of the back end inside. [collective] */
ls_status ls_comm_hier(ls_comm *flat, ls_comm *inside, ls_comm *across, ls_comm **comm);

/* Over communicators on_device. Nothing looks at their operations: all of a request are given to
 * the device when it starts, in an order that is the same on all ranks, and the device has each
 * stage wait for the one before. For that `inside`, `across` and `up`, of the same ranks as inside,
 * start behind work of their own beside the device's, and waits on them order that work. */
typedef struct ls_hier_order {
    void *context;
    /* The work beside goes on behind what the device has been given. */
    ls_status (*follow)(void *context);
    /* Waits on one of the three order the device's work from here on, or again the work beside. */
    void (*set_device)(void *context, ls_comm *comm, bool device);
    /* The same over a communicator that was split from `flat` or is its duplicate, taken over:
     * two levels, or, where its ranks do not lie so, itself. [collective] */
    ls_status (*compose)(void *context, ls_comm *flat, ls_comm **comm);
    void (*destroy)(void *context);
} ls_hier_order;

/* As ls_comm_hier; order is copied, and its context taken over. [collective] */
ls_status ls_comm_hier_on_device(ls_comm *flat, ls_comm *inside, ls_comm *across, ls_comm *up,
                                 const ls_hier_order *order, ls_comm **comm);

#endif
