/* The emulated CUDA device: a test device that executes lockstep's CUDA kernels, its use of the
 * CUDA runtime, of cuBLASLt and of NCCL on the host, and reports what a GPU would let pass.
 *
 * Kernels. Threads of a block are fibers of one thread of the host, resumed in an order that a seed
 * shuffles (LOCKSTEP_EMULATOR_SEED). The .cu files are compiled with the compiler's instrumentation
 * of memory accesses (-fsanitize=thread) but linked with the hooks of emulator_access.c, so each
 * load and store of a kernel is seen:
 *   - an access outside of the allocations (between them, after free, host memory) is reported, and
 *     one whose address is no multiple of its size;
 *   - two threads of a block that touch the same shared memory, one of them writing, without a
 *     barrier between them: reported as a race, in whatever order the fibers ran;
 *   - what cp.async brings is touched before its thread has waited for it: reported;
 *   - a barrier or warp operation that not all threads reach is reported as a deadlock, lanes that
 *     meet in different ones, or in one for whole warps when some have ended, as such;
 *   - shared memory beyond 48 KiB that was not asked for with cudaFuncSetAttribute, or beyond what
 *     the smallest of the GPUs served has (99 KiB, compute capability 8.6), is reported at launch.
 * Streams. Work is queued and executed only when the host waits or asks for it, and then only what
 * that wait demands. Every stream and the host keep vector clocks; memory remembers who wrote and
 * who read it last. Work on one stream that meets memory of another without an event or a wait in
 * between is reported.
 * Approximate instructions are as far off as they may be.
 * Loading. The first launch of a kernel, and the first product or attention of a shape, waits for
 * all that is queued: work that waits for what this rank would do later is then reported.
 * Threads. Memory, streams, events and launches of a thread that has not chosen the device, which
 * would be of GPU 0, are reported.
 * Memory. Device memory is not accessible outside of kernels and copies: a host access is reported
 * with the allocation it hit. Pinned memory is closed to the host while a copy of it is queued. New
 * allocations hold NaNs.
 * Waits of the host are counted ($LOCKSTEP_EMULATOR_WAITS).
 * Graphs. A capture takes kernels, products, fills and copies on the device; whoever waits, asks,
 * allocates or touches the host's memory meanwhile is reported.
 * NCCL. Calls travel over MPI with a header; ranks that disagree about what they call are named.
 * The first call that needs a connection is under way until the other side has called it too; what
 * is called on a communicator before that, or before a split of it has ended, is reported.
 *
 * A report is one line on stderr that begins with "emulator: ", then abort(). */
#ifndef LS_TESTS_EMULATOR_H
#define LS_TESTS_EMULATOR_H

#include "tests/emulator/include/cuda_runtime.h"

#include <stdbool.h>
#include <stdint.h>

void emu_report(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Reports a thread that has not chosen a device, of whose memory, streams or work `what` would be.
 */
void emu_device_expect(const char *what);
enum { EMU_GREATEST_PRIORITY = -5 };

/* What calls that may report a fault of earlier work say from now on; cudaSuccess: nothing. */
extern cudaError_t emu_fault;

/* Memory (emulator_memory.c). */
typedef struct emu_range {
    char *base;
    size_t bytes;
} emu_range;

/* The allocation that holds address; false: none does. Nearest gives the one below, for messages.
 */
bool emu_device_find(const void *address, emu_range *found);
extern char *emu_device_base; /* of the device's address range; NULL: no memory was taken yet */
#define EMU_DEVICE_BYTES ((size_t)4 << 30)
static inline bool emu_device_holds(const void *address) { /* anywhere in that range */
    return emu_device_base &&
           (uintptr_t)address - (uintptr_t)emu_device_base < (uintptr_t)EMU_DEVICE_BYTES;
}
bool emu_pinned_find(const void *address, emu_range *found);
/* Device memory is open between these, from the first touch on; nested calls count. */
void emu_memory_open(void);
void emu_memory_touch(void);
void emu_memory_close(void);
/* Closes pinned memory to the host while a copy is queued (+1), and opens it again (-1). A copy
 * that only reads leaves it readable. */
void emu_pinned_open(const void *address); /* until the next hold */
void emu_pinned_hold(const void *address, size_t bytes, bool writes, int change);

/* Order (emulator_stream.c). */
enum { EMU_STREAMS_MAX = 60, EMU_HOST = EMU_STREAMS_MAX };
typedef struct emu_clock {
    uint32_t at[EMU_STREAMS_MAX];
} emu_clock;

typedef struct emu_op emu_op;
struct emu_op {
    emu_op *next;
    const char *name; /* static */
    int stream;
    uint32_t time;    /* of its stream */
    emu_clock known;  /* what happened before it */
    int after_stream; /* executed after that stream has reached after_time; 0: none */
    uint32_t after_time;
    /* Does the work: false when it must be called again (NCCL that waits for ranks). */
    bool (*run)(emu_op *op);
    void (*release)(emu_op *op); /* frees op */
};

/* Puts op at the end of a stream, or of the graph that the stream is captured into. */
void emu_stream_push(cudaStream_t stream, emu_op *op);
/* emulator_graph.c: takes op when a capture is under way; false: there is none. The second reports
 * what must not happen then: `what`. */
bool emu_capture_take(cudaStream_t stream, emu_op *op);
bool emu_capture_runs(void);
void emu_capture_forbids(const char *what);
/* Before the first use of a kernel or of a library's (`what`; outside of captures): waits for all
 * that is queued, as CUDA may that loads them when they are first wanted (lazy loading). */
void emu_load(uint64_t what, const char *name);
int emu_stream_id(cudaStream_t stream);
/* The operation being executed, or NULL. */
const emu_op *emu_current_op(void);
const char *emu_op_name(int stream, uint32_t time);

/* Accesses (emulator_access.c): of the operation being executed. */
void emu_access_device(const void *address, size_t bytes, bool write);
void emu_access_allocated(const emu_range *range, bool allocated);
/* 16 bytes of shared memory are what a copy of thread - 1 brings, and not there; 0: they are. */
void emu_access_pending(const void *address, int thread);

/* Blocks and fibers (emulator_fiber.c). */
typedef struct emu_thread_place {
    int thread, warp;
    uint32_t block_epoch, warp_epoch;
} emu_thread_place;

typedef struct emu_kernel {
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    void (*call)(void *);
    void *closure;
    size_t closure_bytes;
} emu_kernel;

void emu_kernel_run(const emu_kernel *kernel);
enum { EMU_STACK_BYTES = 128 * 1024 };
extern char *emu_stack; /* of the thread that runs; NULL: no kernel does */
static inline bool emu_in_kernel(void) {
    return emu_stack != NULL;
}
static inline bool emu_on_stack(const void *address) {
    return (uintptr_t)address - (uintptr_t)emu_stack < (uintptr_t)EMU_STACK_BYTES;
}
emu_thread_place emu_here(void);
void emu_describe_here(char *text, size_t size); /* "block (0,0,0) thread (3,0,0)" */
bool emu_is_argument(const void *address);
/* Offset of address in the block's shared memory, or -1. */
int64_t emu_shared_offset(const void *address);
int64_t emu_shared_used(void); /* bytes that the kernel has of it */
enum { EMU_SHARED_BYTES = 256 * 1024, EMU_SHARED_OPTIN_BYTES = 99 * 1024 };

#endif
