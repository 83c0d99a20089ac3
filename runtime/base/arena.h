/* Arenas: one mapping taken at start, handed out in pieces, given back as a whole.
 *
 *   base                                              capacity
 *   | piece | pad | piece | pad | piece |     free     |
 *                                       ^ used
 *
 * Pieces start at multiples of LS_ARENA_ALIGN and are zero until written. Under AddressSanitizer
 * the free part and one redzone after each piece are poisoned. A planning arena (capacity 0,
 * base NULL) hands out nothing but counts, so that sizes are known before memory is taken:
 * run the same layout code twice, first with a planning arena, then with a real one. */
#ifndef LS_BASE_ARENA_H
#define LS_BASE_ARENA_H

#include "runtime/base/status.h"

#include <stddef.h>

#define LS_ARENA_ALIGN 64

typedef struct ls_arena {
    char *base;
    size_t capacity_bytes;
    size_t used_bytes;
    bool planning;
    const char *name; /* for messages; static */
} ls_arena;

/* Counts only; ls_arena_take returns NULL with LS_OK. */
void ls_arena_init_planning(ls_arena *arena, const char *name);

/* Maps capacity_bytes of zeroed anonymous memory, with huge pages advised. LS_E_MEMORY tells how
 * much was wanted and how much the machine has. */
ls_status ls_arena_init(ls_arena *arena, const char *name, size_t capacity_bytes);

/* A piece of bytes, aligned. LS_E_MEMORY when it does not fit. The arena owns it. */
ls_status ls_arena_take(ls_arena *arena, size_t bytes, void **piece);

/* Unmaps. Safe on a zeroed struct. */
void ls_arena_release(ls_arena *arena);

/* Zeroed heap memory for tables and strings, with the check; free with free(). */
ls_status ls_calloc(size_t count, size_t elem_bytes, void *pointer_out);

#endif
