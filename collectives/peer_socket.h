/* Questions between watchdogs of different processes, over TCP; peer_desk.h answers. */
#ifndef LS_COLLECTIVES_PEER_SOCKET_H
#define LS_COLLECTIVES_PEER_SOCKET_H

#include "collectives/flight.h"

#include <netinet/in.h>
#include <stddef.h>

typedef struct ls_peer_secret {
    uint8_t bytes[16];
} ls_peer_secret;

enum { LS_PEER_ADDRESSES = 6 };

typedef union ls_peer_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} ls_peer_address;

/* Where a rank listens. */
typedef struct ls_peer_contact {
    char host[64];
    int32_t address_count;
    in_port_t port;                               /* network order */
    ls_peer_address addresses[LS_PEER_ADDRESSES]; /* of interfaces that are up, but loopback */
} ls_peer_contact;

typedef enum ls_peer_what { LS_PEER_RECORD = 1, LS_PEER_DISMISS } ls_peer_what;
typedef struct ls_peer_request {
    ls_peer_secret secret;
    int32_t what, rank; /* whose record */
} ls_peer_request;

/* To a request for a record; as long as LS_PEER_REPLY_BYTES says. */
typedef struct ls_peer_reply {
    int32_t known, dead;
    uint64_t bytes; /* of packed; 0: not known */
    char packed[LS_FLIGHT_PACKED_MOST];
} ls_peer_reply;
#define LS_PEER_REPLY_BYTES(reply) (offsetof(ls_peer_reply, packed) + (reply)->bytes)

/* Of several addresses the first of these that one of them gave. */
typedef enum ls_peer_result {
    LS_PEER_ANSWERED,
    LS_PEER_SILENT,  /* the connection is accepted, and nothing comes */
    LS_PEER_REFUSED, /* the host is there and nobody listens */
    LS_PEER_UNREACHABLE,
    /* This process had no descriptor or memory for the call, the other closed it without an answer,
     * or enough was known. */
    LS_PEER_UNASKED
} ls_peer_result;

typedef struct ls_peer_call {
    const ls_peer_contact *contact; /* borrowed */
    const ls_peer_contact
        *caller; /* borrowed; its addresses are left out as other hosts'; or NULL */
    bool here;   /* on this host: by loopback first */
    ls_peer_request request;
    ls_peer_result result; /* filled in, as is */
    ls_peer_reply *reply;  /* with ANSWERED to RECORD; caller frees */
} ls_peer_call;

/* A listening socket on all addresses of this host; accept does not block. */
ls_status ls_peer_listen(int *listener, ls_peer_contact *contact);

/* Makes all calls at once (64 at most), each at all addresses of its contact, and waits timeout_s
 * at most for them. enough: once that time has passed and a call has had no answer, the rest is
 * left UNASKED: a large part of a job that does not answer would take so many times as long. */
void ls_peer_call_all(ls_peer_call *calls, int count, double timeout_s, bool enough);

#endif
