#include "launch/train_layout.h"

#include "checkpoint/parity.h"
#include "checkpoint/saver.h"
#include "collectives/bucket.h"
#include "collectives/comm_shm.h"
#include "runtime/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ls_layout_data_rank(const ls_layout *l) {
    const int *coord = l->mesh.coord, *size = l->mesh.size;
    return (coord[LS_AXIS_REPLICATE] * size[LS_AXIS_SHARD] + coord[LS_AXIS_SHARD]) *
               size[LS_AXIS_CONTEXT] +
           coord[LS_AXIS_CONTEXT];
}

/* Layers in equal runs over the stages; the first has the embedding too, the last the head. */
static ls_model_part part_of_stage(const ls_layout *l, int stage) {
    const int64_t layers = l->config->model.layers;
    const int64_t from = ls_range_first(layers, l->stages, stage);
    const int64_t to = ls_range_first(layers, l->stages, stage + 1);
    const int first = stage == 0 ? 0 : (int)from + 1;
    const int end = stage == l->stages - 1 ? (int)layers + 2 : (int)to + 1;
    return (ls_model_part){.tensor_rank = l->mesh.coord[LS_AXIS_TENSOR],
                           .tensor_ranks = l->mesh.size[LS_AXIS_TENSOR],
                           .expert_rank = ls_layout_data_rank(l) % l->experts,
                           .expert_ranks = l->experts,
                           .first_block = first,
                           .block_count = end - first};
}

/* A step of more takes hours on any machine, and a dry run plays each: it is a slip. */
enum { MOST_MICROS = 1 << 17 };

static ls_status divide_batch(ls_layout *l) {
    const ls_config_batch *batch = &l->config->batch;
    const int64_t unit = batch->micro * l->data_ranks;
    l->seq = l->config->data.sequence;
    l->batch = batch->sequences;
    l->rank_micros = l->batch / unit;
    if (l->rank_micros > MOST_MICROS) {
        return LS_FAIL(
            LS_E_CONFIG,
            "a batch of %lld sequences gives each of %d data ranks %lld micro-batches of "
            "%lld in a step; at most %d are taken: lower batch.sequences (or "
            "batch.tokens), or have larger micro-batches or more ranks",
            (long long)l->batch, l->data_ranks, (long long)l->rank_micros, (long long)batch->micro,
            MOST_MICROS);
    }
    if (l->batch % unit == 0) {
        return LS_OK;
    }
    const int64_t below = l->batch / unit * unit;
    char lower[32] = "";
    if (below > 0) {
        snprintf(lower, sizeof lower, "%lld or ", (long long)below);
    }
    return LS_FAIL(LS_E_CONFIG,
                   "a batch of %lld sequences does not divide into micro-batches of %lld on %d "
                   "ranks (parallel.replicate x parallel.shard): set batch.sequences to %s%lld, or "
                   "have a number of such ranks that divides %lld",
                   (long long)l->batch, (long long)batch->micro, l->data_ranks, lower,
                   (long long)(below + unit), (long long)(l->batch / batch->micro));
}

static bool experts_divide(const ls_layout *l, int64_t ranks) {
    return ls_layout_data_size(l) % ranks == 0 &&
           (l->shards % ranks == 0 || ranks % l->shards == 0) &&
           ranks * l->mesh.size[LS_AXIS_TENSOR] <= l->config->model.experts;
}

static ls_status divide_experts(ls_layout *l) {
    const int64_t ranks = l->config->parallel.expert, experts = l->config->model.experts;
    int64_t below = ranks - 1, above = ranks + 1;
    if (ranks == 1 || experts_divide(l, ranks)) {
        l->experts = (int)ranks;
        l->expert_shards = ranks < l->shards ? l->shards / (int)ranks : 1;
        return LS_OK;
    }
    while (below > 1 && !experts_divide(l, below)) {
        below--;
    }
    while (above <= experts && !experts_divide(l, above)) {
        above++;
    }
    char higher[32] = "";
    if (above <= experts) {
        snprintf(higher, sizeof higher, " or %lld", (long long)above);
    }
    return LS_FAIL(LS_E_CONFIG,
                   "parallel.expert is %lld; it must divide the %d ranks of replicate x shard x "
                   "context, divide the %d of them that share a copy or be a multiple, and with "
                   "%d tensor ranks have at least one of the %lld experts each: use %lld%s",
                   (long long)ranks, ls_layout_data_size(l), l->shards,
                   l->mesh.size[LS_AXIS_TENSOR], (long long)experts, (long long)below, higher);
}

static ls_pipe_shape shape_of(const ls_layout *l) {
    return (ls_pipe_shape){.ranks = l->mesh.size[LS_AXIS_PIPELINE],
                           .parts = (int)l->config->parallel.interleave,
                           .micros = l->rank_micros};
}

/* The caller frees them. */
static ls_status make_passes(const ls_layout *l, const ls_pipe_shape *shape,
                             ls_pipe_pass **passes) {
    LS_TRY(ls_calloc((size_t)ls_pipeline_passes(shape), sizeof **passes, passes));
    ls_status status = ls_pipeline_schedule(shape, l->mesh.coord[LS_AXIS_PIPELINE], *passes);
    if (status != LS_OK) {
        free(*passes);
    }
    return status;
}

static ls_status divide_model(ls_layout *l) {
    const ls_pipe_shape shape = shape_of(l);
    l->part_count = shape.parts;
    l->stages = shape.ranks * shape.parts;
    LS_TRY(ls_calloc((size_t)shape.parts, sizeof *l->parts, &l->parts));
    LS_TRY(ls_calloc((size_t)shape.parts, sizeof *l->alive, &l->alive));
    ls_pipe_pass *passes;
    LS_TRY(make_passes(l, &shape, &passes));
    for (int i = 0; i < shape.parts; i++) {
        l->parts[i] = part_of_stage(l, i * shape.ranks + l->mesh.coord[LS_AXIS_PIPELINE]);
        l->alive[i] = ls_pipeline_alive(&shape, passes, i);
    }
    free(passes);
    return LS_OK;
}

/* By the whole model: a stage need not hold what a group names. */
static ls_status check_groups(const ls_config *config) {
    ls_param *params;
    int count;
    int64_t elems;
    LS_TRY(ls_model_table(&config->model, &params, &count, &elems));
    ls_status status = ls_optim_check_groups(&config->optim, params, count);
    free(params);
    return status;
}

ls_status ls_layout_init(ls_layout *l, const ls_config *config, ls_device *dev, ls_dtype dtype,
                         const ls_mesh *mesh) {
    *l = (ls_layout){.config = config, .dev = dev, .dtype = dtype, .mesh = *mesh};
    l->data_ranks = mesh->size[LS_AXIS_REPLICATE] * mesh->size[LS_AXIS_SHARD];
    l->shards =
        config->parallel.zero > 0 ? mesh->size[LS_AXIS_SHARD] * mesh->size[LS_AXIS_CONTEXT] : 1;
    LS_TRY(divide_batch(l));
    LS_TRY(divide_experts(l));
    LS_TRY(check_groups(config));
    l->common = config->parallel.zero == 3 && l->shards > 1 && l->experts == 1 &&
                dev->host_memory && mesh->shards_on_host &&
                config->parallel.transport != LS_CFG_MPI;
    return divide_model(l);
}

ls_status ls_layout_init_rank(ls_layout *l, const ls_config *config, ls_device *dev, ls_dtype dtype,
                              const int size[LS_AXIS_COUNT], int rank, int host_ranks) {
    int ranks = 1;
    uint64_t *hosts;
    ls_mesh mesh;
    *l = (ls_layout){0};
    for (int a = 0; a < LS_AXIS_COUNT; a++) {
        ranks *= size[a];
    }
    LS_TRY(ls_calloc((size_t)ranks, sizeof *hosts, &hosts));
    for (int r = 0; r < ranks; r++) {
        hosts[r] = (uint64_t)(r / host_ranks);
    }
    ls_status status = ls_mesh_init(&mesh, size, rank, ranks, hosts);
    free(hosts);
    LS_TRY(status);
    return ls_layout_init(l, config, dev, dtype, &mesh);
}

void ls_layout_release(ls_layout *l) {
    free(l->parts);
    free(l->alive);
    *l = (ls_layout){0};
}

/* A store that is never called: the model only learns that it has no parameters of its own. */
static const ls_model_store no_store;

ls_model_options ls_layout_model(const ls_layout *l, int part, const ls_groups *groups) {
    return (ls_model_options){.config = &l->config->model,
                              .dev = l->dev,
                              .batch = l->config->batch.micro,
                              .seq = l->seq,
                              .dtype = l->dtype,
                              .fp8 = l->config->numerics.compute == LS_COMPUTE_FP8,
                              .narrow_logits = l->config->numerics.logits == LS_CFG_LOGITS_COMPUTE,
                              .graphs = l->config->run.graphs,
                              .experts_by = (ls_experts_by)l->config->numerics.experts,
                              .training = true,
                              .document_mask = l->config->data.document_mask,
                              .document_token = l->document_token,
                              .loss_mask = l->loss_mask,
                              .part = l->parts[part],
                              .tensor = groups ? groups->tensor : NULL,
                              .context = groups ? groups->context : NULL,
                              .experts = groups ? groups->experts : NULL,
                              .context_rank = l->mesh.coord[LS_AXIS_CONTEXT],
                              .context_ranks = l->mesh.size[LS_AXIS_CONTEXT],
                              .sequence_parallel = l->config->parallel.sequence_parallel,
                              .slots = l->alive[part],
                              .recompute = l->config->recompute,
                              .store = &no_store};
}

/* Between hosts gradients go in as small units as all-reduced buckets: of the whole model, so that
 * its parts are cut alike wherever they lie. On one host larger ones are as fast. */
static int64_t bucket_bytes(const ls_layout *l) {
    const int64_t most = (int64_t)(l->config->numerics.bucket_mib * 1048576.0);
    const int64_t elems = ls_model_param_count(&l->config->model);
    return l->mesh.data_on_host ? most
                                : ls_bucket_bytes(elems * (int64_t)ls_dtype_bytes(l->dev->acc),
                                                  most, ls_layout_data_size(l));
}

ls_state_options ls_layout_state(const ls_layout *l) {
    return (ls_state_options){.config = &l->config->model,
                              .dev = l->dev,
                              .dtype = l->dtype,
                              .parts = l->parts,
                              .part_count = l->part_count,
                              .zero = (int)l->config->parallel.zero,
                              .reduction = (ls_reduction)l->config->numerics.reduction,
                              .rank_micros = l->rank_micros,
                              .context_ranks = l->mesh.size[LS_AXIS_CONTEXT],
                              .bucket_bytes = bucket_bytes(l),
                              .common = l->common,
                              .shards = l->shards,
                              .expert_shards = l->expert_shards};
}

/* Bytes of what stages hand on for a micro-batch. */
static size_t boundary_bytes(const ls_layout *l) {
    const int ranks = l->mesh.size[LS_AXIS_TENSOR], rank = l->mesh.coord[LS_AXIS_TENSOR];
    int64_t rows = l->config->batch.micro * l->seq / l->mesh.size[LS_AXIS_CONTEXT];
    if (l->config->parallel.sequence_parallel) {
        rows = ls_range_first(rows, ranks, rank + 1) - ls_range_first(rows, ranks, rank);
    }
    return (size_t)(rows * l->config->model.channels) * ls_dtype_bytes(l->dtype);
}

ls_runner_options ls_layout_runner(const ls_layout *l) {
    return (ls_runner_options){
        .dev = l->dev,
        .parts = l->part_count,
        .context_ranks = l->mesh.size[LS_AXIS_CONTEXT],
        .gathers = l->config->parallel.zero == 3 || l->experts > 1,
        .micros = l->rank_micros,
        .boundary_bytes = boundary_bytes(l),
        .batch_tokens = l->config->data.document_mask ? l->config->batch.micro * l->seq : 0};
}

ls_loader_options ls_layout_loader(const ls_layout *l, const ls_dataset *dataset, int64_t first) {
    const int *coord = l->mesh.coord, zero = (int)l->config->parallel.zero;
    const int rank = coord[LS_AXIS_REPLICATE] * l->mesh.size[LS_AXIS_SHARD] + coord[LS_AXIS_SHARD];
    const int64_t micro = l->config->batch.micro;
    const int64_t mine = ls_state_micro(zero, l->rank_micros, l->data_ranks, rank, 0);
    const int64_t next = ls_state_micro(zero, l->rank_micros, l->data_ranks, rank, 1);
    return (ls_loader_options){.dataset = dataset,
                               .seed = (uint64_t)l->config->run.seed,
                               .batch = l->batch,
                               .micro = micro,
                               .rank_first = mine * micro,
                               .rank_micros = l->rank_micros,
                               .stride = (next - mine) * micro,
                               .first_sample = first};
}

bool ls_layout_has_twin(const ls_layout *l) {
    return l->config->model.tied && l->mesh.size[LS_AXIS_PIPELINE] > 1;
}

/* Runs of a row that a lower tensor rank, another stage, or (of what is not an expert's) a lower
 * rank of the same copy of the model holds and counts too. */
static ls_status add_not_counted(const ls_layout *l, const ls_param *row, ls_optim_range **ranges,
                                 int *count) {
    const bool repeated = ls_layout_data_rank(l) % ls_layout_copy_size(l) >= l->shards;
    ls_piece pieces[LS_MAX_GROUPS];
    const int n = ls_param_pieces(row, pieces), axis = row->tp_axis < 0 ? 0 : row->tp_axis;
    int64_t outer = 1, inner = 1;
    for (int d = 0; d < row->ndim; d++) {
        outer *= d < axis ? row->local_dims[d] : 1;
        inner *= d > axis ? row->local_dims[d] : 1;
    }
    for (int i = 0; i < n; i++) {
        if (pieces[i].first && !row->copied && (row->expert || !repeated)) {
            continue;
        }
        const ls_box *local = &pieces[i].local;
        ls_optim_range *more = reallocarray(*ranges, (size_t)(*count + outer), sizeof **ranges);
        if (!more) {
            return LS_FAIL(LS_E_MEMORY, "no memory for %lld ranges", (long long)(*count + outer));
        }
        *ranges = more;
        for (int64_t o = 0; o < outer; o++) {
            const int64_t at = (o * row->local_dims[axis] + local->start[axis]) * inner;
            more[(*count)++] = (ls_optim_range){.flat_offset = row->offset + at,
                                                .elems = local->extent[axis] * inner};
        }
    }
    return LS_OK;
}

static int compare_ranges(const void *a, const void *b) {
    const int64_t x = ((const ls_optim_range *)a)->flat_offset;
    const int64_t y = ((const ls_optim_range *)b)->flat_offset;
    return x < y ? -1 : x > y;
}

ls_status ls_layout_optim(const ls_layout *l, const ls_state *state, ls_optim_options *options,
                          ls_optim_range **owned, ls_optim_range **not_counted) {
    int owned_count, row_count, skip_count = 0;
    const ls_owned *own = ls_state_owned(state, &owned_count);
    const ls_param *rows = ls_state_params(state, &row_count);
    const ls_state_buffers b = ls_state_buffers_of(state);
    *not_counted = NULL;
    LS_TRY(ls_calloc((size_t)owned_count + 1, sizeof **owned, owned));
    for (int i = 0; i < owned_count; i++) {
        (*owned)[i] = (ls_optim_range){.flat_offset = own[i].range.first,
                                       .elems = own[i].range.elems,
                                       .local_offset = own[i].place};
    }
    for (int i = 0; i < row_count; i++) {
        LS_TRY(add_not_counted(l, &rows[i], not_counted, &skip_count));
    }
    if (skip_count > 0) {
        qsort(*not_counted, (size_t)skip_count, sizeof **not_counted, compare_ranges);
    }
    *options = (ls_optim_options){.config = &l->config->optim,
                                  .dev = l->dev,
                                  .params = rows,
                                  .param_count = row_count,
                                  .flat_elems = ls_state_flat_elems(state),
                                  .owned = *owned,
                                  .owned_count = owned_count,
                                  .compact_masters = b.compact_masters,
                                  .compact_copies = b.compact_copies,
                                  .compact_grads = b.compact_grads,
                                  .masters = b.masters,
                                  .copies = b.copies,
                                  .copy_dtype = l->dtype,
                                  .not_counted = *not_counted,
                                  .not_counted_count = skip_count};
    return LS_OK;
}

/* The bytes of an optimizer are those that it asks a device for that only counts. */
static size_t counted_bytes, counted_scratch;
static const ls_device *counted_for; /* which knows its scratch memory */

static ls_status count_alloc(ls_device *dev, size_t bytes, void **memory) {
    (void)dev;
    counted_bytes += bytes;
    *memory = NULL;
    return LS_OK;
}

static ls_status count_reserve(ls_device *dev, const ls_device_limits *limits) {
    (void)dev;
    counted_scratch =
        counted_for->ops->scratch ? counted_for->ops->scratch(counted_for, limits) : 0;
    return LS_OK;
}

static void count_free(ls_device *dev, void *memory) {
    (void)dev;
    (void)memory;
}

/* The copy of masters and states that a save writes from, which replicas share out. */
static size_t snapshot_bytes(const ls_layout *l, const ls_state *state, const ls_optim *optim) {
    int owned_count, row_count;
    const ls_owned *own = ls_state_owned(state, &owned_count);
    const ls_param *rows = ls_state_params(state, &row_count);
    const int data = ls_layout_data_size(l);
    int64_t elems[2] = {0}; /* and of experts apart */
    for (int i = 0; i < row_count; i++) {
        int copies = 1;
        for (int s = 0; s < ls_optim_state_count(optim); s++) {
            copies += ls_optim_state_shape(optim, s, i) == LS_STATE_FULL;
        }
        const ls_range row = {rows[i].offset, rows[i].copied ? 0 : rows[i].elems};
        for (int o = 0; o < owned_count; o++) {
            elems[rows[i].expert] += copies * ls_range_common(row, own[o].range).elems;
        }
    }
    const int64_t shares =
        elems[0] / (data / l->shards) + elems[1] / (data / l->experts / l->expert_shards);
    return (size_t)shares * ls_dtype_bytes(l->dev->acc);
}

static size_t largest_piece(const ls_layout *l, const ls_state *state) {
    int owned_count, row_count;
    int64_t most = 0;
    const ls_owned *own = ls_state_owned(state, &owned_count);
    const ls_param *rows = ls_state_params(state, &row_count);
    for (int i = 0; i < row_count; i++) {
        const ls_range row = {rows[i].offset, rows[i].elems};
        for (int o = 0; o < owned_count; o++) {
            const int64_t elems = ls_range_common(row, own[o].range).elems;
            most = elems > most ? elems : most;
        }
    }
    return (size_t)most * ls_dtype_bytes(l->dev->acc);
}

/* What this rank's groups take, that of saves among them. */
static size_t groups_bytes(const ls_layout *l) {
    const int *size = l->mesh.size, data = ls_layout_data_size(l);
    const int sizes[] = {l->mesh.world,
                         data,
                         l->shards,
                         size[LS_AXIS_TENSOR],
                         size[LS_AXIS_CONTEXT],
                         size[LS_AXIS_PIPELINE],
                         l->experts > 1 ? l->experts * size[LS_AXIS_TENSOR] : 1,
                         l->experts > 1 ? data / l->experts : 1,
                         l->expert_shards,
                         l->experts > 1 ? ls_layout_copy_size(l) : 1};
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        bytes += sizes[i] > 1 ? ls_comm_shm_bytes() : 0;
    }
    return bytes;
}

/* Of the parity files that this writer makes, if it is the first of a group. */
static size_t parity_bytes(const ls_layout *l, int writer, int writers) {
    const int k = (int)l->config->checkpoint.parity;
    return k > 0 && writer % LS_PARITY_GROUP == 0 ? ls_parity_bytes(writers - writer, k) : 0;
}

static void plan_saves(const ls_layout *l, const ls_state *state, const ls_optim *optim,
                       ls_layout_bytes *bytes) {
    const ls_config_checkpoint *c = &l->config->checkpoint;
    const int64_t steps = l->config->run.steps;
    const bool by_host = c->writers == LS_CFG_WRITER_NODE;
    const ls_mesh *mesh = &l->mesh;
    if (c->async || by_host) {
        bytes->saves = snapshot_bytes(l, state, optim);
    }
    if (by_host && mesh->host_rank > 0) {
        bytes->saves /= 2;
        return;
    }
    bytes->saves += by_host ? bytes->saves / 2 * (size_t)(mesh->host_ranks - 1) : 0;
    bytes->writing = ls_ckpt_writing_bytes(&(ls_ckpt_writing){
        .threads = l->dev->threads,
        .piece_bytes = largest_piece(l, state),
        .parity_bytes = by_host ? parity_bytes(l, mesh->host, mesh->hosts)
                                : parity_bytes(l, mesh->rank, mesh->world),
        .first = mesh->rank == 0,
        .background = c->async && c->every > 0 && (steps == 0 || c->every < steps)});
}

static void tell_optim(const ls_layout *l, const ls_optim *optim, const ls_comm_list *list) {
    const int shards = l->config->parallel.zero > 0 ? l->shards : 1, own = ls_layout_data_rank(l);
    const ls_optim_ranks ranks = {
        .copy = l->experts > 1 ? ls_layout_copy_size(l) : shards,
        .tensor = l->mesh.size[LS_AXIS_TENSOR],
        .pipeline = l->mesh.size[LS_AXIS_PIPELINE],
        .shard = shards,
        .shard_rank = own % shards,
        .expert_shard = l->expert_shards,
        .expert_shard_rank = own / l->experts % l->expert_shards,
        .experts = l->experts > 1 ? l->experts * l->mesh.size[LS_AXIS_TENSOR] : 1};
    ls_optim_tell(optim, &ranks, list);
}

static ls_status plan_optim(const ls_layout *l, const ls_state *state, ls_layout_bytes *bytes,
                            const ls_comm_list *list) {
    ls_device_ops ops = *l->dev->ops;
    ls_device dev = *l->dev;
    ops.alloc = count_alloc;
    ops.free = count_free;
    ops.reserve = count_reserve;
    dev.ops = &ops;
    ls_optim_options options;
    ls_optim_range *owned = NULL, *not_counted = NULL;
    ls_optim *optim = NULL;
    counted_bytes = counted_scratch = 0;
    counted_for = l->dev;
    ls_status status = ls_layout_optim(l, state, &options, &owned, &not_counted);
    options.dev = &dev;
    options.planned_shards = l->shards;
    options.planned_expert_shards = l->expert_shards;
    if (status == LS_OK) {
        status = ls_optim_create(&options, &optim);
    }
    bytes->optim = counted_bytes;
    bytes->scratch = counted_scratch > bytes->scratch ? counted_scratch : bytes->scratch;
    if (status == LS_OK) {
        plan_saves(l, state, optim, bytes);
    }
    if (status == LS_OK && list) {
        tell_optim(l, optim, list);
    }
    ls_optim_destroy(optim);
    free(owned);
    free(not_counted);
    return status;
}

static ls_status plan_models(const ls_layout *l, ls_layout_bytes *bytes, const ls_comm_list *list) {
    for (int p = 0; p < l->part_count; p++) {
        const ls_model_options model = ls_layout_model(l, p, NULL);
        ls_model_bytes b;
        LS_TRY(ls_model_plan(&model, &b));
        bytes->activations += b.activations;
        bytes->tables += b.tables;
        bytes->spare += b.spare;
        bytes->scratch = b.scratch > bytes->scratch ? b.scratch : bytes->scratch;
        LS_TRY(list ? ls_model_tell(&model, l->rank_micros, list) : LS_OK);
    }
    return LS_OK;
}

static ls_status tell_state(const ls_layout *l, ls_state *state, const ls_comm_list *list) {
    const ls_pipe_shape shape = shape_of(l);
    ls_pipe_pass *passes;
    LS_TRY(make_passes(l, &shape, &passes));
    ls_status status = ls_state_tell(state, passes, ls_pipeline_passes(&shape), list);
    free(passes);
    return status;
}

/* Others' parameters that come from other hosts before this rank, which may be late, asks for them:
 * most of a small model's, as measured on 2 and 4 hosts. */
static size_t early_bytes(const ls_layout *l, const ls_state_bytes *state) {
    enum { MOST_BYTES = 16 << 20 };
    const size_t elems = state->masters / ls_dtype_bytes(l->dev->acc) * (size_t)(l->shards - 1);
    const size_t bytes = elems * ls_dtype_bytes(l->dtype) / 10 * 7;
    const bool gathers = l->config->parallel.zero > 0 && l->dev->host_memory;
    return !gathers || l->mesh.shards_on_host ? 0 : bytes < MOST_BYTES ? bytes : MOST_BYTES;
}

/* list: NULL, or what hears of the operations. */
static ls_status plan(const ls_layout *l, ls_layout_bytes *bytes, const ls_comm_list *list) {
    *bytes = (ls_layout_bytes){0};
    ls_comm data = {.rank = ls_layout_data_rank(l),
                    .size = ls_layout_data_size(l),
                    .on_device = !l->dev->host_memory};
    ls_comm expert_data = {.rank = data.rank / l->experts,
                           .size = data.size / l->experts,
                           .on_device = data.on_device};
    ls_comm pipeline = {.rank = l->mesh.coord[LS_AXIS_PIPELINE],
                        .size = l->mesh.size[LS_AXIS_PIPELINE]};
    ls_runner_options runner = ls_layout_runner(l);
    LS_TRY(plan_models(l, bytes, list));
    ls_state_options state_options = ls_layout_state(l);
    state_options.data = &data;
    state_options.expert_data = l->experts > 1 ? &expert_data : NULL;
    state_options.tied = ls_layout_has_twin(l) ? &pipeline : NULL;
    ls_state *state;
    LS_TRY(ls_state_plan(&state_options, &bytes->state, &state));
    ls_status status = plan_optim(l, state, bytes, list);
    bytes->state.between_hosts += early_bytes(l, &bytes->state);
    bytes->scratch += l->mesh.data_on_host ? 0 : bytes->state.between_hosts;
    bytes->scratch += l->dev->host_memory ? groups_bytes(l) : 0;
    if (status == LS_OK && list) {
        status = tell_state(l, state, list);
    }
    ls_state_destroy(state);
    LS_TRY(status);
    runner.data = &data;
    runner.pipeline = &pipeline;
    if (list) {
        ls_runner_tell(&runner, list);
    }
    return ls_runner_plan(&runner, &bytes->boundary);
}

ls_status ls_layout_plan(const ls_layout *l, ls_layout_bytes *bytes) {
    return plan(l, bytes, NULL);
}

ls_status ls_layout_tell(const ls_layout *l, const ls_comm_list *list) {
    return plan(l, &(ls_layout_bytes){0}, list);
}

size_t ls_layout_total(const ls_layout_bytes *b) {
    const ls_state_bytes *s = &b->state;
    return s->masters + s->copies + s->grads + s->gathered + s->reduction + b->optim +
           b->activations + b->tables + b->boundary;
}

size_t ls_layout_used(const ls_layout_bytes *b) {
    return ls_layout_total(b) - b->spare;
}
