/* How a checkpoint comes into being, whoever writes it: a save of many ranks or one process that
 * writes a whole checkpoint.
 *
 *   root/.tmp-00001200-UUID/        made first, removed last
 *     owner.json                    whose it is: what lets others remove it when that one has died
 *     step-00001200/                files are written, synced and hashed here, the manifest last;
 *                                   one rename to root/step-00001200, then root is synced,
 *                                   and its parent
 *     replaced/                     an older checkpoint of that step while it gives way, where the
 *                                   file system cannot exchange two names */
#ifndef LS_CHECKPOINT_COMMIT_H
#define LS_CHECKPOINT_COMMIT_H

#include "checkpoint/format.h"

#define LS_CKPT_OWNER "owner.json"

typedef struct ls_ckpt_place {
    char root[1024], final[1024];
    char temporary[1100], directory[1200];
} ls_ckpt_place;

/* Names only. random: 128 bits that all writers know. LS_E_INPUT when the root is too long. */
ls_status ls_ckpt_place_name(ls_ckpt_place *place, const char *root, int64_t step,
                             const uint64_t random[2]);
ls_status ls_ckpt_random(uint64_t random[2]);
/* Makes place->directory with what is above it. owner: also says whose it is, and fails when that
 * is said already. Any number of writers may call it, at any time. Before, what an earlier
 * ls_ckpt_place_remove of this process could not remove is tried again. */
ls_status ls_ckpt_place_create(const ls_ckpt_place *place, bool owner);
/* Says whose the temporary, which is there, is. */
ls_status ls_ckpt_place_own(const ls_ckpt_place *place);
/* Removes the temporary with what is in it; failures are warned about. The error record stays. */
void ls_ckpt_place_remove(const ls_ckpt_place *place);
/* The same for any temporary, by its path; whose it is, the caller has looked. A checkpoint that
 * was put aside there, and that no new one has replaced, is put back before. LS_OK when there is
 * none. */
ls_status ls_ckpt_temporary_remove(const char *temporary);

/* A manifest without files and tensors. Caller drops the reference. */
ls_status ls_ckpt_manifest_create(const ls_ckpt_save_options *options, json_t **root);

typedef struct ls_ckpt_totals {
    int64_t raw_bytes, stored_bytes;
} ls_ckpt_totals;

/* Checks that the pieces cover every tensor and that the files are there, adds index and manifest,
 * and renames. replace: a checkpoint of the same step gives way, so that there is one at every
 * instant where the file system can exchange names; else LS_E_EXISTS. */
ls_status ls_ckpt_commit(const ls_ckpt_place *place, json_t *root, bool replace,
                         ls_ckpt_totals *totals);

#endif
