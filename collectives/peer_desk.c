#include "collectives/peer_desk.h"

#include "runtime/base/arena.h"
#include "runtime/base/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { VISITS = 64 };

/* A connection, from its request to its answer. */
typedef struct visit {
    int fd;
    uint64_t since_ns; /* the begin, or the last part of the answer that was taken */
    ls_peer_request request;
    size_t received, sent, bytes;
    char *answer; /* [bytes]; NULL: the request has not come yet */
} visit;

struct ls_peer_desk {
    ls_peer_desk_options o;
    visit visits[VISITS]; /* in order of their begin */
    int count;
};

static void end_visit(ls_peer_desk *d, int which) {
    close(d->visits[which].fd);
    free(d->visits[which].answer);
    d->count--;
    for (int i = which; i < d->count; i++) {
        d->visits[i] = d->visits[i + 1];
    }
}

/* VISITS: all wait for their answers. */
static int first_silent(const ls_peer_desk *d) {
    int i = 0;
    while (i < d->count && d->visits[i].answer) {
        i++;
    }
    return i < d->count ? i : VISITS;
}

/* False: no descriptor is left for it. */
static bool begin_visit(ls_peer_desk *d) {
    const int fd = accept4(d->o.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return errno != EMFILE && errno != ENFILE;
    }
    if (d->count == VISITS) {
        end_visit(d, first_silent(d));
    }
    d->visits[d->count++] = (visit){.fd = fd, .since_ns = ls_clock_ns()};
    return true;
}

static bool may_go_on(ssize_t n) {
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* False: it is over. */
static bool receive(ls_peer_desk *d, visit *v) {
    const ssize_t n =
        recv(v->fd, (char *)&v->request + v->received, sizeof v->request - v->received, 0);
    v->received += n > 0 ? (size_t)n : 0;
    if (v->received < sizeof v->request) {
        return may_go_on(n);
    }
    v->answer = d->o.answer(d->o.context, &v->request, &v->bytes);
    return v->answer != NULL;
}

static bool reply(ls_peer_desk *d, visit *v) {
    const ssize_t n = send(v->fd, v->answer + v->sent, v->bytes - v->sent, MSG_NOSIGNAL);
    v->sent += n > 0 ? (size_t)n : 0;
    v->since_ns = n > 0 ? ls_clock_ns() : v->since_ns;
    if (v->sent < v->bytes) {
        return may_go_on(n);
    }
    d->o.answered(d->o.context, &v->request);
    return false;
}

ls_status ls_peer_desk_open(const ls_peer_desk_options *options, ls_peer_desk **desk) {
    LS_TRY(ls_calloc(1, sizeof **desk, desk));
    (*desk)->o = *options;
    return LS_OK;
}

void ls_peer_desk_serve(ls_peer_desk *d, double wait_s) {
    struct pollfd entries[VISITS + 1];
    for (int i = 0; i < d->count; i++) {
        entries[i] = (struct pollfd){.fd = d->visits[i].fd,
                                     .events = d->visits[i].answer ? POLLOUT : POLLIN};
    }
    const int count = d->count, timeout_ms = (int)(wait_s * 1e3);
    /* Where all wait for answers, others wait in the listener's queue. */
    const bool full = count == VISITS && first_silent(d) == VISITS;
    entries[count] = (struct pollfd){.fd = full ? -1 : d->o.listener, .events = POLLIN};
    if (poll(entries, (nfds_t)count + 1, timeout_ms) < 0) {
        return;
    }
    const uint64_t patience_ns = (uint64_t)(d->o.patience_s * 1e9);
    for (int i = count - 1; i >= 0; i--) { /* those that end make room behind them */
        visit *v = &d->visits[i];
        bool goes_on = true;
        if (entries[i].revents && !v->answer) {
            goes_on = receive(d, v);
        }
        if (goes_on && v->answer) {
            goes_on = reply(d, v);
        }
        if (!goes_on || ls_clock_ns() - v->since_ns > patience_ns) {
            end_visit(d, i);
        }
    }
    if (entries[count].revents && !begin_visit(d)) { /* it would be as ready at the next look */
        poll(NULL, 0, timeout_ms);
    }
}

void ls_peer_desk_close(ls_peer_desk *d) {
    while (d && d->count > 0) {
        end_visit(d, d->count - 1);
    }
    free(d);
}
