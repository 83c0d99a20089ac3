#ifndef LS_BENCHMARKS_PLAN_SCATTER_H
#define LS_BENCHMARKS_PLAN_SCATTER_H

#include "benchmarks/plan/runs.h"

/* Measured against predicted seconds of a step as an SVG with both axes logarithmic; predicted_s
 * [runs->count], NAN where there is none. */
ls_status scatter_write(const char *path, const run_list *runs, const double *predicted_s);

#endif
