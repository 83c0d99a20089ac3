/* Every way to split a model gives what the whole model gives: losses, and the gradient of every
 * element of every parameter, wherever a rank holds it; and padding stays zero. In double to 1e-11,
 * in fp32 to the 1e-5 that the project promises, in bf16 loosely; and bit for bit where no sum is
 * split. */
#include "runtime/base/rng.h"
#include "tests/model/golden.h"
#include "tests/model/layout_store.h"
#include "tests/reference/reference.h"

enum { MICROS = 2, MAX_STAGES = 4, SEED = 5, BEGIN = 2 };

#define GPT2(...)                                                                                  \
    { .family = LS_FAMILY_GPT2, .norm_eps = 1e-5, .init_std = 0.1, __VA_ARGS__ }
#define LLAMA(...)                                                                                 \
    {                                                                                              \
        .family = LS_FAMILY_LLAMA3, .norm_eps = 1e-5, .init_std = 0.1, .rope_theta = 5e5,          \
        __VA_ARGS__                                                                                \
    }

/* Nothing divides anything: vocabulary, heads, ffn, rows. */
enum { ODD, TIED, GROUPED, ONE_KV, BIASED, MIXTURE, SWITCH, CAPPED, NORMED, BIASED_KV };
static const ls_config_model configs[] = {
    [ODD] = GPT2(.vocab = 13, .vocab_multiple = 7, .layers = 2, .channels = 15, .heads = 5,
                 .kv_heads = 5, .head_dim = 3, .ffn = 17, .context = 11),
    [TIED] = GPT2(.vocab = 29, .vocab_multiple = 4, .layers = 3, .channels = 16, .heads = 4,
                  .kv_heads = 4, .head_dim = 4, .ffn = 32, .context = 11, .tied = true),
    [GROUPED] = LLAMA(.vocab = 31, .vocab_multiple = 1, .layers = 2, .channels = 24, .heads = 6,
                      .kv_heads = 3, .head_dim = 4, .ffn = 20, .context = 11),
    [ONE_KV] =
        LLAMA(.vocab = 37, .vocab_multiple = 8, .layers = 2, .channels = 20, .heads = 12,
              .kv_heads = 1, .head_dim = 6, .ffn = 19, .context = 11, .tied = true, .window = 4),
    [BIASED] = GPT2(.vocab = 13, .vocab_multiple = 7, .layers = 2, .channels = 15, .heads = 4,
                    .kv_heads = 2, .head_dim = 3, .ffn = 17, .context = 11),
    [MIXTURE] = LLAMA(.vocab = 31, .vocab_multiple = 1, .layers = 2, .channels = 24, .heads = 6,
                      .kv_heads = 3, .head_dim = 4, .ffn = 10, .context = 11, .experts = 7,
                      .experts_per_token = 3, .balance_loss = 0.5),
    [SWITCH] = GPT2(.vocab = 29, .vocab_multiple = 4, .layers = 3, .channels = 16, .heads = 4,
                    .kv_heads = 4, .head_dim = 4, .ffn = 9, .context = 11, .tied = true,
                    .experts = 50, .experts_per_token = 1), /* most have no token */
    [CAPPED] = LLAMA(.vocab = 31, .vocab_multiple = 1, .layers = 2, .channels = 24, .heads = 6,
                     .kv_heads = 6, .head_dim = 4, .ffn = 10, .context = 11, .experts = 6,
                     .experts_per_token = 2, .balance_loss = 0.1, .expert_capacity = 0.7),
    [NORMED] = LLAMA(.vocab = 31, .vocab_multiple = 1, .layers = 2, .channels = 20, .heads = 6,
                     .kv_heads = 3, .head_dim = 4, .ffn = 20, .context = 11, .qk_norm = true,
                     .window = 3, .window_pattern = 2),
    [BIASED_KV] = LLAMA(.vocab = 31, .vocab_multiple = 1, .layers = 2, .channels = 20, .heads = 4,
                        .kv_heads = 2, .head_dim = 6, .ffn = 20, .context = 11, .qkv_bias = true,
                        .qk_norm = true),
};
static const int64_t batch = 3, seq = 9;

typedef struct layout {
    int config, tensor, context, stages;
    bool sequence;
    ls_recompute_mode recompute;
    int every;
    bool store;
} layout;

static const layout layouts[] = {
    {MIXTURE, 1, 1, 1, false, LS_RECOMPUTE_FULL, 1, false},
    {MIXTURE, 1, 1, 3, false, LS_RECOMPUTE_SELECTIVE, 1, true},
    {SWITCH, 1, 1, 2, false, LS_RECOMPUTE_NONE, 1, false},
    {CAPPED, 1, 1, 1, false, LS_RECOMPUTE_SELECTIVE, 2, true},
    {SWITCH, 2, 1, 1, true, LS_RECOMPUTE_FULL, 1, true},
    {CAPPED, 2, 1, 2, false, LS_RECOMPUTE_NONE, 1, false},
    {MIXTURE, 3, 1, 1, true, LS_RECOMPUTE_SELECTIVE, 1, false},
    {CAPPED, 3, 1, 1, false, LS_RECOMPUTE_FULL, 1, true},
    {SWITCH, 4, 1, 1, false, LS_RECOMPUTE_SELECTIVE, 1, true},
    {CAPPED, 6, 1, 1, true, LS_RECOMPUTE_NONE, 1, false},
    {MIXTURE, 6, 1, 2, false, LS_RECOMPUTE_NONE, 1, false},
    {SWITCH, 2, 2, 1, true, LS_RECOMPUTE_NONE, 1, false},
    {NORMED, 1, 1, 1, false, LS_RECOMPUTE_FULL, 1, false},
    {NORMED, 1, 1, 2, false, LS_RECOMPUTE_SELECTIVE, 1, true},
    {NORMED, 2, 1, 1, false, LS_RECOMPUTE_NONE, 1, true},
    {NORMED, 3, 1, 2, true, LS_RECOMPUTE_FULL, 2, true},
    {NORMED, 2, 2, 1, true, LS_RECOMPUTE_SELECTIVE, 1, false},
    {NORMED, 1, 3, 1, false, LS_RECOMPUTE_NONE, 1, true},
    {BIASED_KV, 1, 1, 3, false, LS_RECOMPUTE_SELECTIVE, 2, true},
    {BIASED_KV, 2, 1, 1, true, LS_RECOMPUTE_NONE, 1, false},
    {BIASED_KV, 4, 1, 1, false, LS_RECOMPUTE_FULL, 1, true},
    {BIASED_KV, 4, 1, 2, true, LS_RECOMPUTE_NONE, 1, true},
    {ODD, 1, 1, 1, false, LS_RECOMPUTE_NONE, 1, false},
    {ODD, 1, 1, 2, false, LS_RECOMPUTE_FULL, 2, true},
    {ODD, 1, 1, 4, false, LS_RECOMPUTE_SELECTIVE, 1, false},
    {TIED, 1, 1, 3, false, LS_RECOMPUTE_FULL, 1, true},
    {TIED, 1, 1, 1, false, LS_RECOMPUTE_SELECTIVE, 1, true},
    {GROUPED, 1, 1, 1, false, LS_RECOMPUTE_FULL, 1, false},
    {GROUPED, 1, 1, 2, false, LS_RECOMPUTE_SELECTIVE, 2, true},
    {ONE_KV, 1, 1, 1, false, LS_RECOMPUTE_NONE, 1, true},
    {ONE_KV, 1, 1, 4, false, LS_RECOMPUTE_NONE, 1, false},
    {ODD, 2, 1, 1, false, LS_RECOMPUTE_NONE, 1, false},
    {ODD, 2, 1, 1, true, LS_RECOMPUTE_FULL, 1, false},
    {TIED, 2, 1, 2, true, LS_RECOMPUTE_SELECTIVE, 1, false},
    {TIED, 2, 1, 1, false, LS_RECOMPUTE_FULL, 2, true},
    {GROUPED, 2, 1, 3, true, LS_RECOMPUTE_NONE, 1, true},
    {GROUPED, 2, 1, 1, false, LS_RECOMPUTE_SELECTIVE, 1, false},
    {ONE_KV, 2, 1, 1, false, LS_RECOMPUTE_NONE, 1, false},
    {ONE_KV, 2, 1, 2, true, LS_RECOMPUTE_FULL, 1, true},
    {ODD, 3, 1, 1, true, LS_RECOMPUTE_NONE, 1, false},
    {GROUPED, 3, 1, 2, false, LS_RECOMPUTE_FULL, 1, false},
    {ONE_KV, 3, 1, 1, true, LS_RECOMPUTE_SELECTIVE, 1, true},
    {ODD, 4, 1, 2, false, LS_RECOMPUTE_SELECTIVE, 1, true},
    {TIED, 4, 1, 1, true, LS_RECOMPUTE_NONE, 1, false},
    {ONE_KV, 4, 1, 1, false, LS_RECOMPUTE_FULL, 1, false},
    {ONE_KV, 4, 1, 2, true, LS_RECOMPUTE_NONE, 1, true},
    {BIASED, 4, 1, 1, false, LS_RECOMPUTE_NONE, 1, true},
    {BIASED, 4, 1, 2, true, LS_RECOMPUTE_FULL, 1, false},
    {ODD, 1, 2, 1, false, LS_RECOMPUTE_NONE, 1, false},
    {GROUPED, 1, 2, 2, false, LS_RECOMPUTE_SELECTIVE, 1, true},
    {TIED, 1, 3, 1, false, LS_RECOMPUTE_FULL, 1, false},
    {ONE_KV, 1, 3, 2, false, LS_RECOMPUTE_NONE, 1, false},
    {ONE_KV, 1, 4, 1, false, LS_RECOMPUTE_NONE, 1, true},
    {TIED, 1, 4, 2, false, LS_RECOMPUTE_SELECTIVE, 1, false},
    {GROUPED, 2, 2, 1, true, LS_RECOMPUTE_NONE, 1, false},
    {ODD, 2, 2, 2, false, LS_RECOMPUTE_FULL, 1, true},
    {ONE_KV, 2, 3, 1, true, LS_RECOMPUTE_FULL, 2, false},
    {TIED, 3, 2, 1, false, LS_RECOMPUTE_NONE, 1, false},
    {GROUPED, 6, 1, 1, true, LS_RECOMPUTE_SELECTIVE, 1, false},
    {ONE_KV, 6, 1, 2, false, LS_RECOMPUTE_NONE, 1, false},
};

typedef struct setting {
    ls_comm *comm;             /* all ranks */
    ls_comm *tensor, *context; /* of the layout */
    ls_device *dev;
    ls_dtype dtype;
    double limit;
    const layout *layout;
    const ls_config_model *config;
    int32_t tokens[MICROS][64], targets[MICROS][64];
} setting;

static void *take(const setting *s, int64_t elems, ls_dtype dtype) {
    void *memory = NULL;
    CHECK_OK(s->dev->ops->alloc(s->dev, (size_t)(elems + 1) * ls_dtype_bytes(dtype), &memory));
    return memory;
}

static void draw_batches(setting *s) {
    for (int micro = 0; micro < MICROS; micro++) {
        for (int64_t i = 0; i < batch * seq; i++) {
            ls_rng_block r = ls_rng_draw(3, (uint64_t)micro, (uint64_t)i);
            s->tokens[micro][i] =
                r.v[3] % 4 == 0 ? BEGIN : (int32_t)(r.v[0] % (uint64_t)s->config->vocab);
            s->targets[micro][i] =
                r.v[2] % 7 == 0 ? -1 : (int32_t)(r.v[1] % (uint64_t)s->config->vocab);
        }
        s->tokens[micro][0] = (int32_t)s->config->vocab - 1;
        s->targets[micro][1] = (int32_t)s->config->vocab - 1;
    }
}

/* Every other layout masks documents, and has logits of its dtype: of each pair with the same
 * numbers of ranks one does. */
static bool masks(const setting *s) {
    return (s->layout - layouts) % 2 == 1;
}

static ls_model_options options_of(const setting *s) {
    return (ls_model_options){.config = s->config,
                              .dev = s->dev,
                              .batch = batch,
                              .seq = seq,
                              .dtype = s->dtype,
                              .narrow_logits = masks(s),
                              .training = true,
                              .document_mask = masks(s),
                              .document_token = BEGIN};
}

/* The whole model: what is to be found. */
typedef struct expected {
    ls_model *model;
    void *grads;
    double losses[MICROS];
} expected;

static expected run_whole(const setting *s) {
    expected e = {0};
    ls_model_options options = options_of(s);
    CHECK_OK(ls_model_create(&options, &e.model));
    CHECK_OK(ls_model_init(e.model, SEED));
    e.grads = take(s, ls_model_flat_elems(e.model), s->dev->acc);
    for (int micro = 0; micro < MICROS; micro++) {
        CHECK_OK(ls_model_forward_backward(e.model, s->tokens[micro], s->targets[micro], 0.01,
                                           e.grads, NULL, NULL, &e.losses[micro]));
    }
    return e;
}

/* One stage of the layout on this rank. */
typedef struct stage {
    ls_model *model;
    void *grads;
    layout_store store;
    ls_model_store seam;
    void *x_out[MICROS], *dx_in[MICROS];
} stage;

/* Stages of nearly equal numbers of blocks. */
static ls_model_part part_of(const setting *s, int index) {
    const int blocks = (int)s->config->layers + 2;
    const int first = (int)ls_range_first(blocks, s->layout->stages, index);
    const int end = (int)ls_range_first(blocks, s->layout->stages, index + 1);
    return (ls_model_part){.first_block = first, .block_count = end - first};
}

static void stage_create(const setting *s, int index, stage *st) {
    const layout *l = s->layout;
    ls_model_options options = options_of(s);
    options.part = part_of(s, index);
    options.tensor = s->tensor;
    options.context = s->context;
    options.sequence_parallel = l->sequence;
    options.slots = l->stages > 1 ? MICROS : 1;
    options.recompute = (ls_config_recompute){.mode = l->recompute, .every = l->every};
    ls_model_bytes planned;
    CHECK_OK(ls_model_plan(&options, &planned));
    CHECK_OK(ls_model_create(&options, &st->model));
    const ls_model_bytes taken = ls_model_memory(st->model);
    CHECK(memcmp(&planned, &taken, sizeof taken) == 0);
    CHECK_OK(ls_model_init(st->model, SEED));
    if (l->store) { /* the values of a model that owns its parameters, given by a store */
        layout_store_init(&st->store, st->model, s->dev, s->dtype);
        ls_model_destroy(st->model);
        st->seam = layout_store_seam(&st->store);
        options.store = &st->seam;
        CHECK_OK(ls_model_create(&options, &st->model));
        CHECK_INT((int64_t)ls_model_memory(st->model).masters, 0);
    }
    st->grads = take(s, ls_model_flat_elems(st->model), s->dev->acc);
    st->store.grads = st->grads;
    for (int micro = 0; micro < MICROS; micro++) {
        st->x_out[micro] = take(s, ls_model_boundary_elems(st->model), s->dtype);
        st->dx_in[micro] = take(s, ls_model_boundary_elems(st->model), s->dtype);
    }
}

static void stage_release(const setting *s, stage *st) {
    for (int micro = 0; micro < MICROS; micro++) {
        s->dev->ops->free(s->dev, st->x_out[micro]);
        s->dev->ops->free(s->dev, st->dx_in[micro]);
    }
    s->dev->ops->free(s->dev, st->grads);
    ls_model_destroy(st->model);
    layout_store_release(&st->store);
}

static void forward_all(const setting *s, stage *stages, int micro, int slot) {
    const int last = s->layout->stages - 1;
    for (int i = 0; i <= last; i++) {
        const bool reads = i == 0 || masks(s);
        CHECK_OK(ls_model_forward(stages[i].model, slot, reads ? s->tokens[micro] : NULL,
                                  i == last ? s->targets[micro] : NULL,
                                  i == 0 ? NULL : stages[i - 1].x_out[micro],
                                  i == last ? NULL : stages[i].x_out[micro]));
    }
}

static void backward_all(const setting *s, stage *stages, int micro, int slot, double *loss) {
    const int last = s->layout->stages - 1;
    for (int i = last; i >= 0; i--) {
        const ls_model_sink sink = {.grads = stages[i].grads};
        const void *dx_out = i == last ? NULL : stages[i + 1].dx_in[micro];
        CHECK_OK(ls_model_backward(stages[i].model, slot, 0.01, 0.01, dx_out,
                                   i == 0 ? NULL : stages[i].dx_in[micro], &sink,
                                   i == last ? loss : NULL));
    }
}

static void evaluate_all(const setting *s, stage *stages, double loss) {
    const int last = s->layout->stages - 1;
    /* One sequence at a time; all at once where they share an expert's room. */
    const int64_t rows = s->config->expert_capacity > 0.0 ? batch : 1;
    double sum = 0.0, found;
    for (int64_t row = 0; row < batch; row += rows) {
        for (int i = 0; i <= last; i++) {
            CHECK_OK(ls_model_evaluate(stages[i].model, s->tokens[0] + row * seq,
                                       s->targets[0] + row * seq, rows,
                                       i == 0 ? NULL : stages[i - 1].x_out[0],
                                       i == last ? NULL : stages[i].x_out[0], &found));
        }
        sum += found;
    }
    CHECK_OK(s->context->ops->all_reduce(s->context, &sum, 1, LS_F64, LS_SUM));
    CHECK_NEAR(sum, loss, s->limit + 1e-6, 0.0); /* another order of the sum */
}

/* The tied matrix on the last stage: both copies' gradients are one sum. */
static void add_copied(const setting *s, stage *stages) {
    const int last = s->layout->stages - 1;
    int count;
    const ls_param *params = ls_model_params(stages[last].model, &count);
    for (int p = 0; p < count; p++) {
        if (params[p].copied) {
            void *copy = ls_elems_of(stages[last].grads, params[p].offset, s->dev->acc);
            CHECK_OK(s->dev->ops->add(s->dev, s->dev->acc, params[p].elems, copy, stages[0].grads));
            memcpy(copy, stages[0].grads, (size_t)params[p].elems * ls_dtype_bytes(s->dev->acc));
        }
    }
}

/* Squares of the difference to the whole parameter, by runs. */
typedef struct comparison {
    const setting *s;
    const void *found, *expected; /* of this parameter */
    double difference, size;
    int64_t elems;
    char *seen; /* local elements that are no padding */
} comparison;

static ls_status compare_run(void *context, const ls_run *run) {
    comparison *c = context;
    for (int64_t i = 0; i < run->elems; i++) {
        const double f = acc_get(c->s->dev, c->found, run->local + i);
        const double e = acc_get(c->s->dev, c->expected, run->global + i);
        c->difference += (f - e) * (f - e);
        c->size += e * e;
        c->seen[run->local + i] = 1;
    }
    c->elems += run->elems;
    return LS_OK;
}

static const ls_param *find(const ls_model *model, const char *name) {
    int count;
    const ls_param *params = ls_model_params(model, &count);
    for (int p = 0; p < count; p++) {
        if (strcmp(params[p].name, name) == 0) {
            return &params[p];
        }
    }
    return NULL;
}

static ls_status count_run(void *context, const ls_run *run) {
    *(int64_t *)context += run->elems;
    return LS_OK;
}

/* One parameter of a stage: each piece is the whole's, padding is zero, and the pieces of all ranks
 * that count once make the whole. */
static void check_param(const setting *s, const ls_param *local, const void *flat,
                        const ls_param *whole, const void *whole_flat, const char *what) {
    comparison c = {.s = s,
                    .found = ls_elems_of(flat, local->offset, s->dev->acc),
                    .expected = ls_elems_of(whole_flat, whole->offset, s->dev->acc),
                    .seen = calloc((size_t)local->elems, 1)};
    CHECK_OK(ls_param_runs(local, false, compare_run, &c));
    /* A share may be small beside the whole, whose rounding it has. */
    double size = 0.0;
    for (int64_t i = 0; i < whole->elems; i++) {
        const double e = acc_get(s->dev, c.expected, i);
        size += e * e;
    }
    const double error = sqrt(c.difference / (size > 0.0 ? size : 1.0));
    CHECK(error <= s->limit);
    if (!(error <= s->limit)) {
        fprintf(stderr, "  %s of %s, rank %d: relative error %.3g\n", what, local->name,
                s->comm->rank, error);
    }
    for (int64_t i = 0; i < local->elems; i++) {
        CHECK(c.seen[i] || acc_get(s->dev, c.found, i) == 0.0);
    }
    free(c.seen);
    int64_t once = 0;
    CHECK_OK(ls_param_runs(local, true, count_run, &once));
    CHECK_OK(s->tensor->ops->all_reduce(s->tensor, &once, 1, LS_I64, LS_SUM));
    CHECK_INT(once, whole->elems);
}

/* Behind a row that does not fill its room. */
static void check_gap(const ls_param *p, const void *flat, ls_dtype acc) {
    const char zeros[16 * sizeof(double)] = {0};
    const int64_t gap = ls_param_room(p->elems) - p->elems;
    CHECK(memcmp(ls_elems_of(flat, p->offset + p->elems, acc), zeros,
                 (size_t)gap * ls_dtype_bytes(acc)) == 0);
}

static void check_stage(const setting *s, const stage *st, const expected *e) {
    int count;
    const ls_param *params = ls_model_params(st->model, &count);
    for (int p = 0; p < count; p++) {
        const ls_param *whole = find(e->model, params[p].name);
        CHECK(whole != NULL);
        CHECK(memcmp(whole->dims, params[p].dims, sizeof whole->dims) == 0);
        check_param(s, &params[p], st->grads, whole, e->grads, "gradient");
        check_gap(&params[p], st->grads, s->dev->acc);
        setting exact = *s;
        exact.limit = 0.0;
        const void *masters = s->layout->store ? st->store.masters : ls_model_masters(st->model);
        check_param(&exact, &params[p], masters, whole, ls_model_masters(e->model), "value");
    }
    if (s->layout->store) {
        layout_store_check(&st->store, MICROS);
    }
}

/* What a context rank has is of its own tokens. */
static void add_context(const setting *s, stage *stages, double *losses) {
    ls_comm *comm = s->context;
    for (int i = 0; i < s->layout->stages; i++) {
        CHECK_OK(comm->ops->all_reduce(comm, stages[i].grads, ls_model_flat_elems(stages[i].model),
                                       s->dev->acc, LS_SUM));
    }
    CHECK_OK(comm->ops->all_reduce(comm, losses, MICROS, LS_F64, LS_SUM));
}

static void check_layout(setting *s) {
    const layout *l = s->layout;
    s->config = &configs[l->config];
    CHECK_OK(s->comm->ops->split(s->comm, s->comm->rank / l->tensor, &s->tensor));
    CHECK_OK(s->comm->ops->split(s->comm, s->comm->rank % l->tensor, &s->context));
    if (s->comm->size == 1 && !(l->stages > 1 && s->config->tied)) {
        s->limit = 0.0; /* the same sums in the same order: stages, stores and recompute */
    }
    draw_batches(s);
    expected e = run_whole(s);
    stage stages[MAX_STAGES] = {0};
    double losses[MICROS];
    for (int i = 0; i < l->stages; i++) {
        stage_create(s, i, &stages[i]);
    }
    if (l->stages > 1) { /* both micro-batches in flight at once */
        forward_all(s, stages, 0, 1);
        forward_all(s, stages, 1, 0);
        backward_all(s, stages, 0, 1, &losses[0]);
        backward_all(s, stages, 1, 0, &losses[1]);
    } else {
        for (int micro = 0; micro < MICROS; micro++) {
            forward_all(s, stages, micro, 0);
            backward_all(s, stages, micro, 0, &losses[micro]);
        }
    }
    add_context(s, stages, losses);
    for (int micro = 0; micro < MICROS; micro++) {
        CHECK_NEAR(losses[micro], e.losses[micro], s->limit, 0.0);
    }
    add_copied(s, stages);
    const int failures = test_failures;
    for (int i = 0; i < l->stages; i++) {
        check_stage(s, &stages[i], &e);
    }
    if (failures != test_failures) {
        fprintf(stderr, "  in layout %d, %s on %s\n", (int)(l - layouts), ls_dtype_name(s->dtype),
                s->dev->ops->name);
    }
    evaluate_all(s, stages, losses[0]);
    for (int i = 0; i < l->stages; i++) {
        stage_release(s, &stages[i]);
    }
    s->dev->ops->free(s->dev, e.grads);
    ls_model_destroy(e.model);
    s->tensor->ops->destroy(s->tensor);
    s->context->ops->destroy(s->context);
}

static void check_all(ls_comm *comm, ls_device *dev, ls_dtype dtype, double limit) {
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        /* A choice of experts that is nearly even falls either way in bf16. */
        const bool even = dtype == LS_BF16 && configs[layouts[i].config].experts > 0;
        if (layouts[i].tensor * layouts[i].context == comm->size && !(even && comm->size > 1)) {
            check_layout(&(setting){
                .comm = comm, .dev = dev, .dtype = dtype, .limit = limit, .layout = &layouts[i]});
        }
    }
    dev->ops->close(dev);
}

/* What cannot be split is refused with the sizes that can, before anything is taken. */
static void check_refused(void) {
    ls_param *params;
    int count;
    int64_t elems;
    ls_model_part part = {.tensor_ranks = 4};
    CHECK_STATUS(ls_model_table_part(&configs[GROUPED], &part, &params, &count, &elems),
                 LS_E_CONFIG);
    CHECK_MESSAGE("use 3 or 6");
    part.tensor_ranks = 5; /* of 12 heads of one key/value head */
    CHECK_STATUS(ls_model_table_part(&configs[ONE_KV], &part, &params, &count, &elems),
                 LS_E_CONFIG);
    CHECK_MESSAGE("use 4 or 6");
    part.tensor_ranks = 7;
    CHECK_STATUS(ls_model_table_part(&configs[TIED], &part, &params, &count, &elems), LS_E_CONFIG);
    CHECK_MESSAGE("use 4");
    part = (ls_model_part){.first_block = 3, .block_count = 3};
    CHECK_STATUS(ls_model_table_part(&configs[TIED], &part, &params, &count, &elems), LS_E_CONFIG);
    CHECK_MESSAGE("3 blocks from block 3 of a model of 5");
}

static void check_context_refused(ls_device *dev) {
    ls_model_bytes bytes;
    const ls_model_options options = {.config = &configs[ODD],
                                      .dev = dev,
                                      .batch = 1,
                                      .seq = 9,
                                      .dtype = LS_F32,
                                      .context_ranks = 5};
    CHECK_STATUS(ls_model_plan(&options, &bytes), LS_E_CONFIG);
    CHECK_MESSAGE("use at most 4");
}

int main(int argc, char **argv) {
    ls_comm *world;
    ls_device *dev;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_OK(ls_device_open_reference(NULL, &dev));
    check_all(world, dev, LS_F64, 1e-11);
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &dev));
    check_all(world, dev, LS_F32, 1e-5);
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &dev));
    check_all(world, dev, LS_BF16, 0.05);
    check_refused();
    CHECK_OK(ls_device_open_cpu(NULL, &dev));
    check_context_refused(dev);
    dev->ops->close(dev);
    ls_comm_mpi_finalize();
    return test_end();
}
