/* From a question to an answer. */
#include "launch/plan.h"

#include <math.h>

ls_status ls_plan_open(const ls_plan_question *q, const char *cluster, ls_plan_answer *a) {
    LS_TRY(ls_cluster_load(cluster, &a->cluster));
    if (!isnan(q->network_gbit_s)) {
        a->cluster.figure[LS_FIG_NETWORK_GBIT_S].value = q->network_gbit_s;
    }
    ls_plan_model_params(&q->model, &a->params);
    return ls_plan_rates_of(&a->cluster, q->precision, &a->rates);
}

/* Sequences of a step where none are given: half a million tokens below a billion parameters
 * (GPT-3, arXiv 2005.14165, table 2.1), 4 million below 100, 16 million above (Llama 3, arXiv
 * 2407.21783). */
static int64_t usual_batch(const ls_plan_question *q, const ls_plan_params *p) {
    const int64_t tokens = p->total < 1e9 ? 1 << 19 : p->total < 1e11 ? 1 << 22 : 1 << 24;
    return tokens > q->seq ? tokens / q->seq : 1;
}

/* Replaces estimates by the bytes that `lockstep train` would take, and drops what does not fit by
 * those. False, with the estimates kept, when it does not train the model or refuses a layout. */
static bool take_own_bytes(const ls_plan_question *q, ls_plan_answer *a, double memory) {
    static ls_plan_result kept;
    if (!ls_plan_trains(&q->model)) {
        return false;
    }
    kept = a->result;
    kept.count = 0;
    for (int i = 0; i < a->result.count && kept.count < q->keep; i++) {
        ls_plan_found f = a->result.found[i];
        if (ls_plan_own_bytes(q, a, &f.layout, &f.cost.bytes) != LS_OK) {
            ls_error_clear();
            continue;
        }
        if (f.cost.bytes.total <= memory) {
            kept.found[kept.count++] = f;
        }
    }
    if (kept.count == 0) {
        return false;
    }
    a->result = kept;
    return true;
}

/* Estimated bytes choose the layouts, lockstep's own count has the last word: where that leaves
 * none, the search is repeated with less of the memory. */
static ls_status search(const ls_plan_question *q, const ls_plan_job *job, int devices,
                        double memory, ls_plan_answer *a) {
    const ls_plan_layout *pattern = q->has_layout ? &q->layout : NULL;
    for (double share = 1; share > 0.3; share -= 0.15) {
        LS_TRY(
            ls_plan_search(job, devices, memory * share, pattern, LS_PLAN_MAX_FOUND, &a->result));
        a->own_bytes = take_own_bytes(q, a, memory);
        if (a->own_bytes || !ls_plan_trains(&q->model)) {
            break;
        }
    }
    if (a->result.count > q->keep) {
        a->result.count = q->keep;
    }
    return LS_OK;
}

static ls_status answer(const ls_plan_question *q, int devices, ls_device *dev, ls_plan_answer *a) {
    a->devices = devices;
    a->batch = q->batch ? q->batch : usual_batch(q, &a->params);
    if (devices > a->rates.domain && !a->rates.network_known) {
        return LS_FAIL(
            LS_E_CONFIG,
            "the profile of '%s' does not know network.gbit_s, which %d devices need; give "
            "--network-gbit",
            a->cluster.text[LS_CLUSTER_NAME], devices);
    }
    const ls_software ours = {.gradient_bytes = q->narrow_gradients ? 2 : 4, .wide_sums = true};
    ls_plan_own own = {.question = q, .answer = a, .dev = dev};
    const ls_plan_job job = {.software = &ours,
                             .model = &q->model,
                             .rates = &a->rates,
                             .precision = q->precision,
                             .seq = q->seq,
                             .global_batch = a->batch,
                             .on_host = ls_cluster_on_host(&a->cluster),
                             .tell = ls_plan_trains(&q->model) ? ls_plan_own_operations : NULL,
                             .teller = &own};
    const double memory = a->cluster.figure[LS_FIG_MEMORY_GB].value * 1e9 * q->memory_share;
    const ls_plan_layout *pattern = q->has_layout ? &q->layout : NULL;
    ls_status status = search(q, &job, devices, memory, a);
    a->fits = status == LS_OK;
    if (status == LS_E_NO && q->has_layout && a->result.legal) { /* cost it all the same */
        ls_error_clear();
        status = ls_plan_search(&job, devices, HUGE_VAL, pattern, q->keep, &a->result);
        a->own_bytes = status == LS_OK && take_own_bytes(q, a, HUGE_VAL);
    }
    LS_TRY(status);
    return ls_bill_make(&a->cluster, &q->bill, devices, a->result.found[0].cost.tokens_per_s,
                        (double)(a->batch * q->seq), a->params.total * 12, &a->bill);
}

ls_status ls_plan_answer_for(const ls_plan_question *q, int devices, ls_plan_answer *a) {
    ls_device *dev;
    LS_TRY(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &dev));
    ls_status status = answer(q, devices, dev, a);
    dev->ops->close(dev);
    return status;
}
