/* Layouts against one rank. Each layout trains a tiny model for some steps on the first ranks of
 * the world; then every rank compares what it holds, by the boxes that it would load from a
 * checkpoint, with the same boxes of one rank's training: parameters and moments of the gradients,
 * and the losses, of steps and of an evaluation. And what it would save covers each element once,
 * and the operations that a rank makes in a step are those that the layout tells ahead.
 *
 * And of layouts drawn from the seed LS_LAYOUTS_SEED LS_LAYOUTS_RANDOM, and these alone; else 8, or
 * 300 with LOCKSTEP_TEST_ALL=1.
 *
 * `test_layouts gpu` trains on GPUs, or on the emulated one where that is linked: a few layouts and
 * every sixth of the tables, or with LOCKSTEP_TEST_ALL=1 all that are for so many ranks. */
#include "tests/layouts/layout_cases.h"
#include "tests/layouts/layout_operations.h"

#include "collectives/comm_choose.h"
#include "collectives/nccl/comm_nccl.h"
#include "collectives/recorded.h"
#include "launch/train_pieces.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/rng.h"
#include "runtime/data/prep.h"
#include "tests/test.h"

#include <unistd.h>

#define BASE                                                                                       \
    "run.steps=100 model.vocab=257 model.vocab_multiple=16 model.context=16 model.init_std=0.1 "   \
    "batch.sequences=24 batch.micro=2 numerics.compute=fp32 numerics.bucket_mib=0.05 "             \
    "schedule.kind=constant schedule.warmup_steps=0 optim.lr=1e-2 optim.eps=1e-2"

enum { SEQ = 16, NEAR_STEPS = 3, EXACT_STEPS = 20, GPU_STEPS = 2, MAX_OVERRIDES = 64, WORLD = 8 };
enum { SMALL_BYTES = 96, REFERENCES_MAX = 128, SAMPLED = 6 };

static ls_comm *mpi, *world; /* world: recorded */
static const ls_dataset *data, *val_data;
static ls_device *cpu, *gpu; /* gpu NULL: not wanted */

/* What one rank has after training, by the tensors that it would save. */
typedef struct outcome {
    ls_train train;
    ls_pieces pieces;
    int64_t elems;
    double losses[EXACT_STEPS + 1]; /* of the steps, then of an evaluation */
} outcome;

static ls_status load_config(ls_config *config, model_case model, const char *overrides) {
    char text[1024];
    const char *list[MAX_OVERRIDES];
    int count = 0;
    snprintf(text, sizeof text, "%s %s %s", BASE, model_overrides[model], overrides);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        list[count++] = word;
        for (char *space = word; (space = strchr(space, '~'));) { /* stands for one in a value */
            *space = ' ';
        }
    }
    return ls_config_load(config, NULL, list, count);
}

/* Everything that needs no memory; as `lockstep train` does it. */
static ls_status lay_out(ls_train *t, ls_comm *comm, ls_device *dev) {
    static const uint64_t one_host[WORLD];
    int size[LS_AXIS_COUNT];
    t->session.comm = comm;
    t->session.dev = dev;
    LS_TRY(ls_session_axes(&t->config.parallel, comm->size, size));
    LS_TRY(ls_mesh_init(&t->session.mesh, size, comm->rank, comm->size, one_host));
    const ls_dtype dtype = ls_session_dtype(t->config.numerics.compute, dev);
    LS_TRY(ls_layout_init(&t->layout, &t->config, dev, dtype, &t->session.mesh));
    t->layout.document_token = 'e'; /* begins more documents than lines end */
    return ls_layout_plan(&t->layout, &t->planned);
}

/* As `lockstep train` does it. */
static ls_status update(ls_train *t) {
    const void *grads = ls_state_buffers_of(t->state).grads;
    double norm;
    bool updated;
    if (!ls_optim_defers(t->optim)) {
        LS_TRY(ls_optim_grad_norm(t->optim, grads, &norm));
        return ls_optim_step(t->optim, grads, norm, t->config.optim.lr);
    }
    LS_TRY(ls_optim_step_start(t->optim, grads, t->config.optim.lr, NULL));
    LS_TRY(ls_optim_step_end(t->optim, &norm, &updated));
    CHECK(updated);
    return LS_OK;
}

static ls_status train_steps(outcome *o, int steps, const char *overrides) {
    ls_train *t = &o->train;
    const ls_loader_options loader = ls_layout_loader(&t->layout, data, 0);
    LS_TRY(ls_loader_create(&loader, &t->loader));
    const ls_step_options options = {.runner = t->runner,
                                     .state = t->state,
                                     .loader = t->loader,
                                     .dataset = data,
                                     .seed = (uint64_t)t->config.run.seed,
                                     .batch = t->layout.batch,
                                     .zero = (int)t->config.parallel.zero};
    for (int step = 0; step < steps; step++) {
        ls_step_result result;
        operation_counts before, after;
        ls_meters_count(before);
        LS_TRY(ls_step_run(&options, step * t->layout.batch, &result));
        LS_TRY(update(t));
        LS_TRY(ls_state_share(t->state));
        ls_meters_count(after);
        if (step == 1 && t->session.dev == cpu && t->session.comm->size > 1) {
            compare_operations(&t->layout, before, after, overrides);
        }
        o->losses[step] = result.loss;
    }
    ls_eval_result result;
    LS_TRY(ls_step_evaluate(t->runner, val_data, 0, t->config.batch.micro, 0, &result));
    o->losses[steps] = result.loss;
    return LS_OK;
}

/* fabric: comm, or the same ranks for the memory of a GPU. */
static ls_status run(outcome *o, ls_comm *comm, ls_comm *fabric, ls_device *dev, model_case model,
                     const char *overrides, int steps) {
    memset(o, 0, sizeof *o);
    o->train.session.fabric = fabric;
    LS_TRY(load_config(&o->train.config, model, overrides));
    LS_TRY(lay_out(&o->train, comm, dev));
    LS_TRY(ls_train_build(&o->train));
    LS_TRY(ls_state_init(o->train.state, (uint64_t)o->train.config.run.seed));
    LS_TRY(train_steps(o, steps, overrides));
    LS_TRY(ls_pieces_list(&o->train, true, &o->pieces));
    for (int i = 0; i < o->pieces.count; i++) {
        o->elems += ls_box_elems(&o->pieces.tensors[i].box);
    }
    ls_pieces_release(&o->pieces);
    /* As to be saved, but of everything that is held, so that copies are compared too. */
    LS_TRY(ls_pieces_list(&o->train, false, &o->pieces));
    for (int i = 0; i < o->pieces.count; i++) {
        LS_TRY(ls_pieces_fetch(&o->pieces, i));
    }
    return LS_OK;
}

static void end(outcome *o) {
    ls_pieces_release(&o->pieces);
    ls_loader_destroy(o->train.loader);
    ls_train_release(&o->train);
}

static const ls_ckpt_tensor *find(const ls_pieces *p, const char *name) {
    for (int i = 0; i < p->count; i++) {
        if (strcmp(p->tensors[i].name, name) == 0) {
            return &p->tensors[i];
        }
    }
    return NULL;
}

/* A box of a layout against the whole tensor of one rank: largest difference over the tensor's root
 * mean square. */
static double difference(const ls_ckpt_tensor *part, const ls_ckpt_tensor *whole) {
    const int64_t n = ls_box_elems(&part->box), all = ls_box_elems(&whole->box);
    float *expected = malloc((size_t)n * sizeof *expected);
    const float *found = part->data, *w = whole->data;
    double square = 0.0, most = 0.0;
    ls_box_copy(&part->box, &whole->box, whole->data, &part->box, expected, sizeof *expected);
    for (int64_t i = 0; i < all; i++) {
        square += (double)w[i] * (double)w[i];
    }
    for (int64_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)found[i] - (double)expected[i]));
    }
    free(expected);
    const double scale = sqrt(square / (double)all);
    return most == 0.0 ? 0.0 : scale > 0.0 ? most / scale : INFINITY;
}

static void compare(const outcome *found, const outcome *expected, const layout_case *c, int steps,
                    double tolerance, ls_comm *comm) {
    int64_t elems = found->elems;
    CHECK_OK(comm->ops->all_reduce(comm, &elems, 1, LS_I64, LS_SUM));
    double worst = 0.0, worst_loss = 0.0;
    const char *where = "";
    for (int i = 0; i < found->pieces.count; i++) {
        const ls_ckpt_tensor *part = &found->pieces.tensors[i];
        const double d = difference(part, find(&expected->pieces, part->name));
        where = d > worst ? part->name : where;
        worst = fmax(worst, d);
    }
    for (int step = 0; step <= steps; step++) {
        const double e = expected->losses[step];
        worst_loss = fmax(worst_loss, fabs(found->losses[step] - e) / fabs(e));
    }
    test_checks++;
    /* Of single elements more is asked than of the whole; a sum's rounding grows with its terms. */
    if (elems != expected->elems || worst > 20 * tolerance || worst_loss > tolerance) {
        TEST_FAIL_("rank %d of %d with model %d and '%s': %lld of %lld elements, %s differs by %g, "
                   "losses by %g",
                   comm->rank, c->ranks, (int)c->model, c->overrides, (long long)elems,
                   (long long)expected->elems, where, worst, worst_loss);
    }
}

/* Near one rank's training, or equal to it; with AdamW or another optimizer. */
typedef enum case_kind { NEAR, NEAR_ADAFACTOR, NEAR_MUON, EXACT, EXACT_ADAFACTOR, KINDS } case_kind;
static const char *const added_overrides[KINDS] = {
    "", " optim.name=adafactor", " optim.name=muon", " numerics.reduction=invariant",
    " numerics.reduction=invariant optim.name=adafactor"};

static bool is_near(case_kind kind) {
    return kind < EXACT;
}

static int steps_of(case_kind kind) {
    return gpu ? GPU_STEPS : is_near(kind) ? NEAR_STEPS : EXACT_STEPS;
}

static int setting(const layout_case *c, const char *name, int otherwise) {
    const char *found = strstr(c->overrides, name);
    return found ? atoi(found + strlen(name)) : otherwise;
}

/* An emulated GPU is slow: there no more layers, micro-batches and sequences than what the case is
 * about needs. Cases that are compared bit by bit have the same batch, and so the same reference.
 */
static void make_small(const layout_case *c, case_kind kind, char text[SMALL_BYTES]) {
    const int pipeline = setting(c, "parallel.pipeline=", 1);
    const int stages = pipeline * setting(c, "parallel.interleave=", 1);
    const int width = setting(c, "parallel.tensor=", 1) * setting(c, "parallel.context=", 1);
    const int micro = setting(c, "batch.micro=", 1);
    const int each = stages > pipeline ? pipeline : micro < 4 ? 2 : 1; /* micro-batches of a rank */
    text[0] = '\0';
    if (gpu) {
        snprintf(text, SMALL_BYTES, "model.layers=%d batch.micro=1 batch.sequences=%d ",
                 stages > 2 ? stages : 2,
                 is_near(kind) ? c->ranks / width / pipeline * micro * each : 12);
    }
}

/* One rank's training, of each model and batch that has been asked for; every rank computes it. On
 * a GPU only what must have the same bits. */
static const outcome *reference(model_case model, case_kind kind, const char *small, int micro) {
    static struct {
        model_case model;
        char overrides[256];
        outcome *outcome;
    } known[REFERENCES_MAX];
    char overrides[256];
    int i = 0;
    snprintf(overrides, sizeof overrides, "%sbatch.micro=%d%s", small, micro,
             added_overrides[kind]);
    while (known[i].outcome &&
           (known[i].model != model || strcmp(known[i].overrides, overrides) != 0)) {
        i++;
    }
    if (!known[i].outcome) {
        ls_device *dev = gpu && !is_near(kind) ? gpu : cpu;
        ls_comm *self, *fabric;
        CHECK(i + 1 < REFERENCES_MAX);
        known[i].model = model;
        memcpy(known[i].overrides, overrides, sizeof overrides);
        known[i].outcome = calloc(1, sizeof *known[i].outcome);
        CHECK_OK(ls_comm_self(&self)); /* both stay, as the outcome does */
        CHECK_OK(ls_comm_self_on(dev, &fabric));
        CHECK_OK(run(known[i].outcome, self, fabric, dev, model, overrides, steps_of(kind)));
    }
    return known[i].outcome;
}

static ls_status open_fabric(ls_comm *comm, ls_comm **fabric) {
    *fabric = comm;
    if (!gpu) {
        return LS_OK;
    }
    return comm->size == 1
               ? ls_comm_self_on(gpu, fabric)
               : ls_comm_nccl(&(ls_comm_nccl_options){.host = comm, .dev = gpu}, fabric);
}

static void check_on(const layout_case *c, case_kind kind, ls_comm *comm) {
    static outcome o;
    char overrides[512], small[SMALL_BYTES];
    ls_comm *fabric;
    const int steps = steps_of(kind);
    CHECK_OK(open_fabric(comm, &fabric));
    make_small(c, kind, small);
    snprintf(overrides, sizeof overrides, "%s%s%s", small, c->overrides, added_overrides[kind]);
    ls_status status = run(&o, comm, fabric, gpu ? gpu : cpu, c->model, overrides, steps);
    test_checks++;
    if (status != LS_OK) {
        TEST_FAIL_("%d ranks with '%s': %s", c->ranks, c->overrides, ls_error_last()->message);
    } else {
        const int micro = (int)o.train.config.batch.micro;
        const bool rounds = c->model == LLAMA_BF16 || strstr(c->overrides, "reduction=bf16");
        const double near = rounds ? 2e-2 : gpu ? 1e-4 : 1e-5;
        compare(&o, reference(c->model, kind, small, micro), c, steps, is_near(kind) ? near : 0.0,
                comm);
    }
    end(&o);
    if (fabric != comm) {
        fabric->ops->destroy(fabric);
    }
}

/* Zero 3 is two programs: over MPI each rank gathers blocks into windows of its own, over the
 * host's memory ranks read them where they lie. */
static void check_case(const layout_case *c, case_kind kind) {
    const int color = world->rank < c->ranks ? 0 : 1;
    ls_comm *comm, *part, *shared;
    CHECK_OK(world->ops->split(world, color, &comm));
    if (color == 0) {
        check_on(c, kind, comm);
    }
    comm->ops->destroy(comm);
    if (gpu || !strstr(c->overrides, "parallel.zero=3")) {
        return;
    }
    CHECK_OK(mpi->ops->split(mpi, color, &part));
    if (color == 0) {
        CHECK_OK(ls_comm_choose(part, LS_TRANSPORT_AUTO, &shared));
        CHECK_OK(ls_comm_recorded(shared, "world", false, &comm));
        check_on(c, kind, comm);
        comm->ops->destroy(comm);
        shared->ops->destroy(shared);
    }
    part->ops->destroy(part);
}

static void test_refusals(void) {
    for (size_t i = 0; i < sizeof refused_cases / sizeof *refused_cases; i++) {
        static ls_train t;
        ls_comm comm = {.size = refused_cases[i].ranks};
        char overrides[256];
        snprintf(overrides, sizeof overrides, "%s%s", i == 0 ? "batch.micro=3 " : "",
                 refused_cases[i].overrides);
        memset(&t, 0, sizeof t);
        ls_status status = load_config(&t.config, GPT2, overrides);
        if (status == LS_OK) {
            status = lay_out(&t, &comm, cpu);
        }
        CHECK_INT(status, LS_E_CONFIG);
        CHECK_MESSAGE(refused_cases[i].message);
        ls_layout_release(&t.layout);
    }
}

/* A layout of up to 8 ranks; not every one that is drawn can work. */
static bool draw_case(uint64_t seed, uint64_t index, layout_case *c, char *overrides, size_t size) {
    static const int divisors[] = {1, 1, 1, 2, 2, 3, 4, 8};
    static const int contexts[] = {1, 1, 1, 1, 1, 2, 2, 4};
    static const model_case models[] = {GPT2, GPT2_UNTIED, LLAMA, LLAMA_TIED, MIXTURE};
    static const char *const recomputes[] = {"none", "selective", "full"};
    ls_rng_block a = ls_rng_draw(seed, index, 0), b = ls_rng_draw(seed, index, 1);
    const int tensor = divisors[a.v[0] % 8], pipeline = divisors[a.v[1] % 8];
    const int shard = divisors[a.v[2] % 8], replicate = divisors[a.v[3] % 8];
    const int context = contexts[b.v[0] % 8];
    const int zero = shard > 1 ? 1 + (int)(b.v[0] % 3) : 0, micro = 1 << b.v[1] % 3;
    const int expert = models[b.v[3] % 5] == MIXTURE ? 1 + (int)(a.v[1] / 8 % 4) : 1;
    const int interleave = pipeline > 1 && b.v[2] % 3 == 0 ? 2 : 1;
    *c = (layout_case){tensor * pipeline * shard * replicate * context, models[b.v[3] % 5],
                       overrides};
    snprintf(overrides, size,
             "parallel.tensor=%d parallel.context=%d parallel.pipeline=%d parallel.interleave=%d "
             "parallel.shard=%d parallel.expert=%d "
             "parallel.replicate=%d parallel.zero=%d parallel.sequence_parallel=%s batch.micro=%d "
             "recompute.mode=%s recompute.every=%d",
             tensor, context, pipeline, interleave, shard, expert, replicate, zero,
             tensor > 1 && b.v[0] % 2 ? "true" : "false", micro, recomputes[b.v[2] / 7 % 3],
             1 + (int)(b.v[2] / 31 % 2));
    return c->ranks <= WORLD;
}

static bool can_work(const layout_case *c) {
    static ls_train t;
    ls_comm comm = {.size = c->ranks};
    memset(&t, 0, sizeof t);
    bool works =
        load_config(&t.config, c->model, c->overrides) == LS_OK && lay_out(&t, &comm, cpu) == LS_OK;
    ls_layout_release(&t.layout);
    return works;
}

static void test_random(int wanted, uint64_t seed) {
    int checked = 0;
    for (uint64_t index = 0; checked < wanted && index < 100 * (uint64_t)wanted; index++) {
        layout_case c;
        char overrides[512];
        if (draw_case(seed, index, &c, overrides, sizeof overrides) && can_work(&c)) {
            check_case(&c, NEAR);
            checked++;
        }
    }
    CHECK_INT(checked, wanted);
}

static void make_data(char *dir, size_t size) {
    ls_status status = LS_OK;
    if (world->rank == 0) {
        snprintf(dir, size, "/tmp/lockstep-layouts-XXXXXX");
        CHECK(mkdtemp(dir) != NULL);
        char text[9000], path[128], out[128];
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
                                                .val_fraction = 0.012,
                                                .shard_tokens = 10000},
                             &result);
    }
    CHECK_OK(ls_comm_agree(world, status));
    CHECK_OK(world->ops->broadcast(world, dir, (int64_t)size, 0));
}

/* Long tables in pieces: LS_LAYOUTS_PART=2/5 is every fifth case, from the third on. */
static int sampled = 1; /* of every so many cases one is taken, and may be in the part */
static bool is_in_part(void) {
    static int seen, next;
    const char *text = getenv("LS_LAYOUTS_PART");
    int part = 0, parts = 1;
    if (text && (sscanf(text, "%d/%d", &part, &parts) != 2 || parts < 1)) {
        TEST_FAIL_("LS_LAYOUTS_PART is '%s'; 2/5 is the form", text);
    }
    return seen++ % sampled == 0 && next++ % parts == part;
}

static void test_table(const layout_case *cases, size_t count, case_kind kind) {
    for (size_t i = 0; i < count; i++) {
        if (cases[i].ranks <= world->size && is_in_part()) {
            check_case(&cases[i], kind);
        }
    }
}

#define TABLE(cases, kind) test_table((cases), sizeof(cases) / sizeof *(cases), (kind))

static void test_tables(void) {
    TABLE(near_cases, NEAR);
    TABLE(near_adafactor_cases, NEAR_ADAFACTOR);
    TABLE(near_muon_cases, NEAR_MUON);
    TABLE(exact_cases, EXACT);
    TABLE(exact_adafactor_cases, EXACT_ADAFACTOR);
}

static void test_all(void) {
    const char *wanted = getenv("LS_LAYOUTS_RANDOM"), *seed = getenv("LS_LAYOUTS_SEED");
    const char *all = getenv("LOCKSTEP_TEST_ALL");
    const int drawn = all && all[0] == '1' ? 300 : 8;
    CHECK_INT(world->size, WORLD);
    test_refusals();
    if (!wanted) {
        test_tables();
    }
    test_random(wanted ? atoi(wanted) : drawn, seed ? strtoull(seed, NULL, 10) : 1);
}

static void test_gpu(void) {
    TABLE(gpu_cases, NEAR);
    TABLE(gpu_adafactor_cases, NEAR_ADAFACTOR);
    TABLE(gpu_muon_cases, NEAR_MUON);
    TABLE(gpu_exact_cases, EXACT);
    sampled = getenv("LOCKSTEP_TEST_ALL") ? 1 : SAMPLED;
    test_tables();
}

int main(int argc, char **argv) {
    const bool on_gpu = argc > 1 && strcmp(argv[1], "gpu") == 0;
    ls_dataset *dataset, *val_dataset;
    char dir[64] = "", out[128];
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &mpi));
    CHECK_OK(ls_comm_recorded(mpi, "world", false, &world));
    ls_error_set_rank(world->rank);
    ls_state_tied_piece_bytes = 1000; /* several of the small models */
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &cpu));
    if (on_gpu && ls_device_open_cuda(NULL, &gpu) != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        ls_comm_mpi_finalize();
        return 77;
    }
    make_data(dir, sizeof dir);
    snprintf(out, sizeof out, "%s/data", dir);
    CHECK_OK(ls_dataset_open(out, LS_SPLIT_TRAIN, SEQ, true, &dataset));
    data = dataset;
    CHECK_OK(ls_dataset_open(out, LS_SPLIT_VAL, SEQ, false, &val_dataset));
    val_data = val_dataset;
    CHECK_INT(ls_dataset_describe(val_data)->windows, 7); /* a short micro-batch, if not of 1 */
    if (gpu) {
        test_gpu();
    } else {
        test_all();
    }
    ls_dataset_close(val_dataset);
    ls_dataset_close(dataset);
    CHECK_OK(world->ops->barrier(world));
    if (world->rank == 0) {
        CHECK_OK(ls_dir_remove(dir));
    }
    cpu->ops->close(cpu);
    int status = test_end();
    world->ops->destroy(world);
    ls_comm_mpi_finalize();
    return status;
}
