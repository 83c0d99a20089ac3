/* `ckpt diff`: settings that differ, tensors that were added, removed, reshaped or changed, and
 * what the steps between the two checkpoints cost. */
#include "checkpoint/diff.h"
#include "launch/ckpt_verbs.h"
#include "launch/cmd.h"
#include "launch/json_text.h"
#include "launch/receipt.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/config/config.h"
#include "runtime/counters/counters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a tensor differs in beside its values. */
typedef enum shape_kind { REMOVED, ADDED, RESHAPED, RETYPED, SHAPE_KINDS } shape_kind;
static const char *const kind_names[SHAPE_KINDS] = {"removed", "added", "reshaped", "retyped"};

/* Tensors of one kind, types and shapes, the numbers in whose names are all that tells them apart:
 * those of the layers are one line. */
typedef struct shape_change {
    shape_kind kind;
    const ls_ckpt_entry *a, *b; /* of the first; NULL where there is none */
    int tensors;
} shape_change;

typedef struct comparison {
    ls_ckpt *a, *b;
    const char *glob;
    double rtol;
    json_t *tensors;  /* NULL: text is printed */
    json_t *settings; /* "section.key: 3 in A, 4 in B"; JSON's null where they cannot be compared */
    bool other_model; /* and some of them are sizes of the model */
    bool other_run;
    shape_change *changes;
    int change_count, compared, differing, of_kind[SHAPE_KINDS];
} comparison;

/* ---- settings ---- */

static void settings_add(comparison *c, ls_field_resume kind, const char *lines) {
    for (const char *line = lines; *line; line += strcspn(line, "\n") + 1) {
        json_array_append_new(c->settings, json_stringn(line, strcspn(line, "\n")));
        c->other_run |= kind == LS_RESUME_SAME;
        c->other_model |= kind == LS_RESUME_SAME && strncmp(line, "model.", 6) == 0;
    }
}

/* Those that decide numbers. A checkpoint of a newer lockstep may have some unknown here; its
 * tensors can be compared all the same. */
static void compare_settings(comparison *c) {
    static ls_config a, b;
    static const ls_field_resume kinds[] = {LS_RESUME_SAME, LS_RESUME_CHANGE};
    c->settings = json_array();
    ls_status status = ls_ckpt_settings(c->a, &a);
    status = status == LS_OK ? ls_ckpt_settings(c->b, &b) : status;
    c->other_run = status == LS_OK && strcmp(a.run.name, b.run.name) != 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && status == LS_OK; i++) {
        char *lines;
        int differences;
        status = ls_config_compare(kinds[i], &a, "in A", &b, "in B", &lines, &differences);
        if (status == LS_OK) {
            settings_add(c, kinds[i], lines);
        }
        free(lines);
    }
    if (status != LS_OK) {
        ls_log_warn("settings are not compared: %s", ls_error_last()->message);
        json_decref(c->settings);
        c->settings = json_null();
    }
    for (size_t i = 0; i < json_array_size(c->settings) && !c->tensors; i++) {
        char *safe;
        printf("%-8s  %s\n", "setting",
               ls_ckpt_safe(json_string_value(json_array_get(c->settings, i)), &safe));
        free(safe);
    }
}

/* ---- types and shapes ---- */

static void add(const comparison *c, json_t *object) {
    if (c->tensors) {
        json_array_append_new(c->tensors, object);
    } else {
        json_decref(object);
    }
}

static bool same_shape(const ls_ckpt_entry *a, const ls_ckpt_entry *b) {
    return a->dtype == b->dtype && a->ndim == b->ndim &&
           memcmp(a->dims, b->dims, (size_t)a->ndim * sizeof *a->dims) == 0;
}

/* Is the rest of a name, from one of its parts on, a number and what follows? */
static size_t number_length(const char *name, size_t at) {
    size_t length = strspn(name + at, "0123456789");
    const bool begins = at == 0 || name[at - 1] == '.';
    return begins && (name[at + length] == '.' || name[at + length] == 0) ? length : 0;
}

/* "layers.*.mlp.up.weight" of "layers.12.mlp.up.weight", which it is a pattern of; caller frees. */
static char *name_pattern(const char *name) {
    char *pattern = strdup(name), *to = pattern;
    for (size_t at = 0; pattern && name[at];) {
        const size_t digits = number_length(name, at);
        *to++ = digits ? '*' : name[at];
        at += digits ? digits : 1;
        *to = 0;
    }
    return pattern;
}

static bool same_change(const shape_change *x, shape_kind kind, const ls_ckpt_entry *a,
                        const ls_ckpt_entry *b) {
    if (x->kind != kind || (a && !same_shape(x->a, a)) || (b && !same_shape(x->b, b))) {
        return false;
    }
    char *p = name_pattern((a ? x->a : x->b)->name), *q = name_pattern((a ? a : b)->name);
    const bool same = p && q && strcmp(p, q) == 0;
    free(p);
    free(q);
    return same;
}

/* A tensor that only one of them has, or whose type or shape is another. */
static ls_status shape_found(comparison *c, shape_kind kind, const ls_ckpt_entry *a,
                             const ls_ckpt_entry *b) {
    c->differing++;
    c->of_kind[kind]++;
    add(c, json_pack("{s:s,s:s,s:o,s:o,s:o,s:o}", "name", (a ? a : b)->name, "change",
                     kind_names[kind], "a_dtype",
                     a ? json_string(ls_dtype_name(a->dtype)) : json_null(), "b_dtype",
                     b ? json_string(ls_dtype_name(b->dtype)) : json_null(), "a_shape",
                     a ? ls_ckpt_dims_json(a->ndim, a->dims) : json_null(), "b_shape",
                     b ? ls_ckpt_dims_json(b->ndim, b->dims) : json_null()));
    for (int i = 0; i < c->change_count; i++) {
        if (same_change(&c->changes[i], kind, a, b)) {
            c->changes[i].tensors++;
            return LS_OK;
        }
    }
    shape_change *larger = realloc(c->changes, (size_t)(c->change_count + 1) * sizeof *larger);
    if (!larger) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the differences of %d tensors", c->differing);
    }
    c->changes = larger;
    c->changes[c->change_count++] = (shape_change){kind, a, b, 1};
    return LS_OK;
}

static void print_shapes(const comparison *c) {
    for (int i = 0; i < c->change_count; i++) {
        const shape_change *x = &c->changes[i];
        char left[LS_CKPT_SHAPE_TEXT] = "", right[LS_CKPT_SHAPE_TEXT] = "", *safe;
        const char *name = (x->a ? x->a : x->b)->name;
        char *pattern = x->tensors > 1 ? name_pattern(name) : NULL;
        if (x->a) {
            ls_ckpt_shape(left, x->a->ndim, x->a->dims);
        }
        if (x->b) {
            ls_ckpt_shape(right, x->b->ndim, x->b->dims);
        }
        printf("%-8s  %s  %s%s%s%s%s%s%s", kind_names[x->kind],
               ls_ckpt_safe(pattern ? pattern : name, &safe),
               x->a ? ls_dtype_name(x->a->dtype) : "", x->a ? " " : "", left,
               x->a && x->b ? " -> " : "", x->b ? ls_dtype_name(x->b->dtype) : "", x->b ? " " : "",
               right);
        printf(x->tensors > 1 ? "  (%d tensors)\n" : "\n", x->tensors);
        free(safe);
        free(pattern);
    }
}

static ls_status compare_shapes(comparison *c) {
    int a_count, b_count;
    const ls_ckpt_entry *a = ls_ckpt_entries(c->a, &a_count), *b = ls_ckpt_entries(c->b, &b_count);
    for (int i = 0; i < a_count; i++) {
        const ls_ckpt_entry *other = ls_ckpt_find(c->b, a[i].name);
        if (!ls_ckpt_matches(&a[i], c->glob)) {
            continue;
        }
        c->compared++;
        if (!other) {
            LS_TRY(shape_found(c, REMOVED, &a[i], NULL));
        } else if (!same_shape(&a[i], other)) {
            const bool same_type = a[i].dtype == other->dtype;
            LS_TRY(shape_found(c, same_type ? RESHAPED : RETYPED, &a[i], other));
        }
    }
    for (int i = 0; i < b_count; i++) {
        if (ls_ckpt_matches(&b[i], c->glob) && !ls_ckpt_find(c->a, b[i].name)) {
            c->compared++;
            LS_TRY(shape_found(c, ADDED, NULL, &b[i]));
        }
    }
    if (c->compared == 0) {
        return LS_FAIL(LS_E_USAGE, "no tensor of '%s' or '%s' matches '%s'", ls_ckpt_path(c->a),
                       ls_ckpt_path(c->b), c->glob ? c->glob : "*");
    }
    return LS_OK;
}

/* ---- values ---- */

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

static ls_status compare_values(comparison *c) {
    int count;
    const ls_ckpt_entry *entries = ls_ckpt_entries(c->a, &count);
    for (int i = 0; i < count; i++) {
        const ls_ckpt_entry *a = &entries[i], *b = ls_ckpt_find(c->b, a->name);
        ls_difference d;
        if (ls_ckpt_matches(a, c->glob) && b && same_shape(a, b)) {
            LS_TRY(ls_ckpt_compare(c->a, a, c->b, b, c->rtol, &d));
            if (d.differing > 0) {
                report_values(c, a, &d);
            }
        }
    }
    return LS_OK;
}

/* ---- what the steps between cost ---- */

/* Two checkpoints of one run: same name, seed and data, so that counters of one continue the
 * other's. */
static bool same_run(const comparison *c) {
    const json_t *a = ls_ckpt_run(c->a), *b = ls_ckpt_run(c->b);
    const char *const keys[] = {"seed", "data_fingerprint"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *x = json_object_get(a, keys[i]), *y = json_object_get(b, keys[i]);
        if (!x || !y || !json_equal(x, y)) {
            return false;
        }
    }
    return !c->other_run && ls_ckpt_step(c->a) != ls_ckpt_step(c->b);
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

static void print_sums(const comparison *c) {
    static const char *const texts[SHAPE_KINDS] = {"only in A", "only in B", "of other shapes",
                                                   "of other types"};
    int values = c->differing;
    printf("%d of %d tensors differ", c->differing, c->compared);
    for (int kind = 0; kind < SHAPE_KINDS; kind++) {
        values -= c->of_kind[kind];
    }
    for (int kind = 0; kind < SHAPE_KINDS && values < c->differing; kind++) {
        if (c->of_kind[kind]) {
            printf(", %d %s", c->of_kind[kind], texts[kind]);
        }
    }
    printf(values && values < c->differing ? ", %d in values\n" : "\n", values);
}

static ls_status results_print(const comparison *c) {
    ls_counters between;
    int64_t a_step = ls_ckpt_step(c->a), b_step = ls_ckpt_step(c->b);
    int64_t from_step = a_step < b_step ? a_step : b_step;
    int64_t to_step = a_step < b_step ? b_step : a_step;
    bool stretch = stretch_find(c, &between);
    if (c->tensors) {
        return ls_ckpt_print_json(
            json_pack("{s:s,s:o,s:o,s:f,s:i,s:i,s:O,s:O,s:o}", "schema", "lockstep.ckpt.diff/1",
                      "a", ls_json_text(ls_ckpt_path(c->a)), "b", ls_json_text(ls_ckpt_path(c->b)),
                      "rtol", c->rtol, "compared", c->compared, "differing", c->differing,
                      "settings", c->settings, "tensors", c->tensors, "stretch",
                      stretch ? stretch_json(&between, from_step, to_step) : json_null()));
    }
    print_sums(c);
    if (stretch) {
        stretch_print(&between, from_step, to_step);
    }
    return LS_OK;
}

static ls_status compare(comparison *c) {
    compare_settings(c);
    LS_TRY(compare_shapes(c));
    if (!c->tensors) {
        print_shapes(c);
    }
    LS_TRY(compare_values(c));
    return results_print(c);
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
        status = compare(&c);
    }
    if (status == LS_OK && c.differing > 0) {
        status = LS_FAIL(LS_E_NO, "'%s' and '%s' %s", argv[0], argv[1],
                         c.other_model ? "are other models" : "differ");
    }
    free(c.changes);
    json_decref(c.settings);
    json_decref(c.tensors);
    ls_ckpt_close(c.a);
    ls_ckpt_close(c.b);
    return status;
}
