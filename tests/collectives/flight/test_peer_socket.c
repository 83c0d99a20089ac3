/* Calls to ranks whose hosts have several addresses, some of which lead nowhere. */
#include "collectives/peer_desk.h"
#include "tests/test.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Longer than ctest waits: an address that has to run into it fails the test. */
enum { FOREVER_S = 3600 };
/* A rank whose answer says that it is longer than any can be. */
enum { TOO_LONG = 1 << 20 };

static ls_peer_address address_at(const char *ip, in_port_t port) {
    ls_peer_address a = {.v4 = {.sin_family = AF_INET, .sin_port = port}};
    inet_pton(AF_INET, ip, &a.v4.sin_addr);
    return a;
}

static int listen_at(const char *ip, int backlog, ls_peer_address *at) {
    *at = address_at(ip, 0);
    socklen_t bytes = sizeof at->v4;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(fd, &at->any, bytes) == 0 && listen(fd, backlog) == 0);
    CHECK_INT(getsockname(fd, &at->any, &bytes), 0);
    return fd;
}

/* An address whose listener takes no connection any more: like a host that is cut off, the kernel
 * says nothing to those that come. */
static ls_peer_address nowhere(const char *ip) {
    ls_peer_address at;
    listen_at(ip, 0, &at);
    for (int i = 0; i < 64; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect(fd, &at.any, sizeof at.v4);
        struct pollfd entry = {.fd = fd, .events = POLLOUT};
        if (poll(&entry, 1, 200) == 0) {
            return at; /* the descriptors stay open until the process ends */
        }
    }
    CHECK(!"a listener whose queue is full");
    return at;
}

static ls_peer_address nobody(const char *ip) {
    ls_peer_address at;
    close(listen_at(ip, 1, &at));
    return at;
}

static void *give(void *context, const ls_peer_request *request, size_t *bytes) {
    (void)context;
    static ls_flight_record record; /* used by the one thread that answers */
    ls_peer_reply *reply = calloc(1, sizeof *reply);
    record.rank = request->rank;
    record.pid = 77;
    reply->known = 1;
    reply->bytes = request->rank == TOO_LONG ? sizeof reply->packed + 1
                                             : ls_flight_pack(&record, reply->packed);
    *bytes = request->what == LS_PEER_DISMISS ? sizeof(uint32_t)
             : request->rank == TOO_LONG      ? sizeof *reply
                                              : LS_PEER_REPLY_BYTES(reply);
    return request->what == LS_PEER_DISMISS || request->what == LS_PEER_RECORD
               ? reply
               : (free(reply), NULL);
}

static void given(void *context, const ls_peer_request *request) {
    *(bool *)context = request->what == LS_PEER_DISMISS;
}

/* Answers requests for records until it is asked to dismiss. */
static void *answer(void *listener) {
    bool dismissed = false;
    ls_peer_desk *desk;
    CHECK_OK(ls_peer_desk_open(&(ls_peer_desk_options){.listener = *(int *)listener,
                                                       .patience_s = 1,
                                                       .context = &dismissed,
                                                       .answer = give,
                                                       .answered = given},
                               &desk));
    while (!dismissed) {
        ls_peer_desk_serve(desk, 0.2);
    }
    ls_peer_desk_close(desk);
    return NULL;
}

static ls_peer_contact with(const ls_peer_address *addresses, int count) {
    ls_peer_contact contact = {.host = "far", .address_count = count};
    memcpy(contact.addresses, addresses, (size_t)count * sizeof *addresses);
    return contact;
}

static int rank_in(const ls_peer_reply *reply) {
    static ls_flight_record record;
    memset(&record, 0, sizeof record);
    CHECK(ls_flight_unpack(reply->packed, reply->bytes, &record));
    CHECK_INT(record.pid, 77);
    return record.rank;
}

static ls_peer_call call(const ls_peer_contact *contact, const ls_peer_contact *caller,
                         double timeout_s) {
    ls_peer_call c = {.contact = contact,
                      .caller = caller,
                      .request = {.what = LS_PEER_RECORD, .rank = 5},
                      .reply = NULL};
    ls_peer_call_all(&c, 1, timeout_s, true);
    CHECK_INT(c.reply != NULL, c.result == LS_PEER_ANSWERED);
    if (c.reply) {
        CHECK_INT(rank_in(c.reply), 5);
        free(c.reply);
    }
    return c;
}

/* More calls than are made at once. */
static void test_many(const ls_peer_address *closed, const ls_peer_address *live) {
    enum { MANY = 150 };
    static ls_peer_call calls[MANY];
    const ls_peer_contact here = with(live, 1), dead = with(closed, 1);
    for (int i = 0; i < MANY; i++) {
        calls[i] = (ls_peer_call){.contact = i % 3 ? &here : &dead,
                                  .request = {.what = LS_PEER_RECORD, .rank = i}};
    }
    ls_peer_call_all(calls, MANY, FOREVER_S, true);
    for (int i = 0; i < MANY; i++) {
        CHECK_INT(calls[i].result, i % 3 ? LS_PEER_ANSWERED : LS_PEER_REFUSED);
        CHECK(!calls[i].reply || rank_in(calls[i].reply) == i);
        free(calls[i].reply);
    }
}

/* Of a large part of a job that does not answer, what answers in the time of one is enough, unless
 * all are to be told. */
static void test_enough(const ls_peer_address *gone, const ls_peer_address *live) {
    enum { MANY = 130 };
    static ls_peer_call calls[MANY];
    const ls_peer_contact here = with(live, 1), cut = with(gone, 1);
    for (int enough = 0; enough < 2; enough++) {
        for (int i = 0; i < MANY; i++) {
            calls[i] = (ls_peer_call){.contact = i == 5 ? &cut : &here,
                                      .request = {.what = LS_PEER_RECORD, .rank = i}};
        }
        ls_peer_call_all(calls, MANY, 2, enough);
        CHECK_INT(calls[5].result, LS_PEER_UNREACHABLE);
        CHECK_INT(calls[6].result, LS_PEER_ANSWERED);
        CHECK_INT(calls[MANY - 1].result, enough ? LS_PEER_UNASKED : LS_PEER_ANSWERED);
        for (int i = 0; i < MANY; i++) {
            free(calls[i].reply);
        }
    }
}

/* Want of descriptors is no word about the others: they are asked one after another, or not. */
static void test_few_descriptors(void) {
    enum { MANY = 40 };
    static ls_peer_call calls[MANY];
    ls_peer_address at;
    int listener = listen_at("127.0.0.1", 64, &at);
    const pid_t other = fork();
    if (other == 0) {
        answer(&listener);
        _exit(0);
    }
    const ls_peer_contact contact = with(&at, 1);
    const int lowest = dup(listener);
    close(lowest);
    struct rlimit before;
    getrlimit(RLIMIT_NOFILE, &before);
    for (int left = 0; left <= 4; left += 4) {
        const struct rlimit few = {.rlim_cur = (rlim_t)(lowest + left),
                                   .rlim_max = before.rlim_max};
        for (int i = 0; i < MANY; i++) {
            calls[i] =
                (ls_peer_call){.contact = &contact, .request = {.what = LS_PEER_RECORD, .rank = i}};
        }
        CHECK_INT(setrlimit(RLIMIT_NOFILE, &few), 0);
        ls_peer_call_all(calls, MANY, FOREVER_S, true);
        CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
        for (int i = 0; i < MANY; i++) {
            CHECK_INT(calls[i].result, left ? LS_PEER_ANSWERED : LS_PEER_UNASKED);
            free(calls[i].reply);
        }
    }
    ls_peer_call dismiss = {.contact = &contact, .request = {.what = LS_PEER_DISMISS}};
    ls_peer_call_all(&dismiss, 1, FOREVER_S, false);
    CHECK_INT(waitpid(other, NULL, 0), other);
    close(listener);
}

static int connect_to(const ls_peer_address *at) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_INT(connect(fd, &at->any, sizeof at->v4), 0);
    return fd;
}

/* Has the other end closed it, without an answer? Waits for that, and ctest not for ever. */
static bool is_closed(int fd) {
    char byte;
    const ssize_t n = recv(fd, &byte, 1, 0);
    close(fd);
    return n <= 0;
}

/* Callers that say nothing, a byte now and then, or nonsense, and such as do not take their answer:
 * others do not wait for any of them, and none is borne for long. */
static void test_silent(const ls_peer_address *live) {
    enum { SILENT = 100, SLOW = 5 };
    int fds[SILENT];
    const ls_peer_contact here = with(live, 1);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < SILENT; i++) {
            fds[i] = connect_to(live);
        }
        for (int i = SILENT - SLOW; i < SILENT; i++) {
            const ls_peer_request deaf = {.what = round ? 99 : LS_PEER_RECORD};
            CHECK(send(fds[i], &deaf, round ? sizeof deaf : 1, MSG_NOSIGNAL) > 0);
        }
        for (int i = 0; i < 20; i++) {
            CHECK_INT(call(&here, NULL, 5).result, LS_PEER_ANSWERED);
        }
        for (int i = 0; i < SILENT; i++) {
            CHECK(is_closed(fds[i]));
        }
    }
    const ls_peer_request request = {.what = LS_PEER_RECORD, .rank = 5};
    const int least = 1; /* the kernel rounds it up; an answer does not fit */
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    ls_peer_call turned_away[] = {
        {.contact = &here, .request = {.what = 99}},
        {.contact = &here, .request = {.what = LS_PEER_RECORD, .rank = TOO_LONG}}};
    ls_peer_call_all(turned_away, 2, 5, true);
    CHECK_INT(turned_away[0].result, LS_PEER_UNASKED); /* which is no word of its death */
    CHECK_INT(turned_away[1].result, LS_PEER_UNASKED);
    CHECK(!turned_away[1].reply);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &least, sizeof least);
    CHECK_INT(connect(fd, &live->any, sizeof live->v4), 0);
    CHECK(send(fd, &request, sizeof request, MSG_NOSIGNAL) == (ssize_t)sizeof request);
    CHECK_INT(call(&here, NULL, 5).result, LS_PEER_ANSWERED);
    close(fd);
}

typedef struct trickle {
    int fd;
    size_t sent;
} trickle;

/* All but the last byte, in 11 seconds, or what is taken of them. */
static void *send_slowly(void *context) {
    trickle *t = context;
    const char byte = 0;
    const struct timespec nap = {.tv_nsec = 500000000};
    while (t->sent + 1 < sizeof(ls_peer_request) && send(t->fd, &byte, 1, MSG_NOSIGNAL) == 1) {
        t->sent++;
        nanosleep(&nap, NULL);
    }
    return NULL;
}

/* Something always comes, and it is not all within a second. */
static void test_trickle(const ls_peer_address *live) {
    pthread_t thread;
    trickle t = {.fd = connect_to(live)};
    CHECK_INT(pthread_create(&thread, NULL, send_slowly, &t), 0);
    pthread_join(thread, NULL);
    CHECK(t.sent + 1 < sizeof(ls_peer_request)); /* the other end has closed it before */
    CHECK(is_closed(t.fd));
}

int main(void) {
    test_few_descriptors();
    ls_peer_address live, silent;
    int listener = listen_at("127.0.0.1", 64, &live);
    listen_at("127.0.0.1", 64, &silent);
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, answer, &listener), 0);
    const ls_peer_address gone = nowhere("127.0.0.1"), closed = nobody("127.0.0.2");

    /* The one that leads somewhere answers without the time of the others. */
    const ls_peer_address last[] = {gone, gone, gone, gone, gone, live};
    ls_peer_contact contact = with(last, 6);
    CHECK_INT(call(&contact, NULL, FOREVER_S).result, LS_PEER_ANSWERED);
    /* Nobody listens there any more: that is the host's word, for all its addresses. */
    const ls_peer_address ended[] = {gone, closed, gone};
    contact = with(ended, 3);
    CHECK_INT(call(&contact, NULL, FOREVER_S).result, LS_PEER_REFUSED);
    /* Nothing to be had in time. */
    const ls_peer_address cut[] = {gone, gone};
    contact = with(cut, 2);
    CHECK_INT(call(&contact, NULL, 0.2).result, LS_PEER_UNREACHABLE);
    const ls_peer_address stopped[] = {gone, silent};
    contact = with(stopped, 2);
    CHECK_INT(call(&contact, NULL, 0.5).result, LS_PEER_SILENT);
    contact = with(cut, 0);
    CHECK_INT(call(&contact, NULL, FOREVER_S).result, LS_PEER_UNREACHABLE);

    /* An address that the caller has too is no way to another host, unless there is no other. */
    const ls_peer_address bridge = address_at("127.0.0.2", 1), both[] = {closed, live};
    const ls_peer_contact caller = with(&bridge, 1);
    contact = with(both, 2);
    CHECK_INT(call(&contact, NULL, FOREVER_S).result, LS_PEER_REFUSED);
    CHECK_INT(call(&contact, &caller, FOREVER_S).result, LS_PEER_ANSWERED);
    contact = with(&closed, 1);
    CHECK_INT(call(&contact, &caller, FOREVER_S).result, LS_PEER_REFUSED);

    test_silent(&live);
    test_trickle(&live);
    test_many(&closed, &live);
    test_enough(&gone, &live);
    contact = with(&live, 1);
    ls_peer_call dismiss = {.contact = &contact, .request = {.what = LS_PEER_DISMISS}};
    ls_peer_call_all(&dismiss, 1, FOREVER_S, false);
    CHECK_INT(dismiss.result, LS_PEER_ANSWERED);
    pthread_join(thread, NULL);
    return test_end();
}
