/* `ckpt show CKPT NAME[SLICES]`: SLICES as in numpy. */
#include "checkpoint/values.h"
#include "launch/ckpt_verbs.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_VALUES = 1000, /* more are shortened, */
    EDGE_VALUES = 3     /* to so many at each end of each dimension */
};

/* What is selected of one dimension: start, start + step, ...; count of them. */
typedef struct range {
    int64_t start, step, count;
    bool dropped; /* an index, not a slice: the dimension is not printed */
} range;

typedef struct selection {
    const ls_ckpt_entry *entry;
    range ranges[LS_MAX_DIMS];
    int last; /* the last dimension that is not dropped */
    ls_box box;
    int64_t stride[LS_MAX_DIMS]; /* elements of the box */
    uint8_t *data;               /* the box */
    size_t elem_bytes;
    bool json;
} selection;

/* A number of a slice, or LS_E_USAGE; absent (empty): *out stays. */
static ls_status number_parse(const char *text, const char *slices, int64_t *out) {
    char *end;
    if (text[strspn(text, " ")] == '\0') {
        return LS_OK;
    }
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (end == text || end[strspn(end, " ")] != '\0' || errno) {
        return LS_FAIL(LS_E_USAGE, "'%s' in [%s] is no number; [2, :10, ::-1, ...] is the form",
                       text, slices);
    }
    *out = n;
    return LS_OK;
}

static int64_t clamp(int64_t x, int64_t low, int64_t high) {
    return x < low ? low : x > high ? high : x;
}

/* "3", "-1", "2:8", "::-2"; text is cut at the colons. */
static ls_status range_parse(char *text, const char *slices, int64_t extent, range *out) {
    char *stop_text = strchr(text, ':'), *step_text = NULL;
    if (!stop_text) {
        int64_t index = INT64_MAX;
        LS_TRY(number_parse(text, slices, &index));
        if (index >= extent || index < -extent) {
            return LS_FAIL(LS_E_USAGE, "index '%s' in [%s] is outside the dimension of %lld", text,
                           slices, (long long)extent);
        }
        *out = (range){index < 0 ? index + extent : index, 1, 1, true};
        return LS_OK;
    }
    *stop_text++ = '\0';
    step_text = strchr(stop_text, ':');
    int64_t step = 1;
    if (step_text) {
        *step_text++ = '\0';
        LS_TRY(number_parse(step_text, slices, &step));
    }
    if (step == 0 || step < -INT64_MAX) {
        return LS_FAIL(LS_E_USAGE, "a step in [%s] is 0", slices);
    }
    const int64_t none = INT64_MIN;
    int64_t start = none, stop = none;
    LS_TRY(number_parse(text, slices, &start));
    LS_TRY(number_parse(stop_text, slices, &stop));
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? extent : extent - 1;
    start = start == none ? (step > 0 ? low : high)
                          : clamp(start < 0 ? start + extent : start, low, high);
    stop =
        stop == none ? (step > 0 ? high : low) : clamp(stop < 0 ? stop + extent : stop, low, high);
    int64_t span = step > 0 ? stop - start : start - stop, stride = step > 0 ? step : -step;
    *out = (range){start, step, span > 0 ? (span - 1) / stride + 1 : 0, false};
    return LS_OK;
}

/* slices without brackets; missing dimensions are whole, "..." stands for as many as fit. */
static ls_status slices_parse(const char *slices, selection *s) {
    const ls_ckpt_entry *entry = s->entry;
    char *parts[LS_MAX_DIMS + 1], *copy = strdup(slices), *rest = copy, *part;
    if (!copy) {
        return LS_FAIL(LS_E_MEMORY, "no memory for slices");
    }
    int count = 0, ellipsis = -1, given;
    ls_status status = LS_OK;
    while (*slices && (part = strsep(&rest, ",")) && status == LS_OK) {
        if (count > LS_MAX_DIMS) {
            status = LS_FAIL(LS_E_USAGE, "[%s] has too many dimensions", slices);
            break;
        }
        if (strcmp(part + strspn(part, " "), "...") == 0) {
            if (ellipsis >= 0) {
                status = LS_FAIL(LS_E_USAGE, "[%s] has two '...'", slices);
            }
            ellipsis = count;
        }
        parts[count++] = part;
    }
    given = count - (ellipsis >= 0);
    if (status == LS_OK && given > entry->ndim) {
        status = LS_FAIL(LS_E_USAGE, "[%s] has %d dimensions, the tensor has %d", slices, given,
                         entry->ndim);
    }
    int from = ellipsis >= 0 ? ellipsis : given, skipped = entry->ndim - given;
    for (int d = 0; d < entry->ndim && status == LS_OK; d++) {
        s->ranges[d] = (range){0, 1, entry->dims[d], false};
        if (d < from) {
            status = range_parse(parts[d], slices, entry->dims[d], &s->ranges[d]);
        } else if (d >= from + skipped) {
            status = range_parse(parts[d - skipped + 1], slices, entry->dims[d], &s->ranges[d]);
        }
    }
    free(copy);
    return status;
}

/* The whole text is a name, or a name and slices in brackets at its end. */
static ls_status selection_parse(const ls_ckpt *ckpt, const char *text, selection *s) {
    s->entry = ls_ckpt_find(ckpt, text);
    if (s->entry) {
        return slices_parse("", s);
    }
    const char *bracket = strrchr(text, '[');
    size_t length = strlen(text);
    char *name = strndup(text, bracket ? (size_t)(bracket - text) : length);
    char *slices = bracket ? strdup(bracket + 1) : strdup("]");
    ls_status status = name && slices ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for a name");
    if (status == LS_OK) {
        s->entry = ls_ckpt_find(ckpt, name);
        if (!s->entry) {
            char hint[LS_CKPT_HINT];
            status = LS_FAIL(LS_E_NO,
                             "'%s' has no tensor '%s', of those that 'lockstep ckpt ls' "
                             "lists%s",
                             ls_ckpt_path(ckpt), name, ls_ckpt_suggest(ckpt, name, hint));
        } else if (slices[strlen(slices) - 1] != ']') {
            status = LS_FAIL(LS_E_USAGE, "'%s' does not end in ']'", text);
        }
    }
    if (status == LS_OK) {
        slices[strlen(slices) - 1] = '\0';
        status = slices_parse(slices, s);
    }
    free(name);
    free(slices);
    return status;
}

/* The shortest decimal text that is read back as the same number of the element's own precision:
 * within half a unit in the last place where C has no such type. */
static void float_text(char *text, size_t size, double x, ls_dtype dtype, bool json) {
    if (!isfinite(x)) {
        const char *word = isnan(x) ? "NaN" : x < 0 ? "-Infinity" : "Infinity";
        snprintf(text, size, json ? "\"%s\"" : "%s", word);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, size, "%.*g", digits, x);
        double back = strtod(text, NULL);
        bool same = dtype == LS_F64    ? back == x
                    : dtype == LS_F32  ? (float)back == (float)x
                    : dtype == LS_BF16 ? ls_bf16_to_f32(ls_bf16_from_f32((float)back)) == (float)x
                                       : fabs(back - x) <= fabs(x) * 0x1p-12 && digits >= 4;
        if (same) {
            return;
        }
    }
}

static void value_text(char *text, size_t size, const uint8_t *p, ls_dtype dtype, bool json) {
    union {
        float f32;
        double f64;
        uint16_t u16;
        int32_t i32;
        int64_t i64;
        uint32_t u32;
        uint64_t u64;
    } v = {0};
    memcpy(&v, p, ls_dtype_bytes(dtype));
    switch (dtype) {
    case LS_F32:
        float_text(text, size, (double)v.f32, dtype, json);
        break;
    case LS_F64:
        float_text(text, size, v.f64, dtype, json);
        break;
    case LS_BF16:
        float_text(text, size, (double)ls_bf16_to_f32(v.u16), dtype, json);
        break;
    case LS_F16:
        float_text(text, size, ls_value_f64(p, dtype), dtype, json);
        break;
    case LS_I32:
        snprintf(text, size, "%" PRId32, v.i32);
        break;
    case LS_I64:
        snprintf(text, size, "%" PRId64, v.i64);
        break;
    default: /* unsigned, little-endian */
        snprintf(text, size, "%" PRIu64, v.u64);
    }
}

/* Prints dimension d onwards; offset: elements into the box. shorten: only the edges. */
static void print_from(const selection *s, int d, int64_t offset, bool shorten, int indent) {
    const ls_ckpt_entry *entry = s->entry;
    if (d == entry->ndim || d == LS_MAX_DIMS) {
        char text[64];
        value_text(text, sizeof text, s->data + (size_t)offset * s->elem_bytes, entry->dtype,
                   s->json);
        fputs(text, stdout);
        return;
    }
    const range *r = &s->ranges[d];
    bool last = d >= s->last;
    if (!r->dropped) {
        putchar('[');
    }
    for (int64_t i = 0; i < r->count; i++) {
        if (i > 0) {
            fputs(s->json ? "," : last ? ", " : ",\n", stdout);
            if (!last && !s->json) {
                printf("%*s", indent + 1, "");
            }
        }
        if (shorten && i == EDGE_VALUES && r->count > 2 * EDGE_VALUES) {
            fputs("...", stdout);
            i = r->count - EDGE_VALUES - 1;
            continue;
        }
        int64_t index = r->start + i * r->step - s->box.start[d];
        print_from(s, d + 1, offset + index * s->stride[d], shorten, indent + !r->dropped);
    }
    if (!r->dropped) {
        putchar(']');
    }
}

/* Loads the smallest box around the selection; *elems is how many it prints. */
static ls_status selection_load(ls_ckpt *ckpt, selection *s, int64_t *elems) {
    const ls_ckpt_entry *entry = s->entry;
    ls_ckpt_tensor tensor = {.name = entry->name, .dtype = entry->dtype, .ndim = entry->ndim};
    memcpy(tensor.dims, entry->dims, sizeof tensor.dims);
    s->elem_bytes = ls_dtype_bytes(entry->dtype);
    s->box.ndim = entry->ndim;
    *elems = 1;
    for (int d = 0; d < entry->ndim; d++) {
        const range *r = &s->ranges[d];
        int64_t other = r->start + (r->count - 1) * r->step;
        s->box.start[d] = r->count == 0 ? 0 : r->step > 0 ? r->start : other;
        s->box.extent[d] = r->count == 0 ? 0 : llabs(other - r->start) + 1;
        *elems *= r->count;
    }
    int64_t stride = 1;
    s->last = 0;
    for (int d = entry->ndim - 1; d >= 0; d--) {
        s->stride[d] = stride;
        stride *= s->box.extent[d];
        s->last = s->last == 0 && !s->ranges[d].dropped ? d : s->last;
    }
    if (*elems == 0) {
        return LS_OK;
    }
    size_t bytes = (size_t)ls_box_elems(&s->box) * s->elem_bytes;
    s->data = malloc(bytes);
    if (!s->data) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the %zu bytes of '%s'; show a smaller slice",
                       bytes, entry->name);
    }
    tensor.box = s->box;
    tensor.data = s->data;
    return ls_ckpt_load(ckpt, &tensor, 1);
}

static void print_layout(const ls_ckpt_entry *entry) {
    char *safe, raw[32], stored[32];
    int64_t raw_bytes = 0, stored_bytes = 0;
    for (int i = 0; i < entry->piece_count; i++) {
        raw_bytes += entry->pieces[i].raw_bytes;
        stored_bytes += entry->pieces[i].stored_bytes;
    }
    printf("%s  %s  [", ls_ckpt_safe(entry->name, &safe), ls_dtype_name(entry->dtype));
    free(safe);
    for (int d = 0; d < entry->ndim; d++) {
        printf("%s%lld", d ? ", " : "", (long long)entry->dims[d]);
    }
    printf("]  %s in %s (%.2fx)\n", ls_text_bytes(raw, sizeof raw, (double)raw_bytes),
           ls_text_bytes(stored, sizeof stored, (double)stored_bytes),
           (double)raw_bytes / (double)stored_bytes);
    for (int i = 0; i < entry->piece_count; i++) {
        const ls_ckpt_piece *piece = &entry->pieces[i];
        printf("  %s ", ls_ckpt_safe(piece->file, &safe));
        free(safe);
        printf("%s  ", ls_ckpt_safe(piece->dataset, &safe));
        free(safe);
        ls_ckpt_print_box(&piece->box);
        printf("  %lld chunk%s\n", (long long)piece->chunks, piece->chunks == 1 ? "" : "s");
    }
}

ls_status ls_ckpt_print_values(ls_ckpt *ckpt, const char *text, bool json) {
    selection s = {.json = json};
    int64_t elems;
    LS_TRY(selection_parse(ckpt, text, &s));
    ls_status status = selection_load(ckpt, &s, &elems);
    if (status == LS_OK && json) {
        json_t *name = json_string(s.entry->name), *given = json_string(text);
        printf("{\"schema\":\"lockstep.ckpt.show/1\",\"name\":");
        json_dumpf(name, stdout, JSON_ENCODE_ANY);
        printf(",\"dtype\":\"%s\",\"selection\":", ls_dtype_name(s.entry->dtype));
        json_dumpf(given, stdout, JSON_ENCODE_ANY);
        printf(",\"shape\":[");
        bool first = true;
        for (int d = 0; d < s.entry->ndim; d++) {
            if (!s.ranges[d].dropped) {
                printf("%s%lld", first ? "" : ",", (long long)s.ranges[d].count);
                first = false;
            }
        }
        printf("],\"values\":");
        print_from(&s, 0, 0, false, 0);
        printf("}\n");
        json_decref(name);
        json_decref(given);
    } else if (status == LS_OK) {
        print_layout(s.entry);
        print_from(&s, 0, 0, elems > MOST_VALUES, 0);
        putchar('\n');
    }
    free(s.data);
    return status;
}
