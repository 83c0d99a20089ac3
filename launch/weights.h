/* A trained model read from a checkpoint, for the verbs that only use one. */
#ifndef LS_LAUNCH_WEIGHTS_H
#define LS_LAUNCH_WEIGHTS_H

#include "checkpoint/ckpt.h"
#include "launch/session.h"
#include "runtime/data/data.h"
#include "runtime/model/model.h"

typedef struct ls_weights {
    ls_config config; /* of the run that wrote the checkpoint */
    ls_ckpt *ckpt;
    ls_model *model;
} ls_weights;

/* path: a checkpoint, or a run directory or its checkpoints/ (then the newest valid one). Rank 0
 * looks for it and reads its manifest for all. [collective] */
ls_status ls_weights_find(ls_session *session, const char *path, ls_ckpt **ckpt);
/* The same, with the configuration of the run that wrote it. [collective] */
ls_status ls_weights_open(ls_session *session, const char *path, ls_weights *weights);
/* Creates the model of options (config and dev are filled in here; perhaps a part of it) and reads
 * its parameters. Collective as ls_model_create is. */
ls_status ls_weights_load(ls_weights *weights, ls_device *dev, ls_model_options options);
/* A token that the checkpoint tells of its run, such as "separator"; -1: none that the model has.
 * The one that texts begin with. */
int32_t ls_weights_token(const ls_weights *weights, const char *key);
int32_t ls_weights_begin(const ls_weights *weights);
void ls_weights_close(ls_weights *weights);

/* Warns, where it is called, if data has hardly been made with the tokenizer of the weights: both
 * name one and these differ, or half of the vocabulary or more cannot occur. */
void ls_weights_doubt_data(const ls_ckpt *ckpt, int64_t vocab, const char *dir,
                           const ls_dataset_info *data);

#endif
