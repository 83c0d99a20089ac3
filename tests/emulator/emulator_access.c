/* What a kernel's loads and stores mean: bounds, order between streams, races in shared memory.
 *
 * Device memory has a shadow of two words for each 4 bytes: the last write and the last read, as
 * stream and time. Of several streams that read, the last is remembered. Shared memory has one
 * entry for each byte pair. The hooks at the end are those that compilers call under
 * -fsanitize=thread. */
#include "tests/emulator/emulator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SHADOW_WORDS ((size_t)1 << 30) /* of 4 bytes of device memory each */
enum { NOT_ALLOCATED = 0, FRESH = 1, TIME_BITS = 25 };

static uint32_t *writes, *reads;
static const char *shadow_base;

static void start(const char *base) {
    if (shadow_base) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        void *words = mmap(NULL, SHADOW_WORDS * sizeof(uint32_t), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (words == MAP_FAILED) {
            emu_report("no address range for the shadow of device memory");
        }
        *(i ? &reads : &writes) = words;
    }
    /* The first allocation starts within a page of the device's range. */
    shadow_base = (const char *)((uintptr_t)base & ~(uintptr_t)4095);
}

void emu_access_allocated(const emu_range *range, bool allocated) {
    start(range->base);
    const size_t first = (size_t)(range->base - shadow_base) / 4;
    const size_t last = (size_t)(range->base + range->bytes - 1 - shadow_base) / 4;
    for (size_t i = first; i <= last; i++) {
        writes[i] = allocated ? FRESH : NOT_ALLOCATED;
        reads[i] = FRESH;
    }
}

static const char *describe_op(char *text, size_t size, const char *name, int stream) {
    snprintf(text, size, "%s on stream %d", name, stream);
    return text;
}

static void report_bounds(const void *address, size_t bytes, bool write) {
    char who[96] = "a copy";
    emu_range near;
    const emu_op *op = emu_current_op();
    if (emu_in_kernel()) {
        emu_describe_here(who, sizeof who);
    }
    emu_device_find(address, &near);
    emu_report("out of bounds: %s, %s, %s %zu bytes at %p; the allocation below has %zu bytes and "
               "ends %td bytes before",
               op ? op->name : "host", who, write ? "writes" : "reads", bytes, address, near.bytes,
               (const char *)address - (near.base + near.bytes));
}

static void report_order(const void *address, bool write, uint32_t word, bool other_writes) {
    const emu_op *op = emu_current_op();
    const int stream = (int)(word >> TIME_BITS);
    const uint32_t time = word & ((1u << TIME_BITS) - 1);
    char mine[96], other[96];
    emu_range range;
    emu_device_find(address, &range);
    emu_report("missing synchronisation: %s %s device memory (allocation of %zu bytes, offset %td) "
               "that %s %s, and nothing orders the two: record an event after that and wait for it",
               describe_op(mine, sizeof mine, op->name, op->stream), write ? "writes" : "reads",
               range.bytes, (const char *)address - range.base,
               describe_op(other, sizeof other, emu_op_name(stream, time), stream),
               other_writes ? "writes" : "reads");
}

static inline bool ordered(const emu_op *op, uint32_t word) {
    const uint32_t stream = word >> TIME_BITS, time = word & ((1u << TIME_BITS) - 1);
    return word <= FRESH || op->known.at[stream] >= time;
}

void emu_access_device(const void *address, size_t bytes, bool write) {
    if (bytes == 0) {
        return;
    }
    const emu_op *op = emu_current_op();
    if (!op) {
        emu_report("device memory at %p is touched outside of any queued work", address);
    }
    emu_memory_touch();
    const size_t first = (size_t)((const char *)address - shadow_base) / 4;
    const size_t last = (size_t)((const char *)address + bytes - 1 - shadow_base) / 4;
    const uint32_t word = ((uint32_t)op->stream << TIME_BITS) | op->time;
    for (size_t i = first; i <= last; i++) {
        if (writes[i] == NOT_ALLOCATED) {
            report_bounds(address, bytes, write);
        }
        if (writes[i] != word && !ordered(op, writes[i])) {
            report_order(address, write, writes[i], true);
        }
        if (write) {
            if (!ordered(op, reads[i])) {
                report_order(address, write, reads[i], false);
            }
            writes[i] = word;
        } else {
            reads[i] = word;
        }
    }
}

/* Shared memory */

typedef struct shared_touch {
    uint16_t thread, warp;
    uint32_t block_epoch, warp_epoch; /* epochs of a block are used once: 0 is never */
    bool many_warps, many_threads;    /* others too have touched it since the last barrier */
} shared_touch;

typedef struct shared_word {
    shared_touch write, read;
} shared_word;

static shared_word shared[EMU_SHARED_BYTES / 2];

/* May `here` and an earlier touch have happened at the same time? */
static bool concurrent(const shared_touch *t, const emu_thread_place *here) {
    if (t->block_epoch != here->block_epoch) {
        return false;
    }
    if (t->many_warps || t->warp != here->warp) {
        return true;
    }
    return t->warp_epoch == here->warp_epoch && (t->many_threads || t->thread != here->thread);
}

static void note(shared_touch *t, const emu_thread_place *here) {
    const bool same_block = t->block_epoch == here->block_epoch, same_warp = t->warp == here->warp;
    *t = (shared_touch){.thread = (uint16_t)here->thread,
                        .warp = (uint16_t)here->warp,
                        .block_epoch = here->block_epoch,
                        .warp_epoch = here->warp_epoch,
                        .many_warps = same_block && (t->many_warps || !same_warp),
                        .many_threads = same_block && same_warp &&
                                        t->warp_epoch == here->warp_epoch &&
                                        (t->many_threads || t->thread != here->thread)};
}

static void report_race(int64_t offset, bool write, const shared_touch *t, bool other_writes) {
    char who[96];
    emu_describe_here(who, sizeof who);
    emu_report("race in shared memory: %s, %s, %s byte %lld of shared memory, which thread %d of "
               "the block %s without a barrier between the two",
               emu_current_op()->name, who, write ? "writes" : "reads", (long long)offset,
               t->thread, other_writes ? "writes" : "reads");
}

static uint16_t pending[EMU_SHARED_BYTES / 16]; /* thread + 1 */

void emu_access_pending(const void *address, int thread) {
    const int64_t offset = emu_shared_offset(address);
    if (offset < 0) {
        emu_report("cp.async to %p, which is no shared memory", address);
    }
    pending[offset / 16] = (uint16_t)thread;
}

static void report_shared(int64_t offset, size_t bytes, bool write) {
    const int64_t last = offset + (int64_t)bytes - 1;
    char who[96];
    emu_describe_here(who, sizeof who);
    if (last >= emu_shared_used()) {
        emu_report("out of bounds: %s, %s, %s byte %lld of shared memory; the kernel has %lld",
                   emu_current_op()->name, who, write ? "writes" : "reads", (long long)last,
                   (long long)emu_shared_used());
    }
    emu_report("%s, %s, %s byte %lld of shared memory, which cp.async of thread %d of the block "
               "brings, before that thread has waited for it",
               emu_current_op()->name, who, write ? "writes" : "reads", (long long)offset,
               (pending[offset / 16] ? pending[offset / 16] : pending[last / 16]) - 1);
}

static void access_shared(int64_t offset, size_t bytes, bool write) {
    const emu_thread_place here = emu_here();
    const int64_t last = offset + (int64_t)bytes - 1;
    if (last >= emu_shared_used() || pending[offset / 16] || pending[last / 16]) {
        report_shared(offset, bytes, write);
    }
    for (int64_t i = offset / 2; i <= (offset + (int64_t)bytes - 1) / 2; i++) {
        shared_word *word = &shared[i];
        if (concurrent(&word->write, &here)) {
            report_race(offset, write, &word->write, true);
        }
        if (write) {
            if (concurrent(&word->read, &here)) {
                report_race(offset, write, &word->read, false);
            }
            note(&word->write, &here);
        } else {
            note(&word->read, &here);
        }
    }
}

/* Variables of the program itself: constants of kernels. */
static bool in_program(const void *address) {
    extern const char __executable_start[], end[];
    return (const char *)address >= __executable_start && (const char *)address < end;
}

static void access(const void *address, size_t bytes, bool write) {
    if (!emu_in_kernel()) {
        return; /* the host part of a .cu file */
    }
    if (emu_on_stack(address)) {
        return;
    }
    if (emu_device_holds(address)) {
        emu_access_device(address, bytes, write);
        return;
    }
    const int64_t offset = emu_shared_offset(address);
    if (offset >= 0) {
        access_shared(offset, bytes, write);
        return;
    }
    emu_range range;
    if ((!write && (in_program(address) || emu_is_argument(address))) ||
        emu_pinned_find(address, &range)) {
        return;
    }
    char who[96];
    emu_describe_here(who, sizeof who);
    emu_report("out of bounds: kernel %s, %s, %s memory of the host at %p", emu_current_op()->name,
               who, write ? "writes" : "reads", address);
}

void emu_atomic_access(void *at, size_t bytes) {
    if (emu_device_holds(at)) {
        emu_access_device(at, bytes, true);
    } else if (emu_shared_offset(at) < 0) {
        access(at, bytes, true);
    }
}

/* A GPU faults where the address of an access in one piece is no multiple of its size. */
static void access_whole(const void *address, size_t bytes, bool write) {
    if ((uintptr_t)address % bytes != 0 && emu_in_kernel() && !emu_on_stack(address)) {
        char who[96];
        emu_describe_here(who, sizeof who);
        emu_report("kernel %s, %s, %s %zu bytes at once at %p, which is not aligned to that",
                   emu_current_op()->name, who, write ? "writes" : "reads", bytes, address);
    }
    access(address, bytes, write);
}

/* The interface of ThreadSanitizer's instrumentation. */
#define HOOKS(n)                                                                                   \
    void __tsan_read##n(void *at);                                                                 \
    void __tsan_write##n(void *at);                                                                \
    void __tsan_unaligned_read##n(void *at);                                                       \
    void __tsan_unaligned_write##n(void *at);                                                      \
    void __tsan_volatile_read##n(void *at);                                                        \
    void __tsan_volatile_write##n(void *at);                                                       \
    void __tsan_read##n(void *at) {                                                                \
        access_whole(at, n, false);                                                                \
    }                                                                                              \
    void __tsan_write##n(void *at) {                                                               \
        access_whole(at, n, true);                                                                 \
    }                                                                                              \
    void __tsan_unaligned_read##n(void *at) {                                                      \
        access(at, n, false);                                                                      \
    }                                                                                              \
    void __tsan_unaligned_write##n(void *at) {                                                     \
        access(at, n, true);                                                                       \
    }                                                                                              \
    void __tsan_volatile_read##n(void *at) {                                                       \
        access(at, n, false);                                                                      \
    }                                                                                              \
    void __tsan_volatile_write##n(void *at) {                                                      \
        access(at, n, true);                                                                       \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void *at, unsigned long bytes);
void __tsan_write_range(void *at, unsigned long bytes);
void __tsan_init(void);
void __tsan_func_entry(void *caller);
void __tsan_func_exit(void);
void __tsan_vptr_update(void **at, void *value);
void __tsan_vptr_read(void **at);

void __tsan_read_range(void *at, unsigned long bytes) {
    access(at, bytes, false);
}
void __tsan_write_range(void *at, unsigned long bytes) {
    access(at, bytes, true);
}
void __tsan_init(void) {
}
void __tsan_func_entry(void *caller) {
    (void)caller;
}
void __tsan_func_exit(void) {
}
void __tsan_vptr_update(void **at, void *value) {
    (void)at;
    (void)value;
}
void __tsan_vptr_read(void **at) {
    (void)at;
}

void *__tsan_memcpy(void *to, const void *from, unsigned long bytes);
void *__tsan_memset(void *to, int value, unsigned long bytes);
void *__tsan_memmove(void *to, const void *from, unsigned long bytes);
void *__tsan_memcpy(void *to, const void *from, unsigned long bytes) {
    access(from, bytes, false);
    access(to, bytes, true);
    return memcpy(to, from, bytes);
}
void *__tsan_memmove(void *to, const void *from, unsigned long bytes) {
    access(from, bytes, false);
    access(to, bytes, true);
    return memmove(to, from, bytes);
}
void *__tsan_memset(void *to, int value, unsigned long bytes) {
    access(to, bytes, true);
    return memset(to, value, bytes);
}
