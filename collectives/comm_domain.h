/* NVLink domains: ranks whose GPUs reach each other by NVLink, on whatever hosts. */
#ifndef LS_COLLECTIVES_COMM_DOMAIN_H
#define LS_COLLECTIVES_COMM_DOMAIN_H

#include "collectives/comm.h"
#include "runtime/device/cuda/nvml.h"

/* As ls_comm_hosts, but domains [size] gets equal numbers on ranks of one domain: the lowest rank
 * of those whose GPUs' fabrics have the same cluster UUID and clique, where the fabric of every
 * rank is complete, as NCCL asks; otherwise the host's. Host names do not matter. nvml NULL: this
 * rank has no GPU, or no driver that could tell; else `gpu` is its number there (ls_nvml_find).
 *
 * NCCL's variables count, so that the mesh and NCCL draw the same borders: NCCL_MNNVL_ENABLE 0
 * leaves it at hosts, 1 fails with LS_E_UNSUPPORTED on all ranks, naming one, where a fabric is not
 * complete, 2 or none chooses; NCCL_MNNVL_CLIQUE_ID >= 0 stands for the clique (to part a rack),
 * -1 or none leaves it, and others are LS_E_UNSUPPORTED. LS_E_CONFIG when the ranks' differ in
 * NCCL_MNNVL_ENABLE. Memory of comm's host side. [collective] */
ls_status ls_comm_domains(ls_comm *comm, const ls_nvml *nvml, int gpu, uint64_t *domains);

#endif
