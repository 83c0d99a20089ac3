#include "launch/host_memory.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int64_t ls_meminfo_bytes(const char *key) {
    FILE *f = fopen("/proc/meminfo", "r");
    char line[256];
    long long kib = -1;
    const size_t length = strlen(key);
    while (f && kib < 0 && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, length) == 0 && line[length] == ':') {
            kib = strtoll(line + length + 1, NULL, 10);
        }
    }
    if (f) {
        fclose(f);
    }
    return kib < 0 ? -1 : kib * 1024;
}

/* The number of a one-number file of a cgroup; -1: there is none, or "max". */
static int64_t number_in(const char *dir, const char *file) {
    char path[1300];
    long long n = -1;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "r");
    if (f) {
        if (fscanf(f, "%lld", &n) != 1) {
            n = -1;
        }
        fclose(f);
    }
    return n;
}

/* File pages that the kernel drops before it kills anybody. */
static int64_t reclaimable(const char *dir, const char *wanted) {
    char path[1300], key[64];
    long long n, found = 0;
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    FILE *f = fopen(path, "r");
    while (f && fscanf(f, "%63s %lld", key, &n) == 2) {
        found = strcmp(key, wanted) == 0 ? n : found;
    }
    if (f) {
        fclose(f);
    }
    return found;
}

/* false: the cgroup has no limit. */
static bool pool_of(const char *dir, bool v1, ls_memory_pool *pool) {
    struct stat st;
    const int64_t limit = number_in(dir, v1 ? "memory.limit_in_bytes" : "memory.max");
    const int64_t used = number_in(dir, v1 ? "memory.usage_in_bytes" : "memory.current");
    if (limit < 0 || used < 0 || limit > INT64_C(1) << 60 || stat(dir, &st) != 0) {
        return false;
    }
    const int64_t left =
        limit - used + reclaimable(dir, v1 ? "total_inactive_file" : "inactive_file");
    *pool = (ls_memory_pool){.id = (uint64_t)st.st_ino << 8 ^ (uint64_t)st.st_dev,
                             .free_bytes = left > 0 ? left : 0};
    snprintf(pool->name, sizeof pool->name, "the limit of cgroup %.170s", dir);
    return true;
}

/* The cgroup and those above it, up to where the hierarchy is mounted: a container may see paths of
 * the host that do not exist inside. */
static int pools_above(const char *top, const char *path, bool v1, ls_memory_pool *pools,
                       int room) {
    char dir[1200];
    int count = 0;
    snprintf(dir, sizeof dir, "%s%s", top, strcmp(path, "/") == 0 ? "" : path);
    while (count < room) {
        count += pool_of(dir, v1, &pools[count]);
        char *slash = strrchr(dir, '/');
        if (strlen(dir) <= strlen(top) || !slash) {
            break;
        }
        *slash = '\0';
    }
    return count;
}

int ls_memory_cgroups_in(const char *cgroups, const char *mount, ls_memory_pool *pools, int room) {
    int count = 0;
    FILE *f = fopen(cgroups, "r");
    char line[512], top[600];
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        const char *v1 = strstr(line, ":memory:"), *v2 = strncmp(line, "0::", 3) ? NULL : line + 3;
        if (v1 || v2) {
            snprintf(top, sizeof top, "%s%s", mount, v1 ? "/memory" : "");
            count += pools_above(top, v1 ? v1 + 8 : v2, v1 != NULL, pools + count, room - count);
        }
    }
    if (f) {
        fclose(f);
    }
    return count;
}

int ls_memory_pools(ls_memory_pool pools[LS_MEMORY_POOLS_MAX]) {
    int count = 0;
    const int64_t available = ls_meminfo_bytes("MemAvailable");
    if (available >= 0) {
        pools[count++] = (ls_memory_pool){.free_bytes = available, .name = "the host"};
    }
    return count + ls_memory_cgroups_in("/proc/self/cgroup", "/sys/fs/cgroup", pools + count,
                                        LS_MEMORY_POOLS_MAX - count);
}
