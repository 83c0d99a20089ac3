#include "collectives/peers.h"

#include "collectives/peer_desk.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/cpu.h"
#include "runtime/base/process.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

/* Of ranks that were dismissed. */
enum { LATE_MS = 200 };

/* What rank 0 draws for the job. */
typedef struct identity {
    uint64_t token;
    ls_peer_secret secret;
} identity;

struct ls_peers {
    int rank, size;
    identity job;
    double beat_s;
    void (*dismissed)(void);
    int listener;
    ls_peer_desk *desk;
    pthread_t thread;
    bool thread_runs;
    _Atomic bool stop;
    ls_peer_contact *contacts; /* [size] */
    uint64_t *hosts;           /* [size] */
    ls_flight_peer *here;      /* [size]; record NULL: of another host, or not readable */
};

/* Answering */

/* What others can know of a rank here; NULL: no memory for it. */
static ls_peer_reply *record_of(ls_peers *p, int rank, size_t *bytes) {
    ls_peer_reply *reply;
    if (ls_calloc(1, sizeof *reply, &reply) != LS_OK) {
        return NULL;
    }
    const ls_flight_peer *peer = &p->here[rank];
    const ls_flight_record *record = rank == p->rank ? ls_flight_own() : peer->record;
    reply->known = record != NULL;
    if (rank == p->rank) {
        ls_flight_asked(ls_flight_own());
    }
    if (record) {
        reply->bytes = ls_flight_pack(record, reply->packed);
        reply->dead = rank != p->rank && ls_flight_peer_dead(peer);
    }
    *bytes = LS_PEER_REPLY_BYTES(reply);
    return reply;
}

static void *answer(void *context, const ls_peer_request *request, size_t *bytes) {
    ls_peers *p = context;
    if (memcmp(&request->secret, &p->job.secret, sizeof request->secret) != 0) {
        return NULL;
    }
    if (request->what == LS_PEER_DISMISS) {
        uint32_t *yes;
        *bytes = sizeof *yes;
        if (ls_calloc(1, sizeof *yes, &yes) != LS_OK) {
            return NULL;
        }
        *yes = 1;
        return yes;
    }
    return request->rank < 0 || request->rank >= p->size ? NULL
                                                         : record_of(p, request->rank, bytes);
}

static void answered(void *context, const ls_peer_request *request) {
    if (request->what == LS_PEER_DISMISS) {
        ((ls_peers *)context)->dismissed();
    }
}

static void *answer_all(void *context) {
    ls_peers *p = context;
    ls_cpu_unbind_thread();
    while (!atomic_load(&p->stop)) {
        ls_flight_beat();
        ls_peer_desk_serve(p->desk, p->beat_s);
    }
    return NULL;
}

static ls_status start_thread(ls_peers *p) {
    int error = ls_process_thread(&p->thread, answer_all, p);
    if (error != 0) {
        return LS_FAIL(LS_E_MEMORY, "cannot start a thread: %s", strerror(error));
    }
    p->thread_runs = true;
    return LS_OK;
}

/* Opening */

static ls_status draw(identity *job) {
    if (getrandom(job, sizeof *job, 0) != (ssize_t)sizeof *job) {
        return LS_FAIL(LS_E_IO, "cannot draw random numbers: %s", strerror(errno));
    }
    return LS_OK;
}

static ls_status open_own(ls_peers *p, const ls_flight_options *flight) {
    LS_TRY(ls_flight_open(flight));
    ls_flight_beat();
    LS_TRY(ls_peer_listen(&p->listener, &p->contacts[p->rank]));
    const ls_peer_desk_options desk = {.listener = p->listener,
                                       .patience_s = 10,
                                       /* a loaded host may be late */ .context = p,
                                       .answer = answer,
                                       .answered = answered};
    return ls_peer_desk_open(&desk, &p->desk);
}

static ls_status take(ls_peers *p) {
    const size_t ranks = (size_t)p->size;
    LS_TRY(ls_calloc(ranks, sizeof *p->contacts, &p->contacts));
    LS_TRY(ls_calloc(ranks, sizeof *p->hosts, &p->hosts));
    LS_TRY(ls_calloc(ranks, sizeof *p->here, &p->here));
    for (int r = 0; r < p->size; r++) {
        p->here[r].fd = -1;
    }
    return LS_OK;
}

static ls_status join(ls_peers *p, const ls_peers_options *o) {
    ls_comm *comm = o->comm;
    LS_TRY(ls_comm_agree(comm, comm->rank == 0 ? draw(&p->job) : LS_OK));
    LS_TRY(comm->ops->broadcast(comm, &p->job, sizeof p->job, 0));
    ls_flight_options flight = {
        .dir = o->flight_dir, .token = p->job.token, .rank = p->rank, .size = p->size};
    LS_TRY(ls_comm_agree(comm, open_own(p, &flight)));
    const ls_peer_contact mine = p->contacts[p->rank];
    LS_TRY(comm->ops->all_gather(comm, &mine, p->contacts, sizeof mine));
    LS_TRY(ls_comm_hosts(comm, p->hosts));
    for (int r = 0; r < p->size; r++) {
        if (r != p->rank && p->hosts[r] == p->hosts[p->rank]) {
            flight.rank = r;
            /* Ranks of a host in containers of their own may not share the directory. */
            if (ls_flight_peer_open(&flight, &p->here[r]) != LS_OK) {
                ls_error_clear();
            }
        }
    }
    return ls_comm_agree(comm, start_thread(p));
}

ls_status ls_peers_open(const ls_peers_options *options, ls_peers **peers) {
    ls_peers *p;
    ls_status status = ls_calloc(1, sizeof *p, &p);
    if (status == LS_OK) {
        p->rank = options->comm->rank;
        p->size = options->comm->size;
        p->beat_s = options->beat_s;
        p->dismissed = options->dismissed;
        p->listener = -1;
        status = take(p);
    }
    *peers = p;
    status = ls_comm_agree(options->comm, status);
    if (status == LS_OK) {
        status = join(p, options);
    }
    if (status != LS_OK) {
        ls_peers_close(p);
        *peers = NULL;
    }
    return status;
}

void ls_peers_close(ls_peers *p) {
    if (!p) {
        return;
    }
    if (p->thread_runs) {
        atomic_store(&p->stop, true);
        pthread_join(p->thread, NULL);
    }
    ls_peer_desk_close(p->desk);
    if (p->listener >= 0) {
        close(p->listener);
    }
    for (int r = 0; p->here && r < p->size; r++) {
        ls_flight_peer_close(&p->here[r]);
    }
    ls_flight_close();
    free(p->contacts);
    free(p->hosts);
    free(p->here);
    free(p);
}

/* Looking */

static ls_rank_state state_of(const ls_flight_record *copy, bool dead, double stale_s) {
    const double silent_s = 1e-9 * ((double)copy->now_ns - (double)copy->beat_ns);
    return copy->left            ? LS_RANK_LEFT
           : dead                ? LS_RANK_DEAD
           : silent_s >= stale_s ? LS_RANK_STOPPED
                                 : LS_RANK_ALIVE;
}

/* Views and room for a record of each rank. Most of a packed record's room is never touched, and so
 * takes no memory. */
static size_t views_bytes(int size) {
    return (size_t)size * (sizeof(ls_rank_view) + sizeof(ls_flight_record));
}

static ls_status take_views(int size, ls_rank_view **views) {
    void *at = mmap(NULL, views_bytes(size), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        return LS_FAIL(LS_E_MEMORY, "no memory to look at %d ranks: %s", size, strerror(errno));
    }
    *views = at;
    return LS_OK;
}

static ls_flight_record *room_of(ls_rank_view *views, int size, int rank) {
    return (ls_flight_record *)(void *)(views + size) + rank;
}

static void look_here(const ls_peers *p, double stale_s, int r, ls_rank_view *view) {
    const ls_flight_peer *peer = &p->here[r];
    if (r != p->rank) {
        ls_flight_asked(peer->record);
    }
    ls_flight_copy(r == p->rank ? ls_flight_own() : peer->record, view->record);
    view->state =
        r == p->rank ? LS_RANK_ALIVE : state_of(view->record, ls_flight_peer_dead(peer), stale_s);
}

static void take_reply(const ls_peer_call *call, ls_rank_view *view, ls_flight_record *room,
                       double stale_s) {
    const ls_peer_reply *reply = call->reply;
    if (call->result == LS_PEER_ANSWERED && reply->known) {
        if (ls_flight_unpack(reply->packed, reply->bytes, room)) {
            view->record = room;
            view->state = state_of(room, reply->dead, stale_s);
        }
    } else if (call->result != LS_PEER_ANSWERED && call->result != LS_PEER_UNASKED) {
        view->state = call->result == LS_PEER_REFUSED  ? LS_RANK_DEAD
                      : call->result == LS_PEER_SILENT ? LS_RANK_STOPPED
                                                       : LS_RANK_UNREACHABLE;
    }
}

static int neighbour_of(const ls_peers *p, const ls_rank_view *views, int rank) {
    for (int r = 0; r < p->size; r++) {
        if (r != rank && r != p->rank && p->hosts[r] == p->hosts[rank] && views[r].record &&
            views[r].state == LS_RANK_ALIVE) {
            return r;
        }
    }
    return -1;
}

static ls_peer_call call_to(const ls_peers *p, int whom, ls_peer_what what, int rank) {
    return (ls_peer_call){.contact = &p->contacts[whom],
                          .caller = &p->contacts[p->rank],
                          .here = p->hosts[whom] == p->hosts[p->rank],
                          .request = {p->job.secret, what, rank}};
}

/* Asks ranks of other hosts; what does not answer is asked for at a neighbour of it. */
static ls_status look_far(ls_peers *p, double stale_s, double answer_s, ls_rank_view *views) {
    ls_peer_call *calls;
    LS_TRY(ls_calloc((size_t)p->size, sizeof *calls, &calls));
    for (int round = 0; round < 2; round++) {
        int count = 0;
        for (int r = 0; r < p->size; r++) {
            int whom = round == 0 ? r : neighbour_of(p, views, r);
            if (!views[r].record && whom >= 0) {
                calls[count++] = call_to(p, whom, LS_PEER_RECORD, r);
            }
        }
        ls_peer_call_all(calls, count, answer_s, true);
        for (int i = 0; i < count; i++) {
            if (round == 0 || calls[i].result == LS_PEER_ANSWERED) {
                const int r = calls[i].request.rank;
                take_reply(&calls[i], &views[r], room_of(views, p->size, r), stale_s);
            }
            free(calls[i].reply);
        }
    }
    free(calls);
    return LS_OK;
}

ls_status ls_peers_look(ls_peers *p, double stale_s, double answer_s, ls_rank_view **views) {
    ls_rank_view *v = NULL;
    LS_TRY(take_views(p->size, &v));
    for (int r = 0; r < p->size; r++) {
        memcpy(v[r].host, p->contacts[r].host, sizeof v[r].host);
        if (r == p->rank || p->here[r].record) {
            v[r].record = room_of(v, p->size, r);
            look_here(p, stale_s, r, &v[r]);
        }
    }
    ls_status status = look_far(p, stale_s, answer_s, v);
    if (status != LS_OK) {
        ls_peers_free_views(v, p->size);
        return status;
    }
    *views = v;
    return LS_OK;
}

void ls_peers_free_views(ls_rank_view *views, int size) {
    munmap(views, views_bytes(size));
}

int ls_peers_dead_here(const ls_peers *p) {
    for (int r = 0; r < p->size; r++) {
        if (ls_flight_peer_dead(&p->here[r])) {
            return r;
        }
    }
    return -1;
}

/* Ending */

void ls_peers_dismiss(ls_peers *p) {
    ls_peer_call *calls;
    if (ls_calloc((size_t)p->size, sizeof *calls, &calls) != LS_OK) {
        return; /* their own deadlines will do it */
    }
    int count = 0;
    for (int r = 0; r < p->size; r++) {
        if (r != p->rank) {
            calls[count++] = call_to(p, r, LS_PEER_DISMISS, r);
        }
    }
    ls_peer_call_all(calls, count, 1.0, false);
    free(calls);
}

/* A rank of this host: takes its record. One that has left has written it. */
static bool is_lost(const ls_peers *p, int rank, double stale_s, ls_flight_record *copy) {
    const ls_flight_peer *peer = &p->here[rank];
    ls_flight_copy(peer->record, copy);
    const ls_rank_state state = state_of(copy, ls_flight_peer_dead(peer), stale_s);
    return state == LS_RANK_STOPPED || state == LS_RANK_DEAD;
}

ls_status ls_peers_write(ls_peers *p, double stale_s, const char *dir) {
    ls_flight_record *copy;
    LS_TRY(ls_calloc(1, sizeof *copy, &copy));
    ls_flight_copy(ls_flight_own(), copy);
    ls_status status = ls_flight_write(copy, dir);
    bool lowest = true;
    for (int r = 0; r < p->rank && lowest; r++) {
        lowest = !p->here[r].record || is_lost(p, r, stale_s, copy);
    }
    for (int r = 0; r < p->size && lowest; r++) {
        if (p->here[r].record && is_lost(p, r, stale_s, copy)) {
            ls_status written = ls_flight_write(copy, dir);
            status = status == LS_OK ? written : status;
            unlink(p->here[r].path);
        }
    }
    free(copy);
    return status;
}

/* Has every other rank of this host closed its record? */
static bool have_all_left(const ls_peers *p) {
    bool all = true;
    for (int r = 0; r < p->size; r++) {
        const ls_flight_record *record = p->here[r].record;
        all = all && (!record || atomic_load(&record->left));
    }
    return all;
}

ls_status ls_peers_write_late(ls_peers *p, const char *dir) {
    ls_flight_record *copy;
    ls_status status = LS_OK;
    for (int i = 0; i < LATE_MS / 10 && !have_all_left(p); i++) {
        poll(NULL, 0, 10);
    }
    LS_TRY(ls_calloc(1, sizeof *copy, &copy));
    for (int r = 0; r < p->size; r++) {
        const ls_flight_record *record = p->here[r].record;
        if (record && !atomic_load(&record->left)) {
            ls_flight_copy(record, copy);
            ls_status written = ls_flight_write(copy, dir);
            status = status == LS_OK ? written : status;
        }
    }
    free(copy);
    return status;
}
