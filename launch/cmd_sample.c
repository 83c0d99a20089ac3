#include "collectives/comm_mesh.h"
#include "launch/cmd.h"
#include "launch/devices.h"
#include "launch/session.h"
#include "launch/weights.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_PROMPT,
    OPT_TOKENS,
    OPT_TEMPERATURE,
    OPT_TOP_K,
    OPT_SEED,
    OPT_DEVICE,
    OPT_THREADS,
    OPT_TENSOR,
    OPT_PIPELINE,
    OPT_COUNT
};

static const ls_option options[] = {
    [OPT_PROMPT] = {"prompt", 'p', "TEXT", "",
                    "text to continue; '-' reads it from standard input"},
    [OPT_TOKENS] = {"tokens", 'n', "N", "256", "tokens to generate at most"},
    [OPT_TEMPERATURE] = {"temperature", 't', "X", "0.8", "0 always takes the likeliest token"},
    [OPT_TOP_K] = {"top-k", 'k', "N", "0", "choose among the N likeliest tokens; 0: all"},
    [OPT_SEED] = {"seed", 's', "N", "1", "the same seed gives the same text"},
    [OPT_DEVICE] = {"device", 0, "NAME", "auto", "cpu or cuda; auto: a GPU where there is one"},
    [OPT_THREADS] = {"threads", 0, "N", "0", "threads of a rank; 0: its share of the processors"},
    [OPT_TENSOR] = {"tensor", 0, "N", "0",
                    "ranks that split each layer; 0: all ranks that --pipeline leaves"},
    [OPT_PIPELINE] = {"pipeline", 0, "N", "1", "ranks that split the layers among them"},
    {NULL, 0, NULL, NULL, NULL}};

typedef struct sampler {
    double temperature;
    long long tokens, top_k, seed, threads, tensor, pipeline;
    ls_cfg_device device;
    ls_session session;
    ls_comm *tensor_ranks, *pipeline_ranks; /* NULL: this rank alone */
    ls_weights weights;
    int32_t *history; /* prompt, then what is generated */
    int64_t vocab, count;
    float *logits, *sorted;
} sampler;

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* The token that draw number `index` picks. */
static int32_t pick(const sampler *s, uint64_t index) {
    float *logits = s->logits;
    int64_t best = 0;
    for (int64_t i = 1; i < s->vocab; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    if (s->temperature == 0.0) {
        return (int32_t)best;
    }
    float floor = -INFINITY;
    if (s->top_k > 0 && s->top_k < s->vocab) {
        memcpy(s->sorted, logits, (size_t)s->vocab * sizeof *logits);
        qsort(s->sorted, (size_t)s->vocab, sizeof *logits, descending);
        floor = s->sorted[s->top_k - 1];
    }
    double top = logits[best], total = 0.0;
    for (int64_t i = 0; i < s->vocab; i++) {
        total += logits[i] >= floor ? exp((logits[i] - top) / s->temperature) : 0.0;
    }
    double left = ls_rng_uniform((uint64_t)s->seed, 0, index) * total;
    for (int64_t i = 0; i < s->vocab; i++) {
        left -= logits[i] >= floor ? exp((logits[i] - top) / s->temperature) : 0.0;
        if (left < 0.0) {
            return (int32_t)i;
        }
    }
    return (int32_t)best; /* rounding left a crumb */
}

static ls_status read_prompt(const char *value, char **text, size_t *bytes) {
    if (value && strcmp(value, "-") != 0) {
        *bytes = strlen(value);
        *text = strdup(value);
        return *text ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for the prompt");
    }
    enum { MAX_PROMPT = 1 << 20 };
    LS_TRY(ls_calloc(MAX_PROMPT, 1, text));
    *bytes = value ? fread(*text, 1, MAX_PROMPT, stdin) : 0;
    return LS_OK;
}

/* Byte-level prompt behind a separator, which stands between documents: a text begins here. Read by
 * the first rank, and given to the others. */
static ls_status make_tokens(sampler *s, const char *value, int32_t separator) {
    ls_comm *comm = s->session.comm;
    char *text = NULL;
    size_t bytes = 0;
    ls_status status = comm->rank == 0 ? read_prompt(value, &text, &bytes) : LS_OK;
    s->count = (int64_t)bytes + 1;
    LS_TRY_GOTO(ls_session_agree(&s->session, status), done);
    LS_TRY_GOTO(comm->ops->broadcast(comm, &s->count, sizeof s->count, 0), done);
    status = ls_calloc((size_t)(s->count + s->tokens), sizeof *s->history, &s->history);
    LS_TRY_GOTO(ls_session_agree(&s->session, status), done);
    s->history[0] = separator;
    for (size_t i = 0; i < bytes; i++) {
        s->history[1 + i] = (unsigned char)text[i];
    }
    status = comm->ops->broadcast(comm, s->history, s->count * (int64_t)sizeof *s->history, 0);
done:
    free(text);
    return status;
}

/* Feeds all tokens; when the context is full it starts again with its newer half. */
static ls_status feed(ls_model *model, const int32_t *history, int64_t *fed, int64_t count,
                      int64_t context, float *logits) {
    if (ls_model_cache_used(model) + (count - *fed) > context) {
        ls_model_clear_cache(model);
        *fed = count > context / 2 ? count - context / 2 : 0;
    }
    LS_TRY(ls_model_feed(model, history + *fed, count - *fed, logits));
    *fed = count;
    return LS_OK;
}

/* The first rank prints; the others draw the same tokens from the same logits. */
static void print_token(const sampler *s, int32_t token) {
    if (s->session.comm->rank == 0) {
        putchar(token);
        fflush(stdout);
    }
}

static ls_status generate(sampler *s, int32_t separator) {
    const int64_t context = s->weights.config.model.context;
    int64_t fed = 0;
    for (int64_t i = 1; i < s->count; i++) {
        print_token(s, s->history[i]);
    }
    uint64_t start = ls_clock_ns();
    long long made = 0;
    for (; made < s->tokens; made++) {
        LS_TRY(feed(s->weights.model, s->history, &fed, s->count, context, s->logits));
        int32_t token = pick(s, (uint64_t)made);
        if (token == separator) {
            break; /* the text is finished */
        }
        s->history[s->count++] = token;
        print_token(s, token);
    }
    print_token(s, '\n'); /* before the line on stderr */
    if (s->session.comm->rank == 0) {
        ls_log_info("%lld tokens, %.0f a second", made,
                    (double)made / (1e-9 * (double)(ls_clock_ns() - start)));
    }
    return LS_OK;
}

static ls_status parse(const char **values, sampler *s) {
    for (int i = 0; i < OPT_COUNT; i++) {
        values[i] = values[i] || i == OPT_PROMPT ? values[i] : options[i].fallback;
    }
    LS_TRY(ls_option_int("tokens", values[OPT_TOKENS], 1, 100000000, &s->tokens));
    LS_TRY(ls_option_float("temperature", values[OPT_TEMPERATURE], 0.0, 100.0, &s->temperature));
    LS_TRY(ls_option_int("top-k", values[OPT_TOP_K], 0, 1 << 30, &s->top_k));
    LS_TRY(ls_option_int("seed", values[OPT_SEED], 0, INT64_MAX, &s->seed));
    LS_TRY(ls_option_int("threads", values[OPT_THREADS], 0, 4096, &s->threads));
    LS_TRY(ls_option_int("tensor", values[OPT_TENSOR], 0, 1 << 16, &s->tensor));
    LS_TRY(ls_option_int("pipeline", values[OPT_PIPELINE], 1, 1 << 16, &s->pipeline));
    return ls_device_parse(values[OPT_DEVICE], &s->device);
}

static ls_status check_weights(const sampler *s, int32_t *separator) {
    const json_t *run = ls_ckpt_run(s->weights.ckpt);
    const char *tokenizer = json_string_value(json_object_get(run, "tokenizer"));
    if (!tokenizer || strcmp(tokenizer, "bytes") != 0) {
        return LS_FAIL(
            LS_E_INPUT,
            "the checkpoint's tokenizer is '%s'; this version samples from 'bytes' (where "
            "it is that, `lockstep ckpt convert --from ... --tokenizer bytes` says so)",
            tokenizer ? tokenizer : "(not recorded)");
    }
    if (s->pipeline > s->weights.config.model.layers) {
        return LS_FAIL(LS_E_USAGE, "--pipeline is %lld; the model has %lld layers", s->pipeline,
                       (long long)s->weights.config.model.layers);
    }
    *separator = (int32_t)json_integer_value(json_object_get(run, "separator"));
    return LS_OK;
}

/* Mesh, device and groups, of which all ranks are tensor and pipeline ranks. */
static ls_status spread(sampler *s) {
    const int64_t world = s->session.comm->size;
    s->tensor = s->tensor > 0 ? s->tensor : world / s->pipeline > 0 ? world / s->pipeline : 1;
    if (s->tensor * s->pipeline != world) {
        return ls_session_agree(
            &s->session,
            LS_FAIL(LS_E_USAGE,
                    "--tensor %lld x --pipeline %lld makes %lld ranks, and %lld run; "
                    "start as many",
                    s->tensor, s->pipeline, s->tensor * s->pipeline, (long long)world));
    }
    const ls_config_parallel axes = {
        .tensor = s->tensor, .pipeline = s->pipeline, .context = 1, .replicate = 1, .shard = 1};
    LS_TRY(ls_session_open(&s->session, &axes, s->device, s->threads));
    LS_TRY(ls_session_connect(&s->session, LS_CFG_AUTO));
    ls_comm *fabric = s->session.fabric;
    const ls_mesh *mesh = &s->session.mesh;
    LS_TRY(s->tensor > 1 ? ls_comm_split_axis(fabric, mesh, LS_AXIS_TENSOR, &s->tensor_ranks)
                         : LS_OK);
    return s->pipeline > 1 ? ls_comm_split_axis(fabric, mesh, LS_AXIS_PIPELINE, &s->pipeline_ranks)
                           : LS_OK;
}

static ls_status load(sampler *s) {
    const ls_config_model *model = &s->weights.config.model;
    const int stage = s->session.mesh.coord[LS_AXIS_PIPELINE], stages = (int)s->pipeline;
    const int first = (int)ls_range_first(model->layers, stages, stage) + (stage > 0);
    const int end =
        (int)ls_range_first(model->layers, stages, stage + 1) + (stage == stages - 1 ? 2 : 1);
    s->vocab = model->vocab;
    LS_TRY(ls_calloc((size_t)s->vocab * 2, sizeof *s->logits, &s->logits));
    s->sorted = s->logits + s->vocab;
    return ls_weights_load(
        &s->weights, s->session.dev,
        (ls_model_options){.batch = 1,
                           .seq = model->context,
                           .cache_len = model->context,
                           .part = {.first_block = first, .block_count = end - first},
                           .tensor = s->tensor_ranks,
                           .pipeline = s->pipeline_ranks});
}

static ls_status sample(sampler *s, const char *path, const char *prompt) {
    int32_t separator = 0;
    LS_TRY(ls_weights_open(&s->session, path, &s->weights));
    LS_TRY(ls_session_agree(&s->session, check_weights(s, &separator)));
    LS_TRY(spread(s));
    LS_TRY(ls_session_agree(&s->session, load(s)));
    LS_TRY(make_tokens(s, prompt, separator));
    return generate(s, separator);
}

static ls_status run_sample(int argc, char **argv) {
    static sampler s; /* large, and one a process */
    const char *values[OPT_COUNT];
    int first;
    LS_TRY(ls_session_begin(&s.session, &argc, &argv));
    ls_status status = ls_options_parse(&ls_verb_sample, argc, argv, values, &first);
    if (status == LS_OK && first + 1 != argc) {
        status = LS_FAIL(LS_E_USAGE,
                         "one checkpoint is needed, found %d operands; usage: lockstep sample %s",
                         argc - first, ls_verb_sample.synopsis);
    }
    status = status == LS_OK ? parse(values, &s) : status;
    LS_TRY(ls_session_agree(&s.session, status));
    status = sample(&s, argv[first], values[OPT_PROMPT]);
    if (status != LS_OK && !ls_session_failure_shared()) {
        return status;
    }
    free(s.logits);
    free(s.history);
    ls_weights_close(&s.weights);
    ls_comm *const groups[] = {s.tensor_ranks, s.pipeline_ranks};
    for (int i = 0; i < 2; i++) {
        if (groups[i]) {
            groups[i]->ops->destroy(groups[i]);
        }
    }
    ls_session_close(&s.session);
    return status;
}

const ls_verb ls_verb_sample = {
    .name = "sample",
    .synopsis = "[options] CHECKPOINT",
    .summary = "continue a text with a trained model (alone or under mpirun)",
    .text =
        "Writes the prompt and its continuation to standard output. CHECKPOINT is a checkpoint\n"
        "directory, or a run directory (then its newest valid checkpoint is used). Under mpirun\n"
        "the ranks split the model among them, for one that is too large for a single rank; the\n"
        "text is the same but for rounding.\n"
        "\n"
        "  lockstep sample runs/first --prompt 'static int ' --tokens 400\n"
        "  mpirun -n 4 lockstep sample runs/big --pipeline 2",
    .options = options,
    .run = run_sample,
};
