#include "launch/train_predict.h"

#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/plan/cost.h"

#include <math.h>

/* The first step pays for page faults and primitives. */
enum { SKIP = 1, STEPS = 5 };
#define FAR 0.2

static struct {
    bool known;
    double predicted_s[LS_PHASE_COUNT], measured_s[LS_PHASE_COUNT];
    int seen;
} prediction;

static const ls_phase phases[LS_TERM_COUNT] = {
    [LS_TERM_PRODUCTS] = LS_PHASE_COMPUTE,  [LS_TERM_ATTENTION] = LS_PHASE_COMPUTE,
    [LS_TERM_MEMORY] = LS_PHASE_COMPUTE,    [LS_TERM_HEAD] = LS_PHASE_COMPUTE,
    [LS_TERM_RECOMPUTE] = LS_PHASE_COMPUTE, [LS_TERM_TENSOR] = LS_PHASE_COMM,
    [LS_TERM_CONTEXT] = LS_PHASE_COMM,      [LS_TERM_EXPERT] = LS_PHASE_COMM,
    [LS_TERM_SHARD] = LS_PHASE_COMM,        [LS_TERM_PIPELINE] = LS_PHASE_COMM,
    [LS_TERM_BUBBLE] = LS_PHASE_COMM,       [LS_TERM_DATA] = LS_PHASE_COMM,
    [LS_TERM_OPTIMIZER] = LS_PHASE_OPTIM,   [LS_TERM_OTHER] = LS_PHASE_COMM,
};

static ls_status predict(const ls_train *train) {
    static ls_cluster cluster;
    const ls_config *config = &train->config;
    const int *size = train->session.mesh.size;
    const ls_config_parallel *p = &config->parallel;
    ls_plan_model model;
    ls_plan_rates rates;
    LS_TRY(ls_cluster_load(config->cost.cluster, &cluster));
    LS_TRY(ls_plan_model_of(&config->model, &model));
    const ls_precision precision =
        train->layout.dtype == LS_BF16 ? LS_PRECISION_BF16 : LS_PRECISION_FP32;
    LS_TRY(ls_plan_rates_of(&cluster, precision, &rates));
    const ls_software software = {.gradient_bytes = 4,
                                  .repeated_norms = p->tensor > 1 && !p->sequence_parallel};
    const ls_plan_job job = {.model = &model,
                             .rates = &rates,
                             .software = &software,
                             .precision = precision,
                             .seq = config->data.sequence,
                             .global_batch = train->layout.batch};
    const ls_plan_layout layout = {
        .tensor = size[LS_AXIS_TENSOR],
        .context = size[LS_AXIS_CONTEXT],
        .shard = size[LS_AXIS_SHARD],
        .replicate = size[LS_AXIS_REPLICATE],
        .pipeline = size[LS_AXIS_PIPELINE],
        .interleave = (int)p->interleave,
        .expert = 1,
        .micro = (int)config->batch.micro,
        .zero = (int)p->zero,
        .recompute = config->recompute.mode == LS_RECOMPUTE_FULL        ? LS_REDO_FULL
                     : config->recompute.mode == LS_RECOMPUTE_SELECTIVE ? LS_REDO_SELECTIVE
                                                                        : LS_REDO_NONE};
    ls_plan_cost cost;
    ls_plan_cost_of(&job, &layout, &cost);
    for (int t = 0; t < LS_TERM_COUNT; t++) {
        prediction.predicted_s[phases[t]] += cost.seconds[t];
    }
    prediction.known = true;
    return LS_OK;
}

ls_status ls_train_predict(ls_train *train) {
    if (!train->config.cost.cluster[0]) {
        return LS_OK;
    }
    return ls_session_agree(&train->session,
                            train->session.comm->rank == 0 ? predict(train) : LS_OK);
}

static void tell(void) {
    static const ls_phase shown[] = {LS_PHASE_COMPUTE, LS_PHASE_COMM, LS_PHASE_OPTIM};
    double predicted = 0, measured = 0, worst = -1;
    int blame = 0;
    char p[3][32], m[3][32], all_p[32], all_m[32];
    for (int i = 0; i < 3; i++) {
        const double by_plan = prediction.predicted_s[shown[i]];
        const double by_clock = prediction.measured_s[shown[i]] / STEPS;
        predicted += by_plan;
        measured += by_clock;
        ls_text_duration(p[i], sizeof p[i], by_plan);
        ls_text_duration(m[i], sizeof m[i], by_clock);
        if (fabs(by_plan - by_clock) > worst) {
            worst = fabs(by_plan - by_clock);
            blame = i;
        }
    }
    const double error = predicted / measured - 1;
    ls_log_info("a step was predicted to take %s and takes %s (%+.0f%%): compute %s and %s, "
                "communication %s and %s, optimizer %s and %s",
                ls_text_duration(all_p, sizeof all_p, predicted),
                ls_text_duration(all_m, sizeof all_m, measured), 100 * error, p[0], m[0], p[1],
                m[1], p[2], m[2]);
    if (fabs(error) > FAR) {
        ls_log_warn("the prediction is off most in %s; `lockstep bench machine --profile FILE` "
                    "measures this machine again",
                    ls_phase_name(shown[blame]));
    }
}

void ls_train_predict_compare(const ls_step_record *record) {
    if (!prediction.known || prediction.seen >= SKIP + STEPS) {
        return;
    }
    for (int i = 0; i < LS_PHASE_COUNT && prediction.seen >= SKIP; i++) {
        prediction.measured_s[i] += record->phase_seconds[i];
    }
    if (++prediction.seen == SKIP + STEPS) {
        tell();
    }
}
