/* Training steps over MPI. Every rank first trains alone (the self communicator, all
 * micro-batches), then with the others, and compares: losses, gradients and parameters have the
 * same bits under the invariant reduction and agree within rounding under the fast one. */
#include "optim/optim.h"
#include "runtime/base/file.h"
#include "runtime/base/rng.h"
#include "runtime/data/prep.h"
#include "runtime/step/step.h"
#include "tests/test.h"

#include <unistd.h>

#define SEQ   11
#define STEPS 5
#define SEED  42

static const ls_config_model model_config = {.family = LS_FAMILY_GPT2,
                                             .vocab = 257,
                                             .vocab_multiple = 16,
                                             .layers = 2,
                                             .channels = 20,
                                             .heads = 2,
                                             .kv_heads = 2,
                                             .head_dim = 10,
                                             .ffn = 50,
                                             .context = SEQ,
                                             .tied = true,
                                             .norm_eps = 1e-5,
                                             .init_std = 0.1};
static const ls_config_optim optim_config = {.name = "adamw",
                                             .beta1 = 0.9,
                                             .beta2 = 0.95,
                                             .eps = 1e-8,
                                             .weight_decay = 0.1,
                                             .clip_norm = 1.0};

/* One training run: everything that lockstep train holds. */
typedef struct trainer {
    ls_comm *comm;
    ls_device *dev;
    ls_model *model;
    ls_optim *optim;
    ls_reducer *reducer;
    ls_loader *loader;
    ls_step_options step;
    ls_step_result result;
    double norm;
} trainer;

static trainer start(ls_comm *comm, const ls_dataset *data, ls_reduction reduction, int64_t batch,
                     int64_t micro, int64_t first_step) {
    trainer t = {.comm = comm};
    const int64_t rank_micros = batch / micro / comm->size;
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &t.dev));
    CHECK_OK(ls_model_create(&(ls_model_options){.config = &model_config,
                                                 .dev = t.dev,
                                                 .batch = micro,
                                                 .seq = SEQ,
                                                 .dtype = LS_F32,
                                                 .training = true},
                             &t.model));
    CHECK_OK(ls_model_init(t.model, SEED));
    int count;
    const ls_param *params = ls_model_params(t.model, &count);
    CHECK_OK(ls_optim_create(&(ls_optim_options){.config = &optim_config,
                                                 .dev = t.dev,
                                                 .params = params,
                                                 .param_count = count,
                                                 .flat_elems = ls_model_flat_elems(t.model),
                                                 .masters = ls_model_masters(t.model)},
                             &t.optim));
    CHECK_OK(ls_reducer_create(&(ls_reducer_options){.comm = comm,
                                                     .dev = t.dev,
                                                     .reduction = reduction,
                                                     .elems = ls_model_flat_elems(t.model),
                                                     .micro_batches = batch / micro,
                                                     .bucket_bytes = 16384},
                               &t.reducer));
    CHECK_OK(ls_loader_create(&(ls_loader_options){.dataset = data,
                                                   .seed = SEED,
                                                   .batch = batch,
                                                   .micro = micro,
                                                   .rank_first = comm->rank * rank_micros * micro,
                                                   .rank_micros = rank_micros,
                                                   .first_step = first_step},
                              &t.loader));
    t.step = (ls_step_options){.model = t.model,
                               .dev = t.dev,
                               .comm = comm,
                               .reducer = t.reducer,
                               .loader = t.loader,
                               .dataset = data,
                               .seed = SEED,
                               .batch = batch,
                               .rank_micros = rank_micros};
    return t;
}

static void stop(trainer *t) {
    ls_loader_destroy(t->loader);
    ls_reducer_destroy(t->reducer);
    ls_optim_destroy(t->optim);
    ls_model_destroy(t->model);
    t->dev->ops->close(t->dev);
}

static void train_step(trainer *t, int64_t step) {
    CHECK_OK(ls_step_run(&t->step, step, &t->result));
    CHECK_OK(ls_optim_grad_norm(t->optim, t->result.grads, &t->norm));
    CHECK(isfinite(t->result.loss) && isfinite(t->norm));
    CHECK(t->result.compute_ns > 0);
    CHECK_OK(ls_optim_step(t->optim, t->result.grads, t->norm, 1e-2));
}

static size_t flat_bytes(const trainer *t) {
    return (size_t)ls_model_flat_elems(t->model) * sizeof(float);
}

static double distance(const trainer *t, const float *a, const float *b) {
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < ls_model_flat_elems(t->model); i++) {
        double d = (double)a[i] - (double)b[i];
        difference += d * d;
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / size);
}

static void check_equal(const trainer *found, const trainer *expected, ls_reduction reduction) {
    const void *a = ls_model_masters(found->model), *b = ls_model_masters(expected->model);
    CHECK_INT(found->result.targets, expected->result.targets);
    if (reduction == LS_REDUCTION_INVARIANT) {
        CHECK(found->result.loss == expected->result.loss);
        CHECK(found->norm == expected->norm);
        CHECK(memcmp(found->result.grads, expected->result.grads, flat_bytes(found)) == 0);
        CHECK(memcmp(a, b, flat_bytes(found)) == 0);
        return;
    }
    /* Rounding of fp32, grown by a few steps of AdamW, which divides small gradients by their size.
     */
    CHECK_NEAR(found->result.loss, expected->result.loss, 1e-5, 0.0);
    CHECK_NEAR(distance(found, found->result.grads, expected->result.grads), 0.0, 0.0, 1e-3);
    CHECK_NEAR(distance(found, a, b), 0.0, 0.0, 1e-3);
}

static void check_curve(ls_comm *world, ls_comm *self, const ls_dataset *data,
                        ls_reduction reduction, int64_t batch, int64_t micro) {
    trainer alone = start(self, data, reduction, batch, micro, 0);
    trainer together = start(world, data, reduction, batch, micro, 0);
    double first = 0.0;
    for (int64_t step = 0; step < STEPS; step++) {
        train_step(&alone, step);
        train_step(&together, step);
        check_equal(&together, &alone, reduction);
        first = step == 0 ? together.result.loss : first;
    }
    CHECK(together.result.loss < first);
    stop(&alone);
    stop(&together);
}

/* The loss of a step is the mean over its samples, and the gradient that of the mean. */
static void check_meaning(ls_comm *world, const ls_dataset *data) {
    const int64_t batch = 12, step = 3, windows = ls_dataset_describe(data)->windows;
    trainer t = start(world, data, LS_REDUCTION_INVARIANT, batch, 1, step);
    CHECK_OK(ls_step_run(&t.step, step, &t.result));
    void *grads;
    CHECK_OK(t.dev->ops->alloc(t.dev, flat_bytes(&t), &grads));
    double total = 0.0;
    int64_t targets = 0;
    for (int64_t sample = step * batch; sample < (step + 1) * batch; sample++) {
        int32_t tokens[SEQ], wanted[SEQ];
        int64_t valid;
        double loss;
        CHECK_OK(ls_dataset_window(data, ls_sample_window(SEED, sample, windows), tokens, wanted,
                                   &valid));
        CHECK_OK(ls_model_forward_backward(t.model, tokens, wanted, 1.0 / (double)t.result.targets,
                                           grads, NULL, NULL, &loss));
        total += loss;
        targets += valid;
    }
    CHECK_INT(t.result.targets, targets);
    CHECK(t.result.loss == total / (double)targets);
    CHECK_NEAR(distance(&t, t.result.grads, grads), 0.0, 0.0, 1e-5);
    t.dev->ops->free(t.dev, grads);
    stop(&t);
}

/* Stop after two steps, carry masters, states and the number of updates over, go on: the same bits.
 */
static void check_resume(ls_comm *world, const ls_dataset *data) {
    const int64_t half = 2;
    trainer straight = start(world, data, LS_REDUCTION_INVARIANT, 12, 1, 0);
    trainer resumed = start(world, data, LS_REDUCTION_INVARIANT, 12, 1, half);
    for (int64_t step = 0; step < 2 * half; step++) {
        train_step(&straight, step);
        if (step + 1 == half) {
            int count;
            const ls_param *params = ls_model_params(straight.model, &count);
            for (int i = 0; i < count * ls_optim_state_count(straight.optim); i++) {
                const ls_param *param = &params[i % count];
                memcpy(ls_optim_state_at(resumed.optim, i / count, param->offset),
                       ls_optim_state_at(straight.optim, i / count, param->offset),
                       (size_t)param->elems * sizeof(float));
            }
            memcpy(ls_model_masters(resumed.model), ls_model_masters(straight.model),
                   flat_bytes(&straight));
            ls_optim_set_updates(resumed.optim, ls_optim_updates(straight.optim));
        }
    }
    for (int64_t step = half; step < 2 * half; step++) {
        train_step(&resumed, step);
    }
    check_equal(&resumed, &straight, LS_REDUCTION_INVARIANT);
    stop(&straight);
    stop(&resumed);
}

/* A number that is not finite on one rank shows in the loss and the norm of all. */
static void check_not_finite(ls_comm *world, const ls_dataset *data, ls_reduction reduction,
                             float poison) {
    trainer t = start(world, data, reduction, 12, 1, 0);
    train_step(&t, 0);
    int count;
    const ls_param *params = ls_model_params(t.model, &count);
    const ls_param *bias = &params[count - 1]; /* final_norm.bias: reaches every logit */
    CHECK_STR(bias->name, "final_norm.bias");
    float *value = (float *)ls_model_masters(t.model) + bias->offset, before = *value;
    if (world->rank == world->size - 1) {
        *value = poison;
    }
    CHECK_OK(ls_step_run(&t.step, 1, &t.result));
    CHECK_OK(ls_optim_grad_norm(t.optim, t.result.grads, &t.norm));
    CHECK(!isfinite(t.result.loss));
    CHECK(!isfinite(t.norm));
    /* Nothing of it stays for the next step. */
    *value = before;
    train_step(&t, 2);
    stop(&t);
}

static void check_evaluate(ls_comm *world, ls_comm *self, const ls_dataset *data) {
    trainer t = start(self, data, LS_REDUCTION_FAST, 12, 3, 0);
    const ls_dataset_info *info = ls_dataset_describe(data);
    CHECK(info->windows % 3 != 0); /* the last micro-batch is short */
    ls_eval_result one, all, some, single;
    CHECK_OK(ls_step_evaluate(t.model, self, data, 3, 0, &one));
    CHECK_OK(ls_step_evaluate(t.model, world, data, 3, 0, &all));
    CHECK(one.loss == all.loss);
    CHECK_INT(one.targets, all.targets);
    CHECK_INT(all.targets, info->tokens - 1); /* all but the first token */
    CHECK_OK(ls_step_evaluate(t.model, world, data, 1, 0, &single));
    CHECK_NEAR(single.loss, all.loss, 1e-6, 0.0);
    CHECK_OK(ls_step_evaluate(t.model, world, data, 3, 5, &some));
    CHECK_INT(some.targets, 5 * 3 * SEQ);
    CHECK_OK(ls_step_evaluate(t.model, world, data, 3, 1000000, &some));
    CHECK(some.loss == all.loss);
    CHECK_STATUS(ls_step_evaluate(t.model, world, data, 0, 0, &some), LS_E_SHAPE);
    CHECK_MESSAGE("micro-batches of 0 sequences");
    stop(&t);
}

/* A few documents of letters that follow each other by rule, so that there is something to learn.
 */
static void make_data(ls_comm *world, char *dir, size_t size) {
    ls_status status = LS_OK;
    if (world->rank == 0) {
        snprintf(dir, size, "/tmp/lockstep-step-XXXXXX");
        CHECK(mkdtemp(dir) != NULL);
        char text[2520], path[128], out[128];
        for (size_t i = 0; i < sizeof text; i++) {
            uint32_t r = ls_rng_draw(1, 0, i).v[0];
            text[i] = (char)(i % 50 == 49 ? '\n' : 'a' + (i * i + r % 3) % 26);
        }
        snprintf(path, sizeof path, "%s/text.txt", dir);
        snprintf(out, sizeof out, "%s/data", dir);
        CHECK_OK(ls_file_replace(path, text, sizeof text));
        const char *const inputs[] = {path};
        ls_prep_result result;
        status = ls_prep_run(&(ls_prep_options){.inputs = inputs,
                                                .input_count = 1,
                                                .out_dir = out,
                                                .jsonl_field = "text",
                                                .shard_tokens = 1000},
                             &result);
    }
    CHECK_OK(ls_comm_agree(world, status));
    CHECK_OK(world->ops->broadcast(world, dir, (int64_t)size, 0));
}

int main(int argc, char **argv) {
    ls_comm *world, *self;
    ls_dataset *data;
    char dir[64] = "", out[128];
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    ls_error_set_rank(world->rank);
    CHECK_OK(ls_comm_self(&self));
    make_data(world, dir, sizeof dir);
    snprintf(out, sizeof out, "%s/data", dir);
    CHECK_OK(ls_dataset_open(out, LS_SPLIT_TRAIN, SEQ, true, &data));
    for (int r = 0; r < 2; r++) {
        ls_reduction reduction = r ? LS_REDUCTION_INVARIANT : LS_REDUCTION_FAST;
        check_curve(world, self, data, reduction, 4, 1);  /* 1 micro-batch on each of 4 ranks */
        check_curve(world, self, data, reduction, 12, 1); /* 3 */
        check_curve(world, self, data, reduction, 8, 2);
        check_not_finite(world, data, reduction, INFINITY);
        check_not_finite(world, data, reduction, NAN);
    }
    check_meaning(world, data);
    check_resume(world, data);
    check_evaluate(world, self, data);
    ls_dataset_close(data);
    CHECK_OK(world->ops->barrier(world));
    if (world->rank == 0) {
        CHECK_OK(ls_dir_remove(dir));
    }
    self->ops->destroy(self);
    int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
