/* This machine's profile for the planner: products, attention and memory-bound operations by their
 * times inside whole training steps, and an update of the weights. */
#include "launch/bench.h"
#include "launch/bench_fill.h"
#include "launch/session.h"
#include "launch/timed_ops.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "runtime/base/sort.h"
#include "runtime/base/text.h"
#include "runtime/model/model.h"
#include "runtime/plan/cost.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What is run: small models of different widths, so that an inner dimension, a head and a long
 * sequence show. */
static const struct {
    const char *preset;
    int64_t vocab, seq, batch;
} trials[] = {
    {"gpt2-3m", 512, 256, 2},
    {"gpt2-10m", 4096, 256, 1},
    {"llama3-10m", 512, 1024, 1},
    {"llama3-30m", 8192, 128, 1},
};

enum { TRIALS = sizeof trials / sizeof trials[0], MAX_REPEATS = 32, MAX_SHAPES = 512 };
enum { MAX_ROWS = 128, UPDATED_ELEMS = 4 << 20 }; /* arrays that no cache holds */

/* Of all its calls in a step. */
typedef struct shape_time {
    double m, n, k, seconds, calls;
} shape_time;

/* A step, by operation. */
typedef struct timed_step {
    double seconds;
    int count;
    ls_op_time rows[MAX_ROWS];
} timed_step;

/* Groups of operations that the planner has a speed for. */
enum { ATTENTION, OTHERS, GROUPS };

typedef struct machine {
    ls_session *session;
    ls_dtype dtype;
    int repeats;
    ls_plan_model models[TRIALS];
    double step_s[TRIALS]; /* forward and backward */
    double group_s[TRIALS][GROUPS];
    shape_time shapes[MAX_SHAPES];
    int shape_count;
    double update_bytes_s;
} machine;

static int by_seconds(const void *a, const void *b) {
    const double x = ((const timed_step *)a)->seconds, y = ((const timed_step *)b)->seconds;
    return (x > y) - (x < y);
}

/* The mean over the ranks, which do the same: of parts the slowest ranks' times would not add up.
 * [collective] */
static ls_status agree(ls_session *s, double *seconds) {
    *seconds /= s->comm->size;
    return s->comm->ops->all_reduce(s->comm, seconds, 1, LS_F64, LS_SUM);
}

static ls_status load(int trial, ls_config *config) {
    char *preset = ls_text_format("model.preset=%s", trials[trial].preset);
    char *vocab = ls_text_format("model.vocab=%lld", (long long)trials[trial].vocab);
    const char *overrides[] = {preset, vocab, "run.steps=1", "batch.sequences=1", "batch.micro=1"};
    ls_status status = preset && vocab ? ls_config_load(config, NULL, overrides, 5)
                                       : LS_FAIL(LS_E_MEMORY, "no memory for a configuration");
    free(preset);
    free(vocab);
    return status;
}

/* Takes a step apart. [collective]: all ranks have the same rows. */
static ls_status take_rows(machine *m, int trial, const timed_step *step) {
    double sums[GROUPS] = {0};
    m->step_s[trial] = step->seconds;
    LS_TRY(agree(m->session, &m->step_s[trial]));
    for (int i = 0; i < step->count; i++) {
        const ls_op_time *row = &step->rows[i];
        if (strcmp(row->group, "gemm") != 0) {
            const int group = strcmp(row->group, "attention") == 0 ? ATTENTION : OTHERS;
            sums[group] += strcmp(row->group, "loss") == 0 ? 0 : row->seconds; /* the head's */
            continue;
        }
        long long sizes[3];
        if (m->shape_count == MAX_SHAPES ||
            sscanf(row->name, "gemm %*s %lldx%lldx%lld", &sizes[0], &sizes[1], &sizes[2]) != 3) {
            continue;
        }
        shape_time *t = &m->shapes[m->shape_count++];
        *t = (shape_time){(double)sizes[0], (double)sizes[1], (double)sizes[2], row->seconds,
                          (double)row->calls};
        LS_TRY(agree(m->session, &t->seconds));
    }
    for (int g = 0; g < GROUPS; g++) {
        m->group_s[trial][g] = sums[g];
        LS_TRY(agree(m->session, &m->group_s[trial][g]));
    }
    return LS_OK;
}

static ls_status time_steps(machine *m, ls_model *model, int trial, void *grads) {
    static timed_step steps[MAX_REPEATS + 1];
    const int64_t count = trials[trial].batch * trials[trial].seq;
    int32_t *tokens;
    LS_TRY(ls_calloc((size_t)count, sizeof *tokens, &tokens));
    for (int64_t i = 0; i < count; i++) {
        tokens[i] = (int32_t)(ls_rng_uniform(1, 2, (uint64_t)i) * (double)trials[trial].vocab);
    }
    double loss;
    ls_status status = LS_OK;
    ls_timed_ops_begin(m->session->dev);
    for (int r = 0; r <= m->repeats && status == LS_OK; r++) {
        timed_step *t = &steps[r];
        ls_timed_ops_clear();
        const uint64_t start = ls_clock_ns();
        status = ls_model_forward_backward(model, tokens, tokens, 1.0, grads, NULL, NULL, &loss);
        t->seconds = 1e-9 * (double)(ls_clock_ns() - start);
        const ls_op_time *rows = ls_timed_ops_rows(&t->count);
        t->count = t->count < MAX_ROWS ? t->count : MAX_ROWS;
        memcpy(t->rows, rows, (size_t)t->count * sizeof *rows);
    }
    ls_timed_ops_end(m->session->dev);
    free(tokens);
    LS_TRY(ls_session_agree(m->session, status)); /* the first one pays for page faults */
    qsort(steps + 1, (size_t)m->repeats, sizeof *steps, by_seconds);
    return take_rows(m, trial, &steps[1 + m->repeats / 2]);
}

/* What an update of the weights moves a second, on all ranks at once. */
static ls_status time_update(machine *m) {
    ls_device *dev = m->session->dev;
    const int64_t n = UPDATED_ELEMS;
    const size_t bytes = (size_t)n * ls_dtype_bytes(dev->acc);
    void *at[5] = {NULL}; /* weights, two moments, gradients, copies */
    double times[MAX_REPEATS + 1];
    ls_status status = LS_OK;
    for (int i = 0; i < 5 && status == LS_OK; i++) {
        status = dev->ops->alloc(dev, bytes, &at[i]);
        if (status == LS_OK &&
            i != 2) { /* squares are positive: the first update's, which is not counted */
            status = ls_bench_fill_device(dev, dev->acc, at[i], bytes);
        }
    }
    for (int r = 0; r <= m->repeats && status == LS_OK; r++) {
        const uint64_t start = ls_clock_ns();
        status = dev->ops->adamw(dev, &(ls_adamw){.n = n,
                                                  .t = 1,
                                                  .lr = 1e-3,
                                                  .beta1 = 0.9,
                                                  .beta2 = 0.95,
                                                  .eps = 1e-8,
                                                  .grad_scale = 1,
                                                  .p = at[0],
                                                  .m = at[1],
                                                  .v = at[2],
                                                  .grad = at[3],
                                                  .copy_dtype = LS_BF16,
                                                  .copy = m->dtype == LS_BF16 ? at[4] : NULL});
        times[r] = 1e-9 * (double)(ls_clock_ns() - start);
    }
    for (int i = 0; i < 5; i++) {
        dev->ops->free(dev, at[i]);
    }
    LS_TRY(ls_session_agree(m->session, status));
    ls_sort_doubles(times + 1, (size_t)m->repeats);
    double seconds = times[1 + m->repeats / 2];
    LS_TRY(agree(m->session, &seconds));
    m->update_bytes_s = (double)n * LS_PLAN_UPDATE_BYTES / seconds;
    return LS_OK;
}

static ls_status run_trial(machine *m, int trial) {
    static ls_config config;
    ls_device *dev = m->session->dev;
    LS_TRY(load(trial, &config));
    ls_log_progress(false, "%s (%d of %d)", trials[trial].preset, trial + 1, TRIALS);
    LS_TRY(ls_plan_model_of(&config.model, &m->models[trial]));
    const ls_model_options options = {.config = &config.model,
                                      .dev = dev,
                                      .batch = trials[trial].batch,
                                      .seq = trials[trial].seq,
                                      .dtype = m->dtype,
                                      .training = true};
    ls_model *model;
    void *grads = NULL;
    LS_TRY(ls_model_create(&options, &model));
    ls_status status = ls_model_init(model, 1);
    if (status == LS_OK) {
        status = dev->ops->alloc(dev, (size_t)ls_model_flat_elems(model) * ls_dtype_bytes(dev->acc),
                                 &grads);
    }
    if (status == LS_OK) {
        status = time_steps(m, model, trial, grads);
    }
    dev->ops->free(dev, grads);
    ls_model_destroy(model);
    return status;
}

/* The planner's parameters of a device, as factors that the search below changes. */
typedef struct rates_of {
    double products, half_k, attention, memory;
} rates_of;

static ls_plan_rates rates_from(const machine *m, const rates_of *v) {
    return (ls_plan_rates){.products = v->products,
                           .bf16_products = v->products,
                           .attention = v->attention,
                           .memory = v->memory,
                           .hbm = m->update_bytes_s,
                           .operand_bytes = m->dtype == LS_BF16 ? 2 : 4,
                           .half_k = v->half_k,
                           .units = 1,
                           .domain = 1,
                           .peak_flops = v->products,
                           .inside = {0, 1e9},
                           .across = {0, 1e9},
                           .shared_engine = true};
}

static double product_loss(const machine *m, const rates_of *v) {
    const ls_plan_rates r = rates_from(m, v);
    double loss = v->half_k < 0.1 ? HUGE_VAL : 0;
    for (int i = 0; i < m->shape_count; i++) {
        const shape_time *t = &m->shapes[i];
        loss +=
            fabs(log(t->calls * ls_plan_product_s(&r, t->m, t->n, t->k) / t->seconds)) * t->seconds;
    }
    return loss;
}

static void cost_of_trial(const machine *m, const rates_of *v, int trial, ls_plan_cost *c) {
    const ls_plan_rates r = rates_from(m, v);
    const ls_plan_job job = {.model = &m->models[trial],
                             .rates = &r,
                             .precision =
                                 m->dtype == LS_BF16 ? LS_PRECISION_BF16 : LS_PRECISION_FP32,
                             .seq = trials[trial].seq,
                             .global_batch = trials[trial].batch};
    ls_plan_layout l = {.zero = 0, .recompute = LS_REDO_NONE, .micro = (int)trials[trial].batch};
    ls_plan_layout_fill(&l);
    ls_plan_cost_of(&job, &l, c);
}

/* Without what an optimizer step adds: the trials are forward and backward only. */
static double predicted_s(const machine *m, const rates_of *v, int trial) {
    ls_plan_cost c;
    cost_of_trial(m, v, trial, &c);
    return c.step_s - c.seconds[LS_TERM_OPTIMIZER];
}

/* The speed at which the planner's work of a kind takes the time that the group took: its time at
 * speed 1 over that time, geometric mean of the trials. */
static double speed_of(const machine *m, ls_term term, int group) {
    const rates_of unit = {.products = 1, .half_k = 1, .attention = 1, .memory = 1};
    double sum = 0;
    for (int t = 0; t < TRIALS; t++) {
        ls_plan_cost c;
        cost_of_trial(m, &unit, t, &c);
        sum += log(c.seconds[term] / m->group_s[t][group]);
    }
    return exp(sum / TRIALS);
}

/* The limit of large products and the inner dimension of half that speed, by a search with a
 * shrinking step in their logarithms. */
static void fit_products(const machine *m, rates_of *v) {
    double *const pair[] = {&v->products, &v->half_k};
    double best = product_loss(m, v);
    for (double step = 0.5; step > 1e-3; step /= 2) {
        for (bool better = true; better;) {
            better = false;
            for (int i = 0; i < 4; i++) {
                const double before = *pair[i / 2];
                *pair[i / 2] = before * exp(i % 2 ? step : -step);
                const double now = product_loss(m, v);
                better = better || now < best * (1 - 1e-9);
                *pair[i / 2] = now < best ? *pair[i / 2] : before;
                best = fmin(best, now);
            }
        }
    }
}

static void set(ls_cluster *c, ls_figure_id id, double value) {
    ls_cluster_set(c, id, value, "machine");
}

static ls_status fill(const machine *m, const rates_of *v, ls_cluster *c) {
    const ls_session *s = m->session;
    const bool bf16 = m->dtype == LS_BF16;
    char host[64] = "", source[320];
    gethostname(host, sizeof host - 1);
    snprintf(source, sizeof source,
             "lockstep bench machine: %d rank%s of %d thread%s at once, %.180s", s->comm->size,
             s->comm->size == 1 ? "" : "s", s->threads, s->threads == 1 ? "" : "s",
             s->dev->describe);
    LS_TRY(ls_cluster_cite(c, "machine", source));
    snprintf(c->text[LS_CLUSTER_TITLE], sizeof c->text[0], "%s", host);
    snprintf(c->text[LS_CLUSTER_KIND], sizeof c->text[0], "CPU, %d thread%s", s->threads,
             s->threads == 1 ? "" : "s");
    set(c, LS_FIG_MEMORY_GB,
        (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) * 1e-9 /
            s->mesh.host_ranks);
    set(c, LS_FIG_UNITS, 1);
    set(c, LS_FIG_HALF_SPEED_K, v->half_k);
    set(c, LS_FIG_HBM_GB_S, m->update_bytes_s * 1e-9);
    /* No peak is known: the faster of large products and attention stands for it. */
    const double peak = fmax(v->products, v->attention);
    set(c, bf16 ? LS_FIG_TFLOPS_BF16 : LS_FIG_TFLOPS_FP32, peak * 1e-12);
    set(c, bf16 ? LS_FIG_GEMM_BF16 : LS_FIG_GEMM_FP32, v->products / peak);
    set(c, bf16 ? LS_FIG_ATTENTION_BF16 : LS_FIG_ATTENTION_FP32, v->attention / peak);
    set(c, bf16 ? LS_FIG_MEMORY_BF16 : LS_FIG_MEMORY_FP32,
        fmin(v->memory / m->update_bytes_s, 1.5));
    set(c, bf16 ? LS_FIG_LINK_BF16 : LS_FIG_LINK_FP32, 1);
    set(c, bf16 ? LS_FIG_NETWORK_BF16 : LS_FIG_NETWORK_FP32, 1);
    set(c, LS_FIG_NODE_DEVICES, s->mesh.host_ranks);
    set(c, LS_FIG_DOMAIN_DEVICES, s->mesh.host_ranks);
    return LS_OK;
}

static void print_trials(const machine *m, const rates_of *v) {
    char t1[32], t2[32];
    printf("%-12s %6s %6s %10s %10s %7s\n", "model", "batch", "seq", "measured", "fitted", "error");
    for (int t = 0; t < TRIALS; t++) {
        const double p = predicted_s(m, v, t);
        printf("%-12s %6lld %6lld %10s %10s %+6.1f%%\n", trials[t].preset,
               (long long)trials[t].batch, (long long)trials[t].seq,
               ls_text_duration(t1, sizeof t1, m->step_s[t]), ls_text_duration(t2, sizeof t2, p),
               100 * (p / m->step_s[t] - 1));
    }
    printf("products %.1f GFLOP/s (half of that at an inner dimension of %.0f), attention %.1f "
           "GFLOP/s, elementwise operations %.2f GB/s, updates %.2f GB/s\n",
           v->products * 1e-9, v->half_k, v->attention * 1e-9, v->memory * 1e-9,
           m->update_bytes_s * 1e-9);
}

static ls_status measure(machine *m, const char *path) {
    static ls_cluster profile;
    LS_TRY(ls_session_agree(m->session, path && m->session->comm->rank == 0
                                            ? ls_cluster_begin(path, &profile)
                                            : LS_OK));
    for (int t = 0; t < TRIALS; t++) {
        LS_TRY(ls_session_agree(m->session, run_trial(m, t)));
    }
    LS_TRY(time_update(m));
    ls_log_progress(true, "timed %d products, %d models and an update", m->shape_count, TRIALS);
    rates_of v = {.products = 1e11, .half_k = 50};
    v.attention = speed_of(m, LS_TERM_ATTENTION, ATTENTION);
    v.memory = speed_of(m, LS_TERM_MEMORY, OTHERS);
    fit_products(m, &v);
    if (m->session->comm->rank != 0) {
        return LS_OK;
    }
    print_trials(m, &v);
    if (!path) {
        return LS_OK;
    }
    LS_TRY(fill(m, &v, &profile));
    LS_TRY(ls_cluster_write(&profile, path));
    printf("wrote %s\n", path);
    return LS_OK;
}

ls_status ls_bench_machine(const ls_bench_machine_options *options) {
    static machine m;
    ls_session session = {0};
    LS_TRY(ls_session_begin(&session, NULL, NULL));
    LS_TRY(ls_session_open(&session, NULL, LS_CFG_DEVICE_CPU, options->threads));
    LS_TRY(ls_session_connect(&session, LS_CFG_AUTO));
    m.session = &session;
    m.repeats = options->repeat < MAX_REPEATS ? (int)options->repeat : MAX_REPEATS;
    m.dtype = ls_session_dtype(options->compute, session.dev);
    ls_status status = ls_session_agree(&session, measure(&m, options->profile));
    ls_session_close(&session);
    return status;
}
