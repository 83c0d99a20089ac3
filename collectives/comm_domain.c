#include "collectives/comm_domain.h"

#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

enum { OFF, REQUIRED, CHOOSE }; /* of NCCL_MNNVL_ENABLE */

typedef struct membership {
    int64_t enable;
    bool complete;
    ls_nvml_fabric fabric;
} membership;

static ls_status number_of(const char *name, long least, long most, long otherwise, long *number) {
    const char *text = getenv(name);
    char *end = NULL;
    *number = text && *text ? strtol(text, &end, 10) : otherwise;
    if ((end && *end) || *number < least || *number > most) {
        return LS_FAIL(LS_E_UNSUPPORTED, "%s is '%s'; %ld to %ld are understood, and none", name,
                       text, least, most);
    }
    return LS_OK;
}

static ls_status find_own(const ls_nvml *nvml, int gpu, membership *mine) {
    long enable, clique;
    memset(mine, 0, sizeof *mine); /* padding travels too */
    LS_TRY(number_of("NCCL_MNNVL_ENABLE", OFF, CHOOSE, CHOOSE, &enable));
    LS_TRY(number_of("NCCL_MNNVL_CLIQUE_ID", -1, INT32_MAX, -1, &clique));
    mine->enable = enable;
    if (nvml && enable != OFF) {
        LS_TRY(ls_nvml_fabric_of(nvml, gpu, &mine->fabric));
        mine->complete = ls_nvml_same_fabric(&mine->fabric, &mine->fabric);
    }
    if (clique >= 0) {
        mine->fabric.clique = (uint32_t)clique;
    }
    if (enable == REQUIRED && !mine->complete) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "NCCL_MNNVL_ENABLE=1 asks for NVLink between hosts, but this GPU %s%s; "
                       "see nvidia-smi -q (Fabric), or set it to 2",
                       !nvml                 ? "is not known to a driver"
                       : mine->fabric.failed ? "failed to join its fabric: "
                                             : "is in no completed fabric with a cluster UUID",
                       mine->fabric.failed ? mine->fabric.status : "");
    }
    return LS_OK;
}

static ls_status group(const ls_comm *comm, const membership *all, uint64_t *domains) {
    bool complete = true;
    for (int r = 0; r < comm->size; r++) {
        if (all[r].enable != all[0].enable) {
            return LS_FAIL(LS_E_CONFIG,
                           "NCCL_MNNVL_ENABLE is %d on rank %d and %d on rank 0; set it alike",
                           (int)all[r].enable, r, (int)all[0].enable);
        }
        complete = complete && all[r].complete;
    }
    for (int r = 0; complete && r < comm->size; r++) {
        int first = 0;
        while (!ls_nvml_same_fabric(&all[first].fabric, &all[r].fabric)) {
            first++;
        }
        domains[r] = (uint64_t)first;
    }
    return LS_OK;
}

ls_status ls_comm_domains(ls_comm *comm, const ls_nvml *nvml, int gpu, uint64_t *domains) {
    membership mine, *all = NULL;
    ls_status status = ls_calloc((size_t)comm->size, sizeof *all, &all);
    if (status == LS_OK) {
        status = find_own(nvml, gpu, &mine);
    }
    LS_TRY_GOTO(ls_comm_agree(comm, status), done);
    LS_TRY_GOTO(ls_comm_hosts(comm, domains), done);
    LS_TRY_GOTO(comm->ops->all_gather(comm, &mine, all, sizeof mine), done);
    status = group(comm, all, domains); /* the same everywhere */
done:
    free(all);
    return status;
}
