/* Checkpoints with parity whose files are lost or damaged: reading them all the same, and making
 * them whole again. What a repair can do is in parity.h. */
#ifndef LS_CHECKPOINT_REPAIR_H
#define LS_CHECKPOINT_REPAIR_H

#include "checkpoint/format.h"

/* ---- for the readers of this room ---- */

/* "manifest-copy-1.json" into buf; returns buf. */
char *ls_ckpt_manifest_copy(char *buf, size_t size, int number);
/* The groups of the manifest's member "parity"; its files were parsed. */
ls_status ls_ckpt_groups_parse(ls_ckpt *ckpt, const json_t *file_index);
void ls_ckpt_groups_free(ls_ckpt *ckpt);
/* Makes file `index` again from the others of its group, in a file without a name that
 * ls_ckpt_file_path gives from then on, and warns about it. LS_E_CORRUPT when too much is lost. */
ls_status ls_ckpt_file_rebuild(ls_ckpt *ckpt, int index);
/* Where to read a file. LS_E_INPUT when the path is too long. */
ls_status ls_ckpt_file_path(const ls_ckpt *ckpt, int index, char *path, size_t size);

/* ---- for people ---- */

/* Checks every file of a checkpoint directory by its hash, and the copies of its manifest, and
 * makes again what is lost or damaged; each thing done is reported. *repaired counts them. A file
 * appears complete or not at all. LS_E_CORRUPT when too much is lost. */
ls_status ls_ckpt_repair(const char *path, void (*report)(void *context, const char *done),
                         void *context, int *repaired);

#endif
