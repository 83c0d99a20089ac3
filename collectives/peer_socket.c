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
#include <sys/time.h>
#include <unistd.h>

/* Connections at once: far from the usual limit of 1024 descriptors. */
enum { CALLS_AT_ONCE = 128, BACKLOG = 256 };

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
        int off = 0, fd = socket(anys[i].any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
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

int ls_peer_accept(int listener, double wait_s) {
    struct pollfd entry = {.fd = listener, .events = POLLIN};
    if (poll(&entry, 1, (int)(wait_s * 1e3)) <= 0) {
        return -1;
    }
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    const struct timeval patience = {.tv_sec = 1};
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    }
    return fd;
}

bool ls_peer_send(int fd, const void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = send(fd, (const char *)data + done, bytes - done, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

bool ls_peer_receive(int fd, void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = recv(fd, (char *)data + done, bytes - done, 0);
        if (n <= 0) {
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

/* Calling */

/* A call at one address. */
typedef struct attempt {
    ls_peer_call *call;
    int fd; /* -1: over */
    bool connected;
    size_t received, expected;
    uint32_t yes; /* the answer to DISMISS */
} attempt;

static void end_attempt(attempt *a, ls_peer_result result) {
    close(a->fd);
    a->fd = -1;
    a->call->result = result;
    if (result != LS_PEER_ANSWERED) {
        free(a->call->reply);
        a->call->reply = NULL;
    }
}

/* The try-th address: loopback first on this host. False: there is none. */
static bool address_of(const ls_peer_call *call, int try_number, ls_peer_address *address) {
    int index = try_number - (call->here ? 1 : 0);
    if (index < 0) {
        *address = (ls_peer_address){.v4 = {.sin_family = AF_INET,
                                            .sin_port = call->contact->port,
                                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
        return true;
    }
    if (index >= call->contact->address_count || index >= LS_PEER_ADDRESSES) {
        return false;
    }
    *address = call->contact->addresses[index];
    return true;
}

static void begin_attempt(attempt *a, const ls_peer_address *address) {
    a->fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (a->fd < 0) {
        a->call->result = LS_PEER_UNREACHABLE;
        return;
    }
    if (a->call->request.what == LS_PEER_RECORD) {
        a->expected = sizeof *a->call->reply;
        if (ls_calloc(1, sizeof *a->call->reply, &a->call->reply) != LS_OK) {
            end_attempt(a, LS_PEER_UNREACHABLE);
            return;
        }
    } else {
        a->expected = sizeof a->yes;
    }
    if (connect(a->fd, &address->any, address_bytes(address)) != 0 && errno != EINPROGRESS) {
        end_attempt(a, errno == ECONNREFUSED ? LS_PEER_REFUSED : LS_PEER_UNREACHABLE);
    }
}

/* The socket can be written (connected or failed) or read. */
static void continue_attempt(attempt *a) {
    if (!a->connected) {
        int error = 0;
        socklen_t bytes = sizeof error;
        getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
        a->connected = error == 0;
        /* A fresh socket's buffer takes the few bytes of a request at once. */
        if (error != 0 || !ls_peer_send(a->fd, &a->call->request, sizeof a->call->request)) {
            end_attempt(a, error == ECONNREFUSED ? LS_PEER_REFUSED : LS_PEER_UNREACHABLE);
        }
        return;
    }
    char *to = a->call->reply ? (char *)a->call->reply : (char *)&a->yes;
    ssize_t n = recv(a->fd, to + a->received, a->expected - a->received, 0);
    if (n > 0) {
        a->received += (size_t)n;
        if (a->received == a->expected) {
            end_attempt(a, LS_PEER_ANSWERED);
        }
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        end_attempt(a, LS_PEER_REFUSED);
    }
}

/* One address of up to CALLS_AT_ONCE calls. */
static void run_attempts(attempt *attempts, int count, double timeout_s) {
    const uint64_t end_ns = ls_clock_ns() + (uint64_t)(timeout_s * 1e9);
    for (;;) {
        struct pollfd entries[CALLS_AT_ONCE];
        attempt *whose[CALLS_AT_ONCE];
        nfds_t open = 0;
        for (int i = 0; i < count; i++) {
            if (attempts[i].fd >= 0) {
                whose[open] = &attempts[i];
                entries[open++] = (struct pollfd){
                    .fd = attempts[i].fd, .events = attempts[i].connected ? POLLIN : POLLOUT};
            }
        }
        const uint64_t now_ns = ls_clock_ns();
        if (open == 0 || now_ns >= end_ns) {
            break;
        }
        poll(entries, open, (int)((end_ns - now_ns) / 1000000) + 1);
        for (nfds_t i = 0; i < open; i++) {
            if (entries[i].revents) {
                continue_attempt(whose[i]);
            }
        }
    }
    for (int i = 0; i < count; i++) {
        if (attempts[i].fd >= 0) {
            end_attempt(&attempts[i], attempts[i].connected ? LS_PEER_SILENT : LS_PEER_UNREACHABLE);
        }
    }
}

/* Does another address of the contact promise more? Who is there and refuses, or is there and says
 * nothing, does so at each of them. */
static bool try_next(const ls_peer_call *call, int try_number) {
    return try_number == 0 || call->result == LS_PEER_UNREACHABLE ||
           (call->result == LS_PEER_REFUSED && try_number == 1 && call->here);
}

void ls_peer_call_all(ls_peer_call *calls, int count, double timeout_s) {
    for (int first = 0; first < count; first += CALLS_AT_ONCE) {
        for (int try_number = 0; try_number <= LS_PEER_ADDRESSES; try_number++) {
            attempt attempts[CALLS_AT_ONCE];
            int n = 0;
            for (int i = first; i < count && i < first + CALLS_AT_ONCE; i++) {
                ls_peer_address address;
                if (!try_next(&calls[i], try_number)) {
                    continue;
                }
                if (address_of(&calls[i], try_number, &address)) {
                    attempts[n] = (attempt){.call = &calls[i], .fd = -1};
                    begin_attempt(&attempts[n++], &address);
                } else if (try_number == 0) {
                    calls[i].result = LS_PEER_UNREACHABLE;
                }
            }
            if (n == 0) {
                break;
            }
            run_attempts(attempts, n, timeout_s);
        }
    }
}
