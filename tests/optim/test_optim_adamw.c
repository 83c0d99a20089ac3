/* AdamW: a training run of a tiny GPT-2 against torch.optim.AdamW in float64 (see
 * tests/model/golden/make_golden.py), clipping and decay included; and the room's own rules. */
#include "optim/optim.h"
#include "tests/model/golden.h"
#include "tests/reference/reference.h"

static ls_config_optim golden_optim(const golden *g) {
    return (ls_config_optim){.name = "adamw",
                             .lr = golden_number(g, "optim/lr"),
                             .beta1 = golden_number(g, "optim/beta1"),
                             .beta2 = golden_number(g, "optim/beta2"),
                             .eps = golden_number(g, "optim/eps"),
                             .weight_decay = golden_number(g, "optim/weight_decay"),
                             .clip_norm = golden_number(g, "optim/clip_norm")};
}

static ls_optim *make(const ls_config_optim *config, ls_device *dev, const ls_model *model,
                      ls_dtype dtype) {
    int count;
    const ls_param *params = ls_model_params(model, &count);
    ls_optim *optim = NULL;
    CHECK_OK(ls_optim_create(&(ls_optim_options){.config = config,
                                                 .dev = dev,
                                                 .params = params,
                                                 .param_count = count,
                                                 .flat_elems = ls_model_flat_elems(model),
                                                 .masters = ls_model_masters(model),
                                                 .copies = ls_model_copies(model),
                                                 .copy_dtype = dtype},
                             &optim));
    return optim;
}

/* Everything that is not a real element of a parameter stays zero. */
static void check_padding(const ls_device *dev, const ls_model *model, const void *flat) {
    int count;
    const ls_param *params = ls_model_params(model, &count);
    int64_t end = 0;
    for (int p = 0; p <= count; p++) {
        int64_t start = p < count ? params[p].offset : ls_model_flat_elems(model);
        for (int64_t i = end; i < start; i++) {
            CHECK(acc_get(dev, flat, i) == 0.0);
        }
        if (p < count) {
            end = start + params[p].elems / params[p].dims[0] * params[p].valid_rows;
        }
    }
}

/* States exist where parameters are, and padding rows have none to speak of. */
static void check_states(const ls_device *dev, const ls_model *model, const ls_optim *optim) {
    int count;
    const ls_param *params = ls_model_params(model, &count);
    for (int i = 0; i < 2 * count; i++) {
        const ls_param *param = &params[i % count];
        const void *state = ls_optim_state_at(optim, i / count, param->offset);
        CHECK(state != NULL);
        for (int64_t e = param->elems / param->dims[0] * param->valid_rows; e < param->elems; e++) {
            CHECK(acc_get(dev, state, e) == 0.0);
        }
    }
}

static void check_copies(const ls_model *model) {
    const ls_bf16 *copies = ls_model_copies(model);
    const float *masters = ls_model_masters(model);
    for (int64_t i = 0; i < ls_model_flat_elems(model); i++) {
        CHECK(copies[i] == ls_bf16_from_f32(masters[i]));
    }
}

/* A bias of keys shifts all scores of a query alike: its gradient is zero but for rounding, which
 * AdamW scales up to steps of the size of lr, in either direction. Queries and values are as exact
 * as the rest. */
static void check_qkv_bias(const ls_device *dev, const void *masters, const ls_param *param,
                           const golden_tensor *expected, double limit, double key_limit) {
    const int64_t each = param->elems / 3;
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < param->elems; i++) {
        double e = golden_value(expected, i), d = acc_get(dev, masters, param->offset + i) - e;
        bool key = i / each == 1;
        CHECK(!key || fabs(d) <= key_limit);
        difference += key ? 0.0 : d * d;
        size += key ? 0.0 : e * e;
    }
    CHECK_NEAR(sqrt(difference / size), 0.0, 0.0, limit);
}

static void check_run(ls_device *dev, ls_dtype dtype, double limit) {
    golden g = golden_open("gpt2");
    golden_batch b = golden_load_batch(&g);
    golden_tensor losses = golden_find(&g, "adamw_losses"), norms = golden_find(&g, "adamw_norms");
    ls_config_model config = golden_config(&g);
    ls_config_optim optim_config = golden_optim(&g);
    ls_model *model;
    CHECK_OK(ls_model_create(&(ls_model_options){.config = &config,
                                                 .dev = dev,
                                                 .batch = b.batch,
                                                 .seq = b.seq,
                                                 .dtype = dtype,
                                                 .training = true},
                             &model));
    golden_init(&g, dev, model);
    ls_optim *optim = make(&optim_config, dev, model, dtype);
    size_t bytes = (size_t)ls_model_flat_elems(model) * ls_dtype_bytes(dev->acc);
    void *grads;
    CHECK_OK(dev->ops->alloc(dev, bytes, &grads));
    for (int64_t step = 0; step < losses.elems; step++) {
        double sum, norm;
        CHECK_OK(dev->ops->zero(dev, grads, bytes));
        CHECK_OK(ls_model_forward_backward(model, b.tokens, b.targets, 1.0 / (double)b.valid, grads,
                                           NULL, NULL, &sum));
        CHECK_OK(ls_optim_grad_norm(optim, grads, &norm));
        CHECK_NEAR(sum / (double)b.valid, golden_value(&losses, step), limit, 0.0);
        CHECK_NEAR(norm, golden_value(&norms, step), 10 * limit, 0.0);
        CHECK_OK(ls_optim_step(optim, grads, norm, optim_config.lr));
        CHECK_INT(ls_optim_updates(optim), step + 1);
    }
    int count;
    const ls_param *params = ls_model_params(model, &count);
    for (int p = 0; p < count; p++) {
        golden_tensor expected = golden_param(&g, "adamw", &params[p]);
        if (dtype == LS_F32 && strstr(params[p].name, "qkv.bias")) {
            check_qkv_bias(dev, ls_model_masters(model), &params[p], &expected, limit,
                           2.0 * (double)losses.elems * optim_config.lr);
        } else {
            CHECK_NEAR(golden_error(dev, ls_model_masters(model), &params[p], &expected), 0.0, 0.0,
                       limit);
        }
    }
    CHECK_INT(ls_optim_state_count(optim), 2);
    CHECK_STR(ls_optim_state_name(optim, 0), "exp_avg");
    CHECK_STR(ls_optim_state_name(optim, 1), "exp_avg_sq");
    CHECK_INT(ls_optim_bytes(optim), 2 * bytes);
    check_padding(dev, model, ls_model_masters(model));
    check_states(dev, model, optim);
    if (dtype == LS_BF16) {
        check_copies(model);
    }
    dev->ops->free(dev, grads);
    ls_optim_destroy(optim);
    ls_model_destroy(model);
    free(g.data);
}

/* Two parameters side by side with equal and with other decay; no clipping below the norm; the
 * number of updates decides the bias correction. */
static void check_rules(ls_device *dev) {
    const ls_param params[] = {
        {.name = "a", .ndim = 2, .dims = {2, 3}, .valid_rows = 2, .elems = 6, .decay = true},
        {.name = "b", .ndim = 1, .dims = {4}, .valid_rows = 4, .elems = 4, .offset = 16},
        {.name = "c", .ndim = 1, .dims = {2}, .valid_rows = 2, .elems = 2, .offset = 32},
    };
    ls_config_optim config = {.name = "adamw",
                              .beta1 = 0.9,
                              .beta2 = 0.99,
                              .eps = 1e-8,
                              .weight_decay = 0.5,
                              .clip_norm = 10.0};
    double masters[48] = {0}, grads[48] = {0};
    for (int p = 0; p < 3; p++) {
        for (int64_t i = 0; i < params[p].elems; i++) {
            masters[params[p].offset + i] = 1.0;
            grads[params[p].offset + i] = i % 2 ? 0.5 : -0.5;
        }
    }
    ls_optim *optim;
    ls_optim_options options = {.config = &config,
                                .dev = dev,
                                .params = params,
                                .param_count = 3,
                                .flat_elems = 48,
                                .masters = masters};
    CHECK_OK(ls_optim_create(&options, &optim));
    double norm;
    CHECK_OK(ls_optim_grad_norm(optim, grads, &norm));
    CHECK_NEAR(norm, sqrt(12 * 0.25), 1e-15, 0.0);
    /* The first step moves by lr against the sign of the gradient, and decays only `a`. */
    CHECK_OK(ls_optim_step(optim, grads, norm, 0.1));
    CHECK_NEAR(masters[0], 1.0 + 0.1 - 0.1 * 0.5, 1e-7, 0.0);
    CHECK_NEAR(masters[1], 1.0 - 0.1 - 0.1 * 0.5, 1e-7, 0.0);
    CHECK_NEAR(masters[16], 1.1, 1e-7, 0.0);
    CHECK_NEAR(masters[33], 0.9, 1e-7, 0.0);
    /* Clipped to 10 from 100: m is 0.1 of the gradient's tenth. */
    const double *m = ls_optim_state_at(optim, 0, 16);
    double before = m[0];
    CHECK_OK(ls_optim_step(optim, grads, 100.0, 0.1));
    CHECK_NEAR(m[0], 0.9 * before + 0.1 * -0.05, 1e-12, 0.0);
    before = m[0];
    config.clip_norm = 0.0; /* off */
    CHECK_OK(ls_optim_step(optim, grads, 100.0, 0.1));
    CHECK_NEAR(m[0], 0.9 * before + 0.1 * -0.5, 1e-12, 0.0);
    ls_optim_set_updates(optim, 41);
    CHECK_OK(ls_optim_step(optim, grads, norm, 0.0));
    CHECK_INT(ls_optim_updates(optim), 42);

    grads[20] = NAN; /* between parameters: not seen */
    CHECK_OK(ls_optim_grad_norm(optim, grads, &norm));
    CHECK(isfinite(norm));
    grads[17] = INFINITY;
    CHECK_OK(ls_optim_grad_norm(optim, grads, &norm));
    CHECK(isinf(norm));
    grads[33] = NAN;
    CHECK_OK(ls_optim_grad_norm(optim, grads, &norm));
    CHECK(isnan(norm));
    ls_optim_destroy(optim);
    ls_optim_destroy(NULL);

    snprintf(config.name, sizeof config.name, "adam");
    CHECK_STATUS(ls_optim_create(&options, &optim), LS_E_CONFIG);
    CHECK_MESSAGE("optim.name is 'adam'; known optimizers: adamw, lion, sgd, adafactor, muon");
    CHECK(optim == NULL);
}

int main(void) {
    ls_device *ref, *cpu;
    CHECK_OK(ls_device_open_reference(NULL, &ref));
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 2}, &cpu));
    check_run(ref, LS_F64, 1e-10);
    check_rules(ref);
    check_run(cpu, LS_F32, 2e-5);
    /* Five steps of rounded activations: see test_model_golden.c for one. */
    check_run(cpu, LS_BF16, 0.05);
    ref->ops->close(ref);
    cpu->ops->close(cpu);
    return test_end();
}
