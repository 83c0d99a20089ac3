/* In place of the NCCL communicator where lockstep is built without CUDA. */
#include "collectives/nccl/comm_nccl.h"

#include <stdio.h>

ls_status ls_comm_nccl(const ls_comm_nccl_options *options, ls_comm **comm) {
    (void)options;
    *comm = NULL;
    return LS_FAIL(LS_E_UNSUPPORTED,
                   "this lockstep was built without NCCL; install the CUDA Toolkit "
                   "and NCCL, and build with -DLS_CUDA=ON");
}

ls_status ls_comm_nccl_levels(const ls_comm_nccl_options *options, uint64_t domain,
                              ls_comm **comm) {
    (void)domain;
    return ls_comm_nccl(options, comm);
}

int64_t ls_comm_nccl_bytes(void) {
    return 0;
}

char *ls_comm_nccl_version(char *buf, size_t size) {
    snprintf(buf, size, "no NCCL");
    return buf;
}
