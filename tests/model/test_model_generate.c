/* Generation with the key/value cache gives the logits of the whole sequence, however the tokens
 * are fed: one by one, all at once, in pieces longer and shorter than the model's sequence. */
#include "tests/model/golden.h"
#include "tests/reference/reference.h"

#define MOST 16

typedef struct context {
    golden g;
    golden_batch b;
    ls_config_model config;
    ls_device *dev;
    ls_dtype dtype;
    double limit;
} context;

static ls_model *make(const context *c, int64_t seq, int64_t cache_len) {
    ls_model *model = NULL;
    CHECK_OK(ls_model_create(&(ls_model_options){.config = &c->config,
                                                 .dev = c->dev,
                                                 .batch = 1,
                                                 .seq = seq,
                                                 .dtype = c->dtype,
                                                 .cache_len = cache_len},
                             &model));
    golden_init(&c->g, c->dev, model);
    return model;
}

/* log softmax(logits)[target] */
static double log_probability(const float *logits, int64_t vocab, int32_t target) {
    double most = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < vocab; i++) {
        most = fmax(most, (double)logits[i]);
    }
    for (int64_t i = 0; i < vocab; i++) {
        sum += exp((double)logits[i] - most);
    }
    return (double)logits[target] - most - log(sum);
}

/* The full forward pass tells the loss at position t when that is the only target. */
static double loss_at(ls_model *full, const context *c, int64_t t, int32_t target) {
    int32_t targets[MOST];
    for (int64_t i = 0; i < c->b.seq; i++) {
        targets[i] = i == t ? target : -1;
    }
    double loss = NAN;
    CHECK_OK(ls_model_evaluate(full, c->b.tokens, targets, 1, NULL, NULL, &loss));
    return loss;
}

/* Feeds pieces of the given lengths (0 ends) and compares after each. */
static void check_pieces(const context *c, int64_t seq, const int64_t *pieces) {
    ls_model *full = make(c, c->b.seq, 0), *fed = make(c, seq, MOST);
    float logits[128];
    for (int64_t at = 0; *pieces > 0; pieces++) {
        CHECK_OK(ls_model_feed(fed, c->b.tokens + at, *pieces, logits));
        at += *pieces;
        CHECK_INT(ls_model_cache_used(fed), at);
        for (int32_t target = 0; target < c->config.vocab; target += 32) {
            CHECK_NEAR(-log_probability(logits, c->config.vocab, target),
                       loss_at(full, c, at - 1, target), c->limit, c->limit);
        }
    }
    ls_model_destroy(fed);
    ls_model_destroy(full);
}

static void check_limits(const context *c) {
    ls_model *model = make(c, 4, 5), *without = make(c, 4, 0);
    float first[128], again[128];
    CHECK_OK(ls_model_feed(model, c->b.tokens, 5, first));
    CHECK_STATUS(ls_model_feed(model, c->b.tokens, 1, again), LS_E_SHAPE);
    CHECK_MESSAGE("room for 0 more of 5");
    ls_model_clear_cache(model);
    CHECK_INT(ls_model_cache_used(model), 0);
    CHECK_OK(ls_model_feed(model, c->b.tokens, 5, again));
    CHECK(memcmp(first, again, (size_t)c->config.vocab * sizeof(float)) == 0);
    ls_model_clear_cache(model);
    CHECK_STATUS(ls_model_feed(model, (const int32_t[]){1, (int32_t)c->config.vocab}, 2, again),
                 LS_E_INPUT);
    CHECK_MESSAGE("token 1 is 97; the vocabulary has 0 to 96");
    CHECK_STATUS(ls_model_feed(model, (const int32_t[]){-1}, 1, again), LS_E_INPUT);
    CHECK_STATUS(ls_model_feed(model, c->b.tokens, 0, again), LS_E_SHAPE);
    CHECK_STATUS(ls_model_feed(without, c->b.tokens, 1, again), LS_E_UNSUPPORTED);
    ls_model_destroy(model);
    ls_model_destroy(without);
}

static void check_family(const char *name, ls_device *dev, ls_dtype dtype, double limit) {
    context c = {.g = golden_open(name), .dev = dev, .dtype = dtype, .limit = limit};
    c.b = golden_load_batch(&c.g);
    c.config = golden_config(&c.g);
    CHECK_INT(c.b.seq, 13);
    check_pieces(&c, 1, (const int64_t[]){1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0});
    check_pieces(&c, 13, (const int64_t[]){13, 0});
    check_pieces(&c, 5, (const int64_t[]){12, 1, 0});
    check_pieces(&c, 16, (const int64_t[]){2, 7, 1, 3, 0});
    check_limits(&c);
    free(c.g.data);
}

int main(void) {
    ls_device *dev;
    /* Logits come back as float: half a unit in the last place of values up to about 10. */
    CHECK_OK(ls_device_open_reference(NULL, &dev));
    check_family("gpt2", dev, LS_F64, 1e-6);
    check_family("llama3", dev, LS_F64, 1e-6);
    check_family("qwen", dev, LS_F64, 1e-6);
    check_family("mistral", dev, LS_F64, 1e-6);
    dev->ops->close(dev);
#ifndef NO_CPU
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &dev));
    check_family("gpt2", dev, LS_F32, 1e-5);
    check_family("llama3", dev, LS_F32, 1e-5);
    check_family("qwen", dev, LS_F32, 1e-5);
    check_family("mistral", dev, LS_F32, 1e-5);
    dev->ops->close(dev);
#endif
    return test_end();
}
