/* `ckpt diff`: tensors that were added, removed, reshaped or changed, and what the steps between
 * the two checkpoints cost. */
#include "checkpoint/diff.h"
#include "launch/ckpt_verbs.h"
#include "launch/cmd.h"
#include "launch/json_text.h"
#include "launch/receipt.h"
#include "runtime/base/text.h"
#include "runtime/counters/counters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct comparison {
    ls_ckpt *a, *b;
    const char *glob;
    double rtol;
    json_t *tensors; /* NULL: text is printed */
    int compared, differing;
} comparison;

static void add(const comparison *c, json_t *object) {
    if (c->tensors) {
        json_array_append_new(c->tensors, object);
    } else {
        json_decref(object);
    }
}

/* A tensor that only one of them has, or whose type or shape is another. */
static void report_shape(comparison *c, const char *name, const char *kind, const ls_ckpt_entry *a,
                         const ls_ckpt_entry *b) {
    char left[LS_CKPT_SHAPE_TEXT] = "", right[LS_CKPT_SHAPE_TEXT] = "", *safe;
    c->differing++;
    if (a) {
        ls_ckpt_shape(left, a->ndim, a->dims);
    }
    if (b) {
        ls_ckpt_shape(right, b->ndim, b->dims);
    }
    if (!c->tensors) {
        printf("%-8s  %s  %s %s%s%s %s\n", kind, ls_ckpt_safe(name, &safe),
               a ? ls_dtype_name(a->dtype) : "", left, a && b ? " -> " : "",
               b ? ls_dtype_name(b->dtype) : "", right);
        free(safe);
    }
    add(c, json_pack("{s:s,s:s,s:o,s:o,s:o,s:o}", "name", name, "change", kind, "a_dtype",
                     a ? json_string(ls_dtype_name(a->dtype)) : json_null(), "b_dtype",
                     b ? json_string(ls_dtype_name(b->dtype)) : json_null(), "a_shape",
                     a ? ls_ckpt_dims_json(a->ndim, a->dims) : json_null(), "b_shape",
                     b ? ls_ckpt_dims_json(b->ndim, b->dims) : json_null()));
}

static void report_values(comparison *c, const ls_ckpt_entry *a, const ls_difference *d) {
    char *safe;
    c->differing++;
    if (!c->tensors) {
        printf("%-8s  %s  %lld of %lld, max |a-b| %.4g, %llu ulp; first [", "changed",
               ls_ckpt_safe(a->name, &safe), (long long)d->differing, (long long)d->elems,
               d->max_abs, (unsigned long long)d->max_ulp);
        free(safe);
        for (int i = 0; i < a->ndim; i++) {
            printf("%s%lld", i ? ", " : "", (long long)d->first[i]);
        }
        printf("] %.9g, %.9g", d->a, d->b);
        printf(d->nans ? "; %lld NaN on one side\n" : "\n", (long long)d->nans);
    }
    /* ulps of 64-bit types may exceed JSON's integers; the largest of those is told then. */
    uint64_t ulps = d->max_ulp > INT64_MAX ? INT64_MAX : d->max_ulp;
    add(c,
        json_pack("{s:s,s:s,s:I,s:I,s:I,s:o,s:I,s:o,s:o,s:o}", "name", a->name, "change", "changed",
                  "elements", (json_int_t)d->elems, "differing", (json_int_t)d->differing,
                  "nan_on_one_side", (json_int_t)d->nans, "max_abs", ls_json_real(d->max_abs),
                  "max_ulp", (json_int_t)ulps, "first", ls_ckpt_dims_json(a->ndim, d->first), "a",
                  ls_json_real(d->a), "b", ls_json_real(d->b)));
}

static ls_status compare_entry(comparison *c, const ls_ckpt_entry *a, const ls_ckpt_entry *b) {
    bool same = a->dtype == b->dtype && a->ndim == b->ndim;
    for (int d = 0; d < a->ndim && same; d++) {
        same = a->dims[d] == b->dims[d];
    }
    c->compared++;
    if (!same) {
        report_shape(c, a->name, a->dtype == b->dtype ? "reshaped" : "retyped", a, b);
        return LS_OK;
    }
    ls_difference d;
    LS_TRY(ls_ckpt_compare(c->a, a, c->b, b, c->rtol, &d));
    if (d.differing > 0) {
        report_values(c, a, &d);
    }
    return LS_OK;
}

static ls_status compare_tensors(comparison *c) {
    int a_count, b_count;
    const ls_ckpt_entry *a = ls_ckpt_entries(c->a, &a_count), *b = ls_ckpt_entries(c->b, &b_count);
    for (int i = 0; i < a_count; i++) {
        const ls_ckpt_entry *other = ls_ckpt_find(c->b, a[i].name);
        if (!ls_ckpt_matches(&a[i], c->glob)) {
            continue;
        }
        if (other) {
            LS_TRY(compare_entry(c, &a[i], other));
        } else {
            c->compared++;
            report_shape(c, a[i].name, "removed", &a[i], NULL);
        }
    }
    for (int i = 0; i < b_count; i++) {
        if (ls_ckpt_matches(&b[i], c->glob) && !ls_ckpt_find(c->a, b[i].name)) {
            c->compared++;
            report_shape(c, b[i].name, "added", NULL, &b[i]);
        }
    }
    if (c->compared == 0) {
        return LS_FAIL(LS_E_USAGE, "no tensor of '%s' or '%s' matches '%s'", ls_ckpt_path(c->a),
                       ls_ckpt_path(c->b), c->glob ? c->glob : "*");
    }
    return LS_OK;
}

/* Two checkpoints of one run: same seed and data, so that counters of one continue the other's. */
static bool same_run(const comparison *c) {
    const json_t *a = ls_ckpt_run(c->a), *b = ls_ckpt_run(c->b);
    const char *const keys[] = {"seed", "data_fingerprint"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *x = json_object_get(a, keys[i]), *y = json_object_get(b, keys[i]);
        if (!x || !y || !json_equal(x, y)) {
            return false;
        }
    }
    return ls_ckpt_step(c->a) != ls_ckpt_step(c->b);
}

/* What the run took from the earlier to the later one. False: they are not of one run, or have no
 * counters. */
static bool stretch_find(const comparison *c, ls_counters *between) {
    bool forward = ls_ckpt_step(c->a) < ls_ckpt_step(c->b);
    const ls_ckpt *early = forward ? c->a : c->b, *late = forward ? c->b : c->a;
    ls_counters from, to;
    if (!same_run(c) || ls_counters_parse(ls_ckpt_counters(early), &from) != LS_OK ||
        ls_counters_parse(ls_ckpt_counters(late), &to) != LS_OK) {
        return false;
    }
    *between = ls_counters_between(&from, &to);
    return true;
}

static json_t *stretch_json(const ls_counters *between, int64_t from_step, int64_t to_step) {
    json_t *counters = ls_counters_json(between);
    json_object_del(counters, "as_of"); /* a time, which no stretch has */
    return json_pack("{s:I,s:I,s:o}", "from_step", (json_int_t)from_step, "to_step",
                     (json_int_t)to_step, "counters", counters);
}

static void stretch_print(const ls_counters *c, int64_t from_step, int64_t to_step) {
    char text[128], number[64];
    printf("from step %lld to step %lld the run took\n", (long long)from_step, (long long)to_step);
    snprintf(text, sizeof text, "%lld, %lld skipped, %lld lost in %lld restarts",
             (long long)c->steps, (long long)c->skipped_steps, (long long)c->lost_steps,
             (long long)c->restarts);
    ls_receipt_row(stdout, false, "steps", text);
    ls_receipt_row(stdout, false, "tokens",
                   ls_text_count(number, sizeof number, (double)c->tokens));
    ls_receipt_time(stdout, false, c);
    ls_receipt_money(stdout, false, c);
    snprintf(text, sizeof text, "%lld, %lld failed; training waited %s", (long long)c->saves,
             (long long)c->failed_saves,
             ls_text_duration(number, sizeof number, c->save_stall_seconds));
    ls_receipt_row(stdout, false, "checkpoints", text);
    ls_receipt_phases(stdout, false, c);
}

static ls_status results_print(const comparison *c) {
    ls_counters between;
    int64_t a_step = ls_ckpt_step(c->a), b_step = ls_ckpt_step(c->b);
    int64_t from_step = a_step < b_step ? a_step : b_step;
    int64_t to_step = a_step < b_step ? b_step : a_step;
    bool stretch = stretch_find(c, &between);
    if (c->tensors) {
        return ls_ckpt_print_json(json_pack(
            "{s:s,s:o,s:o,s:f,s:i,s:i,s:O,s:o}", "schema", "lockstep.ckpt.diff/1", "a",
            ls_json_text(ls_ckpt_path(c->a)), "b", ls_json_text(ls_ckpt_path(c->b)), "rtol",
            c->rtol, "compared", c->compared, "differing", c->differing, "tensors", c->tensors,
            "stretch", stretch ? stretch_json(&between, from_step, to_step) : json_null()));
    }
    printf("%d of %d tensors differ\n", c->differing, c->compared);
    if (stretch) {
        stretch_print(&between, from_step, to_step);
    }
    return LS_OK;
}

ls_status ls_ckpt_run_diff(int argc, char **argv, const char **values) {
    comparison c = {.glob = argc > 2 ? argv[2] : NULL};
    LS_TRY(ls_option_float("rtol", ls_ckpt_value(values, LS_CKPT_RTOL), 0.0, 1.0, &c.rtol));
    c.tensors = values[LS_CKPT_JSON] ? json_array() : NULL;
    ls_status status = ls_ckpt_open_found(argv[0], &c.a);
    if (status == LS_OK) {
        status = ls_ckpt_open_found(argv[1], &c.b);
    }
    if (status == LS_OK) {
        status = compare_tensors(&c);
    }
    if (status == LS_OK) {
        status = results_print(&c);
    }
    if (status == LS_OK && c.differing > 0) {
        status = LS_FAIL(LS_E_NO, "'%s' and '%s' differ", argv[0], argv[1]);
    }
    json_decref(c.tensors);
    ls_ckpt_close(c.a);
    ls_ckpt_close(c.b);
    return status;
}
