#include "checkpoint/repair.h"
#include "checkpoint/parity.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define GROUPS_MAX (1 << 16)

char *ls_ckpt_manifest_copy(char *buf, size_t size, int number) {
    snprintf(buf, size, "manifest-copy-%d.json", number);
    return buf;
}

/* ---- the manifest's groups ---- */

static ls_status member_add(ls_ckpt *ckpt, const json_t *file_index, int g, const json_t *name) {
    ls_parity *group = &ckpt->groups[g];
    const json_t *index =
        json_is_string(name) ? json_object_get(file_index, json_string_value(name)) : NULL;
    if (!index) {
        return LS_FAIL(LS_E_CORRUPT, "parity group %d has a file that is not listed", g);
    }
    ls_ckpt_file *file = &ckpt->files[json_integer_value(index)];
    if (file->group >= 0) {
        return LS_FAIL(LS_E_CORRUPT, "the file '%s' is in two parity groups", file->name);
    }
    file->group = g;
    file->place = group->data + group->parity;
    group->names[file->place] = file->name;
    group->bytes[file->place] = file->bytes;
    return LS_OK;
}

static ls_status group_parse(ls_ckpt *ckpt, const json_t *file_index, int g, const json_t *item) {
    const json_t *data = json_object_get(item, "data"), *parity = json_object_get(item, "parity");
    size_t n = json_array_size(data), k = json_array_size(parity), i;
    json_t *name;
    if (n < 1 || n > LS_PARITY_GROUP || k < 1 || k > LS_PARITY_MAX) {
        return LS_FAIL(LS_E_CORRUPT,
                       "parity group %d has %zu files and %zu parity files; 1 to %d and 1 to %d "
                       "are possible",
                       g, n, k, LS_PARITY_GROUP, LS_PARITY_MAX);
    }
    int64_t longest = 0;
    json_array_foreach(data, i, name) {
        LS_TRY(member_add(ckpt, file_index, g, name));
        longest = ckpt->groups[g].bytes[i] > longest ? ckpt->groups[g].bytes[i] : longest;
        ckpt->groups[g].data++;
    }
    json_array_foreach(parity, i, name) {
        LS_TRY(member_add(ckpt, file_index, g, name));
        if (ckpt->groups[g].bytes[n + i] != longest) {
            return LS_FAIL(LS_E_CORRUPT, "the parity file '%s' has %lld bytes, expected %lld",
                           ckpt->groups[g].names[n + i], (long long)ckpt->groups[g].bytes[n + i],
                           (long long)longest);
        }
        ckpt->groups[g].parity++;
    }
    return LS_OK;
}

ls_status ls_ckpt_groups_parse(ls_ckpt *ckpt, const json_t *file_index) {
    const json_t *list = json_object_get(ckpt->root, "parity");
    size_t count = json_array_size(list);
    for (int i = 0; i < ckpt->file_count; i++) {
        ckpt->files[i].group = -1;
    }
    if (!list) {
        return LS_OK;
    }
    if (!json_is_array(list) || count > GROUPS_MAX) {
        return LS_FAIL(LS_E_CORRUPT, "member 'parity' must be an array of at most %d elements",
                       GROUPS_MAX);
    }
    LS_TRY(ls_calloc(count + 1, sizeof *ckpt->groups, &ckpt->groups));
    for (size_t g = 0; g < count; g++) {
        ckpt->group_count++;
        LS_TRY(group_parse(ckpt, file_index, (int)g, json_array_get(list, g)));
    }
    return LS_OK;
}

void ls_ckpt_groups_free(ls_ckpt *ckpt) {
    for (int i = 0; i < ckpt->file_count && ckpt->files; i++) {
        if (ckpt->files[i].rebuilt) {
            close(ckpt->files[i].rebuilt - 1);
        }
    }
    free(ckpt->groups);
    ckpt->groups = NULL;
}

bool ls_ckpt_is_loadable(const ls_ckpt *ckpt) {
    for (int i = 0; i < ckpt->file_count; i++) {
        const ls_ckpt_file *file = &ckpt->files[i];
        int lost = 0;
        if (file->lost && file->group < 0 &&
            (ckpt->group_count == 0 || strcmp(file->name, LS_CKPT_INDEX) != 0)) {
            return false;
        }
        for (int k = i; k < ckpt->file_count && file->lost && file->group >= 0; k++) {
            lost += ckpt->files[k].lost && ckpt->files[k].group == file->group;
        }
        if (lost > 0 && lost > ckpt->groups[file->group].parity) {
            return false;
        }
    }
    return true;
}

/* ---- files made again ---- */

/* Which files of a group are lost or not what they were, by their hashes. */
static void group_examine(ls_ckpt *ckpt, int g, bool *lost) {
    for (int i = 0; i < ckpt->file_count; i++) {
        ls_ckpt_file *file = &ckpt->files[i];
        if (file->group == g) {
            if (!file->lost && !file->verified) {
                file->verified = ls_ckpt_file_verify(ckpt, i) == LS_OK;
                file->lost = !file->verified;
            }
            lost[file->place] = file->lost;
        }
    }
}

/* Writes file `index` to fd and checks it. */
static ls_status rebuild_to(ls_ckpt *ckpt, int index, int fd) {
    ls_ckpt_file *file = &ckpt->files[index];
    bool lost[LS_PARITY_GROUP + LS_PARITY_MAX] = {false};
    int fds[LS_PARITY_GROUP + LS_PARITY_MAX];
    group_examine(ckpt, file->group, lost);
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        fds[i] = -1;
    }
    fds[file->place] = fd;
    ls_status status = ls_parity_rebuild(ckpt->path, &ckpt->groups[file->group], lost, fds);
    if (status == LS_OK) {
        file->rebuilt = fd + 1;
        status = ls_ckpt_file_verify(ckpt, index);
    }
    if (status != LS_OK) {
        file->rebuilt = 0;
        return ls_error_prefix(status, "'%s/%s' cannot be made again", ckpt->path, file->name);
    }
    return LS_OK;
}

/* Disk beside the checkpoint, or memory where that cannot be written. */
static int nameless_file(const ls_ckpt *ckpt) {
    char path[4096];
    if (ls_path_join(path, sizeof path, ckpt->path, ".rebuilt-XXXXXX") == LS_OK) {
        int fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0) {
            unlink(path);
            return fd;
        }
    }
    return memfd_create("lockstep-rebuilt", MFD_CLOEXEC);
}

ls_status ls_ckpt_file_rebuild(ls_ckpt *ckpt, int index) {
    ls_ckpt_file *file = &ckpt->files[index];
    if (file->rebuilt) {
        return LS_OK;
    }
    file->lost = true;
    int fd = nameless_file(ckpt);
    if (fd < 0) {
        return LS_FAIL(LS_E_IO, "no file to make '%s' again in: %s", file->name, strerror(errno));
    }
    ls_status status = rebuild_to(ckpt, index, fd);
    if (status != LS_OK) {
        close(fd);
        return status;
    }
    ls_log_warn("'%s/%s' is lost or damaged; its content was made again from parity files. "
                "'lockstep ckpt doctor --repair' restores it on disk",
                ckpt->path, file->name);
    return LS_OK;
}

ls_status ls_ckpt_file_path(const ls_ckpt *ckpt, int index, char *path, size_t size) {
    const ls_ckpt_file *file = &ckpt->files[index];
    if (file->rebuilt) {
        snprintf(path, size, "/proc/self/fd/%d", file->rebuilt - 1);
        return LS_OK;
    }
    return ls_path_join(path, size, ckpt->path, file->name);
}

/* ---- repairs on disk ---- */

typedef struct repair {
    ls_ckpt *ckpt;
    void (*report)(void *context, const char *done);
    void *context;
    int done;
} repair;

static void tell(repair *r, const char *name) {
    r->done++;
    if (r->report) {
        r->report(r->context, name);
    }
}

/* In place of the damaged file, once it is right and on disk. */
static ls_status put(const repair *r, const char *name, const char *fresh) {
    char path[4096];
    LS_TRY(ls_path_join(path, sizeof path, r->ckpt->path, name));
    LS_TRY(ls_file_sync(fresh));
    if (rename(fresh, path) != 0) {
        return LS_FAIL(LS_E_IO, "cannot rename '%s' to '%s': %s", fresh, path, strerror(errno));
    }
    return ls_file_sync(r->ckpt->path);
}

static ls_status index_make(const repair *r, int index, const char *fresh) {
    const json_t *first = json_array_get(json_object_get(r->ckpt->root, "files"), 0);
    ls_sha256 hash;
    LS_TRY(ls_ckpt_h5_init());
    LS_TRY(ls_ckpt_h5_index_write(fresh, json_string_value(json_object_get(first, "name")),
                                  json_object_get(r->ckpt->root, "tensors")));
    LS_TRY(ls_sha256_file(fresh, &hash, NULL));
    return memcmp(&hash, &r->ckpt->files[index].sha256, sizeof hash) == 0
               ? LS_OK
               : LS_FAIL(LS_E_CORRUPT, "'%s' made again has another SHA-256", LS_CKPT_INDEX);
}

static ls_status member_make(const repair *r, int index, const char *fresh) {
    int fd = open(fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        return LS_FAIL(LS_E_IO, "cannot create '%s': %s", fresh, strerror(errno));
    }
    ls_status status = rebuild_to(r->ckpt, index, fd);
    r->ckpt->files[index].rebuilt = 0;
    close(fd);
    return status;
}

static ls_status file_repair(repair *r, int index) {
    ls_ckpt_file *file = &r->ckpt->files[index];
    char fresh[4096], name[320];
    file->verified =
        file->verified || (!file->lost && ls_ckpt_file_verify(r->ckpt, index) == LS_OK);
    if (file->verified) {
        return LS_OK;
    }
    file->lost = true;
    if (file->group < 0 && strcmp(file->name, LS_CKPT_INDEX) != 0) {
        return LS_FAIL(LS_E_CORRUPT, "'%s/%s' is lost or damaged, and there is no parity for it",
                       r->ckpt->path, file->name);
    }
    snprintf(name, sizeof name, ".repair-%s", file->name);
    LS_TRY(ls_path_join(fresh, sizeof fresh, r->ckpt->path, name));
    unlink(fresh); /* of a repair that was interrupted */
    ls_status status = file->group < 0 ? index_make(r, index, fresh) : member_make(r, index, fresh);
    if (status == LS_OK) {
        status = put(r, file->name, fresh);
    }
    if (status != LS_OK) {
        unlink(fresh);
        return status;
    }
    file->lost = false;
    file->verified = true;
    tell(r, file->name);
    return LS_OK;
}

static ls_status text_repair(repair *r, const char *name, const char *text, size_t bytes) {
    char path[4096], *found = NULL;
    size_t found_bytes = 0;
    LS_TRY(ls_path_join(path, sizeof path, r->ckpt->path, name));
    bool same = ls_file_read(path, bytes, &found, &found_bytes) == LS_OK && found_bytes == bytes &&
                memcmp(found, text, bytes) == 0;
    free(found);
    if (same) {
        return LS_OK;
    }
    LS_TRY(ls_file_replace(path, text, bytes));
    tell(r, name);
    return LS_OK;
}

/* The manifest that was opened, in its place and in all copies. */
static ls_status manifests_repair(repair *r) {
    char *text, name[64];
    size_t bytes;
    json_object_del(r->ckpt->root, "sha256");
    LS_TRY(ls_ckpt_manifest_text(r->ckpt->root, LS_CKPT_MANIFEST_MAX, &text, &bytes));
    ls_status status = text_repair(r, LS_CKPT_MANIFEST, text, bytes);
    int copies = r->ckpt->group_count > 0 ? r->ckpt->groups[0].parity : 0;
    for (int i = 1; i <= copies && status == LS_OK; i++) {
        status = text_repair(r, ls_ckpt_manifest_copy(name, sizeof name, i), text, bytes);
    }
    free(text);
    return status;
}

ls_status ls_ckpt_repair(const char *path, void (*report)(void *context, const char *done),
                         void *context, int *repaired) {
    repair r = {.report = report, .context = context};
    *repaired = 0;
    LS_TRY(ls_ckpt_open(path, &r.ckpt));
    ls_status status = manifests_repair(&r);
    for (int i = 0; i < r.ckpt->file_count && status == LS_OK; i++) {
        status = file_repair(&r, i);
    }
    *repaired = r.done;
    ls_ckpt_close(r.ckpt);
    return status;
}
