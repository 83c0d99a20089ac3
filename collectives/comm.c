#include "collectives/comm.h"

#include "runtime/base/arena.h"
#include "runtime/base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool ls_comm_launched(void) {
    /* What launchers give every rank: Open MPI's mpirun; PMIx (srun --mpi=pmix, prun); PMI-1 and
     * PMI-2 (MPICH, Intel MPI, srun --mpi=pmi2); MVAPICH; HPE's PALS. */
    static const char *const variables[] = {
        "OMPI_COMM_WORLD_SIZE", "PMIX_RANK",  "PMI_RANK", "PMI_ID",
        "MV2_COMM_WORLD_SIZE",  "PALS_RANKID"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        if (getenv(variables[i])) {
            return true;
        }
    }
    return false;
}

/* Batch scripts and interactive shells have a SLURM_PROCID too, but only the processes of a
 * parallel step are several. */
ls_status ls_comm_check_alone(void) {
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    return getenv("SLURM_PROCID") && tasks && strtol(tasks, NULL, 10) > 1
               ? LS_FAIL(LS_E_USAGE,
                         "srun has started %s tasks that know nothing of each other; use srun "
                         "--mpi=pmix (srun --mpi=list shows what this Slurm has), or mpirun",
                         tasks)
               : LS_OK;
}

ls_status ls_comm_hosts(ls_comm *comm, uint64_t *hosts) {
    int lowest = 0;
    LS_TRY(comm->ops->host(comm, &lowest));
    const uint64_t mine = (uint64_t)lowest;
    return comm->ops->all_gather(comm, &mine, hosts, sizeof mine);
}

/* An error record as it travels. */
typedef struct report {
    int32_t code, line;
    char file[256];
    char message[sizeof(((ls_error *)0)->message)];
} report;

static void fill_report(report *out, ls_status mine) {
    const ls_error *last = ls_error_last();
    bool recorded = last->code == mine;
    out->code = (int32_t)mine;
    out->line = recorded ? last->line : 0;
    snprintf(out->file, sizeof out->file, "%s", recorded && last->file ? last->file : "");
    snprintf(out->message, sizeof out->message, "%s",
             recorded ? last->message : ls_status_text(mine));
}

ls_status ls_comm_agree(ls_comm *comm, ls_status mine) {
    if (comm->size == 1) {
        return mine;
    }
    const int32_t code = (int32_t)mine;
    int32_t lowest[] = {mine == LS_OK ? comm->size : comm->rank, code, -code};
    LS_TRY(comm->ops->all_reduce(comm, lowest, 3, LS_I32, LS_MIN));
    const int failing = lowest[0];
    const bool same_everywhere = lowest[1] == -lowest[2];
    if (failing == comm->size) {
        return LS_OK;
    }
    static _Thread_local report shared; /* the error record points at its file name */
    if (comm->rank == failing) {
        fill_report(&shared, mine);
    }
    LS_TRY(comm->ops->broadcast(comm, &shared, sizeof shared, failing));
    char prefix[32] = "";
    if (!same_everywhere) {
        snprintf(prefix, sizeof prefix, "rank %d: ", failing);
    }
    return ls_error_set((ls_status)shared.code, shared.file, shared.line, "%s%s", prefix,
                        shared.message);
}

ls_status ls_comm_check_same(ls_comm *comm, const char *what, const void *data, size_t bytes) {
    ls_sha256 mine, *all = NULL;
    ls_status status = ls_calloc((size_t)comm->size, sizeof *all, &all);
    if (status == LS_OK) {
        status = ls_sha256_of(data, bytes, &mine);
    }
    LS_TRY_GOTO(ls_comm_agree(comm, status), done);
    LS_TRY_GOTO(comm->ops->all_gather(comm, &mine, all, sizeof mine), done);
    for (int r = 1; r < comm->size; r++) {
        if (memcmp(&all[r], &all[0], sizeof *all) != 0) {
            char found[65], expected[65];
            ls_sha256_hex(&all[r], found);
            ls_sha256_hex(&all[0], expected);
            status = LS_FAIL(LS_E_CONFIG,
                             "rank %d has a different %s than rank 0 (SHA-256 %.12s..., expected "
                             "%.12s...); start every rank with the same one",
                             r, what, found, expected);
            break;
        }
    }
done:
    free(all);
    return status;
}
