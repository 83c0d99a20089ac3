#include "checkpoint/convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct name_row {
    const char *ours;
    const char *theirs[LS_MAX_GROUPS]; /* one, or one for each group of a fused tensor */
    bool transposed;
} name_row;

#define H "transformer."
static const name_row gpt2_rows[] = {
    {"tok_embed.weight", {H "wte.weight"}, false},
    {"pos_embed.weight", {H "wpe.weight"}, false},
    {"attn_norm.weight", {H "h.%d.ln_1.weight"}, false},
    {"attn_norm.bias", {H "h.%d.ln_1.bias"}, false},
    {"attn.qkv.weight", {H "h.%d.attn.c_attn.weight"}, true},
    {"attn.qkv.bias", {H "h.%d.attn.c_attn.bias"}, false},
    {"attn.proj.weight", {H "h.%d.attn.c_proj.weight"}, true},
    {"attn.proj.bias", {H "h.%d.attn.c_proj.bias"}, false},
    {"mlp_norm.weight", {H "h.%d.ln_2.weight"}, false},
    {"mlp_norm.bias", {H "h.%d.ln_2.bias"}, false},
    {"mlp.up.weight", {H "h.%d.mlp.c_fc.weight"}, true},
    {"mlp.up.bias", {H "h.%d.mlp.c_fc.bias"}, false},
    {"mlp.down.weight", {H "h.%d.mlp.c_proj.weight"}, true},
    {"mlp.down.bias", {H "h.%d.mlp.c_proj.bias"}, false},
    {"final_norm.weight", {H "ln_f.weight"}, false},
    {"final_norm.bias", {H "ln_f.bias"}, false},
    {"head.weight", {"lm_head.weight"}, false},
    {0},
};
#undef H

/* Llama, Mistral, Mixtral, Qwen2 and Qwen3. */
#define L "model.layers.%d."
#define E L "block_sparse_moe.experts.%d."
static const name_row llama_rows[] = {
    {"tok_embed.weight", {"model.embed_tokens.weight"}, false},
    {"attn_norm.weight", {L "input_layernorm.weight"}, false},
    {"attn.qkv.weight",
     {L "self_attn.q_proj.weight", L "self_attn.k_proj.weight", L "self_attn.v_proj.weight"},
     false},
    {"attn.qkv.bias",
     {L "self_attn.q_proj.bias", L "self_attn.k_proj.bias", L "self_attn.v_proj.bias"},
     false},
    {"attn.q_norm.weight", {L "self_attn.q_norm.weight"}, false},
    {"attn.k_norm.weight", {L "self_attn.k_norm.weight"}, false},
    {"attn.proj.weight", {L "self_attn.o_proj.weight"}, false},
    {"mlp_norm.weight", {L "post_attention_layernorm.weight"}, false},
    {"mlp.up.weight", {L "mlp.gate_proj.weight", L "mlp.up_proj.weight"}, false},
    {"mlp.down.weight", {L "mlp.down_proj.weight"}, false},
    {"moe.router.weight", {L "block_sparse_moe.gate.weight"}, false},
    {"moe.up.weight", {E "w1.weight", E "w3.weight"}, false},
    {"moe.down.weight", {E "w2.weight"}, false},
    {"final_norm.weight", {"model.norm.weight"}, false},
    {"head.weight", {"lm_head.weight"}, false},
    {0},
};
#undef E

/* What Qwen3's mixtures call otherwise. */
#define E L "mlp.experts.%d."
static const name_row qwen3_moe_rows[] = {
    {"moe.router.weight", {L "mlp.gate.weight"}, false},
    {"moe.up.weight", {E "gate_proj.weight", E "up_proj.weight"}, false},
    {"moe.down.weight", {E "down_proj.weight"}, false},
    {0},
};
#undef L
#undef E

/* "layers.12.attn.qkv.weight" -> 12, "attn.qkv.weight"; others: layer 0 and the whole name. */
static const char *name_split(const char *name, int *layer) {
    char *rest;
    *layer = 0;
    if (strncmp(name, "layers.", 7) != 0) {
        return name;
    }
    *layer = (int)strtol(name + 7, &rest, 10);
    return *rest == '.' ? rest + 1 : name;
}

/* The rows' patterns come from the tables above: "%d" stands for the layer, then for the expert. */
static void pattern_fill(char *out, size_t size, const char *pattern, int layer, int64_t expert) {
    int64_t number = layer;
    size_t used = 0;
    for (const char *place; (place = strstr(pattern, "%d")); pattern = place + 2) {
        used += (size_t)snprintf(out + used, size - used, "%.*s%lld", (int)(place - pattern),
                                 pattern, (long long)number);
        number = expert;
    }
    snprintf(out + used, size - used, "%s", pattern);
}

static const name_row *row_of(const name_row *rows, const char *name) {
    while (rows->ours && strcmp(rows->ours, name) != 0) {
        rows++;
    }
    return rows->ours ? rows : NULL;
}

static ls_status row_find(const ls_config_model *model, const ls_param *param, const name_row **row,
                          int *layer) {
    const char *name = name_split(param->name, layer);
    *row = model->qk_norm ? row_of(qwen3_moe_rows, name) : NULL;
    *row = *row ? *row : row_of(model->family == LS_FAMILY_GPT2 ? gpt2_rows : llama_rows, name);
    return *row ? LS_OK
                : LS_FAIL(LS_E_UNSUPPORTED, "'%s' has no name in the Hugging Face model",
                          param->name);
}

static int names_of(const name_row *row) {
    int names = 0;
    while (names < LS_MAX_GROUPS && row->theirs[names]) {
        names++;
    }
    return names;
}

ls_status ls_hf_part_count(const ls_config_model *model, const ls_param *param, int *count) {
    const name_row *row;
    int layer;
    LS_TRY(row_find(model, param, &row, &layer));
    *count = names_of(row) * (param->ndim > 2 ? (int)param->dims[0] : 1);
    return LS_OK;
}

ls_status ls_hf_part_at(const ls_config_model *model, const ls_param *param, int index,
                        ls_hf_part *part) {
    const name_row *row;
    int layer;
    LS_TRY(row_find(model, param, &row, &layer));
    const int names = names_of(row), name = index % names;
    const int64_t expert = index / names, cols = param->ndim > 1 ? param->dims[param->ndim - 1] : 1;
    int64_t first = 0, rows = names > 1 ? param->tp_group[name].size : param->valid_rows;
    if (param->ndim > 2) { /* equal parts of each expert's matrix */
        rows = param->dims[1] / names;
        first = expert * param->dims[1] + name * rows;
    }
    for (int n = 0; n < name && param->ndim <= 2; n++) {
        first += param->tp_group[n].size;
    }
    *part = (ls_hf_part){.first_row = first,
                         .rows = rows,
                         .cols = cols,
                         .transposed = row->transposed,
                         .ndim = param->ndim > 1 ? 2 : 1,
                         .dims = {row->transposed ? cols : rows, row->transposed ? rows : cols}};
    pattern_fill(part->name, sizeof part->name, row->theirs[name], layer, expert);
    return LS_OK;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

bool ls_hf_ignored(const ls_config_model *model, const char *name) {
    return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias") ||
           ends_with(name, ".rotary_emb.inv_freq") ||
           (model->tied && strcmp(name, "lm_head.weight") == 0);
}
