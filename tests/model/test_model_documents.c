/* Document masks: a sequence of documents has the losses and the gradients of each of them alone
 * (with rotary positions, which are relative), through windows too, and what stands in one document
 * does not reach the others, nor what lies before a window. */
#include "runtime/base/rng.h"
#include "tests/model/golden.h"
#include "tests/reference/reference.h"

enum { SEQ = 23, BATCH = 2, BEGIN = 4, SEED = 5 };

static const ls_config_model llama = {.family = LS_FAMILY_LLAMA3,
                                      .vocab = 19,
                                      .vocab_multiple = 1,
                                      .layers = 2,
                                      .channels = 12,
                                      .heads = 4,
                                      .kv_heads = 2,
                                      .head_dim = 4,
                                      .ffn = 10,
                                      .context = SEQ,
                                      .norm_eps = 1e-5,
                                      .init_std = 0.3,
                                      .rope_theta = 1e4};
/* What is before the first of these is the rest of a document. */
static const int begins[BATCH][5] = {{0, 5, 6, 17, SEQ}, {3, 4, 12, 22, SEQ}};

static bool begins_at(int b, int t) {
    bool found = false;
    for (int i = 0; i < 4; i++) {
        found |= begins[b][i] == t;
    }
    return found;
}

static void draw(int32_t *tokens, int32_t *targets) {
    for (int i = 0; i < BATCH * SEQ; i++) {
        const int32_t token = (int32_t)(ls_rng_draw(9, 0, (uint64_t)i).v[0] % 18);
        tokens[i] = begins_at(i / SEQ, i % SEQ) ? BEGIN : token + (token >= BEGIN);
        targets[i] = (int32_t)(ls_rng_draw(9, 1, (uint64_t)i).v[0] % 19);
    }
}

static ls_model *create(ls_device *dev, const ls_config_model *config, int64_t batch, int64_t seq,
                        bool mask) {
    ls_model *model;
    CHECK_OK(ls_model_create(&(ls_model_options){.config = config,
                                                 .dev = dev,
                                                 .batch = batch,
                                                 .seq = seq,
                                                 .dtype = dev->acc,
                                                 .training = true,
                                                 .document_mask = mask,
                                                 .document_token = BEGIN},
                             &model));
    CHECK_OK(ls_model_init(model, SEED));
    return model;
}

static double add_gradients(ls_model *model, const int32_t *tokens, const int32_t *targets,
                            double *grads) {
    double loss;
    CHECK_OK(ls_model_forward_backward(model, tokens, targets, 1.0, grads, NULL, NULL, &loss));
    return loss;
}

static void test_alone(ls_device *ref, const ls_config_model *config) {
    int32_t tokens[BATCH * SEQ], targets[BATCH * SEQ];
    draw(tokens, targets);
    ls_model *model = create(ref, config, BATCH, SEQ, true);
    const int64_t elems = ls_model_flat_elems(model);
    double *grads = calloc((size_t)elems, sizeof *grads);
    double *alone = calloc((size_t)elems, sizeof *alone);
    const double loss = add_gradients(model, tokens, targets, grads);
    double sum = 0.0, difference = 0.0, size = 0.0;
    for (int b = 0; b < BATCH; b++) {
        for (int i = 0, begin = 0; i < 5; i++) {
            const int end = begins[b][i];
            if (end > begin) {
                ls_model *one = create(ref, config, 1, end - begin, false);
                sum +=
                    add_gradients(one, tokens + b * SEQ + begin, targets + b * SEQ + begin, alone);
                ls_model_destroy(one);
            }
            begin = end;
        }
    }
    for (int64_t i = 0; i < elems; i++) {
        difference += (grads[i] - alone[i]) * (grads[i] - alone[i]);
        size += alone[i] * alone[i];
    }
    CHECK_NEAR(loss, sum, 1e-12, 0.0);
    CHECK(size > 0.0 && sqrt(difference / size) < 1e-11);
    free(grads);
    free(alone);
    ls_model_destroy(model);
}

/* The loss of the first sequence's third document, with another token in the second or not. */
static double loss_of_third(ls_device *dev, bool mask, bool changed) {
    ls_config_model gpt2 = llama;
    gpt2.family = LS_FAMILY_GPT2;
    ls_model *model = create(dev, &gpt2, 1, SEQ, mask);
    int32_t tokens[BATCH * SEQ], targets[BATCH * SEQ];
    double loss;
    draw(tokens, targets);
    for (int t = 0; t < SEQ; t++) {
        targets[t] = t >= begins[0][2] && t < begins[0][3] ? targets[t] : -1;
    }
    if (changed) {
        tokens[begins[0][1] - 1] = (tokens[begins[0][1] - 1] + 7) % 19;
        CHECK(tokens[begins[0][1] - 1] != BEGIN);
    }
    CHECK_OK(ls_model_evaluate(model, tokens, targets, 1, NULL, NULL, &loss));
    ls_model_destroy(model);
    return loss;
}

static void test_apart(ls_device *dev) {
    CHECK(loss_of_third(dev, true, false) == loss_of_third(dev, true, true));
    CHECK(loss_of_third(dev, false, false) != loss_of_third(dev, false, true));
    CHECK(loss_of_third(dev, false, false) != loss_of_third(dev, true, false));
}

/* The last token of a sequence sees all but the first through this window, the one before it all.
 */
static void test_window(ls_device *dev) {
    ls_config_model config = llama;
    config.layers = 1;
    config.window = SEQ - 1;
    int32_t tokens[BATCH * SEQ], targets[BATCH * SEQ];
    draw(tokens, targets);
    ls_model *model = create(dev, &config, 1, SEQ, false);
    for (int at = SEQ - 2; at < SEQ; at++) {
        double losses[2];
        for (int changed = 0; changed < 2; changed++) {
            tokens[0] = changed ? 7 : 8;
            for (int t = 0; t < SEQ; t++) {
                targets[t] = t == at ? 5 : -1;
            }
            CHECK_OK(ls_model_evaluate(model, tokens, targets, 1, NULL, NULL, &losses[changed]));
        }
        CHECK((losses[0] == losses[1]) == (at == SEQ - 1));
    }
    ls_model_destroy(model);
}

int main(void) {
    ls_device *ref, *cpu;
    CHECK_OK(ls_device_open_reference(NULL, &ref));
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 2}, &cpu));
    if (test_failures) {
        return test_end();
    }
    ls_config_model windowed = llama;
    windowed.window = 4;
    test_alone(ref, &llama);
    test_alone(ref, &windowed);
    windowed.window_pattern = 2;
    test_alone(ref, &windowed);
    test_window(ref);
    test_window(cpu);
    test_apart(ref);
    test_apart(cpu);
    ref->ops->close(ref);
    cpu->ops->close(cpu);
    return test_end();
}
