#include "launch/cmd.h"
#include "launch/json_text.h"
#include "launch/plan.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_MODEL,
    OPT_CLUSTER,
    OPT_GPUS,
    OPT_TOKENS,
    OPT_SEQ,
    OPT_BATCH,
    OPT_VOCAB,
    OPT_PRECISION,
    OPT_REDUCTION,
    OPT_LAYOUT,
    OPT_TOP,
    OPT_COMPARE,
    OPT_SWEEP,
    OPT_SVG,
    OPT_BUDGET,
    OPT_DEADLINE,
    OPT_POWER,
    OPT_PRICE,
    OPT_PRICE_KIND,
    OPT_MTBF,
    OPT_STALL,
    OPT_COMMIT,
    OPT_RESTART,
    OPT_NETWORK,
    OPT_MEMORY,
    OPT_EMIT,
    OPT_JSON,
    OPT_LIST,
    OPT_COUNT
};

static const ls_option options[] = {
    [OPT_MODEL] = {"model", 'm', "NAME", NULL, "what is trained; --list shows all"},
    [OPT_CLUSTER] = {"cluster", 'c', "NAME", NULL, "a profile's name, or a file.yaml"},
    [OPT_GPUS] = {"gpus", 'n', "N", NULL, "devices (of any kind)"},
    [OPT_TOKENS] = {"tokens", 't', "N", NULL,
                    "of the whole run, such as 15.6T; default: 20 for each parameter"},
    [OPT_SEQ] = {"seq", 's', "N", NULL,
                 "tokens of a sequence; default: the model's context, at most 8192"},
    [OPT_BATCH] = {"batch", 'b', "N", "0",
                   "sequences of a step; 0: of 0.5, 4 or 16 Mi tokens by the model's size"},
    [OPT_VOCAB] = {"vocab", 0, "N", NULL, "of a model that takes its vocabulary from the data"},
    [OPT_PRECISION] = {"precision", 'p', "NAME", "bf16",
                       "of matrix products: fp32, bf16, fp8 or fp4"},
    [OPT_REDUCTION] = {"reduction", 0, "NAME", "fast",
                       "of gradients; bf16: sent in 16 bits (numerics.reduction)"},
    [OPT_LAYOUT] =
        {"layout", 'l', "TEXT", NULL,
         "keep these, search the rest: tensor=8,pipeline=16,interleave=4,recompute=full"},
    [OPT_TOP] = {"top", 0, "N", "5", "layouts shown, each of another mesh"},
    [OPT_COMPARE] = {"compare", 0, "C1,C2", NULL, "clusters side by side"},
    [OPT_SWEEP] = {"sweep", 0, "gpus=A..B", NULL, "a line for A, 2A, 4A ... devices"},
    [OPT_SVG] = {"svg", 0, "FILE", NULL, "draw the sweep"},
    [OPT_BUDGET] = {"budget", 0, "USD", NULL, "how many devices finish soonest for this much"},
    [OPT_DEADLINE] = {"deadline", 0, "DAYS", NULL, "how many devices finish by then for least"},
    [OPT_POWER] = {"max-power", 0, "MW", NULL, "and need no more than this"},
    [OPT_PRICE] = {"price", 0, "USD", NULL, "of a device-hour; default: the profile's"},
    [OPT_PRICE_KIND] =
        {"price-kind", 0, "KIND", NULL,
         "on_demand, list, reserved, capacity_block or spot; default: the first known"},
    [OPT_MTBF] = {"mtbf", 0, "HOURS", NULL,
                  "device-hours between failures; default: the profile's, else Llama 3's 50675"},
    [OPT_STALL] = {"save-stall", 0, "SECONDS", NULL, "a save keeps training waiting"},
    [OPT_COMMIT] = {"save-commit", 0, "SECONDS", NULL, "until a save is safe after that"},
    [OPT_RESTART] = {"restart", 0, "SECONDS", NULL,
                     "from a failure to the next step; default: the profile's, else 600"},
    [OPT_NETWORK] = {"network-gbit", 0, "N", NULL, "Gb/s of a device between domains"},
    [OPT_MEMORY] = {"memory", 0, "SHARE", "0.92", "of a device's memory that a plan may use"},
    [OPT_EMIT] = {"emit", 0, "sbatch", NULL,
                  "print a script that submits the best layout to Slurm"},
    [OPT_JSON] = {"json", 0, NULL, NULL, "print JSON"},
    [OPT_LIST] = {"list", 0, NULL, NULL, "print the models and clusters that are known"},
    {NULL, 0, NULL, NULL, NULL}};

enum { MAX_CANDIDATES = 64, MAX_DEVICES = 1 << 20, MAX_TRIED = 1 << 16 };

typedef struct plan {
    ls_plan_question question;
    const char *cluster, *compare, *sweep, *svg;
    long long gpus;                             /* 0: not given */
    double budget_usd, deadline_days, power_mw; /* NAN: not given */
    bool json;
} plan;

/* A number with K, M, G or B, T for thousands, millions ... */
static ls_status parse_amount(const char *name, const char *value, double max, double *out) {
    double x;
    if (!ls_config_number(value, true, &x) || !(x > 0 && x <= max)) {
        return LS_FAIL(LS_E_USAGE,
                       "--%s is '%s'; a number up to %g is needed, such as 300e9, 300B or 15.6T",
                       name, value, max);
    }
    *out = x;
    return LS_OK;
}

static ls_status parse_optional(const char **values, int option, double max, double *out) {
    *out = NAN;
    return values[option] ? ls_option_float(options[option].name, values[option], 0, max, out)
                          : LS_OK;
}

static ls_status parse_limits(plan *p, const char **values) {
    ls_bill_options *b = &p->question.bill;
    LS_TRY(parse_optional(values, OPT_BUDGET, 1e15, &p->budget_usd));
    LS_TRY(parse_optional(values, OPT_DEADLINE, 1e6, &p->deadline_days));
    LS_TRY(parse_optional(values, OPT_POWER, 1e6, &p->power_mw));
    LS_TRY(parse_optional(values, OPT_PRICE, 1e6, &b->usd_per_hour));
    LS_TRY(parse_optional(values, OPT_MTBF, 1e15, &b->mtbf_hours));
    LS_TRY(parse_optional(values, OPT_STALL, 1e7, &b->save_stall_s));
    LS_TRY(parse_optional(values, OPT_COMMIT, 1e7, &b->save_commit_s));
    LS_TRY(parse_optional(values, OPT_RESTART, 1e7, &b->restart_s));
    LS_TRY(parse_optional(values, OPT_NETWORK, 1e6, &p->question.network_gbit_s));
    b->price_kind = values[OPT_PRICE_KIND];
    return ls_option_float("memory", values[OPT_MEMORY], 0.01, 1, &p->question.memory_share);
}

static ls_status parse_model(plan *p, const char **values) {
    ls_plan_question *q = &p->question;
    if (!values[OPT_MODEL]) {
        return LS_FAIL(LS_E_USAGE, "--model is missing; `lockstep plan --list` shows those known");
    }
    LS_TRY(ls_plan_model_find(values[OPT_MODEL], &q->model));
    q->precision = ls_precision_parse(values[OPT_PRECISION]);
    if (q->precision == LS_PRECISION_COUNT) {
        return LS_FAIL(LS_E_USAGE, "--precision is '%s'; fp32, bf16, fp8 or fp4 is needed",
                       values[OPT_PRECISION]);
    }
    q->narrow_gradients = strcmp(values[OPT_REDUCTION], "bf16") == 0;
    if (!q->narrow_gradients && strcmp(values[OPT_REDUCTION], "fast") != 0) {
        return LS_FAIL(LS_E_USAGE, "--reduction is '%s'; fast or bf16 is needed",
                       values[OPT_REDUCTION]);
    }
    long long seq = q->model.context < 8192 ? q->model.context : 8192;
    if (values[OPT_SEQ]) {
        LS_TRY(ls_option_int("seq", values[OPT_SEQ], 1, 1 << 27, &seq));
    }
    q->seq = seq;
    if (values[OPT_VOCAB]) {
        long long vocab;
        LS_TRY(ls_option_int("vocab", values[OPT_VOCAB], 1, 1 << 24, &vocab));
        q->model.vocab = vocab;
    }
    long long batch, top;
    LS_TRY(ls_option_int("batch", values[OPT_BATCH], 0, 1 << 30, &batch));
    LS_TRY(ls_option_int("top", values[OPT_TOP], 1, LS_PLAN_MAX_FOUND, &top));
    q->batch = batch;
    q->keep = (int)top;
    ls_plan_params params;
    ls_plan_model_params(&q->model, &params);
    q->bill.tokens = 20 * params.total; /* Hoffmann 2022, arXiv 2203.15556 */
    if (values[OPT_TOKENS]) {
        LS_TRY(parse_amount("tokens", values[OPT_TOKENS], 1e18, &q->bill.tokens));
    }
    q->has_layout = values[OPT_LAYOUT] != NULL;
    return q->has_layout ? ls_plan_layout_parse(values[OPT_LAYOUT], &q->layout) : LS_OK;
}

/* Whether the number of devices is asked for. */
static bool limited(const plan *p) {
    return !isnan(p->budget_usd) || !isnan(p->deadline_days) || !isnan(p->power_mw);
}

static ls_status parse(plan *p, const char **values) {
    LS_TRY(parse_model(p, values));
    LS_TRY(parse_limits(p, values));
    p->cluster = values[OPT_CLUSTER];
    p->compare = values[OPT_COMPARE];
    p->sweep = values[OPT_SWEEP];
    p->svg = values[OPT_SVG];
    p->json = values[OPT_JSON] != NULL;
    if (values[OPT_GPUS]) {
        LS_TRY(ls_option_int("gpus", values[OPT_GPUS], 1, MAX_DEVICES, &p->gpus));
    } else if (p->question.has_layout && !limited(p)) { /* as many as the axes that are named */
        ls_plan_layout whole = p->question.layout;
        ls_plan_layout_fill(&whole);
        const double devices =
            (double)whole.tensor * whole.context * whole.shard * whole.replicate * whole.pipeline;
        if (devices > MAX_DEVICES) {
            return LS_FAIL(LS_E_USAGE,
                           "--layout: the axes make %.0f devices; at most %d are served", devices,
                           MAX_DEVICES);
        }
        p->gpus = (long long)devices;
    }
    if (p->gpus && limited(p)) {
        return LS_FAIL(LS_E_USAGE, "--budget, --deadline and --max-power ask for the number of "
                                   "devices that --gpus gives; leave one out");
    }
    if (!p->cluster == !p->compare) {
        return LS_FAIL(LS_E_USAGE,
                       "one of --cluster and --compare is needed; `lockstep plan --list` "
                       "shows the clusters");
    }
    if (p->svg && !p->sweep) {
        return LS_FAIL(LS_E_USAGE, "--svg draws a sweep; give --sweep gpus=8..1024");
    }
    if (p->sweep && (p->compare || values[OPT_GPUS] || values[OPT_EMIT] || limited(p))) {
        return LS_FAIL(LS_E_USAGE, "--sweep tries numbers of devices of one --cluster; leave out "
                                   "--gpus, --compare, --emit, --budget, --deadline and "
                                   "--max-power");
    }
    return LS_OK;
}

/* A row of a table, or an object of a list. LS_E_NO and LS_E_CONFIG are an answer too. */
static ls_status add_row(const plan *p, const char *name, int devices, ls_status status,
                         ls_plan_answer *a, json_t *list) {
    if (status != LS_OK && status != LS_E_NO && status != LS_E_CONFIG) {
        return status;
    }
    a->devices = devices;
    char failed[1024];
    snprintf(failed, sizeof failed, "%s", status == LS_OK ? "" : ls_error_last()->message);
    ls_error_clear();
    if (!p->json) {
        ls_plan_print_row(a, name, failed[0] ? failed : NULL);
        return LS_OK;
    }
    json_t *row = failed[0] ? json_pack("{s:s, s:i, s:s}", "cluster", name, "devices", devices,
                                        "error", failed)
                            : ls_plan_json(&p->question, a);
    return json_array_append_new(list, row) == 0 ? LS_OK
                                                 : LS_FAIL(LS_E_MEMORY, "no memory for the plan");
}

static void begin_table(const plan *p) {
    if (!p->json) {
        ls_plan_print_row(NULL, NULL, NULL);
    }
}

static ls_status end_table(const plan *p, ls_status status, json_t *list) {
    if (status == LS_OK && p->json) {
        return ls_json_print(list, LS_JSON_ALL_DIGITS);
    }
    json_decref(list);
    return status;
}

/* Numbers of devices that layouts like, in whole nodes: powers of two, and 9/8 of them (domains of
 * 72). */
static int next_number(int n, int node) {
    int low = 1;
    while (low * 2 <= n) {
        low *= 2;
    }
    const int between = low / 8 * 9;
    return between > n && (between < node || between % node == 0) ? between : low * 2;
}

/* What the numbers that were tried reach: least dollars, days and watts, each by itself. */
typedef struct reach {
    double usd, days, watts;
    int usd_at, days_at, watts_at, answered; /* answered: the largest with an answer */
    int refused;                             /* and the largest without */
    char refusal[1024];                      /* why */
} reach;

static void note_least(double value, int n, double *least, int *at) {
    if (value < *least) {
        *least = value;
        *at = n;
    }
}

static ls_status cannot_keep(const plan *p, const char *cluster, const reach *r) {
    if (!r->answered) {
        return LS_FAIL(LS_E_NO, "no number of devices up to %d has a layout; of the largest: %s",
                       MAX_TRIED, r->refusal);
    }
    char usd[96] = "", days[96] = "", power[96] = "";
    if (!isnan(p->budget_usd)) {
        snprintf(usd, sizeof usd, "; the least cost is $%.0f, of %d devices", r->usd, r->usd_at);
    }
    if (!isnan(p->deadline_days)) {
        snprintf(days, sizeof days, "; the soonest end is in %.4g days, by %d devices", r->days,
                 r->days_at);
    }
    if (!isnan(p->power_mw)) {
        snprintf(power, sizeof power, "; the least power is %.3g MW, of %d devices",
                 r->watts * 1e-6, r->watts_at);
    }
    const bool ends_early = r->refused > r->answered;
    return LS_FAIL(LS_E_NO,
                   "no number of devices up to %d keeps these limits for %s on '%s'%s%s%s%s%.400s",
                   ends_early ? r->answered : MAX_TRIED, p->question.model.name, cluster, usd, days,
                   power, ends_early ? "; with more: " : "", ends_early ? r->refusal : "");
}

/* Whether an answer keeps the limits. */
static bool keeps(const plan *p, const ls_plan_answer *a) {
    const ls_bill *b = &a->bill;
    return (isnan(p->budget_usd) || b->usd <= p->budget_usd) &&
           (isnan(p->deadline_days) || b->days <= p->deadline_days) &&
           (isnan(p->power_mw) || b->power_w <= p->power_mw * 1e6);
}

static ls_status need_price(const plan *p, const char *cluster, const ls_plan_answer *a) {
    bool known = isnan(p->budget_usd) || !isnan(p->question.bill.usd_per_hour);
    for (int i = LS_FIG_PRICE_ON_DEMAND; i <= LS_FIG_PRICE_SPOT; i++) {
        known = known || !isnan(a->cluster.figure[i].value);
    }
    return known ? LS_OK
                 : LS_FAIL(LS_E_CONFIG,
                           "--budget needs a price, and none is published for '%s'; give --price",
                           cluster);
}

/* The number of devices that keeps all limits: with a deadline the cheapest one (by device-hours
 * where no price is known), otherwise the soonest. */
static ls_status invert(const plan *p, const char *cluster, ls_plan_answer *a, int *devices) {
    LS_TRY(ls_plan_open(&p->question, cluster, a));
    LS_TRY(need_price(p, cluster, a));
    const int node = (int)ls_cluster_value(&a->cluster, LS_FIG_NODE_DEVICES, 1);
    double least = HUGE_VAL;
    reach r = {.usd = HUGE_VAL, .days = HUGE_VAL, .watts = HUGE_VAL};
    *devices = 0;
    ls_log_progress(false, "trying numbers of devices of %s", cluster);
    for (int n = 1; n <= MAX_TRIED; n = next_number(n, node)) {
        if (ls_plan_answer_for(&p->question, n, a) != LS_OK) {
            r.refused = n;
            snprintf(r.refusal, sizeof r.refusal, "%s", ls_error_last()->message);
            ls_error_clear();
            continue;
        }
        const ls_bill *b = &a->bill;
        r.answered = n;
        note_least(b->usd, n, &r.usd, &r.usd_at);
        note_least(b->days, n, &r.days, &r.days_at);
        note_least(b->power_w, n, &r.watts, &r.watts_at);
        if (keeps(p, a)) {
            note_least(isnan(p->deadline_days) ? b->days : b->device_hours, n, &least, devices);
        }
    }
    ls_log_progress(true, "tried 1 to %d devices of %s", MAX_TRIED, cluster);
    return *devices ? LS_OK : cannot_keep(p, cluster, &r);
}

/* A wrong name is no answer: none is given then. */
static ls_status check_names(const char *compare, ls_cluster *cluster) {
    char *names = strdup(compare), *rest = NULL;
    ls_status status = names ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for the clusters");
    int count = 0;
    for (char *name = names ? strtok_r(names, ",", &rest) : NULL; name && status == LS_OK;
         name = strtok_r(NULL, ",", &rest)) {
        status = ls_cluster_load(name, cluster);
        count++;
    }
    free(names);
    return status != LS_OK || count > 0
               ? status
               : LS_FAIL(LS_E_USAGE,
                         "--compare is '%s'; names of clusters are needed, such as "
                         "aws-p5,dgx-h100",
                         compare);
}

static ls_status compare(plan *p, ls_plan_answer *a) {
    LS_TRY(check_names(p->compare, &a->cluster));
    char *names = strdup(p->compare), *rest = NULL;
    json_t *list = json_array();
    ls_status status = names && list ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for the clusters");
    begin_table(p);
    for (char *name = names ? strtok_r(names, ",", &rest) : NULL; name && status == LS_OK;
         name = strtok_r(NULL, ",", &rest)) {
        int devices = (int)p->gpus;
        status = devices ? ls_plan_open(&p->question, name, a) : invert(p, name, a, &devices);
        if (status == LS_OK) {
            status = ls_plan_answer_for(&p->question, devices, a);
        }
        status = add_row(p, name, devices, status, a, list);
    }
    free(names);
    return end_table(p, status, list);
}

static ls_status sweep(plan *p, ls_plan_answer *a) {
    int low, high, used = 0;
    if (sscanf(p->sweep, "gpus=%d..%d%n", &low, &high, &used) != 2 || p->sweep[used] || low < 1 ||
        high < low || high > MAX_DEVICES) {
        return LS_FAIL(LS_E_USAGE, "--sweep is '%s'; gpus=8..16384 is the form, up to %d", p->sweep,
                       MAX_DEVICES);
    }
    LS_TRY(ls_plan_open(&p->question, p->cluster, a));
    ls_plan_point points[MAX_CANDIDATES];
    int count = 0;
    json_t *list = json_array();
    ls_status status = list ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for the sweep");
    begin_table(p);
    for (int64_t n = low; n <= high && status == LS_OK; n *= 2) {
        status = ls_plan_answer_for(&p->question, (int)n, a);
        if (status == LS_OK) {
            points[count++] = (ls_plan_point){(int)n, a->result.found[0].cost.tokens_per_s};
        }
        status = add_row(p, a->cluster.text[LS_CLUSTER_NAME], (int)n, status, a, list);
    }
    if (status == LS_OK && p->svg && count == 0) {
        status =
            LS_FAIL(LS_E_NO, "no number of devices in %s has a layout; nothing to draw", p->sweep);
    } else if (status == LS_OK && p->svg) {
        char title[400];
        snprintf(title, sizeof title, "%s on %s, %s", p->question.model.name,
                 a->cluster.text[LS_CLUSTER_TITLE], ls_precision_name(p->question.precision));
        status = ls_plan_draw(p->svg, title, points, count);
    }
    return end_table(p, status, list);
}

static ls_status one(plan *p, ls_plan_answer *a) {
    LS_TRY(ls_plan_open(&p->question, p->cluster, a));
    LS_TRY(ls_plan_answer_for(&p->question, (int)p->gpus, a));
    if (p->json) {
        return ls_json_print(ls_plan_json(&p->question, a), LS_JSON_ALL_DIGITS);
    }
    ls_plan_print(&p->question, a);
    return LS_OK;
}

static ls_status list_known(void) {
    char **names;
    int count;
    LS_TRY(ls_cluster_list(&names, &count));
    printf("models:\n");
    for (const char *const *name = ls_plan_model_names(); *name; name++) {
        ls_plan_model m;
        ls_plan_params params;
        char total[32], active[32];
        LS_TRY(ls_plan_model_find(*name, &m));
        ls_plan_model_params(&m, &params);
        printf("  %-16s %9s parameters", *name, ls_text_count(total, sizeof total, params.total));
        printf(m.experts ? ", %s for a token\n" : "\n",
               ls_text_count(active, sizeof active, params.active));
    }
    printf("clusters:\n");
    ls_status status = LS_OK;
    static ls_cluster c;
    for (int i = 0; i < count; i++) {
        if (status == LS_OK && (status = ls_cluster_load(names[i], &c)) == LS_OK) {
            printf("  %-20s %-10s %3.0f a domain  %s\n", names[i], c.text[LS_CLUSTER_KIND],
                   c.figure[LS_FIG_DOMAIN_DEVICES].value, c.text[LS_CLUSTER_TITLE]);
        }
        free(names[i]);
    }
    free(names);
    return status;
}

static ls_status run_plan(int argc, char **argv) {
    static plan p;
    static ls_plan_answer answer;
    const char *values[OPT_COUNT];
    int first;
    LS_TRY(ls_options_parse(&ls_verb_plan, argc, argv, values, &first));
    if (first != argc) {
        return LS_FAIL(LS_E_USAGE, "'%s' is no option; usage: lockstep plan %s", argv[first],
                       ls_verb_plan.synopsis);
    }
    if (values[OPT_LIST]) {
        return list_known();
    }
    for (int o = 0; o < OPT_COUNT; o++) {
        values[o] = values[o] ? values[o] : options[o].fallback;
    }
    LS_TRY(parse(&p, values));
    if (values[OPT_EMIT] && (strcmp(values[OPT_EMIT], "sbatch") != 0 || !p.cluster)) {
        return LS_FAIL(LS_E_USAGE, "--emit %s; sbatch is expected, with one --cluster",
                       values[OPT_EMIT]);
    }
    if (values[OPT_EMIT] && p.json) {
        return LS_FAIL(LS_E_USAGE, "--emit prints a script, and --json an object; give one of "
                                   "them");
    }
    const int keep = p.question.keep;
    p.question.keep = 1; /* of tables and of numbers that are tried */
    if (p.sweep) {
        return sweep(&p, &answer);
    }
    if (p.gpus == 0 && !limited(&p)) {
        return LS_FAIL(LS_E_USAGE, "--gpus is missing (or --sweep with one --cluster, or "
                                   "--budget, --deadline, --max-power)");
    }
    if (p.compare) {
        return compare(&p, &answer);
    }
    if (p.gpus == 0) {
        int devices;
        LS_TRY(invert(&p, p.cluster, &answer, &devices));
        p.gpus = devices;
    }
    p.question.keep = keep;
    if (values[OPT_EMIT]) {
        LS_TRY(ls_plan_open(&p.question, p.cluster, &answer));
        LS_TRY(ls_plan_answer_for(&p.question, (int)p.gpus, &answer));
        return ls_plan_emit_sbatch(&p.question, &answer, p.cluster);
    }
    return one(&p, &answer);
}

const ls_verb ls_verb_plan = {
    .name = "plan",
    .synopsis = "--model M --cluster C --gpus N [options]",
    .summary = "predict time, memory, cost and energy; search layouts; compare clusters",
    .text =
        "Costs every layout of a model on a number of devices and shows the best of each mesh, "
        "with\n"
        "what the others lose by; then where the best one's time goes, its bytes, failures, "
        "dollars\n"
        "and energy. Layouts: tensor (within the fast domain), context, pipeline with "
        "interleaving,\n"
        "sharding (zero 1: optimizer, 3: weights), expert parallelism, micro-batch, "
        "recomputation.\n"
        "\n"
        "  lockstep plan -m llama3-70b -c aws-p5 -n 512 --tokens 15T\n"
        "  lockstep plan -m llama3-405b --compare aws-p5,aws-p6e-gb200-x72,azure-nd-gb300-v6 -n "
        "4608\n"
        "  lockstep plan -m llama3-8b -c aws-p5en --budget 300000 --tokens 1T\n"
        "  lockstep plan -m llama3-70b --compare aws-p5,aws-p5en --deadline 30 --tokens 2T\n"
        "  lockstep plan -m llama3-405b -c dgx-h100 --sweep gpus=512..16384 --svg scaling.svg\n"
        "\n"
        "Efficiencies come from published runs, by device kind and precision; their error is in\n"
        "benchmarks/README.md. Prices, power and links come from the cluster's profile, with "
        "source\n"
        "and date; what nobody has published stays unknown. Power is the maximum of nodes (or of\n"
        "devices alone, where it says so): an upper bound. MFU counts causal attention.\n"
        "Failures: Daly 2006, from the mean time between failures of a device.",
    .options = options,
    .run = run_plan,
};
