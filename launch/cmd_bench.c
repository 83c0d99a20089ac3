#include "launch/bench.h"
#include "launch/cmd.h"
#include "launch/gemm_shapes.h"
#include "launch/json_text.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/sort.h"
#include "runtime/base/text.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_MODEL,
    OPT_BATCH,
    OPT_SEQ,
    OPT_DTYPE,
    OPT_THREADS,
    OPT_REPEAT,
    OPT_JSON,
    OPT_OPERATION,
    OPT_BACKEND,
    OPT_REDOP,
    OPT_MIN,
    OPT_MAX,
    OPT_FACTOR,
    OPT_ITERS,
    OPT_WARMUP,
    OPT_PRIVATE,
    OPT_OVERLAP,
    OPT_PROFILE,
    OPT_COUNT
};

#define BIT(option) (1u << (option))
#define MODEL                                                                                      \
    (BIT(OPT_MODEL) | BIT(OPT_BATCH) | BIT(OPT_SEQ) | BIT(OPT_DTYPE) | BIT(OPT_THREADS) |          \
     BIT(OPT_REPEAT) | BIT(OPT_JSON))
#define MACHINE (BIT(OPT_DTYPE) | BIT(OPT_THREADS) | BIT(OPT_REPEAT) | BIT(OPT_PROFILE))
#define COLLECTIVE                                                                                 \
    (BIT(OPT_DTYPE) | BIT(OPT_JSON) | BIT(OPT_OPERATION) | BIT(OPT_BACKEND) | BIT(OPT_REDOP) |     \
     BIT(OPT_MIN) | BIT(OPT_MAX) | BIT(OPT_FACTOR) | BIT(OPT_ITERS) | BIT(OPT_WARMUP) |            \
     BIT(OPT_PRIVATE) | BIT(OPT_OVERLAP) | BIT(OPT_PROFILE))

/* Of those, what two of its ways take beside themselves; the others do not read it. */
#define WITH_PROFILE (BIT(OPT_PROFILE) | BIT(OPT_JSON))
#define WITH_OVERLAP                                                                               \
    (BIT(OPT_OVERLAP) | BIT(OPT_JSON) | BIT(OPT_OPERATION) | BIT(OPT_BACKEND) | BIT(OPT_MIN) |     \
     BIT(OPT_MAX) | BIT(OPT_FACTOR) | BIT(OPT_ITERS))

static const ls_option options[] = {
    [OPT_MODEL] = {"model", 'm', "NAME", "gpt2-124m", "model preset"},
    [OPT_BATCH] = {"batch", 'b', "N", "4",
                   "sequences of the micro-batch; collective: -b is --minbytes, as in nccl-tests"},
    [OPT_SEQ] = {"seq", 's', "N", NULL, "tokens of a sequence; default: the model's context"},
    [OPT_DTYPE] = {"dtype", 'd', "NAME", "auto",
                   "fp32, bf16, or auto: bf16 where the device is fast at it"},
    [OPT_THREADS] = {"threads", 0, "N", "0", "threads; 0: all processors of the affinity mask"},
    [OPT_REPEAT] = {"repeat", 'r', "N", "5",
                    "timings of each product, the median is shown; steps, their mean"},
    [OPT_JSON] = {"json", 0, NULL, NULL, "print a JSON object"},
    [OPT_OPERATION] = {"operation", 'o', "NAME", "all_reduce",
                       "collective: all_reduce, reduce_scatter, all_gather, all_to_all, broadcast, "
                       "reduce or send_recv"},
    [OPT_BACKEND] = {"backend", 0, "NAME", "auto", "collective: auto, mpi, shm or hier"},
    [OPT_REDOP] = {"redop", 0, "NAME", "sum", "collective: sum, max, min, avg or tree"},
    [OPT_MIN] = {"minbytes", 0, "SIZE", "8", "collective: first size"},
    [OPT_MAX] = {"maxbytes", 'e', "SIZE", "64M", "collective: last size"},
    [OPT_FACTOR] = {"stepfactor", 'f', "N", "2", "collective: from a size to the next"},
    [OPT_ITERS] = {"iters", 'n', "N", "20", "collective: timings of a size; the median is shown"},
    [OPT_WARMUP] = {"warmup", 'w', "N", "5", "collective: untimed operations before them"},
    [OPT_PRIVATE] = {"private", 0, NULL, NULL,
                     "collective: ordinary buffers instead of the back end's own"},
    [OPT_OVERLAP] = {"overlap", 0, NULL, NULL,
                     "collective: how much of an all-reduce computation hides"},
    [OPT_PROFILE] =
        {"profile", 0, "FILE", NULL,
         "cluster profile. collective: write the links' figures (--json: print those of each "
         "operation); machine: add the rest"},
    {NULL, 0, NULL, NULL, NULL}};

typedef struct gemm_bench {
    const char *model, *dtype_name;
    long long batch, seq, threads, repeat;
    bool json;
    ls_config config;
    ls_device *dev;
    ls_gemm_shape *shapes;
    int count;
    ls_gemm_operands operands;
    double *seconds; /* median of each shape */
} gemm_bench;

static ls_status check_dtype(const char *name) {
    return strcmp(name, "auto") == 0 || strcmp(name, "fp32") == 0 || strcmp(name, "bf16") == 0
               ? LS_OK
               : LS_FAIL(LS_E_USAGE, "--dtype is '%s'; auto, fp32 or bf16 is needed", name);
}

static ls_status parse(gemm_bench *b, const char **values) {
    b->model = values[OPT_MODEL];
    b->dtype_name = values[OPT_DTYPE];
    b->json = values[OPT_JSON] != NULL;
    LS_TRY(check_dtype(b->dtype_name));
    LS_TRY(ls_option_int("batch", values[OPT_BATCH], 1, 1 << 20, &b->batch));
    LS_TRY(ls_option_int("threads", values[OPT_THREADS], 0, 4096, &b->threads));
    LS_TRY(ls_option_int("repeat", values[OPT_REPEAT], 1, 1000000, &b->repeat));
    return values[OPT_SEQ] ? ls_option_int("seq", values[OPT_SEQ], 1, 1 << 24, &b->seq) : LS_OK;
}

/* The preset's sizes; a model that takes its vocabulary from the data gets 256 bytes and an end. */
static ls_status load_model(gemm_bench *b) {
    char *preset = ls_text_format("model.preset=%s", b->model);
    if (!preset) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the name of the model");
    }
    /* A configuration must describe a run; any will do. */
    const char *overrides[] = {preset, "run.steps=1", "batch.sequences=1", "batch.micro=1"};
    ls_status status = ls_config_load(&b->config, NULL, overrides, 4);
    free(preset);
    LS_TRY(status);
    if (b->config.model.vocab == 0) {
        b->config.model.vocab = 257;
    }
    if (b->seq == 0) {
        b->seq = b->config.model.context;
    }
    return LS_OK;
}

static ls_status measure(gemm_bench *b) {
    double *runs;
    LS_TRY(ls_calloc((size_t)b->repeat, sizeof *runs, &runs));
    ls_status status = LS_OK;
    for (int i = 0; i < b->count && status == LS_OK; i++) {
        ls_log_progress(false, "%s (%d of %d)", b->shapes[i].name, i + 1, b->count);
        const ls_gemm op = ls_gemm_shape_op(&b->shapes[i], &b->operands);
        status = b->dev->ops->gemm(b->dev, &op); /* takes scratch memory, warms caches */
        for (long long r = 0; r < b->repeat && status == LS_OK; r++) {
            uint64_t start = ls_clock_ns();
            status = b->dev->ops->gemm(b->dev, &op);
            runs[r] = (double)(ls_clock_ns() - start) * 1e-9;
        }
        ls_sort_doubles(runs, (size_t)b->repeat);
        b->seconds[i] = runs[b->repeat / 2];
    }
    ls_log_progress(true, "timed %d products", b->count);
    free(runs);
    return status;
}

typedef struct totals {
    double seconds, flops, best_flops_per_s; /* of a step; best: of any one shape */
} totals;

static totals add_up(const gemm_bench *b) {
    totals t = {0};
    for (int i = 0; i < b->count; i++) {
        double flops = ls_gemm_shape_flops(&b->shapes[i]);
        double rate = flops / b->seconds[i];
        t.seconds += b->seconds[i] * (double)b->shapes[i].count;
        t.flops += flops * (double)b->shapes[i].count;
        t.best_flops_per_s = rate > t.best_flops_per_s ? rate : t.best_flops_per_s;
    }
    return t;
}

static void print_table(const gemm_bench *b, totals t) {
    char text[32];
    printf("%s, %lld sequences of %lld tokens, %s\n%s\n\n", b->model, b->batch, b->seq,
           ls_dtype_name(b->shapes[0].op.dtype), b->dev->describe);
    printf("%-18s %6s %6s %6s %7s %9s %9s %8s\n", "product", "m", "n", "k", "a step", "time",
           "GFLOP/s", "of best");
    for (int i = 0; i < b->count; i++) {
        const ls_gemm_shape *s = &b->shapes[i];
        double rate = ls_gemm_shape_flops(s) / b->seconds[i];
        printf("%-18s %6lld %6lld %6lld %7lld %9s %9.1f %7.0f%%\n", s->name, (long long)s->op.m,
               (long long)s->op.n, (long long)s->op.k, (long long)s->count,
               ls_text_duration(text, sizeof text, b->seconds[i]), rate * 1e-9,
               100.0 * rate / t.best_flops_per_s);
    }
    printf("%-18s %6s %6s %6s %7s %9s %9.1f %7.0f%%\n", "all of a step", "", "", "", "",
           ls_text_duration(text, sizeof text, t.seconds), t.flops / t.seconds * 1e-9,
           100.0 * t.flops / t.seconds / t.best_flops_per_s);
}

static json_t *shape_json(const ls_gemm_shape *s, double seconds, totals t) {
    double rate = ls_gemm_shape_flops(s) / seconds;
    return json_pack("{s:s, s:I, s:I, s:I, s:b, s:b, s:I, s:f, s:f, s:f}", "name", s->name, "m",
                     (json_int_t)s->op.m, "n", (json_int_t)s->op.n, "k", (json_int_t)s->op.k,
                     "trans_a", s->op.trans_a, "trans_b", s->op.trans_b, "count",
                     (json_int_t)s->count, "seconds", seconds, "flops_per_s", rate, "share_of_best",
                     rate / t.best_flops_per_s);
}

static ls_status print_json(const gemm_bench *b, totals t) {
    json_t *list = json_array();
    for (int i = 0; i < b->count; i++) {
        json_array_append_new(list, shape_json(&b->shapes[i], b->seconds[i], t));
    }
    json_t *json = json_pack(
        "{s:i, s:s, s:s, s:s, s:i, s:I, s:I, s:f, s:f, s:f, s:o}", "schema", 1, "model", b->model,
        "device", b->dev->describe, "dtype", ls_dtype_name(b->shapes[0].op.dtype), "threads",
        b->dev->threads, "batch", (json_int_t)b->batch, "seq", (json_int_t)b->seq, "seconds",
        t.seconds, "flops", t.flops, "best_flops_per_s", t.best_flops_per_s, "products", list);
    return ls_json_print(json, LS_JSON_ALL_DIGITS);
}

static ls_status bench_shapes(gemm_bench *b) {
    bool bf16 = strcmp(b->dtype_name, "bf16") == 0 ||
                (strcmp(b->dtype_name, "auto") == 0 && b->dev->fast_bf16);
    LS_TRY(ls_gemm_shapes(&b->config.model, b->batch * b->seq, bf16 ? LS_BF16 : LS_F32, b->dev->acc,
                          &b->shapes, &b->count));
    LS_TRY(ls_calloc((size_t)b->count, sizeof *b->seconds, &b->seconds));
    LS_TRY(ls_gemm_operands_create(b->dev, b->shapes, b->count, &b->operands));
    LS_TRY(measure(b));
    totals t = add_up(b);
    if (b->json) {
        return print_json(b, t);
    }
    print_table(b, t);
    return LS_OK;
}

static ls_status bench_gemm(const char **values, const char *const *settings, int count) {
    (void)settings, (void)count;
    gemm_bench b = {0};
    LS_TRY(parse(&b, values));
    LS_TRY(load_model(&b));
    LS_TRY(ls_device_open_cpu(&(ls_device_options){.threads = (int)b.threads}, &b.dev));
    ls_status status = bench_shapes(&b);
    ls_gemm_operands_release(b.dev, &b.operands);
    free(b.shapes);
    free(b.seconds);
    b.dev->ops->close(b.dev);
    return status;
}

static ls_status bench_step(const char **values, const char *const *settings, int count) {
    ls_bench_step_options o = {.model = values[OPT_MODEL],
                               .dtype = values[OPT_DTYPE],
                               .overrides = settings,
                               .override_count = count,
                               .json = values[OPT_JSON] != NULL};
    LS_TRY(ls_option_int("batch", values[OPT_BATCH], 1, 1 << 20, &o.batch));
    LS_TRY(ls_option_int("threads", values[OPT_THREADS], 0, 4096, &o.threads));
    LS_TRY(ls_option_int("repeat", values[OPT_REPEAT], 1, 1000000, &o.repeat));
    if (values[OPT_SEQ]) {
        LS_TRY(ls_option_int("seq", values[OPT_SEQ], 1, 1 << 24, &o.seq));
    }
    return ls_bench_step(&o);
}

static ls_status bench_collective(const char **values, const char *const *settings, int count) {
    (void)settings, (void)count;
    return ls_bench_collective(&(ls_bench_collective_options){
        .operation = values[OPT_OPERATION],
        .backend = values[OPT_BACKEND],
        .dtype = values[OPT_DTYPE],
        .reduction = values[OPT_REDOP],
        .min_bytes = values[OPT_MIN],
        .max_bytes = values[OPT_MAX],
        .factor = values[OPT_FACTOR],
        .iterations = values[OPT_ITERS],
        .warmup = values[OPT_WARMUP],
        .profile = values[OPT_PROFILE],
        .overlap = values[OPT_OVERLAP] != NULL,
        .private_buffers = values[OPT_PRIVATE] != NULL,
        .json = values[OPT_JSON] != NULL,
    });
}

static ls_status bench_machine(const char **values, const char *const *settings, int count) {
    (void)settings, (void)count;
    ls_bench_machine_options o = {.profile = values[OPT_PROFILE]};
    const char *dtype = values[OPT_DTYPE];
    LS_TRY(check_dtype(dtype));
    LS_TRY(ls_option_int("threads", values[OPT_THREADS], 0, 4096, &o.threads));
    LS_TRY(ls_option_int("repeat", values[OPT_REPEAT], 1, 1000000, &o.repeat));
    o.compute = strcmp(dtype, "fp32") == 0   ? LS_COMPUTE_FP32
                : strcmp(dtype, "bf16") == 0 ? LS_COMPUTE_BF16
                                             : LS_COMPUTE_AUTO;
    return ls_bench_machine(&o);
}

/* What can be measured. */
static const struct {
    const char *name;
    bool settings;    /* takes section.key=value */
    unsigned options; /* that mean something to it */
    ls_status (*run)(const char **values, const char *const *settings, int count);
} benches[] = {{"gemm", false, MODEL, bench_gemm},
               {"step", true, MODEL, bench_step},
               {"collective", false, COLLECTIVE, bench_collective},
               {"machine", false, MACHINE, bench_machine}};

enum { BENCH_COUNT = sizeof benches / sizeof benches[0] };

static ls_status check_options(const char *bench, unsigned known, const char *const *values) {
    for (int o = 0; o < OPT_COUNT; o++) {
        if (values[o] && !(known & BIT(o))) {
            char others[64] = "";
            for (int i = 0; i < BENCH_COUNT; i++) {
                const size_t used = strlen(others);
                snprintf(others + used, sizeof others - used, "%s%s",
                         benches[i].options & BIT(o) && used ? ", " : "",
                         benches[i].options & BIT(o) ? benches[i].name : "");
            }
            return LS_FAIL(LS_E_USAGE, "--%s means nothing to 'bench %s'; it is for: %s",
                           options[o].name, bench, others);
        }
    }
    return LS_OK;
}

/* `way` is given, and does not read all that a collective has. */
static ls_status check_way(int way, unsigned known, const char *const *values) {
    for (int o = 0; values[way] && o < OPT_COUNT; o++) {
        if (values[o] && !(known & BIT(o))) {
            return LS_FAIL(LS_E_USAGE, "--%s means nothing beside --%s, which does without it",
                           options[o].name, options[way].name);
        }
    }
    return LS_OK;
}

static ls_status run_bench(int argc, char **argv) {
    const char *values[OPT_COUNT];
    int first;
    LS_TRY(ls_options_parse(&ls_verb_bench, argc, argv, values, &first));
    const char *wanted = first < argc ? argv[first] : NULL;
    char known[256] = "";
    for (int i = 0; i < BENCH_COUNT; i++) {
        if (wanted && strcmp(wanted, benches[i].name) == 0) {
            if (first + 1 < argc && !benches[i].settings) {
                return LS_FAIL(LS_E_USAGE, "'bench %s' takes no operand, found '%s'", wanted,
                               argv[first + 1]);
            }
            if (benches[i].run == bench_collective && !values[OPT_MIN]) {
                values[OPT_MIN] = values[OPT_BATCH];
                values[OPT_BATCH] = NULL;
            }
            LS_TRY(check_options(wanted, benches[i].options, values));
            if (benches[i].run == bench_collective) {
                LS_TRY(check_way(OPT_PROFILE, WITH_PROFILE, values));
                LS_TRY(check_way(OPT_OVERLAP, WITH_OVERLAP, values));
            }
            for (int o = 0; o < OPT_COUNT; o++) {
                values[o] = values[o] ? values[o] : options[o].fallback;
            }
            return benches[i].run(values, (const char *const *)argv + first + 1, argc - first - 1);
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", benches[i].name);
    }
    if (!wanted) {
        return LS_FAIL(LS_E_USAGE, "what should be measured is missing; it can be: %s", known);
    }
    return LS_FAIL(LS_E_USAGE, "'%s' cannot be measured; what can: %s", wanted, known);
}

const ls_verb ls_verb_bench = {
    .name = "bench",
    .synopsis = "[options] gemm | collective | machine | step [section.key=value ...]",
    .summary = "measure this machine",
    .text =
        "gemm times the matrix products of a training step of a model: forward, input\n"
        "gradients (dX) and weight gradients (dW), with bias and residual where the model has\n"
        "them. FLOP/s counts 2 m n k of each product.\n"
        "\n"
        "  lockstep bench gemm --model gpt2-124m --batch 4 --seq 1024\n"
        "\n"
        "step times whole training steps on random text and prints the time of each operation\n"
        "beside its floor, from rates of the same run: its products at that of the best product\n"
        "and its exponentials (attention's scores, gates, logits) at that of a softmax in cache,\n"
        "one after the other, or at once where products have units of their own (GPUs, AMX); or\n"
        "its bytes at that of a pass over memory, if that is more. Settings describe layout and\n"
        "optimizer.\n"
        "\n"
        "  lockstep bench step --model gpt2-124m --batch 4 --seq 1024 --repeat 3\n"
        "  mpirun -n 2 lockstep bench step --model gpt2-10m parallel.tensor=2 optim.name=muon\n"
        "\n"
        "collective times an operation over all ranks, beside the MPI library's own. Bandwidths\n"
        "are those of nccl-tests: bytes over time, and that times the operation's bus factor.\n"
        "Results are compared with exact sums bit by bit; #wrong counts elements.\n"
        "\n"
        "  mpirun -n 2 lockstep bench collective -o all_reduce -b 1M -e 256M -f 4\n"
        "  mpirun -n 2 lockstep bench collective --overlap --minbytes 1M\n"
        "  mpirun lockstep bench collective --profile here.yaml\n"
        "\n"
        "machine times small training steps and their products on all ranks at once, and adds "
        "what\n"
        "`lockstep plan` and `train cost.cluster=FILE` need to know of this machine beside links.\n"
        "\n"
        "  mpirun lockstep bench machine --profile here.yaml",
    .options = options,
    .run = run_bench,
};
