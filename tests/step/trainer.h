/* Training runs in a test: everything that lockstep train holds, and data to learn from. */
#ifndef LS_TESTS_STEP_TRAINER_H
#define LS_TESTS_STEP_TRAINER_H

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
typedef struct setting {
    const ls_config_model *model;
    int64_t seq;
    ls_dtype dtype;
    int threads;
} setting;

static const setting narrow = {&model_config, SEQ, LS_F32, 1};

static const ls_config_optim optim_config = {.name = "adamw",
                                             .beta1 = 0.9,
                                             .beta2 = 0.95,
                                             .eps = 1e-8,
                                             .weight_decay = 0.1,
                                             .clip_norm = 1.0};

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

static inline void start_optim(trainer *t, ls_comm *comm) {
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
static inline trainer start_with(const setting *how, ls_comm *comm, const ls_dataset *data,
                                 ls_reduction reduction, int zero, int64_t batch, int64_t micro,
                                 int64_t first_step) {
    trainer t = {.comm = comm};
    const int64_t rank_micros = batch / micro / comm->size;
    const ls_model_part whole = {0};
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = how->threads}, &t.dev));
    const ls_state_options state = {.config = how->model,
                                    .dev = t.dev,
                                    .dtype = how->dtype,
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
    CHECK_OK(ls_model_create(&(ls_model_options){.config = how->model,
                                                 .dev = t.dev,
                                                 .batch = micro,
                                                 .seq = how->seq,
                                                 .dtype = how->dtype,
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

static inline void stop(trainer *t) {
    ls_loader_destroy(t->loader);
    ls_runner_destroy(t->runner);
    ls_optim_destroy(t->optim);
    ls_model_destroy(t->model);
    ls_state_destroy(t->state);
    t->dev->ops->close(t->dev);
}

static inline void train_step(trainer *t, int64_t step) {
    const void *grads = ls_state_buffers_of(t->state).grads;
    CHECK_OK(ls_step_run(&t->step, step * t->step.batch, &t->result));
    CHECK_OK(ls_optim_grad_norm(t->optim, grads, &t->norm));
    CHECK(isfinite(t->result.loss) && isfinite(t->norm));
    CHECK(t->result.compute_ns > 0);
    CHECK_OK(ls_optim_step(t->optim, grads, t->norm, 1e-2));
    CHECK_OK(ls_state_share(t->state));
}

/* Prepares DIR/FILE, with this content, as DIR/OUT. */
static inline ls_status prepare(const char *dir, const char *file, const char *content,
                                size_t bytes, const char *out, const char *prompt_field) {
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
static inline ls_status make_masked(const char *dir, const char *text, size_t bytes) {
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

/* Letters that follow each other by rule, so that there is something to learn: DIR/data, and
 * DIR/masked with a loss mask. */
static inline void make_data(ls_comm *world, char *dir, size_t size) {
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

#endif
