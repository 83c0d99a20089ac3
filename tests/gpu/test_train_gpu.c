/* A training run on GPUs of several ranks, each with its part of the batch: forward, backward, the
 * mean of the gradients by NCCL, AdamW. Losses must be those of one CPU with the whole batch. Both
 * model families, fp32 and bf16, with logits in fp32 and in bf16. */
#include "collectives/nccl/comm_nccl.h"
#include "runtime/base/rng.h"
#include "runtime/model/model.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB = 61, SEQ = 19, BATCH = 4, STEPS = 4 };

static const ls_config_model gpt2 = {.family = LS_FAMILY_GPT2,
                                     .vocab = VOCAB,
                                     .vocab_multiple = 64,
                                     .layers = 2,
                                     .channels = 32,
                                     .heads = 2,
                                     .kv_heads = 2,
                                     .head_dim = 16,
                                     .ffn = 128,
                                     .context = SEQ,
                                     .tied = true,
                                     .norm_eps = 1e-5,
                                     .init_std = 0.02};
static const ls_config_model llama = {.family = LS_FAMILY_LLAMA3,
                                      .vocab = VOCAB,
                                      .vocab_multiple = 64,
                                      .layers = 2,
                                      .channels = 32,
                                      .heads = 4,
                                      .kv_heads = 2,
                                      .head_dim = 8,
                                      .ffn = 56,
                                      .context = SEQ,
                                      .norm_eps = 1e-5,
                                      .init_std = 0.02,
                                      .rope_theta = 10000.0};

typedef struct trainer {
    ls_device *dev;
    ls_model *model;
    void *grads, *m, *v, *loss;
    int64_t elems, batch;
} trainer;

static void trainer_init(trainer *t, ls_device *dev, const ls_config_model *config, ls_dtype dtype,
                         bool narrow_logits, int64_t batch) {
    *t = (trainer){.dev = dev, .batch = batch};
    CHECK_OK(ls_model_create(&(ls_model_options){.config = config,
                                                 .dev = dev,
                                                 .batch = batch,
                                                 .seq = SEQ,
                                                 .dtype = dtype,
                                                 .narrow_logits = narrow_logits,
                                                 .training = true},
                             &t->model));
    CHECK_OK(ls_model_init(t->model, 5));
    t->elems = ls_model_flat_elems(t->model);
    const size_t bytes = (size_t)t->elems * sizeof(float);
    CHECK_OK(dev->ops->alloc(dev, bytes, &t->grads));
    CHECK_OK(dev->ops->alloc(dev, bytes, &t->m));
    CHECK_OK(dev->ops->alloc(dev, bytes, &t->v));
    CHECK_OK(dev->ops->alloc(dev, sizeof(double), &t->loss));
}

static void trainer_release(trainer *t) {
    ls_model_destroy(t->model);
    t->dev->ops->free(t->dev, t->grads);
    t->dev->ops->free(t->dev, t->m);
    t->dev->ops->free(t->dev, t->v);
    t->dev->ops->free(t->dev, t->loss);
}

/* Sequences [first, first + batch) of step's batch: a walk with a pattern that can be learnt. */
static void fill_batch(int step, int64_t first, int64_t batch, int32_t *tokens, int32_t *targets) {
    for (int64_t b = 0; b < batch; b++) {
        int32_t token = (int32_t)(ls_rng_uniform(3, (uint64_t)step, (uint64_t)(first + b)) * VOCAB);
        for (int64_t i = 0; i < SEQ; i++) {
            tokens[b * SEQ + i] = token;
            token = (token * 5 + 3) % VOCAB;
            targets[b * SEQ + i] = token;
        }
    }
}

/* The sum of the losses of this trainer's sequences; gradients are of the mean over BATCH. */
static double gradients(trainer *t, int step, int64_t first) {
    int32_t tokens[BATCH * SEQ], targets[BATCH * SEQ];
    double loss = 0.0;
    fill_batch(step, first, t->batch, tokens, targets);
    CHECK_OK(t->dev->ops->zero(t->dev, t->grads, (size_t)t->elems * sizeof(float)));
    CHECK_OK(ls_model_forward_backward(t->model, tokens, targets, 1.0 / (BATCH * SEQ), t->grads,
                                       NULL, NULL, t->loss));
    CHECK_OK(t->dev->ops->download(t->dev, &loss, t->loss, sizeof loss));
    return loss;
}

static void update(trainer *t, int step) {
    const ls_adamw op = {.n = t->elems,
                         .t = step + 1,
                         .lr = 0.01,
                         .beta1 = 0.9,
                         .beta2 = 0.95,
                         .eps = 1e-8,
                         .weight_decay = 0.1,
                         .grad_scale = 1.0,
                         .p = ls_model_masters(t->model),
                         .m = t->m,
                         .v = t->v,
                         .grad = t->grads,
                         .copy_dtype = LS_BF16,
                         .copy = ls_model_copies(t->model)};
    CHECK_OK(t->dev->ops->adamw(t->dev, &op));
}

static void run(ls_comm *world, ls_comm *comm, ls_device *gpu, ls_device *cpu,
                const ls_config_model *config, ls_dtype dtype, bool narrow_logits) {
    const double tolerance = dtype == LS_BF16 ? 2e-2 : 2e-4;
    trainer on_gpu, on_cpu;
    const int64_t share = BATCH / comm->size;
    double first_loss = 0.0, loss = 0.0;
    trainer_init(&on_gpu, gpu, config, dtype, narrow_logits, share);
    trainer_init(&on_cpu, cpu, config, LS_F32, false, BATCH);
    for (int step = 0; step < STEPS; step++) {
        ls_comm_request *request;
        double mine = gradients(&on_gpu, step, comm->rank * share);
        CHECK_OK(comm->ops->all_reduce_start(comm, on_gpu.grads, on_gpu.grads, on_gpu.elems, LS_F32,
                                             LS_SUM, &request));
        CHECK_OK(comm->ops->wait(comm, request));
        update(&on_gpu, step);
        CHECK_OK(world->ops->all_reduce(world, &mine, 1, LS_F64, LS_SUM));
        loss = mine / (BATCH * SEQ);
        const double expected = gradients(&on_cpu, step, 0) / (BATCH * SEQ);
        update(&on_cpu, step);
        first_loss = step == 0 ? loss : first_loss;
        if (!(fabs(loss - expected) <= tolerance * expected)) {
            fprintf(stderr, "step %d: loss %.6f, on the CPU %.6f\n", step, loss, expected);
        }
        CHECK(fabs(loss - expected) <= tolerance * expected);
    }
    CHECK(loss < first_loss);
    trainer_release(&on_gpu);
    trainer_release(&on_cpu);
}

/* The gradients of one micro-batch of `batch` sequences, in fp32 on the host. */
static float *gradients_of(ls_device *dev, const ls_config_model *config, ls_dtype dtype,
                           bool narrow_logits, int64_t batch, int64_t *elems) {
    trainer t;
    trainer_init(&t, dev, config, dtype, narrow_logits, batch);
    int32_t *tokens = calloc((size_t)(batch * SEQ), sizeof *tokens);
    int32_t *targets = calloc((size_t)(batch * SEQ), sizeof *targets);
    fill_batch(0, 0, batch, tokens, targets);
    for (int64_t i = 0; i < batch * SEQ; i++) { /* others take the emulated device no time */
        targets[i] = i % 16 == 0 ? targets[i] : -1;
    }
    const size_t bytes = (size_t)t.elems * sizeof(float);
    float *grads = calloc((size_t)t.elems, sizeof *grads);
    CHECK_OK(ls_model_forward_backward(t.model, tokens, targets, 1.0 / (double)(batch * SEQ),
                                       t.grads, NULL, NULL, t.loss));
    CHECK_OK(dev->ops->download(dev, grads, t.grads, bytes));
    *elems = t.elems;
    trainer_release(&t);
    free(tokens);
    free(targets);
    return grads;
}

/* So many rows that the head takes them in several products of several chunks each: 8208, of which
 * a GPU makes nine chunks of 912, five and four together. */
static void check_head(ls_device *gpu, ls_device *cpu, bool narrow_logits) {
    ls_config_model config = gpt2;
    config.layers = 1;
    config.channels = config.ffn = 16;
    config.heads = config.kv_heads = 1;
    int64_t elems;
    float *a = gradients_of(gpu, &config, LS_BF16, narrow_logits, 432, &elems);
    float *b = gradients_of(cpu, &config, LS_F32, false, 432, &elems);
    double off = 0.0, size = 0.0;
    for (int64_t i = 0; i < elems; i++) {
        off += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    CHECK(sqrt(off / size) <= 1e-2);
    if (!(sqrt(off / size) <= 1e-2)) {
        fprintf(stderr, "gradients of a large head: relative error %.3g\n", sqrt(off / size));
    }
    free(a);
    free(b);
}

int main(int argc, char **argv) {
    ls_comm *world, *comm;
    ls_device *gpu, *cpu;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    if (ls_device_open_cuda(NULL, &gpu) != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        ls_comm_mpi_finalize();
        return 77;
    }
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &cpu));
    CHECK_OK(ls_comm_nccl(&(ls_comm_nccl_options){.host = world, .dev = gpu}, &comm));
    run(world, comm, gpu, cpu, &gpt2, LS_F32, false);
    run(world, comm, gpu, cpu, &gpt2, LS_BF16, false);
    run(world, comm, gpu, cpu, &llama, LS_F32, true);
    run(world, comm, gpu, cpu, &llama, LS_BF16, true);
    check_head(gpu, cpu, false);
    check_head(gpu, cpu, true);
    comm->ops->destroy(comm);
    gpu->ops->close(gpu);
    cpu->ops->close(cpu);
    ls_comm_mpi_finalize();
    return test_end();
}
