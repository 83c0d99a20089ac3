/* What follows from several values together. */
#include "runtime/config/internal.h"

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
    if (run->steps == 0 && run->tokens == 0) {
        return LS_FAIL(LS_E_CONFIG, "neither run.steps nor run.tokens is given; set one of them, "
                                    "such as run.steps=1000");
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
                "or a model.preset such as gpt2-124m",
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
            "batch.tokens is %lld, but batch.sequences %lld of %lld tokens are %lld; keep "
            "one and set the other to 0",
            LL(b->tokens), LL(b->sequences), LL(sequence), LL(b->sequences * sequence));
    }
    b->sequences = b->sequences ? b->sequences : b->tokens / sequence;
    b->tokens = b->sequences * sequence;
    if (b->sequences % b->micro != 0) {
        return LS_FAIL(
            LS_E_CONFIG,
            "batch.sequences is %lld; a multiple of batch.micro (%lld) is expected, such "
            "as %lld",
            LL(b->sequences), LL(b->micro), LL((b->sequences / b->micro + 1) * b->micro));
    }
    return LS_OK;
}

ls_status ls_config_check(ls_config *config) {
    LS_TRY(check_run(&config->run));
    LS_TRY(check_model(&config->model));
    LS_TRY(check_sequence(config));
    LS_TRY(check_batch(&config->batch, config->data.sequence));
    int64_t steps = config->run.steps, decay = config->schedule.decay_steps;
    if (config->schedule.kind == LS_SCHEDULE_WSD && steps && decay > steps) {
        return LS_FAIL(LS_E_CONFIG,
                       "schedule.decay_steps is %lld; the run has %lld steps (run.steps)",
                       LL(decay), LL(steps));
    }
    return LS_OK;
}
