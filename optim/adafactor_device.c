/* Adafactor with totals, factors and rates on the device: the host waits for none of them. */
#include "optim/adafactor_internal.h"
#include "runtime/base/arena.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t terms_of(const ls_param *param) {
    return param->ndim >= 2 ? ls_matrices_of(param).count : 1;
}

static ls_adafactor_param describe(const ls_optim *optim, int index, int64_t first_term) {
    const ls_param *param = &optim->options.params[index];
    const double real = (double)ls_adafactor_real_elems(param);
    ls_adafactor_param p = {.first_term = first_term,
                            .matrices = 1,
                            .padded_elems = ls_adafactor_padded_elems(param),
                            .real_elems = real,
                            .row_elems = 1.0,
                            .col_elems = 1.0,
                            .lr_scale = optim->rules[index].lr_scale};
    if (param->ndim >= 2) {
        const ls_matrices m = ls_matrices_of(param);
        const int64_t matrices = param->ndim > 2 ? param->dims[0] : 1;
        const int64_t cols = param->dims[param->ndim - 1];
        p.matrices = m.count;
        p.rows = m.rows;
        p.cols = m.cols;
        p.whole = param->ndim == 2;
        p.row_entry = ls_adafactor_entry(optim, LS_ADAFACTOR_ROWS, index);
        p.col_entry = ls_adafactor_entry(optim, LS_ADAFACTOR_COLS, index) -
                      ((const ls_adafactor_own *)optim->own)->row_elems;
        p.row_elems = (double)cols;
        p.col_elems = real / (double)(matrices * cols);
    }
    return p;
}

/* The table of parameters, and which rows count. Not before there is a step: memory may only be
 * planned. */
static ls_status upload_tables(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    ls_adafactor_own *own = optim->own;
    ls_adafactor_param *table = NULL;
    uint8_t *rows = NULL;
    int64_t term = 0;
    ls_status status;
    LS_TRY_GOTO(ls_calloc((size_t)o->param_count + 1, sizeof *table, &table), done);
    LS_TRY_GOTO(ls_calloc((size_t)own->row_elems + 1, sizeof *rows, &rows), done);
    for (int i = 0; i < o->param_count; i++) {
        table[i] = describe(optim, i, term);
        own->first_terms[i] = term;
        term += table[i].matrices;
        for (int64_t r = 0; r < table[i].matrices * table[i].rows; r++) {
            rows[table[i].row_entry + r] =
                ls_adafactor_counts_row(&o->params[i], r / table[i].rows, r % table[i].rows);
        }
    }
    LS_TRY_GOTO(
        o->dev->ops->upload(o->dev, own->table, table, (size_t)o->param_count * sizeof *table),
        done);
    LS_TRY_GOTO(o->dev->ops->upload(o->dev, own->row_counts, rows, (size_t)own->row_elems), done);
    own->has_tables = true;
done:
    free(table);
    free(rows);
    return status;
}

ls_status ls_adafactor_device_prepare(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    ls_adafactor_own *own = optim->own;
    const size_t count = (size_t)o->param_count;
    int64_t terms = 0, shared = 0;
    for (int i = 0; i < o->param_count; i++) {
        terms += terms_of(&o->params[i]);
        shared += ls_adafactor_shared_elems(&o->params[i]);
    }
    ls_adafactor_all *all = &own->all;
    const struct {
        void *place;
        size_t bytes;
    } parts[] = {
        {&own->pieces, (size_t)ls_adafactor_most_pieces(optim) * sizeof(double)},
        {&own->shared, 2 * ((size_t)shared + 1) * sizeof(double)},
        {&own->piece_ends, (count + 1) * sizeof(int64_t)},
        {&all->row_totals, (size_t)terms * sizeof(double)},
        {&all->row_means, count * sizeof(double)},
        {&all->terms, (size_t)terms * sizeof(ls_adafactor_terms)},
        {&all->grads.digits, count * sizeof(ls_exact_sum)},
        {&all->sizes.digits, count * sizeof(ls_exact_sum)},
        {&all->updates.digits, count * sizeof(ls_exact_sum)},
        {&all->grads.scales, count * sizeof(int32_t)},
        {&all->sizes.scales, count * sizeof(int32_t)},
        {&all->updates.scales, count * sizeof(int32_t)},
        {&own->table, count * sizeof(ls_adafactor_param)},
        {&own->row_counts, (size_t)own->row_elems},
    };
    enum { PARTS = sizeof parts / sizeof *parts, ALIGN = 256 };
    size_t bytes = 0;
    for (int i = 0; i < PARTS; i++) {
        bytes += (parts[i].bytes + ALIGN) / ALIGN * ALIGN;
    }
    LS_TRY(o->dev->ops->alloc(o->dev, bytes, &own->memory));
    optim->own_bytes += bytes;
    char *at = own->memory;
    for (int i = 0; i < PARTS; i++) {
        void *piece = at;
        memcpy(parts[i].place, &piece, sizeof piece);
        at += (parts[i].bytes + ALIGN) / ALIGN * ALIGN;
    }
    all->count = o->param_count;
    all->params = own->table;
    all->row_counts = own->row_counts;
    all->row_sums = own->sums;
    all->col_sums = own->sums + 2 * own->row_elems;
    all->row_states = optim->states[LS_ADAFACTOR_ROWS];
    all->col_states = optim->states[LS_ADAFACTOR_COLS];
    all->least_size = LS_ADAFACTOR_LEAST_SIZE;
    return LS_OK;
}

static double *next_pieces(ls_optim *optim, const ls_adafactor *op) {
    ls_adafactor_own *own = optim->own;
    double *at = own->pieces + own->piece_count;
    own->piece_count += ls_squares_count(op->grid, op->n);
    return at;
}

static ls_status add_squares(ls_optim *optim, const ls_adafactor *op, bool counted, const void *x) {
    ls_device *dev = optim->options.dev;
    return counted ? dev->async->squares(dev, op->grid, op->n, x, next_pieces(optim, op)) : LS_OK;
}

static ls_status add_grads(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op,
                           bool counted) {
    (void)run;
    return add_squares(optim, op, counted, op->grad);
}

static ls_status add_params(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op,
                            bool counted) {
    (void)run;
    return add_squares(optim, op, counted, op->p);
}

static ls_status add_updates(ls_optim *optim, const ls_optim_run *run, const ls_adafactor *op,
                             bool counted) {
    ls_device *dev = optim->options.dev;
    (void)run;
    return counted ? dev->async->adafactor_norm(dev, op, next_pieces(optim, op)) : LS_OK;
}

/* Where the pieces of each parameter end: the same in every step. Runs are in order of parameters.
 */
static ls_status upload_ends(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    ls_adafactor_own *own = optim->own;
    int64_t *ends;
    LS_TRY(ls_calloc((size_t)o->param_count + 1, sizeof *ends, &ends));
    for (int i = 0; i < optim->run_count; i++) {
        for (int p = optim->runs[i].param; p < o->param_count; p++) {
            ends[p + 1] = own->ends[i];
        }
    }
    ls_status status = o->dev->ops->upload(o->dev, own->piece_ends, ends,
                                           (size_t)(o->param_count + 1) * sizeof *ends);
    free(ends);
    own->ends_known = status == LS_OK;
    return status;
}

/* The total of each parameter over all ranks. */
static ls_status add_up(ls_optim *optim, const ls_optim_pass *pass, ls_adafactor common,
                        ls_adafactor_part add, const ls_adafactor_sums *sums) {
    ls_device *dev = optim->options.dev;
    ls_adafactor_own *own = optim->own;
    const int count = optim->options.param_count;
    own->piece_count = 0;
    for (int i = 0; i < optim->run_count; i++) {
        LS_TRY(ls_adafactor_each_part(optim, pass, &optim->runs[i], common, add));
        own->ends[i] = own->piece_count;
    }
    LS_TRY(own->ends_known ? LS_OK : upload_ends(optim));
    LS_TRY(dev->async->segment_scales(dev, count, own->piece_ends, own->pieces, sums->scales));
    LS_TRY(ls_adafactor_over_parts(optim, sums->scales, 1, LS_I32, LS_MAX));
    LS_TRY(dev->async->segment_digits(dev, count, own->piece_ends, own->pieces, sums->scales,
                                      sums->digits));
    return ls_adafactor_over_parts(optim, sums->digits, LS_EXACT_DIGITS, LS_I64, LS_SUM);
}

static ls_status derive(ls_optim *optim, ls_adafactor_what what) {
    ls_adafactor_all *all = &((ls_adafactor_own *)optim->own)->all;
    all->what = what;
    return optim->options.dev->async->adafactor_all(optim->options.dev, all);
}

ls_status ls_adafactor_device_step(ls_optim *optim, const ls_optim_pass *pass) {
    const ls_optim_options *o = &optim->options;
    ls_adafactor_own *own = optim->own;
    ls_adafactor_all *all = &own->all;
    all->beta2 = 1.0 - pow((double)pass->t, -0.8);
    all->grad_scale = pass->grad_scale;
    all->lr = pass->lr;
    all->verdict = pass->verdict;
    const ls_adafactor common = {.beta2 = all->beta2, .verdict = pass->verdict};
    LS_TRY(own->has_tables ? LS_OK : upload_tables(optim));
    LS_TRY(add_up(optim, pass, common, add_grads, &all->grads));
    LS_TRY(derive(optim, LS_ADAFACTOR_SPLITS));
    LS_TRY(o->dev->ops->zero(o->dev, own->sums, own->sums_bytes));
    for (int i = 0; i < optim->run_count; i++) {
        LS_TRY(
            ls_adafactor_each_part(optim, pass, &optim->runs[i], common, ls_adafactor_add_squares));
    }
    LS_TRY(ls_adafactor_add_sums(optim, own->sums));
    LS_TRY(derive(optim, LS_ADAFACTOR_STATES));
    LS_TRY(ls_adafactor_over(optim, o->tensor, all->row_means, o->param_count, LS_F64, LS_SUM));
    LS_TRY(derive(optim, LS_ADAFACTOR_FACTORS));
    LS_TRY(add_up(optim, pass, common, add_params, &all->sizes));
    LS_TRY(add_up(optim, pass, common, add_updates, &all->updates));
    LS_TRY(derive(optim, LS_ADAFACTOR_RATES));
    for (int i = 0; i < optim->run_count; i++) {
        const ls_optim_run *run = &optim->runs[i];
        ls_adafactor rate = common;
        rate.keep = 1.0 - pass->lr * run->rule.lr_scale * run->rule.weight_decay;
        LS_TRY(ls_adafactor_each_part(optim, pass, run, rate, ls_adafactor_apply));
    }
    return LS_OK;
}
