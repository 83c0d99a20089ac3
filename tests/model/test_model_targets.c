/* The head of a model with a loss mask computes the rows of targets alone: losses and gradients are
 * those of a model that computes all rows. */
#include "runtime/base/rng.h"
#include "tests/model/golden.h"
#include "tests/reference/reference.h"

enum { SEQ = 700, BATCH = 3, ROWS = BATCH * SEQ, SEED = 5 };

static const ls_config_model config = {.family = LS_FAMILY_LLAMA3,
                                       .vocab = 19,
                                       .vocab_multiple = 1,
                                       .layers = 1,
                                       .channels = 8,
                                       .heads = 2,
                                       .kv_heads = 1,
                                       .head_dim = 4,
                                       .ffn = 6,
                                       .context = SEQ,
                                       .norm_eps = 1e-5,
                                       .init_std = 0.3,
                                       .rope_theta = 1e4};

static ls_model *create(ls_device *dev, bool tied, bool mask) {
    static ls_config_model configs[2]; /* the model borrows it */
    configs[tied] = config;
    configs[tied].tied = tied;
    ls_model *model;
    CHECK_OK(ls_model_create(&(ls_model_options){.config = &configs[tied],
                                                 .dev = dev,
                                                 .batch = BATCH,
                                                 .seq = SEQ,
                                                 .dtype = dev->acc,
                                                 .training = true,
                                                 .loss_mask = mask},
                             &model));
    CHECK_OK(ls_model_init(model, SEED));
    return model;
}

/* One row in `every` is a target, of rows from `first` on to before `end`. */
static void draw(int every, int first, int end, int32_t *tokens, int32_t *targets) {
    for (int i = 0; i < ROWS; i++) {
        const uint32_t *r = ls_rng_draw(9, 0, (uint64_t)i).v;
        tokens[i] = (int32_t)(r[0] % 19);
        const bool is = i >= first && i < end && r[1] % (uint32_t)every == 0;
        targets[i] = is ? (int32_t)(r[2] % 19) : -1;
    }
}

/* Losses are summed in blocks: in another order. */
static void check(ls_device *dev, bool tied, int every, int first, int end) {
    static int32_t tokens[ROWS], targets[ROWS];
    ls_model *models[2] = {create(dev, tied, false), create(dev, tied, true)};
    const int64_t elems = ls_model_flat_elems(models[0]);
    double *grads[2], losses[2], told[2], difference = 0.0, size = 0.0;
    draw(every, first, end, tokens, targets);
    for (int i = 0; i < 2; i++) {
        grads[i] = calloc((size_t)elems, sizeof *grads[i]);
        for (int again = 0; again < 2; again++) { /* the second adds up */
            CHECK_OK(ls_model_forward_backward(models[i], tokens, targets, 0.5, grads[i], NULL,
                                               NULL, &losses[i]));
        }
        CHECK_OK(ls_model_evaluate(models[i], tokens, targets, BATCH - 1, NULL, NULL, &told[i]));
    }
    for (int64_t i = 0; i < elems; i++) {
        difference += pow(grads[0][i] - grads[1][i], 2);
        size += pow(grads[0][i], 2);
    }
    CHECK_NEAR(losses[0], losses[1], 1e-12, 0.0);
    CHECK_NEAR(told[0], told[1], 1e-12, 0.0);
    CHECK((size > 0.0) == (first < end));
    CHECK(difference <= 1e-24 * size);
    for (int i = 0; i < 2; i++) {
        free(grads[i]);
        ls_model_destroy(models[i]);
    }
}

int main(void) {
    ls_device *dev;
    CHECK_OK(ls_device_open_reference(NULL, &dev));
    for (int tied = 0; tied < 2; tied++) {
        check(dev, tied, 5, 0, ROWS);
        check(dev, tied, 1, 300, 1900); /* two chunks of targets */
        check(dev, tied, 1, 0, ROWS);   /* all */
        check(dev, tied, 1, 0, 700);    /* a chunk, behind which padding has one of its own */
        check(dev, tied, 40, 0, ROWS);  /* fewer than the padding's unit */
        check(dev, tied, 1, 0, 0);      /* none */
        check(dev, tied, 1, ROWS - 1, ROWS);
        check(dev, tied, 1, 0, 1024); /* whole units */
    }
    dev->ops->close(dev);
    return test_end();
}
