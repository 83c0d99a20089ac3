/* `ckpt stats`. */
#include "checkpoint/stats.h"
#include "launch/ckpt_verbs.h"
#include "launch/json_text.h"
#include "runtime/base/text.h"
#include "runtime/counters/counters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BAR = 40 };

static void print_detail(const ls_ckpt_entry *entry, const ls_stats *s) {
    const ls_moments *m = &s->moments;
    char shape[LS_CKPT_SHAPE_TEXT], *safe;
    printf("%s  %s  %s\n", ls_ckpt_safe(entry->name, &safe), ls_dtype_name(entry->dtype),
           ls_ckpt_shape(shape, entry->ndim, entry->dims));
    free(safe);
    printf("  min %.6g  max %.6g  mean %.6g  std %.6g\n", m->min, m->max, m->mean, m->std);
    printf("  %lld elements: %lld zeros, %lld NaN, %lld infinite\n ", (long long)m->elems,
           (long long)m->zeros, (long long)m->nans, (long long)m->infinities);
    for (int i = 0; i < LS_STATS_PERCENTILES; i++) {
        printf(" %g%%: %.4g", ls_stats_percents[i], s->percentiles[i]);
    }
    putchar('\n');
    int64_t most = 1;
    for (int i = 0; i < LS_STATS_BUCKETS; i++) {
        most = s->buckets[i] > most ? s->buckets[i] : most;
    }
    double width = (m->max - m->min) / LS_STATS_BUCKETS;
    for (int i = 0; i < LS_STATS_BUCKETS && width > 0; i++) {
        int bar = (int)((double)s->buckets[i] / (double)most * BAR + 0.5);
        printf("  %11.4g .. %-11.4g |%.*s%*s %lld\n", m->min + i * width, m->min + (i + 1) * width,
               bar, "########################################", BAR - bar, "",
               (long long)s->buckets[i]);
    }
}

static void print_row(const ls_ckpt_entry *entry, const ls_stats *s, int name_width) {
    const ls_moments *m = &s->moments;
    char *safe;
    printf("%-*s  %11.4g  %11.4g  %11.4g  %11.4g  %11.4g  %9lld  %5lld  %5lld\n", name_width,
           ls_ckpt_safe(entry->name, &safe), m->min, m->max, m->mean, m->std,
           s->percentiles[LS_STATS_PERCENTILES / 2], (long long)m->zeros, (long long)m->nans,
           (long long)m->infinities);
    free(safe);
}

/* All pieces, or those that stand out. */
static void print_pieces(const ls_ckpt_entry *entry, const ls_stats *s, bool all) {
    for (int i = 0; i < s->piece_count; i++) {
        const ls_piece_stats *p = &s->pieces[i];
        const ls_moments *m = &p->moments;
        if (!all && !p->outlier) {
            continue;
        }
        char *safe;
        printf("    %s  ", ls_ckpt_safe(entry->pieces[i].file, &safe));
        free(safe);
        ls_ckpt_print_box(&entry->pieces[i].box);
        printf("  min %.4g  max %.4g  mean %.4g  std %.4g%s%s\n", m->min, m->max, m->mean, m->std,
               p->outlier ? "  stands out: " : "", p->why);
    }
}

static json_t *moments_json(const ls_moments *m) {
    return json_pack("{s:I,s:I,s:I,s:I,s:o,s:o,s:o,s:o}", "elements", (json_int_t)m->elems, "zeros",
                     (json_int_t)m->zeros, "nan", (json_int_t)m->nans, "infinite",
                     (json_int_t)m->infinities, "min", ls_json_real(m->min), "max",
                     ls_json_real(m->max), "mean", ls_json_real(m->mean), "std",
                     ls_json_real(m->std));
}

static json_t *stats_json(const ls_ckpt_entry *entry, const ls_stats *s) {
    json_t *object = moments_json(&s->moments), *percentiles = json_object();
    json_t *buckets = json_array(), *pieces = json_array();
    for (int i = 0; i < LS_STATS_PERCENTILES; i++) {
        char key[16];
        snprintf(key, sizeof key, "%g", ls_stats_percents[i]);
        json_object_set_new(percentiles, key, ls_json_real(s->percentiles[i]));
    }
    for (int i = 0; i < LS_STATS_BUCKETS; i++) {
        json_array_append_new(buckets, json_integer(s->buckets[i]));
    }
    for (int i = 0; i < s->piece_count; i++) {
        json_t *piece = moments_json(&s->pieces[i].moments);
        json_object_set_new(piece, "file", json_string(entry->pieces[i].file));
        json_object_set_new(piece, "start",
                            ls_ckpt_dims_json(entry->ndim, entry->pieces[i].box.start));
        json_object_set_new(piece, "extent",
                            ls_ckpt_dims_json(entry->ndim, entry->pieces[i].box.extent));
        json_object_set_new(piece, "outlier",
                            s->pieces[i].outlier ? json_string(s->pieces[i].why) : json_null());
        json_array_append_new(pieces, piece);
    }
    json_object_set_new(object, "name", json_string(entry->name));
    json_object_set_new(object, "dtype", json_string(ls_dtype_name(entry->dtype)));
    json_object_set_new(object, "shape", ls_ckpt_dims_json(entry->ndim, entry->dims));
    json_object_set_new(object, "percentiles", percentiles);
    json_object_set_new(object, "histogram", buckets);
    json_object_set_new(object, "pieces", pieces);
    return object;
}

static ls_status stats_print(ls_ckpt *ckpt, const char *glob, const char **values) {
    int count, found, name_width = 4;
    const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
    LS_TRY(ls_ckpt_count_matches(ckpt, glob, &found));
    bool detail = found == 1 || values[LS_CKPT_HISTOGRAM], pieces = values[LS_CKPT_PIECES] != NULL;
    json_t *list = values[LS_CKPT_JSON] ? json_array() : NULL;
    for (int i = 0; i < count; i++) {
        int width = ls_ckpt_matches(&entries[i], glob) ? (int)strlen(entries[i].name) : 0;
        name_width = width > name_width ? width : name_width;
    }
    if (!list && !detail) {
        printf("%-*s  %11s  %11s  %11s  %11s  %11s  %9s  %5s  %5s\n", name_width, "NAME", "MIN",
               "MAX", "MEAN", "STD", "MEDIAN", "ZEROS", "NAN", "INF");
    }
    ls_status status = LS_OK;
    for (int i = 0; i < count && status == LS_OK; i++) {
        ls_stats s;
        if (!ls_ckpt_matches(&entries[i], glob)) {
            continue;
        }
        status = ls_ckpt_stats(ckpt, &entries[i], &s);
        if (status != LS_OK) {
            break;
        }
        if (list) {
            json_array_append_new(list, stats_json(&entries[i], &s));
        } else {
            if (detail) {
                print_detail(&entries[i], &s);
            } else {
                print_row(&entries[i], &s, name_width);
            }
            print_pieces(&entries[i], &s, pieces);
        }
        ls_ckpt_stats_release(&s);
    }
    if (status == LS_OK && list) {
        return ls_ckpt_print_json(json_pack("{s:s,s:o,s:I,s:o}", "schema", "lockstep.ckpt.stats/1",
                                            "path", ls_json_text(ls_ckpt_path(ckpt)), "step",
                                            (json_int_t)ls_ckpt_step(ckpt), "tensors", list));
    }
    json_decref(list);
    return status;
}

ls_status ls_ckpt_run_stats(int argc, char **argv, const char **values) {
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_open_found(argv[0], &ckpt));
    ls_status status = stats_print(ckpt, argc > 1 ? argv[1] : NULL, values);
    ls_ckpt_close(ckpt);
    return status;
}
