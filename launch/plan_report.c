/* Answers as text and as JSON. */
#include "launch/plan.h"
#include "runtime/base/text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void print_heading(const ls_plan_question *q, const ls_plan_answer *a) {
    char n[32], tokens[32], step[32];
    const ls_cluster *c = &a->cluster;
    printf("%s, %s parameters, %s%s; %s tokens a step (%lld x %lld)", q->model.name,
           ls_text_count(n, sizeof n, a->params.total), ls_precision_name(q->precision),
           q->narrow_gradients ? ", gradients sent in bf16" : "",
           ls_text_count(step, sizeof step, (double)(a->batch * q->seq)), (long long)a->batch,
           (long long)q->seq);
    printf(", %s in all\n", ls_text_count(tokens, sizeof tokens, q->bill.tokens));
    printf("%s: %d %s in domains of %.0f", c->text[LS_CLUSTER_TITLE], a->devices,
           c->text[LS_CLUSTER_KIND], c->figure[LS_FIG_DOMAIN_DEVICES].value);
    if (a->rates.network_known) {
        printf(", %.0f Gb/s each between them%s%s", c->figure[LS_FIG_NETWORK_GBIT_S].value,
               c->text[LS_CLUSTER_FABRIC][0] ? ", " : "", c->text[LS_CLUSTER_FABRIC]);
    }
    printf("\n%ld layouts are possible, %ld fit\n\n", a->result.legal,
           a->fits ? a->result.fitting : 0);
}

/* With two decimals, or so many that a small amount still shows. */
static const char *amount(char buf[32], double x) {
    snprintf(buf, 32, x != 0 && fabs(x) < 1 ? "%.3g" : "%.2f", x);
    return buf;
}

/* Days, dollars and MWh follow from the step time in the same way for every layout. */
static void print_layouts(const ls_plan_answer *a) {
    const ls_plan_found *best = &a->result.found[0];
    printf("  %9s %9s %6s %9s %10s  %s\n", "step", "GB/device", "MFU", "days", "cost", "layout");
    for (int i = 0; i < a->result.count; i++) {
        const ls_plan_found *f = &a->result.found[i];
        char layout[200], cost[32], step[32], days[32];
        const double ratio = f->cost.step_s / best->cost.step_s;
        printf("%c %9s %9.1f %5.1f%% %9s %10s  %s\n", i ? ' ' : '*',
               ls_text_duration(step, sizeof step, f->cost.step_s), f->cost.bytes.total * 1e-9,
               100 * f->cost.mfu_causal, amount(days, a->bill.days * ratio),
               ls_text_usd(cost, sizeof cost, a->bill.usd * ratio),
               ls_plan_layout_text(&f->layout, layout, sizeof layout));
        if (i) {
            double more;
            const ls_term t = ls_plan_worst_term(&best->cost, &f->cost, &more);
            printf("%56s+%s %s\n", "", ls_text_duration(step, sizeof step, more), ls_term_name(t));
        }
    }
    const ls_plan_found *n = &a->result.nearest;
    if (n->cost.step_s > 0) {
        char layout[200], step[32];
        printf("\nwith more memory: %s by %s, but that needs %.1f GB a device\n",
               ls_text_duration(step, sizeof step, n->cost.step_s),
               ls_plan_layout_text(&n->layout, layout, sizeof layout), n->cost.bytes.total * 1e-9);
    }
}

static void print_terms(const ls_plan_answer *a) {
    const ls_plan_cost *c = &a->result.found[0].cost;
    char text[32];
    printf("\nwhere the best layout's %s go:\n", ls_text_duration(text, sizeof text, c->step_s));
    for (int t = 0; t < LS_TERM_COUNT; t++) {
        if (c->seconds[t] > 0) {
            printf("  %-26s %9s %5.1f%%\n", ls_term_name((ls_term)t),
                   ls_text_duration(text, sizeof text, c->seconds[t]),
                   100 * c->seconds[t] / c->step_s);
        }
    }
    const ls_plan_bytes *b = &c->bytes;
    const bool on_host = ls_cluster_on_host(&a->cluster);
    char copy[48] = "";
    if (on_host) {
        snprintf(copy, sizeof copy, "copy for saves %.1f; ", b->saves * 1e-9);
    }
    printf("bytes of a device: weights %.1f GB, gradients %.1f, optimizer %.1f, activations %.1f; "
           "%s%.1f of %.0f, %s\n",
           b->weights * 1e-9, b->gradients * 1e-9, b->optimizer * 1e-9, b->activations * 1e-9, copy,
           b->total * 1e-9, a->cluster.figure[LS_FIG_MEMORY_GB].value,
           a->own_bytes ? "as `lockstep train` counts them" : "estimated");
    if (!on_host) {
        printf("host memory for saves in the background: %.1f GB a device\n", b->saves * 1e-9);
    }
    printf("MFU %.1f%% with causal attention, %.1f%% with full attention, of %.0f TFLOP/s; %.0f "
           "tokens/s, %.0f a device\n",
           100 * c->mfu_causal, 100 * c->mfu_full, a->rates.peak_flops * 1e-12, c->tokens_per_s,
           c->tokens_per_s / a->devices);
}

static void print_bill(const ls_plan_answer *a) {
    const ls_bill *b = &a->bill;
    const ls_cluster *c = &a->cluster;
    char t1[32], t2[32], t3[32], t4[32], usd[32], each[32];
    printf("\nfailures: one in %s, %.1f in all; save every %s (%s waiting, safe %s later), goodput "
           "%.1f%%\n",
           ls_text_duration(t1, sizeof t1, b->failures.mtbf_s), b->interruptions,
           ls_text_duration(t2, sizeof t2, b->save_interval_s),
           ls_text_duration(t3, sizeof t3, b->failures.stall_s),
           ls_text_duration(t4, sizeof t4, b->failures.commit_s), 100 * b->goodput);
    printf("time: %.0f steps, %s days, %s device-hours\n", b->steps, amount(t1, b->days),
           amount(t2, b->device_hours));
    printf("cost: %s", ls_text_usd(usd, sizeof usd, b->usd));
    if (!isnan(b->usd)) {
        printf(", %s a million tokens, at $%.4g a device-hour",
               ls_text_usd(each, sizeof each, b->usd_per_mtoken), b->usd_per_hour);
    }
    if (b->price < LS_FIG_COUNT) {
        const ls_figure *f = &c->figure[b->price];
        printf(" (%s, %s)", ls_figure_key(b->price), f->date[0] ? f->date : "undated");
    } else if (isnan(b->usd)) {
        printf(": no price is published for this cluster; give --price");
    }
    if (isnan(b->it_mwh)) {
        printf("\nenergy: unknown, for nobody has published the power of these devices\n");
        return;
    }
    printf("\nenergy: %s MWh of the computers", amount(t1, b->it_mwh));
    if (!isnan(b->mwh)) {
        printf(", %s MWh of the site (PUE %.2f)", amount(t1, b->mwh), c->figure[LS_FIG_PUE].value);
    }
    printf(", modelled from maximum power of %s; %s MW\n",
           b->whole_nodes ? "whole nodes" : "the devices alone", amount(t1, b->power_w * 1e-6));
}

void ls_plan_print(const ls_plan_question *q, const ls_plan_answer *a) {
    print_heading(q, a);
    print_layouts(a);
    print_terms(a);
    print_bill(a);
    if (a->cluster.text[LS_CLUSTER_NOTE][0]) {
        printf("note: %s\n", a->cluster.text[LS_CLUSTER_NOTE]);
    }
}

void ls_plan_print_row(const ls_plan_answer *a, const char *name, const char *failed) {
    if (!a) {
        printf("%-22s %7s %9s %6s %10s %9s %11s %9s %8s  %s\n", "cluster", "devices", "step", "MFU",
               "tokens/s", "days", "cost", "MWh", "goodput", "layout");
        return;
    }
    if (failed) {
        printf("%-22s %7d %s\n", name, a->devices, failed);
        return;
    }
    const ls_plan_found *f = &a->result.found[0];
    char step[32], rate[32], usd[32], days[32], mwh[32], layout[200];
    printf("%-22s %7d %9s %5.1f%% %10s %9s %11s %9s %7.1f%%  %s\n", name, a->devices,
           ls_text_duration(step, sizeof step, f->cost.step_s), 100 * f->cost.mfu_causal,
           ls_text_count(rate, sizeof rate, f->cost.tokens_per_s), amount(days, a->bill.days),
           ls_text_usd(usd, sizeof usd, a->bill.usd),
           amount(mwh, isnan(a->bill.mwh) ? a->bill.it_mwh : a->bill.mwh), 100 * a->bill.goodput,
           ls_plan_layout_text(&f->layout, layout, sizeof layout));
}

static json_t *number(double value) {
    return isnan(value) || isinf(value) ? json_null() : json_real(value);
}

static json_t *found_json(const ls_plan_found *f) {
    const ls_plan_layout *l = &f->layout;
    const ls_plan_bytes *b = &f->cost.bytes;
    json_t *terms = json_object();
    for (int t = 0; t < LS_TERM_COUNT; t++) {
        json_object_set_new(terms, ls_term_name((ls_term)t), json_real(f->cost.seconds[t]));
    }
    return json_pack(
        "{s:{s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:s}, s:f, s:f, s:f, s:f, "
        "s:{s:f,s:f,s:f,s:f,s:f,s:f}, "
        "s:o}",
        "layout", "tensor", l->tensor, "context", l->context, "shard", l->shard, "replicate",
        l->replicate, "pipeline", l->pipeline, "interleave", l->interleave, "expert", l->expert,
        "micro", l->micro, "zero", l->zero, "recompute", ls_redo_name(l->recompute), "step_seconds",
        f->cost.step_s, "tokens_per_second", f->cost.tokens_per_s, "mfu_causal", f->cost.mfu_causal,
        "mfu_full", f->cost.mfu_full, "bytes_per_device", "weights", b->weights, "gradients",
        b->gradients, "optimizer", b->optimizer, "activations", b->activations, "total", b->total,
        "saves_on_host", b->saves, "seconds", terms);
}

json_t *ls_plan_json(const ls_plan_question *q, const ls_plan_answer *a) {
    const ls_bill *b = &a->bill;
    json_t *layouts = json_array();
    for (int i = 0; i < a->result.count; i++) {
        json_array_append_new(layouts, found_json(&a->result.found[i]));
    }
    const bool listed = b->price < LS_FIG_COUNT;
    const char *date = listed ? a->cluster.figure[b->price].date : "";
    return json_pack(
        "{s:i, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:f, s:f, s:I, s:I, s:o, s:f, s:f, s:f, "
        "s:o, "
        "s:o, "
        "s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:f, s:f, s:f, s:f, s:f, s:b}",
        "schema", 1, "model", q->model.name, "cluster", a->cluster.text[LS_CLUSTER_NAME], "device",
        a->cluster.text[LS_CLUSTER_KIND], "precision", ls_precision_name(q->precision), "reduction",
        q->narrow_gradients ? "bf16" : "fast", "devices", a->devices, "sequence_tokens",
        (json_int_t)q->seq, "batch_sequences", (json_int_t)a->batch, "parameters", a->params.total,
        "tokens", q->bill.tokens, "layouts_possible", (json_int_t)a->result.legal,
        "layouts_fitting", (json_int_t)(a->fits ? a->result.fitting : 0), "layouts", layouts,
        "steps", b->steps, "days", b->days, "device_hours", b->device_hours, "usd", number(b->usd),
        "usd_per_mtoken", number(b->usd_per_mtoken), "usd_per_device_hour", number(b->usd_per_hour),
        "price_kind", listed ? json_string(ls_figure_key(b->price)) : json_null(), "price_date",
        date[0] ? json_string(date) : json_null(), "it_mwh", number(b->it_mwh), "power_watts",
        number(b->power_w), "site_mwh", number(b->mwh), "carbon_tonnes", number(b->carbon_t),
        "power_of_whole_nodes", b->whole_nodes, "mtbf_seconds", b->failures.mtbf_s,
        "save_stall_seconds", b->failures.stall_s, "save_commit_seconds", b->failures.commit_s,
        "save_interval_seconds", b->save_interval_s, "goodput", b->goodput, "bytes_as_train_counts",
        a->own_bytes);
}
