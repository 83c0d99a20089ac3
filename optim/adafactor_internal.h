/* What the two ways of Adafactor share: with totals on the host (adafactor.c), and on a device
 * whose operations go on when a call has returned (adafactor_device.c). */
#ifndef LS_OPTIM_ADAFACTOR_INTERNAL_H
#define LS_OPTIM_ADAFACTOR_INTERNAL_H

#include "optim/optim_internal.h"
#include "runtime/base/exact_sum.h"

#define LS_ADAFACTOR_LEAST_SIZE 1e-3 /* of a parameter that updates are relative to (epsilon_2) */
#define LS_ADAFACTOR_LEAST_MEAN 1e-30

enum { LS_ADAFACTOR_VECTOR, LS_ADAFACTOR_ROWS, LS_ADAFACTOR_COLS };

/* What a step sums over whole parameters, which several ranks may have parts of: exactly
 * (exact_sum.h, and device.h for rows and columns), so that it has the same bits however they are
 * divided. */
typedef struct ls_adafactor_total {
    int32_t *scales; /* [param_count], as all below */
    ls_exact_sum *sums;
    double *values;
} ls_adafactor_total;

typedef struct ls_adafactor_own {
    size_t sums_bytes;
    double *sums, *host_sums; /* device, host: pairs for rows of all matrices, then columns, in the
                                 order of the states; on the device a last row for columns of what
                                 another tensor rank counts */
    void *host_states;        /* acc: those */
    int64_t row_elems, elems;
    double *shared;    /* pairs that are added over tensor ranks; where the sums are added */
    double *row_means; /* [param_count], of those with one matrix */
    double **factors;  /* [param_count] of `count` matrices: 1 / mean of row states */
    double *pieces;    /* sums of squares on the grid, in order of runs and matrices */
    int64_t *ends;     /* [run_count]: behind the last piece of a run */
    int64_t piece_count;
    double (*splits)[2]; /* [param_count] */
    ls_adafactor_total grads, params, updates;
    /* With dev->async; memory holds all that is on the device. */
    void *memory;
    int64_t *first_terms; /* [param_count] on the host */
    ls_adafactor_all all;
    void *table, *row_counts; /* all's, to be filled by the first step */
    int64_t *piece_ends;      /* device [param_count + 1] */
    bool has_tables, ends_known;
} ls_adafactor_own;

typedef ls_status (*ls_adafactor_part)(ls_optim *optim, const ls_optim_run *run,
                                       const ls_adafactor *op, bool counted);

/* Calls fn for each matrix that a run lies in, or for a vector, cut where what is counted begins or
 * ends, with gradients, factors, parameters and copies filled in on top of `common`. */
ls_status ls_adafactor_each_part(ls_optim *optim, const ls_optim_pass *pass,
                                 const ls_optim_run *run, ls_adafactor common,
                                 ls_adafactor_part fn);
/* Most pieces of the grid in this rank's runs, each matrix counted for itself. */
int64_t ls_adafactor_most_pieces(const ls_optim *optim);
/* Elements of the state of which tensor ranks have different parts to add up. */
int64_t ls_adafactor_shared_elems(const ls_param *param);
/* The entry of a state's vector of a parameter among those of both states. */
int64_t ls_adafactor_entry(const ls_optim *optim, int state, int param);
/* Does this rank count a row of a matrix in its mean? */
bool ls_adafactor_counts_row(const ls_param *param, int64_t matrix, int64_t row);
/* Of the whole parameter, without padding; and of all ranks together, with it. */
int64_t ls_adafactor_real_elems(const ls_param *param);
int64_t ls_adafactor_padded_elems(const ls_param *param);
/* `each` values for each parameter, over all ranks that have parts of it; sums of rows and columns.
 * Of host memory, or with dev->async of device memory. */
ls_status ls_adafactor_over_parts(const ls_optim *optim, void *values, int64_t each, ls_dtype dtype,
                                  ls_reduce op);
ls_status ls_adafactor_over(const ls_optim *optim, ls_comm *group, void *values, int64_t count,
                            ls_dtype dtype, ls_reduce op);
ls_status ls_adafactor_add_sums(const ls_optim *optim, double *sums);
/* Adds the squares of gradients to rows and columns. */
ls_status ls_adafactor_add_squares(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op,
                                   bool counted);
ls_status ls_adafactor_apply(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op,
                             bool counted);

/* adafactor_device.c */
ls_status ls_adafactor_device_prepare(ls_optim *optim);
ls_status ls_adafactor_device_step(ls_optim *optim, const ls_optim_pass *pass);

#endif
