#include "runtime/plan/search.h"

#include <stdio.h>
#include <string.h>

enum { MAX_CONTEXT = 64, MAX_MICRO = 8, SHORTEST_PART = 1024 };

typedef struct search {
    const ls_plan_job *job;
    double memory_bytes;
    const ls_plan_layout *pattern;
    int keep;
    ls_plan_result *result;
    ls_plan_found least; /* of bytes */
    char why[200];       /* the last reason against a layout */
} search;

static bool same_mesh(const ls_plan_layout *a, const ls_plan_layout *b) {
    return a->tensor == b->tensor && a->context == b->context && a->pipeline == b->pipeline &&
           a->shard == b->shard && a->replicate == b->replicate && a->expert == b->expert;
}

/* Into the sorted list; a mesh appears once, with its best settings. */
static void keep_found(search *s, const ls_plan_found *f) {
    ls_plan_result *r = s->result;
    int at = r->count, same = -1;
    for (int i = 0; i < r->count; i++) {
        if (same_mesh(&r->found[i].layout, &f->layout)) {
            same = i;
        }
        if (at == r->count && f->cost.step_s < r->found[i].cost.step_s) {
            at = i;
        }
    }
    if (same >= 0 && same < at) {
        return; /* that mesh has something better */
    }
    int end = same >= 0 ? same : r->count < s->keep ? r->count++ : r->count - 1;
    if (at > end) {
        return;
    }
    memmove(&r->found[at + 1], &r->found[at], (size_t)(end - at) * sizeof *f);
    r->found[at] = *f;
}

static void try_layout(search *s, const ls_plan_layout *l) {
    const char *why = ls_plan_illegal(s->job, l, s->why, sizeof s->why);
    if (why) {
        if (why != s->why) {
            snprintf(s->why, sizeof s->why, "%s", why);
        }
        return;
    }
    ls_plan_result *r = s->result;
    ls_plan_found f = {.layout = *l};
    r->legal++;
    ls_plan_bytes bytes;
    ls_plan_bytes_of(s->job, l, &bytes);
    ls_plan_cost_of(s->job, l, &f.cost);
    f.cost.bytes = bytes;
    if (s->least.cost.step_s == 0 || bytes.total < s->least.cost.bytes.total) {
        s->least = f;
    }
    if (bytes.total <= s->memory_bytes) {
        r->fitting++;
        keep_found(s, &f);
    } else if (r->nearest.cost.step_s == 0 || f.cost.step_s < r->nearest.cost.step_s) {
        r->nearest = f;
    }
}

static bool admits(int wanted, int value) {
    return wanted == 0 || wanted == value;
}

/* Micro-batches and recomputation of a mesh. */
static void try_settings(search *s, ls_plan_layout l) {
    static const ls_redo redo[] = {LS_REDO_NONE, LS_REDO_SELECTIVE, LS_REDO_FULL};
    const ls_plan_layout *want = s->pattern;
    if (!admits(want->shard, l.shard) || !admits(want->replicate, l.replicate) ||
        (want->zero != LS_OPEN && want->zero != l.zero)) {
        return;
    }
    const int most = want->micro ? want->micro : MAX_MICRO;
    for (l.micro = want->micro ? want->micro : 1; l.micro <= most; l.micro *= 2) {
        l.recompute = want->recompute;
        if (want->recompute != LS_OPEN) {
            try_layout(s, &l);
            continue;
        }
        for (int r = 0; r < 3; r++) {
            l.recompute = redo[r];
            try_layout(s, &l);
        }
    }
}

/* How the data-parallel ranks share weights: the optimizer's state over all; everything over all;
 * everything over those of a domain, with copies; or as the pattern says. */
static void try_sharding(search *s, ls_plan_layout l, int data) {
    const int inner = s->job->rates->domain / (l.tensor * l.context);
    const ls_plan_layout *want = s->pattern;
    const bool experts = s->job->model->experts > 0;
    for (l.expert = 1; l.expert <= (experts ? data : 1); l.expert *= 2) {
        if (!admits(want->expert, l.expert)) {
            continue;
        }
        const int shard = want->shard       ? want->shard
                          : want->replicate ? data / want->replicate
                                            : data;
        l.shard = data % shard ? data : shard;
        l.replicate = data / l.shard;
        for (l.zero = want->zero == LS_OPEN ? 1 : want->zero; l.zero <= 3; l.zero += 2) {
            /* Gathering weights for every part of every micro-batch never pays. */
            if (l.zero < 3 || want->zero == 3 || (data > 1 && l.interleave == 1)) {
                try_settings(s, l);
            }
            if (want->zero != LS_OPEN) {
                break;
            }
        }
        if (inner > 1 && inner < l.shard && data % inner == 0 && l.interleave == 1) {
            l.zero = 3;
            l.shard = inner;
            l.replicate = data / inner;
            try_settings(s, l);
        }
    }
}

static void try_pipelines(search *s, ls_plan_layout l, int rest) {
    const int64_t layers = s->job->model->layers;
    const int64_t last = s->pattern->pipeline ? s->pattern->pipeline : layers;
    for (l.pipeline = 1; l.pipeline <= rest && l.pipeline <= last; l.pipeline++) {
        if (rest % l.pipeline || !admits(s->pattern->pipeline, l.pipeline)) {
            continue;
        }
        /* Embedding and head in a layer's place only where it is asked for: runtime/step has none.
         */
        const int named = s->pattern->interleave;
        const int64_t most = named                                   ? named
                             : l.pipeline > 1 && layers > l.pipeline ? layers / l.pipeline
                                                                     : 1;
        for (l.interleave = 1; l.interleave <= most; l.interleave++) {
            if (admits(s->pattern->interleave, l.interleave)) {
                try_sharding(s, l, rest / l.pipeline);
            }
        }
    }
}

ls_status ls_plan_search(const ls_plan_job *job, int devices, double memory_bytes,
                         const ls_plan_layout *pattern, int keep, ls_plan_result *result) {
    static const ls_plan_layout open = {.zero = LS_OPEN, .recompute = LS_OPEN};
    *result = (ls_plan_result){0};
    search s = {.job = job,
                .memory_bytes = memory_bytes,
                .result = result,
                .pattern = pattern ? pattern : &open,
                .keep = keep < 1                   ? 1
                        : keep > LS_PLAN_MAX_FOUND ? LS_PLAN_MAX_FOUND
                                                   : keep};
    const ls_plan_layout *want = s.pattern;
    const int widest = want->tensor ? want->tensor : job->rates->domain;
    ls_plan_layout l = {.zero = 1, .expert = 1};
    for (l.tensor = 1; l.tensor <= widest && l.tensor <= devices; l.tensor++) {
        if (devices % l.tensor || job->model->heads % l.tensor || !admits(want->tensor, l.tensor)) {
            continue;
        }
        for (l.context = 1; l.context <= MAX_CONTEXT; l.context *= 2) {
            const int rest = devices / l.tensor;
            const bool tiny =
                l.context > 1 && job->seq / l.context < SHORTEST_PART && !want->context;
            if (rest % l.context == 0 && !tiny && admits(want->context, l.context)) {
                try_pipelines(&s, l, rest / l.context);
            }
        }
    }
    if (result->legal == 0) {
        return LS_FAIL(LS_E_NO,
                       "no layout of %s on %d devices is possible (the last one tried: %s); choose "
                       "another number of devices%s, or a batch that more numbers divide",
                       job->model->name, devices, s.why[0] ? s.why : "none divides",
                       pattern ? ", other sizes of axes" : "");
    }
    if (result->fitting == 0) {
        char text[160];
        result->nearest = s.least;
        return LS_FAIL(
            LS_E_NO,
            "%s does not fit on %d devices of %.0f GB: the smallest of %ld layouts (%s) "
            "needs %.1f GB each; take more devices, a smaller batch or shorter sequences",
            job->model->name, devices, memory_bytes * 1e-9, result->legal,
            ls_plan_layout_text(&s.least.layout, text, sizeof text),
            s.least.cost.bytes.total * 1e-9);
    }
    if (result->nearest.cost.step_s >= result->found[0].cost.step_s) {
        result->nearest = (ls_plan_found){0};
    }
    return LS_OK;
}

ls_term ls_plan_worst_term(const ls_plan_cost *best, const ls_plan_cost *other, double *seconds) {
    int worst = 0;
    *seconds = 0;
    for (int t = 0; t < LS_TERM_COUNT; t++) {
        const double more = other->seconds[t] - best->seconds[t];
        if (more > *seconds) {
            *seconds = more;
            worst = t;
        }
    }
    return (ls_term)worst;
}
