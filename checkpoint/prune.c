#include "checkpoint/prune.h"
#include "checkpoint/format.h"
#include "checkpoint/zstd_filter.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/text.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *ls_ckpt_fate_name(ls_ckpt_fate fate) {
    static const char *const names[] = {[LS_FATE_NEWEST] = "newest",
                                        [LS_FATE_LAST] = "last",
                                        [LS_FATE_EVERY] = "every",
                                        [LS_FATE_DAMAGED] = "damaged",
                                        [LS_FATE_REMOVE] = "remove"};
    return names[fate];
}

static ls_status path_of(char *path, size_t size, const char *root, int64_t step) {
    char name[32];
    snprintf(name, sizeof name, "step-%08lld", (long long)step);
    return ls_path_join(path, size, root, name);
}

static ls_status look(const char *root, ls_ckpt_verdict *v) {
    char path[4096];
    ls_ckpt *ckpt;
    LS_TRY(path_of(path, sizeof path, root, v->step));
    ls_status status = ls_ckpt_open(path, &ckpt);
    if (status != LS_OK) {
        snprintf(v->fault, sizeof v->fault, "%.255s", ls_error_last()->message);
        v->fate = LS_FATE_DAMAGED;
        return status == LS_E_MEMORY ? status : LS_OK;
    }
    v->stored_bytes = ls_ckpt_describe(ckpt).stored_bytes;
    ls_ckpt_close(ckpt);
    return LS_OK;
}

ls_status ls_ckpt_prune_plan(const char *root, int64_t keep_last, int64_t keep_every,
                             ls_ckpt_verdict **verdicts, size_t *count) {
    int64_t *steps, valid = 0;
    *verdicts = NULL;
    LS_TRY(ls_ckpt_list(root, &steps, count));
    ls_status status = ls_calloc(*count + 1, sizeof **verdicts, verdicts);
    for (size_t i = 0; i < *count && status == LS_OK; i++) {
        ls_ckpt_verdict *v = &(*verdicts)[i];
        *v = (ls_ckpt_verdict){.step = steps[i], .fate = LS_FATE_REMOVE};
        status = look(root, v);
        if (v->fate == LS_FATE_DAMAGED) {
            continue;
        }
        if (valid == 0) {
            v->fate = LS_FATE_NEWEST;
        } else if (valid < keep_last) {
            v->fate = LS_FATE_LAST;
        } else if (keep_every > 0 && v->step % keep_every == 0) {
            v->fate = LS_FATE_EVERY;
        }
        valid++;
    }
    free(steps);
    if (status != LS_OK) {
        free(*verdicts);
        *verdicts = NULL;
    }
    return status;
}

ls_status ls_ckpt_remove(const char *root, int64_t step) {
    char path[4096], aside[4096], name[64];
    snprintf(name, sizeof name, ".tmp-%08lld-removed-%ld", (long long)step, (long)getpid());
    LS_TRY(path_of(path, sizeof path, root, step));
    LS_TRY(ls_path_join(aside, sizeof aside, root, name));
    if (rename(path, aside) != 0) {
        return LS_FAIL(LS_E_IO, "cannot rename '%s' to remove it: %s", path, strerror(errno));
    }
    LS_TRY(ls_file_sync(root));
    return ls_dir_remove(aside);
}

/* Bytes of the files in a save's directory, which has no folders, and their newest change. */
static void stale_measure(const char *root, ls_ckpt_stale *s) {
    char path[4096], file[4096];
    struct stat info;
    struct dirent *item;
    double newest = 0.0;
    if (ls_path_join(path, sizeof path, root, s->name) != LS_OK) {
        return;
    }
    DIR *directory = opendir(path);
    while (directory && (item = readdir(directory))) {
        if (strcmp(item->d_name, "..") == 0 ||
            ls_path_join(file, sizeof file, path, item->d_name) != LS_OK ||
            lstat(file, &info) != 0) {
            continue;
        }
        double changed = (double)info.st_mtim.tv_sec;
        newest = changed > newest ? changed : newest;
        s->bytes += S_ISREG(info.st_mode) ? (int64_t)info.st_size : 0;
    }
    if (directory) {
        closedir(directory);
    }
    double age = ls_clock_wall_s() - newest;
    s->age_s = age > 0 ? age : 0.0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const ls_ckpt_stale *)a)->name, ((const ls_ckpt_stale *)b)->name);
}

ls_status ls_ckpt_stale_list(const char *root, ls_ckpt_stale **stale, size_t *count) {
    *stale = NULL;
    *count = 0;
    DIR *directory = opendir(root);
    if (!directory) {
        return LS_FAIL(LS_E_INPUT, "cannot list '%s': %s", root, strerror(errno));
    }
    struct dirent *item;
    while ((item = readdir(directory))) {
        if (strncmp(item->d_name, ".tmp-", 5) != 0) {
            continue;
        }
        ls_ckpt_stale *larger = reallocarray(*stale, *count + 1, sizeof *larger);
        if (!larger) {
            closedir(directory);
            free(*stale);
            *stale = NULL;
            return LS_FAIL(LS_E_MEMORY, "no memory for a list of directories");
        }
        *stale = larger;
        ls_ckpt_stale *s = &larger[(*count)++];
        *s = (ls_ckpt_stale){0};
        snprintf(s->name, sizeof s->name, "%s", item->d_name);
        stale_measure(root, s);
    }
    closedir(directory);
    if (*count > 0) {
        qsort(*stale, *count, sizeof **stale, by_name);
    }
    return LS_OK;
}

bool ls_ckpt_plugin_found(void) {
    H5E_auto2_t print;
    void *context;
    H5Eget_auto2(H5E_DEFAULT, &print, &context);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    bool found = H5Zfilter_avail(LS_H5Z_ZSTD) > 0;
    H5Eset_auto2(H5E_DEFAULT, print, context);
    return found;
}
