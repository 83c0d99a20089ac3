/* A model's memory: what is taken, where each piece lies, and who gives it back. */
#include "runtime/model/model_internal.h"

#include <stdlib.h>

/* Logits of a chunk of the head take at most this, and a chunk at most this many rows: large enough
 * for full speed of the products, small beside the activations. */
#define HEAD_LOGITS_BYTES ((int64_t)256 << 20)
#define HEAD_ROWS         1024
/* Each product for dW adds to V C numbers in memory, for R rows of 2 R V C operations: on an H200,
 * with 790 TFLOP/s and 4.3 TB/s, a chunk of 1024 rows would add for as long as 0.7 of its product
 * takes. A GPU keeps the gradients of the logits of so many chunks for one product, at most 1 GiB
 * in bf16. */
#define HEAD_CHUNKS_TOGETHER 8

static int64_t max_of(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Chunks of nearly equal size, so that the last one is not a sliver. */
static int64_t head_rows(int64_t rows, int64_t row_bytes) {
    int64_t most = HEAD_LOGITS_BYTES / row_bytes;
    most = most < 1 ? 1 : most > HEAD_ROWS ? HEAD_ROWS : most;
    int64_t chunks = (rows + most - 1) / most;
    return (rows + chunks - 1) / chunks;
}

/* Likewise, of chunks; products of a host's device would find less of them in its caches. */
static int64_t head_rows_together(const ls_model *m, int64_t rows) {
    const int64_t chunks = (rows + m->head_rows - 1) / m->head_rows;
    const bool several = m->options.training && !m->dev->host_memory && m->dtype != m->dev->acc;
    const int64_t most = several ? HEAD_CHUNKS_TOGETHER : 1;
    const int64_t products = (chunks + most - 1) / most;
    return (chunks + products - 1) / products * m->head_rows;
}

static int64_t positions(const ls_model_options *options) {
    return max_of(options->seq, options->cache_len);
}

/* Positions whose angles the tables hold: with context parallelism the own ones. */
static int64_t table_rows(const ls_model *m) {
    return m->context_ranks > 1 ? m->seq : positions(&m->options);
}

/* Rows of a whole micro-batch, and the most that a rank's norms see. */
static int64_t rows_of(const ls_model *m) {
    return m->options.batch * m->seq;
}

static int64_t own_rows_of(const ls_model *m) {
    return m->sequence ? (rows_of(m) + m->part.tensor_ranks - 1) / m->part.tensor_ranks
                       : rows_of(m);
}

static ls_status lay_out_tables(ls_model *m) {
    for (int i = 0; i < m->slots; i++) {
        if (ls_has_block(m, 0)) {
            LS_TRY(ls_take(m, rows_of(m), LS_I32, &m->slot[i].tokens));
        }
        if (ls_has_head(m)) {
            LS_TRY(ls_take(m, rows_of(m), LS_I32, &m->slot[i].targets));
        }
    }
    LS_TRY(ls_first_keys_lay_out(m));
    if (!m->sizes.traits.learned_positions) {
        int64_t angles = table_rows(m) * m->sizes.head_dim / 2;
        LS_TRY(ls_take(m, angles, m->dev->acc, &m->rope_cos));
        LS_TRY(ls_take(m, angles, m->dev->acc, &m->rope_sin));
    }
    if (m->context_ranks > 1) {
        LS_TRY(ls_take(m, m->seq, LS_I32, &m->positions));
        LS_TRY(ls_take_host(m, rows_of(m), LS_I32, &m->own_ids));
        LS_TRY(ls_take_host(m, 3 * m->context_ranks, LS_I64, &m->ring_counts));
    }
    m->bytes.tables = m->arena.used_bytes + m->host_arena.used_bytes;
    return LS_OK;
}

/* An inner matrix of the MLP. */
static ls_status take_inner(ls_model *m, int64_t width, void *piece) {
    return m->sizes.experts > 0 ? ls_take_received(m, width, m->dtype, piece)
                                : ls_take(m, rows_of(m) * width, m->dtype, piece);
}

/* What each policy makes again: in memory of its own only when `policy` keeps it. */
static ls_status lay_out_remade(ls_model *m, ls_layer_acts *a) {
    const int64_t rows = rows_of(m), own = own_rows_of(m);
    const ls_sizes *s = &m->sizes;
    LS_TRY(ls_take(m, own * s->channels, m->dtype, &a->norm1));
    LS_TRY(ls_take(m, rows * s->q_width, m->dtype, &a->att));
    LS_TRY(ls_take(m, rows * s->heads, m->dev->acc, &a->lse));
    LS_TRY(ls_take(m, own * s->channels, m->dtype, &a->norm2));
    return take_inner(m, s->ffn, &a->act);
}

static ls_status lay_out_kept(ls_model *m, ls_layer_acts *a) {
    const int64_t rows = rows_of(m), own = own_rows_of(m);
    const ls_sizes *s = &m->sizes;
    const ls_dtype acc = m->dev->acc;
    LS_TRY(ls_take(m, own, acc, &a->mean1));
    LS_TRY(ls_take(m, own, acc, &a->rstd1));
    LS_TRY(ls_take(m, rows * s->qkv_width, m->dtype, &a->qkv));
    if (s->qk_norm) {
        LS_TRY(ls_take(m, rows * s->q_width, m->dtype, &a->raw_q));
        LS_TRY(ls_take(m, rows * s->kv_width, m->dtype, &a->raw_k));
        LS_TRY(ls_take(m, rows * s->heads, acc, &a->rstd_q));
        LS_TRY(ls_take(m, rows * s->kv_heads, acc, &a->rstd_k));
    }
    LS_TRY(ls_take(m, own * s->channels, m->dtype, &a->mid));
    LS_TRY(ls_take(m, own, acc, &a->mean2));
    LS_TRY(ls_take(m, own, acc, &a->rstd2));
    if (s->experts > 0) {
        LS_TRY(ls_moe_lay_out(m, &a->moe));
    }
    return take_inner(m, s->up_width, &a->up);
}

static bool any_recompute(const ls_model *m, ls_recompute_mode policy) {
    for (int l = 0; l < m->part_layers; l++) {
        if (ls_recompute_of(m, l) == policy) {
            return true;
        }
    }
    return false;
}

/* Memory that layers share: all of it without training, else what they make again. */
static ls_status lay_out_shared(ls_model *m, ls_layer_acts *shared) {
    const bool full = !m->options.training || any_recompute(m, LS_RECOMPUTE_FULL);
    *shared = (ls_layer_acts){0};
    if (m->part_layers > 0 && full) {
        LS_TRY(lay_out_kept(m, shared));
    }
    if (m->part_layers > 0 && (full || any_recompute(m, LS_RECOMPUTE_SELECTIVE))) {
        LS_TRY(lay_out_remade(m, shared));
    }
    if (!m->options.training) {
        LS_TRY(ls_take(m, own_rows_of(m) * m->sizes.channels, m->dtype, &shared->x));
    }
    return LS_OK;
}

/* x of layer 0 is the caller's on all parts but the first, that behind the last layer on all but
 * the last. */
static ls_status lay_out_slot(ls_model *m, const ls_layer_acts *shared, ls_layer_acts *layers) {
    const int64_t elems = own_rows_of(m) * m->sizes.channels;
    for (int l = 0; l <= m->part_layers; l++) {
        layers[l] = *shared;
        const bool callers =
            (l == 0 && !ls_has_block(m, 0)) || (l == m->part_layers && !ls_has_head(m));
        if (m->options.training && !callers) {
            LS_TRY(ls_take(m, elems, m->dtype, &layers[l].x));
        }
        const ls_recompute_mode policy =
            m->options.training ? ls_recompute_of(m, l) : LS_RECOMPUTE_FULL;
        m->moe_over_now = 1 + (int)(layers - m->layers) + l;
        if (l < m->part_layers && policy != LS_RECOMPUTE_FULL) {
            LS_TRY(lay_out_kept(m, &layers[l]));
        }
        if (l < m->part_layers && policy == LS_RECOMPUTE_NONE) {
            LS_TRY(lay_out_remade(m, &layers[l]));
        }
    }
    m->moe_over_now = 0;
    return LS_OK;
}

static ls_status lay_out_backward(ls_model *m) {
    const ls_sizes *s = &m->sizes;
    const int64_t rows = rows_of(m), c = s->channels;
    LS_TRY(ls_take(m, own_rows_of(m) * c, m->dtype, &m->dx));
    LS_TRY(ls_take(m, rows * max_of(c, s->q_width), m->dtype, &m->dnarrow));
    const int64_t wide = s->experts > 0 ? s->qkv_width : max_of(s->ffn, s->qkv_width);
    LS_TRY(ls_take(m, rows * wide, m->dtype, &m->dwide));
    if (m->sequence) {
        LS_TRY(ls_take(m, 4 * c, m->dev->acc, &m->norm_grads));
    }
    if (s->qk_norm && m->part.tensor_ranks > 1) {
        LS_TRY(ls_take(m, 2 * s->head_dim, m->dev->acc, &m->qk_norm_grads));
    }
    if (m->dev->sums_dx && s->traits.biases && s->experts == 0 && m->part.tensor_ranks == 1) {
        LS_TRY(ls_take(m, c, m->dev->acc, &m->dy_sums));
    }
    if (m->part.tensor_ranks > m->whole.kv_heads) {
        LS_TRY(ls_take(m, 2 * s->kv_width * c + s->qkv_width, m->dev->acc, &m->kv_grads));
    }
    return LS_OK;
}

static ls_status lay_out_head(ls_model *m) {
    const ls_sizes *s = &m->sizes;
    const ls_dtype dtype = m->dtype, acc = m->dev->acc;
    const int64_t rows = rows_of(m), own = own_rows_of(m), ranks = m->part.tensor_ranks;
    m->logits_dtype = m->options.narrow_logits ? dtype : acc;
    m->head_rows = head_rows(rows, s->vocab_rows * (int64_t)ls_dtype_bytes(m->logits_dtype));
    m->head_rows_together = head_rows_together(m, rows);
    for (int i = 0; i < m->slots; i++) { /* used within one call */
        ls_slot *slot = &m->slot[i];
        if (i == 0) {
            LS_TRY(ls_take(m, own * s->channels, dtype, &slot->norm_f));
            LS_TRY(ls_take(m, own, acc, &slot->mean_f));
            LS_TRY(ls_take(m, own, acc, &slot->rstd_f));
        }
        slot->norm_f = m->slot[0].norm_f;
        slot->mean_f = m->slot[0].mean_f;
        slot->rstd_f = m->slot[0].rstd_f;
    }
    const bool in_place = m->logits_dtype == dtype;
    LS_TRY(ls_take(m, (in_place ? m->head_rows_together : m->head_rows) * s->vocab_rows,
                   m->logits_dtype, &m->logits));
    m->dlogits = m->logits;
    if (!in_place && m->options.training) {
        LS_TRY(ls_take(m, m->head_rows_together * s->vocab_rows, dtype, &m->dlogits));
    }
    if (ranks > 1) {
        LS_TRY(ls_take(m, m->head_rows * 3, acc, &m->stats));
        LS_TRY(ls_take(m, m->head_rows * 3 * ranks, acc, &m->all_stats));
    }
    LS_TRY(m->options.loss_mask ? ls_targets_lay_out(m, rows) : LS_OK);
    LS_TRY(ls_take(m, 1, LS_F64, &m->loss_sum));
    return ls_take(m, rows, acc, &m->losses);
}

/* Sets the pieces of the arena; with a planning arena only counts. */
static ls_status lay_out(ls_model *m) {
    const ls_sizes *s = &m->sizes;
    ls_layer_acts shared;
    m->bytes.spare = 0; /* of an earlier, planning call, as these */
    for (int i = 0; i < 1 + m->slots * (m->part_layers + 1); i++) {
        m->moe_over[i] = (ls_moe_over){0};
    }
    LS_TRY(lay_out_tables(m));
    LS_TRY(lay_out_shared(m, &shared));
    for (int i = 0; i < m->slots; i++) {
        m->slot[i].layers = m->layers + i * (m->part_layers + 1);
        LS_TRY(lay_out_slot(m, &shared, m->slot[i].layers));
    }
    if (s->experts > 0 && m->part_layers > 0) {
        LS_TRY(ls_moe_lay_out_flight(m));
    }
    for (int i = 0; i < 2 && m->context_ranks > 1 && m->part_layers > 0; i++) {
        const int64_t elems = m->options.batch * m->seq_most * 2 * s->kv_width;
        LS_TRY(ls_take(m, elems, m->dtype, &m->ring_kv[i]));
        if (m->options.training) {
            LS_TRY(ls_take(m, elems, m->dtype, &m->ring_dkv[i]));
        }
    }
    if (m->sequence) {
        LS_TRY(ls_take(m, rows_of(m) * s->channels, m->dtype, &m->gathered));
        LS_TRY(ls_take(m, rows_of(m) * s->channels, m->dtype, &m->partial));
    }
    if (m->options.training) {
        LS_TRY(lay_out_backward(m));
    }
    if (ls_has_head(m)) {
        LS_TRY(lay_out_head(m));
    }
    if (m->options.cache_len > 0) {
        const int64_t width = m->options.cache_len * 2 * s->kv_width, c = s->channels;
        LS_TRY(ls_take(m, m->part_layers * width, m->dtype, &m->cache));
        LS_TRY(ls_has_block(m, 0) ? LS_OK
                                  : ls_take(m, m->options.seq * c, m->dtype, &m->boundary[0]));
        LS_TRY(ls_has_head(m) ? ls_take_host(m, s->vocab_rows * (m->part.tensor_ranks + 1), LS_F32,
                                             &m->own_logits)
                              : ls_take(m, m->options.seq * c, m->dtype, &m->boundary[1]));
    }
    m->bytes.activations = m->arena.used_bytes + m->host_arena.used_bytes - m->bytes.tables;
    return LS_OK;
}

static ls_status check_options(const ls_model *m) {
    const ls_model_options *o = &m->options;
    LS_TRY(ls_fp8_check(m));
    if (o->batch < 1 || o->seq < 1 || o->cache_len < 0) {
        return LS_FAIL(LS_E_SHAPE,
                       "a model for batch %lld, sequence %lld, cache %lld; batch and sequence must "
                       "be at least 1, the cache at least 0",
                       (long long)o->batch, (long long)o->seq, (long long)o->cache_len);
    }
    if (o->cache_len > 0 && o->narrow_logits) {
        return LS_FAIL(LS_E_UNSUPPORTED, "tokens are drawn from logits in fp32");
    }
    if (positions(o) > m->whole.context) {
        return LS_FAIL(LS_E_SHAPE,
                       "%lld positions are wanted, but model.context is %lld; lower data.sequence "
                       "or raise model.context",
                       (long long)positions(o), (long long)m->whole.context);
    }
    if (o->cache_len > 0 && o->batch != 1) {
        return LS_FAIL(LS_E_SHAPE, "generation works on 1 sequence, not %lld", (long long)o->batch);
    }
    if (o->slots < 0) {
        return LS_FAIL(LS_E_SHAPE, "%d slots; at least 1 is needed", o->slots);
    }
    if (m->part.expert_ranks > 1 && o->training && !o->store) {
        return LS_FAIL(LS_E_UNSUPPORTED, "training on %d expert ranks without a store",
                       m->part.expert_ranks);
    }
    if (m->context_rank < 0 || m->context_rank >= m->context_ranks) {
        return LS_FAIL(LS_E_SHAPE, "context rank %d of %d", m->context_rank, m->context_ranks);
    }
    if (m->context_ranks > 1 && o->seq / 2 < m->context_ranks) {
        return LS_FAIL(
            LS_E_CONFIG,
            "parallel.context is %d; a sequence of %lld tokens has no two chunks for each "
            "rank: use at most %lld",
            m->context_ranks, (long long)o->seq, (long long)max_of(o->seq / 2, 1));
    }
    if (o->cache_len > 0 && (m->context_ranks > 1 || o->sequence_parallel ||
                             (m->part.block_count < m->blocks && !o->pipeline))) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "generation on %d context ranks%s and %d of %d blocks; it needs whole "
                       "sequences, and for a part of the blocks the pipeline's ranks",
                       m->context_ranks, o->sequence_parallel ? ", sequence parallel," : "",
                       m->part.block_count, m->blocks);
    }
    return LS_OK;
}

/* How many tokens of a sequence this rank has, and the most that any has. */
static void set_tokens(ls_model *m) {
    m->seq = m->seq_most = m->options.seq;
    for (int rank = 0; rank < m->context_ranks && m->context_ranks > 1; rank++) {
        const ls_zigzag z = ls_zigzag_of(m->options.seq, rank, m->context_ranks);
        const int64_t tokens = z.low_count + z.high_count;
        m->seq = rank == m->context_rank ? tokens : m->seq;
        m->seq_most = rank == 0 ? tokens : max_of(m->seq_most, tokens);
    }
}

static ls_device_limits limits_of(const ls_model *m) {
    const ls_sizes *s = &m->sizes;
    int64_t widest = max_of(max_of(s->channels, s->qkv_width), max_of(s->up_width, s->q_width));
    const bool attends =
        m->options.training && m->dtype == LS_BF16 && !m->context && !ls_first_keys_everywhere(m);
    return (ls_device_limits){.rows = rows_of(m),
                              .seq = max_of(m->seq_most, m->options.cache_len),
                              .channels = widest,
                              .inner = s->channels,
                              .bf16 = m->dtype == LS_BF16,
                              .heads = s->heads,
                              .kv_heads = s->kv_heads,
                              .head_dim = s->head_dim,
                              .vocab = ls_has_head(m) ? s->vocab_rows : 0,
                              .bf16_batch = attends ? m->options.batch : 0,
                              .fp8_elems = ls_fp8_elems(m, rows_of(m))};
}

ls_status ls_model_describe(const ls_model_options *options, ls_model *m) {
    m->options = *options;
    m->dev = options->dev;
    m->dtype = options->dtype;
    m->slots = options->slots > 1 ? options->slots : 1;
    if (options->tensor) {
        m->options.part.tensor_rank = options->tensor->rank;
        m->options.part.tensor_ranks = options->tensor->size;
    }
    m->context_rank = options->context ? options->context->rank : options->context_rank;
    m->context_ranks = options->context ? options->context->size : options->context_ranks;
    m->context_ranks = m->context_ranks > 1 ? m->context_ranks : 1;
    LS_TRY(ls_sizes_derive(options->config, &m->whole));
    m->part = ls_part_resolve(&m->whole, &m->options.part);
    m->blocks = (int)m->whole.layers + 2;
    m->expert_ranks = m->part.expert_ranks * m->part.tensor_ranks;
    m->expert_rank = m->part.expert_rank * m->part.tensor_ranks + m->part.tensor_rank;
    LS_TRY(ls_sizes_split(&m->whole, &m->part, &m->sizes));
    LS_TRY(check_options(m));
    set_tokens(m);
    m->moe_placed = m->dev->async != NULL;
    m->moe_fixed = m->moe_placed && options->config->expert_capacity > 0.0;
    m->moe_grouped = m->moe_placed && !m->moe_fixed && ls_moe_groups(m);
    m->sequence = options->sequence_parallel && m->part.tensor_ranks > 1;
    for (int block = 1; block < m->blocks - 1; block++) {
        m->part_layers += ls_has_block(m, block);
    }
    LS_TRY(ls_calloc((size_t)m->blocks * LS_ROW_COUNT, sizeof *m->rows, &m->rows));
    LS_TRY(ls_table_build(options->config, &m->whole, &m->part, &m->params, &m->param_count,
                          &m->flat_elems, m->rows));
    LS_TRY(ls_calloc((size_t)m->slots, sizeof *m->slot, &m->slot));
    LS_TRY(
        ls_calloc((size_t)m->slots * (size_t)(m->part_layers + 1), sizeof *m->layers, &m->layers));
    LS_TRY(ls_calloc((size_t)m->slots * (size_t)(m->part_layers + 1) + 1, sizeof *m->moe_over,
                     &m->moe_over));
    LS_TRY(ls_calloc(2 * (size_t)m->blocks, sizeof *m->bases, &m->bases));
    LS_TRY(ls_calloc((size_t)m->part_layers + 1, sizeof *m->replays, &m->replays));
    LS_TRY(ls_calloc(2 * (size_t)m->part.tensor_ranks, sizeof *m->row_offsets, &m->row_offsets));
    if (!options->store) {
        m->bytes.masters = (size_t)m->flat_elems * ls_dtype_bytes(m->dev->acc);
    }
    if (!options->store && m->dtype != m->dev->acc) {
        m->bytes.copies = (size_t)m->flat_elems * ls_dtype_bytes(m->dtype);
    }
    const ls_device_limits limits = limits_of(m);
    m->bytes.scratch = m->dev->ops->scratch ? m->dev->ops->scratch(m->dev, &limits) : 0;
    ls_arena_init_planning(&m->arena, "the model's activations");
    ls_arena_init_planning(&m->host_arena, "the model's tables on the host");
    return lay_out(m);
}

/* An axis with more than one rank needs its communicator, and memory that it can send from. */
static ls_status join_axis(const ls_model *m, const char *axis, int ranks, ls_comm *comm,
                           ls_comm **joined) {
    if (ranks > 1 && !comm) {
        return LS_FAIL(LS_E_SHAPE, "a model on %d %s ranks without their communicator", ranks,
                       axis);
    }
    if (ranks > 1 && comm->on_device == m->dev->host_memory) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "%s parallel on device %s by a communicator for other memory", axis,
                       m->dev->ops->name);
    }
    *joined = ranks > 1 ? comm : NULL;
    return LS_OK;
}

/* The communicators, after everything that a single rank could refuse. */
static ls_status join(ls_model *m) {
    LS_TRY(join_axis(m, "tensor", m->part.tensor_ranks, m->options.tensor, &m->tensor));
    LS_TRY(join_axis(m, "context", m->context_ranks, m->options.context, &m->context));
    const bool apart = m->part.expert_ranks > 1;
    LS_TRY(join_axis(m, "expert", m->expert_ranks, apart ? m->options.experts : m->tensor,
                     &m->experts));
    const int sharers = ls_kv_sharers(m);
    return sharers <= 1
               ? LS_OK
               : m->tensor->ops->split(m->tensor, m->tensor->rank / sharers, &m->kv_sharers);
}

/* The host's memory through an arena of its own (huge pages, red zones), a device's from the
 * device. */
static ls_status take_arena(ls_model *m, size_t bytes) {
    const char *name = m->arena.name;
    if (m->dev->host_memory) {
        return ls_arena_init(&m->arena, name, bytes);
    }
    LS_TRY(m->dev->ops->alloc(m->dev, bytes, &m->device_memory));
    m->arena = (ls_arena){.base = m->device_memory, .capacity_bytes = bytes, .name = name};
    return LS_OK;
}

static ls_status fill_rope(ls_model *m) {
    if (!m->rope_cos) {
        return LS_OK;
    }
    const int64_t half = m->sizes.head_dim / 2, rows = table_rows(m);
    const ls_zigzag z = ls_zigzag_of(m->options.seq, m->context_rank, m->context_ranks);
    const size_t bytes = (size_t)(rows * half) * ls_dtype_bytes(m->dev->acc);
    double *frequencies = NULL;
    char *host = NULL; /* cos, then sin */
    ls_status status;
    LS_TRY_GOTO(ls_calloc((size_t)half, sizeof *frequencies, &frequencies), done);
    LS_TRY_GOTO(ls_calloc(2, bytes, &host), done);
    ls_rope_frequencies(m->options.config, frequencies);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t at = m->context ? ls_zigzag_position(&z, row) : row;
        for (int64_t d = 0; d < half; d++) {
            double angle = (double)at * frequencies[d];
            ls_store(m->dev->acc, host, row * half + d, cos(angle));
            ls_store(m->dev->acc, host + bytes, row * half + d, sin(angle));
        }
    }
    LS_TRY_GOTO(m->dev->ops->upload(m->dev, m->rope_cos, host, bytes), done);
    LS_TRY_GOTO(m->dev->ops->upload(m->dev, m->rope_sin, host + bytes, bytes), done);
done:
    free(frequencies);
    free(host);
    return status;
}

static ls_status fill_positions(ls_model *m) {
    if (m->context) {
        const ls_zigzag z = ls_zigzag_of(m->options.seq, m->context_rank, m->context_ranks);
        for (int64_t t = 0; t < m->seq; t++) {
            m->own_ids[t] = (int32_t)ls_zigzag_position(&z, t);
        }
        LS_TRY(m->dev->ops->upload(m->dev, m->positions, m->own_ids,
                                   (size_t)m->seq * sizeof *m->own_ids));
    }
    return fill_rope(m);
}

static ls_status build(const ls_model_options *options, ls_model *m) {
    LS_TRY(ls_model_describe(options, m));
    LS_TRY(join(m));
    const ls_device_limits limits = limits_of(m);
    LS_TRY(m->dev->ops->reserve(m->dev, &limits));
    LS_TRY(take_arena(m, m->arena.used_bytes));
    if (m->host_arena.used_bytes > 0) {
        LS_TRY(ls_arena_init(&m->host_arena, m->host_arena.name, m->host_arena.used_bytes));
    }
    LS_TRY(lay_out(m));
    if (m->bytes.masters > 0) {
        LS_TRY(m->dev->ops->alloc(m->dev, m->bytes.masters, &m->masters));
    }
    if (m->bytes.copies > 0) {
        LS_TRY(m->dev->ops->alloc(m->dev, m->bytes.copies, &m->copies));
    }
    return fill_positions(m);
}

ls_status ls_model_create(const ls_model_options *options, ls_model **model) {
    *model = NULL;
    ls_model *m;
    LS_TRY(ls_calloc(1, sizeof *m, &m));
    ls_status status = build(options, m);
    if (status != LS_OK) {
        ls_model_destroy(m);
        return status;
    }
    *model = m;
    return LS_OK;
}

void ls_model_destroy(ls_model *m) {
    if (!m) {
        return;
    }
    ls_replays_release(m);
    void *const device_pieces[] = {m->device_memory, m->masters, m->copies};
    for (int i = 0; i < 3; i++) {
        if (device_pieces[i]) {
            m->dev->ops->free(m->dev, device_pieces[i]);
        }
    }
    if (!m->device_memory) {
        ls_arena_release(&m->arena);
    }
    ls_arena_release(&m->host_arena);
    if (m->kv_sharers) {
        m->kv_sharers->ops->destroy(m->kv_sharers);
    }
    free(m->layers);
    free(m->slot);
    free(m->moe_over);
    free(m->bases);
    free(m->row_offsets);
    free(m->rows);
    free(m->params);
    free(m);
}

ls_status ls_model_plan(const ls_model_options *options, ls_model_bytes *bytes) {
    ls_model *m;
    LS_TRY(ls_calloc(1, sizeof *m, &m));
    ls_status status = ls_model_describe(options, m);
    *bytes = m->bytes;
    ls_model_destroy(m);
    return status;
}

ls_model_bytes ls_model_memory(const ls_model *m) {
    ls_model_bytes bytes = m->bytes;
    bytes.uneven = ls_moe_uneven_bytes(m);
    return bytes;
}

const ls_param *ls_model_params(const ls_model *m, int *count) {
    *count = m->param_count;
    return m->params;
}

int64_t ls_model_flat_elems(const ls_model *m) {
    return m->flat_elems;
}

int ls_model_blocks(const ls_model *m) {
    return m->blocks;
}

int64_t ls_model_boundary_elems(const ls_model *m) {
    const int ranks = m->part.tensor_ranks, rank = m->part.tensor_rank;
    const int64_t rows = rows_of(m);
    return m->sizes.channels *
           (m->sequence ? ls_range_first(rows, ranks, rank + 1) - ls_range_first(rows, ranks, rank)
                        : rows);
}

int64_t ls_model_seq(const ls_model *m) {
    return m->options.seq;
}

void *ls_model_masters(const ls_model *m) {
    return m->masters;
}

void *ls_model_copies(const ls_model *m) {
    return m->copies;
}
