/* All layouts of a model on a number of devices, costed; the best few kept. */
#ifndef LS_PLAN_SEARCH_H
#define LS_PLAN_SEARCH_H

#include "runtime/plan/cost.h"

enum { LS_PLAN_MAX_FOUND = 32 };

typedef struct ls_plan_found {
    ls_plan_layout layout;
    ls_plan_cost cost;
} ls_plan_found;

typedef struct ls_plan_result {
    ls_plan_found found[LS_PLAN_MAX_FOUND]; /* fitting, fastest first, one for each mesh */
    int count;
    long legal, fitting;   /* layouts */
    ls_plan_found nearest; /* the least bytes when nothing fits; else the fastest that does not fit,
                              if it were faster than the best: cost.step_s 0 when there is none */
} ls_plan_result;

/* Tries every tensor and context size within a domain (tensor; context up to 64), pipeline,
 * interleaving, sharding (optimizer; all of the weights over all or over a domain's ranks), expert
 * parallelism, micro-batch of 1 to 8 and recomputation. memory_bytes: of a device, usable. Members
 * of `pattern` that are not open are kept; NULL: all are open. keep: at most LS_PLAN_MAX_FOUND.
 * LS_E_NO when no layout is legal or none fits, with a way out. */
ls_status ls_plan_search(const ls_plan_job *job, int devices, double memory_bytes,
                         const ls_plan_layout *pattern, int keep, ls_plan_result *result);

/* The term by which `other` loses most against `best`, and by how many seconds. */
ls_term ls_plan_worst_term(const ls_plan_cost *best, const ls_plan_cost *other, double *seconds);

#endif
