/* Training steps over MPI. Every rank first trains alone (the self communicator, all
 * micro-batches), then with the others, and compares: losses, gradients and parameters have the
 * same bits under the invariant reduction and agree within rounding under the fast one. */
#include "tests/step/trainer.h"

/* With zero > 0 all ranks of comm are shards. */
static trainer start(ls_comm *comm, const ls_dataset *data, ls_reduction reduction, int zero,
                     int64_t batch, int64_t micro, int64_t first_step) {
    return start_with(&narrow, comm, data, reduction, zero, batch, micro, first_step);
}

static size_t flat_bytes(const trainer *t) {
    return (size_t)ls_state_flat_elems(t->state) * sizeof(float);
}

/* The gradients or masters of an owned range. */
static const float *grads_at(const trainer *t, const ls_owned *o) {
    const ls_state_buffers b = ls_state_buffers_of(t->state);
    return (const float *)b.grads + (b.compact_grads ? o->place : o->range.first);
}

static const float *masters_at(const trainer *t, const ls_owned *o) {
    return ls_state_master_at(t->state, o->range.first);
}

typedef const float *(*part_fn)(const trainer *t, const ls_owned *o);

/* Relative distance of what `found` owns from the same elements of `expected`, which owns all. */
static double distance(const trainer *found, const trainer *expected, part_fn part) {
    int count;
    const ls_owned *owned = ls_state_owned(found->state, &count);
    const ls_owned all = {0};
    double sums[2] = {0.0};
    for (int i = 0; i < count; i++) {
        const float *a = part(found, &owned[i]);
        const float *b = part(expected, &all) + owned[i].range.first;
        for (int64_t k = 0; k < owned[i].range.elems; k++) {
            double d = (double)a[k] - (double)b[k];
            sums[0] += d * d;
            sums[1] += (double)b[k] * (double)b[k];
        }
    }
    return sums[1] > 0.0 ? sqrt(sums[0] / sums[1]) : sqrt(sums[0]);
}

static void check_equal(const trainer *found, const trainer *expected, ls_reduction reduction) {
    CHECK_INT(found->result.targets, expected->result.targets);
    if (reduction == LS_REDUCTION_INVARIANT) {
        CHECK(found->result.loss == expected->result.loss);
        CHECK(found->norm == expected->norm);
        CHECK(distance(found, expected, grads_at) == 0.0);
        CHECK(distance(found, expected, masters_at) == 0.0);
        return;
    }
    /* Rounding of fp32, grown by a few steps of AdamW, which divides small gradients by their size.
     */
    CHECK_NEAR(found->result.loss, expected->result.loss, 1e-5, 0.0);
    CHECK_NEAR(distance(found, expected, grads_at), 0.0, 0.0, 1e-3);
    CHECK_NEAR(distance(found, expected, masters_at), 0.0, 0.0, 1e-3);
}

static void check_curve(ls_comm *world, ls_comm *self, const ls_dataset *data,
                        ls_reduction reduction, int zero, int64_t batch, int64_t micro) {
    trainer alone = start(self, data, reduction, 0, batch, micro, 0);
    trainer together = start(world, data, reduction, zero, batch, micro, 0);
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
    trainer t = start(world, data, LS_REDUCTION_INVARIANT, 0, batch, 1, step);
    CHECK_OK(ls_step_run(&t.step, step * t.step.batch, &t.result));
    ls_model *model;
    CHECK_OK(ls_model_create(&(ls_model_options){.config = &model_config,
                                                 .dev = t.dev,
                                                 .batch = 1,
                                                 .seq = SEQ,
                                                 .dtype = LS_F32,
                                                 .training = true},
                             &model));
    CHECK_OK(ls_model_init(model, SEED));
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
        CHECK_OK(ls_model_forward_backward(model, tokens, wanted, 1.0 / (double)t.result.targets,
                                           grads, NULL, NULL, &loss));
        total += loss;
        targets += valid;
    }
    CHECK_INT(t.result.targets, targets);
    CHECK(t.result.loss == total / (double)targets);
    const float *found = ls_state_buffers_of(t.state).grads, *expected = grads;
    double sums[2] = {0.0};
    for (int64_t i = 0; i < ls_state_flat_elems(t.state); i++) {
        sums[0] += pow((double)found[i] - (double)expected[i], 2);
        sums[1] += pow((double)expected[i], 2);
    }
    CHECK(sums[1] > 0.0);
    CHECK_NEAR(sqrt(sums[0] / sums[1]), 0.0, 0.0, 1e-5);
    t.dev->ops->free(t.dev, grads);
    ls_model_destroy(model);
    stop(&t);
}

/* Stop after two steps, carry masters, states and the number of updates over, go on: the same bits.
 */
static void check_resume(ls_comm *world, const ls_dataset *data) {
    const int64_t half = 2;
    trainer straight = start(world, data, LS_REDUCTION_INVARIANT, 0, 12, 1, 0);
    trainer resumed = start(world, data, LS_REDUCTION_INVARIANT, 0, 12, 1, half);
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
            memcpy(ls_state_master_at(resumed.state, 0), ls_state_master_at(straight.state, 0),
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
    trainer t = start(world, data, reduction, 0, 12, 1, 0);
    train_step(&t, 0);
    int count;
    const ls_param *params = ls_state_params(t.state, &count);
    const ls_param *bias = &params[count - 1]; /* final_norm.bias: reaches every logit */
    CHECK_STR(bias->name, "final_norm.bias");
    float *value = ls_state_master_at(t.state, bias->offset), before = *value;
    if (world->rank == world->size - 1) {
        *value = poison;
    }
    CHECK_OK(ls_step_run(&t.step, t.step.batch, &t.result));
    CHECK_OK(ls_optim_grad_norm(t.optim, ls_state_buffers_of(t.state).grads, &t.norm));
    CHECK(!isfinite(t.result.loss));
    CHECK(!isfinite(t.norm));
    /* Nothing of it stays for the next step. */
    *value = before;
    train_step(&t, 2);
    stop(&t);
}

/* The mean loss over `rows` windows that are spread evenly over the data. */
static double mean_of_windows(const trainer *t, const ls_dataset *data, int64_t rows,
                              int64_t *targets) {
    const int64_t windows = ls_dataset_describe(data)->windows;
    double sum = 0.0, loss;
    int64_t valid;
    *targets = 0;
    for (int64_t row = 0; row < rows; row++) {
        int32_t tokens[SEQ], wanted[SEQ];
        CHECK_OK(ls_dataset_window(data, row * windows / rows, tokens, wanted, &valid));
        CHECK_OK(ls_model_evaluate(t->model, tokens, wanted, 1, NULL, NULL, &loss));
        sum += loss;
        *targets += valid;
    }
    return sum / (double)*targets;
}

/* Of a whole model, and of one whose blocks are gathered. */
static void check_evaluate(ls_comm *world, ls_comm *self, const ls_dataset *data) {
    trainer t = start(self, data, LS_REDUCTION_FAST, 0, 12, 3, 0);
    trainer sharded = start(world, data, LS_REDUCTION_FAST, 3, 12, 3, 0);
    const ls_dataset_info *info = ls_dataset_describe(data);
    CHECK(info->windows % 3 != 0); /* the last micro-batch is short */
    ls_eval_result one, all, some, single;
    CHECK_OK(ls_step_evaluate(t.runner, data, 0, 3, 0, &one));
    CHECK_OK(ls_step_evaluate(sharded.runner, data, 0, 3, 0, &all));
    CHECK(one.loss == all.loss);
    CHECK_INT(one.targets, all.targets);
    int64_t targets;
    mean_of_windows(&t, data, info->windows, &targets);
    CHECK_INT(all.targets, targets);
    CHECK_OK(ls_step_evaluate(sharded.runner, data, 0, 1, 0, &single));
    CHECK_NEAR(single.loss, all.loss, 1e-6, 0.0);
    CHECK_OK(ls_step_evaluate(sharded.runner, data, 0, 3, 5, &some));
    CHECK_NEAR(some.loss, mean_of_windows(&t, data, 5 * 3, &targets), 1e-6, 0.0);
    CHECK_INT(some.targets, targets);
    CHECK(info->windows > 2 * 5 * 3);
    CHECK_OK(ls_step_evaluate(sharded.runner, data, 0, 3, 1000000, &some));
    CHECK(some.loss == all.loss);
    CHECK_STATUS(ls_step_evaluate(t.runner, data, 0, 0, 0, &some), LS_E_SHAPE);
    CHECK_MESSAGE("micro-batches of 0 sequences");
    stop(&sharded);
    stop(&t);
}

/* A batch of which a loss mask takes out every target has no loss and no gradient. */
static void check_no_target(ls_comm *self, const ls_dataset *masked) {
    trainer t = start(self, masked, LS_REDUCTION_INVARIANT, 0, 1, 1, 0);
    int64_t none = 0, some = 0;
    for (int64_t step = 0; step < ls_dataset_describe(masked)->windows; step++) {
        train_step(&t, step);
        CHECK_INT(t.result.tokens, ls_dataset_count_tokens(masked, SEED, step, 1));
        CHECK((t.result.targets == 0) == (t.norm == 0.0));
        CHECK((t.result.targets == 0) == (t.result.loss == 0.0));
        none += t.result.targets == 0;
        some += t.result.targets > 0;
    }
    CHECK(none > 5 && some > 5);
    ls_eval_result result; /* of the first window, which a prompt fills */
    CHECK_OK(ls_step_evaluate(t.runner, masked, 0, 1, 1, &result));
    CHECK(result.targets == 0 && isnan(result.loss));
    stop(&t);
}

int main(int argc, char **argv) {
    ls_comm *world, *self;
    ls_dataset *data, *masked;
    char dir[64] = "", out[128], masked_out[128];
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    ls_error_set_rank(world->rank);
    CHECK_OK(ls_comm_self(&self));
    make_data(world, dir, sizeof dir);
    snprintf(out, sizeof out, "%s/data", dir);
    snprintf(masked_out, sizeof masked_out, "%s/masked", dir);
    CHECK_OK(ls_dataset_open(out, LS_SPLIT_TRAIN, SEQ, true, &data));
    CHECK_OK(ls_dataset_open(masked_out, LS_SPLIT_TRAIN, SEQ, true, &masked));
    for (int r = 0; r < 2; r++) {
        ls_reduction reduction = r ? LS_REDUCTION_INVARIANT : LS_REDUCTION_FAST;
        for (int zero = 0; zero <= 3; zero++) {
            check_curve(world, self, data, reduction, zero, 4, 1);  /* 1 micro-batch on each of 4 */
            check_curve(world, self, data, reduction, zero, 12, 1); /* 3 */
            check_curve(world, self, data, reduction, zero, 8, 2);
            check_curve(world, self, masked, reduction, zero, 12, 1);
        }
        check_not_finite(world, data, reduction, INFINITY);
        check_not_finite(world, data, reduction, NAN);
    }
    check_meaning(world, data);
    check_meaning(world, masked);
    check_no_target(self, masked);
    check_resume(world, data);
    check_evaluate(world, self, data);
    check_evaluate(world, self, masked);
    ls_dataset_close(data);
    ls_dataset_close(masked);
    CHECK_OK(world->ops->barrier(world));
    if (world->rank == 0) {
        CHECK_OK(ls_dir_remove(dir));
    }
    self->ops->destroy(self);
    int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
