/* How a rank comes to parameters that others keep.
 *
 * Windows hold the parameters of a block while it is used and until the memory is needed for
 * another one. With zero 3 a block is gathered into a window; the next block in the order of the
 * work is started at once, so that it travels while this one is computed. With zero 1 and 2, or
 * parameters in common, and compute copies, a window holds a block's norms and biases only. Which
 * window a block gets follows from the order of calls, which is the same on all ranks of the group.
 */
#include "runtime/step/state_internal.h"

#include "collectives/flight.h"
#include "runtime/base/clock.h"

#include <stdlib.h>
#include <string.h>

/* Planning */

static int64_t max_i64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static bool gathers_blocks(const ls_state *s) {
    return s->options.zero == 3 && !s->common;
}

/* Elements of a block that a window holds as masters: all, or up to the last norm or bias. */
static int64_t window_masters(const ls_state *s, const state_block *b) {
    return s->has_copies ? b->vector_elems : b->range.elems;
}

/* Windows [first, end) are for blocks like this one. */
static int first_window(const ls_state *s, const state_block *b, int *end) {
    const bool experts = s->parts[b->part].is_experts, is_large = b->range.elems > s->pool_elems;
    *end = experts ? STATE_WINDOWS : is_large ? STATE_EXPERTS : STATE_POOL;
    return experts ? STATE_EXPERTS : is_large ? STATE_POOL : 0;
}

static ls_status plan_windows(ls_state *s) {
    int64_t masters[STATE_WINDOWS] = {0}, copies[STATE_WINDOWS] = {0};
    int units = 0;
    for (int i = 0; i < s->block_count; i++) {
        const state_block *b = &s->blocks[i];
        int end;
        for (int w = first_window(s, b, &end); w < end; w++) {
            masters[w] = max_i64(masters[w], window_masters(s, b));
            copies[w] = max_i64(copies[w], b->range.elems);
        }
        units = b->units > units ? b->units : units;
    }
    for (int i = 0; i < STATE_WINDOWS; i++) {
        state_window *w = &s->windows[i];
        w->block = -1;
        const state_sender sender = i < STATE_EXPERTS ? STATE_GATHER : STATE_EXPERT_GATHER;
        const size_t bytes = (size_t)masters[i] * s->acc_bytes;
        if (!s->has_copies) {
            ls_state_take_sent(s, sender, &s->bytes.gathered, bytes, &w->masters);
        } else {
            LS_TRY(ls_state_take(s, &s->bytes.gathered, bytes, &w->masters));
        }
        if (s->has_copies && gathers_blocks(s)) {
            ls_state_take_sent(s, sender, &s->bytes.gathered, (size_t)copies[i] * s->copy_bytes,
                               &w->copies);
        }
        LS_TRY(ls_calloc((size_t)units + 1, sizeof(ls_comm_request *), &w->requests));
    }
    return LS_OK;
}

/* The parts of norms and biases that `shard` keeps; returns how many. out: NULL, or where to. */
static int visit_vectors(const ls_state *s, int shard, state_vector *out) {
    int count = 0, row = 0;
    for (int p = 0; p < s->options.part_count; p++) {
        const state_part *part = &s->parts[p];
        for (int u = 0; u < part->partition.unit_count; u++) {
            ls_range slice = ls_partition_slice(&part->partition, u, shard);
            slice.first += part->base;
            const int64_t end = slice.first + slice.elems;
            while (row > 0 && s->params[row].offset > slice.first) {
                row--;
            }
            for (; row < s->param_count && s->params[row].offset < end; row++) {
                const ls_param *v = &s->params[row];
                const int64_t from = max_i64(v->offset, slice.first);
                const int64_t to = v->offset + v->elems < end ? v->offset + v->elems : end;
                if (!v->matrix && from < to) {
                    if (out) {
                        out[count] =
                            (state_vector){.shard = shard,
                                           .elem = from,
                                           .elems = to - from,
                                           .place = s->vector_places[row] + from - v->offset};
                    }
                    count++;
                }
            }
            row = row < s->param_count ? row : s->param_count - 1;
        }
    }
    return count;
}

static ls_status list_vectors(ls_state *s) {
    int count = 0;
    for (int shard = 0; shard < s->options.shards; shard++) {
        count += visit_vectors(s, shard, NULL);
    }
    LS_TRY(ls_calloc((size_t)count + 1, sizeof *s->vector_parts, &s->vector_parts));
    for (int shard = 0; shard < s->options.shards; shard++) {
        s->vector_part_count += visit_vectors(s, shard, s->vector_parts + s->vector_part_count);
    }
    return LS_OK;
}

static ls_status plan_vectors(ls_state *s) {
    LS_TRY(ls_calloc((size_t)s->param_count, sizeof *s->vector_places, &s->vector_places));
    int64_t elems = 0;
    for (int i = 0; i < s->param_count; i++) {
        s->vector_places[i] = elems;
        elems += s->params[i].matrix ? 0 : s->params[i].elems;
    }
    LS_TRY(s->planning ? LS_OK : list_vectors(s));
    LS_TRY(ls_state_take(s, &s->bytes.gathered, (size_t)elems * s->acc_bytes, &s->vectors));
    ls_state_take_sent(s, STATE_GATHER, &s->bytes.gathered, (size_t)elems * s->acc_bytes,
                       &s->packed);
    return LS_OK;
}

ls_status ls_state_plan_gathers(ls_state *s) {
    if (s->options.zero == 0) {
        return LS_OK;
    }
    int units = 0;
    int shards = 1;
    for (int p = 0; p < s->part_count; p++) {
        units += s->parts[p].partition.unit_count;
        shards = s->parts[p].shards > shards ? s->parts[p].shards : shards;
    }
    LS_TRY(ls_calloc((size_t)units + 1, sizeof(ls_comm_request *), &s->requests));
    LS_TRY(ls_calloc((size_t)shards, sizeof *s->counts, &s->counts));
    LS_TRY(ls_calloc((size_t)shards, sizeof *s->offsets, &s->offsets));
    LS_TRY(s->windowed ? plan_windows(s) : LS_OK);
    return s->has_copies ? plan_vectors(s) : LS_OK;
}

void ls_state_release_gathers(ls_state *s) {
    ls_state_free(s, &s->vectors);
    ls_state_free(s, &s->packed);
    for (int i = 0; i < STATE_WINDOWS; i++) {
        ls_state_free(s, &s->windows[i].masters);
        ls_state_free(s, &s->windows[i].copies);
        free(s->windows[i].requests);
    }
    free(s->requests);
    free(s->counts);
    free(s->offsets);
    free(s->vector_parts);
    free(s->vector_places);
}

/* Gathering */

/* Starts to gather a unit: `to` has place for it at element 0, `own` holds this rank's slice. */
static ls_status gather_unit(ls_state *s, const state_part *part, int unit, const void *own,
                             void *to, size_t elem_bytes, ls_comm_request **request) {
    const int64_t first = part->partition.units[unit].range.first;
    for (int shard = 0; shard < part->shards; shard++) {
        const ls_range slice = ls_partition_slice(&part->partition, unit, shard);
        s->counts[shard] = slice.elems * (int64_t)elem_bytes;
        s->offsets[shard] = (slice.first - first) * (int64_t)elem_bytes;
    }
    ls_flight_set_bucket(unit);
    ls_comm *comm = s->gather_comm[part->is_experts];
    return comm->ops->all_gather_start(comm, own, to, s->counts, s->offsets, request);
}

/* Norms and biases of all shards into s->vectors. */
static ls_status share_vectors(ls_state *s) {
    int64_t place = 0;
    memset(s->counts, 0, (size_t)s->options.shards * sizeof *s->counts);
    memset(s->offsets, 0, (size_t)s->options.shards * sizeof *s->offsets);
    for (int i = 0; i < s->vector_part_count; i++) {
        const state_vector *v = &s->vector_parts[i];
        const int64_t bytes = v->elems * (int64_t)s->acc_bytes;
        if (s->counts[v->shard] == 0) {
            s->offsets[v->shard] = place;
        }
        if (v->shard == s->parts->shard) {
            LS_TRY(s->dev->ops->copy(s->dev, (char *)s->packed + place,
                                     ls_state_master_at(s, v->elem), (size_t)bytes));
        }
        s->counts[v->shard] += bytes;
        place += bytes;
    }
    ls_comm *comm = s->gather_comm[0];
    ls_comm_request *request;
    LS_TRY(comm->ops->all_gather_start(comm, (char *)s->packed + s->offsets[s->parts->shard],
                                       s->packed, s->counts, s->offsets, &request));
    LS_TRY(comm->ops->wait(comm, request));
    const char *from = s->packed;
    for (int i = 0; i < s->vector_part_count; i++) {
        const state_vector *v = &s->vector_parts[i];
        const size_t bytes = (size_t)v->elems * s->acc_bytes;
        LS_TRY(s->dev->ops->copy(s->dev, ls_state_at(s->vectors, v->place, s->acc_bytes), from,
                                 bytes));
        from += bytes;
    }
    return LS_OK;
}

/* All units of parameters that every rank keeps whole, in place. */
static ls_status share_units(ls_state *s) {
    void *whole = s->has_copies ? s->copies : s->masters;
    const size_t elem_bytes = s->has_copies ? s->copy_bytes : s->acc_bytes;
    int count = 0;
    for (int p = 0; p < s->part_count; p++) {
        const state_part *part = &s->parts[p];
        for (int u = 0; u < part->partition.unit_count; u++) {
            const int64_t own = ls_partition_slice(&part->partition, u, part->shard).first;
            const int64_t first = part->partition.units[u].range.first;
            LS_TRY(gather_unit(s, part, u, ls_state_at(whole, part->base + own, elem_bytes),
                               ls_state_at(whole, part->base + first, elem_bytes), elem_bytes,
                               &s->requests[count++]));
        }
    }
    for (int p = 0, i = 0; p < s->part_count; p++) {
        ls_comm *comm = s->gather_comm[s->parts[p].is_experts];
        for (int u = 0; u < s->parts[p].partition.unit_count; u++, i++) {
            LS_TRY(comm->ops->wait(comm, s->requests[i]));
        }
    }
    return LS_OK;
}

static ls_status window_wait(ls_state *s, state_window *w) {
    ls_comm *comm = s->gather_comm[w >= &s->windows[STATE_EXPERTS]];
    for (; w->pending > 0; w->pending--) {
        LS_TRY(comm->ops->wait(comm, w->requests[w->pending - 1]));
    }
    return LS_OK;
}

ls_status ls_state_share(ls_state *s) {
    if (s->options.zero == 0) {
        return LS_OK;
    }
    for (int i = 0; i < STATE_WINDOWS; i++) { /* what they hold is out of date */
        LS_TRY(window_wait(s, &s->windows[i]));
        s->windows[i].block = -1;
    }
    if (s->common) { /* all have written */
        LS_TRY(s->gather_comm[0]->ops->barrier(s->gather_comm[0]));
    } else if (!gathers_blocks(s)) {
        LS_TRY(share_units(s));
    }
    return s->has_copies ? share_vectors(s) : LS_OK;
}

ls_status ls_state_refresh(ls_state *s) {
    for (int i = 0; s->has_copies && i < s->owned_count; i++) {
        const ls_owned *o = &s->owned[i];
        const int64_t at = s->full_copies ? o->range.first : o->place;
        LS_TRY(s->dev->ops->cast(s->dev, s->options.dtype, o->range.elems,
                                 ls_state_master_at(s, o->range.first),
                                 ls_state_at(s->copies, at, s->copy_bytes)));
    }
    return ls_state_share(s);
}

/* Windows */

static state_window *find_window(ls_state *s, int block) {
    for (int i = 0; i < STATE_WINDOWS; i++) {
        if (s->windows[i].block == block) {
            return &s->windows[i];
        }
    }
    return NULL;
}

/* The window that was not used for longest; NULL: all are in use. */
static state_window *free_window(ls_state *s, int block) {
    int end;
    state_window *oldest = NULL;
    for (int i = first_window(s, &s->blocks[block], &end); i < end; i++) {
        state_window *w = &s->windows[i];
        if (w->users == 0 && (!oldest || w->used_at < oldest->used_at)) {
            oldest = w;
        }
    }
    return oldest;
}

/* Starts to fill a window with a block. */
static ls_status load_window(ls_state *s, state_window *w, int block) {
    const state_block *b = &s->blocks[block];
    const state_part *part = &s->parts[b->part];
    LS_TRY(window_wait(s, w)); /* of a block that was not used after all */
    w->block = block;
    w->used_at = s->uses++;
    if (s->planning) {
        ls_state_tell_units(s, part, b->first_unit, b->units, LS_USE_BLOCKS);
        return LS_OK;
    }
    for (int u = b->first_unit; gathers_blocks(s) && u < b->first_unit + b->units; u++) {
        const size_t bytes = s->has_copies ? s->copy_bytes : s->acc_bytes;
        const int64_t at = part->base + part->partition.units[u].range.first - b->range.first;
        const void *own =
            ls_state_at(s->has_copies ? s->copies : s->masters, part->places[u], bytes);
        LS_TRY(gather_unit(s, part, u, own,
                           ls_state_at(s->has_copies ? w->copies : w->masters, at, bytes), bytes,
                           &w->requests[w->pending++]));
    }
    for (int i = 0; s->has_copies && i < s->param_count; i++) {
        const ls_param *v = &s->params[i];
        if (!v->matrix && v->offset >= b->range.first &&
            v->offset < b->range.first + b->range.elems) {
            LS_TRY(s->dev->ops->copy(
                s->dev, ls_state_at(w->masters, v->offset - b->range.first, s->acc_bytes),
                ls_state_at(s->vectors, s->vector_places[i], s->acc_bytes),
                (size_t)v->elems * s->acc_bytes));
        }
    }
    return LS_OK;
}

/* The block that will be asked for next, if there is a window for it. */
static ls_status prefetch(ls_state *s, int block, bool backward) {
    const int next = backward ? block - 1 : block + 1;
    if (!gathers_blocks(s) || next < 0 || next >= s->block_count ||
        s->blocks[next].part != s->blocks[block].part || find_window(s, next)) {
        return LS_OK;
    }
    state_window *w = free_window(s, next);
    return w ? load_window(s, w, next) : LS_OK;
}

static ls_status use_window(ls_state *s, int block, bool backward, state_window **out) {
    state_window *w = find_window(s, block);
    if (!w) {
        w = free_window(s, block);
        if (!w) {
            return LS_FAIL(LS_E_SHAPE, "no window for block %d: %d are in use", block,
                           STATE_WINDOWS);
        }
        LS_TRY(load_window(s, w, block));
    }
    w->users++;
    w->used_at = s->uses++;
    const uint64_t start_ns = ls_clock_ns();
    LS_TRY(window_wait(s, w));
    LS_TRY(prefetch(s, block, backward));
    s->comm_ns += ls_clock_ns() - start_ns;
    *out = w;
    return LS_OK;
}

/* The model's side */

/* The part (of this one, or of its experts apart) and the block of a number of the model's. */
static state_part *part_of(void *context, int block, int *number) {
    state_part *part = context;
    const int layers = (int)part->state->options.config->layers, first = part->model.first_block;
    const bool experts = block >= layers + 2;
    part = experts ? part->experts : part;
    *number = part->first_block +
              (experts ? block - layers - 1 - (first > 0 ? first : 1) : block - first);
    return part;
}

void ls_state_drive(ls_state *s, ls_status (*drive)(void *context), void *context) {
    s->drive = drive;
    s->drive_context = context;
}

static ls_status drive_others(const ls_state *s) {
    return s->drive ? s->drive(s->drive_context) : LS_OK;
}

static ls_status acquire(void *context, int block, bool backward, const void **masters,
                         const void **copies) {
    int b;
    ls_state *s = part_of(context, block, &b)->state;
    const int64_t first = s->blocks[b].range.first;
    state_window *w = NULL;
    ls_flight_mark(backward ? LS_FLIGHT_BACKWARD : LS_FLIGHT_FORWARD, block);
    if (s->windowed) {
        LS_TRY(use_window(s, b, backward, &w));
    }
    *masters = w ? w->masters : ls_state_at(s->masters, first, s->acc_bytes);
    *copies = NULL;
    if (s->has_copies) {
        *copies = s->full_copies ? ls_state_at(s->copies, first, s->copy_bytes) : w->copies;
    }
    return LS_OK;
}

ls_status ls_state_plan_use(state_part *context, int block, bool backward, bool begins) {
    int b;
    ls_state *s = part_of(context, block, &b)->state;
    if (begins) {
        return use_window(s, b, backward, &(state_window *){NULL});
    }
    find_window(s, b)->users--;
    return LS_OK;
}

/* Looks after gradients that are on their way. */
static ls_status progress(void *context) {
    state_part *part = context;
    ls_state *s = part->state;
    const uint64_t start_ns = ls_clock_ns();
    for (int p = 0; p < s->part_count; p++) {
        LS_TRY(part->reducer ? ls_reducer_progress(s->parts[p].reducer)
                             : ls_scatter_progress(s->parts[p].scatter));
    }
    s->comm_ns += ls_clock_ns() - start_ns;
    return drive_others(s);
}

static ls_status release(void *context, int block, bool backward) {
    int b;
    state_part *part = part_of(context, block, &b);
    if (part->state->windowed) {
        find_window(part->state, b)->users--;
    }
    return backward ? LS_OK : progress(part); /* of the micro-batch before */
}

static ls_status grads(void *context, int block, void **base, bool *fresh) {
    int b;
    state_part *part = part_of(context, block, &b);
    ls_state *s = part->state;
    if (part->reducer) {
        *fresh = part->micro_fresh && s->blocks[b].grads_micro < part->micros;
        s->blocks[b].grads_micro = part->micros;
        *base = ls_state_at(part->micro_grads, s->blocks[b].range.first - part->base, s->acc_bytes);
        return LS_OK;
    }
    const uint64_t start_ns = ls_clock_ns();
    LS_TRY(ls_scatter_block(part->scatter, b - part->first_block, base, fresh));
    s->comm_ns += ls_clock_ns() - start_ns;
    return LS_OK;
}

static ls_status ready(void *context, int block, int64_t first) {
    int b;
    state_part *part = part_of(context, block, &b);
    ls_state *s = part->state;
    const uint64_t start_ns = ls_clock_ns();
    if (part->reducer) {
        LS_TRY(ls_reducer_ready(part->reducer, s->blocks[b].range.first - part->base + first));
    } else if (first == 0) { /* goes as a whole */
        LS_TRY(ls_scatter_ready(part->scatter, b - part->first_block));
    }
    s->comm_ns += ls_clock_ns() - start_ns;
    return LS_OK;
}

void ls_state_set_store(state_part *part) {
    part->store = (ls_model_store){.context = part,
                                   .acquire = acquire,
                                   .release = release,
                                   .grads = grads,
                                   .ready = ready,
                                   .progress = progress};
}
