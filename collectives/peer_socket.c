#include "collectives/peer_socket.h"

#include "runtime/base/arena.h"
#include "runtime/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* An address of the contact, or loopback. TRIES connections of each call stay far from the usual
 * limit of 1024 descriptors. */
enum { TRIES = LS_PEER_ADDRESSES + 1, CALLS_AT_ONCE = 64, BACKLOG = 256 };

/* Of an address, before the next one is tried. */
#define START_NS 250000000u

static socklen_t address_bytes(const ls_peer_address *a) {
    return a->any.sa_family == AF_INET ? sizeof a->v4 : sizeof a->v6;
}

/* Listening */

/* One socket for both kinds of addresses where the kernel has IPv6. */
static int bind_any(ls_peer_address *bound) {
    const ls_peer_address anys[] = {
        {.v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT}},
        {.v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)}}};
    for (int i = 0; i < 2; i++) {
        int off = 0,
            fd = socket(anys[i].any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) {
            continue;
        }
        if (i == 0) {
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
        }
        socklen_t bytes = sizeof *bound;
        if (bind(fd, &anys[i].any, address_bytes(&anys[i])) == 0 && listen(fd, BACKLOG) == 0 &&
            getsockname(fd, &bound->any, &bytes) == 0) {
            return fd;
        }
        close(fd);
    }
    return -1;
}

/* IPv4 first: link-local IPv6 addresses mean nothing to others and are left out. */
static void add_addresses(ls_peer_contact *contact, sa_family_t family) {
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0) {
        return;
    }
    for (const struct ifaddrs *i = all; i && contact->address_count < LS_PEER_ADDRESSES;
         i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != family || !(i->ifa_flags & IFF_UP) ||
            (i->ifa_flags & IFF_LOOPBACK)) {
            continue;
        }
        ls_peer_address *a = &contact->addresses[contact->address_count];
        memcpy(a, i->ifa_addr, family == AF_INET ? sizeof a->v4 : sizeof a->v6);
        if (family == AF_INET) {
            a->v4.sin_port = contact->port;
        } else {
            a->v6.sin6_port = contact->port;
        }
        contact->address_count += family == AF_INET || !IN6_IS_ADDR_LINKLOCAL(&a->v6.sin6_addr);
    }
    freeifaddrs(all);
}

ls_status ls_peer_listen(int *listener, ls_peer_contact *contact) {
    ls_peer_address bound;
    *contact = (ls_peer_contact){0};
    gethostname(contact->host, sizeof contact->host - 1);
    *listener = bind_any(&bound);
    if (*listener < 0) {
        return LS_FAIL(LS_E_COMM,
                       "cannot listen on a TCP port for the watchdogs of other ranks: %s",
                       strerror(errno));
    }
    contact->port = bound.any.sa_family == AF_INET ? bound.v4.sin_port : bound.v6.sin6_port;
    add_addresses(contact, AF_INET);
    if (bound.any.sa_family == AF_INET6) {
        add_addresses(contact, AF_INET6);
    }
    return LS_OK;
}

/* Calling */

/* A connection to one address. */
typedef struct attempt {
    int fd; /* -1: over */
    bool connected;
    size_t received;
    uint32_t yes; /* the answer to DISMISS */
    ls_peer_reply *reply;
} attempt;

/* A call, and its addresses in their order: the next one is tried when those before have failed, or
 * have had a start (RFC 8305), so that one that leads nowhere does not cost the others their time.
 */
typedef struct conversation {
    ls_peer_call *call;
    ls_peer_address addresses[TRIES];
    attempt tries[TRIES];
    int count, begun;
    bool over;
} conversation;

static void close_attempt(attempt *a) {
    if (a->fd >= 0) {
        close(a->fd);
    }
    a->fd = -1;
    free(a->reply);
    a->reply = NULL;
}

static void end_attempt(conversation *c, attempt *a, ls_peer_result result) {
    ls_peer_call *call = c->call;
    if (result == LS_PEER_ANSWERED && a->reply) { /* of thousands: without the room for more */
        ls_peer_reply *shorter = realloc(a->reply, LS_PEER_REPLY_BYTES(a->reply));
        call->reply = shorter ? shorter : a->reply;
        a->reply = NULL;
    }
    close_attempt(a);
    call->result = result < call->result ? result : call->result;
    /* Who is there and refuses does so at each address. But loopback may be that of a container. */
    const bool loopback = call->here && a == c->tries;
    c->over = c->over || result == LS_PEER_ANSWERED || (result == LS_PEER_REFUSED && !loopback);
}

static bool is_own(const ls_peer_contact *caller, const ls_peer_address *address) {
    for (int i = 0; caller && i < caller->address_count && i < LS_PEER_ADDRESSES; i++) {
        const ls_peer_address *own = &caller->addresses[i];
        if (own->any.sa_family == address->any.sa_family &&
            (own->any.sa_family == AF_INET
                 ? own->v4.sin_addr.s_addr == address->v4.sin_addr.s_addr
                 : IN6_ARE_ADDR_EQUAL(&own->v6.sin6_addr, &address->v6.sin6_addr))) {
            return true;
        }
    }
    return false;
}

static void open_conversation(conversation *c, ls_peer_call *call) {
    const ls_peer_contact *contact = call->contact;
    *c = (conversation){.call = call};
    if (call->here) { /* the others are for containers, whose loopbacks are their own */
        c->addresses[c->count++] =
            (ls_peer_address){.v4 = {.sin_family = AF_INET,
                                     .sin_port = contact->port,
                                     .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
    }
    /* A bridge of containers has the same address on every host: there this host would answer. But
     * hosts that share all their addresses are names of one. */
    for (int own = 0; own < 2 && c->count == 0; own++) {
        for (int i = 0; i < contact->address_count && i < LS_PEER_ADDRESSES; i++) {
            if (own || !is_own(call->caller, &contact->addresses[i])) {
                c->addresses[c->count++] = contact->addresses[i];
            }
        }
    }
    for (int i = 0; i < TRIES; i++) {
        c->tries[i].fd = -1;
    }
    call->result = c->count > 0 ? LS_PEER_UNASKED : LS_PEER_UNREACHABLE;
}

/* False: this process has no descriptor or memory left for it, which says nothing of the other; it
 * may have once another connection is closed. */
static bool begin_attempt(conversation *c) {
    const ls_peer_address *address = &c->addresses[c->begun];
    attempt *a = &c->tries[c->begun];
    a->fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const bool kindless = a->fd < 0 && errno == EAFNOSUPPORT;
    if ((a->fd < 0 && !kindless) || (c->call->request.what == LS_PEER_RECORD &&
                                     ls_calloc(1, sizeof *a->reply, &a->reply) != LS_OK)) {
        close_attempt(a);
        return false;
    }
    c->begun++;
    if (kindless) {
        end_attempt(c, a, LS_PEER_UNREACHABLE);
    } else if (connect(a->fd, &address->any, address_bytes(address)) != 0 && errno != EINPROGRESS) {
        end_attempt(c, a, errno == ECONNREFUSED ? LS_PEER_REFUSED : LS_PEER_UNREACHABLE);
    }
    return true;
}

/* Of the answer, as far as what has come says; 0: it is none. */
static size_t expected_bytes(const attempt *a) {
    if (!a->reply) {
        return sizeof a->yes;
    }
    if (a->received < offsetof(ls_peer_reply, packed)) {
        return offsetof(ls_peer_reply, packed);
    }
    return a->reply->bytes <= sizeof a->reply->packed ? LS_PEER_REPLY_BYTES(a->reply) : 0;
}

/* The socket can be written (connected or failed) or read. */
static void continue_attempt(conversation *c, attempt *a) {
    if (!a->connected) {
        int error = 0;
        socklen_t bytes = sizeof error;
        getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
        a->connected = error == 0;
        /* A fresh socket's buffer takes the few bytes of a request at once. */
        const ls_peer_request *request = &c->call->request;
        if (error != 0 ||
            send(a->fd, request, sizeof *request, MSG_NOSIGNAL) != (ssize_t)sizeof *request) {
            end_attempt(c, a, error == ECONNREFUSED ? LS_PEER_REFUSED : LS_PEER_UNREACHABLE);
        }
        return;
    }
    char *to = a->reply ? (char *)a->reply : (char *)&a->yes;
    ssize_t n = recv(a->fd, to + a->received, expected_bytes(a) - a->received, 0);
    if (n > 0) {
        a->received += (size_t)n;
        const size_t expected = expected_bytes(a);
        if (a->received >= expected) {
            end_attempt(c, a, expected ? LS_PEER_ANSWERED : LS_PEER_UNASKED);
        }
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        end_attempt(c, a, LS_PEER_UNASKED); /* it ends, or cannot answer: the next look will tell */
    }
}

/* Begins what is due `passed_ns` after the first address; the number of open connections. */
static int proceed(conversation *c, uint64_t passed_ns, uint64_t start_ns) {
    for (;;) {
        int open = 0;
        bool connected = false;
        for (int i = 0; i < c->begun; i++) {
            open += c->tries[i].fd >= 0;
            connected = connected || (c->tries[i].fd >= 0 && c->tries[i].connected);
        }
        const bool due = open == 0 || (!connected && passed_ns >= (uint64_t)c->begun * start_ns);
        if (c->over || c->begun == c->count || !due || !begin_attempt(c)) {
            return c->over ? 0 : open;
        }
    }
}

static void run_conversations(conversation *all, int count, double timeout_s) {
    const uint64_t begin_ns = ls_clock_ns(), limit_ns = (uint64_t)(timeout_s * 1e9);
    const uint64_t most_ns = limit_ns / (2 * TRIES);
    const uint64_t start_ns = most_ns < START_NS ? most_ns : START_NS;
    for (;;) {
        struct pollfd entries[CALLS_AT_ONCE * TRIES];
        conversation *whose[CALLS_AT_ONCE * TRIES];
        attempt *which[CALLS_AT_ONCE * TRIES];
        nfds_t open = 0;
        const uint64_t passed_ns = ls_clock_ns() - begin_ns;
        bool more = false;
        for (int i = 0; i < count; i++) {
            const bool going = proceed(&all[i], passed_ns, start_ns) > 0;
            more = more || (going && all[i].begun < all[i].count);
            for (int t = 0; going && t < all[i].begun; t++) {
                attempt *a = &all[i].tries[t];
                if (a->fd >= 0) {
                    whose[open] = &all[i];
                    which[open] = a;
                    entries[open++] =
                        (struct pollfd){.fd = a->fd, .events = a->connected ? POLLIN : POLLOUT};
                }
            }
        }
        if (open == 0 || passed_ns >= limit_ns) {
            break;
        }
        const uint64_t left_ns = limit_ns - passed_ns;
        poll(entries, open, (int)((more && start_ns < left_ns ? start_ns : left_ns) / 1000000) + 1);
        for (nfds_t i = 0; i < open; i++) {
            if (entries[i].revents && !whose[i]->over) {
                continue_attempt(whose[i], which[i]);
            }
        }
    }
}

/* False: one of them has had no answer. */
static bool call_some(ls_peer_call *calls, int count, double timeout_s) {
    conversation all[CALLS_AT_ONCE];
    bool answered = true;
    for (int i = 0; i < count; i++) {
        open_conversation(&all[i], &calls[i]);
    }
    run_conversations(all, count, timeout_s);
    for (int i = 0; i < count; i++) {
        for (int t = 0; t < all[i].begun; t++) {
            attempt *a = &all[i].tries[t];
            if (a->fd >= 0 && !all[i].over) {
                end_attempt(&all[i], a, a->connected ? LS_PEER_SILENT : LS_PEER_UNREACHABLE);
            }
            close_attempt(a);
        }
        answered = answered && calls[i].result == LS_PEER_ANSWERED;
    }
    return answered;
}

void ls_peer_call_all(ls_peer_call *calls, int count, double timeout_s, bool enough) {
    const uint64_t begin_ns = ls_clock_ns();
    bool answered = true;
    for (int first = 0; first < count; first += CALLS_AT_ONCE) {
        const int n = count - first < CALLS_AT_ONCE ? count - first : CALLS_AT_ONCE;
        if (enough && !answered && 1e-9 * (double)(ls_clock_ns() - begin_ns) >= timeout_s) {
            for (int i = first; i < count; i++) {
                calls[i].result = LS_PEER_UNASKED;
            }
            return;
        }
        answered = call_some(calls + first, n, timeout_s) && answered;
    }
}
