#include "runtime/base/arena.h"

#include "runtime/base/text.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define LS_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define LS_ASAN 1
#endif

#ifdef LS_ASAN
#include <sanitizer/asan_interface.h>
#define REDZONE_BYTES  LS_ARENA_ALIGN
#define POISON(p, n)   ASAN_POISON_MEMORY_REGION((p), (n))
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
#else
#define REDZONE_BYTES  0
#define POISON(p, n)   ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

void ls_arena_init_planning(ls_arena *arena, const char *name) {
    *arena = (ls_arena){.planning = true, .name = name};
}

static ls_status fail_no_memory(const char *name, size_t bytes) {
    char wanted[32], total[32];
    struct sysinfo info = {0};
    sysinfo(&info);
    return LS_FAIL(LS_E_MEMORY,
                   "%s needs %s; this machine has %s in all: %s. Use more ranks on more hosts, a "
                   "smaller batch.micro, data.sequence or model",
                   name, ls_text_bytes(wanted, sizeof wanted, (double)bytes),
                   ls_text_bytes(total, sizeof total, (double)info.totalram * info.mem_unit),
                   strerror(ENOMEM));
}

ls_status ls_arena_init(ls_arena *arena, const char *name, size_t capacity_bytes) {
    *arena = (ls_arena){.name = name};
    struct sysinfo info = {0};
    sysinfo(&info);
    /* The kernel may promise more than there is, and then kill the process when it is used. */
    double limit_bytes = (double)(info.totalram + info.totalswap) * info.mem_unit;
    if (limit_bytes > 0 && (double)capacity_bytes > limit_bytes) {
        return fail_no_memory(name, capacity_bytes);
    }
    size_t mapped_bytes = capacity_bytes ? capacity_bytes : LS_ARENA_ALIGN;
    void *base =
        mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        return fail_no_memory(name, capacity_bytes);
    }
    madvise(base, mapped_bytes, MADV_HUGEPAGE); /* a wish: kernels without huge pages refuse it */
    arena->base = base;
    arena->capacity_bytes = mapped_bytes;
    POISON(base, mapped_bytes);
    return LS_OK;
}

ls_status ls_arena_take(ls_arena *arena, size_t bytes, void **piece) {
    *piece = NULL;
    size_t padded_bytes = 0;
    bool overflow =
        __builtin_add_overflow(bytes, LS_ARENA_ALIGN - 1 + REDZONE_BYTES, &padded_bytes);
    padded_bytes -= padded_bytes % LS_ARENA_ALIGN;
    size_t used_bytes = 0;
    overflow = __builtin_add_overflow(arena->used_bytes, padded_bytes, &used_bytes) || overflow;
    if (overflow) {
        return LS_FAIL(LS_E_MEMORY, "a piece of %zu bytes of %s is more than memory can hold",
                       bytes, arena->name);
    }
    if (!arena->planning) {
        if (used_bytes > arena->capacity_bytes) {
            return LS_FAIL(LS_E_MEMORY, "%s is full: %zu bytes wanted, %zu of %zu are free",
                           arena->name, bytes, arena->capacity_bytes - arena->used_bytes,
                           arena->capacity_bytes);
        }
        *piece = arena->base + arena->used_bytes;
        UNPOISON(*piece, bytes);
    }
    arena->used_bytes = used_bytes;
    return LS_OK;
}

void ls_arena_release(ls_arena *arena) {
    if (arena->base) {
        UNPOISON(arena->base, arena->capacity_bytes);
        munmap(arena->base, arena->capacity_bytes);
    }
    *arena = (ls_arena){0};
}

ls_status ls_calloc(size_t count, size_t elem_bytes, void *pointer_out) {
    size_t bytes;
    bool overflow = __builtin_mul_overflow(count, elem_bytes, &bytes);
    void *p = overflow ? NULL : calloc(1, bytes ? bytes : 1);
    memcpy(pointer_out, &p, sizeof p); /* whatever the type of the caller's pointer */
    if (!p) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %zu items of %zu bytes", count, elem_bytes);
    }
    return LS_OK;
}
