#include "runtime/mesh/mesh.h"

#include <stdio.h>
#include <string.h>

const char *ls_axis_name(ls_axis axis) {
    static const char *const names[LS_AXIS_COUNT] = {
        [LS_AXIS_PIPELINE] = "pipeline", [LS_AXIS_REPLICATE] = "replicate",
        [LS_AXIS_SHARD] = "shard",       [LS_AXIS_CONTEXT] = "context",
        [LS_AXIS_TENSOR] = "tensor",
    };
    return (unsigned)axis < LS_AXIS_COUNT ? names[axis] : "unknown axis";
}

/* "parallel.replicate 2 x parallel.tensor 4": the axes of more than one rank. */
static const char *describe(const int size[LS_AXIS_COUNT], char *buf, size_t buf_size) {
    buf[0] = '\0';
    for (int a = 0; a < LS_AXIS_COUNT; a++) {
        size_t n = strlen(buf);
        if (size[a] > 1) {
            snprintf(buf + n, buf_size - n, "%sparallel.%s %d", n ? " x " : "",
                     ls_axis_name((ls_axis)a), size[a]);
        }
    }
    return buf[0] ? buf : "a replica of one rank";
}

/* Fills in mesh->size. */
static ls_status fit_sizes(ls_mesh *mesh, const int size[LS_AXIS_COUNT]) {
    char text[256];
    int world = mesh->world, wanted = size[LS_AXIS_REPLICATE];
    int64_t others = 1; /* ranks of one replica */
    memcpy(mesh->size, size, sizeof mesh->size);
    mesh->size[LS_AXIS_REPLICATE] = 1;
    for (int a = 0; a < LS_AXIS_COUNT; a++) {
        if (size[a] < 0 || (size[a] == 0 && a != LS_AXIS_REPLICATE)) {
            return LS_FAIL(LS_E_CONFIG, "parallel.%s is %d; at least %d is expected",
                           ls_axis_name((ls_axis)a), size[a], a != LS_AXIS_REPLICATE);
        }
        others *= mesh->size[a];
        if (others > world) {
            return LS_FAIL(LS_E_CONFIG,
                           "%s needs more ranks than the %d that run; lower an axis or start more",
                           describe(mesh->size, text, sizeof text), world);
        }
    }
    if (world % others != 0) {
        return LS_FAIL(
            LS_E_CONFIG, "%d ranks run, and %s takes a multiple of %lld; start %lld or %lld ranks",
            world, describe(mesh->size, text, sizeof text), (long long)others,
            (long long)(world / others * others), (long long)((world / others + 1) * others));
    }
    int fits = (int)(world / others);
    if (wanted != 0 && wanted != fits) {
        return LS_FAIL(LS_E_CONFIG,
                       "%s makes %lld ranks, and %d run; start %lld ranks, or set "
                       "parallel.replicate to %d (0: whatever fits)",
                       describe(size, text, sizeof text), (long long)(wanted * others), world,
                       (long long)(wanted * others), fits);
    }
    mesh->size[LS_AXIS_REPLICATE] = fits;
    return LS_OK;
}

/* Whether no rank before r is on its host. Neighbours mostly share one, so they are asked first. */
static bool is_first_of_host(const uint64_t *hosts, int r) {
    for (int i = r - 1; i >= 0; i--) {
        if (hosts[i] == hosts[r]) {
            return false;
        }
    }
    return true;
}

/* Hosts are numbered by their first rank. */
static void number_hosts(ls_mesh *mesh, const uint64_t *hosts) {
    for (int r = 0; r < mesh->world; r++) {
        bool first = is_first_of_host(hosts, r), mine = hosts[r] == hosts[mesh->rank];
        if (first && mine) {
            mesh->host = mesh->hosts;
        }
        mesh->hosts += first;
        mesh->host_rank += mine && r < mesh->rank;
        mesh->host_ranks += mine;
    }
}

/* Compares each rank with the first of those that differ from it along these axes only. */
static bool on_hosts(const ls_mesh *mesh, const uint64_t *hosts, ls_axis first, ls_axis last) {
    bool all = true;
    for (int r = 0; r < mesh->world && all; r++) {
        int coord[LS_AXIS_COUNT];
        ls_mesh_coords(mesh, r, coord);
        for (ls_axis axis = first; axis <= last; axis++) {
            coord[axis] = 0;
        }
        all = hosts[ls_mesh_rank(mesh, coord)] == hosts[r];
    }
    return all;
}

ls_status ls_mesh_init(ls_mesh *mesh, const int size[LS_AXIS_COUNT], int rank, int world,
                       const uint64_t *hosts) {
    if (world < 1 || rank < 0 || rank >= world) {
        return LS_FAIL(LS_E_INPUT, "rank %d of %d ranks does not exist", rank, world);
    }
    *mesh = (ls_mesh){.rank = rank, .world = world};
    LS_TRY(fit_sizes(mesh, size));
    ls_mesh_coords(mesh, rank, mesh->coord);
    number_hosts(mesh, hosts);
    mesh->shards_on_host = on_hosts(mesh, hosts, LS_AXIS_SHARD, LS_AXIS_CONTEXT);
    mesh->data_on_host = on_hosts(mesh, hosts, LS_AXIS_REPLICATE, LS_AXIS_CONTEXT);
    return LS_OK;
}

void ls_mesh_coords(const ls_mesh *mesh, int rank, int coord[LS_AXIS_COUNT]) {
    for (int a = LS_AXIS_COUNT - 1; a >= 0; a--) {
        coord[a] = rank % mesh->size[a];
        rank /= mesh->size[a];
    }
}

int ls_mesh_rank(const ls_mesh *mesh, const int coord[LS_AXIS_COUNT]) {
    int rank = 0;
    for (int a = 0; a < LS_AXIS_COUNT; a++) {
        rank = rank * mesh->size[a] + coord[a];
    }
    return rank;
}
