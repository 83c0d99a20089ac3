/* RAPL (Running Average Power Limit) counters of processors, as Linux powercap shows them. */
#include "runtime/counters/energy_impl.h"

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool read_line(const char *folder, const char *file, char *text, size_t size) {
    char path[420];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "r");
    if (!f) {
        return false;
    }
    bool there = fgets(text, (int)size, f) != NULL;
    fclose(f);
    text[strcspn(text, "\n")] = '\0';
    return there;
}

static bool read_number(const char *folder, const char *file, uint64_t *number) {
    char text[64], *end;
    if (!read_line(folder, file, text, sizeof text)) {
        return false;
    }
    errno = 0;
    *number = strtoull(text, &end, 10);
    return end != text && errno == 0;
}

/* Packages and their DRAM do not overlap; cores and graphics are parts of a package, psys is the
 * whole platform again. intel-rapl-mmio:* would count the packages twice. */
static bool wanted(const char *folder, const char *entry, char *name, size_t size) {
    return strncmp(entry, "intel-rapl:", 11) == 0 && read_line(folder, "name", name, size) &&
           (strncmp(name, "package", 7) == 0 || strcmp(name, "dram") == 0);
}

static void add_zone(ls_energy *e, const char *folder, const char *entry) {
    energy_zone *z = &e->zones[e->zone_count];
    char name[64];
    if (snprintf(z->path, sizeof z->path, "%s/%s", folder, entry) >= (int)sizeof z->path ||
        !wanted(z->path, entry, name, sizeof name) ||
        !read_number(z->path, "energy_uj", &z->last_uj) ||
        !read_number(z->path, "max_energy_range_uj", &z->range_uj)) {
        return;
    }
    size_t used = strlen(e->scope);
    snprintf(e->scope + used, sizeof e->scope - used, "%s%s",
             e->zone_count ? ", " : "RAPL: ", name);
    e->zone_count++;
}

ls_status ls_energy_open_rapl(ls_energy *e, const char *folder, bool *found) {
    folder = folder ? folder : "/sys/class/powercap";
    DIR *dir = opendir(folder);
    if (!dir) {
        return LS_OK;
    }
    for (struct dirent *d; e->zone_count < ENERGY_ZONES && (d = readdir(dir));) {
        add_zone(e, folder, d->d_name);
    }
    closedir(dir);
    *found = e->zone_count > 0;
    return LS_OK;
}

ls_status ls_energy_read_rapl(ls_energy *e) {
    for (int i = 0; i < e->zone_count; i++) {
        energy_zone *z = &e->zones[i];
        uint64_t now_uj;
        if (!read_number(z->path, "energy_uj", &now_uj)) {
            return LS_FAIL(LS_E_IO, "cannot read '%s/energy_uj', which could be read before: %s",
                           z->path, strerror(errno));
        }
        uint64_t spent = now_uj >= z->last_uj ? now_uj - z->last_uj
                                              : now_uj + z->range_uj - z->last_uj; /* wrapped */
        e->joules += 1e-6 * (double)spent;
        z->last_uj = now_uj;
    }
    return LS_OK;
}
