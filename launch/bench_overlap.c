/* How much of a collective this process's own computation hides. */
#include "collectives/comm_choose.h"
#include "launch/bench.h"
#include "launch/bench_call.h"
#include "launch/bench_fill.h"
#include "launch/json_text.h"
#include "launch/session.h"
#include "runtime/base/clock.h"
#include "runtime/base/sort.h"
#include "runtime/base/text.h"

#include <jansson.h>
#include <stdio.h>
#include <time.h>

/* Between two looks at the communicator train computes for about this long. */
enum { SLICE_NS = 500000, MOST_ITERATIONS = 1000 };

typedef struct overlap {
    ls_comm *world, *comm;
    float *send, *recv;
    int64_t count, rounds; /* rounds: of a slice of computation */
    int iterations;
} overlap;

typedef struct overlap_times {
    double comm_s, compute_s; /* each alone */
    double polled_s, blind_s; /* both at once, with looks at the communicator and without */
} overlap_times;

/* Computes in the first cache. */
static void compute(int64_t rounds) {
    static float x[2048];
    for (int64_t round = 0; round < rounds; round++) {
        for (int i = 0; i < 2048; i++) {
            x[i] = x[i] * 0.999f + 0.001f;
        }
        __asm__ volatile("" ::: "memory"); /* every round is made */
    }
}

static uint64_t processor_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* Of a slice: so much work, whatever else takes the processor meanwhile. */
static int64_t rounds_of_slice(void) {
    enum { TRIAL = 1000 };
    const uint64_t start_ns = processor_ns();
    uint64_t passed_ns;
    int64_t rounds = 0;
    do {
        compute(TRIAL);
        rounds += TRIAL;
        passed_ns = processor_ns() - start_ns;
    } while (passed_ns < 40U * SLICE_NS);
    return rounds * SLICE_NS / (int64_t)passed_ns + 1;
}

typedef struct mode {
    bool communicates;
    uint64_t compute_ns;
    bool polls;
} mode;

static ls_status run_once(overlap *o, mode m, double *seconds) {
    ls_comm_request *request;
    bool done = !m.communicates;
    LS_TRY(o->world->ops->barrier(o->world));
    const uint64_t start_ns = ls_clock_ns();
    if (m.communicates) {
        LS_TRY(o->comm->ops->all_reduce_start(o->comm, o->send, o->recv, o->count, LS_F32, LS_SUM,
                                              &request));
    }
    for (uint64_t left = m.compute_ns; left > 0;) {
        const uint64_t slice = left < SLICE_NS ? left : SLICE_NS;
        compute(o->rounds * (int64_t)slice / SLICE_NS + 1);
        left -= slice;
        if (m.polls && !done) {
            LS_TRY(o->comm->ops->test(o->comm, request, &done));
        }
    }
    if (!done) {
        LS_TRY(o->comm->ops->wait(o->comm, request));
    }
    *seconds = 1e-9 * (double)(ls_clock_ns() - start_ns);
    return LS_OK;
}

/* The median over the iterations of the slowest rank. */
static ls_status time_runs(overlap *o, mode m, double *seconds) {
    double times[MOST_ITERATIONS];
    for (int i = 0; i < o->iterations; i++) {
        LS_TRY(run_once(o, m, &times[i]));
    }
    LS_TRY(o->world->ops->all_reduce(o->world, times, o->iterations, LS_F64, LS_MAX));
    ls_sort_doubles(times, (size_t)o->iterations);
    *seconds = times[o->iterations / 2];
    return LS_OK;
}

static ls_status measure(overlap *o, overlap_times *t) {
    double warm_s;
    LS_TRY(run_once(o, (mode){.communicates = true}, &warm_s));
    LS_TRY(time_runs(o, (mode){.communicates = true}, &t->comm_s));
    /* Processor time of half as long again, so that all of it could be hidden. */
    mode m = {.compute_ns = (uint64_t)(1.5e9 * t->comm_s)};
    LS_TRY(time_runs(o, m, &t->compute_s));
    m.communicates = m.polls = true;
    LS_TRY(time_runs(o, m, &t->polled_s));
    m.polls = false;
    return time_runs(o, m, &t->blind_s);
}

static double hidden(const overlap_times *t, double total_s) {
    const double share = (t->comm_s + t->compute_s - total_s) / t->comm_s;
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

static void print_row(int64_t bytes, const overlap_times *t, json_t *rows) {
    if (rows) {
        json_array_append_new(rows, json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "bytes",
                                              (json_int_t)bytes, "comm_seconds", t->comm_s,
                                              "compute_seconds", t->compute_s, "polled_seconds",
                                              t->polled_s, "blind_seconds", t->blind_s,
                                              "polled_hidden", hidden(t, t->polled_s),
                                              "blind_hidden", hidden(t, t->blind_s)));
        return;
    }
    printf("%12lld %12.2f %12.2f | %12.2f %6.1f%% | %12.2f %6.1f%%\n", (long long)bytes,
           1e6 * t->comm_s, 1e6 * t->compute_s, 1e6 * (t->polled_s - t->compute_s),
           100 * hidden(t, t->polled_s), 1e6 * (t->blind_s - t->compute_s),
           100 * hidden(t, t->blind_s));
    fflush(stdout);
}

static void print_heading(const overlap *o) {
    printf("# all_reduce beside computation, back end %s on %d ranks; exposed: beyond the "
           "computation's own time\n",
           o->comm->ops->name, o->comm->size);
    printf("%12s %12s %12s | %-20s | %-20s\n", "size", "alone", "computation",
           "looked at each 0.5 ms", "not looked at");
    printf("%12s %12s %12s | %12s %7s | %12s %7s\n", "(B)", "(us)", "(us)", "exposed (us)",
           "hidden", "exposed (us)", "hidden");
}

static ls_status measure_all(overlap *o, const ls_bench_sizes *sizes, bool json) {
    ls_status status = LS_OK;
    const bool speaks = o->comm->rank == 0;
    json_t *rows = json ? json_array() : NULL;
    if (speaks && !json) {
        print_heading(o);
    }
    for (int64_t bytes = sizes->min_bytes; bytes <= sizes->max_bytes; bytes *= sizes->factor) {
        overlap_times t;
        o->count = bytes / (int64_t)sizeof(float);
        LS_TRY(measure(o, &t));
        if (speaks) {
            print_row(bytes, &t, rows);
        }
    }
    if (speaks && json) {
        json_t *all =
            json_pack("{s:i, s:s, s:s, s:i, s:O}", "schema", 1, "measures", "overlap", "backend",
                      o->comm->ops->name, "ranks", o->comm->size, "sizes", rows);
        status = ls_json_print(all, LS_JSON_ALL_DIGITS);
    }
    json_decref(rows);
    return status;
}

ls_status ls_bench_overlap(const ls_bench_sizes *sizes, ls_transport transport, bool json) {
    ls_session session;
    overlap o = {.iterations = sizes->iterations < MOST_ITERATIONS ? (int)sizes->iterations
                                                                   : MOST_ITERATIONS};
    LS_TRY(ls_session_begin(&session, NULL, NULL));
    o.world = session.comm;
    LS_TRY(ls_session_agree(&session, ls_comm_choose(o.world, transport, &o.comm)));
    void *send, *recv;
    LS_TRY(ls_session_agree(&session,
                            ls_bench_check_room(o.world, 2 * sizes->max_bytes, sizes->max_bytes)));
    LS_TRY(ls_session_agree(&session, o.comm->ops->alloc(o.comm, sizes->max_bytes, &send)));
    LS_TRY(ls_session_agree(&session, o.comm->ops->alloc(o.comm, sizes->max_bytes, &recv)));
    ls_bench_fill(LS_F32, send, (size_t)sizes->max_bytes);
    o.rounds = rounds_of_slice();
    o.send = send;
    o.recv = recv;
    LS_TRY(ls_session_agree(&session, measure_all(&o, sizes, json)));
    o.comm->ops->give_back(o.comm, send);
    o.comm->ops->give_back(o.comm, recv);
    o.comm->ops->destroy(o.comm);
    return LS_OK;
}
