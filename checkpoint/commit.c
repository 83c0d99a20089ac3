#include "checkpoint/commit.h"
#include "checkpoint/owner.h"
#include "checkpoint/repair.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* In a temporary: the checkpoint that is being replaced. */
#define ASIDE "replaced"

ls_status ls_ckpt_random(uint64_t random[2]) {
    return getrandom(random, 2 * sizeof *random, 0) == (ssize_t)(2 * sizeof *random)
               ? LS_OK
               : LS_FAIL(LS_E_IO, "no random bits for a name: %s", strerror(errno));
}

ls_status ls_ckpt_place_name(ls_ckpt_place *place, const char *root, int64_t step,
                             const uint64_t random[2]) {
    char name[64], temporary[96];
    snprintf(name, sizeof name, "step-%08lld", (long long)step);
    snprintf(temporary, sizeof temporary, ".tmp-%08lld-%016llx%016llx", (long long)step,
             (unsigned long long)random[0], (unsigned long long)random[1]);
    LS_TRY(ls_path_join(place->final, sizeof place->final, root, name));
    snprintf(place->root, sizeof place->root, "%s", root); /* shorter than what fitted */
    LS_TRY(ls_path_join(place->temporary, sizeof place->temporary, root, temporary));
    return ls_path_join(place->directory, sizeof place->directory, place->temporary, name);
}

/* Temporaries that could not be removed, as on a file system that had become read-only: they are
 * tried again beside the next saves. More than a few are left to the next start of the run. */
enum { LEFT_MOST = 8 };
static char left[LEFT_MOST][sizeof((ls_ckpt_place *)0)->temporary];
static int left_count;
static pthread_mutex_t left_lock = PTHREAD_MUTEX_INITIALIZER;

/* The checkpoint that was put aside for a new one, which never came, has its name back. Where one
 * has come, the old one loses its manifest first, so that no half of it comes back. */
static ls_status put_back(const char *temporary) {
    char aside[1200], manifest[1300], final[1200];
    long long step;
    const char *name = strrchr(temporary, '/');
    if (!name || sscanf(name, "/.tmp-%lld-", &step) != 1) {
        return LS_OK;
    }
    LS_TRY(ls_path_join(aside, sizeof aside, temporary, ASIDE));
    LS_TRY(ls_path_join(manifest, sizeof manifest, aside, LS_CKPT_MANIFEST));
    snprintf(final, sizeof final, "%.*s/step-%08lld", (int)(name - temporary), temporary, step);
    if (ls_path_exists(final)) {
        unlink(manifest);
    } else if (ls_path_exists(manifest)) {
        if (rename(aside, final) != 0) {
            return LS_FAIL(LS_E_IO, "'%s' cannot be put back to '%s': %s", aside, final,
                           strerror(errno));
        }
        (void)ls_file_sync_parent(final);
    }
    return LS_OK;
}

ls_status ls_ckpt_temporary_remove(const char *temporary) {
    if (!ls_path_exists(temporary)) { /* nor, perhaps, what it would lie in */
        return LS_OK;
    }
    LS_TRY(put_back(temporary));
    return ls_dir_remove(temporary);
}

static void remove_left(void) {
    pthread_mutex_lock(&left_lock);
    for (int i = left_count - 1; i >= 0; i--) {
        if (ls_ckpt_temporary_remove(left[i]) == LS_OK) {
            memmove(left[i], left[--left_count], sizeof *left);
        }
    }
    pthread_mutex_unlock(&left_lock);
}

static void leave(const char *temporary) {
    pthread_mutex_lock(&left_lock);
    if (left_count < LEFT_MOST) {
        snprintf(left[left_count++], sizeof *left, "%s", temporary);
    }
    pthread_mutex_unlock(&left_lock);
}

ls_status ls_ckpt_place_own(const ls_ckpt_place *place) {
    char path[1200];
    ls_owner self;
    LS_TRY(ls_owner_self(&self));
    LS_TRY(ls_path_join(path, sizeof path, place->temporary, LS_CKPT_OWNER));
    return ls_owner_write(&self, path);
}

ls_status ls_ckpt_place_create(const ls_ckpt_place *place, bool owner) {
    remove_left();
    LS_TRY(ls_dir_create(place->directory));
    return owner ? ls_ckpt_place_own(place) : LS_OK;
}

void ls_ckpt_place_remove(const ls_ckpt_place *place) {
    ls_error error = *ls_error_last();
    if (ls_ckpt_temporary_remove(place->temporary) != LS_OK) {
        ls_log_warn("%s; it is tried again with the next save", ls_error_last()->message);
        leave(place->temporary);
    }
    (void)ls_error_restore(&error);
}

ls_status ls_ckpt_manifest_create(const ls_ckpt_save_options *options, json_t **root) {
    *root = json_pack("{s:s,s:i,s:i,s:s,s:I,s:I,s:s,s:i,s:s,s:O,s:O,s:[],s:[]}", "format",
                      LS_CKPT_FORMAT_NAME, "major", LS_CKPT_FORMAT_MAJOR, "minor",
                      LS_CKPT_FORMAT_MINOR, "writer", "lockstep " LS_VERSION, "step",
                      (json_int_t)options->step, "tokens", (json_int_t)options->tokens, "codec",
                      options->level > 0 ? "zstd" : "none", "level", options->level, "config",
                      options->config_text, "run", (json_t *)options->run, "counters",
                      (json_t *)options->counters, "files", "tensors");
    return *root ? LS_OK
                 : LS_FAIL(LS_E_INPUT, "the configuration is not valid UTF-8, or there is no "
                                       "memory for the manifest");
}

static ls_status index_add(const ls_ckpt_place *place, json_t *root) {
    char path[4096];
    hid_t file;
    json_t *files = json_object_get(root, "files");
    LS_TRY(ls_path_join(path, sizeof path, place->directory, LS_CKPT_INDEX));
    LS_TRY(ls_ckpt_h5_index_write(
        path, json_string_value(json_object_get(json_array_get(files, 0), "name")),
        json_object_get(root, "tensors")));
    LS_TRY(ls_ckpt_h5_open(path, &file)); /* finds what a full disk lost */
    LS_TRY(ls_ckpt_h5_close(file, path));
    return ls_ckpt_file_row(path, LS_CKPT_INDEX, files);
}

/* Checks what the writers wrote as a reader would: a gap, an overlap or a file that this host does
 * not see is found before the commit. */
static ls_status pieces_check(const ls_ckpt_place *place, const json_t *root,
                              ls_ckpt_totals *totals) {
    char *text;
    size_t bytes;
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_manifest_text(root, LS_CKPT_MANIFEST_MAX, &text, &bytes));
    ls_status status = ls_ckpt_manifest_parse(text, bytes, "the tensors to save", &ckpt);
    free(text);
    if (status != LS_OK) {
        return ls_error_set(LS_E_SHAPE, __FILE__, __LINE__, "%s", ls_error_last()->message);
    }
    ls_ckpt_info info = ls_ckpt_describe(ckpt);
    *totals = (ls_ckpt_totals){info.raw_bytes, info.stored_bytes};
    ckpt->path = strdup(place->directory);
    status = ckpt->path ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for a path");
    for (int i = 0; i < ckpt->file_count && status == LS_OK; i++) {
        if (ls_ckpt_file_size_check(ckpt, i) != LS_OK) {
            status = LS_FAIL(LS_E_IO,
                             "'%s' of another writer is not seen here; checkpoints need a "
                             "directory that all hosts share",
                             ckpt->files[i].name);
        }
    }
    ls_ckpt_close(ckpt);
    return status;
}

/* Exchanges the checkpoint of the same step for the new one; where the file system cannot, the old
 * one is put aside first, and removing the temporary puts it back where no new one has come. */
static ls_status replace_final(const ls_ckpt_place *place) {
    char aside[1200];
    ls_log_info("'%s' exists and is replaced", place->final);
    if (renameat2(AT_FDCWD, place->directory, AT_FDCWD, place->final, RENAME_EXCHANGE) == 0) {
        return LS_OK;
    }
    LS_TRY(ls_path_join(aside, sizeof aside, place->temporary, ASIDE));
    return rename(place->final, aside) == 0 && rename(place->directory, place->final) == 0
               ? LS_OK
               : LS_FAIL(LS_E_IO, "cannot replace '%s': %s", place->final, strerror(errno));
}

static ls_status make_final(const ls_ckpt_place *place, bool replace) {
    if (renameat2(AT_FDCWD, place->directory, AT_FDCWD, place->final, RENAME_NOREPLACE) == 0) {
        return LS_OK;
    }
    int reason = errno;
    bool taken = ls_path_exists(place->final);
    if (!taken) { /* perhaps no such flag on this file system */
        if (rename(place->directory, place->final) == 0) {
            return LS_OK;
        }
        reason = errno;
    }
    if (taken && replace && ls_path_is_dir(place->final)) {
        return replace_final(place);
    }
    return taken && !replace ? LS_FAIL(LS_E_EXISTS, "'%s' exists", place->final)
                             : LS_FAIL(LS_E_IO, "cannot rename '%s' to '%s': %s", place->directory,
                                       place->final, strerror(reason));
}

/* The manifest is the last file, after its copies. */
static ls_status manifest_put(const ls_ckpt_place *place, const json_t *root) {
    char path[4096], name[64], *text;
    size_t bytes;
    const json_t *group = json_array_get(json_object_get(root, "parity"), 0);
    int copies = (int)json_array_size(json_object_get(group, "parity"));
    LS_TRY(ls_ckpt_manifest_text(root, LS_CKPT_MANIFEST_MAX, &text, &bytes));
    ls_status status = LS_OK;
    for (int i = copies; i >= 0 && status == LS_OK; i--) {
        ls_ckpt_manifest_copy(name, sizeof name, i);
        status = ls_path_join(path, sizeof path, place->directory, i ? name : LS_CKPT_MANIFEST);
        if (status == LS_OK) { /* syncs the file and the directory */
            status = ls_file_replace(path, text, bytes);
        }
    }
    free(text);
    return status;
}

/* The root may be as new as what is in it; where its parent cannot be read, it was not made here.
 */
static ls_status root_sync(const char *root) {
    char parent[1100];
    LS_TRY(ls_file_sync(root));
    LS_TRY(ls_path_join(parent, sizeof parent, root, ".."));
    return access(parent, R_OK) == 0 ? ls_file_sync(parent) : LS_OK;
}

ls_status ls_ckpt_commit(const ls_ckpt_place *place, json_t *root, bool replace,
                         ls_ckpt_totals *totals) {
    LS_TRY(ls_ckpt_h5_init());
    LS_TRY(pieces_check(place, root, totals));
    LS_TRY(index_add(place, root));
    LS_TRY(manifest_put(place, root));
    LS_TRY(make_final(place, replace));
    LS_TRY(root_sync(place->root));
    ls_ckpt_place_remove(place);
    return LS_OK;
}
