#include "collectives/trace.h"

#include "runtime/base/arena.h"
#include "runtime/base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* PIECES of PIECE_BYTES: what rank 0 receives at a time. */
enum { MOST_EVENTS = 1 << 17, PIECES = 16, PIECE_BYTES = 1 << 20 };

typedef enum event_of { PLACE, OPERATION, CALL, WAIT } event_of;

typedef struct event {
    event_of of;
    ls_trace_op op; /* begin_ns of all; id and kind of calls too */
    uint64_t end_ns;
    uint64_t moved_ns; /* of calls */
    int64_t index;     /* of a place: block */
    int place;
    char group[48];
} event;

static struct {
    event *events; /* NULL: off */
    int64_t count, dropped;
    double began_s; /* Unix time; rank 0's is where time begins */
    event now;      /* the place; begin_ns 0: none yet */
} trace;

static void keep(const event *e) {
    if (trace.count < MOST_EVENTS) {
        trace.events[trace.count++] = *e;
    } else {
        trace.dropped++;
    }
}

ls_status ls_trace_begin(void) {
    if (trace.events) {
        return LS_OK;
    }
    trace.count = trace.dropped = 0;
    trace.now = (event){.of = PLACE};
    trace.began_s = ls_clock_wall_s();
    return ls_calloc(MOST_EVENTS, sizeof *trace.events, &trace.events);
}

static void close_place(uint64_t now_ns) {
    if (trace.now.op.begin_ns > 0) {
        trace.now.end_ns = now_ns;
        keep(&trace.now);
    }
}

void ls_trace_place(ls_flight_place place, int64_t index) {
    if (trace.events) {
        const uint64_t now_ns = ls_clock_ns();
        close_place(now_ns);
        trace.now = (event){.op.begin_ns = now_ns, .index = index, .place = (int)place};
    }
}

void ls_trace_operation(const ls_trace_op *op) {
    if (trace.events) {
        event e = {.of = OPERATION, .op = *op, .end_ns = ls_clock_ns()};
        (void)memccpy(e.group, op->group, 0, sizeof e.group - 1);
        keep(&e);
    }
}

void ls_trace_call(uint64_t id, int kind, bool waits, ls_meter_moment called) {
    if (trace.events) {
        keep(&(event){.of = waits ? WAIT : CALL,
                      .op = {.id = id, .kind = kind, .begin_ns = called.ns},
                      .moved_ns = ls_meter_moved_ns() - called.moved_ns,
                      .end_ns = ls_clock_ns()});
    }
}

/* Operations of a group may overlap: they are pairs of events with a number of their own. */
static void write_operation(FILE *f, const event *e, int rank, double begin, double end) {
    const char *const name = ls_flight_kind_text(e->op.kind);
    fprintf(f,
            ",\n{\"ph\":\"b\",\"name\":\"%s\",\"cat\":\"%s\",\"id\":\"%d.%llu\",\"pid\":%d,"
            "\"tid\":1,\"ts\":%.3f,\"args\":{\"bytes\":%lld,\"lowest\":%d,\"number\":%llu,"
            "\"peer\":%d}}",
            name, e->group, rank, (unsigned long long)e->op.id, rank, begin, (long long)e->op.bytes,
            e->op.lowest, (unsigned long long)e->op.seq, e->op.peer);
    fprintf(f,
            ",\n{\"ph\":\"e\",\"name\":\"%s\",\"cat\":\"%s\",\"id\":\"%d.%llu\",\"pid\":%d,"
            "\"tid\":1,\"ts\":%.3f}",
            name, e->group, rank, (unsigned long long)e->op.id, rank, end);
}

static void write_event(FILE *f, const event *e, int rank, double to_us) {
    const double begin = 1e-3 * (double)e->op.begin_ns + to_us;
    const double end = 1e-3 * (double)e->end_ns + to_us;
    char block[32] = "";
    switch (e->of) {
    case OPERATION:
        write_operation(f, e, rank, begin, end);
        break;
    case PLACE:
        if (e->index >= 0) {
            snprintf(block, sizeof block, " %lld", (long long)e->index);
        }
        fprintf(f,
                ",\n{\"ph\":\"X\",\"name\":\"%s%s\",\"cat\":\"step\",\"pid\":%d,\"tid\":0,"
                "\"ts\":%.3f,\"dur\":%.3f}",
                ls_flight_place_text(e->place), block, rank, begin, end - begin);
        break;
    case CALL:
    case WAIT:
        fprintf(f,
                ",\n{\"ph\":\"X\",\"name\":\"%s\",\"cat\":\"%s\",\"pid\":%d,\"tid\":2,\"ts\":%.3f,"
                "\"dur\":%.3f,\"args\":{\"operation\":\"%d.%llu\",\"moving_us\":%.3f}}",
                ls_flight_kind_text(e->op.kind), e->of == WAIT ? "wait" : "call", rank, begin,
                end - begin, rank, (unsigned long long)e->op.id, 1e-3 * (double)e->moved_ns);
        break;
    }
}

/* Unix time of monotonic time 0: both clocks read closest to each other of some tries, so that
 * ranks of a host agree within a microsecond. */
static double wall_of_monotonic_s(void) {
    uint64_t least_ns = UINT64_MAX;
    double offset_s = 0.0;
    for (int i = 0; i < 16; i++) {
        const uint64_t before_ns = ls_clock_ns();
        const double wall_s = ls_clock_wall_s();
        const uint64_t took_ns = ls_clock_ns() - before_ns;
        if (took_ns < least_ns) {
            least_ns = took_ns;
            offset_s = wall_s - 1e-9 * ((double)before_ns + 0.5 * (double)took_ns);
        }
    }
    return offset_s;
}

/* This rank's events; the first one names the rank. Group names are ours and need no escapes. */
static ls_status write_own(int rank, double origin_s, char **text, size_t *bytes) {
    FILE *f = open_memstream(text, bytes);
    if (!f) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a trace");
    }
    char host[65] = "?";
    gethostname(host, sizeof host - 1);
    const double to_us = 1e6 * (wall_of_monotonic_s() - origin_s);
    fprintf(f,
            "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"tid\":0,\"args\":{\"name\":"
            "\"rank %d on %s\",\"dropped\":%lld}}",
            rank, rank, host, (long long)trace.dropped);
    for (int64_t i = 0; i < trace.count; i++) {
        write_event(f, &trace.events[i], rank, to_us);
    }
    return fclose(f) == 0 ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for a trace");
}

/* Texts on their way to rank 0: pieces in the order of the file, of which PIECES are asked for at a
 * time. A rank sends when rank 0 has room for its first piece, as small texts that come before they
 * are wanted would lie in the library's memory, those of all ranks. */
typedef struct gathering {
    int rank; /* of the piece that is asked for next, and where it begins */
    int64_t at;
    int first, count; /* of the pieces under way */
    struct {
        int rank;
        int64_t at, bytes;
        ls_comm_request *request;
    } pieces[PIECES];
    char (*memory)[PIECE_BYTES]; /* [PIECES] */
} gathering;

static ls_status send_all(ls_comm *comm, const char *data, int64_t bytes, int to) {
    for (int64_t at = 0; at < bytes; at += PIECE_BYTES) {
        const int64_t left = bytes - at;
        ls_comm_request *request;
        LS_TRY(comm->ops->send_start(comm, data + at, left < PIECE_BYTES ? left : PIECE_BYTES, to,
                                     &request));
        LS_TRY(comm->ops->wait(comm, request));
    }
    return LS_OK;
}

static ls_status ask(ls_comm *comm, gathering *g, const int64_t *sizes) {
    static const char yours = 1;
    const int which = (g->first + g->count) % PIECES;
    const int64_t left = sizes[g->rank] - g->at;
    const int64_t bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
    g->pieces[which].rank = g->rank;
    g->pieces[which].at = g->at;
    g->pieces[which].bytes = bytes;
    LS_TRY(
        comm->ops->recv_start(comm, g->memory[which], bytes, g->rank, &g->pieces[which].request));
    if (g->at == 0) {
        LS_TRY(send_all(comm, &yours, sizeof yours, g->rank));
    }
    g->count++;
    g->at += bytes;
    if (g->at == sizes[g->rank]) {
        g->rank++;
        g->at = 0;
    }
    return LS_OK;
}

/* On rank 0: one rank's text after the other. A file that cannot be written is found out later. */
static ls_status collect(ls_comm *comm, FILE *f, const char *own, gathering *g,
                         const int64_t *sizes) {
    g->rank = 1;
    if (f) {
        fwrite(own, 1, (size_t)sizes[0], f);
    }
    for (;;) {
        while (g->count < PIECES && g->rank < comm->size) {
            LS_TRY(ask(comm, g, sizes));
        }
        if (g->count == 0) {
            return LS_OK;
        }
        LS_TRY(comm->ops->wait(comm, g->pieces[g->first].request));
        if (f) {
            fputs(g->pieces[g->first].at == 0 ? ",\n" : "", f);
            fwrite(g->memory[g->first], 1, (size_t)g->pieces[g->first].bytes, f);
        }
        g->first = (g->first + 1) % PIECES;
        g->count--;
    }
}

static ls_status write_file(ls_comm *comm, const char *path, const char *own, gathering *g,
                            const int64_t *sizes) {
    FILE *f = fopen(path, "w");
    if (f) {
        fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", f);
    }
    ls_status status = collect(comm, f, own, g, sizes);
    const bool failed = !f || fputs("\n]}\n", f) < 0 || ferror(f);
    if (f && fclose(f) != 0) {
        return LS_FAIL(LS_E_IO, "cannot write '%s': %s", path, strerror(errno));
    }
    LS_TRY(status);
    return failed ? LS_FAIL(LS_E_IO, "cannot write '%s': %s", path, strerror(errno)) : LS_OK;
}

static ls_status send_own(ls_comm *comm, const char *own, int64_t bytes) {
    char wanted;
    ls_comm_request *request;
    LS_TRY(comm->ops->recv_start(comm, &wanted, sizeof wanted, 0, &request));
    LS_TRY(comm->ops->wait(comm, request));
    return send_all(comm, own, bytes, 0);
}

ls_status ls_trace_end(ls_comm *comm, const char *path) {
    char *own = NULL;
    size_t bytes = 0;
    int64_t *sizes = NULL, mine;
    gathering g = {0};
    double origin_s = trace.began_s;
    if (!trace.events) { /* on no rank */
        return LS_OK;
    }
    close_place(ls_clock_ns());
    event *const events = trace.events;
    LS_TRY(comm->ops->broadcast(comm, &origin_s, sizeof origin_s, 0));
    ls_status status = write_own(comm->rank, origin_s, &own, &bytes);
    trace.events = NULL; /* what follows is no part of it */
    free(events);
    if (status == LS_OK) {
        status = ls_calloc((size_t)comm->size, sizeof *sizes, &sizes);
    }
    if (status == LS_OK && comm->rank == 0) {
        status = ls_calloc(PIECES, sizeof *g.memory, &g.memory);
    }
    LS_TRY_GOTO(ls_comm_agree(comm, status), out);
    mine = (int64_t)bytes;
    LS_TRY_GOTO(comm->ops->all_gather(comm, &mine, sizes, sizeof mine), out);
    status = comm->rank == 0 ? write_file(comm, path, own, &g, sizes) : send_own(comm, own, mine);
    status = ls_comm_agree(comm, status);
out:
    free(own);
    free(g.memory);
    free(sizes);
    return status;
}
