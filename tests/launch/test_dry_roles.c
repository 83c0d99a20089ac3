/* A rank that a dry run does not plan takes what one that it has planned takes, to the byte. */
#include "launch/train_dry_roles.h"

#include "launch/session.h"
#include "tests/test.h"

enum { MOST_RANKS = 32 };

static ls_device *dev;

static void plan(const ls_config *config, const int size[LS_AXIS_COUNT], int rank, int ranks,
                 ls_layout *layout, ls_layout_bytes *bytes) {
    memset(bytes, 0, sizeof *bytes); /* compared with what is between members */
    CHECK_OK(ls_layout_init_rank(layout, config, dev, LS_BF16, size, rank, ranks));
    CHECK_OK(ls_layout_plan(layout, bytes));
    bytes->writing = 0; /* most on rank 0, which is planned */
}

/* Returns how many ranks of all stages are planned. */
static int check_stages(const ls_config *config, const int size[LS_AXIS_COUNT], int ranks) {
    const int stage_ranks = ranks / size[LS_AXIS_PIPELINE], tensor = size[LS_AXIS_TENSOR];
    ls_layout_bytes *planned = calloc((size_t)stage_ranks, sizeof *planned);
    int all = 0;
    CHECK(planned != NULL);
    for (int stage = 0; stage < size[LS_AXIS_PIPELINE]; stage++) {
        ls_dry_roles roles = {0};
        int count = 0;
        for (int r = 0; r < stage_ranks; r++) {
            ls_layout layout;
            ls_layout_bytes bytes;
            bool known = false;
            plan(config, size, stage * stage_ranks + r, ranks, &layout, &bytes);
            if (r == 0) {
                CHECK_OK(ls_dry_roles_init(&layout, &roles));
            }
            ls_layout_release(&layout);
            if (ls_dry_roles_is_new(&roles, r / tensor, r % tensor)) {
                planned[count++] = bytes;
                continue;
            }
            for (int i = 0; i < count; i++) {
                known = known || memcmp(&planned[i], &bytes, sizeof bytes) == 0;
            }
            CHECK(known);
        }
        ls_dry_roles_release(&roles);
        all += count;
    }
    free(planned);
    return all;
}

static int check(const char *preset, const char *const *more, int count, int ranks) {
    const char *overrides[16] = {preset, "data.dir=/", "model.context=48", "batch.micro=1"};
    ls_config config;
    int size[LS_AXIS_COUNT];
    for (int i = 0; i < count; i++) {
        overrides[4 + i] = more[i];
    }
    CHECK_OK(ls_config_load(&config, NULL, overrides, 4 + count));
    CHECK_OK(ls_session_axes(&config.parallel, ranks, size));
    const uint64_t hosts[MOST_RANKS] = {0};
    ls_mesh mesh; /* works out what the other axes leave to replicas */
    CHECK_OK(ls_mesh_init(&mesh, size, 0, ranks, hosts));
    return check_stages(&config, mesh.size, ranks);
}

#define CHECK_ROLES(preset, ranks, planned, ...)                                                   \
    do {                                                                                           \
        static const char *const more_[] = {__VA_ARGS__};                                          \
        CHECK_INT(                                                                                 \
            check("model.preset=" preset, more_, (int)(sizeof more_ / sizeof *more_), ranks),      \
            planned);                                                                              \
    } while (0)

int main(void) {
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &dev));
    CHECK_ROLES("gpt2-tiny", 1, 1, "batch.sequences=1", "model.vocab=257");
    /* Replicas repeat each other, in a tree of sums they may not. */
    CHECK_ROLES("gpt2-tiny", 12, 1, "batch.sequences=12", "model.vocab=257");
    CHECK_ROLES("gpt2-tiny", 6, 6, "batch.sequences=18", "model.vocab=257",
                "numerics.reduction=invariant");
    /* Shards are all planned; of tensor ranks those that no other is like: the first one, which
     * counts what all have, and one of the others. */
    CHECK_ROLES("gpt2-tiny", 24, 6, "batch.sequences=6", "model.vocab=257", "model.heads=4",
                "model.channels=64", "parallel.tensor=4", "parallel.zero=1", "parallel.shard=3");
    /* Key/value heads of two ranks each, and an MLP of 21 or 22 channels: 2 x 2 kinds. */
    CHECK_ROLES("llama3-tiny", 12, 8, "batch.sequences=2", "model.vocab=384", "model.heads=12",
                "model.kv_heads=3", "model.channels=96", "model.ffn=130", "parallel.tensor=6",
                "parallel.zero=3", "parallel.sequence_parallel=true");
    /* Contexts without shards; stages. */
    CHECK_ROLES("llama3-tiny", 16, 4, "batch.sequences=4", "model.vocab=300", "parallel.context=2",
                "parallel.pipeline=2");
    /* Experts, divided by fewer and by more ranks than the state. */
    CHECK_ROLES("llama3-tiny", 12, 4, "batch.sequences=12", "model.vocab=300", "model.experts=8",
                "model.experts_per_token=2", "parallel.expert=4");
    CHECK_ROLES("llama3-tiny", 16, 8, "batch.sequences=8", "model.vocab=300", "model.experts=8",
                "model.experts_per_token=2", "parallel.expert=2", "parallel.zero=1",
                "parallel.shard=4", "parallel.tensor=2");
    dev->ops->close(dev);
    return test_end();
}
