/* Every optimizer against torch.optim, or where torch has none against an implementation of its
 * paper (golden/make_golden.py), in double and in fp32; parameter groups and their errors. */
#include "optim/optim.h"
#include "runtime/base/arena.h"
#include "tests/model/golden.h"
#include "tests/reference/reference.h"

enum { PARAMS = 7, STEPS = 4 };

#define MATRIX .decay = true, .matrix = true

static ls_param params[PARAMS] = {
    {.name = "tok_embed.weight", .ndim = 2, .dims = {10, 6}, MATRIX},
    {.name = "layers.0.attn_norm.weight", .ndim = 1, .dims = {6}, .block = 1},
    {.name = "layers.0.attn.qkv.weight",
     .ndim = 2,
     .dims = {8, 6},
     .block = 1,
     .tp_groups = 3,
     .tp_group = {{4, 2, 1}, {2, 1, 1}, {2, 1, 1}},
     MATRIX},
    {.name = "layers.0.mlp.up.weight", .ndim = 2, .dims = {13, 5}, .block = 1, MATRIX},
    {.name = "layers.0.mlp.down.weight", .ndim = 2, .dims = {5, 9}, .block = 1, MATRIX},
    {.name = "layers.0.mlp.experts.weight", .ndim = 3, .dims = {3, 4, 5}, .block = 1, MATRIX},
    {.name = "final_norm.weight", .ndim = 1, .dims = {6}, .block = 2},
};
static int64_t flat_elems;

typedef struct golden_case {
    const char *kind; /* in the file */
    ls_config_optim config;
    const char *groups;
    double f64, f32; /* relative errors allowed */
} golden_case;

static const golden_case cases[] = {
    {.kind = "sgd", .config = {.name = "sgd"}, .f64 = 1e-14, .f32 = 1e-6},
    {.kind = "sgd_momentum", .config = {.name = "sgd", .momentum = 0.9}, .f64 = 1e-14, .f32 = 1e-6},
    {.kind = "sgd_nesterov",
     .config = {.name = "sgd", .momentum = 0.9, .nesterov = true},
     .f64 = 1e-14,
     .f32 = 1e-6},
    {.kind = "adamw",
     .config = {.name = "adamw"},
     .groups = " tok_embed.* lr=0.5 decay=0.05;*norm.weight decay=0.2 ;",
     .f64 = 1e-12,
     .f32 = 1e-6},
    {.kind = "lion", .config = {.name = "lion"}, .f64 = 1e-14, .f32 = 1e-6},
    {.kind = "adafactor", .config = {.name = "adafactor"}, .f64 = 1e-13, .f32 = 1e-6},
    {.kind = "muon",
     .config = {.name = "muon", .momentum = 0.95, .nesterov = true},
     .f64 = 1e-11,
     .f32 = 1e-5},
};

static ls_config_optim config_of(const golden_case *c) {
    ls_config_optim config = c->config;
    config.beta1 = 0.9;
    config.beta2 = 0.95;
    config.eps = 1e-8;
    config.weight_decay = 0.1;
    snprintf(config.groups, sizeof config.groups, "%s", c->groups ? c->groups : "");
    return config;
}

static void load(const golden *g, const ls_device *dev, const char *kind, void *flat) {
    for (int p = 0; p < PARAMS; p++) {
        golden_tensor t = golden_param(g, kind, &params[p]);
        for (int64_t i = 0; i < t.elems; i++) {
            acc_set(dev, flat, params[p].offset + i, golden_value(&t, i));
        }
    }
}

static ls_optim_options options_of(const ls_config_optim *config, ls_device *dev, void *masters) {
    return (ls_optim_options){.config = config,
                              .dev = dev,
                              .params = params,
                              .param_count = PARAMS,
                              .flat_elems = flat_elems,
                              .masters = masters};
}

/* A parameter has each state in one shape, with memory for it. */
static void check_states(ls_optim *optim) {
    for (int s = 0; s < ls_optim_state_count(optim); s++) {
        CHECK(ls_optim_state_name(optim, s) != NULL);
        for (int p = 0; p < PARAMS; p++) {
            ls_optim_shape shape = ls_optim_state_shape(optim, s, p);
            void *full = ls_optim_state_at(optim, s, params[p].offset);
            CHECK((shape == LS_STATE_FULL) == (full != NULL));
            CHECK(shape != LS_STATE_ROWS || params[p].ndim >= 2);
            CHECK(shape != LS_STATE_ROWS || ls_optim_state_vector(optim, s, p) != NULL);
        }
    }
}

static size_t flat_bytes(const ls_device *dev) {
    return (size_t)flat_elems * ls_dtype_bytes(dev->acc);
}

/* The masters after the golden steps. */
static void run(const golden *g, ls_device *dev, const ls_config_optim *config, double lr,
                void *masters) {
    void *grads;
    CHECK_OK(dev->ops->alloc(dev, flat_bytes(dev), &grads));
    ls_optim_options options = options_of(config, dev, masters);
    ls_optim *optim;
    CHECK_OK(ls_optim_create(&options, &optim));
    check_states(optim);
    load(g, dev, "init", masters);
    for (int step = 0; step < STEPS; step++) {
        char kind[16];
        snprintf(kind, sizeof kind, "grad%d", step);
        load(g, dev, kind, grads);
        CHECK_OK(ls_optim_step(optim, grads, 1.0, lr));
    }
    ls_optim_destroy(optim);
    dev->ops->free(dev, grads);
}

/* Groups that say by name what the configuration says of all come to the same bits. */
static void check_groups(const golden *g, ls_device *dev, const golden_case *c,
                         const void *expected) {
    ls_config_optim config = config_of(c);
    void *masters;
    CHECK_OK(dev->ops->alloc(dev, flat_bytes(dev), &masters));
    snprintf(config.groups, sizeof config.groups, "* lr=0.5; *[!m].weight decay=%g",
             config.weight_decay);
    config.weight_decay = 0.7;
    run(g, dev, &config, 0.04, masters);
    CHECK(memcmp(masters, expected, flat_bytes(dev)) == 0);
    dev->ops->free(dev, masters);
}

static void check_case(const golden *g, ls_device *dev, const golden_case *c) {
    const ls_config_optim config = config_of(c);
    void *masters;
    CHECK_OK(dev->ops->alloc(dev, flat_bytes(dev), &masters));
    run(g, dev, &config, 0.02, masters);
    for (int p = 0; p < PARAMS; p++) {
        golden_tensor expected = golden_param(g, c->kind, &params[p]);
        CHECK_NEAR(golden_error(dev, masters, &params[p], &expected), 0.0, 0.0,
                   dev->acc == LS_F64 ? c->f64 : c->f32);
    }
    if (!c->groups) {
        check_groups(g, dev, c, masters);
    }
    dev->ops->free(dev, masters);
}

static void check_refused(ls_device *dev, const char *groups, const char *message) {
    ls_config_optim config = config_of(&cases[0]);
    snprintf(config.groups, sizeof config.groups, "%s", groups);
    float masters[1024] = {0};
    ls_optim_options options = options_of(&config, dev, masters);
    ls_optim *optim;
    CHECK_STATUS(ls_optim_create(&options, &optim), LS_E_CONFIG);
    CHECK_MESSAGE(message);
    CHECK(optim == NULL);
}

static void check_errors(ls_device *dev) {
    ls_config_optim stray = config_of(&cases[0]);
    snprintf(stray.groups, sizeof stray.groups, "layer*.0.* lr=1; ; layer.* lr=1");
    CHECK_STATUS(ls_optim_check_groups(&stray, params, PARAMS), LS_E_CONFIG);
    CHECK_MESSAGE("'layer.*' matches no parameter; their names are such as 'tok_embed.weight'");
    stray.groups[16] = '\0';
    CHECK_OK(ls_optim_check_groups(&stray, params, PARAMS));
    check_refused(dev, "layers.* lr=x", "'lr=x' in 'layers.* lr=x'; expected 'PATTERN lr=SCALE");
    check_refused(dev, "layers.* lr=-1", "'lr=-1'");
    check_refused(dev, "layers.* speed=1", "'speed=1'");
    check_refused(dev, "layers.* lr=1; tok*", "'tok*' says nothing");
    /* Matrices that other ranks hold parts of. */
    params[5].tp_axis = 1;
    params[5].tp_ranks = 2;
    const char *names[] = {"adafactor", "muon"};
    for (int i = 0; i < 2; i++) {
        ls_config_optim config = config_of(&cases[0]);
        snprintf(config.name, sizeof config.name, "%s", names[i]);
        float masters[1024] = {0};
        ls_optim_options options = options_of(&config, dev, masters);
        ls_optim *optim;
        CHECK_STATUS(ls_optim_create(&options, &optim), LS_E_UNSUPPORTED);
        CHECK_MESSAGE("'layers.0.mlp.experts.weight'");
        CHECK_MESSAGE("split over 2");
    }
}

int main(void) {
    ls_layout_assign(params, PARAMS, &flat_elems);
    for (int p = 0; p < PARAMS; p++) {
        params[p].valid_rows = params[p].dims[0];
    }
    golden g = golden_open("optim");
    ls_device *ref, *cpu;
    CHECK_OK(ls_device_open_reference(NULL, &ref));
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 2}, &cpu));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_case(&g, ref, &cases[i]);
        check_case(&g, cpu, &cases[i]);
    }
    check_errors(cpu);
    ref->ops->close(ref);
    cpu->ops->close(cpu);
    free(g.data);
    return test_end();
}
