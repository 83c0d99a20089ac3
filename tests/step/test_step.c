/* Training steps over MPI. Every rank first trains alone (the self communicator, all
 * micro-batches), then with the others, and compares: losses, gradients and parameters have the
 * same bits under the invariant reduction and agree within rounding under the fast one. */
#include "optim/optim.h"
#include "runtime/base/file.h"
#include "runtime/base/rng.h"
#include "runtime/data/prep.h"
#include "runtime/step/step.h"
#include "tests/test.h"

#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

#define SEQ      11
#define WIDE_SEQ 64
#define STEPS    5
#define SEED     42

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
/* Products of this one are large enough for the packed kernels. */
static const ls_config_model wide_config = {.family = LS_FAMILY_GPT2,
                                            .vocab = 257,
                                            .vocab_multiple = 64,
                                            .layers = 2,
                                            .channels = 128,
                                            .heads = 2,
                                            .kv_heads = 2,
                                            .head_dim = 64,
                                            .ffn = 512,
                                            .context = WIDE_SEQ,
                                            .tied = true,
                                            .norm_eps = 1e-5,
                                            .init_std = 0.1};

typedef struct setting {
    const ls_config_model *model;
    int64_t seq;
    ls_dtype dtype;
    int threads;
} setting;

static const setting narrow = {&model_config, SEQ, LS_F32, 1}, *current = &narrow;

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
    ls_state *state;
    ls_model *model;
    ls_optim *optim;
    ls_runner *runner;
    ls_loader *loader;
    ls_step_options step;
    ls_step_result result;
    double norm;
} trainer;

static void start_optim(trainer *t, ls_comm *comm) {
    int param_count, owned_count;
    const ls_param *params = ls_state_params(t->state, &param_count);
    const ls_owned *owned = ls_state_owned(t->state, &owned_count);
    const ls_state_buffers b = ls_state_buffers_of(t->state);
    ls_optim_range ranges[64];
    CHECK(owned_count <= 64);
    for (int i = 0; i < owned_count; i++) {
        ranges[i] = (ls_optim_range){owned[i].range.first, owned[i].range.elems, owned[i].place};
    }
    CHECK_OK(ls_optim_create(&(ls_optim_options){.config = &optim_config,
                                                 .dev = t->dev,
                                                 .params = params,
                                                 .param_count = param_count,
                                                 .flat_elems = ls_state_flat_elems(t->state),
                                                 .owned = ranges,
                                                 .owned_count = owned_count,
                                                 .compact_masters = b.compact_masters,
                                                 .compact_grads = b.compact_grads,
                                                 .masters = b.masters,
                                                 .shard = t->step.zero > 0 ? comm : NULL},
                             &t->optim));
}

/* With zero > 0 all ranks of comm are shards. */
static trainer start(ls_comm *comm, const ls_dataset *data, ls_reduction reduction, int zero,
                     int64_t batch, int64_t micro, int64_t first_step) {
    trainer t = {.comm = comm};
    const int64_t rank_micros = batch / micro / comm->size;
    const ls_model_part whole = {0};
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = current->threads}, &t.dev));
    const ls_state_options state = {.config = current->model,
                                    .dev = t.dev,
                                    .dtype = current->dtype,
                                    .parts = &whole,
                                    .part_count = 1,
                                    .zero = zero,
                                    .reduction = reduction,
                                    .rank_micros = rank_micros,
                                    .bucket_bytes = 16384,
                                    .data = comm,
                                    .shards = zero > 0 ? comm->size : 1};
    ls_state_bytes planned;
    CHECK_OK(ls_state_plan(&state, &planned, &t.state));
    ls_state_destroy(t.state);
    CHECK_OK(ls_state_create(&state, &t.state));
    const ls_state_bytes taken = ls_state_memory(t.state);
    CHECK(memcmp(&taken, &planned, sizeof taken) == 0);
    CHECK_OK(ls_model_create(&(ls_model_options){.config = current->model,
                                                 .dev = t.dev,
                                                 .batch = micro,
                                                 .seq = current->seq,
                                                 .dtype = current->dtype,
                                                 .training = true,
                                                 .store = ls_state_store(t.state, 0)},
                             &t.model));
    CHECK_OK(ls_state_init(t.state, SEED));
    CHECK_OK(ls_runner_create(&(ls_runner_options){.dev = t.dev,
                                                   .models = &t.model,
                                                   .parts = 1,
                                                   .data = comm,
                                                   .gathers = zero == 3,
                                                   .micros = rank_micros},
                              &t.runner));
    const int64_t first = ls_state_micro(zero, rank_micros, comm->size, comm->rank, 0);
    const int64_t next = ls_state_micro(zero, rank_micros, comm->size, comm->rank, 1);
    CHECK_OK(ls_loader_create(&(ls_loader_options){.dataset = data,
                                                   .seed = SEED,
                                                   .batch = batch,
                                                   .micro = micro,
                                                   .rank_first = first * micro,
                                                   .stride = (next - first) * micro,
                                                   .rank_micros = rank_micros,
                                                   .first_sample = first_step * batch},
                              &t.loader));
    t.step = (ls_step_options){.runner = t.runner,
                               .state = t.state,
                               .loader = t.loader,
                               .dataset = data,
                               .seed = SEED,
                               .batch = batch,
                               .zero = zero};
    start_optim(&t, comm);
    return t;
}

static void stop(trainer *t) {
    ls_loader_destroy(t->loader);
    ls_runner_destroy(t->runner);
    ls_optim_destroy(t->optim);
    ls_model_destroy(t->model);
    ls_state_destroy(t->state);
    t->dev->ops->close(t->dev);
}

static void train_step(trainer *t, int64_t step) {
    const void *grads = ls_state_buffers_of(t->state).grads;
    CHECK_OK(ls_step_run(&t->step, step * t->step.batch, &t->result));
    CHECK_OK(ls_optim_grad_norm(t->optim, grads, &t->norm));
    CHECK(isfinite(t->result.loss) && isfinite(t->norm));
    CHECK(t->result.compute_ns > 0);
    CHECK_OK(ls_optim_step(t->optim, grads, t->norm, 1e-2));
    CHECK_OK(ls_state_share(t->state));
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

/* What the process asks of its allocator, while it is counted. The C library's own functions are
 * called, which the sanitizers would not see. */
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&       \
    !defined(__clang__)
#define COUNTS_ALLOCATIONS true
#define COUNTED            __attribute__((visibility("default")))

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);

static atomic_bool counting;
static atomic_int allocations;

static void count_allocation(void) {
    allocations += counting;
}

COUNTED void *malloc(size_t bytes) {
    count_allocation();
    return __libc_malloc(bytes);
}

COUNTED void *calloc(size_t count, size_t bytes) {
    count_allocation();
    return __libc_calloc(count, bytes);
}

COUNTED void *realloc(void *old, size_t bytes) {
    count_allocation();
    return __libc_realloc(old, bytes);
}

COUNTED void *aligned_alloc(size_t align, size_t bytes) {
    count_allocation();
    return __libc_memalign(align, bytes);
}
#else
#define COUNTS_ALLOCATIONS false
static atomic_bool counting;
static atomic_int allocations;
#endif

/* An allocation of a library that the program is linked to. */
static void check_counts(void) {
    counting = true;
    free(strdup("counted"));
    counting = false;
    CHECK_INT(allocations, 1);
    allocations = 0;
}

/* Of the threads that compute. The loader's has some for each batch: it lets the pages of the token
 * shards go that it has read. */
static long page_faults(int threads) {
    long faults = 0;
    int counted = 0;
#pragma omp parallel num_threads(threads) reduction(+ : faults, counted)
    {
        struct rusage usage;
        counted += getrusage(RUSAGE_THREAD, &usage) == 0;
        faults += usage.ru_minflt + usage.ru_majflt;
    }
    CHECK_INT(counted, threads);
    return faults;
}

/* Once a few steps have gone by, a step takes no memory: neither from the allocator nor, by
 * touching pages that are new, from the kernel. */
static void check_takes_nothing(ls_comm *self, const char *dir, const setting *how) {
    enum { WARM_UP = 4 };
    ls_dataset *data;
    current = how;
    CHECK_OK(ls_dataset_open(dir, LS_SPLIT_TRAIN, how->seq, true, &data));
    check_counts();
    trainer t = start(self, data, LS_REDUCTION_FAST, 0, 8, 4, 0);
    int64_t step = 0;
    while (step < WARM_UP) {
        train_step(&t, step++);
    }
    const long faults = page_faults(how->threads);
    counting = true;
    while (step < WARM_UP + STEPS) {
        train_step(&t, step++);
    }
    counting = false;
    CHECK_INT(page_faults(how->threads) - faults, 0);
    CHECK_INT(allocations, 0);
    stop(&t);
    ls_dataset_close(data);
    current = &narrow;
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

/* Prepares DIR/FILE, with this content, as DIR/OUT. */
static ls_status prepare(const char *dir, const char *file, const char *content, size_t bytes,
                         const char *out, const char *prompt_field) {
    char path[128], out_dir[128];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    snprintf(out_dir, sizeof out_dir, "%s/%s", dir, out);
    CHECK_OK(ls_file_replace(path, content, bytes));
    const char *const inputs[] = {path};
    ls_prep_result result;
    return ls_prep_run(&(ls_prep_options){.inputs = inputs,
                                          .input_count = 1,
                                          .out_dir = out_dir,
                                          .jsonl_field = "text",
                                          .prompt_field = prompt_field,
                                          .shard_tokens = 1000},
                       &result);
}

/* Prompts and answers, cut out of the text; the first prompts fill several windows. */
static ls_status make_masked(const char *dir, const char *text, size_t bytes) {
    char lines[8192];
    size_t end = 0;
    for (size_t i = 0, at = 0; at + 140 < bytes; i++) {
        const int prompt = i < 2 ? 125 : 7 + (int)i % 20, answer = 2 + (int)i % 9;
        end += (size_t)snprintf(lines + end, sizeof lines - end,
                                "{\"q\": \"%.*s\", \"text\": \"%.*s\"}\n", prompt, text + at,
                                answer, text + at + prompt);
        at += (size_t)(prompt + answer);
    }
    return prepare(dir, "lines.jsonl", lines, end, "masked", "q");
}

/* Letters that follow each other by rule, so that there is something to learn. */
static void make_data(ls_comm *world, char *dir, size_t size) {
    ls_status status = LS_OK;
    if (world->rank == 0) {
        snprintf(dir, size, "/tmp/lockstep-step-XXXXXX");
        CHECK(mkdtemp(dir) != NULL);
        char text[2520];
        for (size_t i = 0; i < sizeof text; i++) {
            uint32_t r = ls_rng_draw(1, 0, i).v[0];
            text[i] = (char)(i % 50 == 49 ? '\n' : 'a' + (i * i + r % 3) % 26);
        }
        status = prepare(dir, "text.txt", text, sizeof text, "data", NULL);
        for (size_t i = 49; i < sizeof text; i += 50) {
            text[i] = ' ';
        }
        status = status == LS_OK ? make_masked(dir, text, sizeof text) : status;
    }
    CHECK_OK(ls_comm_agree(world, status));
    CHECK_OK(world->ops->broadcast(world, dir, (int64_t)size, 0));
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
    if (COUNTS_ALLOCATIONS && world->size == 1) { /* sanitizers take memory of their own */
        check_takes_nothing(self, out, &(setting){&wide_config, WIDE_SEQ, LS_F32, 2});
        check_takes_nothing(self, out, &(setting){&wide_config, WIDE_SEQ, LS_BF16, 2});
    }
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
