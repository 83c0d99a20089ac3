#include "benchmarks/plan/fit.h"

#include <math.h>
#include <string.h>

/* gemm, attention, memory, link, network: what well-tuned kernels reach in general. */
static const double prior[LS_PRECISION_COUNT][FIT_VALUES] = {
    [LS_PRECISION_FP32] = {0.70, 0.45, 0.75, 0.75, 0.75},
    [LS_PRECISION_BF16] = {0.72, 0.45, 0.75, 0.75, 0.75},
    [LS_PRECISION_FP8] = {0.60, 0.45, 0.75, 0.75, 0.75},
    [LS_PRECISION_FP4] = {0.50, 0.45, 0.75, 0.75, 0.75},
};
static const double most[FIT_VALUES] = {0.95, 0.85, 1.0, 0.95, 0.95};
static const double least[FIT_VALUES] = {0.15, 0.10, 0.15, 0.2, 0.1};
/* Standard deviations of log efficiency: of what is common around the prior, of a kind around what
 * is common. */
static const double spread_common[FIT_VALUES] = {0.3, 0.25, 0.3, 0.2, 0.3};
static const double spread_kind[FIT_VALUES] = {0.15, 0.15, 0.15, 0.1, 0.2};
/* Error of a row that weighs as one deviation. */
#define ROW_ERROR 0.05

static const ls_figure_id figure_of[LS_PRECISION_COUNT][FIT_VALUES] = {
#define ROW(P)                                                                                     \
    {                                                                                              \
        LS_FIG_GEMM_##P, LS_FIG_ATTENTION_##P, LS_FIG_MEMORY_##P, LS_FIG_LINK_##P,                 \
            LS_FIG_NETWORK_##P                                                                     \
    }
    [LS_PRECISION_FP32] = ROW(FP32),
    [LS_PRECISION_BF16] = ROW(BF16),
    [LS_PRECISION_FP8] = ROW(FP8),
    [LS_PRECISION_FP4] = ROW(FP4),
#undef ROW
};

static const fit_kind *kind_of(const fit *f, const ls_cluster *cluster) {
    for (int i = 0; i < f->kind_count; i++) {
        if (strcmp(f->kinds[i].name, cluster->text[LS_CLUSTER_KIND]) == 0) {
            return &f->kinds[i];
        }
    }
    return NULL;
}

static double predict(const double *own, const double *bf16, const run *r,
                      const ls_cluster *cluster, ls_plan_cost *cost) {
    static ls_cluster c;
    c = *cluster;
    for (int v = 0; v < FIT_VALUES; v++) {
        c.figure[figure_of[LS_PRECISION_BF16][v]].value = bf16[v];
        c.figure[figure_of[r->precision][v]].value = own[v];
    }
    ls_plan_rates rates;
    if (ls_plan_rates_of(&c, r->precision, &rates) != LS_OK) {
        return NAN;
    }
    const ls_plan_job job = {.model = &r->model,
                             .rates = &rates,
                             .software = &r->software,
                             .precision = r->precision,
                             .seq = r->seq,
                             .global_batch = r->global_batch};
    ls_plan_cost_of(&job, &r->layout, cost);
    return cost->step_s;
}

double fit_predict(const fit *f, const run *r, const ls_cluster *cluster, ls_plan_cost *cost) {
    const fit_kind *k = kind_of(f, cluster);
    return predict(k ? k->value[r->precision] : f->common[r->precision],
                   k ? k->value[LS_PRECISION_BF16] : f->common[LS_PRECISION_BF16], r, cluster,
                   cost);
}

/* What is minimised at once: rows of one kind, or of all, at one precision. */
typedef struct problem {
    const run_list *runs;
    const ls_cluster *const *clusters;
    const int *index; /* rows [count] with weights */
    const double *weight;
    int count;
    const fit *f;
    int precision;
    const double *around, *spread;
} problem;

static double loss(const problem *p, const double *value) {
    double total = 0;
    for (int v = 0; v < FIT_VALUES; v++) {
        const double d = log(value[v] / p->around[v]) / p->spread[v];
        total += d * d / 2;
    }
    ls_plan_cost cost;
    for (int i = 0; i < p->count; i++) {
        const run *r = &p->runs->rows[p->index[i]];
        const fit_kind *k = kind_of(p->f, p->clusters[p->index[i]]);
        const double *bf16 = p->precision == LS_PRECISION_BF16 ? value
                             : k                               ? k->value[LS_PRECISION_BF16]
                                                               : p->f->common[LS_PRECISION_BF16];
        const double s = predict(value, bf16, r, p->clusters[p->index[i]], &cost);
        total += p->weight[i] * fabs(log(s / r->measured_s)) / ROW_ERROR;
    }
    return total;
}

/* Coordinate search with a shrinking step in log efficiency. */
static void minimise(const problem *p, double *value) {
    double best = loss(p, value);
    for (double step = 0.16; step > 0.002; step /= 2) {
        for (bool better = true; better;) {
            better = false;
            for (int v = 0; v < FIT_VALUES; v++) {
                for (int sign = -1; sign <= 1; sign += 2) {
                    const double before = value[v];
                    value[v] = fmin(most[v], fmax(least[v], before * exp(sign * step)));
                    const double now = loss(p, value);
                    if (now < best - 1e-6) {
                        best = now;
                        better = true;
                    } else {
                        value[v] = before;
                    }
                }
            }
        }
    }
}

/* Best large product as a share of peak, over what is usual: known where somebody measured it. */
#define USUAL_SHARE 0.8

static int add_kind(fit *f, const ls_cluster *c) {
    const char *name = c->text[LS_CLUSTER_KIND];
    for (int i = 0; i < f->kind_count; i++) {
        if (strcmp(f->kinds[i].name, name) == 0) {
            return i;
        }
    }
    fit_kind *k = &f->kinds[f->kind_count];
    snprintf(k->name, sizeof k->name, "%.63s", name);
    const double share =
        c->figure[LS_FIG_ACHIEVED_BF16].value / c->figure[LS_FIG_TFLOPS_BF16].value;
    k->achieved = isnan(share) ? 1 : share / USUAL_SHARE;
    for (int p = 0; p < LS_PRECISION_COUNT; p++) {
        memcpy(k->value[p], prior[p], sizeof prior[p]);
    }
    return f->kind_count++;
}

enum { MAX_ROWS = 4096 };

static double weight_of(const run_list *runs, fit_use_fn use, const void *context, const run *r) {
    int same = 0;
    for (int i = 0; i < runs->count; i++) {
        const run *o = &runs->rows[i];
        same += !o->unused && use(o, context) && o->precision == r->precision &&
                strcmp(o->source, r->source) == 0;
    }
    return 1 / sqrt((double)same);
}

/* Rows of a precision (and of a kind, unless NULL) into index and weight. */
static int gather(const run_list *runs, const ls_cluster *const *clusters, fit_use_fn use,
                  const void *context, int precision, const char *kind, int *index,
                  double *weight) {
    int count = 0;
    for (int i = 0; i < runs->count && count < MAX_ROWS; i++) {
        const run *r = &runs->rows[i];
        if (!r->unused && (int)r->precision == precision && use(r, context) &&
            (!kind || strcmp(clusters[i]->text[LS_CLUSTER_KIND], kind) == 0)) {
            weight[count] = weight_of(runs, use, context, r);
            index[count++] = i;
        }
    }
    return count;
}

void fit_make(const run_list *runs, const ls_cluster *const *clusters, fit_use_fn use,
              const void *context, fit *out) {
    static int index[MAX_ROWS];
    static double weight[MAX_ROWS];
    memset(out, 0, sizeof *out);
    memcpy(out->common, prior, sizeof prior);
    for (int i = 0; i < runs->count; i++) {
        if (!runs->rows[i].unused) {
            add_kind(out, clusters[i]);
        }
    }
    for (int precision = LS_PRECISION_BF16; precision < LS_PRECISION_COUNT; precision++) {
        problem p = {.runs = runs,
                     .clusters = clusters,
                     .index = index,
                     .weight = weight,
                     .f = out,
                     .precision = precision,
                     .around = prior[precision],
                     .spread = spread_common};
        p.count = gather(runs, clusters, use, context, precision, NULL, index, weight);
        minimise(&p, out->common[precision]);
        for (int k = 0; k < out->kind_count; k++) {
            fit_kind *kind = &out->kinds[k];
            double around[FIT_VALUES];
            memcpy(around, out->common[precision], sizeof around);
            around[0] = fmin(most[0], around[0] * kind->achieved);
            memcpy(kind->value[precision], around, sizeof around);
            p.count = gather(runs, clusters, use, context, precision, kind->name, index, weight);
            p.around = around;
            p.spread = spread_kind;
            kind->rows[precision] = p.count;
            if (p.count) {
                minimise(&p, kind->value[precision]);
            }
        }
    }
}
