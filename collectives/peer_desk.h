/* Answers callers (peer_socket.h) side by side: one that is silent, sends byte by byte or does not
 * read keeps no other from its answer, and is left alone after a while. Of more than 64 at once the
 * first that has not said all goes: a caller of ours says it at once. */
#ifndef LS_COLLECTIVES_PEER_DESK_H
#define LS_COLLECTIVES_PEER_DESK_H

#include "collectives/peer_socket.h"

typedef struct ls_peer_desk ls_peer_desk;

typedef struct ls_peer_desk_options {
    int listener;      /* of ls_peer_listen; borrowed */
    double patience_s; /* for a request, and for every further part of its answer to be taken */
    void *context;
    /* The answer to a request, *bytes from malloc, which the desk frees; NULL: there is none. */
    void *(*answer)(void *context, const ls_peer_request *request, size_t *bytes);
    /* All of it has been handed to the system. */
    void (*answered)(void *context, const ls_peer_request *request);
} ls_peer_desk_options;

/* LS_E_MEMORY. */
ls_status ls_peer_desk_open(const ls_peer_desk_options *options, ls_peer_desk **desk);
/* Does what there is to do, or what comes first within wait_s. */
void ls_peer_desk_serve(ls_peer_desk *desk, double wait_s);
/* Safe on NULL. */
void ls_peer_desk_close(ls_peer_desk *desk);

#endif
