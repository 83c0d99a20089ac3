#include "runtime/counters/energy.h"

#include "runtime/base/arena.h"

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ZONES 64

typedef struct zone {
    char path[320];
    uint64_t last_uj, range_uj;
} zone;

struct ls_energy {
    zone zones[MAX_ZONES];
    int count;
    double joules;
    char scope[256];
};

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
    zone *z = &e->zones[e->count];
    char name[64];
    if (snprintf(z->path, sizeof z->path, "%s/%s", folder, entry) >= (int)sizeof z->path ||
        !wanted(z->path, entry, name, sizeof name) ||
        !read_number(z->path, "energy_uj", &z->last_uj) ||
        !read_number(z->path, "max_energy_range_uj", &z->range_uj)) {
        return;
    }
    size_t used = strlen(e->scope);
    snprintf(e->scope + used, sizeof e->scope - used, "%s%s", e->count ? ", " : "RAPL: ", name);
    e->count++;
}

ls_status ls_energy_open(const char *folder, ls_energy **energy) {
    *energy = NULL;
    folder = folder ? folder : "/sys/class/powercap";
    DIR *dir = opendir(folder);
    if (!dir) {
        return LS_OK;
    }
    ls_energy *e;
    ls_status status = ls_calloc(1, sizeof *e, &e);
    for (struct dirent *d; status == LS_OK && e->count < MAX_ZONES && (d = readdir(dir));) {
        add_zone(e, folder, d->d_name);
    }
    closedir(dir);
    LS_TRY(status);
    if (e->count == 0) {
        free(e);
        return LS_OK;
    }
    *energy = e;
    return LS_OK;
}

void ls_energy_close(ls_energy *energy) {
    free(energy);
}

ls_status ls_energy_joules(ls_energy *e, double *joules) {
    for (int i = 0; i < e->count; i++) {
        zone *z = &e->zones[i];
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
    *joules = e->joules;
    return LS_OK;
}

const char *ls_energy_scope(const ls_energy *e) {
    return e->scope;
}
