/* What the planner says of a run, beside what its first steps take. */
#ifndef LS_LAUNCH_TRAIN_PREDICT_H
#define LS_LAUNCH_TRAIN_PREDICT_H

#include "launch/train.h"

/* With cost.cluster: predicts the run's step by that profile. A profile that cannot be read is
 * LS_E_CONFIG; a model or layout that the planner does not know is said, and nothing follows. Rank
 * 0 works, all get its status. [collective] */
ls_status ls_train_predict(ls_train *train);

/* Takes a step's phases on rank 0; after the first few, once, tells predicted and measured, and the
 * phase that is most to blame where they differ by over 20 %. */
void ls_train_predict_compare(const ls_step_record *record);
/* What it found, by phase, for the ledger: null before. Caller owns. */
json_t *ls_train_predict_json(void);

/* Of a step, in seconds. */
typedef struct ls_train_prediction {
    double step_s;
    double exposed_s; /* of it in communication that computation does not hide */
} ls_train_prediction;

/* A step of the configuration on cost.cluster in a mesh of these sizes. */
ls_status ls_train_predict_layout(const ls_config *config, ls_device *dev,
                                  const int size[LS_AXIS_COUNT], ls_train_prediction *found);

#endif
