/* What lies where: parts, blocks, units, buffers. */
#include "runtime/step/state_internal.h"

#include "collectives/recorded.h"
#include "runtime/base/clock.h"

#include <stdlib.h>
#include <string.h>

ls_status ls_state_take(ls_state *s, size_t *kind, size_t bytes, void **memory) {
    *kind += bytes;
    *memory = NULL;
    return s->planning || bytes == 0 ? LS_OK : s->dev->ops->alloc(s->dev, bytes, memory);
}

void ls_state_take_sent(ls_state *s, state_sender sender, size_t *kind, size_t bytes,
                        void **memory) {
    enum { ALIGN = 64 };
    const size_t share = sender == STATE_COMMON
                             ? (bytes + (size_t)s->options.shards - 1) / (size_t)s->options.shards
                             : bytes;
    *kind += share;
    *memory = NULL;
    if (bytes > 0) {
        s->sent[s->sent_count++] =
            (state_sent){.at = memory, .sender = sender, .offset = s->sent_bytes[sender]};
        s->sent_bytes[sender] += (bytes + ALIGN - 1) / ALIGN * ALIGN;
        const bool read = sender != STATE_COMMON &&
                          (sender != STATE_DATA || s->options.reduction != LS_REDUCTION_BF16);
        s->bytes.shared += read ? bytes : 0; /* by others; of narrow gradients what is rounded */
        s->bytes.others += bytes - share;
    }
}

void ls_state_free(ls_state *s, void **memory) {
    for (int i = 0; i < s->sent_count; i++) {
        if (s->sent[i].at == memory) {
            return;
        }
    }
    if (*memory) {
        s->dev->ops->free(s->dev, *memory);
    }
}

static ls_comm *comm_of(const ls_state *s, int sender) {
    return sender == STATE_DATA     ? s->options.data
           : sender == STATE_COMMON ? s->gather_comm[0]
                                    : s->gather_comm[sender - STATE_GATHER];
}

/* [collective] */
static ls_status take_sent_memory(ls_state *s) {
    for (int i = 0; i < STATE_SENDERS; i++) {
        if (s->sent_bytes[i] > 0) {
            ls_comm *comm = comm_of(s, i);
            const int64_t bytes = (int64_t)s->sent_bytes[i];
            LS_TRY(i == STATE_COMMON ? comm->ops->alloc_common(comm, bytes, &s->sent_memory[i])
                                     : comm->ops->alloc(comm, bytes, &s->sent_memory[i]));
        }
    }
    for (int i = 0; i < s->sent_count; i++) {
        *s->sent[i].at = (char *)s->sent_memory[s->sent[i].sender] + s->sent[i].offset;
    }
    return LS_OK;
}

static void take_options(ls_state *s, const ls_state_options *options) {
    s->options = *options;
    if (options->expert_data) { /* whose ranks lie otherwise */
        s->options.context_ranks = 1;
    }
}

static ls_status check_options(const ls_state_options *o) {
    if (o->zero < 0 || o->zero > 3 || o->shards < 1 || (o->zero == 0 && o->shards > 1) ||
        o->data->size % o->shards != 0 ||
        (o->expert_data && o->expert_data->size % o->expert_shards != 0)) {
        return LS_FAIL(LS_E_SHAPE,
                       "zero %d over %d shards on %d ranks, of experts over %d on %d; zero is 0 to "
                       "3, with 0 there is 1 shard, and the ranks are a multiple of the shards",
                       o->zero, o->shards, o->data->size, o->expert_shards,
                       o->expert_data ? o->expert_data->size : o->data->size);
    }
    return ls_reducer_check_memory(o->data, o->dev);
}

/* Does a block of the partition begin at this row? Where a tied embedding has a twin on another
 * stage it is a block for itself, so that both are cut alike. */
static bool begins_block(const ls_state *s, const ls_param *params, int i) {
    const bool after_tied = i > 0 && strcmp(params[i - 1].name, "tok_embed.weight") == 0;
    const bool is_tied = strcmp(params[i].name, "tok_embed.weight") == 0;
    return i == 0 || params[i].block != params[i - 1].block ||
           (s->options.tied && (after_tied || is_tied));
}

/* The part's blocks of the model, from its rows. */
static void add_blocks(ls_state *s, state_part *part, const ls_param *params, int count) {
    int matrices = 0;
    part->first_block = s->block_count;
    for (int i = 0; i < count; i++) {
        const int64_t first = part->base + params[i].offset - params[0].offset;
        if (i == 0 || params[i].block != params[i - 1].block) {
            matrices = 0;
            s->blocks[s->block_count++] =
                (state_block){.part = (int)(part - s->parts), .range.first = first};
        }
        state_block *b = &s->blocks[s->block_count - 1];
        const int64_t end =
            i + 1 < count ? params[i + 1].offset - params[0].offset : s->flat_elems - part->base;
        b->range.elems = part->base + end - b->range.first;
        b->vector_elems = params[i].matrix ? b->vector_elems : b->range.elems;
        matrices += params[i].matrix;
        b->last_elems = part->is_experts || matrices < 2 ? b->range.elems : b->last_elems;
        const bool is_layer = params[i].block > 0 && params[i].block <= s->options.config->layers;
        if (is_layer || part->is_experts) {
            int64_t *most = part->is_experts ? &s->expert_elems : &s->pool_elems;
            *most = b->range.elems > *most ? b->range.elems : *most;
        }
    }
}

/* The part's rows at the end of the table, its partition. */
static ls_status add_part(ls_state *s, state_part *part, const ls_param *params, int count,
                          int64_t elems) {
    const ls_state_options *o = &s->options;
    int64_t *first;
    int blocks = s->param_count > 0 ? s->params[s->param_count - 1].block + 1 : 0, own = 0;
    LS_TRY(ls_calloc((size_t)count + 1, sizeof *first, &first));
    part->base = s->flat_elems;
    s->flat_elems += elems;
    for (int i = 0; i < count; i++) {
        if (begins_block(s, params, i)) {
            first[own++] = params[i].offset - params[0].offset;
        }
        ls_param *row = &s->params[s->param_count++];
        *row = params[i];
        row->offset += part->base - params[0].offset;
        row->block = blocks + own - 1;
    }
    first[own] = elems;
    int64_t unit_elems = o->bucket_bytes / (int64_t)s->acc_bytes;
    ls_status status = ls_partition_init(first, own, part->shards, unit_elems > 0 ? unit_elems : 1,
                                         &part->partition);
    free(first);
    LS_TRY(status);
    add_blocks(s, part, params, count);
    return ls_calloc((size_t)part->partition.unit_count + 1, sizeof *part->places, &part->places);
}

/* The rows of a part of the model, or those of its experts apart, as the next part. */
static ls_status add_rows(ls_state *s, const ls_model_part *model, bool experts) {
    const ls_state_options *o = &s->options;
    state_part *part = &s->parts[s->part_count];
    ls_comm *data = experts ? o->expert_data : o->data;
    const int shards = experts ? o->expert_shards : o->shards;
    ls_param *params = NULL;
    int count, apart = 0;
    int64_t elems;
    LS_TRY(ls_model_table_part(o->config, model, &params, &count, &elems));
    while (apart < count && !params[apart].expert) {
        apart++;
    }
    const int from = experts ? apart : 0, end = experts ? count : apart;
    if (apart < count) {
        elems = experts ? elems - params[apart].offset : params[apart].offset;
    }
    ls_status status = LS_OK;
    if (from < end) {
        const size_t rows = (size_t)(s->param_count + end - from);
        ls_param *all = reallocarray(s->params, rows, sizeof *all);
        s->params = all ? all : s->params;
        *part = (state_part){.state = s,
                             .model = *model,
                             .is_experts = experts,
                             .data = data,
                             .shards = shards,
                             .shard = data->rank % shards};
        s->part_count++;
        status = all ? add_part(s, part, params + from, end - from, elems)
                     : LS_FAIL(LS_E_MEMORY, "no memory for %zu parameters", rows);
    }
    free(params);
    return status;
}

static ls_status build_tables(ls_state *s) {
    const ls_state_options *o = &s->options;
    const size_t kinds = o->expert_data ? 2 : 1;
    LS_TRY(ls_calloc(kinds * (size_t)o->part_count, sizeof *s->parts, &s->parts));
    LS_TRY(ls_calloc(2 * (size_t)o->config->layers + 2, sizeof *s->blocks, &s->blocks));
    for (int p = 0; p < o->part_count; p++) {
        LS_TRY(add_rows(s, &o->parts[p], false));
    }
    for (int p = 0; o->expert_data && p < o->part_count; p++) {
        const int count = s->part_count;
        LS_TRY(add_rows(s, &o->parts[p], true));
        s->parts[p].experts = s->part_count > count ? &s->parts[count] : NULL;
    }
    return LS_OK;
}

/* Units belong to the block in which they lie. */
static void give_units(ls_state *s) {
    for (int i = 0; i < s->block_count; i++) {
        state_block *b = &s->blocks[i];
        const state_part *part = &s->parts[b->part];
        for (int u = 0; u < part->partition.unit_count; u++) {
            const int64_t first = part->base + part->partition.units[u].range.first;
            if (first < b->range.first) {
                b->first_unit = u + 1;
            } else if (first < b->range.first + b->range.elems) {
                b->units++;
            }
        }
    }
}

static ls_status list_owned(ls_state *s) {
    int units = 1;
    for (int p = 0; p < s->part_count; p++) {
        units += s->parts[p].partition.unit_count;
    }
    LS_TRY(ls_calloc((size_t)units, sizeof *s->owned, &s->owned));
    for (int p = 0; p < s->part_count; p++) {
        state_part *part = &s->parts[p];
        int64_t most = 0;
        for (int shard = 0; s->options.data->on_device && shard < part->shards; shard++) {
            const int64_t elems = ls_partition_elems(&part->partition, shard);
            most = elems > most ? elems : most;
        }
        s->most_owned += most;
        for (int u = 0; u < part->partition.unit_count; u++) {
            ls_range slice = ls_partition_slice(&part->partition, u, part->shard);
            part->places[u] = s->owned_elems;
            slice.first += part->base;
            if (slice.elems > 0) {
                s->owned[s->owned_count++] = (ls_owned){.range = slice, .place = s->owned_elems};
            }
            s->owned_elems += slice.elems;
        }
    }
    if (s->options.zero == 0) { /* one range, so that nothing is cut */
        s->owned[0] = (ls_owned){.range = {.first = 0, .elems = s->flat_elems}};
        s->owned_count = 1;
    }
    return LS_OK;
}

/* The reducer of a single part takes the gradients' memory itself, from a communicator that may add
 * up other ranks' without copying them; several parts are to lie in one buffer. */
static bool lends_grads(const ls_state *s) {
    return !s->full_grads || s->part_count > 1;
}

/* Elements of a buffer of all parameters or of those that this rank keeps. Whole ones are received
 * in, or in common; a GPU's collectives also want to know the memory that they send from. */
static ls_status take_elems(ls_state *s, state_sender sender, bool sent, bool whole,
                            size_t elem_bytes, size_t *kind, void **memory) {
    const bool on_device = s->options.data->on_device;
    if (sent && (whole || on_device)) {
        const int64_t elems = whole ? s->flat_elems : s->most_owned;
        ls_state_take_sent(s, sender, kind, (size_t)elems * elem_bytes, memory);
        return LS_OK;
    }
    const int64_t elems = whole ? s->flat_elems : s->owned_elems;
    return ls_state_take(s, kind, (size_t)elems * elem_bytes, memory);
}

static ls_status take_buffers(ls_state *s) {
    const bool gathers = s->options.zero > 0;
    const state_sender sender = s->common ? STATE_COMMON : STATE_GATHER;
    LS_TRY(take_elems(s, sender, gathers && !s->has_copies, s->full_masters, s->acc_bytes,
                      &s->bytes.masters, &s->masters));
    if (s->has_copies) {
        LS_TRY(take_elems(s, sender, gathers, s->full_copies, s->copy_bytes, &s->bytes.copies,
                          &s->copies));
    }
    if (lends_grads(s)) {
        return take_elems(s, STATE_DATA, true, s->full_grads, s->acc_bytes, &s->bytes.grads,
                          &s->grads);
    }
    s->bytes.grads = s->acc_bytes * (size_t)s->flat_elems;
    return LS_OK;
}

static void count_reduction(ls_state *s, ls_reduction_bytes bytes) {
    s->bytes.reduction += bytes.taken;
    s->bytes.shared += bytes.shared;
    s->bytes.between_hosts += bytes.between_hosts;
}

static ls_status make_reducer(ls_state *s, state_part *part, int64_t elems) {
    const ls_state_options *o = &s->options;
    int64_t fronts[LS_BUCKET_FRONTS];
    ls_state_fronts(s, part, fronts);
    const ls_reducer_options reducer = {
        .comm = part->data,
        .dev = s->dev,
        .reduction = o->reduction,
        .elems = elems,
        .micro_batches = o->rank_micros * part->data->size,
        .context_ranks = o->context_ranks,
        .bucket_bytes = o->bucket_bytes,
        .fronts = fronts,
        .partition = o->zero > 0 ? &part->partition : NULL,
        .buffer = !lends_grads(s) ? NULL
                  : s->planning   ? s
                                  : ls_state_at(s->grads, part->base, s->acc_bytes)};
    ls_reduction_bytes bytes;
    LS_TRY(ls_reducer_plan(&reducer, &bytes));
    count_reduction(s, bytes);
    if (s->planning) {
        return LS_OK;
    }
    LS_TRY(ls_reducer_create(&reducer, &part->reducer));
    s->grads = lends_grads(s) ? s->grads : ls_reducer_buffer(part->reducer);
    return LS_OK;
}

static ls_status make_scatter(ls_state *s, state_part *part, int blocks) {
    const ls_state_options *o = &s->options;
    ls_range *ranges;
    LS_TRY(ls_calloc((size_t)blocks, sizeof *ranges, &ranges));
    for (int b = 0; b < blocks; b++) {
        ranges[b] = s->blocks[part->first_block + b].range;
        ranges[b].first -= part->base;
    }
    const bool whole = part->model.first_block == 0 &&
                       (part->model.block_count == 0 || blocks == o->config->layers + 2);
    const ls_scatter_options scatter = {
        .comm = part->data,
        .dev = s->dev,
        .reduction = o->reduction,
        .micro_batches = o->rank_micros,
        .context_ranks = o->context_ranks,
        .partition = &part->partition,
        .blocks = ranges,
        .block_count = blocks,
        .pool_elems = part->is_experts ? s->expert_elems : s->pool_elems,
        .first_held = o->config->tied && whole && !part->is_experts,
        .sums = s->planning ? s : ls_state_at(s->grads, part->places[0], s->acc_bytes)};
    ls_reduction_bytes bytes;
    ls_status status = ls_scatter_plan(&scatter, &bytes);
    if (status == LS_OK) {
        count_reduction(s, bytes);
        status = s->planning ? LS_OK : ls_scatter_create(&scatter, &part->scatter);
    }
    free(ranges);
    return status;
}

static ls_status make_reductions(ls_state *s) {
    const int parts = s->part_count;
    for (int p = 0; p < parts; p++) {
        state_part *part = &s->parts[p];
        const int64_t end = p + 1 < parts ? s->parts[p + 1].base : s->flat_elems;
        const int end_block = p + 1 < parts ? s->parts[p + 1].first_block : s->block_count;
        LS_TRY(s->options.zero <= 1 ? make_reducer(s, part, end - part->base)
                                    : make_scatter(s, part, end_block - part->first_block));
    }
    return LS_OK;
}

static ls_status build(ls_state *s) {
    const ls_state_options *o = &s->options;
    s->dev = o->dev;
    s->acc_bytes = ls_dtype_bytes(o->dev->acc);
    s->copy_bytes = ls_dtype_bytes(o->dtype);
    s->has_copies = o->dtype != o->dev->acc;
    s->common = o->common && o->zero == 3 && o->shards > 1 && !o->expert_data;
    s->full_grads = o->zero <= 1;
    s->full_copies = o->zero <= 2 || s->common;
    s->full_masters = o->zero == 0 || (!s->has_copies && s->full_copies);
    s->windowed = !s->full_copies || (s->has_copies && o->zero > 0);
    LS_TRY(build_tables(s));
    give_units(s);
    LS_TRY(list_owned(s));
    LS_TRY(take_buffers(s));
    LS_TRY(ls_state_plan_tied(s));
    return ls_state_plan_gathers(s);
}

ls_status ls_state_plan(const ls_state_options *options, ls_state_bytes *bytes, ls_state **state) {
    *bytes = (ls_state_bytes){0};
    *state = NULL;
    LS_TRY(check_options(options));
    ls_state *s;
    LS_TRY(ls_calloc(1, sizeof *s, &s));
    take_options(s, options);
    s->planning = true;
    ls_status status = build(s);
    if (status == LS_OK) {
        status = make_reductions(s);
    }
    *bytes = s->bytes;
    if (status != LS_OK) {
        ls_state_destroy(s);
        return status;
    }
    *state = s;
    return LS_OK;
}

static ls_status split_shards(ls_comm *data, int shards, ls_comm **comm) {
    LS_TRY(data->ops->split(data, data->rank / shards, comm));
    ls_comm_name_group(*comm, "parameters.gather");
    return LS_OK;
}

static ls_status create(const ls_state_options *options, ls_state **state) {
    *state = NULL;
    ls_state *s = NULL;
    ls_status status = check_options(options);
    if (status == LS_OK) {
        status = ls_calloc(1, sizeof *s, &s);
    }
    if (status == LS_OK) {
        take_options(s, options);
        status = build(s);
    }
    ls_comm *data = options->data;
    LS_TRY_GOTO(ls_comm_agree(data, status), failed);
    if (options->zero > 0) {
        LS_TRY_GOTO(split_shards(data, options->shards, &s->gather_comm[0]), failed);
    }
    if (options->zero > 0 && options->expert_data) {
        LS_TRY_GOTO(split_shards(options->expert_data, options->expert_shards, &s->gather_comm[1]),
                    failed);
    }
    LS_TRY_GOTO(ls_comm_agree(data, take_sent_memory(s)), failed);
    LS_TRY_GOTO(make_reductions(s), failed);
    for (int p = 0; p < options->part_count; p++) {
        ls_state_set_store(&s->parts[p]);
    }
    *state = s;
    return LS_OK;
failed:
    ls_state_destroy(s);
    return status;
}

ls_status ls_state_create(const ls_state_options *options, ls_state **state) {
    ls_state_options own = *options;
    const ls_status status = create(options, state);
    own.common = false;
    return status == LS_E_UNSUPPORTED && options->common ? create(&own, state) : status;
}

void ls_state_destroy(ls_state *s) {
    if (!s) {
        return;
    }
    for (int p = 0; p < s->part_count; p++) {
        ls_reducer_destroy(s->parts[p].reducer);
        ls_scatter_destroy(s->parts[p].scatter);
        ls_partition_release(&s->parts[p].partition);
        free(s->parts[p].places);
    }
    ls_state_release_gathers(s);
    s->grads = lends_grads(s) ? s->grads : NULL;
    void **const pieces[] = {&s->masters, &s->copies, &s->grads, &s->twin};
    for (int i = 0; i < 4; i++) {
        ls_state_free(s, pieces[i]);
    }
    for (int i = 0; i < STATE_SENDERS; i++) {
        if (s->sent_memory[i]) {
            comm_of(s, i)->ops->give_back(comm_of(s, i), s->sent_memory[i]);
        }
    }
    for (int i = 0; i < 2; i++) {
        if (s->gather_comm[i]) {
            s->gather_comm[i]->ops->destroy(s->gather_comm[i]);
        }
    }
    free(s->parts);
    free(s->blocks);
    free(s->params);
    free(s->owned);
    free(s);
}

/* Questions */

ls_state_bytes ls_state_memory(const ls_state *s) {
    return s->bytes;
}

bool ls_state_is_common(const ls_state *s) {
    return s->common;
}

const ls_model_store *ls_state_store(ls_state *s, int part) {
    return &s->parts[part].store;
}

const ls_param *ls_state_params(const ls_state *s, int *count) {
    *count = s->param_count;
    return s->params;
}

int64_t ls_state_flat_elems(const ls_state *s) {
    return s->flat_elems;
}

const ls_owned *ls_state_owned(const ls_state *s, int *count) {
    *count = s->owned_count;
    return s->owned;
}

ls_state_buffers ls_state_buffers_of(const ls_state *s) {
    return (ls_state_buffers){.masters = s->masters,
                              .grads = s->grads,
                              .copies = s->copies,
                              .compact_masters = !s->full_masters,
                              .compact_grads = !s->full_grads,
                              .compact_copies = !s->full_copies};
}

/* The owned range of an element; the last that begins at or before it. */
static const ls_owned *owned_range(const ls_state *s, int64_t elem) {
    int low = 0, high = s->owned_count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (s->owned[middle].range.first <= elem) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return &s->owned[low];
}

void *ls_state_master_at(const ls_state *s, int64_t elem) {
    if (s->full_masters) {
        return ls_state_at(s->masters, elem, s->acc_bytes);
    }
    const ls_owned *o = owned_range(s, elem);
    return ls_state_at(s->masters, o->place + elem - o->range.first, s->acc_bytes);
}

/* Gradients */

ls_status ls_state_begin(ls_state *s) {
    for (int p = 0; p < s->part_count; p++) {
        const state_part *part = &s->parts[p];
        LS_TRY(part->reducer ? ls_reducer_begin(part->reducer) : ls_scatter_begin(part->scatter));
    }
    return LS_OK;
}

ls_status ls_state_micro_begin(ls_state *s, int p, int64_t local) {
    for (state_part *part = &s->parts[p]; part; part = part->experts) {
        part->micros++;
        LS_TRY(part->reducer ? ls_reducer_micro_begin(part->reducer, local, &part->micro_grads,
                                                      &part->micro_fresh)
                             : ls_scatter_micro_begin(part->scatter));
    }
    return LS_OK;
}

ls_status ls_state_micro_end(ls_state *s, int p) {
    const uint64_t start_ns = ls_clock_ns();
    for (const state_part *part = &s->parts[p]; part; part = part->experts) {
        LS_TRY(part->reducer ? ls_reducer_micro_end(part->reducer) : LS_OK);
    }
    s->comm_ns += ls_clock_ns() - start_ns;
    return LS_OK;
}

ls_status ls_state_finish(ls_state *s) {
    const uint64_t start_ns = ls_clock_ns();
    for (int p = 0; p < s->part_count; p++) {
        const state_part *part = &s->parts[p];
        void *grads;
        uint64_t wait_ns;
        LS_TRY(part->reducer ? ls_reducer_finish(part->reducer, &grads, &wait_ns)
                             : ls_scatter_finish(part->scatter, &wait_ns));
    }
    if (s->common) { /* all have read */
        LS_TRY(s->gather_comm[0]->ops->barrier(s->gather_comm[0]));
    }
    const uint64_t tied_ns = ls_clock_ns();
    s->comm_ns += tied_ns - start_ns;
    if (s->options.tied) {
        LS_TRY(ls_state_add_tied(s));
        s->tied_ns += ls_clock_ns() - tied_ns;
    }
    return LS_OK;
}

uint64_t ls_state_take_comm_ns(ls_state *s, uint64_t *tied_ns) {
    const uint64_t ns = s->comm_ns;
    *tied_ns = s->tied_ns;
    s->comm_ns = s->tied_ns = 0;
    return ns;
}
