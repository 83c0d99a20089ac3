/* Limits of processor time, as containers have them, from the files of the kernel's cgroups
 * (Documentation/admin-guide/cgroup-v2.rst, cpu.max; scheduler/sched-bwc.rst for version 1). */
#include "runtime/base/cpu.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Two numbers that stand in a file, or in two; false: the quota is "max", -1, or is not told. */
static bool read_quota(const char *dir, bool v1, double *processors) {
    static const char *const files[2][2] = {{"cpu.max", NULL},
                                            {"cpu.cfs_quota_us", "cpu.cfs_period_us"}};
    char path[700];
    double number[2] = {0.0, 0.0};
    int found = 0;
    for (int i = 0; i < 2 && files[v1][i]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[v1][i]);
        FILE *f = fopen(path, "re");
        while (f && found < 2 && fscanf(f, "%lf", &number[found]) == 1) {
            found++;
        }
        if (f) {
            fclose(f);
        }
    }
    *processors = found == 2 && number[1] > 0.0 ? number[0] / number[1] : 0.0;
    return *processors > 0.0;
}

/* The least of a cgroup and those above it, up to where the hierarchy is mounted: a container may
 * see paths of the host that do not exist inside. *least 0: none so far. */
static void look_above(const char *mount, const char *path, bool v1, double *least) {
    char dir[640];
    snprintf(dir, sizeof dir, "%s%s", mount, strcmp(path, "/") == 0 ? "" : path);
    for (;;) {
        double processors;
        if (read_quota(dir, v1, &processors) && (*least == 0.0 || processors < *least)) {
            *least = processors;
        }
        char *slash = strrchr(dir, '/');
        if (strlen(dir) <= strlen(mount) || !slash) {
            return;
        }
        *slash = '\0';
    }
}

/* Does "cpu,cpuacct" name the controller? */
static bool names_cpu(const char *controllers) {
    char list[256];
    snprintf(list, sizeof list, "%s", controllers);
    char *rest = NULL;
    for (char *name = strtok_r(list, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        if (strcmp(name, "cpu") == 0) {
            return true;
        }
    }
    return false;
}

int ls_cpu_quota_in(const char *cgroups, const char *mount) {
    FILE *f = fopen(cgroups, "re");
    char line[512], top[600];
    double least = 0.0;
    while (f && fgets(line, sizeof line, f)) { /* "4:cpu,cpuacct:/a/b", "0::/a/b" */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'),
             *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path) {
            continue;
        }
        *path++ = '\0';
        controllers++;
        if (controllers[0] == '\0') {
            look_above(mount, path, false, &least);
        } else if (names_cpu(controllers)) {
            snprintf(top, sizeof top, "%s/%s", mount, controllers);
            look_above(top, path, true, &least);
        }
    }
    if (f) {
        fclose(f);
    }
    const int whole = (int)least;
    return least > 1e6 ? 0 : whole + (least > whole);
}

int ls_cpu_quota(void) {
    return ls_cpu_quota_in("/proc/self/cgroup", "/sys/fs/cgroup");
}

int ls_cpu_usable(void) {
    const int available = ls_cpu_available(), quota = ls_cpu_quota();
    return quota > 0 && quota < available ? quota : available;
}
