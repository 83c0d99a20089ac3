#include "collectives/comm_mesh.h"
#include "launch/cmd.h"
#include "launch/devices.h"
#include "launch/session.h"
#include "launch/tokenizer_files.h"
#include "launch/weights.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/data/chat.h"
#include "runtime/model/pick.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OPT_PROMPT,
    OPT_CHAT,
    OPT_SYSTEM,
    OPT_IDS,
    OPT_TOKENIZER,
    OPT_TOKENS,
    OPT_TEMPERATURE,
    OPT_TOP_K,
    OPT_TOP_P,
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
    [OPT_CHAT] = {"chat", 0, "FORMAT", NULL,
                  "the prompt is what a user says, and the answer what a model that learnt from "
                  "chats (`prep --chat`) says in its turn: chatml or llama3"},
    [OPT_SYSTEM] = {"system", 0, "TEXT", NULL, "with --chat: what the system says before the user"},
    [OPT_IDS] = {"ids", 'i', "LIST", "",
                 "token ids to continue, such as '11 7 42', and ids instead of text on standard "
                 "output: for models whose tokenizer is another program; '-' reads them from "
                 "standard input"},
    [OPT_TOKENIZER] =
        {"tokenizer", 0, "FILE", NULL,
         "the model's tokenizer.json or its folder, where none lies beside its checkpoints"},
    [OPT_TOKENS] = {"tokens", 'n', "N", "256", "tokens to generate at most"},
    [OPT_TEMPERATURE] = {"temperature", 't', "X", "0.8", "0 always takes the likeliest token"},
    [OPT_TOP_K] = {"top-k", 'k', "N", "0", "choose among the N likeliest tokens; 0: all"},
    [OPT_TOP_P] = {"top-p", 0, "X", "1",
                   "and of these the fewest that together have this probability (nucleus)"},
    [OPT_SEED] = {"seed", 's', "N", "1", "the same seed gives the same text"},
    [OPT_DEVICE] = {"device", 0, "NAME", "auto", "cpu or cuda; auto: a GPU where there is one"},
    [OPT_THREADS] = {"threads", 0, "N", "0", "threads of a rank; 0: its share of the processors"},
    [OPT_TENSOR] = {"tensor", 0, "N", "0",
                    "ranks that split each layer; 0: all ranks that --pipeline leaves"},
    [OPT_PIPELINE] = {"pipeline", 0, "N", "1", "ranks that split the layers among them"},
    {NULL, 0, NULL, NULL, NULL}};

typedef struct sampler {
    ls_pick_options pick;
    long long tokens, threads, tensor, pipeline;
    ls_cfg_device device;
    ls_session session;
    ls_comm *tensor_ranks, *pipeline_ranks; /* NULL: this rank alone */
    ls_weights weights;
    const char *chat_format, *system; /* NULL: no chat; nothing */
    ls_chat chat;                     /* on the first rank */
    int32_t turn_end;                 /* of the assistant's; -1: no chat */
    bool ids;                         /* numbers for tokens, in and out; else text */
    ls_tokenizer *tokenizer;          /* of the text, on the first rank; NULL: bytes */
    int32_t separator;                /* between documents; -1: none */
    int32_t begin;                    /* what texts begin with; -1: nothing is known */
    int32_t *history;                 /* prompt, then what is generated */
    int64_t vocab, count, shown;      /* shown: what is printed begins there */
    float *logits, *scratch;
} sampler;

/* What an option says, or '-': standard input. NULL: nothing. */
static ls_status read_prompt(const char *value, char **text, size_t *bytes) {
    if (value && strcmp(value, "-") != 0) {
        *bytes = strlen(value);
        *text = strdup(value);
        return *text ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for the prompt");
    }
    enum { MAX_PROMPT = 1 << 20 };
    LS_TRY(ls_calloc(MAX_PROMPT + 1, 1, text));
    *bytes = value ? fread(*text, 1, MAX_PROMPT + 1, stdin) : 0;
    return *bytes <= MAX_PROMPT
               ? LS_OK
               : LS_FAIL(LS_E_INPUT, "the prompt on standard input is longer than %d bytes",
                         MAX_PROMPT);
}

/* Numbers between white space, commas and brackets: what tokenizers print. One or more of text's
 * bytes make one, so that there is room. */
static ls_status parse_ids(const char *text, int64_t vocab, int32_t *ids, int64_t *count) {
    static const char between[] = " \t\r\n,[]";
    *count = 0;
    for (text += strspn(text, between); *text; text += strspn(text, between)) {
        const size_t length = strcspn(text, between);
        char *end;
        errno = 0;
        const long long id = strtoll(text, &end, 10);
        if (end != text + length || errno || id < 0 || id >= vocab) {
            return LS_FAIL(LS_E_USAGE,
                           "--ids has '%.*s' behind %lld others; whole numbers from 0 to %lld, the "
                           "model's vocabulary, are needed, as in --ids '11 7 42'",
                           (int)(length < 40 ? length : 40), text, (long long)*count,
                           (long long)vocab - 1);
        }
        ids[(*count)++] = (int32_t)id;
        text += length;
    }
    return LS_OK;
}

/* Room for so many tokens of the prompt, behind the one that texts begin with, and for the answer.
 */
static ls_status begin_history(sampler *s, int64_t tokens) {
    LS_TRY(ls_calloc((size_t)(tokens + 1 + s->tokens), sizeof *s->history, &s->history));
    s->history[0] = s->begin;
    s->count = s->shown = s->begin >= 0;
    return LS_OK;
}

static ls_status take_tokens(sampler *s, const ls_token_list *list) {
    LS_TRY(begin_history(s, (int64_t)list->count));
    for (size_t i = 0; i < list->count; i++) {
        if (list->tokens[i] >= s->vocab) {
            return LS_FAIL(LS_E_INPUT,
                           "token %zu of the prompt is %u, and the model's are below %lld: is "
                           "this its tokenizer?",
                           i, list->tokens[i], (long long)s->vocab);
        }
        s->history[s->count++] = (int32_t)list->tokens[i];
    }
    s->shown = s->count;
    return s->count > 0
               ? LS_OK
               : LS_FAIL(LS_E_USAGE, "the prompt is empty, and the checkpoint does not say which "
                                     "token texts begin with; give one with --prompt");
}

/* The tokens of the prompt, whose text is printed as it is; of a chat the answer alone is. */
static ls_status encode_prompt(sampler *s, const char *text, size_t bytes) {
    ls_tokenizer_work *work;
    ls_token_list list = {0};
    LS_TRY(ls_tokenizer_work_make(s->tokenizer, &work));
    ls_status status = s->chat.format ? ls_chat_ask(&s->chat, work, s->system, text, bytes, &list)
                                      : ls_tokenizer_encode(work, text, bytes, &list);
    status = status == LS_OK ? take_tokens(s, &list) : status;
    if (status == LS_OK && !s->chat.format) {
        fwrite(text, 1, bytes, stdout);
    }
    free(list.tokens);
    ls_tokenizer_work_release(work);
    return status;
}

/* The prompt's tokens in s->history. Those of text stand behind the token that texts begin with. */
static ls_status set_prompt(sampler *s, const char *text, size_t bytes) {
    if (s->tokenizer) {
        return encode_prompt(s, text, bytes);
    }
    LS_TRY(begin_history(s, (int64_t)bytes));
    if (!s->ids) {
        for (size_t i = 0; i < bytes; i++) {
            s->history[s->count++] = (unsigned char)text[i];
        }
        return LS_OK;
    }
    int64_t given;
    LS_TRY(parse_ids(text, s->vocab, s->history, &given));
    if (given > 0) {
        s->count = given;
        s->shown = 0;
        return LS_OK;
    }
    s->history[0] = s->begin;
    return s->begin >= 0 ? LS_OK
                         : LS_FAIL(LS_E_USAGE, "--ids is empty, and the checkpoint does not say "
                                               "which token texts begin with; give one at "
                                               "least");
}

/* Read by the first rank, and given to the others. */
static ls_status make_tokens(sampler *s, const char *value) {
    ls_comm *comm = s->session.comm;
    const bool reader = comm->rank == 0;
    char *text = NULL;
    size_t bytes = 0;
    ls_status status = reader ? read_prompt(value, &text, &bytes) : LS_OK;
    status = status == LS_OK && reader ? set_prompt(s, text, bytes) : status;
    free(text);
    LS_TRY(ls_session_agree(&s->session, status));
    LS_TRY(comm->ops->broadcast(comm, &s->count, sizeof s->count, 0));
    LS_TRY(comm->ops->broadcast(comm, &s->turn_end, sizeof s->turn_end, 0));
    if (!reader) {
        status = ls_calloc((size_t)(s->count + s->tokens), sizeof *s->history, &s->history);
    }
    LS_TRY(ls_session_agree(&s->session, status));
    return comm->ops->broadcast(comm, s->history, s->count * (int64_t)sizeof *s->history, 0);
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

/* A terminal gets each token as it comes, others whole lines: what stands on a line that is not yet
 * ended, PRRTE (mpirun of Open MPI 5; its ranks have a terminal of its own) puts before what comes
 * next on stderr, and there. */
static bool prints_tokens(void) {
    return isatty(STDOUT_FILENO) == 1 && !getenv("PRTE_LAUNCHED");
}

static void print_by_line(void) {
    static char line[1 << 20];
    if (!prints_tokens()) {
        setvbuf(stdout, line, _IOLBF, sizeof line);
    }
}

/* The first rank prints; the others draw the same tokens from the same logits. */
static void print_token(const sampler *s, int64_t place) {
    if (s->session.comm->rank != 0) {
        return;
    }
    if (s->tokenizer) {
        size_t bytes = 0;
        const char *text = ls_tokenizer_bytes(s->tokenizer, (uint32_t)s->history[place], &bytes);
        fwrite(text ? text : "", 1, bytes, stdout); /* no token: padding of the vocabulary */
    } else if (s->ids) {
        printf(place > s->shown ? " %d" : "%d", s->history[place]);
    } else {
        putchar(s->history[place]);
    }
    if (prints_tokens()) {
        fflush(stdout);
    }
}

/* Is the text, or the turn of a model of chats, finished? */
static bool is_end(const sampler *s, int32_t token) {
    const json_t *ends = json_object_get(ls_ckpt_run(s->weights.ckpt), "ends"), *end;
    size_t i;
    json_array_foreach(ends, i, end) {
        if (json_is_integer(end) && json_integer_value(end) == token) {
            return true;
        }
    }
    return token == s->separator || token == s->turn_end;
}

static ls_status generate(sampler *s) {
    const int64_t context = s->weights.config.model.context;
    int64_t fed = 0;
    for (int64_t i = s->shown; i < s->count; i++) {
        print_token(s, i);
    }
    uint64_t start = ls_clock_ns();
    long long made = 0;
    for (; made < s->tokens; made++) {
        LS_TRY(feed(s->weights.model, s->history, &fed, s->count, context, s->logits));
        int32_t token;
        const ls_status status =
            ls_pick(&s->pick, s->logits, s->vocab, s->scratch, (uint64_t)made, &token);
        if (status != LS_OK) { /* on all ranks: the logits are the same */
            return ls_session_agree(&s->session, status);
        }
        if (is_end(s, token)) {
            break;
        }
        s->history[s->count++] = token;
        print_token(s, s->count - 1);
    }
    if (s->session.comm->rank == 0) {
        putchar('\n'); /* before the line on stderr */
        fflush(stdout);
        ls_log_info("%lld tokens, %.0f a second", made,
                    (double)made / (1e-9 * (double)(ls_clock_ns() - start)));
    }
    return LS_OK;
}

static ls_status parse(const char **values, sampler *s) {
    for (int i = 0; i < OPT_COUNT; i++) {
        const bool prompt = i == OPT_PROMPT || i == OPT_IDS;
        values[i] = values[i] || prompt ? values[i] : options[i].fallback;
    }
    LS_TRY(ls_option_int("tokens", values[OPT_TOKENS], 1, 100000000, &s->tokens));
    LS_TRY(
        ls_option_float("temperature", values[OPT_TEMPERATURE], 0.0, 100.0, &s->pick.temperature));
    long long top_k, seed;
    LS_TRY(ls_option_int("top-k", values[OPT_TOP_K], 0, 1 << 30, &top_k));
    LS_TRY(ls_option_float("top-p", values[OPT_TOP_P], 0.0, 1.0, &s->pick.top_p));
    LS_TRY(ls_option_int("seed", values[OPT_SEED], 0, INT64_MAX, &seed));
    s->pick.top_k = top_k;
    s->pick.seed = (uint64_t)seed;
    s->ids = values[OPT_IDS] != NULL;
    if (s->ids && values[OPT_TOKENIZER]) {
        return LS_FAIL(LS_E_USAGE, "--tokenizer is for text, and --ids are tokens; give one of "
                                   "them");
    }
    if (s->ids && values[OPT_PROMPT]) {
        return LS_FAIL(LS_E_USAGE, "--prompt is text, and --ids are tokens; give one of them");
    }
    s->chat_format = values[OPT_CHAT];
    s->system = values[OPT_SYSTEM];
    s->turn_end = -1;
    if (s->ids && s->chat_format) {
        return LS_FAIL(LS_E_USAGE, "--chat is for text, and --ids are tokens; give one of them");
    }
    if (s->system && !s->chat_format) {
        return LS_FAIL(LS_E_USAGE, "--system is said in a chat; --chat says in which format");
    }
    LS_TRY(ls_option_int("threads", values[OPT_THREADS], 0, 4096, &s->threads));
    LS_TRY(ls_option_int("tensor", values[OPT_TENSOR], 0, 1 << 16, &s->tensor));
    LS_TRY(ls_option_int("pipeline", values[OPT_PIPELINE], 1, 1 << 16, &s->pipeline));
    return ls_device_parse(values[OPT_DEVICE], &s->device);
}

static ls_status begin_chat(sampler *s) {
    if (s->session.comm->rank != 0) {
        return LS_OK;
    }
    if (!s->tokenizer) {
        return LS_FAIL(LS_E_USAGE, "--chat is for models with a tokenizer.json, whose tokens part "
                                   "the turns; this one's tokens are bytes");
    }
    LS_TRY(ls_chat_init(&s->chat, s->chat_format, s->tokenizer));
    s->turn_end = (int32_t)s->chat.end;
    return LS_OK;
}

/* given: --tokenizer, or NULL. */
static ls_status check_weights(sampler *s, const char *given) {
    const json_t *run = ls_ckpt_run(s->weights.ckpt);
    const char *name = json_string_value(json_object_get(run, "tokenizer"));
    if (!s->ids && s->session.comm->rank == 0) {
        LS_TRY(ls_tokenizer_find(ls_ckpt_path(s->weights.ckpt), name, given, &s->tokenizer));
    }
    LS_TRY(s->chat_format ? begin_chat(s) : LS_OK);
    if (s->pipeline > s->weights.config.model.layers) {
        return LS_FAIL(LS_E_USAGE, "--pipeline is %lld; the model has %lld layers", s->pipeline,
                       (long long)s->weights.config.model.layers);
    }
    s->separator = ls_weights_token(&s->weights, "separator");
    s->begin = ls_weights_begin(&s->weights);
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
    s->scratch = s->logits + s->vocab;
    return ls_weights_load(
        &s->weights, s->session.dev,
        (ls_model_options){.batch = 1,
                           .seq = model->context,
                           .cache_len = model->context,
                           .part = {.first_block = first, .block_count = end - first},
                           .tensor = s->tensor_ranks,
                           .pipeline = s->pipeline_ranks});
}

static ls_status sample(sampler *s, const char *path, const char **values) {
    LS_TRY(ls_weights_open(&s->session, path, &s->weights));
    LS_TRY(ls_session_agree(&s->session, check_weights(s, values[OPT_TOKENIZER])));
    LS_TRY(spread(s));
    LS_TRY(ls_session_agree(&s->session, load(s)));
    print_by_line();
    LS_TRY(make_tokens(s, values[s->ids ? OPT_IDS : OPT_PROMPT]));
    return generate(s);
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
    status = sample(&s, argv[first], values);
    if (status != LS_OK && !ls_session_failure_shared()) {
        return status;
    }
    free(s.logits);
    free(s.history);
    ls_tokenizer_release(s.tokenizer);
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
        "directory, or a run directory (then its newest valid checkpoint is used). Text is of\n"
        "bytes, or of the tokenizer.json with which the data was prepared. Under mpirun\n"
        "the ranks split the model among them, for one that is too large for a single rank; the\n"
        "text is the same but for rounding. With --chat the answer of a model that learnt from\n"
        "chats, which ends with its turn.\n"
        "\n"
        "  lockstep sample runs/first --prompt 'static int ' --tokens 400 --top-p 0.9\n"
        "  lockstep sample runs/tuned --chat chatml --prompt 'Why is the sky blue?'\n"
        "  tokenize <prompt.txt | lockstep sample runs/ids --ids - | detokenize\n"
        "  mpirun -n 4 lockstep sample runs/big --pipeline 2",
    .options = options,
    .run = run_sample,
};
