/* Efficiencies of device kinds at a precision, fitted to published runs: five numbers for each,
 * none for a row, a model or a program.
 *
 * Least absolute error of log(predicted / measured), a source's rows weighing together as the
 * square root of their number, with a pull towards what all kinds of a precision have in common
 * (itself pulled towards a plain prior), so that a kind with few rows, or none, gets sensible
 * numbers. */
#ifndef LS_BENCHMARKS_PLAN_FIT_H
#define LS_BENCHMARKS_PLAN_FIT_H

#include "benchmarks/plan/runs.h"

enum { FIT_VALUES = 5, FIT_MAX_KINDS = 24 };

typedef struct fit_kind {
    char name[64];                                /* "H100" */
    double value[LS_PRECISION_COUNT][FIT_VALUES]; /* gemm, attention, memory, link, network */
    int rows[LS_PRECISION_COUNT];
    double achieved; /* of what is usual, on the best large product */
} fit_kind;

typedef struct fit {
    fit_kind kinds[FIT_MAX_KINDS];
    int kind_count;
    double common[LS_PRECISION_COUNT][FIT_VALUES];
} fit;

typedef bool (*fit_use_fn)(const run *r, const void *context);

/* Fits to the rows that `use` admits. `clusters` [runs->count]: each row's profile. */
void fit_make(const run_list *runs, const ls_cluster *const *clusters, fit_use_fn use,
              const void *context, fit *out);
/* Seconds of a step by these efficiencies. */
double fit_predict(const fit *f, const run *r, const ls_cluster *cluster, ls_plan_cost *cost);

#endif
