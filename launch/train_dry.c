/* `lockstep train --dry-run`: what each rank would hold, send and wait for, without training. Ranks
 * are planned one after the other by this process, so that any number of them can be asked for. */
#include "launch/train.h"
#include "launch/train_dry_roles.h"
#include "launch/train_predict.h"
#include "runtime/base/arena.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The most of any rank that is in no total. */
typedef struct extras {
    size_t saves, scratch, shared, others, between_hosts, spare;
} extras;

/* What a rank sends in a step, in rows of the table below. */
typedef struct wire {
    double bytes, operations;
} wire;
enum { GRADIENTS = LS_COMM_AXIS_COUNT, PARAMETERS, WIRES }; /* first the axes */

static void add_wire(void *context, const ls_comm_operation *o) {
    const bool gathered = o->use == LS_USE_PARAMETERS || o->use == LS_USE_BLOCKS;
    wire *w = &((wire *)context)[gathered                  ? PARAMETERS
                                 : o->axis == LS_COMM_DATA ? GRADIENTS
                                                           : (int)o->axis];
    w->operations += o->count;
    w->bytes += o->count * ls_wire_bytes(o->coll, o->ranks, o->bytes);
}

/* Text */

static const char *bytes_text(double bytes, char buf[32]) {
    return bytes > 0 ? ls_text_bytes(buf, 32, bytes) : "-";
}

static void print_blocks(const ls_layout *l, char *buf, size_t size) {
    const int layers = (int)l->config->model.layers;
    buf[0] = '\0';
    for (int p = 0; p < l->part_count; p++) {
        const int first = l->parts[p].first_block, end = first + l->parts[p].block_count;
        const int from = first > 0 ? first - 1 : 0, to = end > layers + 1 ? layers - 1 : end - 2;
        size_t n = strlen(buf);
        snprintf(buf + n, size - n, "%s%slayers %d-%d%s", p > 0 ? "; " : "",
                 first == 0 ? "embedding, " : "", from, to, end == layers + 2 ? ", head" : "");
    }
}

static void print_mesh(const ls_train *train, const ls_mesh *mesh) {
    const ls_config *c = &train->config;
    char params[32];
    printf("model      %s: %s parameters, computed in %s%s\n",
           c->model.preset[0] ? c->model.preset : c->run.name,
           ls_text_count(params, sizeof params, (double)ls_model_param_count(&c->model)),
           ls_dtype_name(train->layout.dtype), ls_layout_logits(&train->layout));
    printf("mesh       %d rank%s =", mesh->world, mesh->world == 1 ? "" : "s");
    for (int a = 0; a < LS_AXIS_COUNT; a++) {
        printf("%s %s %d", a > 0 ? " x" : "", ls_axis_name((ls_axis)a), mesh->size[a]);
    }
    printf("; zero %lld%s\n", (long long)c->parallel.zero,
           c->parallel.sequence_parallel ? ", sequence parallel" : "");
    if (c->model.experts > 0) {
        printf(
            "experts    %lld a layer over %d ranks = expert %d (of replicate x shard x context) x "
            "tensor %d; %d ranks have the same ones%s\n",
            (long long)c->model.experts, train->layout.experts * mesh->size[LS_AXIS_TENSOR],
            train->layout.experts, mesh->size[LS_AXIS_TENSOR],
            ls_layout_data_size(&train->layout) / train->layout.experts,
            train->layout.expert_shards > 1 ? " and divide them" : "");
    }
    const long long micros = train->layout.rank_micros;
    const int ranks = train->layout.data_ranks;
    printf("batch      %lld sequences x %lld tokens: %lld micro-batch%s of %lld on each of %d "
           "data-parallel rank%s\n",
           (long long)train->layout.batch, (long long)train->layout.seq, micros,
           micros == 1 ? "" : "es", (long long)c->batch.micro, ranks, ranks == 1 ? "" : "s");
}

static void print_header(void) {
    printf("\nbytes held by the fullest rank of each pipeline stage\n");
    printf("%-6s %10s %10s %10s %10s %10s %10s %11s %10s  %s\n", "ranks", "masters", "copies",
           "grads", "optimizer", "gathered", "reduction", "activations", "total", "holds");
}

static void print_row(const ls_layout *l, const ls_layout_bytes *b, int ranks) {
    char t[8][32], blocks[256];
    print_blocks(l, blocks, sizeof blocks);
    printf("%-6d %10s %10s %10s %10s %10s %10s %11s %10s  %s\n", ranks,
           bytes_text((double)b->state.masters, t[0]), bytes_text((double)b->state.copies, t[1]),
           bytes_text((double)b->state.grads, t[2]), bytes_text((double)b->optim, t[3]),
           bytes_text((double)b->state.gathered, t[4]),
           bytes_text((double)b->state.reduction, t[5]),
           bytes_text((double)(b->activations - b->spare + b->tables + b->boundary), t[6]),
           bytes_text((double)ls_layout_used(b), t[7]), blocks);
}

/* What a process takes besides, and what its resident set counts though others take it: of each
 * buffer in which gradients are added up where they lie, the part that this rank adds. */
static void print_process(const ls_train *train, const extras *more) {
    const int ranks = ls_layout_data_size(&train->layout);
    char copy[32], scratch[32], program[32], others[32];
    if (more->spare > 0) {
        printf(
            "\nactivations are those of tokens that choose the experts evenly; up to %s more are "
            "reserved, and taken if all want those of one rank\n",
            ls_text_bytes(copy, sizeof copy, (double)more->spare));
    }
    printf("\nbesides, a rank takes up to %s for saves and %s as scratch memory of operations, and "
           "%s are program and libraries (measured in this process; MPI adds to it)\n",
           ls_text_bytes(copy, sizeof copy, (double)more->saves),
           ls_text_bytes(scratch, sizeof scratch, (double)more->scratch),
           ls_text_bytes(program, sizeof program, (double)train->memory.program_bytes));
    if (ranks > 1 && more->shared > 0) {
        const double read = (double)more->shared * (ranks - 1) / ranks;
        printf(
            "its resident set, as `top` shows it, counts up to %s more: gradients of other ranks "
            "that it adds up where they lie, if all %d data-parallel ranks run on its host\n",
            ls_text_bytes(others, sizeof others, read), ranks);
    }
    if (more->between_hosts > 0) {
        printf("gradients and parameters on their way between hosts take up to %s more, if "
               "data-parallel ranks lie on several\n",
               ls_text_bytes(others, sizeof others, (double)more->between_hosts));
    }
    if (more->others > 0) {
        printf(
            "parameters are there once for the %d ranks that divide them, which are taken to "
            "share a host; the resident set counts the others' %s too. On several hosts, or with "
            "parallel.transport=mpi, each rank gathers blocks of its own\n",
            train->layout.shards, ls_text_bytes(others, sizeof others, (double)more->others));
    }
}

static void print_wire(const wire w[WIRES]) {
    static const struct {
        const char *axis, *what;
        int row;
    } rows[] = {{"data", "gradients (replicate, shard, context), losses, norms", GRADIENTS},
                {"shard", "parameters", PARAMETERS},
                {"tensor", "activations", LS_COMM_TENSOR},
                {"expert", "rows to experts and back, if they are evenly chosen", LS_COMM_EXPERT},
                {"context", "keys, values and their gradients", LS_COMM_CONTEXT},
                {"pipeline", "activations between stages", LS_COMM_PIPELINE}};
    printf("\nsent in a step by the rank that sends most\n");
    printf("%-10s %10s %10s\n", "axis", "bytes", "operations");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const wire *row = &w[rows[i].row];
        char text[32], count[32] = "-";
        if (row->operations > 0) {
            snprintf(count, sizeof count, "%.0f", row->operations);
        }
        printf("%-10s %10s %10s  %s\n", rows[i].axis, bytes_text(row->bytes, text), count,
               rows[i].what);
    }
}

static void take_most(wire most[WIRES], const wire w[WIRES]) {
    for (int i = 0; i < WIRES; i++) {
        const bool more = w[i].bytes != most[i].bytes ? w[i].bytes > most[i].bytes
                                                      : w[i].operations > most[i].operations;
        most[i] = more ? w[i] : most[i];
    }
}

static void take_larger(size_t *most, size_t bytes) {
    *most = bytes > *most ? bytes : *most;
}

static ls_status init_layout(ls_train *train, ls_mesh *mesh, int rank) {
    ls_layout_release(&train->layout);
    mesh->rank = rank;
    ls_mesh_coords(mesh, rank, mesh->coord);
    return ls_layout_init(&train->layout, &train->config, train->session.dev,
                          ls_session_dtype(train->config.numerics.compute, train->session.dev),
                          mesh);
}

static ls_status plan_rank(ls_train *train, ls_mesh *mesh, int rank, ls_layout_bytes *fullest,
                           extras *more) {
    ls_layout_bytes bytes, apart;
    ls_mesh hosts = *mesh;
    hosts.shards_on_host = hosts.data_on_host = false;
    LS_TRY(init_layout(train, &hosts, rank));
    LS_TRY(ls_layout_plan(&train->layout, &apart));
    LS_TRY(init_layout(train, mesh, rank));
    LS_TRY(ls_layout_plan(&train->layout, &bytes));
    if (ls_layout_used(&bytes) > ls_layout_used(fullest)) {
        *fullest = bytes;
    }
    take_larger(&more->saves, bytes.saves + bytes.writing);
    take_larger(&more->scratch, bytes.scratch);
    take_larger(&more->shared, bytes.state.shared);
    take_larger(&more->others, bytes.state.others);
    take_larger(&more->between_hosts, apart.state.between_hosts);
    take_larger(&more->spare, bytes.spare);
    return LS_OK;
}

/* The fullest rank of a pipeline coordinate. Ranks differ in their shards and tensor parts only by
 * what does not divide; those that differ in nothing are planned once. */
static ls_status plan_stage(ls_train *train, ls_mesh mesh, int stage, wire most[WIRES],
                            extras *more) {
    const int ranks = mesh.world / mesh.size[LS_AXIS_PIPELINE], first = stage * ranks;
    const int tensor = mesh.size[LS_AXIS_TENSOR];
    ls_layout_bytes fullest = {0};
    ls_dry_roles roles;
    LS_TRY(init_layout(train, &mesh, first));
    ls_status status = ls_dry_roles_init(&train->layout, &roles);
    for (int r = 0; r < ranks && status == LS_OK; r++) {
        if (ls_dry_roles_is_new(&roles, r / tensor, r % tensor)) {
            status = plan_rank(train, &mesh, first + r, &fullest, more);
        }
    }
    ls_dry_roles_release(&roles);
    LS_TRY(status);
    LS_TRY(init_layout(train, &mesh, first + ranks - 1));
    wire sent[WIRES] = {{0}};
    LS_TRY(ls_layout_tell(&train->layout, &(ls_comm_list){.add = add_wire, .context = sent}));
    take_most(most, sent);
    if (stage == 0) {
        print_mesh(train, &mesh);
        print_header();
    }
    print_row(&train->layout, &fullest, ranks);
    return LS_OK;
}

static ls_status print_bubble(const ls_layout *l) {
    const ls_pipe_shape shape = {
        .ranks = l->mesh.size[LS_AXIS_PIPELINE], .parts = l->part_count, .micros = l->rank_micros};
    const ls_pipe_costs costs = {.forward_s = 1.0, .backward_s = 2.0};
    ls_pipe_time time;
    LS_TRY(ls_pipeline_simulate(&shape, &costs, &time));
    printf("\npipeline   %d stage%s, %lld micro-batch%s: ranks are idle for %.1f%% of a step "
           "(backward twice as long as forward, transfers hidden)\n",
           l->stages, l->stages == 1 ? "" : "s", (long long)shape.micros,
           shape.micros == 1 ? "" : "es", 100.0 * time.bubble);
    return LS_OK;
}

/* Where there is a cluster profile. */
static ls_status print_prediction(const ls_train *train, const int size[LS_AXIS_COUNT]) {
    ls_train_prediction found;
    char step[32], exposed[32];
    if (!train->config.cost.cluster[0]) {
        return LS_OK;
    }
    LS_TRY(ls_train_predict_layout(&train->config, train->session.dev, size, &found));
    printf("predicted  %s a step by '%s', %s of it in communication that nothing hides\n",
           ls_text_duration(step, sizeof step, found.step_s), train->config.cost.cluster,
           ls_text_duration(exposed, sizeof exposed, found.exposed_s));
    return LS_OK;
}

/* Data may be elsewhere, for a machine that is only thought of. */
static void doubt_data(const ls_config *config) {
    ls_dataset *data;
    if (!config->data.dir[0]) {
        return;
    }
    if (ls_dataset_open(config->data.dir, LS_SPLIT_TRAIN, config->data.sequence, false, &data) !=
        LS_OK) {
        ls_log_warn("data.dir: %s", ls_error_last()->message);
        ls_error_clear();
        return;
    }
    ls_dataset_close(data);
}

ls_status ls_train_dry_run(ls_train *train, int ranks) {
    doubt_data(&train->config);
    int size[LS_AXIS_COUNT];
    uint64_t *hosts;
    ls_mesh mesh;
    wire most[WIRES] = {{0}};
    extras more = {0};
    LS_TRY(ls_session_axes(&train->config.parallel, ranks, size));
    LS_TRY(ls_calloc((size_t)ranks, sizeof *hosts, &hosts));
    ls_status status = ls_mesh_init(&mesh, size, 0, ranks, hosts);
    free(hosts);
    for (int stage = 0; status == LS_OK && stage < mesh.size[LS_AXIS_PIPELINE]; stage++) {
        status = plan_stage(train, mesh, stage, most, &more);
    }
    if (status == LS_OK) {
        print_process(train, &more);
        print_wire(most);
        status = print_bubble(&train->layout);
    }
    if (status == LS_OK) {
        status = print_prediction(train, mesh.size);
    }
    return status;
}
