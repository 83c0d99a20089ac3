/* What `lockstep plan` works on, shared by its files. */
#ifndef LS_LAUNCH_PLAN_H
#define LS_LAUNCH_PLAN_H

#include "runtime/device/device.h"
#include "runtime/plan/bill.h"
#include "runtime/plan/search.h"

#include <jansson.h>

/* A question: options with defaults filled in. */
typedef struct ls_plan_question {
    ls_plan_model model;
    ls_precision precision;
    bool narrow_gradients; /* numerics.reduction=bf16 */
    int64_t seq, batch;    /* tokens of a sequence, sequences of a step (0: chosen by size) */
    int keep;
    bool has_layout;
    ls_plan_layout layout; /* a pattern */
    double memory_share;   /* of a device's, that a plan may use */
    double network_gbit_s; /* NAN: the profile's */
    ls_bill_options bill;
} ls_plan_question;

/* One answer: a cluster, a number of devices, its layouts and the bill of the best. */
typedef struct ls_plan_answer {
    ls_cluster cluster;
    ls_plan_rates rates;
    int devices;
    int64_t batch;
    ls_plan_result result;
    bool own_bytes; /* bytes are those that `lockstep train` takes, else an estimate */
    bool fits;      /* false: the layout asked for does not, and is costed all the same */
    ls_bill bill;
    ls_plan_params params;
} ls_plan_answer;

/* Loads the cluster and applies the question's overrides. */
ls_status ls_plan_open(const ls_plan_question *q, const char *cluster, ls_plan_answer *a);
/* Costs all layouts (or those that the pattern admits) on that many devices. LS_E_NO: none is
 * possible or fits. */
ls_status ls_plan_answer_for(const ls_plan_question *q, int devices, ls_plan_answer *a);

/* Whether `lockstep train` knows the model, and the bytes of the fullest rank that it would take in
 * a layout. LS_E_CONFIG, LS_E_SHAPE: it would refuse it. */
bool ls_plan_trains(const ls_plan_model *model);
ls_status ls_plan_own_bytes(const ls_plan_question *q, const ls_plan_answer *a,
                            const ls_plan_layout *l, ls_plan_bytes *bytes);

/* For ls_plan_job.tell, of a model that `lockstep train` knows. */
typedef struct ls_plan_own {
    const ls_plan_question *question;
    const ls_plan_answer *answer;
    ls_device *dev;
} ls_plan_own;
ls_status ls_plan_own_operations(void *own, const ls_plan_layout *l, int stage,
                                 const ls_comm_list *list);

/* The layout as settings of `lockstep train`, without length and data of the run; caller frees
 * each. Returns how many; NULL ones: out of memory. */
enum { LS_PLAN_SETTINGS = 20 };
int ls_plan_settings(const ls_plan_question *q, const ls_plan_answer *a, const ls_plan_layout *l,
                     char *set[LS_PLAN_SETTINGS]);

/* Prints a script that submits the best layout with the sbatch file of launch/slurm that fits the
 * nodes of the cluster, a name or a file. LS_E_UNSUPPORTED for what `lockstep train` cannot do,
 * LS_E_USAGE when the devices are no whole nodes. */
ls_status ls_plan_emit_sbatch(const ls_plan_question *q, const ls_plan_answer *a,
                              const char *cluster);

void ls_plan_print(const ls_plan_question *q, const ls_plan_answer *a);
/* Owned by the caller; NULL: out of memory. */
json_t *ls_plan_json(const ls_plan_question *q, const ls_plan_answer *a);

/* A line of a table of answers, its heading when a is NULL; failed: why there is no answer. */
void ls_plan_print_row(const ls_plan_answer *a, const char *name, const char *failed);

/* Tokens a second over devices, logarithmic, with the straight line of the first point. names
 * [count]: a label of each curve's points, curves in order. LS_E_IO. */
typedef struct ls_plan_point {
    int devices;
    double tokens_per_s;
} ls_plan_point;
ls_status ls_plan_draw(const char *path, const char *title, const ls_plan_point *points, int count);

#endif
