#include "collectives/wire_cost.h"

#include <stdint.h>
#include <string.h>

/* Each rank sends `passes` times (n-1)/n of the bytes where the operation divides its vector among
 * the ranks, and all of them where it does not. Steps: of a ring where `linear` times n-1, of a
 * tree or a dissemination where `rounds` times log2 n. */
typedef struct row {
    const char *name;
    int passes;
    int divided;
    int linear, rounds;
} row;

static const row rows[LS_COLL_COUNT] = {
    [LS_COLL_ALL_REDUCE] = {"all_reduce", .passes = 2, .divided = 1, .linear = 2},
    [LS_COLL_REDUCE_SCATTER] = {"reduce_scatter", .passes = 1, .divided = 1, .linear = 1},
    [LS_COLL_ALL_GATHER] = {"all_gather", .passes = 1, .divided = 1, .linear = 1},
    [LS_COLL_ALL_TO_ALL] = {"all_to_all", .passes = 1, .divided = 1, .linear = 1},
    [LS_COLL_BROADCAST] = {"broadcast", .passes = 1, .rounds = 1},
    [LS_COLL_REDUCE] = {"reduce", .passes = 1, .rounds = 1},
    [LS_COLL_SEND_RECV] = {"send_recv", .passes = 1, .rounds = 0},
    [LS_COLL_BARRIER] = {"barrier", .passes = 0, .rounds = 1},
};

const char *ls_coll_name(ls_coll coll) {
    return rows[coll].name;
}

ls_coll ls_coll_parse(const char *name) {
    int coll = 0;
    while (coll < LS_COLL_COUNT && strcmp(rows[coll].name, name) != 0) {
        coll++;
    }
    return (ls_coll)coll;
}

double ls_wire_bus_factor(ls_coll coll, int ranks) {
    if (ranks < 2) {
        return 0;
    }
    const row *r = &rows[coll];
    return r->passes * (r->divided ? (double)(ranks - 1) / ranks : 1.0);
}

double ls_wire_bytes(ls_coll coll, int ranks, double bytes) {
    return ls_wire_bus_factor(coll, ranks) * bytes;
}

static int steps(ls_coll coll, int ranks) {
    int log2_ranks = 0;
    while ((INT64_C(1) << log2_ranks) < ranks) {
        log2_ranks++;
    }
    return coll == LS_COLL_SEND_RECV
               ? 1
               : rows[coll].linear * (ranks - 1) + rows[coll].rounds * log2_ranks;
}

double ls_wire_time_s(ls_coll coll, int ranks, double bytes, ls_wire_link link) {
    if (ranks < 2) {
        return 0;
    }
    return steps(coll, ranks) * link.latency_s +
           ls_wire_bytes(coll, ranks, bytes) / link.bytes_per_s;
}

double ls_wire_hierarchical_time_s(ls_coll coll, const ls_wire_hierarchy *h, double bytes) {
    const double shard = bytes / h->inner;
    const int ranks = h->inner * h->outer;
    switch (coll) {
    case LS_COLL_ALL_REDUCE:
        return ls_wire_time_s(LS_COLL_REDUCE_SCATTER, h->inner, bytes, h->inside) +
               ls_wire_time_s(LS_COLL_ALL_REDUCE, h->outer, shard, h->across) +
               ls_wire_time_s(LS_COLL_ALL_GATHER, h->inner, bytes, h->inside);
    case LS_COLL_REDUCE_SCATTER:
    case LS_COLL_ALL_GATHER:
        return ls_wire_time_s(coll, h->inner, bytes, h->inside) +
               ls_wire_time_s(coll, h->outer, shard, h->across);
    case LS_COLL_ALL_TO_ALL: {
        const double each = bytes / ranks;
        double time_s = 0;
        if (h->inner > 1) {
            time_s += (h->inner - 1) * (h->inside.latency_s + each / h->inside.bytes_per_s);
        }
        if (h->outer > 1) {
            time_s += (ranks - h->inner) * (h->across.latency_s + each / h->across.bytes_per_s);
        }
        return time_s;
    }
    case LS_COLL_SEND_RECV: /* between domains where there are several */
        return ls_wire_time_s(coll, ranks, bytes, h->outer > 1 ? h->across : h->inside);
    default: /* a level after the other */
        return ls_wire_time_s(coll, h->inner, bytes, h->inside) +
               ls_wire_time_s(coll, h->outer, bytes, h->across);
    }
}
