/* The boxes of the checkpoint's tensors that a rank holds. */
#ifndef LS_LAUNCH_TRAIN_PIECES_H
#define LS_LAUNCH_TRAIN_PIECES_H

#include "checkpoint/ckpt.h"
#include "launch/train.h"

/* A row of the checkpoint's table, and memory of the host of its own where the box is not one run
 * of the rank's memory, or where a device other than the host has that and it is to be loaded. */
typedef struct ls_pieces {
    ls_device *dev;
    ls_ckpt_tensor *tensors;
    struct ls_piece_place *places;
    int count, room;
    char (*names)[96];
    int name_count;
} ls_pieces;

/* Masters and optimizer states of everything that this rank keeps. to_save: each element of the
 * model once over all ranks, and memory filled in; else all, to be loaded. Not collective. */
ls_status ls_pieces_list(const ls_train *train, bool to_save, ls_pieces *pieces);
/* From the rank's memory to the index-th's own, where it has one. */
ls_status ls_pieces_fetch(const ls_pieces *pieces, int index);
/* Masters and, unless they are left out, optimizer states from a checkpoint. Ranks that hold the
 * same read a part each and give it to the others, so that a file system is asked for each byte
 * once, however many copies of the model there are. [collective] */
ls_status ls_pieces_load(ls_train *train, ls_ckpt *ckpt, bool masters_only);
/* All of a list to save to those of `to`, in the host's memory. beside: what lies in the device's
 * is only begun to be copied (ls_device_async_ops, fetch). */
ls_status ls_pieces_copy(const ls_pieces *pieces, const ls_ckpt_tensor *to, bool beside);
void ls_pieces_release(ls_pieces *pieces);

#endif
