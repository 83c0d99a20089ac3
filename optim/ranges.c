/* Which elements a rank owns, cut into runs to update and terms of the norm. */
#include "optim/optim_internal.h"
#include "runtime/base/arena.h"

#include <stdlib.h>

/* Room for one more element in a table that grows. */
static ls_status make_room(void **table, int count, int *room, size_t elem_bytes) {
    if (count < *room) {
        return LS_OK;
    }
    int larger = *room > 0 ? 2 * *room : 64;
    void *moved = realloc(*table, (size_t)larger * elem_bytes);
    if (!moved) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a table of %d rows of %zu bytes", larger,
                       elem_bytes);
    }
    *table = moved;
    *room = larger;
    return LS_OK;
}

static int64_t round_up(int64_t elems) {
    return (elems + 15) / 16 * 16;
}

/* The block around a flat element: [*start, *end). Gaps belong to the block before them. */
static void find_block(const ls_optim_options *o, int64_t flat, int64_t *start, int64_t *end) {
    *start = 0;
    *end = o->flat_elems;
    for (int i = 1; i < o->param_count; i++) {
        if (o->params[i].block != o->params[i - 1].block) {
            if (o->params[i].offset > flat) {
                *end = o->params[i].offset;
                return;
            }
            *start = o->params[i].offset;
        }
    }
}

int64_t ls_optim_block_start(const ls_optim_options *o, int64_t flat) {
    int64_t start, end;
    find_block(o, flat, &start, &end);
    return start;
}

static bool is_on_grid(const ls_optim_options *o, int64_t flat) {
    int64_t start, end;
    find_block(o, flat, &start, &end);
    return flat == o->flat_elems || (flat - start) % LS_OPTIM_ALIGN_ELEMS == 0;
}

static ls_status check_range(const ls_optim_options *o, const ls_optim_range *range,
                             int64_t after) {
    int64_t end = range->flat_offset + range->elems;
    if (range->elems < 0 || range->flat_offset < after || end > o->flat_elems) {
        return LS_FAIL(LS_E_SHAPE,
                       "owned elements [%lld, %lld) after element %lld of a buffer of %lld; ranges "
                       "must be in order, apart and inside it",
                       (long long)range->flat_offset, (long long)end, (long long)after,
                       (long long)o->flat_elems);
    }
    if (!is_on_grid(o, range->flat_offset) || !is_on_grid(o, end)) {
        return LS_FAIL(LS_E_SHAPE,
                       "owned elements [%lld, %lld) do not begin and end at a multiple of %d from "
                       "the start of a block, or at its end",
                       (long long)range->flat_offset, (long long)end, LS_OPTIM_ALIGN_ELEMS);
    }
    if (range->local_offset < 0 || range->local_offset % 16 != 0) {
        return LS_FAIL(LS_E_SHAPE, "a local offset is %lld; multiples of 16 are expected",
                       (long long)range->local_offset);
    }
    return LS_OK;
}

static int full_states(const ls_optim *optim, int param) {
    int states = 0;
    for (int s = 0; s < optim->state_count; s++) {
        bool full = ls_optim_state_shape(optim, s, param) == LS_STATE_FULL;
        states |= full << s;
    }
    return states;
}

static bool continues(const ls_optim *optim, const ls_optim_run *last, int param) {
    const ls_optim_rule *a = &last->rule, *b = &optim->rules[param];
    return !optim->ops->apart && a->lr_scale == b->lr_scale && a->weight_decay == b->weight_decay &&
           full_states(optim, last->param) == full_states(optim, param);
}

/* Part [begin, end) of a parameter in an owned range joins the run before it where it can. */
static ls_status add_to_runs(ls_optim *optim, const ls_optim_range *range, bool range_begins,
                             int param, int64_t begin, int64_t end) {
    ls_optim_run *last = optim->run_count > 0 ? &optim->runs[optim->run_count - 1] : NULL;
    if (!last || range_begins || !continues(optim, last, param)) {
        LS_TRY(make_room((void **)&optim->runs, optim->run_count, &optim->run_room,
                         sizeof *optim->runs));
        last = &optim->runs[optim->run_count++];
        *last = (ls_optim_run){.flat_offset = begin,
                               .local_offset = range->local_offset + begin - range->flat_offset,
                               .param = param,
                               .rule = optim->rules[param]};
        for (int s = 0; s < LS_OPTIM_MAX_STATES; s++) {
            bool full = full_states(optim, param) >> s & 1;
            last->state_offset[s] = full ? optim->state_elems[s] : -1;
        }
    }
    last->elems = end - last->flat_offset;
    for (int s = 0; s < optim->state_count; s++) {
        if (last->state_offset[s] >= 0) {
            optim->state_elems[s] = last->state_offset[s] + round_up(last->elems);
        }
    }
    return LS_OK;
}

static ls_status add_term(ls_optim *optim, const ls_optim_range *range, int64_t block_start,
                          int64_t begin, int64_t end) {
    if (begin >= end) {
        return LS_OK;
    }
    LS_TRY(make_room((void **)&optim->terms, optim->term_count, &optim->term_room,
                     sizeof *optim->terms));
    ls_optim_term *term = &optim->terms[optim->term_count++];
    *term = (ls_optim_term){.flat_offset = begin,
                            .local_offset = range->local_offset + begin - range->flat_offset,
                            .elems = end - begin,
                            .grid_offset = begin - block_start};
    optim->squares_count += ls_squares_count(term->grid_offset, term->elems);
    return LS_OK;
}

/* The terms of [begin, end) less what another rank counts. */
static ls_status add_to_terms(ls_optim *optim, const ls_optim_range *range, int64_t begin,
                              int64_t end) {
    const ls_optim_options *o = &optim->options;
    int64_t block_start, block_end;
    find_block(o, begin, &block_start, &block_end);
    for (int i = 0; i < o->not_counted_count; i++) {
        int64_t skip = o->not_counted[i].flat_offset, skip_end = skip + o->not_counted[i].elems;
        if (skip_end > begin && skip < end) {
            LS_TRY(add_term(optim, range, block_start, begin, skip));
            begin = skip_end;
        }
    }
    return add_term(optim, range, block_start, begin, end);
}

static ls_status add_range(ls_optim *optim, const ls_optim_range *range) {
    const ls_optim_options *o = &optim->options;
    bool range_begins = true;
    for (int i = 0; i < o->param_count; i++) {
        const ls_param *param = &o->params[i];
        int64_t begin = param->offset, end = begin + param->elems;
        int64_t range_end = range->flat_offset + range->elems;
        begin = begin > range->flat_offset ? begin : range->flat_offset;
        end = end < range_end ? end : range_end;
        if (begin < end) {
            LS_TRY(add_to_runs(optim, range, range_begins, i, begin, end));
            LS_TRY(add_to_terms(optim, range, begin, end));
            range_begins = false;
        }
    }
    return LS_OK;
}

/* Places for the states that are vectors. */
static void place_vectors(ls_optim *optim) {
    const int count = optim->options.param_count;
    for (int i = 0; i < count * optim->state_count; i++) {
        const int state = i / count;
        const ls_matrices m = ls_matrices_of(&optim->options.params[i % count]);
        ls_optim_shape shape = ls_optim_state_shape(optim, state, i % count);
        optim->vectors[i] = optim->state_elems[state];
        if (shape == LS_STATE_ROWS || shape == LS_STATE_COLS) {
            optim->state_elems[state] +=
                round_up(m.count * (shape == LS_STATE_ROWS ? m.rows : m.cols));
        }
    }
}

ls_status ls_optim_divide(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    const ls_optim_range all = {.elems = o->flat_elems};
    const ls_optim_range *owned = o->owned ? o->owned : &all;
    int count = o->owned ? o->owned_count : 1;
    int64_t after = 0;
    for (int i = 0; i < count; i++) {
        LS_TRY(check_range(o, &owned[i], after));
        after = owned[i].flat_offset + owned[i].elems;
        LS_TRY(add_range(optim, &owned[i]));
    }
    place_vectors(optim);
    return LS_OK;
}
