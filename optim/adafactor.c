/* Adafactor; the formulas are in device.h. What belongs to a whole parameter (sums of rows and
 * columns, sizes of the parameter and of its update) is added over the ranks of shard: two
 * all-reduces a step. */
#include "optim/optim_internal.h"
#include "runtime/base/arena.h"

#include <math.h>
#include <stdlib.h>

#define LEAST_SIZE 1e-3 /* of a parameter that updates are relative to (epsilon_2) */
#define LEAST_MEAN 1e-30

enum { VECTOR, ROWS, COLS };

/* Of one parameter. */
typedef struct sizes {
    double param, update; /* sums of squares */
} sizes;

typedef struct adafactor {
    void *sums; /* device: rows of all matrices, then columns, as the states are laid out */
    int64_t row_elems, elems;
    double **factors; /* [param_count] of `count` matrices: 1 / mean of row states */
    sizes *sizes;     /* [param_count] */
} adafactor;

static ls_optim_shape shape(const ls_config_optim *config, const ls_param *param, int state) {
    (void)config;
    if (param->ndim < 2) {
        return state == VECTOR ? LS_STATE_FULL : LS_STATE_NONE;
    }
    return state == ROWS ? LS_STATE_ROWS : state == COLS ? LS_STATE_COLS : LS_STATE_NONE;
}

static ls_status prepare(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    adafactor *own;
    LS_TRY(ls_calloc(1, sizeof *own, &own));
    optim->own = own;
    own->row_elems = optim->state_elems[ROWS];
    own->elems = own->row_elems + optim->state_elems[COLS];
    LS_TRY(ls_calloc((size_t)o->param_count, sizeof *own->factors, &own->factors));
    LS_TRY(ls_calloc((size_t)o->param_count, sizeof *own->sizes, &own->sizes));
    for (int i = 0; i < o->param_count; i++) {
        const ls_param *param = &o->params[i];
        if (param->ndim >= 2 && param->tp_axis >= 0 && param->tp_ranks > 1) {
            return LS_FAIL(LS_E_UNSUPPORTED,
                           "optim.name is adafactor, and '%s' is split over %d tensor or expert "
                           "ranks; use adamw or lion, or parallel.tensor=1",
                           param->name, param->tp_ranks);
        }
        LS_TRY(ls_calloc((size_t)ls_matrices_of(param).count, sizeof **own->factors,
                         &own->factors[i]));
    }
    optim->own_bytes = (size_t)own->elems * ls_dtype_bytes(o->dev->acc);
    return o->dev->ops->alloc(o->dev, optim->own_bytes, &own->sums);
}

static void release(ls_optim *optim) {
    adafactor *own = optim->own;
    if (!own) {
        return;
    }
    for (int i = 0; own->factors && i < optim->options.param_count; i++) {
        free(own->factors[i]);
    }
    optim->options.dev->ops->free(optim->options.dev, own->sums);
    free(own->factors);
    free(own->sizes);
    free(own);
}

/* Where the sums for a state's vector of a parameter are. */
static void *sums_at(const ls_optim *optim, int state, int param) {
    const adafactor *own = optim->own;
    int64_t at = optim->vectors[state * optim->options.param_count + param];
    return ls_elem_at(own->sums, state == COLS ? own->row_elems + at : at, optim->options.dev->acc);
}

typedef ls_status (*part_fn)(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op);

/* Calls fn for each matrix that a run lies in, or once for a vector, with gradients, factors,
 * parameters and copies filled in on top of `common`. */
static ls_status each_part(ls_optim *optim, const ls_optim_pass *pass, const ls_optim_run *run,
                           ls_adafactor common, part_fn fn) {
    const ls_optim_options *o = &optim->options;
    const adafactor *own = optim->own;
    const ls_param *param = &o->params[run->param];
    const ls_dtype acc = o->dev->acc;
    bool matrix = param->ndim >= 2;
    ls_matrices m = matrix ? ls_matrices_of(param) : (ls_matrices){1, 1, param->elems};
    int64_t first = run->flat_offset - param->offset, size = m.rows * m.cols;
    for (int64_t i = first / size; i * size < first + run->elems; i++) {
        int64_t begin = i * size > first ? i * size : first;
        int64_t end = (i + 1) * size < first + run->elems ? (i + 1) * size : first + run->elems;
        ls_adafactor op = common;
        op.first = matrix ? begin - i * size : 0;
        op.n = end - begin;
        op.cols = matrix ? m.cols : end - begin;
        op.grad_scale = pass->grad_scale;
        op.grad = ls_run_grads(optim, pass, run, begin - first);
        op.v = ls_run_state(optim, VECTOR, run, begin - first);
        if (matrix) {
            op.row = ls_elem_at(ls_optim_state_vector(optim, ROWS, run->param), i * m.rows, acc);
            op.col = ls_elem_at(ls_optim_state_vector(optim, COLS, run->param), i * m.cols, acc);
            op.row_sums = ls_elem_at(sums_at(optim, ROWS, run->param), i * m.rows, acc);
            op.col_sums = ls_elem_at(sums_at(optim, COLS, run->param), i * m.cols, acc);
            op.factor = own->factors[run->param][i];
        }
        op.p = ls_run_masters(optim, run, begin - first);
        op.copy_dtype = o->copy_dtype;
        op.copy = ls_run_copies(optim, run, begin - first);
        LS_TRY(fn(optim, run, &op));
    }
    return LS_OK;
}

static ls_status add_squares(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op) {
    (void)run;
    return optim->options.dev->ops->adafactor_squares(optim->options.dev, op);
}

static ls_status add_sizes(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op) {
    sizes *s = &((adafactor *)optim->own)->sizes[run->param];
    double update, param;
    LS_TRY(optim->options.dev->ops->adafactor_norm(optim->options.dev, op, &update));
    LS_TRY(ls_optim_sum_squares(optim, op->p, op->n, &param));
    s->update += update;
    s->param += param;
    return LS_OK;
}

static ls_status apply(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op) {
    (void)run;
    return optim->options.dev->ops->adafactor_apply(optim->options.dev, op);
}

static int64_t real_elems(const ls_param *param) {
    return param->elems / param->local_dims[0] * param->valid_rows;
}

/* row = b2 row + (1 - b2) mean of the squares in a row, col likewise; padding rows do not count. */
static ls_status update_factors(ls_optim *optim, int index, double beta2) {
    const ls_optim_options *o = &optim->options;
    const ls_param *param = &o->params[index];
    const ls_dtype acc = o->dev->acc;
    ls_matrices m = ls_matrices_of(param);
    double real_rows = (double)real_elems(param) / (double)(m.count * m.cols);
    void *row = ls_optim_state_vector(optim, ROWS, index);
    LS_TRY(o->dev->ops->blend(o->dev, m.count * m.rows, (1.0 - beta2) / (double)m.cols,
                              sums_at(optim, ROWS, index), beta2, row));
    LS_TRY(o->dev->ops->blend(o->dev, m.count * m.cols, (1.0 - beta2) / real_rows,
                              sums_at(optim, COLS, index), beta2,
                              ls_optim_state_vector(optim, COLS, index)));
    for (int64_t i = 0; i < m.count; i++) {
        double sum;
        LS_TRY(o->dev->ops->sum(o->dev, m.rows, ls_elem_at(row, i * m.rows, acc), &sum));
        ((adafactor *)optim->own)->factors[index][i] = 1.0 / fmax(sum / real_rows, LEAST_MEAN);
    }
    return LS_OK;
}

static ls_status over_shards(const ls_optim *optim, void *values, int64_t count, ls_dtype dtype) {
    ls_comm *shard = optim->options.shard;
    return shard && shard->size > 1 ? shard->ops->all_reduce(shard, values, count, dtype, LS_SUM)
                                    : LS_OK;
}

static ls_status update_statistics(ls_optim *optim, const ls_optim_pass *pass) {
    const ls_optim_options *o = &optim->options;
    adafactor *own = optim->own;
    double beta2 = 1.0 - pow((double)pass->t, -0.8);
    LS_TRY(o->dev->ops->zero(o->dev, own->sums, optim->own_bytes));
    for (int i = 0; i < optim->run_count; i++) {
        LS_TRY(
            each_part(optim, pass, &optim->runs[i], (ls_adafactor){.beta2 = beta2}, add_squares));
    }
    LS_TRY(over_shards(optim, own->sums, own->elems, o->dev->acc));
    for (int i = 0; i < o->param_count; i++) {
        own->sizes[i] = (sizes){0};
        if (o->params[i].ndim >= 2) {
            LS_TRY(update_factors(optim, i, beta2));
        }
    }
    for (int i = 0; i < optim->run_count; i++) {
        LS_TRY(each_part(optim, pass, &optim->runs[i], (ls_adafactor){0}, add_sizes));
    }
    return over_shards(optim, own->sizes, 2 * o->param_count, LS_F64);
}

static ls_status step(ls_optim *optim, const ls_optim_pass *pass) {
    LS_TRY(update_statistics(optim, pass));
    const adafactor *own = optim->own;
    for (int i = 0; i < optim->run_count; i++) {
        const ls_optim_run *run = &optim->runs[i];
        double n = (double)real_elems(&optim->options.params[run->param]);
        double param = sqrt(own->sizes[run->param].param / n);
        double update = sqrt(own->sizes[run->param].update / n);
        double lr = pass->lr * run->rule.lr_scale;
        ls_adafactor common = {.keep = 1.0 - lr * run->rule.weight_decay,
                               .lr = fmax(LEAST_SIZE, param) * lr / fmax(1.0, update)};
        LS_TRY(each_part(optim, pass, run, common, apply));
    }
    return LS_OK;
}

const ls_optim_ops ls_optim_adafactor = {
    .name = "adafactor",
    .states = {"exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col"},
    .shape = shape,
    .apart = true,
    .prepare = prepare,
    .release = release,
    .step = step,
};
