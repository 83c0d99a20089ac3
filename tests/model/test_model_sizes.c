/* Sizes that hardware dislikes: each runs on the CPU device in fp32 and on the reference, and must
 * agree in the loss and in the gradient as a whole; and comes to the same numbers where gradients
 * are written to memory that may hold anything, as a store gives it. */
#include "tests/model/golden.h"
#include "tests/model/layout_store.h"
#include "tests/reference/reference.h"

#include "runtime/base/rng.h"

typedef struct size_case {
    const char *name;
    int64_t batch, seq;
    ls_config_model config;
} size_case;

#define GPT2(...)                                                                                  \
    { .family = LS_FAMILY_GPT2, .tied = true, .norm_eps = 1e-5, .init_std = 0.1, __VA_ARGS__ }
#define LLAMA(...)                                                                                 \
    {                                                                                              \
        .family = LS_FAMILY_LLAMA3, .norm_eps = 1e-5, .init_std = 0.1, .rope_theta = 5e5,          \
        __VA_ARGS__                                                                                \
    }

static const size_case cases[] = {
    {"head size 96", 1, 7,
     LLAMA(.vocab = 31, .vocab_multiple = 1, .layers = 1, .channels = 40, .heads = 3, .kv_heads = 1,
           .head_dim = 96, .ffn = 24, .context = 7)},
    {"vocabulary 50257", 1, 7,
     GPT2(.vocab = 50257, .vocab_multiple = 1, .layers = 1, .channels = 4, .heads = 1,
          .kv_heads = 1, .head_dim = 4, .ffn = 16, .context = 7)},
    {"odd everything", 3, 5,
     GPT2(.vocab = 13, .vocab_multiple = 7, .layers = 2, .channels = 15, .heads = 3, .kv_heads = 3,
          .head_dim = 5, .ffn = 17, .context = 11)},
    {"one token", 1, 1,
     LLAMA(.vocab = 2, .vocab_multiple = 3, .layers = 1, .channels = 2, .heads = 1, .kv_heads = 1,
           .head_dim = 2, .ffn = 1, .context = 1)},
    {"several chunks of the head", 3, 427, /* 1281 rows: chunks of 641 and 640 */
     GPT2(.vocab = 19, .vocab_multiple = 16, .layers = 1, .channels = 8, .heads = 2, .kv_heads = 2,
          .head_dim = 4, .ffn = 8, .context = 500)},
};

typedef struct outcome {
    double loss;
    int64_t elems;
    double *grads;
} outcome;

/* The model's values from a store. */
static void move_to_store(ls_model_options *options, layout_store *store, ls_model_store *seam,
                          ls_model **model) {
    layout_store_init(store, *model, options->dev, options->dtype);
    ls_model_destroy(*model);
    *seam = layout_store_seam(store);
    options->store = seam;
    CHECK_OK(ls_model_create(options, model));
}

static outcome run(const size_case *c, ls_device *dev, bool stored) {
    const int64_t n = c->batch * c->seq;
    int32_t *tokens = calloc((size_t)n, sizeof *tokens),
            *targets = calloc((size_t)n, sizeof *targets);
    for (int64_t i = 0; i < n; i++) {
        ls_rng_block r = ls_rng_draw(3, 0, (uint64_t)i);
        tokens[i] = (int32_t)(r.v[0] % (uint64_t)c->config.vocab);
        targets[i] = (int32_t)(r.v[1] % (uint64_t)c->config.vocab);
    }
    tokens[0] = (int32_t)c->config.vocab - 1;
    ls_model *model;
    layout_store store = {0};
    ls_model_store seam;
    ls_model_options options = {.config = &c->config,
                                .dev = dev,
                                .batch = c->batch,
                                .seq = c->seq,
                                .dtype = dev->acc,
                                .training = true};
    CHECK_OK(ls_model_create(&options, &model));
    CHECK_OK(ls_model_init(model, 5));
    if (stored) {
        move_to_store(&options, &store, &seam, &model);
    }
    outcome out = {.elems = ls_model_flat_elems(model)};
    void *grads;
    CHECK_OK(dev->ops->alloc(dev, (size_t)out.elems * ls_dtype_bytes(dev->acc), &grads));
    store.grads = grads;
    CHECK_OK(ls_model_forward_backward(model, tokens, targets, 1.0 / (double)n, grads, NULL, NULL,
                                       &out.loss));
    out.grads = calloc((size_t)out.elems, sizeof *out.grads);
    for (int64_t i = 0; i < out.elems; i++) {
        out.grads[i] = acc_get(dev, grads, i);
    }
    dev->ops->free(dev, grads);
    ls_model_destroy(model);
    layout_store_release(&store);
    free(tokens);
    free(targets);
    return out;
}

static void check_case(const size_case *c, ls_device *cpu, ls_device *ref) {
    outcome a = run(c, cpu, false), b = run(c, ref, false), stored = run(c, cpu, true);
    int64_t others = stored.loss != a.loss;
    double difference = 0.0, size = 0.0;
    CHECK_INT(a.elems, b.elems);
    for (int64_t i = 0; i < b.elems; i++) {
        difference += (a.grads[i] - b.grads[i]) * (a.grads[i] - b.grads[i]);
        size += b.grads[i] * b.grads[i];
        others += stored.grads[i] != a.grads[i];
    }
    CHECK_INT(others, 0);
    double error = sqrt(difference / size);
    CHECK_NEAR(a.loss, b.loss, 1e-5, 0.0);
    CHECK(error <= 1e-5);
    if (!(error <= 1e-5)) {
        fprintf(stderr, "  %s: relative error %.3g\n", c->name, error);
    }
    free(a.grads);
    free(b.grads);
    free(stored.grads);
}

int main(void) {
    ls_device *cpu, *ref;
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 2}, &cpu));
    CHECK_OK(ls_device_open_reference(NULL, &ref));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_case(&cases[i], cpu, ref);
    }
    cpu->ops->close(cpu);
    ref->ops->close(ref);
    return test_end();
}
