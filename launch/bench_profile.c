/* Latency and bandwidth of the links between ranks, as the planner reads them. */
#include "collectives/comm_choose.h"
#include "collectives/flight.h"
#include "collectives/recorded.h"
#include "launch/bench.h"
#include "launch/bench_fill.h"
#include "launch/bench_links.h"
#include "launch/json_text.h"
#include "launch/session.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/sort.h"
#include "runtime/plan/cluster.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const ls_coll colls[] = {LS_COLL_ALL_REDUCE, LS_COLL_REDUCE_SCATTER, LS_COLL_ALL_GATHER,
                                LS_COLL_ALL_TO_ALL, LS_COLL_BROADCAST,      LS_COLL_SEND_RECV};
enum { COLLS = sizeof colls / sizeof *colls, REPEATS = 9 };
static const int64_t sizes[] = {1 << 10, 16 << 10, 256 << 10, 4 << 20, 32 << 20};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* A group of ranks, and what was found about its links by each operation. */
typedef struct level {
    const char *name;
    ls_comm *comm;
    ls_wire_link links[COLLS];
    double seconds[COLLS][SIZES]; /* measured */
} level;

/* The slowest rank's median. Roots change from call to call: one alone would not wait for those who
 * receive, and many messages would take the latency of one. */
static ls_status time_call(ls_comm *world, ls_bench_call call, int64_t bytes, char *send,
                           char *recv, double *seconds) {
    const ls_bench_shape s = ls_bench_shape_of(&call, bytes);
    const int runs = bytes < 1 << 20 ? 20 : 1;
    double times[REPEATS];
    LS_TRY(ls_bench_call_run(&call, s, send, recv));
    for (int i = 0; i < REPEATS; i++) {
        LS_TRY(world->ops->barrier(world));
        const uint64_t start_ns = ls_clock_ns();
        for (int j = 0; j < runs; j++) {
            call.root = j % call.comm->size;
            LS_TRY(ls_bench_call_run(&call, s, send, recv));
        }
        times[i] = 1e-9 * (double)(ls_clock_ns() - start_ns) / runs;
    }
    LS_TRY(world->ops->all_reduce(world, times, REPEATS, LS_F64, LS_MAX));
    ls_sort_doubles(times, REPEATS);
    *seconds = times[REPEATS / 2];
    return LS_OK;
}

/* time = a latency + b / rate, each divided by what was measured. Neither is negative. */
ls_wire_link ls_bench_fit(const ls_bench_call *call, const int64_t *tried, const double *seconds,
                          int count) {
    const int ranks = call->comm->size;
    double aa = 0, ab = 0, bb = 0, a1 = 0, b1 = 0;
    for (int i = 0; i < count; i++) {
        const ls_wire_link steps = {.latency_s = 1, .bytes_per_s = INFINITY};
        const ls_bench_shape s = ls_bench_shape_of(call, tried[i]);
        const double bytes = (double)s.all * (double)ls_dtype_bytes(call->dtype);
        const double a = ls_wire_time_s(call->coll, ranks, bytes, steps) / seconds[i];
        const double b = ls_wire_bytes(call->coll, ranks, bytes) / seconds[i];
        aa += a * a;
        ab += a * b;
        bb += b * b;
        a1 += a;
        b1 += b;
    }
    const double det = aa * bb - ab * ab;
    const double latency = (a1 * bb - b1 * ab) / det, inverse = (b1 * aa - a1 * ab) / det;
    if (!(latency > 0) || !(inverse > 0)) { /* all by the bytes */
        return (ls_wire_link){.latency_s = 0, .bytes_per_s = bb / b1};
    }
    return (ls_wire_link){.latency_s = latency, .bytes_per_s = 1 / inverse};
}

static ls_status measure_level(ls_comm *world, level *l) {
    const int64_t most = sizes[SIZES - 1];
    ls_comm *comm = l->comm;
    void *send, *recv;
    int64_t *blocks;
    LS_TRY(ls_comm_agree(world, ls_calloc(2 * (size_t)comm->size, sizeof *blocks, &blocks)));
    LS_TRY(comm->ops->alloc(comm, most, &send));
    LS_TRY(comm->ops->alloc(comm, most, &recv));
    ls_bench_fill(LS_F32, send, (size_t)most);
    for (int c = 0; c < COLLS; c++) {
        const ls_bench_call call = {.comm = comm,
                                    .coll = colls[c],
                                    .dtype = LS_F32,
                                    .op = LS_SUM_TREE, /* as gradients are added */
                                    .counts = blocks,
                                    .offsets = blocks + comm->size};
        for (int i = 0; i < SIZES; i++) {
            LS_TRY(time_call(world, call, sizes[i], send, recv, &l->seconds[c][i]));
        }
        l->links[c] = ls_bench_fit(&call, sizes, l->seconds[c], SIZES);
    }
    comm->ops->give_back(comm, send);
    comm->ops->give_back(comm, recv);
    free(blocks);
    return LS_OK;
}

/* Output */

static void print_table(const level *l) {
    for (int c = 0; c < COLLS && l->comm; c++) {
        printf("%-6s  %-5s  %-15s %10.2f  %8.3f\n", l->name, l->comm->ops->name,
               ls_coll_name(colls[c]), 1e6 * l->links[c].latency_s, 1e-9 * l->links[c].bytes_per_s);
    }
}

static void fill_links(ls_cluster *c, const ls_bench_links *links, const char *key) {
    for (int i = 0; i < LS_USE_COUNT * LS_COLL_COUNT; i++) {
        ls_figure_id us, gb_s;
        const ls_comm_use use = (ls_comm_use)(i / LS_COLL_COUNT);
        const ls_coll coll = (ls_coll)(i % LS_COLL_COUNT);
        const ls_wire_link *link = &links->of[use][coll];
        if (link->bytes_per_s > 0 && ls_link_figures(use, coll, &us, &gb_s)) {
            ls_cluster_set(c, us, 1e6 * link->latency_s, key);
            ls_cluster_set(c, gb_s, 1e-9 * link->bytes_per_s, key);
        }
    }
}

/* What `bench machine --profile` found before is kept. */
static ls_status fill(ls_cluster *c, const level *inside, const level *across, int hosts, int local,
                      const ls_bench_links *links) {
    static const char key[] = "collectives";
    char source[320];
    snprintf(source, sizeof source,
             "lockstep bench collective: fp32, 1 KiB to 32 MiB, %d ranks on %d host%s, %.180s",
             hosts * local, hosts, hosts == 1 ? "" : "s", ls_comm_mpi_version());
    LS_TRY(ls_cluster_cite(c, key, source));
    if (!c->text[LS_CLUSTER_TITLE][0]) {
        char host[64] = "";
        gethostname(host, sizeof host - 1);
        snprintf(c->text[LS_CLUSTER_TITLE], sizeof c->text[0], "%s, %d host%s", host, hosts,
                 hosts == 1 ? "" : "s");
    }
    ls_cluster_set(c, LS_FIG_NODE_DEVICES, local, key);
    ls_cluster_set(c, LS_FIG_DOMAIN_DEVICES, local, key);
    if (inside->comm) {
        ls_cluster_set(c, LS_FIG_LINK_GB_S, 1e-9 * inside->links[0].bytes_per_s, key);
        ls_cluster_set(c, LS_FIG_LINK_LATENCY_US, 1e6 * inside->links[0].latency_s, key);
        fill_links(c, links, key);
    }
    if (across->comm) {
        ls_cluster_set(c, LS_FIG_NETWORK_GBIT_S, 8e-9 * across->links[0].bytes_per_s, key);
        ls_cluster_set(c, LS_FIG_NETWORK_LATENCY_US, 1e6 * across->links[0].latency_s, key);
    }
    return LS_OK;
}

/* What was measured, and the fit by which ls_wire_time_s tells it: an object a level and operation.
 */
static void add_json(json_t *rows, const level *l) {
    for (int c = 0; c < COLLS && l->comm; c++) {
        const ls_bench_call call = {.comm = l->comm, .coll = colls[c], .dtype = LS_F32};
        json_t *times = json_array();
        for (int i = 0; i < SIZES; i++) {
            const ls_bench_shape s = ls_bench_shape_of(&call, sizes[i]);
            const double bytes = (double)s.all * (double)ls_dtype_bytes(call.dtype);
            json_array_append_new(
                times, json_pack("{s:f, s:f, s:f}", "bytes", bytes, "seconds", l->seconds[c][i],
                                 "fitted_seconds",
                                 ls_wire_time_s(colls[c], l->comm->size, bytes, l->links[c])));
        }
        json_array_append_new(rows, json_pack("{s:s, s:s, s:i, s:s, s:f, s:f, s:o}", "level",
                                              l->name, "backend", l->comm->ops->name, "ranks",
                                              l->comm->size, "operation", ls_coll_name(colls[c]),
                                              "alpha_s", l->links[c].latency_s, "beta_bytes_per_s",
                                              l->links[c].bytes_per_s, "times", times));
    }
}

static ls_status print_json(const level *inside, const level *across, int hosts, int local) {
    json_t *rows = json_array();
    add_json(rows, inside);
    add_json(rows, across);
    json_t *all = json_pack("{s:i, s:s, s:s, s:i, s:i, s:o}", "schema", 1, "measures", "links",
                            "mpi", ls_comm_mpi_version(), "hosts", hosts, "ranks_per_host", local,
                            "operations", rows);
    return ls_json_print(all, LS_JSON_ALL_DIGITS);
}

/* Groups inside and across hosts; comm stays NULL where a level has one rank only. */
static ls_status split_levels(ls_comm *world, level *inside, level *across, int *hosts_out) {
    uint64_t *hosts;
    LS_TRY(ls_comm_agree(world, ls_calloc((size_t)world->size, sizeof *hosts, &hosts)));
    ls_status status = ls_comm_hosts(world, hosts);
    const ls_spread s = ls_spread_of(hosts, world->rank, world->size);
    free(hosts);
    if (status == LS_OK && s.least != s.most) {
        status = LS_FAIL(LS_E_UNSUPPORTED,
                         "%d to %d ranks on each of %d hosts; a profile needs the same number on "
                         "all",
                         s.least, s.most, s.hosts);
    }
    LS_TRY(ls_comm_agree(world, status));
    *hosts_out = s.hosts;
    level *levels[] = {inside, across};
    for (int i = 0; i < 2; i++) {
        ls_comm *part;
        if ((i == 0 ? s.most : s.hosts) > 1) {
            LS_TRY(world->ops->split(world, i == 0 ? s.first : s.inside, &part));
            status = ls_comm_choose(part, LS_TRANSPORT_AUTO, &levels[i]->comm);
            part->ops->destroy(part);
            LS_TRY(ls_comm_agree(world, status));
        }
    }
    return LS_OK;
}

/* Operations go into a flight record as a run's, which takes time of theirs. */
static ls_status measure_links(ls_session *session, ls_comm *inside, ls_bench_links *links) {
    ls_comm *const world = session->comm, *recorded;
    LS_TRY(ls_session_open(session, NULL, LS_CFG_DEVICE_CPU, 0));
    const ls_dtype dtype = ls_session_dtype(LS_COMPUTE_AUTO, session->dev);
    uint64_t token = ls_clock_ns();
    LS_TRY(world->ops->broadcast(world, &token, sizeof token, 0));
    const ls_flight_options flight = {.token = token, .rank = world->rank, .size = world->size};
    LS_TRY(ls_session_agree(session, ls_flight_open(&flight)));
    ls_status status = ls_comm_agree(inside, ls_comm_recorded(inside, "links", false, &recorded));
    if (status == LS_OK) {
        status = ls_bench_links_measure(recorded, session->dev, dtype, links);
        recorded->ops->destroy(recorded);
    }
    ls_flight_close();
    return ls_session_agree(session, status);
}

ls_status ls_bench_profile(const char *path, bool json) {
    static ls_cluster profile;
    ls_session session = {0};
    level inside = {.name = "inside"}, across = {.name = "across"};
    int hosts = 1;
    LS_TRY(ls_session_begin(&session, NULL, NULL));
    ls_comm *world = session.comm;
    if (world->size == 1) {
        return LS_FAIL(LS_E_USAGE, "a profile of the links of one rank; start several: mpirun -n 2 "
                                   "lockstep bench collective --profile FILE");
    }
    LS_TRY(ls_session_agree(&session, world->rank == 0 ? ls_cluster_begin(path, &profile) : LS_OK));
    LS_TRY(ls_session_agree(&session, split_levels(world, &inside, &across, &hosts)));
    level *levels[] = {&inside, &across};
    for (int i = 0; i < 2; i++) {
        if (levels[i]->comm) {
            LS_TRY(ls_session_agree(&session, measure_level(world, levels[i])));
        }
    }
    static ls_bench_links links;
    if (inside.comm) {
        LS_TRY(measure_links(&session, inside.comm, &links));
    }
    const int local = world->size / hosts;
    ls_status status = LS_OK;
    if (world->rank == 0) {
        status = fill(&profile, &inside, &across, hosts, local, &links);
        if (status == LS_OK) {
            status = ls_cluster_write(&profile, path);
        }
        if (status == LS_OK && json) {
            status = print_json(&inside, &across, hosts, local);
        } else if (status == LS_OK) {
            puts("level   back   operation        alpha (us)  beta (GB/s)");
            print_table(&inside);
            print_table(&across);
            printf("wrote %s\n", path);
        }
    }
    LS_TRY(ls_session_agree(&session, status));
    for (int i = 0; i < 2; i++) {
        if (levels[i]->comm) {
            levels[i]->comm->ops->destroy(levels[i]->comm);
        }
    }
    ls_session_close(&session);
    return LS_OK;
}
