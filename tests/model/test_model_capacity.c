/* What an expert's capacity keeps. Every token wants every expert here, so that the first rows of a
 * micro-batch, capacity x rows rounded up, go through the experts as without a capacity, and all
 * others past them, as if the experts had nothing to say. */
#include "tests/model/golden.h"
#include "tests/reference/reference.h"

enum { BATCH = 2, SEQ = 5, ROWS = BATCH * SEQ, KEPT = 3 };

static const ls_config_model whole = {.family = LS_FAMILY_LLAMA3,
                                      .vocab = 11,
                                      .vocab_multiple = 1,
                                      .layers = 1, /* rows meet in attention, before the experts */
                                      .channels = 8,
                                      .heads = 2,
                                      .kv_heads = 1,
                                      .head_dim = 4,
                                      .ffn = 6,
                                      .context = SEQ,
                                      .norm_eps = 1e-5,
                                      .init_std = 0.5,
                                      .rope_theta = 1e4,
                                      .experts = 3,
                                      .experts_per_token = 3};

static void silence_experts(ls_device *dev, const ls_model *model) {
    int count;
    const ls_param *params = ls_model_params(model, &count);
    for (int p = 0; p < count; p++) {
        for (int64_t i = 0; strstr(params[p].name, "moe.down") && i < params[p].elems; i++) {
            acc_set(dev, ls_model_masters(model), params[p].offset + i, 0.0);
        }
    }
}

/* The loss of one row. */
static double loss_of(ls_device *dev, double capacity, bool silent, int64_t row) {
    ls_config_model config = whole;
    config.expert_capacity = capacity;
    ls_model *model;
    int32_t tokens[ROWS], targets[ROWS];
    double loss;
    CHECK_OK(ls_model_create(
        &(ls_model_options){
            .config = &config, .dev = dev, .batch = BATCH, .seq = SEQ, .dtype = dev->acc},
        &model));
    CHECK_OK(ls_model_init(model, 5));
    if (silent) {
        silence_experts(dev, model);
    }
    for (int i = 0; i < ROWS; i++) {
        tokens[i] = (7 * i + 3) % 11;
        targets[i] = i == row ? 4 : -1;
    }
    CHECK_OK(ls_model_evaluate(model, tokens, targets, BATCH, NULL, NULL, &loss));
    ls_model_destroy(model);
    return loss;
}

int main(void) {
    ls_device *ref;
    CHECK_OK(ls_device_open_reference(NULL, &ref));
    const double capacity = (KEPT - 0.5) / ROWS;
    for (int64_t row = 0; row < ROWS; row++) {
        const double with = loss_of(ref, 0.0, false, row), without = loss_of(ref, 0.0, true, row);
        CHECK(fabs(with - without) > 1e-3);
        CHECK_NEAR(loss_of(ref, capacity, false, row), row < KEPT ? with : without, 1e-12, 0.0);
    }
    ref->ops->close(ref);
    return test_end();
}
