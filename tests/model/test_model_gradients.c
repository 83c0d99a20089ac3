/* Gradients against central differences in double, for random elements of every parameter of all
 * families. The error of (f(x+h) - f(x-h)) / 2h is h^2 f'''/6 + eps f/h: about 1e-10 at h = 1e-5.
 */
#include "runtime/base/rng.h"
#include "tests/model/golden.h"
#include "tests/reference/reference.h"

#define STEP             1e-5
#define ELEMS_OF_A_PARAM 6
#define ABSOLUTE_LIMIT   2e-8

static double mean_loss(ls_model *model, const golden_batch *b) {
    double sum = NAN;
    CHECK_OK(ls_model_evaluate(model, b->tokens, b->targets, b->batch, NULL, NULL, &sum));
    return sum / (double)b->valid;
}

static void check_element(ls_model *model, const golden_batch *b, const ls_param *param, int64_t i,
                          double found) {
    double *x = (double *)ls_model_masters(model) + param->offset + i, before = *x;
    *x = before + STEP;
    double above = mean_loss(model, b);
    *x = before - STEP;
    double below = mean_loss(model, b);
    *x = before;
    double expected = (above - below) / (2.0 * STEP);
    CHECK_NEAR(found, expected, 1e-6, ABSOLUTE_LIMIT);
    if (!(fabs(found - expected) <= ABSOLUTE_LIMIT + 1e-6 * fabs(expected))) {
        fprintf(stderr, "  element %lld of %s\n", (long long)i, param->name);
    }
}

static void check_family(const char *name, ls_device *dev) {
    golden g = golden_open(name);
    golden_batch b = golden_load_batch(&g);
    ls_config_model config = golden_config(&g);
    config.balance_loss = 0.0; /* the loss that is measured lacks it; golden.c has its gradient */
    ls_model *model;
    CHECK_OK(ls_model_create(&(ls_model_options){.config = &config,
                                                 .dev = dev,
                                                 .batch = b.batch,
                                                 .seq = b.seq,
                                                 .dtype = LS_F64,
                                                 .training = true},
                             &model));
    golden_init(&g, dev, model);
    double *grads, sum;
    void *memory;
    CHECK_OK(dev->ops->alloc(dev, (size_t)ls_model_flat_elems(model) * sizeof(double), &memory));
    grads = memory;
    CHECK_OK(ls_model_forward_backward(model, b.tokens, b.targets, 1.0 / (double)b.valid, grads,
                                       NULL, NULL, &sum));
    int count;
    const ls_param *params = ls_model_params(model, &count);
    for (int p = 0; p < count; p++) {
        for (int k = 0; k < ELEMS_OF_A_PARAM; k++) {
            uint64_t index = (uint64_t)(p * ELEMS_OF_A_PARAM + k);
            int64_t real = params[p].elems / params[p].dims[0] * params[p].valid_rows;
            int64_t i = (int64_t)(ls_rng_uniform(7, 0, index) * (double)real);
            check_element(model, &b, &params[p], i, grads[params[p].offset + i]);
        }
    }
    dev->ops->free(dev, memory);
    ls_model_destroy(model);
    free(g.data);
}

int main(void) {
    ls_device *dev;
    CHECK_OK(ls_device_open_reference(NULL, &dev));
    check_family("gpt2", dev);
    check_family("llama3", dev);
    check_family("mixtral", dev);
    check_family("qwen", dev);
    check_family("mistral", dev);
    dev->ops->close(dev);
    return test_end();
}
