#include "checkpoint/prune.h"
#include "checkpoint/commit.h"
#include "checkpoint/zstd_filter.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *ls_ckpt_fate_name(ls_ckpt_fate fate) {
    static const char *const names[] = {
        [LS_FATE_NEWEST] = "newest", [LS_FATE_LAST] = "last",       [LS_FATE_EVERY] = "every",
        [LS_FATE_BEST] = "best",     [LS_FATE_DAMAGED] = "damaged", [LS_FATE_REMOVE] = "remove"};
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
    const json_t *loss = json_object_get(ls_ckpt_run(ckpt), "val_loss");
    v->val_loss = json_is_number(loss) ? json_number_value(loss) : NAN;
    const ls_ckpt_info info = ls_ckpt_describe(ckpt);
    v->stored_bytes = info.stored_bytes + info.parity_bytes;
    for (int i = 0; i < ckpt->file_count; i++) {
        v->lost += ckpt->files[i].lost;
    }
    ls_ckpt_close(ckpt);
    return LS_OK;
}

static int by_loss(const void *a, const void *b) {
    const ls_ckpt_verdict *x = *(ls_ckpt_verdict *const *)a, *y = *(ls_ckpt_verdict *const *)b;
    if (x->val_loss != y->val_loss) {
        return x->val_loss < y->val_loss ? -1 : 1;
    }
    return (x->step < y->step) - (x->step > y->step); /* of equal ones the newer first */
}

static ls_status keep_best(ls_ckpt_verdict *verdicts, size_t count, int64_t best) {
    ls_ckpt_verdict **known;
    size_t n = 0;
    LS_TRY(ls_calloc(count + 1, sizeof *known, &known));
    for (size_t i = 0; i < count; i++) {
        if (!isnan(verdicts[i].val_loss)) { /* nor is it of a damaged one */
            known[n++] = &verdicts[i];
        }
    }
    qsort(known, n, sizeof *known, by_loss);
    for (size_t i = 0; i < n && (int64_t)i < best; i++) {
        known[i]->fate = known[i]->fate == LS_FATE_REMOVE ? LS_FATE_BEST : known[i]->fate;
    }
    free(known);
    return LS_OK;
}

ls_status ls_ckpt_prune_plan(const char *root, const ls_ckpt_keep *keep, ls_ckpt_verdict **verdicts,
                             size_t *count) {
    int64_t *steps, valid = 0;
    bool all = keep->last == 0 && keep->every == 0 && keep->best == 0;
    *verdicts = NULL;
    LS_TRY(ls_ckpt_list(root, &steps, count));
    ls_status status = ls_calloc(*count + 1, sizeof **verdicts, verdicts);
    for (size_t i = 0; i < *count && status == LS_OK; i++) {
        ls_ckpt_verdict *v = &(*verdicts)[i];
        *v = (ls_ckpt_verdict){.step = steps[i], .fate = LS_FATE_REMOVE, .val_loss = NAN};
        status = look(root, v);
        if (v->fate == LS_FATE_DAMAGED) {
            continue;
        }
        if (valid == 0) {
            v->fate = LS_FATE_NEWEST;
        } else if (all || valid < keep->last) {
            v->fate = LS_FATE_LAST;
        } else if (keep->every > 0 && v->step % keep->every == 0) {
            v->fate = LS_FATE_EVERY;
        }
        valid++;
    }
    free(steps);
    if (status == LS_OK) {
        status = keep_best(*verdicts, *count, keep->best);
    }
    if (status != LS_OK) {
        free(*verdicts);
        *verdicts = NULL;
    }
    return status;
}

/* Becomes a temporary of ours first, so that no half of it has its name; that takes no room, which
 * a full disk does not have. */
static ls_status remove_step(const char *root, int64_t step) {
    ls_ckpt_place place;
    uint64_t random[2];
    struct stat info;
    LS_TRY(ls_ckpt_random(random));
    LS_TRY(ls_ckpt_place_name(&place, root, step, random));
    bool is_link = lstat(place.final, &info) == 0 && !S_ISDIR(info.st_mode);
    if (is_link || rename(place.final, place.temporary) != 0) {
        return LS_FAIL(LS_E_IO, "cannot rename '%s' to remove it: %s", place.final,
                       is_link ? "it is a link" : strerror(errno));
    }
    (void)ls_ckpt_place_own(&place); /* without, the run's next start removes what a kill leaves */
    ls_status status = ls_file_sync(root);
    ls_ckpt_place_remove(&place);
    return status;
}

ls_status ls_ckpt_prune_carry_out(const char *root, const ls_ckpt_verdict *verdicts, size_t count) {
    ls_error first = {.code = LS_OK};
    for (size_t i = count; i-- > 0;) {
        if (verdicts[i].fate == LS_FATE_REMOVE && remove_step(root, verdicts[i].step) != LS_OK &&
            first.code == LS_OK) {
            first = *ls_error_last();
        }
    }
    return first.code == LS_OK ? LS_OK : ls_error_restore(&first);
}

ls_status ls_ckpt_prune(const char *root, const ls_ckpt_keep *keep) {
    ls_ckpt_verdict *plan;
    size_t count;
    if (keep->last == 0 && keep->every == 0 && keep->best == 0) {
        return LS_OK;
    }
    LS_TRY(ls_ckpt_prune_plan(root, keep, &plan, &count));
    ls_status status = ls_ckpt_prune_carry_out(root, plan, count);
    free(plan);
    return status;
}

/* Bytes of the files in a directory and those in it, and their newest change. */
static void measure(const char *directory, int depth, int64_t *bytes, double *newest) {
    char path[4096];
    struct stat info;
    struct dirent *item;
    DIR *open = opendir(directory);
    while (open && (item = readdir(open))) {
        if (strcmp(item->d_name, "..") == 0 ||
            ls_path_join(path, sizeof path, directory, item->d_name) != LS_OK ||
            lstat(path, &info) != 0) {
            continue;
        }
        double changed = (double)info.st_mtim.tv_sec;
        *newest = changed > *newest ? changed : *newest;
        *bytes += S_ISREG(info.st_mode) ? (int64_t)info.st_size : 0;
        if (S_ISDIR(info.st_mode) && depth > 0 && strcmp(item->d_name, ".") != 0) {
            measure(path, depth - 1, bytes, newest);
        }
    }
    if (open) {
        closedir(open);
    }
}

static void stale_measure(const char *root, ls_ckpt_stale *s) {
    char path[4096], owner[4096];
    double newest = 0.0;
    ls_owner who;
    s->state = LS_OWNER_UNKNOWN;
    snprintf(s->owner, sizeof s->owner, "an unknown process");
    if (ls_path_join(path, sizeof path, root, s->name) != LS_OK ||
        ls_path_join(owner, sizeof owner, path, LS_CKPT_OWNER) != LS_OK) {
        return;
    }
    measure(path, 1, &s->bytes, &newest);
    if (ls_owner_read(owner, &who) == LS_OK) {
        s->has_owner = true;
        s->state = ls_owner_look(&who);
        ls_owner_text(&who, s->owner, sizeof s->owner);
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
        return LS_FAIL(LS_E_IO, "cannot list '%s': %s", root, strerror(errno));
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

ls_status ls_ckpt_stale_sweep(const char *root, bool locked) {
    ls_ckpt_stale *stale;
    size_t count;
    char path[4096];
    if (!ls_path_is_dir(root)) {
        return LS_OK;
    }
    LS_TRY(ls_ckpt_stale_list(root, &stale, &count));
    ls_status status = LS_OK;
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        const ls_ckpt_stale *s = &stale[i];
        status = ls_path_join(path, sizeof path, root, s->name);
        if (status == LS_OK && (s->state == LS_OWNER_GONE || (locked && !s->has_owner))) {
            ls_log_info("'%s' is removed: %s, who made it, is gone", path, s->owner);
            status = ls_ckpt_temporary_remove(path);
        } else if (status == LS_OK && s->state == LS_OWNER_UNKNOWN) {
            ls_log_warn("'%s' is an unfinished save of %s; if it is gone, remove the directory",
                        path, s->owner);
        }
    }
    free(stale);
    return status;
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
