/* What a collective costs on the wire: one row an operation, shared by benchmark, counters and
 * planner.
 *
 * `bytes` is the operation's size as nccl-tests counts it (doc/PERFORMANCE.md there): of the whole
 * vector for all-reduce, reduce-scatter, all-gather, reduce and broadcast, and of what a rank sends
 * to all ranks, itself included, for all-to-all. Algorithm bandwidth is bytes over time; bus
 * bandwidth is that times the row's factor, so that it can be compared with the link's whatever the
 * number of ranks.
 *
 * Time follows the alpha-beta model (Thakur, Rabenseifner, Gropp 2005,
 * doi:10.1177/1094342005051521): steps * alpha + bytes on the wire / beta. */
#ifndef LS_COLLECTIVES_WIRE_COST_H
#define LS_COLLECTIVES_WIRE_COST_H

typedef enum ls_coll {
    LS_COLL_ALL_REDUCE,
    LS_COLL_REDUCE_SCATTER,
    LS_COLL_ALL_GATHER,
    LS_COLL_ALL_TO_ALL,
    LS_COLL_BROADCAST,
    LS_COLL_REDUCE,
    LS_COLL_SEND_RECV,
    LS_COLL_BARRIER,
    LS_COLL_COUNT
} ls_coll;

/* "all_reduce"; static. */
const char *ls_coll_name(ls_coll coll);
/* LS_COLL_COUNT when there is no such name. */
ls_coll ls_coll_parse(const char *name);

/* Bytes that the busiest rank sends (where roots differ from others: receives) over `ranks` ranks;
 * 0 for one rank. */
double ls_wire_bytes(ls_coll coll, int ranks, double bytes);
/* busbw / algbw; 0 for one rank and for a barrier. */
double ls_wire_bus_factor(ls_coll coll, int ranks);

/* Links of one level: of a rank to its peers. */
typedef struct ls_wire_link {
    double latency_s;   /* alpha, of one step */
    double bytes_per_s; /* beta, of one rank; > 0 */
} ls_wire_link;

/* `inner` ranks in each of `outer` fast domains; beta of the outer link is one rank's share of what
 * leaves its domain. inner or outer 1: a single level. */
typedef struct ls_wire_hierarchy {
    int inner, outer;
    ls_wire_link inside, across;
} ls_wire_hierarchy;

/* Seconds of one operation on a single level, and composed over two: reducing goes inside first and
 * then with 1/inner of the bytes across, gathering the other way round, and an all-reduce is both
 * (with all-reduce of the shards across); an all-to-all sends what stays in the domain inside. */
double ls_wire_time_s(ls_coll coll, int ranks, double bytes, ls_wire_link link);
double ls_wire_hierarchical_time_s(ls_coll coll, const ls_wire_hierarchy *h, double bytes);

#endif
