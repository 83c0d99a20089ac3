#include "benchmarks/plan/runs.h"

#include "runtime/base/arena.h"
#include "runtime/base/file.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLUMNS = 40 };

/* Splits a line of CSV in place; "" is a quotation mark inside quotes. Returns the next line. */
static char *split(char *line, char **fields, int *count) {
    *count = 0;
    char *in = line, *out = line;
    bool quoted = false;
    fields[(*count)++] = out;
    for (;; in++) {
        if (quoted) {
            if (*in == '"' && in[1] == '"') {
                *out++ = *in++;
            } else if (*in == '"') {
                quoted = false;
            } else if (!*in) {
                break;
            } else {
                *out++ = *in;
            }
        } else if (*in == '"') {
            quoted = true;
        } else if (*in == ',' && *count < MAX_COLUMNS) {
            *out++ = '\0';
            fields[(*count)++] = out;
        } else if (*in == '\n' || !*in) {
            break;
        } else if (*in != '\r') {
            *out++ = *in;
        }
    }
    char *next = *in ? in + 1 : in;
    *out = '\0';
    return next;
}

typedef struct row {
    char **names, **values;
    int count;
} row;

static const char *text_of(const row *r, const char *name) {
    for (int i = 0; i < r->count; i++) {
        if (strcmp(r->names[i], name) == 0) {
            return r->values[i];
        }
    }
    return "";
}

/* NAN when the field is empty. */
static double number_of(const row *r, const char *name) {
    const char *text = text_of(r, name);
    char *end;
    const double value = strtod(text, &end);
    return end == text ? NAN : value;
}

static int64_t integer_of(const row *r, const char *name, int64_t fallback) {
    const double value = number_of(r, name);
    return isnan(value) ? fallback : (int64_t)value;
}

/* The number after `key` in the note, or fallback. */
static int noted(const char *note, const char *key, int fallback) {
    const char *at = strstr(note, key);
    return at && isdigit((unsigned char)at[strlen(key)]) ? atoi(at + strlen(key)) : fallback;
}

static bool has(const char *text, const char *word) {
    return strstr(text, word) != NULL;
}

/* Devices of the published rows, and a cluster that has them. */
static const struct {
    const char *gpu, *cluster;
} places[] = {
    {"H100-96GB-HBM2e-500W", "titan-h100-500w"},
    {"A100-40GB", "dgx-a100-40gb"},
    {"A100", "dgx-a100-80gb"},
    {"NVIDIA Ampere", "dgx-a100-80gb"},
    {"H800", "deepseek-h800"},
    {"H100", "dgx-h100"},
    {"H200", "dgx-h200"},
    {"GB300", "dgx-gb300-nvl72"},
    {"GB200", "dgx-gb200-nvl72"},
    {"B300", "dgx-b300"},
    {"B200", "dgx-b200"},
};

/* Programs by a part of the source's name: what they do in every run. */
static const struct {
    const char *source, *publisher;
    ls_software software;
} programs[] = {
    /* Before FlashAttention; all-reduces of tensor parallelism in the open (arXiv 2205.05198, 4.2.2
     * names what sequence parallelism changed). */
    {"SC21 PTD-P",
     "Megatron-LM 2021",
     {.unfused_attention = true,
      .exposed_tensor = true,
      .exposed_data = true,
      .repeated_norms = true}},
    {"Megatron-LM README",
     "Megatron-LM 2021",
     {.unfused_attention = true,
      .exposed_tensor = true,
      .exposed_data = true,
      .repeated_norms = true}},
    {"Reducing Activation",
     "Megatron-LM 2022",
     {.unfused_attention = true, .exposed_tensor = true, .exposed_data = true}},
    {"MegaScale", "MegaScale", {.exposed_tensor = true, .exposed_data = true}},
    {"Llama 3", "Llama 3", {.gradient_bytes = 4}},
    {"torchtitan", "torchtitan", {.exposed_tensor = true, .gradient_bytes = 4}},
    {"llm-foundry", "llm-foundry", {.unfused = true}},
    {"nanotron",
     "nanotron",
     {.unfused = true, .exposed_tensor = true, .exposed_data = true, .gradient_bytes = 4}},
    {"maxtext", "dgxc MaxText", {.lean_recompute = true, .gradient_bytes = 2}},
    {"dgxc-benchmarking", "dgxc NeMo", {.gradient_bytes = 2}},
    {"Megatron-Bridge", "Megatron-Bridge", {.gradient_bytes = 2}},
    {"llm.c", "llm.c", {.gradient_bytes = 2}},
    {"ml-engineering", "ml-engineering", {.unfused = true}},
};

static void set_place(run *r) {
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (strncmp(r->gpu, places[i].gpu, strlen(places[i].gpu)) == 0) {
            snprintf(r->cluster, sizeof r->cluster, "%s", places[i].cluster);
            return;
        }
    }
    r->unused = "no profile of that device";
}

static void set_software(run *r, const char *note) {
    snprintf(r->publisher, sizeof r->publisher, "%.63s", r->source);
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
        if (has(r->source, programs[i].source)) {
            snprintf(r->publisher, sizeof r->publisher, "%s", programs[i].publisher);
            r->software = programs[i].software;
            break;
        }
    }
    /* FlashAttention of Triton (llm-foundry's --attn_impl) and FlashAttention-2 know no Hopper. */
    if (has(r->source, "llm-foundry") || has(r->source, "torchtitan") ||
        has(r->source, "nanotron")) {
        r->software.older_attention = r->gpu[0] == 'H';
    }
    if (has(note, "FSDP eager")) {
        r->software.unfused = true;
    }
    if (has(note, "AsyncTP")) {
        r->software.exposed_tensor = false;
    }
    if (has(note, "baseline full recompute")) { /* the older program beside the new one */
        r->software.repeated_norms = true;
    }
    r->software.launched_experts = has(note, "experts launched by the host");
    r->software.exposed_experts = has(note, "exchange exposed");
    if (has(note, "offload activations to CPU") && r->layout.zero == 3) {
        r->software.offload = true;
    }
}

static ls_precision precision_of(const char *text) {
    if (has(text, "fp4")) {
        return LS_PRECISION_FP4;
    }
    return has(text, "fp8") || has(text, "float8") ? LS_PRECISION_FP8 : LS_PRECISION_BF16;
}

/* Sizes that a source leaves out because the model's name says them. */
static void known_sizes(const row *c, run *r, const char *note) {
    ls_plan_model *m = &r->model;
    const char *name = r->name;
    const bool llama = has(name, "Llama") || has(name, "llama");
    *m = (ls_plan_model){.layers = integer_of(c, "layers", 0),
                         .channels = integer_of(c, "hidden", 0),
                         .heads = integer_of(c, "heads", 0),
                         .vocab = integer_of(c, "vocab", 50304),
                         .gated = llama,
                         .tied = !llama && !has(name, "Nemotron"),
                         .learned_positions = has(name, "GPT"),
                         .biases = has(name, "GPT"),
                         .context = r->seq};
    if (has(name, "174.6B") || has(name, "GPT3-175B") || has(name, "GPT-175B")) {
        *m = (ls_plan_model){.layers = 96,
                             .channels = 12288,
                             .heads = m->heads ? m->heads : 96,
                             .vocab = 51200,
                             .tied = true,
                             .learned_positions = true,
                             .biases = true};
    } else if (has(name, "529.6B")) {
        *m = (ls_plan_model){.layers = 105,
                             .channels = 20480,
                             .heads = 128,
                             .vocab = 51200,
                             .tied = true,
                             .learned_positions = true,
                             .biases = true};
    } else if (has(name, "GPT3-125M")) {
        m->layers = m->heads = 12;
    }
    snprintf(m->name, sizeof m->name, "%s", name);
    m->kv_heads = integer_of(c, "kv_heads", m->heads);
    m->ffn = integer_of(c, "ffn", 4 * m->channels);
    m->head_dim = m->heads ? m->channels / m->heads : 0;
    if (has(name, "DeepSeek") && has(name, "V3")) {
        (void)ls_plan_model_find("deepseek-v3", m);
        m->ahead = has(note, "with MTP") ? 1 : 0;
    } else if (has(name, "Qwen3")) {
        (void)ls_plan_model_find(has(name, "235B") ? "qwen3-235b-a22b" : "qwen3-30b-a3b", m);
    } else if (has(name, "ixtral")) {
        (void)ls_plan_model_find(has(name, "22") ? "mixtral-8x22b" : "mixtral-8x7b", m);
    }
}

static void set_layout(const row *c, run *r, const char *note) {
    const bool titan = has(r->source, "torchtitan");
    ls_plan_layout *l = &r->layout;
    *l = (ls_plan_layout){.tensor = (int)integer_of(c, "tp", 1),
                          .context = (int)integer_of(c, "cp", 1),
                          .pipeline = (int)integer_of(c, "pp", 1),
                          .expert = noted(note, "ep=", 1),
                          .interleave = noted(note, "vp=", 1),
                          .zero = (int)integer_of(c, "zero_stage", titan ? 2 : 1),
                          .shard = 1,
                          .replicate = 1};
    if (has(note,
            "model-parallel size=96")) { /* arXiv 2104.04473 table 2: tensor 8 inside a node */
        l->tensor = 8;
        l->pipeline = 12;
    } else if (has(note, "model-parallel size=280")) {
        l->tensor = 8;
        l->pipeline = 35;
    }
    if (has(r->source, "SC21") && l->pipeline > 1 && r->model.layers % (2 * l->pipeline) == 0) {
        l->interleave = 2; /* section 5.1: the interleaved schedule */
    }
    if (has(r->source, "Tables 3+5") && /* its notes: interleave m=3 for 175B and 530B */
        (has(r->name, "175B") || has(r->name, "530B"))) {
        l->interleave = 3;
    }
    if (has(note, "vp= ") &&
        l->pipeline > 1) { /* left blank: a layer to a chunk, as elsewhere there */
        const int64_t each = r->model.layers / l->pipeline;
        l->interleave = r->model.layers % l->pipeline ? 1 : (int)each;
    }
    if (has(r->source, "MegaScale") && l->pipeline > 1) { /* its section 6.1 */
        l->interleave = has(r->name, "175B") ? 6 : 3;
    } else if (has(r->source, "Llama 3") &&
               l->pipeline > 1) { /* a layer to a part, section 3.3.2 */
        l->interleave = (int)((r->model.layers + 2) / l->pipeline);
    }
    if (has(note, "Interleaved 1F1B")) {
        l->interleave = 2;
    }
    const int rest = l->tensor * l->context * l->pipeline;
    const int data = r->devices % rest ? 0 : r->devices / rest;
    if (data < 1) {
        r->unused = "the layout does not fill the devices";
        return;
    }
    const int group = noted(note, "FSDP shard group ", noted(note, "fsdp=", data));
    l->shard = group > 1 && group <= data && data % group == 0 ? group : data;
    l->replicate = data / l->shard;
    const int local = noted(note, "local batch ", 0);
    l->micro = noted(note, "mbs=", noted(note, "microbatch=", local));
    if (local && l->pipeline > 1) { /* as many micro-batches as stages, if the batch allows */
        l->micro = local / l->pipeline > 0 ? local / l->pipeline : 1;
    }
    if (r->global_batch == 0 && local) {
        r->global_batch = (int64_t)local * data;
    }
    if (l->micro < 1) {
        const int64_t each = r->global_batch / data;
        l->micro = l->pipeline > 1 || l->tensor > 4 ? 1 : each < 4 ? (int)each : 4;
    }
    const char *recompute = text_of(c, "recompute");
    /* Hardware FLOPs with full recomputation are what the programs of 2021 ran, not only counted.
     */
    const bool full = strcmp(recompute, "full") == 0 || has(note, "full recompute) convention") ||
                      (!recompute[0] && has(r->source, "SC21"));
    r->choose_recompute = !recompute[0] && !full;
    l->recompute = full ? LS_REDO_FULL
                   : strcmp(recompute, "selective") == 0
                       ? (titan ? LS_REDO_ALTERNATE : LS_REDO_SELECTIVE)
                       : LS_REDO_NONE;
}

/* Seconds of a step: as published, or from tokens/s, TFLOP/s or MFU by the source's convention. */
static double measured(const row *c, const run *r) {
    const double step_s = number_of(c, "step_time_s");
    const double each = number_of(c, "tokens_per_s_per_gpu");
    const double tokens = (double)r->global_batch * (double)r->seq;
    if (!isnan(step_s)) {
        return step_s;
    }
    if (!isnan(each)) {
        return tokens / (each * r->devices);
    }
    const double tflops = number_of(c, "tflops_per_gpu"), mfu = number_of(c, "mfu");
    const double l = (double)r->model.layers, h = (double)r->model.channels;
    const double s = (double)r->seq;
    if (has(r->source, "SC21") && !isnan(tflops)) { /* hardware FLOPs, full recomputation counted */
        return 96 * tokens * l * h * h * (1 + s / (6 * h) + (double)r->model.vocab / (16 * l * h)) /
               (r->devices * tflops * 1e12);
    }
    if (has(r->source, "nanotron") && !isnan(mfu)) { /* 6N + 12 L h s over 989 TFLOP/s */
        const double params = number_of(c, "params") * (has(text_of(c, "params"), "B") ? 1e9 : 1);
        return tokens * (6 * params + 12 * l * h * s) / (r->devices * mfu * 1e-2 * 989e12);
    }
    if (has(r->source, "Llama 3") && !isnan(tflops)) {
        /* Causal: the other convention would have the attention of the rows of 131,072 tokens run
         * at 185 TFLOP/s, half of what its kernels reach; the rows of 8,192 differ by 4 %. */
        ls_plan_flops flops;
        ls_plan_model_flops(&r->model, r->seq, &flops);
        return tokens * (flops.products + flops.attention_causal) / (r->devices * tflops * 1e12);
    }
    return NAN;
}

static void fill(const row *c, run *r) {
    const char *note = text_of(c, "note");
    snprintf(r->source, sizeof r->source, "%.199s", text_of(c, "source"));
    snprintf(r->name, sizeof r->name, "%.63s", text_of(c, "model"));
    snprintf(r->gpu, sizeof r->gpu, "%.63s", text_of(c, "gpu"));
    r->seq = integer_of(c, "seq_len", has(r->source, "SC21") ? 2048 : 0);
    r->global_batch = integer_of(c, "global_batch", 0);
    r->devices = (int)integer_of(c, "n_gpus", 0);
    r->precision = precision_of(text_of(c, "precision"));
    set_place(r);
    known_sizes(c, r, note);
    if (r->devices > 0) {
        set_layout(c, r, note);
    }
    set_software(r, note);
    if (r->unused) {
        return;
    }
    if (has(note, "CPU AdamW offload")) {
        r->unused = "the optimizer runs on host processors";
    } else if (has(note, "tokendrop")) {
        r->unused = "tokens beyond an expert's capacity are dropped, and it is not said how many";
    } else if (has(note, "not the same model")) {
        r->unused = "the model was changed beyond what the row says";
    } else if (r->seq == 0 || r->global_batch == 0 || r->devices == 0 || r->model.channels == 0) {
        r->unused = "sequence, batch, devices or sizes are not stated";
    } else if (isnan(r->measured_s = measured(c, r))) {
        r->unused = "no time, rate or known FLOP convention";
    } else if (has(note, "looks inconsistent")) {
        r->unused = "contradicts another row of its source";
    }
}

ls_status runs_read(const char *path, run_list *out) {
    *out = (run_list){0};
    char *text, *names[MAX_COLUMNS], *values[MAX_COLUMNS];
    size_t bytes;
    LS_TRY(ls_file_read(path, 16 << 20, &text, &bytes));
    size_t lines = 0;
    for (const char *p = text; *p; p++) {
        lines += *p == '\n';
    }
    ls_status status = ls_calloc(lines + 1, sizeof *out->rows, &out->rows);
    row c = {.names = names, .values = values};
    char *at = split(text, names, &c.count);
    while (status == LS_OK && *at) {
        int count;
        at = split(at, values, &count);
        if (count != c.count) {
            status = LS_FAIL(LS_E_INPUT, "%s: row %d has %d fields; its heading has %d", path,
                             out->count + 2, count, c.count);
        } else {
            fill(&c, &out->rows[out->count++]);
        }
    }
    free(text);
    return status;
}

void runs_release(run_list *r) {
    free(r->rows);
    *r = (run_list){0};
}
