#include "runtime/step/runner.h"

#include "collectives/recorded.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"

#include <stdlib.h>

static ls_status take_ring(ls_runner *r, runner_ring *ring, int entries) {
    ring->entries = entries;
    LS_TRY(ls_calloc((size_t)entries, sizeof *ring->requests, &ring->requests));
    const size_t bytes = (size_t)entries * r->options.boundary_bytes;
    r->bytes += bytes;
    void *memory = NULL;
    LS_TRY(r->planning ? LS_OK : r->options.dev->ops->alloc(r->options.dev, bytes, &memory));
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
        LS_TRY(ls_calloc((size_t)r->pass_count, sizeof *r->passes, &r->passes));
        LS_TRY(ls_pipeline_schedule(&shape, r->rank, r->passes));
        for (int p = 0; p < o->parts; p++) {
            r->alive[p] = ls_pipeline_alive(&shape, r->passes, p);
        }
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
        for (int way = 0; way < 2; way++) {
            LS_TRY_GOTO(pipeline->ops->duplicate(pipeline, &r->way[way]), failed);
            ls_comm_name_group(r->way[way], way ? "pipeline.backward" : "pipeline.forward");
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
        if (r->way[way]) {
            r->way[way]->ops->destroy(r->way[way]);
        }
    }
    free(r->inputs);
    free(r->alive);
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

static ls_status finish(ls_runner *r, bool backward, ls_comm_request **request) {
    if (*request) {
        const uint64_t start_ns = ls_clock_ns();
        LS_TRY(r->way[backward]->ops->wait(r->way[backward], *request));
        *request = NULL;
        r->comm_ns += ls_clock_ns() - start_ns;
    }
    return LS_OK;
}

ls_status ls_runner_receive(ls_runner *r, bool backward, runner_ring *ring, int64_t index) {
    ls_comm *comm = r->way[backward];
    const int64_t entry = index % ring->entries, bytes = (int64_t)r->options.boundary_bytes;
    const uint64_t start_ns = ls_clock_ns();
    LS_TRY(comm->ops->recv_start(comm, ring->memory + entry * bytes, bytes,
                                 neighbour(r, backward ? 1 : -1), &ring->requests[entry]));
    r->comm_ns += ls_clock_ns() - start_ns;
    return LS_OK;
}

ls_status ls_runner_await(ls_runner *r, bool backward, runner_ring *ring, int64_t index,
                          void **message) {
    const int64_t entry = index % ring->entries;
    *message = ring->memory + entry * (int64_t)r->options.boundary_bytes;
    return finish(r, backward, &ring->requests[entry]);
}

ls_status ls_runner_prepare(ls_runner *r, bool backward, void **message) {
    runner_ring *ring = &r->sends[backward];
    const int64_t entry = ring->used % ring->entries;
    *message = ring->memory + entry * (int64_t)r->options.boundary_bytes;
    return finish(r, backward, &ring->requests[entry]);
}

ls_status ls_runner_send(ls_runner *r, bool backward) {
    runner_ring *ring = &r->sends[backward];
    ls_comm *comm = r->way[backward];
    const int64_t entry = ring->used++ % ring->entries, bytes = (int64_t)r->options.boundary_bytes;
    const uint64_t start_ns = ls_clock_ns();
    LS_TRY(comm->ops->send_start(comm, ring->memory + entry * bytes, bytes,
                                 neighbour(r, backward ? -1 : 1), &ring->requests[entry]));
    r->comm_ns += ls_clock_ns() - start_ns;
    return LS_OK;
}

ls_status ls_runner_drain(ls_runner *r) {
    for (int way = 0; way < 2; way++) {
        for (int i = 0; i < r->sends[way].entries; i++) {
            LS_TRY(finish(r, way == 1, &r->sends[way].requests[i]));
        }
    }
    return LS_OK;
}
