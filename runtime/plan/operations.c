/* The operations of a step as this program makes them, one by one, where the devices are
 * processors: what they compute hides nothing then, for they carry the bytes themselves. */
#include "runtime/plan/cost.h"

typedef struct sum {
    const ls_plan_rates *rates;
    double *seconds; /* by ls_term */
} sum;

static ls_term term_of(const ls_comm_operation *o) {
    static const ls_term terms[LS_COMM_AXIS_COUNT] = {
        [LS_COMM_TENSOR] = LS_TERM_TENSOR,   [LS_COMM_EXPERT] = LS_TERM_EXPERT,
        [LS_COMM_CONTEXT] = LS_TERM_CONTEXT, [LS_COMM_PIPELINE] = LS_TERM_PIPELINE,
        [LS_COMM_DATA] = LS_TERM_DATA,       [LS_COMM_WORLD] = LS_TERM_DATA};
    return o->use == LS_USE_BLOCKS ? LS_TERM_SHARD : terms[o->axis];
}

/* A rank that sends a message also receives one: the profile's time is of both. A barrier is an
 * all-reduce of nothing. */
double ls_plan_operation_s(const ls_plan_rates *rates, const ls_comm_operation *o) {
    const ls_coll coll = o->coll == LS_COLL_BARRIER ? LS_COLL_ALL_REDUCE : o->coll;
    const ls_comm_use use = o->use == LS_USE_PARAMETERS ? LS_USE_STATE : o->use;
    return o->count * ls_wire_time_s(coll, o->ranks, o->bytes, rates->links[use][coll]);
}

static void add(void *context, const ls_comm_operation *o) {
    const sum *s = context;
    s->seconds[term_of(o)] += ls_plan_operation_s(s->rates, o);
}

/* Profiles of earlier versions lack some. */
static bool knows_links(const ls_plan_rates *r) {
    bool all = true;
    for (int i = 0; i < LS_USE_COUNT * LS_COLL_COUNT; i++) {
        ls_figure_id us, gb_s;
        const ls_comm_use use = (ls_comm_use)(i / LS_COLL_COUNT);
        const ls_coll coll = (ls_coll)(i % LS_COLL_COUNT);
        all =
            all && (!ls_link_figures(use, coll, &us, &gb_s) || r->links[use][coll].bytes_per_s > 0);
    }
    return all;
}

bool ls_plan_operations(const ls_plan_job *job, const ls_plan_layout *l, int stage,
                        double seconds[LS_TERM_COUNT]) {
    const ls_plan_rates *r = job->rates;
    if (!job->tell || !r->shared_engine || !knows_links(r) || ls_plan_devices(l) > r->domain) {
        return false;
    }
    for (int t = 0; t < LS_TERM_COUNT; t++) {
        seconds[t] = 0;
    }
    sum s = {.rates = r, .seconds = seconds};
    const ls_comm_list list = {.add = add, .context = &s};
    if (job->tell(job->teller, l, stage, &list) != LS_OK) {
        ls_error_clear();
        return false;
    }
    return true;
}
