/* Calls to ranks whose hosts have several addresses, some of which lead nowhere. */
#include "collectives/peer_socket.h"
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

/* Answers requests for records until it is asked to dismiss. */
static void *answer(void *listener) {
    for (;;) {
        int fd = accept(*(int *)listener, NULL, NULL);
        ls_peer_request request;
        if (!ls_peer_receive(fd, &request, sizeof request)) {
            close(fd);
            continue;
        }
        if (request.what == LS_PEER_DISMISS) {
            const uint32_t yes = 1;
            ls_peer_send(fd, &yes, sizeof yes);
            close(fd);
            return NULL;
        }
        static ls_peer_reply reply;
        reply = (ls_peer_reply){.known = 1, .record = {.rank = request.rank, .pid = 77}};
        ls_peer_send(fd, &reply, sizeof reply);
        close(fd);
    }
}

static ls_peer_contact with(const ls_peer_address *addresses, int count) {
    ls_peer_contact contact = {.host = "far", .address_count = count};
    memcpy(contact.addresses, addresses, (size_t)count * sizeof *addresses);
    return contact;
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
        CHECK_INT(c.reply->record.rank, 5);
        CHECK_INT(c.reply->record.pid, 77);
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
        CHECK(!calls[i].reply || calls[i].reply->record.rank == i);
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
        ls_peer_call_all(calls, MANY, 0.5, enough);
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

static void *trickle(void *fd) {
    const char byte = 0;
    const struct timespec nap = {.tv_nsec = 20000000};
    while (send(*(int *)fd, &byte, 1, MSG_NOSIGNAL) == 1) {
        nanosleep(&nap, NULL);
    }
    return NULL;
}

/* Something always comes, and it is never all. */
static void test_trickle(void) {
    static char much[1 << 20];
    int ends[2];
    pthread_t thread;
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    CHECK_INT(pthread_create(&thread, NULL, trickle, &ends[1]), 0);
    CHECK(!ls_peer_receive(ends[0], much, sizeof much)); /* ctest does not wait for all of it */
    close(ends[0]);
    pthread_join(thread, NULL);
    close(ends[1]);
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

    test_trickle();
    test_many(&closed, &live);
    test_enough(&gone, &live);
    contact = with(&live, 1);
    ls_peer_call dismiss = {.contact = &contact, .request = {.what = LS_PEER_DISMISS}};
    ls_peer_call_all(&dismiss, 1, FOREVER_S, false);
    CHECK_INT(dismiss.result, LS_PEER_ANSWERED);
    pthread_join(thread, NULL);
    return test_end();
}
