/* The emulated device reports planted faults, and nothing about the same programs without them.
 * Each program runs in a process of its own, which a report ends. */
#include "runtime/device/device.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/planted.h"
#include "tests/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef void program(bool faulty);

static cudaStream_t stream, other;
static cudaEvent_t event;
static float *x, *pinned;

static void start(void) {
    void *memory;
    cudaSetDevice(0);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    cudaMalloc(&memory, 64 * sizeof(float));
    x = memory;
    cudaMallocHost(&memory, 64 * sizeof(float));
    pinned = memory;
    planted_fill(stream, x, 64, 1.0f);
}

static void race(bool faulty) {
    planted_reverse(stream, x, !faulty, false);
    cudaStreamSynchronize(stream);
}

static void warp_race(bool faulty) {
    planted_reverse(stream, x, !faulty, true);
    cudaStreamSynchronize(stream);
}

/* One stream writes, another reads. */
static void unordered_streams(bool faulty) {
    void *sum;
    cudaMalloc(&sum, sizeof(float));
    cudaEventRecord(event, stream);
    if (!faulty) {
        cudaStreamWaitEvent(other, event, 0);
    }
    planted_sum(other, x, sum);
    cudaStreamSynchronize(stream);
    cudaStreamSynchronize(other);
}

/* An event that was recorded before the work that it should wait for. */
static void early_event(bool faulty) {
    if (faulty) {
        cudaEventRecord(event, stream);
    }
    planted_fill(stream, x, 64, 2.0f);
    if (!faulty) {
        cudaEventRecord(event, stream);
    }
    cudaStreamWaitEvent(other, event, 0);
    planted_fill(other, x, 64, 3.0f);
    cudaStreamSynchronize(other);
    cudaStreamSynchronize(stream);
}

static void past_end(bool faulty) {
    planted_fill(stream, x, faulty ? 65 : 64, 2.0f);
    cudaStreamSynchronize(stream);
}

static void after_free(bool faulty) {
    void *memory;
    cudaMalloc(&memory, 256);
    cudaFree(faulty ? memory : NULL);
    planted_fill(stream, memory, 64, 2.0f);
    cudaStreamSynchronize(stream);
}

static void host_memory_in_kernel(bool faulty) {
    float on_host[64];
    planted_fill(stream, faulty ? on_host : x, 64, 2.0f);
    cudaStreamSynchronize(stream);
}

static void host_touches_device(bool faulty) {
    cudaStreamSynchronize(stream);
    if (faulty) {
        x[3] = 1.0f;
    }
}

static void early_read(bool faulty) {
    cudaMemcpyAsync(pinned, x, 64 * sizeof(float), cudaMemcpyDeviceToHost, stream);
    if (!faulty) {
        cudaStreamSynchronize(stream);
    }
    if (pinned[7] != 1.0f) {
        _exit(3);
    }
    cudaStreamSynchronize(stream);
}

static void copy_of_pageable(bool faulty) {
    float on_host[64] = {0};
    cudaMemcpyAsync(x, faulty ? on_host : pinned, sizeof on_host, cudaMemcpyHostToDevice, stream);
    cudaStreamSynchronize(stream);
}

static void parted(bool faulty) {
    if (faulty) {
        planted_parted(stream, x);
    }
    cudaStreamSynchronize(stream);
}

static void unlike(bool faulty) {
    planted_unlike(stream, x, faulty);
    cudaStreamSynchronize(stream);
}

static void product_of_few(bool faulty) {
    planted_product(stream, x, faulty ? 31 : 32);
    cudaStreamSynchronize(stream);
}

static void large_argument(bool faulty) {
    if (faulty) {
        planted_argument(stream, x);
    }
    cudaStreamSynchronize(stream);
}

static void *take_memory(void *ignored) {
    void *memory;
    cudaMalloc(&memory, 64);
    return ignored;
}

static void *choose_and_take_memory(void *ignored) {
    cudaSetDevice(0);
    return take_memory(ignored);
}

static void thread_without_device(bool faulty) {
    pthread_t thread;
    pthread_create(&thread, NULL, faulty ? take_memory : choose_and_take_memory, NULL);
    pthread_join(thread, NULL);
}

/* Work of the stream `other` that goes on when this program says so. */
static bool told;
static bool wait_to_be_told(emu_op *op) {
    (void)op;
    return told;
}

static void no_release(emu_op *op) {
    (void)op;
}

/* A kernel is launched for the first time while work waits for what would come after it. */
static void loaded_late(bool faulty) {
    static emu_op waiting = {.name = "a message", .run = wait_to_be_told, .release = no_release};
    setenv("LOCKSTEP_EMULATOR_LIMIT_S", "0.1", 1);
    if (!faulty) {
        planted_add(stream, x, 64, 1.0f);
    }
    emu_stream_push(other, &waiting);
    planted_add(stream, x, 64, 1.0f);
    told = true;
    cudaStreamSynchronize(other);
    cudaStreamSynchronize(stream);
}

/* A graph that is launched twice, behind a change of what it reads; host memory that it copies is
 * that of the launch, and a wait in a capture ends the capture. */
static void captured(bool faulty, void (*mistake)(void)) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    planted_add(stream, x, 64, 1.0f);
    if (faulty) {
        mistake();
    }
    cudaStreamEndCapture(stream, &graph);
    cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    cudaGraphLaunch(exec, stream);
    planted_add(stream, x, 64, 10.0f);
    cudaGraphLaunch(exec, stream);
    cudaMemcpyAsync(pinned, x, 64 * sizeof(float), cudaMemcpyDeviceToHost, stream);
    cudaStreamSynchronize(stream);
    cudaGraphExecDestroy(exec);
    if (pinned[7] != 13.0f) {
        _exit(4);
    }
}

static void wait_here(void) {
    cudaStreamSynchronize(stream);
}

static void copy_here(void) {
    cudaMemcpyAsync(x, pinned, sizeof(float), cudaMemcpyHostToDevice, stream);
}

static void allocate_here(void) {
    void *memory;
    cudaMalloc(&memory, 256);
}

static void captured_wait(bool faulty) {
    captured(faulty, wait_here);
}

static void captured_copy(bool faulty) {
    captured(faulty, copy_here);
}

static void captured_allocation(bool faulty) {
    captured(faulty, allocate_here);
}

static void pin_here(void) {
    void *memory;
    cudaMallocHost(&memory, 256);
}

static void captured_pinning(bool faulty) {
    captured(faulty, pin_here);
}

static void unaligned(bool faulty) {
    planted_four(stream, x, faulty ? 2 : 4);
    cudaStreamSynchronize(stream);
}

static void shared_not_asked_for(bool faulty) {
    planted_large(stream, x, 64 << 10, !faulty);
    cudaStreamSynchronize(stream);
}

static void shared_of_few_gpus(bool faulty) {
    planted_large(stream, x, faulty ? 100 << 10 : 99 << 10, true);
    cudaStreamSynchronize(stream);
}

static void high_grid(bool faulty) {
    planted_high(stream, x, faulty ? 65536 : 3);
    cudaStreamSynchronize(stream);
}

static void run_matrix(planted_fault fault) {
    planted_matrix(stream, x, fault);
    cudaStreamSynchronize(stream);
}

static void copy_without_wait(bool faulty) {
    run_matrix(faulty ? PLANTED_NO_WAIT : PLANTED_NONE);
}

static void copy_of_last_group(bool faulty) {
    run_matrix(faulty ? PLANTED_LAST_GROUP : PLANTED_NONE);
}

static void copy_without_barrier(bool faulty) {
    run_matrix(faulty ? PLANTED_NO_BARRIER : PLANTED_NONE);
}

static void copy_past_source(bool faulty) {
    run_matrix(faulty ? PLANTED_PAST_SOURCE : PLANTED_NONE);
}

static void matrix_past_shared(bool faulty) {
    run_matrix(faulty ? PLANTED_PAST_SHARED : PLANTED_NONE);
}

static void copy_unaligned(bool faulty) {
    run_matrix(faulty ? PLANTED_UNALIGNED : PLANTED_NONE);
}

static void matrix_unaligned(bool faulty) {
    run_matrix(faulty ? PLANTED_ODD_ROW : PLANTED_NONE);
}

static void default_stream(bool faulty) {
    planted_fill(faulty ? NULL : stream, x, 64, 2.0f);
    cudaStreamSynchronize(stream);
}

static const struct {
    const char *name;
    program *run;
    const char *report; /* words of it */
} programs[] = {
    {"race", race, "race in shared memory"},
    {"warp_race", warp_race, "race in shared memory"},
    {"unordered_streams", unordered_streams, "missing synchronisation"},
    {"early_event", early_event, "missing synchronisation"},
    {"past_end", past_end, "out of bounds"},
    {"after_free", after_free, "out of bounds"},
    {"host_memory_in_kernel", host_memory_in_kernel, "memory of the host"},
    {"host_touches_device", host_touches_device, "the host touches device memory"},
    {"early_read", early_read, "while a copy of it is queued"},
    {"copy_of_pageable", copy_of_pageable, "not pinned"},
    {"parted", parted, "deadlock"},
    {"copy_without_wait", copy_without_wait, "before that thread has waited"},
    {"copy_of_last_group", copy_of_last_group, "before that thread has waited"},
    {"copy_without_barrier", copy_without_barrier, "shared memory"},
    {"copy_past_source", copy_past_source, "out of bounds"},
    {"matrix_past_shared", matrix_past_shared, "out of bounds"},
    {"copy_unaligned", copy_unaligned, "the source of cp.async"},
    {"matrix_unaligned", matrix_unaligned, "a row of ldmatrix"},
    {"unlike", unlike, "a vote with mask ffffffff"},
    {"product_of_few", product_of_few, "mma.sync in a warp of which lanes have ended"},
    {"large_argument", large_argument, "bytes of arguments"},
    {"thread_without_device", thread_without_device, "a thread that has not called cudaSetDevice"},
    {"loaded_late", loaded_late, "but 'a message' of stream 2 cannot go on"},
    {"default_stream", default_stream, "default stream"},
    {"captured_wait", captured_wait, "a wait for a stream while a stream is captured"},
    {"captured_copy", captured_copy, "a copy of the host's memory"},
    {"captured_allocation", captured_allocation, "an allocation while a stream is captured"},
    {"captured_pinning", captured_pinning, "an allocation of pinned memory while a stream"},
    {"unaligned", unaligned, "which is not aligned to 16 bytes"},
    {"shared_not_asked_for", shared_not_asked_for, "of which it may have 49152"},
    {"high_grid", high_grid, "cannot be launched: grid (1,65536,1)"},
    {"shared_of_few_gpus", shared_of_few_gpus, "compute capability 8.6 has"},
};

/* Exit status of a program's process (-1: a signal), and what it said. */
static int run_apart(program *run, bool faulty, char *said, size_t size) {
    int ends[2];
    if (pipe(ends) != 0) {
        return -2;
    }
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        start();
        run(faulty);
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    ssize_t got;
    while (length + 1 < size && (got = read(ends[0], said + length, size - 1 - length)) > 0) {
        length += (size_t)got;
    }
    said[length] = '\0';
    close(ends[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What the device says of a driver that is too old, and of a fault of work before a call. */
static void test_words(void) {
    ls_device *dev;
    void *memory;
    int count;
    const char *how;
    CHECK(setenv("LOCKSTEP_EMULATOR_DRIVER", "12040", 1) == 0);
    CHECK(!ls_device_has_cuda(&count, &how) && count == -1);
    CHECK_STATUS(ls_device_open_cuda(NULL, &dev), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("the driver serves CUDA up to 12.4 and this lockstep was built with 13.0");
    CHECK(unsetenv("LOCKSTEP_EMULATOR_DRIVER") == 0);
    CHECK_OK(ls_device_open_cuda(NULL, &dev));
    CHECK_STATUS(dev->ops->alloc(dev, (size_t)1 << 40, &memory), LS_E_MEMORY);
    emu_fault = cudaErrorIllegalAddress;
    CHECK_STATUS(dev->ops->alloc(dev, 64, &memory), LS_E_DEVICE);
    CHECK_MESSAGE("an illegal memory access was encountered");
    CHECK_STATUS(dev->ops->sync(dev), LS_E_DEVICE);
    emu_fault = cudaSuccess;
    dev->ops->close(dev);
}

int main(void) {
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        char said[1024];
        const int sound = run_apart(programs[i].run, false, said, sizeof said);
        if (sound != 0 || said[0]) {
            fprintf(stderr, "%s: without its fault it ended with %d: %s\n", programs[i].name, sound,
                    said);
        }
        CHECK(sound == 0 && !said[0]);
        const int faulty = run_apart(programs[i].run, true, said, sizeof said);
        const bool reported =
            faulty == -1 && strstr(said, "emulator: ") == said && strstr(said, programs[i].report);
        if (!reported) {
            fprintf(stderr, "%s: not reported; it ended with %d: %s\n", programs[i].name, faulty,
                    said);
        }
        CHECK(reported);
    }
    test_words();
    return test_end();
}
