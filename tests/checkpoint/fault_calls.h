/* The calls to the kernel by which this program reads and writes files, each of which can be made
 * to fail: definitions in a program come before those of the C library, for its shared libraries
 * too. */
#ifndef LS_TESTS_FAULT_CALLS_H
#define LS_TESTS_FAULT_CALLS_H

#include <stdbool.h>

typedef enum fault_kind {
    FAULT_NONE,
    FAULT_EIO,    /* one call fails */
    FAULT_EINTR,  /* one call is interrupted, three times in a row */
    FAULT_ENOSPC, /* from one call on, whatever needs space fails */
    FAULT_SHORT,  /* from one call on, reads and writes move half of what they could */
    FAULT_KINDS
} fault_kind;

typedef enum fault_side { FAULT_WRITES, FAULT_READS } fault_side;

/* Counts calls of a side from now on; number `first` (from 0) and perhaps later ones fail. */
void fault_arm(fault_side side, fault_kind kind, long first);
/* Ends that. Was call number `first` reached? *name: which function it was. */
bool fault_disarm(const char **name);

/* Does rename know no flags, as on NFS? */
void fault_plain_renames(bool plain);

/* What is synced, renamed and unlinked by name from now on, in order, a line each: "sync PATH",
 * "rename PATH" (to), "unlink PATH". */
void fault_trail_begin(void);
const char *fault_trail_end(void);

#endif
