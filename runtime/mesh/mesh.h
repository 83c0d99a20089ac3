/* The mesh of ranks: pipeline x replicate x shard x context x tensor, tensor innermost, so that the
 * axes that talk most are neighbours; and which ranks share a host. Experts are split over
 * neighbours in the product of replicate, shard and context (launch/train_layout.h). */
#ifndef LS_MESH_MESH_H
#define LS_MESH_MESH_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum ls_axis {
    LS_AXIS_PIPELINE,
    LS_AXIS_REPLICATE,
    LS_AXIS_SHARD,
    LS_AXIS_CONTEXT,
    LS_AXIS_TENSOR,
    LS_AXIS_COUNT
} ls_axis;

const char *ls_axis_name(ls_axis axis);

typedef struct ls_mesh {
    int rank, world;
    int size[LS_AXIS_COUNT];
    int coord[LS_AXIS_COUNT];  /* of this rank */
    int hosts, host;           /* number of hosts, this rank's, in order of first rank */
    int host_rank, host_ranks; /* this rank's number on its host, ranks on its host */
    /* Do ranks share a host that differ along shard and context only; or replicate, too: all? */
    bool shards_on_host, data_on_host;
} ls_mesh;

/* size[LS_AXIS_REPLICATE] == 0 takes what the other axes leave of the world. hosts [world]: equal
 * numbers for ranks that share a host (from ls_comm_hosts). LS_E_CONFIG when the product of the
 * axes is not world, naming sizes that fit. */
ls_status ls_mesh_init(ls_mesh *mesh, const int size[LS_AXIS_COUNT], int rank, int world,
                       const uint64_t *hosts);
/* Coordinates of any rank, and back. */
void ls_mesh_coords(const ls_mesh *mesh, int rank, int coord[LS_AXIS_COUNT]);
int ls_mesh_rank(const ls_mesh *mesh, const int coord[LS_AXIS_COUNT]);

#endif
