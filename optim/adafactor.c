/* Adafactor; the formulas are in device.h. What belongs to a whole parameter (sums of rows and
 * columns, sizes of the parameter and of its update) is added over the ranks that have parts of it:
 * those of shard, then those of tensor (of experts apart: expert_shard, then experts). Of a matrix
 * whose rows tensor ranks split, each has the sums of its rows, and those of columns are added; of
 * one whose columns are split it is the other way round. */
#include "optim/adafactor_internal.h"
#include "runtime/base/arena.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef ls_adafactor_total total;
typedef ls_adafactor_own adafactor;
enum { VECTOR = LS_ADAFACTOR_VECTOR, ROWS = LS_ADAFACTOR_ROWS, COLS = LS_ADAFACTOR_COLS };

static ls_optim_shape shape(const ls_config_optim *config, const ls_param *param, int state) {
    (void)config;
    if (param->ndim < 2) {
        return state == VECTOR ? LS_STATE_FULL : LS_STATE_NONE;
    }
    return state == ROWS ? LS_STATE_ROWS : state == COLS ? LS_STATE_COLS : LS_STATE_NONE;
}

static ls_status take_total(total *t, size_t count) {
    LS_TRY(ls_calloc(count, sizeof *t->scales, &t->scales));
    LS_TRY(ls_calloc(count, sizeof *t->sums, &t->sums));
    return ls_calloc(count, sizeof *t->values, &t->values);
}

static void free_total(total *t) {
    free(t->scales);
    free(t->sums);
    free(t->values);
}

static ls_matrices matrices_of(const ls_param *param) {
    return param->ndim >= 2 ? ls_matrices_of(param) : (ls_matrices){1, 1, param->elems};
}

int64_t ls_adafactor_most_pieces(const ls_optim *optim) {
    int64_t count = 0;
    for (int i = 0; i < optim->run_count; i++) {
        const ls_optim_run *run = &optim->runs[i];
        const ls_matrices m = matrices_of(&optim->options.params[run->param]);
        count += run->elems / LS_SQUARES_ELEMS + 2 + 2 * (run->elems / (m.rows * m.cols) + 2) +
                 4 * LS_MAX_GROUPS;
    }
    return count;
}

/* The state of which tensor ranks have different parts to add up; -1: none. */
static int shared_state(const ls_param *param) {
    if (param->tp_ranks <= 1 || param->ndim < 2 || param->tp_axis < param->ndim - 2) {
        return -1;
    }
    return param->tp_axis == param->ndim - 2 ? COLS : ROWS;
}

int64_t ls_adafactor_shared_elems(const ls_param *param) {
    const ls_matrices m = ls_matrices_of(param);
    const int state = shared_state(param);
    return state < 0 ? 0 : m.count * (state == ROWS ? m.rows : m.cols);
}

static ls_status take_host(ls_optim *optim, adafactor *own) {
    const ls_optim_options *o = &optim->options;
    const size_t count = (size_t)o->param_count;
    LS_TRY(ls_calloc((size_t)optim->run_count, sizeof *own->ends, &own->ends));
    LS_TRY(ls_calloc(count, sizeof *own->splits, &own->splits));
    LS_TRY(ls_calloc(count, sizeof *own->factors, &own->factors));
    LS_TRY(ls_calloc(count, sizeof *own->first_terms, &own->first_terms));
    if (o->dev->async) {
        return LS_OK;
    }
    int64_t shared = 0;
    for (int i = 0; i < o->param_count; i++) {
        shared += ls_adafactor_shared_elems(&o->params[i]);
    }
    LS_TRY(ls_calloc((size_t)shared + 1, 2 * sizeof *own->shared, &own->shared));
    LS_TRY(ls_calloc(count, sizeof *own->row_means, &own->row_means));
    LS_TRY(ls_calloc((size_t)ls_adafactor_most_pieces(optim), sizeof *own->pieces, &own->pieces));
    LS_TRY(ls_calloc((size_t)own->elems, 2 * sizeof *own->host_sums, &own->host_sums));
    LS_TRY(ls_calloc((size_t)own->elems, ls_dtype_bytes(o->dev->acc), &own->host_states));
    LS_TRY(take_total(&own->grads, count));
    LS_TRY(take_total(&own->params, count));
    return take_total(&own->updates, count);
}

static ls_status prepare(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    adafactor *own;
    LS_TRY(ls_calloc(1, sizeof *own, &own));
    optim->own = own;
    own->row_elems = optim->state_elems[ROWS];
    own->elems = own->row_elems + optim->state_elems[COLS];
    LS_TRY(take_host(optim, own));
    int64_t most_cols = 0;
    for (int i = 0; i < o->param_count; i++) {
        const ls_param *param = &o->params[i];
        const ls_matrices m = ls_matrices_of(param);
        if (param->ndim > 2 && shared_state(param) >= 0) {
            return LS_FAIL(LS_E_UNSUPPORTED,
                           "optim.name is adafactor, and the matrices of '%s' are split over %d "
                           "ranks; use adamw or lion, or fewer ranks along that axis",
                           param->name, param->tp_ranks);
        }
        most_cols = shared_state(param) == COLS && m.cols > most_cols ? m.cols : most_cols;
        LS_TRY(ls_calloc((size_t)m.count, sizeof **own->factors, &own->factors[i]));
    }
    optim->own_bytes = 2 * (size_t)(own->elems + most_cols) * sizeof *own->sums;
    own->sums_bytes = optim->own_bytes;
    void *sums = NULL;
    LS_TRY(o->dev->ops->alloc(o->dev, own->sums_bytes, &sums));
    own->sums = sums;
    return o->dev->async ? ls_adafactor_device_prepare(optim) : LS_OK;
}

static void release(ls_optim *optim) {
    adafactor *own = optim->own;
    if (!own) {
        return;
    }
    for (int i = 0; own->factors && i < optim->options.param_count; i++) {
        free(own->factors[i]);
    }
    ls_device *dev = optim->options.dev;
    dev->ops->free(dev, own->sums);
    if (dev->async) {
        dev->ops->free(dev, own->memory);
        own->shared = own->pieces = own->row_means = NULL; /* lay there */
    }
    free_total(&own->grads);
    free_total(&own->params);
    free_total(&own->updates);
    free(own->host_sums);
    free(own->host_states);
    free(own->shared);
    free(own->row_means);
    free(own->first_terms);
    free(own->splits);
    free(own->factors);
    free(own->pieces);
    free(own->ends);
    free(own);
}

int64_t ls_adafactor_entry(const ls_optim *optim, int state, int param) {
    const int64_t at = optim->vectors[state * optim->options.param_count + param];
    return state == COLS ? ((const adafactor *)optim->own)->row_elems + at : at;
}

/* Does this tensor rank count an element of its part of a parameter, or a lower one that has it
 * too? *end: up to where that holds, at most. */
static bool is_counted(const ls_param *param, int64_t elem, int64_t *end) {
    ls_piece pieces[LS_MAX_GROUPS];
    const int count = ls_param_pieces(param, pieces),
              axis = param->tp_axis < 0 ? 0 : param->tp_axis;
    int64_t inner = 1;
    for (int d = axis + 1; d < param->ndim; d++) {
        inner *= param->local_dims[d];
    }
    for (int i = 0; i < count; i++) {
        const int64_t from = pieces[i].local.start[axis] * inner;
        const int64_t to = from + pieces[i].local.extent[axis] * inner;
        if (!pieces[i].first && from <= elem && elem < to) {
            *end = to < *end ? to : *end;
            return false;
        }
        *end = !pieces[i].first && from > elem && from < *end ? from : *end;
    }
    return true;
}

ls_status ls_adafactor_each_part(ls_optim *optim, const ls_optim_pass *pass,
                                 const ls_optim_run *run, ls_adafactor common,
                                 ls_adafactor_part fn) {
    const ls_optim_options *o = &optim->options;
    const adafactor *own = optim->own;
    const ls_param *param = &o->params[run->param];
    const ls_dtype acc = o->dev->acc;
    const bool matrix = param->ndim >= 2;
    const ls_matrices m = matrices_of(param);
    const int64_t first = run->flat_offset - param->offset, size = m.rows * m.cols;
    const int64_t grid = run->flat_offset - ls_optim_block_start(o, run->flat_offset);
    for (int64_t begin = first, end; begin < first + run->elems; begin = end) {
        const int64_t i = begin / size;
        end = (i + 1) * size < first + run->elems ? (i + 1) * size : first + run->elems;
        const bool counted = is_counted(param, begin, &end);
        ls_adafactor op = common;
        op.first = matrix ? begin - i * size : 0;
        op.n = end - begin;
        op.cols = matrix ? m.cols : end - begin;
        op.grid = grid + begin - first;
        op.grad_scale = pass->grad_scale;
        op.grad = ls_run_grads(optim, pass, run, begin - first);
        op.v = ls_run_state(optim, VECTOR, run, begin - first);
        if (matrix) {
            op.row = ls_elem_at(ls_optim_state_vector(optim, ROWS, run->param), i * m.rows, acc);
            op.col = ls_elem_at(ls_optim_state_vector(optim, COLS, run->param), i * m.cols, acc);
            op.row_sums =
                own->sums + 2 * (ls_adafactor_entry(optim, ROWS, run->param) + i * m.rows);
            op.col_sums =
                own->sums + 2 * (ls_adafactor_entry(optim, COLS, run->param) + i * m.cols);
            op.split[0] = own->splits[run->param][0];
            op.split[1] = own->splits[run->param][1];
            op.factor = own->factors[run->param][i];
        }
        op.terms =
            own->memory ? own->all.terms + own->first_terms[run->param] + (matrix ? i : 0) : NULL;
        op.p = ls_run_masters(optim, run, begin - first);
        op.copy_dtype = o->copy_dtype;
        op.copy = ls_run_copies(optim, run, begin - first);
        LS_TRY(fn(optim, run, &op, counted));
    }
    return LS_OK;
}

static int first_expert(const ls_optim_options *o) {
    int first = 0;
    while (first < o->param_count && !o->params[first].expert) {
        first++;
    }
    return first;
}

ls_status ls_adafactor_over(const ls_optim *optim, ls_comm *group, void *values, int64_t count,
                            ls_dtype dtype, ls_reduce op) {
    if (!group || group->size == 1 || count == 0) {
        return LS_OK;
    }
    return optim->options.dev->async ? ls_comm_all_reduce_by_start(group, values, count, dtype, op)
                                     : group->ops->all_reduce(group, values, count, dtype, op);
}

ls_status ls_adafactor_over_parts(const ls_optim *optim, void *values, int64_t each, ls_dtype dtype,
                                  ls_reduce op) {
    const ls_optim_options *o = &optim->options;
    const int64_t first = first_expert(o) * each, rest = o->param_count * each - first;
    void *experts = ls_elem_at(values, first, dtype);
    LS_TRY(ls_adafactor_over(optim, o->shard, values, first, dtype, op));
    LS_TRY(ls_adafactor_over(optim, o->tensor, values, first, dtype, op));
    LS_TRY(ls_adafactor_over(optim, o->expert_shard, experts, rest, dtype, op));
    return ls_adafactor_over(optim, o->experts, experts, rest, dtype, op);
}

static ls_status copy(ls_device *dev, double *to, const double *from, int64_t count) {
    if (dev->async) {
        return dev->ops->copy(dev, to, from, (size_t)count * sizeof *to);
    }
    memcpy(to, from, (size_t)count * sizeof *to);
    return LS_OK;
}

ls_status ls_adafactor_add_sums(const ls_optim *optim, double *all) {
    const ls_optim_options *o = &optim->options;
    const adafactor *own = optim->own;
    const int first = first_expert(o);
    for (int state = ROWS; state <= COLS; state++) {
        const int64_t begin = state == COLS ? own->row_elems : 0;
        const int64_t end = state == COLS ? own->elems : own->row_elems;
        const int64_t middle =
            first < o->param_count ? ls_adafactor_entry(optim, state, first) : end;
        LS_TRY(ls_adafactor_over(optim, o->shard, all + 2 * begin, 2 * (middle - begin), LS_F64,
                                 LS_SUM));
        LS_TRY(ls_adafactor_over(optim, o->expert_shard, all + 2 * middle, 2 * (end - middle),
                                 LS_F64, LS_SUM));
    }
    for (int back = 0; back < 2; back++) {
        double *at = own->shared;
        for (int i = 0; i < o->param_count; i++) {
            const int64_t count = 2 * ls_adafactor_shared_elems(&o->params[i]);
            if (count > 0) {
                double *sums = all + 2 * ls_adafactor_entry(optim, shared_state(&o->params[i]), i);
                LS_TRY(copy(o->dev, back ? sums : at, back ? at : sums, count));
                at += count;
            }
        }
        LS_TRY(back ? LS_OK
                    : ls_adafactor_over(optim, o->tensor, own->shared, at - own->shared, LS_F64,
                                        LS_SUM));
    }
    return LS_OK;
}

/* Sums of squares of something on the grid, of each part. */
static ls_status grad_pieces(ls_optim *optim, const ls_adafactor *op, double *sums) {
    ls_device *dev = optim->options.dev;
    return dev->ops->sum_squares(dev, op->grid, op->n, op->grad, sums);
}

static ls_status param_pieces(ls_optim *optim, const ls_adafactor *op, double *sums) {
    ls_device *dev = optim->options.dev;
    return dev->ops->sum_squares(dev, op->grid, op->n, op->p, sums);
}

static ls_status update_pieces(ls_optim *optim, const ls_adafactor *op, double *sums) {
    return optim->options.dev->ops->adafactor_norm(optim->options.dev, op, sums);
}

#define ADD_PIECES(what)                                                                           \
    static ls_status add_##what(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op,  \
                                bool counted) {                                                    \
        (void)run;                                                                                 \
        adafactor *own = optim->own;                                                               \
        if (counted) {                                                                             \
            LS_TRY(what(optim, op, own->pieces + own->piece_count));                               \
            own->piece_count += ls_squares_count(op->grid, op->n);                                 \
        }                                                                                          \
        return LS_OK;                                                                              \
    }
ADD_PIECES(grad_pieces)
ADD_PIECES(param_pieces)
ADD_PIECES(update_pieces)

/* The total of each parameter over all ranks. */
static ls_status add_up(ls_optim *optim, const ls_optim_pass *pass, ls_adafactor_part add,
                        total *t) {
    const int params = optim->options.param_count;
    adafactor *own = optim->own;
    own->piece_count = 0;
    for (int i = 0; i < params; i++) {
        t->scales[i] = LS_EXACT_ZERO;
        t->sums[i] = (ls_exact_sum){{0}};
    }
    for (int i = 0; i < optim->run_count; i++) {
        const int64_t first = own->piece_count;
        int32_t *scale = &t->scales[optim->runs[i].param];
        LS_TRY(ls_adafactor_each_part(optim, pass, &optim->runs[i], (ls_adafactor){0}, add));
        own->ends[i] = own->piece_count;
        for (int64_t p = first; p < own->piece_count; p++) {
            const int32_t piece = ls_exact_scale(own->pieces[p]);
            *scale = piece > *scale ? piece : *scale;
        }
    }
    LS_TRY(ls_adafactor_over_parts(optim, t->scales, 1, LS_I32, LS_MAX));
    for (int i = 0; i < optim->run_count; i++) {
        const int param = optim->runs[i].param;
        for (int64_t p = i > 0 ? own->ends[i - 1] : 0; p < own->ends[i]; p++) {
            ls_exact_add(&t->sums[param], own->pieces[p], t->scales[param]);
        }
    }
    LS_TRY(ls_adafactor_over_parts(optim, t->sums, LS_EXACT_DIGITS, LS_I64, LS_SUM));
    for (int i = 0; i < params; i++) {
        t->values[i] = ls_exact_value(&t->sums[i], t->scales[i]);
    }
    return LS_OK;
}

ls_status ls_adafactor_add_squares(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op,
                                   bool counted) {
    const adafactor *own = optim->own;
    ls_adafactor part = *op;
    if (!counted && shared_state(&optim->options.params[run->param]) == COLS) {
        part.col_sums = own->sums + 2 * own->elems;
    }
    return optim->options.dev->ops->adafactor_squares(optim->options.dev, &part);
}

ls_status ls_adafactor_apply(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op,
                             bool counted) {
    (void)run;
    (void)counted;
    return optim->options.dev->ops->adafactor_apply(optim->options.dev, op);
}

int64_t ls_adafactor_real_elems(const ls_param *param) {
    int64_t elems = param->valid_rows;
    for (int d = 1; d < param->ndim; d++) {
        elems *= param->dims[d];
    }
    return elems;
}

/* n entries of the host's states: x = b2 x + (1 - b2) sum / count. */
static void blend(const ls_optim *optim, int64_t entry, int64_t n, double beta2, double count) {
    const adafactor *own = optim->own;
    for (int64_t i = entry; i < entry + n; i++) {
        const double mean = (own->host_sums[2 * i] + own->host_sums[2 * i + 1]) / count;
        if (optim->options.dev->acc == LS_F64) {
            double *x = (double *)own->host_states + i;
            *x = beta2 * *x + (1.0 - beta2) * mean;
        } else {
            float *x = (float *)own->host_states + i;
            *x = (float)(beta2 * (double)*x + (1.0 - beta2) * mean);
        }
    }
}

static double row_state(const ls_optim *optim, int64_t entry) {
    const adafactor *own = optim->own;
    return optim->options.dev->acc == LS_F64 ? ((const double *)own->host_states)[entry]
                                             : (double)((const float *)own->host_states)[entry];
}

bool ls_adafactor_counts_row(const ls_param *param, int64_t matrix, int64_t row) {
    const ls_matrices m = ls_matrices_of(param);
    int64_t end = INT64_MAX;
    if (param->tp_axis < param->ndim - 2) {
        return param->ndim > 2 || param->tp_rank == 0;
    }
    return shared_state(param) == ROWS ? param->tp_rank == 0
                                       : is_counted(param, (matrix * m.rows + row) * m.cols, &end);
}

/* row = b2 row + (1 - b2) mean of the squares in a row, col likewise; padding rows do not count.
 * The factors then are sums of the row states that this rank counts. */
static void update_factors(ls_optim *optim, int index, double beta2) {
    const ls_param *param = &optim->options.params[index];
    const adafactor *own = optim->own;
    const ls_matrices m = ls_matrices_of(param);
    const int64_t rows = ls_adafactor_entry(optim, ROWS, index),
                  cols = param->dims[param->ndim - 1];
    const int64_t matrices = param->ndim > 2 ? param->dims[0] : 1;
    blend(optim, rows, m.count * m.rows, beta2, (double)cols);
    blend(optim, ls_adafactor_entry(optim, COLS, index), m.count * m.cols, beta2,
          (double)ls_adafactor_real_elems(param) / (double)(matrices * cols));
    for (int64_t i = 0; i < m.count; i++) {
        double sum = 0.0;
        for (int64_t r = 0; r < m.rows; r++) {
            sum += ls_adafactor_counts_row(param, i, r) ? row_state(optim, rows + i * m.rows + r)
                                                        : 0.0;
        }
        own->factors[index][i] = sum;
    }
}

/* From those sums, over the tensor ranks where these share a matrix, to factors. */
static ls_status finish_factors(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    const adafactor *own = optim->own;
    for (int i = 0; i < o->param_count; i++) {
        own->row_means[i] = o->params[i].ndim == 2 ? own->factors[i][0] : 0.0;
    }
    LS_TRY(ls_adafactor_over(optim, o->tensor, own->row_means, o->param_count, LS_F64, LS_SUM));
    for (int i = 0; i < o->param_count; i++) {
        const ls_param *param = &o->params[i];
        const int64_t matrices = param->ndim > 2 ? param->dims[0] : 1;
        for (int64_t k = 0; param->ndim >= 2 && k < ls_matrices_of(param).count; k++) {
            const double sum = param->ndim == 2 ? own->row_means[i] : own->factors[i][k];
            const double rows = (double)ls_adafactor_real_elems(param) /
                                (double)(matrices * param->dims[param->ndim - 1]);
            own->factors[i][k] = 1.0 / fmax(sum / rows, LS_ADAFACTOR_LEAST_MEAN);
        }
    }
    return LS_OK;
}

/* States between the device and the host. */
static ls_status move_states(const ls_optim *optim, bool to_host) {
    const adafactor *own = optim->own;
    ls_device *dev = optim->options.dev;
    const ls_dtype acc = dev->acc;
    for (int state = ROWS; state <= COLS; state++) {
        void *host = ls_elem_at(own->host_states, state == COLS ? own->row_elems : 0, acc);
        const size_t bytes = (size_t)optim->state_elems[state] * ls_dtype_bytes(acc);
        LS_TRY(to_host ? dev->ops->download(dev, host, optim->states[state], bytes)
                       : dev->ops->upload(dev, optim->states[state], host, bytes));
    }
    return LS_OK;
}

int64_t ls_adafactor_padded_elems(const ls_param *param) {
    return param->elems * (param->tp_ranks > 1 ? param->tp_ranks : 1);
}

static ls_status update_statistics(ls_optim *optim, const ls_optim_pass *pass) {
    const ls_optim_options *o = &optim->options;
    adafactor *own = optim->own;
    ls_device *dev = o->dev;
    const double beta2 = 1.0 - pow((double)pass->t, -0.8);
    LS_TRY(add_up(optim, pass, add_grad_pieces, &own->grads));
    for (int i = 0; i < o->param_count; i++) { /* twice: the scaled gradients are rounded */
        const double most = 2.0 * own->grads.values[i] * pass->grad_scale * pass->grad_scale;
        ls_adafactor_splits(most, ls_adafactor_padded_elems(&o->params[i]), own->splits[i]);
    }
    LS_TRY(dev->ops->zero(dev, own->sums, optim->own_bytes));
    for (int i = 0; i < optim->run_count; i++) {
        LS_TRY(ls_adafactor_each_part(optim, pass, &optim->runs[i], (ls_adafactor){.beta2 = beta2},
                                      ls_adafactor_add_squares));
    }
    LS_TRY(dev->ops->download(dev, own->host_sums, own->sums,
                              2 * (size_t)own->elems * sizeof *own->sums));
    LS_TRY(ls_adafactor_add_sums(optim, own->host_sums));
    LS_TRY(move_states(optim, true));
    for (int i = 0; i < o->param_count; i++) {
        if (o->params[i].ndim >= 2) {
            update_factors(optim, i, beta2);
        }
    }
    LS_TRY(finish_factors(optim));
    LS_TRY(move_states(optim, false));
    LS_TRY(add_up(optim, pass, add_param_pieces, &own->params));
    return add_up(optim, pass, add_update_pieces, &own->updates);
}

static ls_status step(ls_optim *optim, const ls_optim_pass *pass) {
    if (optim->options.dev->async) {
        return ls_adafactor_device_step(optim, pass);
    }
    LS_TRY(update_statistics(optim, pass));
    const adafactor *own = optim->own;
    for (int i = 0; i < optim->run_count; i++) {
        const ls_optim_run *run = &optim->runs[i];
        double n = (double)ls_adafactor_real_elems(&optim->options.params[run->param]);
        double param = sqrt(own->params.values[run->param] / n);
        double update = sqrt(own->updates.values[run->param] / n);
        double lr = pass->lr * run->rule.lr_scale;
        ls_adafactor common = {.keep = 1.0 - lr * run->rule.weight_decay,
                               .lr = fmax(LS_ADAFACTOR_LEAST_SIZE, param) * lr / fmax(1.0, update)};
        LS_TRY(ls_adafactor_each_part(optim, pass, run, common, ls_adafactor_apply));
    }
    return LS_OK;
}

static void tell_over(const ls_comm_list *list, ls_comm_axis axis, int ranks, int64_t count,
                      size_t bytes) {
    if (count > 0) {
        ls_comm_tell(list, (ls_comm_operation){axis, LS_USE_ACTIVATIONS, LS_COLL_ALL_REDUCE, ranks,
                                               (double)count * (double)bytes, 1});
    }
}

/* ls_adafactor_over_parts */
static void tell_over_parts(const ls_optim *optim, const ls_optim_ranks *ranks,
                            const ls_comm_list *list, size_t bytes) {
    const int64_t first = first_expert(&optim->options), rest = optim->options.param_count - first;
    tell_over(list, LS_COMM_DATA, ranks->shard, first, bytes);
    tell_over(list, LS_COMM_TENSOR, ranks->tensor, first, bytes);
    tell_over(list, LS_COMM_DATA, ranks->expert_shard, rest, bytes);
    tell_over(list, LS_COMM_EXPERT, ranks->experts, rest, bytes);
}

/* ls_adafactor_add_sums */
static void tell_sums(const ls_optim *optim, const ls_optim_ranks *ranks,
                      const ls_comm_list *list) {
    const ls_optim_options *o = &optim->options;
    const adafactor *own = optim->own;
    const size_t pair = 2 * sizeof(double);
    const int first = first_expert(o);
    const int64_t ends[] = {own->row_elems, own->elems};
    int64_t shared = 0, begin = 0;
    for (int i = 0; i < 2; i++) {
        const int64_t middle =
            first < o->param_count ? ls_adafactor_entry(optim, ROWS + i, first) : ends[i];
        tell_over(list, LS_COMM_DATA, ranks->shard, middle - begin, pair);
        tell_over(list, LS_COMM_DATA, ranks->expert_shard, ends[i] - middle, pair);
        begin = ends[i];
    }
    for (int i = 0; i < o->param_count; i++) {
        shared += ls_adafactor_shared_elems(&o->params[i]);
    }
    tell_over(list, LS_COMM_TENSOR, ranks->tensor, shared, pair);
}

static void tell(const ls_optim *optim, const ls_optim_ranks *ranks, const ls_comm_list *list) {
    tell_sums(optim, ranks, list);
    tell_over(list, LS_COMM_TENSOR, ranks->tensor, optim->options.param_count, sizeof(double));
    for (int i = 0; i < 3; i++) { /* squares of gradients, parameters and updates */
        tell_over_parts(optim, ranks, list, sizeof(int32_t));
        tell_over_parts(optim, ranks, list, sizeof(ls_exact_sum));
    }
}

const ls_optim_ops ls_optim_adafactor = {
    .name = "adafactor",
    .states = {"exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col"},
    .shape = shape,
    .apart = true,
    .deferrable = true,
    .prepare = prepare,
    .release = release,
    .step = step,
    .tell = tell,
};
