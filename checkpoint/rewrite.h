/* A whole checkpoint written by one process, with as many writers' files as wanted: for changing
 * the layout of one, and for making one of other formats. */
#ifndef LS_CHECKPOINT_REWRITE_H
#define LS_CHECKPOINT_REWRITE_H

#include "checkpoint/ckpt.h"

/* Fills tensors[i].data with the boxes wanted, count of them. */
typedef ls_status (*ls_ckpt_fill_fn)(void *context, ls_ckpt_tensor *tensors, int count);

/* Writes options->root/step-N with `writers` files, spread by ls_ckpt_assign, in the same commit
 * order as a save. tensors: whole boxes, without data; fill is called once a writer. The values of
 * one writer wait in a mapped, unlinked file in the root, so that memory is bounded and the root
 * needs room for them besides the checkpoint. LS_E_EXISTS when the checkpoint is there. Not
 * collective. */
ls_status ls_ckpt_rewrite(const ls_ckpt_save_options *options, const ls_ckpt_tensor *tensors,
                          int count, int writers, ls_ckpt_fill_fn fill, void *context,
                          ls_ckpt_save_result *result);

/* The checkpoint again under options->root, by `writers` writers and with options->level and
 * ->threads (other options are taken from it); the result is verified in full. */
ls_status ls_ckpt_reshard(ls_ckpt *ckpt, const ls_ckpt_save_options *options, int writers,
                          ls_ckpt_save_result *result);

#endif
