/* What follows from several values together. */
#include "runtime/config/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LL(x) ((long long)(x))

static ls_status check_run(const ls_config_run *run) {
    if (!run->name[0] || strchr(run->name, '/') || strcmp(run->name, ".") == 0 ||
        strcmp(run->name, "..") == 0) {
        return LS_FAIL(LS_E_CONFIG,
                       "run.name is '%s'; the name of a directory inside run.dir is expected, "
                       "without '/'",
                       run->name);
    }
    if (!run->dir[0]) {
        return LS_FAIL(LS_E_CONFIG, "run.dir is empty; give a directory, such as runs");
    }
    if (run->steps && run->tokens) {
        return LS_FAIL(LS_E_CONFIG,
                       "run.steps is %lld and run.tokens is %lld; keep one and set the other to 0",
                       LL(run->steps), LL(run->tokens));
    }
    return LS_OK;
}

static ls_status check_rope(const ls_config_model *m) {
    if (m->head_dim % 2 != 0) {
        return LS_FAIL(LS_E_CONFIG,
                       "model.head_dim is %lld; rotary positions (family llama3) turn pairs of "
                       "channels and need an even one",
                       LL(m->head_dim));
    }
    if (m->rope_scaling == LS_ROPE_SCALING_LLAMA3 &&
        m->rope_low_freq_factor >= m->rope_high_freq_factor) {
        return LS_FAIL(
            LS_E_CONFIG,
            "model.rope_low_freq_factor is %g and model.rope_high_freq_factor is %g; the "
            "first must be smaller",
            m->rope_low_freq_factor, m->rope_high_freq_factor);
    }
    return LS_OK;
}

static ls_status check_model(ls_config_model *m) {
    const struct {
        const char *key;
        int64_t value;
    } sizes[] = {{"layers", m->layers}, {"channels", m->channels}, {"heads", m->heads}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].value == 0) {
            return LS_FAIL(
                LS_E_CONFIG,
                "model.%s is not given; set model.layers, model.channels and model.heads, "
                "or a model.preset such as gpt2-124m; those of a run that is there are in its "
                "config.yaml: lockstep train runs/NAME/config.yaml --resume",
                sizes[i].key);
        }
    }
    if (m->head_dim == 0 && m->channels % m->heads != 0) {
        return LS_FAIL(
            LS_E_CONFIG,
            "model.channels is %lld, which %lld heads do not divide; change one of them, "
            "or set model.head_dim",
            LL(m->channels), LL(m->heads));
    }
    m->head_dim = m->head_dim ? m->head_dim : m->channels / m->heads;
    if (m->head_dim > LS_CONFIG_MAX_HEAD_DIM) {
        return LS_FAIL(LS_E_CONFIG,
                       "model.head_dim comes to %lld (model.channels %lld / model.heads %lld); at "
                       "most %d is allowed; raise model.heads",
                       LL(m->head_dim), LL(m->channels), LL(m->heads), LS_CONFIG_MAX_HEAD_DIM);
    }
    m->kv_heads = m->kv_heads ? m->kv_heads : m->heads;
    if (m->heads % m->kv_heads != 0) {
        return LS_FAIL(LS_E_CONFIG,
                       "model.heads is %lld, which model.kv_heads %lld does not divide; each "
                       "key/value head serves the same number of query heads",
                       LL(m->heads), LL(m->kv_heads));
    }
    if (m->ffn == 0 && m->family != LS_FAMILY_GPT2) {
        return LS_FAIL(LS_E_CONFIG,
                       "model.ffn is not given; family llama3 has no rule for it (14336 for 4096 "
                       "channels in llama3-8b)");
    }
    m->ffn = m->ffn ? m->ffn : 4 * m->channels;
    if (m->experts > 0 && m->experts_per_token > m->experts) {
        return LS_FAIL(LS_E_CONFIG,
                       "model.experts_per_token is %lld; there are %lld experts (model.experts)",
                       LL(m->experts_per_token), LL(m->experts));
    }
    return m->family == LS_FAMILY_LLAMA3 ? check_rope(m) : LS_OK;
}

static ls_status check_sequence(ls_config *c) {
    c->data.sequence = c->data.sequence ? c->data.sequence : c->model.context;
    if (c->data.sequence > c->model.context) {
        return LS_FAIL(LS_E_CONFIG,
                       "data.sequence is %lld; the model has %lld positions. Lower it, or raise "
                       "model.context",
                       LL(c->data.sequence), LL(c->model.context));
    }
    return LS_OK;
}

static ls_status check_attention(const ls_config *c) {
    const ls_config_model *m = &c->model;
    if (m->window_pattern > 0 && m->window == 0) {
        return LS_FAIL(LS_E_CONFIG,
                       "model.window_pattern is %lld and model.window 0; say how many tokens the "
                       "other layers see, such as model.window=1024",
                       LL(m->window_pattern));
    }
    if (m->window > 0 && m->window < c->data.sequence && m->window_pattern != 1 &&
        c->numerics.attention == LS_CFG_ATTENTION_CUDNN) {
        return LS_FAIL(LS_E_CONFIG,
                       "numerics.attention is cudnn and model.window %lld, of samples of %lld; "
                       "windows are lockstep's own kernels': use own or auto",
                       LL(m->window), LL(c->data.sequence));
    }
    if (c->data.document_mask && c->numerics.attention == LS_CFG_ATTENTION_CUDNN) {
        return LS_FAIL(LS_E_CONFIG,
                       "numerics.attention is cudnn and data.document_mask true; documents are "
                       "masked by lockstep's own kernels: use own or auto");
    }
    return LS_OK;
}

static ls_status check_batch(ls_config_batch *b, int64_t sequence) {
    if (b->sequences == 0 && b->tokens == 0) {
        return LS_FAIL(LS_E_CONFIG, "neither batch.sequences nor batch.tokens is given; set one of "
                                    "them, such as batch.sequences=32");
    }
    if (b->tokens % sequence != 0) {
        return LS_FAIL(LS_E_CONFIG,
                       "batch.tokens is %lld; a multiple of data.sequence (%lld) is expected, such "
                       "as %lld",
                       LL(b->tokens), LL(sequence), LL((b->tokens / sequence + 1) * sequence));
    }
    if (b->sequences && b->tokens && b->tokens != b->sequences * sequence) {
        return LS_FAIL(
            LS_E_CONFIG,
            "batch.tokens is %lld, but batch.sequences %lld of %lld tokens are %lld; give "
            "batch.sequences=%lld or batch.tokens=%lld: on the command line either replaces the "
            "other",
            LL(b->tokens), LL(b->sequences), LL(sequence), LL(b->sequences * sequence),
            LL(b->tokens / sequence), LL(b->sequences * sequence));
    }
    b->sequences = b->sequences ? b->sequences : b->tokens / sequence;
    b->tokens = b->sequences * sequence;
    if (b->sequences > INT64_C(1) << 30 || b->tokens > INT64_C(1)
                                                           << 53) { /* ranges of the fields */
        return LS_FAIL(LS_E_CONFIG,
                       "a batch of %lld sequences of %lld tokens; at most %lld sequences and %lld "
                       "tokens are served",
                       LL(b->sequences), LL(sequence), LL(INT64_C(1) << 30), LL(INT64_C(1) << 53));
    }
    if (b->sequences % b->micro != 0) {
        return LS_FAIL(
            LS_E_CONFIG,
            "batch.sequences is %lld; a multiple of batch.micro (%lld) is expected, such "
            "as %lld",
            LL(b->sequences), LL(b->micro), LL((b->sequences / b->micro + 1) * b->micro));
    }
    return LS_OK;
}

static ls_status check_pipeline(const ls_config_parallel *p, int64_t layers) {
    if (p->interleave > 1 && p->pipeline == 1) {
        return LS_FAIL(LS_E_CONFIG,
                       "parallel.interleave is %lld, but parallel.pipeline is 1: there are no "
                       "stages to interleave; set parallel.interleave to 1",
                       LL(p->interleave));
    }
    if (p->pipeline * p->interleave > layers && p->pipeline > 1) {
        return LS_FAIL(LS_E_CONFIG,
                       "parallel.pipeline %lld x parallel.interleave %lld makes %lld stages, and "
                       "the model has %lld layers; each stage needs one: lower their product to "
                       "%lld or less",
                       LL(p->pipeline), LL(p->interleave), LL(p->pipeline * p->interleave),
                       LL(layers), LL(layers));
    }
    return LS_OK;
}

static ls_status check_parallel(const ls_config_parallel *p, int64_t layers, int64_t sequence) {
    LS_TRY(check_pipeline(p, layers));
    if (p->zero == 0 && p->shard > 1) {
        return LS_FAIL(LS_E_CONFIG,
                       "parallel.shard is %lld, but parallel.zero 0 divides nothing; set "
                       "parallel.zero to 1, 2 or 3, or use parallel.replicate",
                       LL(p->shard));
    }
    if (p->zero > 0 && p->shard == 1) {
        return LS_FAIL(LS_E_CONFIG,
                       "parallel.zero is %lld, but parallel.shard is 1: there is nobody to divide "
                       "with; set parallel.shard to 0 (all data-parallel ranks) or 2 and more, or "
                       "parallel.zero to 0",
                       LL(p->zero));
    }
    if (p->sequence_parallel && p->tensor == 1) {
        return LS_FAIL(LS_E_CONFIG, "parallel.sequence_parallel splits tokens over tensor ranks, "
                                    "but parallel.tensor is 1; raise it, or set "
                                    "parallel.sequence_parallel to false");
    }
    if (p->context > 1 && sequence % (2 * p->context) != 0) {
        int64_t unit = 2 * p->context, below = sequence / unit * unit;
        return LS_FAIL(LS_E_CONFIG,
                       "data.sequence is %lld; with parallel.context %lld a multiple of %lld is "
                       "expected (each rank takes an early and a late part), such as %lld",
                       LL(sequence), LL(p->context), LL(unit), LL(below ? below : unit));
    }
    return LS_OK;
}

static ls_status check_schedule(const ls_config_schedule *s, int64_t steps) {
    if (steps && s->first_step >= steps) {
        return LS_FAIL(LS_E_CONFIG,
                       "schedule.first_step is %lld; the run ends with step %lld (run.steps)",
                       LL(s->first_step), LL(steps));
    }
    if (s->kind == LS_SCHEDULE_WSD && steps && s->decay_steps > steps - s->first_step) {
        return LS_FAIL(LS_E_CONFIG,
                       "schedule.decay_steps is %lld; the schedule has %lld steps (run.steps less "
                       "schedule.first_step)",
                       LL(s->decay_steps), LL(steps - s->first_step));
    }
    return LS_OK;
}

ls_status ls_config_trace_steps(const ls_config_metrics *metrics, int64_t *first, int64_t *last) {
    const char *text = metrics->trace_steps;
    char rest;
    *first = *last = 0;
    if (text[0] && (sscanf(text, "%" SCNd64 "..%" SCNd64 "%c", first, last, &rest) != 2 ||
                    *first < 1 || *last < *first)) {
        return LS_FAIL(LS_E_CONFIG,
                       "metrics.trace_steps is '%s'; the first and the last step are expected, as "
                       "in 10..12",
                       text);
    }
    return LS_OK;
}

ls_status ls_config_check(ls_config *config) {
    int64_t first, last;
    LS_TRY(ls_config_trace_steps(&config->metrics, &first, &last));
    LS_TRY(check_run(&config->run));
    LS_TRY(check_model(&config->model));
    LS_TRY(check_sequence(config));
    LS_TRY(check_attention(config));
    LS_TRY(check_parallel(&config->parallel, config->model.layers, config->data.sequence));
    LS_TRY(check_batch(&config->batch, config->data.sequence));
    return check_schedule(&config->schedule, config->run.steps);
}
