#include "launch/train_predict.h"

#include "launch/plan_tell.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/plan/cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The first step pays for page faults and primitives. */
enum { SKIP = 1, STEPS = 5 };
#define FAR 0.2

typedef struct told {
    double count, wire_bytes, seconds;
} told;

static struct {
    bool known;
    double exposed_s; /* of communication, without waiting for slower ranks */
    double predicted_s[LS_PHASE_COUNT], measured_s[LS_PHASE_COUNT];
    int seen;
    ls_plan_rates rates;
    told operations[LS_COMM_AXIS_COUNT][LS_USE_COUNT][LS_COLL_COUNT]; /* of this rank */
} prediction;

static const char *const uses[LS_USE_COUNT] = {
    [LS_USE_ACTIVATIONS] = "activations",     [LS_USE_BESIDE] = "activations, beside other work",
    [LS_USE_KEPT] = "kept activations",       [LS_USE_STATE] = "gradients",
    [LS_USE_LAST] = "last gradients",         [LS_USE_PARAMETERS] = "parameters",
    [LS_USE_BLOCKS] = "parameters of a block"};

static void note_operation(void *context, const ls_comm_operation *o) {
    (void)context;
    told *t = &prediction.operations[o->axis][o->use][o->coll];
    t->count += o->count;
    t->wire_bytes += o->count * ls_wire_bytes(o->coll, o->ranks, o->bytes);
    t->seconds += ls_plan_operation_s(&prediction.rates, o);
}

static const ls_phase phases[LS_TERM_COUNT] = {
    [LS_TERM_PRODUCTS] = LS_PHASE_COMPUTE,  [LS_TERM_ATTENTION] = LS_PHASE_COMPUTE,
    [LS_TERM_MEMORY] = LS_PHASE_COMPUTE,    [LS_TERM_HEAD] = LS_PHASE_COMPUTE,
    [LS_TERM_RECOMPUTE] = LS_PHASE_COMPUTE, [LS_TERM_LAUNCH] = LS_PHASE_COMPUTE,
    [LS_TERM_TENSOR] = LS_PHASE_TENSOR,     [LS_TERM_CONTEXT] = LS_PHASE_CONTEXT,
    [LS_TERM_EXPERT] = LS_PHASE_EXPERT,     [LS_TERM_SHARD] = LS_PHASE_GRADS,
    [LS_TERM_PIPELINE] = LS_PHASE_PIPELINE, [LS_TERM_BUBBLE] = LS_PHASE_PIPELINE,
    [LS_TERM_DATA] = LS_PHASE_GRADS,        [LS_TERM_OPTIMIZER] = LS_PHASE_OPTIM,
    [LS_TERM_OTHER] = LS_PHASE_GRADS,
};

static ls_status cost_of(const ls_config *config, ls_device *dev, const int size[LS_AXIS_COUNT],
                         ls_plan_rates *rates, ls_plan_cost *cost) {
    static ls_cluster cluster;
    const ls_config_parallel *p = &config->parallel;
    ls_plan_model model;
    LS_TRY(ls_cluster_load(config->cost.cluster, &cluster));
    LS_TRY(ls_plan_model_of(&config->model, &model));
    const ls_dtype dtype = ls_session_dtype(config->numerics.compute, dev);
    const ls_precision precision = dtype == LS_BF16 ? LS_PRECISION_BF16 : LS_PRECISION_FP32;
    LS_TRY(ls_plan_rates_of(&cluster, precision, rates));
    const ls_software software = {
        .gradient_bytes = config->numerics.reduction == LS_CFG_BF16_GRADIENTS ? 2 : 4,
        .repeated_norms = size[LS_AXIS_TENSOR] > 1 && !p->sequence_parallel};
    ls_plan_teller teller = {.config = config, .dev = dev, .dtype = dtype};
    const ls_plan_job job = {.model = &model,
                             .tell = dev->host_memory ? ls_plan_tell : NULL,
                             .teller = &teller,
                             .rates = rates,
                             .software = &software,
                             .precision = precision,
                             .narrow_logits = config->numerics.logits == LS_CFG_LOGITS_COMPUTE,
                             .seq = config->data.sequence,
                             .global_batch = config->batch.sequences};
    const ls_plan_layout layout = {
        .tensor = size[LS_AXIS_TENSOR],
        .context = size[LS_AXIS_CONTEXT],
        .shard = size[LS_AXIS_SHARD],
        .replicate = size[LS_AXIS_REPLICATE],
        .pipeline = size[LS_AXIS_PIPELINE],
        .interleave = (int)p->interleave,
        .expert = (int)p->expert,
        .micro = (int)config->batch.micro,
        .zero = (int)p->zero,
        .recompute = config->recompute.mode == LS_RECOMPUTE_FULL        ? LS_REDO_FULL
                     : config->recompute.mode == LS_RECOMPUTE_SELECTIVE ? LS_REDO_SELECTIVE
                                                                        : LS_REDO_NONE};
    ls_plan_cost_of(&job, &layout, cost);
    return LS_OK;
}

static double exposed_s(const ls_plan_cost *cost) {
    double sum = 0;
    for (int t = 0; t < LS_TERM_COUNT; t++) {
        sum += ls_term_communicates((ls_term)t) ? cost->seconds[t] : 0.0;
    }
    return sum;
}

ls_status ls_train_predict_layout(const ls_config *config, ls_device *dev,
                                  const int size[LS_AXIS_COUNT], ls_train_prediction *found) {
    ls_plan_cost cost;
    ls_plan_rates rates;
    LS_TRY(cost_of(config, dev, size, &rates, &cost));
    *found = (ls_train_prediction){.step_s = cost.step_s, .exposed_s = exposed_s(&cost)};
    return LS_OK;
}

static ls_status predict(ls_train *train) {
    ls_plan_cost cost;
    ls_plan_rates *rates = &prediction.rates;
    LS_TRY(cost_of(&train->config, train->session.dev, train->session.mesh.size, rates, &cost));
    if (isnan(train->peak_flops_per_s)) {
        train->peak_flops_per_s = rates->peak_flops;
    }
    if (cost.told) {
        LS_TRY(ls_layout_tell(&train->layout, &(ls_comm_list){.add = note_operation}));
    }
    for (int t = 0; t < LS_TERM_COUNT; t++) {
        prediction.predicted_s[phases[t]] += cost.seconds[t];
    }
    prediction.exposed_s = exposed_s(&cost);
    prediction.known = true;
    return LS_OK;
}

ls_status ls_train_predict(ls_train *train) {
    const double peak_tflops = train->config.metrics.peak_tflops;
    train->peak_flops_per_s = peak_tflops > 0.0 ? 1e12 * peak_tflops : NAN;
    if (!train->config.cost.cluster[0]) {
        return LS_OK;
    }
    return ls_session_agree(&train->session,
                            train->session.comm->rank == 0 ? predict(train) : LS_OK);
}

/* Totals of a step's training proper, and the phase where the two differ most. */
static ls_phase add_up(double *predicted, double *measured) {
    ls_phase blame = LS_PHASE_COMPUTE;
    double worst = -1.0;
    *predicted = *measured = 0.0;
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        if (ls_phase_trains((ls_phase)p)) {
            const double by_clock = prediction.measured_s[p] / STEPS;
            const double differs = fabs(prediction.predicted_s[p] - by_clock);
            *predicted += prediction.predicted_s[p];
            *measured += by_clock;
            blame = differs > worst ? (ls_phase)p : blame;
            worst = fmax(differs, worst);
        }
    }
    return blame;
}

static void tell(void) {
    double predicted, measured;
    const ls_phase blame = add_up(&predicted, &measured);
    const double error = predicted / measured - 1;
    char parts[640] = "", p[32], m[32];
    for (int i = 0; i < LS_PHASE_COUNT; i++) {
        const double by_plan = prediction.predicted_s[i];
        const double by_clock = prediction.measured_s[i] / STEPS;
        const size_t used = strlen(parts);
        if (ls_phase_trains((ls_phase)i) && fmax(by_plan, by_clock) > 0.005 * measured) {
            snprintf(parts + used, sizeof parts - used, "%s%s %s and %s", used ? ", " : "",
                     ls_phase_name((ls_phase)i), ls_text_duration(p, sizeof p, by_plan),
                     ls_text_duration(m, sizeof m, by_clock));
        }
    }
    ls_log_info("a step was predicted to take %s and takes %s (%+.0f%%): %s",
                ls_text_duration(p, sizeof p, predicted), ls_text_duration(m, sizeof m, measured),
                100 * error, parts);
    if (fabs(error) > FAR) {
        ls_log_warn("the prediction is off most in %s; `lockstep bench machine --profile FILE` "
                    "measures this machine again",
                    ls_phase_name(blame));
    }
}

/* NULL where operations were not told. */
static json_t *operations_json(void) {
    json_t *rows = NULL;
    const told *all = &prediction.operations[0][0][0];
    for (int i = 0; i < LS_COMM_AXIS_COUNT * LS_USE_COUNT * LS_COLL_COUNT; i++) {
        const int coll = i % LS_COLL_COUNT, use = i / LS_COLL_COUNT % LS_USE_COUNT;
        const int axis = i / LS_COLL_COUNT / LS_USE_COUNT;
        if (all[i].count > 0) {
            rows = rows ? rows : json_array();
            json_array_append_new(rows,
                                  json_pack("{s:s, s:s, s:s, s:f, s:f, s:f}", "axis",
                                            ls_comm_axis_name((ls_comm_axis)axis), "operation",
                                            ls_coll_name((ls_coll)coll), "carries", uses[use],
                                            "count", all[i].count, "bytes", all[i].wire_bytes,
                                            "predicted_seconds", all[i].seconds));
        }
    }
    return rows;
}

json_t *ls_train_predict_json(void) {
    if (!prediction.known || prediction.seen < SKIP + STEPS) {
        return json_null();
    }
    double predicted, measured;
    const ls_phase blame = add_up(&predicted, &measured);
    json_t *by_plan = json_object(), *by_clock = json_object();
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        if (ls_phase_trains((ls_phase)p)) {
            const char *name = ls_phase_name((ls_phase)p);
            json_object_set_new(by_plan, name, json_real(prediction.predicted_s[p]));
            json_object_set_new(by_clock, name, json_real(prediction.measured_s[p] / STEPS));
        }
    }
    return json_pack("{s:f, s:f, s:f, s:s, s:i, s:o, s:o, s:o*}", "predicted_step_seconds",
                     predicted, "measured_step_seconds", measured,
                     "predicted_exposed_communication_seconds", prediction.exposed_s,
                     "differs_most_in", ls_phase_name(blame), "steps", STEPS, "predicted_seconds",
                     by_plan, "measured_seconds", by_clock, "operations_of_rank_0",
                     operations_json());
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
