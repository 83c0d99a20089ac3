/* How wrong the planner is: its step times beside published ones.
 *
 * bench_plan [RUNS.csv] [--svg FILE] [--fit DEVICES_DIR] [--rows] [--check FILE.csv]
 *
 * Every source is predicted with efficiencies fitted to the others only. Two ways of leaving out
 * are printed: a source as the file names it (a page at a version), and a publisher with all its
 * pages.
 * --fit writes efficiencies fitted to all rows into the device files. --rows prints every row.
 * --check compares the rows of another file, which no fit has seen, and nothing else. */
#include "benchmarks/plan/fit.h"
#include "benchmarks/plan/scatter.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"

#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct bench {
    run_list runs;
    const ls_cluster **clusters; /* by row */
    ls_cluster *loaded;          /* by place */
    int loaded_count;
    double *held_out_s; /* [rows] */
} bench;

static ls_status load_cluster(bench *b, int row) {
    run *r = &b->runs.rows[row];
    for (int i = 0; i < b->loaded_count; i++) {
        if (strcmp(b->loaded[i].text[LS_CLUSTER_NAME], r->cluster) == 0) {
            b->clusters[row] = &b->loaded[i];
            return LS_OK;
        }
    }
    ls_cluster *c = &b->loaded[b->loaded_count++];
    LS_TRY(ls_cluster_load(r->cluster, c));
    b->clusters[row] = c;
    if (isnan(c->figure[LS_FIG_NETWORK_GBIT_S].value)) { /* racks whose network nobody states */
        c->figure[LS_FIG_NETWORK_GBIT_S].value = 400;
    }
    return LS_OK;
}

/* Where a source does not say what is recomputed: the least that fits by the planner's own bytes.
 */
static void choose_recompute(run *r, const ls_cluster *c) {
    ls_plan_rates rates;
    if (!r->choose_recompute || r->software.offload ||
        ls_plan_rates_of(c, r->precision, &rates) != LS_OK) {
        return;
    }
    const ls_plan_job job = {.model = &r->model,
                             .rates = &rates,
                             .software = &r->software,
                             .precision = r->precision,
                             .seq = r->seq,
                             .global_batch = r->global_batch};
    for (int k = LS_REDO_NONE; k <= LS_REDO_FULL; k++) {
        ls_plan_bytes bytes;
        r->layout.recompute = k;
        ls_plan_bytes_of(&job, &r->layout, &bytes);
        if (bytes.total <= c->figure[LS_FIG_MEMORY_GB].value * 1e9 * 0.98) {
            return;
        }
    }
}

static ls_status load(bench *b, const char *path) {
    LS_TRY(runs_read(path, &b->runs));
    LS_TRY(ls_calloc((size_t)b->runs.count, sizeof(ls_cluster *), &b->clusters));
    LS_TRY(ls_calloc(32, sizeof(ls_cluster), &b->loaded));
    LS_TRY(ls_calloc((size_t)b->runs.count, sizeof(double), &b->held_out_s));
    for (int i = 0; i < b->runs.count; i++) {
        if (!b->runs.rows[i].unused) {
            LS_TRY(load_cluster(b, i));
            choose_recompute(&b->runs.rows[i], b->clusters[i]);
        }
    }
    return LS_OK;
}

typedef const char *(*group_fn)(const run *r);
static const char *by_source(const run *r) {
    return r->source;
}
static const char *by_publisher(const run *r) {
    return r->publisher;
}

typedef struct without {
    group_fn group;
    const char *name;
} without;

static bool not_in(const run *r, const void *context) {
    const without *w = context;
    return !w->name || strcmp(w->group(r), w->name) != 0;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* |predicted / measured - 1| at a share of the sorted errors. */
static double at_share(double *errors, int count, double share) {
    qsort(errors, (size_t)count, sizeof *errors, ascending);
    const int i = (int)ceil(share * count) - 1;
    return errors[i < 0 ? 0 : i];
}

static double error_of(const bench *b, int i, const double *predicted_s) {
    return fabs(predicted_s[i] / b->runs.rows[i].measured_s - 1);
}

/* Predicts each group's rows with a fit to the other groups. */
static void hold_out(const bench *b, group_fn group, double *predicted_s) {
    static fit f;
    for (int i = 0; i < b->runs.count; i++) {
        predicted_s[i] = NAN;
    }
    for (int i = 0; i < b->runs.count; i++) {
        const run *r = &b->runs.rows[i];
        if (r->unused || !isnan(predicted_s[i])) {
            continue;
        }
        const without w = {group, group(r)};
        fit_make(&b->runs, b->clusters, not_in, &w, &f);
        for (int k = i; k < b->runs.count; k++) {
            const run *o = &b->runs.rows[k];
            ls_plan_cost cost;
            if (!o->unused && strcmp(group(o), group(r)) == 0) {
                predicted_s[k] = fit_predict(&f, o, b->clusters[k], &cost);
            }
        }
    }
}

static void print_groups(const bench *b, group_fn group, const double *predicted_s,
                         const char *title, double *errors) {
    printf("\n%-72s %5s %8s %8s %8s\n", title, "rows", "median", "p90", "bias");
    for (int i = 0; i < b->runs.count; i++) {
        const char *name = group(&b->runs.rows[i]);
        int count = 0;
        double bias = 0;
        bool first = !b->runs.rows[i].unused;
        for (int k = 0; k < b->runs.count; k++) {
            const run *o = &b->runs.rows[k];
            if (o->unused || strcmp(group(o), name) != 0) {
                continue;
            }
            first = first && k >= i;
            bias += log(predicted_s[k] / o->measured_s);
            errors[count++] = error_of(b, k, predicted_s);
        }
        if (first) {
            bias /= count;
            const double median = at_share(errors, count, 0.5);
            printf("%-72.72s %5d %7.1f%% %7.1f%% %+7.1f%%\n", name, count, 100 * median,
                   100 * at_share(errors, count, 0.9), 100 * (exp(bias) - 1));
        }
    }
}

static void print_total(const bench *b, const char *title, const double *predicted_s,
                        double *errors) {
    int count = 0;
    for (int i = 0; i < b->runs.count; i++) {
        if (!b->runs.rows[i].unused) {
            errors[count++] = error_of(b, i, predicted_s);
        }
    }
    const double median = at_share(errors, count, 0.5);
    printf("%-44s %4d rows: median %.1f%%, 90th percentile %.1f%%, worst %.1f%%\n", title, count,
           100 * median, 100 * at_share(errors, count, 0.9), 100 * errors[count - 1]);
}

static void print_rows(const bench *b, const double *predicted_s, const fit *all) {
    for (int i = 0; i < b->runs.count; i++) {
        const run *r = &b->runs.rows[i];
        if (r->unused) {
            printf("%3d %-24.24s %-30.30s not compared: %s\n", i + 2, r->name, r->source,
                   r->unused);
            continue;
        }
        ls_plan_cost c;
        fit_predict(all, r, b->clusters[i], &c);
        const ls_plan_layout *l = &r->layout;
        printf(
            "%3d %-18.18s %-22.22s %5d %-5s %-4s T%dP%dx%dC%dD%dm%dz%d r%d %8.3f %8.3f %+6.1f%% |",
            i + 2, r->name, r->publisher, r->devices, all->kinds[0].name[0] ? r->gpu : "",
            ls_precision_name(r->precision), l->tensor, l->pipeline, l->interleave, l->context,
            l->shard * l->replicate, l->micro, l->zero, l->recompute, r->measured_s, predicted_s[i],
            100 * (predicted_s[i] / r->measured_s - 1));
        for (int t = 0; t < LS_TERM_COUNT; t++) {
            printf(" %2.0f", 100 * c.seconds[t] / c.step_s);
        }
        printf("\n");
    }
}

static void print_fit(const fit *f) {
    printf("\nfitted efficiencies        rows   gemm  attention  memory  link  network\n");
    for (int k = 0; k < f->kind_count; k++) {
        for (int p = LS_PRECISION_BF16; p < LS_PRECISION_COUNT; p++) {
            const double *v = f->kinds[k].value[p];
            if (f->kinds[k].rows[p]) {
                printf("%-20s %-5s %4d  %.3f  %.3f      %.3f   %.3f %.3f\n", f->kinds[k].name,
                       ls_precision_name((ls_precision)p), f->kinds[k].rows[p], v[0], v[1], v[2],
                       v[3], v[4]);
            }
        }
    }
}

#define MARK                                                                                       \
    "# Fitted to published runs: bench_plan --fit launch/clusters/devices (benchmarks/plan).\n"

/* Kinds that have another one's processor. */
static const char *processor_of(const char *kind) {
    return strcmp(kind, "H800") == 0 || strcmp(kind, "H200") == 0 ? "H100" : kind;
}

static void write_efficiencies(FILE *out, const fit *f, const ls_cluster *c) {
    const fit_kind *k = NULL;
    for (int i = 0; i < f->kind_count; i++) {
        if (strcmp(f->kinds[i].name, processor_of(c->text[LS_CLUSTER_KIND])) == 0) {
            k = &f->kinds[i];
        }
    }
    static const char *const keys[FIT_VALUES] = {"gemm", "attention", "memory", "link", "network"};
    fputs(
        MARK
        "sources:\n  fit: 'benchmarks/plan/runs.csv, all rows of the kind and precision'\n"
        "  common: 'benchmarks/plan/runs.csv, what the kinds have in common: no row of this one'\n",
        out);
    for (int p = LS_PRECISION_BF16; p < LS_PRECISION_COUNT; p++) {
        static const ls_figure_id peaks[] = {LS_FIG_TFLOPS_FP32, LS_FIG_TFLOPS_BF16,
                                             LS_FIG_TFLOPS_FP8, LS_FIG_TFLOPS_FP4};
        if (isnan(c->figure[peaks[p]].value)) {
            continue;
        }
        const double *value = k ? k->value[p] : f->common[p];
        fprintf(out, "efficiency_%s:\n", ls_precision_name((ls_precision)p));
        for (int v = 0; v < FIT_VALUES; v++) {
            fprintf(out, "  %s: {value: %.3f, source: %s}\n", keys[v], value[v],
                    k && k->rows[p] ? "fit" : "common");
        }
    }
}

/* Replaces the part of a device's file that follows the mark. */
static ls_status fit_file(const fit *f, const char *path) {
    static ls_cluster c;
    char *text, *fresh = NULL;
    size_t bytes, fresh_bytes = 0;
    LS_TRY(ls_file_read(path, 1 << 20, &text, &bytes));
    char *mark = strstr(text, MARK);
    if (mark) {
        *mark = '\0';
    }
    ls_status status = ls_device_load_text(path, text, strlen(text), &c);
    FILE *out = status == LS_OK ? open_memstream(&fresh, &fresh_bytes) : NULL;
    if (out) {
        fputs(text, out);
        write_efficiencies(out, f, &c);
        fclose(out);
        status = ls_file_replace(path, fresh, fresh_bytes);
    }
    free(fresh);
    free(text);
    return status;
}

static ls_status fit_devices(const fit *f, const char *folder) {
    glob_t found;
    char pattern[1024];
    LS_TRY(ls_path_join(pattern, sizeof pattern, folder, "*.yaml"));
    if (glob(pattern, 0, NULL, &found) != 0) {
        return LS_FAIL(LS_E_INPUT, "no device files in '%s'", folder);
    }
    ls_status status = LS_OK;
    for (size_t i = 0; i < found.gl_pathc && status == LS_OK; i++) {
        status = fit_file(f, found.gl_pathv[i]);
    }
    globfree(&found);
    return status;
}

/* Rows that the fit has not seen. */
static ls_status check(const char *path, const fit *all, bool rows) {
    static bench b;
    double *errors;
    LS_TRY(load(&b, path));
    LS_TRY(ls_calloc((size_t)b.runs.count, sizeof *errors, &errors));
    for (int i = 0; i < b.runs.count; i++) {
        ls_plan_cost cost;
        b.held_out_s[i] =
            b.runs.rows[i].unused ? NAN : fit_predict(all, &b.runs.rows[i], b.clusters[i], &cost);
    }
    if (rows) {
        print_rows(&b, b.held_out_s, all);
    }
    print_groups(&b, by_source, b.held_out_s, "source, not fitted to", errors);
    print_total(&b, "not fitted to", b.held_out_s, errors);
    free(errors);
    return LS_OK;
}

static ls_status run_bench(int argc, char **argv) {
    static bench b;
    static fit all;
    const char *path = "benchmarks/plan/runs.csv", *svg = NULL, *devices = NULL, *other = NULL;
    bool rows = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--rows") == 0) {
            rows = true;
        } else if (strcmp(argv[i], "--svg") == 0 && i + 1 < argc) {
            svg = argv[++i];
        } else if (strcmp(argv[i], "--fit") == 0 && i + 1 < argc) {
            devices = argv[++i];
        } else if (strcmp(argv[i], "--check") == 0 && i + 1 < argc) {
            other = argv[++i];
        } else if (argv[i][0] == '-') {
            return LS_FAIL(LS_E_USAGE, "unknown option '%s'", argv[i]);
        } else {
            path = argv[i];
        }
    }
    LS_TRY(load(&b, path));
    double *errors, *again_s;
    LS_TRY(ls_calloc((size_t)b.runs.count, sizeof *errors, &errors));
    LS_TRY(ls_calloc((size_t)b.runs.count, sizeof *again_s, &again_s));
    const without none = {by_source, NULL};
    fit_make(&b.runs, b.clusters, not_in, &none, &all);
    if (other) {
        return check(other, &all, rows);
    }
    for (int i = 0; i < b.runs.count; i++) {
        ls_plan_cost cost;
        again_s[i] =
            b.runs.rows[i].unused ? NAN : fit_predict(&all, &b.runs.rows[i], b.clusters[i], &cost);
    }
    if (rows) {
        print_rows(&b, again_s, &all);
    }
    print_fit(&all);
    print_groups(&b, by_publisher, again_s, "publisher, fitted to all", errors);
    print_total(&b, "fitted to all", again_s, errors);
    if (devices) {
        return fit_devices(&all, devices);
    }
    hold_out(&b, by_source, b.held_out_s);
    print_groups(&b, by_source, b.held_out_s, "source, held out", errors);
    print_total(&b, "each source held out", b.held_out_s, errors);
    hold_out(&b, by_publisher, again_s);
    print_groups(&b, by_publisher, again_s, "publisher, held out", errors);
    print_total(&b, "each publisher held out", again_s, errors);
    if (svg) {
        LS_TRY(scatter_write(svg, &b.runs, b.held_out_s));
    }
    return LS_OK;
}

int main(int argc, char **argv) {
    ls_status status = run_bench(argc, argv);
    if (status != LS_OK) {
        fprintf(stderr, "bench_plan: %s\n", ls_error_last()->message);
    }
    return ls_status_exit(status);
}
