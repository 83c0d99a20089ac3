#include "launch/cmd.h"
#include "launch/devices.h"
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
    [OPT_THREADS] = {"threads", 0, "N", NULL, "threads; default: all processors"},
    {NULL, 0, NULL, NULL, NULL}};

typedef struct sampler {
    double temperature;
    long long top_k, seed;
    ls_cfg_device device;
    int64_t vocab;
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

/* Byte-level prompt behind a separator, which stands between documents: a text begins here. */
static ls_status make_tokens(const char *value, int32_t separator, int32_t **tokens,
                             int64_t *count) {
    char *text = NULL;
    size_t bytes = 0;
    LS_TRY(read_prompt(value, &text, &bytes));
    ls_status status = ls_calloc(bytes + 1, sizeof **tokens, tokens);
    if (status == LS_OK) {
        (*tokens)[0] = separator;
        for (size_t i = 0; i < bytes; i++) {
            (*tokens)[1 + i] = (unsigned char)text[i];
        }
        *count = (int64_t)bytes + 1;
    }
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

static ls_status generate(ls_weights *weights, const char *prompt, long long wanted,
                          int32_t separator, sampler *s) {
    int32_t *tokens = NULL;
    int64_t count = 0, fed = 0, context = weights->config.model.context;
    LS_TRY(make_tokens(prompt, separator, &tokens, &count));
    int32_t *history = realloc(tokens, ((size_t)count + (size_t)wanted) * sizeof *tokens);
    if (!history) {
        free(tokens);
        return LS_FAIL(LS_E_MEMORY, "no memory for %lld tokens", wanted);
    }
    for (int64_t i = 1; i < count; i++) {
        putchar(history[i]);
    }
    fflush(stdout);
    ls_status status = LS_OK;
    uint64_t start = ls_clock_ns();
    long long made = 0;
    for (; made < wanted; made++) {
        status = feed(weights->model, history, &fed, count, context, s->logits);
        if (status != LS_OK) {
            break;
        }
        int32_t token = pick(s, (uint64_t)made);
        if (token == separator) {
            break; /* the text is finished */
        }
        history[count++] = token;
        putchar(token);
        fflush(stdout);
    }
    putchar('\n');
    fflush(stdout); /* before the line on stderr */
    free(history);
    if (status == LS_OK) {
        ls_log_info("%lld tokens, %.0f a second", made,
                    (double)made / (1e-9 * (double)(ls_clock_ns() - start)));
    }
    return status;
}

static ls_status parse(const char **values, sampler *s, long long *tokens, long long *threads) {
    for (int i = 0; i < OPT_COUNT; i++) {
        values[i] = values[i] || i == OPT_PROMPT ? values[i] : options[i].fallback;
    }
    LS_TRY(ls_option_int("tokens", values[OPT_TOKENS], 1, 100000000, tokens));
    LS_TRY(ls_option_float("temperature", values[OPT_TEMPERATURE], 0.0, 100.0, &s->temperature));
    LS_TRY(ls_option_int("top-k", values[OPT_TOP_K], 0, 1 << 30, &s->top_k));
    LS_TRY(ls_option_int("seed", values[OPT_SEED], 0, INT64_MAX, &s->seed));
    LS_TRY(ls_device_parse(values[OPT_DEVICE], &s->device));
    *threads = 0;
    return values[OPT_THREADS] ? ls_option_int("threads", values[OPT_THREADS], 1, 4096, threads)
                               : LS_OK;
}

static ls_status sample(const char *path, const char *prompt, long long tokens, long long threads,
                        sampler *s) {
    ls_weights weights;
    ls_device *dev = NULL;
    ls_status status = ls_weights_open(path, &weights);
    LS_TRY_GOTO(status, done);
    const json_t *run = ls_ckpt_run(weights.ckpt);
    const char *tokenizer = json_string_value(json_object_get(run, "tokenizer"));
    if (!tokenizer || strcmp(tokenizer, "bytes") != 0) {
        status = LS_FAIL(LS_E_UNSUPPORTED,
                         "the checkpoint's tokenizer is '%s'; this version samples from 'bytes'",
                         tokenizer ? tokenizer : "(not recorded)");
        goto done;
    }
    LS_TRY_GOTO(ls_device_choose(s->device, (int)threads, 0, &dev), done);
    int64_t context = weights.config.model.context;
    LS_TRY_GOTO(
        ls_weights_load(&weights, dev,
                        (ls_model_options){.batch = 1, .seq = context, .cache_len = context}),
        done);
    s->vocab = weights.config.model.vocab;
    LS_TRY_GOTO(ls_calloc((size_t)s->vocab * 2, sizeof *s->logits, &s->logits), done);
    s->sorted = s->logits + s->vocab;
    int32_t separator = (int32_t)json_integer_value(json_object_get(run, "separator"));
    status = generate(&weights, prompt, tokens, separator, s);
done:
    free(s->logits);
    ls_weights_close(&weights);
    if (dev) {
        dev->ops->close(dev);
    }
    return status;
}

static ls_status run_sample(int argc, char **argv) {
    const char *values[OPT_COUNT];
    int first;
    sampler s = {0};
    long long tokens, threads;
    LS_TRY(ls_options_parse(&ls_verb_sample, argc, argv, values, &first));
    if (first + 1 != argc) {
        return LS_FAIL(LS_E_USAGE,
                       "one checkpoint is needed, found %d operands; usage: lockstep sample %s",
                       argc - first, ls_verb_sample.synopsis);
    }
    LS_TRY(parse(values, &s, &tokens, &threads));
    return sample(argv[first], values[OPT_PROMPT], tokens, threads, &s);
}

const ls_verb ls_verb_sample = {
    .name = "sample",
    .synopsis = "[options] CHECKPOINT",
    .summary = "continue a text with a trained model",
    .text =
        "Writes the prompt and its continuation to standard output. CHECKPOINT is a checkpoint\n"
        "directory, or a run directory (then its newest valid checkpoint is used).\n"
        "\n"
        "  lockstep sample runs/first --prompt 'static int ' --tokens 400",
    .options = options,
    .run = run_sample,
};
