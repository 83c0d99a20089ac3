/* The parameter table: what a model is made of. */
#include "runtime/model/model_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const ls_family_traits family_traits[] = {
    [LS_FAMILY_GPT2] = {.norm = LS_LAYERNORM, .biases = true, .learned_positions = true},
    [LS_FAMILY_LLAMA3] = {.norm = LS_RMSNORM, .gated = true},
};

typedef enum place { EMBEDDING, LAYER, HEAD } place;

typedef enum symbol { NONE, V, POS, C, QKV, HD, D, UP, F, EXPERTS } symbol;

/* Rows that a family may lack. */
typedef enum need {
    ALWAYS,
    BIASES,
    QKV_BIAS,
    QK_NORM,
    POSITIONS,
    UNTIED,
    DENSE,
    DENSE_BIASES,
    MIXTURE
} need;

typedef struct row_spec {
    const char *name;
    place place;
    symbol dims[3];
    ls_init init;
    bool residual; /* writes to the residual stream: std / sqrt(2L) */
    need need;
    int tp_axis;
} row_spec;

/* Experts have no biases in any family. */
static const row_spec row_specs[LS_ROW_COUNT] = {
    [LS_TOK_EMBED] = {"tok_embed.weight", EMBEDDING, {V, C}, LS_INIT_NORMAL, false, ALWAYS, 0},
    [LS_POS_EMBED] =
        {"pos_embed.weight", EMBEDDING, {POS, C}, LS_INIT_NORMAL, false, POSITIONS, -1},
    [LS_ATTN_NORM_W] = {"attn_norm.weight", LAYER, {C}, LS_INIT_ONE, false, ALWAYS, -1},
    [LS_ATTN_NORM_B] = {"attn_norm.bias", LAYER, {C}, LS_INIT_ZERO, false, BIASES, -1},
    [LS_QKV_W] = {"attn.qkv.weight", LAYER, {QKV, C}, LS_INIT_NORMAL, false, ALWAYS, 0},
    [LS_QKV_B] = {"attn.qkv.bias", LAYER, {QKV}, LS_INIT_ZERO, false, QKV_BIAS, 0},
    [LS_Q_NORM_W] = {"attn.q_norm.weight", LAYER, {D}, LS_INIT_ONE, false, QK_NORM, -1},
    [LS_K_NORM_W] = {"attn.k_norm.weight", LAYER, {D}, LS_INIT_ONE, false, QK_NORM, -1},
    [LS_PROJ_W] = {"attn.proj.weight", LAYER, {C, HD}, LS_INIT_NORMAL, true, ALWAYS, 1},
    [LS_PROJ_B] = {"attn.proj.bias", LAYER, {C}, LS_INIT_ZERO, false, BIASES, -1},
    [LS_MLP_NORM_W] = {"mlp_norm.weight", LAYER, {C}, LS_INIT_ONE, false, ALWAYS, -1},
    [LS_MLP_NORM_B] = {"mlp_norm.bias", LAYER, {C}, LS_INIT_ZERO, false, BIASES, -1},
    [LS_UP_W] = {"mlp.up.weight", LAYER, {UP, C}, LS_INIT_NORMAL, false, DENSE, 0},
    [LS_UP_B] = {"mlp.up.bias", LAYER, {UP}, LS_INIT_ZERO, false, DENSE_BIASES, 0},
    [LS_DOWN_W] = {"mlp.down.weight", LAYER, {C, F}, LS_INIT_NORMAL, true, DENSE, 1},
    [LS_DOWN_B] = {"mlp.down.bias", LAYER, {C}, LS_INIT_ZERO, false, DENSE_BIASES, -1},
    [LS_ROUTER_W] = {"moe.router.weight", LAYER, {EXPERTS, C}, LS_INIT_NORMAL, false, MIXTURE, -1},
    [LS_EXPERT_UP_W] =
        {"moe.up.weight", LAYER, {EXPERTS, UP, C}, LS_INIT_NORMAL, false, MIXTURE, 0},
    [LS_EXPERT_DOWN_W] =
        {"moe.down.weight", LAYER, {EXPERTS, C, F}, LS_INIT_NORMAL, true, MIXTURE, 0},
    [LS_FINAL_NORM_W] = {"final_norm.weight", HEAD, {C}, LS_INIT_ONE, false, ALWAYS, -1},
    [LS_FINAL_NORM_B] = {"final_norm.bias", HEAD, {C}, LS_INIT_ZERO, false, BIASES, -1},
    [LS_HEAD_W] = {"head.weight", HEAD, {V, C}, LS_INIT_NORMAL, false, UNTIED, 0},
};

static ls_status at_least_one(const char *key, int64_t value) {
    if (value < 1) {
        return LS_FAIL(LS_E_CONFIG, "model.%s is %lld; it must be at least 1", key,
                       (long long)value);
    }
    return LS_OK;
}

static ls_status check_rotary(const ls_config_model *config) {
    if (config->head_dim % 2 != 0) {
        return LS_FAIL(LS_E_CONFIG, "model.head_dim is %lld; rotary positions need an even number",
                       (long long)config->head_dim);
    }
    if (!(config->rope_theta > 0.0)) {
        return LS_FAIL(LS_E_CONFIG, "model.rope_theta is %g; it must be positive",
                       config->rope_theta);
    }
    if (config->rope_scaling == LS_ROPE_SCALING_LLAMA3 &&
        !(config->rope_factor > 0.0 && config->rope_low_freq_factor > 0.0 &&
          config->rope_high_freq_factor > config->rope_low_freq_factor &&
          config->rope_original_context > 0)) {
        return LS_FAIL(
            LS_E_CONFIG,
            "model.rope_scaling llama3 with rope_factor %g, rope_low_freq_factor %g, "
            "rope_high_freq_factor %g, rope_original_context %lld; all must be positive, "
            "and the high frequency factor above the low one (Llama 3.1: 8, 1, 4, 8192)",
            config->rope_factor, config->rope_low_freq_factor, config->rope_high_freq_factor,
            (long long)config->rope_original_context);
    }
    return LS_OK;
}

ls_status ls_sizes_derive(const ls_config_model *config, ls_sizes *sizes) {
    LS_TRY(at_least_one("vocab", config->vocab));
    LS_TRY(at_least_one("vocab_multiple", config->vocab_multiple));
    LS_TRY(at_least_one("layers", config->layers));
    LS_TRY(at_least_one("channels", config->channels));
    LS_TRY(at_least_one("heads", config->heads));
    LS_TRY(at_least_one("kv_heads", config->kv_heads));
    LS_TRY(at_least_one("head_dim", config->head_dim));
    LS_TRY(at_least_one("ffn", config->ffn));
    LS_TRY(at_least_one("context", config->context));
    if (config->heads % config->kv_heads != 0) {
        return LS_FAIL(LS_E_CONFIG, "model.heads is %lld; it must be a multiple of kv_heads, %lld",
                       (long long)config->heads, (long long)config->kv_heads);
    }
    const ls_family_traits traits = family_traits[config->family];
    if (!traits.learned_positions) {
        LS_TRY(check_rotary(config));
    }
    int64_t groups = (config->vocab + config->vocab_multiple - 1) / config->vocab_multiple;
    int64_t q = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim;
    *sizes = (ls_sizes){
        .traits = traits,
        .tied = config->tied,
        .qkv_bias = traits.biases || config->qkv_bias,
        .qk_norm = config->qk_norm,
        .vocab = config->vocab,
        .vocab_rows = groups * config->vocab_multiple,
        .layers = config->layers,
        .context = config->context,
        .channels = config->channels,
        .heads = config->heads,
        .kv_heads = config->kv_heads,
        .head_dim = config->head_dim,
        .q_width = q,
        .kv_width = kv,
        .qkv_width = q + 2 * kv,
        .ffn = config->ffn,
        .up_width = traits.gated ? 2 * config->ffn : config->ffn,
        .experts = config->experts,
        .each = config->experts > 0 ? config->experts_per_token : 0,
    };
    if (sizes->each < 0 || sizes->each > sizes->experts ||
        (sizes->experts > 0 && sizes->each == 0)) {
        return LS_FAIL(LS_E_CONFIG,
                       "model.experts_per_token is %lld; 1 to model.experts, %lld, can be chosen",
                       (long long)sizes->each, (long long)sizes->experts);
    }
    return LS_OK;
}

/* The group of the query rows; those of keys and values have grains as large as the unit. */
static ls_group query_group(const ls_sizes *s) {
    return (ls_group){.size = s->q_width, .units = s->kv_heads, .grain = s->head_dim};
}

static ls_group single_rows(int64_t size) {
    return (ls_group){.size = size, .units = size, .grain = 1};
}

static bool splits(const ls_sizes *s, int ranks) {
    const ls_group heads = query_group(s);
    return ranks >= 1 && ranks <= s->heads && ls_group_splits(&heads, ranks) &&
           ranks <= s->vocab_rows && ranks <= (s->experts > 0 ? s->experts : s->ffn);
}

static ls_status check_experts(const ls_sizes *s, const ls_model_part *part) {
    const int64_t most = s->experts / part->tensor_ranks;
    if (part->expert_ranks == 1 || part->expert_ranks <= most) {
        return LS_OK;
    }
    return LS_FAIL(LS_E_CONFIG,
                   "parallel.expert is %d; a model of %lld experts a layer%s on %d tensor ranks "
                   "(which split them too) can have at most %lld",
                   part->expert_ranks, (long long)s->experts, s->experts > 0 ? "" : " (dense)",
                   part->tensor_ranks, (long long)(most > 1 ? most : 1));
}

static ls_status check_part(const ls_sizes *s, const ls_model_part *part) {
    const int blocks = (int)s->layers + 2, ranks = part->tensor_ranks;
    if (part->first_block < 0 || part->block_count < 1 ||
        part->first_block > blocks - part->block_count) {
        return LS_FAIL(LS_E_CONFIG,
                       "a part of %d blocks from block %d of a model of %d; it must lie inside and "
                       "hold at least 1",
                       part->block_count, part->first_block, blocks);
    }
    if (part->tensor_rank < 0 || part->tensor_rank >= ranks) {
        return LS_FAIL(LS_E_SHAPE, "tensor rank %d of %d", part->tensor_rank, ranks);
    }
    if (part->expert_rank < 0 || part->expert_rank >= part->expert_ranks) {
        return LS_FAIL(LS_E_SHAPE, "expert rank %d of %d", part->expert_rank, part->expert_ranks);
    }
    if (splits(s, ranks)) {
        return check_experts(s, part);
    }
    int below = ranks - 1, above = ranks + 1;
    while (!splits(s, below)) {
        below--;
    }
    while (above <= s->heads && !splits(s, above)) {
        above++;
    }
    char higher[32] = "";
    if (above <= s->heads) {
        snprintf(higher, sizeof higher, " or %d", above);
    }
    return LS_FAIL(
        LS_E_CONFIG,
        "parallel.tensor is %d; a model of %lld heads, %lld key/value heads and ffn %lld "
        "cannot be split so (where ranks share a key/value head, equally many must share "
        "each, and divide its heads): use %d%s",
        ranks, (long long)s->heads, (long long)s->kv_heads, (long long)s->ffn, below, higher);
}

ls_model_part ls_part_resolve(const ls_sizes *s, const ls_model_part *part) {
    ls_model_part resolved = part ? *part : (ls_model_part){0};
    if (resolved.tensor_ranks == 0) {
        resolved.tensor_ranks = 1;
    }
    if (resolved.expert_ranks == 0) {
        resolved.expert_ranks = 1;
    }
    if (resolved.block_count == 0) {
        resolved.block_count = (int)s->layers + 2 - resolved.first_block;
    }
    return resolved;
}

ls_status ls_sizes_split(const ls_sizes *whole, const ls_model_part *part, ls_sizes *local) {
    const int rank = part->tensor_rank, ranks = part->tensor_ranks;
    *local = *whole;
    LS_TRY(check_part(whole, part));
    if (ranks == 1) {
        return LS_OK;
    }
    const ls_group q = query_group(whole), kv = {whole->kv_width, whole->kv_heads, whole->head_dim};
    const ls_group ffn = single_rows(whole->ffn), vocab = single_rows(whole->vocab_rows);
    local->q_width = ls_group_share(&q, rank, ranks).capacity;
    local->kv_width = ls_group_share(&kv, rank, ranks).capacity;
    local->heads = local->q_width / whole->head_dim;
    local->kv_heads = local->kv_width / whole->head_dim;
    local->qkv_width = local->q_width + 2 * local->kv_width;
    if (whole->experts == 0) { /* else the experts are split, each whole */
        local->ffn = ls_group_share(&ffn, rank, ranks).capacity;
        local->up_width = whole->traits.gated ? 2 * local->ffn : local->ffn;
    }
    const ls_share rows = ls_group_share(&vocab, rank, ranks);
    const int64_t real = whole->vocab - rows.start;
    local->vocab_rows = rows.capacity;
    local->vocab_first = rows.start;
    local->vocab = real < 0 ? 0 : real < rows.extent ? real : rows.extent;
    return LS_OK;
}

static bool has_row(const ls_sizes *sizes, const row_spec *spec) {
    switch (spec->need) {
    case ALWAYS:
        return true;
    case BIASES:
        return sizes->traits.biases;
    case QKV_BIAS:
        return sizes->qkv_bias;
    case QK_NORM:
        return sizes->qk_norm;
    case POSITIONS:
        return sizes->traits.learned_positions;
    case UNTIED:
        return !sizes->tied;
    case DENSE:
        return sizes->experts == 0;
    case DENSE_BIASES:
        return sizes->experts == 0 && sizes->traits.biases;
    case MIXTURE:
        return sizes->experts > 0;
    }
    return false;
}

static int64_t extent(const ls_sizes *sizes, symbol s) {
    const int64_t extents[] = {
        [NONE] = 1,
        [V] = sizes->vocab_rows,
        [POS] = sizes->context,
        [C] = sizes->channels,
        [QKV] = sizes->qkv_width,
        [HD] = sizes->q_width,
        [D] = sizes->head_dim,
        [UP] = sizes->up_width,
        [F] = sizes->ffn,
        [EXPERTS] = sizes->experts,
    };
    return extents[s];
}

/* Groups of the split dimension that tensor ranks split one by one. */
static void set_tensor_split(const ls_sizes *sizes, const row_spec *spec, ls_param *param) {
    param->tp_axis = spec->tp_axis;
    param->tp_groups = 1;
    if (spec->tp_axis < 0) {
        return;
    }
    const symbol s = spec->dims[spec->tp_axis];
    const ls_group kv = {
        .size = sizes->kv_width, .units = sizes->kv_heads, .grain = sizes->head_dim};
    switch (s) {
    case QKV:
        param->tp_groups = 3;
        param->tp_group[0] = query_group(sizes);
        param->tp_group[1] = param->tp_group[2] = kv;
        break;
    case HD:
        param->tp_group[0] = query_group(sizes);
        break;
    case UP:
        param->tp_groups = sizes->traits.gated ? 2 : 1;
        param->tp_group[0] = param->tp_group[1] = single_rows(sizes->ffn);
        break;
    default:
        param->tp_group[0] = single_rows(extent(sizes, s));
    }
}

/* Weight decay applies to all matrices, embeddings included, as in the published GPT-2
 * reproductions (nanoGPT, llm.c); norms and biases are exempt. */
static void fill_row(const ls_config_model *config, const ls_sizes *sizes, const row_spec *spec,
                     int block, ls_param *param) {
    *param = (ls_param){.block = block,
                        .init = spec->init,
                        .ndim = spec->dims[1] == NONE   ? 1
                                : spec->dims[2] == NONE ? 2
                                                        : 3};
    if (spec->place == LAYER) {
        snprintf(param->name, sizeof param->name, "layers.%d.%s", block - 1, spec->name);
    } else {
        snprintf(param->name, sizeof param->name, "%s", spec->name);
    }
    for (int d = 0; d < param->ndim; d++) {
        param->dims[d] = extent(sizes, spec->dims[d]);
    }
    param->valid_rows = spec->dims[0] == V ? sizes->vocab : param->dims[0];
    param->matrix = param->decay = param->ndim > 1;
    if (spec->init == LS_INIT_NORMAL) {
        param->init_std = spec->residual ? config->init_std / sqrt(2.0 * (double)sizes->layers)
                                         : config->init_std;
    }
    set_tensor_split(sizes, spec, param);
}

static place place_of(int block, int blocks) {
    return block == 0 ? EMBEDDING : block == blocks - 1 ? HEAD : LAYER;
}

static bool is_expert(int row) {
    return row == LS_EXPERT_UP_W || row == LS_EXPERT_DOWN_W;
}

/* A row of a block of a part; false: there is none. */
static bool build_row(const ls_config_model *config, const ls_sizes *sizes,
                      const ls_model_part *part, int block, int row, ls_param *param) {
    const int blocks = (int)sizes->layers + 2;
    const row_spec *spec = &row_specs[row];
    /* The tied head of a stage that lacks the embedding holds a copy of it. */
    const bool copied = row == LS_HEAD_W && sizes->tied && part->first_block > 0;
    if (spec->place != place_of(block, blocks) || !(copied || has_row(sizes, spec))) {
        return false;
    }
    fill_row(config, sizes, copied ? &row_specs[LS_TOK_EMBED] : spec, block, param);
    param->copied = copied;
    param->tp_rank = part->tensor_rank;
    param->tp_ranks = part->tensor_ranks;
    if (part->expert_ranks > 1 && is_expert(row)) {
        param->expert = true;
        param->block = blocks + block - 1;
        param->tp_rank += part->expert_rank * part->tensor_ranks;
        param->tp_ranks *= part->expert_ranks;
    }
    return true;
}

ls_status ls_table_build(const ls_config_model *config, const ls_sizes *sizes,
                         const ls_model_part *part, ls_param **params, int *count,
                         int64_t *flat_elems, int *rows) {
    const int blocks = (int)sizes->layers + 2, end = part->first_block + part->block_count;
    int n = 0;
    LS_TRY(ls_calloc((size_t)part->block_count * LS_ROW_COUNT, sizeof(ls_param), params));
    for (int i = 0; rows && i < blocks * LS_ROW_COUNT; i++) {
        rows[i] = -1;
    }
    for (int experts = 0; experts < (part->expert_ranks > 1 ? 2 : 1); experts++) {
        for (int i = part->first_block * LS_ROW_COUNT; i < end * LS_ROW_COUNT; i++) {
            const int row = i % LS_ROW_COUNT;
            const bool apart = part->expert_ranks > 1 && is_expert(row);
            if (apart == experts &&
                build_row(config, sizes, part, i / LS_ROW_COUNT, row, &(*params)[n])) {
                if (rows) {
                    rows[i] = n;
                }
                n++;
            }
        }
    }
    *count = n;
    ls_layout_assign(*params, n, flat_elems);
    return LS_OK;
}

ls_status ls_model_table_part(const ls_config_model *config, const ls_model_part *part,
                              ls_param **params, int *count, int64_t *flat_elems) {
    *params = NULL;
    ls_sizes sizes, local;
    LS_TRY(ls_sizes_derive(config, &sizes));
    const ls_model_part resolved = ls_part_resolve(&sizes, part);
    LS_TRY(ls_sizes_split(&sizes, &resolved, &local));
    return ls_table_build(config, &sizes, &resolved, params, count, flat_elems, NULL);
}

ls_status ls_model_table(const ls_config_model *config, ls_param **params, int *count,
                         int64_t *flat_elems) {
    return ls_model_table_part(config, NULL, params, count, flat_elems);
}

/* Real elements of a row in the whole model; 0 when the model lacks it. */
static int64_t row_elems(const ls_sizes *sizes, int row) {
    const row_spec *spec = &row_specs[row];
    if (!has_row(sizes, spec)) {
        return 0;
    }
    int64_t first = spec->dims[0] == V ? sizes->vocab : extent(sizes, spec->dims[0]);
    return first * extent(sizes, spec->dims[1]) * extent(sizes, spec->dims[2]) *
           (spec->place == LAYER ? sizes->layers : 1);
}

int64_t ls_model_param_count(const ls_config_model *config) {
    ls_sizes sizes;
    if (ls_sizes_derive(config, &sizes) != LS_OK) {
        return 0;
    }
    int64_t total = 0;
    for (int row = 0; row < LS_ROW_COUNT; row++) {
        total += row_elems(&sizes, row);
    }
    return total;
}

double ls_model_keys_seen(const ls_config_model *config, int64_t seq) {
    const double t = (double)seq, w = (double)config->window;
    const double through = w > 0.0 && w < t ? w - w * w / (2.0 * t) : t / 2.0;
    const double layers = (double)config->layers;
    const double whole =
        config->window_pattern > 0 ? (double)(config->layers / config->window_pattern) : 0.0;
    return (whole * t / 2.0 + (layers - whole) * through) / layers;
}

void ls_model_count_flops(const ls_config_model *config, int64_t seq, ls_model_flops *flops) {
    ls_sizes sizes;
    *flops = (ls_model_flops){0};
    if (ls_sizes_derive(config, &sizes) != LS_OK) {
        return;
    }
    const int64_t head = sizes.vocab * sizes.channels; /* whether tied or not */
    int64_t products = head;
    for (int row = 0; row < LS_ROW_COUNT; row++) {
        if (row_specs[row].place == LAYER && row_specs[row].dims[1] != NONE) {
            /* of the experts those that a token goes to */
            const int64_t elems = row_elems(&sizes, row);
            products +=
                is_expert(row) && sizes.experts > 0 ? elems / sizes.experts * sizes.each : elems;
        }
    }
    const double each = 12.0 * (double)sizes.layers * (double)sizes.q_width; /* key that is seen */
    *flops = (ls_model_flops){.matmul_per_token = 6.0 * (double)products,
                              .head_per_token = 6.0 * (double)head,
                              .attention_full_per_token = each * (double)seq,
                              .attention_causal_per_token = each * ls_model_keys_seen(config, seq)};
}
