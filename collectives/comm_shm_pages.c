/* Huge pages for windows. The kernel gives shared memory small ones unless the machine's
 * administrator says otherwise (shmem_enabled), which takes ten times as long to touch and misses
 * the processor's address caches. Since Linux 6.1 a process may ask for huge ones itself
 * (MADV_COLLAPSE), where address and offset in the file agree modulo their size. MPI maps its file
 * where it likes, so a window of some size gets a second mapping at such an address. Where any of
 * this is missing, small pages do. */
#include "collectives/comm_shm_impl.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#if !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25 /* of Linux 6.1; glibc has it since 2.37 */
#endif

#define HUGE_BYTES ((uintptr_t)2 << 20)
#define PAGE_BYTES 4096 /* the least of any processor */

/* A mapping of this process, and its place in the file. */
typedef struct mapping {
    uintptr_t first, end;
    unsigned long long offset;
} mapping;

/* False: not found, or not shared: Open MPI gives a rank that is alone memory from malloc. */
static bool find_mapping(uintptr_t address, mapping *found) {
    FILE *f = fopen("/proc/self/maps", "r");
    char line[4352], rights[8]; /* a path may have 4096 characters */
    bool is_it = false;
    while (f && !is_it && fgets(line, sizeof line, f)) {
        unsigned long first, end;
        is_it = sscanf(line, "%lx-%lx %7s %llx", &first, &end, rights, &found->offset) == 4 &&
                strcmp(rights, "rw-s") == 0 && first <= address && address < end;
        found->first = first;
        found->end = end;
    }
    if (f) {
        fclose(f);
    }
    return is_it;
}

void ls_shm_view_take(shm_window *w, int ranks, int64_t bytes) {
    mapping m;
    if (bytes < (int64_t)(2 * HUGE_BYTES) || !find_mapping((uintptr_t)w->bases[0], &m)) {
        return;
    }
    for (int rank = 0; rank < ranks; rank++) {
        const uintptr_t base = (uintptr_t)w->bases[rank];
        if (base < m.first || base + (uintptr_t)bytes > m.end) {
            return;
        }
    }
    const size_t mapped = m.end - m.first, room = mapped + HUGE_BYTES;
    char *reserved =
        mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
        return;
    }
    char *to = reserved + ((uintptr_t)m.offset - (uintptr_t)reserved) % HUGE_BYTES;
    /* of an old size of 0: the same pages once more */
    if (mremap((void *)m.first, 0, mapped, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) {
        munmap(reserved, room);
        return;
    }
    w->view = reserved;
    w->view_bytes = room;
    for (int rank = 0; rank < ranks; rank++) {
        w->bases[rank] = to + ((uintptr_t)w->bases[rank] - m.first);
    }
}

void ls_shm_view_free(shm_window *w) {
    if (w->view) {
        munmap(w->view, w->view_bytes);
        w->view = NULL;
    }
}

/* What has no page at its start is left alone. */
static void ask_for_huge(char *memory, int64_t bytes) {
    char *first = memory + (HUGE_BYTES - (uintptr_t)memory % HUGE_BYTES) % HUGE_BYTES;
    char *end = memory + bytes;
    end -= (uintptr_t)end % HUGE_BYTES;
    for (char *page = first; page < end; page += HUGE_BYTES) {
        *page = 0;
    }
    if (first < end) {
        (void)madvise(first, (size_t)(end - first), MADV_COLLAPSE);
    }
}

void ls_shm_touch(const shm_window *w, char *memory, int64_t bytes) {
    if (!w->view) {
        memset(memory, 0, (size_t)bytes);
        return;
    }
    ask_for_huge(memory, bytes);
    for (int64_t at = 0; at < bytes; at += PAGE_BYTES) { /* the file is new, and reads as zeros */
        memory[at] = 0;
    }
    if (bytes > 0) {
        memory[bytes - 1] = 0;
    }
}
