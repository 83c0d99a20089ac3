#include "runtime/step/runner.h"

#include "collectives/recorded.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"

#include <stdlib.h>

static ls_status take(ls_runner *r, size_t bytes, void **memory) {
    r->bytes += bytes;
    *memory = NULL;
    return r->planning ? LS_OK : r->options.dev->ops->alloc(r->options.dev, bytes, memory);
}

static ls_status take_ring(ls_runner *r, runner_ring *ring, int entries) {
    void *memory;
    ring->entries = entries;
    LS_TRY(ls_calloc((size_t)entries, sizeof *ring->requests, &ring->requests));
    LS_TRY(take(r, (size_t)entries * r->options.boundary_bytes, &memory));
    ring->memory = memory;
    return LS_OK;
}

static ls_status take_rings(ls_runner *r) {
    const int in_flight = r->options.parts > 1 ? r->ranks + 1 : 2;
    LS_TRY(ls_calloc((size_t)r->options.parts, sizeof *r->inputs, &r->inputs));
    for (int p = 0; p < r->options.parts; p++) {
        LS_TRY(ls_runner_is_first(r, p) ? LS_OK : take_ring(r, &r->inputs[p], r->alive[p] + 1));
    }
    LS_TRY(take_ring(r, &r->dx, 2));
    LS_TRY(take_ring(r, &r->sends[0], in_flight));
    return take_ring(r, &r->sends[1], in_flight);
}

static ls_status build(ls_runner *r) {
    const ls_runner_options *o = &r->options;
    const int context_ranks = o->context_ranks > 0 ? o->context_ranks : 1;
    r->options.context_ranks = context_ranks;
    r->rank = o->pipeline ? o->pipeline->rank : 0;
    r->ranks = o->pipeline ? o->pipeline->size : 1;
    r->stages = r->ranks * o->parts;
    r->data_rank = o->data->rank / context_ranks;
    r->data_ranks = o->data->size / context_ranks;
    LS_TRY(ls_calloc((size_t)o->parts, sizeof *r->alive, &r->alive));
    for (int p = 0; p < o->parts; p++) {
        r->alive[p] = 1;
    }
    if (o->micros > 0) {
        const ls_pipe_shape shape = {.ranks = r->ranks, .parts = o->parts, .micros = o->micros};
        r->pass_count = ls_pipeline_passes(&shape);
        void *losses;
        LS_TRY(take(r, (size_t)o->micros * sizeof *r->losses, &losses));
        r->losses = losses;
        LS_TRY(ls_calloc((size_t)o->micros * (size_t)(1 + o->data->size), sizeof *r->host_losses,
                         &r->host_losses));
        LS_TRY(ls_calloc((size_t)r->pass_count, sizeof *r->passes, &r->passes));
        LS_TRY(ls_pipeline_schedule(&shape, r->rank, r->passes));
        for (int p = 0; p < o->parts; p++) {
            r->alive[p] = ls_pipeline_alive(&shape, r->passes, p);
        }
    }
    if (o->batch_tokens > 0 && o->parts > 1) {
        LS_TRY(ls_calloc((size_t)(r->alive[0] * 2 * o->batch_tokens), sizeof *r->batches,
                         &r->batches));
    }
    return r->stages > 1 ? take_rings(r) : LS_OK;
}

ls_status ls_runner_plan(const ls_runner_options *options, size_t *bytes) {
    ls_runner *r;
    LS_TRY(ls_calloc(1, sizeof *r, &r));
    r->options = *options;
    r->planning = true;
    ls_status status = build(r);
    *bytes = r->bytes;
    ls_runner_destroy(r);
    return status;
}

ls_status ls_runner_create(const ls_runner_options *options, ls_runner **runner) {
    *runner = NULL;
    ls_runner *r;
    LS_TRY(ls_calloc(1, sizeof *r, &r));
    r->options = *options;
    ls_status status = ls_calloc((size_t)options->parts, sizeof *r->models, &r->models);
    for (int p = 0; status == LS_OK && p < options->parts; p++) {
        r->models[p] = options->models[p];
    }
    if (status == LS_OK) {
        status = build(r);
    }
    ls_comm *pipeline = options->pipeline;
    if (pipeline) {
        LS_TRY_GOTO(ls_comm_agree(pipeline, status), failed);
        r->lanes = !pipeline->on_device || options->parts == 1 ? 1 : pipeline->size % 2 ? 3 : 2;
        for (int i = 0; i < 2 * r->lanes; i++) {
            ls_comm **way = &r->way[i % 2][i / 2];
            LS_TRY_GOTO(pipeline->ops->duplicate(pipeline, way), failed);
            ls_comm_name_group(*way, i % 2 ? "pipeline.backward" : "pipeline.forward");
        }
    }
    if (status == LS_OK) {
        *runner = r;
        return LS_OK;
    }
failed:
    ls_runner_destroy(r);
    return status;
}

void ls_runner_tell(const ls_runner_options *o, const ls_comm_list *list) {
    const int ranks = o->pipeline ? o->pipeline->size : 1,
              rank = o->pipeline ? o->pipeline->rank : 0;
    const double micros = (double)o->micros, loss_bytes = sizeof(double);
    for (int part = 0; part < o->parts; part++) {
        const int stage = part * ranks + rank;
        const int neighbours = (stage > 0) + (stage < ranks * o->parts - 1);
        ls_comm_tell(list,
                     (ls_comm_operation){LS_COMM_PIPELINE, LS_USE_BESIDE, LS_COLL_SEND_RECV, ranks,
                                         (double)o->boundary_bytes, neighbours * micros});
    }
    ls_comm_tell(list, (ls_comm_operation){LS_COMM_DATA, LS_USE_ACTIVATIONS, LS_COLL_ALL_GATHER,
                                           o->data->size, o->data->size * micros * loss_bytes, 1});
    ls_comm_tell(list, (ls_comm_operation){LS_COMM_PIPELINE, LS_USE_ACTIVATIONS, LS_COLL_ALL_REDUCE,
                                           ranks, loss_bytes, 1});
}

static void release_ring(ls_runner *r, runner_ring *ring) {
    if (ring->memory) {
        r->options.dev->ops->free(r->options.dev, ring->memory);
    }
    free(ring->requests);
}

void ls_runner_destroy(ls_runner *r) {
    if (!r) {
        return;
    }
    for (int p = 0; r->inputs && p < r->options.parts; p++) {
        release_ring(r, &r->inputs[p]);
    }
    release_ring(r, &r->dx);
    for (int way = 0; way < 2; way++) {
        release_ring(r, &r->sends[way]);
        for (int lane = 0; lane < r->lanes; lane++) {
            if (r->way[way][lane]) {
                r->way[way][lane]->ops->destroy(r->way[way][lane]);
            }
        }
    }
    if (r->losses) {
        r->options.dev->ops->free(r->options.dev, r->losses);
    }
    free(r->inputs);
    free(r->alive);
    free(r->batches);
    free(r->host_losses);
    free(r->passes);
    free(r->models);
    free(r);
}

size_t ls_runner_bytes(const ls_runner *r) {
    return r->bytes;
}

static int neighbour(const ls_runner *r, int distance) {
    return (r->rank + distance + r->ranks) % r->ranks;
}

/* For what `sender` sends: neighbours in the ring of ranks have different ones. */
static ls_comm *way_of(const ls_runner *r, bool backward, int sender) {
    const int lane = r->lanes == 3 && sender == r->ranks - 1 ? 2 : sender % 2;
    return r->way[backward][r->lanes == 1 ? 0 : lane];
}

static ls_status finish(ls_runner *r, bool backward, int sender, ls_comm_request **request) {
    ls_comm *way = way_of(r, backward, sender);
    if (*request) {
        const uint64_t start_ns = ls_clock_ns();
        LS_TRY(way->ops->wait(way, *request));
        *request = NULL;
        r->comm_ns += ls_clock_ns() - start_ns;
    }
    return LS_OK;
}

ls_status ls_runner_receive(ls_runner *r, bool backward, runner_ring *ring, int64_t index) {
    const int sender = neighbour(r, backward ? 1 : -1);
    ls_comm *comm = way_of(r, backward, sender);
    const int64_t entry = index % ring->entries, bytes = (int64_t)r->options.boundary_bytes;
    const uint64_t start_ns = ls_clock_ns();
    LS_TRY(comm->ops->recv_start(comm, ring->memory + entry * bytes, bytes, sender,
                                 &ring->requests[entry]));
    r->comm_ns += ls_clock_ns() - start_ns;
    return LS_OK;
}

ls_status ls_runner_await(ls_runner *r, bool backward, runner_ring *ring, int64_t index,
                          void **message) {
    const int64_t entry = index % ring->entries;
    *message = ring->memory + entry * (int64_t)r->options.boundary_bytes;
    return finish(r, backward, neighbour(r, backward ? 1 : -1), &ring->requests[entry]);
}

ls_status ls_runner_prepare(ls_runner *r, bool backward, void **message) {
    runner_ring *ring = &r->sends[backward];
    const int64_t entry = ring->used % ring->entries;
    *message = ring->memory + entry * (int64_t)r->options.boundary_bytes;
    return finish(r, backward, r->rank, &ring->requests[entry]);
}

ls_status ls_runner_send(ls_runner *r, bool backward) {
    runner_ring *ring = &r->sends[backward];
    ls_comm *comm = way_of(r, backward, r->rank);
    const int64_t entry = ring->used++ % ring->entries, bytes = (int64_t)r->options.boundary_bytes;
    const uint64_t start_ns = ls_clock_ns();
    LS_TRY(comm->ops->send_start(comm, ring->memory + entry * bytes, bytes,
                                 neighbour(r, backward ? -1 : 1), &ring->requests[entry]));
    r->comm_ns += ls_clock_ns() - start_ns;
    return LS_OK;
}

ls_status ls_runner_progress(void *runner) {
    ls_runner *r = runner;
    const uint64_t start_ns = ls_clock_ns();
    for (int way = 0; way < 2; way++) {
        runner_ring *ring = &r->sends[way];
        ls_comm *comm = way_of(r, way == 1, r->rank);
        for (int i = 0; i < ring->entries; i++) {
            bool done = false;
            if (ring->requests[i]) {
                LS_TRY(comm->ops->test(comm, ring->requests[i], &done));
            }
            ring->requests[i] = done ? NULL : ring->requests[i];
        }
    }
    r->comm_ns += ls_clock_ns() - start_ns;
    return LS_OK;
}

ls_status ls_runner_drain(ls_runner *r) {
    for (int way = 0; way < 2; way++) {
        for (int i = 0; i < r->sends[way].entries; i++) {
            LS_TRY(finish(r, way == 1, r->rank, &r->sends[way].requests[i]));
        }
    }
    return LS_OK;
}
