/* A model's memory: what is taken, where each piece lies, and who gives it back. */
#include "runtime/model/model_internal.h"

#include <stdlib.h>

/* Logits of a chunk of the head take at most this, and a chunk at most this many rows: large enough
 * for full speed of the products, small beside the activations. */
#define HEAD_LOGITS_BYTES ((int64_t)256 << 20)
#define HEAD_ROWS         1024

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

static int64_t positions(const ls_model_options *options) {
    return max_of(options->seq, options->cache_len);
}

static ls_status take(ls_model *m, int64_t elems, ls_dtype dtype, void *piece_out) {
    void *piece;
    LS_TRY(ls_arena_take(&m->arena, (size_t)elems * ls_dtype_bytes(dtype), &piece));
    memcpy(piece_out, &piece, sizeof piece);
    return LS_OK;
}

static ls_status lay_out_tables(ls_model *m, int64_t n) {
    LS_TRY(take(m, n, LS_I32, &m->tokens));
    LS_TRY(take(m, n, LS_I32, &m->targets));
    if (!m->sizes.traits.learned_positions) {
        int64_t angles = positions(&m->options) * m->sizes.head_dim / 2;
        LS_TRY(take(m, angles, m->dev->acc, &m->rope_cos));
        LS_TRY(take(m, angles, m->dev->acc, &m->rope_sin));
    }
    m->bytes.tables = m->arena.used_bytes;
    return LS_OK;
}

static ls_status lay_out_layer(ls_model *m, int64_t n, ls_layer_acts *a) {
    const ls_sizes *s = &m->sizes;
    const ls_dtype dtype = m->dtype, acc = m->dev->acc;
    LS_TRY(take(m, n * s->channels, dtype, &a->x));
    LS_TRY(take(m, n * s->channels, dtype, &a->norm1));
    LS_TRY(take(m, n, acc, &a->mean1));
    LS_TRY(take(m, n, acc, &a->rstd1));
    LS_TRY(take(m, n * s->qkv_width, dtype, &a->qkv));
    LS_TRY(take(m, n * s->q_width, dtype, &a->att));
    LS_TRY(take(m, n * s->heads, acc, &a->lse));
    LS_TRY(take(m, n * s->channels, dtype, &a->mid));
    LS_TRY(take(m, n * s->channels, dtype, &a->norm2));
    LS_TRY(take(m, n, acc, &a->mean2));
    LS_TRY(take(m, n, acc, &a->rstd2));
    LS_TRY(take(m, n * s->up_width, dtype, &a->up));
    return take(m, n * s->ffn, dtype, &a->act);
}

static ls_status lay_out_head(ls_model *m, int64_t n) {
    const ls_sizes *s = &m->sizes;
    const ls_dtype dtype = m->dtype, acc = m->dev->acc;
    m->head_rows = head_rows(n, s->vocab_rows * (int64_t)ls_dtype_bytes(acc));
    LS_TRY(take(m, n * s->channels, dtype, &m->norm_f));
    LS_TRY(take(m, n, acc, &m->mean_f));
    LS_TRY(take(m, n, acc, &m->rstd_f));
    LS_TRY(take(m, m->head_rows * s->vocab_rows, acc, &m->logits));
    m->dlogits = m->logits;
    if (dtype != acc && m->options.training) {
        LS_TRY(take(m, m->head_rows * s->vocab_rows, dtype, &m->dlogits));
    }
    return take(m, n, acc, &m->losses);
}

ls_status ls_model_lay_out(ls_model *m) {
    const ls_sizes *s = &m->sizes;
    const int64_t n = m->options.batch * m->options.seq;
    LS_TRY(lay_out_tables(m, n));
    for (int64_t l = 0; l < s->layers; l++) {
        m->layers[l] = m->layers[0];
        if (l == 0 || m->options.training) {
            LS_TRY(lay_out_layer(m, n, &m->layers[l]));
        }
    }
    m->layers[s->layers].x = m->layers[0].x;
    if (m->options.training) {
        LS_TRY(take(m, n * s->channels, m->dtype, &m->layers[s->layers].x));
        LS_TRY(take(m, n * s->channels, m->dtype, &m->dx));
        LS_TRY(take(m, n * max_of(s->channels, s->q_width), m->dtype, &m->dnarrow));
        LS_TRY(take(m, n * max_of(s->ffn, s->qkv_width), m->dtype, &m->dwide));
    }
    LS_TRY(lay_out_head(m, n));
    if (m->options.cache_len > 0) {
        LS_TRY(take(m, s->layers * m->options.cache_len * 2 * s->kv_width, m->dtype, &m->cache));
    }
    m->bytes.activations = m->arena.used_bytes - m->bytes.tables;
    return LS_OK;
}

static ls_status check_options(const ls_model_options *o, const ls_sizes *s) {
    if (o->batch < 1 || o->seq < 1 || o->cache_len < 0) {
        return LS_FAIL(LS_E_SHAPE,
                       "a model for batch %lld, sequence %lld, cache %lld; batch and sequence must "
                       "be at least 1, the cache at least 0",
                       (long long)o->batch, (long long)o->seq, (long long)o->cache_len);
    }
    if (positions(o) > s->context) {
        return LS_FAIL(LS_E_SHAPE,
                       "%lld positions are wanted, but model.context is %lld; lower data.sequence "
                       "or raise model.context",
                       (long long)positions(o), (long long)s->context);
    }
    if (o->cache_len > 0 && o->batch != 1) {
        return LS_FAIL(LS_E_SHAPE, "generation works on 1 sequence, not %lld", (long long)o->batch);
    }
    return LS_OK;
}

/* Everything but memory that depends on the machine: sizes, table, planned bytes. */
static ls_status describe(const ls_model_options *options, ls_model *m) {
    m->options = *options;
    m->dev = options->dev;
    m->dtype = options->dtype;
    LS_TRY(ls_sizes_derive(options->config, &m->sizes));
    LS_TRY(check_options(options, &m->sizes));
    m->blocks = (int)m->sizes.layers + 2;
    LS_TRY(ls_calloc((size_t)m->blocks * LS_ROW_COUNT, sizeof *m->rows, &m->rows));
    LS_TRY(ls_table_build(options->config, &m->sizes, &m->params, &m->param_count, &m->flat_elems,
                          m->rows));
    LS_TRY(ls_calloc((size_t)m->sizes.layers + 1, sizeof *m->layers, &m->layers));
    m->bytes.masters = (size_t)m->flat_elems * ls_dtype_bytes(m->dev->acc);
    if (m->dtype != m->dev->acc) {
        m->bytes.copies = (size_t)m->flat_elems * ls_dtype_bytes(m->dtype);
    }
    ls_arena_init_planning(&m->arena, "the model's activations");
    return ls_model_lay_out(m);
}

static ls_status reserve_scratch(const ls_model *m) {
    const ls_sizes *s = &m->sizes;
    int64_t widest = max_of(max_of(s->channels, s->qkv_width), max_of(s->up_width, s->q_width));
    const ls_device_limits limits = {.rows = m->options.batch * m->options.seq,
                                     .seq = positions(&m->options),
                                     .channels = widest,
                                     .heads = s->heads,
                                     .kv_heads = s->kv_heads,
                                     .head_dim = s->head_dim,
                                     .vocab = s->vocab_rows};
    return m->dev->ops->reserve(m->dev, &limits);
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
    const int64_t half = m->sizes.head_dim / 2, rows = positions(&m->options);
    const size_t row_bytes = (size_t)half * ls_dtype_bytes(m->dev->acc);
    double *frequencies = NULL;
    char *host = NULL; /* cos, then sin, of one position */
    ls_status status;
    LS_TRY_GOTO(ls_calloc((size_t)half, sizeof *frequencies, &frequencies), done);
    LS_TRY_GOTO(ls_calloc(2, row_bytes, &host), done);
    ls_rope_frequencies(m->options.config, frequencies);
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t d = 0; d < half; d++) {
            double angle = (double)row * frequencies[d];
            ls_store(m->dev->acc, host, d, cos(angle));
            ls_store(m->dev->acc, host, half + d, sin(angle));
        }
        void *cos_row = ls_elems_at(m->rope_cos, row * half, m->dev->acc);
        void *sin_row = ls_elems_at(m->rope_sin, row * half, m->dev->acc);
        LS_TRY_GOTO(m->dev->ops->upload(m->dev, cos_row, host, row_bytes), done);
        LS_TRY_GOTO(m->dev->ops->upload(m->dev, sin_row, host + row_bytes, row_bytes), done);
    }
done:
    free(frequencies);
    free(host);
    return status;
}

static ls_status build(const ls_model_options *options, ls_model *m) {
    LS_TRY(describe(options, m));
    LS_TRY(reserve_scratch(m));
    LS_TRY(take_arena(m, m->arena.used_bytes));
    LS_TRY(ls_model_lay_out(m));
    LS_TRY(m->dev->ops->alloc(m->dev, m->bytes.masters, &m->masters));
    if (m->bytes.copies > 0) {
        LS_TRY(m->dev->ops->alloc(m->dev, m->bytes.copies, &m->copies));
    }
    return fill_rope(m);
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
    void *const device_pieces[] = {m->device_memory, m->masters, m->copies};
    for (int i = 0; i < 3; i++) {
        if (device_pieces[i]) {
            m->dev->ops->free(m->dev, device_pieces[i]);
        }
    }
    if (!m->device_memory) {
        ls_arena_release(&m->arena);
    }
    free(m->layers);
    free(m->rows);
    free(m->params);
    free(m);
}

ls_status ls_model_plan(const ls_model_options *options, ls_model_bytes *bytes) {
    ls_model *m;
    LS_TRY(ls_calloc(1, sizeof *m, &m));
    ls_status status = describe(options, m);
    *bytes = m->bytes;
    ls_model_destroy(m);
    return status;
}

ls_model_bytes ls_model_memory(const ls_model *m) {
    return m->bytes;
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

int64_t ls_model_seq(const ls_model *m) {
    return m->options.seq;
}

void *ls_model_masters(const ls_model *m) {
    return m->masters;
}

void *ls_model_copies(const ls_model *m) {
    return m->copies;
}
