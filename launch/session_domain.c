/* NVLink domains of the ranks' GPUs: how many there are, and whether the axes that talk most stay
 * inside one. */
#include "collectives/comm_domain.h"
#include "launch/session.h"
#include "runtime/base/arena.h"
#include "runtime/base/log.h"

#include <stdlib.h>

/* NULL where no driver could tell of the device's GPU; closed by the caller. */
static ls_status open_driver(const ls_device *dev, ls_nvml **nvml, int *gpu) {
    *nvml = NULL;
    if (dev->host_memory) {
        return LS_OK;
    }
    ls_status status = ls_nvml_open(NULL, nvml);
    if (status == LS_E_UNSUPPORTED) {
        return LS_OK;
    }
    LS_TRY(status);
    if (ls_nvml_find(*nvml, dev->bus_id, gpu) != LS_OK) { /* the driver does not show it */
        ls_nvml_close(*nvml);
        *nvml = NULL;
    }
    return LS_OK;
}

/* Tensor ranks exchange activations in every layer. */
static void warn_of_tensor_groups(const ls_session *session, const uint64_t *domains) {
    const ls_mesh *mesh = &session->mesh;
    const int tensor = mesh->size[LS_AXIS_TENSOR];
    for (int r = 0; r < mesh->world && mesh->rank == 0; r++) {
        const int first = r / tensor * tensor;
        if (domains[r] != domains[first]) {
            ls_log_warn("tensor ranks %d to %d lie in several NVLink domains: start ranks of a "
                        "domain one after the other, or lower parallel.tensor (%d)",
                        first, first + tensor - 1, tensor);
            return;
        }
    }
}

ls_status ls_session_find_domains(ls_session *session) {
    ls_comm *comm = session->world;
    ls_nvml *nvml = NULL;
    uint64_t *domains = NULL;
    int gpu = 0;
    ls_status status = open_driver(session->dev, &nvml, &gpu);
    if (status == LS_OK) {
        status = ls_calloc((size_t)comm->size, sizeof *domains, &domains);
    }
    LS_TRY_GOTO(ls_session_agree(session, status), done);
    LS_TRY_GOTO(ls_session_agree(session, ls_comm_domains(comm, nvml, gpu, domains)), done);
    session->domains = ls_spread_of(domains, comm->rank, comm->size);
    warn_of_tensor_groups(session, domains);
done:
    ls_nvml_close(nvml);
    free(domains);
    return status;
}
