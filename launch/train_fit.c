/* The best layout for fewer ranks than a run was made for. */
#include "launch/train_fit.h"

#include "launch/train_predict.h"
#include "runtime/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct search {
    ls_train *train;
    int ranks;
    const int *wanted; /* the configured axes */
    int64_t experts;   /* the configured parallel.expert; that of the best below */
    bool found;
    int best[LS_AXIS_COUNT];
    int64_t best_experts;
    double best_s;
    int best_changes;
    ls_error refusal; /* of the last layout that did not work */
} search;

static int product(const int size[LS_AXIS_COUNT]) {
    int n = 1;
    for (int a = 0; a < LS_AXIS_COUNT; a++) {
        n *= size[a];
    }
    return n;
}

/* Would train take it? As on its first and last rank. */
static ls_status works(ls_train *train, const int size[LS_AXIS_COUNT]) {
    const int at[] = {0, product(size) - 1};
    ls_device *dev = train->session.dev;
    const int host_ranks = train->session.mesh.hosts > 1 ? 1 : product(size);
    ls_status status = LS_OK;
    for (int i = 0; i < 2 && status == LS_OK; i++) {
        ls_layout layout;
        ls_layout_bytes bytes;
        status = ls_layout_init_rank(&layout, &train->config, dev,
                                     ls_session_dtype(train->config.numerics.compute, dev), size,
                                     at[i], host_ranks);
        if (status == LS_OK) {
            status = ls_layout_plan(&layout, &bytes);
        }
        ls_layout_release(&layout);
    }
    return status;
}

/* Without a cluster profile the layout of most ranks counts as the fastest. */
static ls_status seconds_of(const ls_train *train, const int size[LS_AXIS_COUNT], double *seconds) {
    ls_train_prediction found = {.step_s = 1.0 / product(size)};
    if (train->config.cost.cluster[0]) {
        LS_TRY(ls_train_predict_layout(&train->config, train->session.dev, size, &found));
    }
    *seconds = found.step_s;
    return LS_OK;
}

static ls_status try(search *s, const int size[LS_AXIS_COUNT]) {
    double seconds;
    int changes = s->train->config.parallel.expert != s->experts;
    for (int a = 0; a < LS_AXIS_COUNT; a++) {
        changes += size[a] != s->wanted[a];
    }
    if (works(s->train, size) != LS_OK) {
        s->refusal = *ls_error_last();
        return LS_OK;
    }
    LS_TRY(seconds_of(s->train, size, &seconds));
    if (!s->found || seconds < s->best_s || (seconds == s->best_s && changes < s->best_changes)) {
        s->found = true;
        s->best_s = seconds;
        s->best_changes = changes;
        s->best_experts = s->train->config.parallel.expert;
        memcpy(s->best, size, sizeof s->best);
    }
    return LS_OK;
}

/* All ways to divide the data-parallel ranks between shard and replicate. */
static ls_status try_data(search *s, int size[LS_AXIS_COUNT]) {
    const ls_config_parallel *p = &s->train->config.parallel;
    const int fixed = size[LS_AXIS_TENSOR] * size[LS_AXIS_PIPELINE] * size[LS_AXIS_CONTEXT];
    for (int data = s->ranks / fixed; data > 0; data--) {
        for (int shard = 1; shard <= data; shard++) {
            /* As configured: no zero, or all ranks, or groups of one width. */
            const bool as_wanted = p->zero == 0                         ? shard == 1
                                   : p->shard == 0 && p->replicate == 0 ? shard == data
                                                                        : true;
            if (data % shard != 0 || !as_wanted) {
                continue;
            }
            size[LS_AXIS_SHARD] = shard;
            size[LS_AXIS_REPLICATE] = data / shard;
            LS_TRY(try(s, size));
        }
    }
    return LS_OK;
}

/* Axes that change the order of sums stay as they are where the same bits are wanted. */
static ls_status try_all(search *s) {
    const bool same_bits = s->train->config.numerics.reduction == LS_CFG_INVARIANT;
    const int *w = s->wanted;
    for (int tensor = 1; tensor <= w[LS_AXIS_TENSOR]; tensor++) {
        for (int context = 1; context <= w[LS_AXIS_CONTEXT]; context++) {
            for (int stages = 1; stages <= w[LS_AXIS_PIPELINE]; stages++) {
                const bool all = tensor == w[LS_AXIS_TENSOR] && context == w[LS_AXIS_CONTEXT] &&
                                 stages == w[LS_AXIS_PIPELINE];
                if (w[LS_AXIS_TENSOR] % tensor || w[LS_AXIS_CONTEXT] % context ||
                    (same_bits && !all)) {
                    continue;
                }
                int size[LS_AXIS_COUNT] = {[LS_AXIS_TENSOR] = tensor,
                                           [LS_AXIS_CONTEXT] = context,
                                           [LS_AXIS_PIPELINE] = stages};
                LS_TRY(try_data(s, size));
            }
        }
    }
    return LS_OK;
}

/* The same for parallel.expert, which the configuration has back at the end. */
static ls_status try_experts(search *s) {
    ls_config *config = &s->train->config;
    const bool same_bits = config->numerics.reduction == LS_CFG_INVARIANT;
    ls_status status = LS_OK;
    for (int64_t e = s->experts; status == LS_OK && e >= (same_bits ? s->experts : 1); e--) {
        if (s->experts % e == 0) {
            config->parallel.expert = e;
            status = try_all(s);
        }
    }
    config->parallel.expert = s->experts;
    return status;
}

ls_status ls_train_fit(ls_train *train, int ranks) {
    const ls_config_parallel *p = &train->config.parallel;
    const int wanted[LS_AXIS_COUNT] = {[LS_AXIS_TENSOR] = (int)p->tensor,
                                       [LS_AXIS_CONTEXT] = (int)p->context,
                                       [LS_AXIS_PIPELINE] = (int)p->pipeline,
                                       [LS_AXIS_SHARD] = (int)p->shard,
                                       [LS_AXIS_REPLICATE] = (int)p->replicate};
    search s = {.train = train, .ranks = ranks, .wanted = wanted, .experts = p->expert};
    LS_TRY(try_experts(&s));
    if (!s.found) {
        return LS_FAIL(LS_E_CONFIG, "no layout for %d rank%s or fewer: %s", ranks,
                       ranks == 1 ? "" : "s",
                       s.refusal.message[0] ? s.refusal.message
                                            : "parallel.tensor x context x pipeline are more, and "
                                              "numerics.reduction=invariant keeps them");
    }
    printf("%d parallel.tensor=%d parallel.context=%d parallel.pipeline=%d parallel.shard=%d "
           "parallel.replicate=%d",
           product(s.best), s.best[LS_AXIS_TENSOR], s.best[LS_AXIS_CONTEXT],
           s.best[LS_AXIS_PIPELINE], s.best[LS_AXIS_SHARD], s.best[LS_AXIS_REPLICATE]);
    if (s.experts > 1) {
        printf(" parallel.expert=%lld", (long long)s.best_experts);
    }
    printf("\n");
    return LS_OK;
}
