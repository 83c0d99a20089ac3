/* What processes of this host may still take, by the kernel's word. */
#ifndef LS_LAUNCH_HOST_MEMORY_H
#define LS_LAUNCH_HOST_MEMORY_H

#include <stdint.h>

/* Memory that processes share: the host's, or that of a memory cgroup with a limit. Of fixed size,
 * so that ranks can gather them. */
typedef struct ls_memory_pool {
    uint64_t id;        /* equal on processes of a host that share the pool; 0: the host's */
    int64_t free_bytes; /* with what the kernel would drop of its caches */
    char name[200];     /* "the limit of cgroup ...", as it stands in messages */
} ls_memory_pool;

enum { LS_MEMORY_POOLS_MAX = 8 };

/* Those that this process takes from: MemAvailable of /proc/meminfo, and the limits of its memory
 * cgroup and of those above it (version 1 or 2). Returns how many; what the kernel does not tell is
 * left out. Not collective. */
int ls_memory_pools(ls_memory_pool pools[LS_MEMORY_POOLS_MAX]);
/* The limits of cgroups alone, by other files: in the place of /proc/self/cgroup and of what is
 * mounted at /sys/fs/cgroup. */
int ls_memory_cgroups_in(const char *cgroups, const char *mount, ls_memory_pool *pools, int room);

/* A line of /proc/meminfo, such as "MemTotal"; -1: it is not there. */
int64_t ls_meminfo_bytes(const char *key);

#endif
