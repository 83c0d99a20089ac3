/* Do the ranks of a job together want more memory than there is where they lie? Asked before they
 * take any, since the kernel's answer afterwards is to kill one of them. */
#ifndef LS_LAUNCH_SHORTAGE_H
#define LS_LAUNCH_SHORTAGE_H

#include "collectives/comm.h"
#include "launch/host_memory.h"

/* What a rank wants. */
typedef struct ls_demand {
    int64_t host_bytes, spare_bytes;   /* of the host's memory; more, if the worst comes */
    int64_t device_bytes, device_free; /* of the GPU's; device_free -1: there is none */
} ls_demand;

/* The pool, of a rank, that is asked for the most beyond what it has, or the closest to that. */
typedef struct ls_shortage {
    double ratio; /* needed over free; -1: nothing is known */
    int64_t needed_bytes, free_bytes, spare_bytes;
    int rank, ranks; /* whose pool; how many take from it */
    char name[sizeof((ls_memory_pool *)0)->name];
} ls_shortage;

/* host: equal on ranks of one host. All ranks get the same answer. [collective] */
ls_status ls_shortage_find(ls_comm *comm, int host, ls_demand mine, ls_shortage *worst);

#endif
