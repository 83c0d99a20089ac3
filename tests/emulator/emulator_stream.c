/* Streams and events: queues that are executed when somebody waits, and vector clocks. */
#include "tests/emulator/emulator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NAMES = 256 };

/* After which a wait in which nothing moves is reported: $LOCKSTEP_EMULATOR_LIMIT_S, or two
 * minutes.
 */
static double wait_limit_s(void) {
    const char *text = getenv("LOCKSTEP_EMULATOR_LIMIT_S");
    return text ? atof(text) : 120.0;
}

struct emu_stream {
    int id;
    emu_op *first, **last;
    uint32_t pushed, executed;
    emu_clock known; /* by its last queued operation */
    const char *names[NAMES];
};

struct emu_event {
    int stream; /* of the last record; 0: never recorded */
    uint32_t time;
    emu_clock known;
    double at_s; /* when the record was executed */
    bool asked;  /* since then, before it was */
    bool untimed;
};

static struct emu_stream *streams[EMU_STREAMS_MAX];
static uint32_t ended[EMU_STREAMS_MAX]; /* times go on when an id is used again */
static emu_clock host;
static emu_op *current;

static void join(emu_clock *to, const emu_clock *from) {
    for (int i = 0; i < EMU_STREAMS_MAX; i++) {
        to->at[i] = to->at[i] > from->at[i] ? to->at[i] : from->at[i];
    }
}

/* How often the host has waited for what was not yet executed, for the file that
 * $LOCKSTEP_EMULATOR_WAITS names. */
static long waits;

__attribute__((destructor)) static void tell_waits(void) {
    const char *path = getenv("LOCKSTEP_EMULATOR_WAITS");
    FILE *out = path ? fopen(path, "w") : NULL;
    if (out) {
        fprintf(out, "%ld\n", waits);
        fclose(out);
    }
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const emu_op *emu_current_op(void) {
    return current;
}

const char *emu_op_name(int stream, uint32_t time) {
    const struct emu_stream *s = streams[stream];
    bool kept = s && time + NAMES > s->pushed && s->names[time % NAMES];
    return kept ? s->names[time % NAMES] : "earlier work";
}

int emu_stream_id(cudaStream_t stream) {
    if (!stream) {
        emu_report("work on the default stream, which waits for all others: name a stream");
    }
    return stream->id;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int priority) {
    if (priority > 0 || priority < EMU_GREATEST_PRIORITY) {
        emu_report("a stream of priority %d; 0 to %d are served", priority, EMU_GREATEST_PRIORITY);
    }
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags) {
    emu_device_expect("a stream");
    if (flags != cudaStreamNonBlocking) {
        emu_report("a stream that the default stream waits for; use cudaStreamNonBlocking");
    }
    for (int id = 1; id < EMU_STREAMS_MAX; id++) {
        if (!streams[id]) {
            struct emu_stream *s = calloc(1, sizeof *s);
            if (!s) {
                return cudaErrorMemoryAllocation;
            }
            s->id = id;
            s->last = &s->first;
            s->pushed = s->executed = ended[id];
            streams[id] = s;
            *stream = s;
            return cudaSuccess;
        }
    }
    return cudaErrorMemoryAllocation;
}

void emu_stream_push(cudaStream_t stream, emu_op *op) {
    if (emu_capture_take(stream, op)) {
        return;
    }
    op->stream = emu_stream_id(stream);
    op->time = ++stream->pushed;
    op->next = NULL;
    join(&stream->known, &host);
    stream->known.at[op->stream] = op->time;
    op->known = stream->known;
    stream->names[op->time % NAMES] = op->name;
    *stream->last = op;
    stream->last = &op->next;
}

/* Tries to execute the first operation of s, or what it waits for; false when nothing was. */
static bool step(struct emu_stream *s) {
    emu_op *op = s->first;
    if (!op) {
        return false;
    }
    struct emu_stream *other = streams[op->after_stream];
    if (op->after_stream && other && other->executed < op->after_time) {
        return step(other);
    }
    if (op->run) {
        current = op;
        emu_memory_open();
        bool done = op->run(op);
        emu_memory_close();
        current = NULL;
        if (!done) {
            return false;
        }
    }
    s->executed = op->time;
    s->first = op->next;
    if (!s->first) {
        s->last = &s->first;
    }
    op->release(op);
    return true;
}

/* A question about work gets on with it, and opens memory once for some of it. */
static void advance(struct emu_stream *s, uint32_t time) {
    enum { STEPS = 64 };
    emu_memory_open();
    for (int i = 0; i < STEPS && s->executed < time && step(s); i++) {
    }
    emu_memory_close();
}

static void run_until(struct emu_stream *s, uint32_t time) {
    double start_s = now_s();
    waits += s->executed < time;
    emu_memory_open();
    while (s->executed < time) {
        if (step(s)) {
            start_s = now_s();
        } else if (now_s() - start_s > wait_limit_s()) {
            emu_report("the host has waited for stream %d for %.0f s: '%s' cannot go on", s->id,
                       wait_limit_s(), s->first ? s->first->name : "nothing");
        }
    }
    emu_memory_close();
}

/* What has been loaded: kernels, and shapes of products. */
enum { LOADED_MAX = 4096 };
static uint64_t loaded[LOADED_MAX];
static int loaded_count;

/* All that was queued, as it stands. */
static void drain(const char *name) {
    uint32_t pushed[EMU_STREAMS_MAX] = {0};
    double start_s = now_s();
    for (int id = 1; id < EMU_STREAMS_MAX; id++) {
        pushed[id] = streams[id] ? streams[id]->pushed : 0;
    }
    emu_memory_open();
    for (int id = 1; id < EMU_STREAMS_MAX;) {
        bool moved = false;
        for (int other = id; other < EMU_STREAMS_MAX; other++) {
            struct emu_stream *s = streams[other];
            moved = (s && s->executed < pushed[other] && step(s)) || moved;
        }
        if (moved) {
            start_s = now_s();
        } else if (now_s() - start_s > wait_limit_s()) {
            emu_report("the first use of %s loads it, for which CUDA waits until all that was "
                       "queued is over, but '%s' of stream %d cannot go on",
                       name, streams[id]->first->name, id);
        }
        while (id < EMU_STREAMS_MAX && (!streams[id] || streams[id]->executed >= pushed[id])) {
            id++;
        }
    }
    emu_memory_close();
}

void emu_load(uint64_t what, const char *name) {
    for (int i = 0; i < loaded_count; i++) {
        if (loaded[i] == what) {
            return;
        }
    }
    if (emu_capture_runs()) {
        return;
    }
    if (loaded_count < LOADED_MAX) {
        loaded[loaded_count++] = what;
    }
    drain(name);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    emu_capture_forbids("a wait for a stream");
    emu_stream_id(stream);
    run_until(stream, stream->pushed);
    join(&host, &stream->known);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    emu_capture_forbids("a question about a stream");
    emu_stream_id(stream);
    advance(stream, stream->pushed);
    if (stream->executed < stream->pushed) {
        return cudaErrorNotReady;
    }
    join(&host, &stream->known);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    cudaStreamSynchronize(stream);
    ended[stream->id] = stream->pushed;
    streams[stream->id] = NULL;
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    for (int id = 1; id < EMU_STREAMS_MAX; id++) {
        if (streams[id]) {
            cudaStreamSynchronize(streams[id]);
        }
    }
    return cudaSuccess;
}

/* Events */

typedef struct event_op {
    emu_op op;
    cudaEvent_t event;
} event_op;

static void release_op(emu_op *op) {
    free(op);
}

static bool run_record(emu_op *op) {
    cudaEvent_t event = ((event_op *)op)->event;
    if (event && event->stream == op->stream && event->time == op->time) {
        event->at_s = now_s();
    }
    return true;
}

static event_op *make_event_op(const char *name, cudaEvent_t event) {
    event_op *e = calloc(1, sizeof *e);
    if (!e || !event) {
        emu_report("no memory, or no event");
    }
    e->op.name = name;
    e->op.release = release_op;
    e->event = event;
    return e;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags) {
    emu_device_expect("an event");
    *event = calloc(1, sizeof **event);
    if (!*event) {
        return cudaErrorMemoryAllocation;
    }
    (*event)->untimed = (flags & cudaEventDisableTiming) != 0;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    cudaEventSynchronize(event);
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    emu_capture_forbids("an event");
    event_op *e = make_event_op("event record", event);
    e->op.run = run_record;
    emu_stream_push(stream, &e->op);
    event->stream = e->op.stream;
    event->time = e->op.time;
    event->known = e->op.known;
    event->asked = false;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags) {
    (void)flags;
    emu_capture_forbids("a wait for an event");
    event_op *e = make_event_op("event wait", event);
    if (!event->stream) {
        emu_report("stream %d waits for an event that was never recorded, which is no wait",
                   emu_stream_id(stream));
    }
    emu_stream_id(stream);
    e->op.after_stream = event->stream;
    e->op.after_time = event->time;
    join(&stream->known, &event->known);
    emu_stream_push(stream, &e->op);
    return cudaSuccess;
}

static bool reached(cudaEvent_t event) {
    const struct emu_stream *s = streams[event->stream];
    return !event->stream || !s || s->executed >= event->time;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    emu_capture_forbids("a question about an event");
    if (emu_fault != cudaSuccess) {
        return emu_fault;
    }
    if (!reached(event)) {
        step(streams[event->stream]);
    }
    if (!reached(event)) {
        waits += !event->asked;
        event->asked = true;
        advance(streams[event->stream], event->time);
    }
    if (!reached(event)) {
        return cudaErrorNotReady;
    }
    join(&host, &event->known);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    emu_capture_forbids("a wait for an event");
    if (!reached(event)) {
        run_until(streams[event->stream], event->time);
    }
    join(&host, &event->known);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    if (!from->stream || !to->stream || from->untimed || to->untimed) {
        return cudaErrorInvalidResourceHandle;
    }
    if (!reached(from) || !reached(to)) {
        return cudaErrorNotReady;
    }
    *ms = (float)(1e3 * (to->at_s - from->at_s));
    return cudaSuccess;
}

/* Copies */

typedef struct copy_op {
    emu_op op;
    char *to;
    const char *from;
    size_t bytes;
    int value;
    bool from_host, to_host;
} copy_op;

static bool run_copy(emu_op *op) {
    const copy_op *c = (const copy_op *)op;
    const void *host_side = c->from_host ? c->from : c->to_host ? c->to : NULL;
    if (!c->from_host) {
        emu_access_device(c->from, c->bytes, false);
    }
    if (!c->to_host) {
        emu_access_device(c->to, c->bytes, true);
    }
    if (host_side) {
        emu_pinned_open(host_side);
    }
    memmove(c->to, c->from, c->bytes);
    if (host_side) {
        emu_pinned_hold(host_side, c->bytes, c->to_host, -1);
    }
    return true;
}

static bool run_set(emu_op *op) {
    const copy_op *c = (const copy_op *)op;
    emu_access_device(c->to, c->bytes, true);
    memset(c->to, c->value, c->bytes);
    return true;
}

static void check_device(const void *memory, const char *what) {
    if (!emu_device_holds(memory)) {
        emu_report("%s: %p is no device memory", what, memory);
    }
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    copy_op *c = calloc(1, sizeof *c);
    if (!c) {
        return cudaErrorMemoryAllocation;
    }
    *c = (copy_op){.op = {.name = "copy", .run = run_copy, .release = release_op},
                   .to = to,
                   .from = from,
                   .bytes = bytes,
                   .from_host = kind == cudaMemcpyHostToDevice,
                   .to_host = kind == cudaMemcpyDeviceToHost};
    if (bytes == 0) {
        free(c);
        return cudaSuccess;
    }
    if (c->from_host || c->to_host) {
        emu_capture_forbids(
            "a copy of the host's memory, which is read when the graph is launched");
    }
    if (!c->from_host) {
        check_device(from, "a copy from the device");
    } else {
        emu_pinned_hold(from, bytes, false, 1);
    }
    if (!c->to_host) {
        check_device(to, "a copy to the device");
    } else {
        emu_pinned_hold(to, bytes, true, 1);
    }
    emu_stream_push(stream, &c->op);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    copy_op *c = calloc(1, sizeof *c);
    if (!c) {
        return cudaErrorMemoryAllocation;
    }
    *c = (copy_op){.op = {.name = "set", .run = run_set, .release = release_op},
                   .to = memory,
                   .bytes = bytes,
                   .value = value};
    check_device(memory, "a fill");
    emu_stream_push(stream, &c->op);
    return cudaSuccess;
}

/* Kernels */

typedef struct kernel_op {
    emu_op op;
    emu_kernel kernel;
    void (*release)(void *);
} kernel_op;

static bool run_kernel(emu_op *op) {
    emu_kernel_run(&((kernel_op *)op)->kernel);
    return true;
}

static void release_kernel(emu_op *op) {
    kernel_op *k = (kernel_op *)op;
    k->release(k->kernel.closure);
    free(k);
}

/* Kernels that asked for more shared memory. */
enum { ALLOWED_MAX = 64, SHARED_BYTES = 48 * 1024, ARGUMENT_BYTES = 4096 };
static struct {
    emu_code code;
    int bytes;
} allowed[ALLOWED_MAX];
static int allowed_count;

cudaError_t emu_allow_shared(emu_code code, int bytes) {
    int i = 0;
    while (i < allowed_count && allowed[i].code != code) {
        i++;
    }
    if (i == ALLOWED_MAX) {
        emu_report("more than %d kernels ask for shared memory", ALLOWED_MAX);
    }
    if (bytes > EMU_SHARED_OPTIN_BYTES) {
        emu_report("a kernel asks for %d bytes of shared memory; compute capability 8.6 has %d",
                   bytes, EMU_SHARED_OPTIN_BYTES);
    }
    allowed_count += i == allowed_count;
    allowed[i].code = code;
    allowed[i].bytes = bytes;
    return cudaSuccess;
}

static size_t shared_limit(emu_code code) {
    for (int i = 0; i < allowed_count; i++) {
        if (allowed[i].code == code && allowed[i].bytes > SHARED_BYTES) {
            return (size_t)allowed[i].bytes;
        }
    }
    return SHARED_BYTES;
}

cudaError_t emu_enqueue_kernel(const char *name, emu_code code, dim3 grid, dim3 block,
                               size_t shared_bytes, cudaStream_t stream, void (*call)(void *),
                               void *closure, size_t closure_bytes, void (*release)(void *)) {
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    emu_device_expect("a launch");
    if (closure_bytes > ARGUMENT_BYTES) {
        emu_report("kernel %s has %zu bytes of arguments; a launch takes %d", name, closure_bytes,
                   ARGUMENT_BYTES);
    }
    if (threads < 1 || threads > 1024 || block.z > 64 || grid.x < 1 || grid.x > 0x7fffffffu ||
        grid.y < 1 || grid.y > 65535 || grid.z < 1 || grid.z > 65535 ||
        shared_bytes > shared_limit(code)) {
        emu_report("kernel %s cannot be launched: grid (%u,%u,%u), block (%u,%u,%u), %zu bytes of "
                   "shared memory, of which it may have %zu",
                   name, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared_bytes,
                   shared_limit(code));
    }
    emu_load((uint64_t)(uintptr_t)code, name);
    kernel_op *k = calloc(1, sizeof *k);
    if (!k) {
        return cudaErrorMemoryAllocation;
    }
    k->op = (emu_op){.name = name, .run = run_kernel, .release = release_kernel};
    k->kernel = (emu_kernel){.name = name,
                             .grid = grid,
                             .block = block,
                             .shared_bytes = shared_bytes,
                             .call = call,
                             .closure = closure,
                             .closure_bytes = closure_bytes};
    k->release = release;
    emu_stream_push(stream, &k->op);
    return cudaSuccess;
}
