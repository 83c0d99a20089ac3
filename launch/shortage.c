#include "launch/shortage.h"

#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

/* What ranks tell each other. */
typedef struct claim {
    ls_demand demand;
    int32_t host, count; /* count of the pools */
    ls_memory_pool pools[LS_MEMORY_POOLS_MAX];
} claim;

static void worse(ls_shortage *worst, ls_shortage *found, const char *name) {
    if (found->ratio > worst->ratio) {
        *worst = *found;
        strcpy(worst->name, name);
    }
}

/* Of the ranks on the same host, those that take from the pool. */
static void look_at_pool(const claim *all, int ranks, int rank, const ls_memory_pool *pool,
                         ls_shortage *worst) {
    ls_shortage found = {.free_bytes = pool->free_bytes, .rank = rank};
    for (int r = 0; r < ranks; r++) {
        for (int p = 0; p < all[r].count && all[r].host == all[rank].host; p++) {
            if (all[r].pools[p].id == pool->id) {
                found.needed_bytes += all[r].demand.host_bytes;
                found.spare_bytes += all[r].demand.spare_bytes;
                found.ranks++;
            }
        }
    }
    found.ratio = (double)found.needed_bytes / ((double)found.free_bytes + 1.0);
    worse(worst, &found, pool->name);
}

static void look_at_device(const ls_demand *d, int rank, ls_shortage *worst) {
    ls_shortage found = {.ratio = (double)d->device_bytes / ((double)d->device_free + 1.0),
                         .needed_bytes = d->device_bytes,
                         .free_bytes = d->device_free,
                         .rank = rank,
                         .ranks = 1};
    worse(worst, &found, "the GPU");
}

ls_status ls_shortage_find(ls_comm *comm, int host, ls_demand demand, ls_shortage *worst) {
    claim mine = {.demand = demand, .host = host}, *all;
    LS_TRY(ls_comm_agree(comm, ls_calloc((size_t)comm->size, sizeof *all, &all)));
    mine.count = ls_memory_pools(mine.pools);
    ls_status status = comm->ops->all_gather(comm, &mine, all, sizeof mine);
    *worst = (ls_shortage){.ratio = -1.0};
    for (int r = 0; r < comm->size && status == LS_OK; r++) {
        for (int p = 0; p < all[r].count; p++) {
            look_at_pool(all, comm->size, r, &all[r].pools[p], worst);
        }
        if (all[r].demand.device_free >= 0) {
            look_at_device(&all[r].demand, r, worst);
        }
    }
    free(all);
    return status;
}
