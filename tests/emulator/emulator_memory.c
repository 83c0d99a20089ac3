/* Memory of the emulated device, and pinned memory of the host. */
#include "tests/emulator/emulator.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* One range of addresses, of which allocations take pieces with a gap after each. The search goes
 * on from the last piece until RECYCLE_BYTES, so that freed memory stays unused for a while. */
#define RECYCLE_BYTES ((size_t)256 << 20)
#define GAP_BYTES     ((size_t)1024)
#define ALIGN_BYTES   ((size_t)256)
#define PAGE_BYTES    ((size_t)4096)
#define HUGE_BYTES    ((size_t)2 << 20)
enum { PIECES_MAX = 4096, PINNED_MAX = 256, POISON = 0xff };

char *emu_device_base;
static emu_range pieces[PIECES_MAX]; /* by address */
static int piece_count;
static size_t cursor;
static int open_depth;
static bool is_open; /* opened by the first access of a window, since closing costs a walk */

typedef struct pinned {
    emu_range range;
    int readers, writers; /* queued copies */
    bool registered;      /* the program's own memory */
} pinned;
static pinned pins[PINNED_MAX];
static int pin_count;

void emu_report(const char *fmt, ...) {
    va_list list;
    va_start(list, fmt);
    fputs("emulator: ", stderr);
    vfprintf(stderr, fmt, list);
    fputc('\n', stderr);
    va_end(list);
    abort();
}

static void *map(size_t bytes, int protection) {
    void *memory =
        mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        emu_report("no address range of %zu bytes", bytes);
    }
    return memory;
}

bool emu_device_find(const void *address, emu_range *found) {
    int low = 0, high = piece_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (pieces[middle].base <= (const char *)address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *found = low > 0 ? pieces[low - 1] : (emu_range){0};
    return low > 0 && (const char *)address < found->base + found->bytes;
}

static pinned *pin_of(const void *address) {
    for (int i = 0; i < pin_count; i++) {
        const emu_range *r = &pins[i].range;
        if ((const char *)address >= r->base && (const char *)address < r->base + r->bytes) {
            return &pins[i];
        }
    }
    return NULL;
}

static size_t padded_bytes(const pinned *pin) {
    return (pin->range.bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

bool emu_pinned_find(const void *address, emu_range *found) {
    const pinned *pin = pin_of(address);
    *found = pin ? pin->range : (emu_range){0};
    return pin != NULL;
}

/* The host touched memory that it may not touch now. */
static void on_fault(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    emu_range range;
    if (emu_device_holds(info->si_addr)) {
        bool found = emu_device_find(info->si_addr, &range);
        emu_report("the host touches device memory at %p (%s an allocation of %zu bytes, offset "
                   "%td): copy it, and wait for the copy",
                   info->si_addr, found ? "in" : "beyond", range.bytes,
                   (char *)info->si_addr - range.base);
    }
    if (emu_pinned_find(info->si_addr, &range)) {
        emu_report("the host touches pinned memory (%zu bytes, offset %td) while a copy of it is "
                   "queued: wait for the copy first",
                   range.bytes, (char *)info->si_addr - range.base);
    }
    signal(signal_number, SIG_DFL); /* a fault of the program's own: let it happen again */
}

static void start(void) {
    if (emu_device_base) {
        return;
    }
    /* In huge pages, where there are such: opening and closing walks over them. */
    emu_device_base = map(EMU_DEVICE_BYTES + HUGE_BYTES, PROT_NONE);
    emu_device_base += HUGE_BYTES - (uintptr_t)emu_device_base % HUGE_BYTES;
    madvise(emu_device_base, EMU_DEVICE_BYTES, MADV_HUGEPAGE);
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

static char *page_of(const char *address) {
    return (char *)((uintptr_t)address & ~(PAGE_BYTES - 1));
}

/* All that is in use, in one call. */
static void protect_device(int protection) {
    if (piece_count == 0) {
        return;
    }
    const emu_range *last = &pieces[piece_count - 1];
    const size_t first = (size_t)(pieces[0].base - emu_device_base) / HUGE_BYTES * HUGE_BYTES;
    const size_t end = (size_t)(last->base + last->bytes - emu_device_base);
    mprotect(emu_device_base + first, (end + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES - first,
             protection);
}

void emu_memory_open(void) {
    open_depth++;
}

void emu_memory_touch(void) {
    if (!is_open && open_depth > 0) {
        is_open = true;
        protect_device(PROT_READ | PROT_WRITE);
    }
}

void emu_memory_close(void) {
    if (--open_depth == 0 && is_open) {
        is_open = false;
        protect_device(PROT_NONE);
    }
}

/* Finds room for bytes behind `cursor`; returns the index in pieces, or -1. */
static int find_gap(size_t bytes, char **base) {
    char *from = emu_device_base + cursor;
    for (int i = 0; i <= piece_count; i++) {
        char *end = i < piece_count ? pieces[i].base : emu_device_base + EMU_DEVICE_BYTES;
        if (end >= from + bytes && (size_t)(end - from) >= bytes) {
            *base = from;
            return i;
        }
        if (i < piece_count && pieces[i].base + pieces[i].bytes + GAP_BYTES > from) {
            from = pieces[i].base + pieces[i].bytes + GAP_BYTES;
            from = (char *)(((uintptr_t)from + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1));
        }
    }
    return -1;
}

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    emu_device_expect("memory");
    emu_capture_forbids("an allocation");
    if (emu_fault != cudaSuccess) {
        return emu_fault;
    }
    start();
    if (bytes == 0) {
        *memory = NULL;
        return cudaSuccess;
    }
    if (bytes > EMU_DEVICE_BYTES / 2 || piece_count == PIECES_MAX) {
        return cudaErrorMemoryAllocation;
    }
    if (cursor > RECYCLE_BYTES) {
        cursor = 0;
    }
    char *base;
    const int at = find_gap(bytes + GAP_BYTES, &base);
    if (at < 0) {
        return cudaErrorMemoryAllocation;
    }
    memmove(&pieces[at + 1], &pieces[at], (size_t)(piece_count - at) * sizeof *pieces);
    pieces[at] = (emu_range){base, bytes};
    piece_count++;
    cursor =
        (size_t)(base + bytes - emu_device_base + GAP_BYTES + ALIGN_BYTES) & ~(ALIGN_BYTES - 1);
    emu_access_allocated(&pieces[at], true);
    emu_memory_open();
    emu_memory_touch();
    memset(base, POISON, bytes);
    emu_memory_close();
    *memory = base;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory) {
    emu_range found;
    if (!memory) {
        return cudaSuccess;
    }
    emu_capture_forbids("a release of memory");
    cudaDeviceSynchronize();
    if (!emu_device_find(memory, &found) || found.base != memory) {
        emu_report("cudaFree of %p, which is no allocation", memory);
    }
    for (int i = 0; i < piece_count; i++) {
        if (pieces[i].base == memory) {
            emu_access_allocated(&pieces[i], false);
            char *first = page_of(found.base + PAGE_BYTES - 1);
            char *end = page_of(found.base + found.bytes);
            if (end > first) {
                madvise(first, (size_t)(end - first), MADV_DONTNEED);
            }
            memmove(&pieces[i], &pieces[i + 1], (size_t)(piece_count - i - 1) * sizeof *pieces);
            piece_count--;
            break;
        }
    }
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    size_t used = 0;
    for (int i = 0; i < piece_count; i++) {
        used += pieces[i].bytes;
    }
    *total_bytes = EMU_DEVICE_BYTES;
    *free_bytes = EMU_DEVICE_BYTES - used;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **memory, size_t bytes) {
    emu_device_expect("pinned memory");
    emu_capture_forbids("an allocation of pinned memory");
    start();
    if (pin_count == PINNED_MAX || bytes == 0) {
        return cudaErrorMemoryAllocation;
    }
    size_t padded = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    *memory = map(padded, PROT_READ | PROT_WRITE);
    pins[pin_count++] = (pinned){.range = {*memory, bytes}};
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory) {
    if (!memory) {
        return cudaSuccess;
    }
    emu_capture_forbids("a release of pinned memory");
    cudaDeviceSynchronize();
    pinned *pin = pin_of(memory);
    if (!pin || pin->range.base != memory || pin->registered) {
        emu_report("cudaFreeHost of %p, which is no pinned memory", memory);
    }
    munmap(memory, padded_bytes(pin));
    *pin = pins[--pin_count];
    return cudaSuccess;
}

/* Of whole pages, since they are closed while copies are queued. */
cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned int flags) {
    emu_device_expect("pinned memory");
    emu_capture_forbids("pinning memory");
    start();
    if (pin_count == PINNED_MAX || bytes == 0 || flags != cudaHostRegisterDefault) {
        return cudaErrorMemoryAllocation;
    }
    if ((uintptr_t)memory % PAGE_BYTES != 0 || pin_of(memory)) {
        emu_report("cudaHostRegister of %p, which begins inside of a page, or is pinned", memory);
    }
    pins[pin_count++] = (pinned){.range = {memory, bytes}, .registered = true};
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *memory) {
    pinned *pin = pin_of(memory);
    if (!pin || pin->range.base != memory || !pin->registered) {
        emu_report("cudaHostUnregister of %p, which was not registered", memory);
    }
    if (pin->readers || pin->writers) {
        emu_report("cudaHostUnregister of %p while a copy of it is queued", memory);
    }
    *pin = pins[--pin_count];
    return cudaSuccess;
}

void emu_pinned_open(const void *address) {
    pinned *pin = pin_of(address);
    mprotect(pin->range.base, padded_bytes(pin), PROT_READ | PROT_WRITE);
}

void emu_pinned_hold(const void *address, size_t bytes, bool writes, int change) {
    pinned *pin = pin_of(address);
    if (!pin || (const char *)address + bytes > pin->range.base + pin->range.bytes) {
        emu_report("an asynchronous copy of %zu bytes of host memory at %p that is not pinned (or "
                   "beyond its end): CUDA makes it wait, or copies too early",
                   bytes, address);
    }
    *(writes ? &pin->writers : &pin->readers) += change;
    int protection = pin->writers ? PROT_NONE : pin->readers ? PROT_READ : PROT_READ | PROT_WRITE;
    mprotect(pin->range.base, padded_bytes(pin), protection);
}
