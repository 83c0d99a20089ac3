/* Published training runs, turned into jobs for the planner.
 *
 * The file is a CSV with the columns of runs.csv, in any order. What a source's notes say in words
 * (micro-batch, virtual stages, size of a sharding group) is read from the note; what is true of
 * all runs of a program (kernels fused or not, communication hidden or not) from the source's name.
 * Nothing here depends on a result. */
#ifndef LS_BENCHMARKS_PLAN_RUNS_H
#define LS_BENCHMARKS_PLAN_RUNS_H

#include "runtime/plan/cost.h"

typedef struct run {
    char source[200], publisher[64], name[64], gpu[64], cluster[40];
    ls_plan_model model;
    ls_plan_layout layout;
    ls_software software;
    ls_precision precision;
    int64_t seq, global_batch;
    int devices;
    double measured_s;     /* seconds of a step */
    const char *unused;    /* why the row is not compared; NULL when it is */
    bool choose_recompute; /* the source does not say: the least that fits */
} run;

typedef struct runs {
    run *rows;
    int count;
} run_list;

ls_status runs_read(const char *path, run_list *out);
void runs_release(run_list *r);

#endif
