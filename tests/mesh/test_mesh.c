#include "runtime/mesh/mesh.h"
#include "tests/test.h"

enum { MAX_WORLD = 64 };
static uint64_t one_host[MAX_WORLD];

/* Ranks and coordinates are each other's inverse, in lexicographic order with tensor innermost. */
static void check_bijection(const int size[LS_AXIS_COUNT], int world) {
    ls_mesh mesh;
    CHECK_OK(ls_mesh_init(&mesh, size, world - 1, world, one_host));
    int expected = 0, wrong = 0, c[LS_AXIS_COUNT], found[LS_AXIS_COUNT];
    for (c[0] = 0; c[0] < size[0]; c[0]++) {
        for (c[1] = 0; c[1] < size[1]; c[1]++) {
            for (c[2] = 0; c[2] < size[2]; c[2]++) {
                for (c[3] = 0; c[3] < size[3]; c[3]++) {
                    for (c[4] = 0; c[4] < size[4]; c[4]++, expected++) {
                        wrong += ls_mesh_rank(&mesh, c) != expected;
                        ls_mesh_coords(&mesh, expected, found);
                        wrong += memcmp(found, c, sizeof c) != 0;
                    }
                }
            }
        }
    }
    CHECK_INT(expected, world);
    CHECK_INT(wrong, 0);
    for (int a = 0; a < LS_AXIS_COUNT; a++) {
        CHECK_INT(mesh.coord[a], size[a] - 1); /* the last rank is the last corner */
    }
}

static void test_all_factorizations(void) {
    long meshes = 0;
    for (int world = 1; world <= MAX_WORLD; world++) {
        for (int p = 1; p <= world; p++) {
            for (int r = 1; r <= world / p; r++) {
                for (int s = 1; s <= world / p / r; s++) {
                    for (int c = 1; c <= world / p / r / s; c++) {
                        int t = world / p / r / s / c;
                        if (p * r * s * c * t != world) {
                            continue;
                        }
                        const int size[LS_AXIS_COUNT] = {p, r, s, c, t};
                        check_bijection(size, world);
                        meshes++;
                    }
                }
            }
        }
    }
    CHECK(meshes > 1000);
}

static void test_replicate_fits(void) {
    ls_mesh mesh;
    CHECK_OK(ls_mesh_init(&mesh, (const int[]){2, 0, 1, 1, 3}, 7, 24, one_host));
    CHECK_INT(mesh.size[LS_AXIS_REPLICATE], 4);
    CHECK_INT(mesh.coord[LS_AXIS_PIPELINE], 0);
    CHECK_INT(mesh.coord[LS_AXIS_REPLICATE], 2);
    CHECK_INT(mesh.coord[LS_AXIS_TENSOR], 1);
    CHECK_STR(ls_axis_name(LS_AXIS_SHARD), "shard");
    CHECK_STR(ls_axis_name(LS_AXIS_COUNT), "unknown axis");
}

static void test_refusals(void) {
    static const struct {
        int size[LS_AXIS_COUNT], world;
        const char *message;
    } cases[] = {
        {{1, 0, 1, 1, 3},
         8,
         "8 ranks run, and parallel.tensor 3 takes a multiple of 3; start 6 or 9 ranks"},
        {{1, 0, 1, 1, 16}, 8, "parallel.tensor 16 needs more ranks than the 8 that run"},
        {{65536, 0, 65536, 65536, 65536}, 8, "parallel.pipeline 65536 x parallel.shard 65536"},
        {{2, 3, 1, 1, 1},
         8,
         "parallel.pipeline 2 x parallel.replicate 3 makes 6 ranks, and 8 run; start 6 ranks, or "
         "set parallel.replicate to 4"},
        {{1, 2, 1, 1, 1}, 1, "parallel.replicate 2 makes 2 ranks, and 1 run"},
        {{1, 1, 1, 1, 1}, 4, "a replica of one rank makes 1 ranks, and 4 run"},
        {{1, 0, 0, 1, 1}, 4, "parallel.shard is 0; at least 1 is expected"},
        {{1, -1, 1, 1, 1}, 4, "parallel.replicate is -1; at least 0 is expected"},
    };
    ls_mesh mesh;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_STATUS(ls_mesh_init(&mesh, cases[i].size, 0, cases[i].world, one_host), LS_E_CONFIG);
        CHECK_MESSAGE(cases[i].message);
    }
    CHECK_STATUS(ls_mesh_init(&mesh, (const int[]){1, 0, 1, 1, 1}, 4, 4, one_host), LS_E_INPUT);
    CHECK_STATUS(ls_mesh_init(&mesh, (const int[]){1, 0, 1, 1, 1}, 0, 0, one_host), LS_E_INPUT);
}

static void test_hosts(void) {
    static const uint64_t hosts[] = {90, 90, 7, 7, 90, 0, 7};
    static const int host[] = {0, 0, 1, 1, 0, 2, 1}, host_rank[] = {0, 1, 0, 1, 2, 0, 2};
    static const int host_ranks[] = {3, 3, 3, 3, 3, 1, 3};
    for (int rank = 0; rank < 7; rank++) {
        ls_mesh mesh;
        CHECK_OK(ls_mesh_init(&mesh, (const int[]){1, 0, 1, 1, 1}, rank, 7, hosts));
        CHECK_INT(mesh.hosts, 3);
        CHECK_INT(mesh.host, host[rank]);
        CHECK_INT(mesh.host_rank, host_rank[rank]);
        CHECK_INT(mesh.host_ranks, host_ranks[rank]);
    }
}

/* Ranks that divide a state, neighbours along shard and context; and those with their replicas. */
static void test_shards_on_host(void) {
    static const uint64_t halves[] = {1, 1, 1, 1, 2, 2, 2, 2}, turns[] = {1, 2, 1, 2, 1, 2, 1, 2};
    static const struct {
        int size[LS_AXIS_COUNT]; /* pipeline, replicate, shard, context, tensor */
        bool by_halves, by_turns, data_by_halves, data_by_turns;
    } cases[] = {
        {{1, 8, 1, 1, 1}, true, true, false, false},   {{1, 2, 4, 1, 1}, true, false, false, false},
        {{1, 1, 8, 1, 1}, false, false, false, false}, {{1, 2, 2, 2, 1}, true, false, false, false},
        {{1, 1, 2, 2, 2}, false, true, false, true},   {{1, 2, 2, 1, 2}, true, true, false, true},
        {{2, 1, 1, 4, 1}, true, false, true, false},   {{1, 1, 4, 1, 2}, false, true, false, true},
        {{4, 1, 2, 1, 1}, true, false, true, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int rank = 0; rank < 8; rank++) { /* all say the same */
            ls_mesh mesh;
            CHECK_OK(ls_mesh_init(&mesh, cases[i].size, rank, 8, halves));
            CHECK(mesh.shards_on_host == cases[i].by_halves);
            CHECK(mesh.data_on_host == cases[i].data_by_halves);
            CHECK_OK(ls_mesh_init(&mesh, cases[i].size, rank, 8, turns));
            CHECK(mesh.shards_on_host == cases[i].by_turns);
            CHECK(mesh.data_on_host == cases[i].data_by_turns);
            CHECK_OK(ls_mesh_init(&mesh, cases[i].size, rank, 8, one_host));
            CHECK(mesh.shards_on_host && mesh.data_on_host);
        }
    }
}

int main(void) {
    test_all_factorizations();
    test_replicate_fits();
    test_refusals();
    test_hosts();
    test_shards_on_host();
    return test_end();
}
